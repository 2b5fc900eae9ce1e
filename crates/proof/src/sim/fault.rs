//! Every kind of misfortune that the simulator knows, and how often each befell a run.

macro_rules! faults {
    ($($(#[doc = $doc:literal])* $kind:ident => $name:literal,)*) => {
        /// A kind of misfortune.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault {
            $($(#[doc = $doc])* $kind,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// For people.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

faults! {
    /// A process died at an await.
    DeathAtAwait => "death at an await",
    /// A process died within a file operation.
    DeathOnDisk => "death within a file operation",
    /// All processes died, and what was not synced with them.
    PowerLoss => "power loss",
    /// A change of names that the power took.
    LostName => "unsynced name lost",
    /// Bytes that the power took or tore.
    TornBytes => "unsynced bytes lost or torn",
    /// An operation that found no room.
    NoRoom => "operation on a full disk",
    /// A disk that was full for a while.
    FullDisk => "full disk",
    /// A process that slept before or after a file operation.
    Stall => "stall",
    /// A wall clock that jumped, and stayed off.
    ClockJump => "clock jump",
    /// A write of the state whose acknowledgement was lost.
    LostAcknowledgement => "lost acknowledgement",
    /// A request that never arrived, and nobody knew.
    LostRequest => "lost request",
    /// The token was spent, and the answer lost.
    LostAnswer => "lost answer",
    /// An answer that was cut in the middle of its body.
    CutAnswer => "cut answer",
    /// An answer shortly before the deadline.
    SlowAnswer => "slow answer",
    /// An answer after the deadline.
    LateAnswer => "late answer",
    /// No connection at all.
    NotSent => "no connection",
    /// The provider's own 503 or 529: nothing was spent.
    Unavailable => "503 or 529",
    /// A 5xx of something before the provider: nothing was spent, and nobody can know.
    Bare5xx => "5xx, unspent",
    /// A 5xx though the token was spent.
    SpentThen5xx => "5xx, spent",
    /// A 429.
    Throttled => "429",
    /// A 403 of the provider's edge.
    Blocked => "403",
    /// The provider revoked the login.
    Revocation => "revocation",
    /// A person logged in again.
    Login => "login again",
    /// An older file was put back.
    OlderFile => "older file put back",
    /// The file was taken away.
    TakenAway => "file taken away",
    /// The file was put back as it was.
    PutAgain => "file put back",
    /// Something unreadable was written into the file.
    Garbage => "garbage",
    /// An edit that fell between two operations of a keeper.
    EditInBetween => "edit between two operations",
    /// An edit right before a keeper replaced the file.
    EditBeforeReplace => "edit right before a replacement",
    /// Another program that rotated the pair, without our locks.
    ForeignRotation => "foreign rotation",
}

/// How often each befell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally([u64; Fault::ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Fault::ALL.len()])
    }
}

impl Tally {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often this one befell.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// Adds another one's.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }
}
