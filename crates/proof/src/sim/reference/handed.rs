//! Answers with a successor that a living process was given: soon each of them is in a receipt, or its pair is of record.

use std::collections::VecDeque;
use std::time::Duration;

use evergrant_core::secret::Fingerprint;

use super::reading::{answers, contains};
use super::{Held, broken};
use crate::sim::executor::ProcessId;

/// Within so much time an answer is on the disk: its keeper may sleep for most of a minute before it writes.
const SOON: Duration = Duration::from_secs(300);

/// An answer in the hands of a process.
#[derive(Debug, Clone)]
pub(super) struct HandedOver {
    process: ProcessId,
    at: Duration,
    /// The token that was presented for it.
    pub(super) presented: Fingerprint,
    /// The login of that.
    pub(super) family: u64,
    /// The successor.
    pub(super) refresh: String,
}

/// All of them, the oldest first.
#[derive(Debug, Clone, Default)]
pub(super) struct Handed(VecDeque<HandedOver>);

impl Handed {
    /// A process was given the successor of a token.
    pub(super) fn add(
        &mut self,
        (at, process): (Duration, ProcessId),
        (presented, family): (Fingerprint, u64),
        refresh: &str,
    ) {
        self.0.push_back(HandedOver { process, at, presented, family, refresh: refresh.to_owned() });
    }

    /// A receipt was written: the answer that it holds, if it is one of these.
    pub(super) fn kept(&mut self, receipt: &[u8]) -> Held<Option<HandedOver>> {
        let found = self.0.iter().position(|handed| contains(receipt, &handed.refresh));
        let found = found.and_then(|index| self.0.remove(index));
        match &found {
            Some(handed) if !answers(receipt, handed.presented) => broken(
                "I7",
                format!("the answer to {} lies in a receipt that does not read as one", handed.presented),
            ),
            Some(_) | None => Ok(found),
        }
    }

    /// The pair with this token is of record.
    pub(super) fn is_of_record(&mut self, token: Fingerprint) {
        self.0.retain(|handed| Fingerprint::of(handed.refresh.as_bytes()) != token);
    }

    /// A process is gone, and with it what was only in its memory.
    pub(super) fn died(&mut self, process: ProcessId) {
        self.0.retain(|handed| handed.process != process);
    }

    /// I7: none waits for long.
    pub(super) fn none_is_dropped(&self, now: Duration) -> Held {
        match self.0.front().filter(|oldest| oldest.at + SOON < now) {
            Some(HandedOver { process, presented, .. }) => broken(
                "I7",
                format!(
                    "process {process} was given the answer to {presented}, lives on, and has not kept it"
                ),
            ),
            None => Ok(()),
        }
    }

    /// I7: what is presented again has no successor in the hands of a living process.
    pub(super) fn has_none_of(&self, token: Fingerprint) -> Held {
        match self.0.iter().find(|handed| handed.presented == token) {
            Some(HandedOver { process, .. }) => broken(
                "I7",
                format!("{token} is presented though process {process} was given its successor, and lives"),
            ),
            None => Ok(()),
        }
    }
}
