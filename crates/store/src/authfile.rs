//! The auth file as a vault: the file itself, and the folder beside it that holds lock, record, receipts and
//! replaced fingerprints, so that every keeper of that file sees the same (SPEC §3, §4).

mod client_locks;
mod commit;
mod held;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::authfile::{self, MAX_LEN, Malformed};
use evergrant_core::chain::Record;
use evergrant_core::keeper::FileFound;
use evergrant_core::provider::Profile;

pub use client_locks::Refusal;
use client_locks::{ClientLocks, Sightings};
pub use commit::Written;
pub use held::{FoundFiles, Held};

use crate::disk::{Disk, Owner};
pub use crate::receipt::Reservation;
use crate::receipt::Shelf;
use crate::seal::SealError;

/// So much of an auth file is read: one byte more than a grant may have, so that a larger one is known by it.
const READ_MOST: usize = MAX_LEN + 1;

/// Whether the directory locks of the provider's own client are taken around the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeClientLocks {
    /// Where the folder is the client's own: by the names that it uses, or because it left a lock there.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Why the right to rotate could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another keeper, or for a while the provider's own client, has it.
    #[error("somebody else holds the lock of {0}")]
    Busy(String),
    /// Another program's lock keeps blocking, or is no lock at all.
    #[error("{0}")]
    Foreign(String),
    /// The folder of the auth file does not exist.
    #[error("there is no folder {0}")]
    NoFolder(String),
    /// The folder beside the file cannot be used.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// Why the vault could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// A file operation failed.
    #[error("{doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Locks may not hold there, so that two writers could go at it at once.
    #[error(
        "{path} lies on a network file system ({kind}), where locks may not hold: keep it on a local disk"
    )]
    NetworkFileSystem {
        /// The file.
        path: String,
        /// What it lies on.
        kind: &'static str,
    },
    /// A receipt that no key of ours opens.
    #[error("{path} cannot be opened: {source}")]
    Sealed {
        /// The receipt.
        path: String,
        /// Why.
        #[source]
        source: SealError,
    },
    /// Somebody kept editing the file while it was written.
    #[error("{0} is being edited all the time; the renewed pair waits in its receipt")]
    Contended(String),
}

impl VaultError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { doing, path, source }
    }
}

/// One chain's auth file.
#[derive(Debug, Clone)]
pub struct AuthFile<D: Disk> {
    disk: D,
    path: PathBuf,
    /// Where the folder lies when the file is a mount point.
    state_folder: PathBuf,
    take_client_locks: TakeClientLocks,
    sightings: Arc<Mutex<Sightings>>,
}

/// One content of an auth file, as far as its inode, length and date tell; or that there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark(Option<(u64, u64, i128)>);

/// The paths that belong to one auth file, links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) file: PathBuf,
    pub(crate) folder: PathBuf,
    /// The folder in which the provider's client sees the file: that of a link, not of its target.
    pub(crate) client_folder: PathBuf,
    /// The file is a mount point and has to be rewritten in place.
    pub(crate) mounted: bool,
}

impl Places {
    fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }
    fn record(&self) -> PathBuf {
        self.folder.join("chain.json")
    }
    fn replaced(&self) -> PathBuf {
        self.folder.join("replaced")
    }
    fn receipts(&self) -> PathBuf {
        self.folder.join("receipts")
    }
    fn shelf(&self) -> Shelf<'static> {
        Shelf { folder: self.receipts(), prefix: String::new(), sealer: None }
    }
    fn client_locks(&self) -> PathBuf {
        self.folder.join("client-locks")
    }
    fn parent(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }
}

impl<D: Disk> AuthFile<D> {
    /// The auth file at `path`. Nothing is touched yet.
    pub fn new(disk: D, path: PathBuf, state_folder: PathBuf, take_client_locks: TakeClientLocks) -> Self {
        Self { disk, path, state_folder, take_client_locks, sightings: Arc::default() }
    }

