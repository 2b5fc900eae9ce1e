//! Health at the command line and by the commands that operators know: a chain in trouble, acknowledged, muted, shown in
//! order; the outside dead-man; the drills.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use serde_json::{Value, json};

use crate::gateway::curl;
use crate::serving::Server;
use crate::support::{Home, shown, standin, wait_until};

const BOUND: Duration = Duration::from_secs(60);

fn open_conditions(home: &Home) -> Vec<String> {
    let episodes = home.json(&["alerts", "list", "--open"]);
    let of = |episode: &Value| episode["condition"].as_str().unwrap().to_owned();
    let mut conditions: Vec<_> = episodes["episodes"].as_array().unwrap().iter().map(of).collect();
    conditions.sort();
    conditions
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_old_system_work_as_they_are() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let server = Server::start(&mut home.command(&["serve"]));
    let base = server.base();
    let push = format!("{base}/api/v1/admin/system/token-push");
    let seen = curl(&["-sf", &format!("{push}/last-seen")]);
    assert!(seen.status.success(), "{}", shown(&seen));
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    assert_eq!(seen, json!({ "last_seen_at": null, "seconds_ago": null, "status": "ok" }));
    let status = curl(&["-s", &format!("{push}/status")]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["status"], &status["source"]), (&json!("ok"), &json!("oauth")), "{status}");
    let key = home.json(&["keys", "create", "--name", "old"])["key"].as_str().unwrap().to_owned();
    let message =
        r#"{"model":"claude-haiku-4-5","max_tokens":8,"messages":[{"role":"user","content":"hi"}]}"#;
    let url = format!("{base}/v1/anthropic/v1/messages");
    let header = format!("X-CM-API-Key: {key}");
    wait_until("the server knows the key", BOUND, || {
        curl(&["-sf", &url, "-H", &header, "-d", message]).status.success()
    });
    // What alerts link to is there, and what it may be asked is described.
    let page = curl(&["-sf", &format!("{base}/runbook/mac_silent.md")]);
    assert!(page.status.success() && !page.stdout.is_empty());
    let described = curl(&["-sf", &format!("{base}/api/openapi.json")]);
    let described: Value = serde_json::from_slice(&described.stdout).unwrap();
    assert_eq!(described["openapi"], json!("3.1.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_episode_is_shown_acknowledged_and_muted() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let quiet = home.run(&["alerts", "list"]);
    assert!(quiet.status.success(), "{}", shown(&quiet));
    assert!(shown(&quiet).contains("nothing was wrong yet"), "{}", shown(&quiet));
    // Nobody has logged in.
    let _server = Server::start(&mut home.command(&["serve"]));
    let trouble = ["not_serving", "renewal_failing"];
    wait_until("the monitor finds it", Duration::from_secs(90), || open_conditions(&home) == trouble);
    let status = home.run(&["status"]);
    assert_eq!(status.status.code(), Some(3), "{}", shown(&status));
    assert!(shown(&status).contains("not_serving"), "{}", shown(&status));
    let listed = home.json(&["alerts", "list", "--open"]);
    let id = listed["episodes"][0]["id"].as_str().unwrap();
    let done = home.run(&["alerts", "ack", id, "--for", "2h"]);
    assert!(shown(&done).contains("no reminders for"), "{}", shown(&done));
    let listed = home.json(&["alerts", "list"]);
    let acknowledged =
        listed["episodes"].as_array().unwrap().iter().find(|episode| episode["id"] == id).unwrap();
    assert!(acknowledged["acknowledged"]["until"].is_string(), "{listed}");
    let unknown = home.run(&["alerts", "ack", "no-such-episode"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(shown(&unknown).contains("`evergrant alerts list` shows them"), "{}", shown(&unknown));
    let muted = home.run(&["alerts", "mute", "claude", "--for", "2h"]);
    assert!(shown(&muted).contains("held back for"), "{}", shown(&muted));
    let over = home.run(&["alerts", "mute", "claude", "--for", "0s"]);
    assert!(shown(&over).contains("let through again"), "{}", shown(&over));
    let nobody = home.run(&["alerts", "mute", "nobody", "--for", "2h"]);
    assert_eq!(nobody.status.code(), Some(1));
    let timeline = home.run(&["status", "--timeline"]);
    let text = shown(&timeline);
    let places =
        ["not_serving opened: token_absent", "renewal_failing opened: token_absent", "chain_muted by cli:"]
            .map(|what| text.find(what));
    assert!(places.iter().all(Option::is_some), "{text}");
    let entries = home.json(&["status", "--timeline"]);
    let times: Vec<_> =
        entries["timeline"].as_array().unwrap().iter().map(|entry| entry["at"].as_str().unwrap()).collect();
    assert!(times.len() >= 2 && times.is_sorted(), "{entries}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outside_dead_man_is_told_that_the_server_lives() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let heard = Arc::new(AtomicU64::new(0));
    let counted = heard.clone();
    let router = Router::new().route(
        "/ping/secret",
        get(move || async move {
            counted.fetch_add(1, Ordering::AcqRel);
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ping = format!("http://{}/ping/secret", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut text = std::fs::read_to_string(home.config()).unwrap();
    text.push_str(&format!("\n[watchdog]\nping_url = \"{ping}\"\nevery_secs = 10\n"));
    std::fs::write(home.config(), text).unwrap();
    let _server = Server::start(&mut home.command(&["serve"]));
    wait_until("it pings twice", BOUND, || heard.load(Ordering::Acquire) >= 2);
    let faulty =
        std::fs::read_to_string(home.config()).unwrap().replace("http://127.0.0.1", "http://example.org");
    let ping_only = faulty.split("\n[watchdog]").nth(1).unwrap();
    let text = std::fs::read_to_string(home.config()).unwrap();
    let whole = text.split("\n[watchdog]").next().unwrap().to_owned() + "\n[watchdog]" + ping_only;
    std::fs::write(home.config(), whole).unwrap();
    let check = home.run(&["config", "check"]);
    assert!(shown(&check).contains("ping_url must begin with https://"), "{}", shown(&check));
}

#[test]
fn hours_of_a_workstation_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let check = |expected: &str| {
        let text = format!(
            "[chains.claude]\naccept_provider_terms = true\n\n[chains.claude.expected]\n{expected}\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = std::process::Command::new(crate::support::BINARY);
        command.env_clear().env("HOME", folder.path()).env("EVERGRANT_CONFIG", &config);
        shown(&command.args(["config", "check"]).output().unwrap())
    };
    for (expected, said) in [
        ("time_zone = \"Mars/Olympus\"", "time_zone \"Mars/Olympus\" is not known"),
        ("from = \"9 o'clock\"", "from must be a time of day"),
        ("from = \"18:00\"\nuntil = \"09:00\"", "have to begin before they end"),
        ("days = []", "name at least one day"),
        ("days = [\"funday\"]", "funday"),
    ] {
        let output = check(expected);
        assert!(output.contains(said), "{expected}: {output}");
    }
    let fine = check(
        "days = [\"mon\", \"fri\"]\nfrom = \"08:30\"\nuntil = \"17:00\"\ntime_zone = \"Europe/Berlin\"",
    );
    assert!(fine.starts_with("exit status: 0"), "{fine}");
}

#[test]
fn a_drill_says_what_was_expected_and_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::support::BINARY);
        command.env_clear().env("HOME", folder.path());
        command.args(args).output().unwrap()
    };
    let text = run(&["drill", "force-refresh"]);
    assert!(text.status.success(), "{}", shown(&text));
    for said in ["ok   1. force an exchange", "expected", "happened", "4 of 4 steps held"] {
        assert!(shown(&text).contains(said), "{}", shown(&text));
    }
    let report: Value = serde_json::from_slice(&run(&["drill", "silence", "--json"]).stdout).unwrap();
    assert_eq!((&report["drill"], &report["ok"]), (&json!("silence"), &json!(true)));
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "a drill leaves nothing behind");
}
