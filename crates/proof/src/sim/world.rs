//! The keeper's world in the simulation: its clock, its disk, a state that loses acknowledgements, and a provider
//! behind a network that loses, delays and repeats nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::keeper::Answer;
use evergrant_core::provider::TokenRequest;
use evergrant_core::secret::Fingerprint;
use evergrant_server::World;
use evergrant_standin::{Call, Engine, Transport};
use evergrant_store::MemoryState;
use evergrant_store::state::{Numbered, State, StateError};
use futures_channel::oneshot;
use jiff::Timestamp;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::disk::SimDisk;
use super::executor::{Executor, ProcessId};

/// The provider's own process never dies.
pub const PROVIDER: ProcessId = 0;
const EPOCH_SECS: i64 = 1_800_000_000;

/// What the network and the provider's answers may suffer, in thousandths of all exchanges.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// The request never reaches the provider, and nobody knows.
    pub lost_request: u32,
    /// The token is spent, and the answer is lost.
    pub lost_answer: u32,
    /// No connection at all.
    pub not_sent: u32,
    /// The answer comes after the deadline.
    pub late: u32,
    /// A 5xx whose token was not spent.
    pub unavailable: u32,
    /// A 5xx whose token was spent.
    pub spent_then_5xx: u32,
    /// A 429.
    pub throttled: u32,
}

/// How often each fault was injected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetFaults {
    /// See [`Weather`].
    pub lost_request: u64,
    /// See [`Weather`].
    pub lost_answer: u64,
    /// See [`Weather`].
    pub not_sent: u64,
    /// See [`Weather`].
    pub late: u64,
    /// See [`Weather`].
    pub unavailable: u64,
    /// See [`Weather`].
    pub spent_then_5xx: u64,
    /// See [`Weather`].
    pub throttled: u64,
    /// State writes whose acknowledgement was lost.
    pub lost_acknowledgement: u64,
}

/// One presentation of a refresh token, for the reference model.
#[derive(Debug, Clone)]
pub struct Presentation {
    /// When it arrived at the provider.
    pub at: Duration,
    /// Which token.
    pub token: Fingerprint,
    /// It made the provider spend the token.
    pub rotated: bool,
    /// The provider said `invalid_grant`.
    pub refused: bool,
    /// It was spent already, and the provider noticed.
    pub reused: bool,
    /// The whole answer reached a process that was alive.
    pub delivered: bool,
}

/// The provider, with everything that was presented to it.
pub struct Provider {
    /// The stand-in.
    pub engine: Engine,
    /// In order of arrival.
    pub presented: Vec<Presentation>,
    /// When each refresh token was given, by its fingerprint.
    pub issued: BTreeMap<Fingerprint, Duration>,
    /// Which refresh token an exchange of another one gave.
    pub successors: BTreeMap<Fingerprint, Fingerprint>,
    /// What the network does.
    pub weather: Weather,
    /// How often it did.
    pub faults: NetFaults,
    rng: SmallRng,
}

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
}

/// Locks, whatever a simulated death left.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provider {
    /// A provider with good weather.
    pub fn new(engine: Engine, seed: u64) -> Self {
        let (weather, faults) = (Weather::default(), NetFaults::default());
        Self {
            engine,
            presented: Vec::new(),
            issued: BTreeMap::new(),
            successors: BTreeMap::new(),
            weather,
            faults,
            rng: SmallRng::seed_from_u64(seed),
        }
    }
}

/// The provider's clock, which is nobody else's.
pub fn true_time(age: Duration) -> Timestamp {
    Timestamp::from_second(EPOCH_SECS).unwrap_or_default() + age
}

/// What becomes of one exchange on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    LostRequest,
    LostAnswer,
    NotSent,
    Late,
    Unavailable,
    SpentThen5xx,
    Throttled,
}

impl Provider {
    fn fate(&mut self) -> Fate {
        let weather = self.weather;
        let mut draw = self.rng.random_range(0..1_000_u32);
        let faults = &mut self.faults;
        for (share, fate, count) in [
            (weather.lost_request, Fate::LostRequest, &mut faults.lost_request),
            (weather.lost_answer, Fate::LostAnswer, &mut faults.lost_answer),
            (weather.not_sent, Fate::NotSent, &mut faults.not_sent),
            (weather.late, Fate::Late, &mut faults.late),
            (weather.unavailable, Fate::Unavailable, &mut faults.unavailable),
            (weather.spent_then_5xx, Fate::SpentThen5xx, &mut faults.spent_then_5xx),
            (weather.throttled, Fate::Throttled, &mut faults.throttled),
        ] {
            if draw < share {
                *count += 1;
                return fate;
            }
            draw -= share;
        }
        Fate::Fine
    }

