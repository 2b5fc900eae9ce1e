//! The book of episodes, and the alerts that tell of it (SPEC §6), in SQL.
//!
//! Whoever changes it turns its page first, and so has it alone until the transaction ends.

use deadpool_postgres::{Client, GenericClient, Transaction};
use evergrant_core::ChainName;
use evergrant_core::alert::{Acknowledgement, Alert, Book, BookChange, Episode, EpisodeId, GATHER, Mute};
use evergrant_core::audit::{Act, Actor, AuditEntry};
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::callers::{audit, read as parse, write};
use super::fault::Fault;
use super::pushes::instant;
use super::session::{begin, change, commit, row, rows, signed, snapshot, the_row};
use super::vault::WAKE_HEALTH;

pub(super) async fn read(client: &mut Client, chains: &[ChainName], now: Timestamp) -> Result<Book, Fault> {
    let chains: Vec<_> = chains.iter().map(ChainName::as_str).collect();
    // One instant of it.
    let transaction = snapshot(client).await?;
    let version = the_row(&transaction, "SELECT version FROM book", &[]).await?.try_get(0)?;
    let query = "SELECT id, episode FROM episodes AS one
         WHERE chain = ANY ($1) AND (closed_ms IS NULL OR owed OR opened_ms = (
           SELECT max(opened_ms) FROM episodes WHERE chain = one.chain AND condition = one.condition))
         ORDER BY opened_ms, id";
    let episodes = all(&rows(&transaction, query, &[&chains]).await?)?;
    let query = "SELECT chain, until_ms FROM mutes WHERE until_ms > $1 AND chain = ANY ($2) ORDER BY chain";
    let mut mutes = Vec::new();
    for found in rows(&transaction, query, &[&now.as_millisecond(), &chains]).await? {
        let chain = found.try_get::<_, &str>(0)?.parse();
        let chain = chain.map_err(|error| Fault::Unreadable(format!("a mute: {error}")))?;
        mutes.push(Mute { chain, until: instant(found.try_get(1)?) });
    }
    let query = "SELECT alert FROM outbox WHERE at_ms > $1 ORDER BY seq";
    let told = rows(&transaction, query, &[&(now - GATHER).as_millisecond()]).await?;
    let lately = told.iter().map(|row| parse("an alert", row.try_get(0)?)).collect::<Result<_, Fault>>()?;
    transaction.commit().await?;
    Ok(Book { version, episodes, mutes, lately })
}

fn all(rows: &[tokio_postgres::Row]) -> Result<Vec<Episode>, Fault> {
    let episode = |row: &tokio_postgres::Row| {
        let id: &str = row.try_get(0)?;
        parse(format_args!("episode {id}"), row.try_get(1)?)
    };
    rows.iter().map(episode).collect()
}

pub(super) async fn keep(client: &mut Client, version: i64, change: &BookChange) -> Result<bool, Fault> {
    let transaction = begin(client).await?;
    if !turn_page(&transaction, Some(version)).await? {
        return Ok(false);
    }
    // Those that close first: one open one at most of each chain and condition.
    let (open, closed): (Vec<_>, Vec<_>) = change.episodes.iter().partition(|episode| episode.is_open());
    put(&transaction, &closed).await?;
    put(&transaction, &open).await?;
    for (alert, sinks) in &change.alerts {
        address(&transaction, alert, sinks).await?;
    }
    commit(transaction).await?;
    Ok(true)
}

/// The next version; says whether it was at `from`.
async fn turn_page(transaction: &Transaction<'_>, from: Option<i64>) -> Result<bool, Fault> {
    let query = "UPDATE book SET version = version + 1 WHERE $1::bigint IS NULL OR version = $1::bigint";
    Ok(change(transaction, query, &[&from]).await? == 1)
}

async fn put(transaction: &Transaction<'_>, episodes: &[&Episode]) -> Result<(), Fault> {
    if episodes.is_empty() {
        return Ok(());
    }
    let query = "INSERT INTO episodes (id, chain, condition, opened_ms, closed_ms, owed, episode)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bool[], $7::text[])
         ON CONFLICT (id) DO UPDATE
           SET closed_ms = excluded.closed_ms, owed = excluded.owed, episode = excluded.episode";
    let column = |of: fn(&Episode) -> &str| episodes.iter().map(|one| of(one)).collect::<Vec<_>>();
    let ids = column(|one| one.id.as_str());
    let chains = column(|one| one.chain.as_str());
    let conditions = column(|one| one.condition.as_str());
    let opened_ms: Vec<_> = episodes.iter().map(|one| one.opened_at.as_millisecond()).collect();
    let closed_ms: Vec<_> = episodes.iter().map(|one| one.closed_at.map(Timestamp::as_millisecond)).collect();
    let owed: Vec<_> = episodes.iter().map(|one| one.owed).collect();
    let json = episodes.iter().map(write).collect::<Result<Vec<_>, _>>()?;
    let columns: [&(dyn ToSql + Sync); 7] =
        [&ids, &chains, &conditions, &opened_ms, &closed_ms, &owed, &json];
    change(transaction, query, &columns).await?;
    Ok(())
}

