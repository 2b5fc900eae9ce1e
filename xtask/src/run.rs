//! Running programs, saying what is done, and the time it took.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// One line to people, on standard error: standard output is for figures.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// One line of the result, on standard output.
pub(crate) fn print(line: fmt::Arguments<'_>) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output is closed")
}

/// The workspace's folder.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that runs us, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root());
    command
}

/// Runs a command that shows its own output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(format_args!("$ {}", shown(command)));
    let status = command.status().with_context(|| format!("{} cannot be started", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// Whether a command can be started and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What a command prints, trimmed; `None` when it fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// A program of that name is in `PATH`, or where only root's `PATH` leads, or where Debian keeps the programs of a
/// PostgreSQL server.
pub(crate) fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .chain(servers.map(|server| server.path().join("bin")))
        .any(|folder| folder.join(program).is_file())
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    words.join(" ")
}

/// The time, for durations only.
#[expect(clippy::disallowed_methods, reason = "xtask measures real programs; nothing here is simulated")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Named steps with the time that each took.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// Does one step; a failure is kept for [`Steps::close`], so that the next ones still run.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        say(format_args!("\n== {name}"));
        let started = now();
        let result = work();
        if let Err(error) = &result {
            say(format_args!("error: {error:#}"));
        }
        self.done.push((name.to_owned(), started.elapsed(), result.is_ok()));
    }

    /// Does one step that all others need.
    pub(crate) fn must(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        say(format_args!("== {name}"));
        let started = now();
        work()?;
        self.done.push((name.to_owned(), started.elapsed(), true));
        Ok(())
    }

    /// Says what took how long, and fails if a step did.
    pub(crate) fn close(self) -> Result<()> {
        say(format_args!(""));
        for (name, took, held) in &self.done {
            let word = if *held { "ok" } else { "FAILED" };
            say(format_args!("{name:<24} {:>7.1} s  {word}", took.as_secs_f64()));
        }
        let total: Duration = self.done.iter().map(|(_, took, _)| *took).sum();
        let failed = self.done.iter().filter(|(_, _, held)| !held);
        let failed: Vec<_> = failed.map(|(name, _, _)| name.as_str()).collect();
        if !failed.is_empty() {
            bail!("failed: {} (after {:.0} s)", failed.join(", "), total.as_secs_f64());
        }
        say(format_args!("everything holds ({:.0} s)", total.as_secs_f64()));
        Ok(())
    }
}
