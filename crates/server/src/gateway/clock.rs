//! The clocks of the data plane: the door through which they come in.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The clock that nobody sets.
#[expect(clippy::disallowed_methods, reason = "the door through which the monotonic clock comes in")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// How long this process had looked at the clock that nobody sets.
pub(super) fn age(now: Instant) -> Duration {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    now.duration_since(*FIRST.get_or_init(|| now))
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the door through which the wall clock comes in")]
pub(super) fn wall() -> Timestamp {
    Timestamp::now()
}
