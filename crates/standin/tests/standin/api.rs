//! The API side of the engine: who is let in, what each path answers, what is recorded.

use evergrant_standin::{
    Body, Capability, Fault, FaultTarget, Fingerprint, Lives, LoginOptions, Settings, Source, Streaming,
};

use crate::client::{Bench, JSON, json};

const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
type Headers<'a> = &'a [(&'a str, &'a str)];

const MESSAGE: &str = r#"{"model":"m","max_tokens":1,"messages":[]}"#;

fn bench() -> (Bench, String) {
    let capability = Capability {
        header: "x-cap".into(),
        value: "oauth".into(),
        federation_value: None,
        on_exchange: false,
    };
    let settings = Settings {
        capability: Some(capability),
        api_keys: vec!["key-1".into()],
        lives: Lives { access_secs: 60, ..Lives::default() },
        ..Settings::default()
    };
    let mut bench = Bench::new(settings);
    let login = bench.login();
    let bearer = format!("Bearer {}", login.access_token);
    (bench, bearer)
}

#[test]
fn callers_are_told_apart() {
    let (mut bench, bearer) = bench();
    let cap = ("X-Cap", "other, oauth");
    let auth = ("Authorization", bearer.as_str());
    let key = ("x-api-key", "key-1");
    let rows: &[(Headers<'_>, u16, Source)] = &[
        (&[auth, cap], 200, Source::Oauth),
        (&[auth], 401, Source::Oauth),
        (&[("authorization", "Bearer bogus"), cap], 401, Source::Oauth),
        (&[key], 200, Source::ApiKey),
        (&[("authorization", "Bearer key-1")], 200, Source::ApiKey),
        (&[("x-api-key", "key-2")], 401, Source::ApiKey),
        (&[auth, key, cap], 400, Source::Both),
        (&[cap], 401, Source::None),
    ];
    for (headers, status, source) in rows {
        let reply = bench.call("GET", "/v1/models?limit=1", headers, "");
        assert_eq!(reply.status, *status, "{headers:?}");
        let seen = bench.engine.sightings().next_back().unwrap();
        assert_eq!((seen.status, seen.source), (*status, *source));
        if *status >= 400 {
            let body = json(&reply);
            assert_eq!(body["type"], "error");
            assert!(body["error"]["type"].is_string() && body["error"]["message"].is_string());
            assert_eq!(body["request_id"].as_str(), reply.header("request-id"));
        }
    }
    let seen = bench.engine.sightings().next().unwrap();
    assert_eq!(seen.presented, Some(Fingerprint::of(bearer.strip_prefix("Bearer ").unwrap())));
    assert_eq!((seen.target.as_str(), seen.headers.len()), ("/v1/models?limit=1", 0));
}

#[test]
fn roles_answer_for_live_tokens_with_the_scope() {
    let (mut bench, bearer) = bench();
    let cap = ("x-cap", "oauth");
    let live = bench.call("GET", "/roles", &[("authorization", &bearer), cap], "");
    assert_eq!(live.status, 200);
    assert!(json(&live)["organization_role"].is_string());
    assert_eq!(bench.call("GET", "/roles", &[("x-api-key", "key-1")], "").status, 401);

    let narrow = LoginOptions { scopes: Some(vec!["user:inference".into()]), ..LoginOptions::default() };
    let narrow = format!("Bearer {}", bench.login_with(narrow).access_token);
    let limited = bench.call("GET", "/roles", &[("authorization", &narrow), cap], "");
    assert_eq!(limited.status, 403);
    assert!(limited.bytes().windows(24).any(|part| part == b"oauth_scope_insufficient"));
    assert_eq!(bench.call("GET", "/v1/models", &[("authorization", &narrow), cap], "").status, 200);

    bench.pass(60);
    let expired = bench.call("GET", "/roles", &[("authorization", &bearer), cap], "");
    assert_eq!(
        (expired.status, json(&expired)["error"]["type"].as_str()),
        (401, Some("authentication_error"))
    );
}

#[test]
fn a_revoked_token_is_refused_as_the_setting_says() {
    for status in [401, 403] {
        let (mut bench, bearer) = bench();
        bench.engine.settings_mut().revoked_status = status;
        bench.engine.revoke_all(bench.now);
        let refused = bench.call("GET", "/roles", &[("authorization", &bearer), ("x-cap", "oauth")], "");
        assert_eq!(refused.status, status);
        assert!(json(&refused)["error"]["message"].as_str().unwrap().contains("revoked"));
    }
}

#[test]
fn messages_want_their_headers_and_members() {
    let (mut bench, _) = bench();
    let key = ("x-api-key", "key-1");
    let form = ("content-type", "application/x-www-form-urlencoded");
    let rows: &[(&str, Headers<'_>, &str, u16)] = &[
        ("/v1/messages", &[key, VERSION, JSON], MESSAGE, 200),
        ("/v1/messages?beta=true", &[key, VERSION, JSON], MESSAGE, 200),
        ("/v1/messages", &[key, JSON], MESSAGE, 400),
        ("/v1/messages", &[key, VERSION], MESSAGE, 400),
        ("/v1/messages", &[key, VERSION, form], MESSAGE, 400),
        ("/v1/messages", &[key, VERSION, JSON], "{", 400),
        ("/v1/messages", &[key, VERSION, JSON], r#"{"model":"m","messages":[]}"#, 400),
        ("/v1/messages/count_tokens", &[key, VERSION, JSON], r#"{"model":"m","messages":[]}"#, 200),
        ("/v1/messages/count_tokens", &[key, JSON], MESSAGE, 400),
    ];
    for (target, headers, body, status) in rows {
        assert_eq!(bench.call("POST", target, headers, body).status, *status, "{target} {headers:?} {body}");
    }
    let message = json(&bench.call("POST", "/v1/messages", &[key, VERSION, JSON], MESSAGE));
    assert_eq!(
        (message["type"].as_str(), message["stop_reason"].as_str()),
        (Some("message"), Some("end_turn"))
    );
    assert!(message["content"][0]["text"].is_string());
    let counted = bench.call("POST", "/v1/messages/count_tokens", &[key, VERSION, JSON], MESSAGE);
    assert!(json(&counted)["input_tokens"].is_u64());
}

#[test]
fn streams_have_the_events_of_a_message() {
    let (mut bench, _) = bench();
    bench.engine.settings_mut().streaming = Streaming { deltas: 2, delta_bytes: 3, gap_millis: 40 };
    let body = r#"{"model":"m","max_tokens":1,"messages":[],"stream":true}"#;
    let reply = bench.call("POST", "/v1/messages", &[("x-api-key", "key-1"), VERSION, JSON], body);
    assert!(reply.header("content-type").unwrap().starts_with("text/event-stream"));
    let Body::Events { events, gap } = &reply.body else { panic!("{reply:?}") };
    assert_eq!(gap.as_millis(), 40);
    let mut names = Vec::new();
    for event in events {
        let text = std::str::from_utf8(event).unwrap();
        let (name, data) = text.strip_suffix("\n\n").unwrap().split_once('\n').unwrap();
        let data: serde_json::Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        names.push(data["type"].as_str().unwrap().to_owned());
    }
    let wanted = [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, wanted);
}

#[test]
fn models_keep_to_the_limit() {
    let (mut bench, _) = bench();
    let key = ("x-api-key", "key-1");
    let one = json(&bench.call("GET", "/v1/models?limit=1", &[key], ""));
    assert_eq!((one["data"].as_array().unwrap().len(), one["has_more"].as_bool()), (1, Some(true)));
    assert_eq!(one["last_id"], "stand-in-large");
    let all = json(&bench.call("GET", "/v1/models", &[key], ""));
    assert_eq!((all["data"].as_array().unwrap().len(), all["has_more"].as_bool()), (2, Some(false)));
    assert_eq!(bench.call("GET", "/v1/models?limit=x", &[key], "").status, 400);
    assert_eq!(bench.call("GET", "/v1/models/stand-in-small", &[key], "").status, 200);
    assert_eq!(bench.call("GET", "/v1/models/other", &[key], "").status, 404);
    assert_eq!(bench.call("DELETE", "/v1/models", &[key], "").status, 405);
}

#[test]
fn greetings_need_nobody_and_the_rest_is_not_there() {
    let (mut bench, _) = bench();
    bench.engine.push_fault(FaultTarget::Any, Fault::status(500, evergrant_standin::FaultBody::Empty), 9);
    for path in ["/", "/api/hello"] {
        assert_eq!(bench.call("HEAD", path, &[], "").status, 200);
    }
    assert_eq!(bench.call("GET", "/v1/organizations", &[], "").status, 404);
    assert_eq!(bench.engine.sightings().count(), 0);
}

#[test]
fn faults_befall_their_own_endpoint() {
    let (mut bench, bearer) = bench();
    let headers = [("authorization", bearer.as_str()), ("x-cap", "oauth")];
    let spurious = || Fault::named("spurious_401").unwrap();
    bench.engine.push_fault(FaultTarget::Probe, spurious(), 1);
    bench.engine.push_fault(FaultTarget::Api, Fault::throttled(Some(3)), 1);
    let limited = bench.call("GET", "/v1/models", &headers, "");
    assert_eq!((limited.status, limited.header("retry-after")), (429, Some("3")));
    let statuses = [(); 2].map(|()| bench.call("GET", "/roles", &headers, "").status);
    assert_eq!(statuses, [401, 200]);
    let seen = bench.engine.sightings().nth(1).unwrap();
    assert_eq!(seen.fault.as_deref(), Some("status_401"));
}

#[test]
fn headers_are_recorded_without_secrets() {
    let (mut bench, bearer) = bench();
    bench.engine.settings_mut().record_headers = true;
    bench.call("GET", "/v1/models", &[("Authorization", &bearer), ("X-Cap", "oauth"), ("X-Extra", "1")], "");
    let seen = bench.engine.sightings().next().unwrap();
    let print = Fingerprint::of(bearer.strip_prefix("Bearer ").unwrap()).to_string();
    let wanted = [("authorization", print.as_str()), ("x-cap", "oauth"), ("x-extra", "1")];
    assert!(seen.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(wanted));
}
