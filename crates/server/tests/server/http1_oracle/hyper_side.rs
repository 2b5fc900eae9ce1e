//! What hyper finds: its server in requests, its client in answers.

use std::cell::RefCell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use evergrant_server::gateway::http1::MAX_HEADERS;
use futures_util::future::{Either, select};
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::{client, server, service::service_fn};

use super::wire::{Wire, drive};
use super::{Fields, Found, NEXT_ANSWER, fields};

/// More than any input holds.
const ROOM: usize = 4 << 20;

/// The requests that hyper's server finds on a connection that ends behind `bytes`.
pub(super) fn read_requests(bytes: &[u8], cut: usize) -> Vec<Found> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
            let mut found = Found {
                first_line: (head.method.to_string(), target),
                is_11: head.version == Version::HTTP_11,
                fields: of_map(&head.headers),
                ..Found::default()
            };
            read_body(body, &mut found).await;
            seen.borrow_mut().push(found);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = server::conn::http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(ROOM).auto_date_header(false).half_close(true);
    let done = drive(builder.serve_connection(Wire::of_client(bytes, cut), service));
    assert!(done.is_some(), "hyper waits, though the connection has ended");
    seen.take()
}

/// What hyper's client finds.
pub(super) struct Seen {
    /// The answer, if it is one.
    pub(super) answer: Option<Found>,
    /// The connection took another request, whose answer stood where it should.
    pub(super) next_is_found: bool,
}

/// The answer that hyper's client finds; with `open` another request follows on the same connection.
pub(super) fn read_answer(bytes: &[u8], to_head: bool, cut: usize, open: bool) -> Seen {
    let wire = Wire::of_server(bytes, cut, !open);
    let mut builder = client::conn::http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(ROOM);
    let shaken = drive(builder.handshake::<_, Empty<Bytes>>(wire.clone()));
    let (mut sender, connection) =
        shaken.expect("a handshake of HTTP/1 waits for nothing").expect("nor fails");
    let mut seen = Seen { answer: None, next_is_found: false };
    let exchanging = async {
        let method = if to_head { "HEAD" } else { "GET" };
        seen.answer = ask(&mut sender, method).await;
        if !open || sender.ready().await.is_err() {
            return;
        }
        wire.push_last(NEXT_ANSWER);
        let next = ask(&mut sender, "GET").await;
        seen.next_is_found = next.is_some_and(|next| next.first_line == ("299".into(), "next".into()));
    };
    let both = async {
        // The connection may end first: of its own accord, or by an error that the exchange sees too.
        match select(pin!(exchanging), pin!(connection)).await {
            Either::Left(((), _)) => {}
            Either::Right((_, exchanging)) => exchanging.await,
        }
    };
    // Waiting for ever is an answer as well: nothing was found.
    drive(both);
    seen
}

async fn ask(sender: &mut client::conn::http1::SendRequest<Empty<Bytes>>, method: &str) -> Option<Found> {
    let request = Request::builder().method(method).uri("/").header("host", "a").body(Empty::new());
    let answer = sender.send_request(request.expect("a plain request")).await.ok()?;
    let (head, body) = answer.into_parts();
    let canonical = head.status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = head.extensions.get::<ReasonPhrase>().map_or(canonical, ReasonPhrase::as_bytes);
    let mut found = Found {
        first_line: (head.status.as_str().into(), String::from_utf8_lossy(reason).into_owned()),
        is_11: head.version == Version::HTTP_11,
        fields: of_map(&head.headers),
        ..Found::default()
    };
    read_body(body, &mut found).await;
    Some(found)
}

async fn read_body(mut body: Incoming, found: &mut Found) {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return };
        match frame.into_data() {
            Ok(data) => found.content.extend_from_slice(&data),
            Err(frame) => {
                if let Some(trailers) = frame.trailers_ref() {
                    found.trailers = of_map(trailers);
                }
            }
        }
    }
    found.whole = true;
}

fn of_map(map: &HeaderMap) -> Fields {
    fields(map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}
