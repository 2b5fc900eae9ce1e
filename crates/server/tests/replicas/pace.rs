//! Three replicas that keep chains of short-lived tokens for many periods, while one of them stands still again and again:
//! each chain is exchanged once a period, and every replica shows each new access token within a second of its commit.
//!
//! `EVERGRANT_REPLICA_PERIODS` says how many periods.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc as threads;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::gateway::Position;
use evergrant_server::keeper::Import;
use evergrant_server::{Snapshots, World as _};
use evergrant_standin::{ExchangeOutcome, Settings, StandIn};
use evergrant_store::PostgresState;
use evergrant_store::postgres::scratch::Setup;
use evergrant_store::vault::VaultState as _;
use futures_channel::mpsc;
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::runtime::Runtime;

use super::{CHAINS, Keeper, PATIENCE, chain, log_in, replica};

const REPLICAS: usize = 3;
const PERIODS: u32 = 5;
const LIFE_SECS: u64 = 5;
/// A token is renewed after half of its life, or up to a tenth of the other half earlier.
const LONGEST_PERIOD: Duration = Duration::from_millis(2500);
const SHORTEST_PERIOD: SignedDuration = SignedDuration::from_millis(2249);
const LIFE: SignedDuration = SignedDuration::from_secs(5);
/// For so long after a commit a replica may show the older token.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
/// Whoever stands still so long still sends what it holds, and no token ends meanwhile.
const FROZEN_MS: std::ops::Range<u64> = 200..800;
const MOVES_MS: std::ops::Range<u64> = 300..800;
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// A keeper in a runtime of its own, whose only thread can be stopped: it does nothing then, as a frozen process.
struct Replica {
    runtime: Option<Runtime>,
    keeper: Keeper,
    snapshots: Snapshots,
    wake: mpsc::UnboundedSender<()>,
    thaw: Option<threads::Sender<()>>,
    /// The age of the observer when it last began to move.
    moves_since: Duration,
}

impl Replica {
    async fn start(database: &str, base: &str, folder: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (committed, mut commits) = mpsc::unbounded();
        let made = {
            let (database, base, folder) = (database.to_owned(), base.to_owned(), folder.to_owned());
            runtime.spawn(async move { replica(&database, &base, &folder, Some(committed)).await })
        };
        let (keeper, snapshots, world) = made.await.unwrap();
        let (wake, wakes) = mpsc::unbounded();
        let (poke, pokes) = mpsc::unbounded();
        let (runs, follows) = (keeper.clone(), keeper.clone());
        let (listens, tells) = (world.state().clone(), world.state().clone());
        runtime.spawn(async move { runs.run(wakes).await });
        runtime.spawn(async move { follows.keep_following(pokes).await });
        runtime.spawn(async move { listens.listen(poke).await });
        runtime.spawn(async move {
            while commits.next().await.is_some() {
                let _ = tells.tell().await;
            }
        });
        Self { runtime: Some(runtime), keeper, snapshots, wake, thaw: None, moves_since: Duration::ZERO }
    }

    fn freeze(&mut self) {
        let (thaw, frozen) = threads::channel();
        let (stands, stood) = threads::channel();
        self.runtime.as_ref().unwrap().spawn(async move {
            stands.send(()).unwrap();
            let _ = frozen.recv();
        });
        stood.recv().unwrap();
        self.thaw = Some(thaw);
    }

