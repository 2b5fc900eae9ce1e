//! The probe: proves that the access token works, every few minutes and on demand (SPEC §8).

use std::time::Duration;

use bytes::Bytes;
use evergrant_core::event::{Event, EventKind};
use evergrant_core::probe::{Reply, Verdict, judge};
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Fingerprint, Generation, Lineage, Reason};
use evergrant_store::State;
use http::Method;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use url::Url;

use crate::http::HttpClient;
use crate::renewable::{Pass, Renewable};
use crate::snapshot::Snapshots;
use crate::tokio_world::TokioWorld;
use crate::world::World;

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a probe found; the same JSON from command line and library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// The chain.
    pub chain: ChainName,
    /// The access token works, as far as its scopes go.
    pub ok: bool,
    /// What was found.
    pub reason: Reason,
    /// What the probe URL answered; null if it did not, or there is none.
    pub probe_status: Option<u16>,
    /// What the round trip through the API answered.
    pub round_trip_status: Option<u16>,
    /// What the minimal message was answered; null if none was sent.
    pub message_status: Option<u16>,
    /// The generation that was probed.
    pub lineage: Option<Lineage>,
    /// The generation that was probed.
    pub generation: Option<Generation>,
    /// The token was refused and a renewal was forced; this is its reason.
    pub renewal: Option<Reason>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// What one probe of an access token got.
#[derive(Debug)]
pub struct Probed {
    /// What it says about the token.
    pub verdict: Verdict,
    /// The probe URL's reply; `None`: the profile has none.
    pub roles: Option<Reply>,
    /// The free round trip's reply.
    pub round_trip: Option<Reply>,
    /// The minimal message's reply; `None`: not asked for.
    pub message: Option<Reply>,
}

/// Probes an access token: the probe URL, the free round trip, and, if `message`, one minimal message to the named
/// model or the profile's smallest one. The probe URL is one for access tokens: of an API key the round
/// trip decides, where there is one.
pub async fn probe_token(
    client: &HttpClient,
    profile: &Profile,
    pass: &Pass,
    message: Option<&MessageProbe>,
) -> Probed {
    let below = |path: &str| profile.api_base.join(path).ok();
    let get = |url: Option<Url>| ask(client, profile, url, pass, None);
    let message = message.and_then(|message| {
        let (path, smallest) = profile.message.as_ref()?;
        let model = message.model.as_ref().unwrap_or(smallest);
        let body =
            json!({ "model": model, "max_tokens": 1, "messages": [{ "role": "user", "content": "." }] });
        Some((below(path)?, body.to_string()))
    });
    let post = async {
        let (url, body) = message?;
        ask(client, profile, Some(url), pass, Some(body)).await
    };
    let free = profile.round_trip.as_deref().and_then(below);
    let knows_it = match pass {
        Pass::AccessToken(_) => true,
        Pass::ApiKey(_) => free.is_none(),
    };
    let roles = profile.probe_url.clone().filter(|_| knows_it);
    let (roles, round_trip, message) = tokio::join!(get(roles), get(free), post);
    let calls: Vec<_> = [&round_trip, &message].into_iter().flatten().collect();
    let verdict = judge(profile, roles.as_ref(), &calls);
    Probed { verdict, roles, round_trip, message }
}

/// One minimal message in each probe: it costs a little, and proves the most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MessageProbe {
    /// The model that is asked; `None`: the profile's smallest.
    pub model: Option<String>,
}

async fn ask(
    client: &HttpClient,
    profile: &Profile,
    url: Option<Url>,
    pass: &Pass,
    body: Option<String>,
) -> Option<Reply> {
    let url = url?;
    let mut headers = match pass {
        Pass::AccessToken(access) => {
            let mut headers = profile.api_headers.clone();
            headers.push(("authorization".into(), format!("Bearer {}", access.expose())));
            headers
        }
        Pass::ApiKey(key) => profile.api_key_headers(key),
    };
    headers.push(("accept".into(), "application/json".into()));
    if body.is_some() {
        headers.push(("content-type".into(), "application/json".into()));
    }
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let call = client.call(method, &url, &headers, Bytes::from(body.unwrap_or_default()));
    Some(match tokio::time::timeout(TIMEOUT, call).await {
        Ok(Ok(reply)) => Reply::Status(reply.status, String::from_utf8_lossy(&reply.body).into_owned()),
        Ok(Err(error)) => Reply::Nothing(error.to_string()),
        Err(_) => Reply::Nothing("no answer within 10 s".into()),
    })
}

/// Probes the chain's current access token; a refused one is renewed at once.
pub async fn probe<S: State>(
    chain: &impl Renewable,
    world: &TokioWorld<S>,
    snapshots: &Snapshots,
    message: Option<&MessageProbe>,
) -> ProbeReport {
    let begun = world.monotonic();
    let now = world.now();
    let mut report = ProbeReport {
        chain: chain.chain().clone(),
        ok: false,
        reason: Reason::ProbeUnavailable,
        probe_status: None,
        round_trip_status: None,
        message_status: None,
        lineage: None,
        generation: None,
        renewal: None,
        took_ms: 0,
    };
    let Some(current) = snapshots.current(chain.chain()).filter(|current| current.present) else {
        report.reason = chain.last_report().and_then(|last| last.error).unwrap_or(Reason::TokenAbsent);
        return report;
    };
    let (lineage, generation) = current.position;
    (report.lineage, report.generation) = (Some(lineage), Some(generation));
    let probed =
        probe_token(world.client(), chain.profile(), &Pass::of(chain, &current.access), message).await;
    let verdict = probed.verdict;
    report.probe_status = probed.roles.as_ref().and_then(status);
    report.round_trip_status = probed.round_trip.as_ref().and_then(status);
    report.message_status = probed.message.as_ref().and_then(status);
    report.reason = verdict.reason();
    report.ok = matches!(verdict, Verdict::Works | Verdict::Limited) && now < current.expires_at;
    remember(world, &report, current.access.fingerprint(), now).await;
    if verdict == Verdict::Refused {
        let renewed = chain.access_refused(current.position).await;
        report.renewal = Some(renewed.error.unwrap_or(renewed.reason));
    }
    report.took_ms = u64::try_from((world.monotonic() - begun).as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(chain = %report.chain, reason = %report.reason, took_ms = report.took_ms, "probed");
    report
}

async fn remember<S: State>(
    world: &TokioWorld<S>,
    report: &ProbeReport,
    fingerprint: Fingerprint,
    at: Timestamp,
) {
    let (Some(lineage), Some(generation)) = (report.lineage, report.generation) else {
        return;
    };
    let detail = json!({
        "probe_status": report.probe_status, "round_trip_status": report.round_trip_status,
        "access_fingerprint": fingerprint,
    });
    let event = Event {
        chain: report.chain.clone(),
        at,
        kind: EventKind::Probed,
        reason: report.reason,
        lineage,
        generation,
        attempt: None,
        detail,
    };
    if let Err(error) = world.state().add_events(&[event]).await {
        tracing::warn!(chain = %report.chain, %error, "the probe could not be written to the ledger");
    }
}

fn status(reply: &Reply) -> Option<u16> {
    match reply {
        Reply::Status(status, _) => Some(*status),
        Reply::Nothing(_) => None,
    }
}
