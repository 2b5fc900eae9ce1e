//! `cargo xtask sim-replicas`: simulates replicas on one database, and reports what befell them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use clap::Args;
use evergrant_proof::replicas::{self, FAULTS, Tally};

use crate::run::{now, print, say};

const DAYS_A_YEAR: f64 = 365.25;

/// How much is simulated.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many seeds, from 0.
    #[arg(long, default_value_t = 400)]
    seeds: u64,
    /// Simulated days of each.
    #[arg(long, default_value_t = 100)]
    days: u64,
    /// Machines on one database.
    #[arg(long, default_value_t = 3)]
    machines: usize,
    /// Run this seed alone, and print the end of its trace.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Default)]
struct Sum {
    tally: Tally,
    secs: f64,
    rotations: u64,
    undelivered: u64,
    failed: Vec<u64>,
}

/// Runs all seeds, one thread a core.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(seed) = options.seed {
        let outcome = replicas::run(seed, options.days, options.machines);
        outcome.trace.iter().try_for_each(|line| print(format_args!("{line}")))?;
        return match outcome.violation {
            Some(violation) => bail!("seed {seed} violates {violation}"),
            None => Ok(()),
        };
    }
    let started = now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| work(options, &next, &sum));
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    for fault in FAULTS {
        print(format_args!("{fault:<36} {:>12}", sum.tally.get(fault).copied().unwrap_or_default()))?;
    }
    print(format_args!(
        "{:.1} years, {} rotations, {} logins ended whose answer never came, {} seeds violated ({:.0} s)",
        sum.secs / 86_400.0 / DAYS_A_YEAR,
        sum.rotations,
        sum.undelivered,
        sum.failed.len(),
        started.elapsed().as_secs_f64()
    ))?;
    if !sum.failed.is_empty() {
        bail!("seeds {:?} violate something", sum.failed);
    }
    Ok(())
}

fn work(options: &Options, next: &AtomicU64, sum: &Mutex<Sum>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= options.seeds {
            return;
        }
        let outcome = replicas::run(seed, options.days, options.machines);
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        for (fault, times) in outcome.tally {
            *sum.tally.entry(fault).or_default() += times;
        }
        sum.secs += outcome.simulated.as_secs_f64();
        sum.rotations += outcome.rotations;
        sum.undelivered += outcome.undelivered;
        if let Some(violation) = outcome.violation {
            say(format_args!("seed {seed}: {violation}"));
            sum.failed.push(seed);
        }
    }
}
