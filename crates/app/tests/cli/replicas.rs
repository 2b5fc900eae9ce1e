//! Several servers on one database, each with a disk of its own, whose pairs are of record there.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use evergrant_standin::{Fault, FaultTarget, Fingerprint, LoginOptions, StandIn};
use evergrant_store::postgres::scratch::SharedPostgres;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::Workstation;
use crate::alerts::Sinks;
use crate::gateway::{curl, provider};
use crate::network::Proxy;
use crate::serving::Server;
use crate::support::{Running, shown, wait_until};

const BODY: &str = r#"{"model":"stand-in-small","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
const SOON: Duration = Duration::from_secs(1);

/// A server's machine.
pub(crate) struct Machine {
    pub(crate) folder: TempDir,
    database: String,
    key: String,
}

pub(crate) struct Rig {
    postgres: SharedPostgres,
    pub(crate) standin: StandIn,
    database: String,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(provider().await)
    }

    pub(crate) fn with(standin: StandIn) -> Self {
        let postgres = SharedPostgres::join().unwrap();
        let database = postgres.new_database().unwrap();
        Self { postgres, standin, database }
    }

    pub(crate) fn machine(&self, key: &str, more: &str) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let standin = &self.standin;
        let text = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n\n[gateway]\naccess_log = \"off\"\n\n[probe]\nenabled = false\n\n\
             [providers.stand-in]\nextends = \"claude\"\ntoken_url = \"{}\"\napi_base = \"{}\"\nprobe_url = \"{}\"\n\n\
             [chains.claude]\nprovider = \"stand-in\"\naccept_provider_terms = true\nvault = \"database\"\n\
             min_exchange_interval_secs = 0\n{more}",
            standin.token_url(),
            standin.url(),
            standin.probe_url(),
        );
        fs::write(folder.path().join("config.toml"), text).unwrap();
        Machine { folder, database: self.database.clone(), key: key.into() }
    }

    pub(crate) async fn sql(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.database, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Everything that the database holds, as text.
    async fn dump(&self) -> String {
        let client = self.sql().await;
        let tables = client
            .query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1", &[])
            .await
            .unwrap();
        assert!(tables.len() > 5);
        let mut text = String::new();
        for table in tables {
            let table: String = table.get(0);
            for row in client.query(&format!("SELECT t::text FROM \"{table}\" t"), &[]).await.unwrap() {
                text.push_str(&row.get::<_, String>(0));
                text.push('\n');
            }
            // Bytes are shown in hex: what they say is compared too.
            let columns = "SELECT column_name::text FROM information_schema.columns WHERE table_name = $1 AND \
                           data_type = 'bytea'";
            for column in client.query(columns, &[&table]).await.unwrap() {
                let column: String = column.get(0);
                let bytes = format!("SELECT \"{column}\" FROM \"{table}\" WHERE \"{column}\" IS NOT NULL");
                for row in client.query(&bytes, &[]).await.unwrap() {
                    text.push_str(&String::from_utf8_lossy(&row.get::<_, Vec<u8>>(0)));
                    text.push('\n');
                }
            }
        }
        text
    }
}

