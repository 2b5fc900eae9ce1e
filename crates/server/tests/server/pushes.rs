//! Push events over a real socket: what is taken, what is refused and why, and what the calls say of them.

use std::time::Duration;

use bytes::Bytes;
use evergrant_core::audit::Actor;
use evergrant_core::authfile::{self, Reading};
use evergrant_core::caller::{CallerKey, NewCaller, Scope, Scopes};
use evergrant_core::chain::Kind;
use evergrant_core::grant::Grant;
use evergrant_core::push::{Call, Identity, Local, Message, PushKind};
use evergrant_core::{AccessToken, Lineage, Reason, RefreshToken};
use evergrant_server::admin::{self, Admin, Chains};
use evergrant_server::{Callers, Chain, Renewable as _, Renewal, World};
use evergrant_standin::{Fault, FaultTarget, LoginOptions};
use evergrant_store::{HealthState as _, State as _};
use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::fixture::{Fixture, admin_chain, chain};

/// A server with one chain, and keys for it.
pub(crate) struct Server {
    pub(crate) fixture: Fixture,
    base: String,
    pub(crate) push_key: CallerKey,
    pub(crate) admin_key: CallerKey,
    chains: Chains<evergrant_store::MemoryState>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let fixture = Fixture::new().await;
        fixture.look().await;
        let world = fixture.world.clone();
        let key = async |scope| {
            let new = NewCaller {
                name: "a test".parse().unwrap(),
                scopes: [scope].into_iter().collect::<Scopes>(),
                chain: chain(),
                expires_in: None,
                requests_per_minute: None,
                concurrent: None,
                fallback: true,
            };
            let (caller, key) = new.create(world.now(), &mut world.key_rng()).unwrap();
            assert!(world.state().add_caller(&caller, &Actor::cli("test")).await.unwrap());
            key
        };
        let (push_key, admin_key) = (key(Scope::Push).await, key(Scope::AdminWrite).await);
        let callers = Callers::load(world.state()).await.unwrap();
        let renewal = Renewal::Keeper(fixture.keeper.clone());
        let kept = Chain { renewal, kind: Kind::RefreshToken, world: world.clone() };
        let chains = Chains::default();
        chains.set(vec![admin_chain(kept, fixture.scratch.snapshots.clone(), &callers)], None, None);
        let metrics = fixture.scratch.metrics.clone();
        let admin = Admin { world: world.clone(), metrics, callers, chains: chains.clone() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, admin::router(admin)).await });
        Self { fixture, base, push_key, admin_key, chains }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&CallerKey>,
        body: Vec<u8>,
    ) -> (u16, Value) {
        let url = format!("{}/api/v1/admin/system/{path}", self.base).parse().unwrap();
        let key = key.map(|key| ("authorization".to_owned(), format!("Bearer {}", key.expose())));
        let headers: Vec<_> = key.into_iter().collect();
        let reply =
            self.fixture.world.client().call(method, &url, &headers, Bytes::from(body)).await.unwrap();
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    }

    /// The text of a page that needs no key.
    pub(crate) async fn page(&self, path: &str) -> String {
        let url = format!("{}{path}", self.base).parse().unwrap();
        let reply = self.fixture.world.client().call(Method::GET, &url, &[], Bytes::new()).await.unwrap();
        String::from_utf8(reply.body.to_vec()).unwrap()
    }

    async fn push(&self, call: &Call) -> (u16, Value) {
        self.send(Method::POST, "token-push", Some(&self.push_key), call.encode()).await
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.send(Method::GET, path, Some(&self.admin_key), Vec::new()).await;
        assert_eq!(status, 200, "{value}");
        value
    }

    /// Another login of the same person, as the workstation's entry holds it.
    pub(crate) fn login(&self) -> Grant {
        let file = self.fixture.standin.engine().login(LoginOptions::default()).auth_file();
        match authfile::read(file.to_string().as_bytes(), &self.fixture.keeper.policy().profile) {
            Reading::Grant(grant) => grant,
            other @ (Reading::Wiped | Reading::Malformed(_)) => panic!("{other:?}"),
        }
    }

    fn message(&self, kind: PushKind) -> Message {
        let now = self.fixture.world.now();
        Message {
            kind,
            chain: None,
            agent_id: "desk-1".into(),
            host: "desk".into(),
            version: "0.1.0".into(),
            sent_at: now,
            nonce: format!("nonce-{}-{}", now.as_nanosecond(), fastrand()),
            local: Local::default(),
            reason: (kind == PushKind::Beat).then_some(Reason::SameGrant),
            refused: None,
            pending: false,
            blind_since: None,
            failures: Vec::new(),
            absence: None,
        }
    }

    pub(crate) fn call(&self, grant: Option<Grant>) -> Call {
        let kind = if grant.is_some() { PushKind::Push } else { PushKind::Beat };
        Call { message: self.message(kind), grant, identity: None, accept_new_identity: false }
    }

    /// The reasons of the ledger's push events, oldest first.
    async fn events(&self) -> Vec<(String, bool)> {
        let page = self.get("chains/claude/events").await;
        let pushed = |event: &&Value| ["beat", "pushed"].contains(&event["kind"].as_str().unwrap());
        let events = page["events"].as_array().unwrap().iter().filter(pushed);
        events
            .map(|event| {
                (event["reason"].as_str().unwrap().to_owned(), event["detail"]["ok"].as_bool().unwrap())
            })
            .collect()
    }
}

