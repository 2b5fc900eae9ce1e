//! What the ledger remembers of a chain: one event for everything that was done or found (SPEC §1).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::chain::{AttemptId, ChainName, Generation, Lineage};
use crate::reason::Reason;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A pair was presented.
    Intended,
    /// A new pair was committed.
    Committed,
    /// The provider refused the pair for good.
    Refused,
    /// An attempt failed and the pair is unspent.
    Unspent,
    /// Nobody knows whether the pair was spent.
    InDoubt,
    /// A grant came from outside: found in the vault or imported.
    Adopted,
    /// The vault was found in a state that needs somebody.
    Found,
    /// The probe ran.
    Probed,
    /// An agent's heartbeat came.
    Beat,
    /// An agent pushed a grant.
    Pushed,
}

impl EventKind {
    /// The code as it stands in JSON and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::Unspent => "unspent",
            Self::InDoubt => "in_doubt",
            Self::Adopted => "adopted",
            Self::Found => "found",
            Self::Probed => "probed",
            Self::Beat => "beat",
            Self::Pushed => "pushed",
        }
    }
}

/// One line of the ledger. It never holds a token; `detail` holds fingerprints and counts at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The chain.
    pub chain: ChainName,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// Why.
    pub reason: Reason,
    /// The lineage that it is about.
    pub lineage: Lineage,
    /// The generation that it is about.
    pub generation: Generation,
    /// The attempt that it belongs to, if any: an event of one attempt and kind is written once only.
    pub attempt: Option<AttemptId>,
    /// More, for a person.
    pub detail: Value,
}
