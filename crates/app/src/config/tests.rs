//! What sound files and variables become.

mod faults;
mod gateway;
mod kinds;
mod sinks;
#[cfg(feature = "otel")]
mod telemetry;
mod vault;

use std::path::Path;

use evergrant_core::provider::{ClientAuth, Encoding, Profile, ReuseClass};

use evergrant_core::keeper::Policy;
use evergrant_store::authfile::TakeClientLocks;

use super::*;

fn env(pairs: &[(&str, &str)]) -> Environment {
    let home = [("HOME", "/home/op")];
    let all = home.iter().chain(pairs);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load_from(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded, Vec<Fault>> {
    load_text(Some("/etc/eg/config.toml".into()), text, &env(pairs))
}

fn sound(text: &str) -> Loaded {
    load_from(text, &[]).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"))
}

fn locks(chain: &ChainSettings) -> TakeClientLocks {
    match &chain.way {
        Way::AuthFile { take_client_locks, .. } => *take_client_locks,
        Way::Database { .. } | Way::Minted(_) | Way::ApiKey { .. } => panic!("it has no auth file"),
    }
}

#[test]
fn without_a_file_everything_has_its_default() {
    let loaded = load_text(None, "", &env(&[])).unwrap();
    let settings = &loaded.settings;
    assert_eq!(settings.state_dir, Path::new("/home/op/.local/state/evergrant"));
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8787");
    assert_eq!(settings.log.level.as_str(), "info");
    assert_eq!(settings.log.format, LogFormat::Text);
    assert_eq!(settings.probe.every.as_secs(), 300);
    assert_eq!(settings.retention.events.as_secs(), 90 * 24 * 3600);
    let [chain] = &settings.chains[..] else { panic!("{:?}", settings.chains) };
    assert_eq!(chain.name.as_str(), "claude");
    assert_eq!(chain.written_file(), Some(Path::new("/home/op/.config/claude-code/auth.json")));
    assert_eq!(chain.policy, Policy::new(Profile::claude()));
    assert_eq!(locks(chain), TakeClientLocks::Auto);
    assert!(!chain.accepted);
    let xdg = env(&[("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c")]);
    let settings = load_text(None, "", &xdg).unwrap().settings;
    assert_eq!(settings.state_dir, Path::new("/s/evergrant"));
    assert_eq!(settings.chains[0].written_file(), Some(Path::new("/c/claude-code/auth.json")));
}

#[test]
fn terms_that_are_not_accepted_are_a_warning_with_the_line_to_add() {
    let loaded = sound("\n[chains.claude]\nauth_file = \"a.json\"\n");
    let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    let terms = Profile::claude().terms.unwrap();
    assert_eq!((warning.line, warning.column), (Some(2), Some(9)));
    assert_eq!(warning.severity, Severity::Warning);
    assert!(warning.message.contains(&terms), "{warning}");
    let help = warning.help.as_deref().unwrap();
    assert!(help.contains("below [chains.claude]:\naccept_provider_terms = true\n"), "{help}");
    assert!(help.ends_with("EVERGRANT_CHAINS__CLAUDE__ACCEPT_PROVIDER_TERMS=true"), "{help}");

    let mut loaded = load_text(None, "", &env(&[])).unwrap();
    assert!(loaded.warnings[0].help.as_deref().unwrap().contains("[chains.claude]\naccept"));
    loaded.accept_provider_terms();
    assert!(loaded.warnings.is_empty() && loaded.settings.chains[0].accepted);

    let accepted = sound("[chains.claude]\naccept_provider_terms = true");
    assert!(accepted.warnings.is_empty() && accepted.settings.chains[0].accepted);
    assert!(sound("[chains.claude]\nenabled = false").warnings.is_empty());
}

#[test]
fn the_environment_lies_over_the_file() {
    let text = "[chains.my-team]\nauth_file = \"a\"\ndeadline_secs = 5";
    let loaded = load_from(
        text,
        &[
            ("EVERGRANT_STATE_DIR", "~/state"),
            ("EVERGRANT_HTTP__LISTEN", "127.0.0.1:0"),
            ("EVERGRANT_LOG__FORMAT", "json"),
            ("EVERGRANT_CHAINS__MY_TEAM__DEADLINE_SECS", "7"),
            ("EVERGRANT_CHAINS__MY_TEAM__ACCEPT_PROVIDER_TERMS", "true"),
            ("EVERGRANT_PROVIDERS__CLAUDE__REUSE__GRACE", "30"),
            ("EVERGRANT_PROVIDERS__CLAUDE__HEADERS__X_TEST", "1"),
            ("EVERGRANT_CONFIG", "/etc/eg/config.toml"),
            ("EVERGREEN", "1"),
        ],
    )
    .unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let settings = loaded.settings;
    assert_eq!(settings.state_dir, Path::new("/home/op/state"));
    assert_eq!(settings.listen.port(), 0);
    assert_eq!(settings.log.format, LogFormat::Json);
    let [chain] = &settings.chains[..] else { panic!("{:?}", settings.chains) };
    assert_eq!(chain.name.as_str(), "my-team");
    assert_eq!(chain.policy.deadline.as_secs(), 7);
    assert_eq!(chain.policy.profile.reuse, ReuseClass::Grace { secs: 30 });
    assert!(chain.accepted);
}

#[test]
fn the_first_file_that_exists_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(at("xdg/evergrant")).unwrap();
    for (name, level) in [("a.toml", "error"), ("b.toml", "warn"), ("xdg/evergrant/config.toml", "debug")] {
        std::fs::write(at(name), format!("[log]\nlevel = \"{level}\"")).unwrap();
    }
    let (xdg, b) = (at("xdg").display().to_string(), at("b.toml").display().to_string());
    let env = env(&[("XDG_CONFIG_HOME", &xdg), ("EVERGRANT_CONFIG", &b)]);
    let level = |loaded: &Loaded| loaded.settings.log.level.as_str();
    let loaded = load(Some(&at("a.toml")), &env).unwrap();
    assert_eq!((level(&loaded), loaded.source), ("error", Some(at("a.toml"))));
    assert_eq!(level(&load(None, &env).unwrap()), "warn");
    let without = self::env(&[("XDG_CONFIG_HOME", &xdg), ("EVERGRANT_CONFIG", "")]);
    assert_eq!(level(&load(None, &without).unwrap()), "debug");
    let faults = load(Some(&at("none.toml")), &env).unwrap_err();
    assert!(faults[0].message.starts_with("--config: there is no file /"), "{faults:?}");
}

#[test]
fn a_provider_of_your_own_and_an_override_become_profiles() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "s3cret\n").unwrap();
    let text = r#"
