//! The way to the server: one POST a message, over TLS or to loopback, on a connection of its own, with no redirect and
//! no repetition (SPEC §5).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::address::is_loopback;
use evergrant_core::alert::render::OutgoingRequest;
use evergrant_core::push::agent::{Contact, HttpAnswer, judge};
use evergrant_core::push::{Call, PATH};
use evergrant_core::{ChainName, Reason};
use jiff::Timestamp;
use serde::Deserialize;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};
use url::Url;
use zeroize::Zeroizing;

use crate::AgentError;
use crate::clock;
use crate::key::PushKey;
use crate::settings::SinkRequest;

/// A whole request with its answer takes so long at most.
const BOUND: Duration = Duration::from_secs(30);
/// More of an answer is not read.
const MOST_ANSWER: u64 = 64 * 1024;
const USER_AGENT: &str = concat!("evergrant/", env!("CARGO_PKG_VERSION"));

/// The way to one server.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    server: Url,
}

/// What a call came to.
#[derive(Debug)]
pub struct Outcome {
    /// What is decided by.
    pub contact: Contact,
    /// What was said, for a person.
    pub said: Option<String>,
}

/// What the server says of itself without a key.
#[derive(Debug, Default)]
pub struct LastSeen {
    /// When it last heard from this chain's agent, if ever.
    pub at: Option<Timestamp>,
    /// Its clock, to the second.
    pub date: Option<Timestamp>,
    /// How far ours is ahead of it, in seconds.
    pub ahead_secs: Option<i64>,
    /// The HTTP status.
    pub status: u16,
    /// Why it does not say.
    pub reason: Option<Reason>,
}

/// The server's address is nothing that a grant may be sent to.
pub fn is_insecure(server: &Url) -> bool {
    server.scheme() != "https" && !(server.scheme() == "http" && is_loopback(server))
}

impl Client {
    /// To a server, trusting the public certificates, or those in `ca_file` alone.
    pub fn new(server: &Url, ca_file: Option<&Path>) -> Result<Self, AgentError> {
        let roots = ca_file.map(certificates).transpose()?;
        Ok(Self { agent: agent(roots, is_loopback(server))?, server: server.clone() })
    }

    fn url(&self, path: &str, chain: &ChainName) -> String {
        let base = self.server.as_str().trim_end_matches('/');
        format!("{base}{path}?chain={chain}")
    }

    /// Sends one message. Nothing goes out in the clear.
    pub fn send(&self, key: &PushKey, chain: &ChainName, call: &Call) -> Outcome {
        let failed = |reason| Contact::Failed { reason, retry_after_secs: None };
        if is_insecure(&self.server) {
            let said = format!("nothing is sent to {} in the clear; give an https address", self.shown());
            return Outcome { contact: failed(Reason::ServerInsecure), said: Some(said) };
        }
        let body = Zeroizing::new(call.encode());
        match self.post(&self.url(PATH, chain), key, &body) {
            Ok(answer) => {
                let read = HttpAnswer {
                    status: answer.status,
                    body: &answer.body,
                    retry_after_secs: answer.retry_after,
                };
                let (contact, said) = judge(call.message.kind, &read);
                Outcome { said: said.map(|said| scrub(said, key, call)).or(answer.hint), contact }
            }
            Err(error) => Outcome {
                contact: failed(Reason::ServerUnreachable),
                said: Some(format!("{} does not answer: {error}", self.shown())),
            },
        }
    }

