//! Steps 5 to 8 for a row: send once, keep the answer on this machine before anything looks at it, then settle it the
//! way that a crash would be settled: by finding the receipt.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::chain::Record;
use evergrant_core::keeper::{self, Answer, READ_LIMIT, Receipt, ReceiptState};
use evergrant_core::{ChainName, Reason};
use evergrant_store::vault::{Claim, VaultState};
use evergrant_store::{Reservation, crash};
use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::work::{Seen, Sending, Settled};
use super::{RowKeeper, RowPolicy};
use crate::keeper::clock_offset;
use crate::traces::Exchange;
use crate::world::World;

/// How long a task waits until it tries again to commit an answer.
const TRY_AGAIN: Duration = Duration::from_secs(1);

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

impl<W: World<State: VaultState>> RowKeeper<W> {
    pub(super) async fn send(&self, sending: Sending<W>, done: oneshot::Sender<keeper::Report>) {
        let Sending { policy, reservation, request, claim, why, mut seen, begun } = sending;
        let record = claim.row.record.clone();
        let chain = record.chain.clone();
        let receipt = Receipt::reserved(reservation.attempt(), &record);
        // Step 5. A process that slept through its deadline sends nothing.
        let deadline = begun + policy.policy.deadline;
        let looked_at = record.intent.as_ref().map_or_else(|| self.world().now(), |intent| intent.sent_at);
        let send_by = begun + keeper::send_within(&record, &policy.policy, looked_at);
        let secs = policy.policy.deadline.as_secs();
        let world = policy.world.clone();
        let mut settling = Settling { chain, policy, claim, late: false, receipt, done: Some(done) };
        let sent_at = self.world().monotonic();
        if sent_at >= send_by {
            let why = "the deadline had passed before anything was sent".into();
            self.settle_answer(reservation, settling, Answer::NotSent { why }).await;
            return;
        }
        let exchanged = |chain: &ChainName, answer: Option<&Answer>| {
            let took = self.world().monotonic().saturating_sub(sent_at);
            let (position, ended) = (Some(record.position()), self.world().now());
            self.world().traces().exchanged(&Exchange { chain, position, why, answer, ended, took });
            took
        };
        let answer: Answering = Box::pin(async move { world.exchange(request).await });
        let left = pin!(self.world().sleep(deadline.saturating_sub(sent_at)));
        match select(answer, left).await {
            Either::Left((answer, _)) => {
                let took = exchanged(&settling.chain, Some(&answer));
                if self.watched(|watched| watched.contains_key(&settling.chain)) {
                    self.0.parts.metrics.exchanged(&settling.chain, took);
                }
                self.settle_answer(reservation, settling, answer).await;
            }
            // The lease runs out, the receipt's lock stays: others see that an answer is still being read.
            Either::Right(((), answer)) => {
                exchanged(&settling.chain, None);
                seen.record = Some(record);
                seen.fail(Reason::InDoubt, format!("no answer within {secs} s; it is still being read"));
                self.finish(&settling.chain, seen, settling.done.take());
                settling.late = true;
                self.read_on(reservation, settling, answer).await;
            }
        }
    }

    /// Goes on reading after the deadline: the answer may hold the only successor.
    async fn read_on(&self, reservation: Reservation<W::Disk>, settling: Settling<W>, answer: Answering) {
        let limit = pin!(self.world().sleep(READ_LIMIT));
        match select(answer, limit).await {
            Either::Left((answer, _)) => self.settle_answer(reservation, settling, answer).await,
            Either::Right(((), _)) => {
                drop(reservation);
                tracing::debug!(chain = %settling.chain, "an answer is not waited for any longer");
            }
        }
    }

    async fn settle_answer(
        &self,
        reservation: Reservation<W::Disk>,
        mut settling: Settling<W>,
        answer: Answer,
    ) {
        crash::point("answered");
        let now = self.world().now();
        if let Some(offset) = clock_offset(&settling.chain, &answer, now) {
            self.watched(|watched| {
                if let Some(last) = watched.get_mut(&settling.chain) {
                    last.clock_offset_secs = Some(offset);
                }
            });
        }
        settling.receipt.state = ReceiptState::Answered { at: now, answer };
        let unwritten = self.keep_answer(&settling.chain, reservation, settling.receipt.clone()).await;
        self.commit_answer(settling, unwritten).await;
    }

    /// Commits an answer, again and again until it is of record, or until the chain has moved on without it: for as long
    /// as this process lives. What is only in memory is written down as soon as that can be done.
    async fn commit_answer(&self, settling: Settling<W>, mut unwritten: Option<Reservation<W::Disk>>) {
        let Settling { chain, policy, claim, late, receipt, mut done } = settling;
        let chain = &chain;
        let mut row = (!late).then(|| claim.row.clone());
        loop {
            let mut seen = Seen {
                record: row.as_ref().map(|row| row.record.clone()),
                reason: receipt.tokens().is_some().then_some(Reason::Renewed),
                ..Seen::default()
            };
            let in_memory = unwritten.is_some().then_some(&receipt);
            let settled = self.settle_found(chain, &policy, None, row.take(), in_memory, &mut seen).await;
            // Somebody else's finding may go first. A receipt is found again later; what is only in memory is not.
            let open = |record: &Record| {
                receipt.is_awaited(record) || in_memory.is_some() && receipt.may_follow(record)
            };
            let over = match settled {
                Ok(settled) => {
                    // A login has come first, and left the lease to this answer.
                    if let Settled::Clean(..) = settled {
                        self.give_back(&claim, None).await;
                    }
                    !seen.record.as_ref().is_some_and(open)
                }
                Err(stuck) => {
                    seen.fail(Reason::VaultUnwritable, format!("the answer waits on this machine: {stuck}"));
                    false
                }
            };
            self.finish(chain, seen, done.take());
            if over {
                return;
            }
            self.world().sleep(TRY_AGAIN).await;
            if let Some(reservation) = unwritten {
                unwritten = self.keep_answer(chain, reservation, receipt.clone()).await;
            }
        }
    }

    /// Step 6. Gives the reservation back if the answer is only in memory: its lock goes on saying that the answer is in
    /// somebody's hands.
    pub(super) async fn keep_answer(
        &self,
        chain: &ChainName,
        reservation: Reservation<W::Disk>,
        receipt: Receipt,
    ) -> Option<Reservation<W::Disk>> {
        let (keeper, chain, mut rng) = (self.clone(), chain.clone(), self.world().rng());
        let work = move || {
            let ReceiptState::Answered { at, answer } = &receipt.state else {
                return Some(reservation);
            };
            let written = keeper.0.parts.receipts.write(&reservation, &chain, (*at, answer), &mut rng);
            crash::point("receipt_written");
            let error = written.err()?;
            tracing::error!(%chain, attempt = receipt.attempt.0, %error, "the answer could not be written down; it is committed from memory");
            Some(reservation)
        };
        self.world().offload(work).await
    }
}

/// An answer on its way into the row.
struct Settling<W: World> {
    chain: ChainName,
    policy: Arc<RowPolicy<W>>,
    /// The row as this task wrote it.
    claim: Claim,
    /// The deadline has passed: others may have moved the row.
    late: bool,
    receipt: Receipt,
    done: Option<oneshot::Sender<keeper::Report>>,
}
