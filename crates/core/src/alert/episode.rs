//! Episodes: each condition of a chain opens one, reminds, and closes it; out come the alerts (SPEC §6).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Alert, AlertState, Condition, EpisodeId, Group, Level};
use crate::audit::Actor;
use crate::chain::ChainName;
use crate::health::Finding;
use crate::reason::Reason;

/// A condition has to be false for so long before its episode closes.
const HOLD: SignedDuration = SignedDuration::from_mins(5);
/// A condition that keeps coming back has to be false for longer and longer, up to this.
const LONGEST_HOLD: SignedDuration = SignedDuration::from_hours(6);
/// A condition that comes back sooner than this after its episode closed flaps.
const FLAPS_WITHIN: SignedDuration = SignedDuration::from_hours(6);
/// Openings of one condition on several chains of a provider are told together for so long.
pub const GATHER: SignedDuration = SignedDuration::from_mins(10);
/// Reminders are so far apart at most.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(24);

/// When reminders come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reminding {
    /// The first reminder of a red episode comes so long after its alert; each pause is twice the last, up to a day.
    pub after: Duration,
}

impl Default for Reminding {
    fn default() -> Self {
        Self { after: Duration::from_secs(4 * 3600) }
    }
}

impl Reminding {
    fn pause(self, reminders: u32) -> SignedDuration {
        let first = SignedDuration::try_from(self.after).unwrap_or(LONGEST_PAUSE);
        let doubled = 1_i32.checked_shl(reminders.min(16)).unwrap_or(i32::MAX);
        first.checked_mul(doubled).unwrap_or(LONGEST_PAUSE).min(LONGEST_PAUSE.max(first))
    }
}

/// Somebody looks after it: no reminders, but the closing alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// Who.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
    /// Until when it holds; `None`: to the end. With it, it is a snooze.
    pub until: Option<Timestamp>,
}

/// One continuous run of one condition on one chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// Its id.
    pub id: EpisodeId,
    /// Its chain.
    pub chain: ChainName,
    /// Its condition.
    pub condition: Condition,
    /// The reason behind it, as last found.
    pub reason: Option<Reason>,
    /// Since when it has been so.
    pub since: Timestamp,
    /// When it was found.
    pub opened_at: Timestamp,
    /// Since when the condition is false; it comes back, or the episode closes.
    pub ended_at: Option<Timestamp>,
    /// When it closed.
    pub closed_at: Option<Timestamp>,
    /// How often the condition came back before, each time within hours.
    pub flaps: u32,
    /// When an alert said that it opened.
    pub announced_at: Option<Timestamp>,
    /// The alert that says that it closed is still to be sent.
    pub owed: bool,
    /// How many reminders were sent.
    pub reminders: u32,
    /// When the next one is due.
    pub remind_at: Option<Timestamp>,
    /// Somebody looks after it.
    pub acknowledged: Option<Acknowledgement>,
    /// The episode of the same track that gave way to it, if sinks still hold that one for open.
    #[serde(default)]
    pub replaces: Option<EpisodeId>,
}

impl Episode {
    fn open(chain: &ChainName, finding: &Finding, flaps: u32, now: Timestamp) -> Self {
        Self {
            id: EpisodeId::new(chain, finding.condition, now),
            chain: chain.clone(),
            condition: finding.condition,
            reason: finding.reason,
            since: finding.since.unwrap_or(now).min(now),
            opened_at: now,
            ended_at: None,
            closed_at: None,
            flaps,
            announced_at: None,
            owed: false,
            reminders: 0,
            remind_at: None,
            acknowledged: None,
            replaces: None,
        }
    }

    /// Whether it has not closed.
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }

    /// Whether it is open and its condition holds.
    pub fn holds(&self) -> bool {
        self.is_open() && self.ended_at.is_none()
    }

    /// How long its condition has to be false before it closes.
    pub fn hold(&self) -> SignedDuration {
        let doubled = 1_i32.checked_shl(self.flaps.min(16)).unwrap_or(i32::MAX);
        HOLD.checked_mul(doubled).unwrap_or(LONGEST_HOLD).min(LONGEST_HOLD)
    }

    /// How long it lasted, or has lasted.
    pub fn lasts(&self, now: Timestamp) -> SignedDuration {
        self.ended_at.unwrap_or(now).duration_since(self.since)
    }

    fn is_acknowledged(&self, now: Timestamp) -> bool {
        self.acknowledged.as_ref().is_some_and(|ack| ack.until.is_none_or(|until| now < until))
    }

    /// How often the condition has come back, if it comes back at `now`.
    fn flaps_if_back(&self, now: Timestamp) -> u32 {
        let lately = |closed: Timestamp| now.duration_since(closed) < FLAPS_WITHIN.max(self.hold());
        if self.closed_at.is_some_and(lately) { self.flaps.saturating_add(1) } else { 0 }
    }
}

