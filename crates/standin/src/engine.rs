//! The stand-in as a pure state machine: a call, the time and randomness in, a reply out. No socket, clock or task.

use jiff::Timestamp;
use rand::Rng;
use serde::Serialize;
use serde_json::Value;

use crate::api::{Objects, keeps_objects};
use crate::call::{Call, TokenRequest};
use crate::fault::{Fault, FaultTarget, Rule};
use crate::fingerprint::Fingerprint;
use crate::grants::{AccessState, Grants};
use crate::log::{Bounded, Counters, Exchange, Sighting};
use crate::login::{Login, LoginOptions};
use crate::plan::{Plan, Queue};
use crate::reply::Reply;
use crate::settings::{Settings, SettingsError};

/// The provider's whole state. Cloning it gives an independent provider with the same past.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) settings: Settings,
    pub(crate) grants: Grants,
    pub(crate) counters: Counters,
    pub(crate) exchanges: Bounded<Exchange>,
    pub(crate) sightings: Bounded<Sighting>,
    pub(crate) objects: Objects,
    queue: Queue,
}

/// Where a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// The token endpoint.
    Token,
    /// The roles endpoint.
    Probe,
    /// The API: models, messages, batches, files.
    Api,
    /// `/` and `/api/hello`; no fault ever befalls them.
    Greeting,
    /// Nothing is there.
    Unknown,
}

/// A request that has arrived and is not processed yet, with the faults that were drawn for it.
#[derive(Debug, Clone)]
pub struct Arrival {
    endpoint: Endpoint,
    plan: Plan,
}

impl Arrival {
    /// How long the request waits before it is processed.
    pub fn wait(&self) -> std::time::Duration {
        self.plan.before
    }

    /// Where it goes.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The fault that will be played.
    pub fn fault(&self) -> Option<&str> {
        self.plan.label.as_deref()
    }
}

/// The stand-in's state, for people and assertions; tokens as fingerprints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// The stand-in's time.
    pub now: Timestamp,
    /// Families, oldest first.
    pub families: Vec<FamilyState>,
    /// Sums since the start.
    pub counters: Counters,
    /// Rules that wait in the queue of faults.
    pub faults_waiting: usize,
}

/// One family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FamilyState {
    /// Its number, from 1.
    pub family: u64,
    /// Pairs that it has given, the login's included.
    pub generation: u64,
    /// Its newest refresh token; absent when it has none.
    pub newest: Option<Fingerprint>,
    /// Whether that token would still be exchanged (its idle life aside).
    pub live: bool,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// When the grant ends.
    pub grant_expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// Its scopes.
    pub scopes: Vec<String>,
}

