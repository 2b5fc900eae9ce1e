//! The keeper's world in the simulation: its clock, its disk, a state that loses acknowledgements, and a provider
//! behind a network that loses, delays and cuts.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::keeper::Answer;
use evergrant_core::provider::TokenRequest;
use evergrant_core::secret::Fingerprint;
use evergrant_server::World;
use evergrant_store::MemoryState;
use evergrant_store::state::{Numbered, State, StateError};
use futures_channel::oneshot;
use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::disk::SimDisk;
use super::executor::{Executor, ProcessId};
use super::fault::Fault;
use super::lie::Lie;
use super::places::RECORD;
use super::provider::{Fate, Presenter, Processed, Provider, error_body};
use super::reference::{Evidence, Told};

/// The provider's own process never dies.
pub const PROVIDER: ProcessId = 0;
/// Another program, which knows nothing of our locks.
pub const FOREIGN: ProcessId = ProcessId::MAX;
const EPOCH_SECS: i64 = 1_800_000_000;

/// The world of one process.
#[derive(Clone)]
pub struct SimWorld {
    pub(super) executor: Executor,
    pub(super) process: ProcessId,
    pub(super) disk: SimDisk,
    pub(super) state: FlakyState,
    pub(super) provider: Arc<Mutex<Provider>>,
    /// How far this machine's wall clock is off, in seconds.
    pub(super) skew_secs: Arc<Mutex<i64>>,
    pub(super) begun: Duration,
    pub(super) lie: Option<Lie>,
}

/// Locks, whatever a simulated death left.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The provider's clock, which is nobody else's.
pub fn true_time(age: Duration) -> Timestamp {
    Timestamp::from_second(EPOCH_SECS).unwrap_or_default() + age
}

/// The refresh token of a request.
pub fn presented_token(request: &TokenRequest) -> Fingerprint {
    let body: Option<serde_json::Value> = serde_json::from_str(&request.body).ok();
    let token = body.as_ref().and_then(|body| body["refresh_token"].as_str());
    Fingerprint::of(token.unwrap_or_default().as_bytes())
}

/// An exchange that a process waits for; it ends with the wait, whatever ends that.
struct Waiting {
    provider: Arc<Mutex<Provider>>,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.provider).reference.ends(self.number);
    }
}

impl SimWorld {
    fn latency(&self, least_millis: u64, most_millis: u64) -> Duration {
        let mut provider = lock(&self.provider);
        Duration::from_millis(provider.rng.random_range(least_millis..=most_millis))
    }

    /// Other tasks run first; at times the whole process sleeps.
    async fn queue(&self) {
        self.executor.pass().await;
        let stall = lock(&self.provider).stall();
        if let Some(stall) = stall {
            self.executor.sleep(stall).await;
        }
    }

    /// Tells the reference that a token is sent, and draws what becomes of it.
    fn sends(&self, token: Fingerprint) -> (Fate, Waiting) {
        let evidence = Evidence { record: self.disk.durable(RECORD), receipts: self.disk.receipts() };
        let now = self.executor.now();
        let mut provider = lock(&self.provider);
        let lives = provider.lives(token, now);
        let held = provider.reference.sends((now, self.now()), self.process, token, &evidence, lives);
        let number = provider.judge(held).unwrap_or_default();
        let fate = provider.fate();
        provider.say(now, format_args!("process {} sends {token}: {fate:?}", self.process));
        (fate, Waiting { provider: self.provider.clone(), number })
    }

    /// What the network makes of an answer, and what that tells about the token.
    fn shape(&self, fate: Fate, token: Fingerprint, processed: Processed) -> Answer {
        let mut provider = lock(&self.provider);
        let Processed { status, retry_after, mut body, next } = processed;
        let mut complete = true;
        let (mut told, mut handed) = match (&next, status) {
            (Some(_), _) => (Told::Committed { kept: false }, next.as_deref()),
            (None, 400..500) if body.contains("invalid_grant") => (Told::Refused { noted: None }, None),
            (None, 400..500) => (Told::Unspent, None),
            (None, _) => (Told::Nothing, None),
        };
        match fate {
            Fate::Cut => {
                let at = provider.rng.random_range(0..body.len().max(1));
                body.truncate(at);
                (complete, told, handed) = (false, Told::Nothing, None);
            }
            Fate::Fine | Fate::Slow | Fate::Late | Fate::Lost | Fate::LostRequest | Fate::NotSent => {}
            Fate::Unavailable | Fate::Bare5xx | Fate::SpentThen5xx | Fate::Throttled | Fate::Blocked => {}
        }
        provider.reference.told(token, told);
        if let Some(next) = handed {
            provider.reference.hands_over(self.executor.now(), self.process, token, next);
        }
        Answer::Received { status, retry_after, date: None, body, complete }
    }

