//! Records and events (SPEC §4), in SQL.

use deadpool_postgres::Client;
use evergrant_core::ChainName;
use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::callers::{read, write};
use super::fault::Fault;
use super::session::{change_alone, row, rows, signed, the_row};
use crate::state::{Numbered, event_key};

/// Adds the events of [`Columns`], the parameters $1 to $5, if `$only_if` holds. Who has the row of a chain in `chain_seqs` is alone with its
/// events until the transaction ends, so that their numbers become visible in order. A number may be left out, where an
/// event is there already.
macro_rules! add_events {
    ($before:expr, $only_if:literal, $after:literal) => {
        concat!(
            "WITH ",
            $before,
            "turn AS (
               INSERT INTO chain_seqs AS known (chain, last_seq)
               SELECT chain, count(*) FROM unnest($1::text[]) AS new (chain) ",
            $only_if,
            " GROUP BY chain ORDER BY chain
               ON CONFLICT (chain) DO UPDATE SET last_seq = known.last_seq + excluded.last_seq
               RETURNING chain, last_seq
             ), written AS (
               INSERT INTO events (chain, seq, key, at_ms, event)
               SELECT chain, turn.last_seq - new.behind, new.key, new.at_ms, new.event
               FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[])
                 AS new (chain, behind, key, at_ms, event)
               JOIN turn USING (chain)
               ON CONFLICT DO NOTHING
             ) ",
            $after
        )
    };
}
pub(super) use add_events;

/// Events as columns.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) chains: Vec<&'a str>,
    /// How many events of the same chain come after it.
    pub(super) behind: Vec<i64>,
    pub(super) keys: Vec<Option<String>>,
    pub(super) at_ms: Vec<i64>,
    pub(super) events: Vec<String>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(events: &'a [Event]) -> Result<Self, Fault> {
        let mut columns = Self::default();
        for (index, event) in events.iter().enumerate() {
            let behind = events[index + 1..].iter().filter(|later| later.chain == event.chain).count();
            columns.chains.push(event.chain.as_str());
            columns.behind.push(signed(behind));
            columns.keys.push(event_key(event));
            columns.at_ms.push(event.at.as_millisecond());
            columns.events.push(write(event)?);
        }
        Ok(columns)
    }
}

pub(super) async fn record(client: &Client, chain: &ChainName) -> Result<Option<Record>, Fault> {
    let found = row(client, "SELECT record FROM chains WHERE chain = $1", &[&chain.as_str()]).await?;
    found.map(|row| read(format_args!("chain {chain}"), row.try_get(0)?)).transpose()
}

/// One statement, and so one way to the server and back.
pub(super) async fn bring_up(
    client: &Client,
    record: &Record,
    replaced: Option<(Fingerprint, Timestamp)>,
    events: &[Event],
) -> Result<bool, Fault> {
    // By its columns: a record that cannot be read any more is replaced like any other.
    let query = add_events!(
        "taken AS (
           INSERT INTO chains AS known (chain, lineage, generation, record)
           VALUES ($6::text, $7::bigint, $8::bigint, $9::text)
           ON CONFLICT (chain) DO UPDATE
             SET lineage = excluded.lineage, generation = excluded.generation, record = excluded.record
             WHERE (known.lineage, known.generation) <= (excluded.lineage, excluded.generation)
           RETURNING 1
         ), spent AS (
           INSERT INTO replaced (chain, fingerprint, at_ms)
           SELECT $6::text, $10::text, $11::bigint WHERE $10::text IS NOT NULL
           ON CONFLICT DO NOTHING
         ), ",
        "",
        "SELECT EXISTS (SELECT FROM taken)"
    );
    let Columns { chains, behind, keys, at_ms, events } = Columns::of(events)?;
    let (chain, lineage) = (record.chain.as_str(), signed(record.lineage.0));
    let (generation, json) = (signed(record.generation.0), write(record)?);
    let spent = replaced.map(|(fingerprint, _)| fingerprint.to_string());
    let spent_ms = replaced.map(|(_, at)| at.as_millisecond());
    let taken = change_alone(
        client,
        query,
        &[&chains, &behind, &keys, &at_ms, &events, &chain, &lineage, &generation, &json, &spent, &spent_ms],
    )
    .await?;
    Ok(taken.is_some_and(|row| row.get(0)))
}

pub(super) async fn add(client: &Client, events: &[Event]) -> Result<(), Fault> {
    let query = add_events!("", "", "SELECT 1");
    let Columns { chains, behind, keys, at_ms, events } = Columns::of(events)?;
    change_alone(client, query, &[&chains, &behind, &keys, &at_ms, &events]).await?;
    Ok(())
}

fn numbered(row: &Row) -> Result<Numbered, Fault> {
    let seq: i64 = row.try_get(0)?;
    let event = read(format_args!("event {seq}"), row.try_get(1)?)?;
    Ok(Numbered { seq: u64::try_from(seq).unwrap_or(0), event })
}

pub(super) async fn after(
    client: &Client,
    chain: &ChainName,
    after: u64,
    most: usize,
) -> Result<Vec<Numbered>, Fault> {
    let query = "SELECT seq, event FROM events WHERE chain = $1 AND seq > $2 ORDER BY seq LIMIT $3";
    let found = rows(client, query, &[&chain.as_str(), &signed(after), &signed(most)]).await?;
    found.iter().map(numbered).collect()
}

pub(super) async fn latest(client: &Client, chain: &ChainName, most: usize) -> Result<Vec<Numbered>, Fault> {
    let query = "SELECT seq, event FROM events WHERE chain = $1 ORDER BY seq DESC LIMIT $2";
    let found = rows(client, query, &[&chain.as_str(), &signed(most)]).await?;
    found.iter().map(numbered).collect()
}

pub(super) async fn was_replaced(
    client: &Client,
    chain: &ChainName,
    fingerprint: Fingerprint,
) -> Result<bool, Fault> {
    let query = "SELECT EXISTS (SELECT FROM replaced WHERE chain = $1 AND fingerprint = $2)";
    Ok(the_row(client, query, &[&chain.as_str(), &fingerprint.to_string()]).await?.try_get(0)?)
}
