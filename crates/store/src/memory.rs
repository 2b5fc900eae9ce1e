//! The state in memory: for tests, drills and the simulator, and the reference for the other backends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evergrant_core::ChainName;
use evergrant_core::audit::{Act, Actor, AuditEntry};
use evergrant_core::caller::{Caller, KeyId};
use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;

use crate::state::{Numbered, State, StateError, day_of, event_key, supersedes};

mod health;
mod vault;

#[derive(Debug, Default, Clone)]
struct Tables {
    records: BTreeMap<ChainName, Record>,
    replaced: BTreeMap<(ChainName, Fingerprint), Timestamp>,
    events: Vec<Numbered>,
    keys: std::collections::BTreeSet<String>,
    last_seq: u64,
    callers: Vec<Caller>,
    callers_version: i64,
    audit: Vec<AuditEntry>,
    fallback_uses: BTreeMap<(ChainName, i32), u64>,
    health: health::Tables,
    vault: vault::Tables,
}

/// What time it is for leases.
type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A state that dies with its last handle.
#[derive(Clone)]
pub struct MemoryState {
    tables: Arc<Mutex<Tables>>,
    clock: Option<Clock>,
    incarnation: u64,
}

impl Default for MemoryState {
    fn default() -> Self {
        let incarnation = next_incarnation();
        let vault = vault::Tables::first_in(incarnation);
        let tables = Arc::new(Mutex::new(Tables { vault, ..Tables::default() }));
        Self { tables, clock: None, incarnation }
    }
}

fn next_incarnation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl std::fmt::Debug for MemoryState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryState").finish_non_exhaustive()
    }
}

impl MemoryState {
    /// An empty one. No time passes in it: a lease that is not given back stays.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty one whose leases are timed by `clock`.
    pub fn with_clock(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { clock: Some(Arc::new(clock)), ..Self::default() }
    }

    /// What a backup of it holds now, as an incarnation of its own.
    #[must_use]
    pub fn copy(&self) -> Self {
        let tables = Arc::new(Mutex::new(self.tables().clone()));
        Self { tables, clock: self.clock.clone(), incarnation: next_incarnation() }
    }

    fn now(&self) -> Timestamp {
        self.clock.as_ref().map_or(Timestamp::UNIX_EPOCH, |clock| clock())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn add(&mut self, events: &[Event]) {
        for event in events {
            if event_key(event).is_none_or(|key| self.keys.insert(key)) {
                self.last_seq += 1;
                self.events.push(Numbered { seq: self.last_seq, event: event.clone() });
            }
        }
    }

    fn knows(&self, caller: &Caller) -> bool {
        self.callers.iter().any(|known| known.id == caller.id || known.hash == caller.hash)
    }

    fn insert(&mut self, caller: &Caller) {
        self.callers.push(caller.clone());
        self.callers.sort_by_key(|caller| (caller.created_at.as_millisecond(), caller.id));
        self.callers_version += 1;
    }

    fn audit(&mut self, at: Timestamp, who: &Actor, what: Act, to: String) {
        self.audit.push(AuditEntry { at, who: who.clone(), what, to });
    }
}

impl State for MemoryState {
    async fn record(&self, chain: &ChainName) -> Result<Option<Record>, StateError> {
        Ok(self.tables().records.get(chain).cloned())
    }

    async fn bring_up(
        &self,
        record: &Record,
        replaced: Option<(Fingerprint, Timestamp)>,
        events: &[Event],
    ) -> Result<bool, StateError> {
        let mut tables = self.tables();
        let taken = supersedes(record.position(), tables.records.get(&record.chain).map(Record::position));
        if taken {
            tables.records.insert(record.chain.clone(), record.clone());
        }
        if let Some((fingerprint, at)) = replaced {
            tables.replaced.entry((record.chain.clone(), fingerprint)).or_insert(at);
        }
        tables.add(events);
        Ok(taken)
    }

    async fn add_events(&self, events: &[Event]) -> Result<(), StateError> {
        self.tables().add(events);
        Ok(())
    }

