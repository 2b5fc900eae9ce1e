//! The states that a crash may leave of a recorded sequence: at every place of it, every way in which what was
//! not synced may be there, be lost or be torn.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use super::disk::Op;
use super::image::{Image, Inode, Names, written};

/// Of so many pending changes of names every combination is tried; of more, prefixes and single losses.
const ALL_COMBINATIONS: usize = 12;
const PAGE: usize = 4096;
/// Of so many pages every combination is tried.
const ALL_PAGES: usize = 5;

/// A change of names that no sync has made durable yet, with those that it cannot do without.
struct Pending {
    change: Names,
    needs: BTreeSet<usize>,
}

/// What is durable and what is not, at one place of the sequence.
pub(super) struct Replay {
    durable: Image,
    /// By a number that grows.
    names: BTreeMap<usize, Pending>,
    next: usize,
    data: BTreeMap<Inode, Vec<Op>>,
}

/// One state that a crash may leave.
pub(super) struct CrashState {
    pub(super) image: Image,
    /// Identifies what can be seen of it.
    pub(super) key: u64,
    /// What was lost, for people.
    pub(super) lost: String,
}

impl Names {
    fn paths(&self) -> Vec<&PathBuf> {
        match self {
            Self::Link(path, _) | Self::Unlink(path) => vec![path],
            Self::Move(one, other, _) | Self::Exchange(one, other) => vec![one, other],
        }
    }

    fn within(&self, folder: &Path) -> bool {
        self.paths().iter().any(|path| path.parent() == Some(folder))
    }

    fn hangs_on(&self, earlier: &Self) -> bool {
        let before = earlier.paths();
        self.paths()
            .iter()
            .any(|path| before.contains(path) || before.iter().any(|at| path.parent() == Some(at)))
    }
}

impl Replay {
    pub(super) fn new(base: Image) -> Self {
        Self { durable: base, names: BTreeMap::new(), next: 0, data: BTreeMap::new() }
    }

    /// One step further.
    pub(super) fn step(&mut self, op: &Op) {
        match op {
            Op::Born(inode, node) => {
                self.durable.nodes.insert(*inode, node.clone());
            }
            Op::Write { inode, .. } | Op::Cut { inode, .. } => {
                self.data.entry(*inode).or_default().push(op.clone());
            }
            Op::Sync(inode) => {
                for op in self.data.remove(inode).unwrap_or_default() {
                    let data = carried_out(self.data_of(*inode), &op);
                    self.durable.put(*inode, data);
                }
            }
            Op::Names(change) => self.pend(change),
            Op::SyncFolder(folder) => self.sync_names(|change| change.within(folder)),
            Op::Edited(path, file) => {
                self.sync_names(|change| change.paths().contains(&path));
                match file {
                    Some((inode, node)) => {
                        self.durable.nodes.insert(*inode, node.clone());
                        self.durable.rename(&Names::Link(path.clone(), *inode));
                    }
                    None => self.durable.rename(&Names::Unlink(path.clone())),
                }
            }
        }
    }

    fn data_of(&self, inode: Inode) -> &[u8] {
        self.durable.nodes.get(&inode).map_or(&[], |node| &node.data)
    }

    fn pend(&mut self, change: &Names) {
        if let Names::Move(from, to, inode) = change
            && from.parent() != to.parent()
        {
            // The new name may be there before the old one is gone, never the other way round.
            let added = self.push(Names::Link(to.clone(), *inode), None);
            self.push(Names::Unlink(from.clone()), Some(added));
            return;
        }
        self.push(change.clone(), None);
    }

    fn push(&mut self, change: Names, after: Option<usize>) -> usize {
        let hangs = self.names.iter().filter(|(_, earlier)| change.hangs_on(&earlier.change));
        let mut needs: BTreeSet<usize> = hangs.map(|(number, _)| *number).chain(after).collect();
        for number in needs.clone() {
            needs.extend(self.names.get(&number).into_iter().flat_map(|pending| &pending.needs));
        }
        self.next += 1;
        self.names.insert(self.next, Pending { change, needs });
        self.next
    }

    fn sync_names(&mut self, synced: impl Fn(&Names) -> bool) {
        let direct = self.names.iter().filter(|(_, pending)| synced(&pending.change));
        let durable: BTreeSet<usize> =
            direct.flat_map(|(number, pending)| pending.needs.iter().chain([number]).copied()).collect();
        for number in &durable {
            if let Some(pending) = self.names.remove(number) {
                self.durable.rename(&pending.change);
            }
        }
        for pending in self.names.values_mut() {
            pending.needs.retain(|number| !durable.contains(number));
        }
    }

    /// What the death of the process alone leaves: all that it did.
    #[cfg(test)]
    pub(super) fn killed(&self) -> Image {
        let mut image = self.durable.clone();
        for pending in self.names.values() {
            image.rename(&pending.change);
        }
        for (inode, ops) in &self.data {
            let data = ops.iter().fold(self.data_of(*inode).to_vec(), |data, op| carried_out(&data, op));
            image.put(*inode, data);
        }
        image
    }

