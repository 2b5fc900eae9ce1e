//! Drives the keeper of one chain: looks when it wakes up, and walks the steps of a rotation (SPEC §4). What is
//! decided is decided in `core`; what is kept is kept by `store`.

mod import;
mod looked;
mod sending;
mod step;

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::chain::Record;
use evergrant_core::event::Event;
use evergrant_core::gateway::Position;
use evergrant_core::keeper::{self, Decision, Look, Policy, Report};
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Generation, Lineage, Reason};
use evergrant_store::authfile::Mark;
use evergrant_store::{AuthFile, State, crash};
use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use jiff::Timestamp;

pub(crate) use import::judge;
pub use import::{Import, Refused};
use looked::Looked;
pub(crate) use sending::clock_offset;
use step::Prepared;
pub(crate) use step::{told, why};

use crate::metrics::Metrics;
use crate::renewable::Renewable;
use crate::snapshot::Snapshots;
use crate::world::World;

/// Why the keeper's loop should look now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// The auth file may have changed.
    FileChanged,
    /// Somebody saw a 401 for the access token of this generation, and a probe agreed.
    AccessRefused(Lineage, Generation),
    /// A look is wanted.
    Look,
}

/// The keeper of one chain. Cheap to clone.
pub struct Keeper<W: World>(Arc<Inner<W>>);

impl<W: World> std::fmt::Debug for Keeper<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keeper").field(&self.0.chain).finish()
    }
}

impl<W: World> Clone for Keeper<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<W: World> {
    world: W,
    chain: ChainName,
    policy: Policy,
    /// The operator has accepted the provider's terms for this chain, or there are none.
    accepted: bool,
    vault: AuthFile<W::Disk>,
    snapshots: Snapshots,
    metrics: Metrics,
    last: Mutex<Last>,
}

/// What the loop remembers between two looks.
#[derive(Debug, Default)]
struct Last {
    record: Option<Record>,
    report: Option<Report>,
    mark: Mark,
    clock_offset_secs: Option<i64>,
    wake: Option<mpsc::UnboundedSender<Wake>>,
}

impl<W: World> Renewable for Keeper<W> {
    fn chain(&self) -> &ChainName {
        &self.0.chain
    }

    fn profile(&self) -> &Profile {
        &self.0.policy.profile
    }

    fn last_report(&self) -> Option<Report> {
        self.last(|last| last.report.clone())
    }

    async fn access_refused(&self, (lineage, generation): Position) -> Report {
        Self::access_refused(self, lineage, generation).await
    }
}

impl<W: World> Keeper<W> {
    /// A keeper that has not looked yet.
    pub fn new(
        world: W,
        chain: ChainName,
        policy: Policy,
        accepted: bool,
        vault: AuthFile<W::Disk>,
        snapshots: Snapshots,
        metrics: Metrics,
    ) -> Self {
        let last = Mutex::default();
        Self(Arc::new(Inner { world, chain, policy, accepted, vault, snapshots, metrics, last }))
    }

    /// The chain.
    pub fn chain(&self) -> &ChainName {
        &self.0.chain
    }

    /// Its provider and timing.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// Its vault.
    pub fn vault(&self) -> &AuthFile<W::Disk> {
        &self.0.vault
    }

    /// The operator has accepted the provider's terms, or there are none.
    pub fn accepted(&self) -> bool {
        self.0.accepted
    }

    /// The report of the last look.
    pub fn last_report(&self) -> Option<Report> {
        self.last(|last| last.report.clone())
    }

    /// The record of the last look.
    pub fn last_record(&self) -> Option<Record> {
        self.last(|last| last.record.clone())
    }

    /// How far the provider's clock was ahead of ours at its last answer.
    pub fn clock_offset_secs(&self) -> Option<i64> {
        self.last(|last| last.clock_offset_secs)
    }

