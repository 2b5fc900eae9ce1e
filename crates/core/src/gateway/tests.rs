//! Tables of the gateway's decisions.

use super::*;
use crate::chain::{Generation, Lineage};
use crate::provider::Profile;
use crate::reason::Reason;

fn claude() -> Rules {
    Profile::claude().gateway.unwrap()
}

fn at(generation: u64) -> Position {
    (Lineage(1), Generation(generation))
}

#[test]
fn only_listed_paths_are_lent_a_key() {
    let rules = claude();
    for (method, path, there) in [
        ("POST", "/v1/anthropic/v1/messages", "/v1/messages"),
        ("POST", "/v1/anthropic/v1/messages/count_tokens", "/v1/messages/count_tokens"),
        ("POST", "/v1/anthropic/v1/messages/batches", "/v1/messages/batches"),
        (
            "GET",
            "/v1/anthropic/v1/messages/batches/msgbatch_1/results",
            "/v1/messages/batches/msgbatch_1/results",
        ),
        ("GET", "/v1/anthropic/v1/models", "/v1/models"),
        ("GET", "/v1/anthropic/v1/models/claude-x", "/v1/models/claude-x"),
        ("DELETE", "/v1/anthropic/v1/files/file_1", "/v1/files/file_1"),
        ("GET", "/v1/anthropic/v1/models/a%20b", "/v1/models/a%20b"),
        ("HEAD", "/v1/anthropic/api/hello", "/api/hello"),
        ("HEAD", "/v1/anthropic/", "/"),
        ("HEAD", "/v1/anthropic", "/"),
    ] {
        let route = rules.route(method, path);
        assert!(
            matches!(route, Route::Forwarded(_, upstream) if upstream == there),
            "{method} {path}: {route:?}"
        );
    }
    for (method, path) in [
        ("GET", "/v1/anthropic/api/hello"),
        ("GET", "/v1/anthropic/"),
        ("GET", "/v1/anthropic/v1/organizations/api_keys"),
        ("GET", "/v1/anthropic/v1/oauth/token"),
        ("POST", "/v1/anthropic/v1/messagesX"),
        ("POST", "/v1/anthropic/v1/messages/"),
        ("POST", "/v1/anthropic/v1/messages/other"),
        ("POST", "/v1/anthropic//v1/messages"),
        ("POST", "/v1/anthropic/v1//messages"),
        ("GET", "/v1/anthropic/v1/models/../organizations"),
        ("GET", "/v1/anthropic/v1/models/./x"),
        ("GET", "/v1/anthropic/v1/models/%2e%2e/organizations"),
        ("GET", "/v1/anthropic/v1/models/%2E%2e"),
        ("GET", "/v1/anthropic/v1/models%2fx"),
        ("GET", "/v1/anthropic/v1/models/..%2f..%2fv1%2forganizations"),
        ("GET", "/v1/anthropic/v1/models/%5c..%5c"),
        ("GET", "/v1/anthropic/v1/models/%252e%252e"),
        ("GET", "/v1/anthropic/v1/models/%6frganizations"),
        ("GET", "/v1/anthropic/v1/models/%"),
        ("GET", "/v1/anthropic/v1/models/%0a"),
        ("GET", "/v1/anthropic/v1/models/%zz"),
        ("GET", "/v1/anthropic/v1/models\\..\\x"),
    ] {
        assert_eq!(rules.route(method, path), Route::NotForwarded, "{method} {path}");
    }
    for path in
        ["/", "/healthz", "/v1/anthropicX", "/v1", "//v1/anthropic/v1/messages", "/V1/anthropic/v1/messages"]
    {
        assert_eq!(rules.route("POST", path), Route::Elsewhere, "{path}");
    }
}

#[test]
fn the_longest_body_is_that_of_the_path() {
    let rules = claude();
    let limit = |path| match rules.route("POST", path) {
        Route::Forwarded(rule, _) => rules.paths[rule].body_limit >> 20,
        other @ (Route::NotForwarded | Route::Elsewhere) => panic!("{path}: {other:?}"),
    };
    assert_eq!(limit("/v1/anthropic/v1/messages"), 32);
    assert_eq!(limit("/v1/anthropic/v1/messages/batches"), 256);
    assert_eq!(limit("/v1/anthropic/v1/files"), 500);
}

