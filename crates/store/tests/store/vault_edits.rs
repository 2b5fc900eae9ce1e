//! Edits from outside while the file is replaced, with and without a crash (SPEC §4 step 7, I4).

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use evergrant_core::keeper::Staged;
use evergrant_core::provider::Profile;
use evergrant_store::VaultError;
use evergrant_store::authfile::Written;
use proptest::prelude::*;

use crate::fault_disk::{Op, no_space};
use crate::fixture::{Fixture, auth_file, read};

/// Replaces `old` by `new` while `edit` is called before (`true`) or after each exchange, with its number.
fn replace_while(fixture: &Fixture, mut edit: impl FnMut(bool, usize, &Path) + Send + 'static) -> Written {
    let held = fixture.lock();
    let bytes = read(&held).bytes.unwrap();
    fixture.disk.hook(move |call| {
        if call.op == Op::Exchange {
            edit(call.before, call.nth, call.path);
        }
        Ok(())
    });
    let written = held.replace_file(&bytes, &auth_file("new")).unwrap();
    fixture.disk.unhook();
    written
}

/// What the next process does first.
fn recover(fixture: &Fixture) -> usize {
    let held = fixture.lock();
    for round in 0..8 {
        if read(&held).found.staged == Staged::Nothing {
            assert_eq!(fixture.leftovers(), Vec::<String>::new());
            return round;
        }
        held.swap_back().unwrap();
    }
    panic!("it never settles")
}

#[test]
fn without_an_edit_the_new_bytes_are_in_place() {
    let fixture = Fixture::new();
    fs::set_permissions(fixture.file(), fs::Permissions::from_mode(0o640)).unwrap();
    // Only root may give files away.
    let ids = if std::os::unix::fs::chown(fixture.file(), Some(12_345), Some(54_321)).is_ok() {
        (12_345, 54_321)
    } else {
        let meta = fs::metadata(fixture.file()).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!(replace_while(&fixture, |_, _, _| {}), Written::Done);
    assert_eq!(fixture.content().unwrap(), auth_file("new"));
    let meta = fs::metadata(fixture.file()).unwrap();
    assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o640, ids.0, ids.1));
    assert_eq!(fixture.leftovers(), Vec::<String>::new());
}

#[test]
fn an_edit_between_read_and_exchange_stays() {
    let fixture = Fixture::new();
    let edit = |before, nth, path: &Path| {
        if (before, nth) == (true, 1) {
            fs::write(path, "an edit\n").unwrap();
        }
    };
    assert_eq!(replace_while(&fixture, edit), Written::EditedMeanwhile);
    assert_eq!(fixture.content().unwrap(), b"an edit\n");
    assert_eq!(recover(&fixture), 0);
}

#[test]
fn the_newest_of_several_edits_stays() {
    for edits in 2..6 {
        let fixture = Fixture::new();
        let edit = move |before, nth, path: &Path| {
            if before && nth <= edits {
                fs::write(path, format!("edit {nth}")).unwrap();
            }
        };
        assert_eq!(replace_while(&fixture, edit), Written::EditedMeanwhile);
        assert_eq!(fixture.content().unwrap(), format!("edit {edits}").into_bytes());
        assert_eq!(recover(&fixture), 0);
    }
}

#[test]
fn the_same_edit_again_and_again_ends() {
    let fixture = Fixture::new();
    let edit = |before, _, path: &Path| {
        if before {
            fs::write(path, "the same").unwrap();
        }
    };
    assert_eq!(replace_while(&fixture, edit), Written::EditedMeanwhile);
    assert_eq!(fixture.content().unwrap(), b"the same");
}

#[test]
fn who_edits_all_the_time_is_told_of_and_wins() {
    let fixture = Fixture::new();
    let held = fixture.lock();
    fixture.disk.hook(|call| {
        if call.op == Op::Exchange && call.before {
            fs::write(call.path, format!("edit {}", call.nth)).unwrap();
        }
        Ok(())
    });
    let error = held.replace_file(&auth_file("old"), &auth_file("new")).unwrap_err();
    assert!(matches!(error, VaultError::Contended(_)), "{error}");
    let exchanges = fixture.disk.unhook().iter().filter(|op| **op == Op::Exchange).count();
    drop(held);
    recover(&fixture);
    assert_eq!(fixture.content().unwrap(), format!("edit {exchanges}").into_bytes());
}

#[test]
fn a_file_that_was_removed_is_not_made_again() {
    for edited_first in [false, true] {
        let fixture = Fixture::new();
        let remove_at = if edited_first { 2 } else { 1 };
        let edit = move |before, nth, path: &Path| {
            if before && nth == remove_at {
                fs::remove_file(path).unwrap();
            } else if before {
                fs::write(path, "an edit").unwrap();
            }
        };
        assert_eq!(replace_while(&fixture, edit), Written::RemovedMeanwhile);
        assert_eq!(fixture.content(), None);
        assert_eq!(recover(&fixture), 0);
        assert_eq!(fixture.content(), None);
    }
}

