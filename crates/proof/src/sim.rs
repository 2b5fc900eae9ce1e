//! Simulates keepers for years: the real keeper and the real vault code on a seeded executor with a simulated
//! clock, disk, state, network and provider, under faults that the seed draws.
//!
//! After each burst of faults the invariants of SPEC §4 are checked against a reference: what the provider saw.

pub mod disk;
pub mod executor;
pub mod world;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::Record;
use evergrant_core::keeper::{Policy, Report};
use evergrant_core::provider::Profile;
use evergrant_core::secret::Fingerprint;
use evergrant_core::{Generation, Lineage, Reason};
use evergrant_server::metrics::Metrics;
use evergrant_server::{Keeper, Snapshots, Wake, World};
use evergrant_standin::{Engine, LoginOptions, Settings};
use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{AuthFile, MemoryState};
use futures_channel::mpsc;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use disk::{DiskFaults, SimDisk};
use executor::{Executor, ProcessId};
use world::{FlakyState, NetFaults, PROVIDER, Presentation, Provider, SimWorld, Weather, lock, true_time};

const FILE: &str = "/grant/auth.json";
const LIFE_SECS: u64 = 2 * 3600;
/// After the faults end, a chain must be well again within so much time: a life, and the back-off behind it.
const HEAL: Duration = Duration::from_secs(LIFE_SECS + 3600);

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Simulated time.
    pub simulated: Duration,
    /// Rotations that the provider counted.
    pub rotations: u64,
    /// Faults of network and provider.
    pub net: NetFaults,
    /// Faults of the disk.
    pub disk: DiskFaults,
    /// Processes that died at an await, and power losses.
    pub crashes: u64,
    /// Times that the power went.
    pub power_losses: u64,
    /// Edits by an operator.
    pub edits: u64,
    /// Jumps of a wall clock.
    pub clock_jumps: u64,
    /// Disks that were full for a while.
    pub full_disks: u64,
    /// Logins that were revoked by the provider.
    pub revocations: u64,
    /// Chains that ended because an answer was never delivered: the one window that stays open.
    pub undelivered: u64,
    /// Of the whole trace.
    pub hash: u64,
    /// What did not hold.
    pub violations: Vec<String>,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

struct Machine {
    process: ProcessId,
    skew: Arc<Mutex<i64>>,
    state: MemoryState,
    snapshots: Snapshots,
    keeper: Keeper<SimWorld>,
    wake: mpsc::UnboundedSender<Wake>,
    seen: Option<(Lineage, Generation)>,
}

struct Sim {
    rng: SmallRng,
    executor: Executor,
    disk: SimDisk,
    provider: Arc<Mutex<Provider>>,
    machines: Vec<Machine>,
    next_process: ProcessId,
    outcome: Outcome,
    /// Every token that was ever the current one of a login: the operator's old files.
    old_files: Vec<Vec<u8>>,
    /// Presentations that were judged already.
    judged: usize,
    spent: BTreeSet<Fingerprint>,
    /// Refresh tokens that the vault has held.
    held: BTreeSet<Fingerprint>,
}

/// Runs one seed for so many simulated days, with so many keepers on one auth file.
pub fn run(seed: u64, days: u64, keepers: usize) -> Outcome {
    let mut sim = Sim::new(seed, keepers);
    let end = Duration::from_secs(days * 86_400);
    while sim.executor.now() < end && sim.outcome.violations.is_empty() {
        sim.storm();
        sim.calm();
    }
    sim.finish()
}

impl Sim {
    fn new(seed: u64, keepers: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let executor = Executor::new(rng.random());
        let mut settings = Settings { log_kept: 4, spent_kept: 4096, ..Settings::default() };
        settings.lives.access_secs = LIFE_SECS;
        let provider = Arc::new(Mutex::new(Provider::new(Engine::new(settings), rng.random())));
        let disk = SimDisk::new(rng.random(), &["/grant", "/"]);
        let mut sim = Self {
            rng,
            executor,
            disk,
            provider,
            machines: Vec::new(),
            next_process: PROVIDER,
            outcome: Outcome::default(),
            old_files: Vec::new(),
            judged: 0,
            spent: BTreeSet::new(),
            held: BTreeSet::new(),
        };
        sim.log_in();
        for _ in 0..keepers {
            let (skew, state) = (Arc::default(), MemoryState::new());
            let machine = sim.start(skew, state);
            sim.machines.push(machine);
        }
        sim
    }

