//! Steps 5 to 8: send once, keep the answer before anything looks at it, then settle it the way that a crash
//! would be settled: by finding the receipt.

use std::pin::{Pin, pin};
use std::time::Duration;

use evergrant_core::health::MOST_SKEW_SECS;
use evergrant_core::keeper::{
    self, Answer, CLIENT_LOCK_TOUCH, READ_LIMIT, Receipt, ReceiptState, clock_offset_secs,
};
use evergrant_core::{ChainName, Reason};
use evergrant_store::{Held, Reservation, crash};
use futures_util::future::{Either, select};
use jiff::Timestamp;

use super::Keeper;
use super::looked::Looked;
use super::step::{self, Sending};
use crate::traces::Exchange;
use crate::world::World;

/// How long a task waits for the lock before it tries again to commit an answer that it could not write down.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// What became of an exchange.
pub(super) enum Sent<W: World> {
    /// It was answered, or never sent.
    Settled(Looked),
    /// The deadline passed; the answer may still come.
    Late { looked: Looked, reading: Reading<W> },
}

/// An exchange whose answer is still being read.
pub(super) struct Reading<W: World> {
    reservation: Reservation<W::Disk>,
    receipt: Receipt,
    answer: Pin<Box<dyn Future<Output = Answer> + Send>>,
}

impl<W: World> Keeper<W> {
    pub(super) async fn send(&self, sending: Sending<W>) -> Sent<W> {
        let Sending { held, reservation, request, record, why, looked, begun } = sending;
        let world = &self.0.world;
        let receipt = Receipt::reserved(reservation.attempt(), &record);
        // Step 5. A process that slept through its deadline, or lost the client's locks, sends nothing.
        let deadline = begun + self.0.policy.deadline;
        let looked_at = record.intent.as_ref().map_or_else(|| world.now(), |intent| intent.sent_at);
        let send_by = begun + keeper::send_within(&record, &self.0.policy, looked_at);
        let look_again = move || (held.still_held(), held);
        let (still_held, mut held) = world.offload(look_again).await;
        let sent_at = world.monotonic();
        if !still_held || sent_at >= send_by {
            let why = "the deadline had passed, or the client's locks were lost, before anything was sent";
            let answer = Answer::NotSent { why: why.into() };
            return Sent::Settled(self.settle_answer(held, reservation, receipt, answer, looked).await);
        }
        let exchanged = |answer: Option<&Answer>| {
            let took = world.monotonic().saturating_sub(sent_at);
            let (chain, position, ended) = (&self.0.chain, Some(record.position()), world.now());
            world.traces().exchanged(&Exchange { chain, position, why, answer, ended, took });
            took
        };
        let world_of_answer = world.clone();
        let mut answer: Pin<Box<dyn Future<Output = Answer> + Send>> =
            Box::pin(async move { world_of_answer.exchange(request).await });
        loop {
            let left = deadline.saturating_sub(world.monotonic());
            if left.is_zero() {
                // The lock goes, the receipt's lock stays: others see that an answer is still being read.
                drop(held);
                exchanged(None);
                let looked = self.late(looked);
                return Sent::Late { looked, reading: Reading { reservation, receipt, answer } };
            }
            let pause = pin!(world.sleep(left.min(CLIENT_LOCK_TOUCH)));
            match select(answer, pause).await {
                Either::Left((answer, _)) => {
                    self.0.metrics.exchanged(&self.0.chain, exchanged(Some(&answer)));
                    return Sent::Settled(
                        self.settle_answer(held, reservation, receipt, answer, looked).await,
                    );
                }
                Either::Right(((), pending)) => answer = pending,
            }
            held = world
                .offload(move || {
                    held.touch();
                    held
                })
                .await;
        }
    }

    fn late(&self, mut looked: Looked) -> Looked {
        let secs = self.0.policy.deadline.as_secs();
        looked.reason = Some(Reason::InDoubt);
        looked.error = Some(Reason::InDoubt);
        looked.detail = Some(format!("no answer within {secs} s; it is still being read"));
        looked
    }

    /// Step 6 and 7 under the lock that is still held.
    async fn settle_answer(
        &self,
        held: Held<W::Disk>,
        reservation: Reservation<W::Disk>,
        receipt: Receipt,
        answer: Answer,
        looked: Looked,
    ) -> Looked {
        crash::point("answered");
        let receipt = self.answered(receipt, answer);
        let keeper = self.clone();
        let ours = receipt.clone();
        let work = move || {
            let unwritten = keep_answer(reservation, &ours);
            let looked = keeper.settle_receipt(&held, &ours, unwritten.is_some(), looked);
            (looked, unwritten)
        };
        let (looked, unwritten) = self.0.world.offload(work).await;
        if unwritten.is_some() && is_open(&looked, &receipt) {
            let keeper = self.clone();
            self.0.world.spawn(async move { keeper.commit_late(receipt, unwritten).await });
        }
        looked
    }

