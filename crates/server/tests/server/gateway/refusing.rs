//! What does not pass, and what its sender is told.

use std::num::NonZeroU32;
use std::time::Duration;

use evergrant_core::caller::Scope;
use evergrant_server::gateway::Limits;
use serde_json::Value;

use super::fixture::{ACCESS, Change, PATIENCE, Rig, field, ok};

fn error(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let error: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    assert_eq!(error["type"], "error");
    assert_eq!(error["request_id"].as_str(), field(head, "x-request-id"));
    assert!(error["error"]["message"].as_str().unwrap().len() > 20, "{answer}");
    error
}

/// Nothing of it reaches the provider, and the connection is not trusted any more.
#[tokio::test]
async fn what_two_readers_might_split_differently_is_refused() {
    let rig = Rig::new().await;
    let head = |fields: &str| rig.message(fields, "");
    let both = "content-length: 4\r\ntransfer-encoding: chunked\r\n";
    let cases: Vec<(&str, String)> = vec![
        ("both framings", head(both)),
        ("a length twice", head("content-length: 4\r\ncontent-length: 4\r\n")),
        ("two lengths in one", head("content-length: 4, 4\r\n")),
        ("a signed length", head("content-length: +4\r\n")),
        ("a length with an underscore", head("content-length: 1_0\r\n")),
        ("an empty length", head("content-length: \r\n")),
        ("a coding that is not chunked", head("transfer-encoding: gzip, chunked\r\n")),
        ("chunked twice", head("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n")),
        ("identity", head("transfer-encoding: identity\r\n")),
        ("a vertical tab before chunked", head("transfer-encoding: \x0bchunked\r\n")),
        ("chunked in HTTP/1.0", head("transfer-encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0")),
        ("a bare LF", head("a: b\nc: d\r\n")),
        ("a bare CR", head("a: b\rc: d\r\n")),
        ("obs-fold", head("a: b\r\n c\r\n")),
        ("a blank before the colon", head("content-length : 4\r\n")),
        ("NUL in a value", head("a: b\0c\r\n")),
        ("an empty name", head(": b\r\n")),
        ("a blank line first", format!("\r\n{}", head(""))),
        ("absolute form", head("").replace("POST /", "POST http://gateway/")),
        ("two slashes first", head("").replace("POST /", "POST //")),
        ("8-bit in the target", head("").replace("/messages ", "/mess\u{e4}ges ")),
        ("a fragment", head("").replace("/messages ", "/messages#x ")),
        ("a blank in the target", head("").replace("/messages ", "/messages x ")),
        ("no host", head("").replace("host: gateway\r\n", "")),
        ("two hosts", head("host: other\r\n")),
        ("HTTP/1.2", head("").replace("HTTP/1.1", "HTTP/1.2")),
        ("HTTP/0.9", "GET /\r\n\r\n".to_owned()),
        ("another expectation", head("expect: 200-ok\r\n")),
        ("TLS", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03".to_owned()),
        ("too many fields", head(&"a: b\r\n".repeat(200))),
        ("too large a head", head(&format!("a: {}\r\n", "b".repeat(70_000)))),
    ];
    for (what, request) in cases {
        let mut client = rig.client().await;
        client.send(&request).await;
        let answer = client.answer().await;
        let status: u16 = answer[9..12].parse().unwrap();
        assert!(matches!(status, 400 | 417 | 431 | 505), "{what}: {answer}");
        assert_eq!(field(&answer, "connection"), Some("close"), "{what}: {answer}");
        assert_eq!(field(&answer, "x-should-retry"), Some("false"), "{what}: {answer}");
        error(&answer);
        assert_eq!(client.rest().await, Ok(vec![]), "{what}: nothing behind the error");
    }
    assert_nobody_came(&rig).await;
}

/// The next connection that the provider gets is ours.
async fn assert_nobody_came(rig: &Rig) {
    let mut client = rig.client().await;
    client.send(rig.request("GET /v1/anthropic/v1/models?probe", "", "")).await;
    let mut provider = rig.provider().await;
    let head = provider.head().await;
    assert!(head.starts_with("GET /v1/models?probe "), "somebody else came: {head}");
}

#[tokio::test]
async fn paths_that_somebody_might_read_differently_are_not_forwarded() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    for path in [
        "/v1/organizations",
        "/v1/messages/../organizations",
        "/v1/messages/%2e%2e/organizations",
        "/v1/messages/%2E./organizations",
        "/v1/messages/..%2forganizations",
        "/v1/messages/batches/..%5corganizations",
        "/v1/models/%00",
        "/v1/models//x",
        "/v1/models/./x",
        "/v1/messagesx",
        "/v1/models/%zz",
        "/api/hello",
        "",
        "/v1/models;x/../../organizations",
        "/v1/models/..;/organizations",
        "/v1/models/..;x=1/organizations",
        "/v1/models/.;/x",
        "/v1/models/;/x",
        "/v1/models/..%3b/organizations",
    ] {
        client.send(rig.request(&format!("GET /v1/anthropic{path}"), "", "")).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
        assert_eq!(error(&answer)["error"]["type"], "not_found_error");
    }
    assert_nobody_came(&rig).await;
}

