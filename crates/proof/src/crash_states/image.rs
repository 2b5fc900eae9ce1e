//! What a disk holds, and how its names change.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) type Inode = u64;

/// A file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) data: Arc<Vec<u8>>,
}

/// The two kinds that a vault makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    File,
    Folder,
}

/// What a disk holds.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) nodes: BTreeMap<Inode, Node>,
    pub(super) names: BTreeMap<PathBuf, Inode>,
}

/// A change of names that happens whole or not at all.
#[derive(Debug, Clone)]
pub(super) enum Names {
    Link(PathBuf, Inode),
    Unlink(PathBuf),
    Move(PathBuf, PathBuf, Inode),
    Exchange(PathBuf, PathBuf),
}

pub(super) fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Node {
    pub(super) fn new(kind: Kind, mode: u32) -> Self {
        Self { kind, mode, data: Arc::default() }
    }
}

impl Image {
    /// Empty but for these folders.
    pub(super) fn with_folders(folders: &[&str]) -> Self {
        let mut image = Self::default();
        for (inode, folder) in (1..).zip(folders) {
            image.nodes.insert(inode, Node::new(Kind::Folder, 0o755));
            image.names.insert(folder.into(), inode);
        }
        image
    }

    pub(super) fn content(&self, path: &Path) -> Option<&Arc<Vec<u8>>> {
        Some(&self.nodes.get(self.names.get(path)?)?.data)
    }

    pub(super) fn inode(&self, path: &Path) -> io::Result<Inode> {
        self.names.get(path).copied().ok_or_else(gone)
    }

    pub(super) fn node(&self, path: &Path) -> io::Result<&Node> {
        self.nodes.get(&self.inode(path)?).ok_or_else(gone)
    }

    /// Does a change of names.
    pub(super) fn rename(&mut self, change: &Names) {
        match change {
            Names::Link(path, inode) => {
                self.names.insert(path.clone(), *inode);
            }
            Names::Unlink(path) => {
                self.names.remove(path);
            }
            Names::Move(from, to, inode) => {
                self.names.remove(from);
                self.names.insert(to.clone(), *inode);
            }
            Names::Exchange(one, other) => {
                let (first, second) = (self.names.remove(one), self.names.remove(other));
                self.names.extend(second.map(|inode| (one.clone(), inode)));
                self.names.extend(first.map(|inode| (other.clone(), inode)));
            }
        }
    }

    /// Replaces a node's bytes.
    pub(super) fn put(&mut self, inode: Inode, data: Vec<u8>) {
        if let Some(node) = self.nodes.get_mut(&inode) {
            node.data = Arc::new(data);
        }
    }
}

/// `old` with `bytes` at `offset`.
pub(super) fn written(old: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut data = old.to_vec();
    data.resize(data.len().max(offset + bytes.len()), 0);
    data[offset..offset + bytes.len()].copy_from_slice(bytes);
    data
}
