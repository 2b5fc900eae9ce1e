//! One chain of a database vault by its name: for those who ask about it, and for the API's refusals.

use evergrant_core::chain::{Generation, Lineage, Record};
use evergrant_core::gateway::Position;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{Look, Report, TICK, next_look};
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Reason};
use evergrant_store::StateError;
use evergrant_store::vault::{Claimed, Row, VaultState};
use futures_channel::mpsc;
use futures_util::StreamExt as _;
use futures_util::future::{Either, select};

use super::work::Seen;
use super::{Last, RowKeeper, RowPolicy};
use crate::keeper::Wake;
use crate::renewable::Renewable;
use crate::world::World;

/// One chain whose pair is of record in the database.
pub struct RowChain<W: World> {
    keeper: RowKeeper<W>,
    chain: ChainName,
    policy: std::sync::Arc<RowPolicy<W>>,
    /// What was seen of a chain that nobody watches, when it was found.
    found: Option<Box<Last>>,
}

impl<W: World> Clone for RowChain<W> {
    fn clone(&self) -> Self {
        let Self { keeper, chain, policy, found } = self;
        let (keeper, chain, policy, found) = (keeper.clone(), chain.clone(), policy.clone(), found.clone());
        Self { keeper, chain, policy, found }
    }
}

impl<W: World> std::fmt::Debug for RowChain<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RowChain").field(&self.chain).finish()
    }
}

impl<W: World<State: VaultState>> RowKeeper<W> {
    /// The chain of this name, which is watched from now on: what is seen of it is remembered.
    pub fn chain(&self, chain: ChainName, policy: RowPolicy<W>) -> RowChain<W> {
        self.watched(|watched| watched.entry(chain.clone()).or_default().clone());
        RowChain { keeper: self.clone(), chain, policy: std::sync::Arc::new(policy), found: None }
    }

    /// Looks at one chain now, whether or not it is due.
    pub async fn look(&self, chain: &ChainName, look: Look, refused: Option<Position>) -> Report {
        let begun = self.world().monotonic();
        let mut seen = Seen::default();
        if self.rests() {
            seen.fail(Reason::VaultUnwritable, super::NAMESAKE);
        } else if self.policy(chain, &mut seen).is_some() {
            match self.state().claim(chain, &self.0.parts.holder, self.0.parts.paces.lease).await {
                Ok(Claimed::Ours(claim)) => {
                    if let Some(report) = self.begin(*claim, look, refused).await {
                        return report.took(self.world().monotonic().saturating_sub(begun));
                    }
                    seen.fail(Reason::InDoubt, "the look ended without a report");
                }
                Ok(Claimed::Held(row)) => {
                    self.show(*row, &mut seen);
                    seen.reason = Some(Reason::LeaseHeld);
                    seen.detail = Some("another look at it is under way".into());
                }
                Ok(Claimed::Unknown) => {
                    let how = format!("evergrant import FILE --chain {chain}");
                    seen.fail(Reason::TokenAbsent, format!("the database holds no grant: {how}"));
                }
                Err(error) => seen.fail(Reason::VaultUnwritable, error.to_string()),
            }
        }
        let report = seen.report(chain, self.world().now());
        self.finish(chain, seen, None);
        report.took(self.world().monotonic().saturating_sub(begun))
    }

    /// What a row holds, for a look that changes nothing.
    pub(super) fn show(&self, row: Row, seen: &mut Seen) {
        if let Some(policy) = (self.0.parts.policies)(&row.record.chain) {
            match self.open(&policy, &row) {
                Ok(grant) => seen.grant = Some(grant),
                Err(why) => seen.fail(Reason::SealBroken, why),
            }
        }
        seen.record = Some(row.record);
    }

    /// Reads a chain for readers that do not have it yet. Gives it as it stands now, without watching it from now on; nothing
    /// if there is none, or none that may be served.
    pub async fn find(&self, chain: &ChainName) -> Result<Option<RowChain<W>>, StateError> {
        let mut seen = Seen::default();
        let Some(policy) = self.policy(chain, &mut seen) else { return Ok(None) };
        let Some(row) = self.state().row(chain).await? else { return Ok(None) };
        self.show(row, &mut seen);
        self.standing(&policy, &mut seen);
        if let (Some(record), Some(grant)) = (&seen.record, &seen.grant) {
            self.0.parts.snapshots.publish(record, grant);
        }
        let report = Some(seen.report(chain, self.world().now()));
        let found = Some(Box::new(Last { record: seen.record, report, clock_offset_secs: None }));
        Ok(Some(RowChain { keeper: self.clone(), chain: chain.clone(), policy, found }))
    }
}

