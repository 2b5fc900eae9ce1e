//! The state behind the vault, as verbs that every backend offers (SPEC §4 step 7, §12).

use std::future::Future;

use evergrant_core::ChainName;
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::{Generation, Lineage, Record};
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;
use rusqlite::ErrorCode;

use crate::postgres::PostgresError;

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The database says so.
    #[error("the state {place} cannot be used: {source}")]
    Database {
        /// Where it is.
        place: String,
        /// What the database said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The database is not there, or not in time.
    #[error("the state {place} cannot be reached: {why}")]
    Unreached {
        /// Where it is.
        place: String,
        /// What was tried.
        why: String,
    },
    /// The database is set up so that it will not do.
    #[error("the state {place} cannot be used: {why}")]
    Unfit {
        /// Where it is.
        place: String,
        /// What has to change.
        why: String,
    },
    /// A file operation around the database failed.
    #[error("the state {place} cannot be used: {source}")]
    File {
        /// Where it is.
        place: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A newer Evergrant wrote it.
    #[error(
        "the state {place} has schema {found}, and this Evergrant knows up to {known}: \
         run the newer version, or {or} from before its upgrade"
    )]
    TooNew {
        /// Where it is.
        place: String,
        /// Its schema.
        found: i64,
        /// The newest one that is known here.
        known: i64,
        /// What else can be done.
        or: &'static str,
    },
    /// A row that cannot be read.
    #[error("the state {place} holds a row that cannot be read: {what}")]
    Unreadable {
        /// Where it is.
        place: String,
        /// Which one, and why.
        what: String,
    },
    /// It is no vault.
    #[error("pairs of record need a database that machines share: set database_url")]
    NoVault,
    /// The backend is gone.
    #[error("the state is closed")]
    Closed,
}

impl StateError {
    pub(crate) fn sqlite(place: String, source: rusqlite::Error) -> Self {
        Self::Database { place, source: source.into() }
    }

    /// Whether the same call may work a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreached { .. } => true,
            Self::Database { source, .. } => {
                let busy = |error: &rusqlite::Error| {
                    let code = error.sqlite_error_code();
                    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
                };
                source.downcast_ref().is_some_and(PostgresError::is_transient)
                    || source.downcast_ref().is_some_and(busy)
            }
            Self::File { .. }
            | Self::Unfit { .. }
            | Self::TooNew { .. }
            | Self::Unreadable { .. }
            | Self::NoVault
            | Self::Closed => false,
        }
    }
}

/// An event with its number, which orders the ledger.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Numbered {
    /// Larger is later.
    pub seq: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// What a state remembers. Every verb is atomic.
pub trait State: Clone + Send + Sync + 'static {
    /// The record that the state remembers of a chain.
    fn record(&self, chain: &ChainName) -> impl Future<Output = Result<Option<Record>, StateError>> + Send;

    /// Brings the state up to the vault, with the events of the same look; a record that stands behind the one
    /// that is remembered changes nothing, and an event of the same attempt and kind is written once only. So
    /// it may be repeated after an acknowledgement was lost. Says whether the record was taken.
    fn bring_up(
        &self,
        record: &Record,
        replaced: Option<(Fingerprint, Timestamp)>,
        events: &[Event],
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Adds events that change no record.
    fn add_events(&self, events: &[Event]) -> impl Future<Output = Result<(), StateError>> + Send;

    /// Up to `most` events of a chain with numbers above `after`, oldest first.
    fn events(
        &self,
        chain: &ChainName,
        after: u64,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Numbered>, StateError>> + Send;

    /// The last `most` events of a chain, newest first.
    fn latest_events(
        &self,
        chain: &ChainName,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Numbered>, StateError>> + Send;

    /// Whether a rotation of the chain has replaced this pair.
    fn was_replaced(
        &self,
        chain: &ChainName,
        fingerprint: Fingerprint,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Forgets events and days of fallback uses before `events_before`, and replaced pairs and audit entries
    /// before `replaced_before`. Says how many rows that were.
    fn prune(
        &self,
        events_before: Timestamp,
        replaced_before: Timestamp,
    ) -> impl Future<Output = Result<u64, StateError>> + Send;

    /// Remembers a new caller, with the audit entry of who made it. Says whether that was done: a key whose id
    /// or hash is known already changes nothing.
    fn add_caller(
        &self,
        caller: &Caller,
        who: &Actor,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// All callers, oldest first; those that were revoked or have expired too.
    fn callers(&self) -> impl Future<Output = Result<Vec<Caller>, StateError>> + Send;

    /// Revokes a caller, with the audit entry of who did. A caller that was revoked before keeps its first
    /// instant. Gives it as it is now, or nothing if there is none.
    fn revoke_caller(
        &self,
        id: &KeyId,
        at: Timestamp,
        who: &Actor,
    ) -> impl Future<Output = Result<Option<Caller>, StateError>> + Send;

    /// Puts the old caller of a rotation in its place and adds the new one, with the audit entry of who did.
    /// Says whether that was done: an old one that was revoked or replaced meanwhile changes nothing.
    fn replace_caller(
        &self,
        old: &Caller,
        new: &Caller,
        who: &Actor,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// A number that rises with every change of the callers, by whichever process. Cheap enough to ask twice a
    /// second.
    fn callers_version(&self) -> impl Future<Output = Result<i64, StateError>> + Send;

    /// The last `most` audit entries, newest first.
    fn audit(&self, most: usize) -> impl Future<Output = Result<Vec<AuditEntry>, StateError>> + Send;

    /// Adds requests that the fallback key served on a day (since the epoch, UTC), and gives that day's total;
    /// 0 reads it.
    fn add_fallback_uses(
        &self,
        chain: &ChainName,
        day: i32,
        uses: u64,
    ) -> impl Future<Output = Result<u64, StateError>> + Send;

    /// Whether the state can be reached and is migrated.
    fn check(&self) -> impl Future<Output = Result<(), StateError>> + Send;
}

/// The key under which an event is written once only.
pub(crate) fn event_key(event: &Event) -> Option<String> {
    let Event { lineage, generation, kind, .. } = event;
    let attempt = event.attempt?;
    Some(format!("{}/{lineage}/{generation}/{attempt}/{}", event.chain, kind.as_str()))
}

/// Whether a record at `next` may take the place of one at `remembered`: never backwards.
pub(crate) fn supersedes(next: (Lineage, Generation), remembered: Option<(Lineage, Generation)>) -> bool {
    remembered.is_none_or(|remembered| next >= remembered)
}

/// The day of an instant, since the epoch, UTC.
pub(crate) fn day_of(at: Timestamp) -> i32 {
    let days = at.as_second().div_euclid(24 * 3600);
    i32::try_from(days).unwrap_or(if days < 0 { i32::MIN } else { i32::MAX })
}
