//! A disk in memory that writes down every change, sync by sync, so that the states which a crash could leave are
//! derived from what the vault really did.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evergrant_standin::Engine;
use evergrant_store::disk::{Disk, FileKind, Owner, Stat};

use super::Lie;
use super::image::{Image, Inode, Kind, Names, Node, written};

/// One recorded step.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Born(Inode, Node),
    Write {
        inode: Inode,
        offset: usize,
        bytes: Vec<u8>,
    },
    Cut {
        inode: Inode,
        len: usize,
    },
    Sync(Inode),
    Names(Names),
    SyncFolder(PathBuf),
    /// An outside edit: a new file under this name, or none; durable in one step.
    Edited(PathBuf, Option<(Inode, Node)>),
}

/// What is known at a moment of the sequence, for the judge.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// Whose newest pair the file may hold in the end.
    pub(super) families: Vec<u64>,
    /// The file was not there before.
    pub(super) may_be_absent: bool,
    /// An operator took the file away, with this content.
    pub(super) removed: Option<Vec<u8>>,
    /// An operator added a member to the file.
    pub(super) noted: bool,
    /// The write of the answer's receipt has returned.
    pub(super) kept: bool,
    /// So many lineages may have begun after the first.
    pub(super) logins: u64,
}

/// From a place in the sequence on, until the next one.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) from: usize,
    /// The step before it made it so; otherwise nobody's step did, and what was true before is still possible.
    pub(super) by_a_step: bool,
    pub(super) facts: Facts,
    pub(super) engine: Engine,
}

/// An operator's edit, which falls between two operations.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Login { bytes: Vec<u8>, family: u64 },
    Note(Vec<u8>),
    Remove,
}

/// Everything that is behind the disk.
pub(super) struct Inner {
    image: Image,
    pub(super) base: Image,
    pub(super) ops: Vec<Op>,
    pub(super) moments: Vec<Moment>,
    pub(super) facts: Facts,
    pub(super) engine: Engine,
    locks: BTreeMap<Inode, u64>,
    next: Inode,
    verbs: usize,
    edit: Option<(usize, PathBuf, Edit)>,
    mounted: Option<PathBuf>,
    knows_exchange: bool,
    lie: Option<Lie>,
}

/// The disk; every clone is the same one.
#[derive(Clone)]
pub(super) struct JournalDisk(Arc<Mutex<Inner>>);

/// A lock on it.
pub(super) struct JournalLock(JournalDisk, Inode, u64);

impl Drop for JournalLock {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        if inner.locks.get(&self.1) == Some(&self.2) {
            inner.locks.remove(&self.1);
        }
    }
}

impl Inner {
    fn record(&mut self, op: Op) {
        match &op {
            Op::Born(inode, node) => {
                self.image.nodes.insert(*inode, node.clone());
            }
            Op::Write { inode, offset, bytes } => {
                let old = self.image.nodes.get(inode).map(|node| node.data.clone()).unwrap_or_default();
                self.image.put(*inode, written(&old, *offset, bytes));
            }
            Op::Cut { inode, len } => {
                let old = self.image.nodes.get(inode).map(|node| node.data.clone()).unwrap_or_default();
                let mut data = old.to_vec();
                data.resize(*len, 0);
                self.image.put(*inode, data);
            }
            Op::Names(change) => self.image.rename(change),
            Op::Edited(path, Some((inode, node))) => {
                self.image.nodes.insert(*inode, node.clone());
                self.image.names.insert(path.clone(), *inode);
            }
            Op::Edited(path, None) => {
                self.image.names.remove(path);
            }
            Op::Sync(_) | Op::SyncFolder(_) => {}
        }
        self.ops.push(op);
    }

    fn born(&mut self, path: &Path, kind: Kind, mode: u32) -> Inode {
        self.next += 1;
        self.record(Op::Born(self.next, Node::new(kind, mode)));
        self.record(Op::Names(Names::Link(path.to_owned(), self.next)));
        self.next
    }