/// Whoever answers such a request sends it back as it came: with the access token.
#[tokio::test]
async fn a_request_for_its_own_head_is_not_forwarded() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    for method in ["TRACE", "trace"] {
        client.send(rig.request(&format!("{method} /v1/anthropic/v1/messages"), "", "")).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    }
    assert_nobody_came(&rig).await;
}

#[tokio::test]
async fn broken_chunks_end_the_request_and_reach_nobody_whole() {
    let rig = Rig::new().await;
    for (what, body) in [
        ("an extension", "3;a=b\r\nabc\r\n0\r\n\r\n"),
        ("a sign", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a prefix", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a size beyond measure", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("a bare LF", "3\nabc\r\n0\r\n\r\n"),
        ("no end of a chunk", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a trailer that frames", "3\r\nabc\r\n0\r\ncontent-length: 5\r\n\r\n"),
        ("a trailer with a key", "3\r\nabc\r\n0\r\nx-api-key: k\r\n\r\n"),
    ] {
        let mut client = rig.client().await;
        client.send(rig.message("transfer-encoding: chunked\r\n", "")).await;
        let mut provider = rig.provider().await;
        provider.head().await;
        client.send(body).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
        let came = String::from_utf8(provider.rest().await.unwrap_or_else(|cut| cut)).unwrap();
        assert!(!came.contains("\r\n0\r\n"), "{what}: {came}");
    }
}

#[tokio::test]
async fn what_is_broken_from_the_first_is_not_even_begun() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message("transfer-encoding: chunked\r\n", "") + "+3\r\nabc\r\n0\r\n\r\n").await;
    assert!(client.answer().await.starts_with("HTTP/1.1 400 "));
    assert_nobody_came(&rig).await;
}

#[tokio::test]
async fn an_answer_that_splits_is_not_passed_on() {
    let rig = Rig::new().await;
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\nc: d\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 O\x01K\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        let mut client = rig.client().await;
        client.send(rig.message("", "{}")).await;
        let mut provider = rig.provider().await;
        provider.head().await;
        provider.exactly(2).await;
        provider.send(answer).await;
        let told = client.answer().await;
        assert!(told.starts_with("HTTP/1.1 502 "), "{answer:?}: {told}");
        assert_eq!(field(&told, "x-should-retry"), Some("true"), "{told}");
        provider.closed().await;
    }
    // What comes behind an answer is nobody's.
    let mut client = rig.client().await;
    client.send(rig.message("", "{}")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send(ok("{}") + "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstolen").await;
    assert!(client.answer().await.ends_with("{}"));
    client.send(rig.message("", "{}")).await;
    let mut fresh = rig.provider().await;
    fresh.head().await;
    fresh.exactly(2).await;
    fresh.send(ok("[]")).await;
    assert!(client.answer().await.ends_with("[]"));
    provider.closed().await;
}

