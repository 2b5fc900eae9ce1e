//! Evergrant itself: the release build with one thread for the gateway, an auth file that nothing renews, and a
//! thousand callers. It does more than its peers are asked for: it hashes the keys, takes its prefix off the path,
//! guards what may be asked and counts for `/metrics`.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{KEY_HEADER, PATIENCE, Peer, Server, Site, TOKEN};
use crate::bench::http::Connection;
use crate::bench::process::free_address;
use crate::bench::release_build;
use crate::bench::rig::{CALLERS, Rig};
use crate::run::say;

/// The end of the years that its token lives, in milliseconds: 2100.
const FAR_FUTURE_MS: u64 = 4_102_444_800_000;
const KEYS: &str = "/api/v1/admin/system/keys";

pub(super) fn build(rig: &mut Rig) -> Result<()> {
    rig.evergrant = Some(release_build("evergrant", "evergrant")?);
    Ok(())
}

pub(super) fn start(rig: &Rig) -> Result<Site> {
    let binary = rig.evergrant.as_deref().context("it was not built")?;
    let folder = rig.folder("evergrant")?;
    let address = free_address()?;
    // Not beside the auth file, whose folder is watched.
    let access_log = folder.join("log/access.log");
    let config = write_config(rig, &folder, address, &access_log)?;
    let keys = folder.join("keys");
    let known = keys.is_file();
    let admin = if known { None } else { Some(first_key(binary, &folder, &config)?) };
    let process = Server {
        peer: Peer::Evergrant,
        program: binary,
        arguments: ["--config", &config.to_string_lossy(), "serve"].map(str::to_owned).into(),
        environment: environment(&folder),
        folder: &folder,
        address,
        health: ("/readyz", &[200]),
        patience: PATIENCE,
    }
    .start()?;
    if let Some(admin) = admin {
        fs::write(&keys, more_keys(address, &admin)?.join("\n")).context("writing the keys")?;
    }
    Ok(Site {
        peer: Peer::Evergrant,
        address,
        prefix: "/v1/anthropic",
        headers: vec![],
        keys: Some(keys),
        access_log: Some(access_log),
        process: Some(process),
    })
}

fn environment(folder: &Path) -> Vec<(&'static str, String)> {
    let of = |name: &str| folder.join(name).to_string_lossy().into_owned();
    vec![("HOME", of("home")), ("XDG_STATE_HOME", of("state")), ("XDG_CONFIG_HOME", of("config"))]
}

fn write_config(rig: &Rig, folder: &Path, address: SocketAddr, access_log: &Path) -> Result<PathBuf> {
    let auth_file = folder.join("auth.json");
    if !auth_file.exists() {
        // Without a refresh token there is nothing to renew, and no provider is ever asked.
        let grant = json!({"claudeAiOauth": {"accessToken": TOKEN, "expiresAt": FAR_FUTURE_MS}});
        let file = File::options().write(true).create_new(true).mode(0o600).open(&auth_file);
        let written = file.and_then(|mut file| file.write_all(grant.to_string().as_bytes()));
        written.context("writing the auth file")?;
    }
    for inside in ["home", "log"] {
        fs::create_dir_all(folder.join(inside)).with_context(|| format!("making its folder {inside}"))?;
    }
    let closed = free_address()?;
    let upstream = rig.upstream();
    let (auth_file, access_log) = (auth_file.display(), access_log.display());
    let config = format!(
        r#"[http]
listen = "{address}"

[gateway]
threads = 1
access_log = "{access_log}"

[probe]
enabled = false

[providers.claude]
api_base = "http://{upstream}"
token_url = "http://{closed}/token"
probe_url = "http://{closed}/probe"

[chains.claude]
accept_provider_terms = true
auth_file = "{auth_file}"
"#
    );
    let path = folder.join("config.toml");
    fs::write(&path, config).context("writing the configuration")?;
    Ok(path)
}

/// The first key is made on the machine itself.
fn first_key(binary: &Path, folder: &Path, config: &Path) -> Result<String> {
    let mut command = Command::new(binary);
    command.arg("--config").arg(config).args(["keys", "create", "--scope", "admin:write", "--json"]);
    command.envs(environment(folder));
    let output = command.output().context("running `evergrant keys create`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`evergrant keys create` failed ({}): has this build a gateway?\n{said}", output.status);
    }
    let said: Value = serde_json::from_slice(&output.stdout).context("what `evergrant keys create` says")?;
    key_of(&said).context("`evergrant keys create --json` says no key")
}

fn key_of(said: &Value) -> Option<String> {
    said.get("key").and_then(Value::as_str).map(str::to_owned)
}

/// The others by the admin API, over one connection.
fn more_keys(address: SocketAddr, admin: &str) -> Result<Vec<String>> {
    say(format_args!("evergrant: making {CALLERS} caller keys"));
    let mut connection = Connection::open(address)?;
    let mut keys = Vec::new();
    for number in 1..CALLERS {
        let body = json!({"name": format!("bench-{number}")}).to_string();
        let (code, answer) = connection.post(KEYS, &[(KEY_HEADER, admin)], &body)?;
        if code != 201 {
            bail!("POST {KEYS} answered {code}: {answer}");
        }
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("the answer of {KEYS}"))?;
        keys.push(key_of(&answer).with_context(|| format!("the answer of {KEYS} has no key"))?);
    }
    Ok(keys)
}
