//! Push events and when a server listened for them (SPEC §5, §6), in SQL.

use evergrant_core::ChainName;
use evergrant_core::event::Event;
use evergrant_core::health::{PushFacts, PushSeen, Span, Streak};
use evergrant_core::push::Identity;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::callers::{begin, read, write};
use super::{Fault, insert_events};
use crate::health::NONCES_FOR;

pub(super) fn instant(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

pub(super) fn tracked_since(
    connection: &Connection,
    chain: &ChainName,
    now: Timestamp,
) -> Result<Timestamp, Fault> {
    let query = "SELECT since_ms FROM push_tracks WHERE chain = ?1";
    let known = |connection: &Connection| {
        connection.query_row(query, [chain.as_str()], |row| row.get::<_, i64>(0)).optional()
    };
    if let Some(since) = known(connection)? {
        return Ok(instant(since));
    }
    let insert = "INSERT OR IGNORE INTO push_tracks (chain, since_ms) VALUES (?1, ?2)";
    connection.execute(insert, params![chain.as_str(), now.as_millisecond()])?;
    Ok(known(connection)?.map_or(now, instant))
}

pub(super) fn take_nonce(
    connection: &mut Connection,
    chain: &ChainName,
    nonce: &str,
    now: Timestamp,
) -> Result<bool, Fault> {
    let transaction = begin(connection)?;
    transaction.execute("DELETE FROM nonces WHERE at_ms < ?1", [(now - NONCES_FOR).as_millisecond()])?;
    let insert = "INSERT OR IGNORE INTO nonces (chain, nonce, at_ms) VALUES (?1, ?2, ?3)";
    let new = transaction.execute(insert, params![chain.as_str(), nonce, now.as_millisecond()])? == 1;
    transaction.commit()?;
    Ok(new)
}

pub(super) fn add(
    connection: &mut Connection,
    seen: &PushSeen,
    event: &Event,
    identity: Option<&Identity>,
) -> Result<(), Fault> {
    let transaction = begin(connection)?;
    let (chain, at_ms) = (event.chain.as_str(), seen.at.as_millisecond());
    let (kind, outcome, reason) = (seen.kind.as_str(), seen.outcome.as_str(), seen.reason.as_str());
    transaction.execute(
        "INSERT INTO push_events (chain, at_ms, kind, outcome, reason) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![chain, at_ms, kind, outcome, reason],
    )?;
    transaction.execute(
        "INSERT INTO push_agents (chain, agent, at_ms, seen) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (chain, agent) DO UPDATE SET at_ms = ?3, seen = ?4 WHERE at_ms <= ?3",
        params![chain, seen.agent.id, at_ms, write(&seen.agent)?],
    )?;
    if let Some(identity) = identity {
        keep_identity(&transaction, &event.chain, identity)?;
    }
    insert_events(&transaction, std::slice::from_ref(event))?;
    Ok(transaction.commit()?)
}

pub(super) fn facts(connection: &Connection, chain: &ChainName) -> Result<PushFacts, Fault> {
    let chain = chain.as_str();
    let query = "SELECT count(*), max(at_ms),
           max(at_ms) FILTER (WHERE outcome = 'good'),
           max(at_ms) FILTER (WHERE outcome = 'good' AND kind = 'push'),
           max(at_ms) FILTER (WHERE outcome = 'failed'),
           count(*) FILTER (WHERE outcome = 'good' AND kind = 'push'),
           count(*) FILTER (WHERE outcome = 'failed')
         FROM push_events WHERE chain = ?1";
    let mut facts = connection.prepare_cached(query)?.query_row([chain], |row| {
        let at = |index| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(index)?.map(instant));
        let count = |index| Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.unsigned_abs());
        Ok(PushFacts {
            events: count(0)?,
            last_at: at(1)?,
            last_good_at: at(2)?,
            last_accepted_at: at(3)?,
            last_failure_at: at(4)?,
            accepted: count(5)?,
            failed: count(6)?,
            streak: None,
            agents: Vec::new(),
        })
    })?;
    facts.streak = streak(connection, chain, facts.last_good_at)?;
    let mut select =
        connection.prepare_cached("SELECT agent, seen FROM push_agents WHERE chain = ?1 ORDER BY agent")?;
    let rows = select.query_map([chain], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for row in rows {
        let (agent, json) = row?;
        facts.agents.push(read(format_args!("agent {agent} of {chain}"), &json)?);
    }
    Ok(facts)
}

