//! The agent of a workstation against the real server with a stand-in provider: from a login to the served token.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use evergrant_standin::{Fault, FaultTarget, LoginOptions, StandIn};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::serving::{Server, get};
use crate::support::{BINARY, Home, Running, shown, standin, wait_until};

const BOUND: Duration = Duration::from_secs(30);

/// A workstation: a home with the agent's configuration and key, and a config folder of the client's.
pub(crate) struct Workstation {
    home: TempDir,
    key: String,
}

impl Workstation {
    pub(crate) fn new(server: &str, key: &str) -> Self {
        Self::of("claude", server, key)
    }

    pub(crate) fn of(chain: &str, server: &str, key: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let station = Self { home, key: key.to_owned() };
        fs::create_dir(station.path("login")).unwrap();
        fs::write(station.path("push.key"), key).unwrap();
        let config = format!(
            "[agent]\nserver = \"{server}\"\nkey_file = \"push.key\"\nsecurity_program = \"no-keychain\"\n\
             notify_program = \"no-notices\"\n\n[agent.chains.{chain}]\nconfig_dir = \"login\"\n"
        );
        fs::write(station.path("config.toml"), config).unwrap();
        station
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.env_clear().env("HOME", self.home.path()).env("USER", "ada");
        command.env("EVERGRANT_CONFIG", self.path("config.toml"));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.arg("agent").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", shown(&output)))
    }

    /// An agent with a look ten times a second, that logs all that it can.
    fn agent(&self) -> Running {
        let mut command = self.command(&["run"]);
        command.env("EVERGRANT_AGENT_TEST_PERIODS", "100 500 60000").env("EVERGRANT_LOG__LEVEL", "trace");
        Running::start(&mut command)
    }

