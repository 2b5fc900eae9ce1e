//! Streamed answers that go on only when a test says so: it sees each event before the next one exists.

use std::sync::Arc;

use tokio::sync::watch;

/// Open, or closed but for so many more events. Clones are the same gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<watch::Sender<Option<u64>>>);

impl Gate {
    pub(crate) fn open() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// `None`: every event passes; else so many more do.
    pub(crate) fn set(&self, left: Option<u64>) {
        self.0.send_replace(left);
    }

    /// So many more events pass. An open gate stays open.
    pub(crate) fn let_go(&self, events: u64) {
        self.0.send_modify(|left| *left = left.map(|left| left.saturating_add(events)));
    }

    /// Ready when one event may pass, and counts it.
    pub(crate) async fn pass(self) {
        let mut changes = self.0.subscribe();
        loop {
            let mut passes = false;
            self.0.send_if_modified(|left| {
                passes = *left != Some(0);
                *left = left.map(|left| left.saturating_sub(1));
                false
            });
            // The sender is here, so that this cannot fail.
            if passes || changes.changed().await.is_err() {
                return;
            }
        }
    }
}
