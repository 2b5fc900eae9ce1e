//! Portkey's gateway, of npm.
//!
//! Not the same work: it knows no callers and injects nothing; who asks bears the token, and it is passed on. It
//! writes no access log that could be compared.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{CAPABILITY, Peer, Server, Site, TOKEN, needed};
use crate::bench::process::free_address;
use crate::bench::rig::Rig;
use crate::prerequisites::{self, Needed};
use crate::run::{root, run, say};

const NEEDED: [Needed; 2] = [
    needed("node", &["nodejs"], "runs the gateway of Portkey"),
    needed("npm", &["npm", "ca-certificates"], "brings the gateway of Portkey"),
];
const FOLDER: &str = "benches/peers/portkey";
const PROGRAM: &str = "node_modules/@portkey-ai/gateway/build/start-server.js";
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn install() -> Result<()> {
    prerequisites::for_bench(&NEEDED)?;
    if root().join(FOLDER).join(PROGRAM).is_file() {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", FOLDER]);
    run(npm.current_dir(root()))
}

pub(super) fn start(rig: &Rig) -> Result<Site> {
    say(format_args!("portkey authenticates nobody and injects nothing: the load bears the token itself"));
    let folder = rig.folder("portkey")?;
    let address = free_address()?;
    let program = root().join(FOLDER).join(PROGRAM);
    let process = Server {
        peer: Peer::Portkey,
        program: Path::new("node"),
        arguments: vec![
            program.to_string_lossy().into_owned(),
            "--headless".to_owned(),
            format!("--port={}", address.port()),
        ],
        environment: vec![("NODE_ENV", "production".to_owned())],
        folder: &folder,
        address,
        health: ("/", &[200]),
        patience: PATIENCE,
    }
    .start()?;
    Ok(Site {
        peer: Peer::Portkey,
        address,
        prefix: "",
        headers: vec![
            "x-portkey-provider: anthropic".to_owned(),
            format!("x-portkey-custom-host: http://{}/v1", rig.upstream()),
            format!("authorization: Bearer {TOKEN}"),
            format!("anthropic-beta: {CAPABILITY}"),
        ],
        keys: None,
        access_log: None,
        process: Some(process),
    })
}
