//! A state of the model: all that is durable, all that is in flight, what each keeper is about to do, and a few
//! ghosts that only the properties read. Small and `Copy`, since there are millions.

use std::fmt;

use evergrant_core::keeper::{Look, Swap};

/// Logins at the provider, the first one included.
pub(super) const FAMILIES: usize = 3;
/// Pairs of one login: generation 0 is the login's own.
pub(super) const GENERATIONS: usize = 3;
/// Attempts, of which each has its receipt.
pub(super) const ATTEMPTS: usize = 4;
/// Keepers.
pub(super) const KEEPERS: usize = 3;

/// A pair that the provider gave, by login and generation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair(pub u8);

impl Pair {
    pub(super) const fn new(family: usize, generation: usize) -> Self {
        Self((family * GENERATIONS + generation) as u8)
    }
    pub(super) fn family(self) -> usize {
        usize::from(self.0) / GENERATIONS
    }
    pub(super) fn generation(self) -> usize {
        usize::from(self.0) % GENERATIONS
    }
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..FAMILIES * GENERATIONS).map(|index| Self(index as u8))
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(b'A' + self.family() as u8), self.generation())
    }
}

/// A set of pairs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Pairs(u16);

impl Pairs {
    pub(super) fn has(self, pair: Pair) -> bool {
        self.0 & (1 << pair.0) != 0
    }
    pub(super) fn add(&mut self, pair: Pair) {
        self.0 |= 1 << pair.0;
    }
    /// Only those of `others` stay.
    pub(super) fn keep(&mut self, others: Self) {
        self.0 &= others.0;
    }
    pub(super) fn remove(&mut self, pair: Pair) {
        self.0 &= !(1 << pair.0);
    }
}

impl fmt::Debug for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Pair::all().filter(|pair| self.has(*pair))).finish()
    }
}

/// What the auth file holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Content {
    /// There is no file.
    #[default]
    Missing,
    /// Not readable as a grant.
    Garbage,
    /// A grant.
    Grant(Pair),
}

/// What came back for an exchange.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// 200 with a pair.
    Tokens(Pair),
    /// `invalid_grant`.
    InvalidGrant,
    /// A 502: it may come from behind the provider's commit.
    ServerError,
    /// The provider's own error object with a 503: nothing was spent.
    Unavailable,
    /// The connection was closed.
    Lost,
    /// Nothing was sent.
    NotSent,
}

/// Where an exchange is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Net {
    /// Nothing is on the way.
    #[default]
    Quiet,
    /// On its way to the provider.
    Request,
    /// On its way back.
    Answered(Answer),
}

/// One attempt to rotate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Attempt {
    /// Which keeper, from 1; 0: there was none.
    pub by: u8,
    /// The lineage that was presented.
    pub lineage: u8,
    /// The generation that was presented.
    pub generation: u8,
    /// The pair that was presented.
    pub presented: Option<Pair>,
    /// The exchange.
    pub net: Net,
    /// Its task lives and waits for the answer; it holds the receipt's lock.
    pub reading: bool,
    /// Its deadline has passed.
    pub late: bool,
    /// Ghost: it was handed to the network.
    pub sent: bool,
    /// Ghost: an answer has proven that it spent nothing.
    pub unspent: bool,
    /// An answer that could not be written down, in the memory of its keeper.
    pub memory: Option<Answer>,
}

/// One receipt file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) enum Receipt {
    /// None.
    #[default]
    Missing,
    /// Room for the answer of this attempt.
    Reserved(u8),
    /// The answer of this attempt.
    Answered(u8, Answer),
}

/// What is known of the record's pair, as far as decisions depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Standing {
    /// Live.
    Live,
    /// In doubt; how often presented again, up to 2.
    InDoubt(u8),
    /// Refused, confirmed or not.
    Refused(bool),
}

/// Where a chain stood: lineage, generation, attempt.
pub(super) type Mark = (u8, u8, u8);

