//! What a look finds in a chain's row of a database vault (SPEC §4): the table of `recover`, and what only several
//! machines have: an answer on another machine's disk, and a database that was restored from a backup.

use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;

use super::recover::{Receipt, is_outdated, newest_answer};
use super::settle::doubt;
use super::when::due_at;
use super::{AGAIN_AFTER_FAULT, Policy};
use crate::chain::{AttemptId, Intent, Mark, Quarantine, Record, Standing};

/// No chain's deadline is longer.
pub const LONGEST_DEADLINE: Duration = Duration::from_secs(55);
/// For so long a claimed row is nobody else's; a sender's deadline is shorter.
pub const LEASE: Duration = Duration::from_secs(60);
/// How long a process may stand still and go on as if nothing had been. A lease under which something may have been
/// sent is taken over only so long after the sender's deadline.
pub const PAUSE_BOUND: Duration = Duration::from_secs(60);
/// For so long after a database was started or restored no token is sent that lies in it: it may be older than what some
/// server has seen, and that one says so meanwhile. Who was about to send when it was restored has sent by then.
pub const HOLD: Duration = Duration::from_secs(120);

const _: () = assert!(LEASE.as_secs() > LONGEST_DEADLINE.as_secs());
const _: () = assert!(HOLD.as_secs() > LONGEST_DEADLINE.as_secs() + PAUSE_BOUND.as_secs());

/// All that decides about a row, read while its lease is held.
#[derive(Debug, Clone, Copy)]
pub struct FoundRow<'a> {
    /// The row's record; its pair is the one that lies sealed beside it.
    pub record: &'a Record,
    /// The receipts of this chain on this machine.
    pub receipts: &'a [Receipt],
    /// What this machine remembers of the chain.
    pub mark: Option<Mark>,
    /// This machine.
    pub machine: &'a str,
}

/// What is to be done about a row. The first that fits wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFinding {
    /// The answer of an older lineage: what was presented is spent, which has to be remembered before the receipt
    /// goes.
    Outdated(AttemptId),
    /// This receipt has the pair that follows the row's.
    Commit(AttemptId),
    /// This receipt's answer has no pair: the outcome settles the row.
    Settle(AttemptId),
    /// A task on this machine still reads an answer for the row's pair.
    BeingRead,
    /// The row was restored from a backup; this receipt has the pair that it held last.
    BringUp(AttemptId),
    /// The row was restored from a backup and forgets that its pair was presented.
    Forgotten(Mark),
    /// The row was restored from a backup, and what followed is not in reach.
    Behind(Mark),
    /// The answer of the open intent may lie on another machine, which is waited for until then.
    Elsewhere(Timestamp),
    /// The open intent has no answer, and nobody reads one.
    InDoubt,
    /// The chain's newest pair, and nothing open.
    Clean,
}

impl FoundRow<'_> {
    /// Where the chain has stood: a machine that has heard of less learns from the row what another one knew.
    pub fn known(&self) -> Option<Mark> {
        self.mark.max(self.record.quarantined.map(|is| is.behind))
    }
}

/// Says what a row calls for.
pub fn recover_row(found: FoundRow<'_>, now: Timestamp) -> RowFinding {
    let FoundRow { record, receipts, machine, .. } = found;
    if let Some(receipt) = receipts.iter().find(|receipt| is_outdated(receipt, record)) {
        return RowFinding::Outdated(receipt.attempt);
    }
    if let Some(receipt) = newest_answer(receipts, record).filter(|receipt| !waits(receipt, found)) {
        return match receipt.pair() {
            Some(_) => RowFinding::Commit(receipt.attempt),
            None => RowFinding::Settle(receipt.attempt),
        };
    }
    if let Some(mark) = found.known().filter(|mark| *mark > record.mark()) {
        if mark.position() == record.position() {
            return RowFinding::Forgotten(mark);
        }
        let newest = receipts.iter().find(|receipt| makes(receipt, mark));
        return match newest {
            Some(receipt) => RowFinding::BringUp(receipt.attempt),
            None => RowFinding::Behind(mark),
        };
    }
    let reads = |receipt: &Receipt| receipt.presented == record.pair && receipt.being_read();
    if receipts.iter().any(reads) {
        return RowFinding::BeingRead;
    }
    match &record.intent {
        Some(intent) if intent.machine != machine && now < record.expires_at => {
            RowFinding::Elsewhere(record.expires_at)
        }
        Some(_) => RowFinding::InDoubt,
        None => RowFinding::Clean,
    }
}

