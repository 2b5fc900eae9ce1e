//! What only PostgreSQL has to do: schema, settings, TLS.

use std::time::Duration;

use evergrant_core::event::EventKind::Committed;
use evergrant_core::secret::Fingerprint;
use evergrant_store::postgres::scratch::{PASSWORD, Setup, SharedPostgres};
use evergrant_store::postgres::{DatabaseUrl, MAX_CONNECTIONS};
use evergrant_store::seal::Sealed;
use evergrant_store::vault::{Claimed, Holder, NextRow, VaultState as _};
use evergrant_store::{PostgresState, State, StateError};
use tokio_postgres::{Client, NoTls};

use crate::fixture::{chain, event, record, second};

/// A database of the shared server.
pub(crate) struct Database {
    _server: SharedPostgres,
    pub(crate) url: String,
}

impl Database {
    pub(crate) fn new() -> Self {
        let server = SharedPostgres::join().unwrap();
        Self { url: server.new_database().unwrap(), _server: server }
    }

    pub(crate) async fn open(&self) -> Result<PostgresState, StateError> {
        open(&self.url).await
    }

    /// A connection past the state.
    pub(crate) async fn client(&self) -> Client {
        client(&self.url).await
    }
}

pub(crate) async fn open(url: &str) -> Result<PostgresState, StateError> {
    PostgresState::open(&url.parse::<DatabaseUrl>().unwrap(), MAX_CONNECTIONS).await
}

pub(crate) async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// How many connections to this database wait for a lock; the server has databases of other tests too.
pub(crate) async fn waiting(client: &Client) -> i64 {
    let query = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    client.query_one(query, &[]).await.unwrap().get(0)
}

