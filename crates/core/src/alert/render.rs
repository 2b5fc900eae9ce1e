//! What an alert looks like to each kind of sink: requests, or a mail (SPEC §6). Pure.

use std::fmt;

use jiff::Timestamp;

use super::sink::{Sink, SinkKind, SinkUrl};
use super::{Alert, AlertState, Level, span};

mod alertmanager;
mod email;
mod ntfy;
mod pagerduty;
mod slack;
mod teams;
#[cfg(test)]
mod tests;
mod webhook;

pub use email::Email;
pub use teams::MAX_LEN as TEAMS_MAX_LEN;

/// One POST to a sink. Address, headers and body may hold its secrets, so it does not print them.
#[derive(Clone, PartialEq, Eq)]
pub struct OutgoingRequest {
    /// Always `POST`, with all sinks that there are.
    pub method: &'static str,
    /// Where to.
    pub url: SinkUrl,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl OutgoingRequest {
    fn json(url: &SinkUrl, body: &serde_json::Value) -> Self {
        Self {
            method: "POST",
            url: url.clone(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.to_string().into_bytes(),
        }
    }

    fn bearer(mut self, key: Option<&crate::secret::SinkKey>) -> Self {
        let header = key.map(|key| ("authorization".to_owned(), format!("Bearer {}", key.expose())));
        self.headers.extend(header);
        self
    }
}

impl fmt::Debug for OutgoingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .field("body_len", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// An alert as a sink takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// One after the other.
    Requests(Vec<OutgoingRequest>),
    /// By SMTP.
    Email(Email),
}

/// What is sent to a sink for an alert, at `now`.
pub fn render(sink: &Sink, alert: &Alert, now: Timestamp) -> Rendered {
    Rendered::Requests(match &sink.kind {
        SinkKind::Teams { url } => vec![OutgoingRequest::json(url, &teams::message(alert))],
        SinkKind::Slack { url } => vec![OutgoingRequest::json(url, &slack::message(alert))],
        SinkKind::PagerDuty { url, routing_key } => pagerduty::events(alert, sink.opens(alert), routing_key)
            .iter()
            .map(|event| OutgoingRequest::json(url, event))
            .collect(),
        SinkKind::Alertmanager { peers, key } => {
            let alerts = alertmanager::alerts(alert, sink.opens(alert), now);
            let post = |peer: &SinkUrl| {
                OutgoingRequest::json(&alertmanager::place(peer), &alerts).bearer(key.as_ref())
            };
            peers.iter().map(post).collect()
        }
        SinkKind::Email { from, .. } => return Rendered::Email(email::email(alert, from)),
        SinkKind::Ntfy { url, key } => {
            let (place, message) = ntfy::message(url, alert);
            vec![OutgoingRequest::json(&place, &message).bearer(key.as_ref())]
        }
        SinkKind::Webhook { url, key } => vec![webhook::request(url, key, alert, now)],
    })
}

/// Sign and sentence, the first thing that anybody reads.
fn title(alert: &Alert) -> String {
    format!("{} {}", alert.level.sign(), headline(alert))
}

/// The sentence, recognisable where it only rehearses.
fn headline(alert: &Alert) -> String {
    let test = if alert.test { "TEST, nothing is wrong: " } else { "" };
    format!("{test}{}", one_line(&alert.summary))
}

/// What kind of alert, of what, since when; at its end, how long it lasted.
fn subtitle(alert: &Alert) -> String {
    let chains = if alert.concerned.len() == 1 { "chain" } else { "chains" };
    let what = format!("{} · {chains} {} · provider {}", alert.status, alert.chains(), alert.provider);
    let since = instant(alert.since);
    match (alert.state, alert.ended_at) {
        (AlertState::Closed, Some(ended)) => {
            let lasted = span(ended.duration_since(alert.since).as_secs());
            format!("{what} · lasted {lasted}, {since} to {}", instant(ended))
        }
        (AlertState::Open | AlertState::Closed, _) => format!("{what} · since {since}"),
        (AlertState::Reminder, _) => format!("{what} · still open, since {since}"),
    }
}

/// An instant as people read it.
fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Text on one line: values come from other machines, and none of them may make up a line of ours.
pub(super) fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// It turns the direction of what follows, so that a text reads as another.
fn turns(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// At most so many characters; what is cut is marked.
pub(super) fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// At most so many bytes of UTF-8; what is cut is marked.
fn clip_bytes(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most.saturating_sub("…".len()));
    format!("{}…", text[..end].trim_end())
}

/// Evidence, action and the rest as plain text, without the title.
fn plain_text(alert: &Alert, facts: usize) -> String {
    let mut text = subtitle(alert);
    text.push_str(&format!("\n\nServing now: {}", one_line(&alert.serving)));
    if let Some(action) = &alert.action {
        text.push_str(&format!("\n\nNext: {}", one_line(&action.text)));
        for command in &action.commands {
            text.push_str(&format!("\n    {}", one_line(command)));
        }
    }
    if !alert.evidence.is_empty() {
        text.push('\n');
    }
    for fact in alert.evidence.iter().take(facts) {
        text.push_str(&format!("\n{}: {}", one_line(&fact.label), one_line(&fact.value)));
    }
    if let Some(more) = left_out(alert, facts) {
        text.push_str(&format!("\n{more}"));
    }
    text
}

/// Says that evidence was cut.
fn left_out(alert: &Alert, shown: usize) -> Option<String> {
    let more = alert.evidence.len().saturating_sub(shown);
    let lines = if more == 1 { "line" } else { "lines" };
    (more > 0).then(|| format!("{more} more {lines} of evidence left out; the status page has all"))
}

/// What pagers and Alertmanager call a level; it is the condition's, also where that is over.
fn severity(alert: &Alert) -> &'static str {
    match alert.condition.level() {
        Level::Red => "critical",
        Level::Yellow | Level::Green => "warning",
    }
}
