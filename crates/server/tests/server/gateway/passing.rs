//! What passes, and how: heads, bodies, streams.

use super::fixture::{ACCESS, Rig, capability, field, ok};

#[tokio::test]
async fn a_request_gets_the_access_token_and_loses_what_says_who_asks() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let private = "X-Api-Key: mine\r\nAuthorization: Bearer mine\r\nCookie: mine\r\nproxy-authorization: mine\r\n\
                   api-key: mine\r\nX-Goog-Api-Key: mine\r\nForwarded: for=mine\r\nX-Forwarded-For: mine\r\n\
                   X-Forwarded-Host: mine\r\nX-Real-IP: mine\r\nTE: trailers\r\nConnection: X-Mine, keep-alive\r\n\
                   X-Mine: mine\r\nKeep-Alive: timeout=5\r\nUpgrade: mine\r\n";
    let public = "anthropic-version: 2025-01-01\r\nanthropic-beta: a, b\r\nanthropic-odd: c\r\nAccept: d\r\n\
                  User-Agent: e\r\nX-Request-ID: f-1\r\nContent-Type: application/json; charset=utf-8\r\n";
    client
        .send(rig.request(
            "POST /v1/anthropic/v1/messages?beta=true&x=%2B",
            &format!("{private}{public}"),
            "{}",
        ))
        .await;
    let mut provider = rig.provider().await;
    let head = provider.head().await;
    assert!(head.starts_with("POST /v1/messages?beta=true&x=%2B HTTP/1.1\r\n"), "{head}");
    assert!(!head.to_lowercase().contains("mine") && !head.contains(&rig.key), "{head}");
    assert_eq!(field(&head, "authorization"), Some(format!("Bearer {ACCESS}").as_str()));
    assert_eq!(field(&head, "host").unwrap(), rig.upstream.local_addr().unwrap().to_string());
    assert_eq!(field(&head, "anthropic-beta"), Some(format!("a, b,{}", capability()).as_str()));
    for (name, value) in [
        ("anthropic-version", "2025-01-01"),
        ("anthropic-odd", "c"),
        ("accept", "d"),
        ("user-agent", "e"),
        ("x-request-id", "f-1"),
        ("content-type", "application/json; charset=utf-8"),
        ("content-length", "2"),
    ] {
        assert_eq!(field(&head, name), Some(value), "{head}");
    }
    for gone in ["te", "connection", "keep-alive", "upgrade", "x-api-key"] {
        assert_eq!(field(&head, gone), None, "{head}");
    }
    assert_eq!(provider.exactly(2).await, b"{}");
    provider
        .send("HTTP/1.1 307 Elsewhere\r\nLocation: /v2\r\nContent-Encoding: gzip\r\nSet-Cookie: g\r\nContent-Length: 3\r\nrequest-id: r\r\nConnection: x-hop\r\nx-hop: h\r\n\r\n\x1f\x02\x03")
        .await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 307 Elsewhere\r\nLocation: /v2\r\nContent-Encoding: gzip\r\n"),
        "{head}"
    );
    assert_eq!(field(&head, "x-request-id"), Some("f-1"));
    assert_eq!(field(&head, "request-id"), Some("r"));
    assert_eq!(field(&head, "x-hop"), None);
    assert_eq!(client.exactly(3).await, b"\x1f\x02\x03");
    let log = rig.log().await;
    let line: serde_json::Value = serde_json::from_str(log.trim()).unwrap();
    assert_eq!(
        (&line["status"], &line["source"], &line["route"]),
        (&307.into(), &"oauth".into(), &"/v1/messages".into())
    );
    assert_eq!((&line["caller"], &line["request_id"]), (&"a test".into(), &"f-1".into()));
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&2.into(), &3.into()));
    assert_eq!(line["shown"], "sk-ant-oat01-test…");
}

