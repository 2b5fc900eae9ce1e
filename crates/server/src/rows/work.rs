//! One look at a claimed row: finish what is found, decide, and make everything ready for sending (SPEC §4 steps 1
//! to 4 and 7).

use std::sync::Arc;
use std::time::Duration;

use evergrant_core::chain::Record;
use evergrant_core::event::{Event, EventKind};
use evergrant_core::gateway::Position;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{
    self, AGAIN_AFTER_FAULT, Decision, FoundRow, Look, Outcome, Receipt, ReceiptState, Report, RowFinding,
    TICK, wakes_at,
};
use evergrant_core::provider::TokenRequest;
use evergrant_core::secret::Fingerprint;
use evergrant_core::{AttemptId, ChainName, Reason};
use evergrant_store::vault::{Claim, NextRow, Row, VaultState};
use evergrant_store::{Reservation, VaultError, crash};
use futures_channel::oneshot;
use jiff::Timestamp;
use serde_json::json;

use super::{Last, RowKeeper, RowPolicy, Stuck};
use crate::keeper::{standing_reason, why};
use crate::world::World;

/// So often a row is read again in one look, because somebody else has moved it.
const MOST_READINGS: usize = 8;

/// What a look found and did so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) record: Option<Record>,
    pub(super) grant: Option<Grant>,
    pub(super) reason: Option<Reason>,
    pub(super) error: Option<Reason>,
    pub(super) detail: Option<String>,
    pub(super) refreshed: bool,
}

impl Seen {
    pub(super) fn fail(&mut self, error: Reason, detail: impl Into<String>) {
        self.reason = Some(error);
        self.error = Some(error);
        self.detail = Some(detail.into());
    }

    pub(super) fn report(&self, chain: &ChainName, now: Timestamp) -> Report {
        let reason = self.reason.unwrap_or(Reason::NotDue);
        Report::new(chain, self.record.as_ref(), self.grant.is_some(), (reason, self.error), now)
            .refreshed(self.refreshed)
            .detail(self.detail.clone())
    }

    fn decided(&mut self, decision: Decision) {
        match decision {
            Decision::Rest { reason, error } => {
                if error.is_some() || self.reason.is_none() {
                    self.reason = Some(reason);
                }
                self.error = error;
            }
            // It is looked at again at once.
            Decision::Exchange(reason) => {
                self.reason.get_or_insert(reason);
            }
        }
    }
}

/// What a row came to.
#[expect(clippy::large_enum_variant, reason = "it lives for a moment, once a look")]
pub(super) enum Settled {
    /// It holds the chain's newest pair, and nothing is open.
    Clean(Record, Grant),
    /// What was found is written down, and the lease has ended with that.
    Written,
    /// Nothing can be done before then; nothing: before somebody asks.
    Stop(Option<Timestamp>),
}

/// A rotation that is ready to be sent: its intent is durable.
pub(super) struct Sending<W: World> {
    pub(super) policy: Arc<RowPolicy>,
    pub(super) reservation: Reservation<W::Disk>,
    pub(super) request: TokenRequest,
    pub(super) row: Row,
    pub(super) seen: Seen,
    /// The age of the process when the look began: the deadline counts from here.
    pub(super) begun: Duration,
}

impl<W: World<State: VaultState>> RowKeeper<W> {
    pub(super) async fn work(
        self,
        claim: Claim,
        look: Look,
        refused: Option<Position>,
        done: oneshot::Sender<Report>,
    ) {
        let begun = self.world().monotonic();
        crash::point("locked");
        let chain = claim.row.record.chain.clone();
        let mut seen = Seen { record: Some(claim.row.record.clone()), ..Seen::default() };
        let Some(policy) = self.policy(&chain, &mut seen) else {
            let again = self.world().now() + TICK;
            self.give_back(&claim, Some(again)).await;
            self.finish(&chain, seen, Some(done));
            return;
        };
        match self.prepare(&claim, &policy, (look, refused), &mut seen).await {
            Ok(Some((reservation, row, request))) => {
                let sending = Sending { policy, reservation, request, row, seen, begun };
                self.send(sending, done).await;
            }
            Ok(None) => self.finish(&chain, seen, Some(done)),
            Err(stuck) => {
                tracing::debug!(%chain, error = %stuck, "a look was cut short");
                seen.fail(Reason::VaultUnwritable, stuck.to_string());
                // If this fails too, the lease ends by itself.
                self.give_back(&claim, Some(self.world().now() + AGAIN_AFTER_FAULT)).await;
                self.finish(&chain, seen, Some(done));
            }
        }
    }

