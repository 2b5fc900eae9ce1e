//! Provider profiles. The constants of the built-in one stand here and nowhere else (SPEC §3).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::gateway::{AnswerRule, ContentType, ErrorShape, Injection, Meaning, PathRule, Rules};
use crate::grant::Grant;
use crate::secret::{ApiKey, ClientSecret, RefreshToken};

mod request;

pub use request::TokenRequest;

mod claude {
    //! What Claude's documentation and clients use.
    pub(super) const TOKEN_URL: &str = "https://platform.claude.com/v1/oauth/token";
    pub(super) const FEDERATION_URL: &str = "https://api.anthropic.com/v1/oauth/token";
    pub(super) const CLIENT_ID: &str = "9d1c250a-e61b-44d9-88ed-5944d1962f5e";
    pub(super) const PROBE_URL: &str = "https://api.anthropic.com/api/oauth/claude_cli/roles";
    pub(super) const API_BASE: &str = "https://api.anthropic.com";
    pub(super) const ACCESS_PREFIX: &str = "sk-ant-oat01-";
    pub(super) const REFRESH_PREFIX: &str = "sk-ant-ort01-";
    pub(super) const API_KEY_PREFIX: &str = "sk-ant-api";
    pub(super) const CAPABILITY_HEADER: &str = "anthropic-beta";
    pub(super) const CAPABILITY: &str = "oauth-2025-04-20";
    /// Goes with a workload's JWT, never with a refresh token.
    pub(super) const FEDERATION_CAPABILITY: &str = "oidc-federation-2026-04-01";
    pub(super) const FEDERATION_NEEDS: [&str; 3] =
        ["federation_rule_id", "organization_id", "service_account_id"];
    pub(super) const FEDERATION_MAY_HAVE: [&str; 1] = ["workspace_id"];
    pub(super) const VERSION_HEADER: &str = "anthropic-version";
    pub(super) const VERSION: &str = "2023-06-01";
    pub(super) const PROBE_SCOPE_REASON: &str = "oauth_scope_insufficient";
    pub(super) const ROUND_TRIP: &str = "/v1/models?limit=1";
    pub(super) const MESSAGES: &str = "/v1/messages";
    pub(super) const SMALLEST_MODEL: &str = "claude-haiku-4-5";
    pub(super) const TERMS: &str = "https://code.claude.com/docs/en/legal-and-compliance";
    pub(super) const CONSOLE: &str = "https://platform.claude.com/settings/keys";
    pub(super) const LOGIN: &str = "claude /login";
    pub(super) const LONG_LOGIN: &str = "claude setup-token";
    pub(super) const FOLDER_VARIABLE: &str = "CLAUDE_CONFIG_DIR";
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
    pub(super) const KEYCHAIN_SERVICE: &str = "Claude Code-credentials";
    pub(super) const CLIENT_FOLDER: &str = ".claude";
    pub(super) const CLIENT_FILE: &str = ".credentials.json";
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

/// How a workload's JWT is exchanged where the provider has ways of its own for it; elsewhere RFC 7523 says how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federation {
    /// Where it is exchanged.
    pub url: Url,
    /// A header, in lower case, and what is appended to its list for it.
    pub append: Option<(String, String)>,
    /// The members that the request has besides the assertion.
    pub needs: Vec<String>,
    /// The members that it may have.
    pub may_have: Vec<String>,
}

/// How a person logs in with the provider's own client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The command that logs in and keeps the login in the client's folder.
    pub command: String,
    /// The command that prints a long-lived access token without a refresh token.
    pub long_lived: String,
    /// The variable that names the client's folder.
    pub folder_variable: String,
}

/// Where a provider's own client keeps a login on a workstation (SPEC §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientEntry {
    /// The service of its item in the macOS keychain; a config folder of its own adds to it.
    pub keychain_service: &'static str,
    /// Its config folder below the home.
    pub folder: &'static str,
    /// The file in that folder.
    pub file: &'static str,
}

impl ClientEntry {
    /// Of Claude Code.
    pub fn claude() -> Self {
        Self {
            keychain_service: claude::KEYCHAIN_SERVICE,
            folder: claude::CLIENT_FOLDER,
            file: claude::CLIENT_FILE,
        }
    }
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
    /// How a workload's JWT is exchanged; `None`: at the token URL, as RFC 7523 has it.
    pub federation: Option<Federation>,
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
    /// Where a person gets an API key.
    pub console: Option<String>,
    /// How a person logs in.
    pub login: Option<Login>,
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
            federation: Some(Federation {
                url: url(claude::FEDERATION_URL),
                append: Some((claude::CAPABILITY_HEADER.into(), claude::FEDERATION_CAPABILITY.into())),
                needs: claude::FEDERATION_NEEDS.map(str::to_owned).into(),
                may_have: claude::FEDERATION_MAY_HAVE.map(str::to_owned).into(),
            }),
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
            console: Some(claude::CONSOLE.into()),
            login: Some(Login {
                command: claude::LOGIN.into(),
                long_lived: claude::LONG_LOGIN.into(),
                folder_variable: claude::FOLDER_VARIABLE.into(),
            }),
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

