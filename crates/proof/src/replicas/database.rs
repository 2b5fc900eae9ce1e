//! The database as one machine reaches it: it may be cut off, away, slow, lose what it is told or the acknowledgement of
//! it, and it may be an older copy of itself from one moment to the next.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::{Mark, Record};
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use evergrant_store::MemoryState;
use evergrant_store::seal::Sealed;
use evergrant_store::state::{Numbered, State, StateError};
use evergrant_store::vault::{
    Changes, ChangesCursor, Claim, Claimed, HealthClaim, HealthLooked, Holder, Incarnation, NewRow, NextRow,
    Row, VaultState,
};
use jiff::Timestamp;
use rand::RngExt;

use super::Lie;
use super::provider::Outside;
use crate::sim::executor::Executor;
use crate::sim::world::lock;

/// The one database of a world.
pub(super) struct Server {
    pub(super) tables: MemoryState,
    /// Nobody reaches it.
    pub(super) away: bool,
    /// These machines do not.
    pub(super) cut_off: Vec<bool>,
    /// Thousandths of all calls that do not arrive, and as many whose acknowledgement is lost.
    pub(super) flaky: u16,
}

/// The way of one machine to it.
#[derive(Clone)]
pub(super) struct Database {
    pub(super) server: Arc<Mutex<Server>>,
    pub(super) outside: Arc<Mutex<Outside>>,
    pub(super) executor: Executor,
    pub(super) machine: usize,
    pub(super) lie: Option<Lie>,
}

impl Database {
    async fn latency(&self) {
        let millis = lock(&self.outside).rng.random_range(1..20);
        self.executor.sleep(Duration::from_millis(millis)).await;
    }

    /// Gets through, or not.
    async fn arrive(&self) -> Result<MemoryState, StateError> {
        self.latency().await;
        let reached = {
            let server = lock(&self.server);
            let mut outside = lock(&self.outside);
            let lost = outside.rng.random_range(0..1_000) < server.flaky;
            if lost {
                outside.count("write that did not arrive");
            }
            let reached = !server.away && !server.cut_off[self.machine] && !lost;
            reached.then(|| server.tables.clone())
        };
        match reached {
            Some(tables) => Ok(tables),
            None => {
                self.executor.sleep(Duration::from_secs(5)).await;
                Err(StateError::Closed)
            }
        }
    }

    async fn acknowledged<T>(&self, done: Result<T, StateError>) -> Result<T, StateError> {
        self.latency().await;
        let lost = {
            let server = lock(&self.server);
            let mut outside = lock(&self.outside);
            let lost = outside.rng.random_range(0..1_000) < server.flaky;
            if lost {
                outside.count("lost acknowledgement");
            }
            lost || server.away || server.cut_off[self.machine]
        };
        if lost { Err(StateError::Closed) } else { done }
    }

    fn held(&self, hold: Duration) -> Duration {
        if self.lie == Some(Lie::NobodyHeld) { Duration::ZERO } else { hold }
    }

    /// Something was written: the reference learns of it at once.
    async fn wrote(&self, tables: &MemoryState, chain: &ChainName) {
        if let Ok(Some(row)) = tables.row(chain).await {
            let now = self.executor.now();
            let mut outside = lock(&self.outside);
            let (lineage, generation) = row.record.position();
            let what = format!(
                "{chain} {lineage}.{generation} attempt {} {:?} intent {} until {} by machine {}",
                row.record.last_attempt,
                row.record.standing,
                row.record.intent.is_some(),
                row.record.expires_at,
                self.machine
            );
            outside.say(now, what);
            let held = outside.reference.recorded(&row.record, self.machine);
            outside.judge(now, held);
        }
    }

    /// Does something, and loses the acknowledgement at times.
    async fn call<T>(
        &self,
        work: impl AsyncFnOnce(&MemoryState) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let tables = self.arrive().await?;
        let done = work(&tables).await;
        self.acknowledged(done).await
    }

    async fn write(
        &self,
        chain: &ChainName,
        work: impl AsyncFnOnce(&MemoryState) -> Result<bool, StateError>,
    ) -> Result<bool, StateError> {
        let tables = self.arrive().await?;
        let done = work(&tables).await;
        if matches!(done, Ok(true)) {
            self.wrote(&tables, chain).await;
        }
        self.acknowledged(done).await
    }
}

