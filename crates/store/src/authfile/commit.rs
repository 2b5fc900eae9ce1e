//! How a new grant gets into the auth file: written beside it, synced, exchanged with it, and what came out is
//! looked at, so that an edit from outside is never overwritten unseen (SPEC §4 step 7).

use std::io;
use std::path::{Path, PathBuf};

use evergrant_core::authfile::MAX_LEN;
use evergrant_core::secret::Fingerprint;

use super::held::Held;
use super::{Places, VaultError, remove_if_there};
use crate::crash;
use crate::disk::{Disk, Owner};

/// So often somebody may edit the file while it is put back.
const MOST_EXCHANGES: usize = 16;
/// Room for what a new grant may have more than the old one, in bytes.
const SPARE: usize = 4 * 1024;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The new bytes are in place, durably.
    Done,
    /// Somebody edited the file in between; theirs stays.
    EditedMeanwhile,
    /// Somebody removed the file in between; it is not made again.
    RemovedMeanwhile,
}

/// The new file while it is written.
fn fresh(places: &Places) -> PathBuf {
    places.folder.join("file.new")
}

/// The new file once it is whole, and after the exchange what came out. The name says what either should be.
fn staged(places: &Places, read: &[u8], new: &[u8]) -> PathBuf {
    places.folder.join(format!("swap.{}.{}", Fingerprint::of(read), Fingerprint::of(new)))
}

impl<D: Disk> Held<D> {
    /// Shows that the file can be replaced with its owner and mode kept, and reserves the room for it.
    pub(super) fn prove_replaceable(&self) -> Result<(), VaultError> {
        if self.places.mounted {
            // Adding nothing at its end shows that it may be written; the room is that of the copy beside it.
            let path = &self.places.file;
            let stat = self.disk.stat(path).map_err(VaultError::io("cannot look at", path))?;
            self.write_fresh(&vec![b' '; stat.len as usize + SPARE], Owner::PRIVATE)?;
            return self.disk.append(path, b"").map_err(VaultError::io("cannot write", path));
        }
        let Ok(stat) = self.disk.stat(&self.places.file) else {
            return Ok(());
        };
        let room = vec![b' '; stat.len as usize + SPARE];
        self.write_fresh(&room, Owner::like(&stat))?;
        // The folder itself must let the file be renamed over: a name of our own beside it shows it.
        let mut beside = self.places.file.clone().into_os_string();
        beside.push(".evergrant-check");
        let beside = PathBuf::from(beside);
        remove_if_there(&self.disk, &beside)?;
        let fresh = fresh(&self.places);
        self.disk
            .rename_new(&fresh, &beside)
            .map_err(VaultError::io("cannot write beside", &self.places.file))?;
        self.disk.rename_new(&beside, &fresh).map_err(VaultError::io("cannot write", &fresh))
    }

    fn write_fresh(&self, bytes: &[u8], owner: Owner) -> Result<(), VaultError> {
        let path = fresh(&self.places);
        remove_if_there(&self.disk, &path)?;
        self.disk.create(&path, bytes, owner).map_err(VaultError::io("cannot write", &path))
    }

    /// Puts `new` in the file's place, if it still holds exactly what was `read`.
    pub fn replace_file(&self, read: &[u8], new: &[u8]) -> Result<Written, VaultError> {
        let Places { file, folder, mounted } = &self.places;
        if *mounted {
            return self.rewrite_in_place(read, new);
        }
        let Ok(stat) = self.disk.stat(file) else {
            return Ok(Written::RemovedMeanwhile);
        };
        let (fresh, staged) = (fresh(&self.places), staged(&self.places, read, new));
        let as_reserved = self.disk.stat(&fresh).is_ok_and(|there| Owner::like(&there) == Owner::like(&stat));
        if as_reserved {
            self.disk.fill(&fresh, 0, new).map_err(VaultError::io("cannot write", &fresh))?;
        } else {
            self.write_fresh(new, Owner::like(&stat))?;
        }
        crash::point("fresh_written");
        self.disk.rename(&fresh, &staged).map_err(VaultError::io("cannot write", &staged))?;
        self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
        crash::point("staged");
        match self.disk.exchange(&staged, file) {
            Ok(()) => {
                crash::point("exchanged");
                self.settle_exchange(&staged, Fingerprint::of(read), Fingerprint::of(new))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_if_there(&self.disk, &staged)?;
                Ok(Written::RemovedMeanwhile)
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.rename_over(&staged, read),
            Err(error) => Err(VaultError::io("cannot replace", file)(error)),
        }
    }

    /// Looks at what came out. If it is not what was expected, somebody edited the file, and what came out is
    /// newer than what went in: it goes back, until nothing unexpected comes out.
    fn settle_exchange(
        &self,
        staged: &Path,
        read: Fingerprint,
        new: Fingerprint,
    ) -> Result<Written, VaultError> {
        let Places { file, folder, .. } = &self.places;
        let (mut expected, mut in_place) = (read, new);
        for _ in 0..MOST_EXCHANGES {
            self.sync_both()?;
            let bytes = self.disk.read(staged, MAX_LEN).map_err(VaultError::io("cannot read", staged))?;
            let came_out = Fingerprint::of(&bytes);
            if came_out == expected {
                remove_if_there(&self.disk, staged)?;
                self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
                return Ok(if in_place == new { Written::Done } else { Written::EditedMeanwhile });
            }
            match self.disk.exchange(staged, file) {
                Ok(()) => (expected, in_place) = (in_place, came_out),
                // Removed now: what came out was the operator's last word before that, and they took it away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    remove_if_there(&self.disk, staged)?;
                    return Ok(Written::RemovedMeanwhile);
                }
                Err(error) => return Err(VaultError::io("cannot put back", file)(error)),
            }
        }
        Err(VaultError::Contended(file.display().to_string()))
    }

