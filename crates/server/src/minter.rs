//! Drives a chain whose renewal spends nothing: mints its access token ahead of the end of the last one, from the
//! identity token in a file or from the client's own id and secret (SPEC §3). What is decided is decided in `core`.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evergrant_core::chain::Kind;
use evergrant_core::event::{Event, EventKind};
use evergrant_core::gateway::Position;
use evergrant_core::keeper::{Answer, Look, NewTokens, Policy, Report, Unspent};
use evergrant_core::minter::{self, Attempt, Decision, Mint};
use evergrant_core::provider::{Profile, TokenRequest};
use evergrant_core::{ChainName, Fingerprint, Generation, Lineage, Reason};
use evergrant_store::{State, secret_file};
use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use futures_util::future::{Either, FutureExt, Shared, select};
use jiff::Timestamp;
use serde_json::json;

use crate::keeper::{Wake, clock_offset, log};
use crate::metrics::Metrics;
use crate::renewable::Renewable;
use crate::snapshot::{Current, Snapshots};
use crate::traces::Exchange;
use crate::world::World;

/// What access tokens are minted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grounds {
    /// The file of the identity token, read anew each time (`jwt_bearer`); `None`: the client's own id and secret
    /// (`client_credentials`).
    pub identity_token_file: Option<PathBuf>,
    /// More members of the request.
    pub members: Vec<(String, String)>,
}

impl Grounds {
    /// The kind of chain that this makes.
    pub fn kind(&self) -> Kind {
        if self.identity_token_file.is_some() { Kind::JwtBearer } else { Kind::ClientCredentials }
    }
}

/// The minter of one chain. Cheap to clone.
pub struct Minter<W: World>(Arc<Inner<W>>);

impl<W: World> std::fmt::Debug for Minter<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Minter").field(&self.0.chain).finish()
    }
}

impl<W: World> Clone for Minter<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<W: World> {
    world: W,
    chain: ChainName,
    policy: Policy,
    grounds: Grounds,
    snapshots: Snapshots,
    metrics: Metrics,
    last: Mutex<Last>,
}

/// What the minter remembers between two looks.
#[derive(Debug, Default)]
struct Last {
    mint: Mint,
    report: Option<Report>,
    /// The exchange in flight: whoever looks meanwhile waits for its report.
    exchanging: Option<Shared<oneshot::Receiver<Report>>>,
    /// The identity token that was read last; the inner `None`: none could be read.
    identity: Option<Option<Fingerprint>>,
    clock_offset_secs: Option<i64>,
}

impl<W: World> Renewable for Minter<W> {
    fn chain(&self) -> &ChainName {
        &self.0.chain
    }

    fn profile(&self) -> &Profile {
        &self.0.policy.profile
    }

    fn last_report(&self) -> Option<Report> {
        self.last().report.clone()
    }

    async fn access_refused(&self, position: Position) -> Report {
        {
            let mut last = self.last();
            last.mint = minter::access_refused(std::mem::take(&mut last.mint), position);
        }
        // Also where an earlier minter of this process published it.
        if let Some(current) = self.0.snapshots.current(&self.0.chain)
            && current.position == position
        {
            self.0.snapshots.put(&self.0.chain, Current { refused: true, ..current });
        }
        self.look(Look::Due).await
    }
}

impl<W: World> Minter<W> {
    /// A minter that has not looked yet.
    pub fn new(
        world: W,
        chain: ChainName,
        policy: Policy,
        grounds: Grounds,
        snapshots: Snapshots,
        metrics: Metrics,
    ) -> Self {
        let last = Mutex::default();
        Self(Arc::new(Inner { world, chain, policy, grounds, snapshots, metrics, last }))
    }

    /// What access tokens are minted from.
    pub fn grounds(&self) -> &Grounds {
        &self.0.grounds
    }

