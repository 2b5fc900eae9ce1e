//! The two directory locks that the provider's own client takes around the file before it renews (SPEC §3).

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evergrant_core::keeper::{CLIENT_LOCK_PATIENCE, CLIENT_LOCK_STALE};

use super::{LockError, Places, VaultError, replace_own};
use crate::disk::{Disk, FileKind, Stat};

/// Why a client's lock could not be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The client is at work.
    Busy,
    /// It blocks for too long, or is no folder.
    Foreign,
}

/// When each foreign lock was first seen as it is, by our own clock.
#[derive(Debug, Default)]
pub(super) struct Sightings(HashMap<PathBuf, Sighting>);

#[derive(Debug)]
struct Sighting {
    is: Identity,
    modified_nanos: i128,
    /// First seen at all; a lock that is made anew is another one.
    since: Duration,
    /// First seen with this date.
    unchanged_since: Duration,
}

/// Both locks, held.
#[derive(Debug)]
pub(super) struct ClientLocks<D: Disk> {
    disk: D,
    marker: PathBuf,
    wanted: [PathBuf; 2],
    /// The auth file that they are taken for.
    file: PathBuf,
    held: Vec<(PathBuf, Identity)>,
}

/// A folder's inode and birth: an inode alone may be given to another folder.
type Identity = (u64, Option<i128>);

fn identity(stat: &Stat) -> Identity {
    (stat.inode, stat.born_nanos)
}

/// The lock inside the folder; the client takes it first.
pub(super) fn first_lock(places: &Places) -> PathBuf {
    places.client_folder.join(".oauth_refresh.lock")
}

/// The lock beside the folder.
fn second_lock(places: &Places) -> PathBuf {
    let mut path = places.client_folder.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

impl<D: Disk> ClientLocks<D> {
    /// Takes both in the client's order, or neither.
    pub(super) fn take(
        disk: &D,
        places: &Places,
        sightings: &mut Sightings,
        monotonic: Duration,
    ) -> Result<Self, LockError> {
        let marker = places.client_locks();
        let wanted = [first_lock(places), second_lock(places)];
        for path in &wanted {
            remove_prepared(disk, path, &places.file);
        }
        // What we left when we died guards an answer that is not committed yet: it is never given up in between.
        let held = take_over_leftovers(disk, &marker, &wanted);
        let mut locks = Self { disk: disk.clone(), marker, wanted, file: places.file.clone(), held };
        let is_held = |path: &&PathBuf| locks.held.iter().any(|(held, _)| held == *path);
        let missing: Vec<_> = locks.wanted.iter().filter(|path| !is_held(path)).cloned().collect();
        for path in &missing {
            locks.make_way(path, sightings, monotonic)?;
        }
        // A lock is known as ours before it is one, so that no death leaves it for somebody else's.
        let mut prepared = Vec::new();
        for path in missing {
            let identity = prepare(disk, &path, &places.file)?;
            prepared.push((path, identity));
        }
        locks.mark(&prepared)?;
        for (path, identity) in prepared {
            locks.take_one(path, identity, sightings, monotonic)?;
        }
        Ok(locks)
    }

    /// Writes down which locks are ours.
    fn mark(&self, prepared: &[(PathBuf, Identity)]) -> Result<(), VaultError> {
        // Only with a known birth can leftovers be told from a client's lock that got the same inode.
        let lines =
            self.held.iter().chain(prepared).filter_map(|(path, (inode, born))| {
                Some(format!("{inode} {} {}\n", (*born)?, path.display()))
            });
        let lines: String = lines.collect();
        replace_own(&self.disk, &self.marker, lines.as_bytes())
    }

    /// Nobody has this lock, or what lies there was left behind, and is removed.
    fn make_way(&self, path: &Path, sightings: &mut Sightings, monotonic: Duration) -> Result<(), LockError> {
        if self.disk.stat(path).is_err() {
            return Ok(());
        }
        sightings.judge(&self.disk, path, monotonic)?;
        match self.disk.remove_folder(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => Err(sightings.blocked(path, monotonic)),
        }
    }

    fn take_one(
        &mut self,
        path: PathBuf,
        identity: Identity,
        sightings: &mut Sightings,
        monotonic: Duration,
    ) -> Result<(), LockError> {
        match self.disk.rename_new(&beside(&path, &self.file), &path) {
            Ok(()) => {}
            // Taken by another one just now.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                sightings.judge(&self.disk, &path, monotonic)?;
                return Err(sightings.blocked(&path, monotonic));
            }
            Err(error) => return Err(VaultError::io("cannot make the lock", &path)(error).into()),
        }
        let _ = self.disk.touch(&path);
        sightings.0.remove(&path);
        self.held.push((path, identity));
        Ok(())
    }

    /// Both are still there and ours.
    pub(super) fn still_held(&self) -> bool {
        self.held.iter().all(|(path, ours)| self.disk.stat(path).is_ok_and(|stat| identity(&stat) == *ours))
    }

    /// Shows the client that the locks are alive.
    pub(super) fn touch(&self) {
        for (path, ours) in &self.held {
            if self.disk.stat(path).is_ok_and(|stat| identity(&stat) == *ours) {
                let _ = self.disk.touch(path);
            }
        }
    }
}

