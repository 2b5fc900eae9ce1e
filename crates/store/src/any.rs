//! A state of either kind, as the configuration says (SPEC §12).

use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::alert::{
    Acknowledgement, Book, BookChange, Delivery, Episode, EpisodeId, Settled, SinkState,
};
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::{Mark, Record};
use evergrant_core::event::Event;
use evergrant_core::health::{PushFacts, PushSeen, Span};
use evergrant_core::push::Identity;
use evergrant_core::secret::Fingerprint;
use jiff::{SignedDuration, Timestamp};

use crate::health::HealthState;
use crate::postgres::PostgresState;
use crate::seal::Sealed;
use crate::sqlite::SqliteState;
use crate::state::{Numbered, State, StateError};
use crate::vault::{
    Changes, ChangesCursor, Claim, Claimed, HealthClaim, HealthLooked, Holder, Incarnation, NewRow, NextRow,
    Row, VaultState,
};

/// The state of a server: of this machine alone, or of many.
#[derive(Debug, Clone)]
pub enum AnyState {
    /// A file on this machine. Pairs are of record in auth files.
    Sqlite(SqliteState),
    /// A database that several machines share.
    Postgres(PostgresState),
}

/// Hands each verb on to whichever state it is.
macro_rules! delegate {
    ($of:ident: $($verb:ident($($name:ident: $kind:ty),*) -> $given:ty;)*) => {
        $(async fn $verb(&self $(, $name: $kind)*) -> $given {
            match self {
                Self::Sqlite(state) => $of::$verb(state $(, $name)*).await,
                Self::Postgres(state) => $of::$verb(state $(, $name)*).await,
            }
        })*
    };
}

impl State for AnyState {
    delegate! { State:
        record(chain: &ChainName) -> Result<Option<Record>, StateError>;
        bring_up(record: &Record, replaced: Option<(Fingerprint, Timestamp)>, events: &[Event]) -> Result<bool, StateError>;
        add_events(events: &[Event]) -> Result<(), StateError>;
        events(chain: &ChainName, after: u64, most: usize) -> Result<Vec<Numbered>, StateError>;
        latest_events(chain: &ChainName, most: usize) -> Result<Vec<Numbered>, StateError>;
        was_replaced(chain: &ChainName, fingerprint: Fingerprint) -> Result<bool, StateError>;
        prune(events_before: Timestamp, replaced_before: Timestamp) -> Result<u64, StateError>;
        add_caller(caller: &Caller, who: &Actor) -> Result<bool, StateError>;
        callers() -> Result<Vec<Caller>, StateError>;
        revoke_caller(id: &KeyId, at: Timestamp, who: &Actor) -> Result<Option<Caller>, StateError>;
        replace_caller(old: &Caller, new: &Caller, who: &Actor) -> Result<bool, StateError>;
        callers_version() -> Result<i64, StateError>;
        audit(most: usize) -> Result<Vec<AuditEntry>, StateError>;
        add_fallback_uses(chain: &ChainName, day: i32, uses: u64) -> Result<u64, StateError>;
        check() -> Result<(), StateError>;
    }
}

impl HealthState for AnyState {
    delegate! { HealthState:
        tracked_since(chain: &ChainName, now: Timestamp) -> Result<Timestamp, StateError>;
        take_nonce(chain: &ChainName, nonce: &str, now: Timestamp) -> Result<bool, StateError>;
        add_push(seen: &PushSeen, event: &Event, identity: Option<&Identity>) -> Result<(), StateError>;
        push_facts(chain: &ChainName) -> Result<PushFacts, StateError>;
        identity(chain: &ChainName) -> Result<Option<Identity>, StateError>;
        keep_identity(chain: &ChainName, identity: &Identity) -> Result<(), StateError>;
        listen(now: Timestamp, pause: SignedDuration) -> Result<(), StateError>;
        listened() -> Result<Vec<Span>, StateError>;
        book(chains: &[ChainName], now: Timestamp) -> Result<Book, StateError>;
        keep_book(version: i64, change: &BookChange) -> Result<bool, StateError>;
        episodes(chain: Option<&ChainName>, most: usize) -> Result<Vec<Episode>, StateError>;
        open_episodes(chain: Option<&ChainName>) -> Result<Vec<Episode>, StateError>;
        acknowledge(id: &EpisodeId, acknowledgement: Option<&Acknowledgement>, at: Timestamp, who: &Actor) -> Result<Option<Episode>, StateError>;
        mute(chain: &ChainName, until: Timestamp, at: Timestamp, who: &Actor) -> Result<(), StateError>;
        claim_delivery(sink: &str, holder: &str, now: Timestamp, lease: Duration) -> Result<Option<Delivery>, StateError>;
        settle_delivery(delivery: &Delivery, holder: &str, settled: &Settled, now: Timestamp) -> Result<(), StateError>;
        sink_states() -> Result<Vec<SinkState>, StateError>;
        add_audit(entry: &AuditEntry) -> Result<(), StateError>;
    }
}

impl VaultState for AnyState {
    delegate! { VaultState:
        claim_due(holder: &Holder, lease: Duration, most: usize) -> Result<Vec<Claim>, StateError>;
        claim_left_open(holder: &Holder, lease: Duration, most: usize) -> Result<Vec<Claim>, StateError>;
        claim(chain: &ChainName, holder: &Holder, lease: Duration) -> Result<Claimed, StateError>;
        begin_rotation(claim: &Claim, next: NextRow<'_>, lease: Duration) -> Result<bool, StateError>;
        settle_rotation(before: Mark, next: NextRow<'_>) -> Result<bool, StateError>;
        doubt_rotation(claim: &Claim, next: NextRow<'_>) -> Result<bool, StateError>;
        release(claim: &Claim, wakes_at: Option<Timestamp>) -> Result<(), StateError>;
        take_in(before: Option<Mark>, next: NextRow<'_>) -> Result<bool, StateError>;
        take_in_new(rows: &[NewRow]) -> Result<u64, StateError>;
        add_replaced(chain: &ChainName, spent: Fingerprint, at: Timestamp) -> Result<(), StateError>;
        row(chain: &ChainName) -> Result<Option<Row>, StateError>;
        rows_after(after: Option<&ChainName>, most: usize) -> Result<Vec<Row>, StateError>;
        reseal(chain: &ChainName, old: &Sealed, new: &Sealed) -> Result<bool, StateError>;
        claim_health(lease: Duration, most: usize) -> Result<Vec<HealthClaim>, StateError>;
        settle_health(looked: &[HealthLooked]) -> Result<(), StateError>;
        wake_health(chain: &ChainName) -> Result<(), StateError>;
        events_since(chains: &[ChainName], since: Timestamp) -> Result<Vec<Event>, StateError>;
        changes(cursor: Option<ChangesCursor>, most: usize) -> Result<Changes, StateError>;
        incarnation(hold: Duration) -> Result<Incarnation, StateError>;
        hold_on(hold: Duration) -> Result<(), StateError>;
        behind(marks: &[(ChainName, Mark)]) -> Result<Vec<ChainName>, StateError>;
        miss(chains: &[ChainName]) -> Result<Vec<ChainName>, StateError>;
    }
}
