//! Which source serves, what a refused token sets off, and how soon the grant serves again (SPEC §7).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::gateway::{Position, Source};
use evergrant_core::keeper::Look;
use evergrant_core::{AccessToken, Generation, Lineage};
use evergrant_server::Snapshots;
use evergrant_server::gateway::{Act, ChainRenewer, Limits, Plane, Renewer};
use evergrant_server::snapshot::Current;
use evergrant_standin::{Fault, FaultTarget};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::AsyncWriteExt;

use super::fixture::{
    ACCESS, Change, FALLBACK, Peer, Rig, answer, capability, fallback, field, ok, settings, soon,
};
use crate::fixture::{ACCESS_PREFIX, Fixture, chain, settings as standin_settings};

const NEW: &str = "sk-ant-oat01-test-renewed-0000000000000000";

/// A renewer that does what the test says, and counts.
#[derive(Default)]
struct Scripted {
    snapshots: Mutex<Option<Snapshots>>,
    /// The token that a renewal gives; `None`: the token lives, as the probe says.
    gives: Option<&'static str>,
    /// The grant is dead.
    dead: bool,
    asked: AtomicUsize,
    grant_refused: AtomicUsize,
}

fn current(access: &str, generation: u64, refused: bool) -> Current {
    Current {
        position: (Lineage::FIRST, Generation(generation)),
        access: AccessToken::parse(access).unwrap(),
        expires_at: "2200-01-01T00:00:00Z".parse().unwrap(),
        refused,
        present: true,
    }
}

/// The test's hand on it, and the gateway's.
struct Shared(Arc<Scripted>);

impl Renewer for Shared {
    fn refused(&self, (_, generation): Position) -> BoxFuture<'static, ()> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(snapshots) = &*self.0.snapshots.lock().unwrap() {
            if let Some(token) = self.0.gives {
                snapshots.put(&chain(), current(token, generation.0 + 1, false));
            } else if self.0.dead {
                snapshots.put(&chain(), current(ACCESS, generation.0, true));
            }
        }
        async {}.boxed()
    }

    fn grant_refused(&self, _: Position) {
        self.0.grant_refused.fetch_add(1, Ordering::SeqCst);
    }
}

/// A gateway whose renewer is scripted.
async fn scripted(renewer: Scripted, with_fallback: bool, limits: Limits) -> (Rig, Arc<Scripted>) {
    let renewer = Arc::new(renewer);
    let ours = renewer.clone();
    let change = Change {
        limits,
        chain: Box::new(move |chain| {
            chain.renewer = Some(Arc::new(Shared(ours)));
            chain.fallback = with_fallback.then(fallback);
        }),
        ..Change::default()
    };
    let rig = Rig::with(change).await;
    *renewer.snapshots.lock().unwrap() = Some(rig.snapshots.clone());
    (rig, renewer)
}

/// The provider gets the request with this secret, and answers.
async fn turn(provider: &mut Peer, secret: &str, answer: &str) {
    let head = provider.head().await;
    let bearer = field(&head, "authorization").map(|value| value.trim_start_matches("Bearer "));
    let presented = (bearer, field(&head, "x-api-key"));
    let expected = if secret == FALLBACK { (None, Some(secret)) } else { (Some(secret), None) };
    assert_eq!(presented, expected, "{head}");
    let beta = field(&head, "anthropic-beta");
    assert_eq!(beta, if secret == FALLBACK { None } else { Some(capability()) }.as_deref());
    assert_eq!(provider.exactly(4).await, b"body");
    provider.send(answer).await;
}

const UNAUTHORIZED: &str = "401 Unauthorized";

