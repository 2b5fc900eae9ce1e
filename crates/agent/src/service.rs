//! The agent as a service of the user's session: a launchd job or a systemd user unit (SPEC §5).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::AgentError;
use crate::clock::Stopwatch;
use crate::process::{self, Ran, Surroundings};

mod launchd;
mod systemd;

pub use launchd::LABEL;
pub use systemd::UNIT;

/// One call of a service manager.
const BOUND: Duration = Duration::from_secs(30);
/// What a service manager has to come to is waited for so long.
const SETTLES: Duration = Duration::from_secs(20);

/// Which service manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// macOS.
    Launchd,
    /// Linux.
    Systemd,
}

/// What is needed to install.
#[derive(Debug, Clone)]
pub struct Service {
    /// Which service manager.
    pub manager: Manager,
    /// `launchctl` or `systemctl`.
    pub program: PathBuf,
    /// `loginctl`.
    pub loginctl: PathBuf,
    /// This program, absolute.
    pub evergrant: PathBuf,
    /// The configuration, absolute, where there is a file.
    pub config: Option<PathBuf>,
    /// The home.
    pub home: PathBuf,
    /// The folder of the user's configuration.
    pub config_home: PathBuf,
    /// The user's number.
    pub uid: u32,
    /// The environment of those programs.
    pub around: Surroundings,
    /// So long a pause before something is tried again.
    pub pause: Duration,
}

/// What is known of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// The service manager knows it, and it does not run.
    Stopped,
    /// The service manager does not know it.
    Absent,
}

impl State {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Absent => "absent",
        }
    }
}

impl Service {
    /// The file that makes it one.
    pub fn file(&self) -> PathBuf {
        match self.manager {
            Manager::Launchd => self.home.join("Library/LaunchAgents").join(format!("{LABEL}.plist")),
            Manager::Systemd => self.config_home.join("systemd/user").join(UNIT),
        }
    }

    /// What stands in it.
    pub fn text(&self) -> Result<String, AgentError> {
        match self.manager {
            Manager::Launchd => launchd::plist(self),
            Manager::Systemd => systemd::unit(self),
        }
    }

    /// Installs it, in place of an earlier one; it runs afterwards. Says what else the person may do.
    pub fn install(&self) -> Result<Vec<String>, AgentError> {
        let text = self.text()?;
        match self.manager {
            Manager::Launchd => {
                launchd::has_a_session(self)?;
                launchd::unload(self)?;
                self.write(&text)?;
                launchd::load(self)?;
                Ok(Vec::new())
            }
            Manager::Systemd => {
                systemd::has_a_session(self)?;
                self.write(&text)?;
                systemd::load(self)?;
                Ok(systemd::linger_hint(self))
            }
        }
    }

    /// Takes it away: it neither runs nor comes back.
    pub fn uninstall(&self) -> Result<(), AgentError> {
        match self.manager {
            Manager::Launchd => launchd::unload(self)?,
            Manager::Systemd => systemd::unload(self)?,
        }
        let file = self.file();
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(AgentError::file(&file, "it cannot be removed", error));
            }
            Ok(()) | Err(_) => {}
        }
        if self.manager == Manager::Systemd {
            systemd::reload(self)?;
        }
        Ok(())
    }

    /// How it stands with it.
    pub fn state(&self) -> Result<State, AgentError> {
        match self.manager {
            Manager::Launchd => launchd::state(self),
            Manager::Systemd => systemd::state(self),
        }
    }

    /// Lets it run while nobody is logged in.
    pub fn enable_linger(&self) -> Result<(), AgentError> {
        let user = self.uid.to_string();
        let ran = self.call_program(&self.loginctl, &["enable-linger", &user])?;
        if ran.status.success() {
            return Ok(());
        }
        Err(AgentError::Unusable(format!("loginctl enable-linger {user} failed: {}", ran.words())))
    }

    fn call(&self, arguments: &[&str]) -> Result<Ran, AgentError> {
        self.call_program(&self.program, arguments)
    }

    fn call_program(&self, program: &Path, arguments: &[&str]) -> Result<Ran, AgentError> {
        process::run(program, arguments, &self.around, BOUND)
            .map_err(|error| AgentError::Unusable(error.to_string()))
    }

    fn write(&self, text: &str) -> Result<(), AgentError> {
        let file = self.file();
        let failed = |error| AgentError::file(&file, "it cannot be written", error);
        if let Some(folder) = file.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed)?;
        }
        let new = file.with_extension("new");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644);
        let mut out = options.open(&new).map_err(failed)?;
        io::Write::write_all(&mut out, text.as_bytes()).map_err(failed)?;
        fs::rename(&new, &file).map_err(failed)
    }

    /// Waits for a state, for a bounded time.
    fn settles(&self, wanted: State) -> Result<bool, AgentError> {
        let begun = Stopwatch::start();
        loop {
            if self.state()? == wanted {
                return Ok(true);
            }
            if begun.passed() >= SETTLES.min(self.pause * 40) {
                return Ok(false);
            }
            std::thread::sleep(self.pause / 4);
        }
    }

    /// The program with its arguments.
    fn words(&self) -> Result<Vec<String>, AgentError> {
        let text = |path: &Path| {
            let text = path.to_str().filter(|text| path.is_absolute() && !text.contains(['\n', '\r', '\0']));
            text.map(str::to_owned).ok_or_else(|| {
                AgentError::Unusable(format!("{} is no path that a service can have", path.display()))
            })
        };
        let mut words = vec![text(&self.evergrant)?];
        if let Some(config) = &self.config {
            words.extend(["--config".to_owned(), text(config)?]);
        }
        words.extend(["agent".to_owned(), "run".to_owned()]);
        Ok(words)
    }
}
