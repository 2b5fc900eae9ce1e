//! Rows of the database vault (SPEC §4), in SQL. Each verb that writes is one statement, and so one way to the server and
//! back; leases are timed by the server's clock.

use std::collections::BTreeSet;
use std::time::Duration;

use deadpool_postgres::Client;
use evergrant_core::chain::{AttemptId, Epoch, Generation, Lineage, Mark, Record};
use evergrant_core::event::Event;
use evergrant_core::health::shows_trouble;
use evergrant_core::secret::Fingerprint;
use evergrant_core::{ChainName, Reason};
use jiff::Timestamp;
use tokio_postgres::types::ToSql;

use super::PostgresState;
use super::callers::{read, write};
use super::fault::Fault;
use super::ledger::{Columns, add_events};
use super::pushes::instant;
use super::session::{Repeat, change_alone, row, rows, run, signed, the_row};
use crate::seal::Sealed;
use crate::state::StateError;
use crate::vault::{
    Changes, ChangesCursor, Claim, Claimed, HealthClaim, HealthLooked, Holder, Incarnation, LATEST, NewRow,
    NextRow, RELEASED, Row, VaultState,
};

/// Now, in milliseconds since the epoch.
macro_rules! now_ms {
    () => {
        "(extract(epoch FROM now()) * 1000)::bigint"
    };
}

/// Claims the rows that `$which` names, for the holder $1 and $2 milliseconds.
macro_rules! claim_rows {
    ($which:expr) => {
        concat!(
            "UPDATE vault_rows AS claimed
             SET epoch = claimed.epoch + 1, holder = $1, lease_ms = ",
            now_ms!(),
            " + $2, wakes_ms = ",
            now_ms!(),
            " + $2 FROM (SELECT chain FROM vault_rows WHERE (lease_ms IS NULL OR lease_ms <= ",
            now_ms!(),
            ") AND ",
            $which,
            " FOR UPDATE SKIP LOCKED) AS free
             WHERE claimed.chain = free.chain
             RETURNING claimed.record, claimed.sealed, claimed.epoch, claimed.chain"
        )
    };
}

/// The row stands at the mark of the parameters $17 to $19.
macro_rules! stands {
    () => {
        "lineage = $17 AND generation = $18 AND attempt = $19"
    };
}

/// So it stands, and the lease is of the process $20 and the epoch $21.
macro_rules! ours {
    () => {
        concat!(stands!(), " AND holder = $20 AND epoch = $21")
    };
}

/// The pair of the parameter `$pair` is not known to be spent, of the chain $6.
macro_rules! unspent {
    ($pair:literal) => {
        concat!(
            "NOT EXISTS (SELECT FROM replaced WHERE chain = $6::text AND fingerprint = ",
            $pair,
            "::text)"
        )
    };
}

/// What becomes of the lease of a row that is written.
macro_rules! lease {
    (ends) => {
        "holder = NULL, lease_ms = NULL, wakes_ms = $15::bigint"
    };
    (stays) => {
        concat!("wakes_ms = CASE WHEN lease_ms > ", now_ms!(), " THEN wakes_ms ELSE $15::bigint END")
    };
    // For $22 milliseconds.
    (goes_on) => {
        concat!(
            "lease_ms = ",
            now_ms!(),
            " + $22::bigint, wakes_ms = greatest($15::bigint, ",
            now_ms!(),
            " + $22::bigint)"
        )
    };
}

/// Writes the row of the parameters $6 to $15, with its events and replaced pairs, if `$only_if` holds by the parameters
/// from $17 on. Its health is looked at at once if it shows trouble ($16), or did.
macro_rules! write_row {
    ($lease:ident, $only_if:expr) => {
        add_events!(
            concat!(
                "moved AS (
               UPDATE vault_rows
               SET lineage = $7, generation = $8, attempt = $9, machine = $10, record = $11,
                   sealed = coalesce($12::bytea, sealed), changed = pg_current_xact_id(), ",
                lease!($lease),
                " WHERE chain = $6::text AND ",
                $only_if,
                " RETURNING chain
             ), spent AS (
               INSERT INTO replaced (chain, fingerprint, at_ms)
               SELECT $6::text, fingerprint, at_ms
               FROM unnest($13::text[], $14::bigint[]) AS spent (fingerprint, at_ms)
               WHERE EXISTS (SELECT FROM moved)
               ON CONFLICT DO NOTHING
             ), woken AS (
               UPDATE health_looks SET next_ms = ",
                now_ms!(),
                " WHERE chain = $6::text AND (open OR $16) AND EXISTS (SELECT FROM moved)
                 AND (next_ms IS NULL OR next_ms > ",
                now_ms!(),
                ")
             ), "
            ),
            "WHERE EXISTS (SELECT FROM moved)",
            "SELECT EXISTS (SELECT FROM moved)"
        )
    };
}

