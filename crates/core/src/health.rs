//! How a chain fares: the status of its push track, with the dead-man, and every condition that holds
//! (SPEC §6). Facts and the time go in; nothing is remembered here.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::alert::{Condition, Episode};
use crate::reason::Reason;

mod conditions;
mod deadman;
#[cfg(test)]
mod tests;
mod track;

pub use conditions::{
    FallbackFacts, GRANT_REFUSED_FOR, GrantFacts, MOST_SKEW_SECS, Probing, Serving, conditions,
    grant_refused_at, login_ends_soon_at, shows_trouble, well_until,
};
pub use deadman::{Expected, Hours, NotHours, Span, silence};
pub use track::{AgentSeen, Outcome, PushFacts, PushSeen, Streak};

/// The dead-man finds a workstation silent after so long.
pub const SILENT_AFTER: Duration = Duration::from_secs(60 * 60);
/// So many pushes in a row that failed are `failed`.
pub const FAILED_AFTER: u32 = 3;
/// A failure streak of this age is `stale`.
pub const STALE_AFTER: SignedDuration = SignedDuration::from_secs(2 * 3600);
/// The monitor looks so often at least.
pub const TICK: Duration = Duration::from_secs(60);

/// The status of the push track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushStatus {
    /// Nothing is wrong.
    Ok,
    /// No push event yet, and not long enough for silence.
    Waiting,
    /// No push event for an hour in which one was expected.
    MacSilent,
    /// The last pushes failed.
    Failed,
    /// Events arrive, and none succeeds for hours.
    Stale,
}

impl PushStatus {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Waiting => "waiting",
            Self::MacSilent => "mac_silent",
            Self::Failed => "failed",
            Self::Stale => "stale",
        }
    }

    /// The condition that it is, if it is one.
    pub fn condition(self) -> Option<Condition> {
        match self {
            Self::Ok | Self::Waiting => None,
            Self::MacSilent => Some(Condition::MacSilent),
            Self::Failed => Some(Condition::Failed),
            Self::Stale => Some(Condition::Stale),
        }
    }
}

/// The status of the alert group `token_push`, and since when: a grant that is dead goes before whatever the push track
/// says. `open`: the chain's open episodes.
pub fn group_status(
    open: &[Episode],
    (push, since): (PushStatus, Option<Timestamp>),
) -> (&'static str, Option<Timestamp>) {
    let dead = |episode: &&Episode| episode.holds() && episode.condition == Condition::ReauthRequired;
    match open.iter().find(dead) {
        Some(dead) => (dead.condition.as_str(), Some(dead.since)),
        None => (push.as_str(), since),
    }
}

/// What is known of a chain's pushes, and when silence counts.
#[derive(Debug, Clone, PartialEq)]
pub struct PushTrack {
    /// The events.
    pub facts: PushFacts,
    /// Since when the chain has a push track.
    pub tracked_since: Timestamp,
    /// When any server listened, apart and in order.
    pub listened: Vec<Span>,
    /// When push events are expected.
    pub expected: Expected,
}

/// Since when an agent cannot read its keychain, of those that are still heard.
pub fn blind_since(facts: &PushFacts, now: Timestamp) -> Option<Timestamp> {
    let heard = |agent: &&AgentSeen| now.duration_since(agent.last_at).unsigned_abs() < SILENT_AFTER;
    facts.agents.iter().filter(heard).filter_map(|agent| agent.blind_since).min()
}

/// The status of the push track and since when.
pub fn push_status(track: &PushTrack, now: Timestamp) -> (PushStatus, Option<Timestamp>) {
    let PushTrack { facts, tracked_since, listened, expected } = track;
    let heard = facts.last_at.unwrap_or(*tracked_since);
    // Another agent's word says nothing of the one that was heard last: it may be gone for good.
    let last = facts.agents.iter().filter(|agent| Some(agent.last_at) == facts.last_at);
    let absences: Vec<_> = last.filter_map(|agent| agent.absence).collect();
    if silence(heard, listened, &absences, expected, now) >= SILENT_AFTER {
        return (PushStatus::MacSilent, Some(heard));
    }
    match &facts.streak {
        Some(streak) if streak.pushes >= FAILED_AFTER => (PushStatus::Failed, Some(streak.since)),
        Some(streak) if now.duration_since(streak.since) > STALE_AFTER => {
            (PushStatus::Stale, Some(streak.since))
        }
        Some(_) | None if facts.last_at.is_none() => (PushStatus::Waiting, None),
        Some(_) | None => (PushStatus::Ok, facts.last_good_at),
    }
}

/// A condition that holds, since when if that is known, and what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub condition: Condition,
    /// Since when; `None`: since it was found.
    pub since: Option<Timestamp>,
    /// The reason behind it, if there is one.
    pub reason: Option<Reason>,
}

impl Finding {
    /// Of a condition.
    pub fn new(condition: Condition, since: Option<Timestamp>, reason: Option<Reason>) -> Self {
        Self { condition, since, reason }
    }
}