    /// The path as it was configured.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads file and record without the lock: for a look that changes nothing.
    pub fn peek(&self, profile: &Profile) -> (FileFound, Option<Record>) {
        let places = match self.places() {
            Ok(places) => places,
            Err(error) => return (not_read(&error), None),
        };
        let (file, _) = read_file(&self.disk, &places.file, profile);
        (file, read_record(&self.disk, &places).unwrap_or_default())
    }

    /// What identifies the file's present content to a look that only wants to know whether it changed.
    pub fn mark(&self) -> Mark {
        let stat = self.disk.resolve(&self.path).and_then(|file| self.disk.stat(&file));
        Mark(stat.ok().map(|stat| (stat.inode, stat.len, stat.modified_nanos)))
    }

    /// What a person should know about where the file lies; nothing is changed.
    pub fn concerns(&self) -> Vec<String> {
        let shown = self.path.display();
        let Ok(places) = self.places() else {
            return vec![format!("the folder of {shown} does not exist yet")];
        };
        let mut concerns = Vec::new();
        if let Ok(Some(kind)) = self.disk.network_file_system(places.parent()) {
            let path = places.file.display().to_string();
            concerns.push(VaultError::NetworkFileSystem { path, kind }.to_string());
        }
        if places.mounted {
            concerns.push(format!(
                "{shown} is itself a mount point, so that it has to be rewritten in place: mount the folder instead"
            ));
        }
        if let Ok(stat) = self.disk.stat(&places.file)
            && stat.mode & 0o077 != 0
        {
            let mode = stat.mode & 0o777;
            concerns.push(format!(
                "{shown} is open to others (mode {mode:03o}); unless that is meant: chmod 600"
            ));
        }
        concerns
    }

    /// Makes the folder of the file where there is none (0700): for an import, which may be the first.
    pub fn make_folder(&self) -> Result<(), VaultError> {
        make_folders(&self.disk, self.path.parent().unwrap_or(Path::new("/")))
    }

    /// Takes the lock, and the client's two where the folder is its own. `monotonic` is the age of this process:
    /// foreign locks are timed by it, never by their dates.
    pub fn lock(&self, monotonic: Duration) -> Result<Held<D>, LockError> {
        let places = self.places().map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                LockError::NoFolder(self.missing_folder())
            } else {
                VaultError::io("cannot follow", &self.path)(error).into()
            }
        })?;
        self.prepare_folder(&places)?;
        let lock =
            self.disk.try_lock(&places.lock()).map_err(VaultError::io("cannot open", &places.lock()))?;
        let Some(lock) = lock else {
            return Err(LockError::Busy(places.file.display().to_string()));
        };
        let client_locks = if self.takes_client_locks(&places) {
            let mut sightings = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
            Some(ClientLocks::take(&self.disk, &places, &mut sightings, monotonic)?)
        } else {
            None
        };
        Ok(Held::new(self.disk.clone(), places, lock, client_locks))
    }

    fn missing_folder(&self) -> String {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        match self.disk.stat(folder) {
            Ok(_) => format!("that the link {} leads to", self.path.display()),
            Err(_) => folder.display().to_string(),
        }
    }

    fn places(&self) -> io::Result<Places> {
        let file = self.disk.resolve(&self.path)?;
        let client_folder = match self.path.parent().map(|folder| self.disk.resolve(folder)) {
            Some(Ok(folder)) => folder,
            Some(Err(_)) | None => file.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let mounted = self.disk.stat(&file).is_ok_and(|stat| stat.mount_root);
        let folder = if mounted {
            self.state_folder.clone()
        } else {
            let mut folder = file.clone().into_os_string();
            folder.push(".evergrant");
            folder.into()
        };
        Ok(Places { file, folder, client_folder, mounted })
    }

    fn prepare_folder(&self, places: &Places) -> Result<(), VaultError> {
        // A mounted file may lie elsewhere than its folder.
        let parent = places.parent();
        let looked_at = if places.mounted { [parent, &places.file] } else { [parent, parent] };
        for path in looked_at {
            if let Some(kind) =
                self.disk.network_file_system(path).map_err(VaultError::io("cannot look at", path))?
            {
                return Err(VaultError::NetworkFileSystem { path: places.file.display().to_string(), kind });
            }
        }
        for folder in [places.folder.clone(), places.receipts()] {
            match self.disk.make_folder(&folder, 0o700) {
                Ok(()) => {
                    let parent = folder.parent().unwrap_or(Path::new("/"));
                    self.disk.sync_folder(parent).map_err(VaultError::io("cannot sync", parent))?;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(VaultError::io("cannot make the folder", &folder)(error)),
            }
        }
        Ok(())
    }

    fn takes_client_locks(&self, places: &Places) -> bool {
        let own = || {
            let named = |path: &Path, names: &[&str]| {
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(&name))
            };
            [&self.path, &places.file].iter().any(|file| named(file, &[".credentials.json"]))
                || [self.path.parent(), Some(&*places.client_folder)]
                    .into_iter()
                    .flatten()
                    .any(|folder| named(folder, &[".claude", "claude-code"]))
                || self.disk.stat(&client_locks::first_lock(places)).is_ok()
        };
        match self.take_client_locks {
            TakeClientLocks::Always => true,
            TakeClientLocks::Never => false,
            TakeClientLocks::Auto => !places.mounted && own(),
        }
    }
}

