//! A PostgreSQL that restarts, is gone, does not answer, or is too busy.
#![expect(clippy::disallowed_methods, reason = "bounds of real time are what is tested")]

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evergrant_core::alert::BookChange;
use evergrant_core::audit::Actor;
use evergrant_core::event::EventKind::Found;
use evergrant_store::postgres::DatabaseUrl;
use evergrant_store::postgres::scratch::{PASSWORD, Setup};
use evergrant_store::{HealthState, PostgresState, State, StateError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::{chain, event, record, second};
use crate::postgres::{Database, open, waiting};

#[tokio::test]
async fn after_a_restart_the_next_verb_just_works() {
    let server = Setup::new().start().unwrap();
    let state = open(&server.new_database().unwrap()).await.unwrap();
    for round in 1..=3_u64 {
        // Several connections lie in the pool.
        let all: Vec<_> = (0..6).map(|_| state.clone()).collect();
        let mut tasks = tokio::task::JoinSet::new();
        for state in all {
            tasks.spawn(async move { state.listened().await.unwrap() });
        }
        tasks.join_all().await;
        if round == 2 {
            server.kill().unwrap();
            server.start().unwrap();
        } else {
            server.restart().unwrap();
        }
        match round {
            1 => assert!(state.bring_up(&record("claude", 1, round), None, &[]).await.unwrap()),
            2 => state.add_events(&[event("claude", 1, Found, None)]).await.unwrap(),
            _ => state.mute(&chain("claude"), second(9), second(1), &Actor::cli("me")).await.unwrap(),
        }
    }
    assert_eq!(state.record(&chain("claude")).await.unwrap(), Some(record("claude", 1, 1)));
    assert_eq!(state.events(&chain("claude"), 0, 9).await.unwrap().len(), 1);
    assert_eq!(state.audit(9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_is_gone_is_said_at_once() {
    let server = Setup::new().start().unwrap();
    let url = server.new_database().unwrap();
    let state = open(&url).await.unwrap();
    server.stop().unwrap();
    let begun = Instant::now();
    for error in [state.check().await.unwrap_err(), open(&url).await.unwrap_err()] {
        let text = error.to_string();
        assert!(error.is_transient() && text.contains(&format!("127.0.0.1:{}", server.port())), "{text}");
        assert!(text.contains("refused") && !text.contains(PASSWORD), "{text}");
        assert!(!format!("{error:?}").contains(PASSWORD));
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
    server.start().unwrap();
    state.check().await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let begun = Instant::now();
    let error = open(&format!("postgres://a:{PASSWORD}@127.0.0.1:{port}/x")).await.unwrap_err();
    let text = error.to_string();
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    assert!(error.is_transient() && text.contains("cannot be reached: no connection within 5s"), "{text}");
    assert!(!text.contains(PASSWORD));
}

#[tokio::test]
async fn a_wrong_password_is_said_and_not_shown() {
    let database = Database::new();
    let error = open(&database.url.replace(PASSWORD, "another-canary")).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("password authentication failed for user"), "{text}");
    assert!(!text.contains("another-canary") && !error.is_transient(), "{text}");
}

#[tokio::test]
async fn who_finds_all_connections_in_use_is_told() {
    let database = Database::new();
    let url: DatabaseUrl = database.url.parse().unwrap();
    let state = PostgresState::open(&url, 1).await.unwrap();
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("SELECT * FROM book FOR UPDATE").await.unwrap();
    let held_up = state.clone();
    let held_up = tokio::spawn(async move { held_up.keep_book(0, &BookChange::default()).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let error = state.check().await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StateError::Unreached { .. }) && error.is_transient(), "{text}");
    assert!(text.contains("all 1 connections are in use, and none became free in 5s"), "{text}");
    // Who waits for a lock does not wait for ever.
    let error = held_up.await.unwrap().unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("lock timeout"), "{error}");
    lock.rollback().await.unwrap();
    assert!(state.keep_book(0, &BookChange::default()).await.unwrap());
}

/// As the simulator does it, and `select!`: a verb is dropped where it waits.
#[tokio::test]
async fn a_verb_that_is_dropped_leaves_no_transaction_open() {
    let database = Database::new();
    let url: DatabaseUrl = database.url.parse().unwrap();
    let state = PostgresState::open(&url, 2).await.unwrap();
    let mut client = database.client().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("SELECT * FROM book FOR UPDATE").await.unwrap();
    for _ in 0..5 {
        let change = BookChange::default();
        let keeping = state.keep_book(0, &change);
        assert!(tokio::time::timeout(Duration::from_millis(100), keeping).await.is_err());
    }
    lock.rollback().await.unwrap();
    let book = state.book(&[], second(0)).await.unwrap();
    assert!(state.keep_book(book.version, &BookChange::default()).await.unwrap());
}

#[tokio::test]
async fn transactions_that_met_are_tried_again() {
    let database = Database::new();
    let state = database.open().await.unwrap();
    for (code, times, works) in [("40001", 3, true), ("40P01", 5, true), ("40001", 99, false)] {
        // A sequence is not undone with the transaction.
        let make = format!(
            "DROP SEQUENCE IF EXISTS met; CREATE SEQUENCE met;
             CREATE OR REPLACE FUNCTION meet() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
               IF nextval('met') <= {times} THEN RAISE EXCEPTION 'they met' USING ERRCODE = '{code}'; END IF;
               RETURN NEW;
             END $$;
             CREATE OR REPLACE TRIGGER meet BEFORE INSERT ON mutes FOR EACH ROW EXECUTE FUNCTION meet()"
        );
        database.client().await.batch_execute(&make).await.unwrap();
        let version = state.book(&[], second(0)).await.unwrap().version;
        let done = state.mute(&chain(&format!("of-{times}")), second(9), second(1), &Actor::cli("me")).await;
        assert_eq!(done.is_ok(), works, "{done:?}");
        assert!(works || done.unwrap_err().is_transient());
        // What was undone left nothing.
        assert_eq!(state.book(&[], second(0)).await.unwrap().version, version + i64::from(works));
    }
    assert_eq!(state.audit(9).await.unwrap().len(), 2);
}

/// One writer has its number and cannot go on; whoever comes behind it may not be seen before it.
#[tokio::test]
async fn no_number_is_seen_before_a_lower_one() {
    let database = Database::new();
    let state = database.open().await.unwrap();
    let mut client = database.client().await;
    let in_its_way = client.transaction().await.unwrap();
    let held_up = event("claude", 1, Found, Some(7));
    let insert = "INSERT INTO events VALUES ('elsewhere', 1, 'claude/1/1/7/found', 1, '{}')";
    in_its_way.batch_execute(insert).await.unwrap();
    let add = |event| {
        let state = state.clone();
        tokio::spawn(async move { state.add_events(&[event]).await })
    };
    let (other, claude) = (database.client().await, chain("claude"));
    let first = add(held_up);
    while waiting(&other).await < 1 {
        assert!(!first.is_finished());
    }
    let second = add(event("claude", 2, Found, None));
    while waiting(&other).await < 2 && !second.is_finished() {}
    let mut read = state.events(&claude, 0, 9).await.unwrap();
    in_its_way.rollback().await.unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let after = read.last().map_or(0, |last| last.seq);
    read.extend(state.events(&claude, after, 9).await.unwrap());
    let instants: Vec<_> = read.iter().map(|numbered| numbered.event.at.as_second()).collect();
    assert_eq!(instants, [1, 2]);
}

/// Passes everything on, until it is told to swallow the next answer and to cut the connection.
async fn cutter(port: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own_port = listener.local_addr().unwrap().port();
    let cut = Arc::new(AtomicBool::new(false));
    let told = cut.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(pass(client, server, told.clone()));
        }
    });
    (own_port, cut)
}

