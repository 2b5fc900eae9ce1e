//! One world: machines with a process each, the database, and a schedule of misfortunes that the seed draws.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::Standing;
use evergrant_core::gateway::Position;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{HOLD, LEASE, Look, PAUSE_BOUND, Policy};
use evergrant_core::secret::Fingerprint;
use evergrant_server::keeper::Import;
use evergrant_server::metrics::Metrics;
use evergrant_server::rows::{Paces, RowParts, RowPolicy};
use evergrant_server::{RowKeeper, Snapshots, World as _};
use evergrant_store::MemoryState;
use evergrant_store::marks::Marks;
use evergrant_store::receipts::Receipts;
use evergrant_store::seal::KeyRing;
use evergrant_store::vault::{Holder, Row, VaultState as _};
use futures_channel::mpsc;
use futures_util::FutureExt as _;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::database::{Database, Server};
use super::provider::Outside;
use super::world::ReplicaWorld;
use super::{CHAINS, Lie, Outcome};
use crate::sim::disk::{News, SimDisk};
use crate::sim::executor::{Executor, ProcessId, Ran};
use crate::sim::fault::Fault;
use crate::sim::lie::Lie as DiskLie;
use crate::sim::places::ROW_RECEIPTS;
use crate::sim::reference::{Held, broken};
use crate::sim::world::{PROVIDER, lock, true_time};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Quiet enough to get through years, and often enough to find what the others did.
const PACES: Paces = Paces {
    due: Duration::from_secs(150),
    changes: Duration::from_secs(40),
    lease: LEASE,
    pause_bound: PAUSE_BOUND,
    hold: HOLD,
};
/// So many backups are kept.
const BACKUPS: usize = 4;

struct Machine {
    number: usize,
    process: ProcessId,
    disk: SimDisk,
    marks: Marks,
    skew: Arc<Mutex<i64>>,
    /// Nobody runs here until then.
    away_until: Option<Duration>,
    running: Option<Running>,
}

struct Running {
    keeper: RowKeeper<ReplicaWorld>,
    snapshots: Snapshots,
    seen: BTreeMap<ChainName, Position>,
    _wake: mpsc::UnboundedSender<()>,
    _poke: mpsc::UnboundedSender<()>,
}

/// One simulated world.
pub(super) struct Sim {
    lie: Option<Lie>,
    rng: SmallRng,
    executor: Executor,
    outside: Arc<Mutex<Outside>>,
    server: Arc<Mutex<Server>>,
    machines: Vec<Machine>,
    next_process: ProcessId,
    chains: Vec<ChainName>,
    backups: Vec<MemoryState>,
    /// Logins that had ended, for a good reason.
    ended: BTreeSet<u64>,
    undelivered: u64,
}

impl Sim {
    pub(super) fn new(seed: u64, machines: usize, lie: Option<Lie>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let executor = Executor::new(rng.random());
        let life = Duration::from_secs(3600 * [1, 2, 8][rng.random_range(0..3)]);
        let outside = Arc::new(Mutex::new(Outside::new(rng.random(), life)));
        let clock = executor.clone();
        let tables = MemoryState::with_clock(move || true_time(clock.now()));
        let server = Server { tables, away: false, cut_off: vec![false; machines], flaky: 0 };
        let mut sim = Self {
            lie,
            executor,
            outside,
            server: Arc::new(Mutex::new(server)),
            machines: Vec::new(),
            next_process: PROVIDER,
            chains: (0..CHAINS).map(|n| format!("chain-{n}").parse().expect("it is a name")).collect(),
            backups: Vec::new(),
            ended: BTreeSet::new(),
            undelivered: 0,
            rng,
        };
        for number in 0..machines {
            let drops = (lie == Some(Lie::AnswerDropped)).then_some(DiskLie::AnswerDropped);
            let disk = SimDisk::new(sim.rng.random(), drops);
            let marks = Marks::in_memory().expect("SQLite opens in memory");
            let skew = Arc::default();
            let machine = Machine { number, process: 0, disk, marks, skew, away_until: None, running: None };
            sim.machines.push(machine);
            sim.start(number);
        }
        for chain in sim.chains.clone() {
            sim.log_in(0, &chain);
        }
        sim.run_for(Duration::from_secs(60));
        sim
    }

