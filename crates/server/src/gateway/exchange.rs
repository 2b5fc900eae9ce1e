//! One request and its answer, between a client and whoever answers: both bodies flow at once, nothing is gathered,
//! and either side's end is noticed (SPEC §7).

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use super::body::{Body, Kept};
use super::clock;
use super::fault::Fault;
use super::http1::{Framing, Version};
use super::seat::{Seat, TimedOut};
use super::thread::Thread;
use crate::stream::Stream;

/// So much of a body is read at once at most, into its copy.
const MOST_AT_ONCE: usize = 64 * 1024;
/// While an answer is awaited, so much of the next request is read ahead at most: enough to notice that the client
/// has gone.
const READ_AHEAD: usize = 64 * 1024;

/// A client's connection.
pub(super) struct Client {
    pub(super) io: Stream,
    /// What was read and belongs to no message yet.
    pub(super) ahead: Vec<u8>,
    pub(super) seat: Seat,
}

/// The request's way to the answerer.
pub(super) struct Upward {
    pub(super) body: Body,
    /// The client sent it whole.
    pub(super) ended: bool,
    /// The answerer got it whole.
    pub(super) sent: bool,
    /// Bytes that wait for the answerer, from `at` on.
    pub(super) out: Vec<u8>,
    pub(super) at: usize,
    pub(super) kept: Kept,
    /// Content so far, and at most.
    pub(super) content: u64,
    pub(super) limit: u64,
    /// The answerer takes no more; its answer may still come.
    pub(super) refused: bool,
}

/// How the framing of an answer changes on its way to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recode {
    /// Not at all.
    AsIs,
    /// The client speaks HTTP/1.0: chunks are taken apart.
    Dechunk,
    /// It ends with the provider's connection: the client gets chunks, so that it can tell an end from a cut.
    Chunk,
}

impl Recode {
    pub(super) fn of(framing: Framing, version: Version) -> Self {
        match (framing, version) {
            // An answer without a body may name the coding that it would have.
            (Framing::Chunked | Framing::None, Version::Http10) => Self::Dechunk,
            (Framing::UntilClose, Version::Http11) => Self::Chunk,
            (Framing::Chunked | Framing::UntilClose | Framing::None | Framing::Length(_), _) => Self::AsIs,
        }
    }
}

/// The answer's way to the client.
pub(super) struct Downward {
    pub(super) body: Body,
    pub(super) ended: bool,
    pub(super) out: Vec<u8>,
    pub(super) at: usize,
    pub(super) content: u64,
    pub(super) recode: Recode,
    /// Bytes came behind the answer: the connection is not used again.
    pub(super) excess: bool,
}

pub(super) fn poll_read(io: &mut Stream, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut read = ReadBuf::new(room);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

/// Writes what waits; ready when nothing does.
fn poll_drain(
    io: &mut Stream,
    cx: &mut Context<'_>,
    out: &mut Vec<u8>,
    at: &mut usize,
) -> Poll<io::Result<()>> {
    while *at < out.len() {
        let written = ready!(Pin::new(&mut *io).poll_write(cx, &out[*at..]))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *at += written;
    }
    out.clear();
    *at = 0;
    Poll::Ready(Ok(()))
}

/// Writes as much as is taken at once, and lets the rest wait in `out`. Says whether any more will be taken.
fn write_or_wait(io: &mut Stream, cx: &mut Context<'_>, bytes: &[u8], out: &mut Vec<u8>) -> bool {
    let written = match Pin::new(io).poll_write(cx, bytes) {
        Poll::Ready(Ok(written)) => written,
        Poll::Ready(Err(_)) => return false,
        Poll::Pending => 0,
    };
    out.extend_from_slice(&bytes[written..]);
    true
}

impl Upward {
    /// Moves what the client sends to the answerer; ready when the request is sent whole.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client,
        answerer: &mut Stream,
    ) -> Poll<Result<(), Fault>> {
        loop {
            // Head and what came with it go out together.
            if !self.ended && !client.ahead.is_empty() {
                let ahead = std::mem::take(&mut client.ahead);
                let used = self.queue(&ahead)?;
                client.ahead.extend_from_slice(&ahead[used..]);
                thread.give_back(ahead);
            }
            if ready!(poll_drain(answerer, cx, &mut self.out, &mut self.at)).is_err() {
                self.refused = true;
                return Poll::Pending;
            }
            if self.ended {
                if ready!(Pin::new(&mut *answerer).poll_flush(cx)).is_err() {
                    self.refused = true;
                    return Poll::Pending;
                }
                thread.give_back(std::mem::take(&mut self.out));
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fresh(cx, thread, client, answerer))?;
            if self.refused {
                return Poll::Pending;
            }
        }
    }

    /// Reads from the client, and writes as much of it as the answerer takes at once.
    fn poll_fresh(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client,
        answerer: &mut Stream,
    ) -> Poll<Result<(), Fault>> {
        // A body whose copy is kept is read into that: it is moved once less.
        let most = usize::try_from(self.body.left()).unwrap_or(usize::MAX).min(MOST_AT_ONCE);
        if let Some((from, mut room)) = self.kept.room(most) {
            let read = pin!(client.io.read_buf(&mut room)).poll(cx);
            let read = ready!(self.came(cx, answerer, read))?;
            let scanned = self.body.take(self.kept.since(from), |_| {}).map_err(Fault::BadRequest)?;
            self.content += read as u64;
            self.ended = scanned.ended;
            self.refused |= !write_or_wait(answerer, cx, self.kept.since(from), &mut self.out);
            self.kept.take_in(read);
            return Poll::Ready(Ok(()));
        }
        thread.scratch(|room| {
            let read = poll_read(&mut client.io, cx, room);
            let read = ready!(self.came(cx, answerer, read))?;
            let used = self.take(&room[..read])?;
            client.ahead.extend_from_slice(&room[used..read]);
            self.refused |= !write_or_wait(answerer, cx, &room[..used], &mut self.out);
            Poll::Ready(Ok(()))
        })
    }

    /// What a read from the client came to.
    fn came(
        &mut self,
        cx: &mut Context<'_>,
        answerer: &mut Stream,
        read: Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, Fault>> {
        match read {
            Poll::Pending => {
                // What TLS holds back goes out before anybody waits.
                if matches!(Pin::new(answerer).poll_flush(cx), Poll::Ready(Err(_))) {
                    self.refused = true;
                }
                Poll::Pending
            }
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Fault::ClientGone)),
            Poll::Ready(Ok(read)) => Poll::Ready(Ok(read)),
        }
    }

    /// Takes what belongs to the request into `out`.
    pub(super) fn queue(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let used = self.take(bytes)?;
        self.out.extend_from_slice(&bytes[..used]);
        Ok(used)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let content = &mut self.content;
        let scanned =
            self.body.take(bytes, |data| *content += data.len() as u64).map_err(Fault::BadRequest)?;
        if self.content > self.limit {
            return Err(Fault::TooLarge);
        }
        self.kept.push(&bytes[..scanned.used]);
        self.ended = scanned.ended;
        Ok(scanned.used)
    }
}

