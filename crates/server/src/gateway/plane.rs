//! What all threads of the data plane share: chains with their provider's rules, and limits. A new configuration is a
//! new plane.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::gateway::{ErrorShape, Injection, Position, Rules, Source};
use evergrant_core::{ChainName, Reason};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use url::Url;

use super::body::Budget;
use super::clock;
use super::fallback::FallbackKey;
use super::request::{Injected, Target};
use crate::http::{HttpClient, host};

/// Whoever renews a chain's access token.
pub trait Renewer: Send + Sync {
    /// The API refused the access token of this generation: it is probed, and renewed if it is dead. When this
    /// returns, the snapshot says what is current.
    fn refused(&self, position: Position) -> BoxFuture<'static, ()>;

    /// The API took the access token of this generation, and said that its grant may not do what was asked.
    fn grant_refused(&self, position: Position);
}

/// Finds chains that no configuration names: those of a database, once somebody asks for them.
pub trait Finder: Send + Sync {
    /// The chain of this name, its access token published; nothing if there is none.
    fn find(&self, name: &ChainName) -> BoxFuture<'static, Result<Option<ChainSettings>, NotAnswered>>;

    /// Nobody asks any more for those that were found, but for these.
    fn keep_only(&self, keep: &dyn Fn(&ChainName) -> bool);
}

/// Whoever knows the chains did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnswered;

/// One chain, as the gateway needs it.
pub struct ChainSettings {
    /// Its name.
    pub name: ChainName,
    /// Its provider.
    pub rules: Rules,
    /// Where the provider's API is.
    pub api_base: Url,
    /// How it is reached.
    pub client: HttpClient,
    /// What its snapshot holds: `Oauth`, or `ApiKey` where the chain is an API key.
    pub source: Source,
    /// What its secrets begin with: as much of them is shown.
    pub shown_prefix: Option<String>,
    /// What the provider's tokens and keys begin with: none of them is a caller key.
    pub provider_prefixes: Vec<String>,
    /// What serves when the chain cannot.
    pub fallback: Option<FallbackKey>,
    /// Who renews it; `None`: nobody can.
    pub renewer: Option<Arc<dyn Renewer>>,
    /// The terms that its operator has not accepted: it serves nothing.
    pub terms: Option<String>,
}

/// Limits of the data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// To a connection with the provider.
    pub connect: Duration,
    /// From a request's first byte to the end of its head.
    pub head: Duration,
    /// A connection without a request.
    pub idle: Duration,
    /// From a request's end to the head of its answer.
    pub answer: Duration,
    /// Between two pieces of an answer that may say something about the source.
    pub told: Duration,
    /// Between two pieces of an answer.
    pub stream_idle: Duration,
    /// Between two pieces that the client sends or takes.
    pub client: Duration,
    /// For the requests in hand when it ends.
    pub drain: Duration,
    /// What all copies for replays may take together, in bytes.
    pub replay_bytes: usize,
    /// Open connections of clients, of all threads together.
    pub connections: usize,
}

impl Default for Limits {
    /// SPEC §7.
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            answer: Duration::from_secs(600),
            told: Duration::from_secs(5),
            stream_idle: Duration::from_secs(300),
            client: Duration::from_secs(60),
            drain: Duration::from_secs(30),
            replay_bytes: 64 << 20,
            connections: 20_000,
        }
    }
}

/// One chain of the plane.
pub(super) struct Chain {
    pub(super) name: ChainName,
    /// What it is counted as with all that no configuration names, for they may be very many.
    like: Option<String>,
    pub(super) rules: Rules,
    pub(super) upstream: Upstream,
    pub(super) source: Source,
    pub(super) shown_prefix: Option<String>,
    pub(super) fallback: Option<Fallback>,
    pub(super) renewer: Option<Arc<dyn Renewer>>,
    pub(super) terms: Option<String>,
}

/// Where a chain's requests go.
pub(super) struct Upstream {
    /// Tells one target from another in the pools of the threads.
    pub(super) id: u64,
    pub(super) url: Url,
    pub(super) client: HttpClient,
    pub(super) target: Target,
}

pub(super) struct Fallback {
    pub(super) injected: Injected,
    pub(super) shown: String,
    pub(super) key: FallbackKey,
}

