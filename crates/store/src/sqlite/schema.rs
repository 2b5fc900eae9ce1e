//! The schema of the file: its settings, the steps to today's, and the copy before an upgrade (SPEC §12).

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::state::StateError;

/// The steps from an empty database to today's, in order; never changed once released.
pub(super) const MIGRATIONS: [&str; 3] = [
    include_str!("../../migrations/sqlite/0001_chains_and_ledger.sql"),
    include_str!("../../migrations/sqlite/0002_callers.sql"),
    include_str!("../../migrations/sqlite/0003_pushes_and_episodes.sql"),
];
/// Another process may hold the write lock so long at most.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The right to set the file up and to migrate it; freed when it is dropped.
pub(super) fn take_turn(path: &Path) -> io::Result<fs::File> {
    let mut turn = path.as_os_str().to_owned();
    turn.push(".lock");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(PathBuf::from(turn))?;
    file.lock()?;
    Ok(file)
}

pub(super) fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "secure_delete", true)?;
    // A small cache: the state is small, and many of these run beside other things.
    connection.pragma_update(None, "cache_size", -512)
}

pub(super) fn refuse_newer(connection: &Connection, path: &Path, known: usize) -> Result<i64, StateError> {
    let place = path.display().to_string();
    let known = known as i64;
    match schema(connection) {
        Ok(found) if found > known => {
            Err(StateError::TooNew { place, found, known, or: "restore the copy beside it" })
        }
        Ok(found) => Ok(found),
        Err(source) => Err(StateError::sqlite(place, source)),
    }
}

pub(super) fn schema(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// Brings the file to the last of `steps`, all or nothing, under its write lock.
pub(super) fn migrate(connection: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), StateError> {
    let place = path.display().to_string();
    let database = |source| StateError::sqlite(place.clone(), source);
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
    let database = |source| StateError::sqlite(place.clone(), source);
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::sqlite::SqliteState;

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
