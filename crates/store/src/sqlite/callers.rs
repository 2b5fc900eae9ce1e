//! Callers, the audit of their changes, and what the fallback key served (SPEC §7, §13), in SQL.

use evergrant_core::ChainName;
use evergrant_core::audit::{Act, Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{Fault, signed};

pub(super) fn begin(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

pub(super) fn read<T: serde::de::DeserializeOwned>(
    what: impl std::fmt::Display,
    json: &str,
) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|error| Fault::Unreadable(format!("{what}: {error}")))
}

pub(super) fn write(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Unreadable(error.to_string()))
}

pub(super) fn audit(connection: &Connection, entry: &AuditEntry) -> Result<(), Fault> {
    let mut insert = connection.prepare_cached("INSERT INTO audit (at_ms, entry) VALUES (?1, ?2)")?;
    insert.execute(params![entry.at.as_millisecond(), write(entry)?])?;
    Ok(())
}

fn insert(connection: &Connection, caller: &Caller) -> Result<bool, Fault> {
    let query = "INSERT OR IGNORE INTO callers (id, hash, created_ms, caller) VALUES (?1, ?2, ?3, ?4)";
    let created_ms = caller.created_at.as_millisecond();
    let row = params![caller.id.to_string(), caller.hash.to_string(), created_ms, write(caller)?];
    Ok(connection.execute(query, row)? == 1)
}

fn update(connection: &Connection, caller: &Caller) -> Result<(), Fault> {
    let query = "UPDATE callers SET caller = ?2 WHERE id = ?1";
    connection.execute(query, params![caller.id.to_string(), write(caller)?])?;
    Ok(())
}

fn one(connection: &Connection, id: &KeyId) -> Result<Option<Caller>, Fault> {
    let query = "SELECT caller FROM callers WHERE id = ?1";
    let json: Option<String> = connection.query_row(query, [id.to_string()], |row| row.get(0)).optional()?;
    json.map(|json| read(id, &json)).transpose()
}

pub(super) fn add(connection: &mut Connection, caller: &Caller, who: &Actor) -> Result<bool, Fault> {
    let transaction = begin(connection)?;
    if !insert(&transaction, caller)? {
        return Ok(false);
    }
    let entry = AuditEntry {
        at: caller.created_at,
        who: who.clone(),
        what: Act::KeyCreated,
        to: caller.id.to_string(),
    };
    audit(&transaction, &entry)?;
    transaction.commit()?;
    Ok(true)
}

pub(super) fn all(connection: &Connection) -> Result<Vec<Caller>, Fault> {
    let query = "SELECT id, caller FROM callers ORDER BY created_ms, id";
    let mut select = connection.prepare_cached(query)?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| row.map_err(Fault::from).and_then(|(id, json)| read(id, &json))).collect()
}

pub(super) fn revoke(
    connection: &mut Connection,
    id: &KeyId,
    at: Timestamp,
    who: &Actor,
) -> Result<Option<Caller>, Fault> {
    let transaction = begin(connection)?;
    let Some(mut caller) = one(&transaction, id)? else { return Ok(None) };
    if caller.revoked_at.is_none() {
        caller.revoked_at = Some(at);
        update(&transaction, &caller)?;
        audit(&transaction, &AuditEntry { at, who: who.clone(), what: Act::KeyRevoked, to: id.to_string() })?;
        transaction.commit()?;
    }
    Ok(Some(caller))
}

pub(super) fn replace(
    connection: &mut Connection,
    old: &Caller,
    new: &Caller,
    who: &Actor,
) -> Result<bool, Fault> {
    let transaction = begin(connection)?;
    let open = one(&transaction, &old.id)?
        .is_some_and(|stored| stored.revoked_at.is_none() && stored.replaced_by.is_none());
    if !open || !insert(&transaction, new)? {
        return Ok(false);
    }
    update(&transaction, old)?;
    let entry =
        AuditEntry { at: new.created_at, who: who.clone(), what: Act::KeyRotated, to: old.id.to_string() };
    audit(&transaction, &entry)?;
    transaction.commit()?;
    Ok(true)
}

pub(super) fn version(connection: &Connection) -> Result<i64, Fault> {
    let mut select = connection.prepare_cached("SELECT version FROM callers_version")?;
    Ok(select.query_row([], |row| row.get(0))?)
}

pub(super) fn audited(connection: &Connection, most: usize) -> Result<Vec<AuditEntry>, Fault> {
    let mut select = connection.prepare_cached("SELECT seq, entry FROM audit ORDER BY seq DESC LIMIT ?1")?;
    let rows =
        select.query_map([signed(most)], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let parse = |(seq, json): (i64, String)| read(format_args!("audit {seq}"), &json);
    rows.map(|row| row.map_err(Fault::from).and_then(parse)).collect()
}

pub(super) fn add_fallback_uses(
    connection: &Connection,
    chain: &ChainName,
    day: i32,
    uses: u64,
) -> Result<u64, Fault> {
    let read = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
    let total = if uses == 0 {
        let query = "SELECT uses FROM fallback_uses WHERE chain = ?1 AND day = ?2";
        connection.query_row(query, params![chain.as_str(), day], read).optional()?.unwrap_or(0)
    } else {
        let query = "INSERT INTO fallback_uses (chain, day, uses) VALUES (?1, ?2, ?3)
                     ON CONFLICT (chain, day) DO UPDATE SET uses = uses + ?3 RETURNING uses";
        connection.query_row(query, params![chain.as_str(), day, signed(uses)], read)?
    };
    Ok(u64::try_from(total).unwrap_or(0))
}

/// Forgets audit entries before an instant, and fallback uses before the day of another.
pub(super) fn prune(
    connection: &Connection,
    audit_before: Timestamp,
    fallback_before_day: i32,
) -> Result<usize, Fault> {
    let audit = connection.execute("DELETE FROM audit WHERE at_ms < ?1", [audit_before.as_millisecond()])?;
    let uses = connection.execute("DELETE FROM fallback_uses WHERE day < ?1", [fallback_before_day])?;
    Ok(audit + uses)
}
