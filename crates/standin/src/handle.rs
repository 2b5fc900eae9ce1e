//! The door to a running stand-in from within the process: the engine behind a lock, with the real clock (plus an
//! offset that tests move) and a source of randomness.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::call::Call;
use crate::engine::{Arrival, Engine, State};
use crate::fault::{Fault, FaultTarget, Rule};
use crate::gate::Gate;
use crate::grants::AccessState;
use crate::log::{Counters, Exchange, Sighting};
use crate::login::{Login, LoginOptions};
use crate::reply::Reply;
use crate::settings::{Settings, SettingsError};

/// A running stand-in's engine. Cheap to clone; every clone is the same engine.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    offset_millis: AtomicI64,
    streams_begun: AtomicU64,
    streams_dropped: AtomicU64,
    gate: Gate,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    rng: StdRng,
}

/// What clients did with streamed answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Streams that were begun.
    pub begun: u64,
    /// Those of them whose client went away before their end.
    pub dropped: u64,
}

impl Handle {
    /// A stand-in without a socket.
    pub fn new(settings: Settings) -> Self {
        let rng = settings.seed.map_or_else(rand::make_rng, StdRng::seed_from_u64);
        Self(Arc::new(Shared {
            inner: Mutex::new(Inner { engine: Engine::new(settings), rng }),
            offset_millis: AtomicI64::new(0),
            streams_begun: AtomicU64::new(0),
            streams_dropped: AtomicU64::new(0),
            gate: Gate::open(),
        }))
    }

    /// The stand-in's time: the machine's, plus the offset.
    pub fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "the stand-in's own door to the real clock")]
        let real = Timestamp::now();
        let offset = SignedDuration::from_millis(self.0.offset_millis.load(Ordering::Relaxed));
        real.checked_add(offset).unwrap_or(real)
    }

    /// Moves the stand-in's time by so much, and says the whole offset.
    pub fn advance(&self, by: SignedDuration) -> SignedDuration {
        let millis = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        let before = self.0.offset_millis.fetch_add(millis, Ordering::Relaxed);
        SignedDuration::from_millis(before.saturating_add(millis))
    }

    /// The engine's lock held for `use_it`.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Engine) -> T) -> T {
        use_it(&mut self.lock().engine)
    }

    /// A person's login.
    pub fn login(&self, options: LoginOptions) -> Login {
        let now = self.now();
        let Inner { engine, rng } = &mut *self.lock();
        engine.login(options, now, rng)
    }

    /// Revokes the family of `token`; says whether it lived.
    pub fn revoke(&self, token: &str) -> bool {
        let now = self.now();
        self.with(|engine| engine.revoke(token, now))
    }

    /// Revokes every family; says how many lived.
    pub fn revoke_all(&self) -> u64 {
        let now = self.now();
        self.with(|engine| engine.revoke_all(now))
    }

    /// `fault` for the next `times` requests at `target`.
    pub fn push_fault(&self, target: FaultTarget, fault: Fault, times: u32) {
        self.with(|engine| engine.push_fault(target, fault, times));
    }

    /// Puts a rule at the end of the queue of faults.
    pub fn push_rule(&self, rule: Rule) {
        self.with(|engine| engine.push_rule(rule));
    }

    /// Empties the queue of faults.
    pub fn clear_faults(&self) {
        self.with(Engine::clear_faults);
    }

    /// The settings as they are.
    pub fn settings(&self) -> Settings {
        self.with(|engine| engine.settings().clone())
    }

    /// Changes the settings; they hold from the next request on.
    pub fn change_settings(&self, change: impl FnOnce(&mut Settings)) {
        self.with(|engine| change(engine.settings_mut()));
    }

    /// Applies a JSON merge patch to the settings.
    pub fn patch_settings(&self, patch: &Value) -> Result<(), SettingsError> {
        self.with(|engine| engine.patch_settings(patch))
    }

    /// The log of exchanges, oldest first.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.with(|engine| engine.exchanges().cloned().collect())
    }

    /// The log of API calls, oldest first.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.with(|engine| engine.sightings().cloned().collect())
    }

    /// Sums since the start.
    pub fn counters(&self) -> Counters {
        self.with(|engine| *engine.counters())
    }

    /// Families and counters.
    pub fn state(&self) -> State {
        let now = self.now();
        self.with(|engine| engine.state(now))
    }

    /// What is known of an access token.
    pub fn access_state(&self, access_token: &str) -> AccessState {
        let now = self.now();
        self.with(|engine| engine.access_state(access_token, now))
    }

    /// What clients did with streamed answers.
    pub fn streams(&self) -> Streams {
        Streams {
            begun: self.0.streams_begun.load(Ordering::Relaxed),
            dropped: self.0.streams_dropped.load(Ordering::Relaxed),
        }
    }

    /// Holds every streamed answer back before its next event.
    pub fn hold_streams(&self) {
        self.0.gate.set(Some(0));
    }

    /// Lets so many events of held streams go, whichever stream has them.
    pub fn let_events_go(&self, events: u64) {
        self.0.gate.let_go(events);
    }

    /// Ends what [`Handle::hold_streams`] began.
    pub fn release_streams(&self) {
        self.0.gate.set(None);
    }

    pub(crate) fn gate(&self) -> Gate {
        self.0.gate.clone()
    }

    /// Answers a call in process, as if it had come over the wire.
    pub fn handle(&self, call: &Call<'_>) -> Reply {
        let now = self.now();
        let Inner { engine, rng } = &mut *self.lock();
        engine.handle(call, now, rng)
    }

    pub(crate) fn answer(&self, call: &Call<'_>, arrival: Arrival) -> Reply {
        let now = self.now();
        let Inner { engine, rng } = &mut *self.lock();
        engine.answer(call, arrival, now, rng)
    }

    pub(crate) fn stream_begun(&self) {
        self.0.streams_begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stream_dropped(&self) {
        self.0.streams_dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
