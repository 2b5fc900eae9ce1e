//! The book of episodes, and the alerts that tell of it (SPEC §6), in SQL.

use evergrant_core::ChainName;
use evergrant_core::alert::{Acknowledgement, Alert, Book, BookChange, Episode, EpisodeId, GATHER, Mute};
use evergrant_core::audit::{Act, Actor, AuditEntry};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::callers::{audit, begin, read as parse, write};
use super::pushes::instant;
use super::{Fault, signed};

pub(super) fn read(connection: &mut Connection, chains: &[ChainName], now: Timestamp) -> Result<Book, Fault> {
    // One instant of it.
    let transaction = connection.transaction()?;
    let version = transaction.query_row("SELECT version FROM book", [], |row| row.get(0))?;
    let query = "SELECT id, episode FROM episodes AS one
         WHERE chain IN (SELECT value FROM json_each(?1)) AND (closed_ms IS NULL OR owed = 1 OR opened_ms = (
           SELECT max(opened_ms) FROM episodes WHERE chain = one.chain AND condition = one.condition))
         ORDER BY opened_ms, id";
    let chains = write(&chains)?;
    let episodes = select(&transaction, query, [&chains])?;
    let query = "SELECT chain, until_ms FROM mutes
         WHERE until_ms > ?1 AND chain IN (SELECT value FROM json_each(?2))";
    let mut mutes_of = transaction.prepare_cached(query)?;
    let rows = mutes_of.query_map(params![now.as_millisecond(), chains], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?))
    })?;
    let mut mutes = Vec::new();
    for row in rows {
        let (chain, until) = row?;
        let chain = chain.parse().map_err(|error| Fault::Unreadable(format!("a mute: {error}")))?;
        mutes.push(Mute { chain, until: instant(until) });
    }
    let mut told = transaction.prepare_cached("SELECT alert FROM outbox WHERE at_ms > ?1 ORDER BY seq")?;
    let rows = told.query_map([(now - GATHER).as_millisecond()], |row| row.get::<_, String>(0))?;
    let lately = rows.map(|json| parse("an alert", &json?)).collect::<Result<_, _>>()?;
    Ok(Book { version, episodes, mutes, lately })
}