/// The record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Rec {
    /// Number of the grant.
    pub lineage: u8,
    /// Number of the pair.
    pub generation: u8,
    /// The pair.
    pub pair: Pair,
    /// What is known of it.
    pub standing: Standing,
    /// A 401 was seen.
    pub access_refused: bool,
    /// The attempt of the open intent; 0: none.
    pub intent: u8,
    /// The attempt that made the pair; 0: none.
    pub made_by: u8,
    /// The last attempt.
    pub last_attempt: u8,
    /// Pairs of older lineages left in doubt.
    pub old_doubts: Pairs,
    /// Nobody knows whose the open intent is: the row forgot it.
    pub nobodys: bool,
    /// It is older than what some machine has seen.
    pub behind: Option<Mark>,
}

impl Rec {
    pub(super) fn position(&self) -> (u8, u8) {
        (self.lineage, self.generation)
    }
    pub(super) fn mark(&self) -> Mark {
        (self.lineage, self.generation, self.last_attempt)
    }
}

/// A database that may be restored, and what the machines remember for that.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Restored {
    /// The row as it was backed up.
    pub backup: Option<Rec>,
    /// The highest attempt that was ever made: a restored row forgets some, and here their numbers are not given once more.
    pub given: u8,
    /// Where each machine has seen the chain.
    pub marks: [Option<Mark>; KEEPERS],
    /// It was restored.
    pub was: bool,
    /// It takes no intent until all have compared.
    pub held: bool,
    /// Who has compared.
    pub compared: [bool; KEEPERS],
}

/// What a keeper does next. What it read is in its other fields.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum At {
    /// It waits.
    #[default]
    Idle,
    /// It holds the lock, and reads.
    Look,
    /// It puts our new file beside the old one.
    Stage(Goal),
    /// It exchanges the two.
    Exchange(Goal),
    /// It looks at what came out.
    CameOut(Goal),
    /// It gives what came out the name under which it goes back.
    PutBack(Goal),
    /// It makes the file where there is none, for an import.
    MakeFile(Pair),
    /// It remembers the replaced pair.
    Remember(u8),
    /// It writes the record with the next generation.
    Books(u8),
    /// It remembers where the chain stands now, if that is of use, and drops receipts but the one that made its pair.
    DropReceipts(Option<Mark>),
    /// It writes the record that an answer without a pair leads to.
    Settle(u8),
    /// It writes down that the open intent is in doubt.
    Doubt,
    /// It remembers what the answer of an older lineage shows to be spent.
    Outdate(u8),
    /// It takes in what the file holds.
    Adopt,
    /// It takes in what was imported.
    TakeIn(Pair),
    /// It reserves a receipt.
    Reserve,
    /// It writes the intent.
    Intend(u8),
    /// It looks at its deadline.
    Check(u8),
    /// It sends.
    Send(u8),
    /// It waits for the answer, with the lock.
    Await(u8),
    /// It has the answer, and writes the receipt.
    Keep(u8, Answer),
    /// It commits an answer with one transaction (database).
    Commit(u8),
    /// The look is over and the lock is free; readers are told.
    Publish(Option<Seen>),
}

impl At {
    /// The steps by name, as numbered.
    pub(super) const NAMES: [&'static str; 23] = [
        "Idle",
        "Look",
        "Stage",
        "Exchange",
        "CameOut",
        "PutBack",
        "MakeFile",
        "Remember",
        "Books",
        "DropReceipts",
        "Settle",
        "Doubt",
        "Outdate",
        "Adopt",
        "TakeIn",
        "Reserve",
        "Intend",
        "Check",
        "Send",
        "Await",
        "Keep",
        "Commit",
        "Publish",
    ];

