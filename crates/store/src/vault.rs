//! A state that is itself a vault: each chain's pair is of record in its row, sealed (SPEC §4). Who may rotate a chain is
//! said by a lease in the row; what is committed is decided by where the row stands, never by the lease.

use std::future::Future;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::{Epoch, Mark, Record};
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;

use crate::seal::Sealed;
use crate::state::{State, StateError};

/// Who claims rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// This process: no other has the same name, nor one before it.
    pub process: String,
    /// The machine whose disk holds its receipts.
    pub machine: String,
}

/// A chain as it is of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// All but the tokens.
    pub record: Record,
    /// The tokens.
    pub sealed: Sealed,
    /// Rises with every claim.
    pub epoch: Epoch,
}

/// The right to rotate a chain, until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The row as it stood when it was claimed.
    pub row: Row,
    /// Who claimed it.
    pub process: String,
}

/// What became of the wish for one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours.
    Ours(Box<Claim>),
    /// Somebody else has it.
    Held(Box<Row>),
    /// There is no such row.
    Unknown,
}

/// What is written into a row.
#[derive(Debug, Clone, Copy)]
pub struct NextRow<'a> {
    /// All but the tokens.
    pub record: &'a Record,
    /// Other tokens; nothing: those that it holds.
    pub sealed: Option<&'a Sealed>,
    /// Pairs that are spent, and since when.
    pub replaced: &'a [(Fingerprint, Timestamp)],
    /// For the ledger.
    pub events: &'a [Event],
    /// When the row is to be looked at next; nothing: not before somebody asks. Under a lease: when that ends.
    pub wakes_at: Option<Timestamp>,
}

/// A row that is to be made, without an event: for many at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// All but the tokens.
    pub record: Record,
    /// The tokens.
    pub sealed: Sealed,
    /// When the row is to be looked at next.
    pub wakes_at: Option<Timestamp>,
}

/// A chain whose health is to be looked at. What is found counts only where nobody has written its row since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthClaim {
    /// Its name.
    pub chain: ChainName,
    /// Its row as it stands; nothing: the database has lost it.
    pub row: Option<Row>,
    /// Nobody else looks at it before then, unless somebody writes it.
    pub until: Timestamp,
}

/// What a look at the health of a row came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthLooked {
    /// Its chain.
    pub chain: ChainName,
    /// The claim under which it was looked at.
    pub until: Timestamp,
    /// When it is to be looked at next, if nobody writes it; nothing: not before somebody does.
    pub next_at: Option<Timestamp>,
    /// An episode of it is open: whoever writes the row lets it be looked at at once.
    pub open: bool,
}

/// So many rows are made in one transaction, and so many changes are read at once, at most: readers who follow see all
/// of a transaction in one page.
pub const MOST_AT_ONCE: usize = 10_000;

/// A row that is given back is looked at again so much later at least: it is due by the database's clock, and may not be by
/// that of the machine that looked.
pub const RELEASED: Duration = Duration::from_secs(1);

/// So many of the last events of a chain tell of its health.
pub const LATEST: usize = 20;

/// A place in the order of changes of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ChangesCursor(pub u64);

/// What changed since a place in that order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Rows that may have changed, and where they stand; one may be told more than once.
    pub rows: Vec<(ChainName, Mark)>,
    /// Where to go on.
    pub cursor: ChangesCursor,
    /// There is more already.
    pub more: bool,
    /// The cursor lies in the future: the database is another one than it was, or an older copy of it.
    pub begins_anew: bool,
}

/// One life of a database: from one start of its server to the next, and of one history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incarnation {
    /// No other has the same.
    pub id: String,
    /// For so long yet no intent is taken.
    pub held: Option<Duration>,
}

