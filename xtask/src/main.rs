//! The habits of the house as commands: `cargo xtask test|audit|bench|fuzz`, and what proves the rotation protocol:
//! `cargo xtask model|sim|sim-replicas|sim-alerts|crash-states|torture`.

mod audit;
mod bench;
#[cfg(feature = "proof")]
mod crash_states;
mod fuzz;
#[cfg(feature = "proof")]
mod model;
mod prerequisites;
#[cfg(not(feature = "proof"))]
mod proof;
mod run;
#[cfg(feature = "proof")]
mod sim;
#[cfg(feature = "proof")]
mod sim_alerts;
#[cfg(feature = "proof")]
mod sim_replicas;
mod test;
#[cfg(feature = "proof")]
mod torture;

#[cfg(not(feature = "proof"))]
use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What developers of Evergrant need.
#[derive(Debug, Parser)]
#[command(
    bin_name = "cargo xtask",
    after_help = "What proves the rotation protocol: model, sim, sim-replicas, sim-alerts, crash-states, torture"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the tests need, then check format and lints and run every test.
    Test {
        /// Install nothing: print the command that would, and fail where something is missing.
        #[arg(long)]
        no_install: bool,
    },
    /// Check licences, bans, sources and, where their database can be reached, advisories.
    Audit,
    /// Search the model of the rotation protocol for a way to break it.
    #[cfg(feature = "proof")]
    Model(model::Options),
    /// Simulate keepers for years under every kind of fault, and check the protocol's invariants.
    #[cfg(feature = "proof")]
    Sim(sim::Options),
    /// Simulate replicas on one database for years under every kind of fault, and check the same invariants.
    #[cfg(feature = "proof")]
    SimReplicas(sim_replicas::Options),
    /// Simulate health monitors and alerters under kills, silence and sinks that are down.
    #[cfg(feature = "proof")]
    SimAlerts(sim_alerts::Options),
    /// Derive every state that a crash may leave of the vault's files, and check that each recovers.
    #[cfg(feature = "proof")]
    CrashStates(crash_states::Options),
    /// Kill, stop, cut off and starve two real processes on one auth file, and count what was lost.
    #[cfg(feature = "proof")]
    Torture(torture::Options),
    #[cfg(not(feature = "proof"))]
    #[command(external_subcommand)]
    Proof(Vec<OsString>),
    /// Search for bytes in which our HTTP/1.1 parser and hyper find different messages.
    Fuzz(fuzz::Options),
    /// Measure what is claimed.
    Bench {
        #[command(subcommand)]
        bench: bench::Bench,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Test { no_install } => test::run(no_install),
        Command::Audit => audit::run(),
        #[cfg(feature = "proof")]
        Command::Model(options) => model::run(&options),
        #[cfg(feature = "proof")]
        Command::Sim(options) => sim::run(&options),
        #[cfg(feature = "proof")]
        Command::SimReplicas(options) => sim_replicas::run(&options),
        #[cfg(feature = "proof")]
        Command::SimAlerts(options) => sim_alerts::run(&options),
        #[cfg(feature = "proof")]
        Command::CrashStates(options) => crash_states::run(&options),
        #[cfg(feature = "proof")]
        Command::Torture(options) => torture::run(&options),
        #[cfg(not(feature = "proof"))]
        Command::Proof(words) => proof::run(&words),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Bench { bench } => bench::run(bench),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
