//! The reference: what the provider saw, what was delivered, and what is on the disk; small enough to be believed.
//! After each change of state it says which invariant of SPEC §4 does not hold.

mod handed;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use evergrant_core::chain::{Intent, Record, Standing};
use evergrant_core::keeper::READ_LIMIT;
use evergrant_core::secret::Fingerprint;
use evergrant_core::{AccessToken, Generation, Lineage};
use jiff::Timestamp;
use serde_json::Value;

use handed::{Handed, HandedOver};
pub use reading::MARK;
use reading::{access_in, answers, contains, content, parse_record};

use super::disk::{Bytes, News};
use super::executor::ProcessId;

/// By so much a strict provider's doubt may be presented before the last ten minutes: jitter of stored instants.
const SLACK: Duration = Duration::from_secs(60);
/// For so long after a jump an intent's deadline cannot be compared with the wall clock.
const JUMP_MATTERS: Duration = Duration::from_secs(90);

/// What did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Of SPEC §4.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// A check: it holds, or it says what does not.
pub type Held<T = ()> = Result<T, Violation>;

pub(crate) fn broken<T>(invariant: &'static str, what: impl Into<String>) -> Held<T> {
    Err(Violation { invariant, what: what.into() })
}

/// A refresh token that the provider gave.
#[derive(Debug, Clone, Copy)]
struct Token {
    family: u64,
    number: u64,
    issued: Duration,
    /// The token that a keeper presented for it; absent for a login's, or another program's.
    before: Option<Fingerprint>,
}

/// What keepers know about a token that one of them presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing: no answer, or one that leaves it open.
    Nothing,
    /// It was not spent.
    Unspent,
    /// It was spent, and its successor was handed over; `kept`: the write into its receipt returned.
    Committed {
        /// See above.
        kept: bool,
    },
    /// It is dead; `noted`: the record says so, since there had been so many edits from outside.
    Refused {
        /// See above.
        noted: Option<u64>,
    },
}

/// An exchange that a living process waits for.
#[derive(Debug, Clone, Copy)]
struct Open {
    number: u64,
    process: ProcessId,
    token: Fingerprint,
    sent: Duration,
    /// From then on others may present.
    deadline: Duration,
}

/// The last thing that somebody else did to the auth file: its bytes, and the token in them.
#[derive(Debug, Clone)]
struct Word {
    bytes: Bytes,
    token: Option<Fingerprint>,
    mark: Value,
}

/// A pair that reached us and is in a receipt.
#[derive(Debug, Clone)]
struct Kept {
    family: u64,
    refresh: String,
}

/// What lies on the disk when a token is sent.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The record that would be left if the power went now.
    pub record: Option<Bytes>,
    /// Every receipt in reach.
    pub receipts: Vec<Bytes>,
}

/// The model.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    life: Duration,
    tokens: BTreeMap<Fingerprint, Token>,
    told: BTreeMap<Fingerprint, Told>,
    handed: Handed,
    open: Vec<Open>,
    sent: u64,
    word: Option<Word>,
    edits: u64,
    /// The login that the chain is on.
    family: Option<u64>,
    kept: Option<Kept>,
    outside: BTreeSet<Fingerprint>,
    replaced: BTreeSet<Fingerprint>,
    refused: BTreeSet<Fingerprint>,
    /// Access tokens that were durable once.
    durable: BTreeSet<Fingerprint>,
    record: Option<Record>,
    /// A wall clock was off until then.
    skewed_until: Option<Duration>,
    jumped_at: Option<Duration>,
    /// Logins that were revoked, or rotated by another program.
    meddled: BTreeSet<u64>,
}

impl Reference {
    /// For access tokens that live so long.
    pub fn new(life: Duration) -> Self {
        Self { life, ..Self::default() }
    }

    /// A person logged in.
    pub fn logged_in(&mut self, family: u64, refresh: &str, now: Duration) {
        let token = Token { family, number: 0, issued: now, before: None };
        self.tokens.insert(Fingerprint::of(refresh.as_bytes()), token);
    }

