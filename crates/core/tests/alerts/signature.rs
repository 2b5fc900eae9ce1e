//! Signed webhooks, checked by the library that receivers use.

use std::collections::BTreeMap;

use evergrant_core::alert::SinkKind;
use evergrant_core::alert::sink::{SigningKey, SinkUrl};
use serde_json::json;

use crate::support::{more_alerts, node, requests_at};

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
    let mut signed = Vec::new();
    for alert in more_alerts() {
        let requests = requests_at(kind.clone(), &alert, now);
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