fn fastrand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn token(prefix: &str) -> String {
    format!("{prefix}{}", "x".repeat(40))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_is_heard_and_shown() {
    let server = Server::start().await;
    let never = server.send(Method::GET, "token-push/last-seen", None, Vec::new()).await;
    assert_eq!(never, (200, json!({ "last_seen_at": null, "seconds_ago": null, "status": "waiting" })));
    let (status, answer) = server.push(&server.call(None)).await;
    assert_eq!((status, &answer["reason"], &answer["status"]), (200, &json!("beat"), &json!("ok")));
    let held = server.fixture.keeper.last_record().unwrap().pair.fingerprint().to_string();
    assert_eq!((&answer["fingerprint"], &answer["lineage"]), (&json!(held), &json!(1)));
    let (status, seen) = server.send(Method::GET, "token-push/last-seen", None, Vec::new()).await;
    assert_eq!((status, &seen["status"]), (200, &json!("ok")));
    assert!(seen["seconds_ago"].as_i64().unwrap() < 60, "{seen}");
    // Without a key the short form; with one that may read, all of it; with another, why not.
    let (status, short) = server.send(Method::GET, "token-push/status?chain=claude", None, Vec::new()).await;
    assert_eq!((status, short.as_object().unwrap().len()), (200, 3));
    assert_eq!((&short["status"], &short["source"]), (&json!("ok"), &json!("oauth")));
    let whole = server.get("token-push/status").await;
    assert_eq!((&whole["counts"]["events"], &whole["agents"][0]["id"]), (&json!(1), &json!("desk-1")));
    assert_eq!((&whole["tracked"], &whole["episodes"]), (&json!(true), &json!([])));
    for path in ["token-push/status?chain=BAD%20NAME", "token-push/last-seen?chain="] {
        let (status, problem) = server.send(Method::GET, path, None, Vec::new()).await;
        assert_eq!((status, &problem["reason"]), (400, &json!("request_invalid")), "{path}");
    }
    // The address may name the chain, too.
    for (path, answers) in [("token-push?chain=claude", 200), ("token-push?chain=other", 403)] {
        let beat = server.call(None).encode();
        let (status, answer) = server.send(Method::POST, path, Some(&server.push_key), beat).await;
        assert_eq!(status, answers, "{path}: {answer}");
    }
    let path = "token-push/status";
    let (status, problem) = server.send(Method::GET, path, Some(&server.push_key), Vec::new()).await;
    assert_eq!((status, &problem["reason"]), (403, &json!("scope_missing")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_login_becomes_the_next_lineage() {
    let server = Server::start().await;
    let grant = server.login();
    let call = server.call(Some(grant.clone()));
    let (status, answer) = server.push(&call).await;
    assert_eq!((status, &answer["reason"], &answer["lineage"]), (200, &json!("accepted"), &json!(2)));
    assert_eq!(answer["fingerprint"], json!(grant.pair().fingerprint().to_string()));
    assert_eq!(server.fixture.scratch.refresh_token(), grant.refresh.as_ref().unwrap().expose());
    // What got lost on the way back is asked again, and changes nothing.
    let (status, answer) = server.push(&server.call(Some(grant))).await;
    assert_eq!((status, &answer["reason"], &answer["lineage"]), (200, &json!("same_grant"), &json!(2)));
    assert_eq!(server.events().await, [("accepted".to_owned(), true), ("same_grant".to_owned(), true)]);
    // It rotates on.
    let report = server.fixture.force().await;
    assert_eq!((report.reason, report.lineage), (Reason::Renewed, Some(Lineage(2))));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_push_that_is_refused_says_why_and_changes_nothing() {
    let server = Server::start().await;
    // A pair that the chain has replaced.
    let spent = server.fixture.keeper.grant().unwrap();
    server.fixture.force().await;
    let mine = Identity { account: Some("mine".into()), organization: None };
    let accepted = Call { identity: Some(mine), ..server.call(Some(server.login())) };
    assert_eq!(server.push(&accepted).await.0, 200);
    let before = server.fixture.scratch.read();
    let profile = server.fixture.keeper.policy().profile.clone();
    let access = |prefix: &str| AccessToken::parse(&token(prefix)).unwrap();
    let refresh = |prefix: &str| RefreshToken::parse(&token(prefix)).unwrap();
    let now = server.fixture.world.now();
    let unknown = Grant {
        access: access(profile.access_prefix.as_deref().unwrap()),
        refresh: Some(refresh(profile.refresh_prefix.as_deref().unwrap())),
        ..server.login()
    };
    let swapped = Grant { access: access(profile.refresh_prefix.as_deref().unwrap()), ..server.login() };
    let expired = Grant { expires_at: Some(now - SignedDuration::from_secs(1)), ..server.login() };
    let late = Message { sent_at: now - SignedDuration::from_mins(6), ..server.message(PushKind::Push) };
    let again = Message { nonce: accepted.message.nonce.clone(), ..server.message(PushKind::Push) };
    let theirs = Identity { account: Some("theirs".into()), organization: None };
    let with = |message| Call { message, ..server.call(Some(server.login())) };
    let mut wiped: Value = serde_json::from_slice(&server.call(Some(server.login())).encode()).unwrap();
    wiped["grant"]["access_token"] = json!("");
    let huge = vec![b' '; 10 << 20];
    let (ours, other_chain) = (server.message(PushKind::Push), Some("team".parse().unwrap()));
    let refusals: Vec<(&str, u16, Vec<u8>)> = vec![
        ("wrong_prefix", 422, server.call(Some(swapped)).encode()),
        ("expired", 422, server.call(Some(expired)).encode()),
        ("agent_clock_skew", 422, with(late).encode()),
        ("nonce_seen", 422, with(again).encode()),
        ("grant_spent", 422, server.call(Some(spent)).encode()),
        (
            "identity_mismatch",
            422,
            Call { identity: Some(theirs.clone()), ..server.call(Some(server.login())) }.encode(),
        ),
        ("probe_refused", 422, server.call(Some(unknown)).encode()),
        ("wiped", 422, wiped.to_string().into_bytes()),
        ("request_invalid", 400, b"{\"kind\":\"push\"}".to_vec()),
        ("body_too_large", 413, huge),
    ];
    for (reason, status, body) in &refusals {
        let refused = server.send(Method::POST, "token-push", Some(&server.push_key), body.clone()).await;
        assert_eq!((refused.0, refused.1["reason"].as_str()), (*status, Some(*reason)), "{}", refused.1);
        assert!(!refused.1["detail"].as_str().unwrap().is_empty());
        assert_eq!(server.fixture.scratch.read(), before, "{reason}");
    }
    let events = server.events().await;
    let expected: Vec<_> = refusals.iter().map(|(reason, _, _)| ((*reason).to_owned(), false)).collect();
    assert_eq!(events[1..], expected);
    // A key pushes to its own chain, and what it may not do is no event.
    let elsewhere = with(Message { chain: other_chain, ..ours });
    assert_eq!(server.push(&elsewhere).await.0, 403);
    let beat = server.call(None).encode();
    for key in [None, Some(&server.admin_key)] {
        let (status, _) = server.send(Method::POST, "token-push", key, beat.clone()).await;
        assert_eq!(status, if key.is_none() { 401 } else { 403 });
    }
    assert_eq!(server.events().await.len(), events.len());
    let facts = server.fixture.world.state().push_facts(&chain()).await.unwrap();
    assert_eq!((facts.failed, facts.streak.unwrap().pushes), (10, 10));
    // What is meant is taken.
    let meant =
        Call { identity: Some(theirs), accept_new_identity: true, ..server.call(Some(server.login())) };
    assert_eq!(server.push(&meant).await.1["reason"], json!("accepted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_without_an_answer_is_no_refusal_for_good() {
    let server = Server::start().await;
    let grant = server.login();
    server.fixture.standin.engine().push_fault(FaultTarget::Probe, Fault::RequestLost, 1);
    let (status, problem) = server.push(&server.call(Some(grant.clone()))).await;
    assert_eq!((status, &problem["reason"]), (503, &json!("probe_unavailable")), "{problem}");
    assert_eq!(server.push(&server.call(Some(grant))).await.1["reason"], json!("accepted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_during_an_exchange_wins() {
    let server = Server::start().await;
    let grant = server.login();
    server.fixture.standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 700 }, 1);
    let keeper = server.fixture.keeper.clone();
    let exchange = tokio::spawn(async move { keeper.look(evergrant_core::keeper::Look::Forced).await });
    while server.fixture.standin.engine().exchanges().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (status, answer) = server.push(&server.call(Some(grant.clone()))).await;
    assert_eq!(
        (status, &answer["reason"], &answer["lineage"]),
        (200, &json!("accepted"), &json!(2)),
        "{answer}"
    );
    exchange.await.unwrap();
    assert_eq!(server.fixture.scratch.refresh_token(), grant.refresh.unwrap().expose());
    let report = server.fixture.look().await;
    assert_eq!((report.lineage, report.ok), (Some(Lineage(2)), true));
    server.fixture.assert_alive();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_counted_and_leaves_no_more_events_than_its_limit() {
    let server = Server::start().await;
    let calls = (0..1000).map(|_| async { server.push(&server.call(None)).await.0 });
    let statuses = futures_util::future::join_all(calls).await;
    let count = |wanted: u16| statuses.iter().filter(|status| **status == wanted).count();
    assert_eq!(count(200) + count(429), 1000);
    assert!((60..=65).contains(&count(200)), "{}", count(200));
    let facts = server.fixture.world.state().push_facts(&chain()).await.unwrap();
    assert_eq!(facts.events as usize, count(200));
    let metrics = server.fixture.scratch.metrics.text();
    let counted = format!("push_requests_refused_total{{reason=\"rate_limited\"}} {}", count(429));
    assert!(metrics.contains(&counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_are_shown_refreshed_probed_muted_and_lent() {
    let server = Server::start().await;
    let shown = server.get("chains/claude").await;
    assert_eq!((&shown["serving"]["source"], &shown["report"]["ok"]), (&json!("oauth"), &json!(true)));
    assert_eq!(server.get("chains").await["chains"], json!([shown]));
    let post = async |path: &str, body: &str| {
        let (status, value) =
            server.send(Method::POST, path, Some(&server.admin_key), body.as_bytes().to_vec()).await;
        assert_eq!(status, 200, "{value}");
        value
    };
    assert_eq!(post("chains/claude/refresh", "").await["refreshed"], json!(false));
    let forced = post("chains/claude/refresh?force=true", "").await;
    assert_eq!((&forced["refreshed"], &forced["generation"]), (&json!(true), &json!(2)));
    assert_eq!(post("chains/claude/probe", "").await["reason"], json!("probe_ok"));
    let muted = post("chains/claude/mute", r#"{"for_secs":7200}"#).await;
    assert!(muted["muted_until"].is_string());
    let book = server.fixture.world.state().book(&[chain()], server.fixture.world.now()).await.unwrap();
    assert!(book.is_muted(&chain(), server.fixture.world.now()));
    let (status, problem) =
        server.send(Method::GET, "chains/nobody", Some(&server.admin_key), Vec::new()).await;
    assert_eq!((status, &problem["reason"]), (404, &json!("chain_unknown")));
    let path = "chains/claude/token";
    let (status, problem) = server.send(Method::GET, path, Some(&server.admin_key), Vec::new()).await;
    assert_eq!((status, &problem["reason"]), (403, &json!("scope_missing")));
    let audit = server.fixture.world.state().audit(9).await.unwrap();
    let acts: Vec<_> = audit.iter().map(|entry| (entry.what.as_str(), entry.to.as_str())).collect();
    assert_eq!(acts[..2], [("chain_muted", "claude"), ("refresh_forced", "claude")]);
    assert_eq!(server.chains.all()[0].chain.chain(), &chain());
}
