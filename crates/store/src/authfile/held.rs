//! The vault under its lock: what a look reads, and the verbs that change it.

use std::path::Path;

use evergrant_core::chain::{AttemptId, Record};
use evergrant_core::keeper::{FileFound, Found, Staged};
use evergrant_core::provider::Profile;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;

use super::client_locks::ClientLocks;
use super::{Places, VaultError, commit, read_file, read_if_there, read_record, replace_own};
use crate::disk::Disk;
use crate::receipt::{self, Reservation};

/// The right to rotate one chain, as long as it is held.
#[derive(Debug)]
pub struct Held<D: Disk> {
    pub(super) disk: D,
    pub(super) places: Places,
    client_locks: Option<ClientLocks<D>>,
    // Last, so that it is freed last.
    _lock: D::Lock,
}

/// What a look read, with the bytes that a commit has to find again.
#[derive(Debug, Clone)]
pub struct FoundFiles {
    /// For `core` to judge.
    pub found: Found,
    /// The file as it was read.
    pub bytes: Option<Vec<u8>>,
}

impl<D: Disk> Held<D> {
    pub(super) fn new(disk: D, places: Places, lock: D::Lock, client_locks: Option<ClientLocks<D>>) -> Self {
        Self { disk, places, client_locks, _lock: lock }
    }

    /// The file, links followed.
    pub fn file(&self) -> &Path {
        &self.places.file
    }

    /// Reads everything that decides. `remembered` is the state's record, for a vault whose own one was lost.
    pub fn read(&self, profile: &Profile, remembered: Option<Record>) -> Result<FoundFiles, VaultError> {
        let staged = commit::look_at_staged(&self.disk, &self.places)?;
        let (file, bytes) = read_file(&self.disk, &self.places.file, profile);
        let record = read_record(&self.disk, &self.places)?.or(remembered);
        let current = record.as_ref().map(|record| record.pair);
        let replaced = match &file {
            FileFound::Grant(grant) if Some(grant.pair()) != current => {
                let is = grant.pair().fingerprint();
                self.replaced_lines()?.iter().any(|(replaced, _)| *replaced == is)
            }
            FileFound::Grant(_) | FileFound::Missing | FileFound::Wiped | FileFound::Malformed(_) => false,
        };
        let staged = if staged { Staged::OutsideEdit } else { Staged::Nothing };
        let receipts = receipt::read_all(&self.disk, &self.places.shelf())?;
        Ok(FoundFiles { found: Found { file, record, receipts, replaced, staged }, bytes })
    }

    /// Reserves the receipt of the next attempt, and shows that the file can be replaced: nothing may be sent
    /// before both hold.
    pub fn reserve(&self, record: &Record) -> Result<Reservation<D>, VaultError> {
        self.prove_replaceable()?;
        let shelf = self.places.shelf();
        let last = record.last_attempt.max(receipt::last_attempt(&self.disk, &shelf)?);
        Reservation::make(&self.disk, &shelf, record, last.next())
    }

    /// Makes the record durable.
    pub fn write_record(&self, record: &Record) -> Result<(), VaultError> {
        let bytes = serde_json::to_vec(record).unwrap_or_default();
        replace_own(&self.disk, &self.places.record(), &bytes)
    }

    /// Remembers for good that a rotation replaced this pair.
    pub fn remember_replaced(&self, fingerprint: Fingerprint, at: Timestamp) -> Result<(), VaultError> {
        let path = self.places.replaced();
        let is_new = self.disk.stat(&path).is_err();
        // The line break comes first: a torn line before it spoils only itself.
        let line = format!("\n{fingerprint} {}", at.as_second());
        self.disk.append(&path, line.as_bytes()).map_err(VaultError::io("cannot write", &path))?;
        if is_new {
            let folder = &self.places.folder;
            self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
        }
        Ok(())
    }

    /// Whether a rotation has replaced this pair. Where that cannot be known just now, it counts as replaced.
    pub fn was_replaced(&self, fingerprint: Fingerprint) -> bool {
        match self.replaced_lines() {
            Ok(lines) => lines.iter().any(|(replaced, _)| *replaced == fingerprint),
            Err(error) => {
                tracing::warn!(%error, "the replaced pairs are not known");
                true
            }
        }
    }

    /// Forgets pairs that were replaced before `before`.
    pub fn prune_replaced(&self, before: Timestamp) -> Result<(), VaultError> {
        let lines = self.replaced_lines()?;
        if lines.first().is_none_or(|(_, at)| *at >= before.as_second()) {
            return Ok(());
        }
        let kept = lines.iter().filter(|(_, at)| *at >= before.as_second());
        let kept: String = kept.map(|(fingerprint, at)| format!("\n{fingerprint} {at}")).collect();
        replace_own(&self.disk, &self.places.replaced(), kept.as_bytes())
    }

    fn replaced_lines(&self) -> Result<Vec<(Fingerprint, i64)>, VaultError> {
        let bytes = read_if_there(&self.disk, &self.places.replaced(), usize::MAX)?.unwrap_or_default();
        let parse = |line: &str| {
            let (fingerprint, at) = line.split_once(' ')?;
            Some((fingerprint.parse().ok()?, at.parse().ok()?))
        };
        Ok(String::from_utf8_lossy(&bytes).lines().filter_map(parse).collect())
    }

    /// Removes one receipt.
    pub fn drop_receipt(&self, attempt: AttemptId) -> Result<(), VaultError> {
        receipt::drop_one(&self.disk, &self.places.shelf(), attempt)?;
        self.sync_receipts()
    }

    /// Removes the receipts that are settled; those that somebody still reads stay.
    pub fn drop_receipts_but(&self, keep: Option<AttemptId>) -> Result<(), VaultError> {
        if receipt::drop_unless(&self.disk, &self.places.shelf(), |attempt| Some(attempt) == keep)? {
            self.sync_receipts()?;
        }
        Ok(())
    }

    fn sync_receipts(&self) -> Result<(), VaultError> {
        let folder = self.places.receipts();
        self.disk.sync_folder(&folder).map_err(VaultError::io("cannot sync", &folder))
    }

    /// The client's locks, where they are taken, are still ours.
    pub fn still_held(&self) -> bool {
        self.client_locks.as_ref().is_none_or(ClientLocks::still_held)
    }

    /// Shows the client that its locks are held by somebody alive.
    pub fn touch(&self) {
        if let Some(locks) = &self.client_locks {
            locks.touch();
        }
    }
}
