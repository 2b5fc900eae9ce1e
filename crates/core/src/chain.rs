//! The chain: its name, its counters, and the record that is kept of it beside its vault (SPEC §1, §4).

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::grant::{Grant, PairId};
use crate::reason::Reason;
use crate::secret::Fingerprint;

/// The name of a chain: 1 to 64 of `a-z`, `0-9`, `-` and `_`, a letter or digit first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ChainName(String);

/// A string that cannot name a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no chain name: use 1 to 64 of a-z, 0-9, - and _, with a letter or digit first")]
pub struct NotAChainName(String);

impl ChainName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ChainName {
    type Error = NotAChainName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = name.bytes().next().is_some_and(plain)
            && name.len() <= 64
            && name.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'_');
        if fits { Ok(Self(name)) } else { Err(NotAChainName(name)) }
    }
}

impl std::str::FromStr for ChainName {
    type Err = NotAChainName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        name.to_owned().try_into()
    }
}

impl From<ChainName> for String {
    fn from(name: ChainName) -> Self {
        name.0
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The first one.
            pub const FIRST: Self = Self(1);

            /// The one after it.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// Number of the grant on its chain: +1 whenever another authorization replaces the grant.
    Lineage
}
counter! {
    /// Number of the pair within its lineage: +1 at every rotation.
    Generation
}
counter! {
    /// Fencing number of the right to rotate a chain.
    Epoch
}
counter! {
    /// Number of a rotation attempt on its chain. Later attempts have higher numbers, so that the pair that
    /// was presented last is known without a clock.
    AttemptId
}

/// How a chain's grant is renewed (SPEC §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By exchanging its refresh token.
    RefreshToken,
    /// Not at all: the grant has no refresh token, and only its end is watched.
    Static,
    /// By exchanging a workload's JWT (RFC 7523): it spends nothing.
    JwtBearer,
    /// By the client's own id and secret (RFC 6749 §4.4): it spends nothing.
    ClientCredentials,
    /// Not at all: the chain is an API key, and there is no grant.
    ApiKey,
}

impl Kind {
    /// The kind that a grant makes of its lineage.
    pub fn of(grant: &Grant) -> Self {
        if grant.refresh.is_some() { Self::RefreshToken } else { Self::Static }
    }

    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::Static => "static",
            Self::JwtBearer => "jwt_bearer",
            Self::ClientCredentials => "client_credentials",
            Self::ApiKey => "api_key",
        }
    }

    /// Whether the provider's terms for logins have to be accepted first: the kind decides, not the token's prefix
    /// (SPEC §14).
    pub fn needs_terms(self) -> bool {
        match self {
            Self::RefreshToken | Self::Static => true,
            Self::JwtBearer | Self::ClientCredentials | Self::ApiKey => false,
        }
    }
}

/// The durable note that a pair is about to be presented. Without an answer, nobody can know its fate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Which attempt.
    pub attempt: AttemptId,
    /// The lineage whose pair is presented.
    pub lineage: Lineage,
    /// The generation that is presented.
    pub generation: Generation,
    /// The pair that is presented.
    pub presented: PairId,
    /// Since when it counts as sent.
    pub sent_at: Timestamp,
    /// When it counts as in doubt.
    pub deadline: Timestamp,
    /// The machine whose disk holds the receipt; empty where that is forgotten.
    pub machine: String,
}

/// What is known of the chain's current pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Standing {
    /// Nothing speaks against it.
    Live,
    /// It was presented, and nobody can know whether it was spent.
    InDoubt {
        /// When it was first presented.
        sent_at: Timestamp,
        /// Since when it has been in doubt.
        since: Timestamp,
        /// How often it has been presented again since.
        presented_again: u32,
    },
    /// The provider refused it for good.
    Refused {
        /// `refresh_token_revoked` or `grant_expired`.
        reason: Reason,
        /// When.
        at: Timestamp,
        /// Whether the refusal was confirmed by asking once more (reuse class `none`).
        confirmed: bool,
    },
}

/// A run of attempts that failed without spending the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// How many in a row.
    pub count: u32,
    /// The first of them.
    pub since: Timestamp,
    /// The last one's reason.
    pub reason: Reason,
    /// Not to be tried again earlier than this.
    pub not_before: Timestamp,
    /// The provider itself asked for this wait; a forced exchange keeps it too.
    pub asked_by_provider: bool,
}