    fn position(&self, name: &ChainName) -> Option<Position> {
        self.snapshots.current(name).map(|current| current.position)
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.thaw.take();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[expect(clippy::print_stdout, reason = "what was measured is printed")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_chain_is_exchanged_once_a_period_and_shown_within_a_second() {
    let periods = std::env::var("EVERGRANT_REPLICA_PERIODS").map_or(PERIODS, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let server = Setup::new().start().unwrap();
    let database = server.new_database().unwrap();
    let mut settings = Settings { log_kept: 1_000_000, ..Settings::default() };
    settings.lives.access_secs = LIFE_SECS;
    let standin = StandIn::start(settings).await.unwrap();
    let base = standin.url();
    let mut replicas = Vec::new();
    for number in 0..REPLICAS {
        let folder = scratch.path().join(format!("machine-{number}"));
        std::fs::create_dir(&folder).unwrap();
        replicas.push(Replica::start(&database, &base, &folder).await);
    }
    let state = PostgresState::open(&database.parse().unwrap(), 1).await.unwrap();
    let begun = standin.engine().now();
    let mut families = BTreeMap::new();
    for number in 0..CHAINS {
        let taken = replicas[1].keeper.import(&chain(number), log_in(&standin, &base)).await;
        assert!(matches!(taken, Import::Taken(_)), "{taken:?}");
        families.insert(number as u64 + 1, chain(number));
        for replica in &replicas {
            assert!(replica.keeper.find(&chain(number)).await.unwrap().is_some());
        }
    }

    let mut rng = SmallRng::seed_from_u64(5);
    let clock = tokio::time::Instant::now();
    let mut turns_at = Duration::ZERO;
    let mut newest: BTreeMap<ChainName, (Position, Duration)> = BTreeMap::new();
    let (mut latest, mut freezes) = (Duration::ZERO, 0);
    while clock.elapsed() < LONGEST_PERIOD * periods {
        for row in state.rows_after(None, CHAINS).await.unwrap() {
            let (name, position) = (row.record.chain.clone(), row.record.position());
            if newest.get(&name).is_none_or(|(known, _)| *known != position) {
                newest.insert(name, (position, clock.elapsed()));
            }
        }
        for (which, replica) in replicas.iter().enumerate().filter(|(_, replica)| replica.thaw.is_none()) {
            for (name, (position, since)) in &newest {
                if replica.position(name) < Some(*position) {
                    let shown_late = clock.elapsed().saturating_sub(replica.moves_since.max(*since));
                    latest = latest.max(shown_late);
                    assert!(
                        shown_late < SHOWN_WITHIN,
                        "replica {which} shows {name} at {:?}, which is at {position:?} for {shown_late:?}",
                        replica.position(name)
                    );
                }
            }
        }
        if clock.elapsed() >= turns_at {
            let replica = &mut replicas[0];
            let millis = match replica.thaw.take() {
                Some(thaw) => {
                    replica.moves_since = clock.elapsed();
                    drop(thaw);
                    MOVES_MS
                }
                None => {
                    freezes += 1;
                    replica.freeze();
                    FROZEN_MS
                }
            };
            turns_at = clock.elapsed() + Duration::from_millis(rng.random_range(millis));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    replicas[0].thaw.take();
    replicas.iter().for_each(|replica| replica.wake.close_channel());
    let settled = async {
        loop {
            let rows = state.rows_after(None, CHAINS).await.unwrap();
            let counted = |row: &evergrant_store::vault::Row| {
                let exchanges = of_family(&standin, &families, &row.record.chain);
                row.record.intent.is_none() && row.record.generation.0 as usize == exchanges.len() + 1
            };
            if rows.iter().all(counted) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(PATIENCE, settled).await.expect("an exchange for each generation, and none else");

    let mut all = 0;
    for number in 0..CHAINS {
        let mut before = begun;
        let exchanges = of_family(&standin, &families, &chain(number));
        for at in &exchanges {
            let gap = at.duration_since(before);
            assert!(gap < LIFE, "chain {number}: its token ended {gap:?} after it was made");
            assert!(before == begun || gap >= SHORTEST_PERIOD, "chain {number}: twice within {gap:?}");
            before = *at;
        }
        assert!(exchanges.len() as u32 + 1 >= periods / 2, "chain {number}: {} exchanges", exchanges.len());
        all += exchanges.len();
    }
    assert_eq!(standin.engine().counters().exchanges, all as u64);
    println!(
        "{all} exchanges of {CHAINS} chains in {periods} periods, one replica frozen {freezes} times; shown {latest:?} after their commit at the latest"
    );
}

/// When a chain was exchanged; each time its pair was taken.
fn of_family(standin: &StandIn, families: &BTreeMap<u64, ChainName>, name: &ChainName) -> Vec<Timestamp> {
    let exchanges = standin.engine().exchanges().into_iter();
    let own = exchanges.filter(|one| one.family.is_some_and(|family| families[&family] == *name));
    own.map(|one| {
        assert_eq!(one.outcome, ExchangeOutcome::Rotated, "{one:?}");
        one.at
    })
    .collect()
}
