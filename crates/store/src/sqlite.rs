//! The state in SQLite: WAL, `synchronous=FULL`, shared by several processes of one machine (SPEC §12).

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::{Generation, Lineage, Record};
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
        // One at a time: SQLite does not wait for its turn to switch to WAL, it fails (SQLITE_BUSY).
        let _turn = take_turn(path).map_err(files)?;
        let place = path.display().to_string();
        let database = |source| StateError::Database { place: place.clone(), source };
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

/// The right to set the file up and to migrate it; freed when it is dropped.
fn take_turn(path: &Path) -> io::Result<fs::File> {
    let mut turn = path.as_os_str().to_owned();
    turn.push(".lock");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(PathBuf::from(turn))?;
    file.lock()?;
    Ok(file)
}

fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "secure_delete", true)?;
    // A small cache: the state is small, and many of these run beside other things.
    connection.pragma_update(None, "cache_size", -512)
}

fn refuse_newer(connection: &Connection, path: &Path, known: usize) -> Result<i64, StateError> {
    let place = path.display().to_string();
    let known = known as i64;
    match schema(connection) {
        Ok(found) if found > known => Err(StateError::TooNew { place, found, known }),
        Ok(found) => Ok(found),
        Err(source) => Err(StateError::Database { place, source }),
    }
}

fn schema(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings the file to the last of `steps`, all or nothing, under its write lock.
fn migrate(connection: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), StateError> {
    let place = path.display().to_string();
    let database = |source| StateError::Database { place: place.clone(), source };
    if refuse_newer(connection, path, steps.len())? == steps.len() as i64 {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(database)?;
    // Another process may have migrated it while this one waited for the lock.
    let found = refuse_newer(&transaction, path, steps.len())?;
    if found > 0 && found < steps.len() as i64 {
        copy_before_upgrade(path, found)?;
    }
    for (index, step) in steps.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step).map_err(database)?;
        transaction.pragma_update(None, "user_version", index as i64 + 1).map_err(database)?;
    }
    transaction.commit().map_err(database)
}

