//! Starts `evergrant serve` in a scratch folder: the time until `/healthz` answers 200, and the memory that is
//! resident after a second of idling.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Figure, median, report};
use crate::run::{cargo, now, output, run as run_command, say};

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
        None => release_build()?,
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
            figure: "time_to_healthz",
            value: median(&times).context("nothing was measured")?,
            unit: "ms",
            at_most: 100.0,
        },
        Figure {
            bench: "startup",
            figure: "resident_memory",
            value: median(&sizes).context("nothing was measured")?,
            unit: "MB",
            at_most: 25.0,
        },
    ];
    report(&figures, options.json)
}

fn release_build() -> Result<PathBuf> {
    run_command(cargo().args(["build", "--release", "--package", "evergrant"]))?;
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))
        .context("cargo metadata failed")?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let target = metadata.get("target_directory").and_then(|folder| folder.as_str());
    let target = target.context("cargo metadata names no target folder")?;
    Ok(Path::new(target).join("release/evergrant"))
}

/// A process that does not outlive its measurement.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    let mut running = Running(child);
    while !healthy(address) {
        let ended = running.0.try_wait().context("looking at the process")?;
        if ended.is_some() || started.elapsed() > PATIENCE {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            bail!("it did not become healthy (ended: {ended:?}):\n{said}");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let time = started.elapsed();
    std::thread::sleep(IDLE);
    Ok((time, resident_bytes(running.0.id())?))
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a free port")?;
    listener.local_addr().context("looking for a free port")
}

/// `/healthz` answers 200.
fn healthy(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn resident_bytes(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB"))
        .with_context(|| format!("{path} has no VmRSS"))?;
    let kilobytes: u64 = kilobytes.trim().parse().context("VmRSS is no number")?;
    Ok(kilobytes * 1024)
}
