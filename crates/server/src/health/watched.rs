//! A chain of this process as the monitor and the admin calls see it.

use std::fmt;

use evergrant_core::ChainName;
use evergrant_core::alert::{Action, ActionContext, Episode, action};
use evergrant_core::caller::Scope;
use evergrant_core::gateway::{Choice, Fallback, Position, Source, choose};
use evergrant_core::health::{Expected, FallbackFacts, Serving};
use evergrant_store::VaultState;
use jiff::Timestamp;

use super::{Described, Live, Watched};
use crate::caller::Callers;
use crate::chain::Chain;
use crate::gateway::{FallbackKey, day_of};
use crate::renewable::Renewable;
use crate::snapshot::Snapshots;
use crate::world::World;

/// A chain, and what its settings say of its health.
#[derive(Clone)]
pub struct WatchedChain<W: World> {
    /// The chain.
    pub chain: Chain<W>,
    /// What readers see of it.
    pub snapshots: Snapshots,
    /// The key behind it.
    pub fallback: Option<FallbackKey>,
    /// It has a push track, whether or not a key with scope `push` names it.
    pub push: bool,
    /// When push events are expected.
    pub expected: Expected,
    /// Other programs may read its access token.
    pub token_read: bool,
    /// Who may push.
    pub callers: Callers,
}

impl<W: World<State: VaultState>> fmt::Debug for WatchedChain<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WatchedChain").field(self.chain.chain()).finish()
    }
}

impl<W: World<State: VaultState>> Described for WatchedChain<W> {
    fn chain(&self) -> &ChainName {
        self.chain.chain()
    }

    fn provider(&self) -> &str {
        &self.chain.profile().name
    }

    fn action(&self, episode: &Episode, config_dir: Option<&str>) -> Option<Action> {
        let context = ActionContext {
            chain: self.chain.chain(),
            kind: self.chain.record().map_or(self.chain.kind, |record| record.kind),
            profile: self.chain.profile(),
            reason: episode.reason,
            config_dir,
        };
        action(episode.condition, &context)
    }
}

impl<W: World<State: VaultState>> Watched for WatchedChain<W> {
    fn live(&self, now: Timestamp) -> Option<Live> {
        let report = self.chain.last_report()?;
        let record = self.chain.record();
        Some(Live {
            kind: record.as_ref().map_or(self.chain.kind, |record| record.kind),
            report,
            record,
            clock_offset_secs: self.chain.clock_offset_secs(),
            serving: serving(&self.chain, &self.snapshots, self.fallback.as_ref(), now),
            fallback: self.fallback.as_ref().map_or_else(FallbackFacts::default, |key| key.facts(now)),
        })
    }

    fn expected(&self) -> Option<Expected> {
        let name = self.chain.chain();
        (self.push || self.callers.table().anybody_missed(Scope::Push, name)).then(|| self.expected.clone())
    }
}

/// What would serve a request for this chain now, from a caller whom the fallback key may serve.
pub fn serving(
    chain: &impl Renewable,
    snapshots: &Snapshots,
    fallback: Option<&FallbackKey>,
    now: Timestamp,
) -> Serving {
    let live = snapshots.current(chain.chain()).filter(|current| current.usable(now));
    let own = if chain.is_api_key() { Source::ApiKey } else { Source::Oauth };
    serving_of(live.map(|current| (current.position, current.expires_at)), own, fallback, now)
}

/// What would serve a request now, where an access token or key (`own`) is `live` until then.
pub fn serving_of(
    live: Option<(Position, Timestamp)>,
    own: Source,
    fallback: Option<&FallbackKey>,
    now: Timestamp,
) -> Serving {
    let works = |key: &FallbackKey| key.uses.usable() != Some(false);
    let left = |key: &FallbackKey| key.uses.left(day_of(now), key.max_requests_per_day);
    let reserve = Fallback::of(fallback.is_some_and(works), true, fallback.is_some_and(left));
    let on = fallback.map(|key| key.on).unwrap_or_default();
    let source = match choose(live.map(|(position, _)| position), reserve, on) {
        Choice::Oauth(_) => own,
        Choice::Fallback => Source::Fallback,
        Choice::None(_) => Source::None,
    };
    // An API key has no end that is known.
    let until = live.map(|(_, until)| until).filter(|_| source == Source::Oauth);
    Serving { source, until }
}