impl<W: World<State: VaultState>> RowKeeper<W> {
    /// A chain whose row may not be there yet, for whoever brings its first grant in; nothing if the configuration does not
    /// cover it. It is not watched.
    pub fn first_of(&self, chain: &ChainName) -> Option<RowChain<W>> {
        let policy = (self.0.parts.policies)(chain)?;
        Some(RowChain { keeper: self.clone(), chain: chain.clone(), policy, found: None })
    }
}

impl<W: World<State: VaultState>> RowChain<W> {
    /// The keeper of all chains of this vault.
    pub fn keeper(&self) -> &RowKeeper<W> {
        &self.keeper
    }

    /// What its provider is reached through.
    pub fn world(&self) -> &W {
        &self.policy.world
    }

    /// Looks at it now.
    pub async fn look(&self, look: Look) -> Report {
        self.keeper.look(&self.chain, look, None).await
    }

    /// Shows readers what the database holds, and looks whenever somebody asks. What is due is not waited for here: the
    /// keeper of all chains claims it.
    pub async fn run(&self, mut wakes: mpsc::UnboundedReceiver<Wake>) {
        if let Err(error) = self.keeper.find(&self.chain).await {
            tracing::warn!(chain = %self.chain, %error, "the chain is not served before the database can be read");
        }
        let mut report = self.look(Look::Due).await;
        loop {
            let now = self.keeper.world().now();
            // Somebody else renews it meanwhile, too; this look only says how it stands.
            let (at, _) = next_look(&report, None, &self.policy.policy, now);
            let unready = report.error.is_some() && report.lineage.is_none();
            let wait = at.duration_since(now).try_into().unwrap_or(TICK);
            let wait = if unready { std::time::Duration::from_secs(5) } else { wait };
            let pause = std::pin::pin!(self.keeper.world().sleep(wait));
            report = match select(wakes.next(), pause).await {
                Either::Left((None, _)) => return,
                Either::Left((Some(Wake::AccessRefused(lineage, generation)), _)) => {
                    self.access_refused((lineage, generation)).await
                }
                Either::Left((Some(Wake::FileChanged | Wake::Look), _)) | Either::Right(((), _)) => {
                    self.look(Look::Due).await
                }
            };
        }
    }

    /// The operator has accepted the provider's terms, or there are none.
    pub fn accepted(&self) -> bool {
        self.policy.accepted
    }

    /// The record of the last look.
    pub fn last_record(&self) -> Option<Record> {
        self.last().record
    }

    /// How far the provider's clock was ahead of ours at its last answer.
    pub fn clock_offset_secs(&self) -> Option<i64> {
        self.last().clock_offset_secs
    }

    fn last(&self) -> Last {
        let watched = self.keeper.watched(|watched| watched.get(&self.chain).cloned());
        watched.or_else(|| self.found.as_deref().cloned()).unwrap_or_default()
    }

    /// The chain as it stands, without changing anything, and its grant.
    pub async fn glance(&self) -> (Report, Option<Record>, Option<Grant>) {
        let mut seen = Seen::default();
        if self.keeper.policy(&self.chain, &mut seen).is_some() {
            match self.keeper.state().row(&self.chain).await {
                Ok(Some(row)) => {
                    self.keeper.show(row, &mut seen);
                    self.keeper.standing(&self.policy, &mut seen);
                }
                Ok(None) => seen.fail(Reason::TokenAbsent, "the database holds no grant: import one"),
                Err(error) => seen.fail(Reason::StateUnavailable, error.to_string()),
            }
        }
        (seen.report(&self.chain, self.keeper.world().now()), seen.record, seen.grant)
    }
}

impl<W: World<State: VaultState>> Renewable for RowChain<W> {
    fn chain(&self) -> &ChainName {
        &self.chain
    }

    fn profile(&self) -> &Profile {
        &self.policy.policy.profile
    }

    fn last_report(&self) -> Option<Report> {
        self.last().report
    }

    async fn access_refused(&self, position: (Lineage, Generation)) -> Report {
        self.keeper.look(&self.chain, Look::Due, Some(position)).await
    }
}
