//! Three processes on one PostgreSQL, each with a disk of its own, killed, frozen and started again while they renew, and
//! the database killed under them: each chain lives, and no family is revoked for a pair that was presented twice.
//!
//! `EVERGRANT_REPLICA_ACTIONS` says how many misfortunes; a long run has a thousand.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::Standing;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{Look, Policy};
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Reason};
use evergrant_server::http::HttpClient;
use evergrant_server::keeper::Import;
use evergrant_server::metrics::Metrics;
use evergrant_server::rows::{Paces, RowParts, RowPolicy};
use evergrant_server::{RowKeeper, Snapshots, TokioWorld, World as _};
use evergrant_standin::{LoginOptions, Settings, StandIn};
use evergrant_store::marks::Marks;
use evergrant_store::postgres::scratch::Setup;
use evergrant_store::receipts::Receipts;
use evergrant_store::seal::KeyRing;
use evergrant_store::vault::{Holder, VaultState as _};
use evergrant_store::{OsDisk, PostgresState};
use futures_channel::mpsc;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

const CHAINS: usize = 40;
const MACHINES: usize = 3;
const ACTIONS: usize = 60;
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Short, so that what a kill leaves behind is taken over while the test still runs.
const DEADLINE: Duration = Duration::from_secs(2);
const PACES: Paces = Paces {
    due: Duration::from_millis(200),
    changes: Duration::from_millis(100),
    lease: Duration::from_secs(3),
    pause_bound: Duration::from_secs(2),
};
/// A frozen process thaws before its lease could be taken over.
const FROZEN_MS: std::ops::Range<u64> = 10..1500;
const PATIENCE: Duration = Duration::from_secs(60);

type Keeper = RowKeeper<TokioWorld<PostgresState>>;

fn chain(number: usize) -> ChainName {
    format!("chain-{number}").parse().unwrap()
}

fn policy(base: &str) -> Policy {
    let settings = Settings::default();
    let profile = Profile {
        token_url: format!("{base}{}", settings.token_path).parse().unwrap(),
        access_prefix: Some(settings.access_prefix),
        refresh_prefix: Some(settings.refresh_prefix),
        ..Profile::claude()
    };
    Policy { min_exchange_interval: Duration::ZERO, deadline: DEADLINE, ..Policy::new(profile) }
}

/// One process on the machine whose disk is `folder`.
async fn replica(
    database: &str,
    base: &str,
    folder: &Path,
) -> (Keeper, Snapshots, TokioWorld<PostgresState>) {
    let state = PostgresState::open(&database.parse().unwrap(), 8).await.unwrap();
    let world = TokioWorld::new(state, HttpClient::new(None).unwrap());
    let machine = folder.file_name().unwrap().to_str().unwrap().to_owned();
    let policy = Arc::new(RowPolicy { policy: policy(base), accepted: true, world: world.clone() });
    let snapshots = Snapshots::default();
    let keeper = RowKeeper::new(RowParts {
        world: world.clone(),
        holder: Holder {
            process: format!("{machine}-{}-{}", std::process::id(), world.now().as_nanosecond()),
            machine,
        },
        policies: Arc::new(move |_| Some(policy.clone())),
        receipts: Receipts::open(OsDisk, folder.join("receipts"), KeyRing::parse(KEY).unwrap()).unwrap(),
        marks: Marks::open(&folder.join("marks.db")).unwrap(),
        snapshots: snapshots.clone(),
        metrics: Metrics::default(),
        most_at_once: 16,
        paces: PACES,
        committed: None,
    });
    (keeper, snapshots, world)
}

