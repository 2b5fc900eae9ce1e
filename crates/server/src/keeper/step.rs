//! The part of a look that happens under the lock: read, finish what is found, decide, and make everything ready
//! for sending. It blocks on files and awaits nothing.

use std::time::Duration;

use evergrant_core::chain::{AttemptId, Record};
use evergrant_core::event::EventKind;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{self, Decision, FileFound, Finding, Look, Outcome, Receipt, ReceiptState};
use evergrant_core::provider::TokenRequest;
use evergrant_core::{Generation, Lineage, Reason};
use evergrant_store::authfile::{FoundFiles, Written};
use evergrant_store::{Held, LockError, Reservation, VaultError, crash};
use jiff::Timestamp;
use rand::rngs::SmallRng;
use serde_json::json;

use super::looked::Looked;
use super::{Keeper, NewEvent};
use crate::world::World;

/// So many findings are worked off in one look at most; each brings the vault forward.
const MOST_FINDINGS: usize = 16;

/// A rotation that is ready to be sent: its intent is durable.
pub(super) struct Sending<W: World> {
    pub(super) held: Held<W::Disk>,
    pub(super) reservation: Reservation<W::Disk>,
    pub(super) request: TokenRequest,
    pub(super) record: Record,
    pub(super) why: Reason,
    pub(super) looked: Looked,
    /// The age of the process when the look began: the deadline counts from here.
    pub(super) begun: Duration,
}

/// What the locked part of a look came to.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, once a look")]
pub(super) enum Prepared<W: World> {
    /// Nothing is sent.
    Rest(Looked),
    /// Something is.
    Send(Box<Sending<W>>),
}

/// Steps 1 to 4: lock, read, finish what is found, decide, reserve, intend.
pub(super) fn prepare<W: World>(
    keeper: &Keeper<W>,
    remembered: Option<Record>,
    look: Look,
    refused: Option<(Lineage, Generation)>,
) -> Prepared<W> {
    let begun = keeper.0.world.monotonic();
    let mut looked = Looked { record: remembered.clone(), ..Looked::default() };
    let held = match lock(keeper, &mut looked) {
        Some(held) => held,
        None => return Prepared::Rest(looked),
    };
    crash::point("locked");
    let settled = settle_found(keeper, &held, remembered, None, &mut looked);
    match settled.and_then(|ready| match ready {
        Some((record, grant)) => intend(keeper, &held, (record, grant), (look, refused), &mut looked),
        None => Ok(None),
    }) {
        Ok(Some((record, why, reservation, request))) => {
            Prepared::Send(Box::new(Sending { held, reservation, request, record, why, looked, begun }))
        }
        Ok(None) => Prepared::Rest(looked),
        Err(error) => {
            looked.vault_unwritable(&error);
            Prepared::Rest(looked)
        }
    }
}

/// Takes the lock, or says why not. Without it the vault is only peeked at.
pub(super) fn lock<W: World>(keeper: &Keeper<W>, looked: &mut Looked) -> Option<Held<W::Disk>> {
    let error = match keeper.0.vault.lock(keeper.0.world.monotonic()) {
        Ok(held) => return Some(held),
        Err(error) => error,
    };
    let (file, record) = keeper.0.vault.peek(&keeper.0.policy.profile);
    looked.record = record.or(looked.record.take());
    match file {
        FileFound::Grant(grant) => looked.grant = Some(grant),
        FileFound::Missing | FileFound::Wiped => looked.absent = true,
        FileFound::Malformed(_) => {}
    }
    let detail = Some(error.to_string());
    match error {
        LockError::Busy(_) => {
            looked.reason = Some(Reason::LeaseHeld);
            looked.detail = detail;
        }
        LockError::Foreign(_) => looked.fail(Reason::LockForeign, detail),
        LockError::NoFolder(_) => looked.fail(Reason::TokenAbsent, detail),
        LockError::Vault(_) => looked.fail(Reason::VaultUnwritable, detail),
        other => looked.fail(Reason::VaultUnwritable, Some(other.to_string())),
    }
    None
}

