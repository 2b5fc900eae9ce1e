//! The report of one look: the same JSON from command line, admin API and library (SPEC §4).

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::chain::{ChainName, Generation, Lineage, Record};
use crate::reason::Reason;

/// What a look found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The chain.
    pub chain: ChainName,
    /// `token_valid` and no `error`.
    pub ok: bool,
    /// This look committed a generation.
    pub refreshed: bool,
    /// The vault holds a non-empty access token.
    pub token_present: bool,
    /// It is unexpired and no 401 was seen at this generation.
    pub token_valid: bool,
    /// What is wrong, if something is.
    pub error: Option<Reason>,
    /// Why it did what it did.
    pub reason: Reason,
    /// Number of the grant; null if there never was one.
    pub lineage: Option<Lineage>,
    /// Number of the pair.
    pub generation: Option<Generation>,
    /// When the access token ends.
    pub expires_at: Option<Timestamp>,
    /// When it is renewed.
    pub renew_at: Option<Timestamp>,
    /// How long the look took, in milliseconds.
    pub took_ms: u64,
    /// More about the error, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Report {
    /// Of a chain whose vault holds the pair of `record` (`present`), at `now`.
    pub fn new(
        chain: &ChainName,
        record: Option<&Record>,
        present: bool,
        (reason, error): (Reason, Option<Reason>),
        now: Timestamp,
    ) -> Self {
        let token_valid = present && record.is_some_and(|record| record.token_valid(now));
        Self {
            chain: chain.clone(),
            ok: token_valid && error.is_none(),
            refreshed: false,
            token_present: present,
            token_valid,
            error,
            reason,
            lineage: record.map(|record| record.lineage),
            generation: record.map(|record| record.generation),
            expires_at: record.map(|record| record.expires_at),
            renew_at: record.and_then(|record| record.renew_at),
            took_ms: 0,
            detail: None,
        }
    }

    /// The same, of a look that committed a generation.
    #[must_use]
    pub fn refreshed(self, refreshed: bool) -> Self {
        Self { refreshed, ..self }
    }

    /// The same, with more for a person.
    #[must_use]
    pub fn detail(self, detail: Option<String>) -> Self {
        Self { detail, ..self }
    }

    /// The same, with the time it took.
    #[must_use]
    pub fn took(self, took: Duration) -> Self {
        Self { took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX), ..self }
    }
}
