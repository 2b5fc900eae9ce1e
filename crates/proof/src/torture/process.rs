//! One `evergrant serve` with a home and a state of its own, on the auth file that it shares. It is killed, stopped
//! and continued by its own id only, and never outlives its handle.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use evergrant_standin::StandIn;
use rustix::process::{Pid, Signal, kill_process};

use super::{DEADLINE, Options};

/// A machine: its home outlives its process.
pub(super) struct Machine {
    name: &'static str,
    binary: PathBuf,
    home: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Machine {
    /// Lays out a home; `room` is where state and grant lie.
    pub(super) fn new(
        name: &'static str,
        options: &Options,
        standin: &StandIn,
        auth_file: &Path,
    ) -> io::Result<Self> {
        let home = options.room.join(name);
        fs::create_dir_all(&home)?;
        let text = format!(
            "state_dir = \"{}\"\n\n[http]\nlisten = \"127.0.0.1:0\"\n\n[log]\nlevel = \"info\"\n\n[probe]\nenabled = false\n\n\
             [providers.stand-in]\nextends = \"claude\"\ntoken_url = \"{}\"\napi_base = \"{}\"\nprobe_url = \"{}\"\n\n\
             [chains.claude]\nprovider = \"stand-in\"\naccept_provider_terms = true\nclient_locks = \"always\"\n\
             min_exchange_interval_secs = 0\ndeadline_secs = {}\nauth_file = \"{}\"\n",
            home.join("state").display(),
            standin.token_url(),
            standin.url(),
            standin.probe_url(),
            DEADLINE.as_secs(),
            auth_file.display(),
        );
        fs::write(home.join("config.toml"), text)?;
        let log = options.scratch.join(format!("{name}.log"));
        Ok(Self { name, binary: options.binary.clone(), home, log, child: None })
    }

    /// Its process, if it runs.
    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Starts its process.
    pub(super) fn start(&mut self) -> io::Result<()> {
        let log: File = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.binary)
            .arg("serve")
            .env_clear()
            .env("HOME", &self.home)
            .env("EVERGRANT_CONFIG", self.home.join("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops or continues it.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// It ended though nobody killed it: says how.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        self.child = None;
        Some(format!("{} ended by itself: {status}", self.name))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}
