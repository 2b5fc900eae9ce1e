//! Push events, episodes and alerts, in SQL.

use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::alert::{
    Acknowledgement, Book, BookChange, Delivery, Episode, EpisodeId, Settled, SinkState,
};
use evergrant_core::audit::{Actor, AuditEntry};
use evergrant_core::event::Event;
use evergrant_core::health::{PushFacts, PushSeen, Span};
use evergrant_core::push::Identity;
use jiff::{SignedDuration, Timestamp};

use super::{SqliteState, book, callers, deliveries, pushes};
use crate::health::HealthState;
use crate::state::StateError;

impl HealthState for SqliteState {
    async fn tracked_since(&self, chain: &ChainName, now: Timestamp) -> Result<Timestamp, StateError> {
        let chain = chain.clone();
        self.with(move |connection| pushes::tracked_since(connection, &chain, now)).await
    }

    async fn take_nonce(&self, chain: &ChainName, nonce: &str, now: Timestamp) -> Result<bool, StateError> {
        let (chain, nonce) = (chain.clone(), nonce.to_owned());
        self.with(move |connection| pushes::take_nonce(connection, &chain, &nonce, now)).await
    }

    async fn add_push(
        &self,
        seen: &PushSeen,
        event: &Event,
        identity: Option<&Identity>,
    ) -> Result<(), StateError> {
        let (seen, event, identity) = (seen.clone(), event.clone(), identity.cloned());
        self.with(move |connection| pushes::add(connection, &seen, &event, identity.as_ref())).await
    }

    async fn push_facts(&self, chain: &ChainName) -> Result<PushFacts, StateError> {
        let chain = chain.clone();
        self.with(move |connection| pushes::facts(connection, &chain)).await
    }

    async fn identity(&self, chain: &ChainName) -> Result<Option<Identity>, StateError> {
        let chain = chain.clone();
        self.with(move |connection| pushes::identity(connection, &chain)).await
    }

    async fn keep_identity(&self, chain: &ChainName, identity: &Identity) -> Result<(), StateError> {
        let (chain, identity) = (chain.clone(), identity.clone());
        self.with(move |connection| pushes::keep_identity(connection, &chain, &identity)).await
    }

    async fn listen(&self, now: Timestamp, pause: SignedDuration) -> Result<(), StateError> {
        self.with(move |connection| pushes::listen(connection, now, pause)).await
    }

    async fn listened(&self) -> Result<Vec<Span>, StateError> {
        self.with(|connection| pushes::listened(connection)).await
    }

    async fn book(&self, chains: &[ChainName], now: Timestamp) -> Result<Book, StateError> {
        let chains = chains.to_vec();
        self.with(move |connection| book::read(connection, &chains, now)).await
    }

    async fn keep_book(&self, version: i64, change: &BookChange) -> Result<bool, StateError> {
        let change = change.clone();
        self.with(move |connection| book::keep(connection, version, &change)).await
    }

    async fn episodes(&self, chain: Option<&ChainName>, most: usize) -> Result<Vec<Episode>, StateError> {
        let chain = chain.cloned();
        self.with(move |connection| book::episodes(connection, chain.as_ref(), most)).await
    }

    async fn open_episodes(&self, chain: Option<&ChainName>) -> Result<Vec<Episode>, StateError> {
        let chain = chain.cloned();
        self.with(move |connection| book::open_episodes(connection, chain.as_ref())).await
    }

    async fn acknowledge(
        &self,
        id: &EpisodeId,
        acknowledgement: Option<&Acknowledgement>,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Episode>, StateError> {
        let (id, acknowledgement, who) = (id.clone(), acknowledgement.cloned(), who.clone());
        self.with(move |connection| book::acknowledge(connection, &id, acknowledgement, at, &who)).await
    }

    async fn mute(
        &self,
        chain: &ChainName,
        until: Timestamp,
        at: Timestamp,
        who: &Actor,
    ) -> Result<(), StateError> {
        let (chain, who) = (chain.clone(), who.clone());
        self.with(move |connection| book::mute(connection, &chain, until, at, &who)).await
    }

    async fn claim_delivery(
        &self,
        sink: &str,
        holder: &str,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Delivery>, StateError> {
        let (sink, holder) = (sink.to_owned(), holder.to_owned());
        self.with(move |connection| deliveries::claim(connection, &sink, &holder, now, lease)).await
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        holder: &str,
        settled: &Settled,
        now: Timestamp,
    ) -> Result<(), StateError> {
        let (delivery, holder, settled) = (delivery.clone(), holder.to_owned(), settled.clone());
        self.with(move |connection| deliveries::settle(connection, &delivery, &holder, &settled, now)).await
    }

    async fn sink_states(&self) -> Result<Vec<SinkState>, StateError> {
        self.with(|connection| deliveries::states(connection)).await
    }

    async fn add_audit(&self, entry: &AuditEntry) -> Result<(), StateError> {
        let entry = entry.clone();
        self.with(move |connection| callers::audit(connection, &entry)).await
    }
}
