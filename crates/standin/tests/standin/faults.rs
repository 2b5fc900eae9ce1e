//! Every ready-made fault at the token endpoint: what is answered, how it travels, and whether the token is spent.

use std::time::Duration;

use evergrant_standin::{ExchangeOutcome, Fault, FaultTarget, Member, Rule, Settings, Transport};
use serde_json::Value;

use crate::client::{Bench, json};

/// Name, status, how the body begins (`"json"`: a token answer), whether the presented token is spent.
const TABLE: &[(&str, u16, &str, bool)] = &[
    ("throttled", 429, r#"{"type":"error","error":{"type":"rate_limit_error""#, false),
    ("throttled_retry_after", 429, r#"{"type":"error""#, false),
    ("empty_500", 500, "", false),
    ("text_500", 500, "Internal", false),
    ("html_502", 502, "<!DOCTYPE html>", false),
    ("text_503", 503, "Service", false),
    ("html_504", 504, "<!DOCTYPE html>", false),
    ("text_529", 529, "Overloaded", false),
    ("api_error_500", 500, r#"{"type":"error","error":{"type":"api_error""#, false),
    ("overloaded_503", 503, r#"{"type":"error","error":{"type":"overloaded_error""#, false),
    ("overloaded_529", 529, r#"{"type":"error","error":{"type":"overloaded_error""#, false),
    ("timeout_408", 408, "Request", false),
    ("blocked_403", 403, "<!DOCTYPE html>", false),
    ("blocked_404", 404, "<!DOCTYPE html>", false),
    ("forbidden_json_403", 403, r#"{"message":"#, false),
    ("accepted_202", 202, "", false),
    ("no_content_204", 204, "", false),
    ("redirect_302", 302, "", false),
    ("invalid_grant_400", 400, r#"{"error":"invalid_grant""#, false),
    ("invalid_grant_401", 401, r#"{"error":"invalid_grant""#, false),
    ("invalid_grant_403", 403, r#"{"error":"invalid_grant""#, false),
    ("invalid_grant_object_400", 400, r#"{"error":{"type":"invalid_grant""#, false),
    ("invalid_grant_object_401", 401, r#"{"error":{"type":"invalid_grant""#, false),
    ("invalid_grant_object_403", 403, r#"{"error":{"type":"invalid_grant""#, false),
    ("invalid_client", 401, r#"{"error":"invalid_client""#, false),
    ("unauthorized_client", 400, r#"{"error":"unauthorized_client""#, false),
    ("unsupported_grant_type", 400, r#"{"error":"unsupported_grant_type""#, false),
    ("invalid_request", 400, r#"{"error":"invalid_request""#, false),
    ("invalid_scope", 400, r#"{"error":"invalid_scope""#, false),
    ("other_422", 422, "Unprocessable", false),
    ("request_lost", 200, "", false),
    ("answer_lost", 200, "json", true),
    ("never_answer", 200, "", false),
    ("never_answer_spent", 200, "json", true),
    ("slow_before", 200, "json", true),
    ("slow_after", 200, "json", true),
    ("truncated_json", 200, r#"{"token_type""#, true),
    ("cut_body", 200, "json", true),
    ("no_refresh_token", 200, "json", true),
    ("no_access_token", 200, "json", true),
    ("no_expires_in", 200, "json", true),
    ("no_scope", 200, "json", true),
    ("not_a_token", 200, r#"{"ok":true}"#, false),
    ("not_a_token_spent", 200, r#"{"ok":true}"#, true),
    ("huge_body", 200, "json", true),
    ("clock_ahead", 200, "json", true),
    ("clock_behind", 200, "json", true),
    ("spent_then_500", 500, "Internal", true),
    ("spurious_401", 401, r#"{"type":"error","error":{"type":"authentication_error""#, false),
    ("revoked_403", 403, r#"{"type":"error","error":{"type":"permission_error""#, false),
    ("organization_403", 403, r#"{"type":"error","error":{"type":"permission_error""#, false),
];

#[test]
fn the_table_holds_every_preset() {
    let names: Vec<&str> = Fault::presets().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, TABLE.iter().map(|row| row.0).collect::<Vec<_>>());
}

#[test]
fn each_answers_and_spends_as_it_says() {
    for (name, status, start, spends) in TABLE {
        let mut bench = Bench::new(Settings::default());
        let login = bench.login();
        let token = login.refresh_token.unwrap();
        let fault = Fault::named(name).unwrap();
        bench.engine.push_fault(FaultTarget::Token, fault.clone(), 1);
        let reply = bench.refresh(&token);
        assert_eq!(reply.status, *status, "{name}");
        let body = reply.bytes();
        if *start == "json" {
            assert!(json(&reply)["token_type"].is_string(), "{name}");
        } else if start.is_empty() {
            assert!(body.is_empty(), "{name}");
        } else {
            assert!(body.starts_with(start.as_bytes()), "{name}: {body:?}");
        }
        let spent = bench.engine.newest_refresh_token(login.family) != Some(token.as_str());
        assert_eq!(spent, *spends, "{name}");
        let logged = bench.engine.exchanges().next_back().unwrap();
        assert_eq!(logged.fault.as_deref(), Some(fault.label().as_str()));
        assert_eq!(logged.delivered, reply.delivered(), "{name}");
        let wanted = if spent { ExchangeOutcome::Rotated } else { ExchangeOutcome::NotProcessed };
        assert_eq!(logged.outcome, wanted, "{name}");
        // It was played once.
        let newest = bench.engine.newest_refresh_token(login.family).unwrap().to_owned();
        assert_eq!(bench.refresh(&newest).status, 200, "{name}");
    }
}

fn played(fault: &str) -> evergrant_standin::Reply {
    let mut bench = Bench::new(Settings::default());
    let token = bench.login().refresh_token.unwrap();
    bench.engine.push_fault(FaultTarget::Any, Fault::named(fault).unwrap(), 1);
    bench.refresh(&token)
}

#[test]
fn particulars() {
    assert_eq!(played("throttled").header("retry-after"), None);
    assert_eq!(played("throttled_retry_after").header("retry-after"), Some("30"));
    assert_eq!(played("redirect_302").header("location"), Some("/elsewhere"));
    assert_eq!(played("blocked_403").header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(played("request_lost").transport, Transport::LoseRequest);
    assert_eq!(played("answer_lost").transport, Transport::LoseAnswer);
    assert_eq!(played("never_answer").transport, Transport::NeverAnswer);
    assert_eq!(played("cut_body").transport, Transport::CutBody { after_bytes: 20 });
    assert_eq!(played("slow_before").delay, Duration::from_secs(2));
    assert_eq!(played("slow_after").delay, Duration::from_secs(2));
    assert_eq!(played("huge_body").bytes().len(), 8 << 20);
    assert!(serde_json::from_slice::<Value>(&played("truncated_json").bytes()).is_err());
    let date = |fault| played(fault).date.to_string();
    assert_eq!(date("clock_ahead"), "2026-01-01T00:10:00Z");
    assert_eq!(date("clock_behind"), "2025-12-31T23:50:00Z");
    for (fault, member) in [
        ("no_refresh_token", "refresh_token"),
        ("no_access_token", "access_token"),
        ("no_expires_in", "expires_in"),
        ("no_scope", "scope"),
    ] {
        assert_eq!(json(&played(fault)).get(member), None);
    }
}

#[test]
fn a_wait_before_the_processing_is_told_apart() {
    let mut bench = Bench::new(Settings::default());
    bench.engine.push_fault(FaultTarget::Token, Fault::DelayBefore { millis: 70 }, 1);
    let arrival = bench.engine.arrive(evergrant_standin::Endpoint::Token);
    assert_eq!(arrival.wait(), Duration::from_millis(70));
    assert_eq!(arrival.fault(), Some("delay_before"));
    assert_eq!(bench.engine.exchanges().count(), 0);
}

#[test]
fn faults_add_up() {
    let mut bench = Bench::new(Settings::default());
    let login = bench.login();
    let rule = Rule::always(FaultTarget::Token, Fault::DelayAfter { millis: 5 })
        .and(Fault::AnswerLost)
        .and(Fault::Omit { members: vec![Member::Scope, Member::Account] })
        .and(Fault::DateSkew { secs: 1 });
    bench.engine.push_rule(rule);
    for _ in 0..2 {
        let newest = bench.engine.newest_refresh_token(login.family).unwrap().to_owned();
        let reply = bench.refresh(&newest);
        assert_eq!((reply.delay, reply.transport), (Duration::from_millis(5), Transport::LoseAnswer));
        assert_eq!((json(&reply).get("scope"), json(&reply).get("account")), (None, None));
        assert_ne!(reply.date, bench.now);
    }
    assert_eq!(bench.engine.counters().rotations, 2);
    bench.engine.clear_faults();
    let newest = bench.engine.newest_refresh_token(login.family).unwrap().to_owned();
    assert!(bench.refresh(&newest).delivered());
}
