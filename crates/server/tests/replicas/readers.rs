//! What reads a replica's snapshots while it is tortured, as its gateway would, and what it saw. A process may be killed
//! at any time: what it saw lies in a file beside its disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use evergrant_core::gateway::Position;
use evergrant_server::http::HttpClient;
use evergrant_server::{Snapshots, TokioWorld, World as _};
use evergrant_store::PostgresState;
use evergrant_store::vault::VaultState as _;
use rand::RngExt as _;

use super::{CHAINS, chain};

/// So long a replica may serve an older access token than the database holds, while it reaches the database. A second
/// is promised, and held to by another test; here three processes fight for the machine.
const FRESH_WITHIN: Duration = Duration::from_secs(3);
/// A look that took longer than this was frozen, cut off or starved: it says nothing of the replica.
const LOOK_BOUND: Duration = Duration::from_millis(500);
const EACH: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(2);

const FILE: &str = "seen";

/// Reads until its process ends.
pub(crate) async fn read(
    world: &TokioWorld<PostgresState>,
    snapshots: &Snapshots,
    base: &str,
    folder: &Path,
) {
    let mut file = File::options().create(true).append(true).open(folder.join(FILE)).unwrap();
    // One call of the system a line: a kill leaves no half ones.
    let mut saw = |what: &str| file.write_all(format!("{what}\n").as_bytes()).unwrap();
    let http = HttpClient::new(None).unwrap();
    let models = format!("{base}/v1/models?limit=1").parse().unwrap();
    let mut rng = world.rng();
    loop {
        let name = chain(rng.random_range(0..CHAINS));
        let Some(current) = snapshots.current(&name) else {
            tokio::time::sleep(EACH).await;
            continue;
        };
        let headers = [
            ("authorization".to_owned(), format!("Bearer {}", current.access.expose())),
            ("anthropic-version".to_owned(), "2023-06-01".to_owned()),
        ];
        let call = http.call(::http::Method::GET, &models, &headers, Default::default());
        // No answer says nothing of the token.
        if let Ok(Ok(reply)) = tokio::time::timeout(PATIENCE, call).await
            && reply.complete
        {
            match reply.status {
                200 => saw("served"),
                status => saw(&format!("WRONG: {name} at {:?} was answered {status}", current.position)),
            }
        }
        match freshness(world, snapshots, &name).await {
            Fresh::Yes => saw("fresh"),
            Fresh::Unknown => {}
            Fresh::No { serves, holds } => {
                saw(&format!("WRONG: {name} is served at {serves:?} and the database holds {holds:?}"));
            }
        }
    }
}

enum Fresh {
    Yes,
    /// The database was not reached all the while, or this process stood still.
    Unknown,
    No {
        serves: Option<Position>,
        holds: Position,
    },
}

/// Whether readers here see in time what the database holds now.
async fn freshness(
    world: &TokioWorld<PostgresState>,
    snapshots: &Snapshots,
    name: &evergrant_core::ChainName,
) -> Fresh {
    let row = || async {
        let row = tokio::time::timeout(LOOK_BOUND, world.state().row(name)).await.ok()?;
        Some(row.ok()??.record.position())
    };
    let Some(holds) = row().await else { return Fresh::Unknown };
    let mut lived = Duration::ZERO;
    loop {
        let serves = snapshots.current(name).map(|current| current.position);
        if serves >= Some(holds) {
            return Fresh::Yes;
        }
        if lived > FRESH_WITHIN {
            return Fresh::No { serves, holds };
        }
        let looked = world.monotonic();
        tokio::time::sleep(EACH).await;
        let reached = row().await.is_some();
        let took = world.monotonic().saturating_sub(looked);
        if !reached || took > LOOK_BOUND {
            return Fresh::Unknown;
        }
        lived += took;
    }
}

/// What the readers of one machine saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests that were answered well.
    pub(crate) served: usize,
    /// So often a reader saw what the database held.
    pub(crate) fresh: usize,
    pub(crate) wrong: Vec<String>,
}

impl Seen {
    pub(crate) fn on(folder: &Path) -> Self {
        let text = fs::read_to_string(folder.join(FILE)).unwrap();
        let count = |word: &str| text.lines().filter(|line| *line == word).count();
        let wrong = text.lines().filter(|line| line.starts_with("WRONG")).map(str::to_owned);
        Self { served: count("served"), fresh: count("fresh"), wrong: wrong.collect() }
    }
}
