//! Receipts: one file an attempt, reserved and synced before anything is sent, filled with the whole answer
//! before anything looks at it. A checksum tells a whole answer from a torn one.

use std::io;
use std::path::{Path, PathBuf};

use evergrant_core::chain::{AttemptId, Generation, Lineage, Record};
use evergrant_core::grant::PairId;
use evergrant_core::keeper::{Answer, Receipt, ReceiptState};
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Places, VaultError, list_if_there, read_if_there};
use crate::disk::{Disk, Owner};

/// Room that is reserved for an answer, in bytes: a full disk then costs no token.
const RESERVED: usize = 16 * 1024;
const MAX_RECEIPT: usize = 2 * 1024 * 1024;

/// First line of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    attempt: AttemptId,
    lineage: Lineage,
    generation: Generation,
    presented: PairId,
}

/// Second line, behind its checksum.
#[derive(Serialize, Deserialize)]
struct Answered {
    at: Timestamp,
    answer: Answer,
}

/// A receipt that waits for its answer. Its lock tells other processes that somebody reads it.
#[derive(Debug)]
pub struct Reservation<D: Disk> {
    disk: D,
    path: PathBuf,
    header_len: u64,
    attempt: AttemptId,
    _lock: D::Lock,
}

impl<D: Disk> Reservation<D> {
    pub(super) fn make(
        disk: &D,
        places: &Places,
        record: &Record,
        attempt: AttemptId,
    ) -> Result<Self, VaultError> {
        let header = Header {
            attempt,
            lineage: record.lineage,
            generation: record.generation,
            presented: record.pair,
        };
        let mut bytes = serde_json::to_vec(&header).unwrap_or_default();
        bytes.push(b'\n');
        let header_len = bytes.len() as u64;
        bytes.resize(bytes.len() + RESERVED, b' ');
        let folder = places.receipts();
        let path = folder.join(file_name(attempt));
        disk.create(&path, &bytes, Owner::PRIVATE).map_err(VaultError::io("cannot reserve", &path))?;
        disk.sync_folder(&folder).map_err(VaultError::io("cannot sync", &folder))?;
        let busy = || io::Error::new(io::ErrorKind::WouldBlock, "somebody else locked it");
        let lock = disk.try_lock(&path).and_then(|lock| lock.ok_or_else(busy));
        let lock = lock.map_err(VaultError::io("cannot lock", &path))?;
        Ok(Self { disk: disk.clone(), path, header_len, attempt, _lock: lock })
    }

    /// The attempt that it belongs to.
    pub fn attempt(&self) -> AttemptId {
        self.attempt
    }

    /// Keeps the whole answer, durable when it returns.
    pub fn write(&self, at: Timestamp, answer: &Answer) -> Result<(), VaultError> {
        let json = serde_json::to_string(&Answered { at, answer: answer.clone() }).unwrap_or_default();
        let line = format!("{} {json}\n", Fingerprint::of(json.as_bytes()));
        let written = self.disk.fill(&self.path, self.header_len, line.as_bytes());
        written.map_err(VaultError::io("cannot write", &self.path))
    }
}

fn file_name(attempt: AttemptId) -> String {
    format!("{:012}", attempt.0)
}

/// Every receipt in the folder; what is torn or foreign counts as not there, or as not answered. One that cannot
/// be read just now is an error: it may hold the only successor.
pub(super) fn read_all<D: Disk>(disk: &D, places: &Places) -> Result<Vec<Receipt>, VaultError> {
    let mut receipts = Vec::new();
    for name in list_if_there(disk, &places.receipts())? {
        // Attempts are numbers; anything else is not ours.
        if name.parse::<u64>().is_ok() {
            receipts.extend(read(disk, places, &name)?);
        }
    }
    receipts.sort_by_key(|receipt| receipt.attempt);
    Ok(receipts)
}

fn read<D: Disk>(disk: &D, places: &Places, name: &str) -> Result<Option<Receipt>, VaultError> {
    let path = places.receipts().join(name);
    let Some(bytes) = read_if_there(disk, &path, MAX_RECEIPT)? else {
        return Ok(None);
    };
    let Some((header, rest)) = header(&bytes, name) else {
        return Ok(None);
    };
    let state = match answered(rest) {
        Some(Answered { at, answer }) => ReceiptState::Answered { at, answer },
        None => {
            let being_read = is_being_read(disk, &path)?;
            ReceiptState::Reserved { being_read }
        }
    };
    let Header { attempt, lineage, generation, presented } = header;
    Ok(Some(Receipt { attempt, lineage, generation, presented, state }))
}

fn header<'a>(bytes: &'a [u8], name: &str) -> Option<(Header, &'a [u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let header: Header = serde_json::from_slice(&bytes[..end]).ok()?;
    (file_name(header.attempt) == name).then_some((header, &bytes[end + 1..]))
}

fn is_being_read<D: Disk>(disk: &D, path: &Path) -> Result<bool, VaultError> {
    Ok(disk.try_lock(path).map_err(VaultError::io("cannot lock", path))?.is_none())
}

fn answered(rest: &[u8]) -> Option<Answered> {
    let line = rest.split(|byte| *byte == b'\n').next()?;
    let (checksum, json) = line.split_at_checked(17)?;
    let checksum: Fingerprint = std::str::from_utf8(&checksum[..16]).ok()?.parse().ok()?;
    (Fingerprint::of(json) == checksum).then(|| serde_json::from_slice(json).ok())?
}

/// The highest attempt that left a receipt, readable or not: attempts never share one.
pub(super) fn last_attempt<D: Disk>(disk: &D, places: &Places) -> Result<AttemptId, VaultError> {
    let names = list_if_there(disk, &places.receipts())?;
    Ok(AttemptId(names.iter().filter_map(|name| name.parse().ok()).max().unwrap_or(0)))
}

/// Removes one receipt.
pub(super) fn drop_one<D: Disk>(disk: &D, places: &Places, attempt: AttemptId) -> Result<(), VaultError> {
    let folder = places.receipts();
    super::remove_if_there(disk, &folder.join(file_name(attempt)))?;
    disk.sync_folder(&folder).map_err(VaultError::io("cannot sync", &folder))
}

/// Removes all receipts but the kept one and those that somebody still reads.
pub(super) fn drop_all_but<D: Disk>(
    disk: &D,
    places: &Places,
    keep: Option<AttemptId>,
) -> Result<(), VaultError> {
    let folder = places.receipts();
    let keep = keep.map(file_name);
    let mut removed = false;
    for name in list_if_there(disk, &folder)? {
        let path = folder.join(&name);
        if Some(&name) == keep.as_ref() || is_being_read(disk, &path)? {
            continue;
        }
        super::remove_if_there(disk, &path)?;
        removed = true;
    }
    if removed { disk.sync_folder(&folder).map_err(VaultError::io("cannot sync", &folder)) } else { Ok(()) }
}
