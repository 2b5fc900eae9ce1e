//! The gateway as people's own programs meet it: the provider's SDK, a bare curl, and a load during which everything
//! goes wrong that can.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use evergrant_standin::{LoginOptions, StandIn};
use rustix::process::Signal;

use crate::serving::Server;
use crate::support::{Home, shown, standin_settings, wait_until};

/// An API key of the stand-in, obviously nobody's.
pub(crate) const FALLBACK: &str = "sk-ant-api03-test-fallback-0000000000000";

pub(crate) async fn provider() -> StandIn {
    let mut settings = standin_settings();
    settings.api_keys = vec![FALLBACK.into()];
    settings.log_kept = 1_000_000;
    StandIn::start(settings).await.unwrap()
}

/// A key of a new caller.
pub(crate) fn caller_key(home: &Home) -> String {
    home.json(&["keys", "create", "--name", "test"])["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdk_finds_through_the_gateway_what_it_finds_at_the_provider() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/tests-python/bin/python");
    assert!(python.exists(), "{} is missing: `cargo xtask test` installs it", python.display());
    let standin = provider().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let key = caller_key(&home);
    let server = Server::start(&mut home.command(&["serve"]));
    let mut command = Command::new(python);
    command.env_clear().arg("-I").arg(root.join("tests-python/sdk.py"));
    command.env("SDK_BASE_URL", format!("{}/v1/anthropic", server.base())).env("SDK_API_KEY", key);
    command.env("SDK_STAND_IN", standin.url());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", shown(&output));
    let sources: Vec<_> = standin.engine().sightings().iter().map(|call| call.source).collect();
    assert!(!sources.is_empty() && sources.iter().all(|source| *source == evergrant_standin::Source::Oauth));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fallback_key_is_tried_before_it_is_needed() {
    let standin = provider().await;
    let home = Home::new(&standin);
    for (key, reason, level) in
        [(FALLBACK, "fallback_key_ok", "INFO"), ("sk-ant-api03-gone", "fallback_key_refused", "WARN")]
    {
        let server = Server::start(home.command(&["serve"]).env("ANTHROPIC_FALLBACK_KEY", key));
        assert_eq!(server.line("reason", reason)["level"], level);
    }
    let paths: Vec<_> = standin.engine().sightings().iter().map(|call| call.target.clone()).collect();
    assert!(!paths.is_empty() && paths.iter().all(|path| path.starts_with("/v1/models")), "{paths:?}");
}

pub(crate) fn curl(arguments: &[&str]) -> Output {
    Command::new("curl")
        .args(["--silent", "--noproxy", "*", "--max-time", "20"])
        .args(arguments)
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_curl_needs_a_key_and_a_body_only() {
    let standin = provider().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let key = caller_key(&home);
    let server = Server::start(&mut home.command(&["serve"]));
    let url = format!("{}/v1/anthropic/v1/messages", server.base());
    let body = r#"{"model":"stand-in-small","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    let asked = |key: &str| curl(&[&url, "-H", &format!("X-CM-API-Key: {key}"), "-d", body]);
    let output = asked(&key);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["type"], "message", "{}", shown(&output));
    let output = asked("sk-ant-api03-mine-000000000000000000000");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["error"]["message"].as_str().unwrap().contains("ANTHROPIC_API_KEY"), "{}", shown(&output));
    // Over HTTP/2 too, where this curl speaks it.
    let version = String::from_utf8(curl(&["--version"]).stdout).unwrap();
    if version.contains("HTTP2") {
        let output = curl(&["--http2-prior-knowledge", &url, "-H", &format!("x-api-key: {key}"), "-d", body]);
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["type"], "message", "{}", shown(&output));
    }
    // Revoked: within a second it is over, without a restart.
    let id = home.json(&["keys", "list"])["keys"][0]["id"].as_str().unwrap().to_owned();
    assert!(home.run(&["keys", "revoke", &id]).status.success());
    wait_until("the key is refused", Duration::from_secs(1), || {
        String::from_utf8_lossy(&asked(&key).stdout).contains("was revoked")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_grant_serves_with_the_fallback_key_and_counts_it_across_restarts() {
    let standin = provider().await;
    let home = Home::new(&standin);
    fs::write(
        home.config(),
        crate::support::configuration(
            &standin,
            &home.auth_file,
            "\n[gateway.fallback]\nmax_requests_per_day = 3\n",
        ),
    )
    .unwrap();
    let key = caller_key(&home);
    let body = r#"{"model":"stand-in-small","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
    let start = || {
        let server = Server::start(home.command(&["serve"]).env("ANTHROPIC_FALLBACK_KEY", FALLBACK));
        let url = format!("{}/v1/anthropic/v1/messages", server.base());
        (server, url)
    };
    let asked = |url: &str| {
        let output = curl(&[url, "-H", &format!("X-CM-API-Key: {key}"), "-d", body, "-w", "%{http_code}"]);
        String::from_utf8(output.stdout).unwrap()
    };
    let (server, url) = start();
    for _ in 0..2 {
        assert!(asked(&url).ends_with("200"));
        let line = server.line("reason", "gateway_using_fallback_key");
        assert_eq!(
            (&line["level"], &line["chain"], &line["caller"]),
            (&"WARN".into(), &"claude".into(), &"test".into())
        );
        assert_eq!(line["key"], "sk-ant-api03-t…");
    }
    server.running.signal(Signal::TERM);
    server.line("message", "ended");
    let (server, url) = start();
    assert!(asked(&url).ends_with("200"));
    let answer = asked(&url);
    assert!(answer.ends_with("429") && answer.contains("max_requests_per_day"), "{answer}");
    // The grant comes: OAuth serves.
    let login = standin.engine().login(LoginOptions::default()).auth_file();
    fs::write(&home.auth_file, format!("{login:#}")).unwrap();
    wait_until("the grant serves", Duration::from_secs(10), || asked(&url).ends_with("200"));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_and_nine_tenths_of_a_days_fallback_requests_are_said() {
    let standin = provider().await;
    let home = Home::new(&standin);
    let limit = "\n[gateway.fallback]\nmax_requests_per_day = 10\n";
    fs::write(home.config(), crate::support::configuration(&standin, &home.auth_file, limit)).unwrap();
    let key = caller_key(&home);
    let server = Server::start(home.command(&["serve"]).env("ANTHROPIC_FALLBACK_KEY", FALLBACK));
    let url = format!("{}/v1/anthropic/v1/models", server.base());
    let budget = |line: &serde_json::Value| line["reason"] == "fallback_budget";
    for (percent, requests) in [(50, 5), (90, 4)] {
        for left in (0..requests).rev() {
            let output = curl(&[&url, "-H", &format!("X-CM-API-Key: {key}"), "-w", "%{http_code}"]);
            assert!(output.stdout.ends_with(b"200"), "{}", shown(&output));
            let line = server.line_that("tells of the fallback key", |line| {
                budget(line) || left > 0 && line["reason"] == "gateway_using_fallback_key"
            });
            assert_eq!(budget(&line), left == 0, "{percent} %, {left} before it: {line}");
            if left == 0 {
                assert_eq!((&line["level"], &line["chain"]), (&"WARN".into(), &"claude".into()));
                assert_eq!(line["percent"], percent);
            }
        }
    }
}
