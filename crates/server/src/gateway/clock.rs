//! The clocks of the data plane: the door through which they come in.

use std::time::Instant;

use jiff::Timestamp;

/// The clock that nobody sets.
#[expect(clippy::disallowed_methods, reason = "the door through which the monotonic clock comes in")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the door through which the wall clock comes in")]
pub(super) fn wall() -> Timestamp {
    Timestamp::now()
}