    fn sync(&mut self, inode: Inode, path: &Path) {
        let receipt = path.parent().is_some_and(|folder| folder.ends_with("receipts"));
        let dropped = match self.lie {
            Some(Lie::ReceiptsNotSynced) => receipt,
            Some(Lie::FilesNotSynced) => !receipt,
            Some(Lie::FoldersNotSynced | Lie::ExchangeInSteps) | None => false,
        };
        if !dropped {
            self.record(Op::Sync(inode));
        }
    }

    /// From here on other facts hold.
    pub(super) fn turn(&mut self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts);
        let moment = Moment {
            from: self.ops.len(),
            by_a_step: false,
            facts: self.facts.clone(),
            engine: self.engine.clone(),
        };
        self.moments.push(moment);
    }

    fn edit(&mut self, path: &Path, edit: Edit) {
        let was = self.image.content(path).map(|data| data.to_vec());
        let bytes = match &edit {
            Edit::Login { bytes, .. } | Edit::Note(bytes) => Some(bytes.clone()),
            Edit::Remove => None,
        };
        let file = bytes.map(|bytes| {
            self.next += 1;
            (self.next, Node { data: Arc::new(bytes), ..Node::new(Kind::File, 0o600) })
        });
        self.record(Op::Edited(path.to_owned(), file));
        self.turn(|facts| match edit {
            Edit::Login { family, .. } => {
                facts.families = vec![family];
                facts.logins += 1;
            }
            Edit::Note(_) => facts.noted = true,
            Edit::Remove => facts.removed = was,
        });
        if let Some(moment) = self.moments.last_mut() {
            moment.by_a_step = true;
        }
    }
}