/// Step 2: reads, and works off what is found until the vault holds the chain's newest pair with nothing open,
/// which is returned, or until nothing more can be done.
///
/// `in_memory` is an answer whose receipt could not be written.
pub(super) fn settle_found<W: World>(
    keeper: &Keeper<W>,
    held: &Held<W::Disk>,
    remembered: Option<Record>,
    mut in_memory: Option<&Receipt>,
    looked: &mut Looked,
) -> Result<Option<(Record, Grant)>, VaultError> {
    let behind = remembered.clone();
    for _ in 0..MOST_FINDINGS {
        looked.mark = Some(keeper.0.vault.mark());
        let mut files = held.read(&keeper.0.policy.profile, remembered.clone())?;
        if let Some(answer) = in_memory {
            files.found.receipts.retain(|receipt| receipt.attempt != answer.attempt);
            files.found.receipts.push(answer.clone());
        }
        looked.record = files.found.record.clone();
        looked.read = files.bytes.clone();
        looked.grant = match &files.found.file {
            FileFound::Grant(grant) => Some(grant.clone()),
            FileFound::Missing | FileFound::Wiped | FileFound::Malformed(_) => None,
        };
        let finding = keeper::recover(&files.found);
        if let Finding::Outdated(attempt) = finding {
            // What is only in memory has no file that goes; it would be found again and again.
            in_memory = in_memory.filter(|answer| answer.attempt != attempt);
        }
        tracing::trace!(chain = %keeper.0.chain, ?finding, "found");
        let mut session = Session { keeper, held, files: &files, looked, rng: keeper.0.world.rng() };
        match session.work_off(finding)? {
            Next::LookAgain => {}
            Next::Stop => return Ok(None),
            Next::Ready(record, grant) => {
                looked.changed |= behind.as_ref() != Some(&record);
                looked.record = Some(record.clone());
                return Ok(Some((record, grant)));
            }
        }
    }
    looked.fail(Reason::VaultUnwritable, Some("the auth file is being edited all the time".into()));
    Ok(None)
}

#[expect(clippy::large_enum_variant, reason = "it lives for a moment, once a look")]
enum Next {
    LookAgain,
    Stop,
    Ready(Record, Grant),
}

/// One reading of the vault that is being worked off.
struct Session<'a, W: World> {
    keeper: &'a Keeper<W>,
    held: &'a Held<W::Disk>,
    files: &'a FoundFiles,
    looked: &'a mut Looked,
    rng: SmallRng,
}