    /// Whether the server knows the key, without an event: it asks for what another scope may read.
    pub fn try_key(&self, key: &PushKey, chain: &ChainName) -> Result<(u16, Option<Reason>), String> {
        let authorization = Zeroizing::new(format!("Bearer {}", key.expose()));
        let url = self.url(&format!("{PATH}/status"), chain);
        let answered = self.agent.get(url).header("authorization", authorization.as_str()).call();
        let answer = take(answered.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        Ok((answer.status, reason_of(&answer)))
    }

    /// What the server says without a key.
    pub fn last_seen(&self, chain: &ChainName) -> Result<LastSeen, String> {
        #[derive(Deserialize)]
        struct Said {
            last_seen_at: Option<Timestamp>,
        }
        let answered = self.agent.get(self.url(&format!("{PATH}/last-seen"), chain)).call();
        let answer = take(answered.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
        let said = serde_json::from_slice::<Said>(&answer.body).ok();
        let ahead = |date: Timestamp| clock::now().as_second() - date.as_second();
        Ok(LastSeen {
            at: said.and_then(|said| said.last_seen_at),
            date: answer.date,
            ahead_secs: answer.date.map(ahead),
            status: answer.status,
            reason: reason_of(&answer),
        })
    }

    fn post(&self, url: &str, key: &PushKey, body: &[u8]) -> Result<Answer, ureq::Error> {
        let authorization = Zeroizing::new(format!("Bearer {}", key.expose()));
        let request = self.agent.post(url).header("authorization", authorization.as_str());
        take(request.content_type("application/json").send(body)?)
    }

    /// The server without what may be secret in its address.
    fn shown(&self) -> String {
        let port = self.server.port().map(|port| format!(":{port}")).unwrap_or_default();
        format!("{}://{}{port}", self.server.scheme(), self.server.host_str().unwrap_or_default())
    }
}

/// The reason of a problem document.
fn reason_of(answer: &Answer) -> Option<Reason> {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    problem.get("reason")?.as_str()?.parse().ok()
}

/// A hostile or broken server may repeat what it was sent.
fn scrub(said: String, key: &PushKey, call: &Call) -> String {
    let grant = call.grant.as_ref();
    let refresh = grant.and_then(|grant| grant.refresh.as_ref()).map(evergrant_core::RefreshToken::expose);
    let secrets = [Some(key.expose()), grant.map(|grant| grant.access.expose()), refresh];
    // What was cut may end within a secret: its beginning tells it.
    let head = |secret: &str| secret.get(..secret.len().min(20)).unwrap_or(secret).to_owned();
    let leaks = secrets.into_iter().flatten().any(|secret| said.contains(&head(secret)));
    if leaks { "its words are withheld: they repeat a secret".to_owned() } else { said }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    body: Vec<u8>,
    retry_after: Option<u64>,
    date: Option<Timestamp>,
    hint: Option<String>,
}

fn take(mut response: ureq::http::Response<Body>) -> Result<Answer, ureq::Error> {
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let date =
        header("date").and_then(|text| jiff::fmt::rfc2822::parse(text).ok()).map(|date| date.timestamp());
    let status = response.status().as_u16();
    let hint = match status {
        300..=399 => {
            Some(format!("it answers {status}, a redirect; set server to where it leads, it is not followed"))
        }
        _ => Some(format!("it answers {status}, and nothing that Evergrant says")),
    };
    let (retry_after, hint) = (header("retry-after").and_then(seconds), hint.filter(|_| status != 200));
    let body = response.body_mut().with_config().limit(MOST_ANSWER).read_to_vec()?;
    Ok(Answer { status, body, retry_after, date, hint })
}

/// `retry-after`: seconds, or an instant.
fn seconds(text: &str) -> Option<u64> {
    text.trim().parse().ok().or_else(|| {
        let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        u64::try_from(at.duration_since(clock::now()).as_secs()).ok()
    })
}

fn agent(roots: Option<RootCerts>, loopback: bool) -> Result<Agent, AgentError> {
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder()
        .root_certs(roots.unwrap_or(RootCerts::WebPki))
        .unversioned_rustls_crypto_provider(crypto)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .proxy(if loopback { None } else { Proxy::try_from_env() })
        .user_agent(USER_AGENT)
        .accept("application/json")
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .max_idle_connections(0)
        .timeout_global(Some(BOUND));
    Ok(config.build().new_agent())
}

fn certificates(path: &Path) -> Result<RootCerts, AgentError> {
    let failed = |error| AgentError::file(path, "the certificates of ca_file cannot be read", error);
    let pem = std::fs::read(path).map_err(failed)?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let Ok(PemItem::Certificate(certificate)) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        let what = format!("{} holds no certificate; ca_file takes PEM", path.display());
        return Err(AgentError::Unusable(what));
    }
    Ok(RootCerts::new_with_certs(&found))
}

/// Posts what goes straight to a sink, as far as each request before it is taken. The error never quotes an address,
/// which may be secret.
pub(crate) fn post_to_sink(to: &SinkRequest) -> Result<(), String> {
    let roots = to.ca_file.as_deref().map(certificates).transpose().map_err(|error| error.to_string())?;
    to.requests.iter().try_for_each(|request| post_one(request, roots.clone(), to.allow_insecure))
}

fn post_one(request: &OutgoingRequest, roots: Option<RootCerts>, insecure: bool) -> Result<(), String> {
    let url = request.url.expose();
    if is_insecure(url) && !insecure {
        return Err("nothing is sent to it in the clear".to_owned());
    }
    let agent = agent(roots, is_loopback(url)).map_err(|error| error.to_string())?;
    let mut call = agent.post(url.as_str());
    for (name, value) in &request.headers {
        call = call.header(name, value);
    }
    let host = request.url.host();
    match call.send(&request.body) {
        Ok(response) if response.status().is_success() => Ok(()),
        Ok(response) => Err(format!("{host} answers {}", response.status().as_u16())),
        Err(ureq::Error::BadUri(_)) => Err(format!("{host} cannot be called at that address")),
        Err(error) => Err(format!("{host} does not answer: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_and_loopback_are_secure() {
        for (server, insecure) in [
            ("https://evergrant.test", false),
            ("http://127.0.0.1:8787", false),
            ("http://[::1]:8787/", false),
            ("http://[::ffff:127.0.0.1]:1", false),
            ("http://localhost:8787", false),
            ("http://evergrant.test", true),
            ("http://127.0.0.1.evergrant.test", true),
            ("http://localhost.evergrant.test", true),
            ("http://10.0.0.1", true),
            ("http://0.0.0.0", true),
            ("ftp://127.0.0.1", true),
        ] {
            assert_eq!(is_insecure(&Url::parse(server).unwrap()), insecure, "{server}");
        }
    }

    #[test]
    fn retry_after_comes_in_two_ways() {
        assert_eq!(seconds(" 7 "), Some(7));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), None);
        assert!(seconds("Fri, 01 Jan 2100 00:00:00 GMT").is_some_and(|secs| secs > 1_000_000));
        assert_eq!(seconds("soon"), None);
    }
}
