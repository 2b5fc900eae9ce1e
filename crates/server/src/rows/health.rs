//! Watches the health of the chains of a database vault that no section of the configuration names, be they a million:
//! each is looked at when something may have changed, and by one server (SPEC §6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::alert::{Action, ActionContext, Alert, Episode, action};
use evergrant_core::chain::Kind;
use evergrant_core::event::Event;
use evergrant_core::gateway::Source;
use evergrant_core::health::{
    FallbackFacts, GRANT_REFUSED_FOR, GrantFacts, TICK, conditions, grant_refused_at, well_until,
};
use evergrant_core::{ChainName, Reason};
use evergrant_store::vault::{HealthClaim, HealthLooked, MOST_AT_ONCE, VaultState};
use evergrant_store::{HealthState, StateError};
use jiff::{RoundMode, Timestamp, TimestampRound, Unit};

use super::work::Seen;
use super::{RowKeeper, RowPolicy};
use crate::gateway::FallbackKey;
use crate::health::{Described, EpisodeKeeper, Gathered, TRIES, serving_of};
use crate::world::World;

/// How often what is due is asked for.
const PACE: Duration = Duration::from_secs(1);
/// A look is over long before; if whoever looks dies, somebody else looks then.
const LEASE: Duration = Duration::from_secs(60);
/// A chain that is not watched here may be by a server with another configuration, or by this one later.
const UNWATCHED: Duration = Duration::from_secs(3600);

/// Of a chain that has no row.
const LOST: &str = "the database has lost it: it was restored from before the chain was brought in";

/// What the configuration says of the health of a chain.
#[derive(Debug, Clone, Default)]
pub struct RowWatch {
    /// The key behind it.
    pub fallback: Option<FallbackKey>,
}

/// Says so; nothing if the chain is not watched, or in another way.
pub type RowWatches = Arc<dyn Fn(&ChainName) -> Option<RowWatch> + Send + Sync>;

/// The monitor of the chains that no section names.
pub struct RowMonitor<W: World> {
    keeper: RowKeeper<W>,
    watches: RowWatches,
    episodes: EpisodeKeeper<W>,
}

impl<W: World> std::fmt::Debug for RowMonitor<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RowMonitor").field(&self.keeper).finish()
    }
}

/// A chain that is watched.
struct Watched<W> {
    claim: HealthClaim,
    watch: RowWatch,
    policy: Arc<RowPolicy<W>>,
}

impl<W> Watched<W> {
    /// The kind of the grant; if it is lost, of one that is renewed here.
    fn kind(&self) -> Kind {
        self.claim.row.as_ref().map_or(Kind::RefreshToken, |row| row.record.kind)
    }
}

impl<W> Clone for Watched<W> {
    fn clone(&self) -> Self {
        Self { claim: self.claim.clone(), watch: self.watch.clone(), policy: self.policy.clone() }
    }
}

impl<W: Send + Sync + 'static> Described for Watched<W> {
    fn chain(&self) -> &ChainName {
        &self.claim.chain
    }

    fn provider(&self) -> &str {
        &self.policy.policy.profile.name
    }

    fn action(&self, episode: &Episode, config_dir: Option<&str>) -> Option<Action> {
        let context = ActionContext {
            chain: self.chain(),
            kind: self.kind(),
            profile: &self.policy.policy.profile,
            reason: episode.reason,
            config_dir,
        };
        action(episode.condition, &context)
    }
}

/// What a tick came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ticked {
    /// So many chains were looked at.
    pub looked_at: usize,
    /// The alerts that were made.
    pub alerts: Vec<Alert>,
}

impl<W: World<State: HealthState + VaultState>> RowMonitor<W> {
    /// A monitor of the chains that `keeper` knows and `watches` names.
    pub fn new(keeper: RowKeeper<W>, watches: RowWatches, episodes: EpisodeKeeper<W>) -> Self {
        Self { keeper, watches, episodes }
    }

