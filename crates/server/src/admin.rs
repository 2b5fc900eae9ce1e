//! What anybody may ask a running server: `/healthz`, `/readyz`, `/metrics` (SPEC §9).

use axum::Router;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use evergrant_store::State;

use crate::metrics::Metrics;

#[derive(Clone)]
struct Shared<S> {
    state: S,
    metrics: Metrics,
}

/// The routes.
pub fn router<S: State>(state: S, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics_text::<S>))
        .with_state(Shared { state, metrics })
}

/// Ready: listening, and the state is open and migrated. A dead chain does not make a replica unready.
async fn readyz<S: State>(Extract(shared): Extract<Shared<S>>) -> Response {
    match shared.state.check().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

async fn metrics_text<S: State>(Extract(shared): Extract<Shared<S>>) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], shared.metrics.text()).into_response()
}
