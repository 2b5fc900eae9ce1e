//! What readers see: the current access token of each chain, in memory, never an older one after a newer one
//! (SPEC §4 step 8).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use evergrant_core::chain::Record;
use evergrant_core::grant::Grant;
use evergrant_core::{AccessToken, ChainName, Generation, Lineage};
use jiff::Timestamp;

/// The access token of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Its lineage and generation.
    pub position: (Lineage, Generation),
    /// The access token.
    pub access: AccessToken,
    /// When it ends.
    pub expires_at: Timestamp,
    /// A 401 was seen for it.
    pub refused: bool,
    /// The vault holds it; an auth file that was taken away may be put back.
    pub present: bool,
}

impl Current {
    /// Whether it may be used at `now`.
    pub fn usable(&self, now: Timestamp) -> bool {
        self.present && !self.refused && now < self.expires_at
    }
}

/// The snapshots of all chains.
#[derive(Debug, Clone, Default)]
pub struct Snapshots(Arc<RwLock<BTreeMap<ChainName, Current>>>);

impl Snapshots {
    /// Publishes a chain's access token, unless a newer one is published already. Says whether it was taken.
    pub fn publish(&self, record: &Record, grant: &Grant) -> bool {
        let mut chains = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let next = Current {
            position: record.position(),
            access: grant.access.clone(),
            expires_at: record.expires_at,
            refused: record.access_refused,
            present: true,
        };
        match chains.get(&record.chain) {
            Some(current) if current.position > next.position => false,
            Some(_) | None => {
                chains.insert(record.chain.clone(), next);
                true
            }
        }
    }

    /// Notes that the vault holds no grant any more.
    pub fn withdraw(&self, chain: &ChainName) {
        let mut chains = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = chains.get_mut(chain) {
            current.present = false;
        }
    }

    /// The chain's access token.
    pub fn current(&self, chain: &ChainName) -> Option<Current> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(chain).cloned()
    }
}
