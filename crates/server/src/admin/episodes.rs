//! `/api/v1/admin/system/episodes`: what is and was wrong, and who looks after it (SPEC §6, §9).

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use evergrant_core::alert::{Acknowledgement, Episode, EpisodeId};
use evergrant_core::{ChainName, Reason};
use evergrant_store::{HealthState, VaultState};
use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::json;

use crate::admin::{Admin, AdminRead, AdminWrite, Authorized, Parsed, Problem};
use crate::world::World as _;

/// So many are shown.
const SHOWN: usize = 200;
const LONGEST_SNOOZE_SECS: u64 = 30 * 24 * 3600;

pub(super) fn router<S: HealthState + VaultState>() -> Router<Admin<S>> {
    Router::new().route("/", get(list::<S>)).route("/{id}/acknowledge", post(acknowledge::<S>))
}

#[derive(Debug, Deserialize)]
struct Which {
    chain: Option<ChainName>,
    #[serde(default)]
    open: bool,
}

async fn list<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    _who: Authorized<AdminRead>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Response, Problem> {
    let invalid = |_| Problem::invalid("chain is a chain's name, open is true or false");
    let Query(Which { chain, open }) = which.map_err(invalid)?;
    let state = admin.world.state();
    let episodes = if open {
        let mut open = state.open_episodes(chain.as_ref()).await?;
        open.truncate(SHOWN);
        open
    } else {
        state.episodes(chain.as_ref(), SHOWN).await?
    };
    let sinks = admin.world.state().sink_states().await?;
    Ok(Json(json!({ "episodes": episodes, "sinks": sinks })).into_response())
}

/// Who looks after it does not want reminders: to its end, or for some seconds. `false` takes it back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Acknowledge {
    for_secs: Option<u64>,
    #[serde(default = "yes")]
    acknowledged: bool,
}

fn yes() -> bool {
    true
}

async fn acknowledge<S: HealthState + VaultState>(
    Extract(admin): Extract<Admin<S>>,
    who: Authorized<AdminWrite>,
    id: Result<Path<String>, PathRejection>,
    Parsed(Acknowledge { for_secs, acknowledged }): Parsed<Acknowledge>,
) -> Result<Response, Problem> {
    let Ok(Path(id)) = id else { return Err(Problem::of(StatusCode::NOT_FOUND, Reason::NotFound)) };
    let secs = for_secs.map(|secs| secs.min(LONGEST_SNOOZE_SECS));
    let at = admin.world.now();
    let until = secs.map(|secs| at + SignedDuration::from_secs(i64::try_from(secs).unwrap_or(i64::MAX)));
    let acknowledgement = acknowledged.then(|| Acknowledgement { by: who.actor(), at, until });
    let state = admin.world.state();
    let episode: Option<Episode> =
        state.acknowledge(&EpisodeId::known(&id), acknowledgement.as_ref(), at, &who.actor()).await?;
    let unknown = || {
        let detail = format!("there is no episode {id:?}; GET episodes shows them");
        Problem::with(StatusCode::NOT_FOUND, Reason::NotFound, detail)
    };
    Ok(Json(episode.ok_or_else(unknown)?).into_response())
}
