//! `/api/v1/admin/system/keys`: makes, lists, revokes and rotates caller keys. All of it needs `admin:write`.

use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use evergrant_core::caller::{Caller, CallerKey, CallerName, KeyId, NewCaller, Rotated, Scope, ShownCaller};
use evergrant_core::{ChainName, Reason};
use evergrant_store::State;
use serde::{Deserialize, Serialize};

use crate::admin::{Admin, AdminWrite, Authorized, Parsed, Problem};
use crate::world::World;

pub(super) fn router<S: State>() -> Router<Admin<S>> {
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

/// The only answer that holds a key: it is not kept, and never shown again.
#[derive(Serialize)]
struct Made<'a> {
    key: &'a str,
    #[serde(flatten)]
    caller: ShownCaller,
    /// The key that this one takes the place of.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<ShownCaller>,
}

async fn list<S: State>(
    Extract(admin): Extract<Admin<S>>,
    _who: Authorized<AdminWrite>,
) -> Result<Response, Problem> {
    let (now, callers) = (admin.world.now(), admin.world.state().callers().await?);
    let keys: Vec<_> = callers.iter().map(|caller| caller.shown(now)).collect();
    Ok(Json(serde_json::json!({ "keys": keys })).into_response())
}

async fn create<S: State>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    Parsed(create): Parsed<Create>,
) -> Result<Response, Problem> {
    let chain = configured(&admin, create.chain)?;
    let new = NewCaller {
        name: create.name,
        scopes: create.scopes.into_iter().collect(),
        chain,
        expires_in: create.expires_in_secs.map(Duration::from_secs),
        requests_per_minute: create.requests_per_minute,
        concurrent: create.concurrent,
        fallback: create.fallback,
    };
    let (caller, key) = new
        .create(admin.world.now(), &mut admin.world.key_rng())
        .map_err(|error| Problem::invalid(format!("expires_in_secs: {error}")))?;
    if !admin.world.state().add_caller(&caller, &who.actor()).await? {
        return Err(twice());
    }
    publish(&admin).await;
    tracing::info!(key = %caller.id, name = %caller.name, who = %who.actor(), "a caller key was made");
    Ok(made(&admin, &caller, &key, None))
}

async fn revoke<S: State>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    id: Result<Path<KeyId>, PathRejection>,
) -> Result<Response, Problem> {
    let (id, now) = (known(id)?, admin.world.now());
    let revoked = admin.world.state().revoke_caller(&id, now, &who.actor()).await?.ok_or_else(unknown)?;
    publish(&admin).await;
    tracing::info!(key = %id, who = %who.actor(), "a caller key was revoked");
    Ok(Json(revoked.shown(now)).into_response())
}

async fn rotate<S: State>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    id: Result<Path<KeyId>, PathRejection>,
    Parsed(rotate): Parsed<Rotate>,
) -> Result<Response, Problem> {
    let (id, now, state) = (known(id)?, admin.world.now(), admin.world.state());
    let before = state.callers().await?.into_iter().find(|caller| caller.id == id).ok_or_else(unknown)?;
    let overlap = Duration::from_secs(rotate.overlap_secs);
    let Rotated { old, new, key } =
        before.rotate(overlap, now, &mut admin.world.key_rng()).map_err(|refusal| {
            let detail = format!("{id} is not rotated: {refusal}");
            Problem::with(StatusCode::CONFLICT, refusal.reason(), detail)
        })?;
    if !state.replace_caller(&old, &new, &who.actor()).await? {
        let detail = format!("{id} was changed at the same moment; list the keys and try again");
        return Err(Problem::with(StatusCode::CONFLICT, Reason::CallerReplaced, detail));
    }
    publish(&admin).await;
    tracing::info!(key = %old.id, by = %new.id, who = %who.actor(), "a caller key was rotated");
    Ok(made(&admin, &new, &key, Some(old.shown(now))))
}

fn made<S: State>(
    admin: &Admin<S>,
    caller: &Caller,
    key: &CallerKey,
    replaces: Option<ShownCaller>,
) -> Response {
    let caller = caller.shown(admin.world.now());
    let body = Made { key: key.expose(), caller, replaces };
    (StatusCode::CREATED, Json(body)).into_response()
}

/// The chain that is named, or the only one, or `claude`.
fn configured<S>(admin: &Admin<S>, named: Option<ChainName>) -> Result<ChainName, Problem> {
    let names = admin.chains.all();
    evergrant_core::caller::chain_of(named, &names).map_err(|error| {
        Problem::with(StatusCode::BAD_REQUEST, Reason::ChainUnknown, format!("chain: {error}"))
    })
}

/// What was changed works at once here, and within a second everywhere. The change itself is done: where this
/// fails, the loop that follows the state does it.
async fn publish<S: State>(admin: &Admin<S>) {
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

fn twice() -> Problem {
    Problem::with(
        StatusCode::SERVICE_UNAVAILABLE,
        Reason::StateUnavailable,
        "the new key's id is taken; try again",
    )
}