fn select(
    connection: &Connection,
    query: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<Episode>, Fault> {
    let mut select = connection.prepare_cached(query)?;
    let rows = select.query_map(params, |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| {
        let (id, json) = row?;
        parse(format_args!("episode {id}"), &json)
    })
    .collect()
}

pub(super) fn keep(connection: &mut Connection, version: i64, change: &BookChange) -> Result<bool, Fault> {
    let transaction = begin(connection)?;
    if !turn_page(&transaction, Some(version))? {
        return Ok(false);
    }
    // Those that close first: one open one at most of each chain and condition.
    let (open, closed): (Vec<_>, Vec<_>) = change.episodes.iter().partition(|episode| episode.is_open());
    for episode in closed.into_iter().chain(open) {
        put(&transaction, episode)?;
    }
    for (alert, sinks) in &change.alerts {
        address(&transaction, alert, sinks)?;
    }
    transaction.commit()?;
    Ok(true)
}

/// The next version; says whether it was at `from`.
fn turn_page(transaction: &Transaction<'_>, from: Option<i64>) -> Result<bool, Fault> {
    let query = "UPDATE book SET version = version + 1 WHERE ?1 IS NULL OR version = ?1";
    Ok(transaction.execute(query, [from])? == 1)
}

fn put(connection: &Connection, episode: &Episode) -> Result<(), Fault> {
    connection.execute(
        "INSERT INTO episodes (id, chain, condition, opened_ms, closed_ms, owed, episode)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (id) DO UPDATE SET closed_ms = ?5, owed = ?6, episode = ?7",
        params![
            episode.id.as_str(),
            episode.chain.as_str(),
            episode.condition.as_str(),
            episode.opened_at.as_millisecond(),
            episode.closed_at.map(Timestamp::as_millisecond),
            episode.owed,
            write(episode)?
        ],
    )?;
    Ok(())
}

fn address(connection: &Connection, alert: &Alert, sinks: &[String]) -> Result<(), Fault> {
    let at_ms = alert.at.as_millisecond();
    // A clock that was set back may name an episode as an earlier one: what was told is not told again, and nothing
    // stops for it.
    let insert = "INSERT OR IGNORE INTO outbox (id, at_ms, alert) VALUES (?1, ?2, ?3)";
    if connection.execute(insert, params![alert.id, at_ms, write(alert)?])? == 0 {
        return Ok(());
    }
    let seq = connection.last_insert_rowid();
    let insert =
        "INSERT INTO deliveries (sink, seq, state, attempts, next_ms) VALUES (?1, ?2, 'waiting', 0, ?3)";
    for sink in sinks {
        connection.execute(insert, params![sink, seq, at_ms])?;
    }
    Ok(())
}

pub(super) fn episodes(
    connection: &Connection,
    chain: Option<&ChainName>,
    most: usize,
) -> Result<Vec<Episode>, Fault> {
    let query = "SELECT id, episode FROM episodes WHERE ?1 IS NULL OR chain = ?1
         ORDER BY opened_ms DESC, id DESC LIMIT ?2";
    select(connection, query, params![chain.map(ChainName::as_str), signed(most)])
}

pub(super) fn open_episodes(
    connection: &Connection,
    chain: Option<&ChainName>,
) -> Result<Vec<Episode>, Fault> {
    let query = "SELECT id, episode FROM episodes WHERE closed_ms IS NULL AND (?1 IS NULL OR chain = ?1)
         ORDER BY opened_ms DESC, id DESC";
    select(connection, query, params![chain.map(ChainName::as_str)])
}

pub(super) fn acknowledge(
    connection: &mut Connection,
    id: &EpisodeId,
    acknowledgement: Option<Acknowledgement>,
    at: Timestamp,
    who: &Actor,
) -> Result<Option<Episode>, Fault> {
    let transaction = begin(connection)?;
    let query = "SELECT episode FROM episodes WHERE id = ?1";
    let json: Option<String> = transaction.query_row(query, [id.as_str()], |row| row.get(0)).optional()?;
    let Some(json) = json else { return Ok(None) };
    let mut episode: Episode = parse(format_args!("episode {id}"), &json)?;
    episode.acknowledged = acknowledgement;
    put(&transaction, &episode)?;
    turn_page(&transaction, None)?;
    let what = Act::EpisodeAcknowledged;
    audit(&transaction, &AuditEntry { at, who: who.clone(), what, to: id.to_string() })?;
    transaction.commit()?;
    Ok(Some(episode))
}

pub(super) fn mute(
    connection: &mut Connection,
    chain: &ChainName,
    until: Timestamp,
    at: Timestamp,
    who: &Actor,
) -> Result<(), Fault> {
    let transaction = begin(connection)?;
    transaction.execute(
        "INSERT INTO mutes (chain, until_ms) VALUES (?1, ?2) ON CONFLICT (chain) DO UPDATE SET until_ms = ?2",
        params![chain.as_str(), until.as_millisecond()],
    )?;
    turn_page(&transaction, None)?;
    let what = Act::ChainMuted;
    audit(&transaction, &AuditEntry { at, who: who.clone(), what, to: chain.to_string() })?;
    Ok(transaction.commit()?)
}

/// Forgets episodes that closed before, and alerts that were made before.
pub(super) fn prune(connection: &Connection, before: Timestamp) -> Result<usize, Fault> {
    let before = before.as_millisecond();
    let mut forgotten =
        connection.execute("DELETE FROM episodes WHERE closed_ms < ?1 AND owed = 0", [before])?;
    forgotten += connection.execute("DELETE FROM outbox WHERE at_ms < ?1", [before])?;
    forgotten += connection.execute("DELETE FROM mutes WHERE until_ms < ?1", [before])?;
    Ok(forgotten)
}
