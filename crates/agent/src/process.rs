//! Calls of other programs: bounded in time and output, with no more of the environment than they need.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::clock::Stopwatch;

/// What of the environment other programs get. The agent's own key may stand in it, and is not among these.
const PASSED: [&str; 16] = [
    "HOME",
    "USER",
    "LOGNAME",
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SHELL",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "__CF_USER_TEXT_ENCODING",
];
/// More output than this is cut.
const MOST_OUTPUT: u64 = 4 * 1024 * 1024;
/// What holds the pipe after the program's end is not waited for.
const AFTER_ITS_END: Duration = Duration::from_secs(2);

/// The part of the environment that is passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings(BTreeMap<String, String>);

impl Surroundings {
    /// Of an environment.
    pub fn of<'a>(environment: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let passed = environment.into_iter().filter(|(name, _)| PASSED.contains(&name.as_str()));
        Self(passed.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    /// One of the variables, if it holds anything.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said; it may be secret.
    pub stdout: Zeroizing<Vec<u8>>,
    /// What it complained of.
    pub stderr: String,
}

impl Ran {
    /// What it complained of, or said, in one line.
    pub fn words(&self) -> String {
        let said = if self.stderr.trim().is_empty() {
            String::from_utf8_lossy(&self.stdout).into_owned()
        } else {
            self.stderr.clone()
        };
        let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() { self.status.to_string() } else { line.chars().take(300).collect() }
    }
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotRun {
    /// There is no such program.
    #[error("there is no program {0}")]
    Missing(String),
    /// It did not end in time, and was ended.
    #[error("{0} did not end within {secs} s", secs = .1.as_secs())]
    TooSlow(String, Duration),
    /// The system could not run it.
    #[error("{0} cannot be run: {1}")]
    Failed(String, io::Error),
}

/// Runs a program to its end, for `bound` at most. Its arguments never hold a secret: others can read them.
pub fn run<A: AsRef<OsStr>>(
    program: &Path,
    arguments: &[A],
    around: &Surroundings,
    bound: Duration,
) -> Result<Ran, NotRun> {
    let name = program.display().to_string();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&around.0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that what it started can be ended with it.
    command.process_group(0);
    let not_run = |error: io::Error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        if missing { NotRun::Missing(name.clone()) } else { NotRun::Failed(name.clone(), error) }
    };
    let mut child = command.spawn().map_err(not_run)?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let Some(status) = wait(&mut child, bound).map_err(|error| NotRun::Failed(name.clone(), error))? else {
        return Err(NotRun::TooSlow(name, bound));
    };
    let said = |pipe: Receiver<Zeroizing<Vec<u8>>>| pipe.recv_timeout(AFTER_ITS_END).unwrap_or_default();
    let (stdout, stderr) = (said(stdout), said(stderr));
    Ok(Ran { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() })
}

/// `None`: it was ended.
fn wait(child: &mut Child, bound: Duration) -> io::Result<Option<ExitStatus>> {
    let begun = Stopwatch::start();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.passed() >= bound {
            let group = rustix::process::Pid::from_child(child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Zeroizing<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::with_capacity(16 * 1024));
        if let Some(pipe) = pipe {
            let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes);
        }
        let _ = sender.send(bytes);
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, bound: Duration) -> Result<Ran, NotRun> {
        let environment: BTreeMap<String, String> = [("HOME", "/nowhere"), ("EVERGRANT_AGENT_KEY", "canary")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        run(Path::new("/bin/sh"), &["-c", script], &Surroundings::of(&environment), bound)
    }

    #[test]
    fn a_program_is_run_with_what_it_needs_and_no_more() {
        let ran = shell("env; echo wrong >&2; exit 44", Duration::from_secs(10)).unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(said.contains("HOME=/nowhere") && !said.contains("canary"), "{said}");
        assert_eq!((ran.status.code(), ran.words().as_str()), (Some(44), "wrong"));
        let missing = run(Path::new("/no/such"), &["x"], &Surroundings::default(), Duration::from_secs(1));
        assert!(matches!(missing, Err(NotRun::Missing(_))));
    }

    #[test]
    fn one_that_hangs_is_ended_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! >{}; wait", pid.display());
        let slow = shell(&script, Duration::from_millis(500));
        assert!(matches!(slow, Err(NotRun::TooSlow(_, _))), "{slow:?}");
        let child: i32 = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
        let begun = Stopwatch::start();
        // It is gone, or a corpse that nobody has collected.
        while std::fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
        {
            assert!(begun.passed() < Duration::from_secs(10), "it still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
