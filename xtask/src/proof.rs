//! The commands that prove the rotation protocol need the whole house: this xtask builds the one that has it, and hands
//! over.

use std::ffi::OsString;

use anyhow::{Result, bail};

use crate::run::{cargo, run as run_command};

const PROOFS: [&str; 6] = ["model", "sim", "sim-replicas", "sim-alerts", "crash-states", "torture"];

/// Runs one of the proofs with its options.
pub(crate) fn run(words: &[OsString]) -> Result<()> {
    let name = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    if !PROOFS.contains(&&*name) {
        bail!("there is no command {name:?}: see cargo xtask help");
    }
    run_command(
        cargo().args(["run", "--quiet", "--package", "xtask", "--features", "proof", "--"]).args(words),
    )
}
