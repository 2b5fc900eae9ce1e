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

/// What one step of the executor came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// Nothing more happens before the time that was asked for, which it is now.
    Idle,
    /// A task of this process ran up to its next await, or to its end.
    Polled(ProcessId),
    /// This process died; its tasks are dropped.
    Died {
        /// Which one.
        process: ProcessId,
        /// At an await, and not within a file operation.
        at_await: bool,
    },
}

/// The executor. Cheap to clone.
#[derive(Clone)]
pub struct Executor(Arc<Mutex<Inner>>);

struct Inner {
    now: Duration,
    next: u64,
    tasks: BTreeMap<TaskId, Task>,
    ready: Vec<TaskId>,
    timers: BTreeMap<(Duration, u64), Waker>,
    rng: SmallRng,
    /// A process dies at one of its next awaits.
    doomed: BTreeMap<ProcessId, u32>,
    /// A process stands still until then.
    frozen: BTreeMap<ProcessId, Duration>,
    polls: u64,
}

struct Task {
    process: ProcessId,
    /// Absent while it runs.
    work: Option<Work>,
    queued: bool,
    waker: Waker,
}

struct TaskWaker {
    task: TaskId,
    inner: std::sync::Weak<Mutex<Inner>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(inner) = self.inner.upgrade() {
            let inner = &mut *lock(&inner);
            if let Some(task) = inner.tasks.get_mut(&self.task)
                && !std::mem::replace(&mut task.queued, true)
            {
                inner.ready.push(self.task);
            }
        }
    }
}

/// Puts a task that stood still back into the queue that it never left.
struct Thaw {
    task: TaskId,
    inner: Arc<Mutex<Inner>>,
}

impl Wake for Thaw {
    fn wake(self: Arc<Self>) {
        lock(&self.inner).ready.push(self.task);
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
            frozen: BTreeMap::new(),
            polls: 0,
        })))
    }

    /// Its further choices follow from another seed.
    pub fn reseed(&self, seed: u64) {
        lock(&self.0).rng = SmallRng::seed_from_u64(seed);
    }

    /// The simulated age of the world.
    pub fn now(&self) -> Duration {
        lock(&self.0).now
    }

    /// How often a task ran so far.
    pub fn polls(&self) -> u64 {
        lock(&self.0).polls
    }

    /// Adds a task to a process.
    pub fn spawn(&self, process: ProcessId, work: impl Future<Output = ()> + Send + 'static) {
        let mut inner = lock(&self.0);
        inner.next += 1;
        let task = inner.next;
        let waker = Waker::from(Arc::new(TaskWaker { task, inner: Arc::downgrade(&self.0) }));
        inner.tasks.insert(task, Task { process, work: Some(Box::pin(work)), queued: true, waker });
        inner.ready.push(task);
    }

    /// Waits in simulated time.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep { executor: self.clone(), end: self.now() + duration, timer: None }
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

    /// Lets a process stand still, wherever it is; its timers that pass meanwhile are due at once when it goes on.
    pub fn freeze(&self, process: ProcessId, until: Duration) {
        lock(&self.0).frozen.insert(process, until);
    }

    /// Nobody is to die any more.
    pub fn spare(&self) {
        lock(&self.0).doomed.clear();
    }

    /// Drops every task of a process.
    pub fn kill(&self, process: ProcessId) {
        let dropped: Vec<_> = {
            let mut inner = lock(&self.0);
            inner.doomed.remove(&process);
            let of_process = |(id, task): (&TaskId, &Task)| (task.process == process).then_some(*id);
            let ids: Vec<_> = inner.tasks.iter().filter_map(of_process).collect();
            ids.iter().filter_map(|id| inner.tasks.remove(id)).collect()
        };
        drop(dropped);
    }

    /// Runs one task up to its next await, or goes on to `end` where nothing is left to do before it.
    pub fn step(&self, end: Duration) -> Ran {
        let Some((task, process, mut work, waker)) = self.next_ready(end) else {
            return Ran::Idle;
        };
        if self.is_due_to_die(process) {
            drop(work);
            self.kill(process);
            return Ran::Died { process, at_await: true };
        }
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Ready(())) => {
                let ended = lock(&self.0).tasks.remove(&task);
                drop((ended, work));
            }
            Ok(Poll::Pending) => {
                let mut inner = lock(&self.0);
                match inner.tasks.get_mut(&task) {
                    Some(slot) => slot.work = Some(work),
                    None => {
                        drop(inner);
                        drop(work);
                    }
                }
            }
            Err(panic) => {
                let Died(died) = *died(panic);
                drop(catch_unwind(AssertUnwindSafe(|| drop(work))));
                self.kill(died);
                return Ran::Died { process: died, at_await: false };
            }
        }
        Ran::Polled(process)
    }

    /// Takes a ready task by the seed; `None`: nothing more happens before `end`.
    fn next_ready(&self, end: Duration) -> Option<(TaskId, ProcessId, Work, Waker)> {
        loop {
            let mut guard = lock(&self.0);
            let inner = &mut *guard;
            while !inner.ready.is_empty() {
                let len = inner.ready.len();
                let index = if len == 1 { 0 } else { inner.rng.random_range(0..len) };
                let id = inner.ready.swap_remove(index);
                let Some(task) = inner.tasks.get_mut(&id) else { continue };
                if let Some(until) = inner.frozen.get(&task.process).filter(|until| **until > inner.now) {
                    // Still queued: nothing but this timer wakes it.
                    let key = (*until, inner.next + 1);
                    inner.next += 1;
                    let thaw = Waker::from(Arc::new(Thaw { task: id, inner: self.0.clone() }));
                    inner.timers.insert(key, thaw);
                    continue;
                }
                task.queued = false;
                if let Some(work) = task.work.take() {
                    inner.polls += 1;
                    return Some((id, task.process, work, task.waker.clone()));
                }
            }
            match inner.timers.first_key_value().map(|(key, _)| *key) {
                Some(key) if key.0 <= end => {
                    inner.now = inner.now.max(key.0);
                    let waker = inner.timers.remove(&key);
                    drop(guard);
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

/// A wait in simulated time; dropped, it takes its timer with it.
pub struct Sleep {
    executor: Executor,
    end: Duration,
    timer: Option<(Duration, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let executor = self.executor.clone();
        let mut inner = lock(&executor.0);
        if inner.now >= self.end {
            return Poll::Ready(());
        }
        if self.timer.is_none() {
            inner.next += 1;
            let key = (self.end, inner.next);
            inner.timers.insert(key, context.waker().clone());
            self.timer = Some(key);
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.timer {
            let timer = lock(&self.executor.0).timers.remove(&key);
            drop(timer);
        }
    }
}

/// Anything else than a simulated death is a real panic, and goes on.
fn died(panic: Box<dyn Any + Send>) -> Box<Died> {
    panic.downcast().unwrap_or_else(|panic| resume_unwind(panic))
}
