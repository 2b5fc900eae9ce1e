//! The operations of the simulated disk, as the vault uses them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use evergrant_store::disk::{Disk, FileKind, Owner, Stat};
use rand::RngExt;

use super::names::{Change, Inode, parent, text};
use super::{Bytes, Inner, News, SimDisk, SimLock, gone, no_room, torn};
use crate::sim::fault::Fault;
use crate::sim::places::{FILE, RECEIPTS};

impl SimDisk {
    /// A look at the disk; it may be the last operation of its process.
    fn look(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        if inner.step(self.process, false) {
            drop(inner);
            self.die();
        }
        inner
    }

    /// A change that is done whole, or not at all if the process dies. `replaces`: the auth file gets a new content.
    fn change<T>(&self, replaces: bool, with: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.lock();
        let dies = inner.step(self.process, replaces);
        let happens = !dies || inner.rng.random_bool(0.5);
        let done = happens.then(|| with(&mut inner));
        drop(inner);
        match done {
            Some(done) if !dies => done,
            Some(_) | None => self.die(),
        }
    }

    /// Bytes that are written and then synced: a process that dies in between leaves them torn.
    fn write(
        &self,
        path: &str,
        with: impl FnOnce(&mut Inner) -> io::Result<(Inode, Vec<u8>, bool)>,
    ) -> io::Result<Bytes> {
        let mut inner = self.lock();
        let dies = inner.step(self.process, false);
        let written = with(&mut inner).and_then(|(inode, bytes, grows)| {
            if grows && inner.full {
                inner.tally.count(Fault::NoRoom);
                return Err(no_room());
            }
            Ok((inode, Arc::new(bytes)))
        });
        let share = if dies { inner.rng.random_range(0.0..1.0) } else { 1.0 };
        inner.next += 1;
        let (durable, when) = (!inner.never_durable(path), i128::from(inner.next));
        let written = written.and_then(|(inode, bytes)| {
            let node = inner.nodes.get_mut(&inode).ok_or_else(gone)?;
            node.modified = when;
            if dies {
                node.data = Arc::new(torn(&node.data, &bytes, share));
                return Ok(bytes);
            }
            node.data = bytes.clone();
            if durable {
                node.durable = bytes.clone();
            }
            Ok(bytes)
        });
        drop(inner);
        if dies { self.die() } else { written }
    }

    /// A rename of one kind or another; what it does to the auth file and the record is news.
    fn rename_as(&self, change: Change, from: &str, to: &str, new_only: bool) -> io::Result<()> {
        self.change(to == FILE, |inner| {
            inner.inode(from)?;
            if new_only && inner.names.find(to).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            inner.change(change);
            inner.replaced(to);
            Ok(())
        })
    }
}

/// A file's bytes with others from `offset` on; it is cut behind them, as the real one does.
fn filled(data: &[u8], offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut whole = data[..data.len().min(offset as usize)].to_vec();
    whole.extend_from_slice(bytes);
    whole
}