    fn last<T>(&self, with: impl FnOnce(&mut Last) -> T) -> T {
        with(&mut self.0.last.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the chain and does what is due, or forces an exchange. The work goes on if the caller leaves.
    pub async fn look(&self, look: Look) -> Report {
        self.look_because(look, None).await
    }

    /// Looks because the access token of a generation was refused; that alone makes no other generation due.
    pub async fn access_refused(&self, lineage: Lineage, generation: Generation) -> Report {
        self.look_because(Look::Due, Some((lineage, generation))).await
    }

    async fn look_because(&self, look: Look, refused: Option<(Lineage, Generation)>) -> Report {
        let begun = self.0.world.monotonic();
        if !self.0.accepted {
            return self.terms_not_accepted();
        }
        let (done, report) = oneshot::channel();
        let keeper = self.clone();
        self.0.world.spawn(async move { keeper.work(look, refused, done).await });
        let took = |report: Report| report.took(self.0.world.monotonic().saturating_sub(begun));
        match report.await {
            Ok(report) => took(report),
            // The task died by a panic; the loop looks again.
            Err(oneshot::Canceled) => {
                let now = self.0.world.now();
                took(Report::new(&self.0.chain, None, false, (Reason::InDoubt, Some(Reason::InDoubt)), now))
            }
        }
    }

    fn terms_not_accepted(&self) -> Report {
        let reason = (Reason::TermsNotAccepted, Some(Reason::TermsNotAccepted));
        let report = Report::new(&self.0.chain, None, false, reason, self.0.world.now());
        let terms = self.0.policy.profile.terms.as_deref().unwrap_or_default();
        let report = report.detail(Some(format!(
            "read {terms}; if you own this login and may use it here, set accept_provider_terms = true"
        )));
        self.last(|last| last.report = Some(report.clone()));
        report
    }

    /// One look, in a task of its own. The report is handed over as soon as it is known; a late answer is read
    /// on after that.
    async fn work(self, look: Look, refused: Option<(Lineage, Generation)>, done: oneshot::Sender<Report>) {
        let remembered = self.0.world.state().record(&self.0.chain).await;
        let remembered = remembered.unwrap_or_else(|error| {
            tracing::warn!(chain = %self.0.chain, %error, "the state cannot be read; the auth file is of record");
            None
        });
        let mut look = look;
        // A second exchange follows at once only where the provider grants a grace for it.
        for again in [true, false] {
            let keeper = self.clone();
            let remembered = remembered.clone();
            let prepared =
                self.0.world.offload(move || step::prepare(&keeper, remembered, look, refused)).await;
            let sending = match prepared {
                Prepared::Rest(looked) => {
                    self.finish(looked, Some(done)).await;
                    return;
                }
                Prepared::Send(sending) => *sending,
            };
            self.bring_up(&sending.looked).await;
            crash::point("intent_in_state");
            match self.send(sending).await {
                sending::Sent::Settled(looked) => {
                    if again && self.may_present_again_at_once(&looked) {
                        look = Look::Due;
                        self.bring_up(&looked).await;
                        continue;
                    }
                    self.finish(looked, Some(done)).await;
                }
                sending::Sent::Late { looked, reading } => {
                    self.finish(looked, Some(done)).await;
                    self.read_on(reading).await;
                }
            }
            return;
        }
    }

    fn may_present_again_at_once(&self, looked: &Looked) -> bool {
        let due = |record: &Record| keeper::decide(record, &self.0.policy, Look::Due, self.0.world.now());
        matches!(looked.record.as_ref().map(due), Some(Decision::Exchange(Reason::DoubtPresentation)))
            && looked.error == Some(Reason::InDoubt)
    }

    /// Publishes what a look found, brings the state up to it, and reports.
    async fn finish(&self, looked: Looked, done: Option<oneshot::Sender<Report>>) {
        match (&looked.record, &looked.grant) {
            // Without the lock, file and record may have been read around somebody's commit.
            (Some(record), Some(grant)) if grant.pair() == record.pair => {
                self.0.snapshots.publish(record, grant);
            }
            (_, None) if looked.absent => self.0.snapshots.withdraw(&self.0.chain),
            (Some(_) | None, Some(_) | None) => {}
        }
        self.bring_up(&looked).await;
        crash::point("state_written");
        let report = looked.report(&self.0.chain, self.0.world.now());
        self.0.metrics.looked(&report);
        log(&report);
        self.last(|last| {
            last.record = looked.record;
            last.report = Some(report.clone());
            if let Some(mark) = looked.mark {
                last.mark = mark;
            }
        });
        if let Some(done) = done {
            let _ = done.send(report);
        }
    }

    async fn bring_up(&self, looked: &Looked) {
        let Some(record) = &looked.record else { return };
        if !looked.changed {
            return;
        }
        let brought = self.0.world.state().bring_up(record, looked.replaced, &looked.events).await;
        if let Err(error) = brought {
            let reason = Reason::StateUnwritable;
            tracing::warn!(chain = %self.0.chain, %reason, %error, "the auth file is ahead of the state");
            self.0.metrics.state_unwritable(&self.0.chain);
        }
    }

    /// An event of this chain.
    fn event(&self, record: &Record, event: NewEvent) -> Event {
        Event {
            chain: self.0.chain.clone(),
            at: event.at,
            kind: event.kind,
            reason: event.reason,
            lineage: record.lineage,
            generation: record.generation,
            attempt: event.attempt,
            detail: event.detail,
        }
    }

    /// Keeps the chain until `wakes` ends. `wakes` may say so as often as it likes; a look is idempotent.
    pub async fn run(&self, mut wakes: mpsc::UnboundedReceiver<Wake>, wake: mpsc::UnboundedSender<Wake>) {
        self.last(|last| last.wake = Some(wake));
        let mut report = self.look(Look::Due).await;
        loop {
            let now = self.0.world.now();
            let record = self.last(|last| last.record.clone());
            let (at, reason) = keeper::next_look(&report, record.as_ref(), &self.0.policy, now);
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            let sleep = pin!(self.0.world.sleep(wait));
            report = match select(wakes.next(), sleep).await {
                Either::Left((None, _)) => return,
                Either::Left((Some(Wake::FileChanged), _)) => {
                    if self.0.vault.mark() == self.last(|last| last.mark) {
                        continue;
                    }
                    self.peek();
                    self.look(Look::Due).await
                }
                Either::Left((Some(Wake::AccessRefused(lineage, generation)), _)) => {
                    self.access_refused(lineage, generation).await
                }
                Either::Left((Some(Wake::Look), _)) => self.look(Look::Due).await,
                Either::Right(((), _)) => {
                    tracing::trace!(chain = %self.0.chain, %reason, "woke up");
                    self.look(Look::Due).await
                }
            };
        }
    }

    /// Shows readers at once that the auth file was taken away or put back, without waiting for the lock.
    fn peek(&self) {
        let (file, record) = self.0.vault.peek(&self.0.policy.profile);
        match (file, record) {
            (keeper::FileFound::Missing | keeper::FileFound::Wiped, _) => {
                self.0.snapshots.withdraw(&self.0.chain)
            }
            (keeper::FileFound::Grant(grant), Some(record)) if grant.pair() == record.pair => {
                self.0.snapshots.publish(&record, &grant);
            }
            (keeper::FileFound::Grant(_) | keeper::FileFound::Malformed(_), _) => {}
        }
    }

    /// The chain as it stands, without the lock and without changing anything.
    pub fn glance(&self) -> (Report, Option<Record>) {
        let now = self.0.world.now();
        let (file, record) = self.0.vault.peek(&self.0.policy.profile);
        let (chain, policy) = (&self.0.chain, &self.0.policy);
        let report =
            |record: Option<&Record>, present, reason| Report::new(chain, record, present, reason, now);
        if !self.0.accepted {
            return (self.terms_not_accepted(), record);
        }
        let fault = |error| (error, Some(error));
        let shown = match (file, &record) {
            (keeper::FileFound::Missing | keeper::FileFound::Wiped, _) => {
                report(record.as_ref(), false, fault(Reason::TokenAbsent))
            }
            (keeper::FileFound::Malformed(what), _) => {
                report(record.as_ref(), false, fault(Reason::AuthFileMalformed))
                    .detail(Some(what.to_string()))
            }
            (keeper::FileFound::Grant(grant), Some(record)) if grant.pair() == record.pair => {
                let reason = match keeper::decide(record, policy, Look::Due, now) {
                    Decision::Rest { reason, error } => (reason, error),
                    Decision::Exchange(reason) => (reason, record.failures.map(|failures| failures.reason)),
                };
                report(Some(record), true, reason)
            }
            // Not looked at yet: shown as it would be taken in, and left alone.
            (keeper::FileFound::Grant(grant), before) => {
                let mut rng = self.0.world.rng();
                let taken = keeper::take_in(chain, before.as_ref(), &grant, false, policy, now, &mut rng);
                report(Some(&taken), true, (Reason::FileChanged, None))
            }
        };
        (shown, record)
    }

    /// The grant that the vault holds, without the lock.
    pub fn grant(&self) -> Option<evergrant_core::grant::Grant> {
        match self.0.vault.peek(&self.0.policy.profile).0 {
            keeper::FileFound::Grant(grant) => Some(grant),
            keeper::FileFound::Missing | keeper::FileFound::Wiped | keeper::FileFound::Malformed(_) => None,
        }
    }

    /// Forgets pairs that were replaced before `before`; a chain that is busy is left for the next time.
    pub async fn forget_replaced(&self, before: Timestamp) {
        let keeper = self.clone();
        let forgotten = self.0.world.offload(move || {
            let held = keeper.0.vault.lock(keeper.0.world.monotonic()).ok()?;
            held.prune_replaced(before).err()
        });
        if let Some(error) = forgotten.await {
            tracing::warn!(chain = %self.0.chain, %error, "old fingerprints could not be forgotten");
        }
    }

    /// Makes the loop look, if it runs.
    fn poke(&self) {
        self.last(|last| {
            if let Some(wake) = &last.wake {
                let _ = wake.unbounded_send(Wake::Look);
            }
        });
    }
}

/// What an event says besides the chain and its position.
struct NewEvent {
    at: Timestamp,
    kind: evergrant_core::event::EventKind,
    reason: Reason,
    attempt: Option<evergrant_core::AttemptId>,
    detail: serde_json::Value,
}

/// One line of the log for a look.
pub(crate) fn log(report: &Report) {
    let Report { chain, reason, lineage, generation, took_ms, detail, .. } = report;
    let lineage = lineage.map(|lineage| lineage.0);
    let generation = generation.map(|generation| generation.0);
    let detail = detail.as_deref();
    match (report.error, report.refreshed) {
        (Some(error), _) => {
            tracing::warn!(%chain, %error, lineage, generation, took_ms, detail, "the chain needs attention")
        }
        (None, true) => {
            tracing::info!(%chain, %reason, lineage, generation, took_ms, "the chain was renewed")
        }
        (None, false) => tracing::debug!(%chain, %reason, lineage, generation, took_ms, "looked"),
    }
}
