//! `/api/v1/admin/system/keys`: makes, lists, revokes and rotates caller keys. All of it needs `admin:write`.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use evergrant_core::caller::{CallerName, KeyId, NewCaller, Scope};
use evergrant_core::{ChainName, Reason};
use evergrant_store::VaultState;
use serde::Deserialize;

use crate::admin::{Admin, AdminWrite, Authorized, Parsed, Problem};
use crate::caller::change::{self, ChangeError, Made};
use crate::world::World;

pub(super) fn router<S: VaultState>() -> Router<Admin<S>> {
    Router::new()
        .route("/", get(list::<S>).post(create::<S>))
        .route("/{id}", delete(revoke::<S>))
        .route("/{id}/rotate", post(rotate::<S>))
}

/// What a new key is to be.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: CallerName,
    #[serde(default)]
    scopes: Vec<Scope>,
    chain: Option<ChainName>,
    expires_in_secs: Option<u64>,
    requests_per_minute: Option<NonZeroU32>,
    concurrent: Option<NonZeroU32>,
    #[serde(default = "yes")]
    fallback: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate {
    #[serde(default)]
    overlap_secs: u64,
}

async fn list<S: VaultState>(
    Extract(admin): Extract<Admin<S>>,
    _who: Authorized<AdminWrite>,
) -> Result<Response, Problem> {
    let callers = admin.world.state().callers().await?;
    Ok(Json(change::list_json(&callers, admin.world.now())).into_response())
}

async fn create<S: VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    Parsed(create): Parsed<Create>,
) -> Result<Response, Problem> {
    let new = NewCaller {
        chain: configured(&admin, create.chain)?,
        name: create.name,
        scopes: create.scopes.into_iter().collect(),
        expires_in: create.expires_in_secs.map(Duration::from_secs),
        requests_per_minute: create.requests_per_minute,
        concurrent: create.concurrent,
        fallback: create.fallback,
    };
    let (now, mut rng) = (admin.world.now(), admin.world.key_rng());
    let made = change::create(admin.world.state(), new, &who.actor(), now, &mut rng).await?;
    Ok(answer(&admin, &who, &made).await)
}

async fn revoke<S: VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    id: Result<Path<KeyId>, PathRejection>,
) -> Result<Response, Problem> {
    let (id, now) = (known(id)?, admin.world.now());
    let revoked = change::revoke(admin.world.state(), id, &who.actor(), now).await?;
    tracing::info!(key = %id, who = %who.actor(), "a caller key was revoked");
    publish(&admin).await;
    Ok(Json(revoked.shown(now)).into_response())
}

async fn rotate<S: VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    id: Result<Path<KeyId>, PathRejection>,
    Parsed(rotate): Parsed<Rotate>,
) -> Result<Response, Problem> {
    let (id, overlap) = (known(id)?, Duration::from_secs(rotate.overlap_secs));
    let (now, mut rng) = (admin.world.now(), admin.world.key_rng());
    let made = change::rotate(admin.world.state(), id, overlap, &who.actor(), now, &mut rng).await?;
    Ok(answer(&admin, &who, &made).await)
}

async fn answer<S: VaultState>(admin: &Admin<S>, who: &Authorized<AdminWrite>, made: &Made) -> Response {
    let replaces = made.replaces.as_ref().map(|old| tracing::field::display(old.id));
    let (key, name) = (made.caller.id, &made.caller.name);
    tracing::info!(%key, %name, replaces, who = %who.actor(), "a caller key was made");
    publish(admin).await;
    (StatusCode::CREATED, Json(made.json(admin.world.now()))).into_response()
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let with = |status| Self::with(status, error.reason(), error.to_string());
        match error {
            ChangeError::Life(_) => with(StatusCode::BAD_REQUEST),
            ChangeError::Unknown(_) => unknown(),
            ChangeError::Rotation { .. } | ChangeError::Raced(_) => with(StatusCode::CONFLICT),
            ChangeError::State(error) => error.into(),
        }
    }
}

/// The chain that is named, or the only one, or `claude`.
fn configured<S: VaultState>(admin: &Admin<S>, named: Option<ChainName>) -> Result<ChainName, Problem> {
    admin.chains.meant(named).map_err(|error| {
        Problem::with(StatusCode::BAD_REQUEST, Reason::ChainUnknown, format!("chain: {error}"))
    })
}

/// What was changed works at once here, and within a second everywhere. The change itself is done: where this
/// fails, the loop that follows the state does it.
async fn publish<S: VaultState>(admin: &Admin<S>) {
    if let Err(error) = admin.callers.refresh(admin.world.state()).await {
        tracing::warn!(reason = %Reason::StateUnavailable, %error, "a change of keys is not published yet");
    }
}

/// An id that cannot be is one that is not there.
fn known(id: Result<Path<KeyId>, PathRejection>) -> Result<KeyId, Problem> {
    id.map(|Path(id)| id).map_err(|_| unknown())
}

fn unknown() -> Problem {
    let detail = "there is no key of that id; GET /api/v1/admin/system/keys lists them";
    Problem::with(StatusCode::NOT_FOUND, Reason::NotFound, detail)
}
