//! A connection in memory, and futures that are driven on it without a runtime: what waits for bytes that never come
//! is seen at once, without a clock.

use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use hyper::rt::{Read, ReadBufCursor, Write};

/// One side of a connection; the other is the test. Clones are the same one.
#[derive(Clone)]
pub(super) struct Wire(Rc<RefCell<State>>);

struct State {
    bytes: Vec<u8>,
    at: usize,
    /// Bytes that arrive at once.
    cut: usize,
    /// The connection ends behind the bytes; else more may come.
    ends: bool,
    /// Nothing arrives before something was written: an answer before its request would be no answer.
    silent: bool,
    waiting: Option<Waker>,
}

impl Wire {
    /// A client's side of it.
    pub(super) fn of_client(bytes: &[u8], cut: usize) -> Self {
        Self::new(State { bytes: bytes.to_vec(), at: 0, cut, ends: true, silent: false, waiting: None })
    }

    /// A server's side of it. Unless it `ends`, it waits for [`Wire::push_last`] behind the bytes.
    pub(super) fn of_server(bytes: &[u8], cut: usize, ends: bool) -> Self {
        Self::new(State { bytes: bytes.to_vec(), at: 0, cut, ends, silent: true, waiting: None })
    }

    fn new(state: State) -> Self {
        Self(Rc::new(RefCell::new(state)))
    }

    /// When something was written, more bytes arrive, and then the end.
    pub(super) fn push_last(&self, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        state.bytes.extend_from_slice(bytes);
        state.ends = true;
        state.silent = true;
    }
}

impl Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.0.borrow_mut();
        let here = state.cut.min(room.remaining()).min(state.bytes.len() - state.at);
        if state.silent || (here == 0 && !state.ends) {
            state.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        room.put_slice(&state.bytes[state.at..state.at + here]);
        state.at += here;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.0.borrow_mut();
        state.silent = false;
        if let Some(waker) = state.waiting.take() {
            waker.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls until the future is ready; `None` when it waits for what will never come.
pub(super) fn drive<T>(future: impl Future<Output = T>) -> Option<T> {
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return Some(value);
        }
        if !woken.0.swap(false, Ordering::Relaxed) {
            return None;
        }
    }
}
