//! Caller keys: changes by another process, and the admin calls over a real socket.

use std::time::Duration;

use bytes::Bytes;
use evergrant_core::audit::Actor;
use evergrant_core::caller::{Caller, CallerKey, NewCaller, Scope, Scopes};
use evergrant_server::admin::{self, Admin, Chains};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::{Callers, TokioWorld, World};
use evergrant_store::{MemoryState, SqliteState, State};
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{api_key_chain, chain};

fn new_caller(scopes: &[Scope]) -> NewCaller {
    NewCaller {
        name: "a test".parse().unwrap(),
        scopes: scopes.iter().copied().collect::<Scopes>(),
        chain: chain(),
        expires_in: None,
        requests_per_minute: None,
        concurrent: None,
        fallback: true,
    }
}

fn world<S: State>(state: S) -> TokioWorld<S> {
    TokioWorld::new(state, HttpClient::new(None).unwrap())
}

async fn add<S: State>(world: &TokioWorld<S>, new: NewCaller) -> (Caller, CallerKey) {
    let (caller, key) = new.create(world.now(), &mut world.key_rng()).unwrap();
    assert!(world.state().add_caller(&caller, &Actor::cli("test")).await.unwrap());
    (caller, key)
}

/// Waits until it holds, for no longer than a change may take.
async fn within_a_second(mut holds: impl FnMut() -> bool) {
    let holds = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), holds).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_changes_works_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteState::open(&folder.path().join("state.db")).unwrap();
    let (ours, theirs) = (world(open()), world(open()));
    let callers = Callers::load(ours.state()).await.unwrap();
    let follows = tokio::spawn(callers.clone().follow(ours.clone()));
    let (caller, key) = add(&theirs, new_caller(&[])).await;
    let refusal = || {
        let table = callers.table();
        let known = table.find(key.expose().as_bytes())?;
        Some(known.caller.refusal(ours.now(), Scope::Gateway).is_some())
    };
    assert_eq!(refusal(), None);
    within_a_second(|| refusal() == Some(false)).await;
    let version = callers.version();
    theirs.state().revoke_caller(&caller.id, theirs.now(), &Actor::cli("test")).await.unwrap();
    within_a_second(|| refusal() == Some(true)).await;
    assert_ne!(callers.version(), version);
    follows.abort();
}

/// A server of the admin calls, and a key that may use them.
struct Server {
    world: TokioWorld<MemoryState>,
    base: String,
    key: CallerKey,
}