/// What the keeper of a database vault needs of a state. Every verb is atomic; leases are timed by the database's clock.
pub trait VaultState: State {
    /// Claims up to `most` rows that are due and nobody's, longest due first.
    fn claim_due(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Claim>, StateError>> + Send;

    /// Claims up to `most` rows whose open intent is this machine's, and whose lease has ended: others wait for what
    /// this machine has to say.
    fn claim_left_open(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Claim>, StateError>> + Send;

    /// Claims one row, due or not.
    fn claim(
        &self,
        chain: &ChainName,
        holder: &Holder,
        lease: Duration,
    ) -> impl Future<Output = Result<Claimed, StateError>> + Send;

    /// Makes an intent durable, and lets the lease end `lease` from now. Says whether it was done: not under a lease that
    /// somebody else has taken over, nor where the row has moved since it was claimed, nor while intents are
    /// [held](Incarnation::held), nor in an incarnation that nobody has asked for.
    fn begin_rotation(
        &self,
        claim: &Claim,
        next: NextRow<'_>,
        lease: Duration,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Writes what became of an attempt, the next pair or an outcome without one, where nobody has moved the chain or made
    /// another attempt since it was read; whoever holds the lease. Ends the lease. Says whether it was done.
    fn settle_rotation(
        &self,
        before: Mark,
        next: NextRow<'_>,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Writes that no answer came to an attempt: only under the claim, which it gives back, and where the row stands as it
    /// was claimed. Says whether it was done.
    fn doubt_rotation(
        &self,
        claim: &Claim,
        next: NextRow<'_>,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Gives a claim back, until `wakes_at`, and for [`RELEASED`] at least. A row that has moved since it was claimed is
    /// looked at at once, whatever `wakes_at` says.
    fn release(
        &self,
        claim: &Claim,
        wakes_at: Option<Timestamp>,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Puts a grant from outside into the row, where it still stands at `before` (nothing: there was none), whoever holds
    /// the lease. He keeps it: what he has sent may still be on its way, and nobody else may send meanwhile. Says whether it
    /// was done: not with a pair that is known to be spent.
    fn take_in(
        &self,
        before: Option<Mark>,
        next: NextRow<'_>,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Puts grants of chains into rows of their own, of which there were none. Says how many that were; a chain that has a
    /// row keeps it.
    fn take_in_new(&self, rows: &[NewRow]) -> impl Future<Output = Result<u64, StateError>> + Send;

    /// Remembers that a pair of the chain is spent, and since when, if that is not known yet. The row stays as it is.
    fn add_replaced(
        &self,
        chain: &ChainName,
        spent: Fingerprint,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// The row of a chain.
    fn row(&self, chain: &ChainName) -> impl Future<Output = Result<Option<Row>, StateError>> + Send;

    /// Up to `most` rows whose names follow `after`, by name.
    fn rows_after(
        &self,
        after: Option<&ChainName>,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Row>, StateError>> + Send;

    /// Puts the same pair under another seal in the place of `old`. Says whether it was done.
    fn reseal(
        &self,
        chain: &ChainName,
        old: &Sealed,
        new: &Sealed,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Claims up to `most` chains whose health is to be looked at now, longest due first. Such a claim is no right to
    /// rotate them. A row that cannot be read is looked at again when the claim ends.
    fn claim_health(
        &self,
        lease: Duration,
        most: usize,
    ) -> impl Future<Output = Result<Vec<HealthClaim>, StateError>> + Send;

    /// Says when rows are looked at next; not of those that somebody wrote after they were claimed, and to whose health
    /// that may matter: they are looked at at once.
    fn settle_health(&self, looked: &[HealthLooked]) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Lets the health of a chain be looked at now: something happened to it that is not in its row.
    fn wake_health(&self, chain: &ChainName) -> impl Future<Output = Result<(), StateError>> + Send;

    /// What the ledger has of some chains since then, by chain and in order; of each the last [`LATEST`] at most.
    fn events_since(
        &self,
        chains: &[ChainName],
        since: Timestamp,
    ) -> impl Future<Output = Result<Vec<Event>, StateError>> + Send;

    /// The rows that changed since `cursor`, some `most` at a time; none are passed over, whatever order their
    /// transactions end in. Without a cursor: where to begin.
    fn changes(
        &self,
        cursor: Option<ChangesCursor>,
        most: usize,
    ) -> impl Future<Output = Result<Changes, StateError>> + Send;

    /// The database's incarnation. If nobody has asked for it before, intents are held for `hold` from now on: it may be an
    /// older copy of itself, and whoever has seen more can say so meanwhile.
    fn incarnation(&self, hold: Duration) -> impl Future<Output = Result<Incarnation, StateError>> + Send;

    /// Holds intents for at least `hold` from now on: somebody still compares.
    fn hold_on(&self, hold: Duration) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Those of these chains whose rows stand before these marks.
    fn behind(
        &self,
        marks: &[(ChainName, Mark)],
    ) -> impl Future<Output = Result<Vec<ChainName>, StateError>> + Send;

    /// Lets the health of those chains be looked at of which this database has neither a row nor an event: it was restored
    /// from before they came in. Says which they are, each once.
    fn miss(&self, chains: &[ChainName]) -> impl Future<Output = Result<Vec<ChainName>, StateError>> + Send;
}
