//! The service: its files as the systems' own tools read them, and the managers as they behave.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use evergrant_agent::process::Surroundings;
use evergrant_agent::service::{LABEL, Manager, Service, State, UNIT};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::programs::{calls, launchctl, loginctl, systemctl};

fn service(folder: &Path, manager: Manager) -> Service {
    fs::create_dir_all(folder.join("home")).unwrap();
    Service {
        manager,
        program: match manager {
            Manager::Launchd => launchctl(folder),
            Manager::Systemd => systemctl(folder),
        },
        loginctl: loginctl(folder),
        evergrant: "/bin/true".into(),
        config: Some(folder.join("a & b <c> %h $HOME \"q\".toml")),
        home: folder.join("home"),
        config_home: folder.join("home/.config"),
        uid: 501,
        around: Surroundings::of(&BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())])),
        pause: Duration::from_millis(20),
    }
}

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The plist as Python's `plistlib` reads it.
fn parsed(path: &Path) -> Value {
    let script = "import plistlib, sys, json; print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let output = Command::new("python3").args(["-I", "-c", script]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_job_is_a_plist_with_what_launchd_needs() {
    let folder = scratch();
    let service = service(folder.path(), Manager::Launchd);
    service.install().unwrap();
    let file = folder.path().join(format!("home/Library/LaunchAgents/{LABEL}.plist"));
    let config = service.config.clone().unwrap();
    let expected = json!({
        "Label": LABEL,
        "ProgramArguments": ["/bin/true", "--config", config, "agent", "run"],
        "RunAtLoad": true,
        "KeepAlive": true,
        "ThrottleInterval": 30,
    });
    assert_eq!(parsed(&file), expected);
    assert_eq!(fs::read_to_string(&file).unwrap(), service.text().unwrap());
}

#[test]
fn the_unit_satisfies_systemd() {
    let folder = scratch();
    let mut service = service(folder.path(), Manager::Systemd);
    let verify = |service: &Service| {
        let unit = folder.path().join(UNIT);
        fs::write(&unit, service.text().unwrap()).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--user", "--man=no"]).arg(&unit).env("XDG_RUNTIME_DIR", folder.path());
        let output = command.output().unwrap();
        let said =
            [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (output.status.success(), said)
    };
    assert_eq!(verify(&service), (true, String::new()));
    // It does look.
    service.evergrant = "/no/such/program".into();
    assert!(verify(&service).1.contains("/no/such/program"));
}

#[test]
fn the_files_for_those_who_distribute_them_are_what_install_writes() {
    let folder = scratch();
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for (manager, name) in [(Manager::Launchd, "dev.evergrant.agent.plist"), (Manager::Systemd, UNIT)] {
        let mut service = service(folder.path(), manager);
        (service.evergrant, service.config) = ("/usr/local/bin/evergrant".into(), None);
        assert_eq!(fs::read_to_string(deploy.join(name)).unwrap(), service.text().unwrap(), "{name}");
    }
}

#[test]
fn a_path_that_no_service_can_have_is_refused() {
    let folder = scratch();
    for manager in [Manager::Launchd, Manager::Systemd] {
        let mut service = service(folder.path(), manager);
        for wrong in ["evergrant", "/a\nb"] {
            service.evergrant = PathBuf::from(wrong);
            assert!(service.install().unwrap_err().to_string().contains("no path that a service can have"));
        }
        assert!(!service.file().exists());
    }
}

#[test]
fn launchd_is_waited_for_and_asked_again() {
    let folder = scratch();
    let here = folder.path();
    let service = service(here, Manager::Launchd);
    assert_eq!(service.state().unwrap(), State::Absent);
    service.install().unwrap();
    assert_eq!(service.state().unwrap(), State::Running);
    // Over a job that is loaded, and that takes its time to go; and a bootstrap that fails twice.
    fs::write(here.join("refuse"), "2").unwrap();
    service.install().unwrap();
    assert_eq!(service.state().unwrap(), State::Running);
    let calls = calls(here, "launchctl");
    let count = |word: &str| calls.iter().filter(|call| call.starts_with(word)).count();
    assert_eq!((count("bootout"), count("bootstrap")), (1, 4));
    let bootout =
        calls.iter().position(|call| call.starts_with("bootout gui/501/dev.evergrant.agent")).unwrap();
    let begun =
        calls.iter().rposition(|call| call.starts_with("enable gui/501/dev.evergrant.agent")).unwrap();
    assert!(begun > bootout + 3, "it waited until the job was gone: {calls:?}");
    let file = service.file();
    assert!(calls.contains(&format!("bootstrap gui/501 {}", file.display())));

    service.uninstall().unwrap();
    assert_eq!((service.state().unwrap(), file.exists()), (State::Absent, false));
    service.uninstall().unwrap();
}

#[test]
fn launchd_that_does_not_load_it_says_why() {
    let folder = scratch();
    let here = folder.path();
    let service = service(here, Manager::Launchd);
    fs::write(here.join("no-session"), "").unwrap();
    let why = service.install().unwrap_err().to_string();
    assert!(why.contains("no GUI session") && why.contains("log in at the screen"), "{why}");
    assert!(!service.file().exists());
    fs::remove_file(here.join("no-session")).unwrap();
    fs::write(here.join("refuse"), "1000").unwrap();
    let why = service.install().unwrap_err().to_string();
    assert!(why.contains("bootstrap") && why.contains("Input/output error"), "{why}");
    fs::remove_file(here.join("refuse")).unwrap();
    fs::write(here.join("dies"), "").unwrap();
    let why = service.install().unwrap_err().to_string();
    assert!(why.contains("does not run") && why.contains("agent logs"), "{why}");
    assert_eq!(service.state().unwrap(), State::Stopped);
}

#[test]
fn a_user_unit_is_installed_started_and_taken_away() {
    let folder = scratch();
    let here = folder.path();
    let service = service(here, Manager::Systemd);
    assert_eq!(service.state().unwrap(), State::Absent);
    let hints = service.install().unwrap();
    assert!(hints[0].contains("--linger"), "{hints:?}");
    assert_eq!(service.state().unwrap(), State::Running);
    assert!(here.join("enabled").exists());
    service.enable_linger().unwrap();
    assert_eq!(service.install().unwrap(), [""; 0]);
    assert!(calls(here, "loginctl").contains(&"enable-linger 501".to_owned()));
    service.uninstall().unwrap();
    assert_eq!((service.state().unwrap(), service.file().exists()), (State::Absent, false));
    assert!(!here.join("enabled").exists());
    service.uninstall().unwrap();

    fs::write(here.join("dies"), "").unwrap();
    let why = service.install().unwrap_err().to_string();
    assert!(why.contains("does not run"), "{why}");
    fs::write(here.join("no-session"), "").unwrap();
    let why = service.install().unwrap_err().to_string();
    assert!(why.contains("does not answer") && why.contains("No medium found"), "{why}");
}
