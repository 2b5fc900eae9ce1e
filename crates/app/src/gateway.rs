//! Wires chains to the gateway: what it serves them with, where it listens, and TLS.

use std::sync::Arc;

use evergrant_core::ChainName;
use evergrant_core::gateway::Source;
use evergrant_server::gateway::{
    Act, Bound, ChainRenewer, ChainSettings as GatewayChain, DayCount, FallbackKey, FallbackUses, Finder,
    NotAnswered, Plane, Renewer, note_grant_refused,
};
use evergrant_server::http::HttpClient;
use evergrant_server::{Renewable, tls};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio_rustls::TlsAcceptor;

use crate::config::{ChainSettings, Settings, reachable_without_tls};
use crate::host::{Chain, Host};

/// The plane of a configuration.
pub(crate) fn plane(host: &Host, settings: &Settings, chains: &[Chain], uses: &FallbackUses) -> Plane {
    let pairs = settings.chains.iter().zip(chains);
    let forwarded = pairs.filter_map(|(chain, running)| one_chain(host, settings, chain, running, uses));
    let plane = Plane::new(forwarded.collect(), settings.gateway.limits.clone());
    if host.rows.is_none() || settings.templates.is_empty() {
        return plane;
    }
    let like = settings.templates.iter().filter_map(|template| {
        let like = template.common();
        let route = Route { client: host.world.client().clone(), is_api_key: false, renewer: None };
        Some((template.prefix.clone(), gateway_chain(settings, like, route, uses)?))
    });
    let runtime = tokio::runtime::Handle::current();
    let finder =
        RowFinder { host: host.clone(), settings: Arc::new(settings.clone()), uses: uses.clone(), runtime };
    plane.finding(like.collect(), Arc::new(finder))
}

/// How a chain's requests go.
struct Route {
    client: HttpClient,
    is_api_key: bool,
    renewer: Option<Arc<dyn Renewer>>,
}

fn one_chain(
    host: &Host,
    settings: &Settings,
    chain: &ChainSettings,
    running: &Chain,
    uses: &FallbackUses,
) -> Option<GatewayChain> {
    let is_api_key = running.is_api_key();
    let renewer = || Arc::new(renewer(host, running)) as Arc<dyn Renewer>;
    let renewer = (!is_api_key).then(renewer);
    let route = Route { client: running.world.client().clone(), is_api_key, renewer };
    gateway_chain(settings, chain, route, uses)
}

fn gateway_chain(
    settings: &Settings,
    chain: &ChainSettings,
    Route { client, is_api_key, renewer }: Route,
    uses: &FallbackUses,
) -> Option<GatewayChain> {
    let profile = &chain.policy.profile;
    let rules = profile.gateway.clone()?;
    let fallback = fallback_key(settings, chain, uses);
    let prefixes = [&profile.access_prefix, &profile.refresh_prefix, &profile.api_key_prefix];
    Some(GatewayChain {
        name: chain.name.clone(),
        rules,
        api_base: profile.api_base.clone(),
        client,
        source: if is_api_key { Source::ApiKey } else { Source::Oauth },
        shown_prefix: if is_api_key { &profile.api_key_prefix } else { &profile.access_prefix }.clone(),
        provider_prefixes: prefixes.into_iter().flatten().cloned().collect(),
        fallback,
        renewer,
        terms: profile.terms.clone().filter(|_| !chain.accepted),
    })
}

/// Finds the database's chains that no section names, for the first request that asks for one.
struct RowFinder {
    host: Host,
    settings: Arc<Settings>,
    uses: FallbackUses,
    /// The database is asked where its connections live.
    runtime: tokio::runtime::Handle,
}

impl Finder for RowFinder {
    fn find(&self, name: &ChainName) -> BoxFuture<'static, Result<Option<GatewayChain>, NotAnswered>> {
        let Self { host, settings, uses, .. } = self;
        let (host, settings, uses, name) = (host.clone(), settings.clone(), uses.clone(), name.clone());
        let task = self.runtime.spawn(async move {
            let found = host.find(&settings, &name).await;
            let found = found.map_err(|error| {
                tracing::warn!(chain = %name, %error, "a chain cannot be looked for");
                NotAnswered
            })?;
            Ok(found.and_then(|(chain, running)| one_chain(&host, &settings, &chain, &running, &uses)))
        });
        task.map(|found| found.unwrap_or(Err(NotAnswered))).boxed()
    }

    fn keep_only(&self, keep: &dyn Fn(&ChainName) -> bool) {
        let named = |name: &ChainName| self.settings.chains.iter().any(|chain| chain.name == *name);
        self.host.snapshots.keep_only(|name| named(name) || keep(name));
    }
}

pub(crate) fn fallback_key(
    settings: &Settings,
    chain: &ChainSettings,
    uses: &FallbackUses,
) -> Option<FallbackKey> {
    chain.fallback_key.as_ref()?;
    fallback_key_counted(settings, chain, uses.of(&chain.name))
}

/// The same, where its uses are counted elsewhere.
pub(crate) fn fallback_key_counted(
    settings: &Settings,
    chain: &ChainSettings,
    uses: Arc<DayCount>,
) -> Option<FallbackKey> {
    Some(FallbackKey {
        key: chain.fallback_key.clone()?,
        prefix: chain.policy.profile.api_key_prefix.clone(),
        on: settings.gateway.fallback_on,
        max_requests_per_day: settings.gateway.max_fallbacks_per_day,
        uses,
    })
}

fn renewer(host: &Host, running: &Chain) -> ChainRenewer {
    let chain = running.clone();
    let renew: Act = Box::new(move |position| {
        let chain = chain.clone();
        async move {
            chain.access_refused(position).await;
        }
        .boxed()
    });
    let name = running.chain().clone();
    let (client, runtime) = (running.world.client().clone(), tokio::runtime::Handle::current());
    let (profile, snapshots) = (running.profile().clone(), host.snapshots.clone());
    ChainRenewer::new(
        name.clone(),
        profile,
        client,
        snapshots,
        runtime,
        renew,
        note_grant_refused(host.world.clone(), name),
    )
}

/// The listening sockets: one that the service manager hands over, or our own.
pub(crate) fn bind(settings: &Settings) -> Result<Bound, String> {
    let threads = settings.gateway.threads;
    let mut handed_over = listenfd::ListenFd::from_env();
    match handed_over.take_tcp_listener(0) {
        Ok(Some(socket)) => {
            let bound = Bound::handed_over(socket, threads)
                .map_err(|error| format!("the socket that was handed over cannot be used: {error}"))?;
            if reachable_without_tls(bound.address(), settings.behind_proxy || settings.tls.is_some()) {
                return Err(format!(
                    "the socket that was handed over listens on {}, which others can reach without TLS: set tls_cert \
                     and tls_key, or put a proxy that ends TLS in front and set behind_proxy = true",
                    bound.address()
                ));
            }
            return Ok(bound);
        }
        Ok(None) => {}
        Err(error) => return Err(format!("what was handed over is no TCP socket that listens: {error}")),
    }
    Bound::bind(settings.listen, threads).map_err(|error| {
        format!("cannot listen on {}: {error}; set [http] listen, or end what listens there", settings.listen)
    })
}

/// What serves TLS, if it is served.
pub(crate) fn acceptor(settings: &Settings) -> Result<Option<TlsAcceptor>, String> {
    let Some((cert, key)) = &settings.tls else { return Ok(None) };
    tls::acceptor(cert, key).map(Some).map_err(|error| error.to_string())
}
