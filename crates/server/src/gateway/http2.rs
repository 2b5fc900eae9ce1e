//! Clients that speak HTTP/2: hyper takes the connection apart, and each stream goes the way of a connection of
//! its own with HTTP/1.1, within this process. There is one reader of requests, and one set of rules.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{HOST, HeaderValue};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clock;
use super::connection;
use super::http1::{MAX_HEAD, MAX_HEADERS};
use super::thread::Thread;
use crate::stream::Stream;

/// Streams of one connection at a time.
const STREAMS: u32 = 256;
const WINDOW: u32 = 1 << 20;
/// So many fields are added to an answer at most.
const OUR_HEADERS: usize = 3;

/// Serves a connection. `ahead` was read from it already.
pub(super) async fn serve(thread: &Rc<Thread>, io: Stream, ahead: Vec<u8>) {
    let open = Rc::new(Cell::new(0_usize));
    let limits = thread.seen().plane.limits.clone();
    let service = hyper::service::service_fn({
        let (thread, open) = (thread.clone(), open.clone());
        move |request| {
            let open = Open::new(&open);
            let thread = thread.clone();
            async move { pass_on(&thread, request, open).await }
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(OnThisThread);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW / 4)
        .initial_connection_window_size(WINDOW)
        .keep_alive_interval(limits.idle)
        .keep_alive_timeout(limits.head);
    let mut served = pin!(builder.serve_connection(TokioIo::new(Rewound { ahead, at: 0, io }), service));
    let seat = poll_fn(|cx| Poll::Ready(thread.seats.take(cx))).await;
    seat.until(clock::now() + limits.idle);
    let mut told = false;
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = served.as_mut().poll(cx) {
            return Poll::Ready(ended);
        }
        let now = clock::now();
        let idle = open.get() == 0;
        if !idle {
            seat.until(now + if told { limits.head } else { limits.idle });
        }
        let timed_out = idle && seat.timed_out(now);
        // A client that does not react, or has not said yet what it speaks, is not waited for.
        if told && timed_out {
            return Poll::Ready(Ok(()));
        }
        if !told && (timed_out || thread.seats.draining()) {
            told = true;
            seat.until(now + limits.head);
            served.as_mut().graceful_shutdown();
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a connection with HTTP/2 ended");
    }
}

/// One stream, by a connection of its own; `open` until that ends.
async fn pass_on(
    thread: &Rc<Thread>,
    mut request: Request<Incoming>,
    open: Open,
) -> Result<Response<Incoming>, hyper::Error> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (served, seat) = (thread.clone(), thread.seats.reserve());
    tokio::task::spawn_local(async move {
        let _open = open;
        connection::serve(&served, Stream::Memory(theirs), seat).await;
    });
    let mut builder = hyper::client::conn::http1::Builder::new();
    builder.max_headers(MAX_HEADERS + OUR_HEADERS);
    let (mut sender, stream) = builder.handshake(TokioIo::new(ours)).await?;
    tokio::task::spawn_local(async move {
        // Its errors come out of the request.
        let _ = stream.await;
    });
    as_http1(&mut request);
    sender.send_request(request).await
}

/// Path and query as the target, the authority as the host.
fn as_http1(request: &mut Request<Incoming>) {
    *request.version_mut() = Version::HTTP_11;
    let authority = request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    if let Some(Ok(authority)) = authority {
        request.headers_mut().insert(HOST, authority);
    } else if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::from_static("localhost"));
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if let Ok(target) = target.parse::<Uri>() {
        *request.uri_mut() = target;
    }
}

/// Counts a stream as open while it lives.
struct Open(Rc<Cell<usize>>);

impl Open {
    fn new(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Spawns hyper's tasks on this thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// A connection with what was read from it already.
struct Rewound {
    ahead: Vec<u8>,
    at: usize,
    io: Stream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let ahead = &self.ahead[self.at..];
        if ahead.is_empty() {
            self.ahead = Vec::new();
            self.at = 0;
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let len = ahead.len().min(buf.remaining());
        buf.put_slice(&ahead[..len]);
        self.at += len;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
