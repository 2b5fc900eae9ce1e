//! `LiteLLM`: its own pass-through to Anthropic with one worker, in a virtual environment of its own.
//!
//! Not the same work: a thousand callers would need its database, so that it knows one key, the master key; and it
//! injects `x-api-key`, where the others inject a bearer token and a capability.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{CAPABILITY, Peer, Server, Site, TOKEN, needed};
use crate::bench::process::free_address;
use crate::bench::rig::Rig;
use crate::prerequisites::{self, Needed};
use crate::run::{root, run, say, succeeds};

const NEEDED: [Needed; 1] = [needed("python3", &["python3", "python3-venv"], "runs LiteLLM")];
const REQUIREMENTS: &str = "benches/peers/litellm.txt";
const MASTER_KEY: &str = "sk-bench-master-key";
/// It imports for a while.
const PATIENCE: Duration = Duration::from_secs(120);

fn environment(rig: &Rig) -> PathBuf {
    rig.cache().join("litellm")
}

pub(super) fn install(rig: &Rig) -> Result<()> {
    prerequisites::for_bench(&NEEDED)?;
    if !succeeds(Command::new("python3").args(["-c", "import ensurepip"])) {
        anyhow::bail!("python3 cannot make virtual environments: apt-get install python3-venv");
    }
    let wanted = fs::read_to_string(root().join(REQUIREMENTS)).context("reading what LiteLLM needs")?;
    let folder = environment(rig);
    let marker = folder.join("installed.txt");
    if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--require-hashes", "--no-deps", "--requirement", REQUIREMENTS]);
    run(pip.current_dir(root()))?;
    fs::write(&marker, wanted).context("remembering what was installed")
}

pub(super) fn start(rig: &Rig) -> Result<Site> {
    say(format_args!("litellm knows one caller key instead of a thousand, and injects x-api-key"));
    let folder = rig.folder("litellm")?;
    let address = free_address()?;
    let config = folder.join("config.yaml");
    let text = format!("model_list: []\ngeneral_settings:\n  master_key: {MASTER_KEY}\n");
    fs::write(&config, text).context("writing the configuration")?;
    let bin = environment(rig).join("bin");
    let path = std::env::var("PATH").unwrap_or_default();
    let port = address.port().to_string();
    let config = config.to_string_lossy();
    let arguments = ["--config", &config, "--host", "127.0.0.1", "--port", &port, "--num_workers", "1"];
    let process = Server {
        peer: Peer::Litellm,
        program: Path::new(&bin.join("litellm")),
        arguments: arguments.map(str::to_owned).into(),
        environment: vec![
            ("PATH", format!("{}:{path}", bin.display())),
            ("ANTHROPIC_API_BASE", format!("http://{}", rig.upstream())),
            ("ANTHROPIC_API_KEY", TOKEN.to_owned()),
            ("LITELLM_LOCAL_MODEL_COST_MAP", "True".to_owned()),
            ("LITELLM_TELEMETRY", "False".to_owned()),
            ("LITELLM_LOG", "ERROR".to_owned()),
        ],
        folder: &folder,
        address,
        health: ("/health/liveliness", &[200]),
        patience: PATIENCE,
    }
    .start()?;
    Ok(Site {
        peer: Peer::Litellm,
        address,
        prefix: "/anthropic",
        headers: vec![format!("x-api-key: {MASTER_KEY}"), format!("anthropic-beta: {CAPABILITY}")],
        keys: None,
        access_log: Some(folder.join("stdout")),
        process: Some(process),
    })
}