    /// What holds for the chain, or why nothing is done with it.
    pub(super) fn policy(&self, chain: &ChainName, seen: &mut Seen) -> Option<Arc<RowPolicy>> {
        let Some(policy) = (self.0.parts.policies)(chain) else {
            seen.fail(
                Reason::ClientRejected,
                format!("no [chains.{chain}] in the configuration, and none whose name ends in * covers it"),
            );
            return None;
        };
        if !policy.accepted {
            let terms = policy.policy.profile.terms.as_deref().unwrap_or_default();
            let what = "if you own this login and may use it here, set accept_provider_terms = true";
            seen.fail(Reason::TermsNotAccepted, format!("read {terms}; {what}"));
            return None;
        }
        Some(policy)
    }

    async fn give_back(&self, claim: &Claim, wakes_at: Option<Timestamp>) {
        if let Err(error) = self.state().release(claim, wakes_at).await {
            tracing::debug!(chain = %claim.row.record.chain, %error, "a claim ends by itself");
        }
    }

    /// Steps 2 to 4. Gives what is to be sent, if something is.
    async fn prepare(
        &self,
        claim: &Claim,
        policy: &Arc<RowPolicy>,
        (look, refused): (Look, Option<Position>),
        seen: &mut Seen,
    ) -> Result<Option<(Reservation<W::Disk>, Row, TokenRequest)>, Stuck> {
        let (mut record, grant) = match self
            .settle_found(&claim.row.record.chain, policy, true, Some(claim.row.clone()), None, seen)
            .await?
        {
            Settled::Clean(record, grant) => (record, grant),
            Settled::Written => return Ok(None),
            Settled::Stop(wakes_at) => {
                self.give_back(claim, wakes_at).await;
                return Ok(None);
            }
        };
        let now = self.world().now();
        let newly_refused = refused == Some(record.position()) && !record.access_refused;
        record.access_refused |= newly_refused;
        seen.record = Some(record.clone());
        let why = match keeper::decide(&record, &policy.policy, look, now) {
            Decision::Exchange(why) => why,
            decision @ Decision::Rest { .. } => {
                seen.decided(decision);
                let wakes_at = wakes_at(&record, RowFinding::Clean, &policy.policy, now);
                if newly_refused {
                    let next =
                        NextRow { record: &record, sealed: None, replaced: &[], events: &[], wakes_at };
                    self.state().settle_rotation(record.mark(), next).await?;
                } else {
                    self.give_back(claim, wakes_at).await;
                }
                return Ok(None);
            }
        };
        let Some(refresh) = &grant.refresh else {
            self.give_back(claim, None).await;
            return Ok(None);
        };
        let request = policy.policy.profile.refresh_request(refresh);
        let (keeper, of) = (self.clone(), record.clone());
        let reserved = self.world().offload(move || keeper.0.parts.receipts.reserve(&of)).await;
        let reservation = reserved?;
        crash::point("reserved");
        let attempt = reservation.attempt();
        let machine = &self.0.parts.holder.machine;
        let intended = keeper::begin(record, attempt, machine, &policy.policy, now);
        let detail = json!({ "why": why, "fingerprint": intended.pair.fingerprint() });
        let event = self.event(&intended, EventKind::Intended, Reason::Intended, Some(attempt), detail);
        let lease = policy.policy.deadline + self.0.parts.paces.pause_bound;
        let next =
            NextRow { record: &intended, sealed: None, replaced: &[], events: &[event], wakes_at: None };
        let begun = self.state().begin_rotation(claim, next, lease).await;
        let row = Row { record: intended, sealed: claim.row.sealed.clone(), epoch: claim.row.epoch };
        match begun {
            Ok(true) => {
                let keeper = self.clone();
                let (chain, mark) = (row.record.chain.clone(), row.record.mark());
                self.world().offload(move || keeper.raise(&chain, mark)).await;
                crash::point("intended");
                Ok(Some((reservation, row, request)))
            }
            Ok(false) => {
                self.forget(&row.record.chain, reservation).await;
                seen.fail(Reason::LeaseHeld, "its lease was taken over before anything was sent");
                seen.error = None;
                Ok(None)
            }
            Err(error) => {
                // The intent may be durable all the same: its receipt says that nothing was sent.
                let answer = keeper::Answer::NotSent { why: "the database did not take the intent".into() };
                self.keep_unsent(&row.record.chain, reservation, answer).await;
                Err(error.into())
            }
        }
    }