    /// Every state that a crash may leave here, with what `seen` has not seen yet.
    pub(super) fn states(&self, seen: &mut HashSet<u64>) -> Vec<CrashState> {
        let mut states = Vec::new();
        let kept_names = self.kept_names();
        for (data, torn) in self.data_variants() {
            for kept in &kept_names {
                let mut image = data.clone();
                for (number, pending) in &self.names {
                    if kept.contains(number) {
                        image.rename(&pending.change);
                    }
                }
                let key = key(&image);
                if seen.insert(key) {
                    let used: HashSet<_> = image.names.values().copied().collect();
                    image.nodes.retain(|inode, _| used.contains(inode));
                    let lost = self.names.iter().filter(|(number, _)| !kept.contains(number));
                    let lost: Vec<_> = lost.map(|(_, pending)| format!("{:?}", pending.change)).collect();
                    states.push(CrashState { image, key, lost: format!("data {torn}; lost {lost:?}") });
                }
            }
        }
        states
    }

    fn kept_names(&self) -> Vec<BTreeSet<usize>> {
        let numbers: Vec<usize> = self.names.keys().copied().collect();
        if numbers.len() > ALL_COMBINATIONS {
            return self.some_kept_names(&numbers);
        }
        let mut sets = Vec::new();
        for mask in 0_u32..1 << numbers.len() {
            let kept: BTreeSet<usize> =
                (0..numbers.len()).filter(|bit| mask & (1 << bit) != 0).map(|bit| numbers[bit]).collect();
            if kept.iter().all(|number| self.names[number].needs.is_subset(&kept)) {
                sets.push(kept);
            }
        }
        sets
    }

    /// Prefixes, single losses with what hangs on them, and single survivors with what they hang on.
    fn some_kept_names(&self, numbers: &[usize]) -> Vec<BTreeSet<usize>> {
        let mut sets: BTreeSet<BTreeSet<usize>> =
            (0..=numbers.len()).map(|len| numbers[..len].iter().copied().collect()).collect();
        for one in numbers {
            let without =
                self.names.iter().filter(|(number, pending)| *number != one && !pending.needs.contains(one));
            sets.insert(without.map(|(number, _)| *number).collect());
            sets.insert(self.names[one].needs.iter().chain([one]).copied().collect());
        }
        sets.into_iter().collect()
    }

    fn data_variants(&self) -> Vec<(Image, String)> {
        let mut images = vec![(self.durable.clone(), String::new())];
        for (inode, ops) in &self.data {
            let variants = variants(self.data_of(*inode), ops);
            images = images
                .iter()
                .flat_map(|(image, said)| {
                    variants.iter().map(move |(data, what)| {
                        let mut image = image.clone();
                        image.put(*inode, data.clone());
                        (image, format!("{said} {inode}: {what}"))
                    })
                })
                .collect();
        }
        images
    }
}

fn key(image: &Image) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (path, inode) in &image.names {
        (path, inode, image.nodes.get(inode)).hash(&mut hasher);
    }
    hasher.finish()
}

fn carried_out(old: &[u8], op: &Op) -> Vec<u8> {
    match op {
        Op::Write { offset, bytes, .. } => written(old, *offset, bytes),
        Op::Cut { len, .. } => {
            let mut data = old.to_vec();
            data.resize(*len, 0);
            data
        }
        Op::Born(..) | Op::Sync(_) | Op::Names(_) | Op::SyncFolder(_) | Op::Edited(..) => old.to_vec(),
    }
}

/// What unsynced writes may have left of a file: some done and the next one torn, or only the new length.
fn variants(old: &[u8], ops: &[Op]) -> Vec<(Vec<u8>, String)> {
    let mut found = vec![(old.to_vec(), "nothing".to_owned())];
    let mut data = old.to_vec();
    for (number, op) in ops.iter().enumerate() {
        if let Op::Write { offset, bytes, .. } = op {
            found.extend(torn(&data, *offset, bytes).map(|(data, what)| (data, format!("{number} {what}"))));
        }
        data = carried_out(&data, op);
        found.push((data.clone(), format!("up to {number}")));
    }
    let mut only_cut = old.to_vec();
    for op in ops {
        if let Op::Cut { .. } = op {
            only_cut = carried_out(&only_cut, op);
        }
    }
    found.push((only_cut, "only the length".to_owned()));
    let mut seen = HashSet::new();
    found.retain(|(data, _)| seen.insert(data.clone()));
    found
}

fn torn<'a>(old: &'a [u8], offset: usize, bytes: &'a [u8]) -> impl Iterator<Item = (Vec<u8>, String)> + 'a {
    let len = bytes.len();
    let cuts = [0, 1, len / 2, len.saturating_sub(1)];
    let cuts = cuts.into_iter().filter(move |cut| *cut < len).map(move |cut| {
        let data = if cut == 0 { old.to_vec() } else { written(old, offset, &bytes[..cut]) };
        (data, format!("cut at {cut}"))
    });
    // The length is there, the bytes are not.
    let empty = written(old, offset + len, &[]);
    let first = offset / PAGE;
    let pages = (offset + len).div_ceil(PAGE) - first;
    let page_sets: Vec<u32> = match pages {
        0 | 1 => vec![0],
        2..=ALL_PAGES => (0..1 << pages).collect(),
        more => {
            let all = (1_u32 << more.min(31)) - 1;
            (0..more.min(31)).flat_map(|page| [1 << page, all & !(1 << page)]).collect()
        }
    };
    let paged = page_sets.into_iter().map(move |set| {
        let mut data = empty.clone();
        for page in (0..pages.min(31)).filter(|page| set & (1 << page) != 0) {
            let from = ((first + page) * PAGE).max(offset);
            let to = ((first + page + 1) * PAGE).min(offset + len);
            data[from..to].copy_from_slice(&bytes[from - offset..to - offset]);
        }
        (data, format!("pages {set:b} of {pages}"))
    });
    cuts.chain(paged)
}
