//! What the stand-in is told at its start, and may be told anew while it runs: paths, client, prefixes, lives, reuse
//! class, shape of the answer (SPEC §3). Every member has a neutral default; none names a provider.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::ObjectRules;

/// How the stand-in behaves. Serialises to and from JSON; unknown members are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Path of the token endpoint.
    pub token_path: String,
    /// Path of the roles endpoint, which the probe asks.
    pub probe_path: String,
    /// Who may exchange.
    pub client: Client,
    /// What every access token begins with.
    pub access_prefix: String,
    /// What every refresh token begins with.
    pub refresh_prefix: String,
    /// The header that OAuth requests must carry; `null` requires none.
    pub capability: Option<Capability>,
    /// Whether the token endpoint takes JSON bodies.
    pub accepts_json: bool,
    /// Whether the token endpoint takes form bodies.
    pub accepts_form: bool,
    /// What happens when a spent refresh token is presented again.
    pub reuse: ReuseClass,
    /// Whether detected reuse revokes the family; without it reuse is counted and refused, and the newest pair goes on.
    pub revoke_family: bool,
    /// Whether a family that reuse revoked loses its live access tokens too.
    pub revoke_access: bool,
    /// Whether a rotation ends the access tokens that were issued before it.
    pub rotation_ends_access: bool,
    /// When an exchange gives a new refresh token.
    pub rotation: Rotation,
    /// How long tokens and grants live.
    pub lives: Lives,
    /// Members that answers of the token endpoint leave out.
    pub omit: Vec<Member>,
    /// Under which name the answer tells the rest of the grant's life, where the grant's life is set.
    pub grant_life_member: GrantLifeMember,
    /// What that member says instead of the truth, in seconds (some providers say 0 for "unknown").
    pub grant_life_said_secs: Option<u64>,
    /// Scopes of a login that asks for none.
    pub scopes: Vec<String>,
    /// The scope that the roles endpoint requires.
    pub probe_scope: String,
    /// `subscriptionType` of the auth object.
    pub subscription_type: Option<String>,
    /// `rateLimitTier` of the auth object.
    pub rate_limit_tier: Option<String>,
    /// `uuid` of the answer's `account`.
    pub account_uuid: String,
    /// `uuid` of the answer's `organization`.
    pub organization_uuid: String,
    /// Assertions that the JWT bearer grant accepts, compared as strings.
    pub assertions: Vec<String>,
    /// What else the JWT bearer grant wants where the provider has ways of its own for workloads; `null`: nothing.
    pub federation: Option<Federation>,
    /// Whether a grant without refresh token gives the access token out again that it gave last, while that lives.
    pub repeats_minted: bool,
    /// Keys that the API accepts, in `x-api-key` or as Bearer.
    pub api_keys: Vec<String>,
    /// The header that calls of `/v1/messages*` must carry; `null` requires none.
    pub version_header: Option<String>,
    /// HTTP status for an access token that was revoked (401, or 403 with a message that says so).
    pub revoked_status: u16,
    /// Identifiers that `/v1/models` lists.
    pub models: Vec<String>,
    /// Shape and pace of streamed messages.
    pub streaming: Streaming,
    /// How long batches take, and what can be done with files.
    pub objects: ObjectRules,
    /// Whether the API log keeps the request headers (those that hold a secret only as a fingerprint).
    pub record_headers: bool,
    /// Entries kept in the log of exchanges and in that of API calls, each.
    pub log_kept: usize,
    /// Spent refresh tokens remembered per family; older ones are as unknown as a bogus one.
    pub spent_kept: usize,
    /// Families remembered; beyond it the oldest goes.
    pub families_kept: usize,
    /// Seed of the server's randomness; `null` seeds from the operating system.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            token_path: "/v1/oauth/token".into(),
            probe_path: "/roles".into(),
            client: Client::default(),
            access_prefix: "access-".into(),
            refresh_prefix: "refresh-".into(),
            capability: None,
            accepts_json: true,
            accepts_form: true,
            reuse: ReuseClass::Strict,
            revoke_family: true,
            revoke_access: true,
            rotation_ends_access: false,
            rotation: Rotation::Always,
            lives: Lives::default(),
            omit: Vec::new(),
            grant_life_member: GrantLifeMember::RefreshTokenExpiresIn,
            grant_life_said_secs: None,
            scopes: vec!["user:inference".into(), "user:profile".into()],
            probe_scope: "user:profile".into(),
            subscription_type: None,
            rate_limit_tier: None,
            account_uuid: "00000000-0000-4000-8000-000000000001".into(),
            organization_uuid: "00000000-0000-4000-8000-000000000002".into(),
            assertions: Vec::new(),
            federation: None,
            repeats_minted: false,
            api_keys: Vec::new(),
            version_header: Some("anthropic-version".into()),
            revoked_status: 401,
            models: vec!["stand-in-large".into(), "stand-in-small".into()],
            streaming: Streaming::default(),
            objects: ObjectRules::default(),
            record_headers: false,
            log_kept: 4096,
            spent_kept: 4096,
            families_kept: 256,
            seed: None,
        }
    }
}

impl Settings {
    /// These settings with a JSON merge patch (RFC 7396; `null` means "none") applied:
    /// `{"reuse":{"class":"grace","secs":30}}`.
    pub fn patched(&self, patch: &Value) -> Result<Self, SettingsError> {
        let mut value = serde_json::to_value(self).map_err(SettingsError)?;
        merge(&mut value, patch);
        serde_json::from_value(value).map_err(SettingsError)
    }
}

