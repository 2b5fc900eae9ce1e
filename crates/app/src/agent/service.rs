//! `evergrant agent install` and `uninstall`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use evergrant_agent::key::KeySource;
use evergrant_agent::process::Surroundings;
use evergrant_agent::service::{Manager, Service};

use super::{KEY_VARIABLE, folder, say, settings};
use crate::cli::{ManagerArg, ServiceArgs};
use crate::config::{self, Environment, Loaded};
use crate::output::{self, DIM, GOOD};

const LAUNCHCTL: &str = "/bin/launchctl";
/// A job that was booted out needs a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// What this machine has, or what was said.
pub(super) fn service(args: &ServiceArgs, loaded: &Loaded, env: &Environment) -> Result<Service, String> {
    let around = Surroundings::of(env);
    let found = |program: &str| find(program, env);
    let said = args.manager.map(|manager| match manager {
        ManagerArg::Launchd => Manager::Launchd,
        ManagerArg::Systemd => Manager::Systemd,
    });
    let launchd = Path::new(LAUNCHCTL).exists();
    let own = if launchd { Some(Manager::Launchd) } else { found("systemctl").map(|_| Manager::Systemd) };
    let manager = said.or(own).ok_or(
        "this machine has neither launchd nor systemd; run `evergrant agent run` by a service manager of your own",
    )?;
    let program = args.manager_program.clone().unwrap_or_else(|| match manager {
        Manager::Launchd => PathBuf::from(LAUNCHCTL),
        Manager::Systemd => found("systemctl").unwrap_or_else(|| PathBuf::from("systemctl")),
    });
    let home = config::home(env).ok_or("HOME is not set; set it to your home")?;
    let config_home = env.get("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(Service {
        manager,
        program,
        loginctl: found("loginctl").unwrap_or_else(|| PathBuf::from("loginctl")),
        evergrant: std::env::current_exe()
            .map_err(|error| format!("this program's path is not known: {error}"))?,
        config: loaded.source.clone(),
        config_home: config_home.unwrap_or_else(|| home.join(".config")),
        home,
        uid: rustix::process::getuid().as_raw(),
        around,
        pause: PAUSE,
    })
}

fn find(program: &str, env: &Environment) -> Option<PathBuf> {
    let path = env.get("PATH")?;
    std::env::split_paths(path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Writes and starts it, or prints what would be written.
pub(super) fn install(
    args: &ServiceArgs,
    print: bool,
    linger: bool,
    loaded: &Loaded,
    env: &Environment,
) -> Result<ExitCode, String> {
    let service = service(args, loaded, env)?;
    if print {
        anstream::println!("{DIM}# {}{DIM:#}", service.file().display());
        anstream::print!("{}", service.text().map_err(say)?);
        return Ok(ExitCode::SUCCESS);
    }
    // What would only be found in the log of a service that does not run is said now.
    let settings = settings(loaded, env)?;
    for chain in &settings.chains {
        if let KeySource::Given(_) = chain.key {
            return Err(format!(
                "a service does not see {KEY_VARIABLE}; put the key into a file and set key_file in [agent]"
            ));
        }
        chain.key.key().map_err(say)?;
    }
    let mut seen: Vec<_> = env.keys().filter(|name| name.starts_with("EVERGRANT_")).collect();
    seen.retain(|name| *name != "EVERGRANT_CONFIG");
    if !seen.is_empty() {
        let names = seen.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        output::warn(format!("the service does not see {names}; put that into the configuration"));
    }
    let hints = service.install().map_err(say)?;
    anstream::println!("{GOOD}installed{GOOD:#}  {}", service.file().display());
    anstream::println!("it runs, and starts again with every login; its log: evergrant agent logs");
    if linger {
        service.enable_linger().map_err(say)?;
        anstream::println!("it runs on while you are logged out");
    } else {
        hints.iter().for_each(|hint| anstream::println!("{hint}"));
    }
    anstream::println!("{DIM}next{DIM:#} evergrant agent doctor");
    Ok(ExitCode::SUCCESS)
}

/// Stops it and takes everything away.
pub(super) fn uninstall(args: &ServiceArgs, loaded: &Loaded, env: &Environment) -> Result<ExitCode, String> {
    let service = service(args, loaded, env)?;
    service.uninstall().map_err(say)?;
    let folder = folder(loaded);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{} cannot be removed: {error}; remove it by hand", folder.display()));
        }
        Ok(()) | Err(_) => {}
    }
    anstream::println!(
        "{GOOD}uninstalled{GOOD:#}  {} and {} are gone",
        service.file().display(),
        folder.display()
    );
    let key = loaded.settings.agent.key_file.as_ref();
    if let Some(key) = key.filter(|key| key.exists()) {
        let words = "is yours; revoke it on the server (evergrant keys revoke) and remove it";
        anstream::println!("the key file {} {words}", key.display());
    }
    Ok(ExitCode::SUCCESS)
}
