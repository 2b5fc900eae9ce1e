//! `cargo xtask sim`: simulates keepers for years on all cores, and says what befell them. A seed that violates
//! something is shrunk and shown.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use evergrant_proof::sim::fault::{Fault, Tally};
use evergrant_proof::sim::{self, Outcome, schedule, shrink};

use crate::run::{self, print, say};

/// What is simulated.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many seeds, from 0.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Simulated days of a seed; of tokens that live less than 8 h fewer, as many rotations.
    #[arg(long, default_value_t = 365)]
    days: u64,
    /// Only this seed, with its trace.
    #[arg(long)]
    seed: Option<u64>,
    /// Keepers on one auth file.
    #[arg(long, default_value_t = 2)]
    keepers: usize,
}

/// What all seeds came to.
#[derive(Debug, Default)]
struct Sum {
    simulated: Duration,
    rotations: u64,
    operations: u64,
    undelivered: u64,
    tally: Tally,
    failed: Vec<u64>,
    done: u64,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.simulated += outcome.simulated;
        self.rotations += outcome.rotations;
        self.operations += outcome.operations;
        self.undelivered += outcome.undelivered;
        self.tally.add(&outcome.tally);
        self.done += 1;
        if outcome.violation.is_some() {
            self.failed.push(seed);
        }
    }

    fn years(&self) -> f64 {
        self.simulated.as_secs_f64() / (365.25 * 86_400.0)
    }

    fn show(&self, took: Duration) -> Result<()> {
        let mut rows = vec![
            ("simulated years", format!("{:.1}", self.years())),
            ("wall seconds", format!("{:.1}", took.as_secs_f64())),
            ("seeds", self.done.to_string()),
            ("rotations", self.rotations.to_string()),
            ("file operations", self.operations.to_string()),
        ];
        rows.extend(Fault::ALL.iter().map(|fault| (fault.name(), self.tally.of(*fault).to_string())));
        rows.push(("ended by an undelivered answer", self.undelivered.to_string()));
        rows.push(("violations", self.failed.len().to_string()));
        rows.iter().try_for_each(|(name, value)| print(format_args!("{name:<32} {value:>14}")))
    }
}

/// Runs the simulator.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.keepers == 0 {
        bail!("at least one keeper is needed: --keepers 1");
    }
    if cfg!(debug_assertions) {
        say(format_args!(
            "for a long run, a third faster: cargo run --profile sim -p xtask -F proof -- sim …"
        ));
    }
    match options.seed {
        Some(seed) => run_one(seed, options),
        None => run_all(options),
    }
}

fn run_one(seed: u64, options: &Options) -> Result<()> {
    let started = run::now();
    let outcome = sim::run(seed, options.days, options.keepers);
    outcome.trace.iter().try_for_each(|line| print(format_args!("{line}")))?;
    let mut sum = Sum::default();
    sum.add(seed, &outcome);
    sum.show(started.elapsed())?;
    print(format_args!("trace {:016x}", outcome.hash))?;
    sum.failed.iter().try_for_each(|seed| show_shrunk(*seed, options))
}

fn run_all(options: &Options) -> Result<()> {
    let started = run::now();
    let (next, sum, broken) = (AtomicU64::new(0), Mutex::new(Sum::default()), AtomicBool::new(false));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= options.seeds || broken.load(Ordering::Relaxed) {
                return;
            }
            let outcome = sim::run(seed, options.days, options.keepers);
            broken.fetch_or(outcome.violation.is_some(), Ordering::Relaxed);
            let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            sum.add(seed, &outcome);
            if sum.done.is_multiple_of(options.seeds.div_ceil(50)) {
                let (years, secs) = (sum.years(), started.elapsed().as_secs());
                say(format_args!("{:>6} of {} seeds, {years:.1} years, {secs} s", sum.done, options.seeds));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.show(started.elapsed())?;
    sum.failed.iter().try_for_each(|seed| show_shrunk(*seed, options))
}

/// What is left of a seed's steps when all that does not matter is gone.
fn show_shrunk(seed: u64, options: &Options) -> Result<()> {
    let (setting, steps) = schedule::draw(seed, options.days, options.keepers);
    say(format_args!("shrinking the {} steps of seed {seed} …", steps.len()));
    let shrunk = shrink::shrink(setting, &steps, None);
    let outcome = sim::run_steps(setting, &shrunk, None);
    print(format_args!("\nseed {seed}, {setting:?}, {} of {} steps:", shrunk.len(), steps.len()))?;
    shrunk.iter().try_for_each(|step| print(format_args!("  {step:?}")))?;
    outcome.trace.iter().try_for_each(|line| print(format_args!("{line}")))?;
    match outcome.violation {
        Some(violation) => bail!("seed {seed} violates {violation}"),
        None => bail!("seed {seed} violates something only in its whole length"),
    }
}