impl<W: World> Session<'_, W> {
    fn work_off(&mut self, finding: Finding) -> Result<Next, VaultError> {
        match finding {
            Finding::SwapBack => {
                self.held.swap_back()?;
            }
            Finding::Absent => {
                self.looked.absent = true;
                let path = self.keeper.0.vault.path().display();
                let detail = format!("{path} holds no grant: log in there, or import one");
                return Ok(self.stop(Reason::TokenAbsent, detail));
            }
            Finding::Malformed(fault) => {
                let path = self.keeper.0.vault.path().display();
                return Ok(self.stop(Reason::AuthFileMalformed, format!("{path}: {fault}")));
            }
            Finding::Spent => {
                self.looked.grant = None;
                let detail =
                    "the auth file holds a pair that this chain has replaced; log in again".to_owned();
                return Ok(self.stop(Reason::GrantSpent, detail));
            }
            Finding::BeingRead => {
                self.looked.fail(Reason::InDoubt, Some("an answer is still being read".into()));
                return Ok(Next::Stop);
            }
            Finding::Rewrite(attempt) => self.rewrite(attempt)?,
            Finding::Finish(attempt) => self.finish(attempt)?,
            Finding::Commit(attempt) => return self.commit(attempt),
            Finding::RollForward(attempt) => return self.roll_forward(attempt),
            Finding::Settle(attempt) => self.settle(attempt)?,
            Finding::InDoubt => self.doubt()?,
            Finding::Outdated(attempt) => self.forget_outdated(attempt)?,
            Finding::Adopt => self.adopt()?,
            Finding::Clean => {
                if let (Some(record), FileFound::Grant(grant)) =
                    (&self.files.found.record, &self.files.found.file)
                {
                    return Ok(Next::Ready(record.clone(), grant.clone()));
                }
            }
        }
        Ok(Next::LookAgain)
    }

    /// Nothing can be done with what the vault holds: it is left as it is, and the ledger is told once.
    fn stop(&mut self, error: Reason, detail: String) -> Next {
        let known = self.keeper.last(|last| last.report.as_ref().and_then(|report| report.error));
        if let (Some(record), true) = (&self.files.found.record, known != Some(error)) {
            let record = record.clone();
            self.event(&record, EventKind::Found, error, None, json!({ "detail": detail }));
            self.looked.changed = true;
        }
        self.looked.fail(error, Some(detail));
        Next::Stop
    }

    fn now(&self) -> Timestamp {
        self.keeper.0.world.now()
    }

    fn event(
        &mut self,
        record: &Record,
        kind: EventKind,
        reason: Reason,
        attempt: Option<AttemptId>,
        detail: serde_json::Value,
    ) {
        let event = NewEvent { at: self.now(), kind, reason, attempt, detail };
        self.looked.events.push(self.keeper.event(record, event));
    }

    fn receipt(&self, attempt: AttemptId) -> &Receipt {
        let mut receipts = self.files.found.receipts.iter();
        receipts.find(|receipt| receipt.attempt == attempt).expect("a finding names a receipt that was found")
    }

    fn record(&self) -> &Record {
        self.files.found.record.as_ref().expect("only an adoption is found without a record")
    }

    fn file_grant(&self) -> &Grant {
        match &self.files.found.file {
            FileFound::Grant(grant) => grant,
            FileFound::Missing | FileFound::Wiped | FileFound::Malformed(_) => {
                unreachable!("this finding is made of a file that holds a grant")
            }
        }
    }

    /// The pair of a receipt, as the grant that the file should hold; and whether the provider said its life.
    fn grant_of(&self, receipt: &Receipt) -> Option<(Grant, bool, Timestamp)> {
        let ReceiptState::Answered { at, .. } = receipt.state else {
            return None;
        };
        let tokens = receipt.tokens()?;
        let said = tokens.expires_in.is_some();
        let grant = keeper::committed_grant(self.file_grant(), self.record(), tokens, at);
        (Some(grant.pair()) == receipt.pair()).then_some((grant, said, at))
    }

    /// Writes the receipt's pair into the file, where it still holds what was presented.
    fn commit(&mut self, attempt: AttemptId) -> Result<Next, VaultError> {
        let Some((grant, said, at)) = self.grant_of(self.receipt(attempt)) else {
            return Ok(self.stop(Reason::GrantSpent, "the receipt does not fit the auth file".into()));
        };
        if !self.put_into_file(attempt, &grant)? {
            return Ok(Next::LookAgain);
        }
        crash::point("file_replaced");
        self.keep_books(attempt, &grant, said, at)?;
        Ok(Next::LookAgain)
    }

    /// Writes a receipt's pair over the grant that was read. Says whether that was still there. What writes a mounted file
    /// marks it first, so that half of it is not taken for somebody else's.
    fn put_into_file(&self, attempt: AttemptId, grant: &Grant) -> Result<bool, VaultError> {
        let marks = self.held.rewrites_in_place();
        let marked = |rewriting| self.held.write_record(&Record { rewriting, ..self.record().clone() });
        if marks {
            marked(Some(attempt))?;
        }
        let read = self.files.bytes.as_deref().unwrap_or_default();
        let new = evergrant_core::authfile::write(Some(read), grant);
        let done = self.held.replace_file(read, &new)? == Written::Done;
        // What is there now is an outside edit, and may be half of one.
        if marks && !done {
            marked(None)?;
        }
        Ok(done)
    }

    /// The file has the pair already: the bookkeeping only.
    fn finish(&mut self, attempt: AttemptId) -> Result<(), VaultError> {
        let receipt = self.receipt(attempt);
        let ReceiptState::Answered { at, .. } = receipt.state else {
            return Ok(());
        };
        let said = receipt.tokens().is_some_and(|tokens| tokens.expires_in.is_some());
        let grant = self.file_grant().clone();
        self.keep_books(attempt, &grant, said, at)
    }

    /// Step 7 behind the file: the replaced pair, then the record with its intent gone, then old receipts.
    fn keep_books(
        &mut self,
        attempt: AttemptId,
        grant: &Grant,
        said: bool,
        at: Timestamp,
    ) -> Result<(), VaultError> {
        let before = self.record().clone();
        let record = keeper::commit(&before, attempt, grant, said, at, &self.keeper.0.policy, &mut self.rng);
        // Readers may have it from here on: the pair is durable in the file and in its receipt.
        self.looked.record = Some(record.clone());
        self.looked.grant = Some(grant.clone());
        self.looked.refreshed = true;
        self.looked.reason.get_or_insert(Reason::ReceiptCommitted);
        self.looked.changed = true;
        if keeper::replaces(&before, record.pair) {
            let replaced = before.pair.fingerprint();
            self.held.remember_replaced(replaced, self.now())?;
            self.looked.replaced = Some((replaced, self.now()));
        }
        crash::point("replaced_remembered");
        self.held.write_record(&record)?;
        crash::point("record_written");
        self.held.drop_receipts_but(Some(attempt))?;
        crash::point("receipts_dropped");
        let reason = self.looked.reason.unwrap_or(Reason::ReceiptCommitted);
        let detail = json!({ "fingerprint": record.pair.fingerprint(), "expires_at": record.expires_at });
        self.event(&record, EventKind::Committed, reason, Some(attempt), detail);
        Ok(())
    }

    /// Puts the newest pair back over a replaced one.
    fn roll_forward(&mut self, attempt: AttemptId) -> Result<Next, VaultError> {
        let Some((grant, said, at)) = self.grant_of(self.receipt(attempt)) else {
            self.looked.grant = None;
            return Ok(
                self.stop(Reason::GrantSpent, "the auth file holds an older pair; log in again".into())
            );
        };
        if !self.put_into_file(attempt, &grant)? {
            return Ok(Next::LookAgain);
        }
        self.looked.reason = Some(Reason::AuthFileRolledBack);
        let record = self.record().clone();
        self.event(&record, EventKind::Found, Reason::AuthFileRolledBack, None, json!({}));
        self.looked.changed = true;
        if record.pair != grant.pair() {
            self.keep_books(attempt, &grant, said, at)?;
        } else if self.held.rewrites_in_place() {
            self.held.write_record(&Record { rewriting: None, ..record })?;
        }
        Ok(Next::LookAgain)
    }

    /// A mounted file whose rewriting was cut short is written again.
    fn rewrite(&mut self, attempt: AttemptId) -> Result<(), VaultError> {
        let garbage = self.files.bytes.as_deref().unwrap_or_default();
        let whole = self.held.copy_of_rewrite().filter(|copy| {
            let pair = |grant: &Grant| Some(grant.pair()) == self.receipt(attempt).pair();
            let reading = evergrant_core::authfile::read(copy, &self.keeper.0.policy.profile);
            matches!(FileFound::from(reading), FileFound::Grant(grant) if pair(&grant))
        });
        let from_receipt = || {
            let receipt = self.receipt(attempt);
            let ReceiptState::Answered { at, .. } = receipt.state else {
                return None;
            };
            let tokens = receipt.tokens()?;
            let old = Grant {
                access: tokens.access.clone(),
                refresh: None,
                expires_at: None,
                grant_expires_at: None,
                scopes: Vec::new(),
            };
            let grant = keeper::committed_grant(&old, self.record(), tokens, at);
            grant.refresh.is_some().then(|| evergrant_core::authfile::write(None, &grant))
        };
        if let Some(bytes) = whole.or_else(from_receipt) {
            self.held.replace_file(garbage, &bytes)?;
            return Ok(());
        }
        // Nothing to write it from: from now on it is an ordinary malformed file.
        self.held.write_record(&Record { rewriting: None, ..self.record().clone() })
    }

    /// An answer without a pair: what it means settles the chain.
    fn settle(&mut self, attempt: AttemptId) -> Result<(), VaultError> {
        let receipt = self.receipt(attempt);
        let outcome = receipt.outcome().unwrap_or(Outcome::InDoubt);
        let why = why(receipt);
        let before = self.record().clone();
        let record = keeper::settle(before, &outcome, &self.keeper.0.policy, self.now(), &mut self.rng);
        self.held.write_record(&record)?;
        crash::point("record_written");
        self.held.drop_receipts_but(record.made_by)?;
        let (kind, reason) = told(&outcome, &record);
        self.looked.detail = Some(why.clone());
        self.looked.changed = true;
        self.event(&record, kind, reason, Some(attempt), json!({ "answer": why }));
        Ok(())
    }

    /// The open intent has no answer and nobody reads one.
    fn doubt(&mut self) -> Result<(), VaultError> {
        let attempt = self.record().intent.as_ref().map(|intent| intent.attempt);
        let record = keeper::doubt(self.record().clone(), self.now(), &mut self.rng);
        self.held.write_record(&record)?;
        self.looked.changed = true;
        self.event(&record, EventKind::InDoubt, Reason::InDoubt, attempt, json!({ "answer": "none" }));
        Ok(())
    }

    /// An answer came when its lineage had ended: what was presented may never be presented again.
    fn forget_outdated(&mut self, attempt: AttemptId) -> Result<(), VaultError> {
        let spent = self.receipt(attempt).presented.fingerprint();
        self.held.remember_replaced(spent, self.now())?;
        self.looked.replaced = Some((spent, self.now()));
        self.looked.changed = true;
        self.held.drop_receipt(attempt)
    }

    /// Somebody else put another pair into the file.
    fn adopt(&mut self) -> Result<(), VaultError> {
        let before = self.files.found.record.as_ref();
        let (now, grant) = (self.now(), self.file_grant().clone());
        let (chain, policy) = (&self.keeper.0.chain, &self.keeper.0.policy);
        let record = keeper::take_in(chain, before, &grant, false, policy, now, &mut self.rng);
        self.held.write_record(&record)?;
        self.looked.reason = Some(Reason::Adopted);
        self.looked.changed = true;
        let detail = json!({ "fingerprint": record.pair.fingerprint(), "kind": record.kind.as_str() });
        self.event(&record, EventKind::Adopted, Reason::Adopted, None, detail);
        if record.second_writer(now) {
            self.event(&record, EventKind::Found, Reason::SecondWriter, None, json!({}));
        }
        Ok(())
    }
}

