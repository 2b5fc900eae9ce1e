//! A chain that is an API key: reads it from its file, shows it to readers, and takes another one that is put there
//! (SPEC §3, §7). What is decided is decided in `core`.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evergrant_core::api_key::{self, Held};
use evergrant_core::event::{Event, EventKind};
use evergrant_core::gateway::Position;
use evergrant_core::keeper::Report;
use evergrant_core::provider::Profile;
use evergrant_core::secret::{AccessToken, ApiKey};
use evergrant_core::{ChainName, Fingerprint, Reason};
use evergrant_store::secret_file::{self, Tightened};
use evergrant_store::{State, state::Numbered};
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::keeper::{Wake, log};
use crate::metrics::Metrics;
use crate::renewable::Renewable;
use crate::snapshot::{Current, Snapshots};
use crate::world::World;

/// How long a file that gives no key any more may be in somebody's hands.
const BEING_WRITTEN: Duration = Duration::from_millis(50);

/// A chain that is an API key. Cheap to clone.
pub struct ApiKeyChain<W: World>(Arc<Inner<W>>);

impl<W: World> std::fmt::Debug for ApiKeyChain<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ApiKeyChain").field(&self.0.chain).finish()
    }
}

impl<W: World> Clone for ApiKeyChain<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<W: World> {
    world: W,
    chain: ChainName,
    profile: Profile,
    file: PathBuf,
    snapshots: Snapshots,
    metrics: Metrics,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    held: Option<Held>,
    report: Option<Report>,
    /// It was said that the file is open to others.
    open: bool,
}

impl<W: World> Renewable for ApiKeyChain<W> {
    fn chain(&self) -> &ChainName {
        &self.0.chain
    }

    fn profile(&self) -> &Profile {
        &self.0.profile
    }

    fn last_report(&self) -> Option<Report> {
        self.last().report.clone()
    }

    async fn access_refused(&self, position: Position) -> Report {
        let now = self.0.world.now();
        let news = {
            let mut last = self.last();
            let before = last.held;
            last.held = before.map(|held| api_key::refused(held, position, now));
            last.held.filter(|held| before != Some(*held))
        };
        if let Some(held) = news {
            self.remember(&held, EventKind::Found, Reason::ApiKeyRefused, now).await;
        }
        self.look().await
    }

    fn is_api_key(&self) -> bool {
        true
    }
}

impl<W: World> ApiKeyChain<W> {
    /// A chain whose file was not looked at yet.
    pub fn new(
        world: W,
        chain: ChainName,
        profile: Profile,
        file: PathBuf,
        snapshots: Snapshots,
        metrics: Metrics,
    ) -> Self {
        let last = Mutex::default();
        Self(Arc::new(Inner { world, chain, profile, file, snapshots, metrics, last }))
    }

    /// The file that holds the key.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file, and shows readers what it holds. A forced look does nothing else: there is nothing to renew.
    pub async fn look(&self) -> Report {
        let begun = self.0.world.monotonic();
        if self.last().held.is_none() {
            self.recall().await;
        }
        let mut found = self.read().await;
        if found.is_err() && self.last().held.is_some() {
            // Whoever writes over a file empties it first.
            self.0.world.sleep(BEING_WRITTEN).await;
            found = self.read().await;
        }
        let now = self.0.world.now();
        let report = match found {
            Ok(key) => self.hold(&key, now).await,
            Err(unusable) => {
                self.0.snapshots.withdraw(&self.0.chain);
                api_key::report(&self.0.chain, self.last().held, Some(unusable), now)
            }
        };
        let report = report.took(self.0.world.monotonic().saturating_sub(begun));
        self.0.metrics.looked(&report);
        let news = self.last().report.as_ref().is_none_or(|last| last.error != report.error);
        if news || report.error.is_none() {
            log(&report);
        }
        self.last().report = Some(report.clone());
        report
    }

    async fn read(&self) -> Result<ApiKey, String> {
        let chain = self.clone();
        self.0.world.offload(move || chain.tighten_and_peek()).await
    }

    fn tighten_and_peek(&self) -> Result<ApiKey, String> {
        let (file, shown) = (&self.0.file, self.0.file.display());
        match secret_file::tighten(file) {
            Tightened::Fine => {}
            Tightened::Done => {
                tracing::warn!(file = %shown, "the API key was open to others; tightened to 0600")
            }
            Tightened::Failed(why) if !std::mem::replace(&mut self.last().open, true) => {
                tracing::warn!(file = %shown, why, "the API key is open to others; take that from them")
            }
            Tightened::Failed(_) => {}
        }
        self.peek()
    }