    fn answered(&self, receipt: Receipt, answer: Answer) -> Receipt {
        let now = self.0.world.now();
        if let Some(offset) = clock_offset(&self.0.chain, &answer, now) {
            self.last(|last| last.clock_offset_secs = Some(offset));
        }
        Receipt { state: ReceiptState::Answered { at: now, answer }, ..receipt }
    }

    /// Finds the receipt, as a process would after a crash.
    fn settle_receipt(
        &self,
        held: &Held<W::Disk>,
        ours: &Receipt,
        unwritten: bool,
        mut looked: Looked,
    ) -> Looked {
        looked.reason = ours.tokens().is_some().then_some(Reason::Renewed);
        looked.error = None;
        let in_memory = unwritten.then_some(ours);
        match step::settle_found(self, held, looked.record.clone(), in_memory, &mut looked) {
            Ok(Some((record, _))) => {
                let now = self.0.world.now();
                let next = keeper::decide(&record, &self.0.policy, keeper::Look::Due, now);
                self.take_rest(&mut looked, next);
            }
            Ok(None) => {}
            Err(error) => {
                looked.reason = Some(Reason::VaultUnwritable);
                looked.error = Some(Reason::VaultUnwritable);
                looked.detail = Some(error.to_string());
            }
        }
        looked
    }

    /// What the settled chain is left with, for the report.
    fn take_rest(&self, looked: &mut Looked, next: keeper::Decision) {
        match next {
            keeper::Decision::Rest { reason, error } => {
                looked.error = error;
                if error.is_some() || looked.reason.is_none() {
                    looked.reason = Some(reason);
                }
            }
            // Presented again at once, where the provider grants a grace.
            keeper::Decision::Exchange(Reason::DoubtPresentation) => {
                looked.error = Some(Reason::InDoubt);
                looked.reason = Some(Reason::InDoubt);
            }
            keeper::Decision::Exchange(_) => {}
        }
    }

    /// Goes on reading after the deadline: the answer may hold the only successor.
    pub(super) async fn read_on(&self, reading: Reading<W>) {
        let Reading { reservation, receipt, answer } = reading;
        let limit = pin!(self.0.world.sleep(READ_LIMIT));
        let answer = match select(answer, limit).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => {
                drop(reservation);
                self.poke();
                return;
            }
        };
        crash::point("answered");
        let receipt = self.answered(receipt, answer);
        let ours = receipt.clone();
        let unwritten = self.0.world.offload(move || keep_answer(reservation, &ours)).await;
        self.commit_late(receipt, unwritten).await;
    }

    /// Commits an answer that came late, or that could not be written down. What is only in memory is written and
    /// committed whenever that can be done, for as long as this process lives, or until the chain has moved on.
    async fn commit_late(&self, receipt: Receipt, mut unwritten: Option<Reservation<W::Disk>>) {
        loop {
            let (keeper, ours) = (self.clone(), receipt.clone());
            let work = move || {
                let unwritten = unwritten.and_then(|reservation| keep_answer(reservation, &ours));
                let mut looked = Looked::default();
                let held = step::lock(&keeper, &mut looked);
                let settle = |held| keeper.settle_receipt(&held, &ours, unwritten.is_some(), looked);
                (held.map(settle), unwritten)
            };
            let (looked, still) = self.0.world.offload(work).await;
            unwritten = still;
            if let Some(looked) = looked {
                let in_memory_only = unwritten.is_some() && is_open(&looked, &receipt);
                let unsettled = looked.error == Some(Reason::VaultUnwritable);
                self.finish(looked, None).await;
                if !in_memory_only && !unsettled {
                    self.poke();
                    return;
                }
            }
            self.0.world.sleep(TRY_AGAIN).await;
        }
    }
}

/// How far the provider's clock is ahead of ours by its answer; too far is said.
pub(crate) fn clock_offset(chain: &ChainName, answer: &Answer, now: Timestamp) -> Option<i64> {
    let offset = clock_offset_secs(answer, now)?;
    if offset.abs() > MOST_SKEW_SECS {
        let reason = Reason::ClockSkew;
        tracing::warn!(%chain, %reason, offset, "our clock is off the provider's");
    }
    Some(offset)
}

fn is_open(looked: &Looked, receipt: &Receipt) -> bool {
    looked.record.as_ref().is_some_and(|record| receipt.is_awaited(record))
}

/// Step 6. Gives the reservation back if the answer is only in memory: its lock goes on saying that the answer is in
/// somebody's hands.
fn keep_answer<D: evergrant_store::Disk>(
    reservation: Reservation<D>,
    receipt: &Receipt,
) -> Option<Reservation<D>> {
    let ReceiptState::Answered { at, answer } = &receipt.state else {
        return Some(reservation);
    };
    let written = reservation.write(*at, answer);
    crash::point("receipt_written");
    let error = written.err()?;
    tracing::error!(attempt = receipt.attempt.0, %error, "the answer could not be written down; it is committed from memory");
    Some(reservation)
}
