//! `evergrant status --timeline`: what happened, in order: rotations, push events, episodes, and who did what (SPEC §6, §11).

use std::process::ExitCode;

use evergrant_core::ChainName;
use evergrant_core::alert::{Episode, Level, span};
use evergrant_core::audit::AuditEntry;
use evergrant_core::event::EventKind;
use evergrant_store::state::Numbered;
use evergrant_store::{HealthState as _, State as _};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::config::{ChainSettings, Loaded};
use crate::host::{self, Host};
use crate::output;

/// So many events and episodes of a chain are read.
const READ: usize = 200;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    at: Timestamp,
    chain: ChainName,
    /// `event`, what somebody did (`act`), or what an episode did: `opened`, `ended`, `closed`.
    kind: &'static str,
    what: String,
    #[serde(skip)]
    level: Option<Level>,
}

/// Shows what happened to the named chain, or to all that have a section.
pub(crate) async fn show(
    host: &Host,
    loaded: &Loaded,
    only: Option<&ChainName>,
    json: bool,
) -> Result<ExitCode, String> {
    let mut entries = Vec::new();
    let acts = host.state.audit(READ).await.map_err(|error| error.to_string())?;
    for ChainSettings { name, .. } in host::chosen(&loaded.settings, only)? {
        entries.extend(acts.iter().filter_map(|act| of_act(act, &name)));
        let events = host.state.latest_events(&name, READ).await.map_err(|error| error.to_string())?;
        entries.extend(events.iter().filter_map(of_event));
        let episodes = host.state.episodes(Some(&name), READ).await;
        entries.extend(episodes.map_err(|error| error.to_string())?.iter().flat_map(of_episode));
    }
    entries.sort_by_key(|entry| entry.at);
    if json {
        output::json(&json!({ "timeline": entries }));
    } else if entries.is_empty() {
        anstream::println!("nothing happened yet");
    } else {
        entries.iter().for_each(line);
    }
    Ok(ExitCode::SUCCESS)
}

fn of_event(numbered: &Numbered) -> Option<Entry> {
    let event = &numbered.event;
    // What is about to happen is told by what came of it.
    if event.kind == EventKind::Intended {
        return None;
    }
    let text = |member: &str| event.detail.get(member).and_then(serde_json::Value::as_str);
    let of = text("agent").map_or(String::new(), |agent| format!(" by {agent}"));
    let position = format!("lineage {}, generation {}", event.lineage, event.generation);
    let what = format!("{}{of}: {} ({position})", event.kind.as_str(), event.reason);
    Some(Entry { at: event.at, chain: event.chain.clone(), kind: "event", what, level: None })
}

fn of_act(act: &AuditEntry, chain: &ChainName) -> Option<Entry> {
    if !act.what.is_to_chain() || act.to != chain.as_str() {
        return None;
    }
    let what = format!("{} by {}", act.what.as_str(), act.who);
    Some(Entry { at: act.at, chain: chain.clone(), kind: "act", what, level: None })
}

fn of_episode(episode: &Episode) -> Vec<Entry> {
    let entry = |at: Timestamp, kind, what: String, level| Entry {
        at,
        chain: episode.chain.clone(),
        kind,
        what,
        level: Some(level),
    };
    let condition = episode.condition;
    let why = episode.reason.map_or(String::new(), |reason| format!(": {reason}"));
    let told = if episode.announced_at.is_some() { "" } else { ", not told" };
    let opened = format!("{condition} opened{why}{told}");
    let mut entries = vec![entry(episode.opened_at, "opened", opened, condition.level())];
    if let Some(at) = episode.ended_at {
        let lasted = span(episode.lasts(at).as_secs());
        entries.push(entry(at, "ended", format!("{condition} ended after {lasted}"), Level::Green));
    }
    if let Some(at) = episode.closed_at {
        entries.push(entry(at, "closed", format!("{condition} closed"), Level::Green));
    }
    entries
}

fn line(entry: &Entry) {
    let style = match entry.level {
        None => output::DIM,
        Some(Level::Green) => output::GOOD,
        Some(Level::Yellow) => output::WARN,
        Some(Level::Red) => output::BAD,
    };
    let at = entry.at.strftime("%Y-%m-%d %H:%M:%S");
    let dim = output::DIM;
    anstream::println!("{dim}{at}{dim:#}  {}  {style}{}{style:#}", entry.chain, entry.what);
}
