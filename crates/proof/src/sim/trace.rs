//! What happened, in order: its last lines for people, and a hash of all of it, so that two runs can be compared.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::time::Duration;

/// So many lines are kept.
const KEPT: usize = 400;

/// The trace of one run.
#[derive(Debug, Clone)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<String>,
}

impl Default for Trace {
    fn default() -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: VecDeque::with_capacity(KEPT) }
    }
}

impl Trace {
    /// Adds a line.
    pub fn say(&mut self, at: Duration, what: fmt::Arguments<'_>) {
        // The oldest line's memory is used again.
        let mut line =
            if self.lines.len() >= KEPT { self.lines.pop_front() } else { None }.unwrap_or_default();
        line.clear();
        let _ = write!(line, "{:>14.3} {what}", at.as_secs_f64());
        self.mix(line.as_bytes());
        self.lines.push_back(line);
    }

    /// Lets something count that is not worth a line.
    pub fn mix(&mut self, bytes: &[u8]) {
        // FNV-1a: the same trace has the same hash, on every machine.
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
