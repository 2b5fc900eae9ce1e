//! A request on its way: to a connection, once more where that is harmless, to another source where the first is
//! refused; and the answer back (SPEC §7).

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Instant;

use evergrant_core::Reason;
use evergrant_core::gateway::{ErrorKind, OwnError};

use super::admission::{Asked, Job, Serving};
use super::body::{Body, Kept};
use super::clock;
use super::entry::Entry;
use super::exchange::{Client, Downward, Recode, Upward, poll_read};
use super::fault::Fault;
use super::http1::{BadHead, Framing, Response, Version, empty_room, head_may_end, parse_response};
use super::judge::Tried;
use super::plane::Limits;
use super::request::trailer_allowed;
use super::response::{Connection, client_head};
use super::thread::Thread;
use crate::stream::Stream;

/// What becomes of the client's connection behind an answer.
#[derive(Debug)]
pub(super) enum After {
    /// The next request may come.
    Stays,
    /// It closes. What the client still sends is read for a moment, so that it gets to read the answer.
    Closes,
    /// It is cut: the answer in hand has no end.
    Cut,
    /// Nothing of an answer was sent yet: this error is.
    Failed(OwnError),
}

/// A request and whoever answers it.
pub(super) struct Flight<'u> {
    pub(super) stream: Stream,
    reused: bool,
    pub(super) up: &'u mut Upward,
    /// What came of the answer and was not dealt with.
    pub(super) got: Vec<u8>,
    pub(super) to_head: bool,
}

/// Sends the request and passes the answer on.
///
/// A stream that is silent costs what is held here meanwhile: what is awaited below borrows it, since what is moved
/// into it stands there twice.
pub(super) async fn forward(thread: &Thread, client: &mut Client, job: &mut Job, entry: &mut Entry) -> After {
    let seen = thread.seen();
    let limits = &seen.plane.limits;
    let mut up = match upward(thread, client, job) {
        Ok(up) => up,
        Err(fault) => return fault.before_answer(&job.asked, entry),
    };
    let Job { asked, serving, .. } = job;
    let ready = clock::now();
    entry.ready = Some(ready);
    // Where nothing can be sent once more, no connection is used that may have closed.
    let mut tried = Tried { fresh: up.kept.bytes().is_none(), ..Tried::default() };
    let mut known = Some(ready);
    loop {
        let (stream, reused) = match connect(thread, client, serving.as_ref(), tried.fresh, limits).await {
            Ok(connected) => connected,
            Err(after) => return after.into_after(entry),
        };
        if asked.expects_continue && !tried.continued && !up.ended {
            tried.continued = true;
            // Who sends its body already waits for nothing.
            if up.content == 0
                && let Err(fault) = client.send(b"HTTP/1.1 100 Continue\r\n\r\n", limits.client).await
            {
                return fault.before_answer(asked, entry);
            }
        }
        let (got, to_head) = (thread.buffer(), asked.to_head);
        let mut flight = Flight { stream, reused, up: &mut up, got, to_head };
        let begun = known.take().filter(|_| reused).unwrap_or_else(clock::now);
        match flight.answer_head(thread, client, limits, begun).await {
            Ok(()) => {}
            // The provider closed a connection that was idle, just when it was taken.
            Err(Fault::Closed { silent: true }) if flight.reused && flight.up.kept.bytes().is_some() => {
                tried.fresh = true;
                thread.give_back(flight.got);
                up.again(serving.as_ref(), asked.head_len, entry);
                continue;
            }
            Err(fault) => return fault.before_answer(asked, entry),
        }
        if let Some(serving) = serving {
            match flight.judge(thread, client, serving, &mut tried, limits, entry).await {
                Ok(None) => {}
                Ok(Some(with)) => {
                    serving.with = with;
                    entry.serve(&serving.chain, &serving.with);
                    flight.leave(thread, serving);
                    up.again(Some(serving), asked.head_len, entry);
                    continue;
                }
                Err(fault) => return fault.before_answer(asked, entry),
            }
        }
        let (after, keep) = flight.pass_on(thread, client, asked, entry, limits).await;
        if let Some(serving) = serving.as_ref().filter(|_| keep) {
            thread.pool.put(&serving.chain.upstream, flight.stream);
        }
        thread.give_back(up.out);
        return after;
    }
}

