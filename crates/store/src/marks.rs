//! High-water marks: where this machine last saw each chain of a database vault, kept outside the database, so that
//! one that was restored from a backup is recognised (SPEC §4, "Restored from a backup").

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use evergrant_core::ChainName;
use evergrant_core::chain::{AttemptId, Generation, Lineage, Mark};
use rusqlite::{Connection, OptionalExtension, params};

use crate::state::StateError;
use crate::vault::ChangesCursor;

/// The marks of one machine. Cheap to clone.
///
/// They are not synced one by one: they survive the death of every process, and lose at most the last moments when
/// the machine itself dies.
#[derive(Debug, Clone)]
pub struct Marks {
    connection: Arc<Mutex<Connection>>,
    place: Arc<str>,
}

impl Marks {
    /// The marks in a file, which is made (0600) if it is missing; several processes may share it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        crate::sqlite::make_private(path)?;
        Self::set_up(Connection::open(path), path.display().to_string())
    }

    /// Marks that die with their last handle.
    pub fn in_memory() -> Result<Self, StateError> {
        Self::set_up(Connection::open_in_memory(), "the marks in memory".into())
    }

    fn set_up(connection: rusqlite::Result<Connection>, place: String) -> Result<Self, StateError> {
        let made = connection.and_then(|connection| {
            connection.busy_timeout(std::time::Duration::from_secs(10))?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS marks (
                   chain      TEXT PRIMARY KEY,
                   lineage    INTEGER NOT NULL,
                   generation INTEGER NOT NULL,
                   attempt    INTEGER NOT NULL
                 ) STRICT, WITHOUT ROWID;
                 -- One row: how far this machine has followed the database.
                 CREATE TABLE IF NOT EXISTS followed (
                   one    INTEGER PRIMARY KEY CHECK (one = 1),
                   cursor INTEGER NOT NULL
                 ) STRICT;
                 -- One row: the incarnation of the database that was compared with all of this last.
                 CREATE TABLE IF NOT EXISTS compared (
                   one         INTEGER PRIMARY KEY CHECK (one = 1),
                   incarnation TEXT NOT NULL
                 ) STRICT",
            )?;
            Ok(connection)
        });
        match made {
            Ok(connection) => Ok(Self { connection: Arc::new(Mutex::new(connection)), place: place.into() }),
            Err(source) => Err(StateError::sqlite(place, source)),
        }
    }

    /// Where the chain stood when this machine last heard of it.
    pub fn of(&self, chain: &ChainName) -> Result<Option<Mark>, StateError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut select = connection
            .prepare_cached("SELECT lineage, generation, attempt FROM marks WHERE chain = ?1")
            .map_err(|source| self.failed(source))?;
        select.query_row([chain.as_str()], mark_of).optional().map_err(|source| self.failed(source))
    }

    /// Some `most` chains whose names follow `after`, by name, and where each stood.
    pub fn after(
        &self,
        after: Option<&ChainName>,
        most: usize,
    ) -> Result<Vec<(ChainName, Mark)>, StateError> {
        let read = |connection: &Connection| {
            let mut select = connection.prepare_cached(
                "SELECT lineage, generation, attempt, chain FROM marks WHERE chain > ?1 ORDER BY chain LIMIT ?2",
            )?;
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let marks = select.query_map(params![after.map_or("", ChainName::as_str), most], |row| {
                Ok((row.get::<_, String>(3)?, mark_of(row)?))
            })?;
            marks.collect::<rusqlite::Result<Vec<_>>>()
        };
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let found = read(&connection).map_err(|source| self.failed(source))?;
        // What is no name was not written here.
        Ok(found.into_iter().filter_map(|(chain, mark)| Some((chain.parse().ok()?, mark))).collect())
    }

    /// Those chains of which this machine has seen more than that, and how far each came.
    pub fn ahead_of(&self, stand: &[(ChainName, Mark)]) -> Result<Vec<(ChainName, Mark)>, StateError> {
        let mut ahead = Vec::new();
        for (chain, stands) in stand {
            let seen = self.of(chain)?.filter(|seen| seen > stands);
            ahead.extend(seen.map(|seen| (chain.clone(), seen)));
        }
        Ok(ahead)
    }

    /// The incarnation of the database that was compared with all marks last.
    pub fn compared(&self) -> Result<Option<String>, StateError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let compared = connection.query_row("SELECT incarnation FROM compared", [], |row| row.get(0));
        compared.optional().map_err(|source| self.failed(source))
    }

    /// All marks were compared with this incarnation.
    pub fn remember_compared(&self, incarnation: &str) -> Result<(), StateError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let query = "INSERT INTO compared VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET incarnation = ?1";
        connection.execute(query, [incarnation]).map(|_| ()).map_err(|source| self.failed(source))
    }

    /// Remembers where a chain stands; a mark never falls.
    pub fn raise(&self, chain: &ChainName, seen: Mark) -> Result<(), StateError> {
        self.write(&[(chain.clone(), seen)], None)
    }

    /// The same for all changes up to a place in their order.
    pub fn follow(&self, seen: &[(ChainName, Mark)], cursor: ChangesCursor) -> Result<(), StateError> {
        self.write(seen, Some(cursor))
    }

    /// How far this machine has followed the database; nothing if it never has.
    pub fn followed(&self) -> Result<Option<ChangesCursor>, StateError> {
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let cursor = connection.query_row("SELECT cursor FROM followed", [], |row| row.get::<_, i64>(0));
        let cursor = cursor.optional().map_err(|source| self.failed(source))?;
        Ok(cursor.map(|cursor| ChangesCursor(cursor.unsigned_abs())))
    }

    fn write(&self, seen: &[(ChainName, Mark)], cursor: Option<ChangesCursor>) -> Result<(), StateError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let mut write = || -> rusqlite::Result<()> {
            let transaction = connection.transaction()?;
            {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO marks VALUES (?1, ?2, ?3, ?4) ON CONFLICT (chain) DO UPDATE
                       SET lineage = ?2, generation = ?3, attempt = ?4
                       WHERE (?2, ?3, ?4) > (lineage, generation, attempt)",
                )?;
                for (chain, Mark { lineage, generation, attempt }) in seen {
                    insert.execute(params![
                        chain.as_str(),
                        signed(lineage.0),
                        signed(generation.0),
                        signed(attempt.0)
                    ])?;
                }
            }
            if let Some(ChangesCursor(cursor)) = cursor {
                let query = "INSERT INTO followed VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET cursor = ?1";
                transaction.execute(query, [signed(cursor)])?;
            }
            transaction.commit()
        };
        write().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> StateError {
        StateError::sqlite(self.place.to_string(), source)
    }
}

