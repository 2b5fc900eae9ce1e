//! The health monitor with the dead-man: looks every minute and after every event, and brings the book of episodes
//! up to what it finds, with the alerts that tell of it (SPEC §6). What is decided is decided in `core`.

use evergrant_core::ChainName;
use evergrant_core::alert::{Alert, Condition};
use evergrant_core::event::EventKind;
use evergrant_core::health::{
    Expected, FallbackFacts, Finding, GrantFacts, PushFacts, PushStatus, PushTrack, Serving, Span, TICK,
    blind_since, conditions, grant_refused_at, push_status,
};
use evergrant_core::keeper::Report;
use evergrant_core::{Reason, chain};
use evergrant_store::{HealthState, State as _, StateError};
use futures_channel::mpsc::UnboundedReceiver;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use jiff::{SignedDuration, Timestamp};

use crate::watchdog::Looks;
use crate::world::World;

mod book;
mod watched;

pub use book::{Alerting, Brought, Described, EpisodeKeeper, Gathered, Wanted};
pub use watched::{WatchedChain, serving, serving_of};

/// A server that has not said for so long that it listens did not.
const LISTENS: SignedDuration = SignedDuration::from_secs(150);
/// So far back the ledger is read for probes and refused grants.
const EVENTS_READ: usize = 100;
const PROBES_READ: usize = 3;
/// Somebody else may write the book in between so often.
pub(crate) const TRIES: usize = 5;

/// What a running process knows of a chain.
#[derive(Debug, Clone, PartialEq)]
pub struct Live {
    /// How it is renewed.
    pub kind: chain::Kind,
    /// The last look's report.
    pub report: Report,
    /// The record behind it, where there is one.
    pub record: Option<chain::Record>,
    /// How far the provider's clock is ahead of ours.
    pub clock_offset_secs: Option<i64>,
    /// What would serve a request now.
    pub serving: Serving,
    /// The key behind it.
    pub fallback: FallbackFacts,
}

/// A chain that is watched.
pub trait Watched: Described {
    /// What this process knows of it; nothing before the first look.
    fn live(&self, now: Timestamp) -> Option<Live>;
    /// When push events are expected; nothing if the chain has no push track.
    fn expected(&self) -> Option<Expected>;
}

/// The monitor of some chains.
#[derive(Debug, Clone)]
pub struct Monitor<W, C> {
    world: W,
    chains: Vec<C>,
    episodes: EpisodeKeeper<W>,
    looks: Looks,
}

/// How a chain stands, for those who ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The status of the push track, and since when.
    pub push: (PushStatus, Option<Timestamp>),
    /// What its push events come to.
    pub facts: PushFacts,
    /// The chain has a push track.
    pub tracked: bool,
}

