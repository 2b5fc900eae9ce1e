//! The real disk with a hook around every operation, which may fail it or edit the files like somebody outside.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use evergrant_store::disk::{Owner, Stat};
use evergrant_store::{Disk, OsDisk};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Resolve,
    Stat,
    Read,
    List,
    Network,
    MakeFolder,
    RemoveFolder,
    RemoveFile,
    Create,
    Fill,
    Append,
    Rename,
    RenameNew,
    Exchange,
    SyncFolder,
    Touch,
    TryLock,
}

impl Op {
    /// It may need space.
    pub(crate) fn writes(self) -> bool {
        matches!(
            self,
            Self::MakeFolder
                | Self::Create
                | Self::Fill
                | Self::Append
                | Self::Rename
                | Self::RenameNew
                | Self::Exchange
                | Self::SyncFolder
        )
    }
}

/// A hook sees one operation before and after it is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) op: Op,
    pub(crate) path: &'a Path,
    /// It is about to be done; else it succeeded.
    pub(crate) before: bool,
    /// Which one of its kind since the hook was set, from 1.
    pub(crate) nth: usize,
    /// Which one of all, from 1.
    pub(crate) nth_of_all: usize,
}

type Hook = Box<dyn FnMut(Call<'_>) -> io::Result<()> + Send>;

#[derive(Default)]
struct Shared {
    hook: Option<Hook>,
    done: Vec<Op>,
    network: Option<&'static str>,
}

#[derive(Clone, Default)]
pub(crate) struct FaultDisk(Arc<Mutex<Shared>>);

impl std::fmt::Debug for FaultDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FaultDisk")
    }
}

impl FaultDisk {
    pub(crate) fn hook(&self, hook: impl FnMut(Call<'_>) -> io::Result<()> + Send + 'static) {
        let mut shared = self.0.lock().unwrap();
        shared.hook = Some(Box::new(hook));
        shared.done.clear();
    }

    /// From here on the disk is an ordinary one. Says what was done since the hook was set.
    pub(crate) fn unhook(&self) -> Vec<Op> {
        let mut shared = self.0.lock().unwrap();
        shared.hook = None;
        std::mem::take(&mut shared.done)
    }

    pub(crate) fn network(&self, kind: &'static str) {
        self.0.lock().unwrap().network = Some(kind);
    }

    fn around<T>(&self, op: Op, path: &Path, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut shared = self.0.lock().unwrap();
        shared.done.push(op);
        let nth = shared.done.iter().filter(|done| **done == op).count();
        let nth_of_all = shared.done.len();
        let mut call = Call { op, path, before: true, nth, nth_of_all };
        if let Some(hook) = &mut shared.hook {
            hook(call)?;
        }
        let result = work()?;
        call.before = false;
        if let Some(hook) = &mut shared.hook {
            hook(call)?;
        }
        Ok(result)
    }
}

pub(crate) fn no_space() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

impl Disk for FaultDisk {
    type Lock = File;

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.around(Op::Resolve, path, || OsDisk.resolve(path))
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.around(Op::Stat, path, || OsDisk.stat(path))
    }
    fn read(&self, path: &Path, most: usize) -> io::Result<Vec<u8>> {
        self.around(Op::Read, path, || OsDisk.read(path, most))
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.around(Op::List, folder, || OsDisk.list(folder))
    }
    fn network_file_system(&self, path: &Path) -> io::Result<Option<&'static str>> {
        let told = self.0.lock().unwrap().network;
        self.around(Op::Network, path, || Ok(OsDisk.network_file_system(path)?.or(told)))
    }
    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.around(Op::MakeFolder, path, || OsDisk.make_folder(path, mode))
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.around(Op::RemoveFolder, path, || OsDisk.remove_folder(path))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.around(Op::RemoveFile, path, || OsDisk.remove_file(path))
    }
    fn create(&self, path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()> {
        self.around(Op::Create, path, || OsDisk.create(path, bytes, owner))
    }
    fn fill(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.around(Op::Fill, path, || OsDisk.fill(path, offset, bytes))
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.around(Op::Append, path, || OsDisk.append(path, bytes))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.around(Op::Rename, to, || OsDisk.rename(from, to))
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.around(Op::RenameNew, to, || OsDisk.rename_new(from, to))
    }
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.around(Op::Exchange, other, || OsDisk.exchange(one, other))
    }
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.around(Op::SyncFolder, folder, || OsDisk.sync_folder(folder))
    }
    fn touch(&self, path: &Path) -> io::Result<()> {
        self.around(Op::Touch, path, || OsDisk.touch(path))
    }
    fn try_lock(&self, path: &Path) -> io::Result<Option<File>> {
        self.around(Op::TryLock, path, || OsDisk.try_lock(path))
    }
}
