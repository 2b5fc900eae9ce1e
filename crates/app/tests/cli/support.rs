//! A scratch home with a configuration, an auth file and a stand-in provider, and the binary in it.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use evergrant_core::provider::Profile;
use evergrant_standin::{LoginOptions, Settings, StandIn};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_evergrant");

/// One machine: a home, its configuration, its state. Several may share an auth file.
pub(crate) struct Home {
    pub(crate) folder: TempDir,
    pub(crate) auth_file: PathBuf,
}

/// The stand-in of the tests, with the built-in profile's words.
pub(crate) fn standin_settings() -> Settings {
    evergrant_lab::like(&Profile::claude())
}

pub(crate) async fn standin() -> StandIn {
    StandIn::start(standin_settings()).await.unwrap()
}

/// The configuration of a chain of the stand-in.
pub(crate) fn configuration(standin: &StandIn, auth_file: &Path, more: &str) -> String {
    format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n\n[gateway]\naccess_log = \"off\"\n\n[probe]\nenabled = false\n\n\
         [providers.stand-in]\nextends = \"claude\"\ntoken_url = \"{}\"\napi_base = \"{}\"\nprobe_url = \"{}\"\n\n\
         [chains.claude]\nprovider = \"stand-in\"\naccept_provider_terms = true\n\
         min_exchange_interval_secs = 0\nauth_file = \"{}\"\n{more}",
        standin.token_url(),
        standin.url(),
        standin.probe_url(),
        auth_file.display(),
    )
}

impl Home {
    /// A home whose auth file lies in a folder of its own.
    pub(crate) fn new(standin: &StandIn) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("grant")).unwrap();
        let auth_file = folder.path().join("grant/auth.json");
        Self::with(standin, folder, auth_file, "")
    }

    /// Another machine's home that shares this one's auth file.
    pub(crate) fn beside(&self, standin: &StandIn) -> Self {
        Self::with(standin, tempfile::tempdir().unwrap(), self.auth_file.clone(), "")
    }

    pub(crate) fn with(standin: &StandIn, folder: TempDir, auth_file: PathBuf, more: &str) -> Self {
        let home = Self { folder, auth_file };
        fs::write(home.config(), configuration(standin, &home.auth_file, more)).unwrap();
        home
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    /// Where lock, record and receipts lie.
    pub(crate) fn beside_file(&self) -> PathBuf {
        let mut path = self.auth_file.clone().into_os_string();
        path.push(".evergrant");
        path.into()
    }

    pub(crate) fn log_in(&self, standin: &StandIn) {
        let login = standin.engine().login(LoginOptions::default()).auth_file();
        fs::write(&self.auth_file, format!("{login:#}")).unwrap();
    }

    /// The binary with nothing of this machine's environment.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        self.dress(&mut command);
        command.args(args);
        command
    }

    /// The server with a socket that is the test's, as systemd hands it over.
    pub(crate) fn serve_on(&self, socket: &TcpListener) -> Command {
        let mut command = Command::new("sh");
        self.dress(&mut command);
        let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" serve";
        command.args(["-c", script, BINARY]).stdin(OwnedFd::from(socket.try_clone().unwrap()));
        command
    }

    /// The environment of [`Home::command`], for a program that runs the binary.
    pub(crate) fn dress(&self, command: &mut Command) {
        command.env_clear().env("HOME", self.folder.path()).env("EVERGRANT_CONFIG", self.config());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", shown(&output)))
    }

    pub(crate) fn force(&self) -> Value {
        self.json(&["refresh", "--force"])
    }

    pub(crate) fn file(&self) -> Value {
        serde_json::from_slice(&fs::read(&self.auth_file).unwrap()).unwrap()
    }

    pub(crate) fn refresh_token(&self) -> String {
        self.file()["claudeAiOauth"]["refreshToken"].as_str().unwrap().to_owned()
    }
}

/// The family of the refresh token lives at the stand-in.
pub(crate) fn lives(standin: &StandIn, refresh: &str) -> bool {
    let now = standin.engine().now();
    standin.engine().with(|engine| engine.family_lives(refresh, now))
}

pub(crate) fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// A process that is ended with its test.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until it holds, for a bounded time.
pub(crate) fn wait_until(what: &str, bound: Duration, mut holds: impl FnMut() -> bool) {
    #[expect(clippy::disallowed_methods, reason = "a bound on a real process")]
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < bound, "not within {bound:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