    /// Step 2: works off what is found of a row, which is read if it is not given. `in_memory` is an answer whose receipt
    /// could not be written. What an answer says needs no lease: it holds only where nobody has moved the row. That there
    /// is none may be said only by who holds it (`leased`): its sender may still be waiting.
    pub(super) async fn settle_found(
        &self,
        chain: &ChainName,
        policy: &RowPolicy,
        leased: bool,
        mut row: Option<Row>,
        in_memory: Option<&Receipt>,
        seen: &mut Seen,
    ) -> Result<Settled, Stuck> {
        for _ in 0..MOST_READINGS {
            let Row { record, sealed, .. } = match row.take() {
                Some(row) => row,
                None => match self.state().row(chain).await? {
                    Some(row) => row,
                    None => return Ok(Settled::Stop(None)),
                },
            };
            seen.record = Some(record.clone());
            let ring = self.0.parts.receipts.ring();
            let grant = match ring.open_pair(chain, record.position(), &sealed, &policy.policy.profile) {
                Ok(grant) if grant.pair() == record.pair => grant,
                Ok(_) => {
                    seen.fail(Reason::SealBroken, "the row's tokens are not those that its record names");
                    return Ok(Settled::Stop(Some(self.world().now() + TICK)));
                }
                Err(error) => {
                    seen.fail(Reason::SealBroken, format!("the pair in the database: {error}"));
                    return Ok(Settled::Stop(Some(self.world().now() + TICK)));
                }
            };
            seen.grant = Some(grant.clone());
            let (keeper, of) = (self.clone(), chain.clone());
            let look = move || (keeper.0.parts.receipts.of(&of), keeper.0.parts.marks.of(&of));
            let (receipts, mark) = self.world().offload(look).await;
            let (mut receipts, mark) = (receipts?, mark?);
            if let Some(answer) = in_memory {
                receipts.retain(|receipt| receipt.attempt != answer.attempt);
                receipts.push(answer.clone());
            }
            let machine = &self.0.parts.holder.machine;
            let found = FoundRow { record: &record, receipts: &receipts, mark, machine };
            let now = self.world().now();
            let finding = keeper::recover_row(found, now);
            tracing::trace!(%chain, ?finding, "found");
            let session =
                Session { keeper: self, policy, record: &record, grant: &grant, receipts: &receipts };
            let written = match finding {
                RowFinding::Clean => return Ok(Settled::Clean(record, grant)),
                RowFinding::BeingRead => {
                    seen.fail(Reason::InDoubt, "an answer is still being read");
                    return Ok(Settled::Stop(wakes_at(&record, finding, &policy.policy, now)));
                }
                RowFinding::Elsewhere(_) => {
                    let machine = record.intent.as_ref().map_or("?", |intent| intent.machine.as_str());
                    seen.fail(
                        Reason::InDoubt,
                        format!("the answer may lie on {machine}, which is waited for"),
                    );
                    return Ok(Settled::Stop(wakes_at(&record, finding, &policy.policy, now)));
                }
                RowFinding::Outdated(attempt) => {
                    session.forget_outdated(attempt).await?;
                    if in_memory.is_some_and(|answer| answer.attempt == attempt) {
                        return Ok(Settled::Written);
                    }
                    continue;
                }
                RowFinding::Commit(attempt) => session.commit(record.clone(), attempt, seen).await?,
                RowFinding::BringUp(attempt) => {
                    let from = keeper::bring_up_from(&record, session.receipt(attempt));
                    session.commit(from, attempt, seen).await?
                }
                RowFinding::Settle(attempt) => session.settle(attempt, seen).await?,
                RowFinding::InDoubt if leased => session.doubt(seen).await?,
                RowFinding::InDoubt => return Ok(Settled::Stop(None)),
                RowFinding::Forgotten(mark) => {
                    let mut rng = self.world().rng();
                    let next = keeper::forgotten(record.clone(), mark, machine, now, &mut rng);
                    session.doubted(next, mark.attempt, seen).await?
                }
                RowFinding::Behind(mark) => {
                    let next = keeper::quarantine(record.clone(), mark, now);
                    seen.fail(
                        Reason::Quarantined,
                        format!(
                            "the database was restored from a backup: this machine has seen lineage {}, generation {}",
                            mark.lineage, mark.generation
                        ),
                    );
                    if next == record {
                        return Ok(Settled::Stop(None));
                    }
                    session.write(next, Reason::Quarantined, seen).await?
                }
            };
            if written {
                return Ok(Settled::Written);
            }
        }
        seen.fail(Reason::LeaseHeld, "others keep moving the chain; the next look tries again");
        seen.error = None;
        Ok(Settled::Stop(Some(self.world().now() + AGAIN_AFTER_FAULT)))
    }

