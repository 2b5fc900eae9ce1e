//! The vault's other duties: where it may lie, its lock, receipts, replaced pairs, the record.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use evergrant_core::chain::{AttemptId, Record};
use evergrant_core::keeper::{Answer, FileFound, ReceiptState};
use evergrant_core::provider::Profile;
use evergrant_core::secret::Fingerprint;
use evergrant_store::authfile::{TakeClientLocks, Written};
use evergrant_store::{AuthFile, LockError, OsDisk, Reservation, VaultError};

use crate::fault_disk::{FaultDisk, Op};
use crate::fixture::{Fixture, auth_file, read, record, second};

#[test]
fn a_network_file_system_is_refused() {
    let fixture = Fixture::new();
    fixture.disk.network("NFS");
    let error = fixture.vault.lock(Duration::ZERO).unwrap_err();
    assert!(matches!(error, LockError::Vault(VaultError::NetworkFileSystem { kind: "NFS", .. })));
    let text = error.to_string();
    assert!(text.contains("auth.json lies on a network file system (NFS)"), "{text}");
    assert!(text.contains("keep it on a local disk"), "{text}");
    assert!(!fixture.beside("").exists());
}

#[test]
fn everything_beside_the_file_is_private() {
    let fixture = Fixture::new();
    let held = fixture.lock();
    let _reservation = held.reserve(&record("claude", 1, 1)).unwrap();
    held.write_record(&record("claude", 1, 1)).unwrap();
    held.remember_replaced(Fingerprint::of(b"a"), second(1)).unwrap();
    let mode = |name| fs::metadata(fixture.beside(name)).unwrap().permissions().mode() & 0o777;
    for (name, expected) in [
        ("", 0o700),
        ("receipts", 0o700),
        ("receipts/000000000006", 0o600),
        ("lock", 0o600),
        ("chain.json", 0o600),
        ("replaced", 0o600),
    ] {
        assert_eq!(mode(name), expected, "{name}");
    }
}

#[test]
fn one_has_the_lock_until_it_is_dropped() {
    let fixture = Fixture::new();
    let other = fixture.another(TakeClientLocks::Never);
    let held = fixture.lock();
    for vault in [&fixture.vault, &other] {
        assert!(matches!(vault.lock(Duration::ZERO), Err(LockError::Busy(_))));
    }
    drop(held);
    drop(other.lock(Duration::ZERO).unwrap());
    fixture.lock();
}

#[test]
fn a_lock_on_another_file_than_the_paths_guards_nothing() {
    let lock = |fixture: &Fixture, remake: bool| {
        let (path, moved) = (fixture.beside("lock"), fixture.beside("lock.old"));
        let held = fixture.lock();
        fs::rename(&path, &moved).unwrap();
        if remake {
            symlink(&moved, &path).unwrap();
        }
        drop(held);
        fixture.vault.lock(Duration::ZERO).map(drop)
    };
    lock(&Fixture::new(), false).unwrap();
    // The path leads to an inode that is not its own.
    assert!(matches!(lock(&Fixture::new(), true), Err(LockError::Busy(_))));
}

#[test]
fn links_are_followed_and_stay() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.at("far")).unwrap();
    fs::rename(fixture.file(), fixture.at("far/real.json")).unwrap();
    symlink("../far/real.json", fixture.at("claude/second.json")).unwrap();
    symlink(fixture.at("claude/second.json"), fixture.file()).unwrap();
    let held = fixture.lock();
    assert_eq!(held.file(), fixture.at("far/real.json").canonicalize().unwrap());
    assert_eq!(held.replace_file(&auth_file("old"), &auth_file("new")).unwrap(), Written::Done);
    assert!(fs::symlink_metadata(fixture.file()).unwrap().is_symlink());
    assert!(fs::symlink_metadata(fixture.at("claude/second.json")).unwrap().is_symlink());
    assert_eq!(fs::read(fixture.at("far/real.json")).unwrap(), auth_file("new"));
    // By whatever name, it is the same vault.
    let direct =
        AuthFile::new(OsDisk, fixture.at("far/real.json"), fixture.at("state"), TakeClientLocks::Never);
    assert!(matches!(direct.lock(Duration::ZERO), Err(LockError::Busy(_))));
}

