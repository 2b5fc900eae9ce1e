//! The schema of the database: the steps to today's, and what is forgotten by age (SPEC §12).

use std::time::Duration;

use deadpool_postgres::{Client, GenericClient};
use jiff::Timestamp;

use super::PostgresState;
use super::fault::{Fault, PostgresError};
use super::session::{Repeat, begin, commit, run};
use crate::state::{StateError, day_of};

/// The steps from an empty database to today's, in order; never changed once released.
pub(super) const MIGRATIONS: [&str; 7] = [
    include_str!("../../migrations/postgres/0001_chains_and_ledger.sql"),
    include_str!("../../migrations/postgres/0002_callers.sql"),
    include_str!("../../migrations/postgres/0003_pushes_and_episodes.sql"),
    include_str!("../../migrations/postgres/0004_rows.sql"),
    include_str!("../../migrations/postgres/0005_health_looks.sql"),
    include_str!("../../migrations/postgres/0006_machines.sql"),
    include_str!("../../migrations/postgres/0007_incarnation.sql"),
];
/// A step may rewrite a large table.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Rows that are forgotten in one transaction: a year's worth at once would outlast every timeout.
const BITE: i64 = 10_000;

async fn schema(client: &impl GenericClient) -> Result<i64, Fault> {
    let there = "SELECT to_regclass('evergrant_schema') IS NOT NULL";
    if !client.query_one(there, &[]).await?.try_get::<_, bool>(0)? {
        return Ok(0);
    }
    let version = client.query_opt("SELECT version FROM evergrant_schema", &[]).await?;
    Ok(version.map_or(Ok(0), |row| row.try_get(0))?)
}

pub(super) async fn check(client: &Client) -> Result<(), Fault> {
    let version = schema(client).await?;
    if version == MIGRATIONS.len() as i64 {
        Ok(())
    } else {
        Err(Fault::Unreadable(format!("schema {version}")))
    }
}

/// Brings the database to the last of `steps`, all or nothing, under a lock.
pub(super) async fn migrate(state: &PostgresState, steps: &[&str]) -> Result<(), StateError> {
    let (place, known) = (state.place().to_owned(), steps.len() as i64);
    let found = run!(state, Repeat::Fine, |client| schema(client))?;
    if found == known {
        return Ok(());
    }
    let too_new = |found| StateError::TooNew { place: place.clone(), found, known, or: "restore a backup" };
    // Before anything is made: a newer database is not touched at all.
    if found > known {
        return Err(too_new(found));
    }
    let mut client = state.connection().await?;
    let migrated = tokio::time::timeout(MIGRATION_TIMEOUT, take_steps(&mut client, steps)).await;
    // What was said on it is for migrations only.
    drop(deadpool_postgres::Object::take(client));
    match migrated {
        Ok(Ok(found)) if found > known => Err(too_new(found)),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(fault)) if fault.error().and_then(PostgresError::code) == Some("42501") => {
            let why = format!(
                "its role may not make tables ({}): GRANT CREATE ON SCHEMA … TO the role",
                fault.at(&place)
            );
            Err(StateError::Unfit { place, why })
        }
        Ok(Err(fault)) => Err(fault.at(&place)),
        Err(_) => Err(StateError::Unreached { place, why: "its migration did not end".into() }),
    }
}

/// Gives the schema that was found under the lock.
async fn take_steps(client: &mut Client, steps: &[&str]) -> Result<i64, Fault> {
    make_version_table(client).await?;
    let transaction = begin(client).await?;
    transaction.batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0").await?;
    transaction.batch_execute("LOCK TABLE evergrant_schema IN ACCESS EXCLUSIVE MODE").await?;
    // Another process may have migrated it while this one waited.
    let found = schema(&transaction).await?;
    if found >= steps.len() as i64 {
        return Ok(found);
    }
    for step in steps.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.batch_execute(step).await?;
    }
    transaction.execute("DELETE FROM evergrant_schema", &[]).await?;
    let insert = "INSERT INTO evergrant_schema (version) VALUES ($1)";
    transaction.execute(insert, &[&(steps.len() as i64)]).await?;
    commit(transaction).await?;
    Ok(found)
}

/// Several may begin at once, and PostgreSQL lets only one of them make it.
async fn make_version_table(client: &Client) -> Result<(), Fault> {
    let mut tries = 0;
    loop {
        let make = "CREATE TABLE IF NOT EXISTS evergrant_schema (version BIGINT NOT NULL)";
        let Err(error) = client.batch_execute(make).await else { return Ok(()) };
        tries += 1;
        let met_another = ["23505", "42710", "42P07"].contains(&error.code().map_or("", |code| code.code()));
        if !met_another || tries > 9 {
            return Err(error.into());
        }
    }
}

async fn bite(client: &Client, query: &str, before: i64) -> Result<u64, Fault> {
    let statement = client.prepare_cached(query).await?;
    client.execute(&statement, &[&before]).await.map_err(Fault::in_doubt)
}

/// Forgets by age, bite by bite; several processes that do so at once share the work. A process that dies in between
/// leaves the rest to the next one.
pub(super) async fn prune(
    state: &PostgresState,
    events_before: Timestamp,
    replaced_before: Timestamp,
) -> Result<u64, StateError> {
    let (events_before_day, events_before) = (day_of(events_before), events_before.as_millisecond());
    let replaced_before = replaced_before.as_millisecond();
    let mut forgotten = 0;
    for (table, what, before) in [
        ("events", "at_ms < $1", events_before),
        ("replaced", "at_ms < $1", replaced_before),
        ("audit", "at_ms < $1", replaced_before),
        ("fallback_uses", "day < $1::bigint", events_before_day.into()),
        ("push_events", "at_ms < $1", events_before),
        // Not the last event of an agent that still comes, nor the time of listening that goes on.
        ("push_agents", "at_ms < $1", events_before),
        ("listened", "until_ms < $1", events_before),
        ("episodes", "closed_ms < $1 AND NOT owed", events_before),
        ("outbox", "at_ms < $1", events_before),
        ("mutes", "until_ms < $1", events_before),
    ] {
        let query = format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY (
               SELECT ctid FROM {table} WHERE {what} LIMIT {BITE} FOR UPDATE SKIP LOCKED))"
        );
        loop {
            let bitten = run!(state, Repeat::Fine, |client| bite(client, &query, before))?;
            forgotten += bitten;
            if bitten < BITE.unsigned_abs() {
                break;
            }
        }
    }
    Ok(forgotten)
}
