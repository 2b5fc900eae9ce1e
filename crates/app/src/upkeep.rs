//! Forgets what is older than the configuration keeps it, whatever is read again meanwhile.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_server::{Renewal, World as _};
use evergrant_store::State as _;

use crate::config::{RetentionSettings, Settings};
use crate::host::{Chain, World};

/// The first time comes soon after the start: a server that is started every day forgets, too.
const FIRST: Duration = Duration::from_secs(60);
/// How often after that.
pub(crate) const EVERY: Duration = Duration::from_secs(24 * 3600);

/// What is forgotten, as the newest configuration says.
#[derive(Clone, Default)]
pub(crate) struct Upkeep(Arc<Mutex<Option<Kept>>>);

/// How long the past is kept, and the chains that keep some of it themselves.
#[derive(Clone)]
struct Kept {
    retention: RetentionSettings,
    chains: Vec<Chain>,
}

impl Upkeep {
    /// Goes by this configuration from now on, at the times at which it would have gone by the one before.
    pub(crate) fn go_by(&self, settings: &Settings, chains: &[Chain]) {
        let kept = Kept { retention: settings.retention, chains: chains.to_vec() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }

    /// Forgets again and again. It may be ended anywhere.
    pub(crate) async fn run(self, world: World) {
        let mut wait = FIRST;
        loop {
            tokio::time::sleep(wait).await;
            wait = EVERY;
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(kept) = kept {
                kept.forget_the_rest(&world).await;
            }
        }
    }
}

impl Kept {
    async fn forget_the_rest(&self, world: &World) {
        let RetentionSettings { events, rotations } = self.retention;
        let now = world.now();
        match world.state().prune(now - events, now - rotations).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "old events were forgotten"),
            Err(error) => tracing::warn!(%error, "old events could not be forgotten"),
        }
        for chain in &self.chains {
            match &chain.renewal {
                Renewal::Keeper(keeper) => keeper.forget_replaced(now - rotations).await,
                Renewal::Row(_) | Renewal::Minter(_) | Renewal::ApiKey(_) => {}
            }
        }
    }
}
