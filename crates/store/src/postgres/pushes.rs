//! Push events and when a server listened for them (SPEC §5, §6), in SQL.

use deadpool_postgres::Client;
use evergrant_core::ChainName;
use evergrant_core::event::Event;
use evergrant_core::health::{PushFacts, PushSeen, Span, Streak};
use evergrant_core::push::Identity;
use jiff::{SignedDuration, Timestamp};

use super::callers::{read, write};
use super::fault::Fault;
use super::ledger::{Columns, add_events};
use super::session::{begin, change, change_alone, commit, row, rows, the_row};
use crate::health::NONCES_FOR;

pub(super) fn instant(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

pub(super) async fn tracked_since(
    client: &Client,
    chain: &ChainName,
    now: Timestamp,
) -> Result<Timestamp, Fault> {
    let query = "SELECT since_ms FROM push_tracks WHERE chain = $1";
    if let Some(known) = row(client, query, &[&chain.as_str()]).await? {
        return Ok(instant(known.try_get(0)?));
    }
    let insert = "INSERT INTO push_tracks (chain, since_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    change_alone(client, insert, &[&chain.as_str(), &now.as_millisecond()]).await?;
    let known = row(client, query, &[&chain.as_str()]).await?;
    known.map_or(Ok(now), |known| Ok(instant(known.try_get(0)?)))
}

pub(super) async fn take_nonce(
    client: &Client,
    chain: &ChainName,
    nonce: &str,
    now: Timestamp,
) -> Result<bool, Fault> {
    // A few of those that are too old go with each new one; who finds one that another forgets passes it by.
    let query = "WITH forgotten AS (
           DELETE FROM nonces WHERE ctid = ANY (ARRAY (
             SELECT ctid FROM nonces WHERE at_ms < $4::bigint AND (chain, nonce) <> ($1::text, $2::text)
             ORDER BY at_ms LIMIT 100 FOR UPDATE SKIP LOCKED))
         )
         INSERT INTO nonces AS known (chain, nonce, at_ms) VALUES ($1::text, $2::text, $3::bigint)
         ON CONFLICT (chain, nonce) DO UPDATE SET at_ms = excluded.at_ms WHERE known.at_ms < $4::bigint
         RETURNING 1";
    let (now_ms, before_ms) = (now.as_millisecond(), (now - NONCES_FOR).as_millisecond());
    let new = change_alone(client, query, &[&chain.as_str(), &nonce, &now_ms, &before_ms]).await?;
    Ok(new.is_some())
}