async fn tables(client: &Client) -> i64 {
    let query = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    client.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn opened_again_it_knows_everything() {
    let database = Database::new();
    let state = database.open().await.unwrap();
    state.bring_up(&record("claude", 2, 3), None, &[event("claude", 1, Committed, Some(1))]).await.unwrap();
    let events = state.events(&chain("claude"), 0, 9).await.unwrap();
    drop(state);
    let state = database.open().await.unwrap();
    assert_eq!(state.record(&chain("claude")).await.unwrap(), Some(record("claude", 2, 3)));
    assert_eq!(state.events(&chain("claude"), 0, 9).await.unwrap(), events);
    assert!(state.place().starts_with("127.0.0.1:") && !format!("{state:?}").contains(PASSWORD));
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let database = Database::new();
    let client = database.client().await;
    client
        .batch_execute("CREATE TABLE evergrant_schema (version BIGINT NOT NULL); INSERT INTO evergrant_schema VALUES (99)")
        .await
        .unwrap();
    let error = database.open().await.unwrap_err();
    assert!(matches!(error, StateError::TooNew { found: 99, known: 7, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("run the newer version, or restore a backup from before its upgrade"), "{text}");
    assert_eq!(tables(&client).await, 1);
}

#[tokio::test]
async fn a_state_from_before_there_were_callers_gets_them() {
    let database = Database::new();
    let client = database.client().await;
    let first = include_str!("../../migrations/postgres/0001_chains_and_ledger.sql");
    client.batch_execute(first).await.unwrap();
    let make =
        "CREATE TABLE evergrant_schema (version BIGINT NOT NULL); INSERT INTO evergrant_schema VALUES (1)";
    client.batch_execute(make).await.unwrap();
    let spent = Fingerprint::of(b"old");
    let insert = "INSERT INTO replaced VALUES ('claude', $1, 1)";
    client.execute(insert, &[&spent.to_string()]).await.unwrap();
    let state = database.open().await.unwrap();
    state.check().await.unwrap();
    assert!(state.was_replaced(&chain("claude"), spent).await.unwrap());
    assert_eq!((state.callers().await.unwrap(), state.callers_version().await.unwrap()), (vec![], 0));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_no_other_waiting() {
    let database = Database::new();
    let state = database.open().await.unwrap();
    let sealed = Sealed(b"sealed".to_vec());
    for name in ["a", "b"] {
        let record = record(name, 1, 1);
        let next = NextRow {
            record: &record,
            sealed: Some(&sealed),
            replaced: &[],
            events: &[],
            wakes_at: Some(second(1)),
        };
        assert!(state.take_in(None, next).await.unwrap());
    }
    // As a newer version may have written it.
    let newer = "UPDATE vault_rows SET record = '{\"chain\":\"a\",\"standing\":\"new\"}' WHERE chain = 'a'";
    database.client().await.batch_execute(newer).await.unwrap();
    let (holder, lease) = (Holder { process: "p".into(), machine: "m".into() }, Duration::from_secs(60));
    let looked_at = state.claim_health(lease, 9).await.unwrap();
    let looked_at: Vec<_> = looked_at.iter().map(|claim| claim.chain.as_str()).collect();
    assert_eq!(looked_at, ["b"]);
    let claims = state.claim_due(&holder, lease, 9).await.unwrap();
    let claims: Vec<_> = claims.iter().map(|claim| claim.row.record.chain.as_str()).collect();
    assert_eq!(claims, ["b"]);
    let error = state.row(&chain("a")).await.unwrap_err().to_string();
    assert!(error.contains("the row of chain a: "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_make_it_at_once() {
    for _ in 0..4 {
        let database = Database::new();
        let start = std::sync::Arc::new(tokio::sync::Barrier::new(4));
        let mut makers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (url, start) = (database.url.clone(), start.clone());
            makers.spawn(async move {
                start.wait().await;
                open(&url).await.unwrap().check().await.unwrap();
            });
        }
        assert_eq!(makers.join_all().await.len(), 4);
    }
}

/// Who migrates has everybody wait, for longer than a verb may.
#[tokio::test]
async fn a_migration_waits_for_its_turn() {
    let database = Database::new();
    let mut client = database.client().await;
    client.batch_execute("CREATE TABLE evergrant_schema (version BIGINT NOT NULL)").await.unwrap();
    let turn = client.transaction().await.unwrap();
    turn.batch_execute("LOCK TABLE evergrant_schema IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    let url = database.url.clone();
    let opening = tokio::spawn(async move { open(&url).await });
    let other = database.client().await;
    while waiting(&other).await < 1 {
        assert!(!opening.is_finished());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(tables(&other).await, 1);
    turn.commit().await.unwrap();
    opening.await.unwrap().unwrap().check().await.unwrap();
}

#[tokio::test]
async fn a_migration_that_fails_changes_nothing() {
    let database = Database::new();
    let client = database.client().await;
    // In the way of the second step.
    client.batch_execute("CREATE TABLE audit (one INTEGER)").await.unwrap();
    let text = database.open().await.unwrap_err().to_string();
    assert!(text.contains("cannot be used: relation \"audit\" already exists"), "{text}");
    assert_eq!(tables(&client).await, 2);
    client.batch_execute("DROP TABLE audit").await.unwrap();
    database.open().await.unwrap();
}

#[tokio::test]
async fn it_lives_in_the_schema_that_comes_first() {
    let database = Database::new();
    let client = database.client().await;
    client.batch_execute("CREATE SCHEMA theirs; CREATE SCHEMA ours").await.unwrap();
    let url = format!("{}&options=-csearch_path%3Dours", database.url);
    let state = open(&url).await.unwrap();
    state.bring_up(&record("claude", 1, 1), None, &[]).await.unwrap();
    assert_eq!(tables(&client).await, 0);
    let there = client.query_one("SELECT count(*) FROM ours.chains", &[]).await.unwrap();
    assert_eq!(there.get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_role_that_may_not_make_tables_is_told_what_it_lacks() {
    let database = Database::new();
    let client = database.client().await;
    let make =
        "CREATE ROLE guest_of_this_test LOGIN PASSWORD 'canary'; REVOKE CREATE ON SCHEMA public FROM PUBLIC";
    client.batch_execute(make).await.unwrap();
    let url = database.url.replace(&format!("evergrant:{PASSWORD}"), "guest_of_this_test:canary");
    let error = open(&url).await.unwrap_err();
    client.batch_execute("DROP ROLE guest_of_this_test").await.unwrap();
    let text = error.to_string();
    assert!(matches!(error, StateError::Unfit { .. }), "{text}");
    assert!(text.contains("GRANT CREATE ON SCHEMA") && !text.contains("canary"), "{text}");
}

/// Whether an intent is taken for the one row.
async fn takes_an_intent(state: &PostgresState) -> bool {
    let holder = Holder { process: "p".into(), machine: "m".into() };
    let claimed = state.claim(&chain("claude"), &holder, Duration::ZERO).await.unwrap();
    let Claimed::Ours(claim) = claimed else { panic!("{claimed:?}") };
    let record = &claim.row.record;
    let next = NextRow { record, sealed: None, replaced: &[], events: &[], wakes_at: None };
    state.begin_rotation(&claim, next, Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn one_that_was_started_or_restored_takes_no_intent_before_somebody_has_asked_for_it() {
    const HOLD: Duration = Duration::from_secs(600);
    let server = Setup::new().start().unwrap();
    let url = server.new_database().unwrap();
    let copy = server.new_database().unwrap();
    let name = |url: &str| url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
    let state = open(&url).await.unwrap();
    let (record, sealed) = (record("claude", 1, 1), Sealed(vec![1]));
    let next = NextRow { record: &record, sealed: Some(&sealed), replaced: &[], events: &[], wakes_at: None };
    assert!(state.take_in(None, next).await.unwrap());
    let mut known = vec![state.incarnation(HOLD).await.unwrap()];
    assert_eq!(known[0].held, None, "a new database has nothing to compare");
    assert!(takes_an_intent(&state).await);
    drop(state);
    let run = async |on: &str, what: &str| client(on).await.batch_execute(what).await.unwrap();
    for how in ["started again", "killed", "other rows", "copied", "before there were incarnations"] {
        let at = match how {
            "started again" => {
                server.restart().unwrap();
                &url
            }
            "killed" => {
                server.kill().unwrap();
                server.start().unwrap();
                &url
            }
            // As with a restore of the data alone.
            "other rows" => {
                let all = "CREATE TABLE saved AS TABLE vault_rows; TRUNCATE vault_rows;
                           INSERT INTO vault_rows TABLE saved; DROP TABLE saved";
                run(&url, all).await;
                &url
            }
            "copied" => {
                run(&server.url(), &format!("DROP DATABASE {}", name(&copy))).await;
                let made = format!("CREATE DATABASE {} TEMPLATE {}", name(&copy), name(&url));
                run(&server.url(), &made).await;
                &copy
            }
            _ => {
                let older = "DROP TABLE incarnation; DROP FUNCTION this_incarnation;
                             UPDATE evergrant_schema SET version = 6";
                run(&copy, older).await;
                &copy
            }
        };
        let state = open(at).await.unwrap();
        assert!(!takes_an_intent(&state).await, "{how}");
        let is = state.incarnation(HOLD).await.unwrap();
        assert!(is.held.is_some_and(|held| held > HOLD / 2), "{how}: {is:?}");
        assert!(!takes_an_intent(&state).await, "{how}");
        let older = how == "before there were incarnations";
        assert!(older || known.iter().all(|known| known.id != is.id), "{how}: {is:?}");
        known.push(is);
    }
}

#[tokio::test]
async fn the_audit_is_never_rewritten() {
    let database = Database::new();
    let _state = database.open().await.unwrap();
    let client = database.client().await;
    client.execute("INSERT INTO audit (at_ms, entry) VALUES (1, '{}')", &[]).await.unwrap();
    let error = client.execute("UPDATE audit SET entry = '[]'", &[]).await.unwrap_err();
    let text = error.as_db_error().unwrap().to_string();
    assert!(text.contains("the audit is never changed"), "{text}");
}

#[tokio::test]
async fn a_damaged_record_is_said_and_healed() {
    let database = Database::new();
    let state = database.open().await.unwrap();
    state.bring_up(&record("claude", 1, 5), None, &[]).await.unwrap();
    database.client().await.execute("UPDATE chains SET record = '{'", &[]).await.unwrap();
    let text = state.record(&chain("claude")).await.unwrap_err().to_string();
    assert!(text.contains(state.place()) && text.contains("chain claude"), "{text}");
    // Its position still counts.
    assert!(!state.bring_up(&record("claude", 1, 4), None, &[]).await.unwrap());
    assert!(state.bring_up(&record("claude", 1, 5), None, &[]).await.unwrap());
    assert_eq!(state.record(&chain("claude")).await.unwrap(), Some(record("claude", 1, 5)));
}

#[tokio::test]
async fn a_server_that_may_lose_what_it_acknowledged_is_refused() {
    for value in ["off", "local", "remote_write"] {
        let database = Database::new();
        let name = database.url.rsplit('/').next().unwrap().split('?').next().unwrap();
        let set = format!("ALTER DATABASE {name} SET synchronous_commit = {value}");
        database.client().await.batch_execute(&set).await.unwrap();
        let error = database.open().await.unwrap_err();
        assert!(matches!(error, StateError::Unfit { .. }) && !error.is_transient(), "{error}");
        let text = error.to_string();
        assert!(text.contains(&format!("synchronous_commit = {value}")), "{text}");
        assert_eq!(tables(&database.client().await).await, 0);
    }
}

#[tokio::test]
async fn text_of_another_encoding_is_refused() {
    let database = Database::new();
    let client = database.client().await;
    let name = format!("ascii_{}", std::process::id());
    let make = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
    );
    client.batch_execute(&make).await.unwrap();
    let (base, options) = database.url.split_once('?').unwrap();
    let url = format!("{}/{name}?{options}", base.rsplit_once('/').unwrap().0);
    let text = open(&url).await.unwrap_err().to_string();
    assert!(text.contains("its encoding is SQL_ASCII"), "{text}");
}

#[tokio::test]
async fn tls_is_verified_whenever_it_is_there() {
    let cert = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let server = Setup::new().with_tls(&cert.cert.pem(), &cert.signing_key.serialize_pem()).start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (root, empty) = (folder.path().join("root.pem"), folder.path().join("empty.pem"));
    std::fs::write(&root, cert.cert.pem()).unwrap();
    std::fs::write(&empty, "nothing").unwrap();
    let base = |host: &str| {
        let url = server.url().replace("127.0.0.1", host);
        url.split_once('?').unwrap().0.to_owned()
    };
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let url = format!("{}?sslmode={mode}&sslrootcert={}", base("localhost"), root.display());
        let state = open(&url).await.unwrap();
        state.check().await.unwrap();
    }
    let all = server.url();
    let plain = client(&all).await;
    let ssl = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl";
    assert_eq!(plain.query_one(ssl, &[]).await.unwrap().get::<_, i64>(0), 0, "they are closed by now");
    for (url, said) in [
        (format!("{}?sslmode=require", base("localhost")), "certificate"),
        (format!("{}?sslmode=prefer", base("localhost")), "certificate"),
        (format!("{}?sslmode=require&sslrootcert={}", base("127.0.0.1"), root.display()), "certificate"),
        (format!("{}?sslmode=require&sslrootcert={}", base("localhost"), empty.display()), "no certificate"),
        (format!("{}?sslmode=require&sslrootcert=/none", base("localhost")), "/none cannot be used"),
    ] {
        let text = open(&url).await.unwrap_err().to_string();
        assert!(text.contains(said) && !text.contains(PASSWORD), "{url}: {text}");
    }
    let without = Database::new();
    let url = without.url.replace("sslmode=disable", "sslmode=require");
    let text = open(&url).await.unwrap_err().to_string();
    assert!(text.contains("server does not support TLS"), "{text}");
    let url = without.url.replace("sslmode=disable", "sslmode=prefer");
    open(&url).await.unwrap();
}
