//! What a running server may be asked: `/healthz`, `/readyz`, `/metrics` by anybody, and the calls below
//! `/api/v1/admin/system/` by callers whose key has the scope (SPEC §9). The files below mirror the addresses.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evergrant_core::caller::{NoChain, chain_of};
use evergrant_core::{ChainName, Reason};
use evergrant_store::{HealthState, StateError, VaultState};
use futures_channel::mpsc::UnboundedSender;
use futures_util::future::BoxFuture;

use crate::caller::Callers;
use crate::health::WatchedChain;
use crate::metrics::Metrics;
use crate::renewable::Renewable as _;
use crate::tokio_world::TokioWorld;
use crate::world::World;

mod authorized;
mod body;
mod chains;
mod episodes;
mod keys;
mod problem;
mod runbook;
mod token_push;

pub use authorized::{AdminRead, AdminWrite, Authorized, Needs, Push, TokenRead};
pub use body::{MAX_BODY_LEN, Parsed};
pub use problem::Problem;

/// What the calls work with.
#[derive(Debug, Clone)]
pub struct Admin<S: VaultState> {
    /// Clock, randomness and state.
    pub world: TokioWorld<S>,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Who may call.
    pub callers: Callers,
    /// The chains that are configured.
    pub chains: Chains<S>,
}

/// A chain of this process, as the calls see it.
pub type AdminChain<S> = WatchedChain<TokioWorld<S>>;

/// The chains that are configured, and who watches them; another configuration sets others. All clones see the same.
#[derive(Debug, Clone)]
pub struct Chains<S: VaultState>(Arc<RwLock<Arc<Configured<S>>>>);

#[derive(Debug)]
struct Configured<S: VaultState> {
    chains: Vec<AdminChain<S>>,
    others: Option<Others<S>>,
    /// Wakes the health monitor.
    poke: Option<UnboundedSender<()>>,
}

/// Finds a chain of the database that no section names; nothing if there is none.
type Find<S> =
    Arc<dyn Fn(ChainName) -> BoxFuture<'static, Result<Option<AdminChain<S>>, StateError>> + Send + Sync>;

/// What a chain is like that need not be there yet; nothing if no section covers its name.
type First<S> = Arc<dyn Fn(&ChainName) -> Option<AdminChain<S>> + Send + Sync>;

/// Chains that no section names.
#[derive(Clone)]
pub struct Others<S: VaultState> {
    /// How their names begin.
    pub prefixes: Vec<String>,
    /// Finds one.
    pub find: Find<S>,
    /// One that need not be there yet: whoever brings its first grant in makes it.
    pub first: First<S>,
}

impl<S: VaultState> std::fmt::Debug for Others<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Others").field(&self.prefixes).finish()
    }
}

impl<S: VaultState> Others<S> {
    fn cover(&self, name: &ChainName) -> bool {
        self.prefixes.iter().any(|prefix| name.as_str().starts_with(prefix.as_str()))
    }
}

impl<S: VaultState> Default for Chains<S> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Configured { chains: Vec::new(), others: None, poke: None }))))
    }
}

impl<S: VaultState> Chains<S> {
    /// Puts these in their place; `poke` wakes the monitor that watches them.
    pub fn set(
        &self,
        chains: Vec<AdminChain<S>>,
        others: Option<Others<S>>,
        poke: Option<UnboundedSender<()>>,
    ) {
        let configured = Configured { chains, others, poke };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(configured);
    }

    fn configured(&self) -> Arc<Configured<S>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The names of all that have one.
    pub fn names(&self) -> Vec<ChainName> {
        self.configured().chains.iter().map(|chain| chain.chain.chain().clone()).collect()
    }

    /// All of them.
    pub fn all(&self) -> Vec<AdminChain<S>> {
        self.configured().chains.clone()
    }

    /// Whether the configuration says what holds for a chain of this name, whether or not there is one.
    pub fn cover(&self, name: &ChainName) -> bool {
        let configured = self.configured();
        let named = configured.chains.iter().any(|chain| chain.chain.chain() == name);
        named || configured.others.as_ref().is_some_and(|others| others.cover(name))
    }

    /// The chain that is named, or the only one, or `claude`.
    pub fn meant(&self, named: Option<ChainName>) -> Result<ChainName, NoChain> {
        match named {
            Some(name) if self.cover(&name) => Ok(name),
            named => chain_of(named, &self.names()),
        }
    }

    /// The one of this name.
    pub async fn get(&self, name: &ChainName) -> Result<Option<AdminChain<S>>, StateError> {
        let configured = self.configured();
        let named = configured.chains.iter().find(|chain| chain.chain.chain() == name);
        match (named, &configured.others) {
            (Some(chain), _) => Ok(Some(chain.clone())),
            (None, Some(others)) if others.cover(name) => (others.find)(name.clone()).await,
            (None, _) => Ok(None),
        }
    }

    /// The same for whoever brings a grant in: of a chain that has none yet, too.
    pub async fn get_for_grant(&self, name: &ChainName) -> Result<Option<AdminChain<S>>, StateError> {
        if let Some(chain) = self.get(name).await? {
            return Ok(Some(chain));
        }
        let configured = self.configured();
        let others = configured.others.as_ref().filter(|others| others.cover(name));
        Ok(others.and_then(|others| (others.first)(name)))
    }

    /// Makes the monitor look now.
    pub fn poke(&self) {
        if let Some(poke) = &self.configured().poke {
            let _ = poke.unbounded_send(());
        }
    }
}

/// The routes.
pub fn router<S: HealthState + VaultState>(admin: Admin<S>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics_text::<S>))
        .route("/api/openapi.json", get(openapi))
        .route("/runbook/{page}", get(runbook::page))
        .nest("/api/v1/admin/system", system())
        .with_state(admin)
}

/// The calls that need a key.
fn system<S: HealthState + VaultState>() -> Router<Admin<S>> {
    Router::new()
        .nest("/token-push", token_push::router())
        .nest("/chains", chains::router())
        .nest("/episodes", episodes::router())
        .nest("/keys", keys::router())
        .fallback(|| async { Problem::of(StatusCode::NOT_FOUND, Reason::NotFound) })
        .method_not_allowed_fallback(|| async {
            Problem::of(StatusCode::METHOD_NOT_ALLOWED, Reason::MethodNotAllowed)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .layer(map_response(no_store))
}

async fn no_store(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Ready: listening, and the state is open and migrated. A dead chain does not make a replica unready.
async fn readyz<S: VaultState>(Extract(admin): Extract<Admin<S>>) -> Response {
    match admin.world.state().check().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

/// What the calls are, for programs.
async fn openapi() -> Response {
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    (content_type, include_str!("../../../docs/reference/openapi.json")).into_response()
}

async fn metrics_text<S: HealthState + VaultState>(Extract(admin): Extract<Admin<S>>) -> Response {
    // What of the sinks cannot be read now stands as it was.
    if let Ok(states) = admin.world.state().sink_states().await {
        admin.metrics.sinks(&states);
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.metrics.text()).into_response()
}
