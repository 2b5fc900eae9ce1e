//! How a new grant gets into the auth file: written beside it, synced, exchanged with it, and what came out is
//! looked at, so that an edit from outside is never overwritten unseen (SPEC §4 step 7).

use std::io;
use std::path::{Path, PathBuf};

use evergrant_core::keeper::Swap;
use evergrant_core::secret::Fingerprint;

use super::held::Held;
use super::{Places, READ_MOST, VaultError, list_if_there, remove_if_there};
use crate::crash;
use crate::disk::{Disk, FileKind, Owner, Stat};

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

/// What is about to be exchanged with the file, and after the exchange what came out. Its name says what either
/// should be, so that a later process can tell an older edit from a newer one.
type Staged = Swap<Fingerprint>;

fn place_of(staged: Staged, places: &Places) -> PathBuf {
    let prefix = if staged.back { BACK } else { SWAP };
    places.folder.join(format!("{prefix}{}.{}", staged.expected, staged.goes_in))
}

fn parse(name: &str) -> Option<Staged> {
    let (back, rest) = match (name.strip_prefix(SWAP), name.strip_prefix(BACK)) {
        (Some(rest), _) => (false, rest),
        (None, rest) => (true, rest?),
    };
    let (expected, goes_in) = rest.split_once('.')?;
    Some(Swap { back, expected: expected.parse().ok()?, goes_in: goes_in.parse().ok()? })
}

const SWAP: &str = "swap.";
const BACK: &str = "back.";

/// What lies at a path, as far as an outside edit can be told by it; a link or folder may come out as well.
fn content<D: Disk>(disk: &D, path: &Path) -> Result<Fingerprint, VaultError> {
    let stat = disk.stat(path).map_err(VaultError::io("cannot look at", path))?;
    if stat.kind != FileKind::File {
        return Ok(Fingerprint::of(format!("{:?} {}", stat.kind, stat.inode).as_bytes()));
    }
    let bytes = disk.read(path, READ_MOST).map_err(VaultError::io("cannot read", path))?;
    Ok(Fingerprint::of(&bytes))
}

/// For what replaces a file of this length; a larger one than is read is no grant.
fn room(len: u64) -> usize {
    usize::try_from(len).unwrap_or(READ_MOST).min(READ_MOST) + SPARE
}

impl<D: Disk> Held<D> {
    /// Shows that the file can be replaced with its owner and mode kept, and reserves the room for it.
    pub(super) fn prove_replaceable(&self) -> Result<(), VaultError> {
        if self.places.mounted {
            // Adding nothing at its end shows that it may be written; the room is that of the copy beside it.
            let path = &self.places.file;
            let stat = self.disk.stat(path).map_err(VaultError::io("cannot look at", path))?;
            self.write_fresh(&vec![b' '; room(stat.len)], Owner::PRIVATE)?;
            return self.disk.append(path, b"").map_err(VaultError::io("cannot write", path));
        }
        let Ok(stat) = self.disk.stat(&self.places.file) else {
            return Ok(());
        };
        let room = vec![b' '; room(stat.len)];
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
        let Places { file, folder, mounted, .. } = &self.places;
        if *mounted {
            return self.rewrite_in_place(read, new);
        }
        let Ok(stat) = self.disk.stat(file) else {
            return Ok(Written::RemovedMeanwhile);
        };
        let staged = Swap { back: false, expected: Fingerprint::of(read), goes_in: Fingerprint::of(new) };
        let (fresh, place) = (fresh(&self.places), place_of(staged, &self.places));
        // A death between the steps of a rename may have left it as a second name of the file itself.
        let reserved = |there: Stat| Owner::like(&there) == Owner::like(&stat) && there.inode != stat.inode;
        if self.disk.stat(&fresh).is_ok_and(reserved) {
            self.disk.fill(&fresh, 0, new).map_err(VaultError::io("cannot write", &fresh))?;
        } else {
            self.write_fresh(new, Owner::like(&stat))?;
        }
        crash::point("fresh_written");
        self.disk.rename(&fresh, &place).map_err(VaultError::io("cannot write", &place))?;
        self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
        crash::point("staged");
        match self.disk.exchange(&place, file) {
            Ok(()) => {
                crash::point("exchanged");
                self.settle_exchange(staged, staged.goes_in)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_if_there(&self.disk, &place)?;
                Ok(Written::RemovedMeanwhile)
            }
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.rename_over(&place, read),
            Err(error) => Err(VaultError::io("cannot replace", file)(error)),
        }
    }

    /// Looks at what came out. If it is not what was expected, somebody edited the file, and what came out is
    /// newer than what went in: it goes back, until nothing unexpected comes out.
    fn settle_exchange(&self, mut staged: Staged, wanted: Fingerprint) -> Result<Written, VaultError> {
        let Places { file, folder, .. } = &self.places;
        for _ in 0..MOST_EXCHANGES {
            self.sync_both()?;
            let place = place_of(staged, &self.places);
            let came_out = content(&self.disk, &place)?;
            let Some(back) = staged.came_out(came_out) else {
                remove_if_there(&self.disk, &place)?;
                self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
                let done = staged.goes_in == wanted;
                return Ok(if done { Written::Done } else { Written::EditedMeanwhile });
            };
            if !self.put_back(&place, back)? {
                return Ok(Written::RemovedMeanwhile);
            }
            staged = back;
        }
        Err(VaultError::Contended(file.display().to_string()))
    }

    /// Exchanges what lies at `from` with the file, under the name that says what should come out. `false`: the
    /// file is removed now: what came out was somebody's last word before that, and they took it away.
    fn put_back(&self, from: &Path, back: Staged) -> Result<bool, VaultError> {
        let Places { file, folder, .. } = &self.places;
        let place = place_of(back, &self.places);
        self.disk.rename(from, &place).map_err(VaultError::io("cannot put back", file))?;
        self.disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
        match self.disk.exchange(&place, file) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_if_there(&self.disk, &place)?;
                Ok(false)
            }
            Err(error) => Err(VaultError::io("cannot put back", file)(error)),
        }
    }

    /// Where the file system knows no exchange: one more comparison, then a rename. An edit that falls between
    /// the two is lost.
    fn rename_over(&self, staged: &Path, read: &[u8]) -> Result<Written, VaultError> {
        let file = &self.places.file;
        match self.disk.read(file, READ_MOST) {
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
        match self.disk.read(file, READ_MOST) {
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
        self.disk.read(&fresh(&self.places), READ_MOST).ok()
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
        let folder = &self.places.folder;
        for name in swaps(&self.disk, folder)? {
            let place = folder.join(&name);
            let Some(staged) = parse(&name) else {
                continue;
            };
            let Some(back) = staged.way_back(content(&self.disk, &place)?) else {
                continue;
            };
            return match self.put_back(&place, back)? {
                true => self.settle_exchange(back, back.goes_in),
                false => Ok(Written::RemovedMeanwhile),
            };
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
    for name in swaps(disk, &places.folder)? {
        let path = places.folder.join(&name);
        match parse(&name) {
            Some(staged) if staged.way_back(content(disk, &path)?).is_some() => return Ok(true),
            Some(_) | None => remove_if_there(disk, &path)?,
        }
    }
    Ok(false)
}

fn swaps<D: Disk>(disk: &D, folder: &Path) -> Result<Vec<String>, VaultError> {
    let mut names = list_if_there(disk, folder)?;
    names.retain(|name| name.starts_with(SWAP) || name.starts_with(BACK));
    names.sort();
    Ok(names)
}