/// Settings that are not well formed; the message names the member.
#[derive(Debug, thiserror::Error)]
#[error("the settings do not hold: {0}")]
pub struct SettingsError(#[from] pub(crate) serde_json::Error);

/// RFC 7396, but that `null` is a value like any other: it means "none" here. A tagged enum is replaced whole, so that
/// members of the old variant do not linger.
fn merge(target: &mut Value, patch: &Value) {
    let (Some(into), Some(from)) = (target.as_object_mut(), patch.as_object()) else {
        *target = patch.clone();
        return;
    };
    for (name, value) in from {
        let tagged = ["class", "when"].iter().any(|tag| value.get(tag).is_some());
        match into.get_mut(name) {
            Some(slot) if !tagged => merge(slot, value),
            Some(slot) => *slot = value.clone(),
            None => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
}

/// Who may exchange, and how they prove it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// The one client id that is accepted; `null` accepts any.
    pub id: Option<String>,
    /// Its secret; needed by the two methods that send one.
    pub secret: Option<String>,
    /// How the client authenticates.
    pub auth: ClientAuth,
}

/// Client authentication at the token endpoint (RFC 6749 §2.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// A public client: `client_id` in the body, no secret.
    #[default]
    None,
    /// `Authorization: Basic`.
    ClientSecretBasic,
    /// `client_id` and `client_secret` in the body.
    ClientSecretPost,
}

/// A header that says what the request means to use; a comma-separated list that must hold the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capability {
    /// Name of the header.
    pub header: String,
    /// Value that must stand in it.
    pub value: String,
    /// Value that a JWT bearer exchange needs besides, and that a refresh exchange may not carry.
    #[serde(default)]
    pub federation_value: Option<String>,
    /// Whether the token endpoint requires it too; the API always does for access tokens.
    #[serde(default = "yes")]
    pub on_exchange: bool,
}

/// The members of a JWT bearer exchange besides the grant type and the assertion. Whatever is wrong with one is denied
/// in the API's shape: 401 `authentication_error`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Federation {
    /// Those that must be there, with the one value that is accepted; `null` accepts any.
    pub members: BTreeMap<String, Option<String>>,
    /// Those that may be there. No others may.
    pub optional: Vec<String>,
}

fn yes() -> bool {
    true
}

/// What a spent refresh token does when it is presented again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "snake_case", deny_unknown_fields)]
pub enum ReuseClass {
    /// It is refused, and by default the whole family is revoked with it.
    #[default]
    Strict,
    /// Within `secs` of its spending it is answered with a successor; afterwards as in `strict`.
    Grace {
        /// Seconds from the spending of the token.
        secs: u64,
        /// Which successor it is answered with.
        #[serde(default)]
        successor: GraceSuccessor,
    },
    /// It is refused, and nothing else happens.
    None,
}

/// Which refresh token answers a spent one within its grace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GraceSuccessor {
    /// The one that the first exchange gave, if it is still unspent; else another one.
    #[default]
    Same,
    /// Another one; both are then valid.
    New,
}

/// When an exchange gives a new refresh token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rotation {
    /// At every exchange.
    #[default]
    Always,
    /// Never; the answer leaves the refresh token out.
    NeverOmitted,
    /// Never; the answer repeats the presented one.
    NeverRepeated,
    /// The presented one is repeated for `exchanges` exchanges, then comes a new one.
    After {
        /// Exchanges that repeat the token.
        exchanges: u32,
    },
}

/// Lives in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Lives {
    /// Life of an access token.
    pub access_secs: u64,
    /// Life of a refresh token that is not used; `null` has no end.
    pub refresh_idle_secs: Option<u64>,
    /// Life of the grant from its login, whatever is rotated; `null` has no end.
    pub grant_secs: Option<u64>,
}

impl Default for Lives {
    fn default() -> Self {
        Self { access_secs: 3600, refresh_idle_secs: None, grant_secs: None }
    }
}

/// A member of the token endpoint's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Member {
    /// `access_token`
    AccessToken,
    /// `expires_in`
    ExpiresIn,
    /// `token_type`
    TokenType,
    /// `refresh_token`
    RefreshToken,
    /// `scope`
    Scope,
    /// The rest of the grant's life.
    GrantLife,
    /// `account`
    Account,
    /// `organization`
    Organization,
}

/// The name under which the rest of the grant's life is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantLifeMember {
    /// `refresh_token_expires_in`
    #[default]
    RefreshTokenExpiresIn,
    /// `refresh_expires_in`
    RefreshExpiresIn,
}

/// Shape and pace of a streamed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streaming {
    /// `content_block_delta` events in a message.
    pub deltas: u32,
    /// Bytes of text in each of them.
    pub delta_bytes: u32,
    /// Milliseconds between events.
    pub gap_millis: u64,
}

impl Default for Streaming {
    fn default() -> Self {
        Self { deltas: 5, delta_bytes: 8, gap_millis: 0 }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn survive_json() {
        let settings = Settings::default();
        let text = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), settings);
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), settings);
    }

    #[test]
    fn patch_replaces_variants_and_merges_the_rest() {
        let graced = Settings::default()
            .patched(&json!({"reuse": {"class": "grace", "secs": 9}, "lives": {"access_secs": 5}}))
            .unwrap();
        assert_eq!(graced.reuse, ReuseClass::Grace { secs: 9, successor: GraceSuccessor::Same });
        assert_eq!(graced.lives, Lives { access_secs: 5, ..Lives::default() });
        let strict = graced.patched(&json!({"reuse": {"class": "strict"}})).unwrap();
        assert_eq!(strict.reuse, ReuseClass::Strict);
        assert_eq!(strict.lives.access_secs, 5);
    }

    #[test]
    fn refuse_an_unknown_member_by_name() {
        let error = Settings::default().patched(&json!({"lifes": 1})).unwrap_err();
        assert!(error.to_string().contains("lifes"), "{error}");
    }
}