/// A pair of an older lineage that was in doubt or refused when it was replaced; put back, it is in doubt again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldDoubt {
    /// Which pair.
    pub fingerprint: Fingerprint,
    /// When it was presented.
    pub sent_at: Timestamp,
}

/// All that is durable about a chain besides its tokens. Beside an auth file it is of record, so that every
/// keeper of that file sees the same; a database behind it is brought up to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The chain.
    pub chain: ChainName,
    /// Number of its grant.
    pub lineage: Lineage,
    /// Number of its pair.
    pub generation: Generation,
    /// How it is renewed.
    pub kind: Kind,
    /// Its pair.
    pub pair: PairId,
    /// When the access token ends.
    pub expires_at: Timestamp,
    /// The end was assumed, since nobody said it.
    pub expiry_assumed: bool,
    /// The life of the access token when it was stored, in seconds.
    pub life_secs: u64,
    /// When this grant came to the chain.
    pub granted_at: Timestamp,
    /// When the grant itself ends, if known.
    pub grant_expires_at: Option<Timestamp>,
    /// What the access token may be used for; empty if unknown.
    pub scopes: Vec<String>,
    /// When this pair was stored.
    pub stored_at: Timestamp,
    /// When it is to be renewed; computed once, compared as stored.
    pub renew_at: Option<Timestamp>,
    /// What is known of the pair.
    pub standing: Standing,
    /// A 401 was seen for the access token of this generation.
    pub access_refused: bool,
    /// A rotation whose answer is outstanding.
    pub intent: Option<Intent>,
    /// The attempt that made this pair, if one did.
    pub made_by: Option<AttemptId>,
    /// The last attempt on this chain.
    pub last_attempt: AttemptId,
    /// Attempts that failed since the last success.
    pub failures: Option<Failures>,
    /// The attempt whose pair is being written into the auth file in place.
    pub rewriting: Option<AttemptId>,
    /// Pairs of older lineages that were left in doubt.
    pub old_doubts: Vec<OldDoubt>,
    /// Adoptions of the last day that no import explains.
    pub adoptions: Vec<Timestamp>,
    /// The row was restored from a backup: its pair may be spent, and is not presented.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantined: Option<Quarantine>,
}

/// Where a chain stood when a machine last heard of it: the high-water mark of SPEC §4.
///
/// Attempts are numbered throughout a chain, so that a presentation that a restored row forgets is noticed too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// Number of the grant.
    pub lineage: Lineage,
    /// Number of the pair.
    pub generation: Generation,
    /// The last attempt to renew it.
    pub attempt: AttemptId,
}

impl Mark {
    /// Where it stands, without the attempts on it.
    pub fn position(self) -> (Lineage, Generation) {
        (self.lineage, self.generation)
    }
}

/// Why the pair of a row may be spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when.
    pub since: Timestamp,
    /// What some machine knows of the chain, and the row does not.
    pub behind: Mark,
}

impl Record {
    /// Where the record stands: readers never see it go backwards.
    pub fn position(&self) -> (Lineage, Generation) {
        (self.lineage, self.generation)
    }

    /// What a machine remembers of having seen this record.
    pub fn mark(&self) -> Mark {
        Mark { lineage: self.lineage, generation: self.generation, attempt: self.last_attempt }
    }

    /// The life of the access token.
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.life_secs)
    }

    /// The access token is unexpired and no 401 was seen at this generation.
    pub fn token_valid(&self, now: Timestamp) -> bool {
        now < self.expires_at && !self.access_refused
    }

    /// Whether somebody else seems to rotate this chain: two adoptions within a day that no import explains.
    pub fn second_writer(&self, now: Timestamp) -> bool {
        let recent = self.adoptions.iter().filter(|at| now.duration_since(**at).as_secs() < DAY_SECS);
        recent.count() >= 2
    }
}

pub(crate) const DAY_SECS: i64 = 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_names_are_plain() {
        for good in ["claude", "a", "0", "team-2_b", &"x".repeat(64)] {
            assert!(good.parse::<ChainName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "Claude", "a b", "a/b", "ä", &"x".repeat(65)] {
            assert!(bad.parse::<ChainName>().is_err(), "{bad}");
        }
    }
}