impl JournalDisk {
    /// A disk that holds `base`, all of it durable, with a provider beside it.
    pub(super) fn new(base: Image, engine: Engine) -> Self {
        let next = base.nodes.keys().copied().max().unwrap_or(0);
        Self(Arc::new(Mutex::new(Inner {
            image: base.clone(),
            base,
            ops: Vec::new(),
            moments: Vec::new(),
            facts: Facts::default(),
            engine,
            locks: BTreeMap::new(),
            next,
            verbs: 0,
            edit: None,
            mounted: None,
            knows_exchange: true,
            lie: None,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file at `path` is the root of a mount.
    pub(super) fn mount(&self, path: &Path) {
        self.lock().mounted = Some(path.to_owned());
    }

    /// Exchanges are not known from now on.
    pub(super) fn forget_exchange(&self) {
        self.lock().knows_exchange = false;
    }

    /// Breaks a promise from now on.
    pub(super) fn lie(&self, lie: Option<Lie>) {
        self.lock().lie = lie;
    }

    /// What it holds now.
    pub(super) fn image(&self) -> Image {
        self.lock().image.clone()
    }

    /// An operator's edit, now.
    pub(super) fn edit(&self, path: &Path, edit: Edit) {
        self.lock().edit(path, edit);
    }

    /// The same, before the verb of that number from here.
    pub(super) fn edit_before(&self, verb: usize, path: &Path, edit: Edit) {
        let mut inner = self.lock();
        inner.edit = Some((inner.verbs + verb, path.to_owned(), edit));
    }

    /// How many operations were called, those that change nothing among them.
    pub(super) fn verbs(&self) -> usize {
        self.lock().verbs
    }

    /// Calls everything so far durable and forgets how it came about.
    pub(super) fn settle(&self) {
        let mut inner = self.lock();
        inner.base = inner.image.clone();
        inner.ops.clear();
        inner.moments.clear();
        inner.turn(|_| {});
    }

    /// One operation begins.
    fn verb(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        if inner.edit.as_ref().is_some_and(|(at, ..)| *at <= inner.verbs)
            && let Some((_, path, edit)) = inner.edit.take()
        {
            inner.edit(&path, edit);
        }
        inner.verbs += 1;
        inner
    }
}

impl Disk for JournalDisk {
    type Lock = JournalLock;

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.lock().image.node(path.parent().unwrap_or(Path::new("/")))?;
        Ok(path.to_owned())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let inner = self.verb();
        let (inode, node) = (inner.image.inode(path)?, inner.image.node(path)?);
        Ok(Stat {
            kind: match node.kind {
                Kind::File => FileKind::File,
                Kind::Folder => FileKind::Folder,
            },
            mode: node.mode,
            uid: 0,
            gid: 0,
            inode,
            len: node.data.len() as u64,
            modified_nanos: 0,
            born_nanos: Some(i128::from(inode)),
            mount_root: inner.mounted.as_deref() == Some(path),
        })
    }

    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        let inner = self.verb();
        let data = &inner.image.node(path)?.data;
        Ok(data[..data.len().min(most)].to_vec())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inner = self.verb();
        inner.image.node(folder)?;
        let within = inner.image.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(within.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn network_file_system(&self, _path: &Path) -> io::Result<Option<&'static str>> {
        Ok(None)
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut inner = self.verb();
        if inner.image.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.born(path, Kind::Folder, mode);
        Ok(())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.verb();
        inner.image.inode(path)?;
        inner.record(Op::Names(Names::Unlink(path.to_owned())));
        Ok(())
    }

    fn create(&self, path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()> {
        let mut inner = self.verb();
        if inner.image.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = inner.born(path, Kind::File, owner.mode);
        inner.record(Op::Write { inode, offset: 0, bytes: bytes.to_vec() });
        inner.sync(inode, path);
        Ok(())
    }

    fn fill(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.verb();
        let (inode, offset) = (inner.image.inode(path)?, offset as usize);
        inner.record(Op::Write { inode, offset, bytes: bytes.to_vec() });
        inner.record(Op::Cut { inode, len: offset + bytes.len() });
        inner.sync(inode, path);
        if path.parent().is_some_and(|folder| folder.ends_with("receipts")) {
            inner.turn(|facts| facts.kept = true);
        }
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.verb();
        let inode = match inner.image.inode(path) {
            Ok(inode) => inode,
            Err(_) => inner.born(path, Kind::File, 0o600),
        };
        let offset = inner.image.node(path)?.data.len();
        inner.record(Op::Write { inode, offset, bytes: bytes.to_vec() });
        inner.sync(inode, path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.verb();
        let inode = inner.image.inode(from)?;
        inner.record(Op::Names(Names::Move(from.to_owned(), to.to_owned(), inode)));
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        if self.lock().image.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let mut inner = self.verb();
        if !inner.knows_exchange {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (first, second) = (inner.image.inode(one)?, inner.image.inode(other)?);
        if inner.lie == Some(Lie::ExchangeInSteps) {
            let aside = one.with_extension("aside");
            for (from, to, inode) in [(other, &*aside, second), (one, other, first), (&*aside, one, second)] {
                inner.record(Op::Names(Names::Move(from.to_owned(), to.to_owned(), inode)));
            }
            return Ok(());
        }
        inner.record(Op::Names(Names::Exchange(one.to_owned(), other.to_owned())));
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut inner = self.verb();
        inner.image.node(folder)?;
        if inner.lie != Some(Lie::FoldersNotSynced) {
            inner.record(Op::SyncFolder(folder.to_owned()));
        }
        Ok(())
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        self.verb().image.inode(path).map(|_| ())
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<JournalLock>> {
        let mut inner = self.verb();
        let inode = match inner.image.inode(path) {
            Ok(inode) => inode,
            Err(_) => inner.born(path, Kind::File, 0o600),
        };
        if inner.locks.contains_key(&inode) {
            return Ok(None);
        }
        let number = inner.verbs as u64;
        inner.locks.insert(inode, number);
        drop(inner);
        Ok(Some(JournalLock(self.clone(), inode, number)))
    }
}
