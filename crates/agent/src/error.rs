//! What may go wrong with the agent itself, for a person.

use std::io;
use std::path::PathBuf;

/// A fault of the agent: what happened, to what, and what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A file or folder of its own cannot be used.
    #[error("{}: {what}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried, and what to do.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// Something else holds what it needs.
    #[error("{0}")]
    Busy(String),
    /// What is configured cannot be used.
    #[error("{0}")]
    Unusable(String),
}

impl AgentError {
    pub(crate) fn file(path: &std::path::Path, what: &'static str, error: io::Error) -> Self {
        Self::File { path: path.to_owned(), what, error }
    }
}