    /// Runs for about so many days, up to the first violation.
    pub(super) fn run(mut self, days: u64) -> Outcome {
        let end = self.executor.now() + Duration::from_secs(days * 24 * 3600);
        while self.executor.now() < end && !self.is_broken() {
            for _ in 0..self.rng.random_range(4..16) {
                self.misfortune();
                if self.is_broken() {
                    break;
                }
            }
            self.calm();
        }
        let mut outside = lock(&self.outside);
        for machine in &self.machines {
            let full = machine.disk.tally().of(Fault::NoRoom);
            (0..full).for_each(|_| outside.count("operation on a full disk"));
        }
        Outcome {
            simulated: self.executor.now(),
            rotations: outside.engine.counters().rotations,
            tally: outside.tally.clone(),
            undelivered: self.undelivered,
            violation: outside.violations.first().cloned(),
            trace: outside.trace.clone(),
        }
    }

    fn is_broken(&self) -> bool {
        !lock(&self.outside).violations.is_empty()
    }

    fn say(&self, what: impl std::fmt::Display) {
        lock(&self.outside).say(self.executor.now(), what);
    }

    fn count(&self, fault: &'static str) {
        self.say(fault);
        lock(&self.outside).count(fault);
    }

    /// A misfortune of a machine counts where a process runs that it can befall.
    fn count_at(&self, number: usize, fault: &'static str) {
        match &self.machines[number].running {
            Some(_) => self.count(fault),
            None => self.say(format_args!("{fault}, and nobody was there")),
        }
    }

    /// A new process on a machine.
    fn start(&mut self, number: usize) {
        self.next_process += 1;
        let process = self.next_process;
        let machine = &self.machines[number];
        let name =
            if self.lie == Some(Lie::OneName) { "machine".into() } else { format!("machine-{number}") };
        let world = ReplicaWorld {
            executor: self.executor.clone(),
            process,
            name: name.as_str().into(),
            disk: machine.disk.seen_by(process),
            database: Database {
                server: self.server.clone(),
                outside: self.outside.clone(),
                executor: self.executor.clone(),
                machine: number,
                lie: self.lie,
            },
            skew_secs: machine.skew.clone(),
            begun: self.executor.now(),
        };
        let marks = match self.lie {
            Some(Lie::NoMarks) => Marks::in_memory().expect("SQLite opens in memory"),
            _ => machine.marks.clone(),
        };
        let folder = match self.lie {
            Some(Lie::ReceiptsForgotten) => format!("{ROW_RECEIPTS}-{process}"),
            _ => ROW_RECEIPTS.to_owned(),
        };
        let ring = KeyRing::parse(KEY).expect("it is a key");
        // A full disk keeps the process from starting; the next step tries again.
        let Ok(receipts) = Receipts::open(world.disk.clone(), folder.into(), ring) else {
            self.machines[number].running = None;
            return;
        };
        let policy = Policy { min_exchange_interval: Duration::ZERO, ..Policy::new(crate::profile()) };
        let policy = Arc::new(RowPolicy { policy, accepted: true, world: world.clone() });
        let snapshots = Snapshots::default();
        let keeper = RowKeeper::new(RowParts {
            world: world.clone(),
            holder: Holder { process: format!("{name}-{process}"), machine: name },
            policies: Arc::new(move |_| Some(policy.clone())),
            receipts,
            marks,
            snapshots: snapshots.clone(),
            metrics: Metrics::default(),
            most_at_once: 16,
            paces: PACES,
            committed: None,
        });
        let (wake, wakes) = mpsc::unbounded();
        let (poke, pokes) = mpsc::unbounded();
        let (running, following, loading) = (keeper.clone(), keeper.clone(), keeper.clone());
        world.spawn(async move { running.run(wakes).await });
        world.spawn(async move { following.keep_following(pokes).await });
        let chains = self.chains.clone();
        world.spawn(async move {
            for chain in chains {
                let _ = loading.find(&chain).await;
            }
        });
        let machine = &mut self.machines[number];
        machine.process = process;
        machine.running =
            Some(Running { keeper, snapshots, seen: BTreeMap::new(), _wake: wake, _poke: poke });
    }

    fn stop(&mut self, number: usize) {
        let machine = &mut self.machines[number];
        machine.disk.free_locks(machine.process);
        self.executor.kill(machine.process);
        lock(&self.outside).reference.died(machine.process, number);
        machine.running = None;
    }

    /// Runs for a while; a process that dies is started again at once.
    fn run_for(&mut self, span: Duration) {
        let end = self.executor.now() + span;
        while !self.is_broken() {
            self.come_back();
            match self.executor.step(end) {
                Ran::Idle => return,
                Ran::Polled(process) => self.observe(process),
                Ran::Died { process, at_await } => {
                    self.observe(process);
                    self.count(if at_await { "death at an await" } else { "death within a file operation" });
                    if let Some(number) = self.number_of(process) {
                        self.stop(number);
                        self.start(number);
                    }
                }
            }
        }
    }

