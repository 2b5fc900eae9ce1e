//! ntfy: JSON publishing, to the topic's server.

use serde_json::{Value, json};

use crate::alert::sink::SinkUrl;
use crate::alert::{Alert, Level};

use super::{clip_bytes, headline, plain_text};

/// A longer message becomes a file to download.
const MAX_MESSAGE: usize = 4000;

/// Where it is published, and the message.
pub(super) fn message(topic: &SinkUrl, alert: &Alert) -> (SinkUrl, Value) {
    let mut server = topic.expose().clone();
    let path = topic.expose().path().trim_end_matches('/');
    let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
    server.set_path(&format!("{above}/"));
    server.set_query(None);
    let (priority, circle) = match alert.level {
        Level::Red => (5, "red_circle"),
        Level::Yellow => (4, "yellow_circle"),
        Level::Green => (3, "green_circle"),
    };
    let view = |label: &str, url: &str| json!({ "action": "view", "label": label, "url": url });
    let body = json!({
        "topic": name, "title": clip_bytes(&headline(alert), 240),
        "message": clip_bytes(&plain_text(alert, 12), MAX_MESSAGE), "priority": priority,
        "tags": [circle, alert.status, alert.condition.as_str()], "click": alert.status_url,
        "actions": [view("Runbook", &alert.runbook_url), view("Status", &alert.status_url)],
    });
    (SinkUrl::new(server), body)
}