fn millis(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::as_millisecond)
}

fn columns_of(mark: Mark) -> [i64; 3] {
    [mark.lineage.0, mark.generation.0, mark.attempt.0].map(signed)
}

fn length_ms(time: Duration) -> i64 {
    signed(time.as_millis())
}

/// The columns that a row is read from.
macro_rules! row_columns {
    () => {
        "record, sealed, epoch, chain"
    };
}

fn row_of(found: &tokio_postgres::Row) -> Result<Row, Fault> {
    let chain: &str = found.try_get(3)?;
    let record: Record = read(format_args!("the row of chain {chain}"), found.try_get(0)?)?;
    let epoch: i64 = found.try_get(2)?;
    Ok(Row { record, sealed: Sealed(found.try_get(1)?), epoch: Epoch(epoch.unsigned_abs()) })
}

/// Those rows that can be read: one that cannot, of a newer version perhaps, must not keep all others waiting.
fn readable(found: &[tokio_postgres::Row]) -> Result<Vec<Row>, Fault> {
    let mut read = Vec::with_capacity(found.len());
    for row in found.iter().map(row_of) {
        match row {
            Ok(row) => read.push(row),
            Err(Fault::Unreadable(what)) => {
                tracing::error!(reason = %Reason::StateUnavailable, what, "a row of the vault cannot be read: nothing is done for its chain");
            }
            Err(fault @ (Fault::Database(_) | Fault::InDoubt(_))) => return Err(fault),
        }
    }
    Ok(read)
}

async fn claim(
    client: &Client,
    query: &str,
    holder: &Holder,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Claim>, Fault> {
    let statement = client.prepare_cached(query).await?;
    let found = client.query(&statement, params).await.map_err(Fault::in_doubt)?;
    let claim = |row| Claim { row, process: holder.process.clone() };
    Ok(readable(&found)?.into_iter().map(claim).collect())
}

/// Writes a row where it stands at `before`; `more`: the parameters from $20 on.
async fn write_at(
    client: &Client,
    query: &str,
    before: Mark,
    next: NextRow<'_>,
    more: &[&(dyn ToSql + Sync)],
) -> Result<bool, Fault> {
    let NextRow { record, sealed, replaced, events, wakes_at } = next;
    let Columns { chains, behind, keys, at_ms, events } = Columns::of(events)?;
    let (chain, lineage) = (record.chain.as_str(), signed(record.lineage.0));
    let (generation, attempt) = (signed(record.generation.0), signed(record.last_attempt.0));
    let machine = record.intent.as_ref().map(|intent| intent.machine.as_str());
    let (json, sealed) = (write(record)?, sealed.map(|sealed| &sealed.0));
    let spent: Vec<_> = replaced.iter().map(|(fingerprint, _)| fingerprint.to_string()).collect();
    let spent_ms: Vec<_> = replaced.iter().map(|(_, at)| at.as_millisecond()).collect();
    let (wakes_ms, troubled) = (millis(wakes_at), shows_trouble(record));
    let stands = columns_of(before);
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![
        &chains,
        &behind,
        &keys,
        &at_ms,
        &events,
        &chain,
        &lineage,
        &generation,
        &attempt,
        &machine,
        &json,
        &sealed,
        &spent,
        &spent_ms,
        &wakes_ms,
        &troubled,
    ];
    params.extend(stands.iter().map(|column| column as &(dyn ToSql + Sync)));
    params.extend(more);
    Ok(change_alone(client, query, &params).await?.is_some_and(|row| row.get(0)))
}

async fn insert(client: &Client, next: NextRow<'_>) -> Result<bool, Fault> {
    let query = add_events!(
        concat!(
            "moved AS (
               INSERT INTO vault_rows (chain, lineage, generation, attempt, epoch, record, sealed, wakes_ms, changed)
               SELECT $6::text, $7::bigint, $8::bigint, $9::bigint, 0, $10::text, $11::bytea, $12::bigint, pg_current_xact_id()
               WHERE ",
            unspent!("$13"),
            " ON CONFLICT DO NOTHING RETURNING chain
             ), looked_at AS (
               INSERT INTO health_looks SELECT chain, 0, FALSE FROM moved ON CONFLICT (chain) DO UPDATE SET next_ms = 0
             ), "
        ),
        "WHERE EXISTS (SELECT FROM moved)",
        "SELECT EXISTS (SELECT FROM moved)"
    );
    let NextRow { record, sealed, events, wakes_at, .. } = next;
    let Some(sealed) = sealed else { return Ok(false) };
    let Columns { chains, behind, keys, at_ms, events } = Columns::of(events)?;
    let (chain, lineage) = (record.chain.as_str(), signed(record.lineage.0));
    let (generation, attempt) = (signed(record.generation.0), signed(record.last_attempt.0));
    let (json, wakes_ms, pair) = (write(record)?, millis(wakes_at), record.pair.fingerprint().to_string());
    let params: &[&(dyn ToSql + Sync)] = &[
        &chains,
        &behind,
        &keys,
        &at_ms,
        &events,
        &chain,
        &lineage,
        &generation,
        &attempt,
        &json,
        &sealed.0,
        &wakes_ms,
        &pair,
    ];
    Ok(change_alone(client, query, params).await?.is_some_and(|row| row.get(0)))
}