    /// The provider gave a successor.
    pub fn issued(&mut self, presented: Fingerprint, next: Fingerprint, by_keeper: bool, now: Duration) {
        let Some(Token { family, number, .. }) = self.tokens.get(&presented).copied() else { return };
        let before = by_keeper.then_some(presented);
        self.tokens.insert(next, Token { family, number: number + 1, issued: now, before });
    }

    /// The provider said `invalid_grant`.
    pub fn refused(&mut self, token: Fingerprint) {
        self.refused.insert(token);
    }

    /// Every login was revoked.
    pub fn revoked_all(&mut self) {
        self.meddled.extend(self.tokens.values().map(|token| token.family));
    }

    /// A wall clock jumps; `off`: it is wrong from now on, or right again.
    pub fn jumped(&mut self, now: Duration, off: bool) {
        self.jumped_at = Some(now);
        self.skewed_until = Some(if off { Duration::MAX } else { now });
    }

    /// Another program presents a token.
    pub fn meddles(&mut self, token: Fingerprint) {
        self.meddled.extend(self.family_of(token));
    }

    /// The login that a token came of.
    pub fn family_of(&self, token: Fingerprint) -> Option<u64> {
        self.tokens.get(&token).map(|token| token.family)
    }

    /// A keeper sends a token: I1, I2, I5. `now`: the time, and what the keeper's wall clock shows; `lives`: the
    /// token's login does.
    pub fn sends(
        &mut self,
        (now, wall): (Duration, Timestamp),
        process: ProcessId,
        token: Fingerprint,
        evidence: &Evidence,
        lives: bool,
    ) -> Held<u64> {
        self.one_at_a_time(now)?;
        let intent = intent_is_durable(token, evidence)?;
        self.may_be_presented(now, token, lives)?;
        self.told.insert(token, Told::Nothing);
        self.sent += 1;
        let left = Duration::try_from(intent.deadline.duration_since(wall)).unwrap_or_default();
        let jumped = self.jumped_at.is_some_and(|at| now < at + JUMP_MATTERS);
        let deadline = if jumped { now } else { now + left };
        self.open.push(Open { number: self.sent, process, token, sent: now, deadline });
        Ok(self.sent)
    }

    /// The asking process has an answer, or is gone.
    pub fn ends(&mut self, number: u64) {
        self.open.retain(|open| open.number != number);
    }

    /// What an answer says about the token that was presented.
    pub fn told(&mut self, token: Fingerprint, told: Told) {
        self.told.insert(token, told);
    }

    /// A living process was given the successor of a token.
    pub fn hands_over(&mut self, now: Duration, process: ProcessId, token: Fingerprint, next: &str) {
        if let Some(family) = self.family_of(token) {
            self.handed.add((now, process), (token, family), next);
        }
    }

    /// A process is gone.
    pub fn died(&mut self, process: ProcessId) {
        self.handed.died(process);
    }

    /// I7: what reached a process that lives is not dropped.
    pub fn nothing_is_dropped(&self, now: Duration) -> Held {
        self.handed.none_is_dropped(now)
    }

    /// I1.
    fn one_at_a_time(&self, now: Duration) -> Held {
        match self.open.iter().find(|open| now < open.deadline) {
            Some(open) => {
                broken("I1", format!("process {} still waits for the answer to {}", open.process, open.token))
            }
            None => Ok(()),
        }
    }

    /// I5: only after an answer that proves the token unspent, or out of doubt as a strict provider allows.
    fn may_be_presented(&self, now: Duration, token: Fingerprint, lives: bool) -> Held {
        let being_read = |open: &&Open| open.token == token && now < open.sent + READ_LIMIT;
        if let Some(open) = self.open.iter().find(being_read) {
            return broken("I5", format!("process {} still reads an answer to {token}", open.process));
        }
        self.handed.has_none_of(token)?;
        match self.told.get(&token) {
            None | Some(Told::Unspent) => Ok(()),
            Some(Told::Committed { kept: true }) => {
                broken("I5", format!("{token} is presented though its successor was kept"))
            }
            Some(Told::Refused { noted }) if *noted == Some(self.edits) => {
                broken("I5", format!("{token} is presented though it was refused"))
            }
            Some(Told::Nothing | Told::Committed { kept: false }) if lives && self.too_early(now, token) => {
                broken("I5", format!("{token} is in doubt, and is presented long before its end"))
            }
            Some(Told::Nothing | Told::Committed { kept: false } | Told::Refused { .. }) => Ok(()),
        }
    }

