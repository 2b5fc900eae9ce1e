//! A database that was started may be an older copy of itself. Before a token is sent again, each server compares the rows with
//! what it has seen (SPEC §4, "Restored from a backup").

use std::sync::PoisonError;

use evergrant_core::chain::Mark;
use evergrant_core::{ChainName, Reason};
use evergrant_store::StateError;
use evergrant_store::vault::VaultState;

use super::work::{Seen, Settled};
use super::{RowKeeper, Stuck};
use crate::world::World;

/// So many marks are compared in one statement.
const MOST_COMPARED: usize = 1_000;
/// So many pairs of one chain are put back one after the other.
const MOST_IN_A_ROW: usize = 8;

impl<W: World<State: VaultState>> RowKeeper<W> {
    /// Begins to compare all chains in a task of its own, where this machine has not done so in this incarnation of the
    /// database. Who asks for a new one first holds intents, for everybody.
    pub(super) async fn compare_anew(&self) -> Result<(), StateError> {
        if self.rests() {
            return Ok(());
        }
        let is = self.state().incarnation(self.0.parts.paces.hold).await?;
        if self.compared(|compared| compared.as_ref() == Some(&is.id)) {
            return Ok(());
        }
        let marks = self.0.parts.marks.clone();
        let before = self.world().offload(move || marks.compared()).await?;
        self.compared(|compared| *compared = Some(is.id.clone()));
        if before.as_ref() == Some(&is.id) {
            return Ok(());
        }
        if let Some(held) = is.held {
            let secs = held.as_secs();
            tracing::info!(
                secs,
                "the database was started or restored: its rows are compared before a token is sent"
            );
        }
        let keeper = self.clone();
        self.world().spawn(async move {
            if let Err(error) = keeper.compare_with(is.id).await {
                tracing::warn!(%error, "the rows are compared once more: not all could be");
                keeper.compared(|compared| *compared = None);
            }
        });
        Ok(())
    }

    fn compared<T>(&self, with: impl FnOnce(&mut Option<String>) -> T) -> T {
        with(&mut self.0.compared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Compares each chain that this machine has heard of with its row. What a restored database has lost may lie here;
    /// where it does not, the row is told that it is old.
    pub async fn compare_all(&self) -> Result<(), StateError> {
        let mut after = None;
        loop {
            let (marks, from) = (self.0.parts.marks.clone(), after.clone());
            let page = self.world().offload(move || marks.after(from.as_ref(), MOST_COMPARED)).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            self.compare_page(&page).await?;
            self.miss(&page).await?;
        }
    }

    /// Of chains that were brought in after the backup nothing is left to compare: their health says that they are lost.
    async fn miss(&self, seen: &[(ChainName, Mark)]) -> Result<(), StateError> {
        let chains: Vec<_> = seen.iter().map(|(chain, _)| chain.clone()).collect();
        let lost = self.state().miss(&chains).await?;
        if !lost.is_empty() {
            let chains = lost.iter().map(ChainName::as_str).collect::<Vec<_>>().join(", ");
            tracing::error!(reason = %Reason::TokenAbsent, chains, "the database was restored from before these chains were brought in: bring them in again");
        }
        Ok(())
    }

    /// Compares some chains with where this machine has seen them. Where a row is older, intents are held meanwhile.
    pub(super) async fn compare_page(&self, seen: &[(ChainName, Mark)]) -> Result<(), StateError> {
        let behind = self.state().behind(seen).await?;
        if !behind.is_empty() {
            self.state().hold_on(self.0.parts.paces.hold).await?;
        }
        for chain in behind {
            match self.compare(&chain).await {
                Ok(()) => {}
                // What is wrong with one must not keep all others waiting.
                Err(error @ (Stuck::Vault(_) | Stuck::State(StateError::Unreadable { .. }))) => {
                    tracing::error!(%chain, %error, "its row is older than what this machine has seen, and cannot be told so");
                }
                Err(Stuck::State(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn compare_with(&self, incarnation: String) -> Result<(), StateError> {
        self.compare_all().await?;
        let marks = self.0.parts.marks.clone();
        self.world().offload(move || marks.remember_compared(&incarnation)).await
    }

    /// Brings one row up from the receipts that lie here. It needs no lease: it writes only where nobody has moved on.
    pub(super) async fn compare(&self, chain: &ChainName) -> Result<(), Stuck> {
        let mut seen = Seen::default();
        let Some(policy) = self.policy(chain, &mut seen) else { return Ok(()) };
        // What was put back may have its successor here, too.
        for _ in 0..MOST_IN_A_ROW {
            match self.settle_found(chain, &policy, None, None, None, &mut seen).await? {
                Settled::Written => self.finish(chain, std::mem::take(&mut seen), None),
                Settled::Clean(..) | Settled::Stop(_) => break,
            }
        }
        Ok(())
    }
}
