//! Provider profiles. The constants of the built-in one stand here and nowhere else (SPEC §3).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::gateway::{AnswerRule, ContentType, ErrorShape, Injection, Meaning, PathRule, Rules};
use crate::grant::Grant;
use crate::secret::{ClientSecret, RefreshToken};

mod claude {
    //! What Claude's documentation and clients use.
    pub(super) const TOKEN_URL: &str = "https://platform.claude.com/v1/oauth/token";
    pub(super) const CLIENT_ID: &str = "9d1c250a-e61b-44d9-88ed-5944d1962f5e";
    pub(super) const PROBE_URL: &str = "https://api.anthropic.com/api/oauth/claude_cli/roles";
    pub(super) const API_BASE: &str = "https://api.anthropic.com";
    pub(super) const ACCESS_PREFIX: &str = "sk-ant-oat01-";
    pub(super) const REFRESH_PREFIX: &str = "sk-ant-ort01-";
    pub(super) const API_KEY_PREFIX: &str = "sk-ant-api";
    pub(super) const CAPABILITY_HEADER: &str = "anthropic-beta";
    pub(super) const CAPABILITY: &str = "oauth-2025-04-20";
    pub(super) const VERSION_HEADER: &str = "anthropic-version";
    pub(super) const VERSION: &str = "2023-06-01";
    pub(super) const PROBE_SCOPE_REASON: &str = "oauth_scope_insufficient";
    pub(super) const ROUND_TRIP: &str = "/v1/models?limit=1";
    pub(super) const MESSAGES: &str = "/v1/messages";
    pub(super) const SMALLEST_MODEL: &str = "claude-haiku-4-5";
    pub(super) const TERMS: &str = "https://code.claude.com/docs/en/legal-and-compliance";
    pub(super) const ROUTE: &str = "/v1/anthropic";
    pub(super) const API_KEY_HEADER: &str = "x-api-key";
    pub(super) const CLIENT_VARIABLE: &str = "ANTHROPIC_API_KEY";
    pub(super) const FALLBACK_VARIABLE: &str = "ANTHROPIC_FALLBACK_KEY";
    /// Method, path, whether what lies below belongs to it, the longest body in MiB.
    pub(super) const PATHS: [(Option<&str>, &str, bool, u64); 7] = [
        (None, "/v1/messages/count_tokens", false, 32),
        (None, "/v1/messages/batches", true, 256),
        (None, "/v1/messages", false, 32),
        (None, "/v1/models", true, 32),
        (None, "/v1/files", true, 500),
        (Some("HEAD"), "/api/hello", false, 0),
        (Some("HEAD"), "/", false, 0),
    ];
    /// What the body of an answer says of the source, in lower case; without words: the status says it.
    pub(super) const REVOKED: [&str; 1] = ["revoked"];
    pub(super) const ORGANIZATION_OR_SCOPE: [&str; 2] = ["organization", "scope"];
    pub(super) const CREDENTIAL_OR_POOL: [&str; 2] = ["this credential", "extra usage"];
}

/// What a provider does when a spent refresh token is presented again (SPEC §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReuseClass {
    /// It may revoke the whole family: never present a pair twice that may be spent.
    Strict,
    /// The pair may be presented again for so many seconds after it was spent; then as `strict`.
    #[serde(rename = "grace")]
    Grace {
        /// Counted from the first presentation.
        secs: u32,
    },
    /// Reuse is refused and harms nothing.
    None,
}

/// How the token URL wants its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`, as RFC 6749 has it.
    Form,
}

/// How the client proves itself at the token URL (RFC 6749 §2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// A public client: its id only.
    None,
    /// HTTP Basic.
    Basic(ClientSecret),
    /// In the body.
    Post(ClientSecret),
}

/// Everything that is particular to one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its name in the configuration.
    pub name: String,
    /// Where pairs are exchanged.
    pub token_url: Url,
    /// The OAuth client id.
    pub client_id: String,
    /// How the token URL wants its request.
    pub encoding: Encoding,
    /// How the client proves itself there.
    pub client_auth: ClientAuth,
    /// More headers of the exchange: name and value.
    pub token_headers: Vec<(String, String)>,
    /// What reuse does.
    pub reuse: ReuseClass,
    /// What every access token begins with, if known.
    pub access_prefix: Option<String>,
    /// What every refresh token begins with, if known.
    pub refresh_prefix: Option<String>,
    /// What every API key begins with, if known.
    pub api_key_prefix: Option<String>,
    /// Where the API is.
    pub api_base: Url,
    /// What answers 200 to a live access token, if anything does.
    pub probe_url: Option<Url>,
    /// A free call below `api_base` that proves the round trip, if there is one.
    pub round_trip: Option<String>,
    /// Where a minimal message may be posted, and the model that it asks by default: it costs a little.
    pub message: Option<(String, String)>,
    /// More headers of calls to the API: name and value.
    pub api_headers: Vec<(String, String)>,
    /// What the body of a 403 says when the token's scopes do not cover the probe URL.
    pub probe_scope_reason: Option<String>,
    /// Its own client takes directory locks around the auth file.
    pub client_locks: bool,
    /// Where the terms stand that the operator has to accept before this provider's logins are used.
    pub terms: Option<String>,
    /// How the gateway forwards to it; `None`: it does not.
    pub gateway: Option<Rules>,
}