    fn number_of(&self, process: ProcessId) -> Option<usize> {
        self.machines.iter().position(|machine| machine.process == process)
    }

    fn come_back(&mut self) {
        let now = self.executor.now();
        for number in 0..self.machines.len() {
            let machine = &mut self.machines[number];
            if machine.running.is_none() && machine.away_until.is_none_or(|until| until <= now) {
                machine.away_until = None;
                self.start(number);
            }
        }
    }

    /// What the last step of the executor changed.
    fn observe(&mut self, process: ProcessId) {
        let Some(number) = self.number_of(process) else { return };
        let machine = &mut self.machines[number];
        let now = self.executor.now();
        let mut outside = lock(&self.outside);
        for news in machine.disk.news() {
            if let News::Filled(path) = news {
                let name = path.rsplit('/').next().unwrap_or_default();
                if let Some((chain, attempt)) = name.rsplit_once('.')
                    && let (Ok(chain), Ok(attempt)) = (chain.parse(), attempt.parse())
                {
                    outside.reference.kept(&chain, attempt, machine.number);
                }
            }
        }
        let dropped = outside.reference.nothing_is_dropped(now);
        outside.judge(now, dropped);
        let Some(running) = &mut machine.running else { return };
        for chain in &self.chains {
            let Some(current) = running.snapshots.current(chain) else { continue };
            let before = running.seen.insert(chain.clone(), current.position);
            if before != Some(current.position) {
                let access = current.access.fingerprint();
                let held = outside.reference.reader_goes_on(before, current.position, access);
                outside.judge(now, held);
            }
        }
    }

    fn any_machine(&mut self) -> usize {
        self.rng.random_range(0..self.machines.len())
    }

    fn any_chain(&mut self) -> ChainName {
        let index = self.rng.random_range(0..self.chains.len());
        self.chains[index].clone()
    }

    fn force(&mut self, number: usize) {
        let chain = self.any_chain();
        self.force_chain(number, &chain);
    }

    fn force_chain(&mut self, number: usize, chain: &ChainName) {
        let chain = chain.clone();
        let machine = &self.machines[number];
        if let Some(running) = &machine.running {
            let keeper = running.keeper.clone();
            self.executor.spawn(machine.process, async move {
                keeper.look(&chain, Look::Forced, None).await;
            });
        }
    }

    fn log_in(&mut self, number: usize, chain: &ChainName) {
        let grant = lock(&self.outside).log_in(self.executor.now());
        self.import(number, chain, grant);
    }

    /// An agent pushes a grant until it is taken, as agents do.
    fn import(&mut self, number: usize, chain: &ChainName, grant: Grant) {
        let machine = &self.machines[number];
        let Some(running) = &machine.running else { return };
        let (keeper, chain, executor) = (running.keeper.clone(), chain.clone(), self.executor.clone());
        self.executor.spawn(machine.process, async move {
            for _ in 0..20 {
                if let Import::Taken(_) = keeper.import(&chain, grant.clone()).await {
                    return;
                }
                executor.sleep(Duration::from_secs(60)).await;
            }
        });
    }

