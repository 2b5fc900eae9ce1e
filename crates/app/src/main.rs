//! The binary `evergrant`: command line, configuration, wiring, nothing else (SPEC §11, §12).

mod agent;
mod alerts;
mod cli;
mod commands;
mod config;
mod drill;
mod export;
mod gateway;
mod host;
mod import;
mod keys;
mod logs;
mod output;
mod rows;
mod seal;
mod serve;
mod standin;
mod status;
mod timeline;
mod traces;
mod upkeep;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;

fn main() -> ExitCode {
    // A core dump would hold tokens. Where the system cannot be asked for that, nothing is lost but this guard.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let cli = Cli::parse();
    let env: config::Environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    // It runs for months on somebody's laptop, and needs no runtime.
    if let cli::Command::Agent { command } = &cli.command {
        return agent::run(command, &cli.global, &env);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(1024 * 1024)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(commands::run(cli, env));
            // A blocking file operation that hangs must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => output::failed(format!("the runtime cannot be started: {error}")),
    }
}
