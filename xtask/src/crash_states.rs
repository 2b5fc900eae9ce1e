//! `cargo xtask crash-states`: every state that a crash may leave of the vault's files, derived from a recording of
//! what the real code did, and whether it recovers.

use anyhow::{Result, bail};
use clap::Args;
use evergrant_proof::crash_states::{self, Extent, Outcome};

use crate::run::{now, print, say};

/// How much is tried.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Judge every so manieth state only.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Let an edit from outside fall before every so manieth operation only.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    edits_every: u32,
    /// Record the recovery from every so manieth state, and cut it short as well; 0: from none.
    #[arg(long, default_value_t = 0)]
    again_every: u32,
}

/// Tries them all.
pub(crate) fn run(options: &Options) -> Result<()> {
    let started = now();
    let extent = Extent {
        every: options.every as usize,
        edits_every: options.edits_every as usize,
        again_every: options.again_every as usize,
        ..Extent::WHOLE
    };
    say(format_args!(
        "{:<42} {:>5} {:>10} {:>11} {:>8} {:>8} {:>9}",
        "scenario", "runs", "recoveries", "operations", "states", "judged", "violated"
    ));
    let outcomes = crash_states::run(extent, None, |outcome| {
        say(format_args!("{}", row(outcome)));
        for violation in &outcome.violations {
            say(format_args!("    {violation}"));
        }
    });
    let mut sum = Outcome { name: "all", ..Outcome::default() };
    for outcome in &outcomes {
        sum.runs += outcome.runs;
        sum.recoveries += outcome.recoveries;
        sum.operations += outcome.operations;
        sum.states += outcome.states;
        sum.judged += outcome.judged;
        sum.violated += outcome.violated;
    }
    print(format_args!("{} ({:.0} s)", row(&sum), started.elapsed().as_secs_f64()))?;
    if sum.violated > 0 {
        bail!("{} states do not recover", sum.violated);
    }
    Ok(())
}

fn row(outcome: &Outcome) -> String {
    let Outcome { name, runs, recoveries, operations, states, judged, violated, .. } = outcome;
    format!("{name:<42} {runs:>5} {recoveries:>10} {operations:>11} {states:>8} {judged:>8} {violated:>9}")
}
