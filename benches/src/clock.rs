//! One clock for every process of the machine, and ticks that are exact to some microseconds.

use std::io;
use std::os::fd::OwnedFd;

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

const NS_PER_SEC: u64 = 1_000_000_000;

/// Nanoseconds of `CLOCK_MONOTONIC`, which is the same in every process: the two ends may compare theirs.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let secs = u64::try_from(now.tv_sec).unwrap_or_default();
    secs * NS_PER_SEC + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// Ticks at fixed instants. The runtime's own timers have a resolution of a millisecond, which is many times what
/// is measured.
#[derive(Debug)]
pub struct Ticker {
    timer: AsyncFd<OwnedFd>,
}

impl Ticker {
    /// The first tick at `first_ns` of [`now_ns`], then one each `period_ns`.
    pub fn new(first_ns: u64, period_ns: u64) -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let times =
            Itimerspec { it_interval: timespec(period_ns.max(1)), it_value: timespec(first_ns.max(1)) };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME, &times)?;
        Ok(Self { timer: registered(timer)? })
    }

    /// How many ticks have passed since the last call; waits for the first.
    pub async fn ticks(&mut self) -> io::Result<u64> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut count = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
            match read {
                Ok(read) => {
                    read?;
                    return Ok(u64::from_ne_bytes(count));
                }
                Err(_would_block) => {}
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe for types that may close early; an OwnedFd does not"
)]
fn registered(timer: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(timer)
}

fn timespec(ns: u64) -> Timespec {
    let part = |part: u64| i64::try_from(part).unwrap_or(i64::MAX);
    Timespec { tv_sec: part(ns / NS_PER_SEC), tv_nsec: part(ns % NS_PER_SEC) }
}