/// Lets the health of a chain of the vault be looked at now.
async fn wake(transaction: &Transaction<'_>, chain: &ChainName) -> Result<(), Fault> {
    change(transaction, WAKE_HEALTH, &[&chain.as_str()]).await?;
    Ok(())
}

async fn address(transaction: &Transaction<'_>, alert: &Alert, sinks: &[String]) -> Result<(), Fault> {
    let at_ms = alert.at.as_millisecond();
    // A clock that was set back may name an episode as an earlier one: what was told is not told again, and nothing
    // stops for it.
    let insert =
        "INSERT INTO outbox (id, at_ms, alert) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING seq";
    let Some(told) = row(transaction, insert, &[&alert.id, &at_ms, &write(alert)?]).await? else {
        return Ok(());
    };
    let seq: i64 = told.try_get(0)?;
    let insert = "INSERT INTO deliveries (sink, seq, state, attempts, next_ms)
         SELECT sink, $2::bigint, 'waiting', 0, $3::bigint FROM unnest($1::text[]) AS new (sink)";
    change(transaction, insert, &[&sinks, &seq, &at_ms]).await?;
    Ok(())
}

pub(super) async fn episodes(
    client: &impl GenericClient,
    chain: Option<&ChainName>,
    most: usize,
) -> Result<Vec<Episode>, Fault> {
    let query = "SELECT id, episode FROM episodes WHERE $1::text IS NULL OR chain = $1::text
         ORDER BY opened_ms DESC, id DESC LIMIT $2";
    all(&rows(client, query, &[&chain.map(ChainName::as_str), &signed(most)]).await?)
}

pub(super) async fn open_episodes(
    client: &impl GenericClient,
    chain: Option<&ChainName>,
) -> Result<Vec<Episode>, Fault> {
    let query =
        "SELECT id, episode FROM episodes WHERE closed_ms IS NULL AND ($1::text IS NULL OR chain = $1::text)
         ORDER BY opened_ms DESC, id DESC";
    all(&rows(client, query, &[&chain.map(ChainName::as_str)]).await?)
}

pub(super) async fn acknowledge(
    client: &mut Client,
    id: &EpisodeId,
    acknowledgement: Option<&Acknowledgement>,
    at: Timestamp,
    who: &Actor,
) -> Result<Option<Episode>, Fault> {
    let transaction = begin(client).await?;
    turn_page(&transaction, None).await?;
    let query = "SELECT episode FROM episodes WHERE id = $1";
    let Some(found) = row(&transaction, query, &[&id.as_str()]).await? else { return Ok(None) };
    let mut episode: Episode = parse(format_args!("episode {id}"), found.try_get(0)?)?;
    episode.acknowledged = acknowledgement.cloned();
    put(&transaction, &[&episode]).await?;
    wake(&transaction, &episode.chain).await?;
    let (what, to) = (Act::EpisodeAcknowledged, id.to_string());
    audit(&transaction, &AuditEntry { at, who: who.clone(), what, to }).await?;
    commit(transaction).await?;
    Ok(Some(episode))
}

pub(super) async fn mute(
    client: &mut Client,
    chain: &ChainName,
    until: Timestamp,
    at: Timestamp,
    who: &Actor,
) -> Result<(), Fault> {
    let transaction = begin(client).await?;
    turn_page(&transaction, None).await?;
    let query = "INSERT INTO mutes (chain, until_ms) VALUES ($1, $2)
         ON CONFLICT (chain) DO UPDATE SET until_ms = excluded.until_ms";
    change(&transaction, query, &[&chain.as_str(), &until.as_millisecond()]).await?;
    wake(&transaction, chain).await?;
    let (what, to) = (Act::ChainMuted, chain.to_string());
    audit(&transaction, &AuditEntry { at, who: who.clone(), what, to }).await?;
    commit(transaction).await
}
