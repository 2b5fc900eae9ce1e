//! A client's connection: heads in, answers out, one after the other, until either side ends it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use evergrant_core::Reason;
use evergrant_core::gateway::{ErrorKind, ErrorShape, OwnError};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::admission::{Asked, Refusal, admit};
use super::clock;
use super::entry::Entry;
use super::exchange::{Client, poll_read};
use super::forward::{After, forward};
use super::http1::{BadHead, Framing, Version, head_may_end};
use super::http2;
use super::plane::Limits;
use super::response::{Connection, own_error};
use super::seat::{Seat, TimedOut};
use super::thread::Thread;
use crate::stream::Stream;

/// What clients of HTTP/2 without TLS begin with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// A connection that waits for a request when the drain begins gets so long: the request may be on its way.
const DRAIN_IDLE: Duration = Duration::from_secs(1);
/// How long, and how much, of what a client still sends is read behind the last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// Serves a connection that was just accepted.
pub(super) async fn welcome(thread: &Rc<Thread>, tcp: TcpStream, seat: Seat) {
    let tls = thread.shared.tls.current();
    let Some(acceptor) = &*tls else {
        return serve(thread, Stream::Plain(tcp), seat).await;
    };
    // In a box: it is long over when its connection idles, and would leave its room behind.
    match Box::pin(secured(thread, acceptor, tcp, &seat)).await {
        Some((stream, true)) => {
            drop(seat);
            Box::pin(http2::serve(thread, stream, Vec::new())).await;
        }
        Some((stream, false)) => serve(thread, stream, seat).await,
        None => {}
    }
}

/// The connection with TLS, and whether the client wants to speak HTTP/2 over it.
async fn secured(
    thread: &Thread,
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
    seat: &Seat,
) -> Option<(Stream, bool)> {
    match shake_hands(thread, pin!(acceptor.accept(tcp)), seat).await {
        Ok(Ok(stream)) => {
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            return Some((Stream::Tls(Box::new(stream.into())), is_http2));
        }
        Ok(Err(error)) => tracing::debug!(%error, "a client's TLS handshake failed"),
        Err(TimedOut) => tracing::debug!("a client's TLS handshake took too long"),
    }
    None
}

/// The task that awaits this is the one that its seat wakes.
async fn sit(seat: &Seat) {
    poll_fn(|cx| {
        seat.sit(cx);
        Poll::Ready(())
    })
    .await;
}

/// A drain leaves it no more time than a connection that waits for a request.
async fn shake_hands<T>(
    thread: &Thread,
    mut handshake: Pin<&mut impl Future<Output = T>>,
    seat: &Seat,
) -> Result<T, TimedOut> {
    let limit = thread.seen().plane.limits.head;
    sit(seat).await;
    seat.within(clock::now, limit, |cx| {
        let shaken = handshake.as_mut().poll(cx);
        if let Some(since) = thread.seats.draining_since() {
            seat.until(since + DRAIN_IDLE);
        }
        shaken
    })
    .await
}

/// Serves requests until the connection ends.
pub(super) async fn serve(thread: &Rc<Thread>, io: Stream, seat: Seat) {
    sit(&seat).await;
    let mut client = Client { io, ahead: Vec::new(), seat };
    let (mut first, mut since) = (true, clock::now());
    loop {
        let (waited, at) = next_head(thread, &mut client, &thread.seen().plane.limits, since).await;
        if waited == Waited::Ended {
            return;
        }
        if first && client.ahead.starts_with(PREFACE) {
            let Client { io, ahead, seat } = client;
            drop(seat);
            return Box::pin(http2::serve(thread, io, ahead)).await;
        }
        first = false;
        let _in_hand = InHand::new(thread);
        let after;
        (after, since) = respond(thread, &mut client, waited, at).await;
        match after {
            After::Stays => {}
            After::Closes | After::Failed(_) => return linger(thread, &mut client).await,
            After::Cut => return client.io.cut(),
        }
    }
}

/// What waiting for a head came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    /// There may be one.
    Head,
    /// It began and did not end in time.
    Slow,
    /// The connection is over, or was idle for too long.
    Ended,
}

/// What waiting for the next head came to, and when. It begins `since`, which is now.
async fn next_head(
    thread: &Thread,
    client: &mut Client,
    limits: &Limits,
    since: Instant,
) -> (Waited, Instant) {
    if head_may_end(&client.ahead, 0) {
        return (Waited::Head, since);
    }
    client.seat.until(since + if client.ahead.is_empty() { limits.idle } else { limits.head });
    let mut known = Some(since);
    poll_fn(|cx| {
        let now = known.take().unwrap_or_else(clock::now);
        let waited = |waited| Poll::Ready((waited, now));
        loop {
            let from = client.ahead.len();
            let read = thread.scratch(|room| {
                let read = ready!(poll_read(&mut client.io, cx, room));
                if let Ok(read) = read {
                    if client.ahead.capacity() == 0 {
                        client.ahead = thread.buffer();
                    }
                    client.ahead.extend_from_slice(&room[..read]);
                }
                Poll::Ready(read)
            });
            match read {
                Poll::Ready(Ok(0) | Err(_)) => return waited(Waited::Ended),
                Poll::Ready(Ok(_)) => {
                    if from == 0 {
                        client.seat.until(now + limits.head);
                    }
                    if head_may_end(&client.ahead, from) {
                        return waited(Waited::Head);
                    }
                }
                Poll::Pending => break,
            }
        }
        let begun = !client.ahead.is_empty();
        if !begun && let Some(draining) = thread.seats.draining_since() {
            client.seat.until(draining.max(since) + DRAIN_IDLE);
        }
        match (client.seat.timed_out(now), begun) {
            (true, true) => waited(Waited::Slow),
            (true, false) => waited(Waited::Ended),
            (false, _) => Poll::Pending,
        }
    })
    .await
}