#[tokio::test]
async fn a_bare_client_gets_what_the_api_asks_for() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    for (fields, content_type) in [
        ("content-type: application/x-www-form-urlencoded\r\n", "application/json"),
        ("", "application/json"),
        ("content-type: application/json\r\n", "application/json"),
    ] {
        client.send(rig.message(fields, "{}")).await;
        let mut provider = rig.provider().await;
        let head = provider.head().await;
        assert_eq!(field(&head, "content-type"), Some(content_type), "{head}");
        assert_eq!(field(&head, "anthropic-version"), Some("2023-06-01"), "{head}");
        assert_eq!(field(&head, "anthropic-beta"), Some(capability().as_str()), "{head}");
        provider.exactly(2).await;
        provider.send(ok("{}").replace("content-type", "connection: close\r\ncontent-type")).await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n{}"), "{answer}");
        assert_eq!(field(&answer, "connection"), None, "the client's connection stays: {answer}");
        assert!(field(&answer, "x-request-id").unwrap().starts_with("evg_"), "{answer}");
    }
}

#[tokio::test]
async fn bodies_and_events_flow_as_they_come() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message("transfer-encoding: chunked\r\n", "")).await;
    let mut provider = rig.provider().await;
    let head = provider.head().await;
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
    client.send("5\r\nhello\r\n").await;
    assert_eq!(provider.exactly(10).await, b"5\r\nhello\r\n", "before the rest is there");
    provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n: p\r\n").await;
    let head = client.head().await;
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(client.exactly(8).await, b"3\r\n: p\r\n", "an answer may begin before the request ends");
    client.send("0\r\nx-sum: 1\r\n\r\n").await;
    assert_eq!(provider.until("\r\n\r\n").await, "0\r\nx-sum: 1\r\n\r\n");
    for event in ["4\r\nevnt\r\n", "1\r\n\n\r\n"] {
        provider.send(event).await;
        assert_eq!(client.exactly(event.len()).await, event.as_bytes());
    }
    provider.send("0\r\nx-end: 2\r\n\r\n").await;
    assert_eq!(client.until("\r\n\r\n").await, "0\r\nx-end: 2\r\n\r\n");
    // Both connections are used again.
    client.send(rig.request("GET /v1/anthropic/v1/models", "", "")).await;
    assert!(provider.head().await.starts_with("GET /v1/models HTTP/1.1\r\n"));
    provider.send(ok("[]")).await;
    assert!(client.answer().await.ends_with("[]"));
}

#[tokio::test]
async fn an_open_ended_answer_becomes_chunks_so_that_its_end_can_be_told() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message("", "{}")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send("HTTP/1.1 200 OK\r\n\r\nabc").await;
    let head = client.head().await;
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    assert_eq!(client.exactly(8).await, b"3\r\nabc\r\n");
    provider.send("de").await;
    assert_eq!(client.exactly(7).await, b"2\r\nde\r\n");
    drop(provider);
    assert_eq!(client.exactly(5).await, b"0\r\n\r\n");
    client.send(rig.request("GET /v1/anthropic/v1/models", "", "")).await;
    rig.provider().await.head().await;
}

#[tokio::test]
async fn clients_of_http_1_0_get_no_chunks_and_a_close() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message("", "{}").replacen("HTTP/1.1", "HTTP/1.0", 1)).await;
    let mut provider = rig.provider().await;
    assert!(provider.head().await.starts_with("POST /v1/messages HTTP/1.1\r\n"));
    provider.exactly(2).await;
    provider
        .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        .await;
    let head = client.head().await;
    assert_eq!(
        (field(&head, "transfer-encoding"), field(&head, "connection")),
        (None, Some("close")),
        "{head}"
    );
    assert_eq!(client.rest().await.unwrap(), b"abcde");
    let mut client = rig.client().await;
    let request = rig.message("connection: keep-alive\r\n", "{}").replacen("HTTP/1.1", "HTTP/1.0", 1);
    client.send(&request).await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send(ok("{}")).await;
    let answer = client.answer().await;
    assert_eq!(field(&answer, "connection"), Some("keep-alive"));
}

