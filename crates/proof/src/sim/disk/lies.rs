//! What a disk that lies does differently (see [`Lie`]).

use evergrant_core::chain::Record;
use evergrant_core::secret::Fingerprint;
use serde_json::{Value, json};

use super::Inner;
use super::names::parent;
use crate::sim::lie::Lie;
use crate::sim::places::{FILE, FOLDER, LOCK, RECEIPTS, RECORD, REPLACED, ROW_RECEIPTS};

impl Inner {
    fn lies(&self, lie: Lie) -> bool {
        self.lie == Some(lie)
    }

    /// A lock that is granted to everybody.
    pub(super) fn grants_always(&self, path: &str) -> bool {
        (self.lies(Lie::LockIgnored) && path == LOCK)
            || (self.lies(Lie::SecondWhileReading) && parent(path) == RECEIPTS)
    }

    /// A name whose bytes and changes are never durable.
    pub(super) fn never_durable(&self, path: &str) -> bool {
        let staged = || path.starts_with(FOLDER) && (path.contains("/swap.") || path.ends_with("/file.new"));
        (self.lies(Lie::IntentNotDurable) && path.starts_with(RECORD))
            || (self.lies(Lie::PublishedBeforeSync) && (path == FILE || parent(path) == RECEIPTS || staged()))
    }

    /// A write that is acknowledged and dropped.
    pub(super) fn drops_fill(&self, path: &str) -> bool {
        let drops = self.lies(Lie::ReceiptSkipped) || self.lies(Lie::AnswerDropped);
        drops && (parent(path) == RECEIPTS || path.starts_with(ROW_RECEIPTS))
    }

    /// What counts as written all the same.
    pub(super) fn dropped_counts(&self) -> bool {
        self.lies(Lie::ReceiptSkipped)
    }

    /// Exchanges are not supported.
    pub(super) fn cannot_exchange(&self) -> bool {
        self.lies(Lie::PlainRename)
    }

    /// An exchange with a missing file is a rename.
    pub(super) fn makes_removed_again(&self) -> bool {
        self.lies(Lie::RemovedMadeAgain)
    }

    /// Where a path really leads.
    pub(super) fn mapped(&self, path: &str) -> Option<String> {
        if !self.lies(Lie::SharedReceipt) || parent(path) != RECEIPTS {
            return None;
        }
        let attempt: u64 = path.rsplit_once('/')?.1.parse().ok()?;
        Some(format!("{RECEIPTS}/{:012}", attempt & !1))
    }

    /// What a name in the folder of receipts is shown as; `None`: it is hidden.
    pub(super) fn shown(&self, name: &str, folder: &str) -> Option<String> {
        if folder == RECEIPTS && self.hides_receipts() {
            return None;
        }
        if folder == RECEIPTS && self.lies(Lie::SharedReceipt) {
            let header: Value = self.header(&format!("{folder}/{name}"))?;
            return Some(format!("{:012}", header["attempt"].as_u64()?));
        }
        Some(name.to_owned())
    }

    fn hides_receipts(&self) -> bool {
        let lies = self.lies(Lie::AdoptionBeforeReceipts) || self.lies(Lie::ReplacedForgotten);
        lies && self.live_record().is_some_and(|record| record.pair.refresh != self.refresh_in_file())
    }

    /// What a read of a file gives instead of its bytes.
    pub(super) fn read_instead(&self, path: &str) -> Option<Vec<u8>> {
        if self.lies(Lie::ReplacedForgotten) && path == REPLACED {
            return Some(Vec::new());
        }
        if !self.lies(Lie::StaleLineageCommitted) || parent(path) != RECEIPTS {
            return None;
        }
        let (mut header, record) = (self.header(path)?, self.live_record()?);
        if header["lineage"].as_u64()? >= record.lineage.0 {
            return None;
        }
        header["lineage"] = json!(record.lineage);
        header["generation"] = json!(record.generation);
        header["presented"] = json!(record.pair);
        let data = self.live(path)?;
        let end = data.iter().position(|byte| *byte == b'\n')?;
        let mut bytes = serde_json::to_vec(&header).ok()?;
        bytes.extend_from_slice(&data[end..]);
        Some(bytes)
    }

    fn header(&self, path: &str) -> Option<Value> {
        let data = self.live(path)?;
        serde_json::from_slice(data.split(|byte| *byte == b'\n').next()?).ok()
    }

    fn live_record(&self) -> Option<Record> {
        serde_json::from_slice(&self.live(RECORD)?).ok()
    }

    fn refresh_in_file(&self) -> Option<Fingerprint> {
        let file: Value = serde_json::from_slice(&self.live(FILE)?).ok()?;
        Some(Fingerprint::of(file["claudeAiOauth"]["refreshToken"].as_str()?.as_bytes()))
    }
}