    fn misfortune(&mut self) {
        let number = self.any_machine();
        lock(&self.outside).bad = [0, 10, 40, 70][self.rng.random_range(0..4)];
        let flaky = [0, 5, 30][self.rng.random_range(0..3)];
        lock(&self.server).flaky = flaky;
        let secs = |sim: &mut Self, range| Duration::from_secs(sim.rng.random_range(range));
        match self.rng.random_range(0..16) {
            0 => {
                let polls = self.rng.random_range(0..60);
                self.executor.doom(self.machines[number].process, polls);
                self.force(number);
            }
            1 => {
                let operations = self.rng.random_range(0..12);
                self.machines[number].disk.doom(self.machines[number].process, operations);
                self.force(number);
            }
            2 => {
                self.force(number);
                let soon = Duration::from_millis(self.rng.random_range(0..2_000));
                self.run_for(soon);
                self.count_at(number, "power loss");
                self.stop(number);
                self.machines[number].disk.power_loss();
                self.start(number);
            }
            3 => {
                self.machines[number].disk.set_full(true);
                self.force(number);
                let lasts = secs(self, 10..7200);
                self.run_for(lasts);
                self.machines[number].disk.set_full(false);
            }
            4 | 5 => {
                self.force(number);
                let soon = Duration::from_millis(self.rng.random_range(0..400));
                self.run_for(soon);
                self.count_at(number, "process that stood still");
                let most = match self.lie {
                    Some(Lie::PausesUnbounded) => 1200,
                    _ => PAUSE_BOUND.as_secs() - 5,
                };
                let until = self.executor.now() + secs(self, 1..most);
                self.executor.freeze(self.machines[number].process, until);
                lock(&self.outside).reference.stands_still(self.machines[number].process, until);
                let (other, soon) = (self.any_machine(), secs(self, 1..120));
                self.run_for(soon);
                self.force(other);
            }
            6 => {
                self.count("wall clock that is off");
                *lock(&self.machines[number].skew) = self.rng.random_range(-900..900);
                lock(&self.outside).reference.clocks_off_until = Some(Duration::MAX);
                self.force(number);
            }
            7 | 8 => {
                self.force(number);
                let soon = Duration::from_millis(self.rng.random_range(0..1_500));
                self.run_for(soon);
                self.count_at(number, "machine cut off from the database");
                lock(&self.server).cut_off[number] = true;
                let lasts = secs(self, 1..14_400);
                self.run_for(lasts);
                lock(&self.server).cut_off[number] = false;
            }
            9 => {
                self.force(number);
                let soon = Duration::from_millis(self.rng.random_range(0..1_500));
                self.run_for(soon);
                self.count("database away");
                lock(&self.server).away = true;
                let lasts = secs(self, 1..3_600);
                self.run_for(lasts);
                lock(&self.server).away = false;
            }
            10 => {
                self.force(number);
                let soon = Duration::from_millis(self.rng.random_range(0..1_500));
                self.run_for(soon);
                self.count_at(number, "machine away for hours");
                self.stop(number);
                let until = self.executor.now() + secs(self, 60..40_000);
                self.machines[number].away_until = Some(until);
            }
            11 => {
                self.count("login again");
                let chain = self.any_chain();
                self.force_chain(number, &chain);
                let (other, third) = (self.any_machine(), self.any_machine());
                let mut soon = || Duration::from_millis(self.rng.random_range(0..1_000));
                let (before, behind) = (soon(), soon());
                self.run_for(before);
                self.log_in(other, &chain);
                self.run_for(behind);
                self.force_chain(third, &chain);
            }
            12 => self.back_up(),
            13 if self.rng.random_bool(0.25) => {
                self.leave_one_behind(number);
                self.restore(self.backups.len() - 1);
            }
            13 if !self.backups.is_empty() && self.rng.random_bool(0.75) => {
                let index = self.rng.random_range(0..self.backups.len());
                self.restore(index);
            }
            14 if self.rng.random_bool(0.75) => {
                let now = true_time(self.executor.now());
                let tables = lock(&self.server).tables.copy();
                let rows = now_or_never(tables.rows_after(None, CHAINS)).unwrap_or_default();
                let refused = |standing| matches!(standing, Standing::Refused { .. });
                let living = rows.iter().filter(|row| !refused(row.record.standing)).count() as u64;
                let mut outside = lock(&self.outside);
                let ended = outside.engine.revoke_all(now);
                (0..ended.min(living)).for_each(|_| outside.count("login revoked"));
                let families: Vec<u64> =
                    outside.reference.tokens.values().map(|token| token.family).collect();
                outside.reference.meddled.extend(families);
            }
            _ => {
                for _ in 0..4 {
                    let other = self.any_machine();
                    self.force(other);
                }
            }
        }
        let span = secs(self, 1..20_000);
        self.run_for(span);
    }

    fn back_up(&mut self) {
        let live = lock(&self.server).tables.copy();
        self.backups.push(live);
        if self.backups.len() > BACKUPS {
            self.backups.remove(0);
        }
    }

    /// A machine goes away, a backup is made, and the others go on: that machine cannot know how old the backup is.
    fn leave_one_behind(&mut self, number: usize) {
        self.count_at(number, "machine away for hours");
        self.stop(number);
        self.machines[number].away_until = Some(Duration::MAX);
        self.back_up();
        let hours = Duration::from_secs(self.rng.random_range(1_800..20_000));
        self.run_for(hours);
    }

