//! What only SQLite has to do: modes, settings, schema.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use evergrant_core::event::EventKind::Committed;
use evergrant_core::secret::Fingerprint;
use evergrant_store::{SqliteState, State, StateError};
use rusqlite::Connection;

use crate::fixture::{chain, event, record};

#[test]
fn the_file_is_private_and_made_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    drop(SqliteState::open(&path).unwrap());
    assert_eq!(mode(), 0o600);
    for wide in [0o644, 0o660, 0o604] {
        fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
        let _state = SqliteState::open(&path).unwrap();
        assert_eq!(mode(), 0o600);
        for beside in ["state.db-wal", "state.db-shm"] {
            let beside = fs::metadata(folder.path().join(beside)).unwrap();
            assert_eq!(beside.permissions().mode() & 0o077, 0);
        }
    }
}

#[test]
fn the_journal_is_a_wal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    drop(SqliteState::open(&path).unwrap());
    let journal: String =
        Connection::open(&path).unwrap().query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(journal, "wal");
}

#[tokio::test]
async fn opened_again_it_knows_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let state = SqliteState::open(&path).unwrap();
    state.bring_up(&record("claude", 2, 3), None, &[event("claude", 1, Committed, Some(1))]).await.unwrap();
    let events = state.events(&chain("claude"), 0, 9).await.unwrap();
    drop(state);
    let state = SqliteState::open(&path).unwrap();
    assert_eq!(state.record(&chain("claude")).await.unwrap(), Some(record("claude", 2, 3)));
    assert_eq!(state.events(&chain("claude"), 0, 9).await.unwrap(), events);
    assert!(!folder.path().join("state.db.before-2").exists());
}

#[tokio::test]
async fn a_state_from_before_there_were_callers_gets_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../../migrations/sqlite/0001_chains_and_ledger.sql")).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute("INSERT INTO replaced VALUES ('claude', ?1, 1)", [Fingerprint::of(b"old").to_string()])
        .unwrap();
    drop(old);
    let state = SqliteState::open(&path).unwrap();
    assert!(state.was_replaced(&chain("claude"), Fingerprint::of(b"old")).await.unwrap());
    assert_eq!((state.callers().await.unwrap(), state.callers_version().await.unwrap()), (vec![], 0));
    assert!(folder.path().join("state.db.before-2").exists());
}

#[tokio::test]
async fn the_audit_is_never_rewritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    drop(SqliteState::open(&path).unwrap());
    let other = Connection::open(&path).unwrap();
    other.execute("INSERT INTO audit (at_ms, entry) VALUES (1, '{}')", []).unwrap();
    let error = other.execute("UPDATE audit SET entry = '[]'", []).unwrap_err();
    assert!(error.to_string().contains("the audit is never changed"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    // Not even its journal mode is changed.
    for journal in ["DELETE", "WAL"] {
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", journal).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        let before = fs::read(&path).unwrap();
        let error = SqliteState::open(&path).unwrap_err();
        assert!(matches!(error, StateError::TooNew { found: 99, known: 3, .. }));
        let text = error.to_string();
        assert!(text.contains("state.db") && text.contains("schema 99"), "{text}");
        assert!(text.contains("run the newer version, or restore the copy"), "{text}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    fs::write(&path, "[state]\nthis is a text file, and a rather long one\n".repeat(50)).unwrap();
    let before = fs::read(&path).unwrap();
    let text = SqliteState::open(&path).unwrap_err().to_string();
    assert!(text.contains("state.db cannot be used") && text.contains("not a database"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), before);
    let missing = folder.path().join("none/state.db");
    let text = SqliteState::open(&missing).unwrap_err().to_string();
    assert!(text.contains("none/state.db cannot be used"), "{text}");
}

#[test]
fn many_may_make_it_at_once() {
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let start = std::sync::Barrier::new(6);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    start.wait();
                    SqliteState::open(&path).unwrap();
                });
            }
        });
    }
}

#[tokio::test]
async fn a_damaged_record_is_said_and_healed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let state = SqliteState::open(&path).unwrap();
    state.bring_up(&record("claude", 1, 5), None, &[]).await.unwrap();
    Connection::open(&path).unwrap().execute("UPDATE chains SET record = '{'", []).unwrap();
    let text = state.record(&chain("claude")).await.unwrap_err().to_string();
    assert!(text.contains("state.db") && text.contains("chain claude"), "{text}");
    // Its position still counts.
    assert!(!state.bring_up(&record("claude", 1, 4), None, &[]).await.unwrap());
    assert!(state.bring_up(&record("claude", 1, 5), None, &[]).await.unwrap());
    assert_eq!(state.record(&chain("claude")).await.unwrap(), Some(record("claude", 1, 5)));
}
