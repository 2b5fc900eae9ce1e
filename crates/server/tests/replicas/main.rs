//! Three processes on one PostgreSQL, each with a disk of its own, killed, frozen, cut off and started again while they
//! renew, and the database killed under them: each chain lives, no family is revoked for a pair that was presented twice,
//! and whoever reads a replica's snapshots is served what the database holds.
//!
//! `EVERGRANT_REPLICA_ACTIONS` says how many misfortunes; a long run has a thousand.
//!
//! Each process reaches the database and the provider over ways of its own, which are cut by a proxy within the test
//! ([`wire`]) and not by a network namespace: PostgreSQL does not run as root, in a user namespace there is nobody else, and
//! a pair of interfaces to the world outside of it needs root. The proxy works wherever the test does, holds and loses bytes
//! each way by itself, and what it keeps comes late, as on a network.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod pace;
mod readers;
mod wire;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
use evergrant_store::postgres::scratch::{ScratchPostgres, Setup};
use evergrant_store::receipts::Receipts;
use evergrant_store::seal::KeyRing;
use evergrant_store::vault::{Holder, VaultState as _};
use evergrant_store::{OsDisk, PostgresState};
use futures_channel::{mpsc, oneshot};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};

use wire::{CUTS, Line, Wire};

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
    hold: Duration::from_secs(1),
};
/// How long a process is frozen, or cut off. The longer ones outlast its deadline, its lease and the pause bound.
const SHORT_MS: std::ops::Range<u64> = 10..1500;
const LONG_MS: std::ops::Range<u64> = 4500..6500;
const PATIENCE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 16;
const AGAIN: Duration = Duration::from_millis(50);

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
    committed: Option<mpsc::UnboundedSender<()>>,
) -> (Keeper, Snapshots, TokioWorld<PostgresState>) {
    let url = database.parse().unwrap();
    // It may be away, or the way to it cut.
    let state = loop {
        match PostgresState::open(&url, 8).await {
            Ok(state) => break state,
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    };
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
        most_at_once: AT_ONCE,
        paces: PACES,
        committed,
    });
    (keeper, snapshots, world)
}