/// The request's way up, with its head and what came with it.
fn upward(thread: &Thread, client: &mut Client, job: &mut Job) -> Result<Upward, Fault> {
    let Asked { head_len, framing, limit, .. } = job.asked;
    let mut up = Upward {
        body: Body::new(framing, trailer_allowed),
        ended: framing == Framing::None,
        sent: false,
        out: std::mem::take(&mut job.out),
        at: 0,
        kept: Kept::none(),
        content: 0,
        limit,
        refused: false,
    };
    let mut came = std::mem::take(&mut client.ahead);
    let whole = head_len + if up.ended { 0 } else { up.queue(&came[head_len..])? };
    client.ahead.extend_from_slice(&came[whole..]);
    came.truncate(whole);
    let kept = match &job.serving {
        Some(serving) => {
            let length = (whole as u64).saturating_add(up.body.left());
            Kept::of(&serving.seen.plane.budget, length, came)
        }
        None => Err(came),
    };
    match kept {
        Ok(kept) => up.kept = kept,
        Err(came) => thread.give_back(came),
    }
    Ok(up)
}

/// Why there is no connection.
enum NoConnection {
    ClientGone,
    Failed(String),
}

impl NoConnection {
    fn into_after(self, entry: &mut Entry) -> After {
        match self {
            Self::ClientGone => {
                entry.reason = Some(Reason::ClientGone);
                After::Cut
            }
            Self::Failed(why) => After::Failed(OwnError::passing(
                ErrorKind::BadGateway,
                Reason::UpstreamUnreachable,
                format!("the provider cannot be reached: {why}"),
                Some(1),
            )),
        }
    }
}

async fn connect(
    thread: &Thread,
    client: &mut Client,
    serving: Option<&Serving>,
    fresh: bool,
    limits: &Limits,
) -> Result<(Stream, bool), NoConnection> {
    let Some(serving) = serving else {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        return match thread.shared.own.send(theirs) {
            Ok(()) => Ok((Stream::Memory(ours), false)),
            Err(_) => Err(NoConnection::Failed("it is ending".into())),
        };
    };
    let upstream = &serving.chain.upstream;
    if !fresh && let Some(stream) = thread.pool.take(upstream) {
        return Ok((stream, true));
    }
    let opening = Box::pin(upstream.client.open(&upstream.url, limits.connect));
    match client.unless_gone(thread, opening).await {
        None => Err(NoConnection::ClientGone),
        Some(Err(why)) => Err(NoConnection::Failed(why)),
        Some(Ok(stream)) => Ok((stream, false)),
    }
}