    fn too_early(&self, now: Duration, token: Fingerprint) -> bool {
        let Some(token) = self.tokens.get(&token) else { return false };
        let clocks_right = self.skewed_until.is_none_or(|until| until < token.issued);
        // A wall clock that was off once makes lives look longer, and a fifth of them with it.
        let fifth = if self.skewed_until.is_some() { Duration::MAX } else { self.life / 5 };
        let last = Duration::from_secs(600).min(fifth) + SLACK;
        clocks_right && now + last < token.issued + self.life
    }

    /// News in a few words, for the trace.
    pub fn describe(&self, news: &News) -> String {
        let token = |bytes: &Bytes| content(bytes).and_then(|(token, _)| token);
        match news {
            News::Landed(None) => "the file is removed".into(),
            News::Landed(Some(bytes)) => format!("somebody writes {:?} into the file", token(bytes)),
            News::Replaced(bytes) => format!("a keeper puts {:?} into the file", token(bytes)),
            News::Kept(_) => "an answer is in its receipt".into(),
            News::Filled(path) => format!("{path} is written"),
            News::Recorded(bytes, _) => parse_record(bytes).map_or_else(
                || "the record is unreadable".into(),
                |record| {
                    let standing = match record.standing {
                        Standing::Live => "live",
                        Standing::InDoubt { .. } => "in doubt",
                        Standing::Refused { .. } => "refused",
                    };
                    let intent = if record.intent.is_some() { ", intended" } else { "" };
                    let (lineage, generation) = record.position();
                    format!("record {lineage}.{generation} {:?} {standing}{intent}", record.pair.refresh)
                },
            ),
        }
    }

    /// Something happened on the disk: I6, I9.
    pub fn learns(&mut self, news: News) -> Held {
        match news {
            News::Landed(bytes) => {
                self.landed(bytes);
                Ok(())
            }
            News::Replaced(bytes) => {
                self.mark_replaced(&bytes);
                Ok(())
            }
            News::Kept(bytes) => self.keeps(&bytes),
            News::Filled(_) => Ok(()),
            News::Recorded(bytes, durable) => {
                self.are_durable(&durable);
                self.recorded(&bytes)
            }
        }
    }

    fn landed(&mut self, bytes: Option<Bytes>) {
        self.edits += 1;
        self.are_durable(bytes.as_slice());
        self.word = bytes.map(|bytes| {
            let (token, mark) = content(&bytes).unwrap_or((None, Value::Null));
            Word { bytes, token, mark }
        });
        let token = self.word.as_ref().and_then(|word| word.token);
        if let Some(token) = token {
            self.outside.insert(token);
            self.family = self.family_of(token);
            // Somebody has moved the chain, and the older pair may be dropped; unless it is one that we replaced.
            let stays = |kept: &Kept| {
                let same = Fingerprint::of(kept.refresh.as_bytes()) == token;
                Some(kept.family) == self.family && (same || self.is_spent(token))
            };
            if !self.kept.as_ref().is_some_and(stays) {
                self.kept = None;
            }
        }
    }

    /// All before the pair that a keeper put into the file are replaced, as far as keepers replaced them.
    fn mark_replaced(&mut self, bytes: &[u8]) {
        let token = content(bytes).and_then(|(token, _)| token);
        let before = |token: Fingerprint| self.tokens.get(&token).and_then(|token| token.before);
        let mut before = std::iter::successors(token.and_then(before), |token| before(*token));
        let first_known = |token: &Fingerprint| !self.replaced.contains(token);
        let fresh: Vec<_> = before.by_ref().take_while(first_known).collect();
        self.replaced.extend(fresh);
    }

    fn keeps(&mut self, bytes: &[u8]) -> Held {
        let Some(HandedOver { presented, family, refresh, .. }) = self.handed.kept(bytes)? else {
            return Ok(());
        };
        self.told.insert(presented, Told::Committed { kept: true });
        // Of a lineage that has ended the answer may be dropped, even if an old file of it lies there again.
        let recorded = self.record.as_ref().and_then(|record| record.pair.refresh);
        let recorded = recorded.and_then(|token| self.family_of(token));
        if self.family == Some(family) && recorded == self.family {
            self.kept = Some(Kept { family, refresh });
        }
        Ok(())
    }

