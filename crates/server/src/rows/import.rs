//! A grant that somebody hands in for a chain of a database vault: it becomes a lineage of its own, whatever is under
//! way (SPEC §4, "Pushes, imports and adoptions").

use std::sync::Arc;

use evergrant_core::event::EventKind;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{self, RowFinding, wakes_at};
use evergrant_core::{ChainName, Reason};
use evergrant_store::State as _;
use evergrant_store::vault::{NextRow, VaultState};
use serde_json::json;

use super::work::{Seen, Settled};
use super::{RowKeeper, RowPolicy, Stuck};
use crate::keeper::{Import, Refused, judge};
use crate::world::World;

/// So often somebody may move the row in between.
const MOST_TRIES: usize = 8;

impl<W: World<State: VaultState>> RowKeeper<W> {
    /// Judges a grant without touching the vault: terms, prefixes, expiry.
    pub fn judge(&self, chain: &ChainName, grant: &Grant) -> Result<(), Refused> {
        judge(&self.policy_or_refusal(chain)?.policy.profile, grant, self.world().now())
    }

    fn policy_or_refusal(&self, chain: &ChainName) -> Result<Arc<RowPolicy<W>>, Refused> {
        let mut seen = Seen::default();
        self.policy(chain, &mut seen).ok_or_else(|| Refused {
            reason: seen.reason.unwrap_or(Reason::ClientRejected),
            detail: seen.detail.unwrap_or_default(),
        })
    }

    /// Takes a grant that was judged and probed. An exchange in flight loses: a person has logged in.
    pub async fn import(&self, chain: &ChainName, grant: Grant) -> Import {
        let begun = self.world().monotonic();
        let imported = self.try_import(chain, &grant).await;
        match imported {
            Ok(Ok(seen)) => {
                let report = seen.report(chain, self.world().now());
                self.finish(chain, seen, None);
                Import::Taken(report.took(self.world().monotonic().saturating_sub(begun)))
            }
            Ok(Err(refused)) => Import::Refused(refused),
            Err(stuck) => {
                Import::Refused(Refused { reason: Reason::VaultUnwritable, detail: stuck.to_string() })
            }
        }
    }

    async fn try_import(&self, chain: &ChainName, grant: &Grant) -> Result<Result<Seen, Refused>, Stuck> {
        let refused = |reason, detail: &str| Ok(Err(Refused { reason, detail: detail.into() }));
        if self.rests() {
            return refused(Reason::VaultUnwritable, super::NAMESAKE);
        }
        let policy = match self.policy_or_refusal(chain) {
            Ok(policy) => policy,
            Err(refused) => return Ok(Err(refused)),
        };
        let pair = grant.pair();
        for _ in 0..MOST_TRIES {
            // What is found is finished first, so that it is known which pairs are replaced.
            let mut seen = Seen::default();
            if let Settled::Written = self.settle_found(chain, &policy, None, None, None, &mut seen).await? {
                continue;
            }
            let before = seen.record.take();
            if before.as_ref().is_some_and(|record| record.pair == pair && record.quarantined.is_none()) {
                (seen.record, seen.grant) = (before, Some(grant.clone()));
                (seen.reason, seen.error, seen.detail) = (Some(Reason::SameGrant), None, None);
                return Ok(Ok(seen));
            }
            if self.state().was_replaced(chain, pair.fingerprint()).await? {
                return refused(
                    Reason::GrantSpent,
                    "this chain has replaced that pair already, so it is worth nothing: log in again",
                );
            }
            let (marks, name) = (self.0.parts.marks.clone(), chain.clone());
            let known = self.world().offload(move || marks.of(&name)).await?;
            let (now, mut rng) = (self.world().now(), self.world().rng());
            let record = keeper::take_in(chain, before.as_ref(), grant, true, &policy.policy, now, &mut rng);
            let record = keeper::above(record, known);
            let sealed = self.0.parts.receipts.ring().seal_pair(chain, record.position(), grant, &mut rng);
            let detail = json!({ "fingerprint": pair.fingerprint(), "kind": record.kind.as_str() });
            let event = self.event(&record, EventKind::Adopted, Reason::Imported, None, detail);
            let next = NextRow {
                record: &record,
                sealed: Some(&sealed),
                replaced: &[],
                events: &[event],
                wakes_at: wakes_at(&record, RowFinding::Clean, &policy.policy, now),
            };
            if self.state().take_in(before.as_ref().map(|record| record.mark()), next).await? {
                self.remember(&record).await;
                self.tell();
                (seen.record, seen.grant) = (Some(record), Some(grant.clone()));
                (seen.reason, seen.error, seen.detail) = (Some(Reason::Imported), None, None);
                return Ok(Ok(seen));
            }
        }
        refused(Reason::LeaseHeld, "others keep moving the chain: try again")
    }

    /// Lets a quarantined row's own pair count as the chain's newest, because an operator says so: as a lineage of its
    /// own, above everything that any machine has seen.
    pub async fn accept_stale(&self, chain: &ChainName) -> Import {
        let row = match self.state().row(chain).await {
            Ok(row) => row,
            Err(error) => {
                return Import::Refused(Refused {
                    reason: Reason::StateUnavailable,
                    detail: error.to_string(),
                });
            }
        };
        let mut seen = Seen::default();
        if let Some(row) = row {
            self.show(row, &mut seen);
        }
        let quarantined = seen.record.as_ref().is_some_and(|record| record.quarantined.is_some());
        match (seen.grant, quarantined) {
            (Some(grant), true) => self.import(chain, grant).await,
            (Some(_) | None, _) => Import::Refused(Refused {
                reason: Reason::NothingToRenew,
                detail: format!("chain {chain} is not quarantined: there is nothing to accept"),
            }),
        }
    }
}