    /// Shows readers what was found, counts it and reports.
    pub(super) fn finish(&self, chain: &ChainName, seen: Seen, done: Option<oneshot::Sender<Report>>) {
        if let (Some(record), Some(grant)) = (&seen.record, &seen.grant)
            && grant.pair() == record.pair
            && self.0.parts.snapshots.current(chain).is_some()
        {
            self.0.parts.snapshots.publish(record, grant);
        }
        let report = seen.report(chain, self.world().now());
        let watched = self.watched(|watched| match watched.get_mut(chain) {
            Some(last) => {
                *last = Last { record: seen.record, report: Some(report.clone()), ..last.clone() };
                true
            }
            None => false,
        });
        // A label for each of a million chains would drown the others.
        if watched {
            self.0.parts.metrics.looked(&report);
        }
        crate::keeper::log(&report);
        if let Some(done) = done {
            let _ = done.send(report);
        }
    }

    pub(super) fn commit_told(&self) {
        let committed = self.0.committed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(committed) = &*committed {
            let _ = committed.unbounded_send(());
        }
    }

    /// Removes the receipt of an attempt that was never made.
    async fn forget(&self, chain: &ChainName, reservation: Reservation<W::Disk>) {
        let (keeper, chain) = (self.clone(), chain.clone());
        let dropped = move || {
            let attempt = reservation.attempt();
            drop(reservation);
            keeper.0.parts.receipts.drop_one(&chain, attempt)
        };
        if let Err(error) = self.world().offload(dropped).await {
            tracing::debug!(%error, "an empty receipt stays; it says nothing");
        }
    }
}

/// One reading of a row that is being worked off.
struct Session<'a, W: World> {
    keeper: &'a RowKeeper<W>,
    policy: &'a RowPolicy,
    record: &'a Record,
    grant: &'a Grant,
    receipts: &'a [Receipt],
}

