//! What the agent decides: push, beat or wait, and what each look and each contact leaves in its memory (SPEC §5).
//!
//! The memory is made durable between a look and what is sent because of it, so that an agent that dies at any point
//! loses no login: what it had seen is pending, and what it had not seen is new to the next one.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Absence, Answer, BEAT_EVERY_SECS, FailedAttempts, LOOK_EVERY_SECS, PushKind};
use crate::reason::Reason;
use crate::secret::Fingerprint;

mod answer;
mod trouble;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

pub use answer::{HttpAnswer, judge};
pub use trouble::{About, Closing, Notice, Trouble};

/// An entry that was written so recently is fresh, in seconds.
pub const FRESH_SECS: i64 = 5 * 60;
/// The server's `retry-after` counts up to this, so that no answer silences the agent into an alert, in seconds.
pub const MOST_RETRY_AFTER_SECS: u64 = 15 * 60;
/// The memory keeps what so many entries held.
const MOST_ENTRIES: usize = 8;
/// The memory keeps so many lines of failures, and a message takes as many.
pub const MOST_FAILURES: usize = 16;

/// How often the agent looks and beats. They are SPEC's; tests of the real program are quicker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// Between two looks.
    pub look: SignedDuration,
    /// Between two contacts.
    pub beat: SignedDuration,
    /// Failures in a row have to last so long before a person is told.
    pub trouble: SignedDuration,
}

impl Default for Periods {
    fn default() -> Self {
        Self {
            look: SignedDuration::from_secs(LOOK_EVERY_SECS as i64),
            beat: SignedDuration::from_secs(BEAT_EVERY_SECS as i64),
            trouble: SignedDuration::from_mins(10),
        }
    }
}

/// What one look at the workstation's entry found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    /// Where the entry lies, in words; nothing if there is none.
    pub entry: Option<String>,
    /// When it was written, if that is known.
    pub modified_at: Option<Timestamp>,
    /// What it holds.
    pub holds: Holds,
    /// The keychain could not be read for a lock, whatever else was found.
    pub keychain_locked: bool,
}

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// A grant, by its fingerprint.
    Grant(Fingerprint),
    /// Nobody knows: the keychain is locked.
    Locked,
    /// There is no entry.
    Nothing,
    /// A login that was wiped.
    Wiped,
    /// Something that cannot be read as a login.
    Malformed,
}

impl Sight {
    /// The grant that is there to be pushed.
    pub fn grant(&self) -> Option<Fingerprint> {
        match self.holds {
            Holds::Grant(fingerprint) => Some(fingerprint),
            Holds::Locked | Holds::Nothing | Holds::Wiped | Holds::Malformed => None,
        }
    }
}

/// What the last look at one entry saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// When.
    pub at: Timestamp,
    /// The grant that was there.
    pub fingerprint: Option<Fingerprint>,
}

/// A grant that waits to be pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Which.
    pub fingerprint: Fingerprint,
    /// Since when.
    pub since: Timestamp,
    /// It was sent, and no answer came: the server may have taken it, and replaced it since.
    #[serde(default)]
    pub unanswered: bool,
    /// A person has said that it may be another account's than the chain's.
    #[serde(default)]
    pub accept_new_identity: bool,
}

impl Pending {
    fn new(fingerprint: Fingerprint, since: Timestamp) -> Self {
        Self { fingerprint, since, unanswered: false, accept_new_identity: false }
    }
}

/// A grant that the server refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedGrant {
    /// Which.
    pub fingerprint: Fingerprint,
    /// The server's reason.
    pub reason: Reason,
    /// When.
    pub at: Timestamp,
}

/// Contacts that failed in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// How many.
    pub count: u32,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// Why the last one failed.
    pub reason: Reason,
}

