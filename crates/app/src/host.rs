//! Wires a configuration to the rooms: state, clients, and what keeps each chain.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use evergrant_core::ChainName;
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::rows::{RowChain, RowPolicy};
use evergrant_server::{ApiKeyChain, Keeper, Minter, Renewal, Snapshots, TokioWorld, Traces};
use evergrant_store::postgres::MAX_CONNECTIONS;
use evergrant_store::{AnyState, AuthFile, OsDisk, PostgresState, SqliteState, StateError};

use crate::config::{ChainSettings, Settings, Template, Way};
use crate::rows::Rows;

/// The real world.
pub(crate) type World = TokioWorld<AnyState>;
/// A chain in the real world.
pub(crate) type Chain = evergrant_server::Chain<World>;

/// Everything that a command or the server works with.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) state: AnyState,
    pub(crate) snapshots: Snapshots,
    pub(crate) metrics: Metrics,
    pub(crate) world: World,
    /// The keeper of the database's chains, if there are any to keep.
    pub(crate) rows: Option<Arc<Rows>>,
}

impl Host {
    /// Opens the state, which is made if it is missing.
    pub(crate) async fn open(settings: &Settings) -> Result<Self, String> {
        Self::traced(settings, Metrics::default(), Traces::default()).await
    }

    /// As [`Host::open`], with traces of exchanges.
    pub(crate) async fn traced(
        settings: &Settings,
        metrics: Metrics,
        traces: Traces,
    ) -> Result<Self, String> {
        make_state_folder(&settings.state_dir)?;
        let state = match &settings.database {
            None => SqliteState::open(&settings.state_dir.join("state.db")).map(AnyState::Sqlite),
            Some(database) => {
                PostgresState::open(&database.url, MAX_CONNECTIONS).await.map(AnyState::Postgres)
            }
        };
        let state = state.map_err(|error| error.to_string())?;
        let client = HttpClient::new(None).map_err(|error| error.to_string())?;
        let world = TokioWorld::new(state.clone(), client).with_traces(traces);
        let snapshots = Snapshots::default();
        let rows = Rows::open(settings, &world, &snapshots, &metrics)?.map(Arc::new);
        if let (Some(rows), AnyState::Postgres(state)) = (&rows, &state) {
            rows.take_name(state).await?;
        }
        Ok(Self { state, snapshots, metrics, world, rows })
    }

    /// The chain of a setting.
    pub(crate) fn chain(&self, settings: &Settings, chain: &ChainSettings) -> Result<Chain, String> {
        let world = reaching(&self.world, chain)?;
        Ok(Chain { renewal: self.renewal(settings, chain, &world)?, kind: chain.kind(), world })
    }

    fn renewal(
        &self,
        settings: &Settings,
        chain: &ChainSettings,
        world: &World,
    ) -> Result<Renewal<World>, String> {
        let (world, name, policy) = (world.clone(), chain.name.clone(), chain.policy.clone());
        let (snapshots, metrics) = (self.snapshots.clone(), self.metrics.clone());
        Ok(match &chain.way {
            Way::AuthFile { auth_file, take_client_locks } => {
                let state_folder = settings.state_dir.join(format!("vault-{name}"));
                let vault = AuthFile::new(OsDisk, auth_file.clone(), state_folder, *take_client_locks);
                let keeper = Keeper::new(world, name, policy, chain.accepted, vault, snapshots, metrics);
                Renewal::Keeper(keeper)
            }
            Way::Database { .. } => {
                let Some(rows) = &self.rows else {
                    return Err(format!(
                        "chain {name} has its pair in the database: that begins at the next start"
                    ));
                };
                Renewal::Row(rows.keeper.chain(name, RowPolicy { policy, accepted: chain.accepted, world }))
            }
            Way::Minted(grounds) => {
                Renewal::Minter(Minter::new(world, name, policy, grounds.clone(), snapshots, metrics))
            }
            Way::ApiKey { api_key_file } => {
                let (profile, file) = (policy.profile, api_key_file.clone());
                Renewal::ApiKey(ApiKeyChain::new(world, name, profile, file, snapshots, metrics))
            }
        })
    }

    /// All chains.
    pub(crate) fn chains(&self, settings: &Settings) -> Result<Vec<Chain>, String> {
        settings.chains.iter().map(|chain| self.chain(settings, chain)).collect()
    }

    /// A chain of the database that no section names; nothing if there is none.
    pub(crate) async fn find(
        &self,
        settings: &Settings,
        name: &ChainName,
    ) -> Result<Option<(ChainSettings, Chain)>, StateError> {
        let Some((rows, template)) = self.rows.as_ref().zip(settings.template(name)) else { return Ok(None) };
        Ok(rows.keeper.find(name).await?.map(|row| of_template(template, name, row)))
    }

    /// The same, whether or not it is there yet: for its first grant.
    pub(crate) fn first_of(&self, settings: &Settings, name: &ChainName) -> Option<(ChainSettings, Chain)> {
        let (rows, template) = self.rows.as_ref().zip(settings.template(name))?;
        Some(of_template(template, name, rows.keeper.first_of(name)?))
    }

    /// The chain that is meant: the named one, or the only one.
    pub(crate) fn one_chain(&self, settings: &Settings, name: Option<&ChainName>) -> Result<Chain, String> {
        let chain = match (name, settings.chains.as_slice()) {
            (Some(name), _) => covered(settings, name)?,
            (None, [only]) if settings.templates.is_empty() => only.clone(),
            (None, []) if settings.templates.is_empty() => {
                return Err("no chain is configured and enabled".into());
            }
            (None, _) => return Err(format!("say which chain with --chain: {}", names(settings))),
        };
        self.chain(settings, &chain)
    }
}

fn of_template(template: &Template, name: &ChainName, row: RowChain<World>) -> (ChainSettings, Chain) {
    let settings = template.of(name);
    let chain = Chain { world: row.world().clone(), renewal: Renewal::Row(row), kind: settings.kind() };
    (settings, chain)
}

/// The settings of a chain that the configuration covers, whether it names it or its beginning.
pub(crate) fn covered(settings: &Settings, name: &ChainName) -> Result<ChainSettings, String> {
    settings.chain(name).ok_or_else(|| {
        format!("there is no chain {name} in the configuration; there is: {}", names(settings))
    })
}

/// The settings of the chains that are meant: of the named one, or of all that have a section.
pub(crate) fn chosen(settings: &Settings, only: Option<&ChainName>) -> Result<Vec<ChainSettings>, String> {
    match only {
        Some(name) => Ok(vec![covered(settings, name)?]),
        None => Ok(settings.chains.clone()),
    }
}

fn names(settings: &Settings) -> String {
    let named = settings.chains.iter().map(|chain| chain.name.to_string());
    let templates = settings.templates.iter().map(|template| format!("{}*", template.prefix));
    named.chain(templates).collect::<Vec<_>>().join(", ")
}

/// The world through which a chain's provider is reached: one with certificates of its own needs its own client.
pub(crate) fn reaching(world: &World, chain: &ChainSettings) -> Result<World, String> {
    let Some(ca_file) = &chain.ca_file else { return Ok(world.clone()) };
    let client = HttpClient::new(Some(ca_file)).map_err(|error| error.to_string())?;
    Ok(world.with_client(client))
}

fn make_state_folder(folder: &Path) -> Result<(), String> {
    let failed =
        |error: std::io::Error| format!("the state folder {} cannot be used: {error}", folder.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mode = fs::metadata(folder).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(folder = %folder.display(), "the state folder was open to others; tightened to 0700");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}
