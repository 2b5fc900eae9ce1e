//! The auth file goes away under load: the fallback key serves, nobody notices, and the grant serves again when the
//! file is back.

use std::sync::Arc;
use std::time::Duration;

use evergrant_core::alert::AlertState;
use evergrant_core::audit::Actor;
use evergrant_core::caller::{NewCaller, Scopes};
use evergrant_core::gateway::Source;
use evergrant_server::gateway::{
    AccessLog, Act, Bound, ChainRenewer, ChainSettings, Gateway, Limits, Parts, Plane, note_grant_refused,
};
use evergrant_server::{Traces, World as _};
use evergrant_store::State as _;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::load::Load;
use super::stage::Stage;
use super::{Steps, until};

const PATIENCE: Duration = Duration::from_secs(10);
const CLIENTS: usize = 4;
/// So many requests each source serves at least.
const SERVED: usize = 50;

pub(super) async fn run(stage: &Stage, steps: &mut Steps) -> Result<(), String> {
    let key = caller_key(stage).await?;
    let log = stage.folder.path().join("access.log");
    let gateway = start_gateway(stage, AccessLog::File(log.clone()))?;
    let url = format!("http://{}/v1/anthropic/v1/messages", gateway.address());
    let url = url.parse().map_err(|error| format!("{error}"))?;
    let headers = [("x-cm-api-key".to_owned(), key)];
    let model = stage.keeper.policy().profile.message.as_ref().map(|(_, model)| model.clone());
    let body =
        json!({ "model": model, "max_tokens": 1, "messages": [{ "role": "user", "content": "hello" }] });
    let load = Load::start(CLIENTS, stage.world.inner().client(), &url, &headers, &body.to_string());
    let served = |source: &str| requests(&log).iter().filter(|one| one["source"] == source).count();
    let begun = until(PATIENCE, || served("oauth") >= SERVED).await;
    steps.step(
        "send requests",
        "the grant serves them",
        begun,
        format!("{} by source oauth", served("oauth")),
    );

    let away = stage.file.with_extension("away");
    std::fs::rename(&stage.file, &away).map_err(|error| error.to_string())?;
    let fell_back = until(PATIENCE, || served("fallback") >= SERVED).await;
    let happened = format!("{} by source fallback in the access log", served("fallback"));
    steps.step("take the auth file away", "the fallback key serves them", fell_back, happened);
    stage.watch_health().await?;
    let alerts = stage.alerts("fallback_active");
    let said = alerts.first().map_or("no alert".to_owned(), |alert| alert.summary.clone());
    steps.step("let the health monitor look", "one alert fallback_active", alerts.len() == 1, said);

    let before = served("oauth");
    std::fs::rename(&away, &stage.file).map_err(|error| error.to_string())?;
    let back = until(PATIENCE, || served("oauth") >= before + SERVED).await;
    let happened = format!("{} more by source oauth", served("oauth") - before);
    steps.step("put it back", "the grant serves them again", back, happened);
    let (answered, failed) = load.stop().await;
    let happened = format!("{answered} answered, {failed} failed");
    steps.step("count the requests", "every one succeeded", failed == 0 && answered > 0, happened);
    stage.minutes(7).await?;
    let told: Vec<_> = stage.alerts("fallback_active").iter().map(|alert| alert.state).collect();
    let closed = told == [AlertState::Open, AlertState::Closed];
    let happened = if closed { "it closed" } else { "it is open" };
    steps.step("let 7 minutes pass", "the alert closes", closed, happened);
    gateway.end().await;
    Ok(())
}

/// The lines of the access log.
fn requests(log: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn caller_key(stage: &Stage) -> Result<String, String> {
    let new = NewCaller {
        name: "drill".parse().map_err(|error| format!("{error}"))?,
        scopes: Scopes::default(),
        chain: stage.keeper.chain().clone(),
        expires_in: None,
        requests_per_minute: None,
        concurrent: None,
        fallback: true,
    };
    let world = stage.world.inner();
    let (caller, key) = new.create(world.now(), &mut world.key_rng()).map_err(|error| error.to_string())?;
    let state = world.state();
    state.add_caller(&caller, &Actor::cli("drill")).await.map_err(|error| error.to_string())?;
    stage.callers.refresh(state).await.map_err(|error| error.to_string())?;
    Ok(key.expose().to_owned())
}

fn start_gateway(stage: &Stage, access_log: AccessLog) -> Result<Gateway, String> {
    let profile = stage.keeper.policy().profile.clone();
    let keeper = stage.keeper.clone();
    let renew: Act = Box::new(move |(lineage, generation)| {
        let keeper = keeper.clone();
        async move {
            keeper.access_refused(lineage, generation).await;
        }
        .boxed()
    });
    let name = stage.keeper.chain().clone();
    let client = stage.world.inner().client().clone();
    let renewer = ChainRenewer::new(
        name.clone(),
        profile.clone(),
        client.clone(),
        stage.snapshots.clone(),
        tokio::runtime::Handle::current(),
        renew,
        note_grant_refused(stage.world.clone(), name.clone()),
    );
    let prefixes = [&profile.access_prefix, &profile.refresh_prefix, &profile.api_key_prefix];
    let chain = ChainSettings {
        name,
        rules: profile.gateway.clone().ok_or("the profile forwards nothing")?,
        api_base: profile.api_base.clone(),
        client,
        source: Source::Oauth,
        shown_prefix: profile.access_prefix.clone(),
        provider_prefixes: prefixes.into_iter().flatten().cloned().collect(),
        fallback: stage.fallback.clone(),
        renewer: Some(Arc::new(renewer)),
        terms: None,
    };
    let parts = Parts {
        plane: Plane::new(vec![chain], Limits::default()),
        snapshots: stage.snapshots.clone(),
        callers: stage.callers.clone(),
        metrics: stage.metrics.clone(),
        access_log,
        traces: Traces::default(),
        tls: None,
    };
    let bound = Bound::bind(([127, 0, 0, 1], 0).into(), 1).map_err(|error| error.to_string())?;
    let (gateway, _own_routes) = Gateway::start(bound, parts).map_err(|error| error.to_string())?;
    Ok(gateway)
}
