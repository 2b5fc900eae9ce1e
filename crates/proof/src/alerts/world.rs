//! The world of the simulated monitors and alerters: a state that yields and loses acknowledgements, chains that
//! stand as the seed says, and a sink with moods.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evergrant_core::alert::{
    Acknowledgement, Action, Alert, Book, BookChange, Condition, Delivery, Episode, EpisodeId, Outcome,
    Settled, SinkState,
};
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::{Generation, Kind, Lineage, Record};
use evergrant_core::event::Event;
use evergrant_core::gateway::Source;
use evergrant_core::health::{
    AgentSeen, Expected, FallbackFacts, Outcome as Meaning, PushFacts, PushSeen, Serving, Span,
};
use evergrant_core::keeper::{Answer, Report};
use evergrant_core::provider::TokenRequest;
use evergrant_core::push::{Identity, PushKind};
use evergrant_core::secret::Fingerprint;
use evergrant_core::{ChainName, Reason};
use evergrant_server::World;
use evergrant_server::alert::Deliver;
use evergrant_server::health::{Described, Live, Watched};
use evergrant_store::state::{Numbered, State, StateError};
use evergrant_store::{HealthState, MemoryState, OsDisk};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::sim::executor::{Executor, ProcessId};

const EPOCH_SECS: i64 = 1_800_000_000;

/// A way in which the state may lie, to see that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Episodes are written without their alerts.
    NoAlerts,
    /// A delivery that was made is not written down.
    NoReceipt,
}

/// Locks, whatever a simulated death left.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The world of one process.
#[derive(Clone)]
pub(super) struct AlertWorld {
    executor: Executor,
    process: ProcessId,
    state: Shaky,
}

impl AlertWorld {
    pub(super) fn new(executor: &Executor, process: ProcessId, state: Shaky) -> Self {
        Self { executor: executor.clone(), process, state }
    }
}

impl World for AlertWorld {
    /// Nothing here touches a disk.
    type Disk = OsDisk;
    type State = Shaky;

    fn now(&self) -> Timestamp {
        wall_clock(&self.executor)
    }
    fn monotonic(&self) -> Duration {
        self.executor.now()
    }
    async fn sleep(&self, duration: Duration) {
        self.executor.sleep(duration).await;
    }
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(self.process, task);
    }
    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }
    async fn exchange(&self, _request: TokenRequest) -> Answer {
        Answer::NotSent { why: "nothing here renews".into() }
    }
    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(0)
    }
    fn state(&self) -> &Shaky {
        &self.state
    }
    fn machine(&self) -> &str {
        "simulated"
    }
}

fn wall_clock(executor: &Executor) -> Timestamp {
    Timestamp::from_second(EPOCH_SECS).unwrap_or_default() + executor.now()
}

/// A state in memory that lets others run around each verb: a process may die there, with its verb done or not.
/// What became of a delivery it does not take at times, or takes and does not say so.
#[derive(Clone)]
pub(super) struct Shaky {
    executor: Executor,
    inner: MemoryState,
    lie: Option<Lie>,
    sink: Arc<Sink>,
}

impl Shaky {
    pub(super) fn new(executor: &Executor, inner: &MemoryState, lie: Option<Lie>, sink: &Arc<Sink>) -> Self {
        Self { executor: executor.clone(), inner: inner.clone(), lie, sink: sink.clone() }
    }
}

macro_rules! verbs {
    ($($name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty;)+) => {
        $(async fn $name(&self, $($argument: $type),*) -> Result<$result, StateError> {
            self.executor.pass().await;
            let done = self.inner.$name($($argument),*).await;
            self.executor.pass().await;
            done
        })+
    };
}

