//! The stage of a drill: a stand-in provider, one chain with its keeper, monitor and alerter, and a clock that can be
//! moved on.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evergrant_core::alert::{Alert, Links, Outcome, Reminding};
use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::Kind;
use evergrant_core::gateway::FallbackOn;
use evergrant_core::grant::Grant;
use evergrant_core::health::Expected;
use evergrant_core::keeper::{Look, Policy, Report};
use evergrant_core::provider::Profile;
use evergrant_core::{ApiKey, ChainName, Reason};
use evergrant_server::alert::{Alerter, Deliver};
use evergrant_server::gateway::{DayCount, FallbackKey};
use evergrant_server::health::{Alerting, Monitor, WatchedChain};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::{Callers, Chain, Keeper, Moved, Renewal, Snapshots, TokioWorld, Wake, World};
use evergrant_standin::{Fault, FaultTarget, LoginOptions, StandIn};
use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{AuthFile, OsDisk, SqliteState, watch};
use futures_channel::mpsc;
use jiff::SignedDuration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::Off;

/// The sink of the drills.
const SINK: &str = "rehearsal";

/// The real world, with a wall clock that can be moved on.
pub(super) type DrillWorld = Moved<TokioWorld<SqliteState>>;

/// A sink that keeps what it gets.
#[derive(Debug, Default)]
struct Kept(Mutex<Vec<Alert>>);

impl Deliver for Kept {
    async fn deliver(&self, _sink: &str, alert: &Alert) -> Outcome {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(alert.clone());
        Outcome::Delivered
    }
}

/// Everything that a drill works with.
pub(super) struct Stage {
    pub(super) standin: StandIn,
    pub(super) world: DrillWorld,
    ahead_secs: Arc<AtomicI64>,
    pub(super) keeper: Keeper<DrillWorld>,
    pub(super) snapshots: Snapshots,
    pub(super) callers: Callers,
    pub(super) metrics: Metrics,
    pub(super) file: PathBuf,
    pub(super) fallback: Option<FallbackKey>,
    pub(super) folder: TempDir,
    monitor: Option<Monitor<DrillWorld, WatchedChain<DrillWorld>>>,
    alerter: Option<Alerter<DrillWorld, Kept>>,
    kept: Arc<Kept>,
    looping: JoinHandle<()>,
    wake: mpsc::UnboundedSender<Wake>,
    _watch: Option<watch::Watch>,
}

