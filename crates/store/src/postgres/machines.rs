//! Which instance goes by the name of a machine: copies of one disk, of which each takes itself for the machine that
//! wrote an intent, must not run at once (SPEC §4, "In doubt").

use std::time::Duration;

use deadpool_postgres::Client;

use super::PostgresState;
use super::fault::Fault;
use super::session::{Repeat, change_alone, run, signed};
use crate::state::StateError;

/// The name of a machine is another instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameTaken {
    /// How often that one has said that it lives: it does if this grows.
    pub beats: u64,
    /// Until then it has the name, if it says nothing more.
    pub left: Duration,
}

async fn hold(
    client: &Client,
    machine: &str,
    instance: &str,
    lease: Duration,
) -> Result<Option<NameTaken>, Fault> {
    let query = "WITH now AS (SELECT (extract(epoch FROM now()) * 1000)::bigint AS ms), held AS (
           INSERT INTO machines (machine, instance, beats, until_ms) SELECT $1, $2, 1, ms + $3 FROM now
           ON CONFLICT (machine) DO UPDATE
             SET instance = $2, beats = machines.beats + 1, until_ms = excluded.until_ms
             WHERE machines.instance = $2 OR machines.until_ms <= (SELECT ms FROM now)
           RETURNING machine
         )
         SELECT EXISTS (SELECT FROM held), beats, until_ms - ms FROM now LEFT JOIN machines ON machine = $1";
    let length = signed(lease.as_millis());
    let Some(row) = change_alone(client, query, &[&machine, &instance, &length]).await? else {
        return Ok(None);
    };
    let (held, beats, left): (bool, Option<i64>, Option<i64>) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    // Nothing is seen of one that took the name in this very moment.
    let left = left.map_or(lease, |left| Duration::from_millis(left.max(0).unsigned_abs()));
    Ok((!held).then_some(NameTaken { beats: beats.unwrap_or(0).unsigned_abs(), left }))
}

impl PostgresState {
    /// Takes the name of a machine for an instance, or keeps it, for so long from now. Gives whose it is if it is another's.
    pub async fn hold_machine(
        &self,
        machine: &str,
        instance: &str,
        lease: Duration,
    ) -> Result<Option<NameTaken>, StateError> {
        run!(self, Repeat::Fine, |client| hold(client, machine, instance, lease))
    }
}
