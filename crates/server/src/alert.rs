//! The alerter: takes alerts out of the outbox and hands them to their sinks, in order, until each took it (SPEC §6).

pub mod mail;
mod repost;
pub mod sink;

pub use evergrant_core::alert::Outcome;
pub use repost::{repost, repost_all};
pub use sink::Courier;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::alert::{Alert, Delivery, Settled, try_again_at};
use evergrant_store::{HealthState, StateError};
use futures_channel::mpsc::UnboundedReceiver;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};

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
        let mut failing = false;
        loop {
            let passes = self.sinks.iter().map(|sink| self.deliver_all(sink));
            let faults = futures_util::future::join_all(passes).await;
            let fault = faults.into_iter().find_map(Result::err);
            if let Some(error) = fault.as_ref().filter(|_| !failing) {
                tracing::error!(reason = %Reason::StateUnavailable, %error, "alerts cannot be delivered");
            }
            failing = fault.is_some();
            let sleep = std::pin::pin!(self.world.sleep(LOOK));
            match select(pokes.next(), sleep).await {
                Either::Left((None, _)) => return,
                Either::Left((Some(()), _)) | Either::Right(((), _)) => {}
            }
        }
    }

    /// Delivers to one sink what is due, until nothing is.
    pub async fn deliver_all(&self, sink: &str) -> Result<(), StateError> {
        while self.deliver_one(sink).await? {}
        Ok(())
    }

    /// Says whether the next one may follow at once.
    async fn deliver_one(&self, sink: &str) -> Result<bool, StateError> {
        let now = self.world.now();
        let state = self.world.state();
        let Some(delivery) = state.claim_delivery(sink, &self.holder, now, LEASE).await? else {
            return Ok(false);
        };
        let outcome = self.deliver.deliver(sink, &delivery.alert).await;
        let now = self.world.now();
        let settled = settle(&delivery, outcome, now);
        log(&delivery, &settled);
        state.settle_delivery(&delivery, &self.holder, &settled, now).await?;
        Ok(!matches!(settled, Settled::Again { .. }))
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
