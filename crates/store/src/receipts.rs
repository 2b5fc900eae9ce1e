//! The receipts of a database vault's chains on this machine: sealed, a file an attempt, in a fixed number of folders
//! so that a million of them are still found at once (SPEC §4 step 6).

use std::io;
use std::path::{Path, PathBuf};

use evergrant_core::ChainName;
use evergrant_core::chain::{AttemptId, Record};
use evergrant_core::keeper::{Answer, Receipt};
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;
use rand::Rng;

use crate::authfile::{Reservation, VaultError, list_if_there};
use crate::disk::Disk;
use crate::receipt::{self, Shelf};
use crate::seal::{KeyRing, Sealer};

/// Digits of a folder's name: 4,096 folders.
const FOLDER_DIGITS: usize = 3;

/// Where this machine keeps answers until they are in the database, and for a while after.
#[derive(Debug, Clone)]
pub struct Receipts<D: Disk> {
    disk: D,
    folder: PathBuf,
    ring: KeyRing,
}

impl<D: Disk> Receipts<D> {
    /// The receipts in `folder`, whose parent has to be there.
    pub fn open(disk: D, folder: PathBuf, ring: KeyRing) -> Result<Self, VaultError> {
        if let Some(kind) = disk.network_file_system(folder.parent().unwrap_or(&folder)).unwrap_or_default() {
            return Err(VaultError::NetworkFileSystem { path: folder.display().to_string(), kind });
        }
        let receipts = Self { disk, folder, ring };
        if receipts.make(&receipts.folder)? {
            let parent = receipts.folder.parent().unwrap_or(Path::new("/"));
            receipts.sync(parent)?;
        }
        Ok(receipts)
    }

    /// The keys under which they are sealed.
    pub fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// Reserves the receipt of the chain's next attempt: nothing may be sent before it holds.
    pub fn reserve(&self, record: &Record) -> Result<Reservation<D>, VaultError> {
        let shelf = self.shelf(&record.chain);
        if self.make(&shelf.folder)? {
            self.sync(&self.folder)?;
        }
        let last = record.last_attempt.max(receipt::last_attempt(&self.disk, &shelf)?);
        Reservation::make(&self.disk, &shelf, record, last.next())
    }

    /// Keeps the whole answer, durable when it returns.
    pub fn write(
        &self,
        reservation: &Reservation<D>,
        chain: &ChainName,
        (at, answer): (Timestamp, &Answer),
        rng: &mut impl Rng,
    ) -> Result<(), VaultError> {
        reservation.write_sealed(at, answer, Sealer { ring: &self.ring, chain }, rng)
    }

    /// The receipts of a chain, oldest attempt first.
    pub fn of(&self, chain: &ChainName) -> Result<Vec<Receipt>, VaultError> {
        receipt::read_all(&self.disk, &self.shelf(chain))
    }

    /// Seals all answers of a chain under the key that seals now. Says how many were not.
    pub fn reseal(&self, chain: &ChainName, rng: &mut impl Rng) -> Result<u64, VaultError> {
        receipt::reseal(&self.disk, &self.shelf(chain), rng)
    }

    /// Removes one. It is not synced: one that comes back after a crash is found to be old.
    pub fn drop_one(&self, chain: &ChainName, attempt: AttemptId) -> Result<(), VaultError> {
        receipt::drop_one(&self.disk, &self.shelf(chain), attempt)
    }

    /// Removes those of a chain that are older than an attempt, but for what somebody still reads.
    pub fn drop_older(&self, chain: &ChainName, than: AttemptId) -> Result<(), VaultError> {
        receipt::drop_unless(&self.disk, &self.shelf(chain), |attempt| attempt >= than).map(drop)
    }

    /// The chains that have receipts here, folder by folder.
    pub fn chains(&self) -> Result<Vec<ChainName>, VaultError> {
        let mut chains = std::collections::BTreeSet::new();
        for folder in list_if_there(&self.disk, &self.folder)? {
            let names = list_if_there(&self.disk, &self.folder.join(folder))?;
            chains.extend(names.iter().filter_map(|name| name.rsplit_once('.')?.0.parse().ok()));
        }
        Ok(chains.into_iter().collect())
    }

    fn shelf<'a>(&'a self, chain: &'a ChainName) -> Shelf<'a> {
        let hash = Fingerprint::of(chain.as_str().as_bytes()).to_string();
        Shelf {
            folder: self.folder.join(&hash[..FOLDER_DIGITS]),
            // No chain name holds a dot.
            prefix: format!("{chain}."),
            sealer: Some(Sealer { ring: &self.ring, chain }),
        }
    }

    /// Says whether it was missing.
    fn make(&self, folder: &Path) -> Result<bool, VaultError> {
        match self.disk.make_folder(folder, 0o700) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(VaultError::io("cannot make the folder", folder)(error)),
        }
    }

    fn sync(&self, folder: &Path) -> Result<(), VaultError> {
        self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))
    }
}
