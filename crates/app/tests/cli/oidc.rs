//! An OAuth server that is not ours: npm's `oidc-provider`, with rotation and reuse detection, a public client
//! and form encoding, and two confidential clients that get their tokens by their own secret.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Home, Running, shown};

struct Server {
    _running: Running,
    told: Value,
}

/// Starts the server; `cargo xtask test` has installed it.
fn server() -> Server {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests-npm");
    let node = folder.join("node_modules/node/bin/node");
    assert!(node.exists(), "{} is missing: run `cargo xtask test` once, which installs it", node.display());
    let mut command = Command::new(node);
    command.current_dir(&folder).arg("oidc-server.mjs");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Running(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Server { _running: running, told: serde_json::from_str(&line).unwrap() }
}

fn home(server: &Server) -> Home {
    let told = |member: &str| server.told[member].as_str().unwrap().to_owned();
    let folder = tempfile::tempdir().unwrap();
    let auth_file = folder.path().join("auth.json");
    let home = Home { folder, auth_file };
    let config = format!(
        "[providers.independent]\ntoken_url = \"{}\"\nclient_id = \"{}\"\nencoding = \"form\"\nreuse = \"strict\"\n\
         api_base = \"{}\"\n\n[chains.claude]\nprovider = \"independent\"\nauth_file = \"{}\"\n\
         min_exchange_interval_secs = 0\n",
        told("token_url"),
        told("client_id"),
        told("token_url"),
        home.auth_file.display(),
    );
    fs::write(home.config(), config).unwrap();
    let file = json!({ "claudeAiOauth": {
        "accessToken": "not-yet-renewed", "refreshToken": told("refresh_token"), "expiresAt": 4_000_000_000_000_i64,
    }});
    fs::write(&home.auth_file, file.to_string()).unwrap();
    home
}

#[test]
fn fifty_rotations_and_a_replay_that_kills_the_grant() {
    let server = server();
    let home = home(&server);
    let first = home.refresh_token();
    for rotation in 1..=50 {
        let report = home.force();
        assert_eq!(
            (&report["refreshed"], &report["generation"], &report["error"]),
            (&json!(true), &json!(rotation + 1), &json!(null)),
            "{report}"
        );
    }
    // Somebody else replays a spent token.
    let body = format!(
        "grant_type=refresh_token&client_id={}&refresh_token={first}",
        server.told["client_id"].as_str().unwrap()
    );
    let url = server.told["token_url"].as_str().unwrap();
    let replay = Command::new("curl").args(["-s", "-d", &body, url]).output().unwrap();
    assert!(String::from_utf8_lossy(&replay.stdout).contains("invalid_grant"), "{}", shown(&replay));

    let before = fs::read(&home.auth_file).unwrap();
    let report = home.force();
    assert_eq!(
        (&report["ok"], &report["error"]),
        (&json!(false), &json!("refresh_token_revoked")),
        "{report}"
    );
    assert_eq!(fs::read(&home.auth_file).unwrap(), before, "the tokens stay where they are");
    let intents = |home: &Home| {
        let database = home.folder.path().join(".local/state/evergrant/state.db");
        let database = rusqlite::Connection::open(database).unwrap();
        let query = "SELECT count(*) FROM events WHERE event LIKE '%\"kind\":\"intended\"%'";
        database.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(intents(&home), 51);
    for _ in 0..3 {
        assert_eq!(home.force()["error"], json!("refresh_token_revoked"));
    }
    assert_eq!(intents(&home), 51, "nothing is presented until the vault changes");
    // A new grant in the vault is presented again.
    let mut file = home.file();
    file["claudeAiOauth"]["refreshToken"] = json!("another-login");
    fs::write(&home.auth_file, file.to_string()).unwrap();
    assert_eq!(home.force()["error"], json!("refresh_token_revoked"));
    assert_eq!(intents(&home), 52);
}

#[test]
fn a_client_gets_its_tokens_by_its_own_secret() {
    let server = server();
    let told = |member: &str| server.told[member].as_str().unwrap().to_owned();
    for auth in ["client_secret_basic", "client_secret_post"] {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("client-secret");
        let home = Home { auth_file: folder.path().join("auth.json"), folder };
        fs::write(&secret, told("client_secret")).unwrap();
        let config = |scope: &str| {
            format!(
                "[providers.independent]\ntoken_url = \"{url}\"\napi_base = \"{url}\"\n\
                 client_id = \"evergrant:{auth}\"\nclient_auth = \"{auth}\"\nclient_secret_file = \"client-secret\"\n\n\
                 [chains.service]\nprovider = \"independent\"\nkind = \"client_credentials\"\nscope = \"{scope}\"\n",
                url = told("token_url"),
            )
        };
        fs::write(home.config(), config("read write")).unwrap();
        for generation in 1..=5 {
            let report = home.force();
            let found = (&report["refreshed"], &report["generation"], &report["error"]);
            assert_eq!(found, (&json!(true), &json!(generation), &json!(null)), "{auth}: {report}");
        }
        let token = home.json(&["token"]);
        assert!(token["access_token"].as_str().unwrap().len() > 20, "{auth}");

        fs::write(home.config(), config("read openid")).unwrap();
        assert_eq!(home.force()["error"], json!("client_rejected"), "{auth}: a scope that it may not have");
        fs::write(home.config(), config("read")).unwrap();
        fs::write(&secret, "another").unwrap();
        assert_eq!(home.force()["error"], json!("client_rejected"), "{auth}: another secret");
    }
}