#[test]
fn a_link_loop_and_a_missing_folder_are_told_apart() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.file()).unwrap();
    symlink("auth.json", fixture.file()).unwrap();
    let error = fixture.vault.lock(Duration::ZERO).unwrap_err();
    assert!(matches!(error, LockError::Vault(_)), "{error}");
    assert!(error.to_string().contains("too many symbolic links"), "{error}");
    assert!(matches!(fixture.vault.peek(&Profile::claude()).0, FileFound::Malformed(_)));

    // A dangling link into a folder that exists: the file is missing, nothing else.
    fs::remove_file(fixture.file()).unwrap();
    symlink("../later.json", fixture.file()).unwrap();
    let held = fixture.lock();
    assert_eq!(read(&held).found.file, FileFound::Missing);
    assert_eq!(held.make_file(&auth_file("made")).unwrap(), Written::Done);
    assert_eq!(fs::read(fixture.at("later.json")).unwrap(), auth_file("made"));
    assert_eq!(held.make_file(&auth_file("twice")).unwrap(), Written::EditedMeanwhile);
    drop(held);

    fs::remove_file(fixture.file()).unwrap();
    symlink("nowhere/auth.json", fixture.file()).unwrap();
    let error = fixture.vault.lock(Duration::ZERO).unwrap_err();
    assert!(matches!(error, LockError::NoFolder(_)), "{error}");
    assert!(error.to_string().contains("the link"), "{error}");
    fs::remove_dir_all(fixture.at("claude")).unwrap();
    let error = fixture.vault.lock(Duration::ZERO).unwrap_err();
    assert!(matches!(error, LockError::NoFolder(_)), "{error}");
    assert_eq!(fixture.vault.peek(&Profile::claude()).0, FileFound::Missing);
}

fn answer() -> Answer {
    Answer::Received {
        status: 200,
        retry_after: None,
        date: Some("Sun, 06 Nov 1994 08:49:37 GMT".into()),
        body: r#"{"access_token":"sk-ant-oat01-new","refresh_token":"sk-ant-ort01-new"}"#.into(),
        complete: true,
    }
}

fn states(vault: &AuthFile<FaultDisk>, record: &Record) -> Vec<(u64, ReceiptState)> {
    let held = vault.lock(Duration::ZERO).unwrap();
    let receipts = read(&held).found.receipts;
    for receipt in &receipts {
        assert_eq!((receipt.lineage, receipt.generation), record.position());
        assert_eq!(receipt.presented, record.pair);
    }
    receipts.into_iter().map(|receipt| (receipt.attempt.0, receipt.state)).collect()
}

fn reserve(fixture: &Fixture) -> Reservation<FaultDisk> {
    fixture.lock().reserve(&record("claude", 1, 1)).unwrap()
}

#[test]
fn a_receipt_tells_whether_its_answer_is_being_read() {
    let (fixture, record) = (Fixture::new(), record("claude", 1, 1));
    let other = fixture.another(TakeClientLocks::Never);
    let reservation = reserve(&fixture);
    assert_eq!(reservation.attempt(), AttemptId(6));
    for vault in [&fixture.vault, &other] {
        assert_eq!(states(vault, &record), [(6, ReceiptState::Reserved { being_read: true })]);
        // Nobody removes it meanwhile.
        vault.lock(Duration::ZERO).unwrap().drop_receipts_but(None).unwrap();
    }
    drop(reservation);
    assert_eq!(states(&other, &record), [(6, ReceiptState::Reserved { being_read: false })]);
    other.lock(Duration::ZERO).unwrap().drop_receipts_but(None).unwrap();
    assert_eq!(states(&other, &record), []);
}

#[test]
fn an_answer_comes_back_as_it_was() {
    let (fixture, record) = (Fixture::new(), record("claude", 1, 1));
    let bodies = ["", "short", "line\nbreaks\r\nand \u{0} \u{fffd}", &"long ".repeat(20_000)];
    let mut answers = vec![answer(), Answer::NotSent { why: "x".into() }, Answer::Lost { why: "y".into() }];
    for body in bodies {
        let body = body.to_owned();
        answers.push(Answer::Received { status: 500, retry_after: None, date: None, body, complete: false });
    }
    for answer in answers {
        let reservation = reserve(&fixture);
        let attempt = reservation.attempt();
        reservation.write(second(8), &answer).unwrap();
        // Written again it is the later one, whole.
        reservation.write(second(9), &answer).unwrap();
        let state = ReceiptState::Answered { at: second(9), answer };
        assert_eq!(states(&fixture.vault, &record), [(attempt.0, state)]);
        drop(reservation);
        let held = fixture.lock();
        held.drop_receipts_but(Some(attempt)).unwrap();
        assert_eq!(read(&held).found.receipts.len(), 1);
        held.drop_receipts_but(Some(attempt.next())).unwrap();
        assert_eq!(read(&held).found.receipts, []);
    }
}

#[test]
fn a_torn_receipt_is_not_answered() {
    let (fixture, record) = (Fixture::new(), record("claude", 1, 1));
    let reservation = reserve(&fixture);
    let path = fixture.beside("receipts/000000000006");
    let reserved = fs::read(&path).unwrap();
    reservation.write(second(8), &answer()).unwrap();
    drop(reservation);
    let whole = fs::read(&path).unwrap();
    let begin = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let answered = ReceiptState::Answered { at: second(8), answer: answer() };
    assert_eq!(states(&fixture.vault, &record), [(6, answered.clone())]);
    let held = fixture.lock();
    let torn = |bytes: &[u8], at: usize| {
        fs::write(&path, bytes).unwrap();
        let receipts = read(&held).found.receipts;
        assert_eq!(receipts.len(), 1, "byte {at}");
        assert_eq!(receipts[0].state, ReceiptState::Reserved { being_read: false }, "byte {at}");
    };
    for at in begin..whole.len() {
        // The line break at the end adds nothing; the blank behind the checksum is not looked at.
        if at < whole.len() - 1 {
            torn(&whole[..at], at);
            // Only the first part of it reached the disk.
            let mut part = whole[..at].to_vec();
            part.extend(&reserved[at..]);
            torn(&part, at);
        }
        if at != begin + 16 {
            let mut garbled = whole.clone();
            garbled[at] ^= 1;
            garbled.extend(&reserved[whole.len()..]);
            torn(&garbled, at);
        }
    }
    // A torn header is no receipt, yet its number is taken.
    for at in 0..begin {
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(read(&held).found.receipts, []);
    }
    assert_eq!(held.reserve(&record).unwrap().attempt(), AttemptId(7));
}

