//! The only door to the clocks.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The wall clock, by which entries are dated and a wake is noticed.
#[expect(clippy::disallowed_methods, reason = "the agent's only door to the wall clock")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// How long something has taken, whatever the wall clock does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "the agent's only door to the monotonic clock")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn passed(self) -> Duration {
        self.0.elapsed()
    }
}
