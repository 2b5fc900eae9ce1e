//! `/api/v1/admin/system/chains`: how the chains stand, their ledgers, and what may be asked of one (SPEC §9).

use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use evergrant_core::audit::{Act, Actor, AuditEntry};
use evergrant_core::keeper::Look;
use evergrant_core::{ChainName, Reason};
use evergrant_store::{HealthState, VaultState};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::token_push::shown_prefix;
use crate::admin::{Admin, AdminChain, AdminRead, AdminWrite, Authorized, Parsed, Problem, TokenRead};
use crate::health::{Watched as _, serving};
use crate::probe;
use crate::renewable::Renewable as _;
use crate::world::World as _;

/// So many events are on a page.
const PAGE: usize = 100;
const LONGEST_MUTE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn router<S: HealthState + VaultState>() -> Router<Admin<S>> {
    Router::new()
        .route("/", get(list::<S>))
        .route("/{chain}", get(show::<S>))
        .route("/{chain}/events", get(events::<S>))
        .route("/{chain}/refresh", post(refresh::<S>))
        .route("/{chain}/probe", post(probe::<S>))
        .route("/{chain}/mute", post(mute::<S>))
        .route("/{chain}/token", get(token::<S>))
}

/// The chain that the address names.
async fn named<S: HealthState + VaultState>(
    admin: &Admin<S>,
    name: Result<Path<String>, PathRejection>,
) -> Result<AdminChain<S>, Problem> {
    let Ok(Path(name)) = name else { return Err(Problem::of(StatusCode::NOT_FOUND, Reason::NotFound)) };
    let known = match name.parse::<ChainName>() {
        Ok(name) => admin.chains.get(&name).await?,
        Err(_) => None,
    };
    known.ok_or_else(|| {
        let names = admin.chains.names().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let covered = name.parse().is_ok_and(|name| admin.chains.cover(&name));
        let place = if covered { "database" } else { "configuration" };
        let detail = format!("there is no chain {name:?} in the {place}; there is: {names}");
        Problem::with(StatusCode::NOT_FOUND, Reason::ChainUnknown, detail)
    })
}

async fn list<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    _who: Authorized<AdminRead>,
) -> Result<Response, Problem> {
    let mut chains = Vec::new();
    for chain in admin.chains.all() {
        chains.push(shown(&admin, &chain).await?);
    }
    Ok(Json(json!({ "chains": chains })).into_response())
}

async fn show<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    _who: Authorized<AdminRead>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let chain = named(&admin, name).await?;
    Ok(Json(shown(&admin, &chain).await?).into_response())
}

async fn shown<S: HealthState + VaultState>(
    admin: &Admin<S>,
    chain: &AdminChain<S>,
) -> Result<Value, Problem> {
    let now = admin.world.now();
    let record = chain.chain.record();
    let serving = serving(&chain.chain, &chain.snapshots, chain.fallback.as_ref(), now);
    let fallback = chain.live(now).map(|live| live.fallback).unwrap_or_default();
    Ok(json!({
        "chain": chain.chain.chain(),
        "provider": chain.chain.profile().name,
        "kind": record.as_ref().map_or(chain.chain.kind, |record| record.kind).as_str(),
        "report": chain.chain.last_report(),
        "shown_prefix": shown_prefix(chain),
        "fingerprint": record.as_ref().map(|record| record.pair.fingerprint()),
        "granted_at": record.as_ref().map(|record| record.granted_at),
        "grant_expires_at": record.as_ref().and_then(|record| record.grant_expires_at),
        "serving": { "source": serving.source.as_str(), "until": serving.until },
        "fallback": { "there": fallback.there, "usable": fallback.usable, "uses_today": fallback.uses_today,
            "most_a_day": fallback.most_a_day },
        "episodes": admin.world.state().open_episodes(Some(chain.chain.chain())).await?,
    }))
}