impl State for Shaky {
    verbs! {
        record(chain: &ChainName) -> Option<Record>;
        bring_up(record: &Record, replaced: Option<(Fingerprint, Timestamp)>, events: &[Event]) -> bool;
        add_events(events: &[Event]) -> ();
        events(chain: &ChainName, after: u64, most: usize) -> Vec<Numbered>;
        latest_events(chain: &ChainName, most: usize) -> Vec<Numbered>;
        was_replaced(chain: &ChainName, fingerprint: Fingerprint) -> bool;
        prune(events_before: Timestamp, replaced_before: Timestamp) -> u64;
        add_caller(caller: &Caller, who: &Actor) -> bool;
        callers() -> Vec<Caller>;
        revoke_caller(id: &KeyId, at: Timestamp, who: &Actor) -> Option<Caller>;
        replace_caller(old: &Caller, new: &Caller, who: &Actor) -> bool;
        callers_version() -> i64;
        audit(most: usize) -> Vec<AuditEntry>;
        add_fallback_uses(chain: &ChainName, day: i32, uses: u64) -> u64;
        check() -> ();
    }
}

impl HealthState for Shaky {
    verbs! {
        tracked_since(chain: &ChainName, now: Timestamp) -> Timestamp;
        take_nonce(chain: &ChainName, nonce: &str, now: Timestamp) -> bool;
        add_push(seen: &PushSeen, event: &Event, identity: Option<&Identity>) -> ();
        push_facts(chain: &ChainName) -> PushFacts;
        identity(chain: &ChainName) -> Option<Identity>;
        keep_identity(chain: &ChainName, identity: &Identity) -> ();
        listen(now: Timestamp, pause: SignedDuration) -> ();
        listened() -> Vec<Span>;
        book(chains: &[ChainName], now: Timestamp) -> Book;
        episodes(chain: Option<&ChainName>, most: usize) -> Vec<Episode>;
        open_episodes(chain: Option<&ChainName>) -> Vec<Episode>;
        acknowledge(id: &EpisodeId, acknowledgement: Option<&Acknowledgement>, at: Timestamp, who: &Actor)
            -> Option<Episode>;
        mute(chain: &ChainName, until: Timestamp, at: Timestamp, who: &Actor) -> ();
        claim_delivery(sink: &str, holder: &str, now: Timestamp, lease: Duration) -> Option<Delivery>;
        sink_states() -> Vec<SinkState>;
        add_audit(entry: &AuditEntry) -> ();
    }

    async fn keep_book(&self, version: i64, change: &BookChange) -> Result<bool, StateError> {
        self.executor.pass().await;
        let bare = BookChange { alerts: Vec::new(), ..change.clone() };
        let change = if self.lie == Some(Lie::NoAlerts) { &bare } else { change };
        let done = self.inner.keep_book(version, change).await;
        self.executor.pass().await;
        done
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        holder: &str,
        settled: &Settled,
        now: Timestamp,
    ) -> Result<(), StateError> {
        self.executor.pass().await;
        let again = Settled::Again { at: now, detail: "forgotten".into() };
        let forgets =
            self.lie == Some(Lie::NoReceipt) && delivery.seq.is_multiple_of(7) && delivery.attempts == 0;
        let settled = if forgets { &again } else { settled };
        let (taken, said) = self.sink.state_fails();
        if taken {
            self.inner.settle_delivery(delivery, holder, settled, now).await?;
            self.sink.written_down(holder);
        }
        if said { Ok(()) } else { Err(StateError::Closed) }
    }
}

/// What is true of the chains, and since when.
pub(super) struct Truth {
    executor: Executor,
    chains: Vec<Chain>,
}

struct Chain {
    name: ChainName,
    error: Option<Reason>,
    source: Source,
    since: Duration,
    /// The agent beats, fails or is silent, until then.
    agent: Mood,
    until: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Beats,
    Fails,
    Silent,
}

impl Truth {
    pub(super) fn new(executor: &Executor) -> Self {
        let chain = |name: &str| Chain {
            name: name.parse().expect("it is a chain's name"),
            error: None,
            source: Source::Oauth,
            since: Duration::ZERO,
            agent: Mood::Beats,
            until: Duration::ZERO,
        };
        Self { executor: executor.clone(), chains: ["one", "two"].map(chain).into() }
    }

    pub(super) fn chains(&self) -> impl Iterator<Item = &ChainName> {
        self.chains.iter().map(|chain| &chain.name)
    }

