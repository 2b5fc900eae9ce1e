//! Episodes in a real Alertmanager.
//!
//! `EVERGRANT_ALERTMANAGER_PERIOD_SECS=60 EVERGRANT_ALERTMANAGER_POSTS=20` runs it at its real pace, for 20 minutes.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use evergrant_core::alert::{Alert, AlertState, EpisodeId, Level, Outcome, SinkKind};
use evergrant_server::alert::Deliver as _;
use evergrant_server::http::HttpClient;
use evergrant_server::{Courier, TokioWorld, World as _};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::listener::Listener;
use super::{alerts, sink, url};

const BOUND: Duration = Duration::from_secs(30);

struct Alertmanager {
    base: String,
    client: HttpClient,
    _child: Child,
}

impl Alertmanager {
    /// It tells `receiver` of each group.
    async fn start(folder: &Path, receiver: &Listener) -> Self {
        let config = folder.join("alertmanager.yml");
        let text = format!(
            "route:\n  receiver: it\n  group_by: [alertname]\n  group_wait: 1s\n  group_interval: 1s\n  repeat_interval: 1h\n\
             receivers:\n  - name: it\n    webhook_configs:\n      - url: {}/\n        send_resolved: true\n",
            receiver.base()
        );
        std::fs::write(&config, text).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("prometheus-alertmanager");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir(folder);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", folder.join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--cluster.listen-address=");
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn();
        let child = child.expect("Alertmanager is there: `cargo xtask test` brings it");
        let client = HttpClient::new(None).unwrap();
        let here = Self { base: format!("http://127.0.0.1:{port}"), client, _child: child };
        here.until("it is ready", async |here| here.get("/-/ready").await.is_some()).await;
        here
    }

    async fn get(&self, path: &str) -> Option<Vec<u8>> {
        let url = format!("{}{path}", self.base).parse().unwrap();
        let reply = self.client.call(Method::GET, &url, &[], Bytes::new()).await.ok()?;
        (reply.status == 200).then_some(reply.body)
    }

    /// The episodes that fire.
    async fn firing(&self) -> Vec<String> {
        let body = self.get("/api/v2/alerts?active=true").await.unwrap();
        let alerts: Vec<Value> = serde_json::from_slice(&body).unwrap();
        let mut episodes: Vec<_> =
            alerts.iter().map(|alert| alert["labels"]["episode"].as_str().unwrap().to_owned()).collect();
        episodes.sort();
        episodes
    }

    async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let waiting = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(BOUND, waiting).await.unwrap_or_else(|_| panic!("not within 30 s: {what}"));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

fn real_now() -> Timestamp {
    TokioWorld::new(evergrant_store::MemoryState::default(), HttpClient::new(None).unwrap()).now()
}

/// Episodes of one condition on two chains, open for a minute.
fn open(now: Timestamp) -> Alert {
    let mut alert = alerts(now).into_iter().find(|alert| alert.status == "reauth_required").unwrap();
    let mut other = alert.concerned[0].clone();
    other.chain = "other".parse().unwrap();
    other.episode = EpisodeId::new(&other.chain, alert.condition, now);
    alert.concerned.push(other);
    for concerned in &mut alert.concerned {
        concerned.since = now - SignedDuration::from_mins(1);
    }
    alert
}

#[tokio::test]
async fn an_episode_fires_while_posts_go_on_and_is_resolved_by_its_end() {
    let period = Duration::from_secs(setting("EVERGRANT_ALERTMANAGER_PERIOD_SECS", 1));
    let posts = setting("EVERGRANT_ALERTMANAGER_POSTS", 8);
    let folder = tempfile::tempdir().unwrap();
    let receiver = Listener::start([]).await;
    let peer = Alertmanager::start(folder.path(), &receiver).await;
    // An open episode lasts 5 minutes beyond its last post, which is five periods of a minute. A courier whose clock is
    // behind lets it last five shorter periods.
    let behind = SignedDuration::from_mins(5) - SignedDuration::try_from(period * 5).unwrap();
    let peers = vec![url(&peer.base)];
    let sinks = vec![sink(SinkKind::Alertmanager { peers, key: None })];
    let client = HttpClient::new(None).unwrap();
    let courier = Courier::new(client, sinks, Duration::from_secs(10), move || real_now() - behind);

    let alert = open(real_now());
    let mut other = alerts(real_now()).remove(0);
    other.concerned[0].since = real_now();
    let forgotten = other.concerned[0].episode.to_string();
    assert_eq!(courier.deliver("alertmanager", &other).await, Outcome::Delivered);
    let mut expected: Vec<_> =
        alert.concerned.iter().map(|concerned| concerned.episode.to_string()).collect();
    expected.sort();
    for nth in 0..posts {
        assert_eq!(courier.deliver("alertmanager", &alert).await, Outcome::Delivered);
        let mut firing = peer.firing().await;
        // The one that was posted once ends by itself meanwhile.
        firing.retain(|episode| *episode != forgotten);
        assert_eq!(firing, expected, "after post {nth}");
        tokio::time::sleep(period).await;
    }
    assert!(!peer.firing().await.contains(&forgotten), "it is posted no more, and ends by itself");

    let mut closed = alert.clone();
    let end = real_now() - SignedDuration::from_secs(1);
    (closed.state, closed.level, closed.ended_at) = (AlertState::Closed, Level::Green, Some(end));
    for concerned in &mut closed.concerned {
        concerned.ended_at = Some(end);
    }
    assert_eq!(courier.deliver("alertmanager", &closed).await, Outcome::Delivered);
    peer.until("nothing fires any more", async |peer| peer.firing().await.is_empty()).await;

    let told = |status: &str| {
        let of_it = |body: &Value| {
            body["status"] == status && body["groupLabels"]["alertname"] == "EvergrantReauthRequired"
        };
        receiver.came().into_iter().map(|came| came.body).filter(of_it).collect::<Vec<_>>()
    };
    peer.until("its receiver is told of the end", async |_| !told("resolved").is_empty()).await;
    let (firing, resolved) = (told("firing"), told("resolved"));
    // An Alertmanager that is slow tells of the first alert of a post before it has read the second.
    let chains: Vec<_> = firing.iter().map(|body| body["alerts"].as_array().unwrap().len()).collect();
    assert!(matches!(chains[..], [2] | [1, 2]), "posts that go on repeat nothing: {firing:?}");
    assert_eq!(resolved.len(), 1, "{resolved:?}");
    for body in [firing.last().unwrap(), &resolved[0]] {
        assert_eq!(body["alerts"].as_array().unwrap().len(), 2, "one group for both chains: {body}");
        let labels = &body["alerts"][0]["labels"];
        assert_eq!(
            (&labels["severity"], &labels["condition"]),
            (&"critical".into(), &"reauth_required".into())
        );
    }
    let ends: Timestamp = resolved[0]["alerts"][0]["endsAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(ends, end, "the true end");
}