pub(super) async fn add(
    client: &Client,
    seen: &PushSeen,
    event: &Event,
    identity: Option<&Identity>,
) -> Result<(), Fault> {
    let query = add_events!(
        "pushed AS (
           INSERT INTO push_events (chain, at_ms, kind, outcome, reason)
           VALUES ($6::text, $7::bigint, $8::text, $9::text, $10::text)
         ), by_agent AS (
           INSERT INTO push_agents AS known (chain, agent, at_ms, seen)
           VALUES ($6::text, $11::text, $7::bigint, $12::text)
           ON CONFLICT (chain, agent) DO UPDATE SET at_ms = excluded.at_ms, seen = excluded.seen
             WHERE known.at_ms <= excluded.at_ms
         ), held AS (
           INSERT INTO identities (chain, identity) SELECT $6::text, $13::text WHERE $13::text IS NOT NULL
           ON CONFLICT (chain) DO UPDATE SET identity = excluded.identity
         ), ",
        "",
        "SELECT 1"
    );
    let Columns { chains, behind, keys, at_ms, events } = Columns::of(std::slice::from_ref(event))?;
    let (chain, seen_ms) = (event.chain.as_str(), seen.at.as_millisecond());
    let (kind, outcome, reason) = (seen.kind.as_str(), seen.outcome.as_str(), seen.reason.as_str());
    let (agent, agent_seen) = (seen.agent.id.as_str(), write(&seen.agent)?);
    let identity = identity.map(write).transpose()?;
    change_alone(
        client,
        query,
        &[
            &chains,
            &behind,
            &keys,
            &at_ms,
            &events,
            &chain,
            &seen_ms,
            &kind,
            &outcome,
            &reason,
            &agent,
            &agent_seen,
            &identity,
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn facts(client: &Client, chain: &ChainName) -> Result<PushFacts, Fault> {
    let chain = chain.as_str();
    // One statement sees one instant. The streak: the failures after the last event that was good; of two at one
    // instant the good one counts as the later.
    let query = "SELECT facts.*, streak.*,
           (SELECT reason FROM push_events
             WHERE chain = $1 AND outcome = 'failed' AND at_ms > coalesce(last_good, $2)
             ORDER BY at_ms DESC, reason DESC LIMIT 1)
         FROM (
           SELECT count(*), max(at_ms),
             max(at_ms) FILTER (WHERE outcome = 'good') AS last_good,
             max(at_ms) FILTER (WHERE outcome = 'good' AND kind = 'push'),
             max(at_ms) FILTER (WHERE outcome = 'failed'),
             count(*) FILTER (WHERE outcome = 'good' AND kind = 'push'),
             count(*) FILTER (WHERE outcome = 'failed')
           FROM push_events WHERE chain = $1
         ) AS facts, LATERAL (
           SELECT count(*), min(at_ms), max(at_ms) FROM push_events
             WHERE chain = $1 AND outcome = 'failed' AND at_ms > coalesce(last_good, $2)
         ) AS streak";
    let found = the_row(client, query, &[&chain, &i64::MIN]).await?;
    let at = |index: usize| Ok::<_, Fault>(found.try_get::<_, Option<i64>>(index)?.map(instant));
    let count = |index: usize| Ok::<_, Fault>(found.try_get::<_, i64>(index)?.unsigned_abs());
    let streak = match (at(8)?, at(9)?, found.try_get::<_, Option<&str>>(10)?) {
        (Some(since), Some(last_at), Some(reason)) => {
            let unread = |error| Fault::Unreadable(format!("a push event of {chain}: {error}"));
            let pushes = u32::try_from(count(7)?).unwrap_or(u32::MAX);
            Some(Streak { since, last_at, pushes, reason: reason.parse().map_err(unread)? })
        }
        (None, ..) | (_, None, _) | (.., None) => None,
    };
    let mut facts = PushFacts {
        events: count(0)?,
        last_at: at(1)?,
        last_good_at: at(2)?,
        last_accepted_at: at(3)?,
        last_failure_at: at(4)?,
        accepted: count(5)?,
        failed: count(6)?,
        streak,
        agents: Vec::new(),
    };
    let query = "SELECT agent, seen FROM push_agents WHERE chain = $1 ORDER BY agent";
    for found in rows(client, query, &[&chain]).await? {
        let agent: &str = found.try_get(0)?;
        facts.agents.push(read(format_args!("agent {agent} of {chain}"), found.try_get(1)?)?);
    }
    Ok(facts)
}

pub(super) async fn keep_identity(
    client: &Client,
    chain: &ChainName,
    identity: &Identity,
) -> Result<(), Fault> {
    let query = "INSERT INTO identities (chain, identity) VALUES ($1, $2)
                 ON CONFLICT (chain) DO UPDATE SET identity = excluded.identity";
    change_alone(client, query, &[&chain.as_str(), &write(identity)?]).await?;
    Ok(())
}

pub(super) async fn identity(client: &Client, chain: &ChainName) -> Result<Option<Identity>, Fault> {
    let query = "SELECT identity FROM identities WHERE chain = $1";
    let found = row(client, query, &[&chain.as_str()]).await?;
    found.map(|row| read(format_args!("the identity of {chain}"), row.try_get(0)?)).transpose()
}

pub(super) async fn listen(client: &mut Client, now: Timestamp, pause: SignedDuration) -> Result<(), Fault> {
    let (now_ms, since_ms) = (now.as_millisecond(), (now - pause).as_millisecond());
    let transaction = begin(client).await?;
    // Two servers that begin at once would begin a span each. Who reads does not wait for this.
    transaction.batch_execute("LOCK TABLE listened IN SHARE ROW EXCLUSIVE MODE").await?;
    let lengthen = "UPDATE listened SET until_ms = greatest(until_ms, $1)
         WHERE from_ms = (SELECT max(from_ms) FROM listened) AND until_ms >= $2";
    if change(&transaction, lengthen, &[&now_ms, &since_ms]).await? == 0 {
        let begin = "INSERT INTO listened (from_ms, until_ms) VALUES ($1, $1) ON CONFLICT DO NOTHING";
        change(&transaction, begin, &[&now_ms]).await?;
    }
    commit(transaction).await
}

pub(super) async fn listened(client: &Client) -> Result<Vec<Span>, Fault> {
    let found = rows(client, "SELECT from_ms, until_ms FROM listened ORDER BY from_ms", &[]).await?;
    let span = |row: &tokio_postgres::Row| {
        Ok(Span { from: instant(row.try_get(0)?), until: instant(row.try_get(1)?) })
    };
    found.iter().map(span).collect()
}