async fn insert_many(client: &Client, new: &[NewRow]) -> Result<u64, Fault> {
    let query = "WITH made AS (
           INSERT INTO vault_rows (chain, lineage, generation, attempt, epoch, record, sealed, wakes_ms, changed)
           SELECT chain, lineage, generation, attempt, 0, record, sealed, wakes_ms, pg_current_xact_id()
           FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::bytea[], $7::bigint[])
             AS new (chain, lineage, generation, attempt, record, sealed, wakes_ms)
           ON CONFLICT DO NOTHING RETURNING chain, wakes_ms
         ), looked_at AS (
           INSERT INTO health_looks SELECT chain, coalesce(wakes_ms, 0), FALSE FROM made ON CONFLICT DO NOTHING
         ) SELECT count(*) FROM made";
    let column = |of: fn(&Record) -> u64| new.iter().map(|new| signed(of(&new.record))).collect::<Vec<_>>();
    let chains: Vec<_> = new.iter().map(|new| new.record.chain.as_str()).collect();
    let lineages = column(|record| record.lineage.0);
    let generations = column(|record| record.generation.0);
    let attempts = column(|record| record.last_attempt.0);
    let records = new.iter().map(|new| write(&new.record)).collect::<Result<Vec<_>, _>>()?;
    let sealed: Vec<_> = new.iter().map(|new| &new.sealed.0).collect();
    let wakes: Vec<_> = new.iter().map(|new| millis(new.wakes_at)).collect();
    let params: &[&(dyn ToSql + Sync)] =
        &[&chains, &lineages, &generations, &attempts, &records, &sealed, &wakes];
    let made: i64 = change_alone(client, query, params).await?.map_or(0, |row| row.get(0));
    Ok(made.unsigned_abs())
}

async fn one(client: &Client, chain: &ChainName) -> Result<Option<Row>, Fault> {
    let query = concat!("SELECT ", row_columns!(), " FROM vault_rows WHERE chain = $1");
    row(client, query, &[&chain.as_str()]).await?.as_ref().map(row_of).transpose()
}

/// Lets the health of the chain $1 be looked at now.
pub(super) const WAKE_HEALTH: &str = concat!(
    "UPDATE health_looks SET next_ms = ",
    now_ms!(),
    " WHERE chain = $1 AND (next_ms IS NULL OR next_ms > ",
    now_ms!(),
    ")"
);

