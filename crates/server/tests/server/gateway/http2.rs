//! Clients that speak HTTP/2: the same rules, over TLS or with prior knowledge.

use std::time::Duration;

use bytes::Bytes;
use evergrant_server::gateway::Limits;
use evergrant_server::tls;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::fixture::{Certified, Change, Rig, acceptor, certified, field, ok, secure, soon};

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

async fn speak(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Sender {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(rig: &Rig, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(format!("http://gateway{path}"))
        .header("x-cm-api-key", &rig.key)
        .header("cookie", "mine")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn streams_of_one_connection_go_side_by_side() {
    let rig = Rig::new().await;
    let mut sender = speak(rig.client().await.0).await;
    let first = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/messages", "{}")));
    let mut slow = rig.provider().await;
    let head = slow.head().await;
    assert!(head.starts_with("POST /v1/messages HTTP/1.1\r\n") && !head.contains("mine"), "{head}");
    assert_eq!(field(&head, "content-length"), Some("2"));
    slow.exactly(2).await;
    let second = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/messages", "[]")));
    let mut quick = rig.provider().await;
    quick.head().await;
    quick.exactly(2).await;
    quick.send(ok("second")).await;
    let answer = soon("the second answer", second).await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers().contains_key("x-request-id")), (200, true));
    assert_eq!(text(answer).await, "second");
    // Events come one by one.
    slow.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut answer = soon("the first answer", first).await.unwrap().unwrap();
    for event in ["one", "two"] {
        slow.send(format!("3\r\n{event}\r\n")).await;
        let frame = soon("an event", answer.body_mut().frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(slow);
    let end = soon("the end", answer.body_mut().frame()).await;
    assert!(end.unwrap().is_err(), "what is cut does not look like an end");
    let refused = sender.send_request(request(&rig, "/v1/anthropic/v1/nothing", "{}")).await.unwrap();
    assert_eq!(refused.status(), 404);
}

#[tokio::test]
async fn a_stream_that_is_given_up_takes_its_request_with_it() {
    let rig = Rig::new().await;
    let mut sender = speak(rig.client().await.0).await;
    let sent = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/messages", "{}")));
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    sent.abort();
    provider.closed().await;
    let sent = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/messages", "{}")));
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    drop(soon("an answer", sent).await.unwrap().unwrap());
    provider.closed().await;
}

#[tokio::test]
async fn tls_offers_both_and_a_reload_changes_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (certified(), certified());
    let acceptor = |certified: &Certified| acceptor(folder.path(), certified);
    let rig = Rig::with(Change { tls: Some(acceptor(&old)), ..Change::default() }).await;
    let connect = async |trusted: &Certified, alpn: &[u8]| secure(rig.client().await.0, trusted, alpn).await;
    let mut sender = speak(connect(&old, b"h2").await.unwrap()).await;
    let sent = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/messages", "{}")));
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send(ok("over TLS")).await;
    assert_eq!(text(sent.await.unwrap().unwrap()).await, "over TLS");

    rig.gateway.set_tls(Some(acceptor(&new)));
    assert!(connect(&old, b"http/1.1").await.is_err(), "the old certificate is not served any more");
    let mut plain = connect(&new, b"http/1.1").await.unwrap();
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    plain.write_all(rig.message("", "{}").as_bytes()).await.unwrap();
    provider.head().await;
    provider.exactly(2).await;
    provider.send(ok("{}")).await;
    let mut start = [0; 15];
    plain.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    drop(plain);
    sender.send_request(request(&rig, "/v1/anthropic/v1/nothing", "{}")).await.unwrap();

    std::fs::write(folder.path().join("key.pem"), "no key").unwrap();
    let bad = tls::acceptor(&folder.path().join("cert.pem"), &folder.path().join("key.pem"));
    assert!(bad.err().unwrap().to_string().contains("key.pem"));
}

#[tokio::test]
async fn a_client_that_does_not_finish_what_it_began_to_say_is_cut() {
    let short = Duration::from_millis(200);
    let limits = Limits { head: short, idle: short, ..Limits::default() };
    let rig = Rig::with(Change { limits, ..Change::default() }).await;
    let mut client = rig.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\n").await;
    client.rest().await.unwrap_or_default();
    // Nor does it hold up the end.
    soon("the end", rig.gateway.end()).await;
}

#[tokio::test]
async fn a_connection_with_a_stream_is_not_idle() {
    let limits = Limits { idle: Duration::from_millis(200), ..Limits::default() };
    let rig = Rig::with(Change { limits, ..Change::default() }).await;
    let mut sender = speak(rig.client().await.0).await;
    let first = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/messages", "{}")));
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    provider.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let answer = soon("the answer", first).await.unwrap().unwrap();
    // Others come and are sent away meanwhile.
    for _ in 0..3 {
        rig.client().await.closed().await;
    }
    let second = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/nothing", "{}")));
    assert_eq!(soon("the second answer", second).await.unwrap().unwrap().status(), 404);
    provider.send("1\r\nx\r\n0\r\n\r\n").await;
    assert_eq!(text(answer).await, "x");
}

#[tokio::test]
async fn as_many_fields_pass_as_with_http_1_1() {
    let rig = Rig::new().await;
    let mut sender = speak(rig.client().await.0).await;
    let asked = tokio::spawn(sender.send_request(request(&rig, "/v1/anthropic/v1/messages", "{}")));
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(2).await;
    let fields: String = (0..126).map(|n| format!("x-{n}: 1\r\n")).collect();
    provider.send(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok")).await;
    let answer = soon("the answer", asked).await.unwrap().unwrap();
    assert!(answer.headers().contains_key("x-125"));
    assert_eq!(text(answer).await, "ok");
}
