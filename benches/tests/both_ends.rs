//! The load generator against the upstream, on loopback: everything arrives, and what is wrong is found. No times.

use std::time::Duration;

use evergrant_benches::load::{Amount, Open, Pace, Requests, Sse, Target, hold, requests, sse};
use evergrant_benches::upstream;
use serde_json::Value;
use tokio::net::TcpListener;

const TOKEN: &str = "bench-token";

async fn target(token: &str) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(upstream::serve(listener, Some(TOKEN.into())));
    Target {
        address,
        path: "/v1/messages".into(),
        headers: vec![format!("authorization: Bearer {token}"), "anthropic-beta: x".into()],
        keys: vec![],
        key_header: "X-CM-API-Key".into(),
    }
}

fn asked(body: usize, chunked: bool) -> Requests {
    Requests { pace: Pace::Closed, amount: Amount::Each(20), connections: 3, body, chunked, wrong: None }
}

fn number(result: &Value, member: &str) -> u64 {
    result.get(member).and_then(Value::as_u64).unwrap_or_else(|| panic!("{member} of {result}"))
}

#[tokio::test]
async fn requests_arrive_however_they_are_framed() {
    let target = target(TOKEN).await;
    for asked in [asked(2048, false), asked(2048, true), asked(0, false), asked(1_500_000, false)] {
        let result = requests(&target, asked, &mut Open).await.unwrap();
        assert_eq!((number(&result, "requests"), number(&result, "errors")), (60, 0), "{result}");
    }
}

#[tokio::test]
async fn an_open_loop_sends_what_is_due() {
    let target = target(TOKEN).await;
    let time = Amount::For(Duration::from_millis(100));
    let asked = Requests { pace: Pace::Open(1000), amount: time, ..asked(2048, false) };
    let result = requests(&target, asked, &mut Open).await.unwrap();
    assert_eq!(number(&result, "requests") + number(&result, "unsent"), 100, "{result}");
    assert_eq!(number(&result, "errors"), 0, "{result}");
}

#[tokio::test]
async fn streams_bring_every_event() {
    let target = target(TOKEN).await;
    let result = sse(&target, Sse { streams: 4, events: 25, gap_us: 500 }, &mut Open).await.unwrap();
    assert_eq!((number(&result, "events"), number(&result, "errors")), (100, 0), "{result}");
    let result = hold(&target, 10, &mut Open).await.unwrap();
    assert_eq!(number(&result, "streams"), 10);
}

#[tokio::test]
async fn what_a_proxy_did_not_do_is_an_error() {
    let mut wrong = target("another").await;
    let result = requests(&wrong, asked(10, false), &mut Open).await.unwrap();
    assert_eq!(number(&result, "errors"), 3, "{result}");
    assert!(result.to_string().contains("the token did not arrive"), "{result}");
    wrong = target(TOKEN).await;
    wrong.keys = vec!["key".into()];
    let result = requests(&wrong, asked(10, false), &mut Open).await.unwrap();
    assert!(result.to_string().contains("the caller key arrived"), "{result}");
}
