//! The launchd job: RunAtLoad, KeepAlive, an absolute path, and no session type, which a `Background` one would lose
//! with the GUI. `bootout` returns before the job is gone, and `bootstrap` fails until it is.

use std::fmt::Write as _;

use super::{Service, State};
use crate::AgentError;

/// The job's name.
pub const LABEL: &str = "dev.evergrant.agent";

/// `bootstrap` is tried so often.
const TRIES: u32 = 6;

fn domain(service: &Service) -> String {
    format!("gui/{}", service.uid)
}

fn target(service: &Service) -> String {
    format!("{}/{LABEL}", domain(service))
}

pub(super) fn plist(service: &Service) -> Result<String, AgentError> {
    let mut arguments = String::new();
    for word in service.words()? {
        // Writing to a string cannot fail.
        let _ = writeln!(arguments, "    <string>{}</string>", escaped(&word));
    }
    Ok(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>{LABEL}</string>
  <key>ProgramArguments</key>
  <array>
{arguments}  </array>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <true/>
  <key>ThrottleInterval</key>
  <integer>30</integer>
</dict>
</plist>
"#
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A user agent needs the session of somebody who is logged in at the screen.
pub(super) fn has_a_session(service: &Service) -> Result<(), AgentError> {
    let domain = domain(service);
    let ran = service.call(&["print", &domain])?;
    if ran.status.success() {
        return Ok(());
    }
    Err(AgentError::Unusable(format!(
        "there is no GUI session ({domain}: {}); log in at the screen of this Mac as this user, then run this again",
        ran.words()
    )))
}

/// Unloads it if it is loaded, and waits until it is gone.
pub(super) fn unload(service: &Service) -> Result<(), AgentError> {
    if state(service)? == State::Absent {
        return Ok(());
    }
    let ran = service.call(&["bootout", &target(service)])?;
    if service.settles(State::Absent)? {
        return Ok(());
    }
    Err(AgentError::Unusable(format!(
        "the job does not unload ({}); try again, or log out and in",
        ran.words()
    )))
}

pub(super) fn load(service: &Service) -> Result<(), AgentError> {
    let file = service.file();
    let path = file.to_string_lossy();
    // A job that was disabled once would stay so.
    service.call(&["enable", &target(service)])?;
    let mut said = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(service.pause);
        }
        let ran = service.call(&["bootstrap", &domain(service), &path])?;
        said = ran.words();
        // It may have been loaded by an attempt that said otherwise.
        if ran.status.success() || state(service)? != State::Absent {
            return match service.settles(State::Running)? {
                true => Ok(()),
                false => Err(AgentError::Unusable(format!(
                    "the job is loaded and does not run; see: launchctl print {}, and evergrant agent logs",
                    target(service)
                ))),
            };
        }
    }
    Err(AgentError::Unusable(format!("launchctl bootstrap {} {path} failed: {said}", domain(service))))
}

pub(super) fn state(service: &Service) -> Result<State, AgentError> {
    let ran = service.call(&["print", &target(service)])?;
    if !ran.status.success() {
        return Ok(State::Absent);
    }
    let text = String::from_utf8_lossy(&ran.stdout);
    let running = text.lines().any(|line| line.trim() == "state = running");
    Ok(if running { State::Running } else { State::Stopped })
}
