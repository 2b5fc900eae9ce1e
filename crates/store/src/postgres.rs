//! The state in PostgreSQL: one database, shared by the servers of many machines (SPEC §12).
//!
//! Whatever holds two writers apart is a row or a unique index, at the isolation READ COMMITTED; there are no
//! advisory locks and nothing that a session must remember, so that a pooler may stand in between.

use std::sync::Arc;

use deadpool_postgres::Pool;
use evergrant_core::ChainName;
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;

use self::session::{Repeat, run};
use crate::state::{Numbered, State, StateError};

mod address;
mod book;
mod callers;
mod deliveries;
mod fault;
mod health;
mod ledger;
mod listen;
mod machines;
mod pool;
mod pushes;
mod schema;
#[cfg(feature = "scratch-postgres")]
pub mod scratch;
mod session;
mod vault;

pub use self::address::{BadDatabaseUrl, DatabaseUrl};
pub use self::fault::PostgresError;
pub use self::machines::NameTaken;

/// Connections of one process at most, if nothing else is said.
pub const MAX_CONNECTIONS: usize = 16;

/// A state in one PostgreSQL database. What is cloned shares its connections.
#[derive(Clone)]
pub struct PostgresState {
    place: Arc<str>,
    url: Arc<DatabaseUrl>,
    pool: Pool,
}

impl std::fmt::Debug for PostgresState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresState").field("place", &self.place).finish_non_exhaustive()
    }
}

impl PostgresState {
    /// Connects to the database, and brings its tables to today's schema. They lie in the first schema of the
    /// connection's `search_path`. Up to `max_connections` connections are opened as they are needed.
    pub async fn open(url: &DatabaseUrl, max_connections: usize) -> Result<Self, StateError> {
        let place: Arc<str> = url.place().into();
        let pool = pool::pool(url, max_connections)?;
        let state = Self { place, url: Arc::new(url.clone()), pool };
        schema::migrate(&state, &schema::MIGRATIONS).await?;
        Ok(state)
    }

    /// Where it is: `HOST:PORT/DATABASE`.
    pub fn place(&self) -> &str {
        &self.place
    }
}

impl State for PostgresState {
    async fn record(&self, chain: &ChainName) -> Result<Option<Record>, StateError> {
        run!(self, Repeat::Fine, |client| ledger::record(client, chain))
    }

    async fn bring_up(
        &self,
        record: &Record,
        replaced: Option<(Fingerprint, Timestamp)>,
        events: &[Event],
    ) -> Result<bool, StateError> {
        run!(self, Repeat::Fine, |client| ledger::bring_up(client, record, replaced, events))
    }

    async fn add_events(&self, events: &[Event]) -> Result<(), StateError> {
        // Those of an attempt are written once only, whatever is repeated.
        let repeat = Repeat::fine_if(events.iter().all(|event| event.attempt.is_some()));
        run!(self, repeat, |client| ledger::add(client, events))
    }

    async fn events(&self, chain: &ChainName, after: u64, most: usize) -> Result<Vec<Numbered>, StateError> {
        run!(self, Repeat::Fine, |client| ledger::after(client, chain, after, most))
    }

    async fn latest_events(&self, chain: &ChainName, most: usize) -> Result<Vec<Numbered>, StateError> {
        run!(self, Repeat::Fine, |client| ledger::latest(client, chain, most))
    }

    async fn was_replaced(&self, chain: &ChainName, fingerprint: Fingerprint) -> Result<bool, StateError> {
        run!(self, Repeat::Fine, |client| ledger::was_replaced(client, chain, fingerprint))
    }

    async fn prune(&self, events_before: Timestamp, replaced_before: Timestamp) -> Result<u64, StateError> {
        schema::prune(self, events_before, replaced_before).await
    }

    async fn add_caller(&self, caller: &Caller, who: &Actor) -> Result<bool, StateError> {
        run!(self, Repeat::Wrong, |client| callers::add(client, caller, who))
    }

    async fn callers(&self) -> Result<Vec<Caller>, StateError> {
        run!(self, Repeat::Fine, |client| callers::all(client))
    }

    async fn revoke_caller(
        &self,
        id: &KeyId,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Caller>, StateError> {
        run!(self, Repeat::Fine, |client| callers::revoke(client, id, at, who))
    }

    async fn replace_caller(&self, old: &Caller, new: &Caller, who: &Actor) -> Result<bool, StateError> {
        run!(self, Repeat::Wrong, |client| callers::replace(client, old, new, who))
    }

    async fn callers_version(&self) -> Result<i64, StateError> {
        run!(self, Repeat::Fine, |client| callers::version(client))
    }

    async fn audit(&self, most: usize) -> Result<Vec<AuditEntry>, StateError> {
        run!(self, Repeat::Fine, |client| callers::audited(client, most))
    }

    async fn add_fallback_uses(&self, chain: &ChainName, day: i32, uses: u64) -> Result<u64, StateError> {
        let repeat = Repeat::fine_if(uses == 0);
        run!(self, repeat, |client| callers::add_fallback_uses(client, chain, day, uses))
    }

    async fn check(&self) -> Result<(), StateError> {
        run!(self, Repeat::Fine, |client| schema::check(client))
    }
}
