//! `cargo xtask bench NAME [--json]`: one command for every figure that is claimed. The exit code says whether
//! it could be measured, never whether the figure holds.

mod startup;

use anyhow::Result;
use clap::Subcommand;
use serde_json::json;

use crate::run::print;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// How fast `evergrant serve` starts and how much memory it holds when idle.
    Startup(startup::Options),
}

/// Measures one.
pub(crate) fn run(bench: Bench) -> Result<()> {
    match bench {
        Bench::Startup(options) => startup::run(&options),
    }
}

/// One figure and what it should be at most.
struct Figure {
    bench: &'static str,
    figure: &'static str,
    value: f64,
    unit: &'static str,
    at_most: f64,
}

impl Figure {
    fn holds(&self) -> bool {
        self.value <= self.at_most
    }
}

/// As a table, or one object a line.
fn report(figures: &[Figure], as_json: bool) -> Result<()> {
    if !as_json {
        print(format_args!("{:<24} {:>10}      {:>10}", "figure", "median", "target"))?;
    }
    for figure in figures {
        let rounded = (figure.value * 100.0).round() / 100.0;
        let target = format!("<={}", figure.at_most);
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
            let word = if figure.holds() { "holds" } else { "MISSED" };
            print(format_args!(
                "{:<24} {rounded:>10.2} {:<4} {target:>10}  {word}",
                figure.figure, figure.unit
            ))?;
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
