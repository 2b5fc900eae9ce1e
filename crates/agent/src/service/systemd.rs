//! The systemd user unit.

use super::{Service, State};
use crate::AgentError;

/// The unit's name.
pub const UNIT: &str = "evergrant-agent.service";

pub(super) fn unit(service: &Service) -> Result<String, AgentError> {
    let words: Vec<_> = service.words()?.iter().map(|word| quoted(word)).collect();
    Ok(format!(
        "[Unit]\n\
         Description=Evergrant agent: pushes a fresh login to the server, and beats\n\
         Documentation=man:evergrant(1)\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         Restart=always\n\
         RestartSec=30\n\
         UMask=0077\n\
         LimitCORE=0\n\
         NoNewPrivileges=yes\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        words.join(" ")
    ))
}

/// A word of `ExecStart=`: quotes, variables and specifiers lose their meaning.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:=,".contains(&byte);
    if word.bytes().all(plain) {
        return word.to_owned();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

fn user(service: &Service, arguments: &[&str]) -> Result<(bool, String), AgentError> {
    let ran = service.call(&[&["--user"], arguments].concat())?;
    Ok((ran.status.success(), ran.words()))
}

fn must(service: &Service, arguments: &[&str]) -> Result<(), AgentError> {
    let (done, said) = user(service, arguments)?;
    if done {
        return Ok(());
    }
    Err(AgentError::Unusable(format!("systemctl --user {} failed: {said}", arguments.join(" "))))
}

/// The user's manager has to be there.
pub(super) fn has_a_session(service: &Service) -> Result<(), AgentError> {
    let (there, said) = user(service, &["show-environment"])?;
    if there {
        return Ok(());
    }
    Err(AgentError::Unusable(format!(
        "the user's systemd does not answer ({said}); log in as this user (not by su or sudo), then run this again, \
         or run `evergrant agent run` by a service manager of your own"
    )))
}

pub(super) fn reload(service: &Service) -> Result<(), AgentError> {
    must(service, &["daemon-reload"])
}

pub(super) fn load(service: &Service) -> Result<(), AgentError> {
    reload(service)?;
    must(service, &["enable", UNIT])?;
    must(service, &["restart", UNIT])?;
    if service.settles(State::Running)? {
        return Ok(());
    }
    Err(AgentError::Unusable(format!(
        "the unit does not run; see: systemctl --user status {UNIT}, and evergrant agent logs"
    )))
}

pub(super) fn unload(service: &Service) -> Result<(), AgentError> {
    if state(service)? == State::Absent {
        return Ok(());
    }
    must(service, &["disable", "--now", UNIT])
}

pub(super) fn state(service: &Service) -> Result<State, AgentError> {
    let ran = service.call(&["--user", "show", UNIT, "--property=LoadState,ActiveState"])?;
    let text = String::from_utf8_lossy(&ran.stdout);
    let says = |line: &str| text.lines().any(|said| said.trim() == line);
    Ok(match (says("LoadState=loaded"), says("ActiveState=active")) {
        (_, true) => State::Running,
        (true, false) => State::Stopped,
        (false, false) => State::Absent,
    })
}

/// Without it the agent ends with the user's last session.
pub(super) fn linger_hint(service: &Service) -> Vec<String> {
    let uid = service.uid.to_string();
    let shown = service.call_program(&service.loginctl, &["show-user", &uid, "--property=Linger", "--value"]);
    let lingers = shown.is_ok_and(|ran| String::from_utf8_lossy(&ran.stdout).trim() == "yes");
    if lingers {
        return Vec::new();
    }
    vec!["it ends when you log out; to let it run on: evergrant agent install --linger (loginctl enable-linger)".to_owned()]
}
