//! Runs the measurement of a million chains, which needs the whole house: an example of the server's room, built for
//! release.

use anyhow::Result;
use clap::Args;

use crate::run::{cargo, run as run_command};

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One JSON object a figure.
    #[arg(long)]
    json: bool,
    /// So many chains.
    #[arg(long, default_value_t = 1_000_000)]
    chains: u64,
    /// Measure what the server commits for so many seconds, three times.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// Measures and reports.
pub(crate) fn run(options: &Options) -> Result<()> {
    let words = ["run", "--release", "--locked", "--package", "evergrant-server", "--example", "scale", "--"];
    let mut command = cargo();
    command.args(words).arg(options.chains.to_string()).arg(options.seconds.to_string());
    if options.json {
        command.arg("--json");
    }
    run_command(&mut command)
}