/// Answers the request whose head was there `at` an instant, and notes it. Says also when it was over.
async fn respond(thread: &Thread, client: &mut Client, waited: Waited, at: Instant) -> (After, Instant) {
    let mut entry = Entry::new(at);
    let mut admission = admitted(thread, client, waited, &mut entry);
    // Its key may be good for a chain that nobody has asked for yet.
    if let (Err(_), Some(caller)) = (&admission, entry.caller.as_ref().filter(|_| entry.chain.is_none()))
        && let Some(finding) = thread.seen().plane.find(&caller.caller.chain)
    {
        if client.unless_gone(thread, finding).await.is_none() {
            entry.reason = Some(Reason::ClientGone);
            return (After::Cut, entry.finish(thread));
        }
        admission = admitted(thread, client, waited, &mut entry);
    }
    let (asked, shape, error) = match admission {
        Ok(mut job) => {
            let asked = job.asked;
            let shape =
                job.serving.as_ref().map_or(ErrorShape::Problem, |serving| serving.chain.rules.errors);
            entry.own = job.serving.is_none();
            match forward(thread, client, &mut job, &mut entry).await {
                // How much of the body was read is not known here.
                After::Failed(error) => (Some(Asked { keep_alive: false, ..asked }), shape, error),
                after @ (After::Stays | After::Closes | After::Cut) => {
                    return (after, entry.finish(thread));
                }
            }
        }
        Err(Refusal { asked, shape, error }) => (asked, shape, error),
    };
    entry.unserved(error.kind.status(), error.reason);
    let after = refuse(thread, client, asked, shape, &error, &entry.request_id).await;
    (after, entry.finish(thread))
}

fn admitted(
    thread: &Thread,
    client: &Client,
    waited: Waited,
    entry: &mut Entry,
) -> Result<super::admission::Job, Refusal> {
    let refuse = |entry: &mut Entry, kind, reason, message: &str| {
        entry.begin("", None, || thread.new_id());
        let shape = thread.seen().plane.shape();
        Err(Refusal { asked: None, shape, error: OwnError::lasting(kind, reason, message) })
    };
    if waited == Waited::Slow {
        let message = "the request's head did not come in time";
        return refuse(entry, ErrorKind::Timeout, Reason::SlowClient, message);
    }
    match admit(thread, &client.ahead, entry) {
        Some(admitted) => admitted.inspect_err(|_| entry.name(|| thread.new_id())),
        None => {
            let message = BadHead::Syntax("its head does not end where it seems to").to_string();
            refuse(entry, ErrorKind::BadRequest, Reason::BadRequest, &message)
        }
    }
}

/// Sends an error of our own.
async fn refuse(
    thread: &Thread,
    client: &mut Client,
    asked: Option<Asked>,
    shape: ErrorShape,
    error: &OwnError,
    request_id: &str,
) -> After {
    let stays = asked.filter(|asked| asked.keep_alive && !asked.expects_continue && !thread.seats.draining());
    let stays = stays.filter(|asked| skip(thread, client, asked));
    let connection = match stays {
        None => Connection::Closes,
        Some(Asked { version: Version::Http10, .. }) => Connection::KeepAlive,
        Some(Asked { version: Version::Http11, .. }) => Connection::Stays,
    };
    let mut out = thread.buffer();
    let to_head = asked.is_some_and(|asked| asked.to_head);
    own_error(&mut out, error, shape, request_id, connection, to_head);
    let sent = client.send(&out, thread.seen().plane.limits.client).await;
    thread.give_back(out);
    match (sent, stays) {
        (Ok(()), Some(_)) => After::Stays,
        (Ok(()), None) => After::Closes,
        (Err(_), _) => After::Cut,
    }
}

/// Goes past a request that nobody gets, if it is there whole.
fn skip(thread: &Thread, client: &mut Client, asked: &Asked) -> bool {
    let body = match asked.framing {
        Framing::None => Some(0),
        Framing::Length(length) => usize::try_from(length).ok(),
        Framing::Chunked | Framing::UntilClose => None,
    };
    let whole = body.and_then(|body| body.checked_add(asked.head_len));
    let whole = whole.filter(|whole| *whole <= client.ahead.len());
    if let Some(whole) = whole {
        client.consume(thread, whole);
    }
    whole.is_some()
}

/// Closes behind an answer: a close with something unread would take the answer from the client's hands.
async fn linger(thread: &Thread, client: &mut Client) {
    let mut left = LINGER_BYTES;
    let Client { io, seat, .. } = client;
    let read_on = seat.within(clock::now, LINGER, |cx| {
        if ready!(Pin::new(&mut *io).poll_shutdown(cx)).is_err() {
            return Poll::Ready(());
        }
        while left > 0 {
            match ready!(thread.scratch(|room| poll_read(io, cx, room))) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(read) => left = left.saturating_sub(read),
            }
        }
        Poll::Ready(())
    });
    // It closes in any case.
    let _ = read_on.await;
}

/// Counts a request as in hand while it lives.
struct InHand<'t>(&'t Thread);

impl<'t> InHand<'t> {
    fn new(thread: &'t Thread) -> Self {
        thread.shared.measures.in_flight().inc();
        Self(thread)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.shared.measures.in_flight().dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The task of a silent stream holds every frame at its largest: what is moved into an inner one stands in both.
    #[test]
    fn a_connection_takes_little_room() {
        fn size<F>(_: impl FnOnce(&'static Rc<Thread>, TcpStream, Seat) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(welcome);
        assert!(bytes <= 1800, "{bytes}");
    }
}
