//! Model check of the rotation protocol: every interleaving of keepers, provider, network, people and crashes within
//! bounds, with the decisions of `core` themselves, against the invariants of SPEC §4.
//!
//! Two vaults are modelled: the auth file, and the database with one row a chain, a lease, and receipts on each machine's
//! own disk.

mod bounds;
mod bridge;
mod environment;
mod file;
mod healing;
mod keeper;
mod network;
mod restored;
mod search;
mod sending;
mod state;
#[cfg(test)]
mod tests;
mod tidy;

use std::cell::Cell;

pub use bounds::{Run, full, short};
use bridge::Bridge;
pub use environment::Action;
pub use search::{Checked, Trace};
use state::At;
pub use state::Budget;

/// Where a chain's pair is of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vault {
    /// An auth file, and the folder beside it; guarded by a lock that its holder's death frees.
    AuthFile,
    /// A row; guarded by a lease.
    Database,
}

/// How the provider treats a refresh token that comes twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It refuses it.
    Strict {
        /// And revokes the whole login.
        revokes: bool,
    },
    /// It takes it for a while, and then is strict.
    Grace,
    /// It does not rotate.
    None,
}

/// A way to break the protocol. Each must make the check fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// A keeper does not look whether another has the lock.
    LockIgnored,
    /// A keeper does not look whether another has the lease.
    LeaseIgnored,
    /// A lease is taken over while its holder may still be about to send.
    PauseBoundDropped,
    /// The pair is presented before its intent is durable.
    SendBeforeIntent,
    /// Readers are told before the answer is durable.
    PublishBeforeSync,
    /// The answer is committed without a receipt.
    ReceiptSkipped,
    /// No answer is taken for a failure that spent nothing.
    DoubtAsFailed,
    /// A 5xx is taken for one.
    ServerErrorAsUnspent,
    /// The answer of an older lineage is committed.
    StaleLineage,
    /// Another pair is adopted before the receipts are looked at.
    AdoptBeforeReceipts,
    /// A pair that a rotation replaced is adopted.
    ReplacedAdopted,
    /// All attempts share one receipt file.
    ReceiptShared,
    /// A pair is presented again while the first answer is still being read.
    PresentWhileRead,
    /// Another machine presents while the receipt lies on the first.
    OtherMachinePresents,
    /// The file is renamed over, without a look at what it replaces.
    PlainRename,
    /// A file that was taken away is made again.
    RemovedMadeAgain,
    /// Readers take an older snapshot.
    OlderSnapshot,
    /// An answer that could not be written down is forgotten after one look.
    MemoryForgotten,
    /// A 5xx is taken for a refusal.
    ServerErrorAsRefused,
    /// A dead process keeps its lock.
    LockOutlivesItsHolder,
    /// A receipt with a pair is never committed.
    ReceiptLeft,
    /// An open intent is never settled.
    IntentLeft,
    /// Nobody sees that a pair is due.
    DueUnseen,
    /// A restored database takes intents at once.
    NobodyHeld,
    /// It takes them again while somebody may still be about to send from before.
    HoldTooShort,
    /// A machine does not compare a row with what it has seen.
    MarksIgnored,
}

/// What a check should have come across, or it has not looked where it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Sometimes {
    DeadlineBeforeSending,
    BeingRead,
    LateAnswerCommitted,
    OwnCommitFinished,
    RolledForward,
    Spent,
    PresentedAgain,
    RefusedThenCommitted,
    EditSwappedOut,
    RemovedMeanwhile,
    Adopted,
    ForeignRotation,
    OlderSnapshotRefused,
    TakenOver,
    LeaseLost,
    LostAcknowledgement,
    ChainMovedBeforeCommit,
    WaitsForOtherMachine,
    Outdated,
    Held,
    BroughtUp,
    Forgotten,
    Quarantined,
}

impl Sometimes {
    /// What only a lease brings about.
    #[cfg(test)]
    const OF_LEASES: [Self; 9] = [
        Self::TakenOver,
        Self::LeaseLost,
        Self::LostAcknowledgement,
        Self::ChainMovedBeforeCommit,
        Self::WaitsForOtherMachine,
        Self::Held,
        Self::BroughtUp,
        Self::Forgotten,
        Self::Quarantined,
    ];
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::DeadlineBeforeSending,
        Self::BeingRead,
        Self::LateAnswerCommitted,
        Self::OwnCommitFinished,
        Self::RolledForward,
        Self::Spent,
        Self::PresentedAgain,
        Self::RefusedThenCommitted,
        Self::EditSwappedOut,
        Self::RemovedMeanwhile,
        Self::Adopted,
        Self::ForeignRotation,
        Self::OlderSnapshotRefused,
        Self::TakenOver,
        Self::LeaseLost,
        Self::LostAcknowledgement,
        Self::ChainMovedBeforeCommit,
        Self::WaitsForOtherMachine,
        Self::Outdated,
        Self::Held,
        Self::BroughtUp,
        Self::Forgotten,
        Self::Quarantined,
    ];
}

/// The bounds of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Which vault.
    pub vault: Vault,
    /// Which provider.
    pub class: Class,
    /// How many keepers, up to 3.
    pub keepers: usize,
    /// What may go wrong.
    pub budget: Budget,
}

impl Config {
    /// How old an access token grows: 1, its last part; 2, its end, for which another machine waits.
    fn oldest(&self) -> u8 {
        match self.vault {
            Vault::AuthFile => 1,
            Vault::Database => 2,
        }
    }
}

/// Something that must hold and does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which property of SPEC §4.
    pub property: &'static str,
    /// What happened.
    pub what: String,
}

impl Violation {
    fn new(property: &'static str, what: impl Into<String>) -> Self {
        Self { property, what: what.into() }
    }
}

/// The model.
pub struct Model {
    config: Config,
    broken: Option<Break>,
    bridge: Bridge,
    /// The only property that is looked at; `None`: all of them.
    watched: Option<&'static str>,
    sometimes: Cell<u64>,
    crashed: Cell<u64>,
}

impl Model {
    /// The protocol as it is, or broken in one way.
    pub fn new(config: Config, broken: Option<Break>) -> Self {
        let bridge = Bridge::new(config.class, broken);
        Self { config, broken, bridge, watched: None, sometimes: Cell::new(0), crashed: Cell::new(0) }
    }

    /// Looks at one property only: a broken protocol may break another one earlier.
    #[must_use]
    pub fn watching(self, property: &'static str) -> Self {
        Self { watched: Some(property), ..self }
    }

    fn counts(&self, violation: &Violation) -> bool {
        self.watched.is_none_or(|watched| watched == violation.property)
    }

    fn saw(&self, what: Sometimes) {
        self.sometimes.set(self.sometimes.get() | 1 << what as u64);
    }

    fn reached(&self) -> Vec<Sometimes> {
        let reached = self.sometimes.get();
        Sometimes::ALL.into_iter().filter(|what| reached & 1 << *what as u64 != 0).collect()
    }

    fn crashed(&self, at: &At) {
        self.crashed.set(self.crashed.get() | 1 << at.number());
    }

    fn crashed_in(&self) -> Vec<&'static str> {
        let crashed = self.crashed.get();
        let numbered = At::NAMES.into_iter().enumerate();
        numbered.filter(|(number, _)| crashed & 1 << number != 0).map(|(_, name)| name).collect()
    }

    /// The steps in which a keeper may die; what a process tells its own readers is none.
    pub fn steps() -> impl Iterator<Item = &'static str> {
        At::NAMES.into_iter().filter(|name| *name != "Publish")
    }
}