/// Step "when", and then steps 3 and 4.
#[expect(clippy::type_complexity, reason = "the three things that a rotation begins with, used once")]
fn intend<W: World>(
    keeper: &Keeper<W>,
    held: &Held<W::Disk>,
    (mut record, grant): (Record, Grant),
    (look, refused): (Look, Option<(Lineage, Generation)>),
    looked: &mut Looked,
) -> Result<Option<(Record, Reason, Reservation<W::Disk>, TokenRequest)>, VaultError> {
    let now = keeper.0.world.now();
    if refused == Some(record.position()) && !record.access_refused {
        record.access_refused = true;
        held.write_record(&record)?;
        looked.changed = true;
        looked.record = Some(record.clone());
    }
    let why = match keeper::decide(&record, &keeper.0.policy, look, now) {
        Decision::Exchange(why) => why,
        Decision::Rest { reason, error } => {
            if error.is_some() || looked.reason.is_none() {
                looked.reason = Some(reason);
            }
            looked.error = error;
            return Ok(None);
        }
    };
    let Some(refresh) = &grant.refresh else {
        return Ok(None);
    };
    let reservation = held.reserve(&record)?;
    crash::point("reserved");
    let attempt = reservation.attempt();
    let intended = keeper::begin(record, attempt, keeper.0.world.machine(), &keeper.0.policy, now);
    held.write_record(&intended)?;
    crash::point("intended");
    let detail = json!({ "why": why, "fingerprint": intended.pair.fingerprint() });
    let kind = EventKind::Intended;
    let event = NewEvent { at: now, kind, reason: Reason::Intended, attempt: Some(attempt), detail };
    looked.events.push(keeper.event(&intended, event));
    looked.changed = true;
    looked.record = Some(intended.clone());
    let request = keeper.0.policy.profile.refresh_request(refresh);
    Ok(Some((intended, why, reservation, request)))
}

/// What the ledger says of an outcome without a pair that made this record.
pub(crate) fn told(outcome: &Outcome, record: &Record) -> (EventKind, Reason) {
    match outcome {
        Outcome::Refused => (EventKind::Refused, standing_reason(record)),
        Outcome::Unspent(unspent) => (EventKind::Unspent, unspent.reason),
        Outcome::InDoubt | Outcome::Committed(_) => (EventKind::InDoubt, Reason::InDoubt),
    }
}

/// The error that a report shows of a record's standing.
fn standing_reason(record: &Record) -> Reason {
    match record.standing {
        evergrant_core::chain::Standing::Refused { reason, .. } => reason,
        evergrant_core::chain::Standing::InDoubt { .. } => Reason::InDoubt,
        evergrant_core::chain::Standing::Live => Reason::NotDue,
    }
}

/// An answer in a few words, without its body.
pub(crate) fn why(receipt: &Receipt) -> String {
    match &receipt.state {
        ReceiptState::Reserved { .. } => "no answer".into(),
        ReceiptState::Answered { answer, .. } => answer.in_words(),
    }
}
