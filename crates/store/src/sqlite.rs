//! The state in SQLite: WAL, `synchronous=FULL`, shared by several processes of one machine (SPEC §12).

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use evergrant_core::ChainName;
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::{Generation, Lineage, Record};
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use self::schema::{BUSY_TIMEOUT, MIGRATIONS, migrate, refuse_newer, schema, set_up, take_turn};
use crate::state::{Numbered, State, StateError, day_of, event_key, supersedes};

mod book;
mod callers;
mod deliveries;
mod health;
mod pushes;
mod schema;
mod vault;

/// A state in one SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteState {
    place: Arc<PathBuf>,
    connection: Arc<Mutex<Connection>>,
}

impl SqliteState {
    /// Opens the file, which is made (0600) if it is missing, and migrates it under its write lock; before an
    /// upgrade it is copied to `FILE.before-N`.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        make_private(path)?;
        let files = |source| StateError::File { place: path.display().to_string(), source };
        // One at a time: SQLite does not wait for its turn to switch to WAL, it fails (SQLITE_BUSY).
        let _turn = take_turn(path).map_err(files)?;
        let place = path.display().to_string();
        let database = |source| StateError::sqlite(place.clone(), source);
        let mut connection = Connection::open(path).map_err(database)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(database)?;
        // Before anything is set: a newer file is not touched at all.
        refuse_newer(&connection, path, MIGRATIONS.len())?;
        set_up(&connection).map_err(database)?;
        migrate(&mut connection, path, &MIGRATIONS)?;
        Ok(Self { place: Arc::new(path.to_owned()), connection: Arc::new(Mutex::new(connection)) })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StateError> {
        let (connection, place) = (self.connection.clone(), self.place.clone());
        let run = move || {
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut connection).map_err(|fault| fault.at(&place))
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| StateError::Closed)?
    }
}

/// Makes the file (0600) if it is missing, and tightens it if others may read it.
pub(crate) fn make_private(path: &Path) -> Result<(), StateError> {
    let files = |source| StateError::File { place: path.display().to_string(), source };
    // A file that is there is not opened here: closing it would drop the locks that SQLite holds on it for
    // another handle of this process (fcntl(2)).
    match fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(files(error)),
    }
    let mode = fs::metadata(path).map_err(files)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(file = %path.display(), "the state was readable by others; tightened to 0600");
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(files)?;
    }
    Ok(())
}

