//! Slack: an incoming webhook, with blocks and a fallback text.

use serde_json::{Value, json};

use crate::alert::Alert;

use super::{clip, left_out, one_line, subtitle, title};

/// Two columns of five lines.
const MAX_FIELDS: usize = 10;

/// The message.
pub(super) fn message(alert: &Alert) -> Value {
    let mut blocks = vec![
        json!({ "type": "header", "text": { "type": "plain_text", "text": clip(&title(alert), 150), "emoji": true } }),
        context(&subtitle(alert)),
    ];
    if super::title(alert).chars().count() > 150 {
        blocks.push(section(&escaped(&title(alert), 2900)));
    }
    blocks.push(section(&format!("*Serving now:* {}", escaped(&alert.serving, 1500))));
    if let Some(action) = &alert.action {
        blocks.push(section(&format!("*Next:* {}", escaped(&action.text, 2500))));
        let commands: Vec<_> = action.commands.iter().take(8).map(|command| escaped(command, 300)).collect();
        if !commands.is_empty() {
            // A backquote would end the block.
            blocks.push(section(&format!("```\n{}\n```", commands.join("\n").replace('`', "'"))));
        }
    }
    let fields: Vec<_> = alert.evidence.iter().take(MAX_FIELDS).collect();
    if !fields.is_empty() {
        let field = |fact: &&crate::alert::Fact| {
            let text = format!("*{}*\n{}", escaped(&fact.label, 100), escaped(&fact.value, 600));
            json!({ "type": "mrkdwn", "text": text })
        };
        blocks.push(json!({ "type": "section", "fields": fields.iter().map(field).collect::<Vec<_>>() }));
    }
    if let Some(more) = left_out(alert, MAX_FIELDS) {
        blocks.push(context(&more));
    }
    let button = |text: &str, url: &str| {
        json!({ "type": "button", "action_id": text.to_lowercase(), "url": url,
            "text": { "type": "plain_text", "text": text } })
    };
    blocks.push(json!({ "type": "actions", "elements": [
        button("Runbook", &alert.runbook_url), button("Status", &alert.status_url)] }));
    json!({ "text": escaped(&title(alert), 2900), "blocks": blocks })
}

fn section(text: &str) -> Value {
    json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } })
}

fn context(text: &str) -> Value {
    json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": escaped(text, 1500) }] })
}

/// As Slack wants it: nothing can be a mention or a link. The bound holds for what it takes escaped.
fn escaped(text: &str, most: usize) -> String {
    let mut escaped = String::new();
    let mut room = most;
    for character in one_line(text).chars() {
        let one = match character {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            other => other.to_string(),
        };
        let len = one.chars().count();
        if len + 1 > room {
            escaped.push('…');
            break;
        }
        room -= len;
        escaped.push_str(&one);
    }
    escaped
}
