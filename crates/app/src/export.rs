//! Auth files that are written for readers of a database's chains (SPEC §12): no refresh token, unless its operator insists.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evergrant_core::authfile::{self, Reading};
use evergrant_core::gateway::Position;
use evergrant_core::{ChainName, provider::Profile};
use evergrant_server::{Renewable as _, Snapshots};

use crate::config::{Export, Settings, Way};
use crate::host::Chain;

/// How often it is looked at whether something newer is current.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A file that could not be written is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);

/// The exports of a configuration, with their chains.
pub(crate) fn of(settings: &Settings, chains: &[Chain]) -> Vec<(Chain, Export)> {
    let pairs = settings.chains.iter().zip(chains);
    let export = pairs.filter_map(|(settings, chain)| match &settings.way {
        Way::Database { export } => Some((chain.clone(), export.clone()?)),
        Way::AuthFile { .. } | Way::Minted(_) | Way::ApiKey { .. } => None,
    });
    export.collect()
}

/// Writes them whenever a newer generation is current.
pub(crate) async fn keep_writing(exports: Vec<(Chain, Export)>, snapshots: Snapshots) {
    let mut written: BTreeMap<ChainName, Position> = BTreeMap::new();
    let mut seen = None;
    loop {
        let version = snapshots.published().version();
        if seen == Some(version) {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let mut all = true;
        for (chain, export) in &exports {
            let name = chain.chain();
            let Some(current) = snapshots.current(name).filter(|current| current.present) else { continue };
            if written.get(name).is_some_and(|position| *position >= current.position) {
                continue;
            }
            match write(chain, export).await {
                Ok(Some(position)) => drop(written.insert(name.clone(), position)),
                Ok(None) => all = false,
                Err(why) => {
                    tracing::warn!(chain = %name, file = %export.file.display(), why, "the export could not be written");
                    all = false;
                }
            }
        }
        if all {
            seen = Some(version);
        } else {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Writes one. Gives where the chain stands that was written.
async fn write(chain: &Chain, export: &Export) -> Result<Option<Position>, String> {
    let (_, record, grant) = chain.login("export")?.glance().await;
    let (Some(record), Some(mut grant)) = (record, grant) else { return Ok(None) };
    if !export.refresh_token {
        grant.refresh = None;
    }
    let bytes = authfile::write(None, &grant);
    let (file, refresh_token, profile) = (export.file.clone(), export.refresh_token, chain.profile().clone());
    let put = move || replace(&file, &bytes, refresh_token, &profile);
    match tokio::task::spawn_blocking(put).await {
        Ok(done) => done.map(|()| Some(record.position())),
        Err(error) => Err(error.to_string()),
    }
}

/// Puts the bytes into the file's place, whole and synced. A login that lies there and could be renewed is left alone: it
/// is somebody's vault.
fn replace(file: &Path, bytes: &[u8], refresh_token: bool, profile: &Profile) -> Result<(), String> {
    let found = match fs::read(file) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.to_string()),
    };
    if found == bytes {
        return Ok(());
    }
    if let Reading::Grant(grant) = authfile::read(&found, profile)
        && grant.refresh.is_some()
        && !refresh_token
    {
        return Err("a login with a refresh token lies there: move it away, or import it".into());
    }
    let mut staged = file.as_os_str().to_owned();
    staged.push(format!(".{}.new", std::process::id()));
    let staged = PathBuf::from(staged);
    let put = || -> io::Result<()> {
        match fs::remove_file(&staged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        opened.write_all(bytes)?;
        opened.sync_all()?;
        fs::rename(&staged, file)?;
        fs::File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    put().map_err(|error| error.to_string())
}
