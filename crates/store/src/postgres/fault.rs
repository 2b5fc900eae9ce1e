//! What can go wrong inside a verb, and whether the same verb may be tried again.

use std::error::Error as _;
use std::fmt;

use tokio_postgres::error::SqlState;

use crate::state::StateError;

/// What PostgreSQL or the way to it said. It shows neither the values of rows nor how the connection was made.
pub struct PostgresError(tokio_postgres::Error);

impl PostgresError {
    /// The code of what the server said, as PostgreSQL's manual lists them.
    pub fn code(&self) -> Option<&str> {
        self.0.code().map(SqlState::code)
    }

    /// Whether the connection is gone, or was never made.
    pub(super) fn is_lost(&self) -> bool {
        match self.0.as_db_error() {
            // The server closes the connection with these, of its own accord.
            Some(said) => ["57P01", "57P02", "57P03", "57P05", "25P03"].contains(&said.code().code()),
            None => self.0.is_closed() || self.io_cause(),
        }
    }

    fn io_cause(&self) -> bool {
        self.0.source().is_some_and(|cause| cause.is::<std::io::Error>())
    }

    /// Whether two transactions got in each other's way, and this one was undone.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.code(), Some("40001" | "40P01"))
    }

    /// Whether it may be gone a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        // Resources, locks, time that ran out.
        let passes = |code: &str| code.starts_with("53") || ["55P03", "57014"].contains(&code);
        self.is_lost() || self.is_conflict() || self.code().is_some_and(passes)
    }
}

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its `detail` quotes the values of a row.
        if let Some(said) = self.0.as_db_error() {
            return write!(f, "{} ({})", said.message(), said.code().code());
        }
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresError({self})")
    }
}

impl std::error::Error for PostgresError {}

/// What can go wrong inside a verb; the place is added outside.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database says so, and nothing was done.
    Database(PostgresError),
    /// It happened to what makes a change lasting: if the connection was lost, the change may be there.
    InDoubt(PostgresError),
    /// A row that cannot be read.
    Unreadable(String),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

impl Fault {
    /// For a commit, and for a statement that is a transaction by itself.
    pub(super) fn in_doubt(error: tokio_postgres::Error) -> Self {
        Self::InDoubt(error.into())
    }

    pub(super) fn error(&self) -> Option<&PostgresError> {
        match self {
            Self::Database(error) | Self::InDoubt(error) => Some(error),
            Self::Unreadable(_) => None,
        }
    }

    pub(super) fn at(self, place: &str) -> StateError {
        let place = place.to_owned();
        match self {
            Self::InDoubt(error) if error.is_lost() => {
                let why = format!("{error}; what was asked of it may have been done, or not");
                StateError::Unreached { place, why }
            }
            Self::Database(error) | Self::InDoubt(error) => {
                StateError::Database { place, source: error.into() }
            }
            Self::Unreadable(what) => StateError::Unreadable { place, what },
        }
    }
}
