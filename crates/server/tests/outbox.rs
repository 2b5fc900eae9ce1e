//! Three processes on one SQLite file, killed 200 times in all while alerts open and close: each opening and closing
//! is told exactly once, but for what a kill cut short between a sink's answer and its record.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::routing::post;
use bytes::Bytes;
use evergrant_core::alert::{Action, Alert, AlertState, Episode, Links, Outcome, Reminding};
use evergrant_core::chain::Kind;
use evergrant_core::gateway::Source;
use evergrant_core::health::{Expected, FallbackFacts, Serving};
use evergrant_core::keeper::Report;
use evergrant_core::{ChainName, Reason};
use evergrant_server::alert::{Alerter, Deliver};
use evergrant_server::health::{Alerting, Described, Live, Monitor, Watched};
use evergrant_server::http::HttpClient;
use evergrant_server::{Moved, TokioWorld, World as _};
use evergrant_store::{HealthState as _, SqliteState};
use futures_channel::mpsc;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A second here is two minutes there.
const PACE: u32 = 120;
const CHAINS: usize = 12;
const KILLS: usize = 200;
/// Alerts go on opening and closing for so long, by the quick clock.
const TROUBLE: SignedDuration = SignedDuration::from_mins(60);
/// Nothing takes longer, by ours.
const PATIENCE: Duration = Duration::from_secs(60);
const SINK: &str = "hook";

/// The real world with a quick clock, the same in every process.
fn quick(inner: TokioWorld<SqliteState>, begun: Timestamp) -> Moved<TokioWorld<SqliteState>> {
    let clock = move |now: Timestamp| begun + now.duration_since(begun) * i32::try_from(PACE).unwrap();
    Moved::new(inner, PACE, clock)
}

/// A chain that is in trouble again and again, as its number and the clock say.
#[derive(Clone)]
struct Troubled {
    name: ChainName,
    number: usize,
    begun: Timestamp,
}

impl Troubled {
    fn is_in_trouble(&self, now: Timestamp) -> bool {
        let age = now.duration_since(self.begun);
        let minute = age.as_secs() / 60 + self.number as i64;
        age < TROUBLE && minute % (9 + self.number as i64) < 3
    }
}

impl Described for Troubled {
    fn chain(&self) -> &ChainName {
        &self.name
    }
    /// Each its own, so that no alert tells of two.
    fn provider(&self) -> &str {
        self.name.as_str()
    }
    fn action(&self, _episode: &Episode, _config_dir: Option<&str>) -> Option<Action> {
        None
    }
}

impl Watched for Troubled {
    fn live(&self, now: Timestamp) -> Option<Live> {
        let error = self.is_in_trouble(now).then_some(Reason::ProviderBlocked);
        let report = Report {
            error,
            token_valid: true,
            ..Report::new(&self.name, None, true, (Reason::NotDue, None), now)
        };
        Some(Live {
            kind: Kind::RefreshToken,
            report,
            record: None,
            clock_offset_secs: None,
            serving: Serving { source: Source::Oauth, until: None },
            fallback: FallbackFacts::default(),
        })
    }
    fn expected(&self) -> Option<Expected> {
        None
    }
}

/// Posts an alert's id and what it tells.
struct Hook {
    client: HttpClient,
    url: url::Url,
}

impl Deliver for Hook {
    async fn deliver(&self, _sink: &str, alert: &Alert) -> Outcome {
        let body = Bytes::from(serde_json::to_vec(alert).unwrap());
        match self.client.call(Method::POST, &self.url, &[], body).await {
            Ok(reply) if reply.status == 200 => Outcome::Delivered,
            Ok(reply) => Outcome::Unavailable { retry_after: None, detail: reply.status.to_string() },
            Err(error) => Outcome::Unavailable { retry_after: None, detail: error.to_string() },
        }
    }
}

/// What one of the processes does, until it is killed. Without its variables it is no test at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_the_processes() {
    let Ok(state) = std::env::var("OUTBOX_STATE") else { return };
    let begun: Timestamp = std::env::var("OUTBOX_BEGUN").unwrap().parse().unwrap();
    let url = std::env::var("OUTBOX_SINK").unwrap().parse().unwrap();
    let client = HttpClient::new(None).unwrap();
    let state = SqliteState::open(Path::new(&state)).unwrap();
    let world = quick(TokioWorld::new(state, client.clone()), begun);
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let sinks = Arc::new(|_: &Alert| vec![SINK.to_owned()]);
    let alerting = Alerting { links, reminding: Reminding::default(), sinks };
    let monitor = Monitor::new(world.clone(), chains(begun), alerting);
    let holder = std::process::id().to_string();
    let alerter = Alerter::new(world, [SINK.to_owned()], &holder, Arc::new(Hook { client, url }));
    let (_poke, pokes) = mpsc::unbounded();
    let (_other, others) = mpsc::unbounded();
    tokio::join!(monitor.run(pokes), alerter.run(others));
}

