//! A person's login: what it asks for, and what it gives in the shape of the auth file (SPEC §3).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a login asks for; what is absent follows the settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoginOptions {
    /// Scopes of the grant.
    pub scopes: Option<Vec<String>>,
    /// Life of its access tokens in seconds.
    pub access_secs: Option<u64>,
    /// Life of an unused refresh token in seconds.
    pub refresh_idle_secs: Option<u64>,
    /// Life of the grant in seconds.
    pub grant_secs: Option<u64>,
    /// Whether the grant has no refresh token.
    pub without_refresh_token: bool,
}

/// What a login gave. Raw tokens: this is the one door by which they leave besides the token endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The family that it began.
    pub family: u64,
    /// Access token.
    pub access_token: String,
    /// Refresh token, unless none was wanted.
    pub refresh_token: Option<String>,
    /// End of the access token.
    pub expires_at: Timestamp,
    /// End of the grant, where one is set.
    pub grant_expires_at: Option<Timestamp>,
    /// Scopes.
    pub scopes: Vec<String>,
    /// `subscriptionType`.
    pub subscription_type: Option<String>,
    /// `rateLimitTier`.
    pub rate_limit_tier: Option<String>,
}

impl Login {
    /// The auth file's content (SPEC §3).
    pub fn auth_file(&self) -> Value {
        json!({"claudeAiOauth": {
            "accessToken": self.access_token,
            "refreshToken": self.refresh_token,
            "expiresAt": self.expires_at.as_millisecond(),
            "refreshTokenExpiresAt": self.grant_expires_at.map(Timestamp::as_millisecond),
            "scopes": self.scopes,
            "subscriptionType": self.subscription_type,
            "rateLimitTier": self.rate_limit_tier,
        }})
    }
}
