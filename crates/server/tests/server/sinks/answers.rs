//! What sinks are sent over HTTP, and what their answers come to.

use std::time::Duration;

use evergrant_core::alert::{Outcome, Sink, SinkKind};
use evergrant_server::alert::Deliver as _;
use futures_util::future::join_all;
use serde_json::json;

use super::listener::{Listener, Say};
use super::{SECRET, alert, courier, http_sinks, key, sink, url};

#[tokio::test]
async fn every_kind_gets_what_it_takes() {
    let alert = alert("failed");
    for (nth, sink) in http_sinks("http://127.0.0.1:1").iter().enumerate() {
        let listener = Listener::start([]).await;
        let sinks = http_sinks(&listener.base());
        let name = sink.name.as_str();
        assert_eq!(courier(sinks).deliver(name, &alert).await, Outcome::Delivered, "{name}");
        let came = listener.came();
        let [one] = &came[..] else { panic!("{name}: {came:?}") };
        let path = match name {
            "alertmanager" => format!("/hook/{SECRET}/api/v2/alerts"),
            // The topic goes into the body.
            "ntfy" => "/hook/".to_owned(),
            _ => format!("/hook/{SECRET}"),
        };
        assert!(one.head.starts_with(&format!("post {path} http/1.1\r\n")), "{name}: {}", one.head);
        assert!(one.head.contains("\r\ncontent-type: application/json"), "{}", one.head);
        assert!(one.head.contains("\r\nuser-agent: evergrant/"), "{}", one.head);
        let bearer = one.head.contains(&format!("authorization: bearer {SECRET}"));
        assert_eq!(bearer, ["alertmanager", "ntfy"].contains(&name), "{name}");
        let episode = json!(alert.concerned[0].episode.as_str());
        let body = &one.body;
        match nth {
            0 => assert_eq!(body["attachments"][0]["content"]["type"], "AdaptiveCard"),
            1 => assert_eq!(body["blocks"][0]["type"], "header"),
            2 => assert_eq!((&body["dedup_key"], &body["routing_key"]), (&episode, &json!(SECRET))),
            3 => assert_eq!(body[0]["labels"]["episode"], episode),
            4 => assert_eq!(body["topic"], SECRET),
            _ => assert_eq!(
                (&body["type"], &body["data"]["id"]),
                (&json!("evergrant.alert.open"), &json!(alert.id))
            ),
        }
    }
}

async fn outcome(say: Say) -> Vec<(Sink, Outcome)> {
    let mut outcomes = Vec::new();
    for nth in 0..6 {
        let listener = Listener::start([say.clone()]).await;
        let sink = http_sinks(&listener.base()).remove(nth);
        let outcome = courier(vec![sink.clone()]).deliver(&sink.name, &alert("failed")).await;
        assert_eq!(listener.came().len(), 1, "it is sent once");
        outcomes.push((sink, outcome));
    }
    outcomes
}

fn holds_no_secret(outcome: &Outcome) {
    let said = format!("{outcome:?}");
    assert!(!said.contains(SECRET) && !said.contains("/hook"), "{said}");
    assert!(said.contains("127.0.0.1:"), "{said}");
}

