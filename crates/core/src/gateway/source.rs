//! Which source serves a request.

use crate::chain::{Generation, Lineage};
use crate::reason::Reason;

/// Lineage and generation of an access token.
pub type Position = (Lineage, Generation);

/// What served a request (SPEC §1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The chain's access token.
    Oauth,
    /// The chain is an API key: there is no grant behind it.
    ApiKey,
    /// The fallback key.
    Fallback,
    /// Nothing: the answer is our own.
    None,
}

impl Source {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Oauth => "oauth",
            Self::ApiKey => "api_key",
            Self::Fallback => "fallback",
            Self::None => "none",
        }
    }
}

/// Whether the fallback key may serve a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// It may.
    Ready,
    /// There is none.
    Absent,
    /// This caller's requests are not to cost money.
    NotForCaller,
    /// `max_requests_per_day` is used up.
    UsedUp,
}

impl Fallback {
    /// Of a key that is there or not, a caller whom it may serve or not, and a day's number with something left of it
    /// or not.
    pub fn of(there: bool, for_caller: bool, left: bool) -> Self {
        match (there, for_caller, left) {
            (false, _, _) => Self::Absent,
            (true, false, _) => Self::NotForCaller,
            (true, true, false) => Self::UsedUp,
            (true, true, true) => Self::Ready,
        }
    }
}

/// When the fallback key serves (`fallback.on`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallbackOn {
    /// The access token is refused, and renewing it did not help.
    pub unauthorized: bool,
    /// The chain has no live access token.
    pub exhausted: bool,
    /// The grant is throttled. It costs money.
    pub rate_limited: bool,
    /// The grant may not do this. It costs money.
    pub grant_refused: bool,
}

impl Default for FallbackOn {
    fn default() -> Self {
        Self { unauthorized: true, exhausted: true, rate_limited: false, grant_refused: false }
    }
}

/// The source of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The chain's access token of this generation.
    Oauth(Position),
    /// The fallback key.
    Fallback,
    /// None, and why.
    None(Reason),
}

/// Chooses: the live access token, else the fallback key, else nothing.
pub fn choose(live: Option<Position>, fallback: Fallback, on: FallbackOn) -> Choice {
    match (live, fallback) {
        (Some(position), _) => Choice::Oauth(position),
        (None, Fallback::Ready) if on.exhausted => Choice::Fallback,
        (None, Fallback::UsedUp) if on.exhausted => Choice::None(Reason::FallbackUsedUp),
        (None, Fallback::Ready | Fallback::UsedUp | Fallback::Absent | Fallback::NotForCaller) => {
            Choice::None(Reason::NoSource)
        }
    }
}

/// What one more request served by the fallback key comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// It is within the day's number.
    pub allowed: bool,
    /// The share of the day's number, in percent, that is reached with it for the first time: 50 or 90.
    pub reached: Option<u8>,
}

/// One more request after `used` of this day, of `max` (`None`: without end).
pub fn spend(used: u64, max: Option<u64>) -> Spent {
    let Some(max) = max else {
        return Spent { allowed: true, reached: None };
    };
    let first_at = |percent: u64| max.saturating_mul(percent).div_ceil(100).max(1);
    let reached = [90, 50].into_iter().find(|percent| used + 1 == first_at(u64::from(*percent)));
    Spent { allowed: used < max, reached }
}
