//! Starts `evergrant serve` in a scratch folder: the time until `/healthz` answers 200, and the memory that is
//! resident after a second of idling.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use super::process::{Running, free_address, resident_bytes, wait_until};
use super::{Figure, http, median, release_build, report};
use crate::run::{now, say};

const STARTS: usize = 20;
const IDLE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One JSON object a figure.
    #[arg(long)]
    json: bool,
    /// Measure this binary; without it the release build is made and measured.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

/// Measures and reports.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => release_build("evergrant", "evergrant")?,
    };
    let (mut times, mut sizes) = (Vec::new(), Vec::new());
    for number in 1..=STARTS {
        say(format_args!("start {number} of {STARTS}"));
        let (time, size) = start(&binary)?;
        times.push(time.as_secs_f64() * 1000.0);
        sizes.push(size as f64 / 1_000_000.0);
    }
    let figures = [
        Figure {
            bench: "startup",
            figure: "time_to_healthz".into(),
            value: median(&times).context("nothing was measured")?,
            unit: "ms",
            at_most: Some(100.0),
        },
        Figure {
            bench: "startup",
            figure: "resident_memory".into(),
            value: median(&sizes).context("nothing was measured")?,
            unit: "MB",
            at_most: Some(25.0),
        },
    ];
    report(&figures, options.json)
}

fn start(binary: &Path) -> Result<(Duration, u64)> {
    let scratch = tempfile::tempdir().context("making a scratch folder")?;
    let address = free_address()?;
    let log = scratch.path().join("log");
    let mut command = Command::new(binary);
    command
        .arg("serve")
        .env_clear()
        .env("HOME", scratch.path())
        .env("EVERGRANT_HTTP__LISTEN", address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).context("making the log")?);
    for (name, folder) in
        [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "runtime")]
    {
        command.env(name, scratch.path().join(folder));
    }
    let started = now();
    let child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
    let mut running = Running::new(child);
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    wait_until(&mut running, PATIENCE, said, || http::get(address, "/healthz") == Some(200))
        .context("it did not become healthy")?;
    let time = started.elapsed();
    std::thread::sleep(IDLE);
    Ok((time, resident_bytes(&[running.id()])?))
}