#[test]
fn a_link_or_folder_that_took_its_place_stays() {
    for folder in [false, true] {
        let fixture = Fixture::new();
        let edit = move |before, nth, path: &Path| {
            if (before, nth) == (true, 1) {
                fs::remove_file(path).unwrap();
                if folder { fs::create_dir(path).unwrap() } else { symlink("elsewhere", path).unwrap() }
            }
        };
        assert_eq!(replace_while(&fixture, edit), Written::EditedMeanwhile);
        let there = fs::symlink_metadata(fixture.file()).unwrap();
        assert_eq!((there.is_dir(), there.is_symlink()), (folder, !folder));
    }
}

#[test]
fn a_file_larger_than_is_read_can_be_replaced() {
    let fixture = Fixture::new();
    for len in [1024 * 1024, 1024 * 1024 + 1, 1024 * 1024 + 9] {
        fs::write(fixture.file(), vec![b'x'; len]).unwrap();
        assert_eq!(replace_while(&fixture, |_, _, _| {}), Written::Done, "{len}");
        assert_eq!(fixture.content().unwrap(), auth_file("new"));
    }
}

#[test]
fn without_exchange_an_edit_that_the_last_comparison_sees_stays() {
    for edited in [false, true] {
        let fixture = Fixture::new();
        let held = fixture.lock();
        fixture.disk.hook(move |call| {
            if call.op == Op::Exchange && call.before {
                if edited {
                    fs::write(call.path, "an edit").unwrap();
                }
                return Err(io::ErrorKind::Unsupported.into());
            }
            Ok(())
        });
        let written = held.replace_file(&auth_file("old"), &auth_file("new")).unwrap();
        fixture.disk.unhook();
        let (expected, bytes) = match edited {
            true => (Written::EditedMeanwhile, b"an edit".to_vec()),
            false => (Written::Done, auth_file("new")),
        };
        assert_eq!((written, fixture.content().unwrap()), (expected, bytes));
        assert_eq!(fixture.leftovers(), Vec::<String>::new());
    }
    let fixture = Fixture::new();
    let held = fixture.lock();
    fixture.disk.hook(|call| match (call.op, call.before) {
        (Op::Exchange, true) => {
            fs::remove_file(call.path).unwrap();
            Err(io::ErrorKind::Unsupported.into())
        }
        _ => Ok(()),
    });
    let written = held.replace_file(&auth_file("old"), &auth_file("new")).unwrap();
    assert_eq!((written, fixture.content()), (Written::RemovedMeanwhile, None));
}