#[tokio::test]
async fn a_sink_that_is_not_well_is_tried_again_when_it_says() {
    let echo = format!("not now, /hook/{SECRET}, {SECRET}!");
    for (_, outcome) in outcome(Say::Answer(429, "retry-after: 7\r\n", echo.clone())).await {
        holds_no_secret(&outcome);
        let Outcome::Unavailable { retry_after, detail } = outcome else { panic!("{outcome:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
        assert!(detail.contains("429") && detail.contains("not now"), "{detail}");
    }
    let date = "retry-after: Tue, 24 Nov 2026 18:01:30 GMT\r\n";
    for (_, outcome) in outcome(Say::Answer(503, date, String::new())).await {
        assert!(
            matches!(outcome, Outcome::Unavailable { retry_after: Some(wait), .. } if wait.as_secs() == 90)
        );
    }
    for status in [500, 401, 403, 404, 408] {
        for (_, outcome) in outcome(Say::Answer(status, "", echo.clone())).await {
            holds_no_secret(&outcome);
            assert!(matches!(outcome, Outcome::Unavailable { retry_after: None, .. }), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Listener::start([]).await;
    let to = format!("location: {}/\r\n", elsewhere.base());
    let listener = Listener::start([Say::Answer(307, Box::leak(to.into_boxed_str()), String::new())]).await;
    let sink = http_sinks(&listener.base()).remove(1);
    let outcome = courier(vec![sink]).deliver("slack", &alert("failed")).await;
    assert!(matches!(outcome, Outcome::Unavailable { .. }), "{outcome:?}");
    assert!(elsewhere.came().is_empty());
}

#[tokio::test]
async fn what_a_sink_refuses_is_refused_for_good() {
    for status in [400, 410, 413, 422] {
        for (_, outcome) in outcome(Say::Answer(status, "", format!("bad {SECRET}"))).await {
            holds_no_secret(&outcome);
            assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn no_answer_is_no_refusal() {
    for say in [Say::Close, Say::Nothing] {
        for (_, outcome) in outcome(say).await {
            holds_no_secret(&outcome);
            assert!(matches!(outcome, Outcome::Unavailable { .. }), "{outcome:?}");
        }
    }
    let nobody = http_sinks("http://127.0.0.1:9").remove(0);
    let outcome = courier(vec![nobody]).deliver("teams", &alert("failed")).await;
    holds_no_secret(&outcome);
    assert!(matches!(outcome, Outcome::Unavailable { .. }), "{outcome:?}");
    let gone = courier(vec![]).deliver("teams", &alert("failed")).await;
    assert!(matches!(gone, Outcome::Unavailable { .. }));
}

#[tokio::test]
async fn teams_gets_four_messages_a_second_at_most() {
    let listener = Listener::start([]).await;
    let courier = courier(vec![http_sinks(&listener.base()).remove(0)]);
    let alert = alert("failed");
    let outcomes = join_all((0..5).map(|_| courier.deliver("teams", &alert))).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Delivered), "{outcomes:?}");
    let mut times: Vec<_> = listener.came().iter().map(|came| came.at).collect();
    times.sort();
    let whole = times[4].duration_since(times[0]);
    // The first may have been late by what a connection takes.
    assert!(whole >= Duration::from_millis(4 * 250 - 100), "{whole:?}");
}

#[tokio::test]
async fn one_event_an_episode_and_a_failure_of_one_is_a_failure() {
    let mut alert = alert("failed");
    let mut other = alert.concerned[0].clone();
    other.chain = "other".parse().unwrap();
    other.episode = evergrant_core::alert::EpisodeId::new(&other.chain, alert.condition, super::now());
    alert.concerned.push(other);
    let listener =
        Listener::start([Say::Answer(202, "", String::new()), Say::Answer(500, "", String::new())]).await;
    let courier = courier(vec![http_sinks(&listener.base()).remove(2)]);
    assert!(matches!(courier.deliver("pagerduty", &alert).await, Outcome::Unavailable { .. }));
    assert_eq!(courier.deliver("pagerduty", &alert).await, Outcome::Delivered);
    let keys: Vec<_> = listener.came().iter().map(|came| came.body["dedup_key"].clone()).collect();
    let both: Vec<_> = alert.concerned.iter().map(|concerned| json!(concerned.episode.as_str())).collect();
    assert_eq!(keys, [both.clone(), both].concat());
}

#[tokio::test]
async fn one_peer_of_alertmanager_is_enough_and_all_are_told() {
    let [one, two] = [Listener::start([Say::Close]).await, Listener::start([]).await];
    let peers = ["http://127.0.0.1:9".to_owned(), one.base(), two.base()].map(|base| url(&base));
    let courier = courier(vec![sink(SinkKind::Alertmanager { peers: peers.into(), key: None })]);
    assert_eq!(courier.deliver("alertmanager", &alert("failed")).await, Outcome::Delivered);
    assert_eq!((one.came().len(), two.came().len()), (1, 1));
    let dead = vec![url("http://127.0.0.1:9"), url("http://127.0.0.1:9")];
    let courier = super::courier(vec![sink(SinkKind::Alertmanager { peers: dead, key: None })]);
    assert!(matches!(courier.deliver("alertmanager", &alert("failed")).await, Outcome::Unavailable { .. }));
}

#[tokio::test]
async fn plain_http_and_private_addresses_need_a_setting() {
    let refused = |outcome: Outcome, why: &str| {
        let Outcome::Unavailable { detail, .. } = &outcome else { panic!("{outcome:?}") };
        assert!(detail.contains(why), "{detail}");
    };
    for (address, why) in [
        ("http://sink.example.org/x", "not https"),
        ("http://10.1.2.3/x", "not https"),
        ("https://10.1.2.3/x", "private address"),
        ("https://169.254.169.254/x", "private address"),
        ("https://[fd00::1]/x", "private address"),
        ("https://[::ffff:10.0.0.1]/x", "private address"),
    ] {
        let webhook = sink(SinkKind::Slack { url: url(address) });
        refused(courier(vec![webhook]).deliver("slack", &alert("failed")).await, why);
    }
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_trusted_for_its_sink_only() {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, certified.cert.pem()).unwrap();
    let key_der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key_der)
        .unwrap();
    let listener = Listener::over([], Some(std::sync::Arc::new(config).into())).await;
    let address = url(&format!("https://localhost:{}/", listener.port));
    let mut own = sink(SinkKind::PagerDuty { url: address, routing_key: key() });
    let outcome = courier(vec![own.clone()]).deliver("pagerduty", &alert("failed")).await;
    assert!(outcome.detail().unwrap().contains("TLS"), "{outcome:?}");
    own.ca_file = Some(ca_file.clone());
    let courier = courier(vec![own]);
    assert_eq!(courier.deliver("pagerduty", &alert("failed")).await, Outcome::Delivered);
    std::fs::remove_file(&ca_file).unwrap();
    let outcome = courier.deliver("pagerduty", &alert("failed")).await;
    assert!(outcome.detail().unwrap().contains("ca.pem"), "{outcome:?}");
}

#[tokio::test]
async fn what_is_open_is_posted_again_at_the_sinks_own_pace() {
    let (peer, chat) = (Listener::start([]).await, Listener::start([]).await);
    let mut red_only = http_sinks(&peer.base()).remove(3);
    red_only.min_level = evergrant_core::alert::Level::Red;
    let courier = courier(vec![http_sinks(&chat.base()).remove(1), red_only]);
    let (open, opened) = futures_channel::mpsc::unbounded();
    let posting = tokio::spawn(evergrant_server::alert::repost(courier, opened));
    open.unbounded_send(vec![alert("failed"), alert("stale")]).unwrap();
    open.unbounded_send(vec![alert("failed"), alert("stale")]).unwrap();
    drop(open);
    posting.await.unwrap();
    let came = peer.came();
    let [one] = &came[..] else { panic!("{came:?}") };
    assert_eq!(one.body[0]["labels"]["condition"], "failed");
    assert!(chat.came().is_empty(), "it remembers by itself");
}
