//! The pinned packages of PyPI in `tests-python`, in an environment of their own in the target folder.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{is_there, output, root, run, say, shown, succeeds};

const REQUIREMENTS: &str = "tests-python/requirements.txt";
const ENVIRONMENT: &str = "target/tests-python";

/// The requirements are installed, and Python runs.
pub(super) fn is_up() -> bool {
    let wanted = fs::read(root().join(REQUIREMENTS)).ok();
    wanted.is_some() && wanted == fs::read(installed()).ok() && output(python().arg("--version")).is_some()
}

/// Python can make an environment. Debian keeps what that takes in a package of its own.
pub(super) fn can_begin() -> bool {
    is_there("python3") && succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"]))
}

/// The commands that bring the packages, for people.
pub(super) fn to_run() -> [String; 2] {
    [shown(&begin()), format!("{ENVIRONMENT}/bin/{}", shown(&pip()))]
}

/// Brings the packages.
pub(super) fn provide() -> Result<()> {
    say(format_args!("installing from PyPI: the packages of {REQUIREMENTS}"));
    run(&mut begin())?;
    run(&mut pip())?;
    // Written last: what is there without it was interrupted, and is made anew.
    fs::copy(root().join(REQUIREMENTS), installed()).context("the target folder cannot be written")?;
    Ok(())
}

/// What was installed: a copy of the requirements.
fn installed() -> PathBuf {
    root().join(ENVIRONMENT).join("requirements.txt")
}

fn python() -> Command {
    let mut command = Command::new(root().join(ENVIRONMENT).join("bin/python"));
    command.current_dir(root());
    command
}

fn begin() -> Command {
    let mut command = Command::new("python3");
    command.args(["-m", "venv", "--clear", ENVIRONMENT]).current_dir(root());
    command
}

fn pip() -> Command {
    let mut command = python();
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    command.args(["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", REQUIREMENTS]);
    command
}
