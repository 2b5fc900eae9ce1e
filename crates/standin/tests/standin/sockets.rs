//! Over real sockets: what a client really sees of each transport fault, the admin calls, start and stop.

use std::time::Duration;

use evergrant_standin::{
    Fault, FaultTarget, Fingerprint, LoginOptions, Rule, Settings, StandIn, StartError, Streaming,
};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::client::{BOUND, JSON, Wire, exchange, open, refresh_body, send};

async fn start() -> (StandIn, String) {
    let standin = StandIn::start(Settings::default()).await.unwrap();
    let token = standin.engine().login(LoginOptions::default()).refresh_token.unwrap();
    (standin, token)
}

/// Waits for a condition that is about to hold.
async fn until(mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(BOUND, waiting).await.expect("the condition holds in time");
}

#[tokio::test]
async fn an_exchange_rotates_and_is_dated() {
    let (standin, token) = start().await;
    let wire = exchange(&standin.url(), &token).await;
    assert_eq!((wire.status, wire.whole), (200, true), "{wire:?}");
    assert!(wire.json()["refresh_token"].as_str().unwrap().starts_with("refresh-"));
    assert!(wire.header("date").unwrap().ends_with(" GMT"));
    assert_eq!(wire.head.to_lowercase().matches("\r\ndate:").count(), 1);
    let form =
        format!("grant_type=refresh_token&refresh_token={}", wire.json()["refresh_token"].as_str().unwrap());
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let second = send(&standin.url(), "POST", "/v1/oauth/token", &headers, &form).await;
    assert_eq!(second.status, 200);
    assert_eq!(standin.engine().counters().max_concurrent_exchanges, 1);
    assert_eq!(standin.engine().counters().exchanges_in_flight, 0);
    assert_eq!(standin.token_url(), format!("{}/v1/oauth/token", standin.url()));
    assert_eq!(standin.probe_url(), format!("{}/roles", standin.url()));
}

#[tokio::test]
async fn a_lost_request_and_a_lost_answer_look_alike_but_for_the_token() {
    for (fault, spends) in [(Fault::RequestLost, false), (Fault::AnswerLost, true)] {
        let (standin, token) = start().await;
        standin.engine().push_fault(FaultTarget::Token, fault, 1);
        let wire = exchange(&standin.url(), &token).await;
        assert!(wire.raw.is_empty(), "{wire:?}");
        let newest = standin.engine().state().families[0].newest;
        assert_eq!(newest != Some(Fingerprint::of(&token)), spends);
        assert!(!standin.engine().exchanges()[0].delivered);
    }
}

#[tokio::test]
async fn a_cut_body_is_incomplete() {
    for after_bytes in [0, 20] {
        let (standin, token) = start().await;
        standin.engine().push_fault(FaultTarget::Token, Fault::CutBody { after_bytes }, 1);
        let wire = exchange(&standin.url(), &token).await;
        assert_eq!((wire.status, wire.body.len(), wire.whole), (200, after_bytes, false), "{wire:?}");
    }
}

#[tokio::test]
async fn truncated_json_is_a_whole_message() {
    let (standin, token) = start().await;
    standin.engine().push_fault(FaultTarget::Token, Fault::named("truncated_json").unwrap(), 1);
    let wire = exchange(&standin.url(), &token).await;
    assert!(wire.whole && serde_json::from_slice::<Value>(&wire.body).is_err(), "{wire:?}");
}

#[tokio::test]
async fn a_huge_body_arrives_whole() {
    let (standin, token) = start().await;
    standin.engine().push_fault(FaultTarget::Token, Fault::HugeBody { bytes: 3 << 20 }, 1);
    let wire = exchange(&standin.url(), &token).await;
    assert_eq!((wire.whole, wire.body.len()), (true, 3 << 20));
    assert!(wire.json()["access_token"].is_string());
}

#[tokio::test]
async fn statuses_travel_with_their_bodies() {
    let (standin, token) = start().await;
    for (name, status) in
        [("html_502", 502), ("overloaded_529", 529), ("redirect_302", 302), ("no_content_204", 204)]
    {
        standin.engine().push_fault(FaultTarget::Token, Fault::named(name).unwrap(), 1);
        let wire = exchange(&standin.url(), &token).await;
        assert_eq!((wire.status, wire.whole), (status, true), "{name}: {wire:?}");
    }
    standin.engine().push_fault(FaultTarget::Token, Fault::DateSkew { secs: -86_400 * 400 }, 1);
    let wire = exchange(&standin.url(), &token).await;
    let year = standin.engine().now().strftime("%Y").to_string();
    assert!(!wire.header("date").unwrap().contains(&year), "{wire:?}");
}

