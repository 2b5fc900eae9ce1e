//! What a refused access token sets off: the probe is asked once, and a token that is dead there too is renewed
//! once, however many requests met with it (SPEC §7).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::event::{Event, EventKind};
use evergrant_core::gateway::Position;
use evergrant_core::probe::Verdict;
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Reason};
use evergrant_store::{State as _, VaultState};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use serde_json::json;
use tokio::runtime::Handle;

use super::plane::Renewer;
use crate::http::HttpClient;
use crate::probe::probe_token;
use crate::renewable::Pass;
use crate::snapshot::Snapshots;
use crate::world::World;

/// A grant that is refused again and again is written down once in so long.
const GRANT_REFUSED_EVERY: Duration = Duration::from_secs(60);
/// A probe that takes longer says nothing.
const PROBE: Duration = Duration::from_secs(5);

/// What is done with the access token of a generation.
pub type Act = Box<dyn Fn(Position) -> BoxFuture<'static, ()> + Send + Sync>;

/// Looks after one chain's access token, on the runtime where its keeper lives.
pub struct ChainRenewer(Arc<Inner>);

struct Inner {
    chain: ChainName,
    profile: Profile,
    client: HttpClient,
    snapshots: Snapshots,
    runtime: Handle,
    renew: Act,
    note_grant_refused: Act,
    /// One look at each generation at a time.
    looks: Mutex<HashMap<Position, Shared<BoxFuture<'static, ()>>>>,
}

impl fmt::Debug for ChainRenewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ChainRenewer").field(&self.0.chain).finish()
    }
}

impl ChainRenewer {
    /// `renew` renews the token of a generation that is still current; `note_grant_refused` writes down that a
    /// grant may not do what was asked of it. Both run on `runtime`.
    pub fn new(
        chain: ChainName,
        profile: Profile,
        client: HttpClient,
        snapshots: Snapshots,
        runtime: Handle,
        renew: Act,
        note_grant_refused: Act,
    ) -> Self {
        let looks = Mutex::default();
        Self(Arc::new(Inner { chain, profile, client, snapshots, runtime, renew, note_grant_refused, looks }))
    }
}

impl Renewer for ChainRenewer {
    fn refused(&self, position: Position) -> BoxFuture<'static, ()> {
        let inner = &self.0;
        let mut looks = inner.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let look = looks.entry(position).or_insert_with(|| {
            let looking = inner.clone();
            let task = inner.runtime.spawn(async move {
                looking.look(position).await;
                looking.looks.lock().unwrap_or_else(PoisonError::into_inner).remove(&position);
            });
            // A look that panicked says no more than one that found nothing.
            task.map(drop).boxed().shared()
        });
        look.clone().boxed()
    }

    fn grant_refused(&self, position: Position) {
        drop(self.0.runtime.spawn((self.0.note_grant_refused)(position)));
    }
}

impl Inner {
    async fn look(&self, position: Position) {
        let current = self.snapshots.current(&self.chain);
        let Some(current) = current.filter(|current| current.position == position && !current.refused) else {
            return;
        };
        let pass = Pass::AccessToken(current.access);
        let probing = probe_token(&self.client, &self.profile, &pass, None);
        let verdict = tokio::time::timeout(PROBE, probing).await.ok().map(|probed| probed.verdict);
        tracing::info!(
            chain = %self.chain, lineage = %position.0, generation = %position.1,
            probe = %verdict.as_ref().map_or("no answer".into(), |verdict| verdict.reason().to_string()),
            "the API refused the access token"
        );
        match verdict {
            Some(Verdict::Works | Verdict::Limited) => {}
            Some(Verdict::Refused | Verdict::Unavailable) | None => (self.renew)(position).await,
        }
    }
}

/// Writes down in log and ledger that a grant may not do what was asked of it.
pub fn note_grant_refused<W: World<State: VaultState>>(world: W, chain: ChainName) -> Act {
    let last: Arc<Mutex<Option<(Position, Duration)>>> = Arc::default();
    Box::new(move |position| {
        let (last, world, chain) = (last.clone(), world.clone(), chain.clone());
        async move {
            let now = world.monotonic();
            {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let again = |(before, at): (Position, Duration)| before == position && now - at < GRANT_REFUSED_EVERY;
                if last.is_some_and(again) {
                    return;
                }
                *last = Some((position, now));
            }
            let (lineage, generation) = position;
            let reason = Reason::GrantRefused;
            tracing::warn!(%reason, %chain, %lineage, %generation, "the grant may not do what a request asked of it");
            let (at, kind, attempt) = (world.now(), EventKind::Found, None);
            let detail = json!({ "by": "gateway" });
            let event =
                Event { chain: chain.clone(), at, kind, reason, lineage, generation, attempt, detail };
            let state = world.state();
            let written = match state.add_events(&[event]).await {
                Ok(()) => state.wake_health(&chain).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                tracing::warn!(%error, "that could not be written to the ledger");
            }
        }
        .boxed()
    })
}
