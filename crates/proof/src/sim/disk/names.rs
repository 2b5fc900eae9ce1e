//! The names on a simulated disk, and the changes of them that are not durable yet. There are a dozen names, so
//! that a list is faster than a map of paths.

use std::path::Path;

/// Identifies a file whatever its name.
pub(super) type Inode = u64;

/// A path as text; every path in the simulation is.
pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// The folder that a path lies in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Which name leads to which file.
#[derive(Debug, Clone, Default)]
pub(super) struct Names(Vec<(String, Inode)>);

impl Names {
    pub(super) fn find(&self, path: &str) -> Option<Inode> {
        self.0.iter().find(|(name, _)| name == path).map(|(_, inode)| *inode)
    }

    pub(super) fn put(&mut self, path: &str, inode: Inode) {
        match self.0.iter_mut().find(|(name, _)| name == path) {
            Some(entry) => entry.1 = inode,
            None => self.0.push((path.to_owned(), inode)),
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> Option<Inode> {
        let index = self.0.iter().position(|(name, _)| name == path)?;
        Some(self.0.swap_remove(index).1)
    }

    pub(super) fn inodes(&self) -> impl Iterator<Item = Inode> {
        self.0.iter().map(|(_, inode)| *inode)
    }

    /// The names right below a folder, with their files.
    pub(super) fn within(&self, folder: &str) -> impl Iterator<Item = (&str, Inode)> {
        self.0.iter().filter_map(move |(name, inode)| {
            let rest = name.strip_prefix(folder)?.strip_prefix('/')?;
            (!rest.is_empty() && !rest.contains('/')).then_some((rest, *inode))
        })
    }
}

/// A change of names that the folder was not synced for yet.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(String, Inode),
    Remove(String),
    Move(String, String),
    Exchange(String, String),
}

impl Change {
    pub(super) fn touches(&self, folder: &str) -> bool {
        let within = |path: &str| parent(path) == folder;
        match self {
            Self::Put(path, _) | Self::Remove(path) => within(path),
            Self::Move(one, other) | Self::Exchange(one, other) => within(one) || within(other),
        }
    }

    /// Whether it concerns a name that `which` picks.
    pub(super) fn concerns(&self, which: impl Fn(&str) -> bool) -> bool {
        match self {
            Self::Put(path, _) | Self::Remove(path) => which(path),
            Self::Move(one, other) | Self::Exchange(one, other) => which(one) || which(other),
        }
    }

    pub(super) fn apply(&self, names: &mut Names) {
        match self {
            Self::Put(path, inode) => names.put(path, *inode),
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Move(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.put(to, inode);
                }
            }
            Self::Exchange(one, other) => {
                if let (Some(first), Some(second)) = (names.find(one), names.find(other)) {
                    names.put(one, second);
                    names.put(other, first);
                }
            }
        }
    }
}
