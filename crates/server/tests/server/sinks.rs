//! Alerts on their way to sinks, over real sockets.

mod alertmanager;
mod answers;
mod listener;
mod mail;

use std::time::Duration;

use evergrant_core::alert::sink::{SigningKey, SinkUrl};
use evergrant_core::alert::{Alert, Group, Level, Links, Sink, SinkKind, samples};
use evergrant_core::secret::SinkKey;
use evergrant_server::Courier;
use evergrant_server::http::HttpClient;
use jiff::Timestamp;

const SECRET: &str = "not-a-real-secret-0123456789";

fn now() -> Timestamp {
    "2026-11-24T18:00:00Z".parse().unwrap()
}

fn alerts(now: Timestamp) -> Vec<Alert> {
    let links = Links {
        runbook: "https://docs.example.org/runbook".into(),
        server: "https://evergrant.example.org".into(),
    };
    samples(&links, now)
}

fn alert(status: &str) -> Alert {
    alerts(now()).into_iter().find(|alert| alert.status == status).unwrap()
}

fn sink(kind: SinkKind) -> Sink {
    let groups = vec![Group::TokenPush, Group::Chain];
    Sink {
        name: kind.as_str().into(),
        kind,
        min_level: Level::Yellow,
        groups,
        allow_insecure: false,
        ca_file: None,
    }
}

fn url(text: &str) -> SinkUrl {
    SinkUrl::new(text.parse().unwrap())
}

fn key() -> SinkKey {
    SinkKey::parse(SECRET).unwrap()
}

/// One of each kind that is reached by HTTP, at an address that holds a secret.
fn http_sinks(base: &str) -> Vec<Sink> {
    let at = || url(&format!("{base}/hook/{SECRET}"));
    [
        SinkKind::Teams { url: at() },
        SinkKind::Slack { url: at() },
        SinkKind::PagerDuty { url: at(), routing_key: key() },
        SinkKind::Alertmanager { peers: vec![at()], key: Some(key()) },
        SinkKind::Ntfy { url: at(), key: Some(key()) },
        SinkKind::Webhook {
            url: at(),
            key: SigningKey::parse("whsec_bm90LWEtcmVhbC1rZXktbm90LWEtcmVhbC1rZXk=").unwrap(),
        },
    ]
    .map(sink)
    .into()
}

/// It waits for half a second only.
fn courier(sinks: Vec<Sink>) -> Courier {
    Courier::new(HttpClient::new(None).unwrap(), sinks, Duration::from_millis(500), now)
}
