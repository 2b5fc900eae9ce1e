//! The short form of `cargo xtask torture`: a quarter of a minute, without a disk that may be filled up.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use evergrant_proof::torture::{self, Options};

/// The binary that was built beside this test; built now where there is none yet.
fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let folder = own.parent().and_then(|deps| deps.parent()).expect("it lies in `deps`");
    let binary = folder.join("evergrant");
    if !binary.is_file() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let target = folder.parent().expect("a profile's folder lies in the target folder");
        let mut build = Command::new(cargo);
        build.args(["build", "--package", "evergrant", "--target-dir"]).arg(target);
        assert!(build.status().expect("cargo runs").success());
    }
    binary
}

#[test]
fn a_quarter_of_a_minute_loses_nothing() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let room = scratch.path().join("room");
    std::fs::create_dir(&room).expect("a room");
    let options = Options {
        binary: binary(),
        scratch: scratch.path().to_owned(),
        room,
        may_fill: false,
        time: Duration::from_secs(15),
        seed: 4,
    };
    let outcome = torture::run(&options, |_| {}).expect("processes can be started");
    if !outcome.violations.is_empty() {
        panic!("{:#?}; see {}", outcome.violations, scratch.keep().display());
    }
    assert!(outcome.kills >= 10 && outcome.rotations >= 3 && outcome.calms >= 1, "{outcome}");
}
