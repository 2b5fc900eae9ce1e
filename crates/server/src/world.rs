//! The world of the keeper as an argument, so that the simulator runs the very same code on its own executor,
//! clock, disk, state and provider.

use std::future::Future;
use std::time::Duration;

use evergrant_core::keeper::Answer;
use evergrant_core::provider::TokenRequest;
use evergrant_store::{Disk, State};
use jiff::Timestamp;
use rand::rngs::SmallRng;

use crate::traces::Traces;

/// Everything that the keeper needs and does not decide.
pub trait World: Clone + Send + Sync + 'static {
    /// Where auth files lie.
    type Disk: Disk;
    /// What lies behind them.
    type State: State;

    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// The age of this process by a clock that nobody sets.
    fn monotonic(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send;
    /// Runs a task that nobody cancels, and that a shutdown waits for.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static);
    /// Runs blocking file operations where they block nobody else.
    fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send;
    /// Sends one exchange, once, on a fresh connection, and waits for as long as the answer takes.
    fn exchange(&self, request: TokenRequest) -> impl Future<Output = Answer> + Send;
    /// A generator of its own for each caller.
    fn rng(&self) -> SmallRng;
    /// The state.
    fn state(&self) -> &Self::State;
    /// The name of this machine, for the intent.
    fn machine(&self) -> &str;
    /// Where the spans of exchanges go.
    fn traces(&self) -> Traces {
        Traces::default()
    }
}
