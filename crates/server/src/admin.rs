//! What a running server may be asked: `/healthz`, `/readyz`, `/metrics` by anybody, and the calls below
//! `/api/v1/admin/system/` by callers whose key has the scope (SPEC §9). The files below mirror the addresses.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State as Extract};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evergrant_core::{ChainName, Reason};
use evergrant_store::State;

use crate::caller::Callers;
use crate::metrics::Metrics;
use crate::tokio_world::TokioWorld;
use crate::world::World;

mod authorized;
mod body;
mod keys;
mod problem;

pub use authorized::{AdminRead, AdminWrite, Authorized, Needs, Push, TokenRead};
pub use body::{MAX_BODY_LEN, Parsed};
pub use problem::Problem;

/// What the calls work with.
#[derive(Debug, Clone)]
pub struct Admin<S> {
    /// Clock, randomness and state.
    pub world: TokioWorld<S>,
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// Who may call.
    pub callers: Callers,
    /// The chains that are configured.
    pub chains: ChainNames,
}

/// The names of the chains that are configured; another configuration sets others. All clones see the same.
#[derive(Debug, Clone, Default)]
pub struct ChainNames(Arc<RwLock<Arc<[ChainName]>>>);

impl ChainNames {
    /// Puts others in their place.
    pub fn set(&self, names: impl IntoIterator<Item = ChainName>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = names.into_iter().collect();
    }

    /// All of them.
    pub fn all(&self) -> Arc<[ChainName]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The routes.
pub fn router<S: State>(admin: Admin<S>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics_text::<S>))
        .nest("/api/v1/admin/system", system())
        .with_state(admin)
}

/// The calls that need a key.
fn system<S: State>() -> Router<Admin<S>> {
    Router::new()
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
async fn readyz<S: State>(Extract(admin): Extract<Admin<S>>) -> Response {
    match admin.world.state().check().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

async fn metrics_text<S: State>(Extract(admin): Extract<Admin<S>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.metrics.text()).into_response()
}