#[test]
fn a_crash_behind_the_exchange_loses_no_edit() {
    for edited in [false, true] {
        let fixture = Fixture::new();
        let held = fixture.lock();
        let mut dead = false;
        fixture.disk.hook(move |call| {
            if call.op == Op::Exchange && call.before && edited {
                fs::write(call.path, "an edit").unwrap();
            }
            let died = dead;
            dead |= call.op == Op::Exchange && !call.before;
            if died { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        });
        held.replace_file(&auth_file("old"), &auth_file("new")).unwrap_err();
        drop(held);
        fixture.disk.unhook();
        assert_eq!(fixture.content().unwrap(), auth_file("new"));
        let held = fixture.lock();
        let staged = read(&held).found.staged;
        if edited {
            assert_eq!(staged, Staged::OutsideEdit);
            assert_eq!(held.swap_back().unwrap(), Written::Done);
            assert_eq!(fixture.content().unwrap(), b"an edit");
        }
        assert_eq!(read(&held).found.staged, Staged::Nothing);
        assert_eq!(fixture.leftovers(), Vec::<String>::new());
    }
}

/// Fails the `at`th operation and, if `dead`, all behind it. Says whether there was one.
fn fail_at(fixture: &Fixture, at: usize, dead: bool, fails: fn(Op) -> bool) -> Arc<Mutex<bool>> {
    let failed = Arc::new(Mutex::new(false));
    let result = Arc::clone(&failed);
    fixture.disk.hook(move |call| {
        let mut failed = failed.lock().unwrap();
        if call.before && (call.nth_of_all == at && fails(call.op) || dead && *failed) {
            *failed = true;
            return Err(no_space());
        }
        Ok(())
    });
    result
}

#[test]
fn a_full_disk_never_leaves_half_a_file() {
    let mut failures = 0;
    for at in 1..18 {
        for dead in [false, true] {
            let fixture = Fixture::new();
            let held = fixture.lock();
            let failed = fail_at(&fixture, at, dead, Op::writes);
            let first = held.replace_file(&auth_file("old"), &auth_file("new"));
            fixture.disk.unhook();
            let failed = *failed.lock().unwrap();
            failures += usize::from(failed);
            let there = fixture.content().unwrap();
            assert!([auth_file("old"), auth_file("new")].contains(&there), "operation {at}");
            assert!(failed == first.is_err() || !failed, "operation {at}");
            // Later there is room.
            let bytes = read(&held).bytes.unwrap();
            assert_eq!(read(&held).found.staged, Staged::Nothing);
            assert_eq!(held.replace_file(&bytes, &auth_file("newer")).unwrap(), Written::Done);
            assert_eq!(fixture.content().unwrap(), auth_file("newer"));
        }
    }
    assert!(failures >= 10, "{failures}");
}

#[test]
fn a_full_disk_while_reserving_leaves_the_file_alone() {
    let mut failures = 0;
    for at in 1..18 {
        let fixture = Fixture::new();
        let inode = fs::metadata(fixture.file()).unwrap().ino();
        let held = fixture.lock();
        let record = crate::fixture::record("claude", 1, 1);
        let failed = fail_at(&fixture, at, true, Op::writes);
        let reserved = held.reserve(&record);
        fixture.disk.unhook();
        assert_eq!(reserved.is_err(), *failed.lock().unwrap(), "operation {at}");
        failures += usize::from(reserved.is_err());
        drop(reserved);
        assert_eq!(fixture.content().unwrap(), auth_file("old"));
        assert_eq!(fs::metadata(fixture.file()).unwrap().ino(), inode);
        held.reserve(&record).unwrap();
        assert!(!fixture.at("claude/auth.json.evergrant-check").exists());
    }
    assert!(failures >= 5, "{failures}");
}

#[derive(Debug, Clone, Copy)]
enum Edit {
    InPlace,
    Renamed,
    Removed,
}

impl Edit {
    fn make(self, file: &Path, number: usize) -> Option<Vec<u8>> {
        let bytes = format!("edit {number} {}", "x".repeat(number * 7)).into_bytes();
        match self {
            Self::InPlace => fs::write(file, &bytes).unwrap(),
            Self::Renamed => {
                let beside = file.with_file_name("editor.tmp");
                fs::write(&beside, &bytes).unwrap();
                fs::rename(beside, file).unwrap();
            }
            Self::Removed => {
                let _ = fs::remove_file(file);
                return None;
            }
        }
        Some(bytes)
    }
}

fn edits() -> impl Strategy<Value = Vec<(usize, bool, Edit)>> {
    let edit = prop_oneof![4 => Just(Edit::InPlace), 4 => Just(Edit::Renamed), 1 => Just(Edit::Removed)];
    // The first exchange is the 5th operation or so, and every edit makes for five more.
    proptest::collection::vec((1..28_usize, any::<bool>(), edit), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_last_word_from_outside_stands(
        edits in edits(), crash in proptest::option::of(1..32_usize), afterwards in any::<bool>(),
    ) {
        let fixture = Fixture::new();
        let held = fixture.lock();
        let file: PathBuf = fixture.file();
        let last: Arc<Mutex<Option<Option<Vec<u8>>>>> = Arc::default();
        let (said, mut number) = (Arc::clone(&last), 0);
        let crashed = Arc::new(Mutex::new(false));
        let died = Arc::clone(&crashed);
        fixture.disk.hook(move |call| {
            if call.before && Some(call.nth_of_all) == crash {
                *died.lock().unwrap() = true;
            }
            if *died.lock().unwrap() {
                return Err(io::ErrorKind::Other.into());
            }
            for (_, _, edit) in edits.iter().filter(|(at, before, _)| (*at, *before) == (call.nth_of_all, call.before)) {
                number += 1;
                *said.lock().unwrap() = Some(edit.make(&file, number));
            }
            Ok(())
        });
        let written = held.replace_file(&auth_file("old"), &auth_file("new"));
        fixture.disk.unhook();
        drop(held);
        let crashed = *crashed.lock().unwrap();
        prop_assert!(written.is_ok() || crashed, "{written:?}");
        let mut last = last.lock().unwrap().take();
        if crashed && afterwards {
            last = Some(Edit::InPlace.make(&fixture.file(), 99));
        }
        recover(&fixture);
        let there = fixture.content();
        match last {
            Some(edit) => prop_assert_eq!(there, edit),
            None if crashed => prop_assert!([Some(auth_file("old")), Some(auth_file("new"))].contains(&there)),
            None => prop_assert_eq!((written.ok(), there), (Some(Written::Done), Some(auth_file("new")))),
        }
        let profile = Profile::claude();
        prop_assert_eq!(fixture.lock().read(&profile, None).unwrap().found.staged, Staged::Nothing);
    }
}
