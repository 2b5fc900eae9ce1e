//! Rows of a database vault, in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::{Epoch, Mark};
use evergrant_core::event::Event;
use evergrant_core::health::shows_trouble;
use evergrant_core::secret::Fingerprint;
use jiff::{SignedDuration, Timestamp};

use super::MemoryState;
use crate::seal::Sealed;
use crate::state::StateError;
use crate::vault::{
    Changes, ChangesCursor, Claim, Claimed, HealthClaim, HealthLooked, Holder, Incarnation, LATEST, NewRow,
    NextRow, RELEASED, Row, VaultState,
};

#[derive(Debug, Clone)]
struct Stored {
    row: Row,
    /// Nobody else's until then.
    lease: Option<(String, Timestamp)>,
    wakes_at: Option<Timestamp>,
    changed: u64,
}

/// When the health of a chain is looked at next, and whether an episode of it is open.
type HealthLook = (Option<Timestamp>, bool);

#[derive(Debug, Default, Clone)]
pub(super) struct Tables {
    rows: BTreeMap<ChainName, Stored>,
    changes: u64,
    looks: BTreeMap<ChainName, HealthLook>,
    /// The last incarnation that somebody has asked for, and until when it takes no intent.
    incarnation: (u64, Option<Timestamp>),
}

impl Tables {
    pub(super) fn first_in(incarnation: u64) -> Self {
        Self { incarnation: (incarnation, None), ..Self::default() }
    }
}

impl Stored {
    fn is_free(&self, now: Timestamp) -> bool {
        self.lease.as_ref().is_none_or(|(_, until)| *until <= now)
    }

    fn claim(&mut self, holder: &Holder, until: Timestamp) -> Claim {
        self.row.epoch = Epoch(self.row.epoch.0 + 1);
        self.lease = Some((holder.process.clone(), until));
        // If its holder dies, it is looked at when the lease ends.
        self.wakes_at = Some(until);
        Claim { row: self.row.clone(), process: holder.process.clone() }
    }

    fn is_of(&self, claim: &Claim) -> bool {
        let held = self.lease.as_ref().is_some_and(|(process, _)| *process == claim.process);
        held && self.row.epoch == claim.row.epoch
    }

    fn stands_as(&self, claim: &Claim) -> bool {
        self.row.record.mark() == claim.row.record.mark()
    }
}

impl super::Tables {
    pub(super) fn wake_health(&mut self, chain: &ChainName, now: Timestamp) {
        if let Some((next_at, _)) = self.vault.looks.get_mut(chain) {
            *next_at = Some(next_at.map_or(now, |at| at.min(now)));
        }
    }

    /// Writes into a row that is there.
    fn write_row(&mut self, next: NextRow<'_>, lease: Option<(String, Timestamp)>, now: Timestamp) {
        let NextRow { record, sealed, replaced, events, wakes_at } = next;
        self.vault.changes += 1;
        let changed = self.vault.changes;
        if let Some(stored) = self.vault.rows.get_mut(&record.chain) {
            stored.row.record = record.clone();
            if let Some(sealed) = sealed {
                stored.row.sealed = sealed.clone();
            }
            stored.wakes_at = lease.as_ref().map_or(wakes_at, |(_, until)| Some(*until));
            (stored.lease, stored.changed) = (lease, changed);
            if shows_trouble(record) || self.vault.looks.get(&record.chain).is_some_and(|(_, open)| *open) {
                self.wake_health(&record.chain, now);
            }
        }
        for (fingerprint, at) in replaced {
            self.replaced.entry((record.chain.clone(), *fingerprint)).or_insert(*at);
        }
        self.add(events);
    }

    fn write_at(
        &mut self,
        before: Mark,
        next: NextRow<'_>,
        lease: Option<(String, Timestamp)>,
        now: Timestamp,
    ) -> bool {
        let stored = self.vault.rows.get(&next.record.chain);
        let stands = stored.is_some_and(|stored| stored.row.record.mark() == before);
        if stands {
            self.write_row(next, lease, now);
        }
        stands
    }
}

impl MemoryState {
    /// With a lease it is an intent.
    fn write_under(&self, claim: &Claim, next: NextRow<'_>, lease: Option<Duration>) -> bool {
        let now = self.now();
        let mut tables = self.tables();
        let stored = tables.vault.rows.get(&next.record.chain);
        let ours = stored.is_some_and(|stored| stored.is_of(claim) && stored.stands_as(claim));
        let (asked_for, held) = tables.vault.incarnation;
        let takes_intents = asked_for == self.incarnation && held.is_none_or(|until| until <= now);
        let writes = ours && (lease.is_none() || takes_intents);
        if writes {
            tables.write_row(next, lease.map(|lease| (claim.process.clone(), now + lease)), now);
        }
        writes
    }
}

