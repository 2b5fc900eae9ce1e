//! Prometheus Alertmanager, API v2: one alert for each episode. It is told apart by its labels, so these never change
//! while the episode lasts; it ends by its `endsAt`, which is moved on while posts go on.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use url::Url;

use crate::alert::sink::SinkUrl;
use crate::alert::{Alert, Condition, EpisodeId};

use super::{clip, headline, one_line, severity};

/// An open episode ends by itself so long after its last post.
const LASTS: SignedDuration = SignedDuration::from_mins(5);

/// Where a peer takes alerts.
pub(super) fn place(peer: &SinkUrl) -> SinkUrl {
    let mut url: Url = peer.expose().clone();
    let path = format!("{}/api/v2/alerts", url.path().trim_end_matches('/'));
    url.set_path(&path);
    SinkUrl::new(url)
}

/// The alerts of one post. What the sink does not open only ends what it replaces.
pub(super) fn alerts(alert: &Alert, opens: bool, now: Timestamp) -> Value {
    let mut alerts = Vec::new();
    for episode in &alert.replaces {
        if let Some((chain, condition, opened)) = episode.parts() {
            let labels = labels(alert, chain.as_str(), condition, episode);
            alerts.push(json!({ "labels": labels, "startsAt": opened, "endsAt": now.max(opened) }));
        }
    }
    for concerned in alert.concerned.iter().filter(|_| opens) {
        let labels = labels(alert, concerned.chain.as_str(), alert.condition, &concerned.episode);
        let ends = concerned.ended_at.filter(|_| alert.ended_at.is_some()).unwrap_or(now + LASTS);
        alerts.push(json!({
            "labels": labels, "annotations": annotations(alert), "generatorURL": alert.status_url,
            "startsAt": concerned.since, "endsAt": ends.max(concerned.since),
        }));
    }
    Value::Array(alerts)
}

fn labels(alert: &Alert, chain: &str, condition: Condition, episode: &EpisodeId) -> Value {
    let name: String = condition.as_str().split('_').map(capital).collect();
    let mut labels = json!({
        "alertname": format!("Evergrant{name}"), "chain": chain, "condition": condition.as_str(),
        "severity": if condition == alert.condition { severity(alert) } else { severity_of(condition) },
        "provider": alert.provider, "episode": episode.as_str(),
    });
    if alert.test {
        labels["test"] = json!("true");
    }
    labels
}

fn severity_of(condition: Condition) -> &'static str {
    if condition.level() == crate::alert::Level::Red { "critical" } else { "warning" }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn annotations(alert: &Alert) -> Value {
    let evidence: Vec<_> = alert
        .evidence
        .iter()
        .take(40)
        .map(|fact| clip(&format!("{}: {}", one_line(&fact.label), one_line(&fact.value)), 400))
        .collect();
    let mut annotations = json!({
        "summary": headline(alert), "serving": one_line(&alert.serving), "evidence": evidence.join("\n"),
        "runbook_url": alert.runbook_url, "status_url": alert.status_url,
    });
    if let Some(action) = &alert.action {
        annotations["description"] = json!(one_line(&action.text));
        annotations["commands"] = json!(action.commands.join("\n"));
    }
    annotations
}