async fn claim_health(client: &Client, lease: Duration, most: usize) -> Result<Vec<HealthClaim>, Fault> {
    let query = concat!(
        "UPDATE health_looks AS claimed SET next_ms = ",
        now_ms!(),
        " + $1, open = TRUE
         FROM (SELECT chain FROM health_looks WHERE next_ms <= ",
        now_ms!(),
        " ORDER BY next_ms LIMIT $2 FOR UPDATE SKIP LOCKED) AS due
         WHERE claimed.chain = due.chain RETURNING claimed.chain, claimed.next_ms"
    );
    let statement = client.prepare_cached(query).await?;
    let params: [&(dyn ToSql + Sync); 2] = [&length_ms(lease), &signed(most)];
    let claimed = client.query(&statement, &params).await.map_err(Fault::in_doubt)?;
    let Some(until) = claimed.first().map(|row| row.try_get(1)).transpose()? else { return Ok(Vec::new()) };
    let chains = claimed.iter().map(|row| row.try_get(0)).collect::<Result<Vec<&str>, _>>()?;
    // A statement of its own: rows that were written while the claim was made are read as they are now.
    let query = concat!("SELECT ", row_columns!(), " FROM vault_rows WHERE chain = ANY ($1)");
    let found = rows(client, query, &[&chains]).await?;
    let there = found.iter().map(|row| row.try_get(3)).collect::<Result<BTreeSet<&str>, _>>()?;
    let lost = chains.iter().filter(|chain| !there.contains(*chain)).map(|chain| Ok((name_of(chain)?, None)));
    let lost = lost.collect::<Result<Vec<_>, Fault>>()?;
    let rows = readable(&found)?.into_iter().map(|row| (row.record.chain.clone(), Some(row)));
    let claim = |(chain, row)| HealthClaim { chain, row, until: instant(until) };
    Ok(rows.chain(lost).map(claim).collect())
}

async fn settle_health(client: &Client, looked: &[HealthLooked]) -> Result<(), Fault> {
    let query = "UPDATE health_looks AS known SET next_ms = looked.next_ms, open = looked.open
         FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bool[]) AS looked (chain, until_ms, next_ms, open)
         WHERE known.chain = looked.chain AND known.next_ms = looked.until_ms";
    let chains: Vec<_> = looked.iter().map(|one| one.chain.as_str()).collect();
    let until_ms: Vec<_> = looked.iter().map(|one| one.until.as_millisecond()).collect();
    let next_ms: Vec<_> = looked.iter().map(|one| millis(one.next_at)).collect();
    let open: Vec<_> = looked.iter().map(|one| one.open).collect();
    change_alone(client, query, &[&chains, &until_ms, &next_ms, &open]).await?;
    Ok(())
}

async fn events_since(client: &Client, chains: &[ChainName], since: Timestamp) -> Result<Vec<Event>, Fault> {
    let query = "SELECT latest.event FROM unnest($1::text[]) AS asked (chain), LATERAL (
           SELECT seq, at_ms, event FROM events WHERE chain = asked.chain ORDER BY seq DESC LIMIT $3) AS latest
         WHERE latest.at_ms >= $2 ORDER BY asked.chain, latest.seq";
    let chains: Vec<_> = chains.iter().map(ChainName::as_str).collect();
    let found = rows(client, query, &[&chains, &since.as_millisecond(), &signed(LATEST)]).await?;
    found.iter().map(|row| read("an event", row.try_get(0)?)).collect()
}