    /// Whether this step is about that attempt.
    pub(super) fn means(self, number: u8) -> bool {
        match self {
            Self::Stage(goal) | Self::Exchange(goal) | Self::CameOut(goal) | Self::PutBack(goal) => {
                matches!(goal, Goal::Commit(of) | Goal::Forward(of) if of == number)
            }
            Self::Remember(of) | Self::Books(of) | Self::Settle(of) | Self::Intend(of) => of == number,
            Self::Check(of) | Self::Send(of) | Self::Await(of) | Self::Keep(of, _) => of == number,
            Self::Commit(of) | Self::Outdate(of) => of == number,
            Self::Idle | Self::Look | Self::MakeFile(_) | Self::DropReceipts(_) | Self::Doubt => false,
            Self::Adopt | Self::TakeIn(_) | Self::Reserve | Self::Publish(_) => false,
        }
    }

    pub(super) fn number(&self) -> usize {
        match self {
            Self::Idle => 0,
            Self::Look => 1,
            Self::Stage(..) => 2,
            Self::Exchange(..) => 3,
            Self::CameOut(..) => 4,
            Self::PutBack(..) => 5,
            Self::MakeFile(..) => 6,
            Self::Remember(..) => 7,
            Self::Books(..) => 8,
            Self::DropReceipts(..) => 9,
            Self::Settle(..) => 10,
            Self::Doubt => 11,
            Self::Outdate(..) => 12,
            Self::Adopt => 13,
            Self::TakeIn(..) => 14,
            Self::Reserve => 15,
            Self::Intend(..) => 16,
            Self::Check(..) => 17,
            Self::Send(..) => 18,
            Self::Await(..) => 19,
            Self::Keep(..) => 20,
            Self::Commit(..) => 21,
            Self::Publish(..) => 22,
        }
    }
}

/// Why a file is exchanged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Goal {
    /// To commit this receipt, where the file has what was presented.
    Commit(u8),
    /// To put this receipt's pair back over a replaced one.
    Forward(u8),
    /// To bring an import in.
    Import(Pair),
    /// To put an edit back that an earlier process swapped out.
    Back,
}

/// What readers see.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Seen {
    /// Lineage and generation.
    pub position: (u8, u8),
    /// The pair.
    pub pair: Pair,
}

/// A keeper's process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Keeper {
    /// What it does next.
    pub at: At,
    /// The look was forced.
    pub forced: bool,
    /// The look has no lease: it compares what its machine has seen with a restored row.
    pub compares: bool,
    /// The access token was refused at this position.
    pub refused: Option<(u8, u8)>,
    /// An import that waits for the look to end.
    pub import: Option<Pair>,
    /// What the file held when it was read.
    pub read: Option<Content>,
    /// An answer in memory that this look settles; 0: none.
    pub settles: u8,
    /// What its readers see.
    pub snapshot: Option<Seen>,
    /// Another look of this process that has not published yet.
    pub background: Option<Seen>,
}

/// A login at the provider.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Family {
    /// It exists.
    pub exists: bool,
    /// The newest generation that was given.
    pub newest: u8,
    /// It is revoked.
    pub revoked: bool,
    /// 0: a reuse is within the grace, also by the keeper's count; 1: only by the provider's; 2: by nobody's.
    pub grace: u8,
}

/// A file beside the auth file, with what should have come out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Staged {
    /// What its name says.
    pub swap: Swap<Content>,
    /// What lies there.
    pub lies: Content,
}

/// What only the properties read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Ghost {
    /// Pairs that the file has held: an operator may put them back.
    pub was_in_file: Pairs,
    /// Pairs that were durable once, in the vault or in a receipt.
    pub durable: Pairs,
    /// Pairs whose whole answer reached a process, and was not lost with it before step 6.
    pub received: Pairs,
    /// Pairs to which the provider said `invalid_grant`.
    pub refused: Pairs,
    /// Pairs that a rotation replaced by another refresh token.
    pub replaced: Pairs,
    /// An outside edit that no look has read yet.
    pub unseen: Option<Content>,
    /// The file's content was written by a keeper.
    pub file_is_ours: bool,
}

/// As often as the total allows.
pub(super) const ANY: u8 = u8::MAX;

