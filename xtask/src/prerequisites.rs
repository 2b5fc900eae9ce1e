//! What the tests need besides Rust: Debian's packages, the pinned packages of npm in `tests-npm`, and those of PyPI in
//! `tests-python`.

mod python;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{is_there, output, root, run, say, shown, succeeds};

/// A program and the packages of Debian that bring it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Needed {
    pub(crate) program: &'static str,
    pub(crate) packages: &'static [&'static str],
    pub(crate) for_what: &'static str,
}

const ALWAYS: [Needed; 12] = [
    Needed { program: "cc", packages: &["gcc", "libc6-dev"], for_what: "SQLite and the cryptography are C" },
    Needed {
        program: "setpriv",
        packages: &["util-linux"],
        for_what: "tests of permissions run as another user",
    },
    Needed {
        program: "unshare",
        packages: &["util-linux"],
        for_what: "tests of mounts run in a namespace of their own",
    },
    Needed { program: "mount", packages: &["mount"], for_what: "tests of mounts" },
    Needed { program: "curl", packages: &["curl"], for_what: "tests ask the gateway by it" },
    Needed { program: "nginx", packages: &["nginx"], for_what: "tests run the gateway beside it" },
    Needed { program: "haproxy", packages: &["haproxy"], for_what: "tests run the gateway beside it" },
    Needed {
        program: "chromium",
        packages: &["chromium", "fonts-dejavu-core", "fonts-noto-color-emoji"],
        for_what: "tests draw the cards of alerts in it",
    },
    Needed {
        program: "prometheus-alertmanager",
        packages: &["prometheus-alertmanager"],
        for_what: "tests send alerts to it",
    },
    Needed {
        program: "initdb",
        packages: &["postgresql"],
        for_what: "tests start PostgreSQL servers of their own",
    },
    Needed {
        program: "systemd-analyze",
        packages: &["systemd"],
        for_what: "reads the agent's unit as systemd does",
    },
    Needed {
        program: "python3",
        packages: &["python3"],
        for_what: "reads the agent's launchd job by plistlib",
    },
];

/// Only to run npm; the tests run the pinned Node.
const FOR_NPM: [Needed; 2] = [
    Needed { program: "node", packages: &["nodejs"], for_what: "runs npm" },
    Needed {
        program: "npm",
        packages: &["npm", "ca-certificates"],
        for_what: "brings the pinned Node, the independent OAuth server, and readers of cards and webhooks",
    },
];

const FOR_PYTHON: Needed = Needed {
    program: "python3",
    packages: &["python3", "python3-venv", "ca-certificates"],
    for_what: "runs the provider's official SDK and a mail server",
};

/// Brings what is missing, or says the exact command that does.
pub(crate) fn provide(no_install: bool) -> Result<()> {
    let npm_is_up = npm_is_up();
    let mut needed: Vec<&Needed> = ALWAYS.iter().collect();
    if !npm_is_up {
        needed.extend(&FOR_NPM);
    }
    let mut missing: Vec<_> = needed.into_iter().filter(|needed| !is_there(needed.program)).collect();
    let python_is_up = python::is_up();
    if !python_is_up && !python::can_begin() {
        missing.push(&FOR_PYTHON);
    }
    let mut to_run = Vec::new();
    if missing.is_empty() {
        say(format_args!("system packages: all there"));
    } else {
        install(&missing, no_install, &mut to_run)?;
        if to_run.is_empty() {
            stop_services(&missing);
        }
    }
    if npm_is_up {
        say(format_args!("npm packages: all there"));
    } else if no_install || !to_run.is_empty() {
        to_run.push(shown(&npm_ci()));
    } else {
        npm_packages()?;
    }
    if python_is_up {
        say(format_args!("Python packages: all there"));
    } else if no_install || !to_run.is_empty() {
        to_run.extend(python::to_run());
    } else {
        python::provide()?;
    }
    if to_run.is_empty() {
        return Ok(());
    }
    bail!(
        "something is missing. Run this, then `cargo xtask test` again:\n\n    {}\n",
        to_run.join(" &&\n    ")
    )
}

