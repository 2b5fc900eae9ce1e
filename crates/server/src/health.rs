//! The health monitor with the dead-man: looks every minute and after every event, and brings the book of episodes
//! up to what it finds, with the alerts that tell of it (SPEC §6). What is decided is decided in `core`.

use std::sync::Arc;

use evergrant_core::ChainName;
use evergrant_core::alert::{
    Action, Alert, AlertState, Book, BookChange, Condition, Episode, Links, Quiet, Reminding, Told, advance,
    compose, gathering,
};
use evergrant_core::event::EventKind;
use evergrant_core::health::{
    Expected, FallbackFacts, Finding, GrantFacts, PushFacts, PushStatus, PushTrack, Serving, Span, TICK,
    conditions, push_status,
};
use evergrant_core::keeper::Report;
use evergrant_core::{Reason, chain};
use evergrant_store::{HealthState, State as _, StateError};
use futures_channel::mpsc::UnboundedReceiver;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};
use jiff::{SignedDuration, Timestamp};

use crate::world::World;

mod watched;

pub use watched::{WatchedChain, serving};

/// A server that has not said for so long that it listens did not.
const LISTENS: SignedDuration = SignedDuration::from_secs(150);
/// So far back the ledger is read for probes and refused grants.
const EVENTS_READ: usize = 100;
const PROBES_READ: usize = 3;
/// Somebody else may write the book in between so often.
const TRIES: usize = 5;

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
pub trait Watched: Clone + Send + Sync + 'static {
    /// Its name.
    fn chain(&self) -> &ChainName;
    /// Its provider's name.
    fn provider(&self) -> &str;
    /// What this process knows of it; nothing before the first look.
    fn live(&self, now: Timestamp) -> Option<Live>;
    /// When push events are expected; nothing if the chain has no push track.
    fn expected(&self, now: Timestamp) -> Option<Expected>;
    /// What an operator does about an episode.
    fn action(&self, episode: &Episode) -> Option<Action>;
}

/// Names the sinks that want an alert.
pub type Wanted = Arc<dyn Fn(&Alert) -> Vec<String> + Send + Sync>;

/// What an operator set.
#[derive(Clone)]
pub struct Alerting {
    /// Where alerts point to.
    pub links: Links,
    /// When reminders come.
    pub reminding: Reminding,
    /// The names of the sinks that want an alert.
    pub sinks: Wanted,
}

impl std::fmt::Debug for Alerting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alerting").field("links", &self.links).finish_non_exhaustive()
    }
}

/// The monitor of some chains.
#[derive(Debug, Clone)]
pub struct Monitor<W, C> {
    world: W,
    chains: Vec<C>,
    alerting: Alerting,
    open: Option<Open>,
}

/// Hears at every look of the episodes that are open, for sinks that forget them otherwise.
#[derive(Clone)]
pub struct Open(Arc<dyn Fn(Vec<Alert>) + Send + Sync>);

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open(…)")
    }
}

