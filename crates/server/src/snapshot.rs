//! What readers see: the current access token of each chain, in memory, never an older one after a newer one
//! (SPEC §4 step 8).

use std::sync::Arc;

use evergrant_core::chain::Record;
use evergrant_core::grant::Grant;
use evergrant_core::{AccessToken, ChainName, Generation, Lineage};
use jiff::Timestamp;
use rpds::HashTrieMapSync;

use crate::published::Published;

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

/// The access tokens of chains. A copy shares what has not changed: there may be very many.
pub type Tokens = HashTrieMapSync<ChainName, Current>;

/// The snapshots of all chains.
#[derive(Debug, Clone, Default)]
pub struct Snapshots(Arc<Published<Tokens>>);

impl Snapshots {
    /// Publishes a chain's access token, unless a newer one is published already. Says whether it was taken.
    pub fn publish(&self, record: &Record, grant: &Grant) -> bool {
        let next = Current {
            position: record.position(),
            access: grant.access.clone(),
            expires_at: record.expires_at,
            refused: record.access_refused,
            present: true,
        };
        self.put(&record.chain, next)
    }

    /// The same for an access token that no record stands behind.
    pub fn put(&self, chain: &ChainName, next: Current) -> bool {
        let mut taken = true;
        self.0.replace(|chains| {
            let current = chains.get(chain);
            taken = current.is_none_or(|current| current.position <= next.position);
            if !taken || current == Some(&next) {
                return None;
            }
            Some(chains.insert(chain.clone(), next))
        });
        taken
    }

    /// Notes that the vault holds no grant any more.
    pub fn withdraw(&self, chain: &ChainName) {
        self.0.replace(|chains| {
            let current = chains.get(chain).filter(|current| current.present)?;
            Some(chains.insert(chain.clone(), Current { present: false, ..current.clone() }))
        });
    }

    /// Forgets a chain, for another one that will have its name: its positions begin anew.
    pub fn forget(&self, chain: &ChainName) {
        self.0.replace(|chains| chains.get(chain).map(|_| chains.remove(chain)));
    }

    /// Forgets all chains but those of which `keep` says so.
    pub fn keep_only(&self, keep: impl Fn(&ChainName) -> bool) {
        let forgotten: Vec<_> = self.0.current().keys().filter(|chain| !keep(chain)).cloned().collect();
        forgotten.iter().for_each(|chain| self.forget(chain));
    }

    /// The chain's access token.
    pub fn current(&self, chain: &ChainName) -> Option<Current> {
        self.0.current().get(chain).cloned()
    }

    /// For readers that look at every request.
    pub fn published(&self) -> &Published<Tokens> {
        &self.0
    }
}