    /// An answer that comes from somewhere before the provider.
    fn before_provider(&self, fate: Fate, token: Fingerprint) -> Option<Answer> {
        let mut provider = lock(&self.provider);
        let own_error = |status| received(status, None, error_body());
        let (answer, told) = match fate {
            Fate::NotSent => (Answer::NotSent { why: "no route".into() }, Told::Unspent),
            Fate::LostRequest => (lost(), Told::Nothing),
            Fate::Unavailable => (own_error([503, 529][provider.rng.random_range(0..2)]), Told::Unspent),
            Fate::Bare5xx => (received(bare(&mut provider), None, "<html>".into()), Told::Nothing),
            Fate::Throttled => {
                let secs = provider.rng.random_range(0..240_u32);
                let asks = provider.rng.random_bool(0.5).then(|| secs.to_string());
                (received(429, asks, error_body()), Told::Unspent)
            }
            Fate::Blocked => (received(403, None, "<html>".into()), Told::Unspent),
            Fate::Fine | Fate::Slow | Fate::Late | Fate::Lost | Fate::Cut | Fate::SpentThen5xx => {
                return None;
            }
        };
        provider.befell(fate, false);
        provider.reference.told(token, told);
        Some(answer)
    }

    async fn exchange_honestly(&self, request: TokenRequest) -> Answer {
        let token = presented_token(&request);
        let (fate, _waiting) = self.sends(token);
        let way = self.latency(5, 50);
        self.executor.sleep(way).await;
        if let Some(answer) = self.before_provider(fate, token) {
            return answer;
        }
        let (answered, answer) = oneshot::channel();
        let (provider, executor) = (self.provider.clone(), self.executor.clone());
        let wait = match fate {
            Fate::Late => self.latency(31_000, 1_000_000),
            Fate::Slow => self.latency(5_000, 29_000),
            Fate::Fine | Fate::Lost | Fate::Cut | Fate::SpentThen5xx => self.latency(5, 900),
            Fate::LostRequest | Fate::NotSent | Fate::Unavailable => Duration::ZERO,
            Fate::Bare5xx | Fate::Throttled | Fate::Blocked => Duration::ZERO,
        };
        // The provider's work goes on whether or not the asking process lives.
        self.executor.spawn(PROVIDER, async move {
            let processed = lock(&provider).process(&request, Presenter::Keeper, executor.now());
            executor.sleep(wait).await;
            let _ = answered.send(processed);
        });
        let answer = answer.await;
        let spent = answer.as_ref().is_ok_and(|processed| processed.next.is_some());
        lock(&self.provider).befell(fate, spent);
        match (answer, fate) {
            (Ok(_), Fate::Lost) | (Err(oneshot::Canceled), _) => lost(),
            (Ok(_), Fate::SpentThen5xx) => {
                let status = bare(&mut lock(&self.provider));
                received(status, None, "<html>".into())
            }
            (Ok(processed), _) => self.shape(fate, token, processed),
        }
    }
}

pub(crate) fn lost() -> Answer {
    Answer::Lost { why: "the connection was closed".into() }
}

pub(crate) fn received(status: u16, retry_after: Option<String>, body: String) -> Answer {
    Answer::Received { status, retry_after, date: None, body, complete: true }
}

fn bare(provider: &mut Provider) -> u16 {
    [500, 502, 504, 408][provider.rng.random_range(0..4)]
}

impl World for SimWorld {
    type Disk = SimDisk;
    type State = FlakyState;

    fn now(&self) -> Timestamp {
        true_time(self.executor.now()) + jiff::SignedDuration::from_secs(*lock(&self.skew_secs))
    }

