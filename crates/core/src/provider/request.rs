//! What is sent to a token URL: a refresh token (RFC 6749 §6), a workload's JWT (RFC 7523), or the client's own id and
//! secret (RFC 6749 §4.4). See SPEC §3.

use url::Url;

use super::{ClientAuth, Encoding, Profile};
use crate::secret::{IdentityToken, RefreshToken};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

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

/// Names and values, in the order in which they are sent.
type Pairs = Vec<(String, String)>;

impl Profile {
    /// The request that exchanges a refresh token: SPEC §3, RFC 6749 §6.
    pub fn refresh_request(&self, refresh: &RefreshToken) -> TokenRequest {
        let members = vec![member("grant_type", "refresh_token"), member("refresh_token", refresh.expose())];
        self.by_the_client(members)
    }

    /// The request that mints an access token: of a workload's JWT, or without one of the client's own id and secret.
    /// `more` are members that the chain's settings add.
    pub fn mint_request(&self, identity: Option<&IdentityToken>, more: &[(String, String)]) -> TokenRequest {
        let mut members = match identity {
            Some(identity) => vec![member("grant_type", JWT_BEARER), member("assertion", identity.expose())],
            None => vec![member("grant_type", "client_credentials")],
        };
        members.extend_from_slice(more);
        match self.federation.as_ref().filter(|_| identity.is_some()) {
            Some(federation) => {
                let mut headers = self.token_headers.clone();
                if let Some((name, value)) = &federation.append {
                    match headers.iter_mut().find(|(there, _)| there.eq_ignore_ascii_case(name)) {
                        Some((_, list)) => *list = format!("{list},{value}"),
                        None => headers.push((name.clone(), value.clone())),
                    }
                }
                self.encoded(federation.url.clone(), headers, members)
            }
            None => self.by_the_client(members),
        }
    }

    /// A request to the token URL, with what proves the client.
    fn by_the_client(&self, mut members: Pairs) -> TokenRequest {
        let mut headers = self.token_headers.clone();
        match &self.client_auth {
            ClientAuth::None => members.push(member("client_id", &self.client_id)),
            ClientAuth::Post(secret) => {
                members.push(member("client_id", &self.client_id));
                members.push(member("client_secret", secret.expose()));
            }
            ClientAuth::Basic(secret) => {
                let pair = format!("{}:{}", form_encode(&self.client_id), form_encode(secret.expose()));
                headers.push(("authorization".into(), format!("Basic {}", base64(pair.as_bytes()))));
            }
        }
        self.encoded(self.token_url.clone(), headers, members)
    }

    fn encoded(&self, url: Url, mut headers: Pairs, members: Pairs) -> TokenRequest {
        let (content_type, body) = match self.encoding {
            Encoding::Json => {
                let object: serde_json::Map<_, _> =
                    members.into_iter().map(|(name, value)| (name, value.into())).collect();
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
        TokenRequest { url, headers, body: body.into() }
    }
}

fn member(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn form_encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

pub(super) fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