    /// The database is an older copy of itself. It was away for a while before.
    fn restore(&mut self, index: usize) {
        let backup = self.backups[index].copy();
        // Whoever is there hears of it all. Those who are not may come as soon as it is back; only where nobody is there,
        // those are started first that were the last, as operators are told.
        self.run_for(PACES.changes);
        if self.machines.iter().all(|machine| machine.running.is_none()) {
            return;
        }
        lock(&self.server).away = true;
        self.run_for(Duration::from_secs(120));
        let soon = self.rng.random_bool(0.5).then(|| self.executor.now());
        for machine in self.machines.iter_mut().filter(|machine| machine.running.is_none()) {
            machine.away_until = soon.or(machine.away_until);
        }
        self.count("database restored from a backup");
        let rows = now_or_never(backup.rows_after(None, CHAINS)).unwrap_or_default();
        let now = self.executor.now();
        lock(&self.outside).reference.restored(now, rows.into_iter().map(|row| row.record));
        let mut server = lock(&self.server);
        server.tables = backup;
        server.away = false;
        drop(server);
        // Newer backups are of a history that is no more.
        self.backups.truncate(index + 1);
        // Whoever has heard of it all says so meanwhile.
        self.run_for(PACES.hold);
    }

    fn rows(&self) -> Vec<Row> {
        let tables = lock(&self.server).tables.clone();
        now_or_never(tables.rows_after(None, CHAINS)).unwrap_or_default()
    }

    /// Good weather, until every chain is well; if one cannot be, that must have a reason.
    fn calm(&mut self) {
        for machine in &mut self.machines {
            *lock(&machine.skew) = 0;
            machine.away_until = None;
            machine.disk.spare();
        }
        self.executor.spare();
        lock(&self.server).flaky = 0;
        let heal = {
            let mut outside = lock(&self.outside);
            outside.bad = 0;
            let life = outside.life;
            // What was stored by a clock that was off lasts as long as the token beside it.
            let off_until = outside.reference.clocks_off_until.map(|_| self.executor.now() + life);
            outside.reference.clocks_off_until = off_until;
            life * 2 + Duration::from_secs(3600)
        };
        self.run_for(heal);
        // What is under way in good weather ends at once.
        if self.rows().iter().any(|row| row.record.intent.is_some()) {
            self.run_for(Duration::from_secs(60));
        }
        if self.is_broken() {
            return;
        }
        let mut held = BTreeSet::new();
        for row in self.rows() {
            let token = row.record.pair.fingerprint();
            let family = lock(&self.outside).reference.tokens.get(&token).map(|token| token.family);
            if !self.is_well(&row) {
                let judged = self.judge_end(&row, family);
                lock(&self.outside).judge(self.executor.now(), judged);
                self.log_in(0, &row.record.chain);
            }
            held.extend(family);
        }
        self.run_for(Duration::from_secs(1800));
        let mut outside = lock(&self.outside);
        // Backups may bring older ones back.
        if self.backups.is_empty() {
            let before = self.executor.now().saturating_sub(Duration::from_secs(24 * 3600));
            outside.reference.forget_but(&held, before);
        }
    }

    fn is_well(&self, row: &Row) -> bool {
        let token = row.record.pair.fingerprint();
        let outside = lock(&self.outside);
        let newest = outside.reference.tokens.get(&token).and_then(|known| {
            outside.engine.newest_refresh_token(known.family).map(|newest| Fingerprint::of(newest.as_bytes()))
        });
        let now = self.executor.now();
        row.record.standing == Standing::Live
            && row.record.intent.is_none()
            && row.record.quarantined.is_none()
            && row.record.token_valid(true_time(now))
            && newest == Some(token)
            && outside.lives(token, now)
    }

    /// A chain that is not well after the faults ended: only for a reason that is nobody's fault here.
    fn judge_end(&mut self, row: &Row, family: Option<u64>) -> Held {
        let outside = lock(&self.outside);
        let record = &row.record;
        let family = family.unwrap_or_default();
        let restored = outside.reference.restored_at.is_some();
        let meddled = outside.reference.meddled.contains(&family);
        let undelivered = outside.reference.undelivered(family);
        // A restored row may be of a login that had ended before, for a good reason.
        let ended_before = restored && !self.ended.insert(family);
        let excused = meddled
            || ended_before
            || matches!(record.standing, Standing::Refused { .. }) && undelivered
            || record.quarantined.is_some() && restored;
        drop(outside);
        if excused {
            self.undelivered += u64::from(!meddled && record.quarantined.is_none());
            return Ok(());
        }
        broken("L3", format!("not well after the faults ended: {record:?}"))
    }
}

/// The tables in memory never wait.
fn now_or_never<T, E: std::fmt::Debug>(future: impl Future<Output = Result<T, E>>) -> Option<T> {
    future.now_or_never().and_then(Result::ok)
}