/// What the file holds, and its bytes.
fn read_file<D: Disk>(disk: &D, path: &Path, profile: &Profile) -> (FileFound, Option<Vec<u8>>) {
    match disk.read(path, READ_MOST) {
        Ok(bytes) => (authfile::read(&bytes, profile).into(), Some(bytes)),
        Err(error) => (not_read(&error), None),
    }
}

fn not_read(error: &io::Error) -> FileFound {
    if error.kind() == io::ErrorKind::NotFound {
        FileFound::Missing
    } else {
        FileFound::Malformed(Malformed::Unreadable(error.to_string()))
    }
}

/// The record, where there is one that can be understood. A file that cannot be read just now is an error: it is
/// not the same as none.
fn read_record<D: Disk>(disk: &D, places: &Places) -> Result<Option<Record>, VaultError> {
    let Some(bytes) = read_if_there(disk, &places.record(), MAX_LEN)? else {
        return Ok(None);
    };
    let record = serde_json::from_slice(&bytes).inspect_err(|error| {
        tracing::warn!(file = %places.record().display(), %error, "the record beside the auth file is unreadable");
    });
    Ok(record.ok())
}

pub(crate) fn read_if_there<D: Disk>(
    disk: &D,
    path: &Path,
    most: usize,
) -> Result<Option<Vec<u8>>, VaultError> {
    match disk.read(path, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(VaultError::io("cannot read", path)(error)),
    }
}

pub(crate) fn list_if_there<D: Disk>(disk: &D, folder: &Path) -> Result<Vec<String>, VaultError> {
    match disk.list(folder) {
        Ok(names) => Ok(names),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(VaultError::io("cannot list", folder)(error)),
    }
}

/// Replaces a file of our own in one step, durably.
fn replace_own<D: Disk>(disk: &D, path: &Path, bytes: &[u8]) -> Result<(), VaultError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    remove_if_there(disk, &fresh)?;
    disk.create(&fresh, bytes, Owner::PRIVATE).map_err(VaultError::io("cannot write", &fresh))?;
    disk.rename(&fresh, path).map_err(VaultError::io("cannot replace", path))?;
    disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))
}

pub(crate) fn remove_if_there<D: Disk>(disk: &D, path: &Path) -> Result<(), VaultError> {
    match disk.remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(VaultError::io("cannot remove", path)(error)),
    }
}

/// A folder, and those above it that are missing. What is there stays as it is.
fn make_folders(disk: &impl Disk, folder: &Path) -> Result<(), VaultError> {
    let Some(above) = folder.parent().filter(|_| disk.stat(folder).is_err()) else { return Ok(()) };
    make_folders(disk, above)?;
    match disk.make_folder(folder, 0o700) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(VaultError::io("cannot make the folder", folder)(error))
        }
        Ok(()) | Err(_) => disk.sync_folder(above).map_err(VaultError::io("cannot sync", above)),
    }
}