impl Flight<'_> {
    /// Sends the request and waits until a whole head has come, or something is wrong.
    async fn answer_head(
        &mut self,
        thread: &Thread,
        client: &mut Client,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Fault> {
        let mut progress = Progress::new(now);
        poll_fn(|cx| {
            if thread.seats.cut() {
                return Poll::Ready(Err(Fault::Drained));
            }
            if let Poll::Ready(Err(fault)) = self.poll_up(cx, thread, client) {
                return Poll::Ready(Err(fault));
            }
            loop {
                match self.poll_got(cx, thread) {
                    Poll::Ready(Ok(from)) if head_may_end(&self.got, from) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                    Poll::Pending => break,
                }
            }
            let (whole, to_send) = (self.up.sent || self.up.refused, self.up.waits_for_answerer());
            let (limit, fault) = if whole {
                (limits.answer, Fault::Timeout)
            } else if to_send {
                (limits.client, Fault::Timeout)
            } else {
                (limits.client, Fault::ClientSlow)
            };
            // Whoever is waited for has a time of their own.
            let moved = (whole, to_send, self.up.content + self.up.at as u64);
            progress.check(client, moved, limit, fault)
        })
        .await
    }

    /// Sends on; once the request is sent whole, notices that the client goes.
    pub(super) fn poll_up(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client,
    ) -> Poll<Result<(), Fault>> {
        if !self.up.sent && !self.up.refused {
            match self.up.poll(cx, thread, client, &mut self.stream) {
                Poll::Ready(Ok(())) => self.up.sent = true,
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => return Poll::Pending,
            }
        }
        match client.poll_gone(cx, thread) {
            Poll::Ready(()) => Poll::Ready(Err(Fault::ClientGone)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads more of the answer. Returns how much there was before.
    pub(super) fn poll_got(&mut self, cx: &mut Context<'_>, thread: &Thread) -> Poll<Result<usize, Fault>> {
        let from = self.got.len();
        thread.scratch(|room| match poll_read(&mut self.stream, cx, room) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Fault::Closed { silent: from == 0 })),
            Poll::Ready(Ok(read)) => {
                self.got.extend_from_slice(&room[..read]);
                Poll::Ready(Ok(from))
            }
        })
    }

    /// Skips what comes before the answer proper (1xx). Returns its status; 0 for a head that cannot be read, which
    /// is found when it is passed on.
    pub(super) async fn skip_interim(
        &mut self,
        thread: &Thread,
        client: &mut Client,
        limits: &Limits,
    ) -> Result<u16, Fault> {
        loop {
            let status = status(&self.got);
            if !(100..200).contains(&status) || status == 101 {
                return Ok(status);
            }
            let len = self.head(|head| head.len).map_err(Fault::BadAnswer)?;
            self.got.drain(..len);
            if !head_may_end(&self.got, 0) {
                self.answer_head(thread, client, limits, clock::now()).await?;
            }
        }
    }

    pub(super) fn head<T>(&self, with: impl FnOnce(&Response<'_, '_>) -> T) -> Result<T, BadHead> {
        let mut room = empty_room();
        match parse_response(&self.got, &mut room, self.to_head)? {
            Some(head) => Ok(with(&head)),
            None => Err(BadHead::Syntax("the head does not end where it seems to")),
        }
    }

    /// Passes the answer on, to its end. Says also whether another request may have the connection.
    async fn pass_on(
        &mut self,
        thread: &Thread,
        client: &mut Client,
        asked: &Asked,
        entry: &mut Entry,
        limits: &Limits,
    ) -> (After, bool) {
        match self.skip_interim(thread, client, limits).await {
            Ok(101) => {
                let fault = Fault::BadAnswer(BadHead::Syntax("it switches protocols"));
                return (fault.before_answer(asked, entry), false);
            }
            Ok(_) => {}
            Err(fault) => return (fault.before_answer(asked, entry), false),
        }
        if let Some(room) = self.up.kept.let_go() {
            thread.give_back(room);
        }
        let came = clock::now();
        let (mut down, keep, after) = match self.begin_down(thread, asked, entry) {
            Ok(begun) => begun,
            Err(fault) => return (fault.before_answer(asked, entry), false),
        };
        let passed_on = clock::now();
        entry.answered = Some((came, passed_on));
        let ended = self.stream_down(thread, client, &mut down, limits, passed_on).await;
        (entry.bytes_in, entry.bytes_out) = (self.up.content, down.content);
        let (keep, excess) = (keep && self.up.sent, down.excess);
        thread.give_back(down.out);
        match ended {
            Ok(()) if self.up.ended => (after, keep && !excess),
            Ok(()) => (After::Closes, keep && !excess),
            Err(fault) => {
                entry.reason = Some(fault.reason());
                (After::Cut, false)
            }
        }
    }

    /// Writes the client's head, and takes what came of the body with the answerer's.
    fn begin_down(
        &mut self,
        thread: &Thread,
        asked: &Asked,
        entry: &mut Entry,
    ) -> Result<(Downward, bool, After), Fault> {
        let old = asked.version == Version::Http10;
        let closes = !asked.keep_alive || thread.seats.draining();
        let mut out = thread.buffer();
        let begun = self.head(|head| {
            let unbounded = matches!(head.framing, Framing::Chunked | Framing::UntilClose);
            // Whoever is refused before the request is whole will hardly send the rest.
            let closes = closes || old && unbounded || head.status >= 400 && !self.up.ended;
            let connection = match (closes, old) {
                (true, _) => Connection::Closes,
                (false, true) => Connection::KeepAlive,
                (false, false) => Connection::Stays,
            };
            let recode = Recode::of(head.framing, asked.version);
            client_head(&mut out, head, &entry.request_id, connection, recode);
            entry.status = head.status;
            let body = Body::new(head.framing, |_| true);
            let ended = head.framing == Framing::None;
            let after = if closes { After::Closes } else { After::Stays };
            (body, ended, recode, head.len, head.keep_alive, after)
        });
        let (body, ended, recode, len, keep, after) = begun.map_err(Fault::BadAnswer)?;
        let mut down = Downward { body, ended, out, at: 0, content: 0, recode, excess: false };
        let got = std::mem::take(&mut self.got);
        if ended {
            down.excess = got.len() > len;
        } else {
            down.take(&got[len..])?;
        }
        thread.give_back(got);
        Ok((down, keep, after))
    }

    async fn stream_down(
        &mut self,
        thread: &Thread,
        client: &mut Client,
        down: &mut Downward,
        limits: &Limits,
        now: Instant,
    ) -> Result<(), Fault> {
        let mut progress = Progress::new(now);
        poll_fn(|cx| {
            if thread.seats.cut() {
                return Poll::Ready(Err(Fault::Drained));
            }
            // An answer may come before the request is whole; the client's end is noticed in any case.
            let over = self.up.sent && down.ended;
            match if over { Poll::Pending } else { self.poll_up(cx, thread, client) } {
                Poll::Ready(Err(Fault::ClientGone)) => return Poll::Ready(Err(Fault::ClientGone)),
                // The rest of the request is not worth the answer.
                Poll::Ready(Err(_)) => self.up.refused = true,
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if let Poll::Ready(ended) = down.poll(cx, thread, client, &mut self.stream) {
                return Poll::Ready(ended);
            }
            // What TLS holds back of a whole answer waits for the client, too.
            let waits_for_client = down.ended || !down.out.is_empty();
            let (limit, fault) = if waits_for_client {
                (limits.client, Fault::ClientSlow)
            } else {
                (limits.stream_idle, Fault::Timeout)
            };
            let moved = (waits_for_client, down.content, down.at, self.up.content);
            progress.check(client, moved, limit, fault)
        })
        .await
    }
}

/// The status in an answer's first line, as far as it has one.
fn status(got: &[u8]) -> u16 {
    match got {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', hundreds @ b'1'..=b'9', tens, ones, ..]
            if tens.is_ascii_digit() && ones.is_ascii_digit() =>
        {
            [hundreds, tens, ones].into_iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'))
        }
        _ => 0,
    }
}

/// Nothing moves for too long: then it is over.
pub(super) struct Progress<T> {
    moved: Option<T>,
    known: Option<Instant>,
}

impl<T: PartialEq> Progress<T> {
    /// It is looked at now for the first time.
    pub(super) fn new(now: Instant) -> Self {
        Self { moved: None, known: Some(now) }
    }

    pub(super) fn check<R>(
        &mut self,
        client: &Client,
        moved: T,
        limit: std::time::Duration,
        fault: Fault,
    ) -> Poll<Result<R, Fault>> {
        let now = self.known.take().unwrap_or_else(clock::now);
        if self.moved.as_ref() != Some(&moved) {
            self.moved = Some(moved);
            client.seat.until(now + limit);
        } else if client.seat.timed_out(now) {
            return Poll::Ready(Err(fault));
        }
        Poll::Pending
    }
}

impl Upward {
    /// From its beginning, for another connection or another source.
    fn again(&mut self, serving: Option<&Serving>, head_len: usize, entry: &Entry) {
        self.out.clear();
        (self.at, self.sent, self.refused) = (0, false, false);
        if let (Some(kept), Some(serving)) = (self.kept.bytes(), serving) {
            serving.head(&mut self.out, &kept[..head_len], entry.trace.as_deref());
            self.out.extend_from_slice(&kept[head_len..]);
        }
    }

    fn waits_for_answerer(&self) -> bool {
        self.at < self.out.len()
    }
}
