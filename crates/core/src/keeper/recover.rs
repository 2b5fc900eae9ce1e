//! What a look finds in the vault under the lock, before anything is decided (SPEC §4, "What step 2 may find").
//!
//! This is the only way an answer gets into the vault: a rotation that just received one writes its receipt and
//! looks again, exactly as a process does that finds the receipt after a crash.

use jiff::Timestamp;

use super::answer::{Answer, NewTokens, Outcome, classify};
use crate::authfile::{Malformed, Reading};
use crate::chain::{AttemptId, Generation, Lineage, Record};
use crate::grant::{Grant, PairId};

/// What the auth file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFound {
    /// There is none.
    Missing,
    /// A login that was wiped.
    Wiped,
    /// Not readable as a grant.
    Malformed(Malformed),
    /// A grant.
    Grant(Grant),
}

impl From<Reading> for FileFound {
    fn from(reading: Reading) -> Self {
        match reading {
            Reading::Grant(grant) => Self::Grant(grant),
            Reading::Wiped => Self::Wiped,
            Reading::Malformed(fault) => Self::Malformed(fault),
        }
    }
}

/// A file that an earlier commit swapped out of the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staged {
    /// There is none, or it is what was expected.
    Nothing,
    /// It is neither what its attempt read nor what it wrote: an outside edit.
    OutsideEdit,
}

/// One attempt's receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The lineage that was presented.
    pub lineage: Lineage,
    /// The generation that was presented.
    pub generation: Generation,
    /// The pair that was presented.
    pub presented: PairId,
    /// What is in it.
    pub state: ReceiptState,
}

/// What is in a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptState {
    /// Nothing yet; `being_read`: a task on this machine still waits for the answer.
    Reserved {
        /// Its lock is held.
        being_read: bool,
    },
    /// The whole answer.
    Answered {
        /// When it came.
        at: Timestamp,
        /// What came.
        answer: Answer,
    },
}

/// All that step 2 reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The auth file.
    pub file: FileFound,
    /// The record beside it, or the one that the database remembers.
    pub record: Option<Record>,
    /// Every receipt in reach.
    pub receipts: Vec<Receipt>,
    /// A rotation of this chain has replaced the pair that the file holds.
    pub replaced: bool,
    /// What an earlier commit left.
    pub staged: Staged,
}

/// What is to be done about it. The first row that fits wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// An outside edit was swapped out: exchange it back, then look again.
    SwapBack,
    /// The rewriting of a mounted file was cut short: write it again from this receipt.
    Rewrite(AttemptId),
    /// No grant: nothing is presented.
    Absent,
    /// Not readable: nothing is presented, nothing is written over it.
    Malformed(Malformed),
    /// The vault has this receipt's pair already: our own commit, cut short.
    Finish(AttemptId),
    /// The vault has the pair that was presented: commit this receipt's pair.
    Commit(AttemptId),
    /// This receipt's answer has no pair: the outcome settles the chain.
    Settle(AttemptId),
    /// The vault has a replaced pair; this receipt has the newest one: put it back.
    RollForward(AttemptId),
    /// The vault has a replaced pair, and the newest one is not in reach.
    Spent,
    /// A task on this machine still reads the answer of the open intent.
    BeingRead,
    /// The open intent has no answer, and nobody reads one.
    InDoubt,
    /// The answer of an older lineage, which came too late for it: what was presented is spent, which has to be
    /// remembered before the receipt goes.
    Outdated(AttemptId),
    /// Another pair: somebody else put it there.
    Adopt,
    /// The chain's newest pair, and nothing open.
    Clean,
}

impl Receipt {
    /// Of an attempt that is about to be made at this record.
    pub fn reserved(attempt: AttemptId, record: &Record) -> Self {
        Self {
            attempt,
            lineage: record.lineage,
            generation: record.generation,
            presented: record.pair,
            state: ReceiptState::Reserved { being_read: true },
        }
    }

    /// Whether the chain still waits for this answer: it gives a pair and the presented one has not moved on, or it
    /// settles the open intent.
    pub fn is_awaited(&self, record: &Record) -> bool {
        let intended = record.intent.as_ref().is_some_and(|intent| intent.attempt == self.attempt);
        record.pair == self.presented && (intended || self.tokens().is_some())
    }

    /// Whether it gives a pair, and the record is of before that was asked for, as a restored row's is: somebody may bring
    /// it up to there.
    pub fn may_follow(&self, record: &Record) -> bool {
        record.position() < (self.lineage, self.generation) && self.tokens().is_some()
    }

