//! `cargo xtask model`: searches the protocol's model in its full bounds, two searches at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Result, bail};
use clap::Args;
use evergrant_proof::model::{self, Model, Sometimes};

use crate::run::{now, print};

/// How far.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// So many faults of any kind together.
    #[arg(long, default_value_t = FAULTS)]
    faults: u8,
    /// So many states of one search at most, and what is left of it is no fault; they take about 90 bytes each. Without
    /// it 150,000,000, which every search has to do with.
    #[arg(long)]
    most: Option<usize>,
    /// Only the searches whose name has this in it.
    #[arg(long, default_value = "")]
    only: String,
}

const MOST: usize = 150_000_000;
/// With fewer faults not everything is come across.
const FAULTS: u8 = 2;

#[derive(Default)]
struct Total {
    states: usize,
    transitions: u64,
    reached: Vec<Sometimes>,
    crashed_in: Vec<&'static str>,
    failed: Vec<String>,
    /// Searches that were not brought to their end.
    cut_short: Vec<String>,
}

/// Searches, and prints what was searched.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut runs = model::full(options.faults);
    runs.retain(|run| run.name.contains(&options.only));
    if runs.is_empty() {
        bail!("no search has {:?} in its name", options.only);
    }
    let most = options.most.unwrap_or(MOST);
    let (next, total, begun) = (AtomicUsize::new(0), Mutex::new(Total::default()), now());
    print(format_args!("{:<58} {:>12} {:>12} {:>8}", "search", "states", "transitions", "seconds"))?;
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from).min(2) {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    search(run, most, &total);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let secs = begun.elapsed().as_secs_f64();
    print(format_args!("{:<58} {:>12} {:>12} {secs:>8.1}", "together", total.states, total.transitions))?;
    let missed: Vec<_> = Sometimes::ALL.into_iter().filter(|what| !total.reached.contains(what)).collect();
    let alive: Vec<_> = Model::steps().filter(|step| !total.crashed_in.contains(step)).collect();
    print(format_args!("sometimes: {} of {}, missed {missed:?}", total.reached.len(), Sometimes::ALL.len()))?;
    print(format_args!("steps in which no keeper died: {alive:?}"))?;
    for failed in &total.failed {
        print(format_args!("{failed}"))?;
    }
    if !total.failed.is_empty() {
        bail!("the protocol does not hold");
    }
    if !total.cut_short.is_empty() && options.most.is_none() {
        bail!("not searched to their ends: {:?}", total.cut_short);
    }
    // Part of a search need not have come across it all.
    let whole = options.only.is_empty() && options.faults >= FAULTS && total.cut_short.is_empty();
    if whole && !(missed.is_empty() && alive.is_empty()) {
        bail!("the search has not looked where it matters: missed {missed:?}, no death in {alive:?}");
    }
    Ok(())
}

fn search(run: &model::Run, most: usize, total: &Mutex<Total>) {
    let begun = now();
    let checked = Model::new(run.config, None).check(most);
    let secs = begun.elapsed().as_secs_f64();
    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let whole = match (&checked.violation, checked.complete) {
        (Some(_), _) => "  BROKEN",
        (None, true) => "",
        (None, false) => "  not all of it",
    };
    let _ = print(format_args!(
        "{:<58} {:>12} {:>12} {secs:>8.1}{whole}",
        run.name, checked.states, checked.transitions
    ));
    total.states += checked.states;
    total.transitions += checked.transitions;
    let news = checked.reached.into_iter().filter(|what| !total.reached.contains(what));
    let news: Vec<_> = news.collect();
    total.reached.extend(news);
    total.crashed_in.extend(checked.crashed_in);
    if checked.violation.is_none() && !checked.complete {
        total.cut_short.push(run.name.clone());
    }
    total.failed.extend(checked.violation.map(|trace| format!("\n{}\n{trace}", run.name)));
}
