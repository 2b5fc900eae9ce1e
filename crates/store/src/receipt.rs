//! Receipts: one file an attempt, reserved and synced before anything is sent, filled with the whole answer
//! before anything looks at it. A checksum tells a whole answer from a torn one.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use evergrant_core::chain::{AttemptId, Generation, Lineage, Record};
use evergrant_core::grant::PairId;
use evergrant_core::keeper::{Answer, Receipt, ReceiptState};
use evergrant_core::secret::Fingerprint;
use jiff::Timestamp;
use rand::Rng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authfile::{VaultError, list_if_there, read_if_there, remove_if_there};
use crate::disk::{Disk, Owner};
use crate::seal::{Sealed, Sealer};

/// Room that is reserved for an answer, in bytes: a full disk then costs no token.
const RESERVED: usize = 16 * 1024;
const MAX_RECEIPT: usize = 2 * 1024 * 1024;

/// Where the receipts of one chain lie.
#[derive(Debug, Clone)]
pub(crate) struct Shelf<'a> {
    pub(crate) folder: PathBuf,
    /// What their names begin with, where others share the folder.
    pub(crate) prefix: String,
    /// Seals what is written, where the vault is sealed.
    pub(crate) sealer: Option<Sealer<'a>>,
}

impl Shelf<'_> {
    fn name(&self, attempt: AttemptId) -> String {
        format!("{}{:012}", self.prefix, attempt.0)
    }

    fn path(&self, attempt: AttemptId) -> PathBuf {
        self.folder.join(self.name(attempt))
    }

    /// The attempts that left a receipt here; anything else is not ours.
    fn attempts<D: Disk>(&self, disk: &D) -> Result<Vec<AttemptId>, VaultError> {
        let names = list_if_there(disk, &self.folder)?;
        let attempt = |name: &String| name.strip_prefix(&self.prefix)?.parse().ok().map(AttemptId);
        Ok(names.iter().filter_map(attempt).collect())
    }
}

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
    pub(crate) fn make(
        disk: &D,
        shelf: &Shelf<'_>,
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
        let (folder, path) = (&shelf.folder, shelf.path(attempt));
        disk.create(&path, &bytes, Owner::PRIVATE).map_err(VaultError::io("cannot reserve", &path))?;
        disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
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
        self.fill(&line(at, answer))
    }

    /// The same, sealed.
    pub(crate) fn write_sealed(
        &self,
        at: Timestamp,
        answer: &Answer,
        sealer: Sealer<'_>,
        rng: &mut impl Rng,
    ) -> Result<(), VaultError> {
        let sealed = sealer.seal(&label(self.attempt), line(at, answer).as_bytes(), rng);
        self.fill(&checked(&BASE64.encode(sealed)))
    }

    fn fill(&self, line: &str) -> Result<(), VaultError> {
        let written = self.disk.fill(&self.path, self.header_len, line.as_bytes());
        written.map_err(VaultError::io("cannot write", &self.path))
    }
}

fn line(at: Timestamp, answer: &Answer) -> Zeroizing<String> {
    let json = serde_json::to_string(&Answered { at, answer: answer.clone() }).unwrap_or_default();
    Zeroizing::new(checked(&json))
}

fn checked(text: &str) -> String {
    format!("{} {text}\n", Fingerprint::of(text.as_bytes()))
}

/// What the seal of a receipt is bound to, besides the chain.
fn label(attempt: AttemptId) -> String {
    format!("receipt {attempt}")
}

/// Seals every answer of the chain under the key that seals now, and says how many were not. Those that somebody still
/// reads stay as they are.
pub(crate) fn reseal<D: Disk>(disk: &D, shelf: &Shelf<'_>, rng: &mut impl Rng) -> Result<u64, VaultError> {
    let Some(sealer) = shelf.sealer else { return Ok(0) };
    let mut count = 0;
    for attempt in shelf.attempts(disk)? {
        let path = shelf.path(attempt);
        let bytes = read_if_there(disk, &path, MAX_RECEIPT)?.unwrap_or_default();
        let Some((_, rest)) = header(&bytes) else { continue };
        let Some(sealed) = whole(rest).and_then(|text| BASE64.decode(text).ok()) else { continue };
        let sealed = Sealed(sealed);
        if sealed.key_id() == Some(sealer.ring.current()) || is_being_read(disk, &path)? {
            continue;
        }
        let opened = sealer
            .open(&label(attempt), &sealed.0)
            .map_err(|source| VaultError::Sealed { path: path.display().to_string(), source })?;
        let mut new = bytes[..bytes.len() - rest.len()].to_vec();
        new.extend_from_slice(checked(&BASE64.encode(sealer.seal(&label(attempt), &opened, rng))).as_bytes());
        // Beside it, then in its place: it is whole at every moment.
        let mut staged = path.clone().into_os_string();
        staged.push(".new");
        let staged = PathBuf::from(staged);
        remove_if_there(disk, &staged)?;
        disk.create(&staged, &new, Owner::PRIVATE).map_err(VaultError::io("cannot write", &staged))?;
        disk.rename(&staged, &path).map_err(VaultError::io("cannot rename to", &path))?;
        count += 1;
    }
    if count > 0 {
        let folder = &shelf.folder;
        disk.sync_folder(folder).map_err(VaultError::io("cannot sync", folder))?;
    }
    Ok(count)
}

