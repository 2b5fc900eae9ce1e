//! `cargo xtask fuzz`: searches for bytes in which our HTTP/1.1 parser and hyper find different messages.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::run::{self, Steps, cargo, is_there, output, root, say};

const VERSION: &str = "0.13.2";
/// Inputs of a kind that is committed, and that each search begins with.
const CORPUS: &str = "crates/server/tests/corpus/http1";

/// What is searched, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Minutes for each target.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Only this one.
    target: Option<Target>,
}

/// What the bytes are.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// A request's head.
    Request,
    /// An answer, with interim ones before it.
    Response,
    /// A connection's requests, one behind the other.
    Stream,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Stream => "stream",
        }
    }
}

/// Runs each target in turn. It needs no nightly compiler: there is no `unsafe` of ours to watch, so no sanitizer.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !is_there("c++") {
        bail!("libFuzzer is C++, and there is no `c++`: on Debian, apt-get install g++");
    }
    let tools = installed()?;
    let mut steps = Steps::default();
    let all = [Target::Request, Target::Response, Target::Stream];
    for target in options.target.map_or(all.to_vec(), |target| vec![target]) {
        steps.step(target.name(), || search(target, options.minutes, &tools));
    }
    steps.close()
}

fn search(target: Target, minutes: u64, tools: &Path) -> Result<()> {
    let name = target.name();
    // What a search finds on its way stays there for the next one.
    let found = root().join("target/fuzz/corpus").join(name);
    fs::create_dir_all(&found).context("the target folder cannot be written")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(tools.to_owned()).chain(env::split_paths(&path)))?;
    let mut command = cargo();
    command.env("PATH", path).args(["fuzz", "run", "--sanitizer", "none", "--target-dir"]);
    command.arg(root().join("target/fuzz/build")).arg(name).arg(found).arg(root().join(CORPUS).join(name));
    command.args(["--", "-max_len=4096", "-timeout=10", "-print_final_stats=1"]);
    command.arg(format!("-dict={}", root().join("fuzz/http1.dict").display()));
    command.arg(format!("-max_total_time={}", minutes * 60));
    run::run(&mut command).with_context(|| {
        format!("the input is in fuzz/artifacts/{name}: cut it down and put it into {CORPUS}/{name}")
    })
}

/// The folder of the pinned cargo-fuzz, which is installed there if it is nowhere else.
fn installed() -> Result<PathBuf> {
    let tools = root().join("target/tools");
    let version = |mut cargo: std::process::Command| output(cargo.args(["fuzz", "--version"]));
    let wanted = Some(format!("cargo-fuzz {VERSION}"));
    let own = std::process::Command::new(tools.join("bin/cargo-fuzz"));
    if version(cargo()) != wanted && version(own) != wanted {
        say(format_args!("installing cargo-fuzz {VERSION} into target/tools"));
        let arguments = ["install", "--locked", "cargo-fuzz", "--version", VERSION, "--root"];
        run::run(cargo().args(arguments).arg(&tools))?;
    }
    Ok(tools.join("bin"))
}
