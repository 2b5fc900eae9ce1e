//! The agent falls silent: it is said after 60 minutes, once, and once more when it is back.

use evergrant_core::Reason;
use evergrant_core::alert::AlertState;
use evergrant_core::health::{AgentSeen, Outcome, PushSeen};
use evergrant_core::push::{Local, Message, PushKind};
use evergrant_server::World as _;
use evergrant_store::HealthState as _;

use super::Steps;
use super::stage::Stage;

pub(super) async fn run(stage: &Stage, steps: &mut Steps) -> Result<(), String> {
    for _ in 0..3 {
        beat(stage).await?;
        stage.minutes(30).await?;
    }
    beat(stage).await?;
    stage.watch_health().await?;
    let early = stage.alerts("mac_silent").len();
    let heard = counted(early);
    steps.step("an agent beats every 30 minutes, for 90", "no alert mac_silent", early == 0, heard);
    stage.minutes(59).await?;
    let early = stage.alerts("mac_silent").len();
    steps.step("stop it, and let 59 minutes pass", "no alert yet", early == 0, counted(early));
    stage.minutes(2).await?;
    let alerts = stage.alerts("mac_silent");
    let opened = alerts.iter().filter(|alert| alert.state == AlertState::Open).count();
    let said =
        alerts.first().map_or("no alert".to_owned(), |alert| format!("{opened} alert: {}", alert.summary));
    steps.step("let 2 minutes more pass", "one alert mac_silent", opened == 1, said);
    stage.minutes(120).await?;
    let opened = stage.alerts("mac_silent").len();
    steps.step("let 2 hours more pass", "still one alert", opened == 1, counted(opened));
    beat(stage).await?;
    stage.minutes(7).await?;
    let recovered = stage.alerts("recovered");
    let said = recovered.first().map_or("no alert".to_owned(), |alert| alert.summary.clone());
    steps.step(
        "let the agent beat again, and 7 minutes pass",
        "one alert recovered",
        recovered.len() == 1,
        said,
    );
    Ok(())
}

fn counted(alerts: usize) -> String {
    format!("{alerts} alert{}", if alerts == 1 { "" } else { "s" })
}

/// What the server writes down of a heartbeat.
async fn beat(stage: &Stage) -> Result<(), String> {
    let (at, chain) = (stage.world.now(), stage.keeper.chain().clone());
    let message = Message {
        kind: PushKind::Beat,
        chain: Some(chain.clone()),
        agent_id: "drill".into(),
        host: "rehearsal".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        sent_at: at,
        nonce: format!("drill-{}", at.as_nanosecond()),
        local: Local::default(),
        reason: Some(Reason::SameGrant),
        refused: None,
        pending: false,
        blind_since: None,
        failures: Vec::new(),
        absence: None,
    };
    let agent = AgentSeen::of(&message, Reason::SameGrant, at);
    let outcome = Outcome::of_beat(&message);
    let seen = PushSeen { at, kind: PushKind::Beat, outcome, reason: Reason::SameGrant, agent };
    let report = stage.keeper.last_report();
    let position = report.and_then(|report| Some((report.lineage?, report.generation?)));
    let event = seen.event(&chain, position.unwrap_or_default());
    stage.world.state().add_push(&seen, &event, None).await.map_err(|error| error.to_string())
}
