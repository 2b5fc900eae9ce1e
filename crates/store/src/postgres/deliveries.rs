//! Alerts on their way to sinks (SPEC §6), in SQL.

use std::time::Duration;

use deadpool_postgres::{Client, GenericClient};
use evergrant_core::alert::{Delivery, Settled, SinkState};
use jiff::Timestamp;

use super::callers::read;
use super::fault::Fault;
use super::pushes::instant;
use super::session::{begin, change, commit, row, rows, signed};

/// The first alert that waits for a sink.
const FIRST: &str = "SELECT seq, attempts, next_ms, id, alert FROM deliveries JOIN outbox USING (seq)
    WHERE sink = $1 AND state = 'waiting' ORDER BY seq LIMIT 1";

pub(super) async fn claim(
    client: &mut Client,
    sink: &str,
    holder: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Option<Delivery>, Fault> {
    let due = |row: &tokio_postgres::Row| Ok::<_, Fault>(row.try_get::<_, i64>(2)? <= now.as_millisecond());
    // A look that finds nothing writes nothing.
    match row(client, FIRST, &[&sink]).await? {
        Some(first) if due(&first)? => {}
        Some(_) | None => return Ok(None),
    }
    let transaction = begin(client).await?;
    // By its own clock: those of its servers may differ by more than a lease.
    let take = "INSERT INTO sink_leases AS known (sink, holder, until_ms)
           VALUES ($1, $2, (extract(epoch FROM now()) * 1000)::bigint + $3)
         ON CONFLICT (sink) DO UPDATE SET holder = excluded.holder, until_ms = excluded.until_ms
           WHERE known.holder = excluded.holder OR known.until_ms <= (extract(epoch FROM now()) * 1000)::bigint";
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    if change(&transaction, take, &[&sink, &holder, &lease_ms]).await? == 0 {
        return Ok(None);
    }
    // Again: whoever had the lease until now may have settled it.
    let Some(first) = row(&transaction, FIRST, &[&sink]).await? else { return Ok(None) };
    if !due(&first)? {
        return Ok(None);
    }
    let (seq, attempts): (i64, i64) = (first.try_get(0)?, first.try_get(1)?);
    let id: &str = first.try_get(3)?;
    let alert = read(format_args!("alert {id}"), first.try_get(4)?)?;
    commit(transaction).await?;
    let (seq, attempts) = (seq.unsigned_abs(), u32::try_from(attempts).unwrap_or(u32::MAX));
    Ok(Some(Delivery { seq, sink: sink.to_owned(), alert, attempts }))
}

pub(super) async fn settle(
    client: &mut Client,
    delivery: &Delivery,
    holder: &str,
    settled: &Settled,
    now: Timestamp,
) -> Result<(), Fault> {
    let (state, next, detail) = match settled {
        Settled::Delivered => ("delivered", now, None),
        Settled::Again { at, detail } => ("waiting", *at, Some(detail.clone())),
        Settled::Dropped { reason, detail } => ("dropped", now, Some(format!("{reason}: {detail}"))),
    };
    // PostgreSQL's text cannot hold it, and what a sink says is anything.
    let detail = detail.map(|detail| detail.replace('\0', "\u{fffd}"));
    let transaction = begin(client).await?;
    let query = "UPDATE deliveries
         SET state = $3, next_ms = $4, detail = $5, attempts = attempts + 1, settled_ms = $6
         WHERE sink = $1 AND seq = $2 AND state = 'waiting' AND ($3 <> 'waiting' OR attempts = $7)";
    let attempts = i64::from(delivery.attempts);
    let (seq, next_ms, now_ms) = (signed(delivery.seq), next.as_millisecond(), now.as_millisecond());
    change(&transaction, query, &[&delivery.sink, &seq, &state, &next_ms, &detail, &now_ms, &attempts])
        .await?;
    // The next one who comes may go on at once.
    let free = "DELETE FROM sink_leases WHERE sink = $1 AND holder = $2";
    change(&transaction, free, &[&delivery.sink, &holder]).await?;
    commit(transaction).await
}

pub(super) async fn states(client: &impl GenericClient) -> Result<Vec<SinkState>, Fault> {
    let query = "SELECT sink,
           count(*) FILTER (WHERE state = 'waiting'),
           min(at_ms) FILTER (WHERE state = 'waiting'),
           count(*) FILTER (WHERE state = 'delivered'),
           max(settled_ms) FILTER (WHERE state = 'delivered'),
           count(*) FILTER (WHERE state = 'dropped'),
           (SELECT detail FROM deliveries AS late
             WHERE late.sink = deliveries.sink AND detail IS NOT NULL ORDER BY seq DESC LIMIT 1)
         FROM deliveries JOIN outbox USING (seq) GROUP BY sink ORDER BY sink";
    let state = |row: &tokio_postgres::Row| {
        let count = |index: usize| Ok::<_, Fault>(row.try_get::<_, i64>(index)?.unsigned_abs());
        Ok(SinkState {
            sink: row.try_get(0)?,
            waiting: count(1)?,
            waiting_since: row.try_get::<_, Option<i64>>(2)?.map(instant),
            delivered: count(3)?,
            last_delivered_at: row.try_get::<_, Option<i64>>(4)?.map(instant),
            dropped: count(5)?,
            last_fault: row.try_get(6)?,
        })
    };
    rows(client, query, &[]).await?.iter().map(state).collect()
}
