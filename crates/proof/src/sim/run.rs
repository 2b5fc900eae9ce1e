//! One run: the keepers of one auth file, each a process on a machine of its own clock and state, through a list of
//! steps. After every step of the executor the reference is told what happened.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::authfile::{self, Reading};
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{Look, Policy, Report};
use evergrant_core::secret::Fingerprint;
use evergrant_core::{AccessToken, ChainName, Reason, RefreshToken};
use evergrant_server::metrics::Metrics;
use evergrant_server::{Keeper, Snapshots, Wake, World};
use evergrant_standin::{AccessState, Engine, Settings};
use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{AuthFile, MemoryState};
use futures_channel::mpsc;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use super::Outcome;
use super::disk::{Bytes, SimDisk, When};
use super::executor::{Executor, ProcessId, Ran};
use super::fault::Fault;
use super::lie::Lie;
use super::places::{FILE, RECORD};
use super::provider::{Provider, Weather};
use super::reference::{self, End, Evidence, MARK, Reference, Seen};
use super::schedule::{Setting, Step, What};
use super::world::{FlakyState, PROVIDER, SimWorld, lock, true_time};

/// So many earlier contents of the auth file can be put back.
const OLD_FILES: usize = 6;
/// In good weather a look and an exchange take less.
const MOMENT: Duration = Duration::from_secs(60);

struct Machine {
    process: ProcessId,
    skew: Arc<Mutex<i64>>,
    state: MemoryState,
    snapshots: Snapshots,
    keeper: Keeper<SimWorld>,
    wake: mpsc::UnboundedSender<Wake>,
    seen: Option<Seen>,
}

/// One simulated world.
pub(super) struct Sim {
    setting: Setting,
    lie: Option<Lie>,
    pub(super) executor: Executor,
    pub(super) disk: SimDisk,
    pub(super) provider: Arc<Mutex<Provider>>,
    machines: Vec<Machine>,
    next_process: ProcessId,
    chain: ChainName,
    /// Contents of the auth file, the newest first.
    old_files: VecDeque<Bytes>,
    taken_away: Option<Bytes>,
    marks: u64,
    undelivered: u64,
    /// The process with whose death the power goes.
    dies_with_power: Option<ProcessId>,
    /// The version of the auth file that was judged last, and the one that keepers were woken for.
    judged: u64,
    woken: u64,
}

impl Sim {
    pub(super) fn new(setting: Setting, lie: Option<Lie>) -> Self {
        let mut rng = SmallRng::seed_from_u64(setting.seed);
        let executor = Executor::new(rng.random());
        let mut settings = Settings { log_kept: 4, spent_kept: 4096, ..Settings::default() };
        settings.lives.access_secs = setting.life.as_secs();
        let reference = Reference::new(setting.life);
        let provider = Provider::new(Engine::new(settings), reference, rng.random());
        let mut sim = Self {
            setting,
            lie,
            executor,
            disk: SimDisk::new(rng.random(), lie),
            provider: Arc::new(Mutex::new(provider)),
            machines: Vec::new(),
            next_process: PROVIDER,
            chain: "claude".parse().expect("it is a chain name"),
            old_files: VecDeque::new(),
            taken_away: None,
            marks: 0,
            undelivered: 0,
            dies_with_power: None,
            judged: 0,
            woken: 0,
        };
        sim.log_in(When::Now);
        for _ in 0..setting.keepers {
            let machine = sim.start(Arc::default(), MemoryState::new());
            sim.machines.push(machine);
        }
        sim
    }

    /// Runs the steps, up to the first violation.
    pub(super) fn run(mut self, steps: &[Step]) -> Outcome {
        for step in steps {
            self.step(step);
            if self.is_broken() {
                break;
            }
        }
        let (operations, polls) = (self.disk.operations(), self.executor.polls());
        let mut provider = lock(&self.provider);
        provider.trace.mix(&operations.to_le_bytes());
        provider.trace.mix(&polls.to_le_bytes());
        let mut tally = provider.tally;
        tally.add(&self.disk.tally());
        Outcome {
            simulated: self.executor.now(),
            rotations: provider.engine.counters().rotations,
            operations,
            tally,
            undelivered: self.undelivered,
            hash: provider.trace.hash(),
            violation: provider.violations.first().cloned(),
            trace: provider.trace.lines(),
        }
    }

    fn say(&self, what: fmt::Arguments<'_>) {
        lock(&self.provider).say(self.executor.now(), what);
    }

    fn count(&self, fault: Fault) {
        lock(&self.provider).tally.count(fault);
    }

    fn judge(&self, held: reference::Held) {
        if let Err(violation) = &held {
            self.say(format_args!("VIOLATION {violation}"));
        }
        lock(&self.provider).judge(held);
    }