impl Downward {
    /// Moves the answer's body to the client; ready when it came to its end.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client,
        answerer: &mut Stream,
    ) -> Poll<Result<(), Fault>> {
        loop {
            match poll_drain(&mut client.io, cx, &mut self.out, &mut self.at) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Pending => return Poll::Pending,
            }
            // A stream that is silent for long holds no buffer.
            thread.give_back(std::mem::take(&mut self.out));
            let flushed = Pin::new(&mut client.io).poll_flush(cx);
            if self.ended {
                return flushed.map_err(|_| Fault::ClientGone);
            }
            ready!(self.poll_fresh(cx, thread, client, answerer))?;
        }
    }

    fn poll_fresh(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client,
        answerer: &mut Stream,
    ) -> Poll<Result<(), Fault>> {
        thread.scratch(|room| {
            let read = match ready!(poll_read(answerer, cx, room)) {
                Ok(0) if self.body.ends_with_connection() => {
                    self.ended = true;
                    if self.recode == Recode::Chunk {
                        self.out.extend_from_slice(b"0\r\n\r\n");
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::Closed { silent: false })),
                Ok(read) => read,
            };
            if self.recode != Recode::AsIs {
                return Poll::Ready(self.take(&room[..read]));
            }
            let used = self.follow(&room[..read], |_| {})?;
            match write_or_wait(&mut client.io, cx, &room[..used], &mut self.out) {
                true => Poll::Ready(Ok(())),
                false => Poll::Ready(Err(Fault::ClientGone)),
            }
        })
    }

    /// Takes what belongs to the answer into `out`.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut out = std::mem::take(&mut self.out);
        let taken = match self.recode {
            Recode::AsIs => self.follow(bytes, |_| {}).map(|used| out.extend_from_slice(&bytes[..used])),
            Recode::Dechunk => self.follow(bytes, |data| out.extend_from_slice(data)).map(drop),
            Recode::Chunk => self.follow(bytes, |data| push_chunk(&mut out, data)).map(drop),
        };
        self.out = out;
        taken
    }

    fn follow(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, Fault> {
        let content = &mut self.content;
        let scanned = self.body.take(bytes, |piece| {
            *content += piece.len() as u64;
            data(piece);
        });
        let scanned = scanned.map_err(Fault::BadAnswerChunk)?;
        self.ended = scanned.ended;
        self.excess |= scanned.used < bytes.len();
        Ok(scanned.used)
    }
}

fn push_chunk(out: &mut Vec<u8>, data: &[u8]) {
    // An empty chunk would be the end.
    if !data.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

impl Client {
    /// Notices that the client has gone. What it sends ahead of its turn is kept for then.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>, thread: &Thread) -> Poll<()> {
        while self.ahead.len() < READ_AHEAD {
            let read = ready!(thread.scratch(|room| {
                let read = ready!(poll_read(&mut self.io, cx, room));
                if let Ok(read) = &read {
                    self.ahead.extend_from_slice(&room[..*read]);
                }
                Poll::Ready(read)
            }));
            if matches!(read, Ok(0) | Err(_)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// What `future` comes to, unless the client goes first.
    pub(super) async fn unless_gone<T>(
        &mut self,
        thread: &Thread,
        mut future: impl Future<Output = T> + Unpin,
    ) -> Option<T> {
        poll_fn(|cx| match Pin::new(&mut future).poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_gone(cx, thread).map(|()| None),
        })
        .await
    }

    /// Sends a few bytes of our own.
    pub(super) async fn send(&mut self, bytes: &[u8], limit: Duration) -> Result<(), Fault> {
        let mut out = bytes.to_vec();
        let mut at = 0;
        let Self { io, seat, .. } = self;
        let sent = seat.within(clock::now, limit, |cx| {
            ready!(poll_drain(io, cx, &mut out, &mut at))?;
            Pin::new(&mut *io).poll_flush(cx)
        });
        match sent.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Fault::ClientGone),
            Err(TimedOut) => Err(Fault::ClientSlow),
        }
    }

    /// Takes what was dealt with off what was read ahead.
    pub(super) fn consume(&mut self, thread: &Thread, len: usize) {
        if len >= self.ahead.len() {
            thread.give_back(std::mem::take(&mut self.ahead));
        } else {
            self.ahead.drain(..len);
        }
    }
}