impl State for Database {
    async fn record(&self, chain: &ChainName) -> Result<Option<Record>, StateError> {
        self.arrive().await?.record(chain).await
    }
    async fn bring_up(
        &self,
        record: &Record,
        replaced: Option<(Fingerprint, Timestamp)>,
        events: &[Event],
    ) -> Result<bool, StateError> {
        self.arrive().await?.bring_up(record, replaced, events).await
    }
    async fn add_events(&self, _events: &[Event]) -> Result<(), StateError> {
        // The ledger of centuries would fill the memory.
        Ok(())
    }
    async fn events(&self, chain: &ChainName, after: u64, most: usize) -> Result<Vec<Numbered>, StateError> {
        self.arrive().await?.events(chain, after, most).await
    }
    async fn latest_events(&self, chain: &ChainName, most: usize) -> Result<Vec<Numbered>, StateError> {
        self.arrive().await?.latest_events(chain, most).await
    }
    async fn was_replaced(&self, chain: &ChainName, fingerprint: Fingerprint) -> Result<bool, StateError> {
        self.arrive().await?.was_replaced(chain, fingerprint).await
    }
    async fn prune(&self, events_before: Timestamp, replaced_before: Timestamp) -> Result<u64, StateError> {
        self.arrive().await?.prune(events_before, replaced_before).await
    }
    async fn add_caller(&self, caller: &Caller, who: &Actor) -> Result<bool, StateError> {
        self.arrive().await?.add_caller(caller, who).await
    }
    async fn callers(&self) -> Result<Vec<Caller>, StateError> {
        self.arrive().await?.callers().await
    }
    async fn revoke_caller(
        &self,
        id: &KeyId,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Caller>, StateError> {
        self.arrive().await?.revoke_caller(id, at, who).await
    }
    async fn replace_caller(&self, old: &Caller, new: &Caller, who: &Actor) -> Result<bool, StateError> {
        self.arrive().await?.replace_caller(old, new, who).await
    }
    async fn callers_version(&self) -> Result<i64, StateError> {
        self.arrive().await?.callers_version().await
    }
    async fn audit(&self, most: usize) -> Result<Vec<AuditEntry>, StateError> {
        self.arrive().await?.audit(most).await
    }
    async fn add_fallback_uses(&self, chain: &ChainName, day: i32, uses: u64) -> Result<u64, StateError> {
        self.arrive().await?.add_fallback_uses(chain, day, uses).await
    }
    async fn check(&self) -> Result<(), StateError> {
        self.arrive().await.map(|_| ())
    }
}

/// The row without its events.
fn quiet<'a>(next: &NextRow<'a>) -> NextRow<'a> {
    NextRow { events: &[], ..*next }
}