fn chains(begun: Timestamp) -> Vec<Troubled> {
    let chain = |number| Troubled { name: format!("chain-{number}").parse().unwrap(), number, begun };
    (0..CHAINS).map(chain).collect()
}

/// What the sink took, in its order.
type Taken = Arc<Mutex<Vec<Alert>>>;

/// It writes down what it gets, and answers a little later: a sender may die in between.
async fn take(Extract(taken): Extract<Taken>, body: Bytes) {
    let alert: Alert = serde_json::from_slice(&body).unwrap();
    let pause = alert.id.len() as u64 % 7 * 5;
    taken.lock().unwrap().push(alert);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}

struct Processes {
    state: PathBuf,
    begun: Timestamp,
    sink: String,
    up: Vec<Child>,
}

impl Processes {
    fn start(&mut self) {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_of_the_processes", "--nocapture"])
            .env("OUTBOX_STATE", &self.state)
            .env("OUTBOX_BEGUN", self.begun.to_string())
            .env("OUTBOX_SINK", &self.sink)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.up.push(child);
    }

    /// Kill -9.
    fn kill(&mut self, index: usize) {
        let mut child = self.up.remove(index);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        while !self.up.is_empty() {
            self.kill(0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_opening_and_closing_is_told_once_over_200_kills() {
    let folder = tempfile::tempdir().unwrap();
    let state_file = folder.path().join("state.db");
    let state = SqliteState::open(&state_file).unwrap();
    let inner = TokioWorld::new(state.clone(), HttpClient::new(None).unwrap());
    let begun = inner.now();
    let world = quick(inner, begun);
    let taken = Taken::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sink = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(take)).with_state(taken.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut processes = Processes { state: state_file, begun, sink, up: Vec::new() };
    (0..3).for_each(|_| processes.start());
    let mut rng = SmallRng::seed_from_u64(7);
    for _ in 0..KILLS {
        let pause = Duration::from_millis(rng.random_range(20..260));
        tokio::time::sleep(pause).await;
        processes.kill(rng.random_range(0..3));
        processes.start();
    }
    let chains = chains(begun);
    let names: Vec<_> = chains.iter().map(|chain| chain.name.clone()).collect();
    let calm = async {
        loop {
            let now = world.now();
            let book = state.book(&names, now).await.unwrap();
            let sinks = state.sink_states().await.unwrap();
            let troubled = chains.iter().any(|chain| chain.is_in_trouble(now)) || now < begun + TROUBLE;
            let open = book.episodes.iter().any(|episode| episode.is_open() || episode.owed);
            if !troubled && !open && sinks.iter().all(|sink| sink.waiting == 0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, calm).await.unwrap();
    drop(processes);
    judge(&state.episodes(None, 10_000).await.unwrap(), &taken.lock().unwrap());
}

#[expect(clippy::print_stdout, reason = "what came once more is counted and printed")]
fn judge(episodes: &[Episode], taken: &[Alert]) {
    let mut ids: BTreeMap<&str, usize> = BTreeMap::new();
    taken.iter().for_each(|alert| *ids.entry(&alert.id).or_default() += 1);
    let again = taken.len() - ids.len();
    let told: BTreeSet<_> = taken.iter().map(|alert| (&alert.concerned[0].episode, alert.state)).collect();
    println!(
        "{} episodes, {} alerts, {again} of them came once more over {KILLS} kills",
        episodes.len(),
        ids.len()
    );
    assert!(episodes.len() >= 2 * CHAINS, "{} episodes", episodes.len());
    assert!(again <= KILLS / 4, "{again} came once more");
    for episode in episodes {
        assert!(episode.announced_at.is_some(), "{}", episode.id);
        for state in [AlertState::Open, AlertState::Closed] {
            assert!(told.contains(&(&episode.id, state)), "{} was not told to be {state:?}", episode.id);
        }
    }
    assert_eq!(ids.len(), 2 * episodes.len(), "one alert for each opening and each closing");
    // The first of each came in the order of their making.
    let mut seen = BTreeSet::new();
    let firsts: Vec<_> = taken.iter().filter(|alert| seen.insert(&alert.id)).map(|alert| alert.at).collect();
    assert!(firsts.is_sorted(), "out of order");
}