    fn recorded(&mut self, bytes: &[u8]) -> Held {
        let Ok(record) = serde_json::from_slice::<Record>(bytes) else {
            return broken("I2", "the record is not readable");
        };
        let before = self.record.as_ref().map(Record::position);
        if Some(record.position()) < before {
            return broken("I4", format!("the record went back from {before:?} to {:?}", record.position()));
        }
        if before.is_none_or(|(lineage, _)| lineage < record.lineage) {
            self.adopted(&record)?;
            // Somebody else's pair begins a lineage, and the older one's may go.
            let same = |kept: &Kept| Some(Fingerprint::of(kept.refresh.as_bytes())) == record.pair.refresh;
            self.kept = self.kept.take().filter(same);
        }
        record.pair.refresh.iter().for_each(|token| self.handed.is_of_record(*token));
        let refused = matches!(record.standing, Standing::Refused { .. });
        if let (true, Some(token)) = (refused, record.pair.refresh) {
            self.told.insert(token, Told::Refused { noted: Some(self.edits) });
        }
        if refused && record.pair.refresh.is_some_and(|token| !self.refused.contains(&token)) {
            return broken("I6", "called revoked, but the provider never said so");
        }
        self.record = Some(record);
        Ok(())
    }

    /// I9.
    fn adopted(&self, record: &Record) -> Held {
        let Some(token) = record.pair.refresh else { return Ok(()) };
        if !self.outside.contains(&token) {
            return broken("I9", format!("{token} was adopted, and nobody else ever put it there"));
        }
        if self.replaced.contains(&token) {
            return broken("I9", format!("{token} was adopted, though a rotation had replaced it"));
        }
        if record.lineage.0 > self.edits {
            return broken(
                "I9",
                format!("lineage {} after {} edits from outside", record.lineage, self.edits),
            );
        }
        Ok(())
    }

    /// The power went, and with it every process: the record may be an older one.
    pub fn power_went(&mut self, record: Option<Bytes>) {
        self.handed = Handed::default();
        self.record = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    }

    /// I4: the file is what somebody else wrote last, or was renewed from that.
    pub fn file_derives(&self, file: Option<Bytes>) -> Held {
        match (&self.word, file) {
            (None, None) => Ok(()),
            (None, Some(_)) => broken("I4", "a removed file was made again"),
            (Some(_), None) => broken("I4", "the file is gone, though nobody took it away"),
            (Some(word), Some(file)) if word.bytes == file => Ok(()),
            (Some(Word { token: None, .. }), Some(_)) => broken("I4", "an unreadable file was written over"),
            (Some(Word { token: Some(from), mark, .. }), Some(file)) => {
                let Some((Some(token), found)) = content(&file) else {
                    return broken("I4", "the file holds no grant any more");
                };
                if found != *mark {
                    return broken("I4", format!("edit {mark} was lost unseen; the file is of edit {found}"));
                }
                if !self.descends(*from, token) && !self.rolls_forward(*from, token) {
                    return broken("I4", format!("{token} overwrote {from}, which it does not come of"));
                }
                Ok(())
            }
        }
    }

    /// Keepers know that they spent it.
    fn is_spent(&self, token: Fingerprint) -> bool {
        self.replaced.contains(&token) || self.told.get(&token) == Some(&Told::Committed { kept: true })
    }

    /// A pair that is known to be spent is worth nothing: the chain's newest one is put back over it.
    fn rolls_forward(&self, from: Fingerprint, to: Fingerprint) -> bool {
        let spent = self.is_spent(from);
        // The record may follow later.
        let before = self.tokens.get(&to).and_then(|token| token.before);
        let newest = self.record.as_ref().and_then(|record| record.pair.refresh);
        spent && newest.is_some() && (newest == Some(to) || newest == before)
    }

    fn descends(&self, from: Fingerprint, to: Fingerprint) -> bool {
        match (self.tokens.get(&from), self.tokens.get(&to)) {
            (Some(from), Some(to)) => from.family == to.family && from.number <= to.number,
            (_, _) => from == to,
        }
    }

