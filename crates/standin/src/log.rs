//! What the stand-in saw and did, for assertions: bounded logs of exchanges and API calls, and counters.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;

use crate::fingerprint::Fingerprint;

/// One exchange, as the token endpoint took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchange {
    /// Number of the exchange, from 1, without gaps.
    pub seq: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// The refresh token that was presented, or the assertion.
    pub presented: Option<Fingerprint>,
    /// The refresh token that the family had as its newest afterwards, where one was issued or repeated.
    pub issued: Option<Fingerprint>,
    /// The family of the presented token.
    pub family: Option<u64>,
    /// Generation of that family afterwards.
    pub generation: Option<u64>,
    /// What the processing came to.
    pub outcome: ExchangeOutcome,
    /// The fault that was played.
    pub fault: Option<String>,
    /// HTTP status of the answer, sent or not.
    pub status: u16,
    /// Whether the stand-in meant the whole answer to arrive.
    pub delivered: bool,
}

/// What the processing of an exchange came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeOutcome {
    /// A new refresh token was issued; the presented one is spent.
    Rotated,
    /// The presented refresh token was repeated or kept; it is not spent.
    Repeated,
    /// A spent refresh token was answered within its grace.
    Graced,
    /// A spent refresh token was presented again, and that counts as reuse.
    ReuseDetected,
    /// Refused without harm.
    Refused,
    /// An access token without refresh token was issued.
    Minted,
    /// A fault kept it from being processed.
    NotProcessed,
}

/// One call of the API, as it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sighting {
    /// Number of the call, from 1.
    pub seq: u64,
    /// When it came.
    pub at: Timestamp,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub target: String,
    /// What it authenticated with.
    pub source: Source,
    /// Fingerprint of the access token or API key.
    pub presented: Option<Fingerprint>,
    /// HTTP status of the answer.
    pub status: u16,
    /// The fault that was played.
    pub fault: Option<String>,
    /// Length of the request's body in bytes.
    pub body_bytes: usize,
    /// Request headers as they came; secret values as fingerprints. Empty unless recorded.
    pub headers: Vec<(String, String)>,
}

/// What an API call authenticated with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A Bearer access token.
    Oauth,
    /// An API key, in `x-api-key` or as Bearer.
    ApiKey,
    /// Both, which is refused.
    Both,
    /// Neither.
    None,
}

/// Sums since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Requests at the token endpoint.
    pub exchanges: u64,
    /// Exchanges that issued a new refresh token.
    pub rotations: u64,
    /// Exchanges that repeated the presented refresh token.
    pub repeats: u64,
    /// Spent refresh tokens that were presented again, outside any grace.
    pub reuses: u64,
    /// Families that reuse revoked.
    pub families_revoked_by_reuse: u64,
    /// Families that were revoked by hand.
    pub families_revoked_by_hand: u64,
    /// Logins.
    pub logins: u64,
    /// Calls of the API, the roles endpoint among them.
    pub api_calls: u64,
    /// Exchanges that are being answered now.
    pub exchanges_in_flight: u64,
    /// The most of them at one time.
    pub max_concurrent_exchanges: u64,
}

/// A list that forgets its oldest entries.
#[derive(Debug, Clone)]
pub(crate) struct Bounded<T>(VecDeque<T>);

impl<T> Bounded<T> {
    pub(crate) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(crate) fn push(&mut self, entry: T, kept: usize) {
        self.0.push_back(entry);
        while self.0.len() > kept {
            self.0.pop_front();
        }
    }

    pub(crate) fn iter(&self) -> std::collections::vec_deque::Iter<'_, T> {
        self.0.iter()
    }
}