/// What one of the processes does, until it is killed: renews whatever it likes. Without its variables it is no test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_the_processes() {
    let Ok(folder) = std::env::var("REPLICA_FOLDER") else { return };
    let folder = Path::new(&folder);
    let (database, base) =
        (std::env::var("REPLICA_DATABASE").unwrap(), std::env::var("REPLICA_PROVIDER").unwrap());
    let (keeper, snapshots, world) = replica(&database, &base, folder, None).await;
    let (_wake, wakes) = mpsc::unbounded();
    let (_poke, pokes) = mpsc::unbounded();
    let forcing = async {
        let mut rng = world.rng();
        loop {
            let report = keeper.look(&chain(rng.random_range(0..CHAINS)), Look::Forced, None).await;
            if report.error == Some(Reason::VaultUnwritable) {
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    let settling = async {
        loop {
            let _ = keeper.settle_left_open().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let reading = async {
        for number in 0..CHAINS {
            while keeper.find(&chain(number)).await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        }
        readers::read(&world, &snapshots, &base, folder).await;
    };
    tokio::join!(keeper.run(wakes), keeper.keep_following(pokes), forcing, settling, reading);
}

struct Process(Child);

impl Process {
    fn start(machine: &Machine) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "one_of_the_processes", "--nocapture"])
            .env("REPLICA_FOLDER", &machine.folder)
            .env("REPLICA_DATABASE", &machine.database_url)
            .env("REPLICA_PROVIDER", format!("http://{}", machine.provider.address()))
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

/// A disk, and ways to database and provider.
struct Machine {
    folder: PathBuf,
    database: Wire,
    database_url: String,
    provider: Wire,
}

impl Machine {
    async fn new(folder: PathBuf, server: &ScratchPostgres, database: &str, provider: SocketAddr) -> Self {
        let port = server.port();
        let wire = Wire::to(SocketAddr::from(([127, 0, 0, 1], port))).await;
        let own = format!(":{}/", wire.address().port());
        let database_url = database.replace(&format!(":{port}/"), &own);
        assert_ne!(database_url, database);
        Self { folder, database: wire, database_url, provider: Wire::to(provider).await }
    }

    /// Cuts it off from `which`, for so long.
    fn cut(self: &Arc<Self>, which: Which, line: Line, time: Duration) {
        let machine = self.clone();
        tokio::spawn(async move {
            machine.set(which, line);
            tokio::time::sleep(time).await;
            machine.set(which, Line::Whole);
        });
    }

    fn set(&self, which: Which, line: Line) {
        if which != Which::Provider {
            self.database.set(line);
        }
        if which != Which::Database {
            self.provider.set(line);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Database,
    Provider,
    Both,
}

/// How often what befell whom.
#[derive(Debug, Default)]
struct Befell {
    kills: usize,
    freezes: usize,
    deaths: usize,
    cuts: usize,
    /// Cuts under which an answer of the provider may have been lost.
    answers_lost: usize,
}

fn some_time(rng: &mut SmallRng) -> Duration {
    let long = rng.random_ratio(1, 8);
    Duration::from_millis(rng.random_range(if long { LONG_MS } else { SHORT_MS }))
}

/// Each misfortune, one after another.
async fn torture(
    actions: usize,
    server: &ScratchPostgres,
    machines: &[Arc<Machine>],
    processes: &mut Vec<Process>,
) -> Befell {
    let mut rng = SmallRng::seed_from_u64(11);
    let mut befell = Befell::default();
    for _ in 0..actions {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..250))).await;
        let number = rng.random_range(0..MACHINES);
        match rng.random_range(0..20) {
            0 => {
                befell.deaths += 1;
                server.kill().unwrap();
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
                server.start().unwrap();
            }
            1..5 => {
                befell.freezes += 1;
                processes[number].signal(Signal::STOP);
                tokio::time::sleep(some_time(&mut rng)).await;
                processes[number].signal(Signal::CONT);
            }
            5..12 => {
                befell.cuts += 1;
                let which = *[Which::Database, Which::Provider, Which::Both].choose(&mut rng).unwrap();
                let line = *CUTS.choose(&mut rng).unwrap();
                befell.answers_lost += usize::from(which != Which::Database && line != Line::Holds);
                machines[number].cut(which, line, some_time(&mut rng));
            }
            _ => {
                befell.kills += 1;
                processes.remove(number);
                processes.insert(number, Process::start(&machines[number]));
            }
        }
    }
    befell
}

/// A person, who logs in again where a chain is in doubt. Gives how often, once all is over.
async fn person(
    watcher: &Keeper,
    world: &TokioWorld<PostgresState>,
    standin: &StandIn,
    mut over: oneshot::Receiver<()>,
) -> usize {
    let mut logins = 0;
    while over.try_recv().is_ok_and(|over| over.is_none()) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for row in world.state().rows_after(None, CHAINS).await.unwrap_or_default() {
            let Standing::InDoubt { .. } = row.record.standing else { continue };
            if let Import::Taken(_) = watcher.import(&row.record.chain, log_in(standin, &standin.url())).await
            {
                logins += 1;
            }
        }
    }
    logins
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
    let folder = |number: usize| {
        let folder = scratch.path().join(format!("machine-{number}"));
        std::fs::create_dir(&folder).unwrap();
        folder
    };
    // Of processes that were killed while they were cut off, the server goes on to hold the connections.
    let server = Setup::new().with("max_connections", "400").start().unwrap();
    let database = server.new_database().unwrap();
    let standin = StandIn::start(Settings { families_kept: 100_000, ..Settings::default() }).await.unwrap();
    let base = standin.url();
    let mut machines = Vec::new();
    for number in 0..MACHINES {
        machines.push(Arc::new(Machine::new(folder(number), &server, &database, standin.address()).await));
    }
    // One more, which nothing befalls.
    let apart = folder(MACHINES);
    let (watcher, snapshots, world) = replica(&database, &base, &apart, None).await;
    for number in 0..CHAINS {
        let taken = watcher.import(&chain(number), log_in(&standin, &base)).await;
        assert!(matches!(taken, Import::Taken(_)), "{taken:?}");
        assert!(watcher.find(&chain(number)).await.unwrap().is_some());
    }
    let mut processes: Vec<_> = machines.iter().map(|machine| Process::start(machine)).collect();
    let (_poke, pokes) = mpsc::unbounded();
    let (done, over) = oneshot::channel();
    let (befell, logins) = tokio::select! {
        () = watcher.keep_following(pokes) => unreachable!(),
        () = readers::read(&world, &snapshots, &base, &apart) => unreachable!(),
        both = async { tokio::join!(
            async {
                let befell = torture(actions, &server, &machines, &mut processes).await;
                done.send(()).unwrap();
                befell
            },
            person(&watcher, &world, &standin, over),
        ) } => both,
    };
    // A last misfortune, and each machine settles what it left open.
    processes.clear();
    machines.iter().for_each(|machine| machine.set(Which::Both, Line::Whole));
    let mut again = Vec::new();
    for machine in &machines {
        again.push(replica(&database, &base, &machine.folder, None).await.0);
    }
    let state = world.state();
    let settled = async {
        loop {
            for keeper in &again {
                keeper.settle_left_open().await.unwrap();
                keeper.compare_all().await.unwrap();
            }
            let rows = state.rows_after(None, CHAINS).await.unwrap();
            if rows.iter().all(|row| row.record.intent.is_none()) {
                return rows;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let rows = tokio::time::timeout(PATIENCE, settled).await.unwrap();
    let mut in_doubt = 0;
    for row in &rows {
        let record = &row.record;
        assert!(record.quarantined.is_none(), "{record:?}");
        match record.standing {
            Standing::Live => {
                let ring = KeyRing::parse(KEY).unwrap();
                let grant = ring
                    .open_pair(&record.chain, record.position(), &row.sealed, &policy(&base).profile)
                    .unwrap();
                let refresh = grant.refresh.unwrap();
                let lives =
                    standin.engine().with(|engine| engine.family_lives(refresh.expose(), world.now()));
                assert!(lives, "{} holds a pair whose family is dead", record.chain);
            }
            // The answer died with its process, between the provider's commit and the receipt, or on its way.
            Standing::InDoubt { .. } => in_doubt += 1,
            Standing::Refused { .. } => panic!("{record:?}"),
        }
    }
    let counters = standin.engine().counters();
    assert_eq!(counters.families_revoked_by_reuse, 0);
    let may_be_lost = (befell.kills + MACHINES + befell.answers_lost) * (AT_ONCE + 1);
    assert!(logins + in_doubt <= may_be_lost, "{logins} + {in_doubt} in doubt after {befell:?}");
    // A reader of another machine sees the newest of each within a second.
    let (_poke, pokes) = mpsc::unbounded();
    let newest = async {
        for row in &rows {
            while snapshots.current(&row.record.chain).unwrap().position != row.record.position() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    };
    tokio::select! {
        () = watcher.keep_following(pokes) => unreachable!(),
        seen = tokio::time::timeout(Duration::from_secs(1), newest) => seen.unwrap(),
    }
    let report = watcher.look(&rows[0].record.chain, Look::Due, None).await;
    assert_ne!(report.error, Some(Reason::SealBroken));
    let (mut served, mut fresh) = (0, 0);
    for folder in machines.iter().map(|machine| &machine.folder).chain([&apart]) {
        let seen = readers::Seen::on(folder);
        assert!(seen.wrong.is_empty(), "{}: {:#?}", folder.display(), seen.wrong);
        assert!(seen.served > actions && seen.fresh > actions, "{}: {seen:?}", folder.display());
        served += seen.served;
        fresh += seen.fresh;
    }
    println!(
        "{befell:?}: {} rotations, {logins} logins after doubt, {in_doubt} of {CHAINS} chains in doubt, none lost, {} families revoked by reuse; readers were served {served} times and saw the newest {fresh} times",
        counters.rotations, counters.families_revoked_by_reuse,
    );
    assert!(counters.rotations > 2 * actions as u64, "{} rotations", counters.rotations);
}