    async fn events(&self, chain: &ChainName, after: u64, most: usize) -> Result<Vec<Numbered>, StateError> {
        let tables = self.tables();
        let fits = |numbered: &&Numbered| numbered.event.chain == *chain && numbered.seq > after;
        Ok(tables.events.iter().filter(fits).take(most).cloned().collect())
    }

    async fn latest_events(&self, chain: &ChainName, most: usize) -> Result<Vec<Numbered>, StateError> {
        let tables = self.tables();
        let fits = |numbered: &&Numbered| numbered.event.chain == *chain;
        Ok(tables.events.iter().rev().filter(fits).take(most).cloned().collect())
    }

    async fn was_replaced(&self, chain: &ChainName, fingerprint: Fingerprint) -> Result<bool, StateError> {
        Ok(self.tables().replaced.contains_key(&(chain.clone(), fingerprint)))
    }

    async fn prune(&self, events_before: Timestamp, replaced_before: Timestamp) -> Result<u64, StateError> {
        let mut tables = self.tables();
        let rows = |tables: &Tables| {
            let events = tables.events.len() + tables.replaced.len();
            events + tables.audit.len() + tables.fallback_uses.len()
        };
        let before = rows(&tables);
        tables.events.retain(|numbered| numbered.event.at >= events_before);
        tables.replaced.retain(|_, at| *at >= replaced_before);
        tables.audit.retain(|entry| entry.at >= replaced_before);
        tables.fallback_uses.retain(|(_, day), _| *day >= day_of(events_before));
        let keys = tables.events.iter().filter_map(|numbered| event_key(&numbered.event)).collect();
        tables.keys = keys;
        let others = tables.health.prune(events_before);
        Ok((before - rows(&tables) + others) as u64)
    }

    async fn add_caller(&self, caller: &Caller, who: &Actor) -> Result<bool, StateError> {
        let mut tables = self.tables();
        if tables.knows(caller) {
            return Ok(false);
        }
        tables.insert(caller);
        tables.audit(caller.created_at, who, Act::KeyCreated, caller.id.to_string());
        Ok(true)
    }

    async fn callers(&self) -> Result<Vec<Caller>, StateError> {
        Ok(self.tables().callers.clone())
    }

    async fn revoke_caller(
        &self,
        id: &KeyId,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Caller>, StateError> {
        let mut tables = self.tables();
        let Some(caller) = tables.callers.iter_mut().find(|caller| caller.id == *id) else {
            return Ok(None);
        };
        let first = caller.revoked_at.is_none();
        caller.revoked_at.get_or_insert(at);
        let caller = caller.clone();
        if first {
            tables.callers_version += 1;
            tables.audit(at, who, Act::KeyRevoked, id.to_string());
        }
        Ok(Some(caller))
    }

    async fn replace_caller(&self, old: &Caller, new: &Caller, who: &Actor) -> Result<bool, StateError> {
        let mut tables = self.tables();
        let known = tables.knows(new);
        let stored = tables.callers.iter_mut().find(|caller| caller.id == old.id);
        let open = stored.filter(|stored| stored.revoked_at.is_none() && stored.replaced_by.is_none());
        let Some(stored) = open.filter(|_| !known) else { return Ok(false) };
        *stored = old.clone();
        tables.insert(new);
        tables.audit(new.created_at, who, Act::KeyRotated, old.id.to_string());
        Ok(true)
    }

    async fn callers_version(&self) -> Result<i64, StateError> {
        Ok(self.tables().callers_version)
    }

    async fn audit(&self, most: usize) -> Result<Vec<AuditEntry>, StateError> {
        Ok(self.tables().audit.iter().rev().take(most).cloned().collect())
    }

    async fn add_fallback_uses(&self, chain: &ChainName, day: i32, uses: u64) -> Result<u64, StateError> {
        let mut tables = self.tables();
        if uses == 0 {
            return Ok(tables.fallback_uses.get(&(chain.clone(), day)).copied().unwrap_or(0));
        }
        let total = tables.fallback_uses.entry((chain.clone(), day)).or_insert(0);
        *total += uses;
        Ok(*total)
    }

    async fn check(&self) -> Result<(), StateError> {
        Ok(())
    }
}
