//! Measures a million chains in PostgreSQL: `cargo xtask bench scale`. Server, provider and keeper share this machine.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement ends with what goes wrong, and prints figures"
)]

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evergrant_core::ChainName;
use evergrant_core::alert::{Links, Reminding};
use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::Record;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{Policy, take_in};
use evergrant_core::provider::Profile;
use evergrant_core::secret::{AccessToken, RefreshToken};
use evergrant_server::health::{Alerting, EpisodeKeeper};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::rows::{Paces, RowMonitor, RowParts, RowPolicy, RowWatch};
use evergrant_server::{RowKeeper, Snapshots, TokioWorld, World as _};
use evergrant_standin::{LoginOptions, Settings, StandIn};
use evergrant_store::marks::Marks;
use evergrant_store::postgres::scratch::{ScratchPostgres, Setup};
use evergrant_store::receipts::Receipts;
use evergrant_store::seal::KeyRing;
use evergrant_store::vault::{Holder, NewRow, VaultState as _};
use evergrant_store::{OsDisk, PostgresState};
use futures_channel::mpsc;
use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand::rngs::SmallRng;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const LIFE: SignedDuration = SignedDuration::from_hours(8);
/// Chains that are due while rotations are counted.
const DUE: usize = 12_000;
const SMALL: usize = 1_000;
const AT_ONCE: usize = 48;
const TICKS: usize = 21;
/// Rotations that take longer have come to an end.
const PATIENCE: Duration = Duration::from_secs(600);

type World = TokioWorld<PostgresState>;

struct Rig {
    standin: StandIn,
    folder: tempfile::TempDir,
    ring: KeyRing,
    policy: Policy,
    json: bool,
}

struct Replica {
    keeper: RowKeeper<World>,
    world: World,
}

