//! Caller keys from the first one, made at the command line, to their use, rotation and end at a running server.

use std::io::{BufRead, BufReader};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_server::http::HttpClient;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Home, Running, shown, standin, wait_until};

/// A change of another process works within 1 s, which a test of the server holds it to; a machine that runs all
/// tests at once gets some more.
const SOON: Duration = Duration::from_secs(4);

/// A server that logs all that it can, and what it logged.
struct Server {
    running: Running,
    log: Arc<Mutex<String>>,
    base: String,
}

impl Server {
    fn start(home: &Home) -> Self {
        let mut command = home.command(&["serve"]);
        command.env("EVERGRANT_LOG__FORMAT", "json").env("EVERGRANT_LOG__LEVEL", "trace");
        let mut running = Running::start(&mut command);
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, kept) = (BufReader::new(running.0.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut base = String::new();
        wait_until("it serves", Duration::from_secs(30), || {
            let log = log.lock().unwrap().clone();
            let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let Some(line) = lines.find(|line| line["message"] == "serving") else { return false };
            base = format!("http://{}/api/v1/admin/system", line["address"].as_str().unwrap());
            true
        });
        Self { running, log, base }
    }

    /// What a call comes to.
    async fn call(&self, method: &str, path: &str, key: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{path}", self.base).parse().unwrap();
        let headers = [("authorization".to_owned(), format!("Bearer {key}"))];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let client = HttpClient::new(None).unwrap();
        let reply = client.call(method.parse().unwrap(), &url, &headers, body.into()).await.unwrap();
        assert_eq!(reply.headers["cache-control"], "no-store");
        (reply.status, serde_json::from_slice(&reply.body).unwrap())
    }

    /// The answer to a call that only `admin:write` may make.
    async fn ask(&self, key: &str) -> (u16, String) {
        let (status, answer) = self.call("GET", "/keys", key, &Value::Null).await;
        (status, answer["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a call with this key comes to that.
    async fn comes_to(&self, key: &str, status: u16, reason: &str) {
        let comes = async {
            while self.ask(key).await != (status, reason.to_owned()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let came = tokio::time::timeout(SOON, comes).await;
        assert!(came.is_ok(), "not {status} {reason} within {SOON:?}: {:?}", self.ask(key).await);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_opens_the_admin_api() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let mut server = Server::start(&home);
    let first = home.json(&["keys", "create", "--name", "the operator", "--scope", "admin:write"]);
    let admin = text(&first["key"]);
    assert_eq!(server.ask("evg_nonsense").await, (401, "caller_unknown".into()));
    server.comes_to(admin, 200, "").await;

    // Made over HTTP, with every limit that there is.
    let wanted = json!({ "name": "the shop", "scopes": ["gateway"], "expires_in_secs": 3600,
        "requests_per_minute": 600, "concurrent": 8, "fallback": false });
    let (status, made) = server.call("POST", "/keys", admin, &wanted).await;
    assert_eq!((status, &made["chain"]), (201, &json!("claude")), "{made}");
    let shop = text(&made["key"]);
    assert_eq!(server.ask(shop).await, (403, "scope_missing".into()));
    let (status, problem) =
        server.call("POST", "/keys", admin, &json!({ "name": "a", "chain": "other" })).await;
    assert_eq!((status, &problem["reason"]), (400, &json!("chain_unknown")));
    let (_, list) = server.call("GET", "/keys", admin, &Value::Null).await;
    assert_eq!(home.json(&["keys", "list"]), list, "both show the same");

    // Rotated there and here, with and without an overlap.
    let (status, second) = server
        .call("POST", &format!("/keys/{}/rotate", text(&first["id"])), admin, &json!({ "overlap_secs": 600 }))
        .await;
    assert_eq!(status, 201, "{second}");
    let third = home.json(&["keys", "rotate", text(&second["id"])]);
    assert_eq!(third["replaces"]["id"], second["id"]);
    server.comes_to(text(&third["key"]), 200, "").await;
    server.comes_to(text(&second["key"]), 401, "caller_expired").await;
    assert_eq!(server.ask(admin).await.0, 200, "it overlaps");

    // Revoked there at once, and here within a second.
    let (status, revoked) =
        server.call("DELETE", &format!("/keys/{}", text(&first["id"])), admin, &Value::Null).await;
    assert_eq!((status, &revoked["standing"]), (200, &json!("revoked")));
    assert_eq!(server.ask(admin).await, (401, "caller_revoked".into()));
    let revoked = home.json(&["keys", "revoke", text(&third["id"])]);
    assert_eq!(revoked["standing"], "revoked");
    server.comes_to(text(&third["key"]), 401, "caller_revoked").await;

    let short = home.json(&["keys", "create", "--scope", "admin:write", "--expires-in", "2s"]);
    server.comes_to(text(&short["key"]), 200, "").await;
    wait_until("it expires", Duration::from_secs(10), || {
        let list = home.json(&["keys", "list"]);
        list["keys"]
            .as_array()
            .unwrap()
            .iter()
            .any(|key| key["id"] == short["id"] && key["standing"] == "expired")
    });
    assert_eq!(server.ask(text(&short["key"])).await, (401, "caller_expired".into()));

    server.running.signal(Signal::TERM);
    assert!(server.running.0.wait().unwrap().success());
    let keys = [admin, shop, text(&second["key"]), text(&third["key"]), text(&short["key"])];
    nothing_keeps(&home, &server, &keys);
}

/// No key is in a log at trace level, in the state, or in what the command line shows afterwards.
fn nothing_keeps(home: &Home, server: &Server, keys: &[&str]) {
    let mut seen = vec![("the log".to_owned(), server.log.lock().unwrap().clone())];
    assert!(seen[0].1.contains("TRACE"), "nothing was traced");
    for args in [&["keys", "list"][..], &["keys", "list", "--json"], &["status"], &["config", "show"]] {
        let output = home.command(args).env("EVERGRANT_LOG__LEVEL", "trace").output().unwrap();
        seen.push((format!("{args:?}"), shown(&output)));
    }
    for entry in std::fs::read_dir(home.folder.path().join(".local/state/evergrant")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        seen.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
    }
    assert!(seen.iter().any(|(what, text)| what.ends_with("state.db") && text.contains("the shop")));
    for (what, text) in &seen {
        for key in keys {
            assert_eq!(key.len(), 47, "{what}");
            assert!(!text.contains(&key[4..24]), "{what} holds a key");
        }
    }
}

#[tokio::test]
async fn a_key_is_printed_once_and_said_to_be() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let output = home.run(&["keys", "list"]);
    assert!(shown(&output).contains("there is no key; next: evergrant keys create"), "{}", shown(&output));
    let output = home.run(&[
        "keys",
        "create",
        "--name",
        "the shop",
        "--expires-in",
        "30d",
        "--requests-per-minute",
        "60",
        "--concurrent",
        "4",
        "--no-fallback",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    let keys: Vec<_> = text.lines().filter(|line| line.starts_with("evg_")).collect();
    assert_eq!((keys.len(), keys[0].len()), (1, 47), "{text}");
    for part in [
        "the shop",
        "scopes gateway",
        "chain claude",
        "60 requests a minute",
        "4 at once",
        "no fallback",
        "This is the only time that the key is shown: it is not stored.",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let list = String::from_utf8(home.run(&["keys", "list"]).stdout).unwrap();
    assert!(list.contains("the shop") && !list.contains("evg_"), "{list}");
    let id = list.split_whitespace().next().unwrap();
    let rotated = String::from_utf8(home.run(&["keys", "rotate", id, "--overlap", "1h"]).stdout).unwrap();
    assert!(rotated.contains(&format!("in place of {id}, which ends in ")), "{rotated}");
    assert!(rotated.lines().any(|line| line.starts_with("evg_") && line != keys[0]), "{rotated}");
    let revoked = home.run(&["keys", "revoke", id]);
    assert!(revoked.status.success());
    let list = String::from_utf8(home.run(&["keys", "list"]).stdout).unwrap();
    assert_eq!(list.matches("revoked").count(), 2, "{list}");
}

#[tokio::test]
async fn what_cannot_be_says_what_to_do() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let key = home.json(&["keys", "create"]);
    let id = text(&key["id"]);
    home.run(&["keys", "rotate", id]);
    let gone = home.json(&["keys", "create"]);
    home.run(&["keys", "revoke", text(&gone["id"])]);
    for (args, code, says) in [
        (
            &["create", "--chain", "other"][..],
            1,
            "there is no chain other in the configuration; there is: claude",
        ),
        (&["create", "--scope", "root"], 2, "use gateway, push, admin:read, admin:write or token:read"),
        (&["create", "--name", "a\tb"], 2, "1 to 64 printable characters"),
        (&["create", "--expires-in", "0s"], 1, "at least 1 s"),
        (&["create", "--concurrent", "0"], 2, "--concurrent"),
        (&["revoke", "key_000000000000"], 1, "`evergrant keys list` shows all"),
        (&["revoke", "nonsense"], 2, "as `evergrant keys list` shows it"),
        (&["rotate", id], 1, "it was rotated already"),
        (&["rotate", text(&gone["id"])], 1, "create another key"),
    ] {
        let output = home.run(&[&["keys"], args].concat());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", shown(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{args:?}: {}", shown(&output));
    }
}

#[tokio::test]
async fn another_configuration_lets_keys_be_made_for_its_chains() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let server = Server::start(&home);
    let admin = home.json(&["keys", "create", "--scope", "admin:write"]);
    let key = text(&admin["key"]);
    server.comes_to(key, 200, "").await;
    let more = format!(
        "\n[chains.other]\nprovider = \"stand-in\"\naccept_provider_terms = true\nauth_file = \"{}\"\n",
        home.folder.path().join("grant/other.json").display()
    );
    let old = std::fs::read_to_string(home.config()).unwrap();
    std::fs::write(home.config(), old + &more).unwrap();
    server.running.signal(Signal::HUP);
    wait_until("it was read again", Duration::from_secs(20), || {
        server.log.lock().unwrap().contains("config_reloaded")
    });
    let (status, made) = server.call("POST", "/keys", key, &json!({ "name": "a", "chain": "other" })).await;
    assert_eq!((status, &made["chain"]), (201, &json!("other")), "{made}");
}
