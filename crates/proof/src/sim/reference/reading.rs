//! Reads what lies on the simulated disk, by itself: the reference shares no reader with the vault but the record's.

use evergrant_core::chain::Record;
use evergrant_core::secret::Fingerprint;
use serde_json::Value;

pub(super) fn parse_record(bytes: &[u8]) -> Option<Record> {
    serde_json::from_slice(bytes).ok()
}

/// Whether a receipt holds the successor of this token.
pub(super) fn answers(receipt: &[u8], token: Fingerprint) -> bool {
    let mut lines = receipt.split(|byte| *byte == b'\n');
    let header = lines.next().and_then(|line| serde_json::from_slice::<Value>(line).ok());
    let presented =
        header.is_some_and(|header| header["presented"]["refresh"].as_str() == Some(&token.to_string()));
    let answer = || {
        let answered: Value = serde_json::from_slice(lines.next()?.get(17..)?).ok()?;
        let body = answered["answer"]["body"].as_str()?.contains("\"access_token\"");
        Some(answered["answer"]["status"] == 200 && body && answered["answer"]["complete"] == true)
    };
    presented && { answer }().unwrap_or_default()
}

/// The refresh token in an auth file, and the mark that the operator left beside it.
pub(super) fn content(bytes: &[u8]) -> Option<(Option<Fingerprint>, Value)> {
    let mut file: Value = serde_json::from_slice(bytes).ok()?;
    let token = file["claudeAiOauth"]["refreshToken"].as_str().map(|raw| Fingerprint::of(raw.as_bytes()));
    Some((token, file[MARK].take()))
}

/// The access token in an auth file, or in a receipt.
pub(super) fn access_in(bytes: &[u8]) -> Option<Fingerprint> {
    let print = |raw: &Value| raw.as_str().map(|raw| Fingerprint::of(raw.as_bytes()));
    if let Ok(file) = serde_json::from_slice::<Value>(bytes) {
        return print(&file["claudeAiOauth"]["accessToken"]);
    }
    let answered = bytes.split(|byte| *byte == b'\n').nth(1)?.get(17..)?;
    let answered: Value = serde_json::from_slice(answered).ok()?;
    let body: Value = serde_json::from_str(answered["answer"]["body"].as_str()?).ok()?;
    print(&body["access_token"])
}

/// The member of an auth file that tells one edit from another.
pub const MARK: &str = "edit";

pub(super) fn contains(bytes: &[u8], text: &str) -> bool {
    // The room that a receipt reserves is blank.
    bytes.trim_ascii_end().windows(text.len()).any(|window| window == text.as_bytes())
}