#[expect(clippy::disallowed_methods, reason = "a measurement takes its own time")]
fn now() -> Instant {
    Instant::now()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Rig {
    fn say(&self, figure: &str, value: f64, unit: &str, target: Option<(f64, bool)>) {
        let holds = target.map(|(bound, at_most)| if at_most { value <= bound } else { value >= bound });
        let bound = target.map(|(bound, at_most)| format!("{}{bound:.2}", if at_most { "<=" } else { ">=" }));
        if self.json {
            let figure = serde_json::json!({
                "bench": "scale", "figure": figure, "value": value, "unit": unit, "target": bound, "holds": holds
            });
            println!("{figure}");
        } else {
            let word = holds.map_or("", |holds| if holds { "holds" } else { "MISSED" });
            println!("{figure:<44} {value:>12.2} {unit:<6} {:>12}  {word}", bound.unwrap_or_default());
        }
    }

    async fn replica(&self, database: &str, name: &str) -> Replica {
        let state = PostgresState::open(&database.parse().unwrap(), 16).await.unwrap();
        let world = TokioWorld::new(state, HttpClient::new(None).unwrap());
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let policy =
            Arc::new(RowPolicy { policy: self.policy.clone(), accepted: true, world: world.clone() });
        let keeper = RowKeeper::new(RowParts {
            world: world.clone(),
            holder: Holder { process: name.into(), machine: name.into() },
            policies: Arc::new(move |_| Some(policy.clone())),
            receipts: Receipts::open(OsDisk, folder.join("receipts"), self.ring.clone()).unwrap(),
            marks: Marks::open(&folder.join("marks.db")).unwrap(),
            snapshots: Snapshots::default(),
            metrics: Metrics::default(),
            most_at_once: AT_ONCE,
            paces: Paces::default(),
            committed: None,
        });
        Replica { keeper, world }
    }

    fn monitor(&self, replica: &Replica) -> RowMonitor<World> {
        let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
        let alerting = Alerting { links, reminding: Reminding::default(), sinks: Arc::new(|_| Vec::new()) };
        let episodes = EpisodeKeeper::new(replica.world.clone(), alerting);
        RowMonitor::new(replica.keeper.clone(), Arc::new(|_| Some(RowWatch::default())), episodes)
    }

    fn row(&self, chain: &ChainName, grant: &Grant, due: bool, now: Timestamp, rng: &mut SmallRng) -> NewRow {
        let record = take_in(chain, None, grant, true, &self.policy, now, rng);
        let renew_at = if due { Some(now - SignedDuration::from_secs(60)) } else { record.renew_at };
        let record = Record { renew_at, ..record };
        let sealed = self.ring.seal_pair(chain, record.position(), grant, rng);
        NewRow { record, sealed, wakes_at: renew_at }
    }

    /// Chains whose logins the provider knows, and that are due.
    fn due(&self, name: &str, now: Timestamp) -> Vec<NewRow> {
        let mut rng = SmallRng::seed_from_u64(1);
        let row = |number| {
            let file = self.standin.engine().login(LoginOptions::default()).auth_file().to_string();
            let Reading::Grant(grant) = authfile::read(file.as_bytes(), &self.policy.profile) else {
                panic!("the stand-in's file is a grant")
            };
            self.row(&format!("{name}-{number}").parse().unwrap(), &grant, true, now, &mut rng)
        };
        (0..DUE).map(row).collect()
    }

    async fn load(&self, replica: &Replica, chains: usize) -> Duration {
        let since = now();
        let mut rng = SmallRng::seed_from_u64(2);
        let settings = Settings::default();
        for first in (0..chains).step_by(10_000) {
            let at = replica.world.now();
            let rows: Vec<_> = (first..chains.min(first + 10_000))
                .map(|number| {
                    let token = |prefix: &str| format!("{prefix}of-nobody-{number:0>48}");
                    let grant = Grant {
                        access: AccessToken::parse(&token(&settings.access_prefix)).unwrap(),
                        refresh: Some(RefreshToken::parse(&token(&settings.refresh_prefix)).unwrap()),
                        expires_at: Some(at + LIFE),
                        grant_expires_at: None,
                        scopes: vec!["user:inference".into()],
                    };
                    self.row(&format!("tenant-{number}").parse().unwrap(), &grant, false, at, &mut rng)
                })
                .collect();
            assert_eq!(replica.world.state().take_in_new(&rows).await.unwrap(), rows.len() as u64);
        }
        since.elapsed()
    }

    /// Rotations a second until all that was due is done.
    async fn rotate(&self, replica: &Replica, name: &str) -> f64 {
        let due = self.due(name, replica.world.now());
        assert_eq!(replica.world.state().take_in_new(&due).await.unwrap(), DUE as u64);
        let rotations = || self.standin.engine().counters().rotations;
        let before = rotations();
        let (wake, wakes) = mpsc::unbounded();
        let keeper = replica.keeper.clone();
        let running = tokio::spawn(async move { keeper.run(wakes).await });
        let since = now();
        let goal = before + DUE as u64 * 9 / 10;
        while rotations() < goal {
            assert!(since.elapsed() < PATIENCE, "{} of {DUE} rotations were done", rotations() - before);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let rate = (rotations() - before) as f64 / since.elapsed().as_secs_f64();
        while rotations() < before + DUE as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(wake);
        running.await.unwrap();
        replica.world.settled().await;
        rate
    }
}

/// What the server counts: commits, and syncs of its log.
fn server_counts(server: &ScratchPostgres) -> (f64, f64) {
    // Its statistics come a moment later.
    std::thread::sleep(Duration::from_secs(2));
    let query = "SELECT (SELECT sum(xact_commit) FROM pg_stat_database), (SELECT wal_sync FROM pg_stat_wal)";
    let said = Command::new("psql").args(["-XAtqF,", "-c", query, &server.url()]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let mut numbers = said.trim().split(',').map(|number| number.parse().unwrap_or(f64::NAN));
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn pgbench(url: &str, seconds: u64) -> f64 {
    let args = ["-n", "-N", "-c", "16", "-j", "2", "-T", &seconds.to_string(), url];
    let said = Command::new("pgbench").args(args).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let line = said.lines().find(|line| line.starts_with("tps = ")).unwrap_or_else(|| panic!("{said}"));
    line["tps = ".len()..].split(' ').next().unwrap().parse().unwrap()
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, otherwise| {
        words.get(index).map_or(otherwise, |word| word.parse().expect("CHAINS SECONDS [--json]"))
    };
    let (chains, seconds) = (number(0, 1_000_000), number(1, 30) as u64);
    let server = Setup::new()
        .with("shared_buffers", "512MB")
        .with("max_wal_size", "8GB")
        .with("checkpoint_timeout", "30min")
        .start()
        .unwrap();
    let standin = StandIn::start(Settings { log_kept: 4, families_kept: 3 * DUE, ..Settings::default() })
        .await
        .unwrap();
    let settings = Settings::default();
    let base = standin.url().to_string();
    let profile = Profile {
        token_url: format!("{}{}", base.trim_end_matches('/'), settings.token_path).parse().unwrap(),
        access_prefix: Some(settings.access_prefix),
        refresh_prefix: Some(settings.refresh_prefix),
        ..Profile::claude()
    };
    let rig = Rig {
        standin,
        folder: tempfile::tempdir().unwrap(),
        ring: KeyRing::parse(KEY).unwrap(),
        policy: Policy { min_exchange_interval: Duration::ZERO, ..Policy::new(profile) },
        json: words.iter().any(|word| word == "--json"),
    };
    // What the server commits by itself.
    let plain = server.new_database().unwrap();
    assert!(
        Command::new("pgbench").args(["-q", "-i", "-s", "10", &plain]).output().unwrap().status.success()
    );
    let tps = median((0..3).map(|_| pgbench(&plain, seconds)).collect());
    rig.say("pgbench -N, 16 clients", tps, "tps", None);

    let small = rig.replica(&server.new_database().unwrap(), "small").await;
    rig.load(&small, SMALL).await;
    let at_small = rig.rotate(&small, "due").await;
    rig.say("rotations at 1,000 chains", at_small, "/s", None);

    let large = rig.replica(&server.new_database().unwrap(), "large").await;
    let took = rig.load(&large, chains).await;
    rig.say("loading all chains", took.as_secs_f64(), "s", Some((300.0, true)));
    rig.say("resident memory, provider and driver included", resident_mb(), "MB", Some((150.0, true)));
    let mut ticks = Vec::new();
    for _ in 0..TICKS {
        let since = now();
        assert!(large.keeper.tick().await.unwrap().is_empty());
        ticks.push(since.elapsed().as_secs_f64() * 1000.0);
    }
    rig.say("a tick with none due", median(ticks), "ms", Some((5.0, true)));
    let monitor = rig.monitor(&large);
    let mut ticks = Vec::new();
    for _ in 0..TICKS {
        let since = now();
        assert_eq!(monitor.tick().await.unwrap().looked_at, 0);
        ticks.push(since.elapsed().as_secs_f64() * 1000.0);
    }
    rig.say("a tick of the health monitor with none due", median(ticks), "ms", Some((5.0, true)));
    let (commits, syncs) = server_counts(&server);
    let at_large = rig.rotate(&large, "due").await;
    let (commits, syncs) = {
        let after = server_counts(&server);
        (after.0 - commits, after.1 - syncs)
    };
    rig.say("rotations at all chains", at_large, "/s", Some((tps / 3.0 / 2.0, false)));
    rig.say("commits a rotation", commits / DUE as f64, "", Some((3.0, true)));
    rig.say("syncs of the server's log a rotation", syncs / DUE as f64, "", None);
    rig.say("cost of a rotation beside 1,000 chains", at_small / at_large, "x", Some((1.2, true)));
    // They were loaded as due, and are well.
    let since = now();
    let mut looked_at = 0;
    while let Some(more) = Some(monitor.tick().await.unwrap().looked_at).filter(|more| *more > 0) {
        looked_at += more;
    }
    rig.say("looks at health", looked_at as f64 / since.elapsed().as_secs_f64(), "/s", None);
    rig.say("resident memory at the end", resident_mb(), "MB", None);
}
