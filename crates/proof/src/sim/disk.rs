//! A simulated disk: what was not synced is lost or torn when the power goes, and any operation may be the last
//! one of its process. Outside edits fall between any two of them.

mod lies;
mod names;
mod operations;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evergrant_store::disk::FileKind;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::executor::{Died, ProcessId};
use super::fault::{Fault, Tally};
use super::lie::Lie;
use super::places::{FILE, FOLDER, LOCK, RECEIPTS, RECORD};
use names::{Change, Inode, Names, parent};

/// The bytes of a file at one moment.
pub type Bytes = Arc<Vec<u8>>;

/// So many files without a name may be left before they are cleared away.
const MOST_NODES: usize = 96;

#[derive(Debug, Clone)]
struct Node {
    kind: FileKind,
    mode: u32,
    data: Bytes,
    /// What is durable of it.
    durable: Bytes,
    modified: i128,
}

/// When an outside edit falls in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// After so many operations of keepers.
    After(u32),
    /// Right before a keeper replaces the auth file.
    BeforeReplace,
}

/// What happened on the disk, for the reference.
#[derive(Debug, Clone)]
pub enum News {
    /// An outside edit reached the auth file; `None`: it was removed.
    Landed(Option<Bytes>),
    /// A keeper put this into the auth file.
    Replaced(Bytes),
    /// A keeper replaced the record; with the auth file and the receipts as the power would have left them then.
    Recorded(Bytes, Vec<Bytes>),
    /// A keeper's write into a receipt returned.
    Kept(Bytes),
    /// A write into another file that was there returned.
    Filled(String),
}

