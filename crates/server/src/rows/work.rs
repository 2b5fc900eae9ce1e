//! One look at a claimed row: finish what is found, decide, and make everything ready for sending (SPEC §4 steps 1
//! to 4).

use std::sync::Arc;
use std::time::Duration;

use evergrant_core::chain::Record;
use evergrant_core::event::EventKind;
use evergrant_core::gateway::Position;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{
    self, AGAIN_AFTER_FAULT, Answer, Decision, FoundRow, Look, Receipt, ReceiptState, Report, RowFinding,
    TICK, wakes_at,
};
use evergrant_core::provider::TokenRequest;
use evergrant_core::{ChainName, Reason};
use evergrant_store::vault::{Claim, NextRow, Row, VaultState};
use evergrant_store::{Reservation, crash};
use futures_channel::oneshot;
use jiff::Timestamp;
use serde_json::json;

use super::found::{Next, Session};
use super::{Last, RowKeeper, RowPolicy, Stuck};
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

    pub(super) fn decided(&mut self, decision: Decision) {
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
    /// It holds the chain's newest pair, and nothing is open that has to do with it.
    Clean(Record, Grant),
    /// What was found is written down, and the lease has ended with that.
    Written,
    /// Nothing can be done before then; nothing: before somebody asks.
    Stop(Option<Timestamp>),
}

