//! Records, events and a vault in a temporary folder.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::Reason;
use evergrant_core::chain::{AttemptId, Generation, Kind, Lineage, Record, Standing};
use evergrant_core::event::{Event, EventKind};
use evergrant_core::grant::PairId;
use evergrant_core::provider::Profile;
use evergrant_core::secret::Fingerprint;
use evergrant_store::authfile::{FoundFiles, TakeClientLocks};
use evergrant_store::{AuthFile, Held};
use jiff::Timestamp;

use crate::fault_disk::FaultDisk;

pub(crate) fn chain(name: &str) -> ChainName {
    name.parse().unwrap()
}

pub(crate) fn second(secs: i64) -> Timestamp {
    Timestamp::from_second(secs).unwrap()
}

pub(crate) fn record(name: &str, lineage: u64, generation: u64) -> Record {
    let access = Fingerprint::of(format!("{lineage}/{generation}").as_bytes());
    Record {
        chain: chain(name),
        lineage: Lineage(lineage),
        generation: Generation(generation),
        kind: Kind::RefreshToken,
        pair: PairId { access, refresh: Some(Fingerprint::of(b"refresh")) },
        expires_at: second(2_000_000),
        expiry_assumed: false,
        life_secs: 28_800,
        granted_at: second(1_000_000),
        grant_expires_at: Some(second(9_000_000)),
        scopes: vec!["user:inference".into(), "user:profile".into()],
        stored_at: second(1_000_000),
        renew_at: Some(second(1_990_000)),
        standing: Standing::InDoubt { sent_at: second(1), since: second(2), presented_again: 3 },
        access_refused: true,
        intent: None,
        made_by: Some(AttemptId(4)),
        last_attempt: AttemptId(5),
        failures: None,
        rewriting: None,
        old_doubts: Vec::new(),
        adoptions: vec![second(7)],
        quarantined: None,
    }
}

pub(crate) fn event(name: &str, at: i64, kind: EventKind, attempt: Option<u64>) -> Event {
    Event {
        chain: chain(name),
        at: second(at),
        kind,
        reason: Reason::Renewed,
        lineage: Lineage(1),
        generation: Generation(1),
        attempt: attempt.map(AttemptId),
        detail: serde_json::json!({ "n": at }),
    }
}

/// An auth file whose tokens are told apart by `name`.
pub(crate) fn auth_file(name: &str) -> Vec<u8> {
    let text = serde_json::json!({ "claudeAiOauth": {
        "accessToken": format!("sk-ant-oat01-{name}"),
        "refreshToken": format!("sk-ant-ort01-{name}"),
        "expiresAt": 1_765_432_100_000_u64,
    }});
    text.to_string().into_bytes()
}

pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) disk: FaultDisk,
    pub(crate) vault: AuthFile<FaultDisk>,
}

impl Fixture {
    /// `home/claude/auth.json` holds `old`; the client's locks are not taken.
    pub(crate) fn new() -> Self {
        Self::with(TakeClientLocks::Never)
    }

    pub(crate) fn with(take: TakeClientLocks) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("home/claude")).unwrap();
        let disk = FaultDisk::default();
        let file = folder.path().join("home/claude/auth.json");
        fs::write(&file, auth_file("old")).unwrap();
        let vault = AuthFile::new(disk.clone(), file, folder.path().join("state"), take);
        Self { folder, disk, vault }
    }

    /// The same file for another process.
    pub(crate) fn another(&self, take: TakeClientLocks) -> AuthFile<FaultDisk> {
        AuthFile::new(self.disk.clone(), self.file(), self.folder.path().join("state"), take)
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("home").join(path)
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.at("claude/auth.json")
    }

    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.at("claude/auth.json.evergrant").join(name)
    }

    pub(crate) fn content(&self) -> Option<Vec<u8>> {
        fs::read(self.file()).ok()
    }

    pub(crate) fn lock(&self) -> Held<FaultDisk> {
        self.vault.lock(Duration::ZERO).unwrap()
    }

    /// What an exchange that was cut short left.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.beside("")).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.starts_with("swap.") || name.starts_with("back.")).collect()
    }
}

pub(crate) fn read(held: &Held<FaultDisk>) -> FoundFiles {
    held.read(&Profile::claude(), None).unwrap()
}