/// Copies the file while its write lock is held: nothing is written in between, and nobody else copies. A copy
/// gets its name once it is whole.
fn copy_before_upgrade(path: &Path, found: i64) -> Result<(), StateError> {
    let beside = |ending: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    };
    let copy = beside(format!(".before-{}", found + 1));
    let part = beside(format!(".before-{}.part", found + 1));
    let place = copy.display().to_string();
    if copy.exists() {
        return Ok(());
    }
    let database = |source| StateError::Database { place: place.clone(), source };
    let copied = || {
        match fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::OpenOptions::new().append(true).create_new(true).mode(0o600).open(&part).map(drop)
    };
    let files = |source| StateError::File { place: place.clone(), source };
    copied().map_err(files)?;
    // A connection of its own: the other one is writing.
    let source = Connection::open(path).map_err(database)?;
    source.busy_timeout(BUSY_TIMEOUT).map_err(database)?;
    source.backup("main", &part, None::<fn(rusqlite::backup::Progress)>).map_err(database)?;
    let named = || {
        fs::File::open(&part)?.sync_all()?;
        fs::rename(&part, &copy)?;
        match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
            Some(_) | None => fs::File::open(".")?.sync_all(),
        }
    };
    named().map_err(files)
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
            transaction.commit()?;
            Ok((events + replaced) as u64)
        })
        .await
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

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = MIGRATIONS[0];
    const TWO: &str =
        "ALTER TABLE chains ADD COLUMN note TEXT; INSERT INTO chains VALUES ('new', 1, 1, '{}', 'x')";
    /// Its first half works.
    const BROKEN: &str = "ALTER TABLE chains ADD COLUMN note TEXT; INSERT INTO nowhere VALUES (1)";

    struct Place(tempfile::TempDir);

    impl Place {
        /// A file at schema 1 with one row.
        fn at_one() -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            let mut connection = place.open();
            migrate(&mut connection, &place.file(), &[ONE]).unwrap();
            connection.execute("INSERT INTO chains VALUES ('old', 1, 1, '{}')", []).unwrap();
            place
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("state.db")
        }

        fn copy(&self) -> PathBuf {
            self.0.path().join("state.db.before-2")
        }

        fn open(&self) -> Connection {
            let connection = Connection::open(self.file()).unwrap();
            connection.busy_timeout(BUSY_TIMEOUT).unwrap();
            set_up(&connection).unwrap();
            connection
        }
    }

    fn chains(connection: &Connection) -> Vec<String> {
        let mut select = connection.prepare("SELECT chain FROM chains ORDER BY chain").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn every_commit_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        let state = SqliteState::open(&folder.path().join("state.db")).unwrap();
        let connection = state.connection.lock().unwrap();
        let number = |pragma: &str| connection.query_row(pragma, [], |row| row.get::<_, i64>(0)).unwrap();
        // 2 is FULL.
        assert_eq!(number("PRAGMA synchronous"), 2);
        assert_eq!((number("PRAGMA secure_delete"), number("PRAGMA foreign_keys")), (1, 1));
        let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!(journal, "wal");
    }

    #[test]
    fn an_upgrade_leaves_a_copy_of_what_was() {
        let place = Place::at_one();
        let mut connection = place.open();
        migrate(&mut connection, &place.file(), &[ONE, TWO]).unwrap();
        assert_eq!(schema(&connection).unwrap(), 2);
        assert_eq!(chains(&connection), ["new", "old"]);
        let mode = fs::metadata(place.copy()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let copy = Connection::open(place.copy()).unwrap();
        assert_eq!((schema(&copy).unwrap(), chains(&copy)), (1, vec!["old".to_owned()]));
        // Once more is a no-op: the step would fail, since its column exists.
        migrate(&mut connection, &place.file(), &[ONE, TWO]).unwrap();
        assert_eq!(chains(&connection), ["new", "old"]);
    }

    #[test]
    fn a_new_file_is_not_copied() {
        let place = Place(tempfile::tempdir().unwrap());
        let mut connection = place.open();
        migrate(&mut connection, &place.file(), &[ONE, TWO]).unwrap();
        assert_eq!(schema(&connection).unwrap(), 2);
        assert!(!place.copy().exists() && !place.0.path().join("state.db.before-1").exists());
    }

    #[test]
    fn a_step_that_fails_changes_nothing() {
        let place = Place::at_one();
        let mut connection = place.open();
        for steps in [vec![ONE, BROKEN], vec![ONE, TWO, BROKEN]] {
            let error = migrate(&mut connection, &place.file(), &steps).unwrap_err();
            assert!(error.to_string().contains("state.db cannot be used"), "{error}");
            assert_eq!(schema(&connection).unwrap(), 1);
            assert_eq!(chains(&connection), ["old"]);
            let columns = "SELECT count(*) FROM pragma_table_info('chains')";
            assert_eq!(connection.query_row(columns, [], |row| row.get::<_, i64>(0)).unwrap(), 4);
        }
        migrate(&mut connection, &place.file(), &[ONE, TWO]).unwrap();
        assert_eq!(chains(&connection), ["new", "old"]);
    }

    #[test]
    fn a_copy_that_was_cut_short_is_made_again() {
        let place = Place::at_one();
        fs::write(place.0.path().join("state.db.before-2.part"), "half of it").unwrap();
        migrate(&mut place.open(), &place.file(), &[ONE, TWO]).unwrap();
        assert_eq!(chains(&Connection::open(place.copy()).unwrap()), ["old"]);
    }

    #[test]
    fn several_upgrades_at_once_are_one() {
        let place = Place::at_one();
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = place.open();
                    start.wait();
                    migrate(&mut connection, &place.file(), &[ONE, TWO]).unwrap();
                    assert_eq!(chains(&connection), ["new", "old"]);
                });
            }
        });
        let copy = Connection::open(place.copy()).unwrap();
        assert_eq!((schema(&copy).unwrap(), chains(&copy)), (1, vec!["old".to_owned()]));
    }
}