#[tokio::test]
async fn an_expectation_is_met_once_the_caller_is_known() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let body = "{\"a\":1}";
    let request = rig.message("expect: 100-continue\r\n", body);
    let (head, _) = request.split_at(request.len() - body.len());
    client.send(head).await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(body).await;
    let mut provider = rig.provider().await;
    assert_eq!(field(&provider.head().await, "expect"), None);
    assert_eq!(provider.exactly(body.len()).await, body.as_bytes());
    provider.send("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n").await;
    provider.send(ok("{}")).await;
    assert!(
        client.answer().await.starts_with("HTTP/1.1 200 OK\r\n"),
        "what comes before the answer is skipped"
    );

    let mut stranger = rig.client().await;
    stranger.send(head.replace(&rig.key, "evg_unknown")).await;
    let answer = stranger.answer().await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(field(&answer, "connection"), Some("close"), "its body is not waited for");
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.request("HEAD /v1/anthropic/v1/models", "", "")).await;
    let mut provider = rig.provider().await;
    assert!(provider.head().await.starts_with("HEAD /v1/models "));
    provider.send("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n").await;
    assert_eq!(field(&client.head().await, "content-length"), Some("99"));
    client.send(rig.request("DELETE /v1/anthropic/v1/files/f", "", "")).await;
    provider.head().await;
    provider.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204 No Content\r\n"));
    client.send(rig.request("HEAD /v1/anthropic/api/hello", "", "")).await;
    assert!(provider.head().await.starts_with("HEAD /api/hello "));
    provider.send("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n").await;
    client.head().await;
    client.send(rig.request("HEAD /v1/anthropic/v1/nothing", "", "")).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    client.send(rig.request("HEAD /v1/anthropic", "", "")).await;
    assert!(provider.head().await.starts_with("HEAD / "));
}

#[tokio::test]
async fn requests_that_are_sent_ahead_are_answered_in_their_order() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let both =
        rig.message("", "one") + &rig.message("", "two") + &rig.request("GET /v1/anthropic/v1/x", "", "");
    client.send(both).await;
    let mut provider = rig.provider().await;
    for body in ["one", "two"] {
        provider.head().await;
        assert_eq!(provider.exactly(3).await, body.as_bytes());
        provider.send(ok(body)).await;
    }
    assert!(client.answer().await.ends_with("one"));
    assert!(client.answer().await.ends_with("two"));
    assert!(client.answer().await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn what_is_not_the_gateways_goes_to_evergrant_itself() {
    let mut rig = Rig::new().await;
    let own = rig.own_routes.take().unwrap();
    let router =
        axum::Router::new().route("/own", axum::routing::post(|body: String| async move { body + "!" }));
    tokio::spawn(async move { axum::serve(own, router).await });
    let mut client = rig.client().await;
    for _ in 0..2 {
        client.send("POST /own HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi").await;
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nhi!"), "{answer}");
    }
    client.send("GET /v1/anthropicx HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(client.answer().await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn a_large_body_and_a_large_answer_pass_whole() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    let (up, down) = (vec![b'u'; 3 << 20], vec![b'd'; 5 << 20]);
    let head = rig.request("POST /v1/anthropic/v1/files", &format!("content-length: {}\r\n", up.len()), "");
    let (mut read, mut write) = client.0.split();
    let sending = async {
        use tokio::io::AsyncWriteExt;
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&up).await.unwrap();
    };
    let answering = async {
        let mut provider = rig.provider().await;
        provider.head().await;
        assert_eq!(provider.exactly(up.len()).await, up);
        provider.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", down.len())).await;
        provider.send(&down).await;
        provider
    };
    let receiving = async {
        use tokio::io::AsyncReadExt;
        let mut got = Vec::new();
        let end =
            |got: &[u8]| got.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4 + down.len());
        while got.len() < 4096 || end(&got[..4096]).is_none_or(|end| got.len() < end) {
            let mut piece = vec![0; 1 << 16];
            let count = read.read(&mut piece).await.unwrap();
            assert_ne!(count, 0);
            got.extend_from_slice(&piece[..count]);
        }
        got
    };
    let ((), _provider, got) = tokio::join!(sending, answering, receiving);
    let body = got.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(&got[body..], &down[..]);
}