/// What can go wrong inside a verb; the place is added outside.
enum Fault {
    Database(rusqlite::Error),
    Unreadable(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl Fault {
    fn at(self, place: &Path) -> StateError {
        let place = place.display().to_string();
        match self {
            Self::Database(source) => StateError::sqlite(place, source),
            Self::Unreadable(what) => StateError::Unreadable { place, what },
        }
    }
}

/// SQLite's integers are signed; nothing here comes near their end.
fn signed(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn read_record(connection: &Connection, chain: &ChainName) -> Result<Option<Record>, Fault> {
    let query = "SELECT record FROM chains WHERE chain = ?1";
    let json: Option<String> = connection.query_row(query, [chain.as_str()], |row| row.get(0)).optional()?;
    let parse = |json: String| {
        serde_json::from_str(&json).map_err(|error| Fault::Unreadable(format!("chain {chain}: {error}")))
    };
    json.map(parse).transpose()
}

fn read_position(
    connection: &Connection,
    chain: &ChainName,
) -> rusqlite::Result<Option<(Lineage, Generation)>> {
    let query = "SELECT lineage, generation FROM chains WHERE chain = ?1";
    let read = |row: &rusqlite::Row<'_>| {
        let (lineage, generation) = (row.get::<_, i64>(0)?, row.get::<_, i64>(1)?);
        Ok((Lineage(lineage.unsigned_abs()), Generation(generation.unsigned_abs())))
    };
    connection.query_row(query, [chain.as_str()], read).optional()
}

fn insert_events(connection: &Connection, events: &[Event]) -> Result<(), Fault> {
    let mut insert = connection
        .prepare_cached("INSERT OR IGNORE INTO events (key, chain, at_ms, event) VALUES (?1, ?2, ?3, ?4)")?;
    for event in events {
        let json = serde_json::to_string(event).map_err(|error| Fault::Unreadable(error.to_string()))?;
        insert.execute(params![event_key(event), event.chain.as_str(), event.at.as_millisecond(), json])?;
    }
    Ok(())
}

fn read_events(
    connection: &Connection,
    query: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Numbered>, Fault> {
    let mut select = connection.prepare_cached(query)?;
    let rows = select.query_map(params, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| {
        let (seq, json) = row?;
        let event = serde_json::from_str(&json)
            .map_err(|error| Fault::Unreadable(format!("event {seq}: {error}")))?;
        Ok(Numbered { seq: u64::try_from(seq).unwrap_or(0), event })
    })
    .collect()
}

impl State for SqliteState {
    async fn record(&self, chain: &ChainName) -> Result<Option<Record>, StateError> {
        let chain = chain.clone();
        self.with(move |connection| read_record(connection, &chain)).await
    }

    async fn bring_up(
        &self,
        record: &Record,
        replaced: Option<(Fingerprint, Timestamp)>,
        events: &[Event],
    ) -> Result<bool, StateError> {
        let (record, events) = (record.clone(), events.to_vec());
        self.with(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // By its columns: a record that cannot be read any more is replaced like any other.
            let taken = supersedes(record.position(), read_position(&transaction, &record.chain)?);
            if taken {
                let json =
                    serde_json::to_string(&record).map_err(|error| Fault::Unreadable(error.to_string()))?;
                transaction.execute(
                    "INSERT INTO chains (chain, lineage, generation, record) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (chain) DO UPDATE SET lineage = ?2, generation = ?3, record = ?4",
                    params![
                        record.chain.as_str(),
                        signed(record.lineage.0),
                        signed(record.generation.0),
                        json
                    ],
                )?;
            }
            if let Some((fingerprint, at)) = replaced {
                transaction.execute(
                    "INSERT OR IGNORE INTO replaced (chain, fingerprint, at_ms) VALUES (?1, ?2, ?3)",
                    params![record.chain.as_str(), fingerprint.to_string(), at.as_millisecond()],
                )?;
            }
            insert_events(&transaction, &events)?;
            transaction.commit()?;
            Ok(taken)
        })
        .await
    }

    async fn add_events(&self, events: &[Event]) -> Result<(), StateError> {
        let events = events.to_vec();
        self.with(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            insert_events(&transaction, &events)?;
            Ok(transaction.commit()?)
        })
        .await
    }

    async fn events(&self, chain: &ChainName, after: u64, most: usize) -> Result<Vec<Numbered>, StateError> {
        let chain = chain.clone();
        let query = "SELECT seq, event FROM events WHERE chain = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        self.with(move |connection| {
            read_events(connection, query, params![chain.as_str(), signed(after), signed(most)])
        })
        .await
    }

    async fn latest_events(&self, chain: &ChainName, most: usize) -> Result<Vec<Numbered>, StateError> {
        let chain = chain.clone();
        let query = "SELECT seq, event FROM events WHERE chain = ?1 ORDER BY seq DESC LIMIT ?2";
        self.with(move |connection| read_events(connection, query, params![chain.as_str(), signed(most)]))
            .await
    }

    async fn was_replaced(&self, chain: &ChainName, fingerprint: Fingerprint) -> Result<bool, StateError> {
        let chain = chain.clone();
        let query = "SELECT EXISTS (SELECT 1 FROM replaced WHERE chain = ?1 AND fingerprint = ?2)";
        self.with(move |connection| {
            Ok(connection
                .query_row(query, params![chain.as_str(), fingerprint.to_string()], |row| row.get(0))?)
        })
        .await
    }

    async fn prune(&self, events_before: Timestamp, replaced_before: Timestamp) -> Result<u64, StateError> {
        self.with(move |connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let events = transaction
                .execute("DELETE FROM events WHERE at_ms < ?1", [events_before.as_millisecond()])?;
            let replaced = transaction
                .execute("DELETE FROM replaced WHERE at_ms < ?1", [replaced_before.as_millisecond()])?;
            let others = callers::prune(&transaction, replaced_before, day_of(events_before))?
                + pushes::prune(&transaction, events_before)?
                + book::prune(&transaction, events_before)?;
            transaction.commit()?;
            Ok((events + replaced + others) as u64)
        })
        .await
    }

    async fn add_caller(&self, caller: &Caller, who: &Actor) -> Result<bool, StateError> {
        let (caller, who) = (caller.clone(), who.clone());
        self.with(move |connection| callers::add(connection, &caller, &who)).await
    }

    async fn callers(&self) -> Result<Vec<Caller>, StateError> {
        self.with(|connection| callers::all(connection)).await
    }

    async fn revoke_caller(
        &self,
        id: &KeyId,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Caller>, StateError> {
        let (id, who) = (*id, who.clone());
        self.with(move |connection| callers::revoke(connection, &id, at, &who)).await
    }

    async fn replace_caller(&self, old: &Caller, new: &Caller, who: &Actor) -> Result<bool, StateError> {
        let (old, new, who) = (old.clone(), new.clone(), who.clone());
        self.with(move |connection| callers::replace(connection, &old, &new, &who)).await
    }

    async fn callers_version(&self) -> Result<i64, StateError> {
        self.with(|connection| callers::version(connection)).await
    }

    async fn audit(&self, most: usize) -> Result<Vec<AuditEntry>, StateError> {
        self.with(move |connection| callers::audited(connection, most)).await
    }

    async fn add_fallback_uses(&self, chain: &ChainName, day: i32, uses: u64) -> Result<u64, StateError> {
        let chain = chain.clone();
        self.with(move |connection| callers::add_fallback_uses(connection, &chain, day, uses)).await
    }

    async fn check(&self) -> Result<(), StateError> {
        self.with(|connection| {
            let version = schema(connection)?;
            if version == MIGRATIONS.len() as i64 {
                Ok(())
            } else {
                Err(Fault::Unreadable(format!("schema {version}")))
            }
        })
        .await
    }
}
