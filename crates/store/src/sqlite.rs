//! The state in SQLite: WAL, `synchronous=FULL`, shared by several processes of one machine (SPEC §12).

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::state::{Numbered, State, StateError, event_key, supersedes};

/// The steps from an empty database to today's, in order; never changed once released.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/sqlite/0001_chains_and_ledger.sql")];
/// Another process may hold the write lock so long at most.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

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
        let files = |source| StateError::File { place: path.display().to_string(), source };
        fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(files)?;
        let mode = fs::metadata(path).map_err(files)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(file = %path.display(), "the state was readable by others; tightened to 0600");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(files)?;
        }
        let place = path.display().to_string();
        let database = |source| StateError::Database { place: place.clone(), source };
        let mut connection = Connection::open(path).map_err(database)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(database)?;
        set_up(&connection).map_err(database)?;
        migrate(&mut connection, path)?;
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
            Self::Database(source) => StateError::Database { place, source },
            Self::Unreadable(what) => StateError::Unreadable { place, what },
        }
    }
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "secure_delete", true)?;
    // A small cache: the state is small, and many of these run beside other things.
    connection.pragma_update(None, "cache_size", -512)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StateError> {
    let place = path.display().to_string();
    let database = |source| StateError::Database { place: place.clone(), source };
    let version = |connection: &Connection| {
        connection.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).map_err(database)
    };
    let known = MIGRATIONS.len() as i64;
    let found = version(connection)?;
    if found == known {
        return Ok(());
    }
    if found > known {
        return Err(StateError::TooNew { place, found, known });
    }
    if found > 0 {
        copy_before_upgrade(connection, path, found)?;
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(database)?;
    // Another process may have migrated it while this one waited for the lock.
    let found = version(&transaction)?;
    for (index, step) in MIGRATIONS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step).map_err(database)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1).map_err(database)?;
    }
    transaction.commit().map_err(database)
}

fn copy_before_upgrade(connection: &Connection, path: &Path, found: i64) -> Result<(), StateError> {
    let mut copy = path.as_os_str().to_owned();
    copy.push(format!(".before-{}", found + 1));
    let copy = PathBuf::from(copy);
    let place = copy.display().to_string();
    if copy.exists() {
        return Ok(());
    }
    let database = |source| StateError::Database { place: place.clone(), source };
    let files = |source| StateError::File { place: place.clone(), source };
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&copy).map_err(files)?;
    connection.backup("main", &copy, None::<fn(rusqlite::backup::Progress)>).map_err(database)?;
    fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(files)
}

fn read_record(connection: &Connection, chain: &ChainName) -> Result<Option<Record>, Fault> {
    let query = "SELECT record FROM chains WHERE chain = ?1";
    let json: Option<String> = connection.query_row(query, [chain.as_str()], |row| row.get(0)).optional()?;
    let parse = |json: String| {
        serde_json::from_str(&json).map_err(|error| Fault::Unreadable(format!("chain {chain}: {error}")))
    };
    json.map(parse).transpose()
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
            let taken = supersedes(&record, read_record(&transaction, &record.chain)?.as_ref());
            if taken {
                let json =
                    serde_json::to_string(&record).map_err(|error| Fault::Unreadable(error.to_string()))?;
                transaction.execute(
                    "INSERT INTO chains (chain, lineage, generation, record) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (chain) DO UPDATE SET lineage = ?2, generation = ?3, record = ?4",
                    params![record.chain.as_str(), record.lineage.0 as i64, record.generation.0 as i64, json],
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
            read_events(connection, query, params![chain.as_str(), after as i64, most as i64])
        })
        .await
    }

    async fn latest_events(&self, chain: &ChainName, most: usize) -> Result<Vec<Numbered>, StateError> {
        let chain = chain.clone();
        let query = "SELECT seq, event FROM events WHERE chain = ?1 ORDER BY seq DESC LIMIT ?2";
        self.with(move |connection| read_events(connection, query, params![chain.as_str(), most as i64]))
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
            transaction.commit()?;
            Ok((events + replaced) as u64)
        })
        .await
    }

    async fn check(&self) -> Result<(), StateError> {
        self.with(|connection| {
            let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if version == MIGRATIONS.len() as i64 {
                Ok(())
            } else {
                Err(Fault::Unreadable(format!("schema {version}")))
            }
        })
        .await
    }
}