/// A rotation that is ready to be sent: its intent is durable.
pub(super) struct Sending<W: World> {
    pub(super) policy: Arc<RowPolicy<W>>,
    pub(super) reservation: Reservation<W::Disk>,
    pub(super) request: TokenRequest,
    /// The row as its intent stands in it.
    pub(super) claim: Claim,
    pub(super) why: Reason,
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
            Ok(Some((reservation, claim, why, request))) => {
                let sending = Sending { policy, reservation, request, claim, why, seen, begun };
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
    pub(super) fn policy(&self, chain: &ChainName, seen: &mut Seen) -> Option<Arc<RowPolicy<W>>> {
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

    pub(super) async fn give_back(&self, claim: &Claim, wakes_at: Option<Timestamp>) {
        if let Err(error) = self.state().release(claim, wakes_at).await {
            tracing::debug!(chain = %claim.row.record.chain, %error, "a claim ends by itself");
        }
    }

    /// Steps 2 to 4. Gives what is to be sent, if something is.
    async fn prepare(
        &self,
        claim: &Claim,
        policy: &Arc<RowPolicy<W>>,
        (look, refused): (Look, Option<Position>),
        seen: &mut Seen,
    ) -> Result<Option<(Reservation<W::Disk>, Claim, Reason, TokenRequest)>, Stuck> {
        let (mut record, grant) = match self
            .settle_found(&claim.row.record.chain, policy, Some(claim), Some(claim.row.clone()), None, seen)
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
        let intended = self.intend(claim, policy, (record, why), seen).await?;
        Ok(intended.map(|(reservation, claim)| (reservation, claim, why, request)))
    }

    /// Steps 3 and 4: a receipt's room first, then the intent. Nothing: the lease was lost.
    async fn intend(
        &self,
        claim: &Claim,
        policy: &RowPolicy<W>,
        (record, why): (Record, Reason),
        seen: &mut Seen,
    ) -> Result<Option<(Reservation<W::Disk>, Claim)>, Stuck> {
        let (keeper, of) = (self.clone(), record.clone());
        let reserved = self.world().offload(move || keeper.0.parts.receipts.reserve(&of)).await;
        let reservation = reserved?;
        crash::point("reserved");
        let attempt = reservation.attempt();
        let machine = &self.0.parts.holder.machine;
        let intended = keeper::begin(record, attempt, machine, &policy.policy, self.world().now());
        let detail = json!({ "why": why, "fingerprint": intended.pair.fingerprint() });
        let event = self.event(&intended, EventKind::Intended, Reason::Intended, Some(attempt), detail);
        let lease = policy.policy.deadline + self.0.parts.paces.pause_bound;
        let next =
            NextRow { record: &intended, sealed: None, replaced: &[], events: &[event], wakes_at: None };
        let begun = self.state().begin_rotation(claim, next, lease).await;
        let chain = &intended.chain;
        match begun {
            Ok(true) => {
                self.remember(&intended).await;
                crash::point("intended");
                let row = Row { record: intended, ..claim.row.clone() };
                Ok(Some((reservation, Claim { row, process: claim.process.clone() })))
            }
            Ok(false) => {
                self.forget(chain, reservation).await;
                match self.state().incarnation(self.0.parts.paces.hold).await?.held {
                    Some(held) => {
                        let secs = held.as_millis().div_ceil(1000);
                        seen.fail(Reason::Held, format!("the rows are compared first: again in {secs} s"));
                        self.give_back(claim, Some(self.world().now() + held)).await;
                    }
                    None => {
                        seen.fail(
                            Reason::LeaseHeld,
                            "somebody else has moved the chain before anything was sent",
                        );
                        self.give_back(claim, Some(self.world().now() + AGAIN_AFTER_FAULT)).await;
                    }
                }
                seen.error = None;
                Ok(None)
            }
            Err(error) => {
                // The intent may be durable all the same: its receipt says that nothing was sent.
                let answer = Answer::NotSent { why: "the database did not take the intent".into() };
                let state = ReceiptState::Answered { at: self.world().now(), answer };
                let receipt = Receipt { state, ..Receipt::reserved(attempt, &intended) };
                self.keep_answer(chain, reservation, receipt).await;
                Err(error.into())
            }
        }
    }

    /// Step 2: works off what is found of a row, which is read if it is not given. `in_memory` is an answer whose receipt
    /// could not be written. What an answer says needs no lease: it holds only where nobody has moved the row. That there
    /// is none may be said only by who holds it (`claim`): its sender may still be waiting.
    pub(super) async fn settle_found(
        &self,
        chain: &ChainName,
        policy: &RowPolicy<W>,
        claim: Option<&Claim>,
        mut row: Option<Row>,
        in_memory: Option<&Receipt>,
        seen: &mut Seen,
    ) -> Result<Settled, Stuck> {
        for _ in 0..MOST_READINGS {
            let row = match row.take() {
                Some(row) => row,
                None => match self.state().row(chain).await? {
                    Some(row) => row,
                    None => return Ok(Settled::Stop(None)),
                },
            };
            let opened = self.open(policy, &row);
            let Row { record, .. } = row;
            seen.record = Some(record.clone());
            let grant = match opened {
                Ok(grant) => grant,
                Err(why) => {
                    seen.fail(Reason::SealBroken, why);
                    self.state().wake_health(chain).await?;
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
            let finding = keeper::recover_row(found, self.world().now());
            tracing::trace!(%chain, ?finding, "found");
            let known = found.known();
            let session =
                Session { keeper: self, policy, record: &record, grant: &grant, receipts: &receipts, known };
            match session.work_off(finding, claim, seen).await? {
                Next::Clean => return Ok(Settled::Clean(record, grant)),
                Next::Written => return Ok(Settled::Written),
                Next::Stop(wakes_at) => return Ok(Settled::Stop(wakes_at)),
                Next::LookAgain => {
                    // What is only in memory has no file that goes; it would be found again and again.
                    let outdated = |answer: &Receipt| finding == RowFinding::Outdated(answer.attempt);
                    if in_memory.is_some_and(outdated) {
                        return Ok(Settled::Clean(record, grant));
                    }
                }
            }
        }
        seen.fail(Reason::LeaseHeld, "others keep moving the chain; the next look tries again");
        seen.error = None;
        Ok(Settled::Stop(Some(self.world().now() + AGAIN_AFTER_FAULT)))
    }

    /// The pair of a row, or what is wrong with it.
    pub(super) fn open(&self, policy: &RowPolicy<W>, row: &Row) -> Result<Grant, String> {
        let Row { record, sealed, .. } = row;
        let ring = self.0.parts.receipts.ring();
        match ring.open_pair(&record.chain, record.position(), sealed, &policy.policy.profile) {
            Ok(grant) if grant.pair() == record.pair => Ok(grant),
            Ok(_) => Err("the row's tokens are not those that its record names".into()),
            Err(error) => Err(format!("the pair in the database: {error}")),
        }
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

    /// Remembers on this machine where a chain stands.
    pub(super) async fn remember(&self, record: &Record) {
        let (keeper, chain, mark) = (self.clone(), record.chain.clone(), record.mark());
        self.world().offload(move || keeper.raise(&chain, mark)).await;
    }

    pub(super) fn tell(&self) {
        if let Some(committed) = &self.0.parts.committed {
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