#[test]
fn attempts_never_share_a_receipt() {
    let fixture = Fixture::new();
    let mut record = record("claude", 1, 1);
    let mut last = record.last_attempt;
    for round in 0..4 {
        // The record was never told of the attempts before: a crash came first.
        let attempt = fixture.lock().reserve(&record).unwrap().attempt();
        assert!(attempt > last, "round {round}");
        last = attempt;
    }
    let held = fixture.lock();
    held.drop_receipts_but(None).unwrap();
    record.last_attempt = AttemptId(30);
    assert_eq!(held.reserve(&record).unwrap().attempt(), AttemptId(31));
}

#[test]
fn what_cannot_be_read_just_now_is_not_taken_for_missing() {
    let fixture = Fixture::new();
    let held = fixture.lock();
    held.write_record(&record("claude", 2, 1)).unwrap();
    held.remember_replaced(Fingerprint::of(b"sk-ant-ort01-old"), second(1)).unwrap();
    drop(held.reserve(&record("claude", 2, 1)).unwrap());
    assert!(read(&held).found.replaced);
    for (op, name) in [
        (Op::Read, "chain.json"),
        (Op::Read, "replaced"),
        (Op::Read, "000000000006"),
        (Op::TryLock, "000000000006"),
        (Op::List, "receipts"),
        (Op::List, "auth.json.evergrant"),
    ] {
        fixture.disk.hook(move |call| {
            let fails = call.op == op && call.path.ends_with(name);
            if fails { Err(io::Error::other("too many open files")) } else { Ok(()) }
        });
        let error = held.read(&Profile::claude(), None).unwrap_err();
        assert!(error.to_string().contains("too many open files"), "{op:?} {name}: {error}");
        if name == "replaced" {
            assert!(held.was_replaced(Fingerprint::of(b"any")));
        }
        if op == Op::TryLock {
            held.drop_receipts_but(None).unwrap_err();
        }
        fixture.disk.unhook();
    }
    assert_eq!(read(&held).found.receipts.len(), 1);
}

#[test]
fn replaced_pairs_survive_torn_lines() {
    let fixture = Fixture::new();
    let held = fixture.lock();
    let pair = |n: u8| Fingerprint::of(&[n]);
    held.prune_replaced(second(1)).unwrap();
    held.remember_replaced(pair(1), second(100)).unwrap();
    let path = fixture.beside("replaced");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut torn = whole.clone();
        torn.extend(&whole[..at]);
        fs::write(&path, torn).unwrap();
        held.remember_replaced(pair(2), second(200)).unwrap();
        assert!(held.was_replaced(pair(1)) && held.was_replaced(pair(2)), "byte {at}");
        assert!(!held.was_replaced(pair(3)));
    }
    fs::write(&path, b"\n\xff\xfe garbage\n\n").unwrap();
    held.remember_replaced(pair(1), second(100)).unwrap();
    held.remember_replaced(pair(2), second(200)).unwrap();
    held.prune_replaced(second(100)).unwrap();
    assert!(held.was_replaced(pair(1)));
    held.prune_replaced(second(101)).unwrap();
    assert!(!held.was_replaced(pair(1)) && held.was_replaced(pair(2)));
    held.prune_replaced(second(201)).unwrap();
    assert!(!held.was_replaced(pair(2)));
    held.remember_replaced(pair(3), second(300)).unwrap();
    assert!(held.was_replaced(pair(3)));
}

#[test]
fn a_record_that_is_garbage_gives_way_to_the_remembered_one() {
    let fixture = Fixture::new();
    let (beside, remembered) = (record("claude", 2, 2), record("claude", 1, 1));
    let held = fixture.lock();
    let found =
        || held.read(&Profile::claude(), Some(remembered.clone())).map(|files| files.found.record.unwrap());
    assert_eq!(found().unwrap(), remembered);
    held.write_record(&beside).unwrap();
    assert_eq!(found().unwrap(), beside);
    assert_eq!(fixture.vault.peek(&Profile::claude()).1, Some(beside));
    for garbage in ["", "{", "null", "[]", "\u{0}\u{0}"] {
        fs::write(fixture.beside("chain.json"), garbage).unwrap();
        assert_eq!(found().unwrap(), remembered, "{garbage:?}");
    }
}