#[tokio::test]
async fn no_answer_is_no_answer() {
    let (standin, token) = start().await;
    standin.engine().push_fault(FaultTarget::Token, Fault::NeverAnswer { processed: true }, 1);
    let mut stream = open(&standin.url(), "POST", "/v1/oauth/token", &[JSON], &refresh_body(&token)).await;
    until(|| standin.engine().counters().rotations == 1).await;
    let mut byte = [0];
    let read = timeout(Duration::from_millis(50), stream.read(&mut byte)).await;
    assert!(read.is_err(), "neither a byte nor an end: {read:?}");
    assert_eq!(standin.engine().counters().exchanges_in_flight, 1);
    drop(stream);
    until(|| standin.engine().counters().exchanges_in_flight == 0).await;
}

#[tokio::test]
async fn a_request_whose_client_went_away_is_processed_all_the_same() {
    let (standin, token) = start().await;
    standin.engine().push_fault(FaultTarget::Token, Fault::DelayBefore { millis: 60 }, 1);
    let stream = open(&standin.url(), "POST", "/v1/oauth/token", &[JSON], &refresh_body(&token)).await;
    until(|| standin.engine().counters().exchanges_in_flight == 1).await;
    assert_eq!(standin.engine().counters().exchanges, 0);
    drop(stream);
    until(|| standin.engine().counters().rotations == 1).await;
}

#[tokio::test]
async fn slow_answers_are_slow_and_overlap() {
    let (standin, token) = start().await;
    let rule = Rule::new(FaultTarget::Token, Fault::DelayBefore { millis: 60 }, 1);
    standin.engine().push_rule(rule);
    standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 60 }, 1);
    let url = standin.url();
    let both = async { tokio::join!(exchange(&url, &token), exchange(&url, &token)) };
    let (one, two) = both.await;
    // The one that is processed later presents a spent token; which one that is, arrival decides.
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    let counters = standin.engine().counters();
    assert_eq!((counters.max_concurrent_exchanges, counters.families_revoked_by_reuse), (2, 1));
}

#[tokio::test]
async fn streams_arrive_event_by_event_and_a_dropped_one_is_noticed() {
    let streaming = Streaming { deltas: 3, delta_bytes: 4, gap_millis: 1 };
    let settings = Settings { streaming, api_keys: vec!["k".into()], ..Settings::default() };
    let standin = StandIn::start(settings).await.unwrap();
    let headers = [JSON, ("x-api-key", "k"), ("anthropic-version", "1")];
    let body = r#"{"model":"m","max_tokens":1,"messages":[],"stream":true}"#;
    let wire = send(&standin.url(), "POST", "/v1/messages", &headers, body).await;
    assert!(wire.whole && wire.status == 200, "{wire:?}");
    let text = String::from_utf8_lossy(&wire.body);
    assert_eq!((text.matches("event: ").count(), text.matches("content_block_delta\n").count()), (9, 3));
    assert_eq!((standin.engine().streams().begun, standin.engine().streams().dropped), (1, 0));

    standin.engine().push_fault(FaultTarget::Api, Fault::CutBody { after_bytes: 300 }, 1);
    let cut = send(&standin.url(), "POST", "/v1/messages", &headers, body).await;
    assert!(!cut.whole && cut.body.len() >= 300, "{cut:?}");

    standin.engine().change_settings(|settings| settings.streaming.gap_millis = 60_000);
    let mut stream = open(&standin.url(), "POST", "/v1/messages", &headers, body).await;
    let mut some = [0; 16];
    timeout(BOUND, stream.read_exact(&mut some)).await.unwrap().unwrap();
    drop(stream);
    until(|| standin.engine().streams().dropped == 1).await;
}

#[tokio::test]
async fn greetings_answer_head() {
    let (standin, _) = start().await;
    for path in ["/", "/api/hello"] {
        let wire = send(&standin.url(), "HEAD", path, &[], "").await;
        assert_eq!((wire.status, wire.body.len()), (200, 0));
    }
}

async fn admin(standin: &StandIn, method: &str, call: &str, body: Value) -> Wire {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    send(&standin.url(), method, &format!("/_stand-in/{call}"), &[JSON], &body).await
}

#[tokio::test]
async fn admin_logs_in_revokes_and_moves_the_clock() {
    let (standin, _) = start().await;
    let file = admin(&standin, "POST", "login", json!({"access_secs": 100})).await.json();
    let oauth = &file["claudeAiOauth"];
    let bearer = format!("Bearer {}", oauth["accessToken"].as_str().unwrap());
    let roles =
        || async { send(&standin.url(), "GET", "/roles", &[("authorization", &bearer)], "").await.status };
    assert_eq!(roles().await, 200);
    let clock = admin(&standin, "POST", "clock", json!({"advance_secs": 101})).await.json();
    assert_eq!(clock["offset_secs"], 101);
    assert_eq!(roles().await, 401);
    let refresh = oauth["refreshToken"].as_str().unwrap();
    assert_eq!(exchange(&standin.url(), refresh).await.status, 200);
    let revoked = admin(&standin, "POST", "revoke", json!({"token": refresh})).await.json();
    assert_eq!(revoked["families_revoked"], 1);
    assert_eq!(admin(&standin, "POST", "revoke", json!({"all": true})).await.json()["families_revoked"], 1);
    let state = admin(&standin, "GET", "state", Value::Null).await.json();
    assert_eq!(
        (state["families"][1]["generation"].as_u64(), state["families"][1]["live"].as_bool()),
        (Some(2), Some(false))
    );
    let log = admin(&standin, "GET", "exchanges", Value::Null).await.json();
    assert_eq!(log["exchanges"][0]["presented"], Fingerprint::of(refresh).to_string());
    assert_eq!(log["exchanges"][0]["outcome"], "rotated");
    assert_eq!(admin(&standin, "GET", "calls", Value::Null).await.json()["calls"][1]["status"], 401);
    assert_eq!(admin(&standin, "GET", "clock", Value::Null).await.json()["offset_secs"], 101);
}