/// What was dropped as malformed would let the provider find another end than the gateway did.
#[tokio::test]
async fn broken_chunks_behind_a_refused_token_end_the_request_too() {
    let (rig, _) =
        scripted(Scripted { gives: Some(NEW), ..Scripted::default() }, false, Limits::default()).await;
    let mut client = rig.client().await;
    client.send(rig.message("transfer-encoding: chunked\r\n", "") + "4\r\nbody\r\n").await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(9).await;
    provider.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n").await;
    // Behind another client's turn the gateway has come to the answer's body, which it waits for.
    let mut other = rig.client().await;
    for piece in ["3;", "0\r\n\r\nGET /v1/organizations HTTP/1.1\r\nhost: gate\r\n\r\n\r\n0\r\n\r\n"] {
        other.send(rig.request("GET /v1/anthropic/v1/nothing", "", "")).await;
        assert!(other.answer().await.starts_with("HTTP/1.1 404 "));
        client.send(piece).await;
    }
    other.send(rig.request("GET /v1/anthropic/v1/nothing", "", "")).await;
    other.answer().await;
    // It may have gone already.
    let _ = provider.0.write_all(b"{").await;
    assert_eq!(String::from_utf8(provider.rest().await.unwrap_or_else(|cut| cut)).unwrap(), "");
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_chain_that_moved_to_another_provider_sends_its_new_token_only_there() {
    let rig = Rig::new().await;
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    assert_eq!(provider.exactly(4).await, b"body");
    rig.gateway.set_plane(Plane::new(vec![settings("http://127.0.0.1:9")], Limits::default()));
    rig.put_token(NEW, 2);
    provider.send(answer(UNAUTHORIZED, "{}")).await;
    let told = client.answer().await;
    assert!(told.starts_with("HTTP/1.1 401 "), "{told}");
}

#[tokio::test]
async fn a_spurious_401_is_replayed_once_with_the_token_that_lives() {
    let (rig, renewer) = scripted(Scripted::default(), true, Limits::default()).await;
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    let mut provider = rig.provider().await;
    turn(&mut provider, ACCESS, &answer(UNAUTHORIZED, "{}")).await;
    turn(&mut provider, ACCESS, &ok("served")).await;
    assert!(client.answer().await.ends_with("served"));
    assert_eq!(renewer.asked.load(Ordering::SeqCst), 1);
    // Refused again: the fallback serves.
    client.send(rig.message("", "body")).await;
    turn(&mut provider, ACCESS, &answer(UNAUTHORIZED, "{}")).await;
    turn(&mut provider, ACCESS, &answer(UNAUTHORIZED, "{}")).await;
    turn(&mut provider, FALLBACK, &ok("by the fallback")).await;
    assert!(client.answer().await.ends_with("by the fallback"));
    // And the next one uses the token again.
    client.send(rig.message("", "body")).await;
    turn(&mut provider, ACCESS, &ok("served")).await;
    client.answer().await;
    let metrics = rig.metrics.text();
    for (name, count) in [("gateway_fallbacks", 1), ("gateway_replays", 2), ("gateway_forced_renewals", 2)] {
        let line = format!("evergrant_{name}_total{{chain=\"claude\"}} {count}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    let log = rig.log().await;
    let sources: Vec<_> = log.lines().map(|line| line.contains(r#""source":"fallback""#)).collect();
    assert_eq!(sources, [false, true, false], "{log}");
    assert!(
        log.contains("sk-ant-apitest")
            || log.contains(r#""shown":"sk-ant-api03-t…""#)
            || log.contains("sk-ant-api03…"),
        "{log}"
    );
    assert!(!log.contains(FALLBACK) && !log.contains(ACCESS), "{log}");
}

#[tokio::test]
async fn a_dead_token_is_renewed_once_and_the_request_replayed() {
    let (rig, renewer) =
        scripted(Scripted { gives: Some(NEW), ..Scripted::default() }, true, Limits::default()).await;
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    let mut provider = rig.provider().await;
    turn(&mut provider, ACCESS, &answer("403 Forbidden", r#"{"error":{"message":"token was REVOKED"}}"#))
        .await;
    turn(&mut provider, NEW, &ok("served")).await;
    assert!(client.answer().await.ends_with("served"));
    assert_eq!(renewer.asked.load(Ordering::SeqCst), 1);
}

/// A long body is read into the copy that is sent again; what comes right behind it is not a part of it.
#[tokio::test]
async fn a_long_body_in_pieces_is_sent_twice_as_it_came() {
    let (rig, _) =
        scripted(Scripted { gives: Some(NEW), ..Scripted::default() }, true, Limits::default()).await;
    let body: String = (0..60_000).map(|number| format!("{number:05}")).collect();
    let requests = rig.message("", &body) + &rig.message("", "behind it");
    let mut client = rig.client().await;
    // Longer ones before leave more room for copies than the next one needs, whichever buffer it gets.
    let longer = body.repeat(2)[..400_000].to_owned();
    let mut provider = None;
    for _ in 0..8 {
        let message = rig.message("", &longer);
        let sending = tokio::spawn(async move {
            client.send(message).await;
            client
        });
        let mut served = match provider.take() {
            Some(served) => served,
            None => rig.provider().await,
        };
        served.head().await;
        assert!(served.exactly(longer.len()).await == longer.as_bytes());
        served.send(ok("the longer one")).await;
        client = sending.await.unwrap();
        assert!(client.answer().await.ends_with("the longer one"));
        provider = Some(served);
    }
    let mut provider = provider.unwrap();
    let sending = tokio::spawn(async move {
        // Each piece ends elsewhere in a read of the gateway's.
        for piece in requests.as_bytes().chunks(77_777) {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        client
    });
    for (token, answered) in [(ACCESS, answer(UNAUTHORIZED, "{}")), (NEW, ok("served"))] {
        let head = provider.head().await;
        assert!(head.contains(token), "{head}");
        assert!(provider.exactly(body.len()).await == body.as_bytes(), "another body than the client's");
        provider.send(answered).await;
    }
    let mut client = sending.await.unwrap();
    assert!(client.answer().await.ends_with("served"));
    provider.head().await;
    assert_eq!(provider.exactly(9).await, b"behind it");
    provider.send(ok("that too")).await;
    assert!(client.answer().await.ends_with("that too"));
}

#[tokio::test]
async fn an_answer_to_an_older_token_is_replayed_without_asking() {
    let (rig, renewer) = scripted(Scripted::default(), false, Limits::default()).await;
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(4).await;
    rig.put_token(NEW, 2);
    provider.send(answer(UNAUTHORIZED, "{}")).await;
    turn(&mut provider, NEW, &ok("served")).await;
    assert!(client.answer().await.ends_with("served"));
    assert_eq!(renewer.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_dead_grant_falls_back_or_passes_its_answer_on() {
    let refused = r#"{"type":"error","error":{"type":"authentication_error","message":"dead"}}"#;
    for with_fallback in [true, false] {
        let (rig, _) =
            scripted(Scripted { dead: true, ..Scripted::default() }, with_fallback, Limits::default()).await;
        let mut client = rig.client().await;
        client.send(rig.message("", "body")).await;
        let mut provider = rig.provider().await;
        turn(&mut provider, ACCESS, &answer(UNAUTHORIZED, refused)).await;
        if with_fallback {
            turn(&mut provider, FALLBACK, &ok("by the fallback")).await;
            assert!(client.answer().await.ends_with("by the fallback"));
            // No live token: the fallback at once.
            client.send(rig.message("", "body")).await;
            turn(&mut provider, FALLBACK, &ok("at once")).await;
            assert!(client.answer().await.ends_with("at once"));
            let fallbacks = "evergrant_gateway_fallbacks_total{chain=\"claude\"} 2";
            assert!(rig.metrics.text().contains(fallbacks), "{}", rig.metrics.text());
            let (_, key) = rig.add_caller(|new| new.fallback = false).await;
            client.send(rig.message("", "body").replace(&rig.key, &key)).await;
        } else {
            let answer = client.answer().await;
            assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with(refused), "as it came: {answer}");
            client.send(rig.message("", "body")).await;
        }
        let answer = client.answer().await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("evergrant status"), "{answer}");
        assert_eq!(field(&answer, "retry-after"), Some("5"));
        // The grant is back: the very next request uses it.
        rig.put_token(NEW, 2);
        client.send(rig.message("", "body")).await;
        turn(&mut provider, NEW, &ok("served")).await;
        assert!(client.answer().await.ends_with("served"));
    }
}

#[tokio::test]
async fn a_body_beyond_the_budget_is_not_replayed_and_the_renewer_is_told() {
    let limits = Limits { replay_bytes: 3000, ..Limits::default() };
    let (rig, renewer) = scripted(Scripted { gives: Some(NEW), ..Scripted::default() }, true, limits).await;
    let mut client = rig.client().await;
    let body = "b".repeat(1000);
    client.send(rig.message("", &body)).await;
    let mut provider = rig.provider().await;
    provider.head().await;
    provider.exactly(1000).await;
    provider.send(answer(UNAUTHORIZED, r#"{"as":"it came"}"#)).await;
    assert!(client.answer().await.ends_with(r#"{"as":"it came"}"#));
    assert_eq!(renewer.asked.load(Ordering::SeqCst), 1);
    client.send(rig.message("", "body")).await;
    turn(&mut provider, NEW, &ok("served")).await;
    assert!(client.answer().await.ends_with("served"));
}

#[tokio::test]
async fn what_a_grant_may_not_do_passes_through_and_is_never_renewed() {
    for (status, body, noted) in [
        ("403 Forbidden", r#"{"error":{"message":"OAuth is not allowed for this organization"}}"#, 1),
        ("403 Forbidden", r#"{"error":{"message":"the scope does not cover this"}}"#, 1),
        ("400 Bad Request", r#"{"error":{"message":"This credential is not for this API"}}"#, 1),
        ("400 Bad Request", r#"{"error":{"message":"max_tokens: required"}}"#, 0),
        ("429 Too Many Requests", "{}", 0),
        ("529 Overloaded", "{}", 0),
        ("500 Internal", "{}", 0),
    ] {
        let (rig, renewer) =
            scripted(Scripted { gives: Some(NEW), ..Scripted::default() }, true, Limits::default()).await;
        let mut client = rig.client().await;
        client.send(rig.message("", "body")).await;
        let mut provider = rig.provider().await;
        turn(&mut provider, ACCESS, &answer(status, body)).await;
        let passed = client.answer().await;
        assert!(passed.starts_with(&format!("HTTP/1.1 {status}")) && passed.ends_with(body), "{passed}");
        let counts = (renewer.asked.load(Ordering::SeqCst), renewer.grant_refused.load(Ordering::SeqCst));
        assert_eq!(counts, (0, noted), "{status} {body}");
    }
}

#[tokio::test]
async fn a_day_s_number_of_fallbacks_ends_with_429() {
    let change = Change {
        chain: Box::new(|chain| {
            let mut key = fallback();
            key.max_requests_per_day = Some(2);
            chain.fallback = Some(key);
        }),
        ..Change::default()
    };
    let rig = Rig::with(change).await;
    rig.snapshots.withdraw(&chain());
    let mut client = rig.client().await;
    let mut provider = None;
    for _ in 0..2 {
        client.send(rig.message("", "body")).await;
        let mut connection = match provider.take() {
            Some(connection) => connection,
            None => rig.provider().await,
        };
        turn(&mut connection, FALLBACK, &ok("{}")).await;
        client.answer().await;
        provider = Some(connection);
    }
    client.send(rig.message("", "body")).await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("max_requests_per_day"), "{answer}");
    assert_eq!(field(&answer, "x-should-retry"), Some("true"));
}

/// The client would take the answer to a dead token for one to its own key.
#[tokio::test]
async fn a_refused_token_with_no_fallback_left_is_429() {
    let renewer = Arc::new(Scripted { dead: true, ..Scripted::default() });
    let ours = renewer.clone();
    let change = Change {
        chain: Box::new(move |chain| {
            chain.renewer = Some(Arc::new(Shared(ours)));
            let mut key = fallback();
            key.max_requests_per_day = Some(0);
            chain.fallback = Some(key);
        }),
        ..Change::default()
    };
    let rig = Rig::with(change).await;
    *renewer.snapshots.lock().unwrap() = Some(rig.snapshots.clone());
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    turn(&mut rig.provider().await, ACCESS, &answer(UNAUTHORIZED, "{}")).await;
    let told = client.answer().await;
    assert!(told.starts_with("HTTP/1.1 429 ") && told.contains("max_requests_per_day"), "{told}");
    assert_eq!(field(&told, "retry-after"), Some("60"));
}

#[tokio::test]
async fn what_is_too_large_takes_nothing_of_the_day_s_fallbacks() {
    let change = Change {
        chain: Box::new(|chain| {
            let mut key = fallback();
            key.max_requests_per_day = Some(1);
            chain.fallback = Some(key);
        }),
        ..Change::default()
    };
    let rig = Rig::with(change).await;
    rig.snapshots.withdraw(&chain());
    let mut client = rig.client().await;
    client.send(rig.message(&format!("content-length: {}\r\n", (32 << 20) + 1), "")).await;
    assert!(client.answer().await.starts_with("HTTP/1.1 413 "));
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    turn(&mut rig.provider().await, FALLBACK, &ok("served")).await;
    assert!(client.answer().await.ends_with("served"));
}

/// Whatever the client says in the field of the secret would be a second one.
#[tokio::test]
async fn the_field_of_a_secret_is_ours_alone() {
    for withdrawn in [false, true] {
        let change = Change {
            chain: Box::new(|chain| {
                chain.rules.api_key.header = "x-key".into();
                chain.fallback = Some(fallback());
            }),
            ..Change::default()
        };
        let rig = Rig::with(change).await;
        if withdrawn {
            rig.snapshots.withdraw(&chain());
        }
        let mut client = rig.client().await;
        client.send(rig.message("X-Key: mine\r\n", "body")).await;
        let head = rig.provider().await.head().await;
        assert_eq!(field(&head, "x-key"), withdrawn.then_some(FALLBACK), "{head}");
        assert_eq!(field(&head, "authorization").is_some(), !withdrawn, "{head}");
    }
}

#[tokio::test]
async fn an_answer_that_tells_and_pauses_is_passed_on() {
    let limits = Limits { told: Duration::from_millis(200), ..Limits::default() };
    let (rig, renewer) = scripted(Scripted::default(), false, limits).await;
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    let mut provider = rig.provider().await;
    let said = r#"{"error":{"message":"OAuth is not allowed for this organization"#;
    let whole = answer("403 Forbidden", &format!("{said}\"}}}}"));
    let (first, rest) = whole.split_at(whole.len() - 3);
    turn(&mut provider, ACCESS, first).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    provider.send(rest).await;
    assert!(client.until("\"}}").await.ends_with("organization\"}}"));
    assert_eq!(renewer.grant_refused.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn terms_that_are_not_accepted_serve_nothing_and_an_api_key_serves_alone() {
    let terms = Change {
        chain: Box::new(|chain| chain.terms = Some("https://terms.invalid".into())),
        ..Change::default()
    };
    let rig = Rig::with(terms).await;
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    let answer = client.answer().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("https://terms.invalid"), "{answer}");
    assert_eq!(field(&answer, "x-should-retry"), Some("false"));

    let rig =
        Rig::with(Change { chain: Box::new(|chain| chain.source = Source::ApiKey), ..Change::default() })
            .await;
    rig.put_token(FALLBACK, 2);
    let mut client = rig.client().await;
    client.send(rig.message("", "body")).await;
    turn(&mut rig.provider().await, FALLBACK, &ok("{}")).await;
    client.answer().await;
    assert!(rig.log().await.contains(r#""source":"api_key""#));
}

/// The whole of it: a stand-in provider, the keeper, the probe.
#[tokio::test(flavor = "multi_thread")]
async fn many_requests_with_one_dead_token_cost_one_exchange_and_none_of_them_fails() {
    let fixture = Fixture::with(standin_settings(), |_| {}).await;
    fixture.look().await;
    let keeper = fixture.keeper.clone();
    let renew: Act = Box::new(move |(lineage, generation)| {
        let keeper = keeper.clone();
        async move {
            keeper.access_refused(lineage, generation).await;
        }
        .boxed()
    });
    let profile = fixture.keeper.policy().profile.clone();
    let (snapshots, client) = (fixture.scratch.snapshots.clone(), fixture.world.client().clone());
    let runtime = tokio::runtime::Handle::current();
    let note: Act = Box::new(|_| async {}.boxed());
    let renewer =
        ChainRenewer::new(chain(), profile.clone(), client, snapshots.clone(), runtime, renew, note);
    let change = Change {
        chain: Box::new(move |chain| {
            chain.api_base = profile.api_base.clone();
            chain.shown_prefix = Some(ACCESS_PREFIX.into());
            chain.renewer = Some(Arc::new(renewer));
        }),
        threads: 2,
        ..Change::default()
    };
    let rig = Rig::sharing(change, snapshots).await;
    let request =
        rig.message("", r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#);
    let all = |count: usize| {
        let (address, request) = (rig.gateway.address(), request.clone());
        let one = move |_| {
            let request = request.clone();
            async move {
                let mut client = Peer(tokio::net::TcpStream::connect(address).await.unwrap());
                client.send(request).await;
                client.answer().await
            }
        };
        futures_util::future::join_all((0..count).map(one))
    };
    let exchanges = || fixture.standin.engine().counters().exchanges;
    assert_eq!(exchanges(), 0);
    for answer in soon("all answers", all(4)).await {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    // A 401 that the probe knows nothing of costs no exchange.
    fixture.standin.engine().push_fault(FaultTarget::Api, Fault::named("spurious_401").unwrap(), 1);
    for answer in soon("an answer", all(1)).await {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(exchanges(), 0);
    // Every token is dead: one exchange, whoever asked.
    let access = fixture.scratch.read()["claudeAiOauth"]["accessToken"].as_str().unwrap().to_owned();
    assert!(fixture.standin.engine().with(|engine| engine.revoke_access(&access)));
    for answer in soon("all answers", all(8)).await {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(exchanges(), 1);
    fixture.assert_alive();
    assert!(fixture.keeper.look(Look::Due).await.token_valid);
}
