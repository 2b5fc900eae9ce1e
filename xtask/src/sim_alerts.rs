//! `cargo xtask sim-alerts`: simulates health monitors and alerters, and holds what they say against what was true.

use anyhow::{Result, bail};
use clap::Args;
use evergrant_proof::alerts::{self, Outcome};

use crate::run::{now, print, say};

/// How much is simulated.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many seeds, from 0.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Simulated days of each.
    #[arg(long, default_value_t = 30)]
    days: u64,
    /// Processes on one state.
    #[arg(long, default_value_t = 3)]
    processes: usize,
}

/// Runs all seeds.
pub(crate) fn run(options: &Options) -> Result<()> {
    let started = now();
    let mut sum = Outcome::default();
    let mut failed = Vec::new();
    for seed in 0..options.seeds {
        let outcome = alerts::run(seed, options.days, options.processes, None);
        sum.days += outcome.days;
        sum.kills += outcome.kills;
        sum.episodes += outcome.episodes;
        sum.alerts += outcome.alerts;
        sum.again += outcome.again;
        sum.turned_away += outcome.turned_away;
        if let Some(violation) = outcome.violation {
            say(format_args!("seed {seed}: {violation}"));
            failed.push(seed);
        }
    }
    let Outcome { days, kills, episodes, alerts, again, turned_away, .. } = sum;
    print(format_args!(
        "{days} days, {kills} kills, {episodes} episodes, {alerts} alerts, {again} of them once more after a kill, \
         {turned_away} deliveries turned away, {} seeds violated ({:.0} s)",
        failed.len(),
        started.elapsed().as_secs_f64()
    ))?;
    if !failed.is_empty() {
        bail!("seeds {failed:?} violate something");
    }
    Ok(())
}
