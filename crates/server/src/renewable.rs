//! A chain of whatever kind, as the probe and the gateway see it: its access token lies in the snapshots, and what
//! renews it is told when the API refused one (SPEC §3, §7, §8).

use std::future::Future;

use evergrant_core::ChainName;
use evergrant_core::gateway::Position;
use evergrant_core::keeper::Report;
use evergrant_core::provider::Profile;
use evergrant_core::secret::{AccessToken, ApiKey};

/// What is behind a chain's access token.
pub trait Renewable: Send + Sync {
    /// The chain.
    fn chain(&self) -> &ChainName;

    /// Its provider.
    fn profile(&self) -> &Profile;

    /// The report of the last look.
    fn last_report(&self) -> Option<Report>;

    /// The access token at this position was refused (401), and a probe agreed. It does nothing if that position is
    /// not the current one any more, and otherwise gets another one, where the kind of the chain can.
    fn access_refused(&self, position: Position) -> impl Future<Output = Report> + Send;

    /// What the snapshots hold of it is an API key, in place of an access token.
    fn is_api_key(&self) -> bool {
        false
    }
}

/// What a call to the API is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    /// An access token.
    AccessToken(AccessToken),
    /// An API key.
    ApiKey(ApiKey),
}

impl Pass {
    /// Of the text that the snapshots hold for a chain.
    pub fn of(chain: &impl Renewable, held: &AccessToken) -> Self {
        match chain.is_api_key().then(|| ApiKey::parse(held.expose())) {
            Some(Ok(key)) => Self::ApiKey(key),
            Some(Err(_)) | None => Self::AccessToken(held.clone()),
        }
    }
}