/// What the agent knows of one chain; it survives restarts. It never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// When the workstation was last looked at and something could be seen, be it that there is no entry.
    pub last_look: Option<Timestamp>,
    /// There was no entry then.
    pub saw_nothing: bool,
    /// What each entry held when it was last read, by where it lies. An entry that hides another one, or that is
    /// locked, has a last look of its own.
    pub seen: BTreeMap<String, Seen>,
    /// What waits to be pushed.
    pub pending: Option<Pending>,
    /// What the server refused for good, last.
    pub refused: Option<RefusedGrant>,
    /// What the server took, last. It rotates it afterwards, so that its own fingerprint moves on.
    pub delivered: Option<Fingerprint>,
    /// Of the grant that the server held at the last contact.
    pub server: Option<Fingerprint>,
    /// When the server last heard something.
    pub last_contact: Option<Timestamp>,
    /// The push track's status then, in the server's word.
    pub status: Option<String>,
    /// Since when the keychain cannot be read for a lock.
    pub blind_since: Option<Timestamp>,
    /// What failed since the last contact.
    pub failures: Vec<FailedAttempts>,
    /// Contacts that failed in a row.
    pub streak: Option<Streak>,
    /// The server asked not to be called before.
    pub not_before: Option<Timestamp>,
    /// The absence that the server was told of.
    pub absence: Option<Absence>,
    /// What a person on this side was told of, because the server did not hear it.
    pub trouble: Option<Trouble>,
    /// Trouble that is over, and whose end some sinks have yet to hear of.
    pub closing: Vec<Closing>,
}

/// What the agent does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Push the grant that was seen.
    Push,
    /// Say that it lives, and why it pushes nothing.
    Beat {
        /// Why not.
        reason: Reason,
        /// The server's own reason, where it refused the grant.
        refused: Option<Reason>,
    },
    /// Nothing until then.
    Wait {
        /// When something is due.
        until: Timestamp,
        /// What.
        reason: Reason,
    },
}

/// What came of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contact {
    /// The server did what was asked.
    Taken(Answer),
    /// The server heard a push and refuses its grant for good.
    Refused(Reason),
    /// The server heard it, and could not or would not do it now.
    Postponed {
        /// Why.
        reason: Reason,
        /// When to come again, in seconds.
        retry_after_secs: Option<u64>,
    },
    /// The server did not hear it, or did not take it for a push event.
    Failed {
        /// Why.
        reason: Reason,
        /// When to come again, in seconds.
        retry_after_secs: Option<u64>,
    },
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// What kind.
    pub kind: PushKind,
    /// Of a push: the grant.
    pub fingerprint: Option<Fingerprint>,
    /// The absence that was announced.
    pub absence: Option<Absence>,
}

/// What to do after a look. `absence` is what the operator announced and is not over.
pub fn decide(
    sight: &Sight,
    memory: &Memory,
    absence: Option<&Absence>,
    now: Timestamp,
    periods: Periods,
) -> Decision {
    let held_back = memory.held_back(now);
    if let Some(until) = held_back {
        return Decision::Wait { until, reason: Reason::BackOff };
    }
    if memory.has_pending(sight) {
        return Decision::Push;
    }
    let beat_is_due = memory.beat_at(now, periods).is_none_or(|at| at <= now);
    if memory.streak.is_some() || beat_is_due || !memory.was_told(absence, now) {
        let (reason, refused) = memory.why_no_push(sight);
        return Decision::Beat { reason, refused };
    }
    let (until, reason) = memory.next_wakeup(now, periods);
    Decision::Wait { until, reason }
}

impl Memory {
    /// Takes in what a look saw: afterwards a fresh grant is pending.
    pub fn look(&mut self, sight: &Sight, now: Timestamp) {
        if sight.keychain_locked {
            self.blind_since.get_or_insert(now);
        }
        if let Some(fingerprint) = sight.grant()
            && self.is_fresh(sight, fingerprint, now)
            && self.pending.is_none_or(|pending| pending.fingerprint != fingerprint)
        {
            self.pending = Some(Pending::new(fingerprint, now));
        }
        if sight.holds == Holds::Wiped {
            self.pending = None;
        }
        // A look at a locked keychain has seen nothing: what is written meanwhile is new to the next one.
        if sight.holds != Holds::Locked {
            self.last_look = Some(now);
            self.saw_nothing = sight.entry.is_none();
            if let Some(entry) = &sight.entry {
                self.seen.insert(entry.clone(), Seen { at: now, fingerprint: sight.grant() });
                self.forget_entries();
            }
        }
        if !sight.keychain_locked {
            self.blind_since = None;
        }
    }

