//! Callers, the audit of their changes, and what the fallback key served (SPEC §7, §13), in SQL.

use deadpool_postgres::{Client, GenericClient, Transaction};
use evergrant_core::ChainName;
use evergrant_core::audit::{Act, Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use jiff::Timestamp;

use super::fault::Fault;
use super::session::{begin, change, change_alone, commit, row, rows, signed, the_row};

pub(super) fn read<T: serde::de::DeserializeOwned>(
    what: impl std::fmt::Display,
    json: &str,
) -> Result<T, Fault> {
    serde_json::from_str(json).map_err(|error| Fault::Unreadable(format!("{what}: {error}")))
}

pub(super) fn write(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Unreadable(error.to_string()))
}

const AUDIT: &str = "INSERT INTO audit (at_ms, entry) VALUES ($1, $2)";

pub(super) async fn audit(transaction: &Transaction<'_>, entry: &AuditEntry) -> Result<(), Fault> {
    change(transaction, AUDIT, &[&entry.at.as_millisecond(), &write(entry)?]).await?;
    Ok(())
}

pub(super) async fn audit_alone(client: &Client, entry: &AuditEntry) -> Result<(), Fault> {
    change_alone(client, AUDIT, &[&entry.at.as_millisecond(), &write(entry)?]).await?;
    Ok(())
}

async fn insert(transaction: &Transaction<'_>, caller: &Caller) -> Result<bool, Fault> {
    let query = "INSERT INTO callers (id, hash, created_ms, caller) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING";
    let (id, hash) = (caller.id.to_string(), caller.hash.to_string());
    let created_ms = caller.created_at.as_millisecond();
    Ok(change(transaction, query, &[&id, &hash, &created_ms, &write(caller)?]).await? == 1)
}

async fn update(transaction: &Transaction<'_>, caller: &Caller) -> Result<(), Fault> {
    let query = "UPDATE callers SET caller = $2 WHERE id = $1";
    change(transaction, query, &[&caller.id.to_string(), &write(caller)?]).await?;
    Ok(())
}

/// One caller, which nobody else changes until the transaction ends.
async fn one(transaction: &Transaction<'_>, id: &KeyId) -> Result<Option<Caller>, Fault> {
    let query = "SELECT caller FROM callers WHERE id = $1 FOR UPDATE";
    let found = row(transaction, query, &[&id.to_string()]).await?;
    found.map(|row| read(id, row.try_get(0)?)).transpose()
}

pub(super) async fn add(client: &mut Client, caller: &Caller, who: &Actor) -> Result<bool, Fault> {
    let transaction = begin(client).await?;
    if !insert(&transaction, caller).await? {
        return Ok(false);
    }
    let (what, to) = (Act::KeyCreated, caller.id.to_string());
    audit(&transaction, &AuditEntry { at: caller.created_at, who: who.clone(), what, to }).await?;
    commit(transaction).await?;
    Ok(true)
}

pub(super) async fn all(client: &impl GenericClient) -> Result<Vec<Caller>, Fault> {
    let query = "SELECT id, caller FROM callers ORDER BY created_ms, id";
    let found = rows(client, query, &[]).await?;
    found.iter().map(|row| read(row.try_get::<_, &str>(0)?, row.try_get(1)?)).collect()
}

pub(super) async fn revoke(
    client: &mut Client,
    id: &KeyId,
    at: Timestamp,
    who: &Actor,
) -> Result<Option<Caller>, Fault> {
    let transaction = begin(client).await?;
    let Some(mut caller) = one(&transaction, id).await? else { return Ok(None) };
    if caller.revoked_at.is_none() {
        caller.revoked_at = Some(at);
        update(&transaction, &caller).await?;
        let (what, to) = (Act::KeyRevoked, id.to_string());
        audit(&transaction, &AuditEntry { at, who: who.clone(), what, to }).await?;
        commit(transaction).await?;
    }
    Ok(Some(caller))
}

pub(super) async fn replace(
    client: &mut Client,
    old: &Caller,
    new: &Caller,
    who: &Actor,
) -> Result<bool, Fault> {
    let transaction = begin(client).await?;
    let open = one(&transaction, &old.id)
        .await?
        .is_some_and(|stored| stored.revoked_at.is_none() && stored.replaced_by.is_none());
    if !open || !insert(&transaction, new).await? {
        return Ok(false);
    }
    update(&transaction, old).await?;
    let (what, to) = (Act::KeyRotated, old.id.to_string());
    audit(&transaction, &AuditEntry { at: new.created_at, who: who.clone(), what, to }).await?;
    commit(transaction).await?;
    Ok(true)
}

pub(super) async fn version(client: &impl GenericClient) -> Result<i64, Fault> {
    Ok(the_row(client, "SELECT version FROM callers_version", &[]).await?.try_get(0)?)
}

pub(super) async fn audited(client: &impl GenericClient, most: usize) -> Result<Vec<AuditEntry>, Fault> {
    let query = "SELECT seq, entry FROM audit ORDER BY seq DESC LIMIT $1";
    let found = rows(client, query, &[&signed(most)]).await?;
    let parse = |row: &tokio_postgres::Row| {
        let seq: i64 = row.try_get(0)?;
        read(format_args!("audit {seq}"), row.try_get(1)?)
    };
    found.iter().map(parse).collect()
}

pub(super) async fn add_fallback_uses(
    client: &Client,
    chain: &ChainName,
    day: i32,
    uses: u64,
) -> Result<u64, Fault> {
    let found = if uses == 0 {
        let query = "SELECT uses FROM fallback_uses WHERE chain = $1 AND day = $2";
        row(client, query, &[&chain.as_str(), &day]).await?
    } else {
        let query = "INSERT INTO fallback_uses AS known (chain, day, uses) VALUES ($1, $2, $3)
                     ON CONFLICT (chain, day) DO UPDATE SET uses = known.uses + excluded.uses RETURNING uses";
        change_alone(client, query, &[&chain.as_str(), &day, &signed(uses)]).await?
    };
    let total: i64 = found.map(|row| row.try_get(0)).transpose()?.unwrap_or(0);
    Ok(u64::try_from(total).unwrap_or(0))
}