    fn say(&mut self, what: &str) {
        let line = format!("{:>12.3} {what}", self.executor.now().as_secs_f64());
        // FNV-1a: the same trace has the same hash, on every machine.
        for byte in line.bytes() {
            self.outcome.hash = (self.outcome.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.outcome.trace.len() >= 200 {
            self.outcome.trace.remove(0);
        }
        self.outcome.trace.push(line);
    }

    fn violation(&mut self, what: String) {
        self.say(&format!("VIOLATION {what}"));
        self.outcome.violations.push(what);
    }

    /// A new process on a machine, with the machine's state.
    fn start(&mut self, skew: Arc<Mutex<i64>>, state: MemoryState) -> Machine {
        self.next_process += 1;
        let process = self.next_process;
        let world = SimWorld {
            executor: self.executor.clone(),
            process,
            disk: self.disk.seen_by(process),
            state: FlakyState { inner: state.clone(), provider: self.provider.clone(), lost: 20 },
            provider: self.provider.clone(),
            skew_secs: skew.clone(),
            begun: self.executor.now(),
        };
        let vault = AuthFile::new(world.disk.clone(), FILE.into(), "/state".into(), TakeClientLocks::Never);
        let snapshots = Snapshots::default();
        let chain: ChainName = "claude".parse().expect("it is a chain name");
        let policy = Policy { min_exchange_interval: Duration::ZERO, ..Policy::new(profile()) };
        let metrics = Metrics::default();
        let keeper = Keeper::new(world.clone(), chain, policy, true, vault, snapshots.clone(), metrics);
        let (wake, wakes) = mpsc::unbounded();
        let (running, own) = (keeper.clone(), wake.clone());
        world.spawn(async move { running.run(wakes, own).await });
        Machine { process, skew, state, snapshots, keeper, wake, seen: None }
    }

    fn restart(&mut self, index: usize) {
        let (skew, state) = (self.machines[index].skew.clone(), self.machines[index].state.clone());
        self.disk.free_locks(self.machines[index].process);
        self.executor.kill(self.machines[index].process);
        self.machines[index] = self.start(skew, state);
    }

    /// Runs for a while; a process that dies is started again a little later.
    fn run_for(&mut self, span: Duration) {
        let end = self.executor.now() + span;
        while let Some(died) = self.executor.run_until(end) {
            self.outcome.crashes += 1;
            self.say(&format!("process {died} died"));
            let index = self.machines.iter().position(|machine| machine.process == died);
            if let Some(index) = index {
                self.restart(index);
            }
            self.check();
        }
        self.check();
    }

    fn log_in(&mut self) {
        let now = true_time(self.executor.now());
        let login = lock(&self.provider).engine.login(LoginOptions::default(), now, &mut self.rng);
        if let Some(refresh) = &login.refresh_token {
            let given = Fingerprint::of(refresh.as_bytes());
            lock(&self.provider).issued.insert(given, self.executor.now());
        }
        let bytes = login.auth_file().to_string().into_bytes();
        self.edit("logs in", Some(bytes));
    }

    fn edit(&mut self, what: &str, bytes: Option<Vec<u8>>) {
        self.outcome.edits += 1;
        self.say(&format!("the operator {what}"));
        if let Some(now) = self.disk.content(Path::new(FILE)) {
            self.old_files.push(now);
            if self.old_files.len() > 6 {
                self.old_files.remove(0);
            }
        }
        if self.rng.random_bool(0.3) && !self.machines.is_empty() {
            let within = self.rng.random_range(0..40);
            self.disk.edit_in_between(within, Path::new(FILE), bytes);
        } else {
            self.disk.edit(Path::new(FILE), bytes);
        }
        self.wake_all();
    }

    fn wake_all(&self) {
        for machine in &self.machines {
            let _ = machine.wake.unbounded_send(Wake::FileChanged);
        }
    }

    /// Some hours of faults that the seed draws.
    fn storm(&mut self) {
        let mut share =
            |most: u32| if self.rng.random_bool(0.5) { self.rng.random_range(0..=most) } else { 0 };
        let weather = Weather {
            lost_request: share(150),
            lost_answer: share(60),
            not_sent: share(150),
            late: share(150),
            unavailable: share(200),
            spent_then_5xx: share(60),
            throttled: share(150),
        };
        lock(&self.provider).weather = weather;
        for _ in 0..self.rng.random_range(1..8) {
            self.mischief();
            let secs = self.rng.random_range(1..4 * 3600);
            self.run_for(Duration::from_secs(secs));
            if !self.outcome.violations.is_empty() {
                return;
            }
        }
        lock(&self.provider).weather = Weather::default();
        self.disk.set_full(false);
    }

    /// One misfortune.
    fn mischief(&mut self) {
        let machine = self.rng.random_range(0..self.machines.len());
        let process = self.machines[machine].process;
        match self.rng.random_range(0..14) {
            0 | 1 => self.executor.doom(process, self.rng.random_range(0..60)),
            2..=4 => {
                let within = self.rng.random_range(0..60);
                self.disk.doom(process, within);
                self.say("a process is to die within a disk operation");
                self.force(machine);
            }
            5 => self.power_loss(),
            6 => {
                self.outcome.full_disks += 1;
                self.say("the disk is full");
                self.disk.set_full(true);
                self.force(machine);
            }
            7 => {
                self.outcome.clock_jumps += 1;
                let secs = self.rng.random_range(-7_200..7_200);
                self.say("a wall clock jumps");
                *lock(&self.machines[machine].skew) = secs;
            }
            8 => self.log_in(),
            9 if !self.old_files.is_empty() => {
                let index = self.rng.random_range(0..self.old_files.len());
                let bytes = self.old_files[index].clone();
                self.edit("puts an older file back", Some(bytes));
            }
            10 => {
                let content = self.disk.content(Path::new(FILE));
                self.edit("takes the file away", None);
                let secs = self.rng.random_range(1..3_600);
                self.run_for(Duration::from_secs(secs));
                if self.rng.random_bool(0.7) {
                    self.edit("puts it back", content);
                }
            }
            11 => self.edit("writes garbage", Some(b"{\"claudeAiOauth\": {\"acc".to_vec())),
            12 => {
                self.outcome.revocations += 1;
                self.say("the provider revokes the login");
                let now = true_time(self.executor.now());
                lock(&self.provider).engine.revoke_all(now);
            }
            _ => self.force(machine),
        }
    }

    fn force(&mut self, machine: usize) {
        self.say("an exchange is forced");
        let (keeper, executor) = (self.machines[machine].keeper.clone(), self.executor.clone());
        executor.spawn(self.machines[machine].process, async move {
            keeper.look(evergrant_core::keeper::Look::Forced).await;
        });
    }

    fn power_loss(&mut self) {
        self.outcome.power_losses += 1;
        self.say("the power goes");
        // In the middle of something, most of the time.
        let machine = self.rng.random_range(0..self.machines.len());
        self.force(machine);
        let millis = self.rng.random_range(0..1_500);
        self.run_for(Duration::from_millis(millis));
        for index in 0..self.machines.len() {
            self.executor.kill(self.machines[index].process);
        }
        self.disk.power_loss();
        for index in 0..self.machines.len() {
            // The state's database is as durable as its last acknowledged commit; memory stands in for it.
            self.restart(index);
        }
    }

    /// Good weather, until the chain is well; if it cannot be, that must have a reason.
    fn calm(&mut self) {
        for machine in &self.machines {
            *lock(&machine.skew) = 0;
        }
        self.run_for(HEAL);
        if !self.outcome.violations.is_empty() {
            return;
        }
        let report = self.machines.first().and_then(|machine| machine.keeper.last_report());
        let error = report.as_ref().and_then(|report| report.error);
        let well = report.as_ref().is_some_and(|report| report.ok) && self.vault_lives();
        if !well {
            self.judge_end(error, report);
        }
        if !well || self.rng.random_bool(0.1) {
            self.log_in();
            self.run_for(Duration::from_secs(60));
        }
    }

    fn vault_grant(&self) -> Option<evergrant_core::grant::Grant> {
        match authfile::read(&self.disk.content(Path::new(FILE))?, &profile()) {
            Reading::Grant(grant) => Some(grant),
            Reading::Wiped | Reading::Malformed(_) => None,
        }
    }

    fn vault_lives(&self) -> bool {
        let now = true_time(self.executor.now());
        let refresh = self.vault_grant().and_then(|grant| grant.refresh);
        refresh.is_some_and(|refresh| lock(&self.provider).engine.family_lives(refresh.expose(), now))
    }

    /// A chain that is not well after the faults ended: only for a reason that is nobody's fault here.
    fn judge_end(&mut self, error: Option<Reason>, report: Option<Report>) {
        let presented = lock(&self.provider).presented.clone();
        let undelivered = presented.iter().rev().take(50).any(|one| one.rotated && !one.delivered);
        match error {
            // The operator's or the provider's doing.
            Some(Reason::TokenAbsent | Reason::AuthFileMalformed | Reason::GrantSpent) => {}
            Some(Reason::RefreshTokenRevoked | Reason::GrantExpired) => {
                let said_so = presented.iter().rev().take(50).any(|one| one.refused);
                if !said_so {
                    self.violation("I6: called revoked, but the provider never said so".into());
                }
                if undelivered {
                    self.outcome.undelivered += 1;
                }
            }
            Some(_) | None => {
                let mut what =
                    format!("L1 to L3: not well {} h after the faults ended: ", HEAL.as_secs() / 3600);
                let _ = write!(what, "{report:?}");
                self.violation(what);
            }
        }
    }

    /// I9: only an edit from outside begins a lineage.
    fn check_lineage(&mut self) {
        if let Some(refresh) = self.vault_grant().and_then(|grant| grant.refresh) {
            self.held.insert(refresh.fingerprint());
        }
        let record = self.disk.content(&PathBuf::from(format!("{FILE}.evergrant/chain.json")));
        let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let edits = self.outcome.edits;
        if let Some(record) = record.filter(|record| record.lineage.0 > edits) {
            self.violation(format!("I9: lineage {} after {edits} edits from outside", record.lineage));
        }
    }

    /// What must hold at every moment.
    fn check(&mut self) {
        self.check_lineage();
        let presented = {
            let provider = lock(&self.provider);
            provider.presented[self.judged..].to_vec()
        };
        self.judged += presented.len();
        for one in presented {
            self.say(&format!("presented {} rotated {} refused {}", one.token, one.rotated, one.refused));
            if one.reused && self.was_delivered(one.token) {
                self.violation(format!(
                    "I5: {} was presented though its successor had been delivered",
                    one.token
                ));
            }
            if one.reused && self.too_early(&one) {
                self.violation(format!(
                    "I5: {} was in doubt, and was presented long before its end",
                    one.token
                ));
            }
            if one.rotated && one.delivered {
                self.spent.insert(one.token);
            }
        }
        for index in 0..self.machines.len() {
            let chain: ChainName = self.machines[index].keeper.chain().clone();
            let current = self.machines[index].snapshots.current(&chain).map(|current| current.position);
            let seen = self.machines[index].seen;
            if current < seen {
                self.violation(format!("I3: readers saw {seen:?}, and then {current:?}"));
            }
            self.machines[index].seen = current;
        }
        if lock(&self.provider).presented.len() > 20_000 {
            let mut provider = lock(&self.provider);
            let surplus = provider.presented.len() - 10_000;
            provider.presented.drain(..surplus);
            self.judged = self.judged.saturating_sub(surplus);
        }
    }

    /// At a strict provider a pair in doubt is presented again in the last ten minutes of its access token only;
    /// a wall clock that is off, or an operator who put the pair back, may shift that.
    fn too_early(&self, one: &Presentation) -> bool {
        let issued = lock(&self.provider).issued.get(&one.token).copied();
        let end = issued.map(|issued| issued + Duration::from_secs(LIFE_SECS));
        let clocks_right = self.machines.iter().all(|machine| *lock(&machine.skew) == 0);
        clocks_right && end.is_some_and(|end| one.at + Duration::from_secs(660) < end)
    }

    /// Whether a presentation of this token had made the provider spend it, and the vault has held its successor:
    /// then nobody may present it again, whatever an operator puts back.
    fn was_delivered(&self, token: Fingerprint) -> bool {
        let next = lock(&self.provider).successors.get(&token).copied();
        self.spent.contains(&token) && next.is_some_and(|next| self.held.contains(&next))
    }

    fn finish(mut self) -> Outcome {
        self.outcome.simulated = self.executor.now();
        self.outcome.disk = self.disk.faults();
        let provider = lock(&self.provider);
        self.outcome.net = provider.faults;
        self.outcome.rotations = provider.engine.counters().rotations;
        drop(provider);
        self.outcome
    }
}

fn profile() -> Profile {
    let settings = Settings::default();
    let url = |path: &str| format!("http://127.0.0.1:1{path}").parse().expect("it is a URL");
    Profile {
        token_url: url(&settings.token_path),
        access_prefix: Some(settings.access_prefix),
        refresh_prefix: Some(settings.refresh_prefix),
        ..Profile::claude()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twelve_seeds_hold_and_repeat_themselves() {
        for seed in 0..12 {
            let outcome = run(seed, 6, 2);
            assert!(
                outcome.violations.is_empty(),
                "seed {seed}: {:#?}\n{:#?}",
                outcome.violations,
                outcome.trace
            );
        }
        assert_eq!(run(3, 6, 2).hash, run(3, 6, 2).hash, "the same seed gives the same trace");
    }
}
