//! Simulates replicas on one database for years: the real row keeper, receipts and marks of several machines on a seeded
//! executor, with a database that is cut off, goes away, loses acknowledgements and is restored from a backup, and a
//! provider behind a network that loses, delays and cuts. After each step the invariants of SPEC §4 are checked.

mod database;
mod provider;
mod reference;
mod run;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sim::reference::Violation;

/// So many chains lie in the database.
const CHAINS: usize = 3;

/// Every kind of misfortune, by name.
pub const FAULTS: [&str; 24] = [
    "death at an await",
    "death within a file operation",
    "power loss",
    "operation on a full disk",
    "process that stood still",
    "wall clock that is off",
    "machine cut off from the database",
    "database away",
    "write that did not arrive",
    "lost acknowledgement",
    "database restored from a backup",
    "machine away for hours",
    "lost request",
    "lost answer",
    "cut answer",
    "slow answer",
    "late answer",
    "no connection",
    "503 or 529",
    "5xx, unspent",
    "5xx, spent",
    "429",
    "login revoked",
    "login again",
];

/// What the world lies about, so that the keeper is broken in one way without a switch in its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Leases are granted to everybody.
    LeaseIgnored,
    /// A login ends the lease of whoever is sending.
    LoginEndsLease,
    /// A process may stand still for longer than the pause bound.
    PausesUnbounded,
    /// Intents are acknowledged, and never written.
    IntentNotWritten,
    /// A commit is taken wherever the row stands.
    CommitAnywhere,
    /// A commit is taken only under a lease: a late answer is dropped.
    LateAnswerFenced,
    /// All machines have the same name: nobody waits for another one's receipt.
    OneName,
    /// Machines forget how far each chain had come.
    NoMarks,
    /// Tokens are sent at once after a restore: nobody gets the time to say that he has seen more.
    NobodyHeld,
    /// A lost answer is told as a request that was never sent.
    DoubtAsFailed,
    /// The answer's write into its receipt is acknowledged, and the receipt is gone when the process is.
    ReceiptsForgotten,
    /// The answer's write into its receipt is acknowledged, and never happens.
    AnswerDropped,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::LeaseIgnored,
        Self::LoginEndsLease,
        Self::PausesUnbounded,
        Self::IntentNotWritten,
        Self::CommitAnywhere,
        Self::LateAnswerFenced,
        Self::OneName,
        Self::NoMarks,
        Self::NobodyHeld,
        Self::DoubtAsFailed,
        Self::ReceiptsForgotten,
        Self::AnswerDropped,
    ];
}

/// How often each misfortune befell.
pub type Tally = BTreeMap<&'static str, u64>;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Simulated time.
    pub simulated: Duration,
    /// Rotations that the provider counted.
    pub rotations: u64,
    /// Misfortunes.
    pub tally: Tally,
    /// Logins that ended because an answer was never delivered: the one window that stays open.
    pub undelivered: u64,
    /// What did not hold; a run ends with the first.
    pub violation: Option<Violation>,
    /// The last lines of the trace.
    pub trace: Vec<String>,
}

/// Runs one seed for about so many simulated days.
pub fn run(seed: u64, days: u64, machines: usize) -> Outcome {
    run_lying(seed, days, machines, None)
}

/// The same in a world that lies.
pub fn run_lying(seed: u64, days: u64, machines: usize, lie: Option<Lie>) -> Outcome {
    run::Sim::new(seed, machines, lie).run(days)
}