/// What all threads read.
pub struct Plane {
    pub(super) chains: Vec<Arc<Chain>>,
    by_name: HashMap<ChainName, usize>,
    /// Those that stand for others.
    templates: Vec<(String, Arc<Chain>)>,
    finder: Option<Arc<dyn Finder>>,
    found: Mutex<Found>,
    provider_prefixes: Vec<(String, String)>,
    pub(super) limits: Limits,
    pub(super) budget: Budget,
}

impl std::fmt::Debug for Plane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plane").field("chains", &self.by_name.keys()).finish_non_exhaustive()
    }
}

/// Chains that were looked for.
#[derive(Default)]
struct Found {
    by_name: HashMap<ChainName, Finding>,
    let_go_at: Duration,
}

/// What looking for a chain came to; an error: nobody could say.
type Looked = Result<Option<Arc<Chain>>, NotAnswered>;

/// One of them.
struct Finding {
    chain: Shared<BoxFuture<'static, Looked>>,
    /// When it was looked for, or asked for last.
    at: Duration,
}

/// A chain that was not found is looked for once in so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A chain that was found is kept for so long after the last request for it.
const KEPT: Duration = Duration::from_secs(3600);
/// When others are found, those that nobody asks for are let go, once in so long.
const LET_GO_EVERY: Duration = Duration::from_secs(60);

static TARGETS: AtomicU64 = AtomicU64::new(0);

impl Plane {
    /// The plane of a configuration.
    pub fn new(chains: Vec<ChainSettings>, limits: Limits) -> Self {
        let mut provider_prefixes = Vec::new();
        chains.iter().for_each(|chain| chain.note_prefixes(&mut provider_prefixes));
        let chains: Vec<_> = chains.into_iter().map(|chain| Arc::new(Chain::new(chain))).collect();
        let by_name = chains.iter().enumerate().map(|(index, chain)| (chain.name.clone(), index)).collect();
        let budget = Budget::new(limits.replay_bytes);
        let (templates, finder, found) = (Vec::new(), None, Mutex::default());
        Self { chains, by_name, templates, finder, found, provider_prefixes, limits, budget }
    }

    /// The same with chains that are found once somebody asks for them: those whose names begin so are like that one,
    /// whose name nobody asks for. The longest beginning comes first.
    #[must_use]
    pub fn finding(mut self, templates: Vec<(String, ChainSettings)>, finder: Arc<dyn Finder>) -> Self {
        templates.iter().for_each(|(_, like)| like.note_prefixes(&mut self.provider_prefixes));
        let like = templates.into_iter().map(|(prefix, like)| (prefix, Arc::new(Chain::new(like))));
        self.templates = like.collect();
        self.finder = Some(finder);
        self
    }

