//! Drives the keeper of chains whose pairs are of record in the database: any number of chains by any number of
//! processes and machines (SPEC §4). What is decided is decided in `core`; what is kept is kept by `store`.

mod answer;
mod follow;
mod found;
mod health;
mod import;
mod look;
mod restored;
mod work;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::chain::{Mark, Record};
use evergrant_core::event::{Event, EventKind};
use evergrant_core::gateway::Position;
use evergrant_core::keeper::{HOLD, LEASE, Look, PAUSE_BOUND, Policy, Report};
use evergrant_core::{AttemptId, ChainName, Reason};
use evergrant_store::marks::Marks;
use evergrant_store::receipts::Receipts;
use evergrant_store::vault::{Claim, Holder, VaultState};
use evergrant_store::{StateError, VaultError};
use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt as _;
use futures_util::future::{Either, join_all, select};
use serde_json::Value;

pub use health::{RowMonitor, RowWatch, RowWatches, Ticked};
pub use look::RowChain;

use crate::metrics::Metrics;
use crate::snapshot::Snapshots;
use crate::world::World;

/// How often the database is asked, and how long leases last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paces {
    /// How often for what is due, when nobody says that something is.
    pub due: Duration,
    /// How often for what others have changed, when nobody tells of it.
    pub changes: Duration,
    /// For so long a claimed row is nobody else's; the policy's deadline is shorter.
    pub lease: Duration,
    /// How long a process may stand still and go on as if nothing had been.
    pub pause_bound: Duration,
    /// For so long after the database was started or restored no token is sent.
    pub hold: Duration,
}

impl Default for Paces {
    fn default() -> Self {
        Self {
            due: Duration::from_secs(1),
            changes: Duration::from_millis(500),
            lease: LEASE,
            pause_bound: PAUSE_BOUND,
            hold: HOLD,
        }
    }
}

/// How often intents are looked for that a process of this machine left open.
const LOOK_FOR_LEFT: Duration = Duration::from_secs(15);
/// Why a keeper rests.
const NAMESAKE: &str = "another server goes by the name of this machine; see the log of this one";
/// How often the receipts that lie here are gone through.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What holds for a chain.
#[derive(Debug, Clone)]
pub struct RowPolicy<W> {
    /// Its provider and timing.
    pub policy: Policy,
    /// The operator has accepted the provider's terms, or there are none.
    pub accepted: bool,
    /// What its provider is reached through.
    pub world: W,
}

/// Says what holds for a chain; nothing if the configuration knows none of that name.
pub type Policies<W> = Arc<dyn Fn(&ChainName) -> Option<Arc<RowPolicy<W>>> + Send + Sync>;

/// What the keeper of a database vault is made of.
pub struct RowParts<W: World> {
    /// Its world.
    pub world: W,
    /// This process, and its machine.
    pub holder: Holder,
    /// What holds for each chain.
    pub policies: Policies<W>,
    /// The answers that lie on this machine.
    pub receipts: Receipts<W::Disk>,
    /// Where this machine last saw each chain.
    pub marks: Marks,
    /// What readers see.
    pub snapshots: Snapshots,
    /// What is counted.
    pub metrics: Metrics,
    /// So many rows are in work at once at most.
    pub most_at_once: usize,
    /// How often the database is asked.
    pub paces: Paces,
    /// Told after each commit of ours, so that other replicas look at once.
    pub committed: Option<mpsc::UnboundedSender<()>>,
}

/// The keeper of the chains of a database vault. Cheap to clone.
pub struct RowKeeper<W: World>(Arc<Inner<W>>);

struct Inner<W: World> {
    parts: RowParts<W>,
    /// The chains that somebody here asks about, and what was last seen of them.
    watched: Mutex<BTreeMap<ChainName, Last>>,
    /// Another one goes by this machine's name.
    rests: AtomicBool,
    /// The incarnation of the database that is compared, or was, with what this machine has seen.
    compared: Mutex<Option<String>>,
}

/// What was last seen of a chain.
#[derive(Debug, Clone, Default)]
struct Last {
    record: Option<Record>,
    report: Option<Report>,
    clock_offset_secs: Option<i64>,
}

impl<W: World> Clone for RowKeeper<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: World> std::fmt::Debug for RowKeeper<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RowKeeper").field(&self.0.parts.holder).finish()
    }
}

/// Why a step could not be done: the chain is looked at again later.
#[derive(Debug, thiserror::Error)]
enum Stuck {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Vault(#[from] VaultError),
}

impl<W: World<State: VaultState>> RowKeeper<W> {
    /// A keeper that has not looked yet.
    pub fn new(parts: RowParts<W>) -> Self {
        Self(Arc::new(Inner {
            parts,
            watched: Mutex::default(),
            rests: AtomicBool::new(false),
            compared: Mutex::default(),
        }))
    }

    fn world(&self) -> &W {
        &self.0.parts.world
    }

    fn state(&self) -> &W::State {
        self.0.parts.world.state()
    }

