//! What is compared: each peer is started in the foreground, alone on its core, with a configuration that does the
//! same work, and ends with the measurement.

mod direct;
mod evergrant;
mod haproxy;
mod litellm;
mod nginx;
mod portkey;

use std::fs::{self, File};
use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::http;
use super::process::{Running, wait_until};
use super::rig::{PROXY_CORE, Rig, pinned};
use crate::prerequisites::{self, Needed};

/// The header that bears the caller key.
pub(super) const KEY_HEADER: &str = "X-CM-API-Key";
/// What every proxy injects as its bearer token. No real one looks like it.
pub(super) const TOKEN: &str = "bench-access-token-that-no-provider-gave-and-none-would-take-0123456789";
/// What every proxy injects as `anthropic-beta`, but Evergrant, which has its own.
pub(super) const CAPABILITY: &str = "bench-2026-11-25";

const PATIENCE: Duration = Duration::from_secs(10);

/// Who may be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// No proxy: the load generator asks the upstream itself.
    Direct,
    /// nginx of Debian.
    Nginx,
    /// `HAProxy` of Debian.
    Haproxy,
    /// The release build of this tree.
    Evergrant,
    /// The pinned `LiteLLM` of benches/peers.
    Litellm,
    /// The pinned gateway of Portkey of benches/peers.
    Portkey,
}

impl Peer {
    /// As the tables and figures call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Evergrant => "evergrant",
            Self::Litellm => "litellm",
            Self::Portkey => "portkey",
        }
    }

    /// Brings what it needs on this machine; said before anything is measured.
    pub(super) fn provide(self, rig: &mut Rig) -> Result<()> {
        match self {
            Self::Direct => Ok(()),
            Self::Nginx => prerequisites::for_bench(&[nginx::NEEDED]),
            Self::Haproxy => prerequisites::for_bench(&[haproxy::NEEDED]),
            Self::Evergrant => evergrant::build(rig),
            Self::Litellm => litellm::install(rig),
            Self::Portkey => portkey::install(),
        }
    }

    /// Starts it; what it needs is there.
    pub(super) fn start(self, rig: &Rig) -> Result<Site> {
        let started = match self {
            Self::Direct => Ok(direct::site(rig)),
            Self::Nginx => nginx::start(rig),
            Self::Haproxy => haproxy::start(rig),
            Self::Evergrant => evergrant::start(rig),
            Self::Litellm => litellm::start(rig),
            Self::Portkey => portkey::start(rig),
        };
        started.with_context(|| format!("starting {}", self.name()))
    }
}

/// What those need that are packages of Debian.
const fn needed(program: &'static str, packages: &'static [&'static str], for_what: &'static str) -> Needed {
    Needed { program, packages, for_what }
}

/// A peer that runs.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) peer: Peer,
    pub(super) address: SocketAddr,
    /// What stands before the paths of the API.
    pub(super) prefix: &'static str,
    /// Lines of the head that every request bears.
    pub(super) headers: Vec<String>,
    /// Caller keys, one a line.
    pub(super) keys: Option<PathBuf>,
    /// Where its access log goes.
    access_log: Option<PathBuf>,
    process: Option<Running>,
}

impl Site {
    /// The process that was started, if there is one.
    pub(super) fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Running::id)
    }

    /// The access log tells of requests: nobody was spared that work.
    pub(super) fn check_log(&self) -> Result<()> {
        let Some(path) = &self.access_log else {
            return Ok(());
        };
        // Logs are written in batches with a flush a second.
        let since = crate::run::now();
        while since.elapsed() < Duration::from_secs(5) {
            if tells_something(path) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("{} wrote no access log to {}: its work is not the same", self.peer.name(), path.display());
    }
}

/// The file's beginning holds the code that every request was answered with.
fn tells_something(path: &Path) -> bool {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(1024 * 1024).read_to_end(&mut text));
    read.is_ok() && text.windows(3).any(|three| three == b"200")
}

/// A program with its arguments, to be started alone on the proxies' core with its output in files of a folder.
struct Server<'a> {
    peer: Peer,
    program: &'a Path,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    folder: &'a Path,
    address: SocketAddr,
    /// What answers when it serves, and with which codes.
    health: (&'static str, &'static [u16]),
    patience: Duration,
}

impl Server<'_> {
    fn start(self) -> Result<Running> {
        let (out, err) = (self.folder.join("stdout"), self.folder.join("stderr"));
        let file = |path: &Path| {
            let file = File::options().create(true).append(true).open(path);
            file.with_context(|| format!("making {}", path.display()))
        };
        let mut command: Command = pinned(PROXY_CORE, self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder)
            .stdin(Stdio::null())
            .stdout(file(&out)?)
            .stderr(file(&err)?);
        let child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let mut running = Running::new(child);
        let said = || {
            let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
            let text = format!("{}{}", read(&out), read(&err));
            let lines: Vec<&str> = text.lines().collect();
            lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
        };
        let (path, codes) = self.health;
        let answers = || http::get(self.address, path).is_some_and(|code| codes.contains(&code));
        wait_until(&mut running, self.patience, said, answers)
            .with_context(|| format!("{} does not serve", self.peer.name()))?;
        Ok(running)
    }
}
