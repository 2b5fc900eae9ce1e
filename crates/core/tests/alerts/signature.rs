//! Signed webhooks, checked by the library that receivers use.

use std::collections::BTreeMap;

use evergrant_core::alert::render::{Rendered, render};
use evergrant_core::alert::sink::{SigningKey, SinkUrl};
use evergrant_core::alert::{Group, Level, Sink, SinkKind};
use serde_json::json;

use crate::support::{more_alerts, node};

const SECRET: &str = "whsec_bm90LWEtcmVhbC1rZXktbm90LWEtcmVhbC1rZXk=";

#[test]
fn the_receivers_library_accepts_what_we_sign_and_refuses_what_was_changed() {
    // The library compares with the clock.
    let now = jiff::Timestamp::try_from(
        std::time::UNIX_EPOCH.elapsed().map(|since| std::time::UNIX_EPOCH + since).unwrap(),
    )
    .unwrap();
    let url = SinkUrl::new("https://in.example.org/".parse().unwrap());
    let kind = SinkKind::Webhook { url, key: SigningKey::parse(SECRET).unwrap() };
    let groups = vec![Group::TokenPush, Group::Chain];
    let sink = Sink {
        name: "it".into(),
        kind,
        min_level: Level::Yellow,
        groups,
        allow_insecure: false,
        ca_file: None,
    };
    let mut signed = Vec::new();
    for alert in more_alerts() {
        let Rendered::Requests(requests) = render(&sink, &alert, now) else { panic!("{sink:?}") };
        let headers: BTreeMap<_, _> = requests[0].headers.iter().cloned().collect();
        let body = String::from_utf8(requests[0].body.clone()).unwrap();
        signed.push(json!({ "secret": SECRET, "headers": headers, "body": body }));
    }
    let good = signed.len();
    let mut changed = signed[0].clone();
    changed["body"] = json!(changed["body"].as_str().unwrap().replace("mac_silent", "recovered"));
    let mut replayed = signed[0].clone();
    replayed["headers"]["webhook-id"] = json!("another");
    signed.extend([changed, replayed]);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("signed.json");
    std::fs::write(&file, json!(signed).to_string()).unwrap();
    let said: Vec<serde_json::Value> =
        serde_json::from_slice(&node("webhook.mjs", &[file.to_str().unwrap()])).unwrap();
    assert_eq!(said.len(), good + 2);
    assert!(said[..good].iter().all(|verdict| verdict == true), "{said:?}");
    assert!(said[good..].iter().all(|verdict| verdict == "No matching signature found"), "{said:?}");
}