    /// A new login in the client's folder: its access and refresh token.
    pub(crate) fn log_in(&self, standin: &StandIn) -> (String, String) {
        let login = standin.engine().login(LoginOptions::default()).auth_file();
        fs::write(self.path("login/.credentials.json"), login.to_string()).unwrap();
        let token = |member: &str| login["claudeAiOauth"][member].as_str().unwrap().to_owned();
        (token("accessToken"), token("refreshToken"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path(".local/state/evergrant/agent/agent.log")).unwrap_or_default()
    }
}

fn instant(value: &Value) -> jiff::Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// A server with a chain that has a grant, and a key of scope `push`.
fn serve(standin: &StandIn) -> (Home, Server, Workstation, String) {
    let home = Home::new(standin);
    home.log_in(standin);
    let server = Server::start(&mut home.command(&["serve"]));
    let base = server.base();
    let made = home.json(&["keys", "create", "--scope", "push", "--name", "desk"]);
    let station = Workstation::new(&base, made["key"].as_str().unwrap());
    (home, server, station, base)
}

/// A running server knows a new key within a second.
fn beats(station: &Workstation) -> Value {
    let mut report = Value::Null;
    wait_until("the server knows the key", BOUND, || {
        report = station.json(&["once"]);
        report["ok"] == true
    });
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_the_workstation_is_what_the_server_serves() {
    let standin = standin().await;
    let (home, _server, station, base) = serve(&standin);
    let mut agent = station.agent();
    let mut secrets = vec![station.key.clone()];
    for _ in 0..2 {
        let (access, refresh) = station.log_in(&standin);
        wait_until("the chain has the login", BOUND, || home.refresh_token() == refresh);
        let token = home.run(&["token"]);
        assert_eq!(String::from_utf8_lossy(&token.stdout).trim(), access);
        secrets.extend([access, refresh]);
    }
    let (status, seen) = get(&format!("{base}/api/v1/admin/system/token-push/last-seen")).await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!((status, seen["status"].clone()), (200, json!("ok")));
    wait_until("it beats", BOUND, || {
        let memory = station.path(".local/state/evergrant/agent/claude.json");
        let memory: Value = serde_json::from_slice(&fs::read(memory).unwrap()).unwrap();
        instant(&memory["last_contact"]) > instant(&seen["last_seen_at"])
    });
    assert_eq!(station.json(&["status"])["running"], true);
    agent.signal(Signal::TERM);
    wait_until("it ends", Duration::from_secs(10), || agent.0.try_wait().unwrap().is_some());
    assert!(agent.0.wait().unwrap().success());

    let log = station.log();
    assert!(log.contains("the agent runs") && log.contains("the agent stops"), "{log}");
    let heard = |line: &&str| line.contains("the server heard the agent") && line.contains("sent=\"push\"");
    assert_eq!(log.lines().filter(heard).count(), 2, "{log}");
    assert!(
        log.contains("DEBUG") && !log.contains("ureq"),
        "a client that dumps bytes hides them from a search: {log}"
    );
    let everything = [log, shown(&station.run(&["status"])), shown(&station.run(&["logs"]))].concat();
    for secret in &secrets {
        assert!(!everything.contains(secret.as_str()), "a secret is in {everything}");
    }
    // Nothing of a server's state was opened or made.
    let state: Vec<_> = fs::read_dir(station.path(".local/state/evergrant"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(state, ["agent"]);
}

/// Nobody has to guess where the new login is made.
#[tokio::test(flavor = "multi_thread")]
async fn what_to_do_about_a_dead_grant_names_the_agents_folder() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    home.json(&["refresh"]);
    standin.engine().push_fault(FaultTarget::Token, Fault::named("invalid_grant_400").unwrap(), 1);
    assert_eq!(home.force()["error"], "refresh_token_revoked");
    let made = home.json(&["keys", "create", "--scope", "push"]);
    let server = Server::start(&mut home.command(&["serve"]));
    let station = Workstation::new(&server.base(), made["key"].as_str().unwrap());
    let next = format!("CLAUDE_CONFIG_DIR={} claude", station.path("login").display());
    beats(&station);
    wait_until("the status says what to do", BOUND, || shown(&home.run(&["status"])).contains(&next));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_pushes_asks_and_pauses() {
    let standin = standin().await;
    let (home, _server, station, base) = serve(&standin);
    let report = beats(&station);
    assert_eq!(report["chains"][0]["reason"], "beat");
    let (access, refresh) = station.log_in(&standin);
    let pushed = station.json(&["push"]);
    assert_eq!((&pushed["ok"], &pushed["chains"][0]["reason"]), (&json!(true), &json!("accepted")));
    assert_eq!(home.refresh_token(), refresh);
    assert_eq!(station.json(&["push"])["chains"][0]["reason"], "same_grant");
    let timeline = shown(&home.run(&["status", "--timeline"]));
    assert_eq!(timeline.matches("grant_pushed by key_").count(), 1, "{timeline}");

    let shown_status = shown(&station.run(&["status"]));
    assert!(
        shown_status.contains("does not run") && shown_status.contains("agent install"),
        "{shown_status}"
    );
    let doctor = station.json(&["doctor"]);
    assert_eq!(doctor["ok"], true, "{doctor:#}");
    let names: Vec<_> =
        doctor["checks"].as_array().unwrap().iter().map(|check| check["name"].clone()).collect();
    assert_eq!(
        names,
        [
            "login of chain claude",
            "DNS",
            "TCP",
            "HTTP",
            "clock",
            "key of chain claude",
            "last-seen of chain claude"
        ]
    );

    let paused = station.run(&["pause", "--for", "8h", "--reason", "on a plane"]);
    assert!(paused.status.success() && shown(&paused).contains("announced"), "{}", shown(&paused));
    let status = station.json(&["status"]);
    assert_eq!(status["absence"]["reason"], "on a plane");
    assert_eq!(status["chains"][0]["memory"]["absence"], status["absence"], "the server was told");
    assert!(station.run(&["pause", "--off"]).status.success());
    assert_eq!(station.json(&["status"])["absence"], Value::Null);

    // What a command prints, with words around it: a grant without refresh token.
    let printed = format!("Your token (store it now):\n\n  {access}\n\n");
    let mut command = station.command(&["push", "--stdin", "--json"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["chains"][0]["reason"], "accepted", "{report:#}");
    assert_eq!(home.file()["claudeAiOauth"]["refreshToken"], "");
    let metrics = get(&format!("{base}/metrics")).await.1;
    assert!(metrics.contains("evergrant_"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_said_with_what_to_do() {
    let standin = standin().await;
    let (_home, server, station, _) = serve(&standin);
    beats(&station);
    let findings = |station: &Workstation| {
        let output = station.run(&["doctor"]);
        assert!(!output.status.success(), "{}", shown(&output));
        shown(&output)
    };
    fs::write(station.path("push.key"), format!("evg_{}", "x".repeat(43))).unwrap();
    let said = findings(&station);
    assert!(said.contains("bad  key") && said.contains("keys create --scope push"), "{said}");
    assert!(said.contains("bad  login of chain claude") && said.contains("log in"), "{said}");
    station.log_in(&standin);
    let refused = station.json(&["push"]);
    let one = &refused["chains"][0];
    assert_eq!(
        (&one["ok"], &one["reason"], &one["pending"]),
        (&json!(false), &json!("caller_unknown"), &json!(true))
    );
    fs::write(station.path("push.key"), &station.key).unwrap();
    drop(server);
    let said = findings(&station);
    assert!(said.contains("bad  TCP") && said.contains("see that the server runs"), "{said}");
    assert!(said.contains("-    last-seen"), "{said}");
    let pushed = station.run(&["push"]);
    assert_eq!(pushed.status.code(), Some(1));
    assert!(shown(&pushed).contains("a running agent tries it again every minute"), "{}", shown(&pushed));
    // The plain address of another machine is refused before anything else.
    let config = fs::read_to_string(station.path("config.toml")).unwrap();
    let plain = "server = \"http://192.0.2.1:8787\"";
    let line = config.lines().find(|line| line.starts_with("server")).unwrap();
    fs::write(station.path("config.toml"), config.replace(line, plain)).unwrap();
    let output = station.run(&["once"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        shown(&output).contains("in the clear") && shown(&output).contains("config.toml:2"),
        "{}",
        shown(&output)
    );
    fs::write(station.path("config.toml"), config.replace(line, "")).unwrap();
    assert!(shown(&station.run(&["once"])).contains("set server in [agent]"));
}

/// `launchctl` with one job.
fn launchctl(folder: &Path) -> PathBuf {
    let path = folder.join("launchctl");
    let script = format!(
        "#!/bin/sh\njob={}/job\ncase \"$1 $2\" in\n'print gui/'*/*) [ -f $job ] || exit 113; echo '\tstate = running';;\n\
         'bootstrap '*) cp \"$3\" $job;;\n'bootout '*) rm -f $job;;\nesac\n",
        folder.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn it_is_installed_with_its_own_path_and_leaves_nothing() {
    let station = Workstation::new("http://127.0.0.1:1", &format!("evg_{}", "x".repeat(43)));
    let program = launchctl(station.home.path());
    let manager = ["--manager", "launchd", "--manager-program", program.to_str().unwrap()];
    let with = |words: &[&str]| station.run(&[words, &manager].concat());
    let plist = station.path("Library/LaunchAgents/dev.evergrant.agent.plist");
    let printed = with(&["install", "--print"]);
    assert!(shown(&printed).contains("<key>RunAtLoad</key>") && !plist.exists(), "{}", shown(&printed));
    let installed = with(&["install"]);
    assert!(installed.status.success(), "{}", shown(&installed));
    let text = fs::read_to_string(&plist).unwrap();
    let config = station.path("config.toml");
    for word in [BINARY, config.to_str().unwrap(), "agent", "run"] {
        assert!(text.contains(&format!("<string>{word}</string>")), "{word}: {text}");
    }
    assert!(!text.contains("evg_") && station.path("job").exists());
    let status = station.json(&[&["status"], &manager[..]].concat());
    assert_eq!(status["service"], "running");
    // A key that only the environment has is nothing for a service.
    let mut command = station.command(&[&["install"], &manager[..]].concat());
    let bare = fs::read_to_string(&config).unwrap().replace("key_file = \"push.key\"\n", "");
    fs::write(&config, bare).unwrap();
    let output = command.env("EVERGRANT_AGENT_KEY", &station.key).output().unwrap();
    assert!(!output.status.success() && shown(&output).contains("does not see EVERGRANT_AGENT_KEY"));

    let gone = with(&["uninstall"]);
    assert!(gone.status.success(), "{}", shown(&gone));
    assert!(!plist.exists() && !station.path("job").exists());
    assert!(!station.path(".local/state/evergrant/agent").exists());
}
