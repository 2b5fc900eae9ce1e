//! `cargo xtask test`: what must hold before anything is merged.

use std::thread::available_parallelism;

use anyhow::Result;

use crate::prerequisites;
use crate::run::{self, Steps, cargo, succeeds};

/// Prerequisites, format, lints, tests, examples in the documentation.
pub(crate) fn run(no_install: bool) -> Result<()> {
    let mut steps = Steps::default();
    steps.must("prerequisites", || prerequisites::provide(no_install))?;
    steps.step("format", || run::run(cargo().args(["fmt", "--all", "--check"])));
    steps.step("lints", || {
        run::run(cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--",
            "-D",
            "warnings",
        ]))
    });
    let whole = ["--workspace", "--all-features"];
    if succeeds(cargo().args(["nextest", "--version"])) {
        // Half of them wait for something, most of the time.
        let at_once = 2 * available_parallelism().map_or(1, usize::from);
        let at_once = ["--test-threads".to_owned(), at_once.to_string()];
        steps.step("tests", || run::run(cargo().args(["nextest", "run"]).args(whole).args(at_once)));
        steps.step("documentation", || run::run(cargo().args(["test", "--doc"]).args(whole)));
    } else {
        steps.step("tests", || run::run(cargo().arg("test").args(whole)));
    }
    steps.close()
}