impl<W: World<State: VaultState>> Session<'_, W> {
    fn receipt(&self, attempt: AttemptId) -> &Receipt {
        let mut receipts = self.receipts.iter();
        receipts.find(|receipt| receipt.attempt == attempt).expect("a finding names a receipt that was found")
    }

    fn now(&self) -> Timestamp {
        self.keeper.world().now()
    }

    fn wakes_at(&self, next: &Record) -> Option<Timestamp> {
        wakes_at(next, RowFinding::Clean, &self.policy.policy, self.now())
    }

    /// Writes a receipt's pair into the row. Says whether the row still stood where it was read.
    async fn commit(&self, from: Record, attempt: AttemptId, seen: &mut Seen) -> Result<bool, Stuck> {
        let receipt = self.receipt(attempt);
        let chain = &self.record.chain;
        let (Some(tokens), ReceiptState::Answered { at, .. }) = (receipt.tokens(), &receipt.state) else {
            return Ok(false);
        };
        let said = tokens.expires_in.is_some();
        let grant = keeper::committed_grant(self.grant, &from, tokens, *at);
        if Some(grant.pair()) != receipt.pair() {
            // It repeats a refresh token that is in nobody's hands any more.
            self.drop_receipt(attempt).await?;
            return Ok(false);
        }
        let mut rng = self.keeper.world().rng();
        let record = keeper::commit(&from, attempt, &grant, said, *at, &self.policy.policy, &mut rng);
        let ring = self.keeper.0.parts.receipts.ring();
        let sealed = ring.seal_pair(chain, record.position(), &grant, &mut rng);
        let now = self.now();
        let mut replaced = Vec::new();
        for old in [self.record.pair.fingerprint(), from.pair.fingerprint()] {
            if old != record.pair.fingerprint() && !replaced.iter().any(|(is, _)| *is == old) {
                replaced.push((old, now));
            }
        }
        let reason = seen.reason.unwrap_or(Reason::ReceiptCommitted);
        let detail = json!({ "fingerprint": record.pair.fingerprint(), "expires_at": record.expires_at });
        let event = self.keeper.event(&record, EventKind::Committed, reason, Some(attempt), detail);
        let next = NextRow {
            record: &record,
            sealed: Some(&sealed),
            replaced: &replaced,
            events: &[event],
            wakes_at: self.wakes_at(&record),
        };
        if !self.keeper.state().commit_rotation(self.record.position(), next).await? {
            return Ok(false);
        }
        crash::point("record_written");
        self.moved(&record).await;
        seen.reason = Some(reason);
        seen.error = None;
        seen.refreshed = true;
        (seen.record, seen.grant) = (Some(record), Some(grant));
        Ok(true)
    }

    /// The row has another pair: this machine remembers that, others are told, and older receipts go.
    async fn moved(&self, record: &Record) {
        self.keeper.commit_told();
        let (keeper, record) = (self.keeper.clone(), record.clone());
        let after = move || {
            keeper.raise(&record.chain, record.mark());
            let dropped = keeper.0.parts.receipts.drop_all_but(&record.chain, record.made_by);
            if let Err(error) = dropped {
                tracing::debug!(chain = %record.chain, %error, "an old receipt stays; it says nothing");
            }
        };
        self.keeper.world().offload(after).await;
        crash::point("receipts_dropped");
    }

    /// An answer without a pair: what it means settles the row.
    async fn settle(&self, attempt: AttemptId, seen: &mut Seen) -> Result<bool, Stuck> {
        let receipt = self.receipt(attempt);
        let outcome = receipt.outcome().unwrap_or(Outcome::InDoubt);
        let why = why(receipt);
        let mut rng = self.keeper.world().rng();
        let record = keeper::settle(self.record.clone(), &outcome, &self.policy.policy, self.now(), &mut rng);
        let (kind, reason) = match outcome {
            Outcome::Refused => (EventKind::Refused, standing_reason(&record)),
            Outcome::Unspent(unspent) => (EventKind::Unspent, unspent.reason),
            Outcome::InDoubt | Outcome::Committed(_) => (EventKind::InDoubt, Reason::InDoubt),
        };
        let event = self.keeper.event(&record, kind, reason, Some(attempt), json!({ "answer": why.clone() }));
        let written = self.put(&record, &[], &[event]).await?;
        if written {
            crash::point("record_written");
            seen.detail = Some(why);
            self.decided(record, seen);
        }
        Ok(written)
    }

    /// The open intent has no answer and nobody reads one.
    async fn doubt(&self, seen: &mut Seen) -> Result<bool, Stuck> {
        let attempt = self.record.intent.as_ref().map_or(self.record.last_attempt, |intent| intent.attempt);
        let mut rng = self.keeper.world().rng();
        let next = keeper::doubt(self.record.clone(), self.now(), &mut rng);
        self.doubted(next, attempt, seen).await
    }

    async fn doubted(&self, next: Record, attempt: AttemptId, seen: &mut Seen) -> Result<bool, Stuck> {
        let detail = json!({ "answer": "none" });
        let event = self.keeper.event(&next, EventKind::InDoubt, Reason::InDoubt, Some(attempt), detail);
        let written = self.put(&next, &[], &[event]).await?;
        if written {
            self.decided(next, seen);
        }
        Ok(written)
    }

    /// The row says something that somebody has to see.
    async fn write(&self, next: Record, reason: Reason, seen: &mut Seen) -> Result<bool, Stuck> {
        let detail = json!({ "detail": seen.detail.clone() });
        let event = self.keeper.event(&next, EventKind::Found, reason, None, detail);
        let written = self.put(&next, &[], &[event]).await?;
        if written {
            seen.record = Some(next);
        }
        Ok(written)
    }

    /// An answer came when its lineage had ended: what was presented may never be presented again.
    async fn forget_outdated(&self, attempt: AttemptId) -> Result<(), Stuck> {
        let spent = self.receipt(attempt).presented.fingerprint();
        if self.put(self.record, &[(spent, self.now())], &[]).await? {
            self.drop_receipt(attempt).await?;
        }
        Ok(())
    }

    async fn put(
        &self,
        record: &Record,
        replaced: &[(Fingerprint, Timestamp)],
        events: &[Event],
    ) -> Result<bool, Stuck> {
        let wakes_at = self.wakes_at(record);
        let next = NextRow { record, sealed: None, replaced, events, wakes_at };
        Ok(self.keeper.state().settle_rotation(self.record.mark(), next).await?)
    }

    fn decided(&self, record: Record, seen: &mut Seen) {
        seen.decided(keeper::decide(&record, &self.policy.policy, Look::Due, self.now()));
        seen.record = Some(record);
    }

    async fn drop_receipt(&self, attempt: AttemptId) -> Result<(), VaultError> {
        let (keeper, chain) = (self.keeper.clone(), self.record.chain.clone());
        self.keeper.world().offload(move || keeper.0.parts.receipts.drop_one(&chain, attempt)).await
    }
}