/// What was gathered of one chain.
struct Gathered<C> {
    chain: C,
    grant: Option<GrantFacts>,
    push: Option<PushFacts>,
    found: Vec<Finding>,
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
        Self { world, chains, alerting, open: None }
    }

    /// Tells at every look of the episodes that were announced and are open.
    #[must_use]
    pub fn telling(mut self, open: impl Fn(Vec<Alert>) + Send + Sync + 'static) -> Self {
        self.open = Some(Open(Arc::new(open)));
        self
    }

    /// Looks every minute and whenever it is poked, until `pokes` ends.
    pub async fn run(self, mut pokes: UnboundedReceiver<()>) {
        let mut failing = false;
        loop {
            match self.tick().await {
                Ok(_) => failing = false,
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
        for _ in 0..TRIES {
            let now = self.world.now();
            // Before the facts: what is written after it was read makes this look try again.
            let book = state.book(now).await?;
            let mut gathered = Vec::new();
            for chain in &self.chains {
                gathered.push(self.gather(chain, &listened, now).await?);
            }
            let change = self.bring_up(&book, &gathered, now);
            if change == BookChange::default() {
                self.tell_open(&book, &change, &gathered, now);
                return Ok(Vec::new());
            }
            if state.keep_book(book.version, &change).await? {
                self.tell_open(&book, &change, &gathered, now);
                let alerts: Vec<_> = change.alerts.into_iter().map(|(alert, _)| alert).collect();
                alerts.iter().for_each(log);
                return Ok(alerts);
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
        let push = match chain.expected(now) {
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
            Some(live) => Some(self.grant_facts(name, live, &facts).await?),
        };
        found.extend(grant.iter().flat_map(|grant| conditions(grant, now)));
        Ok(Gathered { chain: chain.clone(), grant, push, found })
    }

    async fn grant_facts(
        &self,
        chain: &ChainName,
        live: Live,
        push: &PushFacts,
    ) -> Result<GrantFacts, StateError> {
        let events = self.world.state().latest_events(chain, EVENTS_READ).await?;
        let events = || events.iter().map(|numbered| &numbered.event);
        let probes = events().filter(|event| event.kind == EventKind::Probed).take(PROBES_READ);
        let probes = probes.map(|event| (event.reason, (event.lineage, event.generation))).collect();
        let lineage = live.report.lineage;
        let refused = |event: &&evergrant_core::event::Event| {
            event.kind == EventKind::Found
                && event.reason == Reason::GrantRefused
                && lineage.is_none_or(|lineage| event.lineage == lineage)
        };
        let grant_refused_at = events().find(refused).map(|event| event.at);
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
            blind_since: push.agents.iter().filter_map(|agent| agent.blind_since).min(),
        })
    }

    fn tell_open(&self, book: &Book, change: &BookChange, gathered: &[Gathered<C>], now: Timestamp) {
        let Some(Open(tell)) = &self.open else { return };
        let old = book.episodes.iter().filter(|old| !change.episodes.iter().any(|new| new.id == old.id));
        let open = old.chain(&change.episodes).filter(|one| one.is_open() && one.announced_at.is_some());
        let place = |episode: &Episode| gathered.iter().position(|one| *one.chain.chain() == episode.chain);
        let say = open.filter_map(|open| Some((place(open)?, open.clone(), AlertState::Open))).collect();
        tell(self.compose(gathered, say, now).into_iter().map(|(alert, _)| alert).collect());
    }

    /// What the book has to say now.
    fn bring_up(&self, book: &Book, gathered: &[Gathered<C>], now: Timestamp) -> BookChange {
        let mut change = BookChange::default();
        let mut say: Vec<(usize, Episode, AlertState)> = Vec::new();
        for (index, one) in gathered.iter().enumerate() {
            let name = one.chain.chain();
            let same_provider = |other: &&Gathered<C>| {
                other.chain.provider() == one.chain.provider() && other.chain.chain() != name
            };
            let others: Vec<_> = gathered
                .iter()
                .filter(same_provider)
                .flat_map(|other| book.of(other.chain.chain()))
                .collect();
            let gathering = gathering(&others, now);
            let quiet = Quiet { muted: book.is_muted(name, now), gathering: &gathering };
            let advance = advance(name, &book.of(name), &one.found, quiet, self.alerting.reminding, now);
            change.episodes.extend(advance.changed);
            say.extend(advance.say.into_iter().map(|(episode, state)| (index, episode, state)));
        }
        change.alerts = self.compose(gathered, say, now);
        change
    }

    /// Episodes of one condition and provider that come to the same are told in one alert.
    fn compose(
        &self,
        gathered: &[Gathered<C>],
        mut say: Vec<(usize, Episode, AlertState)>,
        now: Timestamp,
    ) -> Vec<(Alert, Vec<String>)> {
        let mut alerts = Vec::new();
        while let Some((index, first, state)) = say.first().cloned() {
            let provider = gathered[index].chain.provider().to_owned();
            let (together, rest): (Vec<_>, Vec<_>) = say.into_iter().partition(|(other, episode, said)| {
                gathered[*other].chain.provider() == provider
                    && episode.condition == first.condition
                    && *said == state
            });
            say = rest;
            let told: Vec<_> = together
                .iter()
                .map(|(index, episode, _)| Told {
                    episode,
                    provider: &provider,
                    grant: gathered[*index].grant.as_ref(),
                    push: gathered[*index].push.as_ref(),
                    action: gathered[*index].chain.action(episode),
                })
                .collect();
            if let Some(alert) = compose(&told, state, &self.alerting.links, now) {
                let sinks = (self.alerting.sinks)(&alert);
                alerts.push((alert, sinks));
            }
        }
        alerts
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

fn log(alert: &Alert) {
    let Alert { id, status, state, summary, .. } = alert;
    let (state, chains) = (state.as_str(), alert.chains());
    match alert.state {
        AlertState::Open | AlertState::Reminder => {
            tracing::warn!(%id, %status, state, %chains, %summary, "alert");
        }
        AlertState::Closed => tracing::info!(%id, %status, state, %chains, %summary, "alert"),
    }
}