    /// The key that the file holds, without changing anything; or why it holds none.
    pub fn peek(&self) -> Result<ApiKey, String> {
        let (file, shown) = (&self.0.file, self.0.file.display());
        let key = secret_file::api_key(file).map_err(|error| error.to_string())?;
        self.0.profile.api_key_place(key.expose()).map_err(|wrong| format!("{shown} {wrong}"))?;
        Ok(key)
    }

    /// Which key the ledger or the snapshots know: one that is the same keeps its place.
    async fn recall(&self) {
        let newest = self.0.world.state().latest_events(&self.0.chain, 1).await.unwrap_or_default();
        let of_ledger = newest.first().and_then(held_of);
        let shown = self.0.snapshots.current(&self.0.chain).map(|current| Held {
            position: current.position,
            fingerprint: current.access.fingerprint(),
            refused_at: None,
        });
        self.last().held = shown.or(of_ledger);
    }

    async fn hold(&self, key: &ApiKey, now: Timestamp) -> Report {
        let (held, news) = {
            let mut last = self.last();
            let before = last.held;
            let held = api_key::take_in(before, key.fingerprint(), now);
            last.held = Some(held);
            (held, before.is_none_or(|before| before.fingerprint != held.fingerprint))
        };
        // The one type of the snapshots: whoever injects it asks the chain's kind.
        if let Ok(access) = AccessToken::parse(key.expose()) {
            let refused = held.refused_at.is_some();
            let next = Current {
                position: held.position,
                access,
                expires_at: Timestamp::MAX,
                refused,
                present: true,
            };
            self.0.snapshots.put(&self.0.chain, next);
        }
        if news {
            self.remember(&held, EventKind::Adopted, Reason::Adopted, now).await;
        }
        api_key::report(&self.0.chain, Some(held), None, now)
    }

    async fn remember(&self, held: &Held, kind: EventKind, reason: Reason, at: Timestamp) {
        let (lineage, generation) = held.position;
        let detail = json!({ "access_fingerprint": held.fingerprint, "kind": "api_key" });
        let chain = self.0.chain.clone();
        let event = Event { chain, at, kind, reason, lineage, generation, attempt: None, detail };
        if let Err(error) = self.0.world.state().add_events(&[event]).await {
            let reason = Reason::StateUnwritable;
            tracing::warn!(chain = %self.0.chain, %reason, %error, "this is not in the ledger");
            self.0.metrics.state_unwritable(&self.0.chain);
        }
    }

    /// Whether the file says anything else than at the last look.
    async fn changed(&self) -> bool {
        let chain = self.clone();
        let found = self.0.world.offload(move || chain.peek()).await.ok().map(|key| key.fingerprint());
        let last = self.last();
        let unusable =
            last.report.as_ref().is_some_and(|report| report.error == Some(Reason::ApiKeyUnusable));
        found != last.held.filter(|_| !unusable).map(|held| held.fingerprint)
    }

    /// Shows the key until `wakes` ends.
    pub async fn run(&self, mut wakes: mpsc::UnboundedReceiver<Wake>) {
        let mut news = true;
        loop {
            if std::mem::replace(&mut news, true) {
                self.look().await;
            }
            let now = self.0.world.now();
            let at = api_key::next_look(self.last().held, now);
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            let sleep = pin!(self.0.world.sleep(wait));
            match select(wakes.next(), sleep).await {
                Either::Left((None, _)) => return,
                Either::Left((Some(Wake::AccessRefused(lineage, generation)), _)) => {
                    self.access_refused((lineage, generation)).await;
                }
                Either::Left((Some(Wake::FileChanged), _)) => news = self.changed().await,
                Either::Left((Some(Wake::Look), _)) | Either::Right(((), _)) => {}
            }
        }
    }
}

/// What the newest line of the ledger says of the key.
fn held_of(newest: &Numbered) -> Option<Held> {
    let Event { lineage, generation, detail, .. } = &newest.event;
    let fingerprint: Fingerprint = detail.get("access_fingerprint").and_then(Value::as_str)?.parse().ok()?;
    Some(Held { position: (*lineage, *generation), fingerprint, refused_at: None })
}
