//! Samples as they are sent, and the pinned programs that read them.

use std::path::{Path, PathBuf};
use std::process::Command;

use evergrant_core::alert::render::{OutgoingRequest, Rendered, render};
use evergrant_core::alert::sink::SinkUrl;
use evergrant_core::alert::{Alert, Group, Level, Links, Sink, SinkKind, largest, samples};
use jiff::Timestamp;
use serde_json::Value;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub(crate) fn now() -> Timestamp {
    "2026-11-24T18:00:00Z".parse().unwrap()
}

/// One of each status.
pub(crate) fn alerts() -> Vec<Alert> {
    samples(&links(), now())
}

/// And the largest, rehearsals, a reminder, and one with hostile values.
pub(crate) fn more_alerts() -> Vec<Alert> {
    let mut all = alerts();
    all.extend(largest(&links(), now()));
    all.extend(alerts().into_iter().map(Alert::rehearsed));
    let mut hostile = alerts().remove(1);
    for fact in &mut hostile.evidence {
        fact.value =
            "[press](https://evil.example) <img src=x> {{DATE(x)}} \u{202e} **bold** \n\n# big".into();
    }
    all.push(hostile);
    all
}

fn links() -> Links {
    Links {
        runbook: "https://docs.example.org/runbook".into(),
        server: "https://evergrant.example.org".into(),
    }
}

/// What a sink of this kind is sent, at the time of the tests.
pub(crate) fn requests(kind: SinkKind, alert: &Alert) -> Vec<OutgoingRequest> {
    requests_at(kind, alert, now())
}

/// The same at another time.
pub(crate) fn requests_at(kind: SinkKind, alert: &Alert, at: Timestamp) -> Vec<OutgoingRequest> {
    let groups = vec![Group::TokenPush, Group::Chain];
    let sink = Sink {
        name: "it".into(),
        kind,
        min_level: Level::Yellow,
        groups,
        allow_insecure: false,
        ca_file: None,
    };
    match render(&sink, alert, at) {
        Rendered::Requests(requests) => requests,
        Rendered::Email(email) => panic!("{email:?}"),
    }
}

/// The message that Teams gets.
pub(crate) fn teams(alert: &Alert) -> Value {
    let url = SinkUrl::new("https://teams.example.org/hook".parse().unwrap());
    serde_json::from_slice(&requests(SinkKind::Teams { url }, alert)[0].body).unwrap()
}

/// Runs a script of `tests-npm` with the pinned Node, and gives what it prints.
pub(crate) fn node(script: &str, arguments: &[&str]) -> Vec<u8> {
    let folder = root().join("tests-npm");
    let node = folder.join("node_modules/.bin/node");
    assert!(node.exists(), "{} is missing: `cargo xtask test` brings it", node.display());
    let mut command = Command::new(node);
    let output = command.env_clear().arg(folder.join(script)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
