//! Carries a reply's body out on a connection: at once, event by event, or cut in the middle so that the client sees
//! an incomplete message.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::handle::Handle;
use crate::reply::{Body, Reply, Transport};

/// What was written before a cut must have left the process when the connection closes; hyper flushes only while the
/// body has nothing to give.
const FLUSH: Duration = Duration::from_millis(15);

/// A reply's body on its way.
pub(crate) struct Sending {
    frames: VecDeque<Bytes>,
    gap: Duration,
    wait: Option<Pin<Box<Sleep>>>,
    cut: bool,
    /// Announced length; absent where the body is chunked.
    length: Option<u64>,
    /// A stream's next event may have to wait for a test's word.
    held: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Told when a stream is dropped before its end.
    stream_of: Option<Handle>,
}

impl Sending {
    pub(crate) fn of(reply: &Reply, handle: &Handle) -> Self {
        let (mut frames, gap, length) = match &reply.body {
            Body::Whole(bytes) if bytes.is_empty() => (VecDeque::new(), Duration::ZERO, Some(0)),
            Body::Whole(bytes) => (VecDeque::from([bytes.clone()]), Duration::ZERO, Some(bytes.len() as u64)),
            Body::Events { events, gap } => (events.iter().cloned().collect(), *gap, None),
        };
        let mut cut = false;
        if let Transport::CutBody { after_bytes } = reply.transport {
            shorten(&mut frames, after_bytes);
            cut = true;
        }
        let stream_of = length.is_none().then(|| handle.clone());
        if let Some(handle) = &stream_of {
            handle.stream_begun();
        }
        let wait = (cut && frames.is_empty()).then(|| Box::pin(sleep(FLUSH)));
        Self { frames, gap, wait, cut, length, held: None, stream_of }
    }
}

fn shorten(frames: &mut VecDeque<Bytes>, mut left: usize) {
    for frame in frames.iter_mut() {
        frame.truncate(left);
        left -= frame.len();
    }
    frames.retain(|frame| !frame.is_empty());
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Some(wait) = &mut this.wait {
            if wait.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            this.wait = None;
        }
        if let Some(handle) = this.stream_of.as_ref().filter(|_| !this.frames.is_empty()) {
            let held = this.held.get_or_insert_with(|| Box::pin(handle.gate().pass()));
            ready!(held.as_mut().poll(cx));
            this.held = None;
        }
        if let Some(frame) = this.frames.pop_front() {
            let pause = match (this.frames.is_empty(), this.cut) {
                (false, _) => this.gap,
                (true, true) => FLUSH,
                (true, false) => Duration::ZERO,
            };
            this.wait = (!pause.is_zero()).then(|| Box::pin(sleep(pause)));
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if this.cut {
            return Poll::Ready(Some(Err(io::Error::other("scripted cut"))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && !self.cut
    }

    fn size_hint(&self) -> SizeHint {
        // A cut body still announces its whole length: that is what makes it incomplete.
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(handle) = &self.stream_of
            && !self.frames.is_empty()
        {
            handle.stream_dropped();
        }
    }
}
