//! Push events, episodes and alerts, in memory.

use std::collections::BTreeMap;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::alert::{
    Acknowledgement, Alert, Book, BookChange, Delivery, Episode, EpisodeId, GATHER, Mute, Settled, SinkState,
};
use evergrant_core::audit::{Act, Actor, AuditEntry};
use evergrant_core::event::Event;
use evergrant_core::health::{PushFacts, PushSeen, Span};
use evergrant_core::push::Identity;
use jiff::{SignedDuration, Timestamp};

use super::MemoryState;
use crate::health::{HealthState, NONCES_FOR};
use crate::state::StateError;

#[derive(Debug, Default, Clone)]
pub(super) struct Tables {
    tracks: BTreeMap<ChainName, Timestamp>,
    pushes: Vec<(ChainName, PushSeen)>,
    nonces: BTreeMap<(ChainName, String), Timestamp>,
    identities: BTreeMap<ChainName, Identity>,
    listened: Vec<Span>,
    version: i64,
    episodes: Vec<Episode>,
    mutes: BTreeMap<ChainName, Timestamp>,
    outbox: Vec<Alert>,
    deliveries: Vec<Sent>,
    leases: BTreeMap<String, (String, Timestamp)>,
}

#[derive(Debug, Clone)]
struct Sent {
    sink: String,
    /// Its place in the outbox.
    seq: usize,
    state: Way,
    attempts: u32,
    next: Timestamp,
    settled: Option<Timestamp>,
    detail: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Waiting,
    Delivered,
    Dropped,
}

impl Tables {
    pub(super) fn prune(&mut self, before: Timestamp) -> usize {
        let rows = |tables: &Self| tables.pushes.len() + tables.listened.len() + tables.episodes.len();
        let had = rows(self);
        self.pushes.retain(|(_, seen)| seen.at >= before);
        self.listened.retain(|span| span.until >= before);
        self.episodes.retain(|episode| episode.owed || episode.closed_at.is_none_or(|at| at >= before));
        self.mutes.retain(|_, until| *until >= before);
        had - rows(self)
    }

    fn put(&mut self, episode: &Episode) {
        match self.episodes.iter_mut().find(|known| known.id == episode.id) {
            Some(known) => *known = episode.clone(),
            None => self.episodes.push(episode.clone()),
        }
    }

    fn is_last(&self, episode: &Episode) -> bool {
        let same = |other: &&Episode| other.chain == episode.chain && other.condition == episode.condition;
        self.episodes.iter().filter(same).all(|other| other.opened_at <= episode.opened_at)
    }
}

impl HealthState for MemoryState {
    async fn tracked_since(&self, chain: &ChainName, now: Timestamp) -> Result<Timestamp, StateError> {
        Ok(*self.tables().health.tracks.entry(chain.clone()).or_insert(now))
    }

    async fn take_nonce(&self, chain: &ChainName, nonce: &str, now: Timestamp) -> Result<bool, StateError> {
        let nonces = &mut self.tables().health.nonces;
        nonces.retain(|_, at| *at >= now - NONCES_FOR);
        Ok(nonces.insert((chain.clone(), nonce.to_owned()), now).is_none())
    }

    async fn add_push(
        &self,
        seen: &PushSeen,
        event: &Event,
        identity: Option<&Identity>,
    ) -> Result<(), StateError> {
        let mut tables = self.tables();
        tables.health.pushes.push((event.chain.clone(), seen.clone()));
        if let Some(identity) = identity {
            tables.health.identities.insert(event.chain.clone(), identity.clone());
        }
        tables.add(std::slice::from_ref(event));
        Ok(())
    }

    async fn push_facts(&self, chain: &ChainName) -> Result<PushFacts, StateError> {
        let tables = self.tables();
        let of_it = tables.health.pushes.iter().filter(|(name, _)| name == chain);
        Ok(PushFacts::of(of_it.map(|(_, seen)| seen)))
    }

    async fn identity(&self, chain: &ChainName) -> Result<Option<Identity>, StateError> {
        Ok(self.tables().health.identities.get(chain).cloned())
    }

    async fn keep_identity(&self, chain: &ChainName, identity: &Identity) -> Result<(), StateError> {
        self.tables().health.identities.insert(chain.clone(), identity.clone());
        Ok(())
    }

    async fn listen(&self, now: Timestamp, pause: SignedDuration) -> Result<(), StateError> {
        let listened = &mut self.tables().health.listened;
        match listened.last_mut() {
            Some(last) if last.until >= now - pause => last.until = last.until.max(now),
            Some(_) | None => listened.push(Span { from: now, until: now }),
        }
        Ok(())
    }

    async fn listened(&self) -> Result<Vec<Span>, StateError> {
        Ok(self.tables().health.listened.clone())
    }

    async fn book(&self, chains: &[ChainName], now: Timestamp) -> Result<Book, StateError> {
        let tables = &self.tables().health;
        let wanted = |episode: &&Episode| {
            let matters = episode.is_open() || episode.owed || tables.is_last(episode);
            matters && chains.contains(&episode.chain)
        };
        let mut episodes: Vec<_> = tables.episodes.iter().filter(wanted).cloned().collect();
        episodes.sort_by(|one, two| (one.opened_at, &one.id).cmp(&(two.opened_at, &two.id)));
        let mutes = tables.mutes.iter().filter(|(chain, until)| **until > now && chains.contains(chain));
        let mutes = mutes.map(|(chain, until)| Mute { chain: chain.clone(), until: *until }).collect();
        let lately = tables.outbox.iter().filter(|alert| alert.at > now - GATHER).cloned().collect();
        Ok(Book { version: tables.version, episodes, mutes, lately })
    }