    /// Auth file and receipts as they would be left if the power went now.
    fn are_durable(&mut self, grants: &[Bytes]) {
        self.durable.extend(grants.iter().filter_map(|bytes| access_in(bytes)));
    }

    /// I3: what a reader sees is not older than what it saw, and is or was durable. `durable`: what would be left if
    /// the power went now.
    pub fn reader_goes_on(
        &self,
        before: Option<Seen>,
        now: Seen,
        access: &AccessToken,
        durable: impl FnOnce() -> Vec<Bytes>,
    ) -> Held {
        if before.is_some_and(|before| now < before) {
            return broken("I3", format!("readers saw {before:?}, and then {now:?}"));
        }
        let was_durable = self.durable.contains(&access.fingerprint());
        if was_durable || durable().iter().any(|bytes| contains(bytes, access.expose())) {
            return Ok(());
        }
        broken("I3", format!("readers see {now:?}, which is not durable"))
    }

    /// I7: what reached us and lives is in the vault or in a receipt. `newest`: what the provider holds for newest
    /// in a login that lives.
    pub fn nothing_is_lost<'a>(
        &self,
        durable: &[Bytes],
        newest: impl FnOnce(u64) -> Option<&'a str>,
    ) -> Held {
        let Some(kept) = &self.kept else { return Ok(()) };
        if newest(kept.family) != Some(kept.refresh.as_str()) {
            return Ok(());
        }
        if durable.iter().any(|bytes| contains(bytes, &kept.refresh)) {
            return Ok(());
        }
        broken("I7", "the live pair of the current lineage is neither in the vault nor in a receipt")
    }

    /// Whether the newest pair that reached us is alive.
    pub fn has_live_pair<'a>(&self, newest: impl FnOnce(u64) -> Option<&'a str>) -> bool {
        self.kept.as_ref().is_some_and(|kept| newest(kept.family) == Some(kept.refresh.as_str()))
    }

    /// Why a login may have ended that keepers had to themselves.
    pub fn cause_of_end(&self, token: Fingerprint) -> Option<End> {
        let family = self.family_of(token)?;
        if self.meddled.contains(&family) {
            return Some(End::Meddled);
        }
        let undelivered = |of: &Token| {
            let told = of.before.and_then(|before| self.told.get(&before));
            of.family == family && told.is_some_and(|told| *told != Told::Committed { kept: true })
        };
        self.tokens.values().any(undelivered).then_some(End::Undelivered)
    }

    /// L1, L2: no intent is open, and no answer waits.
    pub fn nothing_open(&self, evidence: &Evidence) -> Held {
        let Some(record) = evidence.record.as_ref().and_then(|bytes| parse_record(bytes)) else {
            return Ok(());
        };
        if !self.open.is_empty() {
            return Ok(());
        }
        if record.intent.is_some() {
            return broken("L2", "an intent is open, and nobody waits for its answer");
        }
        match record.pair.refresh {
            Some(token) if evidence.receipts.iter().any(|receipt| answers(receipt, token)) => {
                broken("L1", "a receipt waits for its commit")
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Why a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The provider or another program.
    Meddled,
    /// A successor never reached us: the one window that stays open.
    Undelivered,
}

/// What a reader saw.
pub type Seen = (Lineage, Generation);

/// I2: the record that is durable names this token and intends to present it, and no receipt answers it.
fn intent_is_durable(token: Fingerprint, evidence: &Evidence) -> Held<Intent> {
    let Some(record) = evidence.record.as_ref().and_then(|bytes| parse_record(bytes)) else {
        return broken("I2", format!("{token} is sent, and no record is durable"));
    };
    if record.pair.refresh != Some(token) {
        return broken("I2", format!("{token} is sent, and is not of the newest durable generation"));
    }
    let Some(intent) = record.intent.filter(|intent| intent.presented.refresh == Some(token)) else {
        return broken("I2", format!("{token} is sent before its intent is durable"));
    };
    if evidence.receipts.iter().any(|receipt| answers(receipt, token)) {
        return broken("I2", format!("{token} is sent though its answer is in reach"));
    }
    Ok(intent)
}