#[tokio::test]
async fn callers_are_told_what_is_wrong_with_their_key() {
    let rig = Rig::new().await;
    let (_, admin) = rig.add_caller(|new| new.scopes = [Scope::AdminRead].into_iter().collect()).await;
    let mut client = rig.client().await;
    let request = rig.message("", "{}");
    for (key, status, word) in [
        ("x-odd: k", 401, "evergrant keys create"),
        ("x-cm-api-key: evg_nobody", 401, "not known"),
        (&format!("x-cm-api-key: {admin}"), 403, "scope"),
        (&format!("x-api-key: {ACCESS}"), 401, "ANTHROPIC_API_KEY"),
        ("authorization: Bearer sk-ant-api03-test", 401, "ANTHROPIC_API_KEY"),
        (&format!("x-cm-api-key: {0}\r\nx-cm-api-key: {0}", rig.key), 401, "not known"),
    ] {
        client.send(request.replace(&format!("x-cm-api-key: {}", rig.key), key)).await;
        let answer = client.answer().await;
        assert_eq!(answer[9..12].parse::<u16>().unwrap(), status, "{key}: {answer}");
        assert!(error(&answer)["error"]["message"].as_str().unwrap().contains(word), "{key}: {answer}");
        assert!(!answer.contains("sk-ant-"), "{answer}");
        assert_eq!(field(&answer, "connection"), None, "the connection stays: {answer}");
    }
    for place in ["x-api-key: ", "authorization: bearer "] {
        client.send(request.replace("x-cm-api-key: ", place)).await;
        let mut provider = rig.provider().await;
        provider.head().await;
        provider.exactly(2).await;
        provider.send(ok("{}").replace("content-type", "connection: close\r\ncontent-type")).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 200 "), "{place}");
    }
    let log = rig.log().await;
    assert!(
        !log.contains("sk-ant-api03-test") && !log.contains(ACCESS) && !log.contains("evg_nobody"),
        "{log}"
    );
}

#[tokio::test]
async fn limits_of_a_caller_are_kept_and_said() {
    let rig = Rig::new().await;
    let (_, one) = rig.add_caller(|new| new.concurrent = NonZeroU32::new(1)).await;
    let (_, slow) = rig.add_caller(|new| new.requests_per_minute = NonZeroU32::new(1)).await;
    let of = |key: &str| rig.request("GET /v1/anthropic/v1/models", "", "").replace(&rig.key, key);
    let (mut first, mut second) = (rig.client().await, rig.client().await);
    first.send(of(&one)).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    second.send(of(&one)).await;
    let answer = second.answer().await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert_eq!((field(&answer, "retry-after"), field(&answer, "x-should-retry")), (Some("1"), Some("true")));
    provider.send(ok("[]")).await;
    first.answer().await;
    second.send(of(&one)).await;
    provider.head().await;
    provider.send(ok("[]")).await;
    assert!(second.answer().await.starts_with("HTTP/1.1 200 "), "its place is free again");
    first.send(of(&slow)).await;
    provider.head().await;
    provider.send(ok("[]")).await;
    first.answer().await;
    first.send(of(&slow)).await;
    let answer = first.answer().await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    let secs: u64 = field(&answer, "retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&secs), "{answer}");
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_refused_by_their_length_or_while_they_come() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message(&format!("content-length: {}\r\n", (32 << 20) + 1), "")).await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("32 MiB"), "{answer}");
    assert_eq!(error(&answer)["error"]["type"], "request_too_large");
    let mut client = rig.client().await;
    client.send(rig.request("HEAD /v1/anthropic/api/hello", "transfer-encoding: chunked\r\n", "")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    client.send("1\r\nx\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 413 "));
    let came = String::from_utf8(provider.rest().await.unwrap_or_else(|cut| cut)).unwrap();
    assert!(!came.contains("\r\n0\r\n"), "{came}");
}

#[tokio::test]
async fn slow_clients_are_cut() {
    let limits = Limits {
        head: Duration::from_millis(200),
        client: Duration::from_millis(200),
        idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let rig = Rig::with(Change { limits, ..Change::default() }).await;
    let mut client = rig.client().await;
    client.send("POST /v1/anthropic/v1/messages HTTP/1.1\r\nhost: ga").await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    client.closed().await;
    let mut client = rig.client().await;
    client.send(rig.message("content-length: 9\r\n", "")).await;
    let mut provider = rig.provider().await;
    assert!(client.answer().await.starts_with("HTTP/1.1 408 "));
    provider.rest().await.unwrap_or_default();
    rig.client().await.closed().await;
    // An answer that nobody takes: the provider is let go too.
    let mut client = rig.client().await;
    client.send(rig.message("", "{}")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    let endless = async {
        use tokio::io::AsyncWriteExt;
        let piece = vec![b'x'; 1 << 20];
        provider.0.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await.unwrap();
        while provider.0.write_all(&piece).await.is_ok() {}
    };
    tokio::time::timeout(PATIENCE, endless).await.unwrap();
    assert!(client.rest().await.is_err(), "what is cut does not look like an end");
}
