//! Wires chains to the gateway: what it serves them with, and what their fallback keys have served and are worth.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::event::{Event, EventKind};
use evergrant_core::gateway::{Injection, Position, Source};
use evergrant_core::{ApiKey, ChainName, Reason};
use evergrant_server::gateway::{
    Act, Bound, ChainRenewer, ChainSettings as GatewayChain, DayCount, FallbackKey, Plane, day_of,
};
use evergrant_server::{Renewable, World, tls};
use evergrant_store::State;
use futures_util::FutureExt as _;
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use url::Url;

use crate::chain::Chain;
use crate::config::{ChainSettings, Settings};
use crate::host::Host;

/// How often the uses of fallback keys are written down.
const SAVE_USES: Duration = Duration::from_secs(1);
/// How often it is looked at whether a fallback key still works.
const CHECK_KEYS: Duration = Duration::from_secs(24 * 3600);
const FIRST_CHECK: Duration = Duration::from_secs(1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// A grant that is refused again and again is written down once in so long.
const GRANT_REFUSED_EVERY: Duration = Duration::from_secs(60);

/// What fallback keys have served today, by chain. It outlives configurations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uses(Arc<Mutex<BTreeMap<ChainName, Arc<DayCount>>>>);

impl Uses {
    fn of(&self, chain: &ChainName) -> Arc<DayCount> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(chain.clone()).or_default().clone()
    }

    fn all(&self) -> BTreeMap<ChainName, Arc<DayCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what was served to the state's count, and reads what other processes have added.
    pub(crate) async fn save(&self, host: &Host) {
        let day = day_of(host.world.now());
        for (chain, count) in self.all() {
            let uses = count.unsaved(day);
            match host.state.add_fallback_uses(&chain, day, uses).await {
                Ok(total) => count.seen(day, total),
                Err(error) => {
                    count.not_saved(day, uses);
                    tracing::warn!(%chain, %error, "the fallback key's uses could not be written down yet");
                }
            }
        }
    }

    /// Keeps doing that.
    pub(crate) async fn keep_saving(self, host: Arc<Host>) {
        loop {
            self.save(&host).await;
            tokio::time::sleep(SAVE_USES).await;
        }
    }
}

/// The plane of a configuration.
pub(crate) fn plane(host: &Host, settings: &Settings, chains: &[Chain], uses: &Uses) -> Plane {
    let pairs = settings.chains.iter().zip(chains);
    let forwarded = pairs.filter_map(|(chain, running)| one_chain(host, settings, chain, running, uses));
    Plane::new(forwarded.collect(), settings.gateway.limits.clone())
}

