//! Bad input gets a clear error that says what to do, and changes nothing.

use std::fs;

use evergrant_standin::LoginOptions;
use serde_json::json;

use crate::support::{Home, shown, standin};

#[tokio::test(flavor = "multi_thread")]
async fn faulty_logins_are_refused_and_change_nothing() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    home.json(&["refresh"]);
    let before = fs::read(&home.auth_file).unwrap();
    let file = home.folder.path().join("login.json");
    let grant = |members: &str| format!(r#"{{"claudeAiOauth":{{{members}}}}}"#);
    for (content, says) in [
        ("no json at all".to_owned(), "it is not JSON (line 1, column 2)"),
        (r#"{"token":"x"}"#.into(), "it has no object \"claudeAiOauth\""),
        (
            grant(r#""accessToken":"sk-ant-ort01-x","expiresAt":9999999999999"#),
            "holds a refresh token where an access token",
        ),
        (grant(r#""accessToken":"sk-ant-api03-x""#), "holds an API key where an access token"),
        (grant(r#""accessToken":"sk-ant-oat01-x","expiresAt":1765432100"#), "must be in milliseconds"),
        (
            grant(r#""accessToken":"foreign-x","refreshToken":"foreign-y""#),
            "does not begin with \"sk-ant-oat01-\"",
        ),
        (grant(r#""accessToken":"","refreshToken":"""#), "holds no login"),
        (grant(r#""accessToken":"sk-ant-oat01-x","expiresAt":1565432100000"#), "expired"),
        (
            grant(r#""accessToken":"sk-ant-oat01-unknown","refreshToken":"sk-ant-ort01-unknown""#),
            "the API refuses",
        ),
    ] {
        fs::write(&file, &content).unwrap();
        let output = home.run(&["import", file.to_str().unwrap(), "--move"]);
        assert_eq!(output.status.code(), Some(1), "{content}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{content}: {}", shown(&output));
        assert!(file.exists(), "a refused source stays");
        assert_eq!(fs::read(&home.auth_file).unwrap(), before, "{content}");
    }
    let output = home.run(&["import", "no-such-file.json"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-file.json cannot be read"));
    let output = home.run(&["import", home.auth_file.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("this chain's own auth file"));
}

/// Another account's login is no fresh login of this chain, unless it is meant.
#[tokio::test(flavor = "multi_thread")]
async fn the_login_of_another_account_has_to_be_meant() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    home.json(&["refresh"]);
    let file = home.folder.path().join("login.json");
    let import = |account: Option<&str>, more: &[&str]| {
        let mut login = standin.engine().login(LoginOptions::default()).auth_file();
        if let Some(account) = account {
            login["account"] = json!({ "uuid": account });
        }
        fs::write(&file, login.to_string()).unwrap();
        let args = [&["import", file.to_str().unwrap(), "--move"][..], more].concat();
        let output = home.run(&args);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(import(Some("one"), &[]).0);
    assert!(import(None, &[]).0, "it does not say whose it is");
    let before = fs::read(&home.auth_file).unwrap();
    let (taken, why) = import(Some("two"), &[]);
    assert!(!taken && why.contains("identity_mismatch") && why.contains("--accept-new-identity"), "{why}");
    assert_eq!(fs::read(&home.auth_file).unwrap(), before);
    assert!(import(Some("two"), &["--accept-new-identity"]).0);
    assert!(import(Some("two"), &[]).0);
    assert!(!import(Some("one"), &[]).0, "the other one is the chain's now");
}

#[tokio::test(flavor = "multi_thread")]
async fn faulty_configurations_are_refused_with_their_place() {
    let standin = standin().await;
    let home = Home::new(&standin);
    for (text, says) in [
        (
            "[http]\nlistn = \"127.0.0.1:1\"\n",
            ":2:1: error: unknown key \"listn\" in [http]\n    did you mean \"listen\"?",
        ),
        ("[http]\nlisten = 7\n", ":2:10: error"),
        ("[http\n", ":1:6: error"),
        ("[http]\nlisten = \"0.0.0.0:8787\"\n", "behind_proxy"),
        (
            "[providers.p]\nextends = \"claude\"\ntoken_url = \"http://example.com/\"\n",
            ":3:13: error: token_url must begin with https://",
        ),
        ("[chains.claude]\nprovider = \"nobody\"\n", ":2:12: error"),
    ] {
        fs::write(home.config(), text).unwrap();
        for args in [&["config", "check"][..], &["serve"], &["status"]] {
            let output = home.run(args);
            let code = if args[0] == "config" { 1 } else { 2 };
            assert_eq!(output.status.code(), Some(code), "{text}: {}", shown(&output));
            assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{text}: {}", shown(&output));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_accepted_terms_nothing_is_touched() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let config = fs::read_to_string(home.config()).unwrap().replace("accept_provider_terms = true\n", "");
    fs::write(home.config(), config).unwrap();
    let before = fs::read(&home.auth_file).unwrap();
    for args in [&["refresh", "--force"][..], &["probe"]] {
        assert_eq!(home.json(args)["error"], json!("terms_not_accepted"));
    }
    let output = home.run(&["token"]);
    assert!(output.stdout.is_empty() && !output.status.success());
    assert_eq!(home.run(&["status"]).status.code(), Some(3));
    assert_eq!(fs::read(&home.auth_file).unwrap(), before);
    assert!(!home.beside_file().exists());
    assert!(standin.engine().exchanges().is_empty() && standin.engine().sightings().is_empty());
    let report = home.json(&["refresh", "--force", "--accept-provider-terms"]);
    assert_eq!(report["refreshed"], json!(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_with_no_file_at_all() {
    let home = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(crate::support::BINARY);
    let output = command.env_clear().env("HOME", home.path()).args(["status", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", shown(&output));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["chains"][0]["chain"], json!("claude"));
    let auth_file = home.path().join(".config/claude-code/auth.json");
    assert_eq!(status["chains"][0]["auth_file"], json!(auth_file));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_no_refresh_token_unless_somebody_insists() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    home.json(&["refresh"]);
    let exported = home.json(&["export"]);
    assert_eq!(exported["claudeAiOauth"]["refreshToken"], json!(""));
    assert_eq!(exported["claudeAiOauth"]["accessToken"], home.file()["claudeAiOauth"]["accessToken"]);
    let target = home.folder.path().join("exported.json");
    let output = home.run(&["export", target.to_str().unwrap(), "--include-refresh-token"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("second writer"));
    assert!(fs::read_to_string(&target).unwrap().contains(&home.refresh_token()));
    let output = home.run(&["export", target.to_str().unwrap()]);
    assert!(!output.status.success(), "an existing file is not overwritten");
    let token = home.run(&["token"]);
    assert_eq!(String::from_utf8_lossy(&token.stdout).trim(), home.file()["claudeAiOauth"]["accessToken"]);
}

#[test]
fn completions_and_the_manual_page_are_printed() {
    let run = |args: &[&str]| std::process::Command::new(crate::support::BINARY).args(args).output().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("stand-in"));
    }
    assert!(String::from_utf8_lossy(&run(&["man"]).stdout).contains(".TH evergrant 1"));
    assert_eq!(run(&["no-such-command"]).status.code(), Some(2));
}

/// The pages that are made of the code say what the code says.
#[test]
fn the_generated_reference_is_up_to_date() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let run = |args: &[&str]| {
        std::process::Command::new(crate::support::BINARY).args(args).output().unwrap().stdout
    };
    for (args, file) in [
        (&["config", "reference"][..], "docs/reference/configuration.md"),
        (&["config", "schema"], "docs/reference/configuration.schema.json"),
    ] {
        let committed = fs::read(root.join(file)).unwrap_or_default();
        assert!(committed == run(args), "{file} is not what `evergrant {}` prints", args.join(" "));
    }
}
