//! Microsoft Teams: an Adaptive Card 1.4 in the envelope that a Workflows webhook takes.

use serde_json::{Value, json};

use crate::alert::{Alert, Fact, Level};

use super::{clip, left_out, one_line, subtitle, title};

/// The longest message, in bytes.
pub const MAX_LEN: usize = 20_000;

/// The message. It is at most [`MAX_LEN`] long: evidence is cut first, then long texts.
pub(super) fn message(alert: &Alert) -> Value {
    // So long a sentence is nobody's; the last one fits in whatever it is written.
    for longest in [1500, 400, 80] {
        let bare = envelope(card(alert, 0, longest));
        let mut room = MAX_LEN.saturating_sub(bare.to_string().len());
        let fits = |fact: &&Fact| {
            let len = fact_json(fact).to_string().len() + 1;
            let fits = len <= room;
            room = room.saturating_sub(len);
            fits
        };
        let shown = alert.evidence.iter().take_while(fits).count();
        let message = envelope(card(alert, shown, longest));
        if message.to_string().len() <= MAX_LEN {
            return message;
        }
    }
    envelope(card(alert, 0, 80))
}

fn envelope(card: Value) -> Value {
    json!({ "type": "message", "attachments": [{
        "contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": null, "content": card }] })
}

fn card(alert: &Alert, facts: usize, longest: usize) -> Value {
    let text = |text: &str| plain(&clip(&one_line(text), longest));
    let style = match alert.level {
        Level::Red => "attention",
        Level::Yellow => "warning",
        Level::Green => "good",
    };
    let mut body = vec![json!({ "type": "Container", "style": style, "bleed": true, "items": [
        { "type": "TextBlock", "text": text(&title(alert)), "weight": "Bolder", "size": "Medium", "wrap": true },
        { "type": "TextBlock", "text": text(&subtitle(alert)), "isSubtle": true, "spacing": "Small", "wrap": true },
    ] })];
    body.push(json!({ "type": "TextBlock", "wrap": true,
        "text": format!("**Serving now:** {}", text(&alert.serving)) }));
    if let Some(action) = &alert.action {
        let mut items = vec![
            json!({ "type": "TextBlock", "text": format!("**Next:** {}", text(&action.text)), "wrap": true }),
        ];
        for command in action.commands.iter().take(8) {
            items.push(
                json!({ "type": "TextBlock", "text": plain(&clip(&one_line(command), longest.min(300))),
                "fontType": "Monospace", "spacing": "Small", "wrap": true }),
            );
        }
        body.push(json!({ "type": "Container", "style": "emphasis", "items": items }));
    }
    if facts > 0 {
        let facts: Vec<_> = alert.evidence.iter().take(facts).map(fact_json).collect();
        body.push(json!({ "type": "FactSet", "facts": facts }));
    }
    // Also where nothing is cut yet, so that its room is reckoned with.
    if let Some(more) = left_out(alert, facts) {
        body.push(
            json!({ "type": "TextBlock", "text": more, "isSubtle": true, "size": "Small", "wrap": true }),
        );
    }
    json!({
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4",
        "fallbackText": text(&title(alert)), "msteams": { "width": "Full" }, "body": body,
        "actions": [
            { "type": "Action.OpenUrl", "title": "Runbook", "url": alert.runbook_url },
            { "type": "Action.OpenUrl", "title": "Status", "url": alert.status_url },
        ],
    })
}

fn fact_json(fact: &Fact) -> Value {
    json!({ "title": plain(&clip(&one_line(&fact.label), 60)), "value": plain(&clip(&one_line(&fact.value), 300)) })
}

/// Takes from a value of another machine what would make it a link, or a date of the card's own.
fn plain(text: &str) -> String {
    text.replace("](", "] (").replace("{{", "{ {")
}
