//! `evergrant-benches upstream|load`: what `cargo xtask bench gateway|sse|upload` runs.

use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use evergrant_benches::load::{self, Amount, Gate, Pace, Requests, Sse, Target};
use evergrant_benches::upstream;
use serde_json::Value;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
#[command(about = "The two ends of the gateway's measurements")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer as an API does; prints the address and ends when standard input does.
    Upstream {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Every request must bear this token, and no caller key.
        #[arg(long)]
        token: Option<String>,
    },
    /// Ask and time.
    Load {
        #[command(flatten)]
        target: To,
        #[command(subcommand)]
        what: What,
    },
}

#[derive(Debug, Args)]
struct To {
    /// The proxy, or the upstream itself.
    #[arg(long)]
    address: SocketAddr,
    /// Path of the request.
    #[arg(long, default_value = "/v1/messages")]
    path: String,
    /// A line of the head, as `name: value`.
    #[arg(long = "header")]
    headers: Vec<String>,
    /// A file of caller keys, one a line; each connection uses one.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// The header that bears the key.
    #[arg(long, default_value = "X-CM-API-Key")]
    key_header: String,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Requests and answers.
    Requests {
        /// So many connections.
        #[arg(long)]
        connections: usize,
        /// For so long.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// So many on each connection, instead of for a time.
        #[arg(long)]
        each: Option<u64>,
        /// At fixed instants, so many a second; without it as fast as the answers come.
        #[arg(long)]
        rate: Option<u64>,
        /// So many bytes of body.
        #[arg(long, default_value_t = 2048)]
        body: usize,
        /// Bodies in chunks, both ways.
        #[arg(long)]
        chunked: bool,
        /// Besides, so many requests a second with a key that nobody knows.
        #[arg(long)]
        wrong: Option<u64>,
    },
    /// Streams of events.
    Sse {
        /// So many at a time.
        #[arg(long)]
        streams: usize,
        /// So many events each.
        #[arg(long)]
        events: u64,
        /// Microseconds between two of a stream.
        #[arg(long)]
        gap_us: u64,
    },
    /// Streams that are held open.
    Hold {
        /// So many.
        #[arg(long)]
        streams: usize,
    },
}

/// Says `ready` and waits for a line.
struct Standard;

impl Gate for Standard {
    fn ready(&mut self) -> Result<()> {
        line("ready")?;
        let read = io::stdin().lock().read_line(&mut String::new()).context("waiting to be told to go on")?;
        ensure!(read > 0, "standard input closed before the measurement began");
        Ok(())
    }
}

fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("standard output is closed")
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(Arguments::parse().command)),
        Err(error) => Err(error).context("starting the runtime"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Upstream { listen, token } => {
            let listener = TcpListener::bind(listen).await.context("listening")?;
            line(&listener.local_addr().context("listening")?.to_string())?;
            upstream::serve(listener, token).await
        }
        Command::Load { target, what } => {
            let result = ask(&target.parsed()?, what).await?;
            line(&result.to_string())?;
            // The connections are closed when nobody counts any more.
            io::copy(&mut io::stdin().lock(), &mut io::sink()).context("waiting for the end")?;
            Ok(())
        }
    }
}

async fn ask(target: &Target, what: What) -> Result<Value> {
    let gate = &mut Standard;
    match what {
        What::Requests { connections, seconds, each, rate, body, chunked, wrong } => {
            let pace = rate.map_or(Pace::Closed, Pace::Open);
            let time = Duration::try_from_secs_f64(seconds).context("--seconds")?;
            let amount = each.map_or(Amount::For(time), Amount::Each);
            load::requests(target, Requests { pace, amount, connections, body, chunked, wrong }, gate).await
        }
        What::Sse { streams, events, gap_us } => {
            load::sse(target, Sse { streams, events, gap_us }, gate).await
        }
        What::Hold { streams } => load::hold(target, streams, gate).await,
    }
}

impl To {
    fn parsed(self) -> Result<Target> {
        let keys = match &self.keys {
            Some(path) => {
                std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
            }
            None => String::new(),
        };
        Ok(Target {
            address: self.address,
            path: self.path,
            headers: self.headers,
            keys: keys.lines().map(str::to_owned).collect(),
            key_header: self.key_header,
        })
    }
}
