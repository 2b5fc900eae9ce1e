//! Alerts on their way to sinks (SPEC §6), in SQL.

use std::time::Duration;

use evergrant_core::alert::{Delivery, Settled, SinkState};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::Fault;
use super::callers::{begin, read};
use super::pushes::instant;

pub(super) fn claim(
    connection: &mut Connection,
    sink: &str,
    holder: &str,
    now: Timestamp,
    lease: Duration,
) -> Result<Option<Delivery>, Fault> {
    let query = "SELECT seq, attempts, next_ms, id, alert FROM deliveries JOIN outbox USING (seq)
         WHERE sink = ?1 AND state = 'waiting' ORDER BY seq LIMIT 1";
    // A look that finds nothing writes nothing.
    let first = |connection: &Connection| {
        let mut select = connection.prepare_cached(query)?;
        let found = select.query_row([sink], |row| {
            let (seq, attempts): (i64, i64) = (row.get(0)?, row.get(1)?);
            Ok((seq, attempts, row.get::<_, i64>(2)?, row.get::<_, String>(3)?, row.get::<_, String>(4)?))
        });
        found.optional()
    };
    let due = |next_ms: i64| next_ms <= now.as_millisecond();
    if first(connection)?.is_none_or(|(_, _, next_ms, _, _)| !due(next_ms)) {
        return Ok(None);
    }
    let transaction = begin(connection)?;
    let take = "INSERT INTO sink_leases (sink, holder, until_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (sink) DO UPDATE SET holder = ?2, until_ms = ?3 WHERE holder = ?2 OR until_ms <= ?4";
    let until_ms = (now + lease).as_millisecond();
    let leased = transaction.execute(take, params![sink, holder, until_ms, now.as_millisecond()])? == 1;
    let Some((seq, attempts, next_ms, id, json)) = first(&transaction)?.filter(|_| leased) else {
        return Ok(None);
    };
    if !due(next_ms) {
        return Ok(None);
    }
    let alert = read(format_args!("alert {id}"), &json)?;
    transaction.commit()?;
    let (seq, attempts) = (seq.unsigned_abs(), u32::try_from(attempts).unwrap_or(u32::MAX));
    Ok(Some(Delivery { seq, sink: sink.to_owned(), alert, attempts }))
}

pub(super) fn settle(
    connection: &mut Connection,
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
    let transaction = begin(connection)?;
    transaction.execute(
        "UPDATE deliveries SET state = ?3, next_ms = ?4, detail = ?5, attempts = attempts + 1, settled_ms = ?6
         WHERE sink = ?1 AND seq = ?2 AND state = 'waiting' AND (?3 <> 'waiting' OR attempts = ?7)",
        params![
            delivery.sink,
            super::signed(delivery.seq),
            state,
            next.as_millisecond(),
            detail,
            now.as_millisecond(),
            delivery.attempts
        ],
    )?;
    // The next one who comes may go on at once.
    let free = "DELETE FROM sink_leases WHERE sink = ?1 AND holder = ?2";
    transaction.execute(free, params![delivery.sink, holder])?;
    Ok(transaction.commit()?)
}

pub(super) fn states(connection: &Connection) -> Result<Vec<SinkState>, Fault> {
    let query = "SELECT sink,
           count(*) FILTER (WHERE state = 'waiting'),
           min(at_ms) FILTER (WHERE state = 'waiting'),
           count(*) FILTER (WHERE state = 'delivered'),
           max(settled_ms) FILTER (WHERE state = 'delivered'),
           count(*) FILTER (WHERE state = 'dropped'),
           (SELECT detail FROM deliveries AS late
             WHERE late.sink = deliveries.sink AND detail IS NOT NULL ORDER BY seq DESC LIMIT 1)
         FROM deliveries JOIN outbox USING (seq) GROUP BY sink ORDER BY sink";
    let mut select = connection.prepare_cached(query)?;
    let states = select.query_map([], |row| {
        let count = |index| Ok::<_, rusqlite::Error>(row.get::<_, i64>(index)?.unsigned_abs());
        Ok(SinkState {
            sink: row.get(0)?,
            waiting: count(1)?,
            waiting_since: row.get::<_, Option<i64>>(2)?.map(instant),
            delivered: count(3)?,
            last_delivered_at: row.get::<_, Option<i64>>(4)?.map(instant),
            dropped: count(5)?,
            last_fault: row.get(6)?,
        })
    })?;
    Ok(states.collect::<Result<_, _>>()?)
}
