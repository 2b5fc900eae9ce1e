//! When the keeper exchanges, and when it wakes up next (SPEC §4, "When", "In doubt", "After `invalid_grant`").

use std::time::Duration;

use jiff::Timestamp;

use super::{AGAIN_AFTER_FAULT, BUSY_AGAIN, BUSY_WITHOUT_TOKEN_AGAIN, Policy, Report, TICK};
use crate::chain::{Kind, Record, Standing};
use crate::provider::ReuseClass;
use crate::reason::Reason;

/// Why the keeper looks at a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It woke up, or somebody asked for a look: exchange only what is due.
    Due,
    /// Somebody asked for an exchange.
    Forced,
}

/// What is decided for a pair that nothing is open for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Present it.
    Exchange(Reason),
    /// Leave it.
    Rest {
        /// Why.
        reason: Reason,
        /// What is wrong, if something is.
        error: Option<Reason>,
    },
}

/// How long a refusal of a provider that does not punish reuse waits for its confirmation.
const CONFIRM_AFTER: Duration = Duration::from_secs(60);
/// Two looks are so far apart at least, and so far where the first could not present a pair in doubt.
const LEAST: Duration = Duration::from_millis(50);
const LEAST_IN_DOUBT: Duration = Duration::from_secs(1);
/// A strict provider's pair in doubt is presented again in this last part of the access token's life.
const LAST_CHANCE: Duration = Duration::from_secs(600);

/// Decides whether the pair is presented now.
pub fn decide(record: &Record, policy: &Policy, look: Look, now: Timestamp) -> Decision {
    if record.quarantined.is_some() {
        return Decision::Rest { reason: Reason::Quarantined, error: Some(Reason::Quarantined) };
    }
    if record.kind == Kind::Static {
        let error = record.access_refused.then_some(Reason::RefreshTokenRevoked);
        let ended = (now >= record.expires_at).then_some(Reason::GrantExpired);
        return Decision::Rest { reason: Reason::NothingToRenew, error: error.or(ended) };
    }
    if let (Look::Forced, Standing::Live) = (look, record.standing) {
        return decide_forced(record, policy, now);
    }
    match due_at(record, policy, now) {
        Some((at, reason)) if at <= now => Decision::Exchange(reason),
        Some(_) | None => rest(record),
    }
}

/// When to look at the chain next, at the latest in a tick, and why.
pub fn next_wakeup(record: Option<&Record>, policy: &Policy, now: Timestamp) -> (Timestamp, Reason) {
    let tick = (now + TICK, Reason::Tick);
    // Its answer is still being read: the pair is due, and may not be presented.
    if record.is_some_and(|record| record.intent.is_some()) {
        return (now + AGAIN_AFTER_FAULT, Reason::InDoubt);
    }
    match record.and_then(|record| due_at(record, policy, now)) {
        Some(due) if due.0 < tick.0 => due,
        Some(_) | None => tick,
    }
}

/// When to look next after a look that came to `report`, and why.
pub fn next_look(
    report: &Report,
    record: Option<&Record>,
    policy: &Policy,
    now: Timestamp,
) -> (Timestamp, Reason) {
    if report.reason == Reason::LeaseHeld {
        // What the other one does may bring back what serves.
        let again = if report.token_valid { BUSY_AGAIN } else { BUSY_WITHOUT_TOKEN_AGAIN };
        return (now + again, Reason::LeaseHeld);
    }
    match report.error {
        Some(Reason::TermsNotAccepted) => return (now + TICK, Reason::Tick),
        Some(Reason::VaultUnwritable | Reason::LockForeign) => {
            return (now + AGAIN_AFTER_FAULT, Reason::BackOff);
        }
        Some(_) | None => {}
    }
    // Nothing of the record is due while the vault has no pair to present.
    let stuck =
        matches!(report.error, Some(Reason::TokenAbsent | Reason::AuthFileMalformed | Reason::GrantSpent));
    let (at, reason) = next_wakeup(record.filter(|_| !stuck), policy, now);
    // A pair that is due but was not presented would make the loop spin.
    let least = if report.error == Some(Reason::InDoubt) { LEAST_IN_DOUBT } else { LEAST };
    (at.max(now + least), reason)
}