/// Another attempt's intent is open: it may be about to present the pair once more, so that this answer may not take
/// the pair away under it. Another machine's attempt may have the number of one that was reserved here, and never made.
fn waits(receipt: &Receipt, found: FoundRow<'_>) -> bool {
    let here = |intent: &Intent| intent.machine == found.machine || intent.machine.is_empty();
    let own = |intent: &Intent| intent.attempt == receipt.attempt && here(intent);
    found.record.intent.as_ref().is_some_and(|intent| !own(intent))
}

/// What a receipt still has to say of a chain that stands at a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// Nothing: others have gone on from what it made.
    Nothing,
    /// Nothing now. It stays: it made the newest pair, for a database that is put back, or is still being read.
    NothingYet,
    /// Perhaps something that is not of record: the row is to be compared.
    Perhaps,
}

/// Says what is to be done about a receipt that lies here.
pub fn says(receipt: &Receipt, mark: Mark) -> Says {
    let made = (receipt.lineage, receipt.generation.next());
    // Of an older login: what it says was spent is not remembered yet.
    let outdated = receipt.lineage < mark.lineage && receipt.replaces();
    if made < mark.position() && !outdated && !receipt.being_read() {
        Says::Nothing
    } else if made > mark.position() || receipt.attempt > mark.attempt || outdated {
        Says::Perhaps
    } else {
        Says::NothingYet
    }
}

/// The receipt's pair is the one that stood at the mark.
fn makes(receipt: &Receipt, mark: Mark) -> bool {
    receipt.lineage == mark.lineage
        && receipt.generation.next() == mark.generation
        && receipt.pair().is_some()
}

/// The row's record as it was when the receipt's pair was asked for: what a commit of it goes on from.
pub fn bring_up_from(record: &Record, receipt: &Receipt) -> Record {
    Record {
        lineage: receipt.lineage,
        generation: receipt.generation,
        pair: receipt.presented,
        ..record.clone()
    }
}

/// The record of a row that forgets a presentation of its pair: nobody can know what became of it, nor whether some machine has
/// an answer or still reads one.
pub fn forgotten(record: Record, mark: Mark, now: Timestamp, rng: &mut impl Rng) -> Record {
    // What the provider has called dead twice is dead, whoever has asked again since.
    if let Standing::Refused { confirmed: true, .. } = record.standing {
        return Record { last_attempt: mark.attempt, ..record };
    }
    // It was sent after this pair was stored; the earliest instant gives no grace.
    let intent = Intent {
        attempt: mark.attempt,
        lineage: record.lineage,
        generation: record.generation,
        presented: record.pair,
        sent_at: record.stored_at,
        deadline: now,
        machine: String::new(),
    };
    let doubted =
        doubt(Record { intent: Some(intent.clone()), last_attempt: mark.attempt, ..record }, now, rng);
    Record { intent: Some(intent), ..doubted }
}

/// The record that a receipt's pair makes of a row that was restored from a backup, where it is known that the chain has stood
/// further on since: nobody else needs to know it, then.
pub fn as_known(record: Record, known: Option<Mark>, now: Timestamp, rng: &mut impl Rng) -> Record {
    match known.filter(|known| *known > record.mark()) {
        Some(known) if known.position() == record.position() => forgotten(record, known, now, rng),
        Some(known) => quarantine(record, known, now),
        None => record,
    }
}

/// The record of a login, above where the chain is known to have stood: its row may be lost with a database that was
/// restored, or the database may be a new one.
pub fn above(record: Record, known: Option<Mark>) -> Record {
    let lineage = known.map_or(record.lineage, |known| record.lineage.max(known.lineage.next()));
    Record { lineage, ..record }
}

/// The record of a row whose pair is known to have been replaced.
pub fn quarantine(record: Record, mark: Mark, now: Timestamp) -> Record {
    let before = record.quarantined;
    let since = before.map_or(now, |is| is.since);
    let behind = before.map_or(mark, |is| is.behind.max(mark));
    Record { quarantined: Some(Quarantine { since, behind }), ..record }
}

/// When a row that nobody holds is to be looked at next; nothing: not before somebody asks.
pub fn wakes_at(record: &Record, finding: RowFinding, policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    match finding {
        RowFinding::Elsewhere(until) => Some(until),
        RowFinding::BeingRead => Some(now + AGAIN_AFTER_FAULT),
        RowFinding::Outdated(_)
        | RowFinding::Commit(_)
        | RowFinding::Settle(_)
        | RowFinding::BringUp(_)
        | RowFinding::Forgotten(_)
        | RowFinding::Behind(_)
        | RowFinding::InDoubt
        | RowFinding::Clean => due_at(record, policy, now).map(|(at, _)| at),
    }
}