    fn watched<T>(&self, with: impl FnOnce(&mut BTreeMap<ChainName, Last>) -> T) -> T {
        with(&mut self.0.watched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Touches no row any more while another one goes by the name of this machine: each would say of the other's answers that
    /// they never came. What is in flight is let finish, and readers still see what others commit.
    pub fn rest(&self, rests: bool) {
        self.0.rests.store(rests, Ordering::Relaxed);
    }

    fn rests(&self) -> bool {
        self.0.rests.load(Ordering::Relaxed)
    }

    /// Claims what is due, as much as may be in work at once, and works it off. Gives the reports.
    pub async fn tick(&self) -> Result<Vec<Report>, StateError> {
        if self.rests() {
            return Ok(Vec::new());
        }
        let RowParts { holder, paces, most_at_once, .. } = &self.0.parts;
        Ok(self.work_off(self.state().claim_due(holder, paces.lease, *most_at_once).await?).await)
    }

    /// Works off what a process of this machine left open: no other machine knows what became of it.
    pub async fn settle_left_open(&self) -> Result<Vec<Report>, StateError> {
        if self.rests() {
            return Ok(Vec::new());
        }
        let RowParts { holder, paces, most_at_once, .. } = &self.0.parts;
        Ok(self.work_off(self.state().claim_left_open(holder, paces.lease, *most_at_once).await?).await)
    }

    async fn work_off(&self, claims: Vec<Claim>) -> Vec<Report> {
        let begun = claims.into_iter().map(|claim| self.begin(claim, Look::Due, None));
        join_all(begun).await.into_iter().flatten().collect()
    }

    /// Keeps the chains until `wakes` ends: whatever is due is claimed as soon as there is room for it.
    pub async fn run(&self, mut wakes: mpsc::UnboundedReceiver<()>) {
        let mut failing = false;
        let (done, mut ended) = mpsc::unbounded::<()>();
        let mut at_work = 0_usize;
        let mut left_open_at = Duration::ZERO;
        let mut sweep_at = Duration::ZERO;
        loop {
            let now = self.world().monotonic();
            if now >= left_open_at {
                left_open_at = now + LOOK_FOR_LEFT;
                let keeper = self.clone();
                self.world().spawn(async move { drop(keeper.settle_left_open().await) });
            }
            if now >= sweep_at {
                sweep_at = now + SWEEP_EVERY;
                let keeper = self.clone();
                self.world().spawn(async move { keeper.sweep().await });
            }
            let room = self.0.parts.most_at_once - at_work;
            let claimed = match room {
                0 => Ok(Vec::new()),
                _ if self.rests() => Ok(Vec::new()),
                room => self.state().claim_due(&self.0.parts.holder, self.0.parts.paces.lease, room).await,
            };
            let claims = claimed.unwrap_or_else(|error| {
                if !failing {
                    tracing::error!(reason = %Reason::StateUnavailable, %error, "nothing is renewed without the database");
                }
                failing = true;
                Vec::new()
            });
            failing &= claims.is_empty();
            let full = claims.len() == room;
            at_work += claims.len();
            for claim in claims {
                let work = self.begin(claim, Look::Due, None);
                let done = done.clone();
                self.world().spawn(async move {
                    work.await;
                    let _ = done.unbounded_send(());
                });
            }
            let pause = pin!(self.world().sleep(self.0.parts.paces.due));
            // Where there was more than there is room for, half of it is waited for: claims are taken in batches.
            let enough = if full { at_work.div_ceil(2) } else { usize::MAX };
            match wait(&mut wakes, &mut ended, pause, enough).await {
                Some(done) => at_work -= done,
                None => return,
            }
        }
    }

    /// Begins to work a claimed row off, in a task of its own that nobody cancels. The report may be waited for.
    fn begin(
        &self,
        claim: Claim,
        look: Look,
        refused: Option<Position>,
    ) -> impl Future<Output = Option<Report>> + Send + 'static + use<W> {
        let (done, report) = oneshot::channel();
        let keeper = self.clone();
        self.world().spawn(async move { keeper.work(claim, look, refused, done).await });
        async move { report.await.ok() }
    }

    /// An event of a chain.
    fn event(
        &self,
        record: &Record,
        kind: EventKind,
        reason: Reason,
        attempt: Option<AttemptId>,
        detail: Value,
    ) -> Event {
        Event {
            chain: record.chain.clone(),
            at: self.world().now(),
            kind,
            reason,
            lineage: record.lineage,
            generation: record.generation,
            attempt,
            detail,
        }
    }

    /// What this machine has seen of a chain.
    fn raise(&self, chain: &ChainName, mark: Mark) {
        if let Err(error) = self.0.parts.marks.raise(chain, mark) {
            tracing::error!(%chain, %error, "the high-water mark cannot be kept: a restored database would not be noticed");
        }
    }
}

/// Waits until somebody wakes, until so many rows are done, or until the pause is over. Gives how many are done; nothing
/// once nobody can wake any more.
async fn wait(
    wakes: &mut mpsc::UnboundedReceiver<()>,
    ended: &mut mpsc::UnboundedReceiver<()>,
    mut pause: std::pin::Pin<&mut impl Future<Output = ()>>,
    enough: usize,
) -> Option<usize> {
    let mut done = 0;
    while done < enough {
        match select(select(wakes.next(), ended.next()), pause.as_mut()).await {
            Either::Left((Either::Left((None, _)), _)) => return None,
            Either::Left((Either::Left((Some(()), _)), _)) | Either::Right(((), _)) => break,
            Either::Left((Either::Right(_), _)) => done += 1,
        }
    }
    while ended.try_recv().is_ok() {
        done += 1;
    }
    Some(done)
}