    /// The number of a chain that the configuration names.
    pub(super) fn number(&self, name: &ChainName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The chain of this name, as far as it is known now.
    pub(super) fn chain(&self, name: &ChainName) -> Option<Arc<Chain>> {
        if let Some(number) = self.number(name) {
            return self.chains.get(number).cloned();
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let finding = found.by_name.get_mut(name)?;
        let chain = finding.chain.peek()?.clone().ok()??;
        finding.at = clock::age(clock::now());
        Some(chain)
    }

    /// Looks for a chain that is not known, together with all who do. Nothing: it is known already, or nobody could find
    /// it.
    pub(super) fn find(&self, name: &ChainName) -> Option<impl Future<Output = ()> + use<>> {
        let begins = |(prefix, _): &(String, Arc<Chain>)| name.as_str().starts_with(prefix.as_str());
        if self.number(name).is_some() {
            return None;
        }
        let (prefix, like) = self.templates.iter().find(|template| begins(template))?;
        let finder = self.finder.as_ref()?;
        let now = clock::age(clock::now());
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(finding) = found.by_name.get(name) {
            match finding.chain.peek() {
                Some(Ok(Some(_))) => return None,
                Some(Ok(None) | Err(_)) if now.saturating_sub(finding.at) < LOOK_AGAIN => return None,
                Some(Ok(None) | Err(_)) => {}
                None => return Some(finding.chain.clone().map(drop)),
            }
        }
        found.let_go(finder.as_ref(), now);
        let (upstream, like) = (like.upstream.id, format!("{prefix}*"));
        let chain = finder.find(name).map(move |found| {
            let Some(settings) = found? else { return Ok(None) };
            let mut chain = Chain::new(settings);
            // They share the connections.
            chain.upstream.id = upstream;
            chain.like = Some(like);
            Ok(Some(Arc::new(chain)))
        });
        let chain = chain.boxed().shared();
        found.by_name.insert(name.clone(), Finding { chain: chain.clone(), at: now });
        Some(chain.map(drop))
    }

    /// Whether the last one who looked for the chain was not answered.
    pub(super) fn not_answered(&self, name: &ChainName) -> bool {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.by_name.get(name).is_some_and(|finding| matches!(finding.chain.peek(), Some(Err(_))))
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.chains.iter().chain(self.templates.iter().map(|(_, chain)| chain))
    }

    /// The shape of errors below the path, if that is one of the routes.
    pub(super) fn route_of(&self, path: &str) -> Option<ErrorShape> {
        let below = |chain: &&Arc<Chain>| chain.rules.below_route(path).is_some();
        self.all().find(below).map(|chain| chain.rules.errors)
    }

    /// The shape of errors where no path is known.
    pub(super) fn shape(&self) -> ErrorShape {
        self.all().next().map_or(ErrorShape::Problem, |chain| chain.rules.errors)
    }

    /// The client's variable to set, if what was presented is a provider's own.
    pub(super) fn provider_token(&self, presented: &[u8]) -> Option<&str> {
        let bears = |(prefix, _): &&(String, String)| presented.starts_with(prefix.as_bytes());
        self.provider_prefixes.iter().find(bears).map(|(_, variable)| variable.as_str())
    }
}

impl ChainSettings {
    /// Adds what the provider's own secrets begin with, each with the variable that a client sets instead.
    fn note_prefixes(&self, known: &mut Vec<(String, String)>) {
        for prefix in self.provider_prefixes.iter().filter(|prefix| !prefix.is_empty()) {
            let pair = (prefix.clone(), self.rules.client_variable.clone());
            if !known.contains(&pair) {
                known.push(pair);
            }
        }
    }
}

impl Found {
    /// Lets those go that nobody has asked for lately.
    fn let_go(&mut self, finder: &dyn Finder, now: Duration) {
        if now < self.let_go_at {
            return;
        }
        self.let_go_at = now + LET_GO_EVERY;
        // Who waits for one that is looked for has not asked for it yet.
        self.by_name
            .retain(|_, finding| finding.chain.peek().is_none() || now.saturating_sub(finding.at) < KEPT);
        finder.keep_only(&|name| self.by_name.contains_key(name));
    }
}

impl Chain {
    fn new(settings: ChainSettings) -> Self {
        let ChainSettings {
            name, rules, api_base: url, client, source, shown_prefix, renewer, terms, ..
        } = settings;
        let base = url.path().trim_end_matches('/').to_owned();
        let target = Target { host: host(&url), base };
        let upstream = Upstream { id: TARGETS.fetch_add(1, Ordering::Relaxed), url, client, target };
        let fallback = settings.fallback.map(|key| Fallback {
            injected: Injected::new(&rules.api_key, key.key.expose()),
            shown: key.key.shown(key.prefix.as_deref()),
            key,
        });
        Self { name, like: None, rules, upstream, source, shown_prefix, fallback, renewer, terms }
    }

    /// What it is counted as, and from whom: a label for each of a million chains would drown the others.
    pub(super) fn labels<'a>(&'a self, caller: &'a str) -> (&'a str, &'a str) {
        match &self.like {
            Some(like) => (like, "*"),
            None => (self.name.as_str(), caller),
        }
    }

    /// How its own secret is injected.
    pub(super) fn injection(&self) -> &Injection {
        match self.source {
            Source::ApiKey => &self.rules.api_key,
            Source::Oauth | Source::Fallback | Source::None => &self.rules.oauth,
        }
    }

    /// Why nothing serves, for a person.
    pub(super) fn why_not(&self, reason: Reason) -> String {
        let name = &self.name;
        match (&self.terms, reason) {
            (Some(terms), _) => format!(
                "chain {name} serves nothing until its login's owner accepts the provider's terms ({terms}): set \
                 accept_provider_terms = true on it, or set {}",
                self.rules.fallback_variable.as_deref().unwrap_or("fallback_key_file")
            ),
            (None, Reason::FallbackUsedUp) => format!(
                "chain {name} has no live access token, and today's requests for the fallback key are used up: see \
                 `evergrant status`, or raise fallback.max_requests_per_day"
            ),
            (None, _) => format!(
                "chain {name} has no live access token, and no fallback key serves: see `evergrant status`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use evergrant_core::provider::Profile;
    use futures_util::FutureExt as _;

    use super::*;

    /// Finds whatever is asked for, and notes who was kept last.
    #[derive(Default)]
    struct Anybody {
        kept: Mutex<BTreeSet<ChainName>>,
    }

    fn name(name: &str) -> ChainName {
        name.parse().unwrap()
    }

    fn settings(name: &ChainName) -> ChainSettings {
        let profile = Profile::claude();
        ChainSettings {
            name: name.clone(),
            rules: profile.gateway.clone().unwrap(),
            api_base: profile.api_base,
            client: HttpClient::new(None).unwrap(),
            source: Source::Oauth,
            shown_prefix: None,
            provider_prefixes: Vec::new(),
            fallback: None,
            renewer: None,
            terms: None,
        }
    }

    struct Nobody;

    impl Finder for Nobody {
        fn find(&self, _: &ChainName) -> BoxFuture<'static, Result<Option<ChainSettings>, NotAnswered>> {
            std::future::ready(Err(NotAnswered)).boxed()
        }

        fn keep_only(&self, _: &dyn Fn(&ChainName) -> bool) {}
    }

    impl Finder for Anybody {
        fn find(&self, name: &ChainName) -> BoxFuture<'static, Result<Option<ChainSettings>, NotAnswered>> {
            std::future::ready(Ok(Some(settings(name)))).boxed()
        }

        fn keep_only(&self, keep: &dyn Fn(&ChainName) -> bool) {
            let all = ["team-1", "team-2", "team-3"].map(name);
            *self.kept.lock().unwrap() = all.into_iter().filter(|name| keep(name)).collect();
        }
    }

    fn plane() -> (Plane, Arc<Anybody>) {
        let finder = Arc::new(Anybody::default());
        let templates = vec![("team-".to_owned(), settings(&name("team-")))];
        (Plane::new(Vec::new(), Limits::default()).finding(templates, finder.clone()), finder)
    }

    fn find(plane: &Plane, name: &ChainName) -> Arc<Chain> {
        plane.find(name).unwrap().now_or_never().unwrap();
        plane.chain(name).unwrap()
    }

    #[test]
    fn chains_that_are_found_share_connections_and_counters() {
        let (plane, _) = plane();
        let (one, two) = (find(&plane, &name("team-1")), find(&plane, &name("team-2")));
        assert_eq!(one.upstream.id, two.upstream.id);
        assert_eq!(one.labels("somebody"), ("team-*", "*"), "and are counted together");
        assert!(plane.find(&name("other-1")).is_none(), "nobody could find it");
    }

    #[test]
    fn a_chain_that_cannot_be_looked_for_is_no_chain_that_is_not_there() {
        let mut like = settings(&name("team-"));
        like.provider_prefixes.push("sk-ant-oat01-".to_owned());
        let templates = vec![("team-".to_owned(), like)];
        let plane = Plane::new(Vec::new(), Limits::default()).finding(templates, Arc::new(Nobody));
        let one = name("team-1");
        assert!(!plane.not_answered(&one));
        plane.find(&one).unwrap().now_or_never().unwrap();
        assert!(plane.chain(&one).is_none() && plane.not_answered(&one));
        assert!(plane.provider_token(b"sk-ant-oat01-x").is_some(), "and what its provider gives is known");
    }

    #[test]
    fn chains_that_nobody_asks_for_are_let_go() {
        let (plane, finder) = plane();
        let [idle, used] = ["team-1", "team-2"].map(name);
        for name in [&idle, &used] {
            find(&plane, name);
        }
        let mut found = plane.found.lock().unwrap();
        let later = clock::age(clock::now()) + KEPT;
        found.by_name.get_mut(&used).unwrap().at = later;
        found.let_go(finder.as_ref(), later + LET_GO_EVERY);
        assert_eq!(*finder.kept.lock().unwrap(), BTreeSet::from([used.clone()]));
        drop(found);
        assert!(plane.chain(&idle).is_none() && plane.chain(&used).is_some());
        assert!(plane.find(&idle).is_some(), "and it is found again");
    }
}