impl VaultState for MemoryState {
    async fn claim_due(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<Claim>, StateError> {
        let now = self.now();
        let mut tables = self.tables();
        let rows = tables.vault.rows.values_mut();
        let mut due: Vec<_> = rows
            .filter(|stored| stored.is_free(now) && stored.wakes_at.is_some_and(|at| at <= now))
            .collect();
        due.sort_by_key(|stored| stored.wakes_at);
        Ok(due.into_iter().take(most).map(|stored| stored.claim(holder, now + lease)).collect())
    }

    async fn claim_left_open(
        &self,
        holder: &Holder,
        lease: Duration,
        most: usize,
    ) -> Result<Vec<Claim>, StateError> {
        let now = self.now();
        let mut tables = self.tables();
        let ours = |stored: &&mut Stored| {
            let intent = stored.row.record.intent.as_ref();
            intent.is_some_and(|intent| intent.machine == holder.machine) && stored.is_free(now)
        };
        let left = tables.vault.rows.values_mut().filter(ours).take(most);
        Ok(left.map(|stored| stored.claim(holder, now + lease)).collect())
    }

    async fn claim(
        &self,
        chain: &ChainName,
        holder: &Holder,
        lease: Duration,
    ) -> Result<Claimed, StateError> {
        let now = self.now();
        let mut tables = self.tables();
        Ok(match tables.vault.rows.get_mut(chain) {
            None => Claimed::Unknown,
            Some(stored) if stored.is_free(now) => Claimed::Ours(Box::new(stored.claim(holder, now + lease))),
            Some(stored) => Claimed::Held(Box::new(stored.row.clone())),
        })
    }

    async fn begin_rotation(
        &self,
        claim: &Claim,
        next: NextRow<'_>,
        lease: Duration,
    ) -> Result<bool, StateError> {
        Ok(self.write_under(claim, next, Some(lease)))
    }

    async fn settle_rotation(&self, before: Mark, next: NextRow<'_>) -> Result<bool, StateError> {
        let now = self.now();
        Ok(self.tables().write_at(before, next, None, now))
    }

    async fn doubt_rotation(&self, claim: &Claim, next: NextRow<'_>) -> Result<bool, StateError> {
        Ok(self.write_under(claim, next, None))
    }

    async fn release(&self, claim: &Claim, wakes_at: Option<Timestamp>) -> Result<(), StateError> {
        let now = self.now();
        let mut tables = self.tables();
        let stored = tables.vault.rows.get_mut(&claim.row.record.chain);
        if let Some(stored) = stored.filter(|stored| stored.is_of(claim)) {
            (stored.lease, stored.wakes_at) = (
                None,
                if stored.stands_as(claim) { wakes_at.map(|at| at.max(now + RELEASED)) } else { Some(now) },
            );
        }
        Ok(())
    }

    async fn take_in(&self, before: Option<Mark>, next: NextRow<'_>) -> Result<bool, StateError> {
        let now = self.now();
        let mut tables = self.tables();
        if tables.replaced.contains_key(&(next.record.chain.clone(), next.record.pair.fingerprint())) {
            return Ok(false);
        }
        let Some(before) = before else {
            let chain = &next.record.chain;
            let (false, Some(sealed)) = (tables.vault.rows.contains_key(chain), next.sealed) else {
                return Ok(false);
            };
            let row = Row { record: next.record.clone(), sealed: sealed.clone(), epoch: Epoch(0) };
            let stored = Stored { row, lease: None, wakes_at: None, changed: 0 };
            tables.vault.rows.insert(chain.clone(), stored);
            tables.vault.looks.entry(chain.clone()).or_default().0 = Some(now);
            tables.write_row(next, None, now);
            return Ok(true);
        };
        let stored = tables.vault.rows.get(&next.record.chain);
        let lease = stored.filter(|stored| !stored.is_free(now)).and_then(|stored| stored.lease.clone());
        Ok(tables.write_at(before, next, lease, now))
    }

    async fn add_replaced(
        &self,
        chain: &ChainName,
        spent: Fingerprint,
        at: Timestamp,
    ) -> Result<(), StateError> {
        self.tables().replaced.entry((chain.clone(), spent)).or_insert(at);
        Ok(())
    }

    async fn take_in_new(&self, rows: &[NewRow]) -> Result<u64, StateError> {
        let mut made = 0;
        for NewRow { record, sealed, wakes_at } in rows {
            let next =
                NextRow { record, sealed: Some(sealed), replaced: &[], events: &[], wakes_at: *wakes_at };
            made += u64::from(self.take_in(None, next).await?);
        }
        Ok(made)
    }

    async fn row(&self, chain: &ChainName) -> Result<Option<Row>, StateError> {
        Ok(self.tables().vault.rows.get(chain).map(|stored| stored.row.clone()))
    }

    async fn rows_after(&self, after: Option<&ChainName>, most: usize) -> Result<Vec<Row>, StateError> {
        let tables = self.tables();
        let follows = |name: &&ChainName| after.is_none_or(|after| *name > after);
        let rows = tables.vault.rows.iter().filter(|(name, _)| follows(name)).take(most);
        Ok(rows.map(|(_, stored)| stored.row.clone()).collect())
    }

    async fn reseal(&self, chain: &ChainName, old: &Sealed, new: &Sealed) -> Result<bool, StateError> {
        let mut tables = self.tables();
        let stored = tables.vault.rows.get_mut(chain).filter(|stored| stored.row.sealed == *old);
        Ok(stored.map(|stored| stored.row.sealed = new.clone()).is_some())
    }

    async fn claim_health(&self, lease: Duration, most: usize) -> Result<Vec<HealthClaim>, StateError> {
        let now = self.now();
        let tables = &mut self.tables().vault;
        let due = tables.looks.iter_mut().filter(|(_, (next_at, _))| next_at.is_some_and(|at| at <= now));
        let mut due: Vec<_> = due.collect();
        due.sort_by_key(|(_, (next_at, _))| *next_at);
        let claim = |(chain, look): (&ChainName, &mut HealthLook)| {
            let until = now + lease;
            *look = (Some(until), true);
            let row = tables.rows.get(chain).map(|stored| stored.row.clone());
            HealthClaim { chain: chain.clone(), row, until }
        };
        Ok(due.into_iter().take(most).map(claim).collect())
    }

    async fn settle_health(&self, looked: &[HealthLooked]) -> Result<(), StateError> {
        let mut tables = self.tables();
        for HealthLooked { chain, until, next_at, open } in looked {
            let look = tables.vault.looks.get_mut(chain);
            if let Some(look) = look.filter(|look| look.0 == Some(*until)) {
                *look = (*next_at, *open);
            }
        }
        Ok(())
    }

    async fn wake_health(&self, chain: &ChainName) -> Result<(), StateError> {
        let now = self.now();
        self.tables().wake_health(chain, now);
        Ok(())
    }

    async fn events_since(&self, chains: &[ChainName], since: Timestamp) -> Result<Vec<Event>, StateError> {
        let tables = self.tables();
        let mut found = Vec::new();
        for chain in chains {
            let of_it =
                tables.events.iter().map(|numbered| &numbered.event).filter(|event| event.chain == *chain);
            let of_it: Vec<_> = of_it.collect();
            let latest = &of_it[of_it.len().saturating_sub(LATEST)..];
            found.extend(latest.iter().filter(|event| event.at >= since).copied().cloned());
        }
        Ok(found)
    }

    async fn changes(&self, cursor: Option<ChangesCursor>, most: usize) -> Result<Changes, StateError> {
        let tables = self.tables();
        let newest = ChangesCursor(tables.vault.changes);
        let Some(cursor) = cursor.filter(|cursor| *cursor <= newest) else {
            return Ok(Changes { cursor: newest, begins_anew: cursor.is_some(), ..Changes::default() });
        };
        let changed = tables.vault.rows.iter().filter(|(_, stored)| stored.changed > cursor.0);
        let mut changed: Vec<_> = changed.collect();
        changed.sort_by_key(|(_, stored)| stored.changed);
        let more = changed.len() > most;
        changed.truncate(most);
        let cursor = match changed.last() {
            Some((_, last)) if more => ChangesCursor(last.changed),
            Some(_) | None => newest,
        };
        let rows = changed.into_iter().map(|(chain, stored)| (chain.clone(), stored.row.record.mark()));
        Ok(Changes { rows: rows.collect(), cursor, more, begins_anew: false })
    }

    async fn incarnation(&self, hold: Duration) -> Result<Incarnation, StateError> {
        let now = self.now();
        let of = &mut self.tables().vault.incarnation;
        if of.0 != self.incarnation {
            *of = (self.incarnation, Some(now + hold));
        }
        let left = of.1.map(|until| until.duration_since(now)).filter(SignedDuration::is_positive);
        let held = left.map(SignedDuration::unsigned_abs);
        Ok(Incarnation { id: self.incarnation.to_string(), held })
    }

    async fn hold_on(&self, hold: Duration) -> Result<(), StateError> {
        let until = self.now() + hold;
        let held = &mut self.tables().vault.incarnation.1;
        *held = Some(held.map_or(until, |held| held.max(until)));
        Ok(())
    }

    async fn behind(&self, marks: &[(ChainName, Mark)]) -> Result<Vec<ChainName>, StateError> {
        let tables = self.tables();
        let behind = |(chain, mark): &&(ChainName, Mark)| {
            tables.vault.rows.get(chain).is_some_and(|stored| stored.row.record.mark() < *mark)
        };
        Ok(marks.iter().filter(behind).map(|(chain, _)| chain.clone()).collect())
    }

    async fn miss(&self, chains: &[ChainName]) -> Result<Vec<ChainName>, StateError> {
        let now = self.now();
        let mut tables = self.tables();
        let mut missed = Vec::new();
        for chain in chains {
            let known = tables.vault.rows.contains_key(chain) || tables.vault.looks.contains_key(chain);
            if !known && !tables.events.iter().any(|numbered| numbered.event.chain == *chain) {
                tables.vault.looks.insert(chain.clone(), (Some(now), false));
                missed.push(chain.clone());
            }
        }
        Ok(missed)
    }
}