    /// A person wants this grant pushed, whatever its age, and perhaps whose it is.
    pub fn ask_for(&mut self, fingerprint: Fingerprint, accept_new_identity: bool, now: Timestamp) {
        let known = self.pending.filter(|pending| pending.fingerprint == fingerprint);
        let pending = known.unwrap_or(Pending::new(fingerprint, now));
        self.pending = Some(Pending { since: now, accept_new_identity, ..pending });
        self.refused = self.refused.filter(|refused| refused.fingerprint != fingerprint);
    }

    fn is_fresh(&self, sight: &Sight, fingerprint: Fingerprint, now: Timestamp) -> bool {
        let known = self.server == Some(fingerprint)
            || self.delivered == Some(fingerprint)
            || self.refused.is_some_and(|refused| refused.fingerprint == fingerprint);
        let recent = |modified_at: Timestamp| now.duration_since(modified_at).as_secs() <= FRESH_SECS;
        !known && (sight.modified_at.is_some_and(recent) || self.is_new(sight, fingerprint))
    }

    /// It was written since the last look at it: its date says so, or it was not there then.
    fn is_new(&self, sight: &Sight, fingerprint: Fingerprint) -> bool {
        let seen = sight.entry.as_ref().and_then(|entry| self.seen.get(entry));
        let looked = seen.map(|seen| seen.at);
        let since = looked.or_else(|| [self.last_look, self.blind_since].into_iter().flatten().min());
        // Dates of entries have whole seconds only.
        let dated = sight
            .modified_at
            .zip(since)
            .is_some_and(|(modified_at, since)| modified_at.as_second() >= since.as_second());
        // An entry that was not read before may hold an old login that another one hid.
        let changed = seen.map_or(self.saw_nothing, |seen| seen.fingerprint != Some(fingerprint));
        dated || changed
    }