impl Profile {
    /// The built-in profile `claude`.
    pub fn claude() -> Self {
        let url = |text: &str| Url::parse(text).expect("the constants above are URLs; a test parses them");
        let capability = (claude::CAPABILITY_HEADER.to_owned(), claude::CAPABILITY.to_owned());
        Self {
            name: "claude".into(),
            token_url: url(claude::TOKEN_URL),
            client_id: claude::CLIENT_ID.into(),
            encoding: Encoding::Json,
            client_auth: ClientAuth::None,
            token_headers: vec![capability.clone()],
            reuse: ReuseClass::Strict,
            access_prefix: Some(claude::ACCESS_PREFIX.into()),
            refresh_prefix: Some(claude::REFRESH_PREFIX.into()),
            api_key_prefix: Some(claude::API_KEY_PREFIX.into()),
            api_base: url(claude::API_BASE),
            probe_url: Some(url(claude::PROBE_URL)),
            round_trip: Some(claude::ROUND_TRIP.into()),
            message: Some((claude::MESSAGES.into(), claude::SMALLEST_MODEL.into())),
            api_headers: vec![capability, (claude::VERSION_HEADER.into(), claude::VERSION.into())],
            probe_scope_reason: Some(claude::PROBE_SCOPE_REASON.into()),
            client_locks: true,
            terms: Some(claude::TERMS.into()),
            gateway: Some(claude_gateway()),
        }
    }

    /// Refuses what plainly does not belong where an access token does.
    pub fn access_token_place(&self, raw: &str) -> Result<(), String> {
        self.place(raw, &self.access_prefix, "an access token")
    }

    /// Refuses what plainly does not belong where a refresh token does.
    pub fn refresh_token_place(&self, raw: &str) -> Result<(), String> {
        self.place(raw, &self.refresh_prefix, "a refresh token")
    }

    fn place(&self, raw: &str, own: &Option<String>, belongs: &str) -> Result<(), String> {
        let kinds = [
            (&self.access_prefix, "an access token"),
            (&self.refresh_prefix, "a refresh token"),
            (&self.api_key_prefix, "an API key"),
        ];
        let bears = |prefix: &Option<String>| prefix.as_deref().is_some_and(|prefix| raw.starts_with(prefix));
        match kinds.iter().find(|(prefix, kind)| *kind != belongs && bears(prefix)) {
            Some((_, kind)) if !bears(own) => Err(format!("holds {kind} where {belongs} belongs")),
            Some(_) | None => Ok(()),
        }
    }

    /// The strict test of SPEC §5 for what somebody hands in: both tokens bear the provider's prefixes.
    pub fn prefixes(&self, grant: &Grant) -> Result<(), String> {
        let refresh = grant.refresh.as_ref().map(RefreshToken::expose);
        let tokens = [
            ("access", Some(grant.access.expose()), &self.access_prefix),
            ("refresh", refresh, &self.refresh_prefix),
        ];
        for (which, token, prefix) in tokens {
            if let (Some(token), Some(prefix)) = (token, prefix)
                && !token.starts_with(prefix.as_str())
            {
                let name = &self.name;
                return Err(format!(
                    "its {which} token does not begin with {prefix:?}, as those of {name:?} do"
                ));
            }
        }
        Ok(())
    }

    /// The request that exchanges a refresh token: SPEC §3, RFC 6749 §6.
    pub fn refresh_request(&self, refresh: &RefreshToken) -> TokenRequest {
        let mut members =
            vec![("grant_type", "refresh_token".to_owned()), ("refresh_token", refresh.expose().to_owned())];
        let mut headers = self.token_headers.clone();
        match &self.client_auth {
            ClientAuth::None => members.push(("client_id", self.client_id.clone())),
            ClientAuth::Post(secret) => {
                members.push(("client_id", self.client_id.clone()));
                members.push(("client_secret", secret.expose().to_owned()));
            }
            ClientAuth::Basic(secret) => {
                let pair = format!("{}:{}", form_encode(&self.client_id), form_encode(secret.expose()));
                headers.push(("authorization".into(), format!("Basic {}", base64(pair.as_bytes()))));
            }
        }
        let (content_type, body) = match self.encoding {
            Encoding::Json => {
                let object: serde_json::Map<_, _> =
                    members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
                ("application/json", serde_json::Value::Object(object).to_string())
            }
            Encoding::Form => {
                let body =
                    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(members).finish();
                ("application/x-www-form-urlencoded", body)
            }
        };
        headers.push(("content-type".into(), content_type.into()));
        headers.push(("accept".into(), "application/json".into()));
        TokenRequest { url: self.token_url.clone(), headers, body: body.into() }
    }

