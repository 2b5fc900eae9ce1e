//! The load generator: asks, checks each answer, and times it. One JSON object is the result.
//!
//! Between connecting (and warming up) and measuring it prints `ready` and waits for a line, so that whoever runs it
//! reads the counters of the proxy while nothing happens; behind the result it waits again until its input closes.

mod connection;
mod hold;
mod requests;
mod sse;
mod wrong;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use hdrhistogram::Histogram;

pub use hold::hold;
pub use requests::{Amount, Pace, Requests, requests};
pub use sse::{Sse, sse};

/// Where to ask, and as whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// Of the proxy, or of the upstream itself.
    pub address: SocketAddr,
    /// Path without its query.
    pub path: String,
    /// Whole lines.
    pub headers: Vec<String>,
    /// Each connection uses one, spread over all.
    pub keys: Vec<String>,
    /// The header that bears the key.
    pub key_header: String,
}

impl Target {
    /// Everything of the head but the framing of the body and the empty line, for the connection of that number.
    fn head(&self, query: &str, number: usize) -> String {
        let mut head = format!(
            "POST {}{query} HTTP/1.1\r\nhost: {}\r\nuser-agent: evergrant-benches\r\naccept: application/json\r\n\
             anthropic-version: 2023-06-01\r\ncontent-type: application/json\r\n",
            self.path, self.address
        );
        // A step that shares no factor with a round number of keys spreads the connections over the table.
        let key = self.keys.get((number * 37) % self.keys.len().max(1));
        let key = key.map(|key| format!("{}: {key}", self.key_header));
        for line in self.headers.iter().chain(&key) {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head
    }
}

/// What whoever runs the load generator says between its phases.
pub trait Gate {
    /// All is connected and quiet: returns when the measurement is to begin.
    fn ready(&mut self) -> Result<()>;
}

/// A gate that stands open.
#[derive(Debug)]
pub struct Open;

impl Gate for Open {
    fn ready(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What an unknown key is answered.
const UNAUTHORIZED: u16 = 401;

/// Times, in nanoseconds.
#[derive(Debug)]
struct Times(Histogram<u64>);

const LONGEST: Duration = Duration::from_secs(60);

impl Times {
    fn new() -> Result<Self> {
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        match Histogram::new_with_bounds(1, longest, 3) {
            Ok(histogram) => Ok(Self(histogram)),
            Err(error) => bail!("a histogram cannot be made: {error}"),
        }
    }

    fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Microseconds below which that part of all lies.
    fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1000.0
    }
}

/// Faults, of which the first is told.
#[derive(Debug, Default)]
struct Faults {
    count: u64,
    first: Option<String>,
}

impl Faults {
    fn add(&mut self, error: &anyhow::Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| format!("{error:#}"));
    }
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn quantiles_are_microseconds() {
        let mut times = Times::new().unwrap();
        for us in 1..=100 {
            times.record(us * 1000);
        }
        assert!((times.quantile_us(0.5) - 50.0).abs() < 0.1);
        assert!((times.quantile_us(0.99) - 99.0).abs() < 0.2);
    }
}
