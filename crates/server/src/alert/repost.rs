//! Open episodes, posted again and again to sinks that would forget them (SPEC §6). Nothing of it is remembered: the next
//! look brings them all again.

use std::collections::BTreeMap;

use evergrant_core::alert::{Alert, Outcome, Sink};
use futures_channel::mpsc::UnboundedReceiver;
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::Courier;

/// Posts whatever `open` brings at once, until it ends: whoever brings it does so at the pace that sinks want.
pub async fn repost_all(courier: Courier, mut open: UnboundedReceiver<Vec<Alert>>) {
    let sinks: Vec<_> = courier.sinks().iter().filter(|sink| sink.repost_every().is_some()).collect();
    while let Some(alerts) = open.next().await {
        for sink in &sinks {
            post(&courier, sink, &alerts).await;
        }
    }
}

async fn post(courier: &Courier, sink: &Sink, alerts: &[Alert]) {
    for alert in alerts.iter().filter(|alert| sink.wants(alert)) {
        if let Outcome::Unavailable { detail, .. } | Outcome::Refused { detail } =
            courier.send(sink, alert).await
        {
            tracing::warn!(sink = sink.name, detail, "an open episode could not be posted again");
        }
    }
}

/// Posts what `open` brings, each sink at its own pace, until it ends.
pub async fn repost(courier: Courier, mut open: UnboundedReceiver<Vec<Alert>>) {
    let mut posted: BTreeMap<&str, Instant> = BTreeMap::new();
    let sinks: Vec<_> = courier.sinks().iter().filter(|sink| sink.repost_every().is_some()).collect();
    while let Some(mut alerts) = open.next().await {
        // Only the newest counts: one that has closed meanwhile must not be posted as open.
        while let Ok(newer) = open.try_recv() {
            alerts = newer;
        }
        for sink in &sinks {
            // Looks come at that pace by themselves; those that somebody asks for come between.
            let pause = sink.repost_every().unwrap_or_default() / 2;
            let now = Instant::now();
            if posted.get(sink.name.as_str()).is_some_and(|last| now.duration_since(*last) < pause) {
                continue;
            }
            posted.insert(&sink.name, now);
            post(&courier, sink, &alerts).await;
        }
    }
}
