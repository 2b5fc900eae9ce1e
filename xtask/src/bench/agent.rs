//! Runs `evergrant agent run` as it is installed, against a server on loopback that takes everything: the memory that is
//! resident at the end, and the CPU time from after its first contact, scaled to an hour.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::process::{Running, cpu_ns, peak_bytes, resident_bytes, wait_until};
use super::{Figure, release_build, report};
use crate::run::{now, say};

const BENCH: &str = "agent";
const HOUR_SECS: f64 = 3600.0;
const PATIENCE: Duration = Duration::from_secs(10);
const MOST_MB: f64 = 15.0;
const MOST_CPU_SECS: f64 = 1.0;

/// Options of the benchmark.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One JSON object a figure.
    #[arg(long)]
    json: bool,
    /// Measure for so many minutes.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
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
    let scratch = tempfile::tempdir().context("making a scratch folder")?;
    let (address, heard) = server()?;
    let mut running = start(&binary, scratch.path(), address)?;
    let log = scratch.path().join("state/evergrant/agent/agent.log");
    let said = || fs::read_to_string(&log).unwrap_or_default();
    wait_until(&mut running, PATIENCE, said, || heard.load(Ordering::Relaxed) > 0)
        .context("the server did not hear from it")?;
    say(format_args!("measuring for {} min", options.minutes));
    let (since, before) = (now(), cpu_ns(&[running.id()])?);
    std::thread::sleep(Duration::from_secs(options.minutes * 60));
    let spent = cpu_ns(&[running.id()])?.saturating_sub(before) as f64 / 1e9;
    let hours = since.elapsed().as_secs_f64() / HOUR_SECS;
    ensure!(running.ended()?.is_none(), "it ended:\n{}", said());
    let megabytes = |bytes: u64| bytes as f64 / 1_000_000.0;
    let figure = |figure: &str, value, unit, at_most| Figure {
        bench: BENCH,
        figure: figure.to_owned(),
        value,
        unit,
        at_most: Some(at_most),
    };
    let figures = [
        figure("resident_memory", megabytes(resident_bytes(&[running.id()])?), "MB", MOST_MB),
        figure("peak_memory", megabytes(peak_bytes(&[running.id()])?), "MB", MOST_MB),
        figure("cpu_an_hour", spent / hours, "s", MOST_CPU_SECS),
    ];
    report(&figures, options.json)
}

fn start(binary: &Path, scratch: &Path, server: SocketAddr) -> Result<Running> {
    let config = format!(
        "[agent]\nserver = \"http://{server}\"\nkey_file = \"push.key\"\n\n[agent.chains.claude]\nconfig_dir = \"login\"\n"
    );
    let login = json!({ "claudeAiOauth": { "accessToken": "of-nobody", "refreshToken": "of-nobody-either",
        "expiresAt": 4_102_444_800_000_u64 } });
    fs::create_dir(scratch.join("login")).context("making the login")?;
    fs::write(scratch.join("login/.credentials.json"), login.to_string()).context("making the login")?;
    fs::write(scratch.join("push.key"), format!("evg_{}", "x".repeat(43))).context("making the key")?;
    fs::write(scratch.join("config.toml"), config).context("making the configuration")?;
    let mut command = Command::new(binary);
    command.args(["agent", "run"]).env_clear().env("HOME", scratch).env("USER", "nobody");
    command.env("XDG_STATE_HOME", scratch.join("state")).env("EVERGRANT_CONFIG", scratch.join("config.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
    Ok(Running::new(child))
}

/// Takes every push and beat, and counts them.
fn server() -> Result<(SocketAddr, Arc<AtomicU64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listening on loopback")?;
    let address = listener.local_addr().context("listening on loopback")?;
    let heard = Arc::new(AtomicU64::new(0));
    let counts = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // An agent that hears nothing tries again, and is seen to.
            if answer(stream).is_some() {
                counts.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok((address, heard))
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end().to_ascii_lowercase();
        match line.strip_prefix("content-length: ") {
            Some(text) => length = text.parse().ok()?,
            None if line.is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let call: Value = serde_json::from_slice(&body).ok()?;
    let reason = if call.get("kind")? == "push" { "accepted" } else { "beat" };
    let answer =
        json!({ "chain": "claude", "reason": reason, "status": "ok", "since": null, "fingerprint": null,
        "now": "2026-01-01T00:00:00Z", "lineage": 1, "generation": 1 })
        .to_string();
    let length = answer.len();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}").ok()
}