    fn forget_entries(&mut self) {
        while self.seen.len() > MOST_ENTRIES {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.at).map(|(entry, _)| entry.clone());
            let Some(oldest) = oldest else { return };
            self.seen.remove(&oldest);
        }
    }

    /// The grant that was seen waits to be pushed.
    pub fn has_pending(&self, sight: &Sight) -> bool {
        self.pending.is_some_and(|pending| sight.grant() == Some(pending.fingerprint))
    }

    /// Whether what waits may be another account's than the chain's.
    pub fn accepts_new_identity(&self) -> bool {
        self.pending.is_some_and(|pending| pending.accept_new_identity)
    }

    /// Why the sight is nothing to push, and the server's own reason where it refused the grant.
    pub fn why_no_push(&self, sight: &Sight) -> (Reason, Option<Reason>) {
        match sight.holds {
            Holds::Locked => (Reason::KeychainLocked, None),
            Holds::Nothing => (Reason::NoEntry, None),
            Holds::Wiped => (Reason::Wiped, None),
            Holds::Malformed => (Reason::Malformed, None),
            Holds::Grant(fingerprint) => match self.refused {
                Some(refused) if refused.fingerprint == fingerprint => {
                    (Reason::Refused, Some(refused.reason))
                }
                Some(_) | None if self.server == Some(fingerprint) || self.delivered == Some(fingerprint) => {
                    (Reason::SameGrant, None)
                }
                Some(_) | None => (Reason::NotFresh, None),
            },
        }
    }

    /// The server asked not to be called yet. An instant that lies too far ahead comes of a clock that was set back.
    fn held_back(&self, now: Timestamp) -> Option<Timestamp> {
        let most = SignedDuration::from_secs(MOST_RETRY_AFTER_SECS as i64);
        self.not_before.filter(|at| *at > now && at.duration_since(now) <= most)
    }

    /// When the next beat is due; nothing: at once. A contact in the future comes of a clock that was set back.
    fn beat_at(&self, now: Timestamp, periods: Periods) -> Option<Timestamp> {
        let last = self.last_contact.filter(|last| *last <= now)?;
        last.checked_add(periods.beat).ok()
    }

    fn was_told(&self, absence: Option<&Absence>, now: Timestamp) -> bool {
        let told = self.absence.as_ref().filter(|told| told.until > now);
        told == absence.filter(|absence| absence.until > now)
    }

    /// When to wake up next, and why.
    pub fn next_wakeup(&self, now: Timestamp, periods: Periods) -> (Timestamp, Reason) {
        let later = |span: SignedDuration| now.checked_add(span).unwrap_or(now);
        let look = (later(periods.look), Reason::Tick);
        let beat = self.beat_at(now, periods).filter(|at| *at > now).map(|at| (at, Reason::Beat));
        let held_back = self.held_back(now).map(|at| (at, Reason::BackOff));
        [Some(look), beat, held_back].into_iter().flatten().min_by_key(|(at, _)| *at).unwrap_or(look)
    }

    /// Takes in what came of a message.
    pub fn settle(&mut self, sent: &Sent, contact: &Contact, now: Timestamp) {
        match contact {
            Contact::Taken(answer) => {
                self.heard(sent, now);
                self.server = answer.fingerprint;
                self.status = Some(answer.status.clone());
                if let (PushKind::Push, Some(fingerprint)) = (sent.kind, sent.fingerprint) {
                    self.taken(fingerprint);
                }
            }
            // It was taken the first time, and its answer was lost; the server has replaced it since.
            Contact::Refused(Reason::GrantSpent) if self.was_unanswered(sent) => {
                self.heard(sent, now);
                sent.fingerprint.into_iter().for_each(|fingerprint| self.taken(fingerprint));
            }
            Contact::Refused(reason) => {
                self.heard(sent, now);
                if let Some(fingerprint) = sent.fingerprint {
                    self.no_longer_pending(fingerprint);
                    self.refused = Some(RefusedGrant { fingerprint, reason: *reason, at: now });
                }
            }
            Contact::Postponed { reason: _, retry_after_secs } => {
                self.heard(sent, now);
                self.hold_back(*retry_after_secs, now);
            }
            Contact::Failed { reason, retry_after_secs } => {
                let was_sent = |pending: &Pending| Some(pending.fingerprint) == sent.fingerprint;
                if let Some(pending) = self.pending.as_mut().filter(|pending| was_sent(pending)) {
                    pending.unanswered = true;
                }
                self.missed(*reason, now);
                self.hold_back(*retry_after_secs, now);
            }
        }
    }

    fn heard(&mut self, sent: &Sent, now: Timestamp) {
        self.last_contact = Some(now);
        self.absence.clone_from(&sent.absence);
        self.failures.clear();
        self.streak = None;
        self.not_before = None;
    }

    fn taken(&mut self, fingerprint: Fingerprint) {
        self.delivered = Some(fingerprint);
        self.no_longer_pending(fingerprint);
        self.refused = self.refused.filter(|refused| refused.fingerprint != fingerprint);
    }

    fn was_unanswered(&self, sent: &Sent) -> bool {
        self.pending
            .is_some_and(|pending| pending.unanswered && Some(pending.fingerprint) == sent.fingerprint)
    }

    fn no_longer_pending(&mut self, fingerprint: Fingerprint) {
        self.pending = self.pending.filter(|pending| pending.fingerprint != fingerprint);
    }

    fn hold_back(&mut self, retry_after_secs: Option<u64>, now: Timestamp) {
        let secs = retry_after_secs.map(|secs| secs.min(MOST_RETRY_AFTER_SECS));
        self.not_before = secs.and_then(|secs| now.checked_add(SignedDuration::from_secs(secs as i64)).ok());
    }

    fn missed(&mut self, reason: Reason, now: Timestamp) {
        match self.failures.iter_mut().find(|failed| failed.reason == reason) {
            Some(failed) => {
                failed.count = failed.count.saturating_add(1);
                failed.last = now;
            }
            None => {
                if self.failures.len() == MOST_FAILURES {
                    let oldest = self.failures.iter().enumerate().min_by_key(|(_, failed)| failed.last);
                    if let Some((index, _)) = oldest {
                        self.failures.remove(index);
                    }
                }
                self.failures.push(FailedAttempts { reason, count: 1, first: now, last: now });
            }
        }
        let before = self.streak;
        self.streak = Some(Streak {
            count: before.map_or(1, |streak| streak.count.saturating_add(1)),
            // One in the future comes of a clock that was set back.
            first: before.map_or(now, |streak| streak.first.min(now)),
            last: now,
            reason,
        });
    }

    /// The workstation slept: what failed before says nothing about now, unless a person was told of it already.
    pub fn woke(&mut self, now: Timestamp) {
        if self.trouble.is_none() {
            self.streak = self.streak.map(|streak| Streak { count: 1, first: now, last: now, ..streak });
        }
    }
}