impl Server {
    async fn start() -> Self {
        let world = world(MemoryState::new());
        let (_, key) = add(&world, new_caller(&[Scope::AdminWrite])).await;
        let callers = Callers::load(world.state()).await.unwrap();
        let chains = Chains::default();
        let named = |name: &str| api_key_chain(&world, &callers, name);
        chains.set(vec![named("claude"), named("team")], None, None);
        let admin = Admin { world: world.clone(), metrics: Metrics::default(), callers, chains };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, admin::router(admin)).await });
        Self { world, base, key }
    }

    /// Status, content type and JSON of a call; every answer of an admin call may be stored nowhere.
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (u16, String, Value) {
        let url = format!("{}/api/v1/admin/system{path}", self.base).parse().unwrap();
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reply = self.world.client().call(method, &url, &headers, body).await.unwrap();
        assert_eq!(reply.headers["cache-control"], "no-store", "{path}");
        let content_type = reply.headers["content-type"].to_str().unwrap().to_owned();
        (reply.status, content_type, serde_json::from_slice(&reply.body).unwrap())
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, content_type, value) =
            self.send(method, path, &[("x-api-key", self.key.expose())], body).await;
        let expected = if status < 400 { "application/json" } else { "application/problem+json" };
        assert_eq!(content_type, expected, "{value}");
        (status, value)
    }

    /// What a call with this key is refused with.
    async fn refused(&self, key: &str) -> (u16, Value) {
        let (status, _, value) = self.send("GET", "/keys", &[("x-api-key", key)], "").await;
        (status, value["reason"].clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lives_from_creation_to_revocation() {
    let server = Server::start().await;
    let body = json!({ "name": "the shop", "scopes": ["push", "admin:write"], "chain": "team",
        "expires_in_secs": 3600, "requests_per_minute": 60, "concurrent": 4, "fallback": false });
    let (status, made) = server.call("POST", "/keys", &body.to_string()).await;
    assert_eq!(status, 201, "{made}");
    let (key, id) = (made["key"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned());
    for (member, value) in body.as_object().unwrap() {
        if member != "expires_in_secs" {
            assert_eq!(made[member], *value, "{member}");
        }
    }
    assert!(made["expires_at"].is_string());
    // It works at once, and the list has it without the key.
    let (status, _, list) = server.send("GET", "/keys", &[("x-cm-api-key", &key)], "").await;
    assert_eq!((status, list["keys"].as_array().unwrap().len()), (200, 2));
    assert!(!list.to_string().contains(&key) && !list.to_string().contains("hash"));

    let (status, rotated) = server.call("POST", &format!("/keys/{id}/rotate"), "").await;
    assert_eq!(status, 201, "{rotated}");
    assert_eq!((&rotated["name"], &rotated["replaces"]["id"]), (&json!("the shop"), &json!(id)));
    assert_eq!(server.refused(&key).await, (401, json!("caller_expired")));
    let (status, again) = server.call("POST", &format!("/keys/{id}/rotate"), "").await;
    assert_eq!((status, &again["reason"]), (409, &json!("caller_replaced")));

    let (key, id) = (rotated["key"].as_str().unwrap(), rotated["id"].as_str().unwrap());
    let (status, rotated) =
        server.call("POST", &format!("/keys/{id}/rotate"), r#"{"overlap_secs":60}"#).await;
    assert_eq!(status, 201, "{rotated}");
    for key in [key, rotated["key"].as_str().unwrap()] {
        assert_eq!(server.refused(key).await.0, 200, "both work while they overlap");
    }
    let (status, revoked) = server.call("DELETE", &format!("/keys/{id}"), "").await;
    assert_eq!((status, &revoked["standing"]), (200, &json!("revoked")));
    assert_eq!(server.refused(key).await, (401, json!("caller_revoked")));
    let (status, twice) = server.call("DELETE", &format!("/keys/{id}"), "").await;
    assert_eq!((status, twice), (200, revoked));
    let audit = server.world.state().audit(9).await.unwrap();
    let what: Vec<_> = audit.iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(what, ["key_revoked", "key_rotated", "key_rotated", "key_created", "key_created"]);
    assert_eq!(audit[0].who.as_str(), server.key.hash().id().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_key_with_the_scope_lets_in() {
    let server = Server::start().await;
    let good = server.key.expose();
    for (headers, status, reason) in [
        (&[][..], 401, "caller_missing"),
        (&[("cookie", good), ("x-other", good)], 401, "caller_missing"),
        (&[("x-api-key", "evg_nonsense")], 401, "caller_unknown"),
        // The first header that is there counts, even if another one is right.
        (&[("x-cm-api-key", "wrong"), ("x-api-key", good)], 401, "caller_unknown"),
        (&[("authorization", good)], 401, "caller_missing"),
    ] {
        let (got, content_type, problem) = server.send("GET", "/keys", headers, "").await;
        assert_eq!((got, content_type.as_str()), (status, "application/problem+json"));
        assert_eq!((&problem["reason"], &problem["status"]), (&json!(reason), &json!(status)));
        assert!(problem["detail"].as_str().unwrap().contains("Next: "), "{problem}");
        assert!(!problem.to_string().contains(good));
    }
    let bearer = format!("Bearer {good}");
    assert_eq!(server.send("GET", "/keys", &[("authorization", &bearer)], "").await.0, 200);
    for scope in ["gateway", "push", "admin:read", "token:read"] {
        let body = json!({ "name": "narrow", "scopes": [scope] });
        let (_, made) = server.call("POST", "/keys", &body.to_string()).await;
        let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
        assert_eq!(server.refused(key).await, (403, json!("scope_missing")), "{scope}");
        for (method, path) in [("POST", "/keys"), ("DELETE", &format!("/keys/{id}"))] {
            let (status, _, problem) = server.send(method, path, &[("x-api-key", key)], "{}").await;
            assert_eq!(status, 403);
            assert!(problem["detail"].as_str().unwrap().contains("admin:write"), "{problem}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_request_says_what_is_wrong() {
    let server = Server::start().await;
    let id = "key_000000000000";
    for (method, path, body, status, reason, detail) in [
        ("POST", "/keys", "", 400, "request_invalid", "missing field `name`"),
        ("POST", "/keys", "{", 400, "request_invalid", "line 1"),
        ("POST", "/keys", r#"{"name":"a","expires":1}"#, 400, "request_invalid", "unknown field `expires`"),
        ("POST", "/keys", r#"{"name":"a\nb"}"#, 400, "request_invalid", "no name of a caller"),
        ("POST", "/keys", r#"{"name":"a","scopes":["root"]}"#, 400, "request_invalid", "`token:read`"),
        ("POST", "/keys", r#"{"name":"a","concurrent":0}"#, 400, "request_invalid", "nonzero"),
        ("POST", "/keys", r#"{"name":"a","expires_in_secs":0}"#, 400, "request_invalid", "at least 1 s"),
        ("POST", "/keys", r#"{"name":"a","chain":"other"}"#, 400, "chain_unknown", "there is: claude, team"),
        ("DELETE", &format!("/keys/{id}"), "", 404, "not_found", "no key of that id"),
        ("DELETE", "/keys/nonsense", "", 404, "not_found", "no key of that id"),
        ("DELETE", "/keys/%ff", "", 404, "not_found", "no key of that id"),
        ("POST", &format!("/keys/{id}/rotate"), "", 404, "not_found", "no key of that id"),
        ("POST", &format!("/keys/{id}/rotate"), r#"{"overlap":1}"#, 400, "request_invalid", "overlap_secs"),
        ("PUT", "/keys", "", 405, "method_not_allowed", "other methods"),
        ("GET", "/nothing", "", 404, "not_found", "nothing under this address"),
    ] {
        let (got, problem) = server.call(method, path, body).await;
        assert_eq!((got, &problem["reason"]), (status, &json!(reason)), "{method} {path} {body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(admin::MAX_BODY_LEN));
    let (status, problem) = server.call("POST", "/keys", &large).await;
    assert_eq!((status, &problem["reason"]), (413, &json!("body_too_large")));
    assert_eq!(server.world.state().callers().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_key_keeps_its_limits() {
    let server = Server::start().await;
    let body = json!({ "name": "slow", "scopes": ["admin:write"], "requests_per_minute": 2 });
    let (_, made) = server.call("POST", "/keys", &body.to_string()).await;
    let key = made["key"].as_str().unwrap();
    for _ in 0..2 {
        assert_eq!(server.refused(key).await.0, 200);
    }
    let url = format!("{}/api/v1/admin/system/keys", server.base).parse().unwrap();
    let headers = [("x-api-key".to_owned(), key.to_owned())];
    let reply = server.world.client().call(Method::GET, &url, &headers, Bytes::new()).await.unwrap();
    assert_eq!(reply.status, 429);
    let wait: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let problem: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(problem["reason"], "rate_limited");
}