impl Engine {
    /// A provider that has granted nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            grants: Grants::default(),
            counters: Counters::default(),
            exchanges: Bounded::new(),
            sightings: Bounded::new(),
            objects: Objects::default(),
            queue: Queue::default(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The settings, to change; they hold from the next request on, for families that exist too.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Applies a JSON merge patch to the settings; on an error they stay as they were.
    pub fn patch_settings(&mut self, patch: &Value) -> Result<(), SettingsError> {
        self.settings = self.settings.patched(patch)?;
        Ok(())
    }

    /// A person's login: begins a family.
    pub fn login<R: Rng + ?Sized>(&mut self, options: LoginOptions, now: Timestamp, rng: &mut R) -> Login {
        self.counters.logins += 1;
        self.grants.login(&self.settings, options, now, rng)
    }

    /// Revokes the family that `token` (refresh or access, spent or not) belongs to; says whether it lived.
    pub fn revoke(&mut self, token: &str, now: Timestamp) -> bool {
        let lived = self.grants.revoke(token, now);
        self.counters.families_revoked_by_hand += u64::from(lived);
        lived
    }

    /// Revokes one access token and nothing else; says whether it was known.
    pub fn revoke_access(&mut self, access_token: &str) -> bool {
        self.grants.revoke_access(access_token)
    }

    /// Revokes the refresh tokens of a family, whose access tokens live on; says whether it lived.
    pub fn revoke_refresh(&mut self, refresh_token: &str, now: Timestamp) -> bool {
        let lived = self.grants.revoke_refresh(refresh_token, now);
        self.counters.families_revoked_by_hand += u64::from(lived);
        lived
    }

    /// Revokes every family; says how many lived.
    pub fn revoke_all(&mut self, now: Timestamp) -> u64 {
        let lived = self.grants.revoke_all(now);
        self.counters.families_revoked_by_hand += lived;
        lived
    }

    /// Puts a rule at the end of the queue of faults.
    pub fn push_rule(&mut self, rule: Rule) {
        self.queue.push(rule);
    }

    /// `fault` for the next `times` requests at `target`.
    pub fn push_fault(&mut self, target: FaultTarget, fault: Fault, times: u32) {
        self.queue.push(Rule::new(target, fault, times));
    }

    /// Empties the queue of faults.
    pub fn clear_faults(&mut self) {
        self.queue.clear();
    }

    /// The rules that wait, with what is left of their counts.
    pub fn faults(&self) -> &[Rule] {
        self.queue.rules()
    }

    /// The log of exchanges, oldest first.
    pub fn exchanges(&self) -> impl DoubleEndedIterator<Item = &Exchange> {
        self.exchanges.iter()
    }

    /// The log of API calls, oldest first.
    pub fn sightings(&self) -> impl DoubleEndedIterator<Item = &Sighting> {
        self.sightings.iter()
    }

    /// Sums since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is known of an access token.
    pub fn access_state(&self, access_token: &str, now: Timestamp) -> AccessState {
        self.grants.access_state(access_token, now)
    }

    /// Whether the family of `refresh_token` (spent or not) still lives.
    pub fn family_lives(&self, refresh_token: &str, now: Timestamp) -> bool {
        let id = self.grants.family_of(Fingerprint::of(refresh_token));
        let family = id.and_then(|id| self.grants.families().get(&id));
        family.is_some_and(|family| family.revoked_at.is_none() && !family.ended(now))
    }

    /// The newest refresh token of a family, raw.
    pub fn newest_refresh_token(&self, family: u64) -> Option<&str> {
        let family = self.grants.families().get(&family)?;
        (!family.newest.is_empty()).then_some(family.newest.as_str())
    }

    /// Families and counters.
    pub fn state(&self, now: Timestamp) -> State {
        let families = self.grants.families().iter().map(|(id, family)| {
            let newest = (!family.newest.is_empty()).then(|| Fingerprint::of(&family.newest));
            FamilyState {
                family: *id,
                generation: family.generation,
                newest,
                live: newest.is_some() && family.revoked_at.is_none() && !family.ended(now),
                granted_at: family.granted_at,
                grant_expires_at: family.grant_expires_at,
                revoked_at: family.revoked_at,
                scopes: family.scopes.clone(),
            }
        });
        State {
            now,
            families: families.collect(),
            counters: self.counters,
            faults_waiting: self.queue.rules().len(),
        }
    }

    /// An exchange is being answered from now on. Whoever carries replies out says so; it is only counted.
    pub fn exchange_began(&mut self) {
        let counters = &mut self.counters;
        counters.exchanges_in_flight += 1;
        counters.max_concurrent_exchanges =
            counters.max_concurrent_exchanges.max(counters.exchanges_in_flight);
    }

    /// The end of what [`Engine::exchange_began`] began.
    pub fn exchange_ended(&mut self) {
        self.counters.exchanges_in_flight = self.counters.exchanges_in_flight.saturating_sub(1);
    }

    /// Where a call of `path` (without query) goes.
    pub fn endpoint(&self, path: &str) -> Endpoint {
        if path == self.settings.token_path {
            Endpoint::Token
        } else if path == self.settings.probe_path {
            Endpoint::Probe
        } else if matches!(path, "/" | "/api/hello") {
            Endpoint::Greeting
        } else if matches!(path, "/v1/models" | "/v1/messages" | "/v1/messages/count_tokens")
            || path.starts_with("/v1/models/")
            || keeps_objects(path)
        {
            Endpoint::Api
        } else {
            Endpoint::Unknown
        }
    }

    /// A request arrives: draws its faults. It is processed by [`Engine::answer`] after [`Arrival::wait`].
    pub fn arrive(&mut self, endpoint: Endpoint) -> Arrival {
        Arrival { endpoint, plan: self.queue.take(endpoint) }
    }

    /// Processes a request that has arrived. `now` is the time of the processing.
    pub fn answer<R: Rng + ?Sized>(
        &mut self,
        call: &Call<'_>,
        arrival: Arrival,
        now: Timestamp,
        rng: &mut R,
    ) -> Reply {
        match arrival.endpoint {
            Endpoint::Token => self.answer_token_call(call, arrival.plan, now, rng),
            Endpoint::Probe | Endpoint::Api | Endpoint::Greeting | Endpoint::Unknown => {
                self.answer_api(call, arrival.endpoint, arrival.plan, now, rng)
            }
        }
    }

    /// A call from arrival to reply. A wait before the processing is added to the reply's delay instead: the call is
    /// processed at `now`.
    pub fn handle<R: Rng + ?Sized>(&mut self, call: &Call<'_>, now: Timestamp, rng: &mut R) -> Reply {
        let arrival = self.arrive(self.endpoint(call.path()));
        let wait = arrival.wait();
        let mut reply = self.answer(call, arrival, now, rng);
        reply.delay += wait;
        reply
    }

    /// A token request that was read already, from arrival to reply, as [`Engine::handle`] does it.
    pub fn token<R: Rng + ?Sized>(&mut self, request: &TokenRequest, now: Timestamp, rng: &mut R) -> Reply {
        let arrival = self.arrive(Endpoint::Token);
        let wait = arrival.wait();
        let mut reply = self.answer_token(request, arrival, now, rng);
        reply.delay += wait;
        reply
    }

    /// Processes a token request that has arrived and was read already.
    pub fn answer_token<R: Rng + ?Sized>(
        &mut self,
        request: &TokenRequest,
        arrival: Arrival,
        now: Timestamp,
        rng: &mut R,
    ) -> Reply {
        self.answer_token_request(Ok(request), arrival.plan, now, rng)
    }
}

/// An identifier for one request.
pub(crate) fn request_id<R: Rng + ?Sized>(rng: &mut R) -> String {
    format!("req_{:016x}", rng.next_u64())
}