impl<W, C> Monitor<W, C>
where
    W: World<State: HealthState>,
    C: Watched,
{
    /// A monitor that has not looked yet.
    pub fn new(world: W, chains: Vec<C>, alerting: Alerting) -> Self {
        let looks = Looks::begun(world.monotonic());
        Self { world: world.clone(), chains, episodes: EpisodeKeeper::new(world, alerting), looks }
    }

    /// Tells at every look of the episodes that were announced and are open.
    #[must_use]
    pub fn telling(self, open: impl Fn(Vec<Alert>) + Send + Sync + 'static) -> Self {
        Self { episodes: self.episodes.telling(open), ..self }
    }

    /// When it has looked with success.
    pub fn looks(&self) -> Looks {
        self.looks.clone()
    }

    /// Looks every minute and whenever it is poked, until `pokes` ends.
    pub async fn run(self, mut pokes: UnboundedReceiver<()>) {
        let mut failing = false;
        loop {
            match self.tick().await {
                Ok(_) => {
                    self.looks.note(self.world.monotonic());
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(reason = %Reason::StateUnavailable, %error, "health cannot be watched");
                    }
                    failing = true;
                }
            }
            let sleep = std::pin::pin!(self.world.sleep(TICK));
            match select(pokes.next(), sleep).await {
                Either::Left((None, _)) => return,
                Either::Left((Some(()), _)) => while pokes.try_recv().is_ok() {},
                Either::Right(((), _)) => {}
            }
        }
    }

    /// One look at all chains. Gives the alerts that it made.
    pub async fn tick(&self) -> Result<Vec<Alert>, StateError> {
        let state = self.world.state();
        state.listen(self.world.now(), LISTENS).await?;
        let listened = state.listened().await?;
        let names: Vec<_> = self.chains.iter().map(|chain| chain.chain().clone()).collect();
        for _ in 0..TRIES {
            let now = self.world.now();
            // Before the facts: what is written after it was read makes this look try again.
            let book = state.book(&names, now).await?;
            let mut gathered = Vec::new();
            for chain in &self.chains {
                gathered.push(self.gather(chain, &listened, now).await?);
            }
            if let Some(brought) = self.episodes.bring_up(&book, &gathered, now).await? {
                return Ok(brought.alerts);
            }
        }
        tracing::debug!("others keep writing the book of episodes; the next look tries again");
        Ok(Vec::new())
    }

    async fn gather(&self, chain: &C, listened: &[Span], now: Timestamp) -> Result<Gathered<C>, StateError> {
        let state = self.world.state();
        let name = chain.chain();
        let facts = state.push_facts(name).await?;
        let mut found = Vec::new();
        let push = match chain.expected() {
            None => None,
            Some(expected) => {
                let tracked_since = state.tracked_since(name, now).await?;
                let track =
                    PushTrack { facts: facts.clone(), tracked_since, listened: listened.to_vec(), expected };
                let (status, since) = push_status(&track, now);
                found.extend(status.condition().map(|condition| {
                    let reason = track.facts.streak.map(|streak| streak.reason);
                    let reason = reason.filter(|_| condition != Condition::MacSilent);
                    Finding::new(condition, since, reason)
                }));
                Some(track.facts)
            }
        };
        let grant = match chain.live(now) {
            None => None,
            Some(live) => Some(self.grant_facts(name, live, &facts, now).await?),
        };
        found.extend(grant.iter().flat_map(|grant| conditions(grant, now)));
        Ok(Gathered { chain: chain.clone(), grant, push, found })
    }

    async fn grant_facts(
        &self,
        chain: &ChainName,
        live: Live,
        push: &PushFacts,
        now: Timestamp,
    ) -> Result<GrantFacts, StateError> {
        let events = self.world.state().latest_events(chain, EVENTS_READ).await?;
        let events = || events.iter().map(|numbered| &numbered.event);
        let probes = events().filter(|event| event.kind == EventKind::Probed).take(PROBES_READ);
        let probes = probes.map(|event| (event.reason, (event.lineage, event.generation))).collect();
        let grant_refused_at = grant_refused_at(events(), live.report.lineage);
        let Live { kind, report, record, clock_offset_secs, serving, fallback } = live;
        Ok(GrantFacts {
            kind,
            report,
            record,
            clock_offset_secs,
            serving,
            fallback,
            probes,
            grant_refused_at,
            blind_since: blind_since(push, now),
        })
    }
}

/// How the push track of a chain stands.
pub async fn standing<S: HealthState>(
    state: &S,
    chain: &ChainName,
    expected: Option<Expected>,
    now: Timestamp,
) -> Result<Standing, StateError> {
    let facts = state.push_facts(chain).await?;
    let Some(expected) = expected else {
        return Ok(Standing { push: (PushStatus::Ok, facts.last_good_at), facts, tracked: false });
    };
    let tracked_since = state.tracked_since(chain, now).await?;
    let listened = state.listened().await?;
    let track = PushTrack { facts, tracked_since, listened, expected };
    Ok(Standing { push: push_status(&track, now), facts: track.facts, tracked: true })
}
