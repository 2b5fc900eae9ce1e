//! Chains that hold no login: workloads, clients and API keys, as their operators run them.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use evergrant_standin::{Client, ClientAuth, Settings, StandIn};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::serving::{Server, get};
use crate::support::{Home, shown, standin_settings, wait_until};

/// Secrets that are obviously nobody's, and easy to find.
const JWT: &str = "test-header.canary-of-the-workload.test-signature";
const OTHER_JWT: &str = "test-header.canary-of-the-other.test-signature";
const KEY: &str = "sk-ant-api00-test-canary-of-the-first-key";
const OTHER_KEY: &str = "sk-ant-api00-test-canary-of-the-other-key";

const IDS: &str = "federation_rule_id = \"fdrl_test\"\norganization_id = \"org_test\"\nservice_account_id = \"svac_test\"\n";

fn workload() -> String {
    format!("kind = \"jwt_bearer\"\nidentity_token_file = \"secret\"\n{IDS}")
}

fn api_key() -> String {
    "kind = \"api_key\"\napi_key_file = \"secret\"\n".to_owned()
}

fn settings() -> Settings {
    Settings { assertions: vec![JWT.into()], api_keys: vec![KEY.into()], ..standin_settings() }
}

/// A home with one chain of that kind; `secret` lies in the file that the chain names.
fn home(standin: &StandIn, chain: &str, secret: &str) -> Home {
    let home = Home::new(standin);
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n\n[probe]\nenabled = false\n\n\
         [providers.stand-in]\nextends = \"claude\"\ntoken_url = \"{}\"\napi_base = \"{}\"\nprobe_url = \"{}\"\n\n\
         [chains.claude]\nprovider = \"stand-in\"\nmin_exchange_interval_secs = 0\n{chain}",
        standin.token_url(),
        standin.url(),
        standin.probe_url(),
    );
    fs::write(home.config(), config).unwrap();
    fs::write(secret_file(&home), format!("{secret}\n")).unwrap();
    home
}

