//! A world at another time, or at a quicker pace: what takes an hour takes seconds in drills and tests.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::keeper::Answer;
use evergrant_core::provider::TokenRequest;
use jiff::Timestamp;
use rand::rngs::SmallRng;

use crate::traces::Traces;
use crate::world::World;

/// Says what time it is there, of the time here.
type Clock = Arc<dyn Fn(Timestamp) -> Timestamp + Send + Sync>;

/// Another world with another wall clock; its waits pass `pace` times as quickly.
#[derive(Clone)]
pub struct Moved<W> {
    inner: W,
    clock: Clock,
    pace: u32,
}

impl<W: World> Moved<W> {
    /// The world `inner`, where `clock` says what time it is, of the time in `inner`.
    pub fn new(inner: W, pace: u32, clock: impl Fn(Timestamp) -> Timestamp + Send + Sync + 'static) -> Self {
        Self { inner, clock: Arc::new(clock), pace }
    }

    /// The world behind it.
    pub fn inner(&self) -> &W {
        &self.inner
    }
}

impl<W: fmt::Debug> fmt::Debug for Moved<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moved").field("inner", &self.inner).field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl<W: World> World for Moved<W> {
    type Disk = W::Disk;
    type State = W::State;

    fn now(&self) -> Timestamp {
        (self.clock)(self.inner.now())
    }
    fn monotonic(&self) -> Duration {
        self.inner.monotonic() * self.pace
    }
    async fn sleep(&self, duration: Duration) {
        self.inner.sleep(duration / self.pace).await;
    }
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.spawn(task);
    }
    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.inner.offload(work).await
    }
    async fn exchange(&self, request: TokenRequest) -> Answer {
        self.inner.exchange(request).await
    }
    fn rng(&self) -> SmallRng {
        self.inner.rng()
    }
    fn state(&self) -> &W::State {
        self.inner.state()
    }
    fn machine(&self) -> &str {
        self.inner.machine()
    }
    fn traces(&self) -> Traces {
        self.inner.traces()
    }
}