    /// How long after its first presentation a pair may harmlessly be presented again.
    pub fn grace(&self) -> Option<Duration> {
        match self.reuse {
            ReuseClass::Grace { secs } => Some(Duration::from_secs(secs.into())),
            ReuseClass::Strict | ReuseClass::None => None,
        }
    }
}

fn claude_gateway() -> Rules {
    let path = |(method, path, below, limit_mib): (Option<&str>, &str, bool, u64)| PathRule {
        method: method.map(str::to_owned),
        path: path.to_owned(),
        below,
        body_limit: limit_mib << 20,
        content_type: path.starts_with(claude::MESSAGES).then(|| ContentType("application/json".into())),
    };
    let answer = |status, says: &[&str], meaning| AnswerRule {
        status,
        says: says.iter().map(|said| (*said).to_owned()).collect(),
        meaning,
    };
    Rules {
        route: claude::ROUTE.into(),
        paths: claude::PATHS.into_iter().map(path).collect(),
        oauth: Injection {
            header: "authorization".into(),
            before: "Bearer ".into(),
            append: Some((claude::CAPABILITY_HEADER.into(), claude::CAPABILITY.into())),
        },
        api_key: Injection { header: claude::API_KEY_HEADER.into(), before: String::new(), append: None },
        defaults: vec![(claude::VERSION_HEADER.into(), claude::VERSION.into())],
        errors: ErrorShape::TypedObject,
        answers: vec![
            answer(401, &[], Meaning::TokenRefused),
            answer(403, &claude::REVOKED, Meaning::TokenRefused),
            answer(403, &claude::ORGANIZATION_OR_SCOPE, Meaning::GrantRefused),
            answer(400, &claude::CREDENTIAL_OR_POOL, Meaning::GrantRefused),
            answer(429, &[], Meaning::RateLimited),
        ],
        client_variable: claude::CLIENT_VARIABLE.into(),
        fallback_variable: Some(claude::FALLBACK_VARIABLE.into()),
    }
}

/// One exchange, ready to be sent. Its body holds a secret, so it does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// Where to.
    pub url: Url,
    /// Name and value.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: zeroize::Zeroizing<String>,
}

impl std::fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenRequest").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

fn form_encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::AccessToken;

    fn refresh() -> RefreshToken {
        RefreshToken::parse("sk-ant-ort01-a+b/c").unwrap()
    }

    #[test]
    fn the_claude_exchange_is_json_of_a_public_client_without_scope() {
        let request = Profile::claude().refresh_request(&refresh());
        assert_eq!(request.url.scheme(), "https");
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let members: Vec<_> = body.as_object().unwrap().keys().collect();
        assert_eq!(members, ["grant_type", "refresh_token", "client_id"]);
        assert!(request.headers.iter().any(|(name, _)| name == claude::CAPABILITY_HEADER));
        assert!(!format!("{request:?}").contains("ort01"));
    }

    #[test]
    fn other_providers_get_form_and_client_authentication() {
        let mut profile = Profile::claude();
        profile.encoding = Encoding::Form;
        profile.client_id = "id with:colon".into();
        profile.client_auth = ClientAuth::Basic(ClientSecret::parse("s%cret").unwrap());
        let request = profile.refresh_request(&refresh());
        assert_eq!(*request.body, "grant_type=refresh_token&refresh_token=sk-ant-ort01-a%2Bb%2Fc");
        // RFC 6749 §2.3.1: both are form-encoded before they are joined.
        let basic = base64(b"id+with%3Acolon:s%25cret");
        assert!(request.headers.contains(&("authorization".into(), format!("Basic {basic}"))));

        profile.client_auth = ClientAuth::Post(ClientSecret::parse("s%cret").unwrap());
        let request = profile.refresh_request(&refresh());
        assert!(request.body.ends_with("&client_id=id+with%3Acolon&client_secret=s%25cret"));
    }

    #[test]
    fn what_is_handed_in_must_bear_the_prefixes() {
        let grant = |access: &str, refresh: Option<&str>| Grant {
            access: AccessToken::parse(access).unwrap(),
            refresh: refresh.map(|raw| RefreshToken::parse(raw).unwrap()),
            expires_at: None,
            grant_expires_at: None,
            scopes: vec![],
        };
        let profile = Profile::claude();
        assert!(profile.prefixes(&grant("sk-ant-oat01-x", Some("sk-ant-ort01-x"))).is_ok());
        assert!(profile.prefixes(&grant("sk-ant-oat01-x", None)).is_ok());
        assert!(profile.prefixes(&grant("sk-other", None)).unwrap_err().contains("access token"));
        assert!(profile.prefixes(&grant("sk-ant-oat01-x", Some("y"))).unwrap_err().contains("refresh token"));
    }
}