/// The failures after the last event that was good; of two at one instant the good one counts as the later.
fn streak(connection: &Connection, chain: &str, good: Option<Timestamp>) -> Result<Option<Streak>, Fault> {
    let after = good.map_or(i64::MIN, Timestamp::as_millisecond);
    let failed = "FROM push_events WHERE chain = ?1 AND outcome = 'failed' AND at_ms > ?2";
    let mut select =
        connection.prepare_cached(&format!("SELECT count(*), min(at_ms), max(at_ms) {failed}"))?;
    let counted = select.query_row(params![chain, after], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Option<i64>>(2)?))
    })?;
    let (pushes, Some(since), Some(last_at)) = counted else { return Ok(None) };
    let last = format!("SELECT reason {failed} ORDER BY at_ms DESC, reason DESC LIMIT 1");
    let mut select = connection.prepare_cached(&last)?;
    let reason: String = select.query_row(params![chain, after], |row| row.get(0))?;
    let reason =
        reason.parse().map_err(|error| Fault::Unreadable(format!("a push event of {chain}: {error}")))?;
    let pushes = u32::try_from(pushes).unwrap_or(u32::MAX);
    Ok(Some(Streak { since: instant(since), last_at: instant(last_at), pushes, reason }))
}

pub(super) fn keep_identity(
    connection: &Connection,
    chain: &ChainName,
    identity: &Identity,
) -> Result<(), Fault> {
    connection.execute(
        "INSERT INTO identities (chain, identity) VALUES (?1, ?2)
         ON CONFLICT (chain) DO UPDATE SET identity = ?2",
        params![chain.as_str(), write(identity)?],
    )?;
    Ok(())
}

pub(super) fn identity(connection: &Connection, chain: &ChainName) -> Result<Option<Identity>, Fault> {
    let query = "SELECT identity FROM identities WHERE chain = ?1";
    let json: Option<String> = connection.query_row(query, [chain.as_str()], |row| row.get(0)).optional()?;
    json.map(|json| read(format_args!("the identity of {chain}"), &json)).transpose()
}

pub(super) fn listen(
    connection: &mut Connection,
    now: Timestamp,
    pause: SignedDuration,
) -> Result<(), Fault> {
    let (now_ms, since_ms) = (now.as_millisecond(), (now - pause).as_millisecond());
    let transaction = begin(connection)?;
    let lengthen = "UPDATE listened SET until_ms = max(until_ms, ?1)
         WHERE from_ms = (SELECT max(from_ms) FROM listened) AND until_ms >= ?2";
    if transaction.execute(lengthen, [now_ms, since_ms])? == 0 {
        let begin = "INSERT OR IGNORE INTO listened (from_ms, until_ms) VALUES (?1, ?1)";
        transaction.execute(begin, [now_ms])?;
    }
    Ok(transaction.commit()?)
}

pub(super) fn listened(connection: &Connection) -> Result<Vec<Span>, Fault> {
    let mut select = connection.prepare_cached("SELECT from_ms, until_ms FROM listened ORDER BY from_ms")?;
    let spans =
        select.query_map([], |row| Ok(Span { from: instant(row.get(0)?), until: instant(row.get(1)?) }))?;
    Ok(spans.collect::<Result<_, _>>()?)
}

/// Forgets what is older, but not the last event of an agent, nor the time of listening that goes on.
pub(super) fn prune(connection: &Connection, before: Timestamp) -> Result<usize, Fault> {
    let before = before.as_millisecond();
    let mut forgotten = connection.execute("DELETE FROM push_events WHERE at_ms < ?1", [before])?;
    forgotten += connection.execute("DELETE FROM push_agents WHERE at_ms < ?1", [before])?;
    forgotten += connection.execute("DELETE FROM listened WHERE until_ms < ?1", [before])?;
    Ok(forgotten)
}