    fn is_broken(&self) -> bool {
        !lock(&self.provider).violations.is_empty()
    }

    /// A new process on a machine, with the machine's clock and state.
    fn start(&mut self, skew: Arc<Mutex<i64>>, state: MemoryState) -> Machine {
        self.next_process += 1;
        let process = self.next_process;
        let world = SimWorld {
            executor: self.executor.clone(),
            process,
            disk: self.disk.seen_by(process),
            state: FlakyState { inner: state.clone(), provider: self.provider.clone() },
            provider: self.provider.clone(),
            skew_secs: skew.clone(),
            begun: self.executor.now(),
            lie: self.lie,
        };
        let vault = AuthFile::new(world.disk.clone(), FILE.into(), "/state".into(), TakeClientLocks::Never);
        let (snapshots, metrics) = (Snapshots::default(), Metrics::default());
        let policy = Policy { min_exchange_interval: Duration::ZERO, ..Policy::new(crate::profile()) };
        let keeper =
            Keeper::new(world.clone(), self.chain.clone(), policy, true, vault, snapshots.clone(), metrics);
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

    /// Runs for a while; a process that dies is started again at once.
    fn run_for(&mut self, span: Duration) {
        let end = self.executor.now() + span;
        while !self.is_broken() {
            match self.executor.step(end) {
                Ran::Idle => return,
                Ran::Polled(process) => self.observe(process),
                Ran::Died { process, at_await } => {
                    if at_await {
                        self.count(Fault::DeathAtAwait);
                    }
                    self.observe(process);
                    self.say(format_args!("process {process} died"));
                    if self.dies_with_power == Some(process) {
                        self.power_goes();
                        continue;
                    }
                    lock(&self.provider).reference.died(process);
                    self.check_nothing_is_lost();
                    if let Some(index) = self.machines.iter().position(|machine| machine.process == process) {
                        self.restart(index);
                    }
                }
            }
        }
    }

    /// What the last step of the executor changed.
    fn observe(&mut self, process: ProcessId) {
        for news in self.disk.news() {
            let mut provider = lock(&self.provider);
            let what = provider.reference.describe(&news);
            let held = provider.reference.learns(news);
            provider.say(self.executor.now(), format_args!("{what}"));
            drop(provider);
            self.judge(held);
        }
        let dropped = lock(&self.provider).reference.nothing_is_dropped(self.executor.now());
        self.judge(dropped);
        let version = self.disk.file_version();
        if self.judged != version && self.disk.is_settled() {
            self.judged = version;
            let held = lock(&self.provider).reference.file_derives(self.disk.content(FILE));
            self.judge(held);
        }
        if self.woken != version {
            self.woken = version;
            self.wake_all(Wake::FileChanged);
        }
        if let Some(index) = self.machines.iter().position(|machine| machine.process == process) {
            self.read_snapshot(index);
        }
    }

    /// A reader of this machine looks.
    fn read_snapshot(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let Some(mut current) = machine.snapshots.current(&self.chain) else { return };
        if self.lie == Some(Lie::OlderSnapshot) {
            // Whatever the look says that came to its end last.
            let report = machine.keeper.last_report();
            let position = report.and_then(|report| report.lineage.zip(report.generation));
            current.position = position.unwrap_or(current.position);
        }
        if machine.seen == Some(current.position) {
            return;
        }
        let before = machine.seen.replace(current.position);
        let durable = || self.disk.durable_grants();
        let held = {
            let provider = lock(&self.provider);
            provider.reference.reader_goes_on(before, current.position, &current.access, durable)
        };
        self.judge(held);
    }

    fn check_nothing_is_lost(&self) {
        let durable = self.disk.durable_grants();
        let held = {
            let provider = lock(&self.provider);
            let newest = |family| provider.newest(family, self.executor.now());
            provider.reference.nothing_is_lost(&durable, newest)
        };
        self.judge(held);
    }

    fn wake_all(&self, wake: Wake) {
        for machine in &self.machines {
            let _ = machine.wake.unbounded_send(wake);
        }
    }

    fn step(&mut self, step: &Step) {
        self.say(format_args!("-- {:?}", step.what));
        let mut rng = SmallRng::seed_from_u64(step.salt);
        self.executor.reseed(rng.random());
        self.disk.reseed(rng.random());
        lock(&self.provider).rng = SmallRng::seed_from_u64(rng.random());
        match &step.what {
            What::Weather(weather) => lock(&self.provider).weather = *weather,
            What::Force { keeper } => self.force(*keeper),
            What::DieAtAwait { keeper, polls } => {
                self.executor.doom(self.machine(*keeper).process, *polls);
                self.force(*keeper);
            }
            What::DieOnDisk { keeper, operations } => {
                self.disk.doom(self.machine(*keeper).process, *operations);
                self.force(*keeper);
            }
            What::PowerLoss { keeper, after } => self.power_loss(*keeper, *after),
            What::PowerLossOnDisk { keeper, operations } => {
                let process = self.machine(*keeper).process;
                self.disk.doom(process, *operations);
                self.dies_with_power = Some(process);
                self.force(*keeper);
            }
            What::FullDisk { keeper, lasts } => {
                self.count(Fault::FullDisk);
                self.disk.set_full(true);
                self.force(*keeper);
                self.run_for(*lasts);
                self.disk.set_full(false);
            }
            What::ClockJump { keeper, secs } => self.jump(*keeper, *secs),
            What::LogIn(when) => self.log_in(*when),
            What::OlderFile { back, exact, when } => self.put_older(*back, *exact, *when),
            What::TakeAway(when) => {
                self.taken_away = self.disk.content(FILE);
                if self.taken_away.is_some() {
                    self.count(Fault::TakenAway);
                }
                self.edit(*when, None);
            }
            What::PutAgain(when) => {
                if let Some(bytes) = self.taken_away.take() {
                    self.count(Fault::PutAgain);
                    self.edit(*when, Some(bytes.to_vec()));
                }
            }
            What::Garbage(when) => {
                self.count(Fault::Garbage);
                self.edit(*when, Some(b"{\"claudeAiOauth\": {\"acc".to_vec()));
            }
            What::Revoke { told } => self.revoke(*told),
            What::Foreign { when, against } => {
                self.foreign(*when);
                against.iter().for_each(|keeper| self.force(*keeper));
            }
            What::Calm => return self.calm(step.then),
        }
        self.run_for(step.then);
    }

    fn machine(&self, keeper: usize) -> &Machine {
        &self.machines[keeper % self.machines.len()]
    }

    fn force(&self, keeper: usize) {
        let machine = self.machine(keeper);
        let keeper = machine.keeper.clone();
        self.executor.spawn(machine.process, async move {
            keeper.look(Look::Forced).await;
        });
    }

    fn power_loss(&mut self, keeper: usize, after: Duration) {
        // In the middle of something, most of the time.
        self.force(keeper);
        self.run_for(after);
        self.power_goes();
    }

    fn power_goes(&mut self) {
        self.count(Fault::PowerLoss);
        self.dies_with_power = None;
        self.machines.iter().for_each(|machine| self.executor.kill(machine.process));
        self.disk.power_loss();
        self.say(format_args!("the power goes"));
        lock(&self.provider).reference.power_went(self.disk.content(RECORD));
        self.check_nothing_is_lost();
        for index in 0..self.machines.len() {
            // The state's database is as durable as its last acknowledged commit; memory stands in for it.
            self.restart(index);
        }
    }

    fn jump(&self, keeper: usize, secs: i64) {
        self.count(Fault::ClockJump);
        *lock(&self.machine(keeper).skew) = secs;
        lock(&self.provider).reference.jumped(self.executor.now(), true);
    }

    fn revoke(&self, told: bool) {
        let now = true_time(self.executor.now());
        {
            let mut provider = lock(&self.provider);
            if provider.engine.revoke_all(now) > 0 {
                provider.tally.count(Fault::Revocation);
            }
            provider.reference.revoked_all();
        }
        let seen = self.machines.iter().filter_map(|machine| Some((machine, machine.seen?)));
        for (machine, (lineage, generation)) in seen.filter(|_| told) {
            let _ = machine.wake.unbounded_send(Wake::AccessRefused(lineage, generation));
        }
    }

    pub(super) fn log_in(&mut self, when: When) {
        self.count(Fault::Login);
        let mut file = lock(&self.provider).log_in(self.executor.now());
        file[MARK] = self.next_mark();
        self.edit(when, Some(file.to_string().into_bytes()));
    }

    pub(super) fn next_mark(&mut self) -> Value {
        self.marks += 1;
        self.marks.into()
    }

    fn put_older(&mut self, back: usize, exact: bool, when: When) {
        if self.old_files.is_empty() {
            return;
        }
        self.count(Fault::OlderFile);
        let bytes = self.old_files[back % self.old_files.len()].clone();
        let marked = serde_json::from_slice::<Value>(&bytes).ok().filter(|file| !exact && file.is_object());
        let bytes = marked.map_or_else(
            || bytes.to_vec(),
            |mut file| {
                file[MARK] = self.next_mark();
                file.to_string().into_bytes()
            },
        );
        self.edit(when, Some(bytes));
    }

    pub(super) fn edit(&mut self, when: When, bytes: Option<Vec<u8>>) {
        self.remember_file();
        self.disk.edit(when, bytes);
        self.observe(PROVIDER);
    }

    fn remember_file(&mut self) {
        let now = self.disk.content(FILE).filter(|now| self.old_files.front() != Some(now));
        if let Some(now) = now {
            self.old_files.push_front(now);
            self.old_files.truncate(OLD_FILES);
        }
    }

    /// Good weather, until the chain is well; if it cannot be, that must have a reason.
    fn calm(&mut self, span: Duration) {
        for index in 0..self.machines.len() {
            let skew = std::mem::take(&mut *lock(&self.machines[index].skew));
            if skew != 0 {
                lock(&self.provider).reference.jumped(self.executor.now(), false);
            }
        }
        lock(&self.provider).weather = Weather::default();
        self.executor.spare();
        self.disk.spare();
        self.dies_with_power = None;
        self.disk.land_edits();
        self.observe(PROVIDER);
        self.run_for(span.max(self.setting.heal()));
        if !self.is_well() {
            // What is under way in good weather ends at once.
            self.run_for(MOMENT);
        }
        if self.is_broken() {
            return;
        }
        self.remember_file();
        if self.is_well() {
            let evidence = Evidence { record: self.disk.content(RECORD), receipts: self.disk.receipts() };
            let held = lock(&self.provider).reference.nothing_open(&evidence);
            self.judge(held);
        } else {
            self.judge_end();
            self.log_in(When::Now);
            self.run_for(MOMENT);
        }
    }

    fn reports(&self) -> impl Iterator<Item = Report> {
        self.machines.iter().filter_map(|machine| machine.keeper.last_report())
    }

    /// By the stand-in's word, and not only by the keepers': the file holds the newest pair of a login that lives, and
    /// every reader sees an access token that is taken.
    fn is_well(&self) -> bool {
        let Some(grant) = self.grant_in_file() else { return false };
        let (now, provider) = (self.executor.now(), lock(&self.provider));
        let refresh = grant.refresh.as_ref();
        let family = refresh.and_then(|refresh| provider.reference.family_of(refresh.fingerprint()));
        let newest = family.and_then(|family| provider.newest(family, now));
        let lives = |access: &AccessToken| {
            provider.engine.access_state(access.expose(), true_time(now)) == AccessState::Live
        };
        let served = |machine: &Machine| {
            let current = machine.snapshots.current(&self.chain);
            current.is_some_and(|current| current.usable(true_time(now)) && lives(&current.access))
        };
        let says_well = |report: &Report| report.reason == Reason::LeaseHeld || report.ok;
        newest.is_some()
            && newest == refresh.map(RefreshToken::expose)
            && lives(&grant.access)
            && self.machines.iter().all(served)
            && self.reports().all(|report| says_well(&report))
            && self.reports().any(|report| report.reason != Reason::LeaseHeld)
    }

    fn token_in_file(&self) -> Option<Fingerprint> {
        self.grant_in_file()?.refresh.map(|refresh| refresh.fingerprint())
    }

    fn grant_in_file(&self) -> Option<Grant> {
        match authfile::read(&self.disk.content(FILE)?, &crate::profile()) {
            Reading::Grant(grant) => Some(grant),
            Reading::Wiped | Reading::Malformed(_) => None,
        }
    }

    /// A chain that is not well after the faults ended: only for a reason that is nobody's fault here.
    fn judge_end(&mut self) {
        let reports: Vec<_> = self.reports().filter(|report| report.reason != Reason::LeaseHeld).collect();
        let error = reports.iter().find_map(|report| report.error);
        let unwell = |why: &str| {
            let hours = self.setting.heal().as_secs() / 3600;
            let what = format!("not well {hours} h after the faults ended, {why}: {reports:?}");
            Err(reference::Violation { invariant: "L3", what })
        };
        let held = match error {
            // The operator's doing.
            Some(Reason::TokenAbsent) if self.disk.content(FILE).is_none() => Ok(()),
            Some(Reason::AuthFileMalformed) if self.token_in_file().is_none() => Ok(()),
            Some(Reason::GrantSpent) if !self.has_live_pair() => Ok(()),
            Some(Reason::GrantSpent) => unwell("though the newest pair is alive and was kept"),
            Some(Reason::RefreshTokenRevoked) => {
                let token = self.token_in_file().unwrap_or_else(|| Fingerprint::of(b""));
                let cause = lock(&self.provider).reference.cause_of_end(token);
                match cause {
                    Some(End::Meddled) => Ok(()),
                    Some(End::Undelivered) => {
                        self.undelivered += 1;
                        Ok(())
                    }
                    None => unwell("and nothing happened that could have ended the login"),
                }
            }
            Some(_) | None => unwell("and for no reason"),
        };
        self.judge(held);
    }

    fn has_live_pair(&self) -> bool {
        let provider = lock(&self.provider);
        let newest = |family| provider.newest(family, self.executor.now());
        provider.reference.has_live_pair(newest)
    }
}
