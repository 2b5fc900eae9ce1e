//! Cards for Teams, parsed by Microsoft's own library.

use serde_json::{Value, json};

use crate::support::{more_alerts, node, teams};

/// What Adaptive Cards 1.4 know, of what we use: types and their properties.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("AdaptiveCard", &["$schema", "type", "version", "fallbackText", "msteams", "body", "actions"]),
    ("Container", &["type", "style", "bleed", "items", "spacing"]),
    ("TextBlock", &["type", "text", "weight", "size", "wrap", "isSubtle", "spacing", "fontType"]),
    ("FactSet", &["type", "facts"]),
    ("Action.OpenUrl", &["type", "title", "url"]),
];
const WORDS: [(&str, &[&str]); 5] = [
    ("style", &["attention", "warning", "good", "emphasis"]),
    ("weight", &["Bolder"]),
    ("size", &["Small", "Medium"]),
    ("spacing", &["Small"]),
    ("fontType", &["Monospace"]),
];

fn walk(value: &Value, faults: &mut Vec<String>) {
    let Some(kind) = value.get("type").and_then(Value::as_str) else {
        return faults.push(format!("no type: {value}"));
    };
    let Some((_, properties)) = ALLOWED.iter().find(|(known, _)| *known == kind) else {
        return faults.push(format!("{kind} is not of version 1.4, or not allowed"));
    };
    for (name, property) in value.as_object().unwrap() {
        if !properties.contains(&name.as_str()) {
            faults.push(format!("{kind}.{name}"));
        }
        let words = WORDS.iter().find(|(known, _)| known == name);
        if words.is_some_and(|(_, words)| !words.contains(&property.as_str().unwrap())) {
            faults.push(format!("{kind}.{name} = {property}"));
        }
    }
    for children in ["body", "items", "actions"] {
        for child in value.get(children).and_then(Value::as_array).into_iter().flatten() {
            walk(child, faults);
        }
    }
    for fact in value.get("facts").and_then(Value::as_array).into_iter().flatten() {
        let whole = ["title", "value"].iter().all(|name| fact[*name].is_string());
        if !whole || fact.as_object().unwrap().len() != 2 {
            faults.push(format!("fact {fact}"));
        }
    }
}

fn check(messages: &[Value]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages.json");
    std::fs::write(&file, json!(messages).to_string()).unwrap();
    serde_json::from_slice(&node("cards.mjs", &["check", file.to_str().unwrap()])).unwrap()
}

#[test]
fn every_card_is_parsed_without_a_word_and_is_of_version_1_4() {
    let messages: Vec<_> = more_alerts().iter().map(teams).collect();
    let parsed = check(&messages);
    assert_eq!(parsed.len(), messages.len());
    for (message, parsed) in messages.iter().zip(&parsed) {
        assert_eq!(parsed["faults"], json!([]), "{message}");
        assert_eq!(parsed["version"], "1.4");
        let card = &message["attachments"][0]["content"];
        assert_eq!(parsed["items"].as_u64().unwrap(), card["body"].as_array().unwrap().len() as u64);
        let mut faults = Vec::new();
        walk(card, &mut faults);
        assert_eq!(faults, [""; 0]);
        assert!(message.to_string().len() <= 20_000);
    }
}

#[test]
fn the_parser_and_the_list_see_what_is_wrong() {
    let wrong = json!({ "type": "message", "attachments": [{ "content": { "type": "AdaptiveCard", "version": "1.4",
        "body": [{ "type": "Chart", "text": "x" }, { "type": "TextBlock", "text": "x", "style": "columnHeader" }] } }] });
    assert_ne!(check(std::slice::from_ref(&wrong))[0]["faults"], json!([]));
    let mut faults = Vec::new();
    walk(&wrong["attachments"][0]["content"], &mut faults);
    assert_eq!(faults.len(), 3, "{faults:?}");
}