/// A page of the ledger.
#[derive(Debug, Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn events<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    _who: Authorized<AdminRead>,
    name: Result<Path<String>, PathRejection>,
    page: Result<Query<After>, QueryRejection>,
) -> Result<Response, Problem> {
    let chain = named(&admin, name).await?;
    let Query(After { after }) = page.map_err(|_| Problem::invalid("after is the number of an event"))?;
    let events = admin.world.state().events(chain.chain.chain(), after, PAGE).await?;
    let next = (events.len() == PAGE).then(|| events.last().map(|last| last.seq)).flatten();
    Ok(Json(json!({ "events": events, "next": next })).into_response())
}

#[derive(Debug, Deserialize)]
struct Force {
    #[serde(default)]
    force: bool,
    #[serde(default)]
    accept_stale: bool,
}

async fn refresh<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    name: Result<Path<String>, PathRejection>,
    force: Result<Query<Force>, QueryRejection>,
) -> Result<Response, Problem> {
    let chain = named(&admin, name).await?;
    let invalid = |_| Problem::invalid("force and accept_stale are true or false");
    let Query(Force { force, accept_stale }) = force.map_err(invalid)?;
    if accept_stale && !force {
        return Err(Problem::invalid("accept_stale needs force=true"));
    }
    if force {
        audit(&admin, who.actor(), Act::RefreshForced, chain.chain.chain()).await?;
    }
    if accept_stale && let Err(refused) = chain.chain.accept_stale().await {
        return Err(Problem::with(StatusCode::CONFLICT, refused.reason, refused.detail));
    }
    let report = chain.chain.look(if force { Look::Forced } else { Look::Due }).await;
    admin.chains.poke();
    Ok(Json(report).into_response())
}

async fn probe<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    _who: Authorized<AdminWrite>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let chain = named(&admin, name).await?;
    let report = probe::probe(&chain.chain, &chain.chain.world, &chain.snapshots, None).await;
    admin.chains.poke();
    Ok(Json(report).into_response())
}

/// A maintenance window; 0 ends it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mute {
    for_secs: u64,
}

async fn mute<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    name: Result<Path<String>, PathRejection>,
    Parsed(Mute { for_secs }): Parsed<Mute>,
) -> Result<Response, Problem> {
    let chain = named(&admin, name).await?;
    if Duration::from_secs(for_secs) > LONGEST_MUTE {
        return Err(Problem::invalid("for_secs is at most 2592000, which is 30 days"));
    }
    let now = admin.world.now();
    let until: Timestamp = now + SignedDuration::from_secs(i64::try_from(for_secs).unwrap_or(i64::MAX));
    admin.world.state().mute(chain.chain.chain(), until, now, &who.actor()).await?;
    admin.chains.poke();
    let muted_until = (for_secs > 0).then_some(until);
    Ok(Json(json!({ "chain": chain.chain.chain(), "muted_until": muted_until })).into_response())
}

async fn token<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<TokenRead>,
    name: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let chain = named(&admin, name).await?;
    let name = chain.chain.chain();
    if who.known.caller.chain != *name {
        let detail = format!("this key reads the token of chain {} only", who.known.caller.chain);
        return Err(Problem::with(StatusCode::FORBIDDEN, Reason::ScopeMissing, detail));
    }
    if !chain.token_read {
        let detail = format!("set token_read = true on chain {name}, at the server, to let programs read it");
        return Err(Problem::with(StatusCode::NOT_FOUND, Reason::NotEnabled, detail));
    }
    let live = chain.snapshots.current(name).filter(|current| current.usable(admin.world.now()));
    let Some(current) = live else {
        return Err(Problem::of(StatusCode::SERVICE_UNAVAILABLE, Reason::NoSource));
    };
    audit(&admin, who.actor(), Act::TokenRead, name).await?;
    let source = if chain.chain.is_api_key() { "api_key" } else { "oauth" };
    let token = current.access.expose();
    Ok(Json(json!({ "access_token": token, "source": source, "expires_at": current.expires_at }))
        .into_response())
}

async fn audit<S: HealthState + VaultState>(
    admin: &Admin<S>,
    who: Actor,
    what: Act,
    to: &ChainName,
) -> Result<(), Problem> {
    let entry = AuditEntry { at: admin.world.now(), who, what, to: to.to_string() };
    Ok(admin.world.state().add_audit(&entry).await?)
}
