//! The limits of one caller: requests a minute by the generic cell rate algorithm, and requests at once.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use evergrant_core::Reason;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// How long a caller waits before it asks again whether a place is free; nobody can know when one will be.
const PLACE_MAY_BE_FREE: Duration = Duration::from_secs(1);

/// Which limit a request is over, and when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// `rate_limited` or `concurrency_limited`.
    pub reason: Reason,
    /// Not earlier than after this.
    pub retry_after: Duration,
}

impl Limit {
    /// For a `retry-after` header: whole seconds, rounded up, at least 1.
    pub fn retry_after_secs(self) -> u64 {
        let whole = self.retry_after.as_secs();
        (whole + u64::from(self.retry_after.subsec_nanos() > 0)).max(1)
    }
}

/// The requests that a caller has in flight.
#[derive(Debug, Default)]
pub(super) struct Flow(AtomicU32);

impl Flow {
    pub(super) fn enter(self: &Arc<Self>, most: Option<NonZeroU32>) -> Result<Permit, Limit> {
        let most = most.map_or(u32::MAX, NonZeroU32::get);
        let next = |in_flight: u32| in_flight.checked_add(1).filter(|next| *next <= most);
        match self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(_) => Ok(Permit(self.clone())),
            Err(_) => Err(Limit { reason: Reason::ConcurrencyLimited, retry_after: PLACE_MAY_BE_FREE }),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

/// A place among a caller's requests in flight; it is given back when this is dropped.
#[derive(Debug)]
#[must_use = "the place is given back when it is dropped"]
pub struct Permit(Arc<Flow>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The latest time that was told, so that the limiter needs no clock of its own.
#[derive(Debug, Clone, Default)]
struct Told(Arc<AtomicU64>);

impl Told {
    fn tell(&self, now: Duration) {
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(nanos, Ordering::AcqRel);
    }
}

impl Clock for Told {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Acquire))
    }
}

/// So many requests a minute, evenly, with as many at once after a pause.
#[derive(Debug)]
pub(super) struct Pace {
    told: Told,
    limiter: RateLimiter<NotKeyed, InMemoryState, Told, NoOpMiddleware<Duration>>,
}

impl Pace {
    pub(super) fn new(per_minute: NonZeroU32) -> Self {
        let told = Told::default();
        let limiter = RateLimiter::direct_with_clock(Quota::per_minute(per_minute), told.clone());
        Self { told, limiter }
    }

    pub(super) fn take(&self, now: Duration) -> Result<(), Limit> {
        self.told.tell(now);
        self.limiter.check().map_err(|until| {
            let retry_after = until.wait_time_from(self.told.now());
            Limit { reason: Reason::RateLimited, retry_after }
        })
    }
}
