//! `cargo xtask audit`: licences, bans and sources of everything that is built in, and known advisories.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::run::{self, Steps, cargo, is_there, output, root, say};

const VERSION: &str = "0.20.2";

/// Runs cargo-deny, which it installs into `target/tools` if need be.
pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::default();
    let deny = installed()?;
    let check = |what: &[&str]| {
        run::run(Command::new(&deny).args(["--workspace", "check"]).args(what).current_dir(root()))
    };
    steps.step("licences, bans, sources", || check(&["licenses", "bans", "sources"]));
    say(format_args!("\nfetching the advisories"));
    if run::run(Command::new(&deny).args(["fetch", "db"]).current_dir(root())).is_ok() {
        steps.step("advisories", || check(&["--disable-fetch", "advisories"]));
    } else {
        say(format_args!("SKIPPED: advisories, since their database cannot be fetched"));
    }
    steps.close()
}

/// The pinned cargo-deny: the one that is there, or one of our own.
fn installed() -> Result<PathBuf> {
    let own = root().join("target/tools/bin/cargo-deny");
    let candidates = [PathBuf::from("cargo-deny"), own.clone()];
    let wanted = format!("cargo-deny {VERSION}");
    let found = candidates.into_iter().find(|program| {
        let there = program.is_absolute() || is_there("cargo-deny");
        there && output(Command::new(program).arg("--version")).as_deref() == Some(&wanted)
    });
    if let Some(found) = found {
        return Ok(found);
    }
    say(format_args!("installing cargo-deny {VERSION} into target/tools"));
    run::run(
        cargo()
            .args(["install", "--locked", "cargo-deny", "--version", VERSION, "--root"])
            .arg(root().join("target/tools")),
    )?;
    Ok(own)
}