/// How long after `now` a pair whose intent is open may still be handed to the network: until the deadline, and where
/// it is presented again because the provider grants a grace, no longer than that grace.
pub fn send_within(record: &Record, policy: &Policy, now: Timestamp) -> Duration {
    let Standing::InDoubt { sent_at, presented_again: 1, .. } = record.standing else {
        return policy.deadline;
    };
    let nothing_to_lose = record.access_refused || now >= last_chance(record);
    match policy.profile.reuse {
        ReuseClass::Grace { secs } if !nothing_to_lose => {
            let left = (sent_at + grace(secs)).duration_since(now);
            Duration::try_from(left).unwrap_or_default().min(policy.deadline)
        }
        ReuseClass::Grace { .. } | ReuseClass::Strict | ReuseClass::None => policy.deadline,
    }
}

fn decide_forced(record: &Record, policy: &Policy, now: Timestamp) -> Decision {
    let asked = record.failures.filter(|failures| failures.asked_by_provider && now < failures.not_before);
    if let Some(failures) = asked {
        return Decision::Rest { reason: failures.reason, error: Some(failures.reason) };
    }
    if now < record.stored_at + min_interval(record, policy) && record.made_by.is_some() {
        return Decision::Rest { reason: Reason::TooSoon, error: None };
    }
    Decision::Exchange(Reason::Forced)
}

fn rest(record: &Record) -> Decision {
    let (reason, error) = match (record.standing, record.failures) {
        (Standing::Refused { reason, .. }, _) => (reason, Some(reason)),
        (Standing::InDoubt { .. }, _) => (Reason::InDoubt, Some(Reason::InDoubt)),
        (Standing::Live, Some(failures)) => (failures.reason, Some(failures.reason)),
        (Standing::Live, None) => (Reason::NotDue, None),
    };
    Decision::Rest { reason, error }
}

/// When the pair may be presented, and why then; `None`: not before the vault changes.
pub(super) fn due_at(record: &Record, policy: &Policy, now: Timestamp) -> Option<(Timestamp, Reason)> {
    if record.quarantined.is_some() {
        return None;
    }
    let renew_at = record.renew_at?;
    let not_before = record.failures.map(|failures| failures.not_before);
    let backed_off = |at: Timestamp, reason| match not_before {
        Some(not_before) if not_before > at => (not_before, Reason::BackOff),
        Some(_) | None => (at, reason),
    };
    match record.standing {
        Standing::Live if record.access_refused => {
            let free = match record.made_by {
                Some(_) => record.stored_at + min_interval(record, policy),
                None => record.stored_at,
            };
            Some(backed_off(free.min(renew_at), Reason::AccessRefused))
        }
        Standing::Live => Some(backed_off(renew_at, Reason::RenewAt)),
        Standing::Refused { confirmed: true, .. } => None,
        Standing::Refused { at, confirmed: false, .. } => {
            Some(backed_off(at + CONFIRM_AFTER, Reason::Confirmation))
        }
        Standing::InDoubt { sent_at, presented_again, .. } => {
            let strictly = if record.access_refused { sent_at } else { last_chance(record) };
            match policy.profile.reuse {
                ReuseClass::None => Some(backed_off(sent_at, Reason::DoubtPresentation)),
                ReuseClass::Grace { secs } if presented_again == 0 && now < sent_at + grace(secs) => {
                    Some((sent_at, Reason::DoubtPresentation))
                }
                ReuseClass::Strict | ReuseClass::Grace { .. } => {
                    Some(backed_off(strictly, Reason::DoubtPresentation))
                }
            }
        }
    }
}

/// From here on a pair in doubt has nothing left to lose.
fn last_chance(record: &Record) -> Timestamp {
    record.expires_at - LAST_CHANCE.min(record.life() / 5)
}

fn grace(secs: u32) -> Duration {
    Duration::from_secs(secs.into())
}

fn min_interval(record: &Record, policy: &Policy) -> Duration {
    policy.min_exchange_interval.min(record.life() / 4)
}
