//! A seeded executor on one thread: it picks the next ready task by the seed, and jumps to the next timer when
//! nothing is ready. Dropping a process drops its tasks, wherever they await: that is a crash.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A process of the simulated world; a restarted one gets a new number.
pub type ProcessId = u32;
type TaskId = u64;
type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a simulated disk throws to make its process die within an operation.
#[derive(Debug)]
pub struct Died(pub ProcessId);

/// The executor. Cheap to clone.
#[derive(Clone)]
pub struct Executor(Arc<Mutex<Inner>>);

struct Inner {
    now: Duration,
    next: u64,
    tasks: BTreeMap<TaskId, (ProcessId, Option<Work>)>,
    ready: Vec<TaskId>,
    timers: BTreeMap<(Duration, u64), Waker>,
    rng: SmallRng,
    /// A process dies at one of its next awaits.
    doomed: BTreeMap<ProcessId, u32>,
}

struct TaskWaker {
    task: TaskId,
    inner: std::sync::Weak<Mutex<Inner>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if let Some(inner) = self.inner.upgrade() {
            let mut inner = lock(&inner);
            if !inner.ready.contains(&self.task) {
                inner.ready.push(self.task);
            }
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// An executor whose every choice follows from the seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now: Duration::ZERO,
            next: 0,
            tasks: BTreeMap::new(),
            ready: Vec::new(),
            timers: BTreeMap::new(),
            rng: SmallRng::seed_from_u64(seed),
            doomed: BTreeMap::new(),
        })))
    }

    /// The simulated age of the world.
    pub fn now(&self) -> Duration {
        lock(&self.0).now
    }

    /// Adds a task to a process.
    pub fn spawn(&self, process: ProcessId, work: impl Future<Output = ()> + Send + 'static) {
        let mut inner = lock(&self.0);
        inner.next += 1;
        let task = inner.next;
        inner.tasks.insert(task, (process, Some(Box::pin(work))));
        inner.ready.push(task);
    }

    /// Waits in simulated time.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + use<> {
        let executor = self.clone();
        let end = self.now() + duration;
        let mut set = false;
        std::future::poll_fn(move |context| {
            let mut inner = lock(&executor.0);
            if inner.now >= end {
                return Poll::Ready(());
            }
            if !set {
                set = true;
                inner.next += 1;
                let key = (end, inner.next);
                inner.timers.insert(key, context.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Lets other tasks run first.
    pub fn pass(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut passed = false;
        std::future::poll_fn(move |context| {
            if std::mem::replace(&mut passed, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Makes a process die after so many of its polls.
    pub fn doom(&self, process: ProcessId, polls: u32) {
        lock(&self.0).doomed.insert(process, polls);
    }

    /// Drops every task of a process.
    pub fn kill(&self, process: ProcessId) {
        let dropped: Vec<_> = {
            let mut inner = lock(&self.0);
            inner.doomed.remove(&process);
            let ids: Vec<_> =
                inner.tasks.iter().filter(|(_, task)| task.0 == process).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| inner.tasks.remove(id)).collect()
        };
        drop(dropped);
    }

    /// Whether a process has a task.
    pub fn lives(&self, process: ProcessId) -> bool {
        lock(&self.0).tasks.values().any(|task| task.0 == process)
    }

    /// Runs until `end`, or until a process dies, which is returned with its tasks dropped.
    pub fn run_until(&self, end: Duration) -> Option<ProcessId> {
        loop {
            let (task, process, mut work) = self.next_ready(end)?;
            if self.is_due_to_die(process) {
                drop(work);
                self.kill(process);
                return Some(process);
            }
            let waker = Waker::from(Arc::new(TaskWaker { task, inner: Arc::downgrade(&self.0) }));
            let polled =
                catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
            match polled {
                Ok(Poll::Ready(())) => {
                    lock(&self.0).tasks.remove(&task);
                }
                Ok(Poll::Pending) => {
                    if let Some(slot) = lock(&self.0).tasks.get_mut(&task) {
                        slot.1 = Some(work);
                    }
                }
                Err(panic) => {
                    let Died(died) = *died(panic);
                    drop(catch_unwind(AssertUnwindSafe(|| drop(work))));
                    self.kill(died);
                    return Some(died);
                }
            }
        }
    }

    /// Takes a ready task by the seed; `None`: nothing more happens before `end`.
    fn next_ready(&self, end: Duration) -> Option<(TaskId, ProcessId, Work)> {
        loop {
            let mut inner = lock(&self.0);
            while !inner.ready.is_empty() {
                let len = inner.ready.len();
                let index = if len == 1 { 0 } else { inner.rng.random_range(0..len) };
                let task = inner.ready.swap_remove(index);
                if let Some((process, work)) = inner.tasks.get_mut(&task)
                    && let Some(work) = work.take()
                {
                    return Some((task, *process, work));
                }
            }
            match inner.timers.first_key_value().map(|(key, _)| *key) {
                Some(key) if key.0 <= end => {
                    inner.now = inner.now.max(key.0);
                    let waker = inner.timers.remove(&key);
                    drop(inner);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Some(_) | None => {
                    inner.now = inner.now.max(end);
                    return None;
                }
            }
        }
    }

    fn is_due_to_die(&self, process: ProcessId) -> bool {
        let mut inner = lock(&self.0);
        match inner.doomed.get_mut(&process) {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }
}

/// Anything else than a simulated death is a real panic, and goes on.
fn died(panic: Box<dyn Any + Send>) -> Box<Died> {
    panic.downcast().unwrap_or_else(|panic| resume_unwind(panic))
}
