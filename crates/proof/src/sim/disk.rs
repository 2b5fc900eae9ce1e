//! A simulated disk: what was not synced is lost or torn when the power goes, and any operation may be the last
//! one of its process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evergrant_store::disk::{Disk, FileKind, Owner, Stat};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::executor::{Died, ProcessId};

type Inode = u64;

#[derive(Debug, Clone)]
struct Node {
    kind: FileKind,
    mode: u32,
    data: Vec<u8>,
    /// What is durable of it.
    durable: Vec<u8>,
    modified: i128,
}

/// A change of names that the folder was not synced for yet.
#[derive(Debug, Clone)]
enum Change {
    Put(PathBuf, Inode),
    Remove(PathBuf),
    Move(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
}

impl Change {
    fn touches(&self, folder: &Path) -> bool {
        let within = |path: &PathBuf| path.parent() == Some(folder);
        match self {
            Self::Put(path, _) | Self::Remove(path) => within(path),
            Self::Move(one, other) | Self::Exchange(one, other) => within(one) || within(other),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            Self::Put(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Move(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Exchange(one, other) => {
                if let (Some(first), Some(second)) = (names.get(one).copied(), names.get(other).copied()) {
                    names.insert(one.clone(), second);
                    names.insert(other.clone(), first);
                }
            }
        }
    }
}

/// What the faults of a disk came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Operations during which a process died.
    pub deaths: u64,
    /// Operations that found no room.
    pub full: u64,
    /// Names or bytes that the power took.
    pub lost: u64,
    /// Outside edits that fell between two operations.
    pub edits: u64,
}

struct Inner {
    nodes: BTreeMap<Inode, Node>,
    names: BTreeMap<PathBuf, Inode>,
    durable_names: BTreeMap<PathBuf, Inode>,
    changes: Vec<Change>,
    locks: BTreeMap<Inode, (ProcessId, u64)>,
    next: u64,
    rng: SmallRng,
    full: bool,
    /// Which process dies, and within how many operations.
    dying: Option<(ProcessId, u32)>,
    /// An outside edit that falls in between, after so many operations.
    edit: Option<(u32, PathBuf, Option<Vec<u8>>)>,
    faults: DiskFaults,
}

/// The disk of one machine, as one process sees it.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    process: ProcessId,
}

/// A lock on the simulated disk.
pub struct SimLock {
    disk: SimDisk,
    inode: Inode,
    number: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut inner = self.disk.lock();
        if inner.locks.get(&self.inode) == Some(&(self.disk.process, self.number)) {
            inner.locks.remove(&self.inode);
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl SimDisk {
    /// An empty disk with a few folders.
    pub fn new(seed: u64, folders: &[&str]) -> Self {
        let disk = Self {
            inner: Arc::new(Mutex::new(Inner {
                nodes: BTreeMap::new(),
                names: BTreeMap::new(),
                durable_names: BTreeMap::new(),
                changes: Vec::new(),
                locks: BTreeMap::new(),
                next: 0,
                rng: SmallRng::seed_from_u64(seed),
                full: false,
                dying: None,
                edit: None,
                faults: DiskFaults::default(),
            })),
            process: 0,
        };
        for folder in folders {
            disk.lock().add(Path::new(folder), FileKind::Folder, 0o755, Vec::new());
        }
        disk.settle();
        disk
    }

    /// The same disk, seen by another process.
    pub fn seen_by(&self, process: ProcessId) -> Self {
        Self { inner: self.inner.clone(), process }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes everything durable.
    fn settle(&self) {
        let mut inner = self.lock();
        inner.changes.clear();
        inner.durable_names = inner.names.clone();
        for node in inner.nodes.values_mut() {
            node.durable = node.data.clone();
        }
    }

    /// What an operator does to a file: writes it, or removes it. Durable at once.
    pub fn edit(&self, path: &Path, bytes: Option<Vec<u8>>) {
        self.lock().edit(path, bytes);
    }

    /// The same, but between two of the next operations of a keeper.
    pub fn edit_in_between(&self, operations: u32, path: &Path, bytes: Option<Vec<u8>>) {
        self.lock().edit = Some((operations, path.to_owned(), bytes));
    }

    /// What a file holds.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let inner = self.lock();
        inner.names.get(path).and_then(|inode| inner.nodes.get(inode)).map(|node| node.data.clone())
    }

    /// The names below a folder.
    pub fn names(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// Fills the disk up, or makes room again.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Makes a process die within one of its next operations.
    pub fn doom(&self, process: ProcessId, operations: u32) {
        self.lock().dying = Some((process, operations));
    }

    /// A process is gone: its locks are free.
    pub fn free_locks(&self, process: ProcessId) {
        let mut inner = self.lock();
        inner.locks.retain(|_, (holder, _)| *holder != process);
        if inner.dying.is_some_and(|(doomed, _)| doomed == process) {
            inner.dying = None;
        }
    }

    /// The power goes: what was not synced is lost, kept or torn, as the seed has it. All processes are gone.
    pub fn power_loss(&self) {
        let mut inner = self.lock();
        inner.locks.clear();
        inner.dying = None;
        let changes = std::mem::take(&mut inner.changes);
        let mut names = inner.durable_names.clone();
        // Changes of names reach the disk in order, up to some point.
        let kept = inner.rng.random_range(0..=changes.len());
        inner.faults.lost += (changes.len() - kept) as u64;
        changes[..kept].iter().for_each(|change| change.apply(&mut names));
        let ids: Vec<_> = inner.nodes.keys().copied().collect();
        for id in ids {
            let draw = inner.rng.random_range(0..4);
            let share = inner.rng.random_range(0.0..1.0);
            let Some(node) = inner.nodes.get_mut(&id) else { continue };
            if node.data == node.durable {
                continue;
            }
            node.data = match draw {
                0 => node.data.clone(),
                1 => node.durable.clone(),
                _ => torn(&node.durable, &node.data, share),
            };
            node.durable = node.data.clone();
            inner.faults.lost += 1;
        }
        inner.durable_names = names.clone();
        inner.names = names;
        let used: BTreeSet<_> = inner.names.values().copied().collect();
        inner.nodes.retain(|inode, _| used.contains(inode));
    }

    /// What the faults came to.
    pub fn faults(&self) -> DiskFaults {
        self.lock().faults
    }

    /// Counts an operation; some are the last of their process, and then happen only in part.
    fn step(&self, inner: &mut Inner) -> bool {
        if let Some((left, ..)) = &mut inner.edit {
            if *left == 0 {
                if let Some((_, path, bytes)) = inner.edit.take() {
                    inner.faults.edits += 1;
                    inner.edit(&path, bytes);
                }
            } else {
                *left -= 1;
            }
        }
        match &mut inner.dying {
            Some((process, left)) if *process == self.process => {
                if *left == 0 {
                    inner.dying = None;
                    inner.faults.deaths += 1;
                    return true;
                }
                *left -= 1;
                false
            }
            Some(_) | None => false,
        }
    }

    fn die(&self) -> ! {
        std::panic::resume_unwind(Box::new(Died(self.process)))
    }

    /// A change that is done whole, or not at all if the process dies.
    fn change<T>(&self, with: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.lock();
        let dies = self.step(&mut inner);
        let happens = !dies || inner.rng.random_bool(0.5);
        let done = happens.then(|| with(&mut inner));
        drop(inner);
        match done {
            Some(done) if !dies => done,
            Some(_) | None => self.die(),
        }
    }

    /// Bytes that are written and then synced: a process that dies in between leaves them torn.
    fn write(&self, with: impl FnOnce(&mut Inner) -> io::Result<(Inode, Vec<u8>, bool)>) -> io::Result<()> {
        let mut inner = self.lock();
        let dies = self.step(&mut inner);
        let (inode, bytes, grows) = with(&mut inner)?;
        if grows && inner.full {
            inner.faults.full += 1;
            return Err(io::Error::from_raw_os_error(28));
        }
        let share = inner.rng.random_range(0.0..1.0);
        let when = inner.next;
        let Some(node) = inner.nodes.get_mut(&inode) else { return Err(gone()) };
        node.modified = i128::from(when);
        if dies {
            node.data = torn(&node.data, &bytes, share);
            drop(inner);
            self.die();
        }
        node.data = bytes;
        node.durable = node.data.clone();
        Ok(())
    }
}

/// A mixture of old and new bytes, as when a page was written and another was not.
fn torn(old: &[u8], new: &[u8], share: f64) -> Vec<u8> {
    let cut = (new.len() as f64 * share) as usize;
    let mut bytes = new[..cut].to_vec();
    if let Some(rest) = old.get(cut..) {
        bytes.extend_from_slice(rest);
    }
    bytes
}

impl Inner {
    fn add(&mut self, path: &Path, kind: FileKind, mode: u32, data: Vec<u8>) -> Inode {
        self.next += 1;
        let (inode, modified) = (self.next, i128::from(self.next));
        self.nodes.insert(inode, Node { kind, mode, data, durable: Vec::new(), modified });
        self.names.insert(path.to_owned(), inode);
        self.changes.push(Change::Put(path.to_owned(), inode));
        inode
    }

    fn edit(&mut self, path: &Path, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => {
                let inode = self.add(path, FileKind::File, 0o600, bytes.clone());
                if let Some(node) = self.nodes.get_mut(&inode) {
                    node.durable = bytes;
                }
                self.sync_names(path.parent().unwrap_or(Path::new("/")));
            }
            None => {
                self.names.remove(path);
                self.changes.push(Change::Remove(path.to_owned()));
                self.sync_names(path.parent().unwrap_or(Path::new("/")));
            }
        }
    }

    fn sync_names(&mut self, folder: &Path) {
        // A journal keeps the order: whatever came before the last change of this folder is durable with it.
        let Some(last) = self.changes.iter().rposition(|change| change.touches(folder)) else { return };
        let durable: Vec<_> = self.changes.drain(..=last).collect();
        durable.iter().for_each(|change| change.apply(&mut self.durable_names));
        let used: BTreeSet<_> = self.names.values().chain(self.durable_names.values()).copied().collect();
        let pending: BTreeSet<_> = self
            .changes
            .iter()
            .filter_map(|change| match change {
                Change::Put(_, inode) => Some(*inode),
                Change::Remove(_) | Change::Move(..) | Change::Exchange(..) => None,
            })
            .collect();
        self.nodes.retain(|inode, _| used.contains(inode) || pending.contains(inode));
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        self.names.get(path).copied().ok_or_else(gone)
    }

    fn node(&self, path: &Path) -> io::Result<&Node> {
        self.nodes.get(&self.inode(path)?).ok_or_else(gone)
    }
}

impl Disk for SimDisk {
    type Lock = SimLock;

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let inner = self.lock();
        inner.node(path.parent().unwrap_or(Path::new("/")))?;
        Ok(path.to_owned())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let inner = self.lock();
        let (inode, node) = (inner.inode(path)?, inner.node(path)?);
        Ok(Stat {
            kind: node.kind,
            mode: node.mode,
            uid: 0,
            gid: 0,
            inode,
            len: node.data.len() as u64,
            modified_nanos: node.modified,
            born_nanos: Some(i128::from(inode)),
            mount_root: false,
        })
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let mut inner = self.lock();
        if self.step(&mut inner) {
            drop(inner);
            self.die();
        }
        let data = &inner.node(path)?.data;
        Ok(data[..data.len().min(most)].to_vec())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inner = self.lock();
        inner.node(folder)?;
        let within = inner.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(within.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn network_file_system(&self, _path: &Path) -> io::Result<Option<&'static str>> {
        Ok(None)
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.change(|inner| {
            if inner.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            inner.add(path, FileKind::Folder, mode, Vec::new());
            Ok(())
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(|inner| {
            inner.inode(path)?;
            inner.names.remove(path);
            inner.changes.push(Change::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn create(&self, path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()> {
        self.write(|inner| {
            if inner.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if inner.full {
                inner.faults.full += 1;
                return Err(io::Error::from_raw_os_error(28));
            }
            let inode = inner.add(path, FileKind::File, owner.mode, Vec::new());
            Ok((inode, bytes.to_vec(), true))
        })
    }

    fn fill(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(|inner| {
            let (inode, node) = (inner.inode(path)?, inner.node(path)?);
            let offset = offset as usize;
            let mut whole = node.data.get(..offset.min(node.data.len())).unwrap_or_default().to_vec();
            whole.extend_from_slice(bytes);
            let grows = whole.len() > node.data.len();
            Ok((inode, whole, grows))
        })
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write(|inner| {
            let inode = match inner.inode(path) {
                Ok(inode) => inode,
                Err(_) if inner.full => {
                    inner.faults.full += 1;
                    return Err(io::Error::from_raw_os_error(28));
                }
                Err(_) => inner.add(path, FileKind::File, 0o600, Vec::new()),
            };
            let mut whole = inner.nodes.get(&inode).ok_or_else(gone)?.data.clone();
            whole.extend_from_slice(bytes);
            Ok((inode, whole, !bytes.is_empty()))
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|inner| {
            inner.inode(from)?;
            let change = Change::Move(from.to_owned(), to.to_owned());
            change.apply(&mut inner.names);
            inner.changes.push(change);
            Ok(())
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.lock().names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.change(|inner| {
            inner.inode(one)?;
            inner.inode(other)?;
            let change = Change::Exchange(one.to_owned(), other.to_owned());
            change.apply(&mut inner.names);
            inner.changes.push(change);
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.change(|inner| {
            inner.node(folder)?;
            inner.sync_names(folder);
            Ok(())
        })
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        self.change(|inner| {
            let inode = inner.inode(path)?;
            inner.next += 1;
            let when = i128::from(inner.next);
            if let Some(node) = inner.nodes.get_mut(&inode) {
                node.modified = when;
            }
            Ok(())
        })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        let mut inner = self.lock();
        let inode = match inner.inode(path) {
            Ok(inode) => inode,
            Err(_) => inner.add(path, FileKind::File, 0o600, Vec::new()),
        };
        if inner.locks.contains_key(&inode) {
            return Ok(None);
        }
        inner.next += 1;
        let number = inner.next;
        inner.locks.insert(inode, (self.process, number));
        drop(inner);
        Ok(Some(SimLock { disk: self.clone(), inode, number }))
    }
}
