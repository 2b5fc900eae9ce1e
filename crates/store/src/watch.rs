//! Watches the folders of auth files for changes from outside. The caller looks every few seconds all the same:
//! no watch is complete.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecursiveMode, Watcher};

/// A running watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch(#[expect(dead_code, reason = "held for its drop")] notify::RecommendedWatcher);

/// Calls `changed` whenever something happens to one of `files`, or to what their links lead to.
pub fn watch(files: &[PathBuf], changed: impl Fn() + Send + 'static) -> Result<Watch, notify::Error> {
    let mut names: Vec<PathBuf> = files.to_vec();
    names.extend(files.iter().filter_map(|file| file.canonicalize().ok()));
    let folders: std::collections::BTreeSet<PathBuf> =
        names.iter().filter_map(|name| name.parent().map(Path::to_owned)).collect();
    let names: Vec<_> = names.iter().filter_map(|name| name.file_name().map(ToOwned::to_owned)).collect();
    let handler = move |event: notify::Result<notify::Event>| {
        let relevant = event.map_or(true, |event| {
            !matches!(event.kind, EventKind::Access(_))
                && event
                    .paths
                    .iter()
                    .any(|path| path.file_name().is_none_or(|name| names.iter().any(|n| n == name)))
        });
        if relevant {
            changed();
        }
    };
    let mut watcher = notify::recommended_watcher(handler)?;
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
    }
    Ok(Watch(watcher))
}