    /// Things change now and then.
    pub(super) fn drift(&mut self, rng: &mut SmallRng, now: Duration) {
        for chain in &mut self.chains {
            let odds = if chain.error.is_some() { 0.02 } else { 0.002 };
            if rng.random_bool(odds) {
                let errors = [Reason::RefreshTokenRevoked, Reason::ProviderBlocked, Reason::VaultUnwritable];
                chain.error = chain.error.is_none().then(|| errors[rng.random_range(0..errors.len())]);
                let sources = [Source::Oauth, Source::Fallback, Source::None];
                let broken = sources[rng.random_range(0..sources.len())];
                chain.source = if chain.error.is_some() { broken } else { Source::Oauth };
                chain.since = now;
            }
            if chain.until <= now {
                let moods = [Mood::Beats, Mood::Beats, Mood::Fails, Mood::Silent];
                chain.agent = moods[rng.random_range(0..moods.len())];
                chain.until = now + Duration::from_secs(rng.random_range(600..20_000));
            }
        }
    }

    pub(super) fn heal(&mut self, now: Duration) {
        for chain in &mut self.chains {
            let agent = Mood::Beats;
            (chain.error, chain.source, chain.agent, chain.until) =
                (None, Source::Oauth, agent, Duration::MAX);
            chain.since = now;
        }
    }

    /// The conditions that what is true makes true at once: whether each holds, and since when that is so.
    pub(super) fn steady(&self, name: &ChainName) -> Vec<(Condition, bool, Duration)> {
        let Some(chain) = self.chains.iter().find(|chain| chain.name == *name) else { return Vec::new() };
        let of_error = [
            (Condition::ReauthRequired, Reason::RefreshTokenRevoked),
            (Condition::RenewalFailing, Reason::ProviderBlocked),
            (Condition::VaultUnwritable, Reason::VaultUnwritable),
        ];
        let of_source =
            [(Condition::NotServing, Source::None), (Condition::FallbackActive, Source::Fallback)];
        let errors = of_error.into_iter().map(|(condition, error)| (condition, chain.error == Some(error)));
        let sources = of_source.into_iter().map(|(condition, source)| (condition, chain.source == source));
        errors.chain(sources).map(|(condition, holds)| (condition, holds, chain.since)).collect()
    }

    /// What the agents send in this minute.
    pub(super) fn heard(&self, at: Timestamp) -> Vec<(PushSeen, Event)> {
        let minute = self.executor.now().as_secs() / 60;
        let sends = |chain: &&Chain| match chain.agent {
            Mood::Silent => false,
            Mood::Beats | Mood::Fails => minute.is_multiple_of(25),
        };
        self.chains
            .iter()
            .filter(sends)
            .map(|chain| heard(&chain.name, chain.agent == Mood::Fails, at))
            .collect()
    }

    fn live(&self, name: &ChainName) -> Option<Live> {
        let chain = self.chains.iter().find(|chain| chain.name == *name)?;
        let at = wall_clock(&self.executor);
        let report = Report {
            token_present: true,
            token_valid: chain.error.is_none(),
            error: chain.error,
            ..Report::new(name, None, true, (Reason::NotDue, None), at)
        };
        Some(Live {
            kind: Kind::RefreshToken,
            report,
            record: None,
            clock_offset_secs: None,
            serving: Serving { source: chain.source, until: None },
            fallback: FallbackFacts::default(),
        })
    }
}

fn heard(chain: &ChainName, fails: bool, at: Timestamp) -> (PushSeen, Event) {
    let (kind, outcome, reason) = if fails {
        (PushKind::Push, Meaning::Failed, Reason::ProbeUnavailable)
    } else {
        (PushKind::Beat, Meaning::Good, Reason::SameGrant)
    };
    let agent = AgentSeen::new("desk", reason, at);
    let seen = PushSeen { at, kind, outcome, reason, agent };
    let event = seen.event(chain, (Lineage::FIRST, Generation::FIRST));
    (seen, event)
}

/// A chain that stands as the truth says.
#[derive(Clone)]
pub(super) struct Told {
    name: ChainName,
    truth: Arc<Mutex<Truth>>,
}