impl VaultState for Database {
    async fn claim_due(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<Claim>, StateError> {
        self.call(async |tables: &MemoryState| tables.claim_due(holder, lease, most).await).await
    }

    async fn claim_left_open(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<Claim>, StateError> {
        self.call(async |tables: &MemoryState| tables.claim_left_open(holder, lease, most).await).await
    }

    async fn claim(
        &self,
        chain: &ChainName,
        holder: &Holder,
        lease: Duration,
    ) -> Result<Claimed, StateError> {
        self.call(async |tables: &MemoryState| match (self.lie, tables.claim(chain, holder, lease).await) {
            (Some(Lie::LeaseIgnored), Ok(Claimed::Held(row))) => {
                Ok(Claimed::Ours(Box::new(Claim { row: *row, process: holder.process.clone() })))
            }
            (_, claimed) => claimed,
        })
        .await
    }

    async fn begin_rotation(
        &self,
        claim: &Claim,
        next: NextRow<'_>,
        lease: Duration,
    ) -> Result<bool, StateError> {
        let lie = self.lie;
        self.write(&next.record.chain, async |tables: &MemoryState| match lie {
            Some(Lie::IntentNotWritten) => Ok(true),
            Some(Lie::LeaseIgnored) => {
                tables.settle_rotation(claim.row.record.mark(), quiet(&next)).await.map(|_| true)
            }
            _ => tables.begin_rotation(claim, quiet(&next), lease).await,
        })
        .await
    }

    async fn settle_rotation(&self, before: Mark, next: NextRow<'_>) -> Result<bool, StateError> {
        let (lie, chain) = (self.lie.filter(|_| next.sealed.is_some()), &next.record.chain);
        self.write(chain, async |tables: &MemoryState| {
            let now = tables.row(chain).await?.map(|row| row.record);
            match (lie, now) {
                (Some(Lie::CommitAnywhere), Some(now)) => {
                    tables.settle_rotation(now.mark(), quiet(&next)).await
                }
                (Some(Lie::LateAnswerFenced), Some(now)) if now.intent.is_none() => Ok(true),
                (_, _) => tables.settle_rotation(before, quiet(&next)).await,
            }
        })
        .await
    }

    async fn doubt_rotation(&self, claim: &Claim, next: NextRow<'_>) -> Result<bool, StateError> {
        let lie = self.lie;
        self.write(&next.record.chain, async |tables: &MemoryState| match lie {
            Some(Lie::LeaseIgnored) => tables.settle_rotation(claim.row.record.mark(), quiet(&next)).await,
            _ => tables.doubt_rotation(claim, quiet(&next)).await,
        })
        .await
    }

    async fn release(&self, claim: &Claim, wakes_at: Option<Timestamp>) -> Result<(), StateError> {
        self.call(async |tables: &MemoryState| tables.release(claim, wakes_at).await).await
    }

    async fn take_in(&self, before: Option<Mark>, next: NextRow<'_>) -> Result<bool, StateError> {
        let lie = self.lie;
        self.write(&next.record.chain, async |tables: &MemoryState| match (lie, before) {
            (Some(Lie::LoginEndsLease), Some(before)) => tables.settle_rotation(before, quiet(&next)).await,
            (_, before) => tables.take_in(before, quiet(&next)).await,
        })
        .await
    }

    async fn add_replaced(
        &self,
        chain: &ChainName,
        spent: Fingerprint,
        at: Timestamp,
    ) -> Result<(), StateError> {
        self.call(async |tables: &MemoryState| tables.add_replaced(chain, spent, at).await).await
    }

    async fn take_in_new(&self, rows: &[NewRow]) -> Result<u64, StateError> {
        self.arrive().await?.take_in_new(rows).await
    }

    async fn row(&self, chain: &ChainName) -> Result<Option<Row>, StateError> {
        self.arrive().await?.row(chain).await
    }

    async fn rows_after(&self, after: Option<&ChainName>, most: usize) -> Result<Vec<Row>, StateError> {
        self.arrive().await?.rows_after(after, most).await
    }

    async fn reseal(&self, chain: &ChainName, old: &Sealed, new: &Sealed) -> Result<bool, StateError> {
        self.arrive().await?.reseal(chain, old, new).await
    }

    async fn claim_health(&self, lease: Duration, most: usize) -> Result<Vec<HealthClaim>, StateError> {
        self.call(async |tables| tables.claim_health(lease, most).await).await
    }

    async fn settle_health(&self, looked: &[HealthLooked]) -> Result<(), StateError> {
        self.call(async |tables| tables.settle_health(looked).await).await
    }

    async fn wake_health(&self, chain: &ChainName) -> Result<(), StateError> {
        self.call(async |tables| tables.wake_health(chain).await).await
    }

    async fn events_since(&self, chains: &[ChainName], since: Timestamp) -> Result<Vec<Event>, StateError> {
        self.call(async |tables| tables.events_since(chains, since).await).await
    }

    async fn changes(&self, cursor: Option<ChangesCursor>, most: usize) -> Result<Changes, StateError> {
        self.arrive().await?.changes(cursor, most).await
    }

    async fn incarnation(&self, hold: Duration) -> Result<Incarnation, StateError> {
        let hold = self.held(hold);
        self.call(async |tables| tables.incarnation(hold).await).await
    }

    async fn hold_on(&self, hold: Duration) -> Result<(), StateError> {
        let hold = self.held(hold);
        self.call(async |tables| tables.hold_on(hold).await).await
    }

    async fn behind(&self, marks: &[(ChainName, Mark)]) -> Result<Vec<ChainName>, StateError> {
        self.call(async |tables| tables.behind(marks).await).await
    }

    async fn miss(&self, chains: &[ChainName]) -> Result<Vec<ChainName>, StateError> {
        self.call(async |tables| tables.miss(chains).await).await
    }
}
