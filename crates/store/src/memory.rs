//! The state in memory: for tests, drills and the simulator, and the reference for the other backends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evergrant_core::ChainName;
use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;

use crate::state::{Numbered, State, StateError, event_key, supersedes};

#[derive(Debug, Default)]
struct Tables {
    records: BTreeMap<ChainName, Record>,
    replaced: BTreeMap<(ChainName, Fingerprint), Timestamp>,
    events: Vec<Numbered>,
    keys: std::collections::BTreeSet<String>,
    last_seq: u64,
}

/// A state that dies with its last handle.
#[derive(Debug, Clone, Default)]
pub struct MemoryState(Arc<Mutex<Tables>>);

impl MemoryState {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let before = tables.events.len() + tables.replaced.len();
        tables.events.retain(|numbered| numbered.event.at >= events_before);
        tables.replaced.retain(|_, at| *at >= replaced_before);
        let keys = tables.events.iter().filter_map(|numbered| event_key(&numbered.event)).collect();
        tables.keys = keys;
        Ok((before - tables.events.len() - tables.replaced.len()) as u64)
    }

    async fn check(&self) -> Result<(), StateError> {
        Ok(())
    }
}
