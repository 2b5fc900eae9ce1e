//! The connections of one thread: each has a seat with its deadline. One ticker looks at all of them, so that a
//! connection needs no timer of its own; the same wakes them when the thread drains.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// How exact deadlines are.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// All seats of a thread.
#[derive(Debug, Default)]
pub(super) struct Seats {
    seats: RefCell<Slab<Occupied>>,
    draining: Cell<Option<Instant>>,
    cut: Cell<bool>,
    /// Wakes who waits for the last one to leave, or for the first to come.
    changed: tokio::sync::Notify,
}

#[derive(Debug)]
struct Occupied {
    deadline: Rc<Cell<Option<Instant>>>,
    waker: Waker,
}

/// A connection's seat; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Rc<Seats>,
    key: usize,
    deadline: Rc<Cell<Option<Instant>>>,
}

/// A deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimedOut;

impl Seats {
    /// Takes a seat for a task that was not polled yet: it is waited for already, but woken only when it
    /// [sits](Seat::sit).
    pub(super) fn reserve(self: &Rc<Self>) -> Seat {
        let deadline = Rc::new(Cell::new(None));
        let occupied = Occupied { deadline: deadline.clone(), waker: Waker::noop().clone() };
        let mut seats = self.seats.borrow_mut();
        let key = seats.insert(occupied);
        if seats.len() == 1 {
            self.changed.notify_waiters();
        }
        Seat { seats: self.clone(), key, deadline }
    }

    /// Takes a seat for the task that polls this.
    pub(super) fn take(self: &Rc<Self>, cx: &Context<'_>) -> Seat {
        let seat = self.reserve();
        seat.sit(cx);
        seat
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> usize {
        self.seats.borrow().len()
    }

    /// Whether no new request is taken any more.
    pub(super) fn draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Since when.
    pub(super) fn draining_since(&self) -> Option<Instant> {
        self.draining.get()
    }

    /// Tells every connection that it ends with the answer in hand.
    pub(super) fn drain(&self, now: Instant) {
        self.draining.set(Some(now));
        for (_, occupied) in self.seats.borrow().iter() {
            occupied.waker.wake_by_ref();
        }
    }

    /// Tells every connection that its time is over, the answer in hand included.
    pub(super) fn end(&self) {
        self.cut.set(true);
        for (_, occupied) in self.seats.borrow().iter() {
            occupied.waker.wake_by_ref();
        }
    }

    /// Whether answers in hand are cut.
    pub(super) fn cut(&self) -> bool {
        self.cut.get()
    }

    /// Returns when all seats are free.
    pub(super) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            if self.taken() == 0 {
                return;
            }
            changed.await;
        }
    }

    /// Wakes those whose deadline has passed. Without connections it sleeps.
    pub(super) async fn watch(&self, now: impl Fn() -> Instant) {
        loop {
            let changed = self.changed.notified();
            if self.taken() == 0 {
                changed.await;
            }
            tokio::time::sleep(TICK).await;
            let now = now();
            for (_, occupied) in self.seats.borrow().iter() {
                if occupied.deadline.get().is_some_and(|deadline| deadline <= now) {
                    occupied.waker.wake_by_ref();
                }
            }
        }
    }
}

impl Seat {
    /// From now on the task that polls this is woken.
    pub(super) fn sit(&self, cx: &Context<'_>) {
        if let Some(occupied) = self.seats.seats.borrow_mut().get_mut(self.key) {
            occupied.waker.clone_from(cx.waker());
        }
    }

    /// From now on the connection has until then.
    pub(super) fn until(&self, deadline: Instant) {
        self.deadline.set(Some(deadline));
    }

    /// Whether the deadline has passed: to be asked where a poll is pending.
    pub(super) fn timed_out(&self, now: Instant) -> bool {
        self.deadline.get().is_some_and(|deadline| deadline <= now)
    }

    /// `poll`, unless the deadline passes first.
    pub(super) async fn within<T>(
        &self,
        now: impl Fn() -> Instant,
        limit: Duration,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, TimedOut> {
        self.until(now() + limit);
        std::future::poll_fn(|cx| match poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending if self.timed_out(now()) => Poll::Ready(Err(TimedOut)),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.seats.borrow_mut();
        seats.remove(self.key);
        if seats.is_empty() {
            self.seats.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn begun() -> (Instant, tokio::time::Instant) {
        let begun = tokio::time::Instant::now();
        (begun.into_std(), begun)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_is_woken_at_its_deadline() {
        let seats = Rc::new(Seats::default());
        let (start, begun) = begun();
        let now = move || start + begun.elapsed();
        let waiting = async {
            let seat = poll_fn(|cx| Poll::Ready(seats.take(cx))).await;
            let found = seat.within(now, Duration::from_secs(5), |_| Poll::<()>::Pending).await;
            (found, begun.elapsed())
        };
        let (found, after) = tokio::select! {
            found = waiting => found,
            () = seats.watch(now) => unreachable!("it watches for ever"),
        };
        assert_eq!(found, Err(TimedOut));
        assert!(after >= Duration::from_secs(5) && after <= Duration::from_secs(5) + 2 * TICK, "{after:?}");
        assert_eq!(seats.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn draining_wakes_everybody_and_ends_when_the_last_has_left() {
        let seats = Rc::new(Seats::default());
        let connection = async {
            let seat = poll_fn(|cx| Poll::Ready(seats.take(cx))).await;
            poll_fn(|_| if seats.draining() { Poll::Ready(()) } else { Poll::Pending }).await;
            drop(seat);
        };
        let drained = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(seats.taken(), 1);
            seats.drain(begun().0);
            seats.emptied().await;
        };
        tokio::time::timeout(Duration::from_secs(2), async { tokio::join!(connection, drained) })
            .await
            .unwrap();
    }
}
