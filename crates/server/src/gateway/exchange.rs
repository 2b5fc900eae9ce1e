//! One request and its answer, between a client and whoever answers: both bodies flow at once, nothing is gathered,
//! and either side's end is noticed (SPEC §7).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Body, Kept};
use super::http1::BadChunk;
use super::pool::Answerer;
use super::seat::Seat;
use super::thread::Thread;

/// What a client is reached by.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// While an answer is awaited, so much of the next request is read ahead at most: enough to notice that the client
/// has gone.
const READ_AHEAD: usize = 64 * 1024;

/// A client's connection.
pub(super) struct Client<C> {
    pub(super) io: C,
    /// What was read and belongs to no message yet.
    pub(super) ahead: Vec<u8>,
    pub(super) seat: Seat,
}

/// Why an exchange ended without a whole answer.
#[derive(Debug)]
pub(super) enum Fault {
    ClientGone,
    ClientSlow,
    BadChunk(BadChunk),
    TooLarge,
    /// The answerer closed; `true`: not a byte of an answer had come.
    Closed { silent: bool },
    Timeout,
}

/// The request's way to the answerer.
pub(super) struct Upward {
    pub(super) body: Body,
    pub(super) ended: bool,
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

/// The answer's way to the client.
pub(super) struct Downward {
    pub(super) body: Body,
    pub(super) ended: bool,
    pub(super) out: Vec<u8>,
    pub(super) at: usize,
    pub(super) content: u64,
    /// The client speaks HTTP/1.0: chunks are taken apart.
    pub(super) dechunk: bool,
    /// Bytes came behind the answer: the connection is not used again.
    pub(super) excess: bool,
}

pub(super) fn poll_read(io: &mut impl Io, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut read = ReadBuf::new(room);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

/// Writes what waits; ready when nothing does.
fn poll_drain(io: &mut impl Io, cx: &mut Context<'_>, out: &mut Vec<u8>, at: &mut usize) -> Poll<io::Result<()>> {
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

impl Upward {
    /// Moves what the client sends to the answerer; ready when the request is sent whole.
    pub(super) fn poll<C: Io>(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client<C>,
        answerer: &mut Answerer,
    ) -> Poll<Result<(), Fault>> {
        loop {
            if self.refused {
                return Poll::Pending;
            }
            match poll_drain(answerer, cx, &mut self.out, &mut self.at) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.refused = true;
                    continue;
                }
                Poll::Pending => return Poll::Pending,
            }
            if self.ended {
                return match Pin::new(&mut *answerer).poll_flush(cx) {
                    Poll::Ready(Err(_)) => {
                        self.refused = true;
                        Poll::Pending
                    }
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                    Poll::Pending => Poll::Pending,
                };
            }
            if client.ahead.is_empty() {
                ready!(self.poll_fresh(cx, thread, client, answerer))?;
            } else {
                let ahead = std::mem::take(&mut client.ahead);
                let used = self.take(&ahead)?;
                self.out.extend_from_slice(&ahead[..used]);
                client.ahead.extend_from_slice(&ahead[used..]);
                thread.give_back(ahead);
            }
        }
    }

    /// Reads from the client, and writes as much of it as the answerer takes at once.
    fn poll_fresh<C: Io>(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client<C>,
        answerer: &mut Answerer,
    ) -> Poll<Result<(), Fault>> {
        thread.scratch(|room| {
            let read = match poll_read(&mut client.io, cx, room) {
                Poll::Pending => {
                    // What TLS holds back goes out before anybody waits.
                    if matches!(Pin::new(&mut *answerer).poll_flush(cx), Poll::Ready(Err(_))) {
                        self.refused = true;
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Ready(Ok(read)) => read,
            };
            let used = self.take(&room[..read])?;
            client.ahead.extend_from_slice(&room[used..read]);
            let written = match Pin::new(&mut *answerer).poll_write(cx, &room[..used]) {
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(_)) => {
                    self.refused = true;
                    used
                }
                Poll::Pending => 0,
            };
            self.out.extend_from_slice(&room[written..used]);
            Poll::Ready(Ok(()))
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let content = &mut self.content;
        let scanned = self.body.take(bytes, |data| *content += data.len() as u64).map_err(Fault::BadChunk)?;
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
    pub(super) fn poll<C: Io>(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client<C>,
        answerer: &mut Answerer,
    ) -> Poll<Result<(), Fault>> {
        loop {
            match poll_drain(&mut client.io, cx, &mut self.out, &mut self.at) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Pending => return Poll::Pending,
            }
            let flushed = Pin::new(&mut client.io).poll_flush(cx);
            if self.ended {
                return flushed.map_err(|_| Fault::ClientGone);
            }
            ready!(self.poll_fresh(cx, thread, client, answerer))?;
        }
    }

    fn poll_fresh<C: Io>(
        &mut self,
        cx: &mut Context<'_>,
        thread: &Thread,
        client: &mut Client<C>,
        answerer: &mut Answerer,
    ) -> Poll<Result<(), Fault>> {
        thread.scratch(|room| {
            let read = match ready!(poll_read(answerer, cx, room)) {
                Ok(0) if self.body.ends_with_connection() => {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::Closed { silent: false })),
                Ok(read) => read,
            };
            let used = self.take(&room[..read])?;
            if self.dechunk {
                return Poll::Ready(Ok(()));
            }
            match Pin::new(&mut client.io).poll_write(cx, &room[..used]) {
                Poll::Ready(Ok(written)) => self.out.extend_from_slice(&room[written..used]),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Pending => self.out.extend_from_slice(&room[..used]),
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Takes what belongs to the answer. With `dechunk` its content goes to `out` here.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let (content, dechunk, out) = (&mut self.content, self.dechunk, &mut self.out);
        let scanned = self.body.take(bytes, |data| {
            *content += data.len() as u64;
            if dechunk {
                out.extend_from_slice(data);
            }
        });
        let scanned = scanned.map_err(Fault::BadChunk)?;
        self.ended = scanned.ended;
        self.excess |= scanned.used < bytes.len();
        Ok(scanned.used)
    }
}

impl<C: Io> Client<C> {
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
}
