//! Mail: the same as text and as HTML.

use crate::alert::{Alert, AlertState, Level};

use super::{clip, headline, instant, left_out, one_line, plain_text, subtitle, title};

const MAX_FACTS: usize = 200;

/// A mail without its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// With angle brackets; the same whenever the alert is sent again.
    pub message_id: String,
    /// The message that opened the episode, where this one is not it.
    pub references: Option<String>,
    /// One line.
    pub subject: String,
    /// As plain text.
    pub text: String,
    /// As HTML.
    pub html: String,
}

/// The mail, with ids of the sender's domain.
pub(super) fn email(alert: &Alert, from: &str) -> Email {
    let domain = from.rsplit_once('@').map_or("evergrant.invalid", |(_, domain)| domain);
    let domain: String = domain.chars().filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c)).collect();
    let id = |name: &str| format!("<{name}@{domain}>");
    let opening =
        alert.concerned.first().map(|first| id(&format!("{}-{}", first.episode, AlertState::Open.as_str())));
    Email {
        message_id: id(&alert.id),
        references: opening.filter(|_| alert.state != AlertState::Open),
        subject: clip(&format!("[Evergrant] {}", title(alert)), 200),
        text: text(alert),
        html: html(alert),
    }
}

fn text(alert: &Alert) -> String {
    format!(
        "{}\n\n{}\n\nRunbook: {}\nStatus: {}\n\nSent by Evergrant, {}; alert {}\n",
        title(alert),
        plain_text(alert, MAX_FACTS),
        alert.runbook_url,
        alert.status_url,
        instant(alert.at),
        alert.id
    )
}

/// Colours are those of the reader's own scheme, but for the bar that says how bad it is.
fn html(alert: &Alert) -> String {
    let bar = match alert.level {
        Level::Red => "#c4314b",
        Level::Yellow => "#d8a200",
        Level::Green => "#13a10e",
    };
    let paragraph = |text: &str| format!("<p style=\"margin:12px 0\">{text}</p>\n");
    let mut body = format!(
        "<div style=\"border-left:6px solid {bar};padding:4px 12px\"><h1 style=\"font-size:18px;margin:0\">{}</h1>\n\
         <p style=\"margin:4px 0 0;opacity:.75\">{}</p></div>\n",
        escaped(&title(alert)),
        escaped(&subtitle(alert))
    );
    body.push_str(&paragraph(&format!("<b>Serving now:</b> {}", escaped(&alert.serving))));
    if let Some(action) = &alert.action {
        body.push_str(&paragraph(&format!("<b>Next:</b> {}", escaped(&action.text))));
        let commands: Vec<_> = action.commands.iter().map(|command| escaped(command)).collect();
        let style = "border:1px solid #8886;border-radius:4px;padding:8px;white-space:pre-wrap";
        body.push_str(&format!("<pre style=\"{style}\">{}</pre>\n", commands.join("\n")));
    }
    body.push_str("<table style=\"border-collapse:collapse\">\n");
    for fact in alert.evidence.iter().take(MAX_FACTS) {
        body.push_str(&format!(
            "<tr><th style=\"text-align:left;vertical-align:top;padding:2px 16px 2px 0\">{}</th><td>{}</td></tr>\n",
            escaped(&fact.label),
            escaped(&fact.value)
        ));
    }
    body.push_str("</table>\n");
    if let Some(more) = left_out(alert, MAX_FACTS) {
        body.push_str(&paragraph(&escaped(&more)));
    }
    let link = |url: &str, name: &str| format!("<a href=\"{}\">{name}</a>", escaped(url));
    let links = [link(&alert.runbook_url, "Runbook"), link(&alert.status_url, "Status")];
    body.push_str(&paragraph(&links.join(" · ")));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title></head>\n\
         <body style=\"font:15px/1.45 system-ui,sans-serif;color-scheme:light dark;max-width:720px\">\n{body}</body></html>\n",
        escaped(&headline(alert))
    )
}

fn escaped(text: &str) -> String {
    one_line(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