fn one_chain(
    host: &Host,
    settings: &Settings,
    chain: &ChainSettings,
    running: &Chain,
    uses: &Uses,
) -> Option<GatewayChain> {
    let profile = &chain.policy.profile;
    let rules = profile.gateway.clone()?;
    let fallback = chain.fallback_key.as_ref().map(|key| FallbackKey {
        key: key.clone(),
        prefix: profile.api_key_prefix.clone(),
        on: settings.gateway.fallback_on,
        max_requests_per_day: settings.gateway.max_fallbacks_per_day,
        uses: uses.of(&chain.name),
    });
    let prefixes = [&profile.access_prefix, &profile.refresh_prefix, &profile.api_key_prefix];
    Some(GatewayChain {
        name: chain.name.clone(),
        rules,
        api_base: profile.api_base.clone(),
        client: running.world.client().clone(),
        source: if running.is_api_key() { Source::ApiKey } else { Source::Oauth },
        shown_prefix: if running.is_api_key() { &profile.api_key_prefix } else { &profile.access_prefix }
            .clone(),
        provider_prefixes: prefixes.into_iter().flatten().cloned().collect(),
        fallback,
        renewer: if running.is_api_key() { None } else { Some(Arc::new(renewer(host, running))) },
        terms: profile.terms.clone().filter(|_| !chain.accepted),
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
    ChainRenewer::new(name.clone(), profile, client, snapshots, runtime, renew, grant_refused(host, name))
}

/// Writes down that a grant may not do what was asked of it.
fn grant_refused(host: &Host, chain: ChainName) -> Act {
    let last: Arc<Mutex<Option<(Position, Duration)>>> = Arc::default();
    let (world, state) = (host.world.clone(), host.state.clone());
    Box::new(move |position| {
        let (last, world, state, chain) = (last.clone(), world.clone(), state.clone(), chain.clone());
        async move {
            let now = world.monotonic();
            {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let again = |(before, at): (Position, Duration)| before == position && now - at < GRANT_REFUSED_EVERY;
                if last.is_some_and(again) {
                    return;
                }
                *last = Some((position, now));
            }
            let (lineage, generation) = position;
            let reason = Reason::GrantRefused;
            tracing::warn!(%reason, %chain, %lineage, %generation, "the grant may not do what a request asked of it");
            let event = Event {
                chain,
                at: world.now(),
                kind: EventKind::Found,
                reason,
                lineage,
                generation,
                attempt: None,
                detail: json!({ "by": "gateway" }),
            };
            if let Err(error) = state.add_events(&[event]).await {
                tracing::warn!(%error, "that could not be written to the ledger");
            }
        }
        .boxed()
    })
}

/// Looks once a day whether the fallback keys work, by a call that costs nothing (SPEC §7).
pub(crate) async fn check_fallback_keys(chains: Vec<(ChainSettings, Chain)>) {
    tokio::time::sleep(FIRST_CHECK).await;
    loop {
        for (settings, running) in &chains {
            check_fallback_key(settings, running).await;
        }
        tokio::time::sleep(CHECK_KEYS).await;
    }
}

async fn check_fallback_key(settings: &ChainSettings, running: &Chain) {
    let profile = &settings.policy.profile;
    let (Some(key), Some(rules), Some(path)) =
        (&settings.fallback_key, &profile.gateway, &profile.round_trip)
    else {
        return;
    };
    let Ok(url) = profile.api_base.join(path) else { return };
    let chain = &settings.name;
    let shown = key.shown(profile.api_key_prefix.as_deref());
    match ask(running, &url, &rules.api_key, &rules.defaults, key).await {
        Some(200) => {
            tracing::info!(reason = %Reason::FallbackKeyOk, %chain, key = shown, "the fallback key works");
        }
        Some(status @ (401 | 403)) => tracing::warn!(
            reason = %Reason::FallbackKeyRefused, %chain, key = shown, status,
            "the provider refuses the fallback key: requests will fail when the chain does; put a key that works in \
             its place"
        ),
        status => tracing::debug!(%chain, key = shown, ?status, "nothing was learned about the fallback key"),
    }
}

async fn ask(
    running: &Chain,
    url: &Url,
    how: &Injection,
    defaults: &[(String, String)],
    key: &ApiKey,
) -> Option<u16> {
    let mut headers = defaults.to_vec();
    headers.push((how.header.clone(), format!("{}{}", how.before, key.expose())));
    let call = running.world.client().call(http::Method::GET, url, &headers, bytes::Bytes::new());
    let reply = tokio::time::timeout(CHECK_TIMEOUT, call).await.ok()?.ok()?;
    Some(reply.status)
}

/// The listening sockets: one that the service manager hands over, or our own.
pub(crate) fn bind(settings: &Settings) -> Result<Bound, String> {
    let threads = settings.gateway.threads;
    let mut handed_over = listenfd::ListenFd::from_env();
    match handed_over.take_tcp_listener(0) {
        Ok(Some(socket)) => {
            let bound = Bound::handed_over(socket, threads)
                .map_err(|error| format!("the socket that was handed over cannot be used: {error}"))?;
            let secured = settings.behind_proxy || settings.tls.is_some();
            if !bound.address().ip().to_canonical().is_loopback() && !secured {
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