/// What may still go wrong. A kind is a number, or [`ANY`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Budget {
    /// Of everything together.
    pub total: u8,
    /// Crashes of a keeper.
    pub crashes: u8,
    /// Requests and answers that are lost.
    pub lost: u8,
    /// Deadlines and leases that pass, and publications that wait.
    pub pauses: u8,
    /// Answers of the provider's that are no pair.
    pub errors: u8,
    /// Logins, files put back, removed, or spoilt.
    pub edits: u8,
    /// Grants handed in.
    pub imports: u8,
    /// Rotations by somebody else.
    pub foreign: u8,
    /// Logins that the provider ends.
    pub revocations: u8,
    /// Receipts that cannot be written, and acknowledgements that are lost.
    pub disk: u8,
    /// Databases that are restored from a backup.
    pub restores: u8,
}

/// A state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    /// The provider's logins.
    pub families: [Family; FAMILIES],
    /// How old each pair's access token is: 0 young, 1 in its last part, 2 ended.
    pub ages: [u8; FAMILIES * GENERATIONS],
    /// The auth file.
    pub file: Content,
    /// What lies beside it.
    pub staged: Option<Staged>,
    /// The record beside the file, or the chain's row.
    pub record: Option<Rec>,
    /// A restored database.
    pub restored: Restored,
    /// The list of replaced pairs.
    pub replaced: Pairs,
    /// Who holds lock or lease, from 1; 0: nobody.
    pub holder: u8,
    /// Receipts, by file name.
    pub receipts: [Receipt; ATTEMPTS],
    /// Attempts, by number less 1.
    pub attempts: [Attempt; ATTEMPTS],
    /// The keepers.
    pub keepers: [Keeper; KEEPERS],
    /// What only the properties read.
    pub ghost: Ghost,
    /// What may still go wrong.
    pub left: Budget,
}

impl State {
    /// One login in the vault, and nothing else.
    pub(super) fn first(left: Budget) -> Self {
        let pair = Pair::new(0, 0);
        let mut state = Self {
            families: Default::default(),
            ages: Default::default(),
            file: Content::Grant(pair),
            staged: None,
            record: None,
            restored: Restored::default(),
            replaced: Pairs::default(),
            holder: 0,
            receipts: Default::default(),
            attempts: Default::default(),
            keepers: Default::default(),
            ghost: Ghost::default(),
            left,
        };
        state.families[0].exists = true;
        state.ghost.durable.add(pair);
        state.ghost.was_in_file.add(pair);
        state
    }

    pub(super) fn attempt(&self, number: u8) -> &Attempt {
        &self.attempts[usize::from(number) - 1]
    }

    pub(super) fn attempt_mut(&mut self, number: u8) -> &mut Attempt {
        &mut self.attempts[usize::from(number) - 1]
    }

    /// Whether one more generation of a login is within the bounds.
    pub(super) fn has_room(&self, family: usize) -> bool {
        usize::from(self.families[family].newest) + 1 < GENERATIONS
    }

    pub(super) fn age(&self, pair: Pair) -> u8 {
        self.ages[usize::from(pair.0)]
    }

    /// Whether the access token of a pair still works at the provider.
    pub(super) fn access_lives(&self, pair: Pair) -> bool {
        !self.families[pair.family()].revoked && self.age(pair) < 2
    }

    /// Whether a receipt holds this pair.
    pub(super) fn in_receipt(&self, pair: Pair) -> bool {
        self.receipts
            .iter()
            .any(|receipt| matches!(receipt, Receipt::Answered(_, Answer::Tokens(held)) if *held == pair))
    }
}

impl Budget {
    /// Everything but a restore, so often together.
    pub fn anything(total: u8) -> Self {
        Self {
            total,
            crashes: ANY,
            lost: ANY,
            pauses: ANY,
            errors: ANY,
            edits: ANY,
            imports: ANY,
            foreign: ANY,
            revocations: ANY,
            disk: ANY,
            restores: 0,
        }
    }
}

/// The look that a keeper takes.
pub(super) fn look(forced: bool) -> Look {
    if forced { Look::Forced } else { Look::Due }
}