    async fn keep_book(&self, version: i64, change: &BookChange) -> Result<bool, StateError> {
        let tables = &mut self.tables().health;
        if tables.version != version {
            return Ok(false);
        }
        tables.version += 1;
        change.episodes.iter().for_each(|episode| tables.put(episode));
        for (alert, sinks) in &change.alerts {
            if tables.outbox.iter().any(|told| told.id == alert.id) {
                continue;
            }
            let seq = tables.outbox.len();
            tables.outbox.push(alert.clone());
            tables.deliveries.extend(sinks.iter().map(|sink| Sent {
                sink: sink.clone(),
                seq,
                state: Way::Waiting,
                attempts: 0,
                next: alert.at,
                settled: None,
                detail: None,
            }));
        }
        Ok(true)
    }

    async fn episodes(&self, chain: Option<&ChainName>, most: usize) -> Result<Vec<Episode>, StateError> {
        let tables = &self.tables().health;
        let fits = |episode: &&Episode| chain.is_none_or(|chain| episode.chain == *chain);
        let mut episodes: Vec<_> = tables.episodes.iter().filter(fits).cloned().collect();
        episodes.sort_by(|one, two| (two.opened_at, &two.id).cmp(&(one.opened_at, &one.id)));
        episodes.truncate(most);
        Ok(episodes)
    }

    async fn open_episodes(&self, chain: Option<&ChainName>) -> Result<Vec<Episode>, StateError> {
        let mut episodes = self.episodes(chain, usize::MAX).await?;
        episodes.retain(Episode::is_open);
        Ok(episodes)
    }

    async fn acknowledge(
        &self,
        id: &EpisodeId,
        acknowledgement: Option<&Acknowledgement>,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Episode>, StateError> {
        let mut tables = self.tables();
        let Some(episode) = tables.health.episodes.iter_mut().find(|episode| episode.id == *id) else {
            return Ok(None);
        };
        episode.acknowledged = acknowledgement.cloned();
        let episode = episode.clone();
        tables.health.version += 1;
        tables.wake_health(&episode.chain, at);
        tables.audit(at, who, Act::EpisodeAcknowledged, id.to_string());
        Ok(Some(episode))
    }

    async fn mute(
        &self,
        chain: &ChainName,
        until: Timestamp,
        at: Timestamp,
        who: &Actor,
    ) -> Result<(), StateError> {
        let mut tables = self.tables();
        tables.health.mutes.insert(chain.clone(), until);
        tables.health.version += 1;
        tables.wake_health(chain, at);
        tables.audit(at, who, Act::ChainMuted, chain.to_string());
        Ok(())
    }

    async fn claim_delivery(
        &self,
        sink: &str,
        holder: &str,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Delivery>, StateError> {
        let tables = &mut self.tables().health;
        let waits = |sent: &&Sent| sent.sink == sink && sent.state == Way::Waiting;
        let Some(first) = tables.deliveries.iter().find(waits).filter(|sent| sent.next <= now) else {
            return Ok(None);
        };
        let leased = tables.leases.get(sink);
        if leased.is_some_and(|(other, until)| other != holder && *until > now) {
            return Ok(None);
        }
        let delivery = Delivery {
            seq: first.seq as u64,
            sink: sink.to_owned(),
            alert: tables.outbox[first.seq].clone(),
            attempts: first.attempts,
        };
        tables.leases.insert(sink.to_owned(), (holder.to_owned(), now + lease));
        Ok(Some(delivery))
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        holder: &str,
        settled: &Settled,
        now: Timestamp,
    ) -> Result<(), StateError> {
        let tables = &mut self.tables().health;
        let it = |sent: &&mut Sent| sent.sink == delivery.sink && sent.seq as u64 == delivery.seq;
        let counts = |sent: &&mut Sent| match settled {
            Settled::Again { .. } => sent.attempts == delivery.attempts,
            Settled::Delivered | Settled::Dropped { .. } => true,
        };
        let waits = tables.deliveries.iter_mut().find(it).filter(|sent| sent.state == Way::Waiting);
        let sent = waits.filter(counts);
        if let Some(sent) = sent {
            sent.attempts += 1;
            sent.settled = Some(now);
            (sent.state, sent.next, sent.detail) = match settled {
                Settled::Delivered => (Way::Delivered, now, None),
                Settled::Again { at, detail } => (Way::Waiting, *at, Some(detail.clone())),
                Settled::Dropped { reason, detail } => {
                    (Way::Dropped, now, Some(format!("{reason}: {detail}")))
                }
            };
        }
        if tables.leases.get(&delivery.sink).is_some_and(|(of, _)| of == holder) {
            tables.leases.remove(&delivery.sink);
        }
        Ok(())
    }

    async fn sink_states(&self) -> Result<Vec<SinkState>, StateError> {
        let tables = &self.tables().health;
        let mut states: BTreeMap<&str, SinkState> = BTreeMap::new();
        for sent in &tables.deliveries {
            let made_at = tables.outbox[sent.seq].at;
            let state = states.entry(&sent.sink).or_default();
            state.sink.clone_from(&sent.sink);
            match sent.state {
                Way::Waiting => {
                    state.waiting += 1;
                    state.waiting_since =
                        Some(state.waiting_since.map_or(made_at, |since| since.min(made_at)));
                }
                Way::Delivered => {
                    state.delivered += 1;
                    state.last_delivered_at = state.last_delivered_at.max(sent.settled);
                }
                Way::Dropped => state.dropped += 1,
            }
            if sent.detail.is_some() {
                state.last_fault.clone_from(&sent.detail);
            }
        }
        Ok(states.into_values().collect())
    }

    async fn add_audit(&self, entry: &AuditEntry) -> Result<(), StateError> {
        let mut tables = self.tables();
        tables.audit(entry.at, &entry.who, entry.what, entry.to.clone());
        Ok(())
    }
}