impl Told {
    pub(super) fn all(truth: &Arc<Mutex<Truth>>) -> Vec<Self> {
        let names: Vec<_> = locked(truth).chains().cloned().collect();
        names.into_iter().map(|name| Self { name, truth: truth.clone() }).collect()
    }
}

impl Described for Told {
    fn chain(&self) -> &ChainName {
        &self.name
    }
    fn provider(&self) -> &str {
        "simulated"
    }
    fn action(&self, _episode: &Episode, _config_dir: Option<&str>) -> Option<Action> {
        None
    }
}

impl Watched for Told {
    fn live(&self, _now: Timestamp) -> Option<Live> {
        locked(&self.truth).live(&self.name)
    }
    fn expected(&self) -> Option<Expected> {
        Some(Expected::Always)
    }
}

/// A sink that is down at times, and slow, so that its sender may die while it takes something.
pub(super) struct Sink {
    executor: Executor,
    inner: Mutex<Moods>,
}

struct Moods {
    rng: SmallRng,
    well: bool,
    got: Vec<Alert>,
    turned_away: u64,
    /// Senders from which it took something that they have not written down yet.
    unwritten: BTreeSet<ProcessId>,
    /// It took something, and its sender did not live to write that down.
    cut_short: u64,
    /// Senders die there at times.
    kills: bool,
}

impl Sink {
    pub(super) fn new(executor: &Executor, seed: u64) -> Self {
        let rng = SmallRng::seed_from_u64(seed ^ 0x51_4b);
        let moods = Moods {
            rng,
            well: true,
            got: Vec::new(),
            turned_away: 0,
            unwritten: BTreeSet::new(),
            cut_short: 0,
            kills: true,
        };
        Self { executor: executor.clone(), inner: Mutex::new(moods) }
    }

    pub(super) fn drift(&self, rng: &mut SmallRng) {
        let moods = &mut *locked(&self.inner);
        if rng.random_bool(if moods.well { 0.002 } else { 0.01 }) {
            moods.well = !moods.well;
        }
    }

    pub(super) fn heal(&self) {
        let moods = &mut *locked(&self.inner);
        (moods.well, moods.kills) = (true, false);
    }

    pub(super) fn got(&self) -> Vec<Alert> {
        locked(&self.inner).got.clone()
    }

    pub(super) fn turned_away(&self) -> u64 {
        locked(&self.inner).turned_away
    }

    pub(super) fn cut_short(&self) -> u64 {
        locked(&self.inner).cut_short
    }

    /// A process died.
    pub(super) fn died(&self, process: ProcessId) {
        let moods = &mut *locked(&self.inner);
        moods.cut_short += u64::from(moods.unwritten.remove(&process));
    }

    /// Whether the state takes what is to be written down now, and whether it says that it did.
    fn state_fails(&self) -> (bool, bool) {
        let rng = &mut locked(&self.inner).rng;
        let taken = rng.random_bool(0.9);
        (taken, taken && rng.random_bool(0.9))
    }

    /// The process of this name wrote down what came of its last delivery.
    fn written_down(&self, holder: &str) {
        locked(&self.inner).unwritten.retain(|process| process.to_string() != holder);
    }
}

/// The sink as one process reaches it.
pub(super) struct Reached {
    pub(super) sink: Arc<Sink>,
    pub(super) process: ProcessId,
}

impl Deliver for Reached {
    async fn deliver(&self, _sink: &str, alert: &Alert) -> Outcome {
        let sink = &self.sink;
        let wait = || Duration::from_millis(locked(&sink.inner).rng.random_range(1..2_000));
        sink.executor.sleep(wait()).await;
        {
            let mut moods = locked(&sink.inner);
            if !moods.well {
                moods.turned_away += 1;
                return Outcome::Unavailable { retry_after: None, detail: "503".into() };
            }
            moods.got.push(alert.clone());
            moods.unwritten.insert(self.process);
            if moods.kills && moods.rng.random_bool(0.05) {
                sink.executor.doom(self.process, 0);
            }
        }
        sink.executor.sleep(wait()).await;
        Outcome::Delivered
    }
}