/// What one look leaves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Advance {
    /// Episodes that are new or changed.
    pub changed: Vec<Episode>,
    /// What is to be said, of which of them.
    pub say: Vec<(Episode, AlertState)>,
}

/// What is held back for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quiet<'c> {
    /// A maintenance window: everything.
    pub muted: bool,
    /// Openings of these: an alert told a moment ago that they hold for other chains of the same provider, and the
    /// next one tells of all that came after it.
    pub gathering: &'c [Condition],
}

/// The conditions that an alert told within the last 10 min to hold for other chains of the chain's provider.
/// `lately`: the alerts of that time.
pub fn gathering(lately: &[Alert], provider: &str, chain: &ChainName, now: Timestamp) -> Vec<Condition> {
    let told = lately.iter().filter(|alert| {
        !alert.test
            && alert.state == AlertState::Open
            && alert.provider == provider
            && alert.at < now
            && now.duration_since(alert.at) < GATHER
            && alert.concerned.iter().any(|concerned| concerned.chain != *chain)
    });
    told.map(|alert| alert.condition).collect()
}

/// Brings the episodes of one chain up to what was found. `known`: those that are open, those that owe their closing
/// alert, and the last closed one of each condition. The chain's push track has one finding at most.
pub fn advance(
    chain: &ChainName,
    known: &[Episode],
    found: &[Finding],
    quiet: Quiet<'_>,
    reminding: Reminding,
    now: Timestamp,
) -> Advance {
    let mut advance = Advance::default();
    let track = found.iter().find(|finding| on_push_track(finding.condition));
    let mut replaced = None;
    for before in known {
        let mut episode = before.clone();
        let mut said = None;
        match found.iter().find(|finding| finding.condition == episode.condition) {
            Some(finding) if episode.is_open() => {
                episode.ended_at = None;
                episode.reason = finding.reason.or(episode.reason);
                said = goes_on(&mut episode, quiet, reminding, now);
            }
            // One status of the push track gives way to another at once, and nobody has recovered.
            None if episode.is_open() && track.is_some() && on_push_track(episode.condition) => {
                episode.ended_at.get_or_insert(now);
                episode.closed_at = Some(now);
                replaced = if episode.announced_at.is_some() {
                    Some(episode.id.clone())
                } else {
                    episode.replaces.clone()
                };
            }
            None if episode.is_open() => {
                let since = *episode.ended_at.get_or_insert(now);
                if now.duration_since(since) >= episode.hold() {
                    episode.closed_at = Some(now);
                    // Sinks may still hold the one open that gave way to it.
                    episode.owed = episode.announced_at.is_some() || episode.replaces.is_some();
                }
            }
            Some(_) | None => {}
        }
        if episode.owed && !quiet.muted {
            episode.owed = false;
            said = Some(AlertState::Closed);
        }
        if episode != *before {
            advance.changed.push(episode.clone());
        }
        advance.say.extend(said.map(|state| (episode, state)));
    }
    for finding in found {
        let of_it = || known.iter().filter(|episode| episode.condition == finding.condition);
        if of_it().any(Episode::is_open) {
            continue;
        }
        let last = of_it().max_by_key(|episode| episode.opened_at);
        let mut episode = Episode::open(chain, finding, last.map_or(0, |last| last.flaps_if_back(now)), now);
        if on_push_track(finding.condition) {
            episode.replaces = replaced.take();
        }
        let said = goes_on(&mut episode, quiet, reminding, now);
        advance.changed.push(episode.clone());
        advance.say.extend(said.map(|state| (episode, state)));
    }
    advance
}

/// Two statuses of the push track are never open at once.
fn on_push_track(condition: Condition) -> bool {
    condition.group() == Group::TokenPush && condition != Condition::ReauthRequired
}

/// What is to be said of an episode whose condition holds.
fn goes_on(
    episode: &mut Episode,
    quiet: Quiet<'_>,
    reminding: Reminding,
    now: Timestamp,
) -> Option<AlertState> {
    if quiet.muted {
        return None;
    }
    let red = episode.condition.level() == Level::Red;
    if episode.announced_at.is_none() {
        if quiet.gathering.contains(&episode.condition) {
            return None;
        }
        episode.announced_at = Some(now);
        episode.remind_at = red.then(|| now + reminding.pause(0));
        return Some(AlertState::Open);
    }
    if episode.remind_at.is_none_or(|at| now < at) || episode.is_acknowledged(now) {
        return None;
    }
    episode.reminders = episode.reminders.saturating_add(1);
    episode.remind_at = Some(now + reminding.pause(episode.reminders));
    Some(AlertState::Reminder)
}

#[cfg(test)]
mod tests;
