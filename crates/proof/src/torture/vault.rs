//! What lies in the vault, read from outside and without a lock: the file's refresh token, and those that receipts
//! hold; and what outsiders do to the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use evergrant_standin::Fingerprint;
use serde_json::Value;

/// The refresh token of the auth file.
pub(super) fn refresh_token(auth_file: &Path) -> Result<String, String> {
    let bytes = fs::read(auth_file).map_err(|error| format!("the auth file cannot be read: {error}"))?;
    let file: Value =
        serde_json::from_slice(&bytes).map_err(|error| format!("the auth file is broken: {error}"))?;
    let refresh = file["claudeAiOauth"]["refreshToken"].as_str();
    refresh.map(str::to_owned).ok_or_else(|| "the auth file has no refresh token".into())
}

/// Beside the file.
pub(super) fn folder(auth_file: &Path) -> PathBuf {
    let mut path = auth_file.as_os_str().to_owned();
    path.push(".evergrant");
    path.into()
}

/// The record beside the file.
pub(super) fn record(auth_file: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(folder(auth_file).join("chain.json")).ok()?).ok()
}

/// The refresh tokens that whole receipts hold.
pub(super) fn in_receipts(auth_file: &Path) -> Vec<Fingerprint> {
    let entries = fs::read_dir(folder(auth_file).join("receipts"));
    let paths = entries.into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter_map(|path| in_receipt(&fs::read(path).ok()?)).collect()
}

fn in_receipt(bytes: &[u8]) -> Option<Fingerprint> {
    let line = bytes.split(|byte| *byte == b'\n').nth(1)?;
    let start = line.iter().position(|byte| *byte == b'{')?;
    let answered: Value = serde_json::from_slice(&line[start..]).ok()?;
    let body = find_body(&answered)?;
    let body: Value = serde_json::from_str(body).ok()?;
    Some(Fingerprint::of(body["refresh_token"].as_str()?))
}

/// The only member `body`, however deep.
fn find_body(value: &Value) -> Option<&str> {
    let members = value.as_object()?;
    members.get("body").and_then(Value::as_str).or_else(|| members.values().find_map(find_body))
}

/// Replaces the file as careful programs do.
pub(super) fn write(auth_file: &Path, by: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = auth_file.with_extension(by);
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, auth_file)
}

/// A file that fills a small disk up.
pub(super) struct Ballast(PathBuf);

impl Ballast {
    /// Takes whatever room is left.
    pub(super) fn fill(room: &Path) -> Self {
        let path = room.join("ballast");
        if let Ok(mut file) = fs::File::create(&path) {
            for size in [64 * 1024, 4096, 512] {
                while io::Write::write(&mut file, &vec![0; size]).is_ok_and(|written| written > 0) {}
            }
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