struct Inner {
    nodes: BTreeMap<Inode, Node>,
    names: Names,
    durable_names: Names,
    changes: Vec<Change>,
    locks: Vec<(Inode, ProcessId, u64)>,
    next: u64,
    operations: u64,
    rng: SmallRng,
    full: bool,
    /// Which process dies, and within how many operations.
    dying: Option<(ProcessId, u32)>,
    /// Outside edits that fall in between.
    edits: Vec<(When, Option<Bytes>)>,
    news: Vec<News>,
    /// How often what the auth file's name leads to changed.
    file_version: u64,
    tally: Tally,
    lie: Option<Lie>,
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
    number: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.lock().locks.retain(|(_, _, number)| *number != self.number);
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn no_room() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl SimDisk {
    /// A disk with the folder of the auth file. `lie`: what it lies about.
    pub fn new(seed: u64, lie: Option<Lie>) -> Self {
        let disk = Self {
            inner: Arc::new(Mutex::new(Inner {
                nodes: BTreeMap::new(),
                names: Names::default(),
                durable_names: Names::default(),
                changes: Vec::new(),
                locks: Vec::new(),
                next: 0,
                operations: 0,
                rng: SmallRng::seed_from_u64(seed),
                full: false,
                dying: None,
                edits: Vec::new(),
                news: Vec::new(),
                file_version: 0,
                tally: Tally::default(),
                lie,
            })),
            process: 0,
        };
        let mut inner = disk.lock();
        inner.add(parent(FILE), FileKind::Folder, 0o755);
        inner.sync_names("");
        drop(inner);
        disk
    }

    /// What chance decides follows from another seed.
    pub fn reseed(&self, seed: u64) {
        self.lock().rng = SmallRng::seed_from_u64(seed);
    }

    /// The same disk, seen by another process.
    pub fn seen_by(&self, process: ProcessId) -> Self {
        Self { inner: self.inner.clone(), process }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an operator or another program does to the auth file: writes it, or removes it. Durable when done.
    pub fn edit(&self, when: When, bytes: Option<Vec<u8>>) {
        let (mut inner, bytes) = (self.lock(), bytes.map(Arc::new));
        match when {
            When::Now => inner.edit(bytes),
            When::After(_) | When::BeforeReplace => inner.edits.push((when, bytes)),
        }
    }

    /// Every edit that still waits for its moment happens now.
    pub fn land_edits(&self) {
        let mut inner = self.lock();
        for (_, bytes) in std::mem::take(&mut inner.edits) {
            inner.edit(bytes);
        }
    }

    /// What a file holds.
    pub fn content(&self, path: &str) -> Option<Bytes> {
        self.lock().live(path)
    }

    /// What would be left of a file if the power went now.
    pub fn durable(&self, path: &str) -> Option<Bytes> {
        let inner = self.lock();
        inner
            .durable_names
            .find(path)
            .and_then(|inode| inner.nodes.get(&inode))
            .map(|node| node.durable.clone())
    }

    /// What would be left of auth file and receipts if the power went now.
    pub fn durable_grants(&self) -> Vec<Bytes> {
        self.lock().durable_grants()
    }

    /// What every receipt holds.
    pub fn receipts(&self) -> Vec<Bytes> {
        let inner = self.lock();
        let nodes = inner.names.within(RECEIPTS).filter_map(|(_, inode)| inner.nodes.get(&inode));
        nodes.map(|node| node.data.clone()).collect()
    }

    /// No keeper is at the auth file, and none has left something that has to go back into it.
    pub fn is_settled(&self) -> bool {
        let inner = self.lock();
        let lock = inner.names.find(LOCK);
        let held = lock.is_some_and(|lock| inner.locks.iter().any(|(inode, ..)| *inode == lock));
        let staged = || {
            inner.names.within(FOLDER).any(|(name, _)| name.starts_with("swap.") || name.starts_with("back."))
        };
        !held && !staged()
    }

    /// Grows with every change of the auth file.
    pub fn file_version(&self) -> u64 {
        self.lock().file_version
    }

    /// What happened since the last time.
    pub fn news(&self) -> Vec<News> {
        std::mem::take(&mut self.lock().news)
    }

    /// How many operations there were so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Fills the disk up, or makes room again.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Makes a process die within one of its next operations.
    pub fn doom(&self, process: ProcessId, operations: u32) {
        self.lock().dying = Some((process, operations));
    }

    /// Nobody is to die any more.
    pub fn spare(&self) {
        self.lock().dying = None;
    }

    /// A process is gone: its locks are free.
    pub fn free_locks(&self, process: ProcessId) {
        let mut inner = self.lock();
        inner.locks.retain(|(_, holder, _)| *holder != process);
        if inner.dying.is_some_and(|(doomed, _)| doomed == process) {
            inner.dying = None;
        }
    }

    /// The power goes: what was not synced is lost, kept or torn, as the seed has it. All processes are gone.
    pub fn power_loss(&self) {
        let inner = &mut *self.lock();
        inner.locks.clear();
        inner.dying = None;
        let changes = std::mem::take(&mut inner.changes);
        let mut names = inner.durable_names.clone();
        // Changes of names reach the disk in order, up to some point.
        let kept = inner.rng.random_range(0..=changes.len());
        changes[..kept].iter().for_each(|change| change.apply(&mut names));
        changes[kept..].iter().for_each(|_| inner.tally.count(Fault::LostName));
        for node in inner.nodes.values_mut() {
            if node.data == node.durable {
                continue;
            }
            let share = inner.rng.random_range(0.0..1.0);
            node.data = match inner.rng.random_range(0..4) {
                0 => node.data.clone(),
                1 => node.durable.clone(),
                _ => Arc::new(torn(&node.durable, &node.data, share)),
            };
            node.durable = node.data.clone();
            inner.tally.count(Fault::TornBytes);
        }
        inner.durable_names = names.clone();
        inner.names = names;
        inner.file_version += 1;
    }

    /// The misfortunes of this disk.
    pub fn tally(&self) -> Tally {
        self.lock().tally
    }

    fn die(&self) -> ! {
        std::panic::resume_unwind(Box::new(Died(self.process)))
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
    fn add(&mut self, path: &str, kind: FileKind, mode: u32) -> Inode {
        self.next += 1;
        let (inode, modified, empty) = (self.next, i128::from(self.next), Bytes::default());
        self.nodes.insert(inode, Node { kind, mode, data: empty.clone(), durable: empty, modified });
        self.change(Change::Put(path.to_owned(), inode));
        inode
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn edit(&mut self, bytes: Option<Bytes>) {
        match &bytes {
            Some(bytes) => {
                let inode = self.add(FILE, FileKind::File, 0o600);
                if let Some(node) = self.nodes.get_mut(&inode) {
                    (node.data, node.durable) = (bytes.clone(), bytes.clone());
                }
            }
            None => self.change(Change::Remove(FILE.to_owned())),
        }
        self.sync_names(parent(FILE));
        self.file_version += 1;
        self.news.push(News::Landed(bytes));
    }

    /// One more operation of a keeper: edits fall before it. Says whether it is its process's last one.
    fn step(&mut self, process: ProcessId, replaces: bool) -> bool {
        self.operations += 1;
        if !self.edits.is_empty() {
            self.edits_before(replaces);
        }
        match &mut self.dying {
            Some((doomed, left)) if *doomed == process => {
                if *left == 0 {
                    self.dying = None;
                    self.tally.count(Fault::DeathOnDisk);
                    return true;
                }
                *left -= 1;
                false
            }
            Some(_) | None => false,
        }
    }

    fn edits_before(&mut self, replaces: bool) {
        let mut waiting = Vec::new();
        for (when, bytes) in std::mem::take(&mut self.edits) {
            match when {
                When::BeforeReplace if replaces => {
                    self.tally.count(Fault::EditBeforeReplace);
                    self.edit(bytes);
                }
                When::After(0) | When::Now => {
                    self.tally.count(Fault::EditInBetween);
                    self.edit(bytes);
                }
                When::After(left) => waiting.push((When::After(left - 1), bytes)),
                When::BeforeReplace => waiting.push((when, bytes)),
            }
        }
        self.edits = waiting;
    }

    fn sync_names(&mut self, folder: &str) {
        // A journal keeps the order: whatever came before the last change of this folder is durable with it.
        let Some(last) = self.changes.iter().rposition(|change| change.touches(folder)) else { return };
        let durable: Vec<_> = self.changes.drain(..=last).collect();
        for change in durable {
            if !change.concerns(|path| self.never_durable(path)) || self.is_outside(&change) {
                change.apply(&mut self.durable_names);
            }
        }
        if self.nodes.len() > MOST_NODES {
            self.clear_away();
        }
    }

    /// An outside edit is durable whatever this disk lies about.
    fn is_outside(&self, change: &Change) -> bool {
        matches!(change, Change::Put(path, _) | Change::Remove(path) if path == FILE)
    }

    fn clear_away(&mut self) {
        let pending = self.changes.iter().filter_map(|change| match change {
            Change::Put(_, inode) => Some(*inode),
            Change::Remove(_) | Change::Move(..) | Change::Exchange(..) => None,
        });
        let mut used: Vec<_> =
            self.names.inodes().chain(self.durable_names.inodes()).chain(pending).collect();
        used.sort_unstable();
        self.nodes.retain(|inode, _| used.binary_search(inode).is_ok());
    }

    fn durable_grants(&self) -> Vec<Bytes> {
        let receipts = self.durable_names.within(RECEIPTS).map(|(_, inode)| inode);
        let all = self.durable_names.find(FILE).into_iter().chain(receipts);
        all.filter_map(|inode| self.nodes.get(&inode)).map(|node| node.durable.clone()).collect()
    }

    fn inode(&self, path: &str) -> io::Result<Inode> {
        self.names.find(path).ok_or_else(gone)
    }

    fn node(&self, path: &str) -> io::Result<&Node> {
        self.nodes.get(&self.inode(path)?).ok_or_else(gone)
    }

    fn live(&self, path: &str) -> Option<Bytes> {
        self.node(path).ok().map(|node| node.data.clone())
    }

    /// A keeper changed what the names of auth file and record lead to.
    fn replaced(&mut self, path: &str) {
        self.file_version += u64::from(path == FILE);
        match (path, self.live(path)) {
            (FILE, Some(bytes)) => self.news.push(News::Replaced(bytes)),
            (RECORD, Some(bytes)) => {
                let durable = self.durable_grants();
                self.news.push(News::Recorded(bytes, durable));
            }
            (_, _) => {}
        }
    }
}
