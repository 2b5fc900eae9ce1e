//! A chain of a stand-in provider: its auth file in a scratch folder, and a keeper that has the real disk.

use std::path::PathBuf;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::chain::Kind;
use evergrant_core::health::Expected;
use evergrant_core::keeper::{Look, Policy, Report};
use evergrant_core::provider::{Federation, Profile};
use evergrant_server::admin::AdminChain;
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::{ApiKeyChain, Callers, Chain, Keeper, Renewal, Snapshots, TokioWorld, World};
use evergrant_standin::{Engine, LoginOptions, Settings, StandIn};
use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{AuthFile, MemoryState, OsDisk};
use serde_json::Value;
use tempfile::TempDir;

/// Tokens that are obviously nobody's.
pub(crate) const ACCESS_PREFIX: &str = "test-access-";
pub(crate) const REFRESH_PREFIX: &str = "test-refresh-";

pub(crate) fn settings() -> Settings {
    Settings {
        access_prefix: ACCESS_PREFIX.into(),
        refresh_prefix: REFRESH_PREFIX.into(),
        ..Settings::default()
    }
}

/// The built-in profile, turned towards a stand-in.
pub(crate) fn profile(base: &str, settings: &Settings) -> Profile {
    let url = |path: &str| format!("{base}{path}").parse().unwrap();
    let builtin = Profile::claude();
    let federation = builtin
        .federation
        .clone()
        .map(|federation| Federation { url: url(&settings.token_path), ..federation });
    Profile {
        token_url: url(&settings.token_path),
        federation,
        client_id: settings.client.id.clone().unwrap_or_else(|| "test-client".into()),
        access_prefix: Some(ACCESS_PREFIX.into()),
        refresh_prefix: Some(REFRESH_PREFIX.into()),
        api_base: url(""),
        probe_url: Some(url(&settings.probe_path)),
        ..builtin
    }
}

pub(crate) fn policy(profile: Profile) -> Policy {
    Policy { min_exchange_interval: Duration::ZERO, ..Policy::new(profile) }
}

/// An auth file in a folder of its own, and the keeper's parts that do not depend on the world.
pub(crate) struct Scratch {
    pub(crate) folder: TempDir,
    pub(crate) file: PathBuf,
    pub(crate) snapshots: Snapshots,
    pub(crate) metrics: Metrics,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("config")).unwrap();
        let file = folder.path().join("config/auth.json");
        Self { folder, file, snapshots: Snapshots::default(), metrics: Metrics::default() }
    }

    pub(crate) fn keeper<W: World<Disk = OsDisk>>(&self, world: W, policy: Policy) -> Keeper<W> {
        let chain = chain();
        let state_folder = self.folder.path().join("state");
        let vault = AuthFile::new(OsDisk, self.file.clone(), state_folder, TakeClientLocks::Auto);
        Keeper::new(world, chain, policy, true, vault, self.snapshots.clone(), self.metrics.clone())
    }

    pub(crate) fn write(&self, file: &Value) {
        std::fs::write(&self.file, serde_json::to_vec_pretty(file).unwrap()).unwrap();
    }

    pub(crate) fn read(&self) -> Value {
        serde_json::from_slice(&std::fs::read(&self.file).unwrap()).unwrap()
    }

    pub(crate) fn refresh_token(&self) -> String {
        self.read()["claudeAiOauth"]["refreshToken"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn chain() -> ChainName {
    "claude".parse().unwrap()
}

/// A keeper over real sockets.
pub(crate) struct Fixture {
    pub(crate) scratch: Scratch,
    pub(crate) standin: StandIn,
    pub(crate) world: TokioWorld<MemoryState>,
    pub(crate) keeper: Keeper<TokioWorld<MemoryState>>,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(settings(), |_| {}).await
    }

    pub(crate) async fn with(settings: Settings, change: impl FnOnce(&mut Policy)) -> Self {
        let scratch = Scratch::new();
        let standin = StandIn::start(settings.clone()).await.unwrap();
        scratch.write(&standin.engine().login(LoginOptions::default()).auth_file());
        let world = TokioWorld::new(MemoryState::new(), HttpClient::new(None).unwrap());
        let mut policy = policy(profile(standin.url().as_ref(), &settings));
        change(&mut policy);
        let keeper = scratch.keeper(world.clone(), policy);
        Self { scratch, standin, world, keeper }
    }

    pub(crate) async fn look(&self) -> Report {
        self.keeper.look(Look::Due).await
    }

    pub(crate) async fn force(&self) -> Report {
        self.keeper.look(Look::Forced).await
    }

    /// The file's pair is the newest of a family that lives.
    pub(crate) fn assert_alive(&self) {
        let refresh = self.scratch.refresh_token();
        let lives = self.standin.engine().with(|engine: &mut Engine| {
            let now = evergrant_now(&self.world);
            engine.family_lives(&refresh, now)
        });
        assert!(lives, "the family of the auth file's refresh token is dead");
    }
}

fn evergrant_now(world: &impl World) -> jiff::Timestamp {
    world.now()
}

/// A chain whose name is all that a test needs.
pub(crate) fn api_key_chain(
    world: &TokioWorld<MemoryState>,
    callers: &Callers,
    name: &str,
) -> AdminChain<MemoryState> {
    let snapshots = Snapshots::default();
    let (file, metrics) = (PathBuf::from("/nonexistent/api-key"), Metrics::default());
    let key = ApiKeyChain::new(
        world.clone(),
        name.parse().unwrap(),
        Profile::claude(),
        file,
        snapshots.clone(),
        metrics,
    );
    let chain = Chain { renewal: Renewal::ApiKey(key), kind: Kind::ApiKey, world: world.clone() };
    admin_chain(chain, snapshots, callers)
}

/// A chain as the admin calls see it, without a fallback key.
pub(crate) fn admin_chain(
    chain: Chain<TokioWorld<MemoryState>>,
    snapshots: Snapshots,
    callers: &Callers,
) -> AdminChain<MemoryState> {
    AdminChain {
        chain,
        snapshots,
        fallback: None,
        push: false,
        expected: Expected::Always,
        token_read: false,
        callers: callers.clone(),
    }
}
