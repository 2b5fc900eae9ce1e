//! Follows what other processes and machines commit: readers here see it within a second, and this machine remembers
//! how far each chain has come.

use std::collections::BTreeSet;

use evergrant_core::keeper::{self, Look, Says, says};
use evergrant_core::{ChainName, Reason};
use evergrant_store::vault::{ChangesCursor, MOST_AT_ONCE, VaultState};
use evergrant_store::{StateError, VaultError};
use futures_channel::mpsc;
use futures_util::StreamExt as _;
use futures_util::future::select;

use super::work::Seen;
use super::{RowKeeper, RowPolicy, Stuck};
use crate::world::World;

impl<W: World<State: VaultState>> RowKeeper<W> {
    /// Follows the database until `pokes` ends: every half second, and at once when poked.
    pub async fn keep_following(&self, mut pokes: mpsc::UnboundedReceiver<()>) {
        let mut cursor = None;
        let mut failing = false;
        loop {
            let more = match self.follow(&mut cursor).await {
                Ok(more) => {
                    failing = false;
                    more
                }
                Err(error) => {
                    if !failing {
                        let reason = Reason::StateUnavailable;
                        tracing::error!(%reason, %error, "changes in the database are not seen; what is known is served on");
                    }
                    failing = true;
                    false
                }
            };
            if more {
                continue;
            }
            let pause = std::pin::pin!(self.world().sleep(self.0.parts.paces.changes));
            match select(pokes.next(), pause).await {
                futures_util::future::Either::Left((None, _)) => return,
                futures_util::future::Either::Left((Some(()), _)) => while pokes.try_recv().is_ok() {},
                futures_util::future::Either::Right(((), _)) => {}
            }
        }
    }

    /// Sees what has changed since `cursor`, which moves on. Says whether there is more already.
    pub async fn follow(&self, cursor: &mut Option<ChangesCursor>) -> Result<bool, StateError> {
        if cursor.is_none() {
            let marks = self.0.parts.marks.clone();
            *cursor = self.world().offload(move || marks.followed()).await?;
        }
        self.compare_anew().await?;
        let changes = self.state().changes(*cursor, MOST_AT_ONCE).await?;
        if cursor.is_none() || changes.begins_anew {
            // What was committed since they were read, and before this place in the order, is never told.
            for chain in self.read_here() {
                self.see(&chain).await?;
            }
        }
        if changes.begins_anew {
            let reason = Reason::Quarantined;
            tracing::error!(%reason, "the database is older than what this machine has seen of it: was it restored from a backup? Each chain is compared before its pair is presented");
        }
        let marks = self.0.parts.marks.clone();
        let (rows, next) = (changes.rows, changes.cursor);
        if rows.is_empty() {
            // A start reads a little more again; that costs less than a write each time.
            *cursor = Some(next);
            return Ok(changes.more);
        }
        for (chain, _) in &rows {
            let read_here = self.0.parts.snapshots.current(chain).is_some();
            if read_here || self.watched(|watched| watched.contains_key(chain)) {
                self.see(chain).await?;
            }
        }
        let (own, told) = (marks.clone(), rows.clone());
        let ahead = self.world().offload(move || own.ahead_of(&told)).await?;
        // Who has seen less may have put an older pair back, over what this machine had said of the row.
        if !ahead.is_empty() && !self.rests() {
            self.compare_page(&ahead).await?;
        }
        // Only now: what failed or was cut short in between is seen again, by another process, too.
        self.world().offload(move || marks.follow(&rows, next)).await?;
        *cursor = Some(next);
        Ok(changes.more)
    }

    /// The chains that somebody here asks about, or reads.
    fn read_here(&self) -> BTreeSet<ChainName> {
        let shown = self.0.parts.snapshots.published().current();
        self.watched(|watched| watched.keys().chain(shown.keys()).cloned().collect())
    }

    /// Shows readers here where a chain stands that somebody has moved.
    async fn see(&self, chain: &ChainName) -> Result<(), StateError> {
        let mut seen = Seen::default();
        let Some(policy) = self.policy(chain, &mut seen) else { return Ok(()) };
        let Some(row) = self.state().row(chain).await? else { return Ok(()) };
        self.show(row, &mut seen);
        self.standing(&policy, &mut seen);
        if let (Some(record), Some(grant)) = (&seen.record, &seen.grant) {
            self.0.parts.snapshots.publish(record, grant);
        }
        let report = seen.report(chain, self.world().now());
        self.watched(|watched| {
            if let Some(last) = watched.get_mut(chain) {
                (last.record, last.report) = (seen.record, Some(report));
            }
        });
        Ok(())
    }

    /// What the keeper would do with a row, for a report of it.
    pub(super) fn standing(&self, policy: &RowPolicy<W>, seen: &mut Seen) {
        if let (Some(record), None) = (&seen.record, seen.error) {
            let decision = keeper::decide(record, &policy.policy, Look::Due, self.world().now());
            match decision {
                keeper::Decision::Rest { reason, error } => (seen.reason, seen.error) = (Some(reason), error),
                keeper::Decision::Exchange(reason) => {
                    seen.reason = Some(reason);
                    seen.error = record.failures.map(|failures| failures.reason);
                }
            }
        }
    }

    /// Goes through the receipts that lie here: removes those whose pair others have replaced since, and works off those
    /// that are not of record yet.
    pub async fn sweep(&self) {
        if self.rests() {
            return;
        }
        let keeper = self.clone();
        let listed = self.world().offload(move || keeper.0.parts.receipts.chains()).await;
        let chains = listed.unwrap_or_else(|error: VaultError| {
            tracing::warn!(%error, "the receipts cannot be gone through");
            Vec::new()
        });
        for chain in chains {
            let (keeper, name) = (self.clone(), chain.clone());
            let result = match self.world().offload(move || keeper.drop_replaced(&name)).await {
                Ok(true) => self.compare(&chain).await,
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::warn!(%chain, %error, "its receipts wait for the next time");
            }
        }
    }

    /// Removes the receipts of a chain whose pair others have replaced since. Says whether one may not be of record yet.
    fn drop_replaced(&self, chain: &ChainName) -> Result<bool, Stuck> {
        let receipts = self.0.parts.receipts.of(chain)?;
        let Some(mark) = self.0.parts.marks.of(chain)? else { return Ok(true) };
        let mut perhaps = false;
        for receipt in &receipts {
            match says(receipt, mark) {
                Says::Nothing => self.0.parts.receipts.drop_one(chain, receipt.attempt)?,
                Says::NothingYet => {}
                Says::Perhaps => perhaps = true,
            }
        }
        Ok(perhaps)
    }
}