    /// Where the file system knows no exchange: one more comparison, then a rename. An edit that falls between
    /// the two is lost.
    fn rename_over(&self, staged: &Path, read: &[u8]) -> Result<Written, VaultError> {
        let file = &self.places.file;
        match self.disk.read(file, MAX_LEN) {
            Ok(now) if now == read => {
                self.disk.rename(staged, file).map_err(VaultError::io("cannot replace", file))?;
                self.sync_both()?;
                Ok(Written::Done)
            }
            Ok(_) => remove_if_there(&self.disk, staged).map(|()| Written::EditedMeanwhile),
            Err(_) => remove_if_there(&self.disk, staged).map(|()| Written::RemovedMeanwhile),
        }
    }

    fn rewrite_in_place(&self, read: &[u8], new: &[u8]) -> Result<Written, VaultError> {
        let file = &self.places.file;
        match self.disk.read(file, MAX_LEN) {
            Ok(now) if now == read => {}
            Ok(_) => return Ok(Written::EditedMeanwhile),
            Err(_) => return Ok(Written::RemovedMeanwhile),
        }
        // A copy first: a write that is cut short is begun again from it, with the members that are not ours.
        let fresh = fresh(&self.places);
        match self.disk.fill(&fresh, 0, new) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.write_fresh(new, Owner::PRIVATE)?,
            Err(error) => return Err(VaultError::io("cannot write", &fresh)(error)),
        }
        let folder = &self.places.folder;
        self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
        self.disk.fill(file, 0, new).map_err(VaultError::io("cannot write", file))?;
        Ok(Written::Done)
    }

    /// The file is a mount point: a write may be cut short, so that it is marked in the record first.
    pub fn rewrites_in_place(&self) -> bool {
        self.places.mounted
    }

    /// The copy of what was to be written in place, if it is still there.
    pub fn copy_of_rewrite(&self) -> Option<Vec<u8>> {
        self.disk.read(&fresh(&self.places), MAX_LEN).ok()
    }

    /// Keeps what an import is about to overwrite though it could not be read as a grant.
    pub fn keep_aside(&self, bytes: &[u8]) -> Result<PathBuf, VaultError> {
        let path = self.places.folder.join("before-import");
        super::replace_own(&self.disk, &path, bytes)?;
        Ok(path)
    }

    /// Makes the file where there is none: for an import, never for a rotation.
    pub fn make_file(&self, new: &[u8]) -> Result<Written, VaultError> {
        let (fresh, file) = (fresh(&self.places), &self.places.file);
        self.write_fresh(new, Owner::PRIVATE)?;
        match self.disk.rename_new(&fresh, file) {
            Ok(()) => self.sync_both().map(|()| Written::Done),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Written::EditedMeanwhile),
            Err(error) => Err(VaultError::io("cannot write", file)(error)),
        }
    }

    /// Exchanges back an outside edit that an earlier process swapped out before it died.
    pub fn swap_back(&self) -> Result<Written, VaultError> {
        let Places { file, folder, .. } = &self.places;
        for name in swaps(&self.disk, folder) {
            let staged = folder.join(&name);
            let Some((_, new)) = parse_name(&name) else {
                continue;
            };
            let bytes = self.disk.read(&staged, MAX_LEN).map_err(VaultError::io("cannot read", &staged))?;
            match self.disk.exchange(&staged, file) {
                Ok(()) => return self.settle_exchange(&staged, new, Fingerprint::of(&bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    remove_if_there(&self.disk, &staged)?;
                    return Ok(Written::RemovedMeanwhile);
                }
                Err(error) => return Err(VaultError::io("cannot put back", file)(error)),
            }
        }
        Ok(Written::Done)
    }

    fn sync_both(&self) -> Result<(), VaultError> {
        for folder in [self.places.parent(), &self.places.folder] {
            self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
        }
        Ok(())
    }
}

/// Whether an earlier commit left an outside edit; what it left otherwise is removed.
pub(super) fn look_at_staged<D: Disk>(disk: &D, places: &Places) -> Result<bool, VaultError> {
    for name in swaps(disk, &places.folder) {
        let path = places.folder.join(&name);
        let bytes = disk.read(&path, MAX_LEN).map_err(VaultError::io("cannot read", &path))?;
        let is = Fingerprint::of(&bytes);
        match parse_name(&name) {
            Some((read, new)) if is != read && is != new => return Ok(true),
            Some(_) | None => remove_if_there(disk, &path)?,
        }
    }
    Ok(false)
}

fn swaps<D: Disk>(disk: &D, folder: &Path) -> Vec<String> {
    let mut names = disk.list(folder).unwrap_or_default();
    names.retain(|name| name.starts_with("swap."));
    names.sort();
    names
}

fn parse_name(name: &str) -> Option<(Fingerprint, Fingerprint)> {
    let (read, new) = name.strip_prefix("swap.")?.split_once('.')?;
    Some((read.parse().ok()?, new.parse().ok()?))
}
