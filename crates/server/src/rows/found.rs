//! What a row was found to call for, done: a receipt's pair or outcome goes into it, or what nobody can know (SPEC §4
//! steps 2 and 7).

use evergrant_core::chain::{Mark, Record};
use evergrant_core::event::{Event, EventKind};
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{self, Look, Outcome, Receipt, ReceiptState, RowFinding, wakes_at};
use evergrant_core::{AttemptId, Reason};
use evergrant_store::vault::{Claim, NextRow, VaultState};
use evergrant_store::{VaultError, crash};
use jiff::Timestamp;
use serde_json::json;

use super::work::Seen;
use super::{RowKeeper, RowPolicy, Stuck};
use crate::keeper::{told, why};
use crate::world::World;

/// What follows a finding.
pub(super) enum Next {
    /// Nothing was found.
    Clean,
    /// What was found is written down.
    Written,
    /// Somebody has moved the row, or something was cleared away.
    LookAgain,
    /// Nothing can be done before then.
    Stop(Option<Timestamp>),
}

/// One reading of a row that is being worked off.
pub(super) struct Session<'a, W: World> {
    pub(super) keeper: &'a RowKeeper<W>,
    pub(super) policy: &'a RowPolicy<W>,
    pub(super) record: &'a Record,
    pub(super) grant: &'a Grant,
    pub(super) receipts: &'a [Receipt],
    /// Where the chain has stood.
    pub(super) known: Option<Mark>,
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

    pub(super) async fn work_off(
        &self,
        finding: RowFinding,
        claim: Option<&Claim>,
        seen: &mut Seen,
    ) -> Result<Next, Stuck> {
        let now = self.now();
        let stop = || Next::Stop(wakes_at(self.record, finding, &self.policy.policy, now));
        let written = match finding {
            RowFinding::Clean => return Ok(Next::Clean),
            RowFinding::BeingRead => {
                seen.fail(Reason::InDoubt, "an answer is still being read");
                return Ok(stop());
            }
            RowFinding::Elsewhere(_) => {
                let other = self.record.intent.as_ref().map_or("", |intent| intent.machine.as_str());
                let other = if other.is_empty() { "a machine that nobody knows any more" } else { other };
                seen.fail(Reason::InDoubt, format!("the answer may lie on {other}, which is waited for"));
                return Ok(stop());
            }
            RowFinding::Outdated(attempt) => {
                self.forget_outdated(attempt).await?;
                false
            }
            RowFinding::Commit(attempt) => self.commit(self.record.clone(), attempt, seen).await?,
            RowFinding::BringUp(attempt) => {
                let from = keeper::bring_up_from(self.record, self.receipt(attempt));
                self.commit(from, attempt, seen).await?
            }
            RowFinding::Settle(attempt) => self.settle(attempt, seen).await?,
            RowFinding::InDoubt => match claim {
                Some(claim) => self.doubt(claim, seen).await?,
                None => return Ok(Next::Stop(None)),
            },
            RowFinding::Forgotten(mark) => {
                let mut rng = self.keeper.world().rng();
                let next = keeper::forgotten(self.record.clone(), mark, now, &mut rng);
                self.doubted(next, mark.attempt, None, seen).await?
            }
            RowFinding::Behind(mark) => {
                let what = format!("lineage {}, generation {}", mark.lineage, mark.generation);
                let detail = format!("the database was restored from a backup: this machine has seen {what}");
                seen.fail(Reason::Quarantined, detail);
                let next = keeper::quarantine(self.record.clone(), mark, now);
                if next == *self.record {
                    return Ok(Next::Stop(None));
                }
                self.write(next, Reason::Quarantined, seen).await?
            }
        };
        Ok(if written { Next::Written } else { Next::LookAgain })
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
        let record = keeper::as_known(record, self.known, self.now(), &mut rng);
        let ring = self.keeper.0.parts.receipts.ring();
        let sealed = ring.seal_pair(chain, record.position(), &grant, &mut rng);
        let replaced = [self.record, &from].map(|old| old.pair.fingerprint());
        let replaced = replaced.into_iter().filter(|old| *old != record.pair.fingerprint());
        let replaced: Vec<_> = replaced.map(|old| (old, self.now())).collect();
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
        if !self.keeper.state().settle_rotation(self.record.mark(), next).await? {
            return Ok(false);
        }
        crash::point("record_written");
        self.moved(&record).await;
        seen.reason = Some(reason);
        seen.refreshed = true;
        seen.grant = Some(grant);
        self.decided(record, seen);
        Ok(true)
    }

    /// The row has another pair: this machine remembers that, others are told, and older receipts go.
    async fn moved(&self, record: &Record) {
        self.keeper.tell();
        let (keeper, record) = (self.keeper.clone(), record.clone());
        let after = move || {
            keeper.raise(&record.chain, record.mark());
            // Not those behind it: where a restored row was put back, they may hold its successor.
            let older =
                record.made_by.map(|made_by| keeper.0.parts.receipts.drop_older(&record.chain, made_by));
            if let Some(Err(error)) = older {
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
        let (kind, reason) = told(&outcome, &record);
        let event = self.keeper.event(&record, kind, reason, Some(attempt), json!({ "answer": why.clone() }));
        let written = self.put(&record, event).await?;
        if written {
            crash::point("record_written");
            seen.detail = Some(why);
            self.decided(record, seen);
        }
        Ok(written)
    }

    /// The open intent has no answer and nobody reads one.
    async fn doubt(&self, claim: &Claim, seen: &mut Seen) -> Result<bool, Stuck> {
        let attempt = self.record.intent.as_ref().map_or(self.record.last_attempt, |intent| intent.attempt);
        let mut rng = self.keeper.world().rng();
        let next = keeper::doubt(self.record.clone(), self.now(), &mut rng);
        self.doubted(next, attempt, Some(claim), seen).await
    }

    async fn doubted(
        &self,
        next: Record,
        attempt: AttemptId,
        claim: Option<&Claim>,
        seen: &mut Seen,
    ) -> Result<bool, Stuck> {
        let detail = json!({ "answer": "none" });
        let event = self.keeper.event(&next, EventKind::InDoubt, Reason::InDoubt, Some(attempt), detail);
        let written = match claim {
            Some(claim) => {
                let wakes_at = self.wakes_at(&next);
                let next = NextRow { record: &next, sealed: None, replaced: &[], events: &[event], wakes_at };
                self.keeper.state().doubt_rotation(claim, next).await?
            }
            None => self.put(&next, event).await?,
        };
        if written {
            self.decided(next, seen);
        }
        Ok(written)
    }

    /// The row says something that somebody has to see.
    async fn write(&self, next: Record, reason: Reason, seen: &mut Seen) -> Result<bool, Stuck> {
        let detail = json!({ "detail": seen.detail.clone() });
        let event = self.keeper.event(&next, EventKind::Found, reason, None, detail);
        let written = self.put(&next, event).await?;
        if written {
            seen.record = Some(next);
        }
        Ok(written)
    }

    /// An answer came when its lineage had ended: what was presented may never be presented again. The row has nothing
    /// to do with it, nor the lease of whoever may be sending another pair.
    async fn forget_outdated(&self, attempt: AttemptId) -> Result<(), Stuck> {
        let spent = self.receipt(attempt).presented.fingerprint();
        self.keeper.state().add_replaced(&self.record.chain, spent, self.now()).await?;
        Ok(self.drop_receipt(attempt).await?)
    }

    async fn put(&self, record: &Record, event: Event) -> Result<bool, Stuck> {
        let wakes_at = self.wakes_at(record);
        let next = NextRow { record, sealed: None, replaced: &[], events: &[event], wakes_at };
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