/// Every receipt of the chain; what is torn or foreign counts as not there, or as not answered. One that cannot
/// be read just now is an error: it may hold the only successor.
pub(crate) fn read_all<D: Disk>(disk: &D, shelf: &Shelf<'_>) -> Result<Vec<Receipt>, VaultError> {
    let mut attempts = shelf.attempts(disk)?;
    attempts.sort();
    let mut receipts = Vec::new();
    for attempt in attempts {
        receipts.extend(read(disk, shelf, attempt)?);
    }
    Ok(receipts)
}

fn read<D: Disk>(disk: &D, shelf: &Shelf<'_>, attempt: AttemptId) -> Result<Option<Receipt>, VaultError> {
    let path = shelf.path(attempt);
    let Some(bytes) = read_if_there(disk, &path, MAX_RECEIPT)? else {
        return Ok(None);
    };
    let Some((header, rest)) = header(&bytes).filter(|(header, _)| header.attempt == attempt) else {
        return Ok(None);
    };
    let state = match answered(shelf, attempt, rest, &path)? {
        Some(Answered { at, answer }) => ReceiptState::Answered { at, answer },
        None => {
            let being_read = is_being_read(disk, &path)?;
            ReceiptState::Reserved { being_read }
        }
    };
    let Header { attempt, lineage, generation, presented } = header;
    Ok(Some(Receipt { attempt, lineage, generation, presented, state }))
}

fn header(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((serde_json::from_slice(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn is_being_read<D: Disk>(disk: &D, path: &Path) -> Result<bool, VaultError> {
    Ok(disk.try_lock(path).map_err(VaultError::io("cannot lock", path))?.is_none())
}

fn answered(
    shelf: &Shelf<'_>,
    attempt: AttemptId,
    rest: &[u8],
    path: &Path,
) -> Result<Option<Answered>, VaultError> {
    let Some(text) = whole(rest) else { return Ok(None) };
    let Some(sealer) = shelf.sealer else {
        return Ok(serde_json::from_slice(text).ok());
    };
    let sealed = BASE64.decode(text).unwrap_or_default();
    // It is whole, so that it is not the disk's fault: without its key the only successor would be lost.
    let opened = sealer
        .open(&label(attempt), &sealed)
        .map_err(|source| VaultError::Sealed { path: path.display().to_string(), source })?;
    Ok(whole(&opened).and_then(|json| serde_json::from_slice(json).ok()))
}

/// The text of a line whose checksum holds.
fn whole(rest: &[u8]) -> Option<&[u8]> {
    let line = rest.split(|byte| *byte == b'\n').next()?;
    let (checksum, text) = line.split_at_checked(17)?;
    let checksum: Fingerprint = std::str::from_utf8(&checksum[..16]).ok()?.parse().ok()?;
    (Fingerprint::of(text) == checksum).then_some(text)
}

/// The highest attempt that left a receipt, readable or not: attempts never share one.
pub(crate) fn last_attempt<D: Disk>(disk: &D, shelf: &Shelf<'_>) -> Result<AttemptId, VaultError> {
    Ok(shelf.attempts(disk)?.into_iter().max().unwrap_or(AttemptId(0)))
}

/// Removes one receipt.
pub(crate) fn drop_one<D: Disk>(disk: &D, shelf: &Shelf<'_>, attempt: AttemptId) -> Result<(), VaultError> {
    remove_if_there(disk, &shelf.path(attempt))
}

/// Removes all receipts but those that are kept and those that somebody still reads. Says whether there were any.
pub(crate) fn drop_unless<D: Disk>(
    disk: &D,
    shelf: &Shelf<'_>,
    keep: impl Fn(AttemptId) -> bool,
) -> Result<bool, VaultError> {
    let mut removed = false;
    for attempt in shelf.attempts(disk)? {
        let path = shelf.path(attempt);
        if keep(attempt) || is_being_read(disk, &path)? {
            continue;
        }
        remove_if_there(disk, &path)?;
        removed = true;
    }
    Ok(removed)
}