    /// Processes one request; says its answer and its place in the list.
    fn process(&mut self, request: &TokenRequest, now: Duration) -> (Answer, usize) {
        let headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let target = request.url.path();
        let call = Call { method: "POST", target, headers: &headers, body: request.body.as_bytes() };
        let before = *self.engine.counters();
        let reply = self.engine.handle(&call, true_time(now), &mut self.rng);
        let after = *self.engine.counters();
        let body = String::from_utf8_lossy(&reply.bytes()).into_owned();
        let token = presented_token(request);
        if let Some(next) = member(body.as_bytes(), "refresh_token") {
            self.issued.insert(next, now);
            self.successors.insert(token, next);
        }
        self.presented.push(Presentation {
            at: now,
            token,
            rotated: after.rotations > before.rotations,
            refused: body.contains("invalid_grant"),
            reused: after.reuses > before.reuses,
            delivered: false,
        });
        let complete = reply.transport == Transport::Deliver;
        let retry_after = reply.header("retry-after").map(str::to_owned);
        let answer = Answer::Received { status: reply.status, retry_after, date: None, body, complete };
        (answer, self.presented.len() - 1)
    }
}

fn presented_token(request: &TokenRequest) -> Fingerprint {
    member(request.body.as_bytes(), "refresh_token").unwrap_or_else(|| Fingerprint::of(b""))
}

/// The fingerprint of a token in a JSON body.
fn member(body: &[u8], name: &str) -> Option<Fingerprint> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(Fingerprint::of(body[name].as_str()?.as_bytes()))
}

fn error(status: u16) -> Answer {
    let body = r#"{"type":"error","error":{"type":"overloaded_error"}}"#.into();
    Answer::Received { status, retry_after: None, date: None, body, complete: true }
}

impl SimWorld {
    fn latency(&self, least_millis: u64, most_millis: u64) -> Duration {
        let mut provider = lock(&self.provider);
        Duration::from_millis(provider.rng.random_range(least_millis..=most_millis))
    }
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
        self.executor.pass().await;
        let done = work();
        self.executor.pass().await;
        done
    }

    async fn exchange(&self, request: TokenRequest) -> Answer {
        let fate = lock(&self.provider).fate();
        let lost = || Answer::Lost { why: "the connection was closed".into() };
        self.executor.sleep(self.latency(5, 50)).await;
        match fate {
            Fate::NotSent => return Answer::NotSent { why: "no route".into() },
            Fate::LostRequest => return lost(),
            Fate::Unavailable => return error(503),
            Fate::Throttled => return error(429),
            Fate::Fine | Fate::LostAnswer | Fate::Late | Fate::SpentThen5xx => {}
        }
        let (answered, answer) = oneshot::channel();
        let (provider, executor) = (self.provider.clone(), self.executor.clone());
        let late = fate == Fate::Late;
        let wait = if late { self.latency(31_000, 600_000) } else { self.latency(5, 900) };
        // The provider's work goes on whether or not the asking process lives.
        self.executor.spawn(PROVIDER, async move {
            let (answer, index) = lock(&provider).process(&request, executor.now());
            executor.sleep(wait).await;
            let _ = answered.send((answer, index));
        });
        match (answer.await, fate) {
            (Ok(_), Fate::LostAnswer) | (Err(oneshot::Canceled), _) => lost(),
            (Ok(_), Fate::SpentThen5xx) => {
                let body = "<html>".into();
                Answer::Received { status: 502, retry_after: None, date: None, body, complete: true }
            }
            (Ok((answer, index)), _) => {
                lock(&self.provider).presented[index].delivered = true;
                answer
            }
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
    /// In thousandths.
    pub(super) lost: u32,
}

impl FlakyState {
    fn acknowledged<T>(&self, done: Result<T, StateError>) -> Result<T, StateError> {
        let mut provider = lock(&self.provider);
        if provider.rng.random_range(0..1_000) < self.lost {
            provider.faults.lost_acknowledgement += 1;
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
        replaced: Option<(Fingerprint, Timestamp)>,
        events: &[Event],
    ) -> Result<bool, StateError> {
        // Only the record is kept: the ledger of centuries would fill the memory.
        let done = self.inner.bring_up(record, replaced, &events[..0]).await;
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
    async fn check(&self) -> Result<(), StateError> {
        Ok(())
    }
}