fn mark_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Mark> {
    let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
    Ok(Mark {
        lineage: Lineage(number(0)?),
        generation: Generation(number(1)?),
        attempt: AttemptId(number(2)?),
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(lineage: u64, generation: u64, attempt: u64) -> Mark {
        Mark { lineage: Lineage(lineage), generation: Generation(generation), attempt: AttemptId(attempt) }
    }

    #[test]
    fn a_mark_never_falls_and_survives() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("marks.db");
        let chain: ChainName = "claude".parse().unwrap();
        let marks = Marks::open(&file).unwrap();
        assert_eq!(marks.of(&chain).unwrap(), None);
        for (seen, stands) in [
            (mark(1, 5, 9), mark(1, 5, 9)),
            (mark(1, 4, 12), mark(1, 5, 9)),
            (mark(1, 5, 8), mark(1, 5, 9)),
            (mark(1, 5, 10), mark(1, 5, 10)),
            (mark(2, 1, 10), mark(2, 1, 10)),
            (mark(1, 900, 900), mark(2, 1, 10)),
        ] {
            marks.raise(&chain, seen).unwrap();
            assert_eq!(marks.of(&chain).unwrap(), Some(stands));
        }
        assert_eq!(marks.followed().unwrap(), None);
        marks.follow(&[("second".parse().unwrap(), mark(1, 1, 1))], ChangesCursor(7)).unwrap();
        let other = Marks::open(&file).unwrap();
        assert_eq!(other.followed().unwrap(), Some(ChangesCursor(7)));
        assert_eq!(other.of(&"second".parse().unwrap()).unwrap(), Some(mark(1, 1, 1)));
        assert_eq!(other.of(&chain).unwrap(), Some(mark(2, 1, 10)));
        assert_eq!(other.of(&"other".parse().unwrap()).unwrap(), None);
        let (first, second) = ((chain, mark(2, 1, 10)), ("second".parse().unwrap(), mark(1, 1, 1)));
        assert_eq!(other.after(None, 1).unwrap(), std::slice::from_ref(&first));
        assert_eq!(other.after(Some(&first.0), 9).unwrap(), std::slice::from_ref(&second));
        assert_eq!(other.after(Some(&second.0), 9).unwrap(), []);
        assert_eq!(marks.compared().unwrap(), None);
        for incarnation in ["1.7", "2.7"] {
            marks.remember_compared(incarnation).unwrap();
            assert_eq!(other.compared().unwrap().as_deref(), Some(incarnation));
        }
    }
}
