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

use super::session::{Repeat, run};
use super::{PostgresState, book, callers, deliveries, pushes};
use crate::health::HealthState;
use crate::state::StateError;

impl HealthState for PostgresState {
    async fn tracked_since(&self, chain: &ChainName, now: Timestamp) -> Result<Timestamp, StateError> {
        run!(self, Repeat::Fine, |client| pushes::tracked_since(client, chain, now))
    }

    async fn take_nonce(&self, chain: &ChainName, nonce: &str, now: Timestamp) -> Result<bool, StateError> {
        run!(self, Repeat::Wrong, |client| pushes::take_nonce(client, chain, nonce, now))
    }

    async fn add_push(
        &self,
        seen: &PushSeen,
        event: &Event,
        identity: Option<&Identity>,
    ) -> Result<(), StateError> {
        run!(self, Repeat::Wrong, |client| pushes::add(client, seen, event, identity))
    }

    async fn push_facts(&self, chain: &ChainName) -> Result<PushFacts, StateError> {
        run!(self, Repeat::Fine, |client| pushes::facts(client, chain))
    }

    async fn identity(&self, chain: &ChainName) -> Result<Option<Identity>, StateError> {
        run!(self, Repeat::Fine, |client| pushes::identity(client, chain))
    }

    async fn listen(&self, now: Timestamp, pause: SignedDuration) -> Result<(), StateError> {
        run!(self, Repeat::Fine, |client| pushes::listen(client, now, pause))
    }

    async fn listened(&self) -> Result<Vec<Span>, StateError> {
        run!(self, Repeat::Fine, |client| pushes::listened(client))
    }

    async fn keep_identity(&self, chain: &ChainName, identity: &Identity) -> Result<(), StateError> {
        run!(self, Repeat::Fine, |client| pushes::keep_identity(client, chain, identity))
    }

    async fn book(&self, chains: &[ChainName], now: Timestamp) -> Result<Book, StateError> {
        run!(self, Repeat::Fine, |client| book::read(client, chains, now))
    }

    async fn keep_book(&self, version: i64, change: &BookChange) -> Result<bool, StateError> {
        run!(self, Repeat::Wrong, |client| book::keep(client, version, change))
    }

    async fn episodes(&self, chain: Option<&ChainName>, most: usize) -> Result<Vec<Episode>, StateError> {
        run!(self, Repeat::Fine, |client| book::episodes(client, chain, most))
    }

    async fn open_episodes(&self, chain: Option<&ChainName>) -> Result<Vec<Episode>, StateError> {
        run!(self, Repeat::Fine, |client| book::open_episodes(client, chain))
    }

    async fn acknowledge(
        &self,
        id: &EpisodeId,
        acknowledgement: Option<&Acknowledgement>,
        at: Timestamp,
        who: &Actor,
    ) -> Result<Option<Episode>, StateError> {
        run!(self, Repeat::Wrong, |client| book::acknowledge(client, id, acknowledgement, at, who))
    }

    async fn mute(
        &self,
        chain: &ChainName,
        until: Timestamp,
        at: Timestamp,
        who: &Actor,
    ) -> Result<(), StateError> {
        run!(self, Repeat::Wrong, |client| book::mute(client, chain, until, at, who))
    }

    async fn claim_delivery(
        &self,
        sink: &str,
        holder: &str,
        now: Timestamp,
        lease: Duration,
    ) -> Result<Option<Delivery>, StateError> {
        // Its holder may come again.
        run!(self, Repeat::Fine, |client| deliveries::claim(client, sink, holder, now, lease))
    }

    async fn settle_delivery(
        &self,
        delivery: &Delivery,
        holder: &str,
        settled: &Settled,
        now: Timestamp,
    ) -> Result<(), StateError> {
        // What is settled stays so, and an attempt counts once.
        run!(self, Repeat::Fine, |client| deliveries::settle(client, delivery, holder, settled, now))
    }

    async fn sink_states(&self) -> Result<Vec<SinkState>, StateError> {
        run!(self, Repeat::Fine, |client| deliveries::states(client))
    }

    async fn add_audit(&self, entry: &AuditEntry) -> Result<(), StateError> {
        run!(self, Repeat::Wrong, |client| callers::audit_alone(client, entry))
    }
}
