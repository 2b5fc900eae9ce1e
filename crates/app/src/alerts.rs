//! `evergrant alerts`: what is and was wrong, who looks after it, and maintenance windows (SPEC §6).

use std::process::ExitCode;
use std::time::Duration;

use evergrant_core::alert::{self, Acknowledgement, Episode, EpisodeId, Level, Outcome, SinkState, span};
use evergrant_core::audit::Actor;
use evergrant_core::{ChainName, Reason};
use evergrant_server::World as _;
use evergrant_store::{HealthState as _, StateError};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::AlertsCommand;
use crate::config::{Environment, Loaded};
use crate::host::{self, Host};
use crate::{keys, output, serve};

/// So many episodes are shown.
const SHOWN: usize = 50;

/// Runs one of the commands.
pub(crate) async fn run(
    host: &Host,
    loaded: &Loaded,
    env: &Environment,
    command: &AlertsCommand,
    json: bool,
) -> Result<ExitCode, String> {
    let who = keys::actor(env);
    match command {
        AlertsCommand::List { chain, open } => list(host, chain.as_ref(), *open, json).await,
        AlertsCommand::Ack { episode, span, undo } => {
            let now = host.world.now();
            let until = span.map(|span| end_of(span, now)).transpose()?;
            let ack = (!undo).then(|| Acknowledgement { by: who.clone(), at: now, until });
            acknowledge(host, &EpisodeId::known(episode), ack, now, &who, json).await
        }
        AlertsCommand::Test { sink } => test(host, loaded, sink.as_deref(), json).await,
        AlertsCommand::Mute { chain, span } => {
            host::covered(&loaded.settings, chain)?;
            let now = host.world.now();
            let until = end_of(*span, now)?;
            host.state.mute(chain, until, now, &who).await.map_err(|error| error.to_string())?;
            muted(chain, until, now, json);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn end_of(span: Duration, now: Timestamp) -> Result<Timestamp, String> {
    now.checked_add(span).map_err(|_| "that is too long".to_owned())
}

/// Sends one of each status, and says of each sink what came of it.
async fn test(host: &Host, loaded: &Loaded, only: Option<&str>, json: bool) -> Result<ExitCode, String> {
    let sinks = &loaded.settings.sinks;
    let names = || sinks.iter().map(|sink| sink.name.as_str()).collect::<Vec<_>>().join(", ");
    let chosen: Vec<_> = sinks.iter().filter(|sink| only.is_none_or(|only| sink.name == only)).collect();
    match (only, chosen.is_empty()) {
        (_, false) => {}
        (None, true) => return Err("no sink is configured; add a section [sinks.NAME]".into()),
        (Some(only), true) if sinks.is_empty() => {
            return Err(format!("there is no sink {only:?}, nor any other; add a section [sinks.{only}]"));
        }
        (Some(only), true) => return Err(format!("there is no sink {only:?}; there is: {}", names())),
    }
    let courier = serve::courier(host, &loaded.settings)?;
    let alerts: Vec<_> = alert::samples(&loaded.settings.alerts.links, host.world.now())
        .into_iter()
        .map(alert::Alert::rehearsed)
        .collect();
    let (mut rows, mut failed) = (Vec::new(), false);
    for sink in chosen {
        for sample in &alerts {
            let outcome = courier.send(sink, sample).await;
            let (reason, detail) = match &outcome {
                Outcome::Delivered => (Reason::Delivered, None),
                Outcome::Unavailable { detail, .. } => (Reason::SinkUnavailable, Some(detail)),
                Outcome::Refused { detail } => (Reason::SinkRefused, Some(detail)),
            };
            failed |= detail.is_some();
            rows.push(json!({ "sink": sink.name, "kind": sink.kind.as_str(), "status": sample.status,
                "reason": reason, "detail": detail }));
            if !json {
                let style = if detail.is_none() { output::GOOD } else { output::BAD };
                let more = detail.map_or_else(String::new, |detail| format!("  {detail}"));
                anstream::println!("{}  {}  {style}{reason}{style:#}{more}", sink.name, sample.status);
            }
        }
    }
    if json {
        output::json(&json!({ "ok": !failed, "sent": rows }));
    }
    Ok(if failed { ExitCode::from(output::FAILED) } else { ExitCode::SUCCESS })
}

fn muted(chain: &ChainName, until: Timestamp, now: Timestamp, json: bool) {
    let over = until <= now;
    if json {
        output::json(&json!({ "chain": chain, "muted_until": (!over).then_some(until) }));
    } else if over {
        anstream::println!("alerts about {chain} are let through again");
    } else {
        let left = span(until.duration_since(now).as_secs());
        anstream::println!(
            "alerts about {chain} are held back for {left}; what is still wrong then is told then"
        );
    }
}

async fn acknowledge(
    host: &Host,
    id: &EpisodeId,
    ack: Option<Acknowledgement>,
    at: Timestamp,
    who: &Actor,
    json: bool,
) -> Result<ExitCode, String> {
    let taken = host.state.acknowledge(id, ack.as_ref(), at, who).await;
    let episode = taken.map_err(|error| error.to_string())?;
    let Some(episode) = episode else {
        return Err(format!("there is no episode {id}: `evergrant alerts list` shows them"));
    };
    if json {
        output::json(&episode);
    } else {
        match ack {
            None => anstream::println!("{id}: reminders come again"),
            Some(Acknowledgement { until: None, .. }) => {
                anstream::println!("{id}: no reminders; you are told when it is over");
            }
            Some(Acknowledgement { until: Some(until), .. }) => {
                let left = span(until.duration_since(at).as_secs());
                anstream::println!("{id}: no reminders for {left}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(host: &Host, chain: Option<&ChainName>, open: bool, json: bool) -> Result<ExitCode, String> {
    let failed = |error: StateError| error.to_string();
    let is_open = host.state.open_episodes(chain).await.map_err(failed)?;
    let red = is_open.iter().any(needs_somebody);
    let mut episodes =
        if open { is_open } else { host.state.episodes(chain, SHOWN).await.map_err(failed)? };
    episodes.reverse();
    let sinks = host.state.sink_states().await.map_err(|error| error.to_string())?;
    let now = host.world.now();
    if json {
        output::json(&json!({ "episodes": episodes, "sinks": sinks }));
    } else {
        if episodes.is_empty() {
            anstream::println!("{}", if open { "nothing is wrong" } else { "nothing was wrong yet" });
        }
        episodes.iter().for_each(|episode| line(episode, now));
        sinks.iter().for_each(sink);
    }
    Ok(ExitCode::from(if red { output::NEEDS_SOMEBODY } else { output::FINE }))
}

/// A red one, while it holds.
pub(crate) fn needs_somebody(episode: &Episode) -> bool {
    episode.holds() && episode.condition.level() == Level::Red
}

/// One episode in two lines.
pub(crate) fn line(episode: &Episode, now: Timestamp) {
    let (dim, style) = (output::DIM, style(episode));
    let lasted = span(episode.lasts(now).as_secs());
    let state = match (episode.holds(), episode.is_open()) {
        (true, _) => format!("open for {lasted}"),
        (false, true) => format!("over after {lasted}, not closed yet"),
        (false, false) => format!("lasted {lasted}"),
    };
    let ack = match &episode.acknowledged {
        Some(ack) if episode.is_open() => format!(", acknowledged by {}", ack.by),
        Some(_) | None => String::new(),
    };
    let at = episode.since.strftime("%Y-%m-%d %H:%M:%S UTC");
    anstream::println!(
        "{dim}{at}{dim:#}  {style}{}{style:#}  {}  {state}{ack}",
        episode.condition,
        episode.chain
    );
    anstream::println!("  {dim}{}{dim:#}", episode.id);
}

fn style(episode: &Episode) -> anstyle::Style {
    match (episode.holds(), episode.condition.level()) {
        (false, _) => output::GOOD,
        (true, Level::Red) => output::BAD,
        (true, Level::Yellow | Level::Green) => output::WARN,
    }
}

/// How one sink fares.
pub(crate) fn sink(state: &SinkState) {
    let style = if state.waiting == 0 && state.dropped == 0 { output::GOOD } else { output::WARN };
    let SinkState { sink, delivered, waiting, dropped, last_fault, .. } = state;
    anstream::println!(
        "sink {style}{sink}{style:#}: {delivered} delivered, {waiting} waiting, {dropped} dropped"
    );
    if let Some(fault) = last_fault.as_ref().filter(|_| *waiting > 0 || *dropped > 0) {
        anstream::println!("  {}last fault{:#} {fault}", output::DIM, output::DIM);
    }
}
