//! Where the configuration, the state and the auth file lie when nobody says so.

use std::io;
use std::path::{Path, PathBuf};

use super::Environment;
use super::fault::Fault;

/// The file to read: `--config`, `$EVERGRANT_CONFIG`, the user's, the machine's; the last two if they exist.
pub(crate) fn find(path: Option<&Path>, env: &Environment) -> Result<Option<PathBuf>, Fault> {
    let said = path
        .map(|path| (path.to_owned(), "--config"))
        .or_else(|| set(env, "EVERGRANT_CONFIG").map(|path| (PathBuf::from(path), "EVERGRANT_CONFIG")));
    if let Some((path, by)) = said {
        let absolute = std::path::absolute(&path)
            .map_err(|error| Fault::error(format!("{by}: {}: {error}", path.display())))?;
        return if absolute.exists() {
            Ok(Some(absolute))
        } else {
            Err(Fault::error(format!("{by}: there is no file {}", absolute.display()))
                .help("Evergrant runs without a file too: leave it out"))
        };
    }
    let usual = [
        config_home(env).map(|home| home.join("evergrant/config.toml")),
        Some(PathBuf::from("/etc/evergrant/config.toml")),
    ];
    Ok(usual.into_iter().flatten().find(|path| path.exists()))
}

/// The file's text.
pub(crate) fn read(file: &Path) -> Result<String, Fault> {
    let bytes = std::fs::read(file).map_err(|error| {
        let help = match error.kind() == io::ErrorKind::PermissionDenied {
            true => "let the user that Evergrant runs as read it",
            false => "see that it is a readable file",
        };
        Fault {
            file: Some(file.to_owned()),
            ..Fault::error(format!("it cannot be read: {error}")).help(help)
        }
    })?;
    String::from_utf8(bytes).map_err(|_| Fault {
        file: Some(file.to_owned()),
        ..Fault::error("it is not UTF-8").help("TOML files are text in UTF-8")
    })
}

/// The state folder when none is set.
pub(crate) fn state_dir(env: &Environment) -> Option<PathBuf> {
    let home = absolute(env, "XDG_STATE_HOME").or_else(|| Some(home(env)?.join(".local/state")));
    home.map(|home| home.join("evergrant"))
}

/// Where the marks lie when nobody says so: not in the state folder, which is restored as a whole.
pub(crate) fn marks_file(env: &Environment, state_dir: &Path) -> PathBuf {
    let home = absolute(env, "XDG_DATA_HOME").or_else(|| Some(home(env)?.join(".local/share")));
    let own = home.map(|home| home.join("evergrant/marks.db"));
    own.filter(|file| !file.starts_with(state_dir))
        .unwrap_or_else(|| "/var/lib/evergrant-marks/marks.db".into())
}

/// The auth file when none is set.
pub(crate) fn auth_file(env: &Environment) -> Option<PathBuf> {
    config_home(env).map(|home| home.join("claude-code/auth.json"))
}

/// The user's home.
pub(crate) fn home(env: &Environment) -> Option<PathBuf> {
    absolute(env, "HOME")
}

fn config_home(env: &Environment) -> Option<PathBuf> {
    absolute(env, "XDG_CONFIG_HOME").or_else(|| Some(home(env)?.join(".config")))
}

/// XDG wants paths that are not absolute to be ignored.
fn absolute(env: &Environment, name: &str) -> Option<PathBuf> {
    set(env, name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn set<'a>(env: &'a Environment, name: &str) -> Option<&'a str> {
    env.get(name).map(String::as_str).filter(|value| !value.is_empty())
}