[chains.own]
provider = "own"
auth_file = "own.json"
[chains.claude]
client_locks = "never"
[providers.own]
token_url = "http://127.0.0.1:9/token"
client_id = "me"
client_auth = "client_secret_basic"
client_secret_file = "secret"
api_base = "https://api.example.org"
reuse = { grace = 10 }
headers = { X-One = "1" }
[providers.claude]
token_url = "https://localhost:1/t"
access_prefix = ""
probe_url = ""
"#;
    let loaded = load_text(Some(folder.path().join("c.toml")), text, &env(&[])).unwrap();
    let [claude, own] = &loaded.settings.chains[..] else { panic!("{:?}", loaded.settings.chains) };
    let profile = &own.policy.profile;
    assert_eq!((profile.encoding, profile.reuse), (Encoding::Form, ReuseClass::Grace { secs: 10 }));
    assert!(matches!(&profile.client_auth, ClientAuth::Basic(secret) if secret.expose() == "s3cret"));
    assert_eq!(profile.token_headers, [("x-one".to_owned(), "1".to_owned())]);
    assert_eq!(own.written_file(), Some(folder.path().join("own.json").as_path()));
    assert_eq!(locks(own), TakeClientLocks::Never);
    assert!(own.accepted, "it has no terms");

    let (builtin, profile) = (Profile::claude(), &claude.policy.profile);
    assert_eq!(profile.token_url.as_str(), "https://localhost:1/t");
    assert_eq!((&profile.access_prefix, &profile.probe_url), (&None, &None));
    assert_eq!((&profile.client_id, &profile.terms), (&builtin.client_id, &builtin.terms));
    assert_eq!(locks(claude), TakeClientLocks::Never);
    assert!(!claude.accepted);
}

#[test]
fn the_terms_go_with_the_hosts_whatever_the_profile_is_called() {
    let builtin = Profile::claude();
    let text = format!(
        "[chains.x]\nprovider = \"x\"\nauth_file = \"x\"\n[providers.x]\nclient_id = \"c\"\ntoken_url = \"{}\"\napi_base = \"https://example.org\"",
        builtin.token_url
    );
    let loaded = sound(&text);
    assert!(!loaded.settings.chains[0].accepted);
    assert_eq!(loaded.settings.chains[0].policy.profile.terms, builtin.terms);
}

#[test]
fn what_show_prints_is_a_file_with_the_same_settings() {
    let text = "[chains.claude]\nauth_file = \"a\"\n[providers.claude]\nreuse = { grace = 5 }\n[log]\nlevel = \"warn\"";
    let loaded = sound(text);
    let shown = show(&loaded.raw);
    assert!(shown.contains("auth_file = \"/etc/eg/a\""), "{shown}");
    assert_eq!(sound(&shown).settings, loaded.settings);
}

#[test]
fn schema_and_reference_cover_every_field() {
    let page = reference();
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 30, "{page}");
    for row in &rows {
        let cells: Vec<_> = row.split(" | ").collect();
        assert!(cells.len() >= 5 && cells[4].len() > 5, "no meaning: {row}");
    }
    assert!(page.contains("| `deadline_secs` | a whole number from 1 to 55 | `30` | `EVERGRANT_CHAINS__NAME__DEADLINE_SECS` |"), "{page}");
    assert!(!schema().to_string().contains("$ref"));
}
