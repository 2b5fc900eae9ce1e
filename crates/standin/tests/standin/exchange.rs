//! The token endpoint without faults: lives, members, client authentication, grant types.

use evergrant_standin::{
    AccessState, Capability, Client, ClientAuth, ExchangeOutcome, Federation, GrantLifeMember, Lives,
    LoginOptions, Member, Settings, TokenRequest,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;

use crate::client::{Bench, json, successor};

#[test]
fn lives_end_when_they_say() {
    let lives = Lives { access_secs: 10, refresh_idle_secs: Some(100), grant_secs: Some(150) };
    let mut bench = Bench::new(Settings { lives, ..Settings::default() });
    let login = bench.login();
    let answer = bench.refresh(&login.refresh_token.unwrap());
    assert_eq!(json(&answer)["expires_in"], 10);
    assert_eq!(json(&answer)["refresh_token_expires_in"], 150);
    let access = json(&answer)["access_token"].as_str().unwrap().to_owned();
    bench.pass(9);
    assert_eq!(bench.engine.access_state(&access, bench.now), AccessState::Live);
    bench.pass(1);
    assert_eq!(bench.engine.access_state(&access, bench.now), AccessState::Expired);

    let mut idle = bench_at(&bench, 90);
    assert_eq!(idle.refresh(&successor(&answer)).status, 400);
    let mut used = bench_at(&bench, 89);
    let later = used.refresh(&successor(&answer));
    assert_eq!(json(&later)["refresh_token_expires_in"], 51);
    used.pass(51);
    let ended = used.refresh(&successor(&later));
    assert_eq!((ended.status, json(&ended)["error"].as_str()), (400, Some("invalid_grant")));
    assert!(!used.engine.family_lives(&successor(&later), used.now));
}

fn bench_at(bench: &Bench, secs: i64) -> Bench {
    let mut copy = Bench { engine: bench.engine.clone(), now: bench.now, rng: StdRng::seed_from_u64(8) };
    copy.pass(secs);
    copy
}

#[test]
fn a_login_may_have_lives_and_scopes_of_its_own() {
    let mut bench = Bench::new(Settings::default());
    let options = LoginOptions {
        scopes: Some(vec!["user:inference".into()]),
        access_secs: Some(60),
        grant_secs: Some(600),
        ..LoginOptions::default()
    };
    let login = bench.login_with(options);
    let file = login.auth_file();
    assert_eq!(
        file,
        json!({"claudeAiOauth": {
            "accessToken": login.access_token,
            "refreshToken": login.refresh_token,
            "expiresAt": bench.now.as_millisecond() + 60_000,
            "refreshTokenExpiresAt": bench.now.as_millisecond() + 600_000,
            "scopes": ["user:inference"],
            "subscriptionType": null,
            "rateLimitTier": null,
        }})
    );
    let answer = json(&bench.refresh(login.refresh_token.as_deref().unwrap()));
    assert_eq!((answer["expires_in"].as_u64(), answer["scope"].as_str()), (Some(60), Some("user:inference")));
    let without = bench.login_with(LoginOptions { without_refresh_token: true, ..LoginOptions::default() });
    assert_eq!(without.refresh_token, None);
    assert_eq!(bench.engine.access_state(&without.access_token, bench.now), AccessState::Live);
}

#[test]
fn members_are_there_unless_omitted() {
    let whole = [
        "token_type",
        "access_token",
        "expires_in",
        "refresh_token",
        "refresh_token_expires_in",
        "scope",
        "organization",
        "account",
    ];
    let lives = Lives { grant_secs: Some(500), ..Lives::default() };
    let mut bench = Bench::new(Settings { lives, ..Settings::default() });
    let token = bench.login().refresh_token.unwrap();
    let answer = json(&bench.refresh(&token));
    assert_eq!(answer.as_object().unwrap().keys().collect::<Vec<_>>(), whole);
    assert!(answer["account"]["uuid"].is_string() && answer["organization"]["uuid"].is_string());

    let every = [
        Member::AccessToken,
        Member::ExpiresIn,
        Member::TokenType,
        Member::RefreshToken,
        Member::Scope,
        Member::GrantLife,
        Member::Account,
        Member::Organization,
    ];
    let mut bench = Bench::new(Settings { lives, omit: every.to_vec(), ..Settings::default() });
    let token = bench.login().refresh_token.unwrap();
    assert_eq!(json(&bench.refresh(&token)), json!({}));

    let mut bench = Bench::new(Settings {
        lives,
        grant_life_member: GrantLifeMember::RefreshExpiresIn,
        grant_life_said_secs: Some(0),
        ..Settings::default()
    });
    let token = bench.login().refresh_token.unwrap();
    assert_eq!(json(&bench.refresh(&token))["refresh_expires_in"], 0);
}

#[test]
fn clients_authenticate_as_the_setting_says() {
    let client = |auth| Client { id: Some("id".into()), secret: Some("s&cret".into()), auth };
    let none = TokenRequest::refresh("x");
    let public = none.clone().by("id");
    let post = TokenRequest { client_secret: Some("s&cret".into()), ..public.clone() };
    let wrong = TokenRequest { client_secret: Some("other".into()), ..public.clone() };
    let basic = TokenRequest { basic: Some(("id".into(), "s&cret".into())), ..none.clone() };
    for (auth, request, known) in [
        (ClientAuth::None, &public, true),
        (ClientAuth::None, &none, false),
        (ClientAuth::ClientSecretPost, &post, true),
        (ClientAuth::ClientSecretPost, &public, false),
        (ClientAuth::ClientSecretPost, &wrong, false),
        (ClientAuth::ClientSecretPost, &basic, false),
        (ClientAuth::ClientSecretBasic, &basic, true),
        (ClientAuth::ClientSecretBasic, &post, false),
    ] {
        let mut bench = Bench::new(Settings { client: client(auth), ..Settings::default() });
        let answer = bench.token(request);
        // The token is bogus: a known client gets as far as that.
        let wanted = if known { (400, "invalid_grant") } else { (401, "invalid_client") };
        assert_eq!((answer.status, json(&answer)["error"].as_str().unwrap()), wanted, "{auth:?} {request:?}");
    }
}

#[test]
fn capabilities_are_required_where_they_belong() {
    let capability = Capability {
        header: "x-capability".into(),
        value: "oauth".into(),
        federation_value: Some("federation".into()),
        on_exchange: true,
    };
    let settings =
        Settings { capability: Some(capability), assertions: vec!["jwt".into()], ..Settings::default() };
    let refresh = TokenRequest::refresh;
    let jwt = TokenRequest {
        grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer".into(),
        assertion: Some("jwt".into()),
        ..TokenRequest::default()
    };
    let mut bench = Bench::new(settings);
    let token = bench.login().refresh_token.unwrap();
    let status = |bench: &mut Bench, request: TokenRequest| bench.token(&request).status;
    assert_eq!(status(&mut bench, refresh(token.clone())), 400);
    assert_eq!(status(&mut bench, refresh(token.clone()).with_capability("other")), 400);
    let both = refresh(token.clone()).with_capability("oauth").with_capability("federation");
    assert_eq!(status(&mut bench, both), 400);
    assert_eq!(status(&mut bench, refresh(token).with_capability("oauth")), 200);
    assert_eq!(status(&mut bench, jwt.clone().with_capability("oauth")), 400);
    assert_eq!(status(&mut bench, jwt.with_capability("oauth").with_capability("federation")), 200);
}

#[test]
fn the_other_grant_types_mint_access_tokens_only() {
    let client =
        Client { id: Some("id".into()), secret: Some("s".into()), auth: ClientAuth::ClientSecretPost };
    let settings = Settings { client, assertions: vec!["good".into()], ..Settings::default() };
    let mut bench = Bench::new(settings);
    let request = |grant_type: &str, assertion: &str| TokenRequest {
        grant_type: grant_type.into(),
        assertion: Some(assertion.into()),
        client_id: Some("id".into()),
        client_secret: Some("s".into()),
        ..TokenRequest::default()
    };
    let jwt = "urn:ietf:params:oauth:grant-type:jwt-bearer";
    for granted in [request("client_credentials", ""), request(jwt, "good")] {
        let answer = bench.token(&granted);
        let body = json(&answer);
        assert_eq!(answer.status, 200);
        assert!(body.get("refresh_token").is_none());
        let access = body["access_token"].as_str().unwrap();
        assert_eq!(bench.engine.access_state(access, bench.now), AccessState::Live);
    }
    let denied = bench.token(&request(jwt, "bad"));
    assert_eq!((denied.status, json(&denied)["error"]["type"].as_str()), (401, Some("authentication_error")));
    let unknown = json(&bench.token(&request("password", "")));
    assert_eq!(unknown["error"], "unsupported_grant_type");
    assert_eq!(bench.engine.exchanges().next().unwrap().outcome, ExchangeOutcome::Minted);
}

#[test]
fn whatever_is_wrong_with_a_workload_is_one_denial() {
    let capability = Capability {
        header: "x-capability".into(),
        value: "oauth".into(),
        federation_value: Some("federation".into()),
        on_exchange: true,
    };
    let members = [("rule".to_owned(), Some("r1".to_owned())), ("account".to_owned(), None)].into();
    let federation = Some(Federation { members, optional: vec!["workspace".into()] });
    let assertions = vec!["good".into()];
    let capability = Some(capability);
    let settings = Settings { capability, federation, assertions, ..Settings::default() };
    let mut bench = Bench::new(settings);
    let sound = json!({
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "good", "rule": "r1",
        "account": "a1",
    });
    let with = |name: &str, value: &str| {
        let mut body = sound.clone();
        body[name] = value.into();
        body
    };
    let without = |name: &str| {
        let mut body = sound.clone();
        body.as_object_mut().unwrap().remove(name);
        body
    };
    let both = "oauth, federation";
    for (body, capabilities, status) in [
        (sound.clone(), both, 200),
        (with("workspace", "w1"), both, 200),
        (with("workplace", "w1"), both, 401),
        (with("rule", "r2"), both, 401),
        (with("account", ""), both, 401),
        (with("client_id", "me"), both, 401),
        (with("assertion", "bad"), both, 401),
        (without("account"), both, 401),
        (without("assertion"), both, 401),
        (sound.clone(), "oauth", 401),
        (sound.clone(), "federation", 401),
    ] {
        let headers = [("content-type", "application/json"), ("x-capability", capabilities)];
        let answer = bench.call("POST", "/v1/oauth/token", &headers, &body.to_string());
        assert_eq!(answer.status, status, "{body} {capabilities}");
        let kind = json(&answer)["error"]["type"].clone();
        assert_eq!(kind == "authentication_error", status == 401, "{body} {capabilities}");
    }
}

#[test]
fn a_minted_token_may_be_given_out_again_and_has_the_scopes_that_were_asked_for() {
    let client =
        Client { id: Some("id".into()), secret: Some("s".into()), auth: ClientAuth::ClientSecretPost };
    let settings = Settings { client, repeats_minted: true, ..Settings::default() };
    let mut bench = Bench::new(settings);
    let request = TokenRequest {
        grant_type: "client_credentials".into(),
        client_id: Some("id".into()),
        client_secret: Some("s".into()),
        scope: Some("user:profile".into()),
        ..TokenRequest::default()
    };
    let first = json(&bench.token(&request));
    assert_eq!((&first["expires_in"], &first["scope"]), (&json!(3600), &json!("user:profile")));
    bench.pass(600);
    let again = json(&bench.token(&request));
    assert_eq!((&again["access_token"], &again["expires_in"]), (&first["access_token"], &json!(3000)));
    assert!(bench.engine.revoke(first["access_token"].as_str().unwrap(), bench.now));
    assert_ne!(json(&bench.token(&request))["access_token"], first["access_token"]);
    let unknown = TokenRequest { scope: Some("all".into()), ..request };
    assert_eq!(json(&bench.token(&unknown))["error"], "invalid_scope");
}

#[test]
fn encodings_may_be_closed() {
    let body = |json: bool| {
        if json {
            r#"{"grant_type":"refresh_token","refresh_token":"x"}"#
        } else {
            "grant_type=refresh_token&refresh_token=x"
        }
    };
    for (accepts_json, accepts_form) in [(true, true), (true, false), (false, true)] {
        let mut bench = Bench::new(Settings { accepts_json, accepts_form, ..Settings::default() });
        for (is_json, media, accepted) in [
            (true, "application/json", accepts_json),
            (false, "application/x-www-form-urlencoded", accepts_form),
        ] {
            let answer = bench.call("POST", "/v1/oauth/token", &[("Content-Type", media)], body(is_json));
            let wanted = if accepted { "invalid_grant" } else { "invalid_request" };
            assert_eq!(json(&answer)["error"], wanted, "{media}");
        }
    }
}

#[test]
fn revoking_takes_any_token_of_the_family() {
    let mut bench = Bench::new(Settings::default());
    let (one, two) = (bench.login(), bench.login());
    let spent = one.refresh_token.unwrap();
    let newest = successor(&bench.refresh(&spent));
    assert!(bench.engine.revoke(&spent, bench.now));
    assert!(!bench.engine.revoke(&newest, bench.now));
    assert!(!bench.engine.revoke("bogus", bench.now));
    assert_eq!(bench.refresh(&newest).status, 400);
    assert_eq!(bench.engine.access_state(&two.access_token, bench.now), AccessState::Live);
    assert_eq!(bench.engine.revoke_all(bench.now), 1);
    assert_eq!(bench.engine.access_state(&two.access_token, bench.now), AccessState::Revoked);
    assert_eq!(bench.engine.counters().families_revoked_by_hand, 2);
}

#[test]
fn memory_is_bounded() {
    let settings = Settings { spent_kept: 3, families_kept: 2, log_kept: 4, ..Settings::default() };
    let mut bench = Bench::new(settings);
    for _ in 0..3 {
        bench.login();
    }
    assert_eq!(bench.engine.state(bench.now).families.len(), 2);
    let first = bench.login().refresh_token.unwrap();
    let mut newest = first.clone();
    for _ in 0..10 {
        newest = successor(&bench.refresh(&newest));
    }
    assert_eq!(bench.engine.exchanges().count(), 4);
    // A forgotten spent token is as a bogus one.
    assert_eq!(bench.refresh(&first).status, 400);
    assert_eq!(bench.refresh(&newest).status, 200);
}
