//! The loop: a thread a chain, awake once a minute, until it is told to stop (SPEC §5).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::round::{Agent, Ask};
use crate::settings::ChainSettings;
use crate::{AgentError, clock};

/// The wall clock is compared with the time that was slept so often: a wake is noticed within it.
const SLICE: Duration = Duration::from_secs(5);
/// The wall clock may run away from the sleep by so much before it counts as a wake.
const WOKE_AFTER: SignedDuration = SignedDuration::from_secs(30);
/// What is in hand when it is told to stop is waited for so long. Nothing is lost with it: it is remembered.
const DRAIN: Duration = Duration::from_secs(3);
/// A chain's thread needs little.
const STACK: usize = 512 * 1024;

/// Tells the loops to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// One that SIGTERM and SIGINT set.
    pub fn on_signals() -> Result<Self, AgentError> {
        let stop = Self::default();
        let mut signals = Signals::new([SIGTERM, SIGINT])
            .map_err(|error| AgentError::Unusable(format!("signals cannot be heard: {error}")))?;
        let set = stop.clone();
        spawn("signals", move || {
            if signals.forever().next().is_some() {
                set.set();
            }
        })?;
        Ok(stop)
    }

    /// Stops.
    pub fn set(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits so long; true: it is time to stop.
    fn wait(&self, span: Duration) -> bool {
        let stopped = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.1.wait_timeout_while(stopped, span, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Runs until it is told to stop. One process at a time does.
pub fn run(agent: &Arc<Agent>, stop: &Stop) -> Result<(), AgentError> {
    let Some(_running) = agent.folder().run()? else {
        let folder = agent.folder().path().display();
        return Err(AgentError::Busy(format!(
            "an agent runs already with the folder {folder}; `evergrant agent status` shows it"
        )));
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), server = %agent.settings().server.host_str().unwrap_or_default(),
        chains = agent.settings().chains.len(), "the agent runs");
    let done = Stop::default();
    let left = Arc::new(Mutex::new(agent.settings().chains.len()));
    for chain in agent.settings().chains.clone() {
        let (agent, stop, done, left) = (agent.clone(), stop.clone(), done.clone(), left.clone());
        spawn(chain.name.as_str().to_owned().as_str(), move || {
            keep(&agent, &chain, &stop);
            let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
            *left -= 1;
            if *left == 0 {
                done.set();
            }
        })?;
    }
    while !stop.wait(Duration::from_secs(3600)) {}
    if !done.wait(DRAIN) {
        tracing::info!("a request is in hand and not waited for; what it pushes is tried again");
    }
    tracing::info!("the agent stops");
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), AgentError> {
    let spawned = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(work);
    spawned.map(|_| ()).map_err(|error| AgentError::Unusable(format!("no thread can be started: {error}")))
}

fn keep(agent: &Agent, chain: &ChainSettings, stop: &Stop) {
    let mut woke = false;
    loop {
        let look = agent.settings().periods.look;
        let until = match agent.round(chain, &Ask::Look { woke }) {
            Ok(report) => {
                report.log();
                report.next_at
            }
            Err(error) => {
                tracing::error!(chain = %chain.name, %error, "the look failed; it is tried again");
                clock::now().checked_add(look).unwrap_or(Timestamp::MAX)
            }
        };
        match sleep(until, look, stop) {
            Slept::Stopped => return,
            Slept::Enough => woke = false,
            Slept::Woke => {
                tracing::info!(chain = %chain.name, "the workstation woke; the agent looks at once");
                woke = true;
            }
        }
    }
}

/// Why a sleep ended.
#[derive(Debug, PartialEq, Eq)]
enum Slept {
    Enough,
    Woke,
    Stopped,
}

/// Until that instant by the wall clock. A clock that was set back does not make it longer than `most`.
fn sleep(until: Timestamp, most: SignedDuration, stop: &Stop) -> Slept {
    loop {
        let begun = clock::now();
        let left = until.duration_since(begun).min(most);
        let Ok(left) = Duration::try_from(left) else { return Slept::Enough };
        if left.is_zero() {
            return Slept::Enough;
        }
        let slice = left.min(SLICE);
        if stop.wait(slice) {
            return Slept::Stopped;
        }
        if woke(begun, clock::now(), slice) {
            return Slept::Woke;
        }
        // The wall clock was set back.
        if clock::now() < begun {
            return Slept::Enough;
        }
    }
}

/// The wall clock went on while the process did not.
fn woke(begun: Timestamp, ended: Timestamp, slept: Duration) -> bool {
    let slept = SignedDuration::try_from(slept).unwrap_or(SignedDuration::MAX);
    ended.duration_since(begun) > slept.saturating_add(WOKE_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_ran_ahead_is_a_wake() {
        let at = |secs| Timestamp::from_second(secs).unwrap();
        assert!(!woke(at(0), at(5), SLICE));
        assert!(!woke(at(0), at(34), SLICE));
        assert!(woke(at(0), at(36), SLICE));
        assert!(!woke(at(100), at(0), SLICE));
    }

    #[test]
    fn a_sleep_ends_at_once_when_it_is_over_or_told_to() {
        let stop = Stop::default();
        let most = SignedDuration::from_secs(3600);
        assert_eq!(sleep(clock::now(), most, &stop), Slept::Enough);
        let soon = clock::now().checked_add(SignedDuration::from_millis(20)).unwrap();
        assert_eq!(sleep(soon, most, &stop), Slept::Enough);
        let set = stop.clone();
        let later = clock::now().checked_add(most).unwrap();
        let setter = std::thread::spawn(move || set.set());
        assert_eq!(sleep(later, most, &stop), Slept::Stopped);
        setter.join().unwrap();
    }
}
