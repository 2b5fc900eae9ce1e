//! `cargo xtask bench NAME [--json]`: one command for every figure that is claimed. The exit code says whether
//! it could be measured, never whether the figure holds.

mod agent;
mod gateway;
mod http;
mod peer;
mod process;
mod rig;
mod rounds;
mod scale;
mod sse;
mod startup;
mod table;
mod upload;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::json;

use crate::run::{cargo, output, print, run as run_command};

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// How fast `evergrant serve` starts and how much memory it holds when idle.
    Startup(startup::Options),
    /// The memory that `evergrant agent run` holds, and the CPU time that it takes in an hour.
    Agent(agent::Options),
    /// What the gateway costs a request, beside nginx and `HAProxy` at the same work.
    Gateway(rounds::Options),
    /// What the gateway costs an event of a stream, what it adds to its time, and the memory of an idle stream.
    Sse(rounds::Options),
    /// A million chains in PostgreSQL: loading, a tick, and rotations beside what the server commits.
    Scale(scale::Options),
    /// What the gateway costs an upload, and the memory that a large one takes.
    Upload(rounds::Options),
}

/// Measures one.
pub(crate) fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Startup(options) => startup::run(&options),
        Bench::Agent(options) => agent::run(&options),
        Bench::Gateway(options) => gateway::run(&options),
        Bench::Sse(options) => sse::run(&options),
        Bench::Scale(options) => scale::run(&options),
        Bench::Upload(options) => upload::run(&options),
    }
}

/// The path of a program that was built for release, from the lock file as it is.
fn release_build(package: &str, program: &str) -> Result<PathBuf> {
    run_command(cargo().args(["build", "--release", "--locked", "--package", package]))?;
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))
        .context("cargo metadata failed")?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let target = metadata.get("target_directory").and_then(|folder| folder.as_str());
    let target = target.context("cargo metadata names no target folder")?;
    Ok(Path::new(target).join("release").join(program))
}

/// One figure and what it should be at most, if anything is claimed.
#[derive(Debug)]
struct Figure {
    bench: &'static str,
    figure: String,
    value: f64,
    unit: &'static str,
    at_most: Option<f64>,
}

impl Figure {
    fn holds(&self) -> Option<bool> {
        self.at_most.map(|most| self.value <= most)
    }
}

/// As a table, or one object a line.
fn report(figures: &[Figure], as_json: bool) -> Result<()> {
    let longest = figures.iter().map(|figure| figure.figure.len()).max().unwrap_or_default().max(24);
    if !as_json {
        print(format_args!("{:<longest$} {:>10}      {:>10}", "figure", "median", "target"))?;
    }
    for figure in figures {
        let rounded = (figure.value * 100.0).round() / 100.0;
        let target = figure.at_most.map(|most| format!("<={most}"));
        if as_json {
            let object = json!({
                "bench": figure.bench,
                "figure": figure.figure,
                "value": rounded,
                "unit": figure.unit,
                "target": target,
                "holds": figure.holds(),
            });
            print(format_args!("{object}"))?;
        } else {
            let word = match figure.holds() {
                Some(true) => "holds",
                Some(false) => "MISSED",
                None => "",
            };
            let target = target.unwrap_or_default();
            let line = format!(
                "{:<longest$} {rounded:>10.2} {:<4} {target:>10}  {word}",
                figure.figure, figure.unit
            );
            print(format_args!("{}", line.trim_end()))?;
        }
    }
    Ok(())
}

/// The middle one; of an even number, the mean of the two.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some((sorted.get(middle.checked_sub(1)?)? + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
