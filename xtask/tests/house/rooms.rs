//! Who may import whom (`ARCHITECTURE.md`).

use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// The rooms, the crate of each, and the rooms that it may import.
const ROOMS: [(&str, &str, &[&str]); 10] = [
    ("core", "evergrant-core", &[]),
    ("store", "evergrant-store", &["core"]),
    ("server", "evergrant-server", &["store", "core"]),
    ("agent", "evergrant-agent", &["core"]),
    ("standin", "evergrant-standin", &[]),
    ("lab", "evergrant-lab", &["server", "agent", "store", "core", "standin"]),
    ("app", "evergrant", &["core", "store", "server", "agent", "standin", "lab"]),
    ("proof", "evergrant-proof", &["core", "store", "server", "agent", "standin"]),
    ("benches", "evergrant-benches", &[]),
    ("xtask", "xtask", &["proof"]),
];

/// All that `core` may use besides the standard library: what computes. No runtime, database, client or file.
const CORE_MAY_USE: [&str; 11] = [
    "base64",
    "hmac",
    "jiff",
    "rand",
    "schemars",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "url",
    "zeroize",
];

/// What of the standard library `core` may not name outside its tests: files, environment, network, processes,
/// threads, clocks.
const CORE_MAY_NOT_NAME: [&str; 8] =
    ["std::fs", "std::env", "std::net", "std::process", "std::thread", "std::io", "SystemTime", "Instant"];

/// One crate of the workspace.
#[derive(Debug, Clone)]
struct Package {
    name: String,
    folder: String,
    /// Name, and whether only its tests use it.
    imports: Vec<(String, bool)>,
}

fn room_of(package: &str) -> Option<&'static (&'static str, &'static str, &'static [&'static str])> {
    ROOMS.iter().find(|(_, name, _)| *name == package)
}

/// Every rule that is broken, in words.
fn faults(packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        let Some((room, _, may)) = room_of(&package.name) else {
            faults.push(format!("{} is no room that ARCHITECTURE.md names", package.name));
            continue;
        };
        if package.folder != *room {
            faults.push(format!("{} lies in {}, not in {room}", package.name, package.folder));
        }
        for (import, in_tests) in &package.imports {
            match room_of(import) {
                Some((other, _, _)) => {
                    let fine = may.contains(other) || *in_tests && (*other == "standin" || other == room);
                    if !fine {
                        let only = if *in_tests { " in its tests" } else { "" };
                        faults.push(format!("{room} may not import {other}{only}"));
                    }
                }
                None if import.starts_with("evergrant") => {
                    faults.push(format!("{room} imports {import}, which is no room"));
                }
                None if *room == "core" && !in_tests && !CORE_MAY_USE.contains(&import.as_str()) => {
                    faults.push(format!("core may not use {import}"));
                }
                None => {}
            }
        }
    }
    faults
}

fn workspace() -> (PathBuf, Vec<Package>) {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .exec()
        .expect("cargo describes this workspace");
    let packages = metadata.packages.iter().map(|package| Package {
        name: package.name.to_string(),
        folder: package
            .manifest_path
            .parent()
            .and_then(|folder| folder.file_name())
            .expect("cargo describes this workspace")
            .to_owned(),
        imports: package
            .dependencies
            .iter()
            .map(|import| (import.name.clone(), import.kind == DependencyKind::Development))
            .collect(),
    });
    let packages = packages.collect();
    (metadata.workspace_root.into_std_path_buf(), packages)
}

#[test]
fn every_room_imports_only_what_it_may() {
    let (_, packages) = workspace();
    assert!(packages.len() >= 6, "{packages:?}");
    assert_eq!(faults(&packages), [""; 0]);
}

#[test]
fn core_names_no_file_no_network_and_no_clock() {
    let (root, _) = workspace();
    let mut named = Vec::new();
    for file in super::constants::sources(&root.join("crates/core/src")) {
        let text = super::constants::without_tests(&std::fs::read_to_string(&file).unwrap());
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(what) = forbidden(code) {
                named.push(format!("{}:{}: {what}", file.display(), number + 1));
            }
        }
    }
    assert_eq!(named, [""; 0]);
}

fn forbidden(code: &str) -> Option<&'static str> {
    let is_word = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let whole = |what: &str| {
        code.match_indices(what).any(|(at, _)| {
            let before = at.checked_sub(1).map(|at| code.as_bytes()[at]);
            !is_word(before) && !is_word(code.as_bytes().get(at + what.len()).copied())
        })
    };
    CORE_MAY_NOT_NAME.into_iter().find(|what| whole(what))
}

#[test]
fn the_rules_find_what_breaks_them() {
    let package = |name: &str, folder: &str, imports: &[(&str, bool)]| Package {
        name: name.into(),
        folder: folder.into(),
        imports: imports.iter().map(|(name, in_tests)| ((*name).into(), *in_tests)).collect(),
    };
    for (broken, fault) in [
        (package("evergrant-store", "store", &[("evergrant-server", false)]), "store may not import server"),
        (package("evergrant-server", "server", &[("evergrant-agent", false)]), "server may not import agent"),
        (package("evergrant-agent", "agent", &[("evergrant-store", false)]), "agent may not import store"),
        (
            package("evergrant-core", "core", &[("evergrant-store", true)]),
            "core may not import store in its tests",
        ),
        (
            package("evergrant-standin", "standin", &[("evergrant-core", false)]),
            "standin may not import core",
        ),
        (
            package("evergrant-server", "server", &[("evergrant-standin", false)]),
            "server may not import standin",
        ),
        (package("evergrant-lab", "lab", &[("evergrant", false)]), "lab may not import app"),
        (package("evergrant-proof", "proof", &[("evergrant-lab", false)]), "proof may not import lab"),
        (package("xtask", "xtask", &[("evergrant-core", false)]), "xtask may not import core"),
        (
            package("evergrant-benches", "benches", &[("evergrant-server", false)]),
            "benches may not import server",
        ),
        (package("evergrant-core", "core", &[("tokio", false)]), "core may not use tokio"),
        (package("evergrant-core", "core", &[("rusqlite", false)]), "core may not use rusqlite"),
        (package("evergrant-attic", "attic", &[]), "evergrant-attic is no room that ARCHITECTURE.md names"),
        (
            package("evergrant-lab", "lab", &[("evergrant-attic", false)]),
            "lab imports evergrant-attic, which is no room",
        ),
        (package("evergrant-lab", "cellar", &[]), "evergrant-lab lies in cellar, not in lab"),
    ] {
        assert_eq!(faults(&[broken]), [fault]);
    }
    let fine = [
        package(
            "evergrant-core",
            "core",
            &[("serde", false), ("proptest", true), ("evergrant-standin", true)],
        ),
        package(
            "evergrant-server",
            "server",
            &[("tokio", false), ("evergrant-core", false), ("evergrant-standin", true)],
        ),
        package("evergrant", "app", &[("evergrant-lab", false)]),
    ];
    assert_eq!(faults(&fine), [""; 0]);
    assert_eq!(forbidden("use std::fs::File;"), Some("std::fs"));
    assert_eq!(forbidden("let now = Instant::now();"), Some("Instant"));
    assert_eq!(forbidden("fn instant_of(x: MyInstant) {}"), None);
}
