//! `evergrant agent pause`: an absence that is announced to the server, so that its silence is no alarm (SPEC §5).

use std::fs;
use std::io;
use std::path::PathBuf;

use evergrant_core::push::Absence;
use jiff::Timestamp;

use crate::AgentError;
use crate::memory::{Folder, replace};

/// The longest reason, in characters.
pub const MOST_REASON: usize = 200;

fn file(folder: &Folder) -> PathBuf {
    folder.path().join("absence.json")
}

/// What is announced and not over.
pub fn announced(folder: &Folder, now: Timestamp) -> Result<Option<Absence>, AgentError> {
    let path = file(folder);
    let failed = |error| {
        let what = "the announced absence cannot be read; `evergrant agent pause --off` removes it";
        AgentError::file(&path, what, error)
    };
    match fs::read(&path) {
        Ok(bytes) => {
            let absence: Absence = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
            Ok(Some(absence).filter(|absence| absence.until > now))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Announces one, in place of an earlier one.
pub fn announce(folder: &Folder, absence: &Absence) -> Result<(), AgentError> {
    let path = file(folder);
    let failed = |error| AgentError::file(&path, "the absence cannot be kept", error);
    let bytes = serde_json::to_vec(absence).map_err(|error| failed(error.into()))?;
    replace(&path, &bytes).map_err(failed)
}

/// Takes it back.
pub fn take_back(folder: &Folder) -> Result<(), AgentError> {
    let path = file(folder);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(AgentError::file(&path, "the announced absence cannot be removed", error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