async fn changes(client: &Client, cursor: Option<ChangesCursor>, most: usize) -> Result<Changes, Fault> {
    // Read first: whatever ends meanwhile is told again the next time.
    let query = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
                        pg_snapshot_xmax(pg_current_snapshot())::text::bigint";
    let snapshot = the_row(client, query, &[]).await?;
    let (oldest, next): (i64, i64) = (snapshot.try_get(0)?, snapshot.try_get(1)?);
    let newest = ChangesCursor(oldest.unsigned_abs());
    let Some(cursor) = cursor.filter(|cursor| cursor.0 <= next.unsigned_abs()) else {
        return Ok(Changes { cursor: newest, begins_anew: cursor.is_some(), ..Changes::default() });
    };
    // A copy of another database holds transactions of the future: they are no news.
    let query = "SELECT chain, lineage, generation, attempt, changed::text::bigint FROM vault_rows
                 WHERE changed >= $1::text::xid8 AND changed < pg_snapshot_xmax(pg_current_snapshot())
                 ORDER BY changed LIMIT $2";
    let found = rows(client, query, &[&cursor.0.to_string(), &signed(most + 1)]).await?;
    let more = found.len() > most;
    let mut changes = Changes { cursor: newest, more, ..Changes::default() };
    for found in found.iter().take(most) {
        let number = |index| found.try_get::<_, i64>(index).map(i64::unsigned_abs);
        let chain = name_of(found.try_get(0)?)?;
        let mark = Mark {
            lineage: Lineage(number(1)?),
            generation: Generation(number(2)?),
            attempt: AttemptId(number(3)?),
        };
        changes.rows.push((chain, mark));
        if more {
            changes.cursor = ChangesCursor(number(4)?);
        }
    }
    Ok(changes)
}

async fn incarnation(client: &Client, hold: Duration) -> Result<Incarnation, Fault> {
    // Who asks at the same moment may not see yet that intents are held; no intent is taken all the same.
    let query = concat!(
        "WITH this AS (SELECT this_incarnation() AS id, ",
        now_ms!(),
        " AS ms), begun AS (
           UPDATE incarnation SET id = this.id, until_ms = ms + $1::bigint FROM this
           WHERE incarnation.id <> this.id RETURNING incarnation.until_ms
         )
         SELECT this.id, coalesce((SELECT until_ms FROM begun), incarnation.until_ms) - ms FROM this, incarnation"
    );
    let Some(found) = change_alone(client, query, &[&length_ms(hold)]).await? else {
        return Err(Fault::Unreadable("the table `incarnation` is empty".into()));
    };
    let left: i64 = found.try_get(1)?;
    let held = u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis);
    Ok(Incarnation { id: found.try_get(0)?, held })
}

async fn behind(client: &Client, marks: &[(ChainName, Mark)]) -> Result<Vec<ChainName>, Fault> {
    let query = "SELECT known.chain
         FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
           AS known (chain, lineage, generation, attempt)
         JOIN vault_rows AS stands ON stands.chain = known.chain
         WHERE (known.lineage, known.generation, known.attempt)
             > (stands.lineage, stands.generation, stands.attempt)";
    let column = |of: fn(&Mark) -> u64| marks.iter().map(|(_, mark)| signed(of(mark))).collect::<Vec<_>>();
    let chains: Vec<_> = marks.iter().map(|(chain, _)| chain.as_str()).collect();
    let lineages = column(|mark| mark.lineage.0);
    let generations = column(|mark| mark.generation.0);
    let attempts = column(|mark| mark.attempt.0);
    let found = rows(client, query, &[&chains, &lineages, &generations, &attempts]).await?;
    found.iter().map(|row| name_of(row.try_get(0)?)).collect()
}

async fn miss(client: &Client, chains: &[ChainName]) -> Result<Vec<ChainName>, Fault> {
    let query =
        "INSERT INTO health_looks SELECT known.chain, 0, FALSE FROM unnest($1::text[]) AS known (chain)
         WHERE NOT EXISTS (SELECT FROM vault_rows AS stands WHERE stands.chain = known.chain)
           AND NOT EXISTS (SELECT FROM chain_seqs AS told WHERE told.chain = known.chain)
         ON CONFLICT DO NOTHING RETURNING chain";
    let chains: Vec<_> = chains.iter().map(ChainName::as_str).collect();
    let statement = client.prepare_cached(query).await?;
    let missed = client.query(&statement, &[&chains]).await.map_err(Fault::in_doubt)?;
    missed.iter().map(|row| name_of(row.try_get(0)?)).collect()
}

fn name_of(found: &str) -> Result<ChainName, Fault> {
    found.parse().map_err(|error| Fault::Unreadable(format!("a row of the vault: {error}")))
}