    /// The headers of a call to the API with an API key. What speaks of OAuth is left out.
    pub fn api_key_headers(&self, key: &ApiKey) -> Vec<(String, String)> {
        let rules = self.gateway.as_ref();
        let of_oauth = rules.and_then(|rules| rules.oauth.append.clone());
        let mut headers = self.api_headers.clone();
        headers.retain(|header| of_oauth.as_ref() != Some(header));
        headers.push(match rules.map(|rules| &rules.api_key) {
            Some(injection) => (injection.header.clone(), format!("{}{}", injection.before, key.expose())),
            None => ("authorization".into(), format!("Bearer {}", key.expose())),
        });
        headers
    }

    /// Refuses what plainly does not belong where an API key does.
    pub fn api_key_place(&self, raw: &str) -> Result<(), String> {
        self.place(raw, &self.api_key_prefix, "an API key")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{AccessToken, IdentityToken};

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
        let basic = request::base64(b"id+with%3Acolon:s%25cret");
        assert!(request.headers.contains(&("authorization".into(), format!("Basic {basic}"))));

        profile.client_auth = ClientAuth::Post(ClientSecret::parse("s%cret").unwrap());
        let request = profile.refresh_request(&refresh());
        assert!(request.body.ends_with("&client_id=id+with%3Acolon&client_secret=s%25cret"));
    }

    #[test]
    fn a_workloads_jwt_has_its_own_address_members_and_capability() {
        let identity = IdentityToken::parse("head.body.sign").unwrap();
        let members = ["federation_rule_id", "organization_id", "service_account_id"]
            .map(|name| (name.into(), "x".into()));
        let mut profile = Profile::claude();
        let request = profile.mint_request(Some(&identity), &members);
        assert_eq!(request.url.as_str(), claude::FEDERATION_URL);
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let names: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        let documented =
            ["grant_type", "assertion", "federation_rule_id", "organization_id", "service_account_id"];
        assert_eq!(names, documented);
        assert_eq!(body["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
        assert_eq!(body["assertion"], "head.body.sign");
        let capabilities = |request: &TokenRequest| {
            let of = |(name, _): &&(String, String)| name == claude::CAPABILITY_HEADER;
            request.headers.iter().filter(of).map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let both = format!("{},{}", claude::CAPABILITY, claude::FEDERATION_CAPABILITY);
        assert_eq!(capabilities(&request), [both]);
        assert_eq!(capabilities(&profile.refresh_request(&refresh())), [claude::CAPABILITY]);
        assert!(!format!("{request:?}").contains("head"));

        profile.token_headers.clear();
        assert_eq!(
            capabilities(&profile.mint_request(Some(&identity), &[])),
            [claude::FEDERATION_CAPABILITY]
        );
    }

    #[test]
    fn other_providers_get_the_rfcs_requests() {
        let mut profile = Profile { federation: None, encoding: Encoding::Form, ..Profile::claude() };
        profile.client_id = "me".into();
        let identity = IdentityToken::parse("a.b.c").unwrap();
        let scope = [("scope".to_owned(), "one two".to_owned())];
        let request = profile.mint_request(Some(&identity), &scope);
        assert_eq!(request.url, profile.token_url);
        let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        assert_eq!(*request.body, format!("{grant}&assertion=a.b.c&scope=one+two&client_id=me"));

        profile.client_auth = ClientAuth::Basic(ClientSecret::parse("s").unwrap());
        let request = profile.mint_request(None, &scope);
        assert_eq!(*request.body, "grant_type=client_credentials&scope=one+two");
        let basic = format!("Basic {}", request::base64(b"me:s"));
        assert!(request.headers.contains(&("authorization".into(), basic)));
        profile.client_auth = ClientAuth::Post(ClientSecret::parse("s").unwrap());
        let request = profile.mint_request(None, &[]);
        assert_eq!(*request.body, "grant_type=client_credentials&client_id=me&client_secret=s");
    }

    #[test]
    fn an_api_key_is_shown_without_what_speaks_of_oauth() {
        let key = ApiKey::parse("sk-ant-api03-x").unwrap();
        let headers = Profile::claude().api_key_headers(&key);
        assert!(headers.contains(&(claude::API_KEY_HEADER.into(), "sk-ant-api03-x".into())));
        assert!(headers.iter().any(|(name, _)| name == claude::VERSION_HEADER));
        assert!(
            !headers.iter().any(|(name, _)| name == claude::CAPABILITY_HEADER || name == "authorization")
        );
        let own = Profile { gateway: None, api_headers: vec![], ..Profile::claude() };
        assert_eq!(own.api_key_headers(&key), [("authorization".into(), "Bearer sk-ant-api03-x".into())]);
        assert!(own.api_key_place("sk-ant-oat01-x").unwrap_err().contains("an access token"));
        assert!(own.api_key_place("anything").is_ok());
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
