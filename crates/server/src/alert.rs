//! The alerter: takes alerts out of the outbox and hands them to their sinks, in order, until each took it (SPEC §6).

pub mod mail;
mod repost;
pub mod sink;

pub use evergrant_core::alert::Outcome;
pub use repost::{repost, repost_all};
pub use sink::Courier;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::alert::{Alert, Delivery, Settled, try_again_at};
use evergrant_store::{HealthState, StateError};
use futures_channel::mpsc::{self, Receiver, UnboundedReceiver};
use futures_util::StreamExt as _;
use futures_util::future::{Either, join, join_all, select};

use crate::world::World;

/// The outbox is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
/// A sink is one process's for so long while it delivers; longer than any delivery takes.
const LEASE: Duration = Duration::from_secs(60);

/// Hands alerts to sinks.
pub trait Deliver: Send + Sync + 'static {
    /// Hands an alert to the sink of this name; it takes less than 50 s.
    fn deliver(&self, sink: &str, alert: &Alert) -> impl Future<Output = Outcome> + Send;
}

/// Delivers what is due to some sinks.
#[derive(Debug, Clone)]
pub struct Alerter<W, D> {
    world: W,
    sinks: Arc<[String]>,
    /// Its name among other processes: another one at each start.
    holder: Arc<str>,
    deliver: Arc<D>,
}

impl<W, D> Alerter<W, D>
where
    W: World<State: HealthState>,
    D: Deliver,
{
    /// An alerter for the sinks of these names; `holder` is its own name, which no other process has.
    pub fn new(world: W, sinks: impl IntoIterator<Item = String>, holder: &str, deliver: Arc<D>) -> Self {
        Self { world, sinks: sinks.into_iter().collect(), holder: holder.into(), deliver }
    }

    /// Delivers until `pokes` ends. Each sink goes its own pace.
    pub async fn run(self, mut pokes: UnboundedReceiver<()>) {
        let failing = Failing::default();
        let (mut wakes, mut paces) = (Vec::new(), Vec::new());
        for sink in self.sinks.iter() {
            let (wake, woken) = mpsc::channel(0);
            wakes.push(wake);
            paces.push(self.keep_delivering(sink, woken, &failing));
        }
        // They end when it ends, and what wakes them with it.
        let hand_on = async move {
            while let Some(()) = pokes.next().await {
                // Whoever is to look anyway needs no second word.
                wakes.iter_mut().for_each(|wake| drop(wake.try_send(())));
            }
        };
        join(hand_on, join_all(paces)).await;
    }

    /// The loop of one sink.
    async fn keep_delivering(&self, sink: &str, mut woken: Receiver<()>, failing: &Failing) {
        let (mut unrecorded, mut failed) = (None, false);
        loop {
            let fault = self.deliver_due(sink, &mut unrecorded).await.err();
            let is_first = failing.is_first(&mut failed, fault.is_some());
            if let Some(error) = fault.filter(|_| is_first) {
                tracing::error!(reason = %Reason::StateUnavailable, %error, "alerts cannot be delivered");
            }
            let sleep = std::pin::pin!(self.world.sleep(LOOK));
            match select(woken.next(), sleep).await {
                Either::Left((None, _)) => break,
                Either::Left((Some(()), _)) | Either::Right(((), _)) => {}
            }
        }
        if let Err(error) = self.record(&mut unrecorded).await {
            tracing::error!(
                reason = %Reason::StateUnavailable, sink, %error,
                "what came of the last alert could not be recorded: it will be sent again"
            );
        }
    }

    /// Delivers to one sink what is due, until nothing is.
    pub async fn deliver_all(&self, sink: &str) -> Result<(), StateError> {
        self.deliver_due(sink, &mut None).await
    }

    async fn deliver_due(&self, sink: &str, unrecorded: &mut Option<Unrecorded>) -> Result<(), StateError> {
        while self.deliver_one(sink, unrecorded).await? {}
        Ok(())
    }

    /// Says whether the next one may follow at once.
    async fn deliver_one(&self, sink: &str, unrecorded: &mut Option<Unrecorded>) -> Result<bool, StateError> {
        // Otherwise the same one would be claimed and sent again.
        self.record(unrecorded).await?;
        let state = self.world.state();
        let Some(delivery) = state.claim_delivery(sink, &self.holder, self.world.now(), LEASE).await? else {
            return Ok(false);
        };
        let outcome = self.deliver.deliver(sink, &delivery.alert).await;
        let at = self.world.now();
        let settled = settle(&delivery, outcome, at);
        log(&delivery, &settled);
        let goes_on = !matches!(settled, Settled::Again { .. });
        *unrecorded = Some(Unrecorded { delivery, settled, at });
        self.record(unrecorded).await?;
        Ok(goes_on)
    }

    /// Writes down what is not yet.
    async fn record(&self, unrecorded: &mut Option<Unrecorded>) -> Result<(), StateError> {
        if let Some(Unrecorded { delivery, settled, at }) = unrecorded {
            self.world.state().settle_delivery(delivery, &self.holder, settled, *at).await?;
            *unrecorded = None;
        }
        Ok(())
    }
}