#[test]
fn an_answer_is_read_by_status_and_words() {
    let rules = claude();
    let error = |kind: &str, message: &str| {
        format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"}}}}"#)
    };
    let permission = |message: &str| error("permission_error", message);
    let invalid = |message: &str| error("invalid_request_error", message);
    for (status, body, meaning) in [
        (200, String::new(), Meaning::Served),
        (401, String::new(), Meaning::TokenRefused),
        (401, error("authentication_error", "Invalid bearer token"), Meaning::TokenRefused),
        (403, permission("OAuth token has been revoked. Please obtain a new token."), Meaning::TokenRefused),
        (
            403,
            permission("OAuth authentication is currently not allowed for this organization."),
            Meaning::GrantRefused,
        ),
        (
            403,
            permission("OAuth token does not meet scope requirement user:inference"),
            Meaning::GrantRefused,
        ),
        (403, permission("Your account is not allowed to do this"), Meaning::Served),
        (403, String::new(), Meaning::Served),
        (400, invalid("This credential is only authorized for use elsewhere."), Meaning::GrantRefused),
        (
            400,
            invalid("Third-party apps now draw from your extra usage, not your plan limits."),
            Meaning::GrantRefused,
        ),
        (400, invalid("messages.0.content: Field required"), Meaning::Served),
        (404, permission("revoked"), Meaning::Served),
        (429, error("rate_limit_error", "slow down"), Meaning::RateLimited),
        (500, error("api_error", "revoked"), Meaning::Served),
        (529, error("overloaded_error", "Overloaded"), Meaning::Served),
    ] {
        assert_eq!(rules.meaning(status, &body), meaning, "{status} {body}");
        assert!(rules.tells(status) || meaning == Meaning::Served, "{status}");
    }
    assert!(!rules.tells(200));
}

#[test]
fn the_source_is_the_token_else_the_fallback_else_none() {
    let on = FallbackOn::default();
    let never = FallbackOn { exhausted: false, ..on };
    let no = Choice::None(Reason::NoSource);
    for (live, fallback, on, choice) in [
        (Some(at(3)), Fallback::Ready, on, Choice::Oauth(at(3))),
        (Some(at(3)), Fallback::Absent, on, Choice::Oauth(at(3))),
        (None, Fallback::Ready, on, Choice::Fallback),
        (None, Fallback::Ready, never, no),
        (None, Fallback::Absent, on, no),
        (None, Fallback::NotForCaller, on, no),
        (None, Fallback::UsedUp, on, Choice::None(Reason::FallbackUsedUp)),
        (None, Fallback::UsedUp, never, no),
    ] {
        assert_eq!(choose(live, fallback, on), choice, "{live:?} {fallback:?}");
    }
}