/// Brings what a benchmark needs, or says the exact command that does. A service that comes with a package is not
/// left running.
pub(crate) fn for_bench(needed: &[Needed]) -> Result<()> {
    let missing: Vec<_> = needed.iter().filter(|needed| !is_there(needed.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut to_run = Vec::new();
    install(&missing, false, &mut to_run)?;
    if !to_run.is_empty() {
        bail!(
            "something is missing. Run this, then the benchmark again:\n\n    {}\n",
            to_run.join(" &&\n    ")
        );
    }
    stop_services(&missing);
    Ok(())
}

/// They were not there a moment ago: what runs now was started by the installation. Most have no service; one has its
/// package's name.
fn stop_services(installed: &[&Needed]) {
    for package in installed.iter().flat_map(|needed| needed.packages) {
        let stopped = succeeds(Command::new("service").args([package, "stop"]));
        if stopped {
            say(format_args!("{package}: the package's service is stopped"));
        }
    }
}

fn install(missing: &[&Needed], no_install: bool, to_run: &mut Vec<String>) -> Result<()> {
    for needed in missing {
        say(format_args!("missing: {} ({})", needed.program, needed.for_what));
    }
    let packages = missing.iter().flat_map(|needed| needed.packages.iter().copied()).collect();
    system_packages(&packages, no_install, to_run)
}

fn system_packages(
    packages: &BTreeSet<&'static str>,
    no_install: bool,
    to_run: &mut Vec<String>,
) -> Result<()> {
    let list: Vec<_> = packages.iter().copied().collect();
    if !is_there("apt-get") {
        bail!("this system has no apt-get: install what Debian calls {} by hand", list.join(", "));
    }
    let root = output(Command::new("id").arg("-u")).as_deref() == Some("0");
    let sudo = !root && succeeds(Command::new("sudo").args(["-n", "true"]));
    let words = ["apt-get", "install", "--yes", "--no-install-recommends"];
    if no_install || !(root || sudo) {
        let sudo = if root { "" } else { "sudo " };
        to_run.push(format!("{sudo}apt-get update"));
        to_run.push(format!("{sudo}{} {}", words.join(" "), list.join(" ")));
        return Ok(());
    }
    say(format_args!("installing from Debian: {}", list.join(", ")));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        if sudo {
            command.args(["-n", "env"]);
        }
        // In that run level services are installed without being started.
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]).args(arguments);
        command
    };
    run(&mut apt(&["apt-get", "update"]))?;
    run(apt(&words).args(&list))
}

/// The packages of the lock file are there, and the pinned Node runs.
fn npm_is_up() -> bool {
    let folder = root().join("tests-npm");
    let packages = |path: &str| {
        let text = fs::read(folder.join(path)).ok()?;
        let mut lock: serde_json::Value = serde_json::from_slice(&text).ok()?;
        let packages = lock.get_mut("packages")?.as_object_mut()?;
        // The entry of the project itself, which npm leaves out of what it says it installed.
        packages.shift_remove("");
        Some(packages.clone())
    };
    let wanted = packages("package-lock.json");
    wanted.is_some() && wanted == packages("node_modules/.package-lock.json") && pinned_node_runs()
}

fn pinned_node_runs() -> bool {
    let pinned = fs::read(root().join("tests-npm/package.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .and_then(|package| {
            let version = package.pointer("/dependencies/node")?.as_str()?;
            Some(format!("v{version}"))
        });
    let node = root().join("tests-npm/node_modules/.bin/node");
    let runs = output(Command::new(node).arg("--version"));
    runs.is_some() && runs == pinned
}

fn npm_ci() -> Command {
    let mut command = Command::new("npm");
    command.args(["ci", "--no-audit", "--no-fund", "--prefix", "tests-npm"]);
    command.current_dir(root());
    command
}

fn npm_packages() -> Result<()> {
    say(format_args!("installing from npm: the packages of tests-npm/package-lock.json"));
    run(&mut npm_ci())?;
    let folder = root().join("tests-npm");
    if !pinned_node_runs() {
        // Its install script was held back, as newer versions of npm may do.
        let script = folder.join("node_modules/node");
        run(Command::new("node").arg("installArchSpecificPackage.js").current_dir(script))?;
    }
    if !pinned_node_runs() {
        bail!("tests-npm/node_modules/.bin/node is not the Node that tests-npm/package.json pins");
    }
    Ok(())
}
