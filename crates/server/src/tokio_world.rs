//! The real world of the keeper: tokio, the real disk, clocks and network.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evergrant_core::keeper::Answer;
use evergrant_core::provider::TokenRequest;
use evergrant_store::{OsDisk, State};
use jiff::Timestamp;
use rand::rngs::{SmallRng, StdRng};
use rand::{RngExt, SeedableRng};
use tokio::sync::watch;

use crate::http::HttpClient;
use crate::token;
use crate::traces::Traces;
use crate::world::World;

/// The real world, with a state behind it.
#[derive(Debug, Clone)]
pub struct TokioWorld<S> {
    state: S,
    client: HttpClient,
    machine: Arc<str>,
    begun: Instant,
    traces: Traces,
    /// How many tasks run that nobody may cancel.
    running: Arc<watch::Sender<usize>>,
}

impl<S: State> TokioWorld<S> {
    /// The world of this process.
    pub fn new(state: S, client: HttpClient) -> Self {
        let machine = rustix_hostname();
        let running = Arc::new(watch::Sender::new(0));
        Self { state, client, machine, begun: monotonic_now(), traces: Traces::default(), running }
    }

    /// The same world with another client, for a chain whose provider needs its own certificates.
    #[must_use]
    pub fn with_client(&self, client: HttpClient) -> Self {
        Self { client, ..self.clone() }
    }

    /// The same world, whose exchanges are traced.
    #[must_use]
    pub fn with_traces(self, traces: Traces) -> Self {
        Self { traces, ..self }
    }

    /// The client that this world calls with.
    pub fn client(&self) -> &HttpClient {
        &self.client
    }

    /// A generator that is fit for keys, seeded by the system.
    pub fn key_rng(&self) -> StdRng {
        rand::make_rng()
    }

    /// Waits until no task runs that nobody may cancel.
    pub async fn settled(&self) {
        let mut running = self.running.subscribe();
        let _ = running.wait_for(|running| *running == 0).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "the door through which the monotonic clock comes in")]
fn monotonic_now() -> Instant {
    Instant::now()
}

fn rustix_hostname() -> Arc<str> {
    rustix::system::uname().nodename().to_string_lossy().into()
}

impl<S: State> World for TokioWorld<S> {
    type Disk = OsDisk;
    type State = S;

    #[expect(clippy::disallowed_methods, reason = "the door through which the wall clock comes in")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        monotonic_now().duration_since(self.begun)
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.running.send_modify(|running| *running += 1);
        let done = Done(self.running.clone());
        tokio::spawn(async move {
            let _done = done;
            task.await;
        });
    }

    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn exchange(&self, request: TokenRequest) -> Answer {
        token::exchange(&self.client, request).await
    }

    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(rand::rng().random())
    }

    fn state(&self) -> &S {
        &self.state
    }

    fn machine(&self) -> &str {
        &self.machine
    }

    fn traces(&self) -> Traces {
        self.traces.clone()
    }
}

/// Counts its task as done when it is dropped, also by a panic.
struct Done(Arc<watch::Sender<usize>>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}