async fn pass(mut client: TcpStream, mut server: TcpStream, cut: Arc<AtomicBool>) {
    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => match read {
                Ok(len) if len > 0 => server.write_all(&asked[..len]).await.unwrap(),
                _ => return,
            },
            read = server.read(&mut answered) => match read {
                Ok(len) if len > 0 && !cut.swap(false, Ordering::SeqCst) => {
                    client.write_all(&answered[..len]).await.unwrap();
                }
                _ => return,
            },
        }
    }
}

#[tokio::test]
async fn a_lost_acknowledgement_repeats_only_what_may_be_repeated() {
    let database = Database::new();
    let port: u16 =
        database.url.split("127.0.0.1:").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let (own_port, cut) = cutter(port).await;
    let url = database.url.replace(&port.to_string(), &own_port.to_string());
    let state = open(&url).await.unwrap();
    let (claude, told) = (chain("claude"), [event("claude", 1, Found, Some(1))]);
    // Each statement is known to the connection by now: the next answer is that of its work.
    state.bring_up(&record("claude", 1, 1), None, &told).await.unwrap();
    cut.store(true, Ordering::SeqCst);
    assert!(state.bring_up(&record("claude", 1, 2), None, &told).await.unwrap());
    assert!(!cut.load(Ordering::SeqCst), "it was cut");
    assert_eq!(state.events(&claude, 0, 9).await.unwrap().len(), 1);
    assert_eq!(state.add_fallback_uses(&claude, 1, 5).await.unwrap(), 5);
    cut.store(true, Ordering::SeqCst);
    let error = state.add_fallback_uses(&claude, 1, 3).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StateError::Unreached { .. }), "{text}");
    assert!(text.contains("may have been done, or not"), "{text}");
    assert_eq!(state.add_fallback_uses(&claude, 1, 0).await.unwrap(), 8, "it was, once");
    // Before anything could have been done, it is repeated whatever it is.
    cut.store(true, Ordering::SeqCst);
    assert!(state.keep_book(0, &BookChange::default()).await.unwrap());
    assert!(!cut.load(Ordering::SeqCst), "it was cut");
}

/// Runs itself in a process that is killed.
#[test]
fn a_scratch_server_ends_with_the_process_that_started_it() {
    const HOLD: &str = "EVERGRANT_HOLD_A_SCRATCH_SERVER";
    if let Some(file) = std::env::var_os(HOLD) {
        let server = Setup::new().start().unwrap();
        std::fs::write(file, format!("{}\n", server.folder().display())).unwrap();
        loop {
            std::thread::park();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("where");
    let this = "postgres_faults::a_scratch_server_ends_with_the_process_that_started_it";
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", this, "--nocapture"])
        .env(HOLD, &file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let within = |what: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    within(&|| read().ends_with('\n'));
    let place = std::path::PathBuf::from(read().trim());
    let pid = std::fs::read_to_string(place.join("data/postmaster.pid")).unwrap();
    let pid = pid.lines().next().unwrap().to_owned();
    holder.kill().unwrap();
    holder.wait().unwrap();
    within(&|| !place.exists() && !std::path::Path::new("/proc").join(&pid).exists());
}
