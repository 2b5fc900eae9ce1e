//! What one human authorization gave, and the identity of its current pair (SPEC §1).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::secret::{AccessToken, Fingerprint, RefreshToken};

/// A grant as it lies in a vault.
///
/// `expires_at` is `None` where the vault does not say; the keeper then assumes a life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The access token.
    pub access: AccessToken,
    /// The refresh token; a grant without one is `static`.
    pub refresh: Option<RefreshToken>,
    /// When the access token ends.
    pub expires_at: Option<Timestamp>,
    /// When the grant itself ends, whatever is rotated.
    pub grant_expires_at: Option<Timestamp>,
    /// What the access token may be used for; empty if unknown.
    pub scopes: Vec<String>,
}

impl Grant {
    /// The identity of the pair.
    pub fn pair(&self) -> PairId {
        PairId {
            access: self.access.fingerprint(),
            refresh: self.refresh.as_ref().map(RefreshToken::fingerprint),
        }
    }
}

/// Which pair: compares both tokens and reveals neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PairId {
    /// Of the access token.
    pub access: Fingerprint,
    /// Of the refresh token, if there is one.
    pub refresh: Option<Fingerprint>,
}

impl PairId {
    /// The grant's fingerprint: of the refresh token, or of the access token where there is none (SPEC §5).
    pub fn fingerprint(self) -> Fingerprint {
        self.refresh.unwrap_or(self.access)
    }
}
