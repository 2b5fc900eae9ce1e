//! `cargo xtask torture`: builds the real binary and lets `evergrant-proof` torture it, in a mount namespace of its
//! own where that can be had, so that its disk can be filled up and vanishes with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use evergrant_proof::torture;

use crate::run::{cargo, now, output, print, run as run_command, say, succeeds};

/// Size of the disk that is filled up; the journals of the two states may take 5 MB each.
const ROOM: &str = "size=32m,mode=0700";

/// How long, and of what seed.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// For so many minutes.
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Seed of what is drawn. What comes of it depends on the machine's pace as well.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Torture the development build instead of the release build.
    #[arg(long)]
    dev: bool,
    /// Torture this binary.
    #[arg(long, value_name = "PATH", conflicts_with = "dev")]
    binary: Option<PathBuf>,
    /// Runs in a namespace already, with this scratch folder.
    #[arg(long, hide = true)]
    inside: Option<PathBuf>,
}

/// Builds, and goes into a namespace.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(scratch) = &options.inside {
        return torture_in(scratch, options, true);
    }
    let binary = match &options.binary {
        Some(binary) => {
            binary.canonicalize().with_context(|| format!("{} is not there", binary.display()))?
        }
        None => build(options.dev)?,
    };
    let scratch =
        tempfile::Builder::new().prefix("evergrant-torture-").tempdir().context("a scratch folder")?;
    let done = match namespace() {
        Some(mut unshare) => {
            unshare.arg(std::env::current_exe().context("our own path")?);
            unshare.args([
                "torture",
                "--minutes",
                &options.minutes.to_string(),
                "--seed",
                &options.seed.to_string(),
            ]);
            unshare.arg("--binary").arg(&binary).arg("--inside").arg(scratch.path());
            run_command(&mut unshare)
        }
        None => {
            say(format_args!("SKIPPED: full disks, since neither root nor a user namespace may mount one"));
            let options = Options {
                binary: Some(binary),
                inside: None,
                dev: false,
                minutes: options.minutes,
                seed: options.seed,
            };
            torture_in(scratch.path(), &options, false)
        }
    };
    if done.is_err() {
        say(format_args!("what it left is kept in {}", scratch.keep().display()));
    }
    done
}

/// `unshare` with what gives it the right to mount.
fn namespace() -> Option<Command> {
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
    let works = |way: &&&[&str]| {
        let mut command = Command::new("unshare");
        succeeds(command.args(**way).args(["mount", "-t", "tmpfs", "-o", ROOM, "tmpfs", "/mnt"]))
    };
    let way = ways.iter().find(works)?;
    let mut command = Command::new("unshare");
    command.args(*way);
    Some(command)
}

fn build(dev: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", "evergrant"]);
    if !dev {
        command.arg("--release");
    }
    run_command(&mut command)?;
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version", "1"]))
        .context("cargo metadata failed")?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let target = metadata.get("target_directory").and_then(|folder| folder.as_str());
    let target = target.context("cargo metadata names no target folder")?;
    Ok(Path::new(target).join(if dev { "debug/evergrant" } else { "release/evergrant" }))
}

fn torture_in(scratch: &Path, options: &Options, may_fill: bool) -> Result<()> {
    let room = scratch.join("room");
    std::fs::create_dir_all(&room).context("making the room")?;
    if may_fill {
        run_command(Command::new("mount").args(["-t", "tmpfs", "-o", ROOM, "tmpfs"]).arg(&room))?;
    }
    let (binary, seed) = (options.binary.clone().context("no binary")?, options.seed);
    let time = Duration::from_secs_f64(options.minutes * 60.0);
    let scratch = scratch.to_owned();
    let what =
        torture::Options { binary, scratch: scratch.clone(), room: room.clone(), may_fill, time, seed };
    let started = now();
    let outcome = torture::run(&what, |outcome| {
        say(format_args!("{:>6.0} s: {outcome}", started.elapsed().as_secs_f64()));
    })?;
    print(format_args!("{outcome} ({:.0} s, seed {seed})", started.elapsed().as_secs_f64()))?;
    if outcome.violations.is_empty() {
        return Ok(());
    }
    torture::keep(&room, &scratch.join("left")).context("keeping what is left")?;
    for violation in &outcome.violations {
        say(format_args!("violation: {violation}"));
    }
    bail!("{} violations", outcome.violations.len())
}