    /// Its provider and timing.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// How far the provider's clock was ahead of ours at its last answer.
    pub fn clock_offset_secs(&self) -> Option<i64> {
        self.last().clock_offset_secs
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the chain and mints what is due, or what is asked for. While an exchange is in flight every look waits
    /// for that one. The work goes on if the caller leaves.
    pub async fn look(&self, look: Look) -> Report {
        let begun = self.0.world.monotonic();
        let report = match self.begin(look) {
            Begun::Rests(report) => report,
            Begun::Exchanges(report) => report.await.unwrap_or_else(|oneshot::Canceled| {
                // The task died by a panic; the loop looks again.
                self.report((Reason::ProviderUnavailable, Some(Reason::ProviderUnavailable)))
            }),
        };
        report.took(self.0.world.monotonic().saturating_sub(begun))
    }

    /// Decides, and begins an exchange if there is to be one and none is in flight.
    fn begin(&self, look: Look) -> Begun {
        let now = self.0.world.now();
        let mut last = self.last();
        let exchanging = last.exchanging.clone();
        let decision = minter::decide(&last.mint, exchanging.is_some(), &self.0.policy, look, now);
        match (decision, exchanging) {
            (Decision::Join, Some(exchanging)) => Begun::Exchanges(exchanging),
            (Decision::Rest { reason, error }, _) => {
                let report = minter::report(&self.0.chain, &last.mint, (reason, error), now);
                let said = last.report.take().filter(|before| before.error == error && error.is_some());
                let report = report.detail(said.and_then(|before| before.detail));
                last.report = Some(report.clone());
                drop(last);
                self.0.metrics.looked(&report);
                Begun::Rests(report)
            }
            (Decision::Join, None) => unreachable!("only what is in flight is waited for"),
            (Decision::Exchange(why), _) => {
                let (done, report) = oneshot::channel();
                let report = report.shared();
                last.exchanging = Some(report.clone());
                drop(last);
                let minter = self.clone();
                self.0.world.spawn(async move {
                    let exchanging = Exchanging(minter);
                    let report = exchanging.0.exchange(why).await;
                    drop(exchanging);
                    let _ = done.send(report);
                });
                Begun::Exchanges(report)
            }
        }
    }

    fn report(&self, reason: (Reason, Option<Reason>)) -> Report {
        minter::report(&self.0.chain, &self.last().mint, reason, self.0.world.now())
    }

    /// One exchange and what it leaves: the only place that changes what the chain has.
    async fn exchange(&self, why: Reason) -> Report {
        tracing::trace!(chain = %self.0.chain, %why, "minting");
        let (attempt, detail) = match self.request().await {
            Ok(request) => self.send(request, why).await,
            Err(unusable) => {
                let unspent = Unspent { reason: Reason::IdentityTokenUnusable, retry_after: None };
                (Attempt::Failed(unspent), Some(unusable.to_string()))
            }
        };
        let before = self.0.snapshots.current(&self.0.chain);
        let (now, mut rng) = (self.0.world.now(), self.0.world.rng());
        let seen = match &attempt {
            Attempt::Minted(_) => self.seen().await,
            Attempt::Failed(_) => Vec::new(),
        };
        let record = match &attempt {
            Attempt::Minted(_) => self.record_lineage().await,
            Attempt::Failed(_) => None,
        };
        let position =
            minter::next_position(seen.into_iter().chain(before.map(|current| current.position)), record);
        let mint = {
            let mut last = self.last();
            let before = std::mem::take(&mut last.mint);
            last.mint = minter::settle(before, &attempt, position, &self.0.policy, now, &mut rng);
            last.mint.clone()
        };
        let event = match &attempt {
            Attempt::Minted(tokens) => self.publish(tokens, &mint),
            Attempt::Failed(unspent) => self.failed(*unspent, &mint, detail.as_deref(), now),
        };
        self.remember(event).await;
        let reason = match &mint.failures {
            Some(failures) => (failures.reason, Some(failures.reason)),
            None => (Reason::Renewed, None),
        };
        let report = minter::report(&self.0.chain, &mint, reason, now);
        let report = report.refreshed(mint.failures.is_none()).detail(detail);
        self.0.metrics.looked(&report);
        log(&report);
        self.last().report = Some(report.clone());
        report
    }

    /// The request, with the identity token as it lies in its file now.
    async fn request(&self) -> Result<TokenRequest, secret_file::Unusable> {
        let minter = self.clone();
        let read = move || {
            let file = minter.0.grounds.identity_token_file.as_deref();
            let identity = file.map(secret_file::identity_token).transpose();
            let seen = identity.as_ref().map(|token| token.as_ref().map(|token| token.fingerprint()));
            minter.last().identity = Some(seen.unwrap_or_default());
            let identity = identity?;
            Ok(minter.0.policy.profile.mint_request(identity.as_ref(), &minter.0.grounds.members))
        };
        self.0.world.offload(read).await
    }

    /// Sends it and waits until the deadline. What is given up on has spent nothing.
    async fn send(&self, request: TokenRequest, why: Reason) -> (Attempt, Option<String>) {
        let world = &self.0.world;
        let begun = world.monotonic();
        let (answer, limit) = (pin!(world.exchange(request)), pin!(world.sleep(self.0.policy.deadline)));
        let answer = match select(answer, limit).await {
            Either::Left((answer, _)) => answer,
            Either::Right(((), _)) => {
                Answer::Lost { why: format!("no answer within {} s", self.0.policy.deadline.as_secs()) }
            }
        };
        let (now, took) = (world.now(), world.monotonic().saturating_sub(begun));
        self.0.metrics.exchanged(&self.0.chain, took);
        let (chain, answered) = (&self.0.chain, Some(&answer));
        world.traces().exchanged(&Exchange {
            chain,
            position: None,
            why,
            answer: answered,
            ended: now,
            took,
        });
        if let Some(offset) = clock_offset(&self.0.chain, &answer, now) {
            self.last().clock_offset_secs = Some(offset);
        }
        let attempt = minter::read(&answer, now);
        let detail = match (&attempt, &answer) {
            (Attempt::Minted(_), _) => None,
            (Attempt::Failed(_), Answer::Received { status: 200, complete: true, .. }) => {
                Some(format!("{}, without an access token", answer.in_words()))
            }
            (Attempt::Failed(_), _) => Some(answer.in_words()),
        };
        (attempt, detail)
    }

    /// Where the ledger says that the chain stands: also other processes mint, and this one may have begun anew.
    async fn seen(&self) -> Vec<Position> {
        let newest = self.0.world.state().latest_events(&self.0.chain, 1).await;
        let newest = newest.unwrap_or_else(|error| {
            tracing::warn!(chain = %self.0.chain, %error, "the ledger cannot be read; generations may be numbered twice");
            Vec::new()
        });
        newest.into_iter().map(|numbered| (numbered.event.lineage, numbered.event.generation)).collect()
    }

    /// The lineage of the grant that was the chain's before, if it was of another kind.
    async fn record_lineage(&self) -> Option<Lineage> {
        let record = self.0.world.state().record(&self.0.chain).await;
        record.ok().flatten().map(|record| record.lineage)
    }

    fn publish(&self, tokens: &NewTokens, mint: &Mint) -> Option<Event> {
        let minted = mint.minted.as_ref()?;
        let next = Current {
            position: minted.position,
            access: tokens.access.clone(),
            expires_at: minted.expires_at,
            refused: false,
            present: true,
        };
        if !self.0.snapshots.put(&self.0.chain, next) {
            tracing::debug!(chain = %self.0.chain, "a newer access token is published already");
        }
        let detail = json!({
            "access_fingerprint": tokens.access.fingerprint(), "kind": self.grounds().kind().as_str(),
            "expires_at": minted.expires_at, "renew_at": minted.renew_at,
        });
        Some(self.event(EventKind::Committed, Reason::Renewed, minted.position, minted.minted_at, detail))
    }

    fn failed(&self, unspent: Unspent, mint: &Mint, detail: Option<&str>, now: Timestamp) -> Option<Event> {
        let none_yet = (Lineage::FIRST, Generation(0));
        let position = mint.minted.as_ref().map_or(none_yet, |minted| minted.position);
        let reason = mint.failures.map_or(unspent.reason, |failures| failures.reason);
        Some(self.event(EventKind::Unspent, reason, position, now, json!({ "answer": detail })))
    }

    fn event(
        &self,
        kind: EventKind,
        reason: Reason,
        (lineage, generation): Position,
        at: Timestamp,
        detail: serde_json::Value,
    ) -> Event {
        Event { chain: self.0.chain.clone(), at, kind, reason, lineage, generation, attempt: None, detail }
    }

    async fn remember(&self, event: Option<Event>) {
        let Some(event) = event else { return };
        if let Err(error) = self.0.world.state().add_events(&[event]).await {
            let reason = Reason::StateUnwritable;
            tracing::warn!(chain = %self.0.chain, %reason, %error, "this is not in the ledger");
            self.0.metrics.state_unwritable(&self.0.chain);
        }
    }

    /// Mints ahead of time until `wakes` ends. `wakes` may say so as often as it likes; a look is idempotent.
    pub async fn run(&self, mut wakes: mpsc::UnboundedReceiver<Wake>) {
        self.look(Look::Due).await;
        loop {
            let now = self.0.world.now();
            let (at, reason) = minter::next_look(&self.last().mint, &self.0.policy, now);
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            let sleep = pin!(self.0.world.sleep(wait));
            match select(wakes.next(), sleep).await {
                Either::Left((None, _)) => return,
                Either::Left((Some(Wake::FileChanged), _)) => {
                    if !self.identity_changed().await {
                        continue;
                    }
                    self.look(Look::Due).await;
                }
                Either::Left((Some(Wake::AccessRefused(lineage, generation)), _)) => {
                    self.access_refused((lineage, generation)).await;
                }
                Either::Left((Some(Wake::Look), _)) => {
                    self.look(Look::Due).await;
                }
                Either::Right(((), _)) => {
                    tracing::trace!(chain = %self.0.chain, %reason, "woke up");
                    self.look(Look::Due).await;
                }
            }
        }
    }

    /// Whether the file holds another identity token than the one that was read last; what failed for that one need
    /// not wait any longer.
    async fn identity_changed(&self) -> bool {
        let minter = self.clone();
        let changed = move || {
            let Some(file) = &minter.0.grounds.identity_token_file else { return false };
            let found = secret_file::identity_token(file).ok().map(|token| token.fingerprint());
            let mut last = minter.last();
            let changed = last.identity.is_some_and(|known| known != found);
            if changed {
                last.identity = Some(found);
                last.mint = minter::identity_changed(std::mem::take(&mut last.mint));
            }
            changed
        };
        self.0.world.offload(changed).await
    }
}

/// What a look begins.
enum Begun {
    Rests(Report),
    Exchanges(Shared<oneshot::Receiver<Report>>),
}

/// The exchange in flight; it is over when this is dropped, also by a panic.
struct Exchanging<W: World>(Minter<W>);

impl<W: World> Drop for Exchanging<W> {
    fn drop(&mut self) {
        self.0.last().exchanging = None;
    }
}