/// What came of a delivery, until the state takes it.
struct Unrecorded {
    delivery: Delivery,
    settled: Settled,
    at: jiff::Timestamp,
}

/// How many sinks find that the state fails: that is said once, and not by each.
#[derive(Default)]
struct Failing(AtomicUsize);

impl Failing {
    /// Notes how it went for one of them, which `failed` the time before; says whether it is the first to fail.
    fn is_first(&self, failed: &mut bool, fails: bool) -> bool {
        match (std::mem::replace(failed, fails), fails) {
            (false, true) => self.0.fetch_add(1, Ordering::AcqRel) == 0,
            (true, false) => {
                self.0.fetch_sub(1, Ordering::AcqRel);
                false
            }
            (false, false) | (true, true) => false,
        }
    }
}

/// What an outcome comes to.
fn settle(delivery: &Delivery, outcome: Outcome, now: jiff::Timestamp) -> Settled {
    match outcome {
        Outcome::Delivered => Settled::Delivered,
        Outcome::Refused { detail } => Settled::Dropped { reason: Reason::SinkRefused, detail },
        Outcome::Unavailable { retry_after, detail } => {
            match try_again_at(delivery.alert.at, delivery.attempts, retry_after, now) {
                Some(at) => Settled::Again { at, detail },
                None => Settled::Dropped { reason: Reason::SinkGivenUp, detail },
            }
        }
    }
}

fn log(delivery: &Delivery, settled: &Settled) {
    let Delivery { sink, alert, .. } = delivery;
    match settled {
        Settled::Delivered => {
            tracing::info!(reason = %Reason::Delivered, %sink, alert = alert.id, "the alert was delivered");
        }
        Settled::Again { at, detail } => tracing::warn!(
            reason = %Reason::SinkUnavailable, %sink, alert = alert.id, detail, again_at = %at,
            "the alert could not be delivered yet"
        ),
        Settled::Dropped { reason, detail } => {
            tracing::error!(%reason, %sink, alert = alert.id, detail, "the alert was not delivered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_state_fails_is_said_once_until_every_sink_is_past_it() {
        let failing = Failing::default();
        let mut sinks = [false, false];
        let mut said = |sink: usize, fails| failing.is_first(&mut sinks[sink], fails);
        let steps = [
            (0, true, true),
            (0, true, false),
            (1, true, false),
            (0, false, false),
            (0, true, false),
            (0, false, false),
            (1, false, false),
            (1, false, false),
            (1, true, true),
        ];
        for (step, (sink, fails, says)) in steps.into_iter().enumerate() {
            assert_eq!(said(sink, fails), says, "step {step}");
        }
    }
}