    /// Looks at what is due, until it is dropped.
    pub async fn run(self) {
        let mut failing = false;
        loop {
            let full = match self.tick().await {
                Ok(ticked) => {
                    failing = false;
                    ticked.looked_at == MOST_AT_ONCE
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(reason = %Reason::StateUnavailable, %error, "the health of the database's chains cannot be watched");
                    }
                    failing = true;
                    false
                }
            };
            if !full {
                self.keeper.world().sleep(PACE).await;
            }
        }
    }

    /// Looks at the chains whose health is due.
    pub async fn tick(&self) -> Result<Ticked, StateError> {
        let state = self.keeper.state();
        let claims = state.claim_health(LEASE, MOST_AT_ONCE).await?;
        let looked_at = claims.len();
        let (watched, mut looked) = self.sort(claims);
        let names: Vec<_> = watched.iter().map(|one| one.chain().clone()).collect();
        if names.is_empty() {
            state.settle_health(&looked).await?;
            return Ok(Ticked { looked_at, alerts: Vec::new() });
        }
        for _ in 0..TRIES {
            let now = self.keeper.world().now();
            let book = state.book(&names, now).await?;
            let events = self.latest_events(&names, now).await?;
            let gathered: Vec<_> = watched.iter().map(|one| self.gather(one, &events, now)).collect();
            let Some(brought) = self.episodes.bring_up(&book, &gathered, now).await? else { continue };
            looked.extend(gathered.iter().map(|one| {
                let open = !one.found.is_empty() || brought.open.contains(one.chain.chain());
                let well_until = one.grant.as_ref().and_then(|grant| well_until(grant, now));
                let next_at = if open { Some(next_tick(now)) } else { well_until };
                let HealthClaim { chain, until, .. } = &one.chain.claim;
                HealthLooked { chain: chain.clone(), until: *until, next_at, open }
            }));
            state.settle_health(&looked).await?;
            return Ok(Ticked { looked_at, alerts: brought.alerts });
        }
        tracing::debug!("others keep writing the book of episodes; these chains are looked at again");
        Ok(Ticked { looked_at, alerts: Vec::new() })
    }

    /// Those that are watched here, and when to ask again about the others.
    fn sort(&self, claims: Vec<HealthClaim>) -> (Vec<Watched<W>>, Vec<HealthLooked>) {
        let (mut watched, mut others) = (Vec::new(), Vec::new());
        let later = self.keeper.world().now() + UNWATCHED;
        for claim in claims {
            match ((self.watches)(&claim.chain), (self.keeper.0.parts.policies)(&claim.chain)) {
                (Some(watch), Some(policy)) => watched.push(Watched { claim, watch, policy }),
                (Some(_) | None, _) => {
                    let (chain, until) = (claim.chain, claim.until);
                    others.push(HealthLooked { chain, until, next_at: Some(later), open: false });
                }
            }
        }
        (watched, others)
    }

    /// What the ledgers of these chains have of lately.
    async fn latest_events(
        &self,
        chains: &[ChainName],
        now: Timestamp,
    ) -> Result<BTreeMap<ChainName, Vec<Event>>, StateError> {
        let mut by_chain: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for event in self.keeper.state().events_since(chains, now - GRANT_REFUSED_FOR).await? {
            by_chain.entry(event.chain.clone()).or_default().push(event);
        }
        Ok(by_chain)
    }

    fn gather(
        &self,
        watched: &Watched<W>,
        events: &BTreeMap<ChainName, Vec<Event>>,
        now: Timestamp,
    ) -> Gathered<Watched<W>> {
        let Watched { claim, watch, policy } = watched;
        let mut seen = Seen::default();
        if !policy.accepted {
            seen.reason = Some(Reason::TermsNotAccepted);
            seen.error = seen.reason;
        }
        match &claim.row {
            Some(row) => self.keeper.show(row.clone(), &mut seen),
            None => seen.fail(Reason::TokenAbsent, LOST),
        }
        self.keeper.standing(policy, &mut seen);
        let record = seen.record.clone();
        let fallback = watch.fallback.as_ref();
        let live = record.as_ref().filter(|record| seen.grant.is_some() && record.token_valid(now));
        let live = live.map(|record| (record.position(), record.expires_at));
        let grant = GrantFacts {
            kind: watched.kind(),
            report: seen.report(&claim.chain, now),
            clock_offset_secs: None,
            serving: serving_of(live, Source::Oauth, fallback, now),
            fallback: fallback.map_or_else(FallbackFacts::default, |key| key.facts(now)),
            probes: Vec::new(),
            grant_refused_at: grant_refused_at(
                events.get(&claim.chain).into_iter().flatten(),
                record.as_ref().map(|record| record.lineage),
            ),
            blind_since: None,
            record,
        };
        let found = conditions(&grant, now);
        Gathered { chain: watched.clone(), grant: Some(grant), push: None, found }
    }
}

/// Chains in trouble are looked at at the same instants, so that what they come to is told together.
fn next_tick(now: Timestamp) -> Timestamp {
    let minute = TimestampRound::new().smallest(Unit::Minute).mode(RoundMode::Trunc);
    now.round(minute).unwrap_or(now) + TICK
}