impl Stage {
    pub(super) async fn set(off: Option<Off>) -> Result<Self, String> {
        let profile = Profile::claude();
        let fallback_key =
            format!("{}rehearsal-not-a-key", profile.api_key_prefix.as_deref().unwrap_or_default());
        let mut settings = crate::like(&profile);
        settings.api_keys = vec![fallback_key.clone()];
        let standin = StandIn::start(settings).await.map_err(|error| error.to_string())?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = folder.path().join("auth.json");
        let login = standin.engine().login(LoginOptions::default()).auth_file();
        std::fs::write(&file, format!("{login:#}\n")).map_err(|error| error.to_string())?;
        let state = SqliteState::open(&folder.path().join("state.db")).map_err(|error| error.to_string())?;
        let client = HttpClient::new(None).map_err(|error| error.to_string())?;
        let ahead_secs = Arc::<AtomicI64>::default();
        let ahead = ahead_secs.clone();
        let later = move |now| now + SignedDuration::from_secs(ahead.load(Ordering::Acquire));
        let world = Moved::new(TokioWorld::new(state, client), 1, later);
        let policy = Policy {
            min_exchange_interval: Duration::ZERO,
            deadline: Duration::from_secs(5),
            ..Policy::new(crate::towards(profile, &standin.url()))
        };
        if off == Some(Off::Exchange) {
            standin.engine().push_fault(FaultTarget::Token, Fault::RequestLost, u32::MAX);
        }
        let chain: ChainName = "claude".parse().map_err(|error| format!("{error}"))?;
        let vault = AuthFile::new(OsDisk, file.clone(), folder.path().join("vault"), TakeClientLocks::Never);
        let (snapshots, metrics) = (Snapshots::default(), Metrics::default());
        let keeper =
            Keeper::new(world.clone(), chain, policy, true, vault, snapshots.clone(), metrics.clone());
        let callers = Callers::load(world.state()).await.map_err(|error| error.to_string())?;
        let fallback = (off != Some(Off::FallbackKey)).then(|| fallback_of(&fallback_key)).transpose()?;
        let watched = WatchedChain {
            chain: Chain {
                renewal: Renewal::Keeper(keeper.clone()),
                kind: Kind::RefreshToken,
                world: world.clone(),
            },
            snapshots: snapshots.clone(),
            fallback: fallback.clone(),
            push: off != Some(Off::PushTrack),
            expected: Expected::Always,
            token_read: false,
            callers: callers.clone(),
        };
        let server = "http://127.0.0.1".to_owned();
        let links = Links { runbook: format!("{server}/runbook"), server };
        let sinks = Arc::new(|_: &Alert| vec![SINK.to_owned()]);
        let alerting = Alerting { links, reminding: Reminding::default(), sinks };
        let monitor = Monitor::new(world.clone(), vec![watched], alerting);
        let kept = Arc::new(Kept::default());
        let alerter = Alerter::new(world.clone(), [SINK.to_owned()], "drill", kept.clone());
        let (wake, woken) = mpsc::unbounded();
        let (kept_by, own_wake, tell) = (keeper.clone(), wake.clone(), wake.clone());
        let looping = tokio::spawn(async move { kept_by.run(woken, own_wake).await });
        let watch = (off != Some(Off::Watch))
            .then(|| {
                watch::watch(std::slice::from_ref(&file), move || {
                    let _ = tell.unbounded_send(Wake::FileChanged);
                })
            })
            .transpose()
            .map_err(|error| error.to_string())?;
        let stage = Self {
            standin,
            world,
            ahead_secs,
            keeper,
            snapshots,
            callers,
            metrics,
            file,
            fallback,
            folder,
            monitor: (off != Some(Off::Monitor)).then_some(monitor),
            alerter: (off != Some(Off::Alerter)).then_some(alerter),
            kept,
            looping,
            wake,
            _watch: watch,
        };
        super::until(Duration::from_secs(10), || stage.keeper.last_report().is_some()).await;
        stage.watch_health().await?;
        Ok(stage)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.world.monotonic()
    }

    /// A forced exchange; where the keeper's own loop is at it, after that.
    pub(super) async fn force(&self) -> Report {
        loop {
            let report = self.keeper.look(Look::Forced).await;
            if report.reason != Reason::LeaseHeld {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One look of the health monitor, and the alerts that it makes on their way.
    pub(super) async fn watch_health(&self) -> Result<(), String> {
        if let Some(monitor) = &self.monitor {
            monitor.tick().await.map_err(|error| error.to_string())?;
        }
        if let Some(alerter) = &self.alerter {
            alerter.deliver_all(SINK).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Lets minutes pass, with a look at health in each.
    pub(super) async fn minutes(&self, minutes: u32) -> Result<(), String> {
        for _ in 0..minutes {
            self.ahead_secs.fetch_add(60, Ordering::AcqRel);
            self.standin.engine().advance(SignedDuration::from_mins(1));
            self.watch_health().await?;
        }
        Ok(())
    }

    /// The alerts that the sink got with this status, and whether each opened or closed.
    pub(super) fn alerts(&self, status: &str) -> Vec<Alert> {
        let kept = self.kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|alert| alert.status == status).cloned().collect()
    }

    /// What the auth file holds.
    pub(super) fn grant(&self) -> Option<Grant> {
        let bytes = std::fs::read(&self.file).ok()?;
        match authfile::read(&bytes, &self.keeper.policy().profile) {
            Reading::Grant(grant) => Some(grant),
            Reading::Wiped | Reading::Malformed(_) => None,
        }
    }

    /// Ends what runs.
    pub(super) async fn end(self) {
        self.wake.close_channel();
        let _ = self.looping.await;
        self.world.inner().settled().await;
    }
}

fn fallback_of(key: &str) -> Result<FallbackKey, String> {
    let key = ApiKey::parse(key).map_err(|error| error.to_string())?;
    Ok(FallbackKey {
        key,
        prefix: Profile::claude().api_key_prefix,
        on: FallbackOn::default(),
        max_requests_per_day: None,
        uses: Arc::new(DayCount::default()),
    })
}