impl Machine {
    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(crate::support::BINARY);
        command.env_clear().env("HOME", self.folder.path());
        command.env("EVERGRANT_CONFIG", self.folder.path().join("config.toml"));
        command.env("EVERGRANT_DATABASE_URL", &self.database).env("PATH", std::env::var_os("PATH").unwrap());
        if !self.key.is_empty() {
            command.env("EVERGRANT_SEAL_KEY", &self.key);
        }
        command.args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> std::process::Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", shown(&output)))
    }

    fn serve(&self) -> (Server, String) {
        let server = Server::start(&mut self.command(&["serve"]));
        let base = server.base();
        (server, base)
    }

    pub(crate) fn import(&self, standin: &StandIn, chain: &str) {
        let file = self.folder.path().join("login.json");
        fs::write(&file, standin.engine().login(LoginOptions::default()).auth_file().to_string()).unwrap();
        let output = self.run(&["import", file.to_str().unwrap(), "--chain", chain, "--move"]);
        assert!(output.status.success(), "{}", shown(&output));
    }

    /// The login that the database holds, as an auth file.
    fn held(&self) -> Value {
        let output = self.run(&["export", "--include-refresh-token"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)))
    }

    pub(crate) fn token(&self) -> String {
        self.json(&["token", "--chain", "claude"])["access_token"].as_str().unwrap().to_owned()
    }

    fn key(&self, args: &[&str]) -> String {
        self.json(&[&["keys", "create", "--name", "test"], args].concat())["key"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn new_key() -> String {
    let output = std::process::Command::new(crate::support::BINARY)
        .env_clear()
        .args(["seal", "new-key"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The status of a message through the gateway.
fn message(base: &str, key: &str) -> String {
    let url = format!("{base}/v1/anthropic/v1/messages");
    let header = format!("x-api-key: {key}");
    let code = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    let output = curl(&[&code[..], &["--header", &header, "--data", BODY, &url]].concat());
    String::from_utf8(output.stdout).unwrap()
}

/// What the last call of the API was authorized with.
fn last_presented(standin: &StandIn) -> Option<Fingerprint> {
    let calls = standin.engine().sightings();
    let last = calls.iter().rev().find(|call| call.target.starts_with("/v1/messages"))?;
    last.presented
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_does_the_other_serves_within_a_second() {
    let rig = Rig::new().await;
    let seal = new_key();
    let export = tempfile::tempdir().unwrap();
    let exported = export.path().join("auth.json");
    let (one, two) =
        (rig.machine(&seal, ""), rig.machine(&seal, &format!("export = \"{}\"\n", exported.display())));
    let ((first, base_one), (second, base_two)) = (one.serve(), two.serve());
    // A key that is made at one is accepted at the other.
    let key = one.key(&[]);
    wait_until("the key is known at the other", 2 * SOON, || message(&base_two, &key) == "503");
    one.import(&rig.standin, "claude");
    // The command is a process of its own: both servers hear of it.
    wait_until("both serve what was imported", SOON, || {
        [&base_two, &base_one].iter().all(|base| message(base, &key) == "200")
    });
    let before = one.token();
    let report = one.json(&["refresh", "--force"]);
    assert_eq!(report["refreshed"], true, "{report}");
    let after = one.token();
    assert_ne!(before, after);
    for base in [&base_two, &base_one] {
        wait_until("both serve what was renewed", SOON, || {
            assert_eq!(message(base, &key), "200");
            last_presented(&rig.standin) == Some(Fingerprint::of(&after))
        });
    }
    // Through the other's own admin API, too.
    let admin = one.key(&["--scope", "admin:write"]);
    let url = format!("{base_two}/api/v1/admin/system/chains/claude/refresh?force=true");
    wait_until("the admin key is known", 2 * SOON, || {
        let header = format!("x-api-key: {admin}");
        let output = curl(&["--request", "POST", "--header", &header, &url]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["refreshed"] == true
    });
    // The export follows, without refresh token.
    let newest = two.token();
    wait_until("the export is written", 2 * SOON, || {
        fs::read_to_string(&exported).is_ok_and(|text| text.contains(&newest))
    });
    let file: Value = serde_json::from_slice(&fs::read(&exported).unwrap()).unwrap();
    assert!(file["claudeAiOauth"]["refreshToken"].as_str().is_none_or(str::is_empty), "{file}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&exported).unwrap().permissions().mode() & 0o777, 0o600);
    let status = two.json(&["status"]);
    assert_eq!(status["chains"][0]["token_valid"], true, "{status}");
    for mut server in [first, second] {
        server.running.signal(Signal::TERM);
        assert!(server.running.0.wait().unwrap().success());
    }
    assert_eq!(rig.standin.engine().counters().families_revoked_by_reuse, 0);
    drop(rig.postgres);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_seal_key_nothing_starts() {
    let rig = Rig::new().await;
    let machine = rig.machine("", "");
    for args in [&["serve"][..], &["config", "check"], &["refresh"]] {
        let output = machine.run(args);
        assert!(!output.status.success());
        let said = shown(&output);
        assert!(said.contains("there is no seal key") && said.contains("evergrant seal new-key"), "{said}");
    }
    let mut command = machine.command(&["config", "check"]);
    let output = command.env_remove("EVERGRANT_DATABASE_URL").output().unwrap();
    assert!(shown(&output).contains("there is no database_url"), "{}", shown(&output));
    // A state on this machine alone is what it was.
    let other = rig.machine("nonsense", "");
    assert!(shown(&other.run(&["serve"])).contains("EVERGRANT_SEAL_KEY: line 1 is no seal key"));
}

/// A chain that only a beginning names has its first login from the workstation, and the next one.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_login_of_a_chain_is_pushed() {
    let rig = Rig::new().await;
    let more = "\n[chains.\"team-*\"]\nprovider = \"stand-in\"\naccept_provider_terms = true\nvault = \"database\"\n";
    let machine = rig.machine(&new_key(), more);
    let (_server, base) = machine.serve();
    let key = machine.key(&["--chain", "team-9", "--scope", "push"]);
    let station = Workstation::of("team-9", &base, &key);
    for _ in 0..2 {
        let (access, _) = station.log_in(&rig.standin);
        let mut pushed = Value::Null;
        wait_until("the key is known, and the login taken", 4 * SOON, || {
            pushed = station.json(&["push"]);
            pushed["ok"] == true
        });
        assert_eq!(pushed["chains"][0]["reason"], "accepted", "{pushed}");
        let held = machine.json(&["token", "--chain", "team-9"]);
        assert_eq!(held["access_token"], access, "{held}");
        // The answer said what the server has: there is nothing more to push.
        let looked = station.json(&["once"]);
        assert_eq!(looked["chains"][0]["sent"], "beat", "{looked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_seal_key_takes_over_online() {
    let rig = Rig::new().await;
    let (old, new) = (new_key(), new_key());
    let more = "\n[chains.\"team-*\"]\nprovider = \"stand-in\"\naccept_provider_terms = true\nvault = \"database\"\n\
                min_exchange_interval_secs = 0\n";
    let mut machine = rig.machine(&old, more);
    for number in 0..3 {
        machine.import(&rig.standin, &format!("team-{number}"));
    }
    machine.import(&rig.standin, "claude");
    // An answer lies on the machine, sealed under the old key.
    assert_eq!(machine.json(&["refresh", "--force", "--chain", "team-1"])["refreshed"], true);
    assert_eq!(machine.json(&["seal", "status"])["keys"][0]["rows"], 4);
    machine.key = format!("{new}\n{old}");
    let server = machine.serve();
    let status = machine.json(&["seal", "status"]);
    assert_eq!((&status["keys"][0]["rows"], &status["keys"][1]["rows"]), (&0.into(), &4.into()), "{status}");
    let rotated = machine.json(&["seal", "rotate-key"]);
    assert_eq!((&rotated["ok"], &rotated["resealed"]), (&true.into(), &4.into()), "{rotated}");
    assert_eq!(machine.json(&["seal", "rotate-key"])["already"], 4);
    drop(server);
    machine.key = new;
    let status = machine.json(&["seal", "status"]);
    assert_eq!(status["keys"][0]["rows"], 4, "{status}");
    for chain in ["team-0", "team-1", "claude"] {
        let report = machine.json(&["refresh", "--force", "--chain", chain]);
        assert_eq!(report["refreshed"], true, "{report}");
    }
    // A key of a chain that only its beginning names: found at the first request, and a key of none is told so.
    let (server, base) = machine.serve();
    let (known, none) = (machine.key(&["--chain", "team-0"]), machine.key(&["--chain", "team-9"]));
    wait_until("a chain that no section names is served", 4 * SOON, || message(&base, &known) == "200");
    wait_until("that key is known, and its chain is not", 2 * SOON, || message(&base, &none) == "403");
    assert_eq!(machine.json(&["refresh", "--force", "--chain", "team-0"])["refreshed"], true);
    let output = machine.run(&["token", "--chain", "team-0"]);
    let newest = String::from_utf8(output.stdout).unwrap();
    wait_until("it serves what was renewed", SOON, || {
        assert_eq!(message(&base, &known), "200");
        last_presented(&rig.standin) == Some(Fingerprint::of(newest.trim()))
    });
    machine.import(&rig.standin, "team-9");
    wait_until("a chain that was imported since is served", 3 * SOON, || message(&base, &none) == "200");
    drop(server);
    // Under the old key alone nothing opens, and that is said.
    machine.key = old;
    let status = machine.run(&["seal", "status"]);
    assert_eq!(status.status.code(), Some(3), "{}", shown(&status));
    let report = machine.json(&["refresh", "--chain", "team-2"]);
    assert_eq!(report["error"], "seal_broken", "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_database_nor_an_output_holds_a_token() {
    let rig = Rig::new().await;
    let machine = rig.machine(&new_key(), "");
    let mut secrets = vec![machine.key.clone()];
    let mut seen = Vec::new();
    let mut held = |machine: &Machine| {
        let file = machine.held();
        for member in ["accessToken", "refreshToken"] {
            secrets.push(file["claudeAiOauth"][member].as_str().unwrap().to_owned());
        }
    };
    machine.import(&rig.standin, "claude");
    held(&machine);
    let mut command = machine.command(&["serve"]);
    command.env("EVERGRANT_LOG__LEVEL", "trace").env("EVERGRANT_LOG__FORMAT", "json");
    let mut server = Running::start(&mut command);
    for args in [
        &["refresh", "--force"][..],
        &["refresh", "--force", "--json"],
        &["refresh", "--force", "--accept-stale"],
        &["probe"],
        &["status"],
        &["status", "--json"],
        &["config", "show"],
        &["config", "show", "--json"],
        &["config", "check"],
        &["seal", "status"],
        &["seal", "rotate-key"],
    ] {
        let mut command = machine.command(args);
        let output =
            command.env("EVERGRANT_LOG__LEVEL", "trace").env("RUST_BACKTRACE", "1").output().unwrap();
        seen.push((format!("{args:?}"), shown(&output)));
        held(&machine);
    }
    server.signal(Signal::TERM);
    let output = std::mem::replace(&mut server.0, std::process::Command::new("true").spawn().unwrap());
    let output = output.wait_with_output().unwrap();
    seen.push(("serve".into(), shown(&output)));
    seen.push(("the database".into(), rig.dump().await));
    let mut folders: Vec<PathBuf> = vec![machine.folder.path().into()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = fs::read(&path).unwrap();
                seen.push((path.display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    assert!(secrets.len() > 20);
    for secret in &secrets {
        let tail = &secret[secret.len() - 24..];
        for (what, text) in &seen {
            assert!(!text.contains(tail), "{what} shows a token");
        }
    }
    let shown = &seen.iter().find(|(what, _)| what.contains("\"show\"")).unwrap().1;
    assert!(shown.contains("database_url is set, and not shown") && !shown.contains("postgres"), "{shown}");
}

/// Of a chain that no section names, the sinks hear once, whichever server looks; and the admin calls know it.
#[tokio::test(flavor = "multi_thread")]
async fn a_found_chain_whose_login_ends_is_told_once() {
    let rig = Rig::new().await;
    let seal = new_key();
    let (sinks, url) = Sinks::start().await;
    let more = format!(
        "\n[chains.\"team-*\"]\nprovider = \"stand-in\"\naccept_provider_terms = true\nvault = \"database\"\n\
         min_exchange_interval_secs = 0\n\n[sinks.hook]\nkind = \"webhook\"\nurl = \"{url}/good\"\n\
         key = \"whsec_bm90LWEtcmVhbC1rZXktbm90LWEtcmVhbC1rZXk=\"\n"
    );
    let (one, two) = (rig.machine(&seal, &more), rig.machine(&seal, &more));
    let ((_first, base), _second) = (one.serve(), two.serve());
    one.import(&rig.standin, "team-1");
    let admin = one.key(&["--scope", "admin:write"]);
    let call = |method: &str, path: &str, body: &str| {
        let header = format!("x-api-key: {admin}");
        let url = format!("{base}/api/v1/admin/system/{path}");
        let words = ["--request", method, "--header", &header, "--header", "content-type: application/json"];
        let output = curl(&[&words[..], &["--data", body, &url]].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or(Value::Null)
    };
    wait_until("the admin key is known", 2 * SOON, || {
        call("GET", "chains/team-1", "")["report"]["ok"] == true
    });
    rig.standin.engine().push_fault(FaultTarget::Token, Fault::named("invalid_grant_400").unwrap(), 1);
    let report = call("POST", "chains/team-1/refresh?force=true", "");
    assert_eq!(report["error"], "refresh_token_revoked", "{report}");
    let heard = || -> Vec<Value> {
        let of_it = |body: &Value| body["data"]["concerned"][0]["chain"] == "team-1";
        sinks.taken().into_iter().filter(of_it).collect()
    };
    wait_until("the webhook hears of it", 10 * SOON, || !heard().is_empty());
    let alert = heard().remove(0)["data"].clone();
    assert_eq!(alert["status"], "reauth_required", "{alert}");
    assert!(alert["action"]["commands"].as_array().is_some_and(|commands| !commands.is_empty()), "{alert}");
    let (client, connection) = tokio_postgres::connect(&rig.database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let query = "SELECT count(*) FROM outbox WHERE id LIKE 'team-1-%'";
    assert_eq!(client.query_one(query, &[]).await.unwrap().get::<_, i64>(0), 1, "it is told once");

    let shown = call("GET", "chains/team-1", "");
    assert_eq!(shown["episodes"][0]["condition"], "reauth_required", "{shown}");
    assert_eq!(shown["report"]["error"], "refresh_token_revoked", "{shown}");
    assert!(call("POST", "chains/team-1/mute", r#"{"for_secs":60}"#)["muted_until"].is_string());
    assert!(call("GET", "chains/team-1/events", "")["events"].as_array().is_some_and(|all| all.len() > 2));
    let made = call("POST", "keys", r#"{"name":"team","chain":"team-1"}"#);
    assert!(made["key"].is_string(), "{made}");
    let nobody = call("GET", "chains/team-404", "");
    assert_eq!(nobody["reason"], "chain_unknown", "{nobody}");
    assert!(nobody["detail"].as_str().unwrap().contains("in the database"), "{nobody}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chains_without_a_section_are_shown_and_muted() {
    let rig = Rig::new().await;
    let machine = rig.machine(&new_key(), "");
    let config = machine.folder.path().join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace("[chains.claude]", "[chains.\"team-*\"]");
    fs::write(&config, text).unwrap();
    machine.import(&rig.standin, "team-1");
    let fine = machine.run(&["status"]);
    assert!(fine.status.success(), "{}", shown(&fine));
    assert!(
        shown(&fine).contains("nothing is wrong with team-*; --chain NAME shows one"),
        "{}",
        shown(&fine)
    );
    let fine = machine.json(&["status", "--chain", "team-1"]);
    assert_eq!(fine["chains"][0]["token_valid"], true, "{fine}");

    let (_server, _) = machine.serve();
    rig.standin.engine().push_fault(FaultTarget::Token, Fault::named("invalid_grant_400").unwrap(), 1);
    let report = machine.json(&["refresh", "--chain", "team-1", "--force"]);
    assert_eq!(report["error"], "refresh_token_revoked", "{report}");
    let open = || machine.json(&["alerts", "list", "--open"])["episodes"].clone();
    wait_until("the monitor finds it", 90 * SOON, || open()[0]["condition"] == "reauth_required");
    for args in [&["status"][..], &["status", "--chain", "team-1"]] {
        let output = machine.run(args);
        let said = shown(&output);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("reauth_required  team-1  open for "), "{args:?}: {said}");
        assert!(said.contains("next: "), "{args:?}: {said}");
    }
    let all = machine.json(&["status"]);
    assert_eq!((&all["chains"], &all["episodes"][0]["chain"]), (&json!([]), &json!("team-1")), "{all}");
    let one = machine.json(&["status", "--chain", "team-1"]);
    assert_eq!(one["chains"][0]["episodes"][0]["condition"], "reauth_required", "{one}");
    let timeline = machine.run(&["status", "--timeline", "--chain", "team-1"]);
    assert!(shown(&timeline).contains("reauth_required opened"), "{}", shown(&timeline));

    let muted = machine.run(&["alerts", "mute", "team-1", "--for", "2h"]);
    assert!(shown(&muted).contains("held back for"), "{}", shown(&muted));
    for args in [&["alerts", "mute", "nobody", "--for", "2h"][..], &["status", "--chain", "nobody"]] {
        let output = machine.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", shown(&output));
        let said = "there is no chain nobody in the configuration; there is: team-*";
        assert!(shown(&output).contains(said), "{args:?}: {}", shown(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_the_refresh_token_where_its_operator_insists() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().unwrap();
    let exported = folder.path().join("auth.json");
    let more = format!("export = \"{}\"\nexport_refresh_token = true\n", exported.display());
    let machine = rig.machine(&new_key(), &more);
    let (_server, _) = machine.serve();
    machine.import(&rig.standin, "claude");
    for _ in 0..2 {
        let held = machine.held();
        let refresh = held["claudeAiOauth"]["refreshToken"].as_str().unwrap();
        assert!(crate::support::lives(&rig.standin, refresh));
        wait_until("the export is what the database holds", 4 * SOON, || {
            fs::read(&exported).is_ok_and(|bytes| {
                serde_json::from_slice::<Value>(&bytes).is_ok_and(|file| {
                    ["accessToken", "refreshToken"]
                        .iter()
                        .all(|token| file["claudeAiOauth"][token] == held["claudeAiOauth"][token])
                })
            })
        });
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&exported).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(machine.json(&["refresh", "--force"])["refreshed"], true);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_behind_a_certificate_of_its_own_is_reached_for_rows_too() {
    let rig = Rig::new().await;
    let proxy = Proxy::start(rig.standin.url().trim_start_matches("http://").to_owned()).await;
    let more = "\n[chains.\"team-*\"]\nprovider = \"stand-in\"\naccept_provider_terms = true\nvault = \"database\"\n\
                min_exchange_interval_secs = 0\n";
    let machine = rig.machine(&new_key(), more);
    for chain in ["claude", "team-1"] {
        machine.import(&rig.standin, chain);
    }
    let config = machine.folder.path().join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace(&rig.standin.url(), "https://provider.test");
    fs::write(&config, &text).unwrap();
    let force = |chain| {
        let mut command = machine.command(&["refresh", "--force", "--json", "--chain", chain]);
        let output = command.env("HTTPS_PROXY", format!("http://{}", proxy.address)).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{}", shown(&output)))
    };
    for chain in ["claude", "team-1"] {
        let report = force(chain);
        assert_eq!(
            report["error"], "provider_unavailable",
            "a certificate that nobody vouches for: {report}"
        );
    }
    assert_eq!(rig.standin.engine().counters().exchanges, 0);
    fs::write(machine.folder.path().join("ca.pem"), &proxy.certificate).unwrap();
    fs::write(
        &config,
        text.replace("extends = \"claude\"\n", "extends = \"claude\"\nca_file = \"ca.pem\"\n"),
    )
    .unwrap();
    for chain in ["claude", "team-1"] {
        let report = force(chain);
        assert_eq!((&report["refreshed"], &report["error"]), (&true.into(), &Value::Null), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_state_folder_is_told_from_the_original() {
    let rig = Rig::new().await;
    let seal = new_key();
    let (one, copy) = (rig.machine(&seal, ""), rig.machine(&seal, ""));
    let (mut server, _) = one.serve();
    one.import(&rig.standin, "claude");
    let state = |machine: &Machine| machine.folder.path().join(".local/state/evergrant");
    fs::create_dir_all(state(&copy)).unwrap();
    fs::copy(state(&one).join("machine-id"), state(&copy).join("machine-id")).unwrap();
    for args in [&["refresh", "--force"][..], &["serve"]] {
        let output = copy.run(args);
        let said = shown(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let remove = format!("remove {}", state(&copy).join("machine-id").display());
        assert!(said.contains("another server that runs now goes by the name of this machine"), "{said}");
        assert!(said.contains(&remove), "{said}");
    }
    assert_eq!(rig.standin.engine().counters().exchanges, 0);
    // Other processes beside the server are the same machine.
    assert_eq!(one.json(&["refresh", "--force"])["refreshed"], true);
    // Frozen for so long that it seems dead: its name is the copy's then, and it renews nothing when it thaws.
    server.running.signal(Signal::STOP);
    let (second, _) = copy.serve();
    server.running.signal(Signal::CONT);
    server.line("reason", "vault_unwritable");
    drop(second);
    // The copy as it was told to be.
    fs::remove_file(state(&copy).join("machine-id")).unwrap();
    let (_second, _) = copy.serve();
    server.line("message", "nobody else goes by the name of this machine any more");
    assert_eq!(one.json(&["refresh", "--force"])["refreshed"], true);
    assert_eq!(copy.json(&["refresh", "--force"])["refreshed"], true);
    assert_eq!(rig.standin.engine().counters().families_revoked_by_reuse, 0);
    server.running.signal(Signal::TERM);
    assert!(server.running.0.wait().unwrap().success());
}
