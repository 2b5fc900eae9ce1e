//! What a state remembers of push events, episodes and alerts, as verbs that every backend offers (SPEC §6).

use std::future::Future;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::alert::{
    Acknowledgement, Book, BookChange, Delivery, Episode, EpisodeId, Settled, SinkState,
};
use evergrant_core::audit::Actor;
use evergrant_core::event::Event;
use evergrant_core::health::{PushFacts, PushSeen, Span};
use evergrant_core::push::Identity;
use jiff::{SignedDuration, Timestamp};

use crate::state::{State, StateError};

/// Messages are remembered for so long: older ones are refused for their clock.
pub(crate) const NONCES_FOR: SignedDuration = SignedDuration::from_hours(1);

/// What the health monitor, the alerter and the calls of agents need of a state. Every verb is atomic.
pub trait HealthState: State {
    /// Since when the chain has a push track: since the first time that this was asked.
    fn tracked_since(
        &self,
        chain: &ChainName,
        now: Timestamp,
    ) -> impl Future<Output = Result<Timestamp, StateError>> + Send;

    /// Whether a message is new; from now on it is not.
    fn take_nonce(
        &self,
        chain: &ChainName,
        nonce: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// Writes down a push event: for the dead-man, for the ledger, and whose login was accepted, if one was.
    fn add_push(
        &self,
        seen: &PushSeen,
        event: &Event,
        identity: Option<&Identity>,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// What a chain's push events come to.
    fn push_facts(&self, chain: &ChainName) -> impl Future<Output = Result<PushFacts, StateError>> + Send;

    /// Whose login the chain holds, if that is known.
    fn identity(
        &self,
        chain: &ChainName,
    ) -> impl Future<Output = Result<Option<Identity>, StateError>> + Send;

    /// Remembers whose login the chain holds.
    fn keep_identity(
        &self,
        chain: &ChainName,
        identity: &Identity,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// A server listens at `now`, and has since it said so last, if that is not longer ago than `pause`.
    fn listen(
        &self,
        now: Timestamp,
        pause: SignedDuration,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// When any server listened, in order and apart, as far as it is remembered.
    fn listened(&self) -> impl Future<Output = Result<Vec<Span>, StateError>> + Send;

    /// The book of episodes, of some chains.
    fn book(
        &self,
        chains: &[ChainName],
        now: Timestamp,
    ) -> impl Future<Output = Result<Book, StateError>> + Send;

    /// Writes into the book, with the alerts that tell of it, if it is still at `version`. Says whether it was.
    fn keep_book(
        &self,
        version: i64,
        change: &BookChange,
    ) -> impl Future<Output = Result<bool, StateError>> + Send;

    /// The last `most` episodes, of one chain or of all, newest first.
    fn episodes(
        &self,
        chain: Option<&ChainName>,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Episode>, StateError>> + Send;

    /// Every episode that is open, of one chain or of all, newest first.
    fn open_episodes(
        &self,
        chain: Option<&ChainName>,
    ) -> impl Future<Output = Result<Vec<Episode>, StateError>> + Send;

    /// Acknowledges an episode, with the audit entry of who did; nothing takes it back. Gives the episode as it is
    /// now, or nothing if there is none.
    fn acknowledge(
        &self,
        id: &EpisodeId,
        acknowledgement: Option<&Acknowledgement>,
        at: Timestamp,
        who: &Actor,
    ) -> impl Future<Output = Result<Option<Episode>, StateError>> + Send;

    /// Holds alerts about a chain back until then, with the audit entry of who did; an instant that has passed lets
    /// them through.
    fn mute(
        &self,
        chain: &ChainName,
        until: Timestamp,
        at: Timestamp,
        who: &Actor,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// The first alert that waits for a sink, if its time has come, for `holder` alone for as long as `lease`, which
    /// a database measures by its own clock. An alert that is to be tried again holds up those behind it.
    fn claim_delivery(
        &self,
        sink: &str,
        holder: &str,
        now: Timestamp,
        lease: Duration,
    ) -> impl Future<Output = Result<Option<Delivery>, StateError>> + Send;

    /// Writes down what became of a delivery that `holder` had claimed. One that is settled already stays so, and one
    /// attempt counts once.
    fn settle_delivery(
        &self,
        delivery: &Delivery,
        holder: &str,
        settled: &Settled,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), StateError>> + Send;

    /// How the sinks fare to which alerts were addressed, by name.
    fn sink_states(&self) -> impl Future<Output = Result<Vec<SinkState>, StateError>> + Send;

    /// Writes down an act that changed nothing here.
    fn add_audit(
        &self,
        entry: &evergrant_core::audit::AuditEntry,
    ) -> impl Future<Output = Result<(), StateError>> + Send;
}
