//! A word to the person at the workstation, by the system's own program (SPEC §5).

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{self, Surroundings};

/// What macOS brings.
const OSASCRIPT: &str = "/usr/bin/osascript";
/// What Linux desktops bring.
const NOTIFY_SEND: &str = "/usr/bin/notify-send";
/// The text comes as an argument of the script, so that nothing in it is run.
const SCRIPT: [&str; 3] =
    ["on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run"];
const BOUND: Duration = Duration::from_secs(10);

/// How a person is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notifier {
    /// `osascript`, or a program that takes a title and a text as `notify-send` does; without one nobody is told.
    pub program: Option<PathBuf>,
    /// What it gets of the environment.
    pub around: Surroundings,
}

impl Notifier {
    /// By the program that this machine has.
    pub fn of_this_machine(around: Surroundings) -> Self {
        let known = [OSASCRIPT, NOTIFY_SEND].into_iter().map(PathBuf::from).find(|program| program.exists());
        Self { program: known, around }
    }

    /// Tells. Where that fails, the log has it.
    pub fn tell(&self, title: &str, text: &str) {
        let Some(program) = &self.program else { return };
        let arguments = arguments(program, title, text);
        match process::run(program, &arguments, &self.around, BOUND) {
            Ok(ran) if ran.status.success() => {}
            Ok(ran) => {
                tracing::warn!(program = %program.display(), said = ran.words(), "nobody was notified")
            }
            Err(error) => tracing::warn!(%error, "nobody was notified"),
        }
    }
}

fn arguments(program: &Path, title: &str, text: &str) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    if program.file_stem().is_some_and(|name| name == "osascript") {
        arguments.extend(SCRIPT.iter().flat_map(|line| ["-e".to_owned(), (*line).to_owned()]));
    } else {
        arguments.extend([
            "--app-name=Evergrant".to_owned(),
            "--urgency=critical".to_owned(),
            "--".to_owned(),
        ]);
    }
    arguments.extend([title.to_owned(), text.to_owned()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_an_argument_and_never_a_script() {
        let text = "\" & (do shell script \"x\")";
        let script = arguments(Path::new("/usr/bin/osascript"), "Title", text);
        assert_eq!(script[script.len() - 2..], ["Title", text]);
        assert!(script[..6].iter().all(|line| line == "-e" || SCRIPT.contains(&line.as_str())));
        let send = arguments(Path::new("/usr/bin/notify-send"), "-x", "--y");
        assert_eq!(send[2..], ["--", "-x", "--y"]);
    }
}