    /// The new tokens that it holds, if it does.
    pub fn tokens(&self) -> Option<NewTokens> {
        match self.outcome()? {
            Outcome::Committed(tokens) => Some(*tokens),
            Outcome::Refused | Outcome::Unspent(_) | Outcome::InDoubt => None,
        }
    }

    /// What its answer means, if it has one.
    pub fn outcome(&self) -> Option<Outcome> {
        match &self.state {
            ReceiptState::Reserved { .. } => None,
            ReceiptState::Answered { at, answer } => Some(classify(answer, *at)),
        }
    }

    /// The pair that it holds, if it does. An absent refresh token is the one that was presented.
    pub fn pair(&self) -> Option<PairId> {
        let tokens = self.tokens()?;
        let refresh = tokens.refresh.map(|refresh| refresh.fingerprint()).or(self.presented.refresh);
        Some(PairId { access: tokens.access.fingerprint(), refresh })
    }

    /// Whether its answer says that what was presented is spent: there is another refresh token now.
    pub fn replaces(&self) -> bool {
        self.pair().is_some_and(|pair| pair.refresh != self.presented.refresh)
    }

    /// Whether a task on this machine still waits for the answer.
    pub fn being_read(&self) -> bool {
        matches!(self.state, ReceiptState::Reserved { being_read: true })
    }
}

/// Says what the found state calls for.
pub fn recover(found: &Found) -> Finding {
    if found.staged == Staged::OutsideEdit {
        return Finding::SwapBack;
    }
    let grant = match &found.file {
        FileFound::Missing | FileFound::Wiped => return Finding::Absent,
        FileFound::Malformed(fault) => {
            return rewriting(found).map_or_else(|| Finding::Malformed(fault.clone()), Finding::Rewrite);
        }
        FileFound::Grant(grant) => grant.pair(),
    };
    let Some(record) = &found.record else {
        return Finding::Adopt;
    };
    if let Some(receipt) = found.receipts.iter().find(|receipt| is_outdated(receipt, record)) {
        return Finding::Outdated(receipt.attempt);
    }
    let answered = newest_answer(&found.receipts, record);
    if let Some(receipt) = answered {
        match receipt.pair() {
            Some(pair) if pair == grant => return Finding::Finish(receipt.attempt),
            Some(_) if receipt.presented == grant => return Finding::Commit(receipt.attempt),
            None if record.pair == grant => return Finding::Settle(receipt.attempt),
            Some(_) | None => {}
        }
    }
    if record.pair == grant {
        let presents = |receipt: &Receipt| receipt.presented == grant && receipt.being_read();
        return match &record.intent {
            _ if found.receipts.iter().any(presents) => Finding::BeingRead,
            Some(_) => Finding::InDoubt,
            None => Finding::Clean,
        };
    }
    let made = found.receipts.iter().find(|receipt| makes_current(receipt, record));
    let newest = answered.filter(|receipt| receipt.pair().is_some()).or(made);
    if found.replaced || newest.is_some_and(|receipt| receipt.presented == grant) {
        return newest.map_or(Finding::Spent, |receipt| Finding::RollForward(receipt.attempt));
    }
    Finding::Adopt
}

/// The receipt for the rotation of the record's pair: of several, the last attempt's, and one with a pair before
/// one without. The pair decides, not its lineage: one that was put back after another login is numbered anew, and
/// its late answer is still its only successor.
pub(super) fn newest_answer<'a>(receipts: &'a [Receipt], record: &Record) -> Option<&'a Receipt> {
    let current = |receipt: &&Receipt| receipt.presented == record.pair && receipt.outcome().is_some();
    let answered = || receipts.iter().filter(current);
    let by_attempt = |receipt: &&Receipt| receipt.attempt;
    let open = record.intent.as_ref().map(|intent| intent.attempt);
    answered()
        .filter(|receipt| receipt.pair().is_some())
        .max_by_key(by_attempt)
        .or_else(|| answered().find(|receipt| Some(receipt.attempt) == open))
}

/// The receipt that made the record's current pair.
fn makes_current(receipt: &Receipt, record: &Record) -> bool {
    receipt.lineage == record.lineage
        && receipt.generation.next() == record.generation
        && receipt.pair() == Some(record.pair)
}

/// A receipt whose lineage has ended, with the successor of what it presented; unless just that was put back.
pub(super) fn is_outdated(receipt: &Receipt, record: &Record) -> bool {
    let ended = receipt.lineage < record.lineage && receipt.presented != record.pair;
    ended && receipt.replaces()
}

fn rewriting(found: &Found) -> Option<AttemptId> {
    let attempt = found.record.as_ref()?.rewriting?;
    let receipt = found.receipts.iter().find(|receipt| receipt.attempt == attempt)?;
    receipt.pair().map(|_| attempt)
}