impl Disk for SimDisk {
    type Lock = SimLock;

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let folder = parent(text(path));
        if !folder.is_empty() {
            self.lock().node(folder)?;
        }
        Ok(path.to_owned())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let inner = self.look();
        let (inode, node) = (inner.inode(text(path))?, inner.node(text(path))?);
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
        let inner = self.look();
        let mapped = inner.mapped(text(path));
        let path = mapped.as_deref().unwrap_or(text(path));
        if let Some(instead) = inner.read_instead(path) {
            return Ok(instead);
        }
        let data = &inner.node(path)?.data;
        Ok(data[..data.len().min(most)].to_vec())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let inner = self.look();
        inner.node(text(folder))?;
        Ok(inner.names.within(text(folder)).filter_map(|(name, _)| inner.shown(name, text(folder))).collect())
    }

    fn network_file_system(&self, _path: &Path) -> io::Result<Option<&'static str>> {
        Ok(None)
    }

    fn make_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.change(false, |inner| {
            if inner.names.find(text(path)).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            inner.add(text(path), FileKind::Folder, mode);
            Ok(())
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.change(false, |inner| {
            let mapped = inner.mapped(text(path));
            let path = mapped.as_deref().unwrap_or(text(path));
            inner.inode(path)?;
            inner.change(Change::Remove(path.to_owned()));
            Ok(())
        })
    }

    fn create(&self, path: &Path, bytes: &[u8], owner: Owner) -> io::Result<()> {
        let created = self.write(text(path), |inner| {
            let mapped = inner.mapped(text(path));
            let path = mapped.as_deref().unwrap_or(text(path));
            if inner.names.find(path).is_some() && mapped.is_none() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if inner.full {
                inner.tally.count(Fault::NoRoom);
                return Err(no_room());
            }
            Ok((inner.add(path, FileKind::File, owner.mode), bytes.to_vec(), true))
        });
        created.map(|_| ())
    }

    fn fill(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let path = text(path);
        if self.lock().drops_fill(path) {
            let mut inner = self.look();
            let whole = filled(&inner.node(path)?.data, offset, bytes);
            if inner.dropped_counts() {
                inner.news.push(News::Kept(Arc::new(whole)));
            }
            return Ok(());
        }
        let filled = self.write(path, |inner| {
            let mapped = inner.mapped(path);
            let path = mapped.as_deref().unwrap_or(path);
            let (inode, node) = (inner.inode(path)?, inner.node(path)?);
            let whole = filled(&node.data, offset, bytes);
            let grows = whole.len() > node.data.len();
            Ok((inode, whole, grows))
        })?;
        if parent(path) == RECEIPTS {
            self.lock().news.push(News::Kept(filled));
        } else {
            self.lock().news.push(News::Filled(path.to_owned()));
        }
        Ok(())
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let appended = self.write(text(path), |inner| {
            let inode = match inner.inode(text(path)) {
                Ok(inode) => inode,
                Err(_) if inner.full => {
                    inner.tally.count(Fault::NoRoom);
                    return Err(no_room());
                }
                Err(_) => inner.add(text(path), FileKind::File, 0o600),
            };
            let share = if inner.full { inner.rng.random_range(0.0..1.0) } else { 1.0 };
            let node = inner.nodes.get_mut(&inode).ok_or_else(gone)?;
            let mut whole = node.data.to_vec();
            if share < 1.0 {
                // The last block still had room for a part of it.
                whole.extend_from_slice(&bytes[..(bytes.len() as f64 * share) as usize]);
                node.data = Arc::new(whole.clone());
            }
            whole.extend_from_slice(bytes);
            Ok((inode, whole, !bytes.is_empty()))
        });
        appended.map(|_| ())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (text(from), text(to));
        self.rename_as(Change::Move(from.to_owned(), to.to_owned()), from, to, false)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (text(from), text(to));
        self.rename_as(Change::Move(from.to_owned(), to.to_owned()), from, to, true)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let (one, other) = (text(one), text(other));
        if self.lock().cannot_exchange() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.change(other == FILE, |inner| {
            inner.inode(one)?;
            let change = match inner.inode(other) {
                Ok(_) => Change::Exchange(one.to_owned(), other.to_owned()),
                Err(_) if inner.makes_removed_again() => Change::Move(one.to_owned(), other.to_owned()),
                Err(error) => return Err(error),
            };
            inner.change(change);
            inner.replaced(other);
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.change(false, |inner| {
            inner.node(text(folder))?;
            inner.sync_names(text(folder));
            Ok(())
        })
    }

    fn touch(&self, path: &Path) -> io::Result<()> {
        self.change(false, |inner| {
            let inode = inner.inode(text(path))?;
            inner.next += 1;
            let when = i128::from(inner.next);
            if let Some(node) = inner.nodes.get_mut(&inode) {
                node.modified = when;
            }
            Ok(())
        })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        let mut inner = self.look();
        let mapped = inner.mapped(text(path));
        let path = mapped.as_deref().unwrap_or(text(path));
        let inode = match inner.inode(path) {
            Ok(inode) => inode,
            Err(_) => inner.add(path, FileKind::File, 0o600),
        };
        if inner.locks.iter().any(|(held, ..)| *held == inode) && !inner.grants_always(path) {
            return Ok(None);
        }
        inner.next += 1;
        let number = inner.next;
        inner.locks.push((inode, self.process, number));
        drop(inner);
        Ok(Some(SimLock { disk: self.clone(), number }))
    }
}
