//! The few file operations that the auth-file vault is made of, as a seam: the real disk here, a simulated one
//! that loses and tears what was not synced in the proofs.
//!
//! Every operation that changes something says what is durable when it returns.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, RenameFlags, StatxAttributes, StatxFlags, Timespec, Timestamps, Uid,
};

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// Anything else.
    Other,
}

/// What is known of a path; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Identifies the file on its file system.
    pub inode: u64,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last written, in nanoseconds since the epoch.
    pub modified_nanos: i128,
    /// When it was made, in nanoseconds since the epoch, where the file system knows.
    pub born_nanos: Option<i128>,
    /// It is the root of a mount: it cannot be renamed over.
    pub mount_root: bool,
}

/// Owner, group and mode for a new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Permission bits.
    pub mode: u32,
    /// Owner and group; `None`: ours.
    pub ids: Option<(u32, u32)>,
}

impl Owner {
    /// Ours, and nobody else may read it.
    pub const PRIVATE: Self = Self { mode: 0o600, ids: None };

    /// As an existing file.
    pub fn like(stat: &Stat) -> Self {
        Self { mode: stat.mode & 0o7777, ids: Some((stat.uid, stat.gid)) }
    }
}

/// File operations. Paths are absolute and, but for [`Disk::resolve`], free of links.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An exclusive lock on a file; dropping it, or the death of its process, frees it.
    type Lock: Send + 'static;

    /// Follows links to the file that is meant; that file itself may be missing, its folder may not.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;
    /// What is known of a path.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Up to `most` bytes of a file.
    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>>;
    /// The names in a folder, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// The name of the network file system that the path lies on, if it does.
    fn network_file_system(&self, path: &Path) -> io::Result<Option<&'static str>>;
    /// Makes a folder. Durable after [`Disk::sync_folder`] of its parent.
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Disk::sync_folder`].
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes a new file with these bytes, owner and mode, and syncs it; its name is durable after
    /// [`Disk::sync_folder`]. An existing file is an error.
    fn create(&self, path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()>;
    /// Writes over the beginning of an existing file, cuts it there, and syncs it. Uses no new space where the
    /// file was long enough.
    fn fill(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Adds to the end of a file, which is made if it is missing, and syncs it.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Renames over whatever is there. Durable after [`Disk::sync_folder`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames, and fails if something is there.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Exchanges two files in one step. `Unsupported` where the file system cannot.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Sets the time of last writing to now.
    fn touch(&self, path: &Path) -> io::Result<()>;
    /// Locks a file, which is made (0600) if it is missing. `None`: somebody else has it.
    fn try_lock(&self, path: &Path) -> io::Result<Option<Self::Lock>>;
}

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

/// Links are followed so often at most.
const MOST_LINKS: usize = 32;

impl Disk for OsDisk {
    type Lock = File;

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_owned();
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder.canonicalize()?,
                Some(_) | None => Path::new(".").canonicalize()?,
            };
            let here = folder.join(name);
            match fs::read_link(&here) {
                Ok(target) => path = folder.join(target),
                Err(_) => return Ok(here),
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "too many symbolic links"))
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let meta = fs::symlink_metadata(path)?;
        let kind = match meta.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Folder,
            kind if kind.is_symlink() => FileKind::Link,
            _ => FileKind::Other,
        };
        let born = meta.created().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let statx = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        Ok(Stat {
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            inode: meta.ino(),
            len: meta.len(),
            modified_nanos: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            born_nanos: born.and_then(|born| i128::try_from(born.as_nanos()).ok()),
            mount_root: statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        })
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // A pipe or device in the file's place must not hang or flood us.
        let file = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        file.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn network_file_system(&self, path: &Path) -> io::Result<Option<&'static str>> {
        let kind = rustix::fs::statfs(path)?.f_type;
        Ok(NETWORK_FILE_SYSTEMS.iter().find(|(magic, _)| *magic == kind as u32).map(|(_, name)| *name))
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::DirBuilder::new().mode(mode).create(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create(&self, path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let filled = (|| {
            if let Some((uid, gid)) = owner.ids {
                let now = file.metadata()?;
                if (now.uid(), now.gid()) != (uid, gid) {
                    let ids = (Uid::from_raw(uid), Gid::from_raw(gid));
                    rustix::fs::fchown(&file, Some(ids.0), Some(ids.1))?;
                }
            }
            rustix::fs::fchmod(&file, Mode::from_raw_mode(owner.mode))?;
            file.write_all(bytes)?;
            file.sync_all()
        })();
        if filled.is_err() {
            let _ = fs::remove_file(path);
        }
        filled
    }

    fn fill(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.write_all(bytes)?;
        file.set_len(offset + bytes.len() as u64)?;
        file.sync_all()
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match rename_with(from, to, RenameFlags::NOREPLACE) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => rename_new_in_steps(from, to),
            done => done,
        }
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        rename_with(one, other, RenameFlags::EXCHANGE)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // The path may have been removed or replaced in between: then this lock guards nothing.
        let same = fs::symlink_metadata(path).is_ok_and(|there| {
            file.metadata().is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
        });
        Ok(same.then_some(file))
    }
}

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags).map_err(|error| match error {
        rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP => {
            io::Error::new(io::ErrorKind::Unsupported, error)
        }
        other => other.into(),
    })
}

/// [`Disk::rename_new`] where the file system cannot do it in one step: the name is taken first, which only one can. A folder
/// that was left behind in between is empty.
fn rename_new_in_steps(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(from)?.is_dir() {
        fs::create_dir(to)?;
        fs::rename(from, to)
    } else {
        fs::hard_link(from, to)?;
        fs::remove_file(from)
    }
}

/// `f_type` of file systems whose locks may not hold between machines (statfs(2)).
const NETWORK_FILE_SYSTEMS: [(u32, &str); 10] = [
    (0x0000_6969, "NFS"),
    (0x0000_517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x7461_636f, "OCFS2"),
    (0x0161_1970, "GFS2"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let inode = |name: &str| OsDisk.stat(&path(name)).unwrap().inode;
        let ways: [fn(&Path, &Path) -> io::Result<()>; 2] =
            [|from, to| OsDisk.rename_new(from, to), rename_new_in_steps];
        for rename_new in ways {
            fs::write(path("file"), "ours").unwrap();
            fs::write(path("taken"), "theirs").unwrap();
            fs::create_dir(path("folder")).unwrap();
            fs::create_dir(path("lock")).unwrap();
            let before = (inode("file"), inode("folder"), inode("lock"));
            for (from, to) in [("file", "taken"), ("folder", "lock"), ("file", "lock"), ("folder", "taken")] {
                let error = rename_new(&path(from), &path(to)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{from} {to}");
            }
            assert_eq!((inode("file"), inode("folder"), inode("lock")), before);
            assert_eq!(fs::read_to_string(path("taken")).unwrap(), "theirs");
            fs::remove_file(path("taken")).unwrap();
            fs::remove_dir(path("lock")).unwrap();
            rename_new(&path("file"), &path("taken")).unwrap();
            rename_new(&path("folder"), &path("lock")).unwrap();
            assert_eq!((inode("taken"), inode("lock")), (before.0, before.1));
            assert!(!path("file").exists() && !path("folder").exists());
            fs::remove_file(path("taken")).unwrap();
            fs::remove_dir(path("lock")).unwrap();
        }
    }
}