    fn monotonic(&self) -> Duration {
        self.executor.now().saturating_sub(self.begun)
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        self.executor.sleep(duration)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(self.process, task);
    }

    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.queue().await;
        let done = work();
        self.queue().await;
        done
    }

    async fn exchange(&self, request: TokenRequest) -> Answer {
        let answer = self.exchange_honestly(request).await;
        match (self.lie, &answer) {
            (Some(Lie::DoubtAsFailed), Answer::Lost { why }) => Answer::NotSent { why: why.clone() },
            (Some(Lie::ServerErrorAsUnspent), Answer::Received { status: 500.., .. }) => {
                received(503, None, error_body())
            }
            (_, _) => answer,
        }
    }

    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(lock(&self.provider).rng.random())
    }

    fn state(&self) -> &FlakyState {
        &self.state
    }

    fn machine(&self) -> &str {
        "simulated"
    }
}

/// A state whose acknowledgement is lost at times: the write happened, and nobody was told.
#[derive(Clone)]
pub struct FlakyState {
    pub(super) inner: MemoryState,
    pub(super) provider: Arc<Mutex<Provider>>,
}

/// Acknowledgements that are lost, in thousandths.
const LOST_ACKNOWLEDGEMENTS: u32 = 20;

impl FlakyState {
    fn acknowledged<T>(&self, done: Result<T, StateError>) -> Result<T, StateError> {
        let mut provider = lock(&self.provider);
        if provider.rng.random_range(0..1_000) < LOST_ACKNOWLEDGEMENTS {
            provider.tally.count(Fault::LostAcknowledgement);
            return Err(StateError::Closed);
        }
        done
    }
}

impl State for FlakyState {
    async fn record(&self, chain: &ChainName) -> Result<Option<Record>, StateError> {
        self.inner.record(chain).await
    }
    async fn bring_up(
        &self,
        record: &Record,
        _replaced: Option<(Fingerprint, Timestamp)>,
        events: &[Event],
    ) -> Result<bool, StateError> {
        // Only the record is kept: the ledger of centuries would fill the memory.
        let done = self.inner.bring_up(record, None, &events[..0]).await;
        self.acknowledged(done)
    }
    async fn add_events(&self, _events: &[Event]) -> Result<(), StateError> {
        Ok(())
    }
    async fn events(&self, chain: &ChainName, after: u64, most: usize) -> Result<Vec<Numbered>, StateError> {
        self.inner.events(chain, after, most).await
    }
    async fn latest_events(&self, chain: &ChainName, most: usize) -> Result<Vec<Numbered>, StateError> {
        self.inner.latest_events(chain, most).await
    }
    async fn was_replaced(&self, chain: &ChainName, fingerprint: Fingerprint) -> Result<bool, StateError> {
        self.inner.was_replaced(chain, fingerprint).await
    }
    async fn prune(&self, events_before: Timestamp, replaced_before: Timestamp) -> Result<u64, StateError> {
        self.inner.prune(events_before, replaced_before).await
    }
    async fn add_caller(&self, caller: &Caller, who: &Actor) -> Result<bool, StateError> {
        self.inner.add_caller(caller, who).await
    }
    async fn callers(&self) -> Result<Vec<Caller>, StateError> {
        self.inner.callers().await
    }
    async fn revoke_caller(
        &self,
        id: &KeyId,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Caller>, StateError> {
        self.inner.revoke_caller(id, at, who).await
    }
    async fn replace_caller(&self, old: &Caller, new: &Caller, who: &Actor) -> Result<bool, StateError> {
        self.inner.replace_caller(old, new, who).await
    }
    async fn callers_version(&self) -> Result<i64, StateError> {
        self.inner.callers_version().await
    }
    async fn audit(&self, most: usize) -> Result<Vec<AuditEntry>, StateError> {
        self.inner.audit(most).await
    }
    async fn add_fallback_uses(&self, chain: &ChainName, day: i32, uses: u64) -> Result<u64, StateError> {
        self.inner.add_fallback_uses(chain, day, uses).await
    }
    async fn check(&self) -> Result<(), StateError> {
        Ok(())
    }
}
