//! Either side goes: what the other side sees of it, and how soon.

use std::time::Duration;

use evergrant_server::gateway::{Bound, Limits};

use super::fixture::{Change, Peer, Rig, acceptor, certified, field, ok, secure, soon};

#[tokio::test]
async fn a_client_that_goes_takes_its_request_with_it_within_a_second() {
    let rig = Rig::new().await;
    for begun in [false, true] {
        let mut client = rig.client().await;
        client.send(rig.message("", "{}")).await;
        let mut provider = rig.provider().await;
        provider.head().await;
        provider.exactly(2).await;
        if begun {
            provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
            client.head().await;
        }
        drop(client);
        let rest = tokio::time::timeout(Duration::from_secs(1), provider.rest()).await;
        assert!(rest.unwrap().unwrap_or_default().is_empty(), "{begun}");
    }
    let log = rig.log().await;
    let reasons: Vec<_> = log.lines().map(|line| line.contains(r#""reason":"client_gone""#)).collect();
    assert_eq!(reasons, [true, true], "{log}");
    assert!(log.contains(r#""status":499"#), "{log}");
}

#[tokio::test]
async fn an_answer_that_is_cut_does_not_look_like_an_end() {
    let rig = Rig::new().await;
    for (answer, old) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", false),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", true),
    ] {
        let mut client = rig.client().await;
        let request = rig.message("", "{}");
        client.send(if old { request.replace("HTTP/1.1", "HTTP/1.0") } else { request }).await;
        let mut provider = rig.provider().await;
        provider.head().await;
        provider.exactly(2).await;
        provider.send(answer).await;
        client.head().await;
        client.exactly(3).await;
        drop(provider);
        // The length, or the last chunk, is missing; or the connection was cut.
        if let Ok(rest) = client.rest().await {
            assert!(!old && !rest.ends_with(b"0\r\n\r\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_pooled_connection_that_was_closed_costs_no_request() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message("", "first")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(5).await;
    provider.send(ok("1")).await;
    client.answer().await;
    // It closes when it has the request already: the pool cannot have known.
    client.send(rig.message("", "second")).await;
    provider.head().await;
    assert_eq!(provider.exactly(6).await, b"second");
    drop(provider);
    let mut fresh = rig.provider().await;
    let head = fresh.head().await;
    assert!(head.starts_with("POST /v1/messages "), "{head}");
    assert_eq!(fresh.exactly(6).await, b"second", "it is sent once more, whole");
    fresh.send(ok("2")).await;
    assert!(client.answer().await.ends_with('2'));
    // It was closed while it was idle.
    drop(fresh);
    client.send(rig.message("", "third")).await;
    let mut third = rig.provider().await;
    third.head().await;
    assert_eq!(third.exactly(5).await, b"third");
    // A fresh connection that closes is an answer of its own: nobody knows what became of the request.
    drop(third);
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
}

#[tokio::test]
async fn a_provider_that_is_silent_or_away_is_said_to_be() {
    let limits = Limits {
        answer: Duration::from_millis(200),
        stream_idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let rig = Rig::with(Change { limits, ..Change::default() }).await;
    let mut client = rig.client().await;
    client.send(rig.message("", "{}")).await;
    let mut provider = rig.provider().await;
    assert!(client.answer().await.starts_with("HTTP/1.1 504 "));
    provider.rest().await.unwrap_or_default();
    let mut client = rig.client().await;
    client.send(rig.message("", "{}")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    client.head().await;
    assert!(!client.rest().await.unwrap_or_default().ends_with(b"0\r\n\r\n"), "silence is no end");

    let away = Change {
        chain: Box::new(|chain| chain.api_base = "http://127.0.0.1:9".parse().unwrap()),
        ..Change::default()
    };
    let rig = Rig::with(away).await;
    let mut client = rig.client().await;
    client.send(rig.message("", "{}")).await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("127.0.0.1:9"), "{answer}");
    assert_eq!((field(&answer, "retry-after"), field(&answer, "x-should-retry")), (Some("1"), Some("true")));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message("content-length: 1000000\r\n", "")).await;
    client.send("x").await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await;
    drop(provider);
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("big"), "{answer}");
    assert_eq!(field(&answer, "connection"), Some("close"));
}

#[tokio::test]
async fn the_end_lets_requests_in_hand_finish_and_takes_no_others() {
    let rig = Rig::new().await;
    let (mut busy, mut idle) = (rig.client().await, rig.client().await);
    for client in [&mut busy, &mut idle] {
        client.send(rig.message("", "{}")).await;
        let mut provider = rig.provider().await;
        provider.head().await;
        provider.exactly(2).await;
        provider.send(ok("{}").replace("content-type", "connection: close\r\ncontent-type")).await;
        client.answer().await;
    }
    busy.send(rig.message("", "{}")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    busy.head().await;
    let (address, request) = (rig.gateway.address(), rig.message("", "{}"));
    let upstream = rig.upstream;
    let ended = tokio::spawn(rig.gateway.end());
    // Whoever waits for its turn is still heard once, and told to come anew.
    idle.send(&request).await;
    let mut late = Peer(upstream.accept().await.unwrap().0);
    late.head().await;
    late.exactly(2).await;
    late.send(ok("{}")).await;
    assert_eq!(field(&idle.answer().await, "connection"), Some("close"));
    idle.closed().await;
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon("nobody listens", refused).await;
    assert!(!ended.is_finished(), "a stream is in hand");
    provider.send("1\r\nx\r\n0\r\n\r\n").await;
    assert_eq!(busy.until("0\r\n\r\n").await, "1\r\nx\r\n0\r\n\r\n");
    soon("the end", ended).await.unwrap();
}

#[tokio::test]
async fn what_outlasts_the_end_is_cut_or_told_so() {
    let limits = Limits { drain: Duration::from_millis(200), ..Limits::default() };
    let rig = Rig::with(Change { limits, ..Change::default() }).await;
    let (mut streaming, mut waiting) = (rig.client().await, rig.client().await);
    streaming.send(rig.message("", "{}").replace("HTTP/1.1", "HTTP/1.0")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    streaming.head().await;
    streaming.exactly(3).await;
    waiting.send(rig.message("", "{}")).await;
    let mut silent = rig.provider().await;
    silent.head().await;
    let ended = tokio::spawn(rig.log());
    assert!(streaming.rest().await.is_err(), "what is cut does not look like an end");
    let told = waiting.answer().await;
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("send the request again"), "{told}");
    let log = soon("the end", ended).await.unwrap();
    assert_eq!(log.lines().filter(|line| line.contains(r#""reason":"drained""#)).count(), 2, "{log}");
}

/// Its answer said that the connection stays.
#[tokio::test]
async fn a_connection_whose_answer_ends_during_the_end_is_heard_once_more() {
    let limits = Limits { idle: Duration::from_millis(1200), ..Limits::default() };
    let rig = Rig::with(Change { limits, ..Change::default() }).await;
    let (mut busy, mut early) = (rig.client().await, rig.client().await);
    busy.send(rig.message("", "{}")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    busy.head().await;
    let request = rig.request("GET /v1/anthropic/v1/nothing", "", "");
    let ended = tokio::spawn(rig.gateway.end());
    // Who waits for its turn is sent away when its time is over.
    early.closed().await;
    provider.send("0\r\n\r\n").await;
    busy.until("0\r\n\r\n").await;
    busy.send(request).await;
    assert!(busy.answer().await.starts_with("HTTP/1.1 404 "));
    soon("the end", ended).await.unwrap();
}

#[tokio::test]
async fn the_end_serves_whoever_is_connected_already() {
    for _ in 0..5 {
        let rig = Rig::new().await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(rig.client().await);
        }
        let request = rig.request("GET /v1/anthropic/v1/nothing", "", "");
        let ended = tokio::spawn(rig.gateway.end());
        for client in &mut clients {
            client.send(&request).await;
            let answer = client.answer().await;
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        }
        soon("the end", ended).await.unwrap();
    }
}

/// It gets as long as a connection that waits for its first request, and no longer.
#[tokio::test]
async fn the_end_lets_a_handshake_finish_and_waits_for_none() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (folder, certified) = (tempfile::tempdir().unwrap(), certified());
    let tls = Some(acceptor(folder.path(), &certified));
    let rig = Rig::with(Change { tls, ..Change::default() }).await;
    let (honest, mut silent) = (rig.client().await, rig.client().await);
    // The first bytes of a handshake.
    silent.send(b"\x16\x03\x01").await;
    let request = rig.request("GET /v1/anthropic/v1/nothing", "", "");
    let ended = tokio::spawn(rig.gateway.end());
    let mut shaken = soon("a handshake", secure(honest.0, &certified, b"http/1.1")).await.unwrap();
    shaken.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("the answer", shaken.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let patience = Limits::default().head / 2;
    tokio::time::timeout(patience, ended).await.expect("it waits for a handshake").unwrap();
    silent.rest().await.unwrap_or_default();
}

#[tokio::test]
async fn a_socket_that_was_handed_over_loses_no_connection() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let bound = || Some(Bound::handed_over(socket.try_clone().unwrap(), 2).unwrap());
    let old = Rig::with(Change { bound: bound(), threads: 2, ..Change::default() }).await;
    soon("the end", old.gateway.end()).await;
    let mut waiting = Peer(tokio::net::TcpStream::connect(address).await.unwrap());
    let new = Rig::with(Change { bound: bound(), threads: 2, ..Change::default() }).await;
    waiting.send(new.message("", "{}")).await;
    let mut provider = new.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send(ok("{}")).await;
    assert!(waiting.answer().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let rig = Rig::new().await;
    let taken = Bound::bind(rig.gateway.address(), 2).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
}
