//! The OpenAPI document against the server: every call that it describes is there, and answers as it says.

use evergrant_core::alert::Condition;
use evergrant_core::health::Finding;
use evergrant_server::World as _;
use evergrant_store::HealthState as _;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::chain;
use crate::pushes::Server;

fn document() -> Value {
    serde_json::from_str(include_str!("../../../../docs/reference/openapi.json")).unwrap()
}

/// Whether `value` is what the document says of an answer; its schemas refer to each other.
fn fits(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let mut whole = schema.clone();
    whole["components"] = document["components"].clone();
    // Every member that comes is described: a schema that closes its objects finds those that are not.
    close(&mut whole);
    let validator = jsonschema::options().should_validate_formats(true).build(&whole).unwrap();
    let faults: Vec<_> =
        validator.iter_errors(value).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

fn close(schema: &mut Value) {
    if let Value::Object(members) = schema {
        if members.get("properties").is_some() {
            members.insert("additionalProperties".into(), json!(false));
        }
        members.values_mut().for_each(close);
    }
    if let Value::Array(members) = schema {
        members.iter_mut().for_each(close);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_answers_as_the_document_says() {
    let server = Server::start().await;
    let document = document();
    // Something to show of everything.
    let pushed = server.send(
        Method::POST,
        "token-push",
        Some(&server.push_key),
        server.call(Some(server.login())).encode(),
    );
    let pushed = pushed.await;
    let state = server.fixture.world.state();
    let finding = Finding::new(Condition::ClockSkew, None, None);
    let now = server.fixture.world.now();
    let opened = evergrant_core::alert::advance(
        &chain(),
        &[],
        &[finding],
        Default::default(),
        Default::default(),
        now,
    );
    let episode = opened.changed[0].id.clone();
    let change = evergrant_core::alert::BookChange { episodes: opened.changed, alerts: Vec::new() };
    assert!(state.keep_book(0, &change).await.unwrap());
    let acknowledge = format!("episodes/{episode}/acknowledge");
    let calls = [
        ("GET", "token-push/status", "token-push/status", ""),
        ("GET", "token-push/last-seen", "token-push/last-seen", ""),
        ("GET", "chains", "chains", ""),
        ("GET", "chains/{chain}", "chains/claude", ""),
        ("GET", "chains/{chain}/events", "chains/claude/events?after=0", ""),
        ("POST", "chains/{chain}/refresh", "chains/claude/refresh?force=true", ""),
        ("POST", "chains/{chain}/probe", "chains/claude/probe", ""),
        ("POST", "chains/{chain}/mute", "chains/claude/mute", r#"{"for_secs":60}"#),
        ("POST", "episodes/{id}/acknowledge", &acknowledge, r#"{"for_secs":60}"#),
        ("GET", "episodes", "episodes?open=true", ""),
        ("GET", "keys", "keys", ""),
    ];
    let base = "/api/v1/admin/system/";
    let described = |method: &str, path: &str| {
        let call = &document["paths"][format!("{base}{path}")][method.to_lowercase()];
        assert!(call.is_object(), "{method} {path} is not described");
        call["responses"]["200"]["content"]["application/json"]["schema"].clone()
    };
    assert_eq!(pushed.0, 200);
    fits(&document, &described("POST", "token-push"), &pushed.1).unwrap();
    for (method, path, address, body) in calls {
        let method_of = Method::from_bytes(method.as_bytes()).unwrap();
        let (status, value) = server.send(method_of, address, Some(&server.admin_key), body.into()).await;
        assert_eq!(status, 200, "{value}");
        fits(&document, &described(method, path), &value)
            .unwrap_or_else(|fault| panic!("{path}: {fault} in {value}"));
    }
    let (status, short) = server.send(Method::GET, "token-push/status", None, Vec::new()).await;
    assert_eq!(status, 200);
    fits(&document, &described("GET", "token-push/status"), &short).unwrap();
    let (_, problem) = server.send(Method::GET, "chains/nobody", Some(&server.admin_key), Vec::new()).await;
    fits(&document, &document["components"]["schemas"]["Problem"], &problem).unwrap();
    // The validator would find what is not described.
    assert!(fits(&document, &document["components"]["schemas"]["Problem"], &json!({ "title": 1 })).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_described_is_there() {
    let server = Server::start().await;
    for (path, calls) in document()["paths"].as_object().unwrap() {
        let Some(below) = path.strip_prefix("/api/v1/admin/system/") else { continue };
        let below = below.replace("{chain}", "claude").replace("{id}", "unknown-id");
        for method in calls.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let (status, value) = server.send(method.clone(), &below, None, b"{}".to_vec()).await;
            // Without a key it is refused for that, and not for being unknown.
            let open = below.ends_with("/status") || below.ends_with("/last-seen");
            assert_eq!(status, if open { 200 } else { 401 }, "{method} {path}: {value}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_alerts_link_to_is_shown() {
    let server = Server::start().await;
    for code in Condition::ALL.iter().map(|condition| condition.as_str()).chain(["recovered"]) {
        let page = server.page(&format!("/runbook/{code}.md")).await;
        assert!(page.contains(code), "{page}");
    }
    assert!(server.page("/runbook/nothing.md").await.contains("not_found"));
    assert!(server.page("/runbook/..%2fagent.md").await.contains("not_found"));
}
