//! Simulates keepers for years: the real keeper and the real vault code on a seeded executor with a simulated
//! clock, disk, state, network and provider, under misfortunes that the seed draws.
//!
//! After each change of state the invariants of SPEC §4 are checked against a small reference. What more runs
//! under simulation (monitor, alerter, agent, replicas) gets its process beside the keepers in `run`.

pub mod disk;
pub mod executor;
pub mod fault;
mod foreign;
pub mod lie;
pub mod places;
pub mod provider;
pub mod reference;
mod run;
pub mod schedule;
pub mod shrink;
pub mod trace;
pub mod world;

use std::time::Duration;

use fault::Tally;
use lie::Lie;
use reference::Violation;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Simulated time.
    pub simulated: Duration,
    /// Rotations that the provider counted.
    pub rotations: u64,
    /// File operations of the keepers.
    pub operations: u64,
    /// Misfortunes.
    pub tally: Tally,
    /// Chains that ended because an answer was never delivered: the one window that stays open.
    pub undelivered: u64,
    /// Of the whole trace.
    pub hash: u64,
    /// What did not hold; a run ends with the first.
    pub violation: Option<Violation>,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

/// Runs one seed for about so many simulated days, with so many keepers on one auth file.
pub fn run(seed: u64, days: u64, keepers: usize) -> Outcome {
    run_lying(seed, days, keepers, None)
}

/// The same in a world that lies.
pub fn run_lying(seed: u64, days: u64, keepers: usize, lie: Option<Lie>) -> Outcome {
    let (setting, steps) = schedule::draw(seed, days, keepers);
    run_steps(setting, &steps, lie)
}

/// Runs these steps.
pub fn run_steps(setting: schedule::Setting, steps: &[schedule::Step], lie: Option<Lie>) -> Outcome {
    run::Sim::new(setting, lie).run(steps)
}
