//! The keeper's decisions: when to exchange, what an answer means, what an outcome makes of the chain, and
//! what a look finds in the vault (SPEC §3, §4).

mod answer;
mod backoff;
mod recover;
mod report;
mod row;
mod settle;
mod swap;
mod when;

pub use answer::{Answer, NewTokens, Outcome, Unspent, classify, clock_offset_secs};
pub(crate) use answer::{parse_retry_after, retry_after};
pub use backoff::back_off;
pub use recover::{FileFound, Finding, Found, Receipt, ReceiptState, Staged, recover};
pub use report::Report;
pub use row::{
    FoundRow, HOLD, LEASE, LONGEST_DEADLINE, PAUSE_BOUND, RowFinding, Says, above, as_known, bring_up_from,
    forgotten, quarantine, recover_row, says, wakes_at,
};
pub(crate) use settle::{ASSUMED_LIFE, failed, renew_at, whole_millis};
pub use settle::{begin, commit, committed_grant, doubt, replaces, settle, take_in};
pub use swap::Swap;
pub use when::{Decision, Look, decide, next_look, next_wakeup, send_within};

use std::time::Duration;

use crate::provider::Profile;

/// The settings that the keeper's decisions depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The provider.
    pub profile: Profile,
    /// How long before its end an access token is renewed; at most half of its life counts.
    pub renew_before: Duration,
    /// The least time between a commit and a forced exchange; at most a quarter of the life counts.
    pub min_exchange_interval: Duration,
    /// How long an answer is waited for until the attempt counts as in doubt.
    pub deadline: Duration,
}

impl Policy {
    /// SPEC's defaults: 1 h, 60 s and 30 s.
    pub fn new(profile: Profile) -> Self {
        Self {
            profile,
            renew_before: Duration::from_secs(3600),
            min_exchange_interval: Duration::from_secs(60),
            deadline: Duration::from_secs(30),
        }
    }
}

/// How long a task goes on reading an answer after its deadline: it may hold the only successor.
pub const READ_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How often a foreign lock that we hold is touched, so that its owner's client sees it alive.
pub const CLIENT_LOCK_TOUCH: Duration = Duration::from_secs(5);
/// When a foreign lock that nobody touches counts as left behind.
pub const CLIENT_LOCK_STALE: Duration = Duration::from_secs(60);
/// When a foreign lock that is touched all the time is reported as `lock_foreign`.
pub const CLIENT_LOCK_PATIENCE: Duration = Duration::from_secs(120);
/// The net below every other wake-up.
pub const TICK: Duration = Duration::from_secs(15 * 60);
/// How soon to look again when nobody announces the end of what is waited for: a fault of the vault, or an answer
/// that is still being read.
pub const AGAIN_AFTER_FAULT: Duration = Duration::from_secs(5);
/// How soon to look again after somebody else held the lock.
pub const BUSY_AGAIN: Duration = Duration::from_secs(2);
/// The same while the chain has no live access token: requests wait for it (SPEC §7).
pub const BUSY_WITHOUT_TOKEN_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