#[tokio::test]
async fn admin_scripts_faults_and_settings() {
    let (standin, token) = start().await;
    let rules =
        json!([{"fault": "overloaded_529", "times": 2}, {"fault": {"kind": "answer_lost"}, "target": "api"}]);
    let pushed = admin(&standin, "POST", "faults", rules).await.json();
    assert_eq!(pushed["waiting"].as_array().unwrap().len(), 2);
    assert!(pushed["named"].as_array().unwrap().len() > 40);
    assert_eq!(exchange(&standin.url(), &token).await.status, 529);
    let waiting = admin(&standin, "GET", "faults", Value::Null).await.json();
    assert_eq!(waiting["waiting"][0]["times"], 1);
    let cleared = admin(&standin, "DELETE", "faults", Value::Null).await.json();
    assert_eq!(cleared["waiting"], json!([]));
    assert_eq!(exchange(&standin.url(), &token).await.status, 200);

    let patch = json!({"reuse": {"class": "none"}, "lives": {"access_secs": 5}});
    let patched = admin(&standin, "PATCH", "settings", patch).await.json();
    assert_eq!((&patched["reuse"]["class"], &patched["lives"]["access_secs"]), (&json!("none"), &json!(5)));
    let read: Settings =
        serde_json::from_value(admin(&standin, "GET", "settings", Value::Null).await.json()).unwrap();
    assert_eq!(read, standin.engine().settings());

    for (call, body, said) in [
        ("settings", json!({"lifes": 1}), "lifes"),
        ("faults", json!({"fault": "bad_luck"}), "bad_luck"),
        ("clock", json!({}), "advance_secs"),
    ] {
        let method = if call == "settings" { "PATCH" } else { "POST" };
        let refused = admin(&standin, method, call, body).await;
        assert_eq!(refused.status, 400);
        assert!(refused.json()["error"].as_str().unwrap().contains(said), "{refused:?}");
    }
    assert_eq!(admin(&standin, "GET", "nothing", Value::Null).await.status, 404);
}

#[tokio::test]
async fn the_index_lists_calls_that_are_there() {
    let (standin, _) = start().await;
    let index = send(&standin.url(), "GET", "/_stand-in/", &[], "").await;
    assert!(index.header("content-type").unwrap().starts_with("text/plain"));
    let text = String::from_utf8(index.body).unwrap();
    let calls = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let method = words.next().filter(|word| ["GET", "POST", "PATCH", "DELETE"].contains(word))?;
        Some((method.to_owned(), words.next()?.to_owned()))
    });
    let calls: Vec<_> = calls.collect();
    assert_eq!(calls.len(), 14);
    for (method, call) in calls {
        assert_ne!(admin(&standin, &method, &call, Value::Null).await.status, 404, "{method} {call}");
    }
}

#[tokio::test]
async fn it_stays_on_loopback() {
    let address = "0.0.0.0:0".parse().unwrap();
    let refused = StandIn::start_at(address, Settings::default()).await.unwrap_err();
    assert!(matches!(refused, StartError::NotLoopback(_)), "{refused}");
}

#[tokio::test]
async fn a_provider_that_comes_back_knows_its_grants() {
    let (standin, token) = start().await;
    let address = standin.address();
    standin.engine().push_fault(FaultTarget::Token, Fault::NeverAnswer { processed: false }, 1);
    let mut hanging = open(&standin.url(), "POST", "/v1/oauth/token", &[JSON], &refresh_body(&token)).await;
    until(|| standin.engine().counters().exchanges_in_flight == 1).await;
    let handle = standin.stop().await;
    let mut rest = Vec::new();
    let _ = timeout(BOUND, hanging.read_to_end(&mut rest)).await.expect("stopping ends the connection");
    assert!(rest.is_empty());
    assert!(TcpStream::connect(address).await.is_err());

    let back = StandIn::resume_at(address, handle).await.unwrap();
    assert_eq!(exchange(&back.url(), &token).await.status, 200);
    drop(back);
    let waiting = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(BOUND, waiting).await.expect("dropping stops listening");
}
