//! What a look has found and done so far: its report, what readers are told, and what the state is brought up to.

use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::Report;
use evergrant_core::secret::Fingerprint;
use evergrant_core::{ChainName, Reason};
use evergrant_store::VaultError;
use evergrant_store::authfile::Mark;
use jiff::Timestamp;

/// What a look found and did so far.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) record: Option<Record>,
    /// What the vault holds, or held last, if that may be served.
    pub(super) grant: Option<Grant>,
    /// The auth file as it was last read under the lock.
    pub(super) read: Option<Vec<u8>>,
    /// What identifies the file that was read, taken before the reading: an edit right after it is news. `None`:
    /// nothing was read under the lock.
    pub(super) mark: Option<Mark>,
    /// The vault holds no grant.
    pub(super) absent: bool,
    pub(super) reason: Option<Reason>,
    pub(super) error: Option<Reason>,
    pub(super) detail: Option<String>,
    pub(super) refreshed: bool,
    /// The state has to be brought up.
    pub(super) changed: bool,
    pub(super) replaced: Option<(Fingerprint, Timestamp)>,
    pub(super) events: Vec<Event>,
}

impl Looked {
    pub(super) fn report(&self, chain: &ChainName, now: Timestamp) -> Report {
        let reason = self.reason.unwrap_or(Reason::NotDue);
        Report::new(chain, self.record.as_ref(), self.grant.is_some(), (reason, self.error), now)
            .refreshed(self.refreshed)
            .detail(self.detail.clone())
    }

    pub(super) fn fail(&mut self, error: Reason, detail: Option<String>) {
        self.reason = Some(error);
        self.error = Some(error);
        self.detail = detail;
    }

    pub(super) fn vault_unwritable(&mut self, error: &VaultError) {
        self.fail(Reason::VaultUnwritable, Some(error.to_string()));
    }
}