fn secret_file(home: &Home) -> PathBuf {
    home.folder.path().join("secret")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_gets_its_token_without_terms_or_login() {
    let standin = StandIn::start(settings()).await.unwrap();
    let home = home(&standin, &workload(), JWT);
    let output = home.run(&["config", "check"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", shown(&output));

    let status = home.json(&["status"]);
    let chain = &status["chains"][0];
    assert_eq!((&chain["kind"], &chain["reason"]), (&json!("jwt_bearer"), &json!("not_minted")), "{chain}");
    assert_eq!((&chain["auth_file"], &chain["error"]), (&json!(null), &json!(null)));
    assert_eq!(home.run(&["status"]).status.code(), Some(3));
    assert_eq!(standin.engine().counters().exchanges, 0, "status asks nobody");

    let output = home.run(&["token"]);
    let token = stdout(&output).trim().to_owned();
    assert_eq!(format!("{:?}", standin.engine().access_state(&token)), "Live", "{}", shown(&output));
    let printed = home.json(&["token"]);
    assert_eq!(printed["source"], json!("oauth"));
    assert!(printed["expires_at"].is_string());

    let report = home.json(&["refresh", "--force"]);
    let facts =
        ["ok", "refreshed", "token_present", "token_valid", "error", "reason", "lineage", "generation"];
    let facts: Vec<&Value> = facts.iter().map(|fact| &report[*fact]).collect();
    let expected = json!([true, true, true, true, null, "renewed", 1, 3]);
    assert_eq!(json!(facts), expected, "{report}");
    let probe = home.json(&["probe"]);
    assert_eq!((&probe["ok"], &probe["generation"]), (&json!(true), &json!(4)), "{probe}");

    let output = home.run(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    let text = stdout(&output);
    assert!(text.contains("kind jwt_bearer, provider stand-in") && text.contains("as the ledger"), "{text}");
    assert!(text.contains("generation 4; access token valid for 59 min"), "{text}");
    assert!(!home.auth_file.exists() && !home.beside_file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_login_says_so() {
    let standin = StandIn::start(settings()).await.unwrap();
    for (chain, secret, kind) in [(workload(), JWT, "jwt_bearer"), (api_key(), KEY, "api_key")] {
        let home = home(&standin, &chain, secret);
        home.log_in(&standin);
        let login = home.auth_file.to_str().unwrap();
        for (args, what) in [(&["import", login][..], "import into"), (&["export"], "export")] {
            let output = home.run(args);
            assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
            let says =
                format!("chain claude is of kind {kind:?} and holds no login, so there is nothing to {what}");
            assert!(stderr(&output).contains(&says), "{}", shown(&output));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_and_an_unusable_file_say_what_to_do() {
    let standin = StandIn::start(settings()).await.unwrap();
    let home = home(&standin, &workload(), OTHER_JWT);
    let report = home.json(&["refresh"]);
    assert_eq!((&report["error"], &report["ok"]), (&json!("client_rejected"), &json!(false)), "{report}");
    let output = home.run(&["token"]);
    assert!(output.stdout.is_empty() && stderr(&output).contains("client_rejected"), "{}", shown(&output));
    let output = home.run(&["status"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("client_rejected"), "{}", shown(&output));

    fs::remove_file(secret_file(&home)).unwrap();
    let report = home.json(&["refresh"]);
    assert_eq!(report["error"], json!("identity_token_unusable"), "{report}");
    let output = home.run(&["config", "check"]);
    assert!(
        output.status.success() && stderr(&output).contains("secret cannot be read"),
        "{}",
        shown(&output)
    );
    let text = stdout(&home.run(&["refresh"]));
    assert!(text.contains("next:") && text.contains("writes its JWT there"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_credentials_are_minted_from_the_providers_section() {
    let client =
        Client { id: Some("me".into()), secret: Some("s3cret".into()), auth: ClientAuth::ClientSecretBasic };
    let standin = StandIn::start(Settings { client, ..Settings::default() }).await.unwrap();
    let home = Home::new(&standin);
    fs::write(secret_file(&home), "s3cret\n").unwrap();
    let config = format!(
        "[providers.own]\ntoken_url = \"{}\"\napi_base = \"{}\"\nclient_id = \"me\"\n\
         client_auth = \"client_secret_basic\"\nclient_secret_file = \"secret\"\n\n\
         [chains.own]\nprovider = \"own\"\nkind = \"client_credentials\"\nscope = \"user:profile\"\n",
        standin.token_url(),
        standin.url(),
    );
    fs::write(home.config(), config).unwrap();
    let token = stdout(&home.run(&["token"]));
    assert_eq!(format!("{:?}", standin.engine().access_state(token.trim())), "Live", "{token}");
    assert_eq!(home.json(&["status"])["chains"][0]["kind"], json!("client_credentials"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_shown_probed_and_named() {
    let standin = StandIn::start(settings()).await.unwrap();
    let home = home(&standin, &api_key(), KEY);
    assert_eq!(stdout(&home.run(&["token"])).trim(), KEY);
    let printed = home.json(&["token"]);
    assert_eq!((&printed["source"], &printed["expires_at"]), (&json!("api_key"), &json!(null)));
    let report = home.json(&["refresh", "--force"]);
    assert_eq!((&report["ok"], &report["reason"]), (&json!(true), &json!("nothing_to_renew")), "{report}");
    let probe = home.json(&["probe"]);
    let found = (&probe["ok"], &probe["probe_status"], &probe["round_trip_status"]);
    assert_eq!(found, (&json!(true), &json!(null), &json!(200)), "{probe}");
    let output = home.run(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{}", shown(&output));
    assert!(stdout(&output).contains("kind api_key, provider stand-in"), "{}", shown(&output));

    // A login's token is no key, whatever its file is called: the kind of a chain decides what terms it has.
    let login = standin.engine().login(Default::default());
    fs::write(secret_file(&home), &login.access_token).unwrap();
    let report = home.json(&["refresh"]);
    assert_eq!((&report["ok"], &report["error"]), (&json!(false), &json!("api_key_unusable")), "{report}");
    assert!(home.run(&["token"]).stdout.is_empty());
    assert_eq!(home.run(&["status"]).status.code(), Some(3));
    fs::write(secret_file(&home), OTHER_KEY).unwrap();
    let probe = home.json(&["probe"]);
    assert_eq!((&probe["reason"], &probe["renewal"]), (&json!("probe_refused"), &json!("api_key_refused")));
    let status = home.json(&["status"]);
    assert_eq!(status["chains"][0]["error"], json!("api_key_refused"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_mints_ahead_and_takes_what_is_put_into_the_files() {
    let mut settings = settings();
    settings.lives.access_secs = 4;
    let standin = StandIn::start(settings).await.unwrap();
    let key = "\n[chains.key]\nprovider = \"stand-in\"\nkind = \"api_key\"\napi_key_file = \"key\"\n";
    let home = home(&standin, &format!("{}{key}", workload()), OTHER_JWT);
    let key_file = home.folder.path().join("key");
    fs::write(&key_file, KEY).unwrap();
    let server = Server::start(&mut home.command(&["serve"]));
    let base = server.base();
    server.line("error", "client_rejected");
    fs::write(secret_file(&home), JWT).unwrap();
    for _ in 0..3 {
        server.line("reason", "renewed");
    }
    let (_, metrics) = get(&format!("{base}/metrics")).await;
    for line in [
        "evergrant_token_valid{chain=\"claude\"} 1",
        "evergrant_token_valid{chain=\"key\"} 1",
        "evergrant_renewals_total{chain=\"claude\"}",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    // What failed at the start may be an episode: its end is seen with the look that ends it, and not a minute later.
    wait_until("both are fine, and nothing is said to be wrong", Duration::from_secs(20), || {
        home.run(&["status"]).status.success()
    });
    fs::write(&key_file, OTHER_KEY).unwrap();
    wait_until("the other key is taken", Duration::from_secs(20), || {
        home.json(&["status"])["chains"][1]["events"][0]["lineage"] == json!(2)
    });

    // The kind of a chain changes at the next start only.
    let config = fs::read_to_string(home.config()).unwrap();
    fs::write(home.config(), config.replace(&workload(), "auth_file = \"grant/auth.json\"\n")).unwrap();
    server.running.signal(Signal::HUP);
    server.line(
        "message",
        "the kind and the vault of a chain change at the next start only; they stay as they were",
    );
    server.line("reason", "config_reloaded");
    server.line("reason", "renewed");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_output_holds_an_identity_token_or_a_key() {
    let standin = StandIn::start(settings()).await.unwrap();
    let mut seen = Vec::new();
    let mut state = Vec::new();
    for (chain, secrets) in [(workload(), [JWT, OTHER_JWT]), (api_key(), [KEY, OTHER_KEY])] {
        let home = home(&standin, &chain, secrets[0]);
        for secret in secrets {
            fs::write(secret_file(&home), secret).unwrap();
            for args in [
                &["refresh"][..],
                &["refresh", "--json"],
                &["probe"],
                &["status"],
                &["status", "--json"],
                &["config", "show"],
                &["config", "check"],
            ] {
                let mut command = home.command(args);
                command.env("EVERGRANT_LOG__LEVEL", "trace").env("RUST_BACKTRACE", "1");
                let output = command.output().unwrap();
                seen.push((format!("{args:?}"), [output.stdout, output.stderr].concat()));
            }
        }
        for entry in fs::read_dir(home.folder.path().join(".local/state/evergrant")).unwrap() {
            state.extend(fs::read(entry.unwrap().path()).unwrap_or_default());
        }
    }
    seen.push(("the state".into(), state));
    for (what, bytes) in &seen {
        let text = String::from_utf8_lossy(bytes);
        assert!(!text.contains("canary"), "{what} shows a secret: {text}");
    }
    assert!(seen.len() > 20 && seen[0].1.len() > 100);
}

/// What the README tells people to write can be used as it stands.
#[test]
fn the_configurations_of_the_readme_are_sound() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let blocks: Vec<_> =
        readme.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 3, "{blocks:?}");
    for block in blocks {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        let secret = folder.path().join("client-secret");
        fs::write(&secret, "s3cret").unwrap();
        fs::write(&config, block.replace("/etc/evergrant/client-secret", secret.to_str().unwrap())).unwrap();
        let mut command = std::process::Command::new(crate::support::BINARY);
        command.env_clear().env("HOME", folder.path()).arg("--config").arg(&config);
        let output = command.args(["config", "check"]).output().unwrap();
        assert!(output.status.success(), "{block}\n{}", shown(&output));
    }
}