impl VaultState for PostgresState {
    async fn claim_due(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<Claim>, StateError> {
        let query = claim_rows!(concat!("wakes_ms <= ", now_ms!(), " ORDER BY wakes_ms LIMIT $3"));
        run!(self, Repeat::Wrong, |client| claim(
            client,
            query,
            holder,
            &[&holder.process, &length_ms(lease), &signed(most)]
        ))
    }

    async fn claim_left_open(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<Claim>, StateError> {
        let query = claim_rows!("machine = $3 LIMIT $4");
        run!(self, Repeat::Wrong, |client| claim(
            client,
            query,
            holder,
            &[&holder.process, &length_ms(lease), &holder.machine, &signed(most)]
        ))
    }

    async fn claim(
        &self,
        chain: &ChainName,
        holder: &Holder,
        lease: Duration,
    ) -> Result<Claimed, StateError> {
        let query = claim_rows!("chain = $3");
        let claimed: Result<Vec<Claim>, StateError> = run!(self, Repeat::Wrong, |client| claim(
            client,
            query,
            holder,
            &[&holder.process, &length_ms(lease), &chain.as_str()]
        ));
        Ok(match (claimed?.pop(), self.row(chain)) {
            (Some(claim), _) => Claimed::Ours(Box::new(claim)),
            (None, row) => row.await?.map_or(Claimed::Unknown, |row| Claimed::Held(Box::new(row))),
        })
    }

    async fn begin_rotation(
        &self,
        claim: &Claim,
        next: NextRow<'_>,
        lease: Duration,
    ) -> Result<bool, StateError> {
        let query = write_row!(
            goes_on,
            concat!(
                ours!(),
                " AND EXISTS (SELECT FROM incarnation WHERE id = this_incarnation() AND until_ms <= ",
                now_ms!(),
                ")"
            )
        );
        let (before, epoch) = (claim.row.record.mark(), signed(claim.row.epoch.0));
        let lease_ms = length_ms(lease);
        let more: &[&(dyn ToSql + Sync)] = &[&claim.process, &epoch, &lease_ms];
        run!(self, Repeat::Wrong, |client| write_at(client, query, before, next, more))
    }

    async fn settle_rotation(&self, before: Mark, next: NextRow<'_>) -> Result<bool, StateError> {
        let query = write_row!(ends, stands!());
        run!(self, Repeat::Wrong, |client| write_at(client, query, before, next, &[]))
    }

    async fn doubt_rotation(&self, claim: &Claim, next: NextRow<'_>) -> Result<bool, StateError> {
        let query = write_row!(ends, ours!());
        let (before, epoch) = (claim.row.record.mark(), signed(claim.row.epoch.0));
        run!(self, Repeat::Wrong, |client| write_at(client, query, before, next, &[&claim.process, &epoch]))
    }

    async fn release(&self, claim: &Claim, wakes_at: Option<Timestamp>) -> Result<(), StateError> {
        let query = concat!(
            "UPDATE vault_rows SET holder = NULL, lease_ms = NULL, wakes_ms = CASE
               WHEN lineage <> $5 OR generation <> $6 OR attempt <> $7 THEN ",
            now_ms!(),
            " WHEN $4::bigint < ",
            now_ms!(),
            " + $8 THEN ",
            now_ms!(),
            " + $8 ELSE $4 END WHERE chain = $1 AND holder = $2 AND epoch = $3"
        );
        let [lineage, generation, attempt] = columns_of(claim.row.record.mark());
        let (chain, epoch) = (claim.row.record.chain.as_str(), signed(claim.row.epoch.0));
        let wakes_ms = millis(wakes_at);
        let released: Result<_, StateError> = run!(self, Repeat::Fine, |client| change_alone(
            client,
            query,
            &[
                &chain,
                &claim.process,
                &epoch,
                &wakes_ms,
                &lineage,
                &generation,
                &attempt,
                &length_ms(RELEASED)
            ]
        ));
        released.map(|_| ())
    }

    async fn take_in(&self, before: Option<Mark>, next: NextRow<'_>) -> Result<bool, StateError> {
        match before {
            Some(before) => {
                let query = write_row!(stays, concat!(stands!(), " AND ", unspent!("$20")));
                let pair = next.record.pair.fingerprint().to_string();
                run!(self, Repeat::Wrong, |client| write_at(client, query, before, next, &[&pair]))
            }
            None => run!(self, Repeat::Wrong, |client| insert(client, next)),
        }
    }

    async fn take_in_new(&self, rows: &[NewRow]) -> Result<u64, StateError> {
        let mut made = 0;
        for rows in rows.chunks(crate::vault::MOST_AT_ONCE) {
            let more: Result<u64, StateError> = run!(self, Repeat::Wrong, |client| insert_many(client, rows));
            made += more?;
        }
        Ok(made)
    }

    async fn add_replaced(
        &self,
        chain: &ChainName,
        spent: Fingerprint,
        at: Timestamp,
    ) -> Result<(), StateError> {
        let query =
            "INSERT INTO replaced (chain, fingerprint, at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        let (chain, spent, at_ms) = (chain.as_str(), spent.to_string(), at.as_millisecond());
        let added: Result<_, StateError> =
            run!(self, Repeat::Fine, |client| change_alone(client, query, &[&chain, &spent, &at_ms]));
        added.map(|_| ())
    }

    async fn row(&self, chain: &ChainName) -> Result<Option<Row>, StateError> {
        run!(self, Repeat::Fine, |client| one(client, chain))
    }

    async fn rows_after(&self, after: Option<&ChainName>, most: usize) -> Result<Vec<Row>, StateError> {
        let query =
            concat!("SELECT ", row_columns!(), " FROM vault_rows WHERE chain > $1 ORDER BY chain LIMIT $2");
        let after = after.map_or("", ChainName::as_str);
        let found: Result<Vec<_>, StateError> =
            run!(self, Repeat::Fine, |client| rows(client, query, &[&after, &signed(most)]));
        let read = found?.iter().map(row_of).collect::<Result<_, _>>();
        read.map_err(|fault: Fault| fault.at(&self.place))
    }

    async fn reseal(&self, chain: &ChainName, old: &Sealed, new: &Sealed) -> Result<bool, StateError> {
        let query = "UPDATE vault_rows SET sealed = $3 WHERE chain = $1 AND sealed = $2 RETURNING chain";
        let done: Result<Option<_>, StateError> = run!(self, Repeat::Wrong, |client| change_alone(
            client,
            query,
            &[&chain.as_str(), &old.0, &new.0]
        ));
        Ok(done?.is_some())
    }

    async fn claim_health(&self, lease: Duration, most: usize) -> Result<Vec<HealthClaim>, StateError> {
        run!(self, Repeat::Wrong, |client| claim_health(client, lease, most))
    }

    async fn settle_health(&self, looked: &[HealthLooked]) -> Result<(), StateError> {
        run!(self, Repeat::Fine, |client| settle_health(client, looked))
    }

    async fn wake_health(&self, chain: &ChainName) -> Result<(), StateError> {
        let woken: Result<_, StateError> =
            run!(self, Repeat::Fine, |client| change_alone(client, WAKE_HEALTH, &[&chain.as_str()]));
        woken.map(|_| ())
    }

    async fn events_since(&self, chains: &[ChainName], since: Timestamp) -> Result<Vec<Event>, StateError> {
        run!(self, Repeat::Fine, |client| events_since(client, chains, since))
    }

    async fn changes(&self, cursor: Option<ChangesCursor>, most: usize) -> Result<Changes, StateError> {
        run!(self, Repeat::Fine, |client| changes(client, cursor, most))
    }

    async fn incarnation(&self, hold: Duration) -> Result<Incarnation, StateError> {
        run!(self, Repeat::Fine, |client| incarnation(client, hold))
    }

    async fn hold_on(&self, hold: Duration) -> Result<(), StateError> {
        let query =
            concat!("UPDATE incarnation SET until_ms = greatest(until_ms, ", now_ms!(), " + $1::bigint)");
        let held: Result<_, StateError> =
            run!(self, Repeat::Fine, |client| change_alone(client, query, &[&length_ms(hold)]));
        held.map(|_| ())
    }

    async fn behind(&self, marks: &[(ChainName, Mark)]) -> Result<Vec<ChainName>, StateError> {
        run!(self, Repeat::Fine, |client| behind(client, marks))
    }

    async fn miss(&self, chains: &[ChainName]) -> Result<Vec<ChainName>, StateError> {
        run!(self, Repeat::Wrong, |client| miss(client, chains))
    }
}
