//! Brings one alert to one sink, once (SPEC §6, §13): what is sent is `core`'s, and so is what an answer means.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use evergrant_core::address::is_loopback;
use evergrant_core::alert::render::{OutgoingRequest, Rendered, render};
use evergrant_core::alert::sink::SinkUrl;
use evergrant_core::alert::{Alert, Outcome, Sink, SinkKind};
use futures_util::future::join_all;
use http::Method;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Deliver, mail};
use crate::http::HttpClient;

/// A sink answers within that time.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Teams takes four messages a second.
const TEAMS_PAUSE: Duration = Duration::from_millis(250);

/// All messages of one attempt have been tried within that time: the alerter's lease is longer.
const WHOLE: Duration = Duration::from_secs(45);

/// Brings alerts to real sinks, over the network. Cheap to clone; clones keep the pauses together.
#[derive(Debug, Clone)]
pub struct Courier {
    inner: Arc<Inner>,
}

struct Inner {
    sinks: Vec<Sink>,
    clock: Box<dyn Fn() -> Timestamp + Send + Sync>,
    plain: HttpClient,
    timeout: Duration,
    /// Clients that trust more certificates, by their file and its time of change.
    trusting: Mutex<HashMap<(PathBuf, Option<std::time::SystemTime>), HttpClient>>,
    /// When the next message may go to each address of Teams.
    teams: Mutex<HashMap<String, Instant>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("sinks", &self.sinks).finish_non_exhaustive()
    }
}

impl Courier {
    /// To these sinks, over this client; each answer is waited for until `timeout`, usually [`TIMEOUT`].
    pub fn new(
        client: HttpClient,
        sinks: Vec<Sink>,
        timeout: Duration,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        let (trusting, teams) = (Mutex::default(), Mutex::default());
        let clock = Box::new(clock);
        Self { inner: Arc::new(Inner { sinks, clock, plain: client, timeout, trusting, teams }) }
    }

    /// The sinks.
    pub fn sinks(&self) -> &[Sink] {
        &self.inner.sinks
    }

    /// The client that the sink's settings ask for.
    fn client(&self, sink: &Sink) -> Result<HttpClient, String> {
        let client = match &sink.ca_file {
            None => self.inner.plain.clone(),
            Some(file) => {
                let changed = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
                let mut known = self.inner.trusting.lock().unwrap_or_else(PoisonError::into_inner);
                let key = (file.clone(), changed);
                if !known.contains_key(&key) {
                    let client = HttpClient::new(Some(file)).map_err(|error| error.to_string())?;
                    known.retain(|(other, _), _| other != file);
                    known.insert(key.clone(), client);
                }
                known.get(&key).cloned().ok_or("the client is gone")?
            }
        };
        Ok(if sink.allow_insecure { client } else { client.public_only() })
    }

    async fn post(
        &self,
        sink: &Sink,
        client: &HttpClient,
        request: OutgoingRequest,
        now: Timestamp,
    ) -> Outcome {
        let OutgoingRequest { url, headers, body, .. } = request;
        let host = url.host();
        let address = url.expose();
        if address.scheme() != "https" && !is_loopback(address) && !sink.allow_insecure {
            let detail = format!("{host} is not https; set allow_insecure = true if that is meant");
            return Outcome::unavailable(detail);
        }
        self.keep_pause(sink, &url).await;
        let (headers, basic) = (headers, basic_auth(&url));
        let headers: Vec<_> = headers.into_iter().chain(basic).collect();
        let calling = client.call(Method::POST, address, &headers, Bytes::from(body));
        match tokio::time::timeout(self.inner.timeout, calling).await {
            Err(_) => {
                let secs = self.inner.timeout.as_secs_f32();
                Outcome::unavailable(format!("{host} does not answer within {secs} s"))
            }
            Ok(Err(error)) => {
                Outcome::unavailable(format!("{host} cannot be reached: {}", sink.scrub(&error.to_string())))
            }
            Ok(Ok(reply)) => {
                let retry_after = reply.headers.get("retry-after").and_then(|value| value.to_str().ok());
                let body = String::from_utf8_lossy(&reply.body);
                Outcome::of_answer(sink, &host, (reply.status, retry_after, &body), now)
            }
        }
    }

    /// Waits for the next turn of this address, and takes it.
    async fn keep_pause(&self, sink: &Sink, url: &SinkUrl) {
        let SinkKind::Teams { .. } = &sink.kind else { return };
        let turn = {
            let mut turns = self.inner.teams.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let next = turns.entry(url.expose().to_string()).or_insert(now);
            let turn = (*next).max(now);
            *next = turn + TEAMS_PAUSE;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }
}

impl Courier {
    /// One attempt, with all the messages that it takes.
    pub async fn send(&self, sink: &Sink, alert: &Alert) -> Outcome {
        match tokio::time::timeout(WHOLE, self.send_all(sink, alert)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::unavailable(format!("it takes longer than {} s", WHOLE.as_secs())),
        }
    }

    async fn send_all(&self, sink: &Sink, alert: &Alert) -> Outcome {
        let now = (self.inner.clock)();
        let requests = match render(sink, alert, now) {
            Rendered::Email(email) => return mail::send(sink, &email, self.inner.timeout).await,
            Rendered::Requests(requests) => requests,
        };
        let client = match self.client(sink) {
            Ok(client) => client,
            Err(why) => return Outcome::unavailable(why),
        };
        if let SinkKind::Alertmanager { .. } = sink.kind {
            let posts = requests.into_iter().map(|request| self.post(sink, &client, request, now));
            return Outcome::any(join_all(posts).await);
        }
        let mut outcomes = Vec::new();
        for request in requests {
            outcomes.push(self.post(sink, &client, request, now).await);
        }
        Outcome::all(outcomes)
    }
}

impl Deliver for Courier {
    async fn deliver(&self, sink: &str, alert: &Alert) -> Outcome {
        match self.inner.sinks.iter().find(|known| known.name == sink) {
            Some(sink) => self.send(sink, alert).await,
            None => Outcome::unavailable("it is not in the configuration any more"),
        }
    }
}

/// What user and password in an address come to.
fn basic_auth(url: &SinkUrl) -> Option<(String, String)> {
    let url = url.expose();
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    if user.is_empty() && password.is_empty() {
        return None;
    }
    use base64::Engine as _;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    Some(("authorization".into(), format!("Basic {pair}")))
}
