//! The locks of the provider's own client (SPEC §3).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{LockError, VaultError};

use crate::fault_disk::Op;
use crate::fixture::{Fixture, auth_file};

fn fixture() -> Fixture {
    Fixture::with(TakeClientLocks::Always)
}

fn locks(fixture: &Fixture) -> [PathBuf; 2] {
    [fixture.at("claude/.oauth_refresh.lock"), fixture.at("claude.lock")]
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Dates a folder, as its owner's `touch` does.
fn date(folder: &Path, secs_since_epoch: u64) {
    let at = SystemTime::UNIX_EPOCH + secs(secs_since_epoch);
    File::open(folder).unwrap().set_modified(at).unwrap();
}

fn busy(fixture: &Fixture, at: u64) -> bool {
    matches!(fixture.vault.lock(secs(at)), Err(LockError::Busy(_)))
}

#[test]
fn both_are_taken_in_order_and_freed() {
    let fixture = fixture();
    let made: Arc<Mutex<Vec<(Op, PathBuf)>>> = Arc::default();
    let seen = Arc::clone(&made);
    fixture.disk.hook(move |call| {
        let is_lock = call.path.extension().is_some_and(|extension| extension == "lock");
        if !call.before && is_lock && matches!(call.op, Op::RenameNew | Op::RemoveFolder) {
            seen.lock().unwrap().push((call.op, call.path.to_owned()));
        }
        Ok(())
    });
    let held = fixture.lock();
    assert!(locks(&fixture).iter().all(|lock| lock.is_dir()));
    assert!(held.still_held());
    drop(held);
    assert!(!locks(&fixture).iter().any(|lock| lock.exists()));
    assert!(!fixture.beside("client-locks").exists());
    let [first, second] = locks(&fixture);
    let expected = [
        (Op::RenameNew, first.clone()),
        (Op::RenameNew, second.clone()),
        (Op::RemoveFolder, second),
        (Op::RemoveFolder, first),
    ];
    assert_eq!(*made.lock().unwrap(), expected);
}

#[test]
fn a_clients_lock_blocks_and_neither_is_kept() {
    for index in 0..2 {
        let fixture = fixture();
        let locks = locks(&fixture);
        fs::create_dir(&locks[index]).unwrap();
        assert!(busy(&fixture, 0));
        assert!(locks[index].exists() && !locks[1 - index].exists());
        // The vault's own lock is free again.
        drop(fixture.another(TakeClientLocks::Never).lock(secs(0)).unwrap());
        fs::remove_dir(&locks[index]).unwrap();
        fixture.lock();
    }
}

#[test]
fn a_full_disk_leaves_no_lock_behind() {
    let fixture = fixture();
    fixture.disk.hook(|call| {
        let full = call.op == Op::Create && call.before;
        if full { Err(crate::fault_disk::no_space()) } else { Ok(()) }
    });
    assert!(matches!(fixture.vault.lock(secs(0)), Err(LockError::Vault(VaultError::Io { .. }))));
    assert!(!locks(&fixture).iter().any(|lock| lock.exists()));
}

#[test]
fn an_untouched_lock_is_broken_by_our_clock_alone() {
    for index in 0..2 {
        for far in [4_000_000_000, 0] {
            let fixture = fixture();
            let lock = &locks(&fixture)[index];
            fs::create_dir(lock).unwrap();
            date(lock, far);
            assert!(busy(&fixture, 1000) && busy(&fixture, 1030) && busy(&fixture, 1059));
            let held = fixture.vault.lock(secs(1060)).unwrap();
            assert!(held.still_held());
        }
    }
}

#[test]
fn a_lock_that_is_touched_is_never_broken_but_told_of() {
    let fixture = fixture();
    let lock = &locks(&fixture)[0];
    fs::create_dir(lock).unwrap();
    for step in 0..24 {
        date(lock, 1_000_000 + step);
        assert!(busy(&fixture, 1000 + step * 5), "{step}");
    }
    date(lock, 2_000_000);
    let error = fixture.vault.lock(secs(1120)).unwrap_err();
    assert!(matches!(error, LockError::Foreign(_)));
    let text = error.to_string();
    assert!(text.contains(".oauth_refresh.lock has been held for 120 s"), "{text}");
    assert!(lock.exists());
    // Left behind after all: 60 s after the last touch it is broken.
    assert!(matches!(fixture.vault.lock(secs(1179)), Err(LockError::Foreign(_))));
    fixture.vault.lock(secs(1180)).unwrap();
}

#[test]
fn another_lock_is_timed_anew() {
    let fixture = fixture();
    let lock = &locks(&fixture)[0];
    fs::create_dir(lock).unwrap();
    assert!(busy(&fixture, 0));
    fs::remove_dir(lock).unwrap();
    fs::create_dir(fixture.at("claude/placeholder")).unwrap();
    fs::create_dir(lock).unwrap();
    assert!(busy(&fixture, 900));
    assert!(busy(&fixture, 959));
    fixture.vault.lock(secs(960)).unwrap();
}

#[test]
fn what_is_no_lock_or_cannot_be_removed_is_foreign() {
    for index in 0..2 {
        let fixture = fixture();
        let lock = &locks(&fixture)[index];
        fs::write(lock, "").unwrap();
        let error = fixture.vault.lock(secs(0)).unwrap_err();
        assert!(matches!(error, LockError::Foreign(_)));
        assert!(error.to_string().contains("is no folder"), "{error}");
        fs::remove_file(lock).unwrap();
        symlink("nowhere", lock).unwrap();
        assert!(matches!(fixture.vault.lock(secs(0)), Err(LockError::Foreign(_))));
        fs::remove_file(lock).unwrap();
        // Not empty: left behind, and never to be broken.
        fs::create_dir_all(lock.join("something")).unwrap();
        assert!(busy(&fixture, 100) && busy(&fixture, 160));
        assert!(matches!(fixture.vault.lock(secs(220)), Err(LockError::Foreign(_))));
    }
}

#[test]
fn losing_one_is_noticed_and_what_is_anothers_stays() {
    for index in 0..2 {
        let fixture = fixture();
        let lock = &locks(&fixture)[index];
        let held = fixture.lock();
        held.touch();
        fs::remove_dir(lock).unwrap();
        assert!(!held.still_held());
        fs::create_dir(lock).unwrap();
        date(lock, 1_000_000);
        assert!(!held.still_held());
        // Another one's lock is neither touched nor removed.
        held.touch();
        let modified = fs::metadata(lock).unwrap().modified().unwrap();
        assert_eq!(modified, SystemTime::UNIX_EPOCH + secs(1_000_000));
        drop(held);
        assert!(lock.exists() && !locks(&fixture)[1 - index].exists());
    }
}

#[test]
fn touching_shows_that_they_are_alive() {
    let fixture = fixture();
    let held = fixture.lock();
    for lock in locks(&fixture) {
        date(&lock, 1_000_000);
        held.touch();
        assert!(fs::metadata(&lock).unwrap().modified().unwrap() > SystemTime::UNIX_EPOCH + secs(1_000_001));
        assert!(held.still_held());
    }
}

/// A keeper that dies with the locks: what its drop would remove stays.
fn die(fixture: &Fixture) {
    let held = fixture.vault.lock(secs(0)).unwrap();
    fixture.disk.hook(|call| {
        let dead = matches!(call.op, Op::RemoveFolder | Op::RemoveFile) && call.before;
        if dead { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
    });
    drop(held);
    fixture.disk.unhook();
}

#[test]
fn leftovers_of_ours_go_at_the_next_lock() {
    let fixture = fixture();
    die(&fixture);
    assert!(locks(&fixture).iter().all(|lock| lock.is_dir()));
    assert!(fixture.beside("client-locks").exists());
    let other = fixture.another(TakeClientLocks::Always);
    drop(other.lock(secs(0)).unwrap());
    assert!(!locks(&fixture).iter().any(|lock| lock.exists()));
}

#[test]
fn a_lock_that_was_made_anew_is_no_leftover_of_ours() {
    for index in 0..2 {
        let fixture = fixture();
        die(&fixture);
        let lock = &locks(&fixture)[index];
        fs::remove_dir(lock).unwrap();
        fs::create_dir(lock).unwrap();
        assert!(busy(&fixture, 0));
        assert!(lock.exists() && !locks(&fixture)[1 - index].exists());
    }
    let fixture = fixture();
    fs::create_dir_all(fixture.beside("")).unwrap();
    for garbage in ["", "\n\n", "1 2", "x y z", "\u{0}", "1 2 relative/path\n99999999999999999999 1 /\n"] {
        fs::write(fixture.beside("client-locks"), garbage).unwrap();
        fixture.lock();
    }
}

#[test]
fn by_itself_it_knows_the_clients_folders() {
    for (path, takes) in [
        ("claude-code/auth.json", true),
        (".claude/auth.json", true),
        ("elsewhere/.credentials.json", true),
        ("elsewhere/auth.json", false),
    ] {
        let fixture = Fixture::new();
        let file = fixture.at(path);
        let folder = file.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(&file, auth_file("old")).unwrap();
        let lock = folder.join(".oauth_refresh.lock");
        let vault = |file: PathBuf| {
            let state = fixture.at("state");
            evergrant_store::AuthFile::new(fixture.disk.clone(), file, state, TakeClientLocks::Auto)
        };
        let held = vault(file.clone()).lock(secs(0)).unwrap();
        assert_eq!(lock.exists(), takes, "{path}");
        drop(held);
        // The folder that counts is the client's, not that of the target of its link.
        fs::create_dir(fixture.at("dotfiles")).unwrap();
        fs::rename(&file, fixture.at("dotfiles/real.json")).unwrap();
        symlink("../dotfiles/real.json", &file).unwrap();
        let held = vault(file.clone()).lock(secs(0)).unwrap();
        assert_eq!(lock.exists(), takes, "{path}");
        assert_eq!(folder.with_extension("lock").exists(), takes);
        assert!(!fixture.at("dotfiles.lock").exists());
        drop(held);
        // A lock that the client left says it too.
        fs::create_dir(&lock).unwrap();
        assert!(matches!(vault(file).lock(secs(0)), Err(LockError::Busy(_))), "{path}");
    }
}