/// What one of the processes does, until it is killed: renews whatever it likes. Without its variables it is no test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_the_processes() {
    let Ok(folder) = std::env::var("REPLICA_FOLDER") else { return };
    let (database, base) =
        (std::env::var("REPLICA_DATABASE").unwrap(), std::env::var("REPLICA_PROVIDER").unwrap());
    let (keeper, _, world) = replica(&database, &base, Path::new(&folder)).await;
    let (_wake, wakes) = mpsc::unbounded();
    let (_poke, pokes) = mpsc::unbounded();
    let forcing = async {
        let mut rng = world.rng();
        loop {
            keeper.look(&chain(rng.random_range(0..CHAINS)), Look::Forced, None).await;
        }
    };
    let settling = async {
        loop {
            let _ = keeper.settle_left_open().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::join!(keeper.run(wakes), keeper.keep_following(pokes), forcing, settling);
}

struct Process(Child);

impl Process {
    fn start(database: &str, base: &str, folder: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_of_the_processes", "--nocapture"])
            .env("REPLICA_FOLDER", folder)
            .env("REPLICA_DATABASE", database)
            .env("REPLICA_PROVIDER", base)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(id, signal).unwrap();
    }
}

impl Drop for Process {
    /// Kill -9.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn log_in(standin: &StandIn, base: &str) -> Grant {
    let file = standin.engine().login(LoginOptions::default()).auth_file().to_string();
    match authfile::read(file.as_bytes(), &policy(base).profile) {
        Reading::Grant(grant) => grant,
        other @ (Reading::Wiped | Reading::Malformed(_)) => panic!("{other:?}"),
    }
}

#[expect(clippy::print_stdout, reason = "what was survived is counted and printed")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_is_presented_twice() {
    let actions = std::env::var("EVERGRANT_REPLICA_ACTIONS").map_or(ACTIONS, |text| text.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let folders: Vec<_> =
        (0..=MACHINES).map(|machine| scratch.path().join(format!("machine-{machine}"))).collect();
    folders.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let server = Setup::new().start().unwrap();
    let database = server.new_database().unwrap();
    let standin = StandIn::start(Settings::default()).await.unwrap();
    let base = standin.url().to_string();
    let base = base.trim_end_matches('/');
    let (watcher, snapshots, world) = replica(&database, base, &folders[MACHINES]).await;
    for number in 0..CHAINS {
        let taken = watcher.import(&chain(number), log_in(&standin, base)).await;
        assert!(matches!(taken, Import::Taken(_)), "{taken:?}");
        assert!(watcher.find(&chain(number)).await.unwrap().is_some());
    }
    let mut processes: Vec<_> =
        folders[..MACHINES].iter().map(|folder| Process::start(&database, base, folder)).collect();
    let (_poke, pokes) = mpsc::unbounded();
    let following = watcher.clone();
    tokio::spawn(async move { following.keep_following(pokes).await });
    let mut rng = SmallRng::seed_from_u64(11);
    let (mut kills, mut freezes, mut restarts) = (0, 0, 0);
    for _ in 0..actions {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..300))).await;
        let machine = rng.random_range(0..MACHINES);
        match rng.random_range(0..20) {
            0 => {
                restarts += 1;
                server.kill().unwrap();
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
                server.start().unwrap();
            }
            1..8 => {
                freezes += 1;
                processes[machine].signal(Signal::STOP);
                tokio::time::sleep(Duration::from_millis(rng.random_range(FROZEN_MS))).await;
                processes[machine].signal(Signal::CONT);
            }
            _ => {
                kills += 1;
                processes.remove(machine);
                processes.insert(machine, Process::start(&database, base, &folders[machine]));
            }
        }
    }
    // Whoever is left settles what the others left open.
    let state = world.state();
    let rows = async {
        loop {
            let rows = state.rows_after(None, CHAINS).await.unwrap_or_default();
            let open = rows.iter().filter(|row| row.record.intent.is_some()).count();
            if rows.len() == CHAINS && open <= MACHINES {
                processes.clear();
                tokio::time::sleep(PACES.lease + DEADLINE + PACES.pause_bound).await;
                // Its own receipts only: what is open now, another machine's process left.
                let rows = state.rows_after(None, CHAINS).await.unwrap();
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, rows).await.unwrap();
    for folder in &folders[..MACHINES] {
        let (again, ..) = replica(&database, base, folder).await;
        again.settle_left_open().await.unwrap();
        again.compare_all().await;
    }
    let rows = state.rows_after(None, CHAINS).await.unwrap();
    let mut in_doubt = 0;
    for row in &rows {
        let record = &row.record;
        assert!(record.intent.is_none(), "{record:?}");
        assert!(record.quarantined.is_none(), "{record:?}");
        match record.standing {
            Standing::Live => {
                let ring = KeyRing::parse(KEY).unwrap();
                let grant = ring
                    .open_pair(&record.chain, record.position(), &row.sealed, &policy(base).profile)
                    .unwrap();
                let refresh = grant.refresh.unwrap();
                let lives =
                    standin.engine().with(|engine| engine.family_lives(refresh.expose(), world.now()));
                assert!(lives, "{} holds a pair whose family is dead", record.chain);
            }
            // The answer died with its process, between the provider's commit and the receipt.
            Standing::InDoubt { .. } => in_doubt += 1,
            Standing::Refused { .. } => panic!("{record:?}"),
        }
    }
    let counters = standin.engine().counters();
    assert_eq!(counters.families_revoked_by_reuse, 0);
    assert!(in_doubt <= kills + restarts, "{in_doubt} in doubt after {kills} kills");
    // A reader of another machine sees the newest of each within a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for row in &rows {
        let seen = snapshots.current(&row.record.chain).unwrap();
        assert_eq!(seen.position, row.record.position(), "{}", row.record.chain);
    }
    let report = watcher.look(&rows[0].record.chain, Look::Due, None).await;
    assert_ne!(report.error, Some(Reason::SealBroken));
    println!(
        "{kills} kills, {freezes} freezes, {restarts} deaths of the database: {} rotations, {in_doubt} of {CHAINS} chains in doubt, none lost",
        counters.rotations
    );
    assert!(counters.rotations > 2 * actions as u64, "{} rotations", counters.rotations);
}
