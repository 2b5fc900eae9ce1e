//! Brings the book of episodes up to what was found of chains, with the alerts that tell of it (SPEC §6).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evergrant_core::ChainName;
use evergrant_core::alert::{
    Action, Alert, AlertState, Book, BookChange, Episode, Links, Quiet, Reminding, Told, advance, compose,
    gathering,
};
use evergrant_core::health::{Finding, GrantFacts, PushFacts};
use evergrant_store::{HealthState, StateError};
use jiff::Timestamp;

use crate::world::World;

/// A chain as alerts speak of it.
pub trait Described: Clone + Send + Sync + 'static {
    /// Its name.
    fn chain(&self) -> &ChainName;
    /// Its provider's name.
    fn provider(&self) -> &str;
    /// What an operator does about an episode, where logins are made in the folder `config_dir` of a workstation.
    fn action(&self, episode: &Episode, config_dir: Option<&str>) -> Option<Action>;
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

/// Hears at every look of the episodes that are open, for sinks that forget them otherwise.
#[derive(Clone)]
struct Open(Arc<dyn Fn(Vec<Alert>) + Send + Sync>);

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open(…)")
    }
}

/// What was gathered of one chain.
pub struct Gathered<C> {
    /// The chain.
    pub chain: C,
    /// Its grant, if it was looked at.
    pub grant: Option<GrantFacts>,
    /// Its push events, if it has a push track.
    pub push: Option<PushFacts>,
    /// The conditions that hold.
    pub found: Vec<Finding>,
}

/// What a look made of the book.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Brought {
    /// The alerts that were made.
    pub alerts: Vec<Alert>,
    /// Chains with an episode that is open, or whose closing alert is held back.
    pub open: BTreeSet<ChainName>,
}

/// Writes the book of episodes.
#[derive(Debug, Clone)]
pub struct EpisodeKeeper<W> {
    world: W,
    alerting: Alerting,
    open: Option<Open>,
}

impl<W: World<State: HealthState>> EpisodeKeeper<W> {
    /// One that has written nothing yet.
    pub fn new(world: W, alerting: Alerting) -> Self {
        Self { world, alerting, open: None }
    }

    /// Tells at every look of the episodes that were announced and are open.
    #[must_use]
    pub fn telling(mut self, open: impl Fn(Vec<Alert>) + Send + Sync + 'static) -> Self {
        self.open = Some(Open(Arc::new(open)));
        self
    }

    /// Brings the book up to what was gathered after it was read. Nothing: somebody else has written it since.
    pub async fn bring_up<C: Described>(
        &self,
        book: &Book,
        gathered: &[Gathered<C>],
        now: Timestamp,
    ) -> Result<Option<Brought>, StateError> {
        let change = self.change(book, gathered, now);
        let kept =
            change == BookChange::default() || self.world.state().keep_book(book.version, &change).await?;
        if !kept {
            return Ok(None);
        }
        let new: BTreeSet<_> = change.episodes.iter().map(|episode| &episode.id).collect();
        let old = book.episodes.iter().filter(|old| !new.contains(&old.id));
        let now_so: Vec<_> = old.chain(&change.episodes).collect();
        self.tell_open(&now_so, gathered, now);
        let unsettled = now_so.iter().filter(|episode| episode.is_open() || episode.owed);
        let open = unsettled.map(|episode| episode.chain.clone()).collect();
        let alerts: Vec<_> = change.alerts.into_iter().map(|(alert, _)| alert).collect();
        alerts.iter().for_each(log);
        Ok(Some(Brought { alerts, open }))
    }

    fn tell_open<C: Described>(&self, episodes: &[&Episode], gathered: &[Gathered<C>], now: Timestamp) {
        let Some(Open(tell)) = &self.open else { return };
        let places: BTreeMap<_, _> =
            gathered.iter().enumerate().map(|(place, one)| (one.chain.chain(), place)).collect();
        let open = episodes.iter().filter(|one| one.is_open() && one.announced_at.is_some());
        let say = open.filter_map(|one| Some((*places.get(&one.chain)?, (*one).clone(), AlertState::Open)));
        tell(self.compose(gathered, say.collect(), now).into_iter().map(|(alert, _)| alert).collect());
    }

    /// What the book has to say now.
    fn change<C: Described>(&self, book: &Book, gathered: &[Gathered<C>], now: Timestamp) -> BookChange {
        let mut change = BookChange::default();
        let mut say: Vec<(usize, Episode, AlertState)> = Vec::new();
        let mut known: BTreeMap<&ChainName, Vec<Episode>> = BTreeMap::new();
        for episode in &book.episodes {
            known.entry(&episode.chain).or_default().push(episode.clone());
        }
        for (index, one) in gathered.iter().enumerate() {
            let name = one.chain.chain();
            let gathering = gathering(&book.lately, one.chain.provider(), name, now);
            let quiet = Quiet { muted: book.is_muted(name, now), gathering: &gathering };
            let known = known.get(name).map_or(&[][..], Vec::as_slice);
            let advance = advance(name, known, &one.found, quiet, self.alerting.reminding, now);
            change.episodes.extend(advance.changed);
            say.extend(advance.say.into_iter().map(|(episode, state)| (index, episode, state)));
        }
        change.alerts = self.compose(gathered, say, now);
        change
    }

    /// Episodes of one condition and provider that come to the same are told in one alert.
    fn compose<C: Described>(
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
                .map(|(index, episode, _)| {
                    let Gathered { chain, grant, push, .. } = &gathered[*index];
                    let config_dir = push.as_ref().and_then(PushFacts::config_dir);
                    let action = chain.action(episode, config_dir);
                    Told { episode, provider: &provider, grant: grant.as_ref(), push: push.as_ref(), action }
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