/// One row a step: meaning, asked, replayed, live generation, held, fallback -> what follows.
#[test]
fn a_refused_token_is_probed_renewed_replayed_once_and_then_the_fallback_serves() {
    use Fallback::{Absent, NotForCaller, Ready, UsedUp};
    use Meaning::{GrantRefused, RateLimited, Served, TokenRefused};
    let on = FallbackOn::default();
    for (meaning, asked, replayed, live, held, fallback, follows) in [
        (Served, false, false, Some(1), true, Ready, Next::PassOn),
        // First refusal of the current generation: ask, whatever else there is.
        (TokenRefused, false, false, Some(1), true, Ready, Next::Ask),
        (TokenRefused, false, false, Some(1), true, Absent, Next::Ask),
        (TokenRefused, false, false, None, true, Ready, Next::Ask),
        // A newer generation is current already.
        (TokenRefused, false, false, Some(2), true, Absent, Next::Replay),
        // Asked: the probe found it alive, or it was renewed.
        (TokenRefused, true, false, Some(1), true, Ready, Next::Replay),
        (TokenRefused, true, false, Some(2), true, Ready, Next::Replay),
        // Asked, and nothing lives.
        (TokenRefused, true, false, None, true, Ready, Next::FallBack),
        (TokenRefused, true, false, None, true, Absent, Next::PassOn),
        (TokenRefused, true, false, None, true, NotForCaller, Next::PassOn),
        (TokenRefused, true, false, None, true, UsedUp, Next::UsedUp),
        (TokenRefused, true, true, Some(3), true, UsedUp, Next::UsedUp),
        (TokenRefused, true, true, Some(3), false, UsedUp, Next::PassOnAndTell),
        (GrantRefused, false, false, Some(1), true, UsedUp, Next::PassOn),
        // Replayed, and refused again.
        (TokenRefused, false, true, Some(2), true, Ready, Next::FallBack),
        (TokenRefused, true, true, Some(3), true, Ready, Next::FallBack),
        (TokenRefused, true, true, Some(2), true, Absent, Next::PassOnAndTell),
        // The body is gone: nothing can be sent again, but the chain is looked after.
        (TokenRefused, false, false, Some(1), false, Ready, Next::PassOnAndTell),
        // Renewing helps nothing.
        (GrantRefused, false, false, Some(1), true, Ready, Next::PassOn),
        (RateLimited, false, false, Some(1), true, Ready, Next::PassOn),
    ] {
        let refused = Refused { used: at(1), asked, replayed };
        let found = next(meaning, refused, live.map(at), held, fallback, on);
        assert_eq!(
            found, follows,
            "{meaning:?} asked={asked} replayed={replayed} {live:?} {held} {fallback:?}"
        );
    }
    let costly = FallbackOn { grant_refused: true, rate_limited: true, ..on };
    let refused = Refused::first(at(1));
    for meaning in [GrantRefused, RateLimited] {
        assert_eq!(next(meaning, refused, Some(at(1)), true, Ready, costly), Next::FallBack);
        assert_eq!(next(meaning, refused, Some(at(1)), false, Ready, costly), Next::PassOn);
        assert_eq!(next(meaning, refused, Some(at(1)), true, Absent, costly), Next::PassOn);
    }
    let off = FallbackOn { unauthorized: false, ..on };
    let asked = Refused { asked: true, ..refused };
    assert_eq!(next(TokenRefused, asked, None, true, Ready, off), Next::PassOn);
}

#[test]
fn the_days_number_ends_the_fallback_and_says_so_on_the_way() {
    assert_eq!(spend(1_000_000, None), Spent { allowed: true, reached: None });
    let walk = |max| (0..max + 3).map(|used| spend(used, Some(max))).collect::<Vec<_>>();
    for max in [1, 2, 3, 10, 99, 1000] {
        let days = walk(max);
        assert_eq!(days.iter().filter(|spent| spent.allowed).count() as u64, max);
        assert_eq!(days.iter().filter(|spent| spent.reached == Some(90)).count(), 1, "{max}");
        assert!(days.iter().filter(|spent| spent.reached == Some(50)).count() <= 1, "{max}");
    }
    let days = walk(10);
    assert_eq!(days.iter().position(|spent| spent.reached == Some(50)), Some(4));
    assert_eq!(days.iter().position(|spent| spent.reached == Some(90)), Some(8));
    assert!(!spend(0, Some(0)).allowed);
}

#[test]
fn errors_of_our_own_have_the_apis_shape() {
    let error = OwnError::lasting(ErrorKind::Unauthorized, Reason::BadRequest, "say \"what\"");
    let (content_type, body) = error.body(ErrorShape::TypedObject, "evg_1");
    assert_eq!(content_type, "application/json");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["type"], "error");
    assert_eq!(body["error"]["type"], "authentication_error");
    assert_eq!(body["error"]["message"], "say \"what\"");
    assert_eq!(body["request_id"], "evg_1");
    let (content_type, body) = error.body(ErrorShape::Problem, "evg_1");
    assert_eq!(content_type, "application/problem+json");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["status"], &body["reason"]), (&401.into(), &"bad_request".into()));
}

#[test]
fn a_fallback_key_serves_whom_it_may_while_something_is_left() {
    for (there, for_caller, left, fallback) in [
        (true, true, true, Fallback::Ready),
        (true, true, false, Fallback::UsedUp),
        (true, false, true, Fallback::NotForCaller),
        (true, false, false, Fallback::NotForCaller),
        (false, true, true, Fallback::Absent),
        (false, false, false, Fallback::Absent),
    ] {
        assert_eq!(Fallback::of(there, for_caller, left), fallback, "{there} {for_caller} {left}");
    }
}
