//! A scratch workstation: a home with a login in it, and an agent that watches it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use evergrant_agent::entry::{Entry, Keychain};
use evergrant_agent::key::KeySource;
use evergrant_agent::notify::Notifier;
use evergrant_agent::process::Surroundings;
use evergrant_agent::round::{Agent, Ask, Report};
use evergrant_agent::settings::Sinks;
use evergrant_agent::{ChainSettings, Settings};
use evergrant_core::Fingerprint;
use evergrant_core::alert::Links;
use evergrant_core::provider::Profile;
use evergrant_core::push::agent::{Memory, Periods};
use jiff::SignedDuration;
use tempfile::TempDir;
use url::Url;

/// Not a key of anybody.
pub(crate) const KEY: &str = "evg_canary-canary-canary-canary-canary-canary-0";
pub(crate) const LOOK: Ask = Ask::Look { woke: false };

pub(crate) struct Station {
    pub(crate) home: TempDir,
    pub(crate) settings: Settings,
}

impl Station {
    pub(crate) fn new(server: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let key = home.path().join("push.key");
        assert_eq!(KEY.len(), evergrant_core::caller::KEY_LEN);
        fs::write(&key, KEY).unwrap();
        let chain = ChainSettings {
            name: "claude".parse().unwrap(),
            entry: Entry {
                keychain: None,
                file: home.path().join("login.json"),
                config_dir: None,
                profile: Profile::claude(),
            },
            key: KeySource::File(key),
        };
        let settings = Settings {
            folder: home.path().join("agent"),
            server: Url::parse(server).unwrap(),
            ca_file: None,
            host: "desk".into(),
            chains: vec![chain],
            notifier: Notifier { program: None, around: Surroundings::default() },
            sinks: Sinks::of(Vec::new()),
            links: Links { runbook: "https://docs.test".into(), server: server.into() },
            periods: Periods::default(),
        };
        Self { home, settings }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Periods so short that a test may wait for them.
    pub(crate) fn quick(mut self) -> Self {
        let millis = SignedDuration::from_millis;
        self.settings.periods = Periods { look: millis(30), beat: millis(200), trouble: millis(100) };
        self
    }

    pub(crate) fn with_keychain(mut self, program: PathBuf, service: &str, account: &str) -> Self {
        self.settings.chains[0].entry.keychain = Some(Keychain {
            program,
            service: service.into(),
            account: account.into(),
            around: Surroundings::default(),
        });
        self
    }

    pub(crate) fn agent(&self) -> Agent {
        Agent::new(self.settings.clone()).unwrap()
    }

    /// One round, as a process of its own would do it.
    pub(crate) fn round(&self, ask: &Ask) -> Report {
        self.agent().round(&self.settings.chains[0], ask).unwrap()
    }

    pub(crate) fn memory(&self) -> Memory {
        self.agent().folder().load(&self.settings.chains[0].name).unwrap()
    }

    pub(crate) fn log_in(&self, name: &str) -> Fingerprint {
        fs::write(self.path("login.json"), login(name)).unwrap();
        fingerprint(name)
    }

    /// The login's date goes back so far.
    pub(crate) fn age(&self, span: Duration) {
        age(&self.path("login.json"), span);
    }
}

pub(crate) fn age(path: &Path, span: Duration) {
    let now = fs::metadata(path).unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH)).unwrap();
}

/// An auth file with tokens that are plainly nobody's.
pub(crate) fn login(name: &str) -> String {
    format!(
        r#"{{"claudeAiOauth":{{"accessToken":"sk-ant-oat01-canary-{name}","refreshToken":"sk-ant-ort01-canary-{name}",
            "expiresAt":4102444800000,"scopes":["user:inference"],"account":{{"uuid":"account-1"}},
            "organization":{{"uuid":"organization-1"}}}}}}"#
    )
}

pub(crate) fn fingerprint(name: &str) -> Fingerprint {
    Fingerprint::of(format!("sk-ant-ort01-canary-{name}").as_bytes())
}

/// Nothing below the folder holds a secret, but for the files that are there to hold it.
pub(crate) fn no_canary(folder: &Path, but: &[&str]) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            no_canary(&path, but);
        } else if !but.contains(&name.as_str()) {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            assert!(!text.contains("canary"), "{}: {text}", path.display());
        }
    }
}