impl<D: Disk> Drop for ClientLocks<D> {
    fn drop(&mut self) {
        for path in &self.wanted {
            remove_prepared(&self.disk, path, &self.file);
        }
        while let Some((path, ours)) = self.held.pop() {
            if self.disk.stat(&path).is_ok_and(|stat| identity(&stat) == ours) {
                let _ = self.disk.remove_folder(&path);
            }
        }
        let _ = self.disk.remove_file(&self.marker);
    }
}

/// The name under which a lock is made before it is one; another auth file of the same folder has another one.
fn beside(path: &Path, file: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".");
    beside.push(file.file_name().unwrap_or_default());
    beside.push(".evergrant");
    beside.into()
}

fn prepare<D: Disk>(disk: &D, path: &Path, file: &Path) -> Result<Identity, VaultError> {
    let beside = beside(path, file);
    disk.make_folder(&beside, 0o755).map_err(VaultError::io("cannot make the lock", path))?;
    let stat = disk.stat(&beside).map_err(VaultError::io("cannot look at", &beside))?;
    Ok(identity(&stat))
}

fn remove_prepared<D: Disk>(disk: &D, path: &Path, file: &Path) {
    let _ = disk.remove_folder(&beside(path, file));
}

impl Sightings {
    /// `Ok`: nobody has touched it for long enough, so it was left behind.
    fn judge<D: Disk>(&mut self, disk: &D, path: &Path, monotonic: Duration) -> Result<(), LockError> {
        let Ok(stat) = disk.stat(path) else {
            return Err(LockError::Busy(path.display().to_string()));
        };
        if stat.kind != FileKind::Folder {
            let path = path.display();
            return Err(LockError::Foreign(format!(
                "{path} is no folder, so it is no lock of the provider's client: remove it"
            )));
        }
        let fresh = Sighting {
            is: identity(&stat),
            modified_nanos: stat.modified_nanos,
            since: monotonic,
            unchanged_since: monotonic,
        };
        let seen = self.0.entry(path.to_owned()).or_insert(fresh);
        if seen.is != identity(&stat) {
            (seen.is, seen.since) = (identity(&stat), monotonic);
            (seen.modified_nanos, seen.unchanged_since) = (stat.modified_nanos, monotonic);
        } else if seen.modified_nanos != stat.modified_nanos {
            (seen.modified_nanos, seen.unchanged_since) = (stat.modified_nanos, monotonic);
        }
        if monotonic.saturating_sub(seen.unchanged_since) >= CLIENT_LOCK_STALE {
            return Ok(());
        }
        Err(self.blocked(path, monotonic))
    }

    fn blocked(&self, path: &Path, monotonic: Duration) -> LockError {
        let blocked_for =
            self.0.get(path).map_or(Duration::ZERO, |seen| monotonic.saturating_sub(seen.since));
        let path = path.display();
        if blocked_for >= CLIENT_LOCK_PATIENCE {
            let secs = blocked_for.as_secs();
            return LockError::Foreign(format!(
                "the lock {path} has been held for {secs} s; if no client runs there, remove it"
            ));
        }
        LockError::Busy(path.to_string())
    }
}

/// The locks that an earlier process of ours left when it died: the main lock is held, so that it is gone. Those at
/// other places are removed.
fn take_over_leftovers<D: Disk>(disk: &D, marker: &Path, wanted: &[PathBuf]) -> Vec<(PathBuf, Identity)> {
    let Ok(bytes) = disk.read(marker, 64 * 1024) else {
        return Vec::new();
    };
    let mut taken = Vec::new();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let mut words = line.splitn(3, ' ');
        let (inode, born, path) = (words.next(), words.next(), words.next());
        let (Some(inode), Some(born), Some(path)) = (
            inode.and_then(|inode| inode.parse::<u64>().ok()),
            born.and_then(|born| born.parse::<i128>().ok()),
            path.map(PathBuf::from),
        ) else {
            continue;
        };
        let ours = (inode, Some(born));
        if !disk.stat(&path).is_ok_and(|stat| identity(&stat) == ours) {
            continue;
        }
        if wanted.contains(&path) {
            let _ = disk.touch(&path);
            taken.push((path, ours));
        } else {
            let _ = disk.remove_folder(&path);
        }
    }
    taken
}
