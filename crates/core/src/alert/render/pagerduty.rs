//! PagerDuty Events API v2: one event for each episode, under its id.

use serde_json::{Map, Value, json};

use crate::alert::{Alert, AlertState, Concerned};
use crate::secret::SinkKey;

use super::{clip, headline, left_out, one_line, severity};

const MAX_DETAILS: usize = 60;

/// The events. Reminders trigger again, which notifies nobody twice; a rehearsal ends what it began. What the sink does
/// not open only ends what it replaces.
pub(super) fn events(alert: &Alert, opens: bool, key: &SinkKey) -> Vec<Value> {
    let resolve = |episode: &str| json!({ "routing_key": key.expose(), "event_action": "resolve", "dedup_key": clip(episode, 255) });
    let mut events: Vec<_> = alert.replaces.iter().map(|episode| resolve(episode.as_str())).collect();
    for concerned in alert.concerned.iter().filter(|_| opens) {
        let ended = alert.state == AlertState::Closed;
        if !ended {
            events.push(trigger(alert, concerned, key));
        }
        if ended || alert.test {
            events.push(resolve(concerned.episode.as_str()));
        }
    }
    events
}

fn trigger(alert: &Alert, concerned: &Concerned, key: &SinkKey) -> Value {
    let mut details = Map::new();
    details.insert("serving now".into(), json!(one_line(&alert.serving)));
    if let Some(action) = &alert.action {
        details.insert("next".into(), json!(one_line(&action.text)));
        details.insert("commands".into(), json!(action.commands));
    }
    for (at, fact) in alert.evidence.iter().take(MAX_DETAILS).enumerate() {
        let label = one_line(&fact.label);
        let label = if details.contains_key(&label) { format!("{label} ({})", at + 1) } else { label };
        details.insert(label, json!(clip(&one_line(&fact.value), 600)));
    }
    if let Some(more) = left_out(alert, MAX_DETAILS) {
        details.insert("more".into(), json!(more));
    }
    json!({
        "routing_key": key.expose(), "event_action": "trigger", "dedup_key": clip(concerned.episode.as_str(), 255),
        "client": "Evergrant", "client_url": alert.status_url,
        "payload": {
            "summary": clip(&headline(alert), 1024), "source": concerned.chain.as_str(), "severity": severity(alert),
            "timestamp": concerned.since, "component": alert.provider, "group": alert.group.as_str(),
            "class": alert.condition.as_str(), "custom_details": details,
        },
        "links": [{ "href": alert.runbook_url, "text": "Runbook" }, { "href": alert.status_url, "text": "Status" }],
    })
}
