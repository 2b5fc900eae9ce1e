//! One chain of whatever kind: what keeps it, and what commands and calls ask of all kinds alike (SPEC §3, §11).

use std::path::{Path, PathBuf};

use evergrant_core::chain::{Kind, Record};
use evergrant_core::gateway::Position;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{Look, Report};
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Reason};
use evergrant_store::VaultState;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::api_key::ApiKeyChain;
use crate::keeper::{Import, Keeper, Refused, Wake};
use crate::minter::Minter;
use crate::renewable::Renewable;
use crate::rows::RowChain;
use crate::world::World;

/// One chain, with the world that its provider needs.
#[derive(Debug, Clone)]
pub struct Chain<W: World> {
    /// What keeps it.
    pub renewal: Renewal<W>,
    /// The kind that the configuration makes of it.
    pub kind: Kind,
    /// What its provider is reached through.
    pub world: W,
}

/// What keeps a chain.
#[derive(Debug, Clone)]
pub enum Renewal<W: World> {
    /// The grant in an auth file.
    Keeper(Keeper<W>),
    /// The grant in a row of the database.
    Row(RowChain<W>),
    /// What is never spent.
    Minter(Minter<W>),
    /// An API key.
    ApiKey(ApiKeyChain<W>),
}

impl<W: World<State: VaultState>> Renewable for Chain<W> {
    fn chain(&self) -> &ChainName {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.chain(),
            Renewal::Row(row) => row.chain(),
            Renewal::Minter(minter) => minter.chain(),
            Renewal::ApiKey(key) => key.chain(),
        }
    }

    fn profile(&self) -> &Profile {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.profile(),
            Renewal::Row(row) => row.profile(),
            Renewal::Minter(minter) => minter.profile(),
            Renewal::ApiKey(key) => key.profile(),
        }
    }

    fn last_report(&self) -> Option<Report> {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.last_report(),
            Renewal::Row(row) => row.last_report(),
            Renewal::Minter(minter) => minter.last_report(),
            Renewal::ApiKey(key) => key.last_report(),
        }
    }

    async fn access_refused(&self, position: Position) -> Report {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.access_refused(position.0, position.1).await,
            Renewal::Row(row) => row.access_refused(position).await,
            Renewal::Minter(minter) => minter.access_refused(position).await,
            Renewal::ApiKey(key) => key.access_refused(position).await,
        }
    }

    fn is_api_key(&self) -> bool {
        match &self.renewal {
            Renewal::Keeper(_) | Renewal::Row(_) | Renewal::Minter(_) => false,
            Renewal::ApiKey(key) => key.is_api_key(),
        }
    }
}

impl<W: World<State: VaultState>> Chain<W> {
    /// Looks at the chain and does what is due, or what is asked for.
    pub async fn look(&self, look: Look) -> Report {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.look(look).await,
            Renewal::Row(row) => row.look(look).await,
            Renewal::Minter(minter) => minter.look(look).await,
            Renewal::ApiKey(key) => key.look().await,
        }
    }

    /// Keeps the chain until `woken` ends.
    pub async fn run(&self, woken: UnboundedReceiver<Wake>, wake: UnboundedSender<Wake>) {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.run(woken, wake).await,
            Renewal::Row(row) => row.run(woken).await,
            Renewal::Minter(minter) => minter.run(woken).await,
            Renewal::ApiKey(key) => key.run(woken).await,
        }
    }

    /// The file that tells the chain something new when it changes.
    pub fn watched_file(&self) -> Option<PathBuf> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Some(keeper.vault().path().to_owned()),
            Renewal::Row(_) => None,
            Renewal::Minter(minter) => minter.grounds().identity_token_file.clone(),
            Renewal::ApiKey(key) => Some(key.file().to_owned()),
        }
    }

    /// Its auth file, if it has one.
    pub fn auth_file(&self) -> Option<&Path> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Some(keeper.vault().path()),
            Renewal::Row(_) | Renewal::Minter(_) | Renewal::ApiKey(_) => None,
        }
    }

    /// The record of the last look; only a grant has one.
    pub fn record(&self) -> Option<Record> {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.last_record(),
            Renewal::Row(row) => row.last_record(),
            Renewal::Minter(_) | Renewal::ApiKey(_) => None,
        }
    }

    /// How far the provider's clock was ahead of ours at its last answer.
    pub fn clock_offset_secs(&self) -> Option<i64> {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.clock_offset_secs(),
            Renewal::Row(row) => row.clock_offset_secs(),
            Renewal::Minter(minter) => minter.clock_offset_secs(),
            Renewal::ApiKey(_) => None,
        }
    }

    /// Lets the pair of a quarantined chain count as its newest, because an operator says so.
    pub async fn accept_stale(&self) -> Result<Report, Refused> {
        match &self.renewal {
            Renewal::Row(row) => match row.keeper().accept_stale(row.chain()).await {
                Import::Taken(report) => Ok(report),
                Import::Refused(refused) => Err(refused),
            },
            Renewal::Keeper(_) | Renewal::Minter(_) | Renewal::ApiKey(_) => Err(Refused {
                reason: Reason::NothingToRenew,
                detail: format!(
                    "chain {} is not of record in the database, so it is never quarantined: leave accept_stale out",
                    self.chain()
                ),
            }),
        }
    }

    /// The login that it holds, for what only a grant can be told; `what` completes "there is nothing to …".
    pub fn login(&self, what: &str) -> Result<Login<'_, W>, String> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Ok(Login::File(keeper)),
            Renewal::Row(row) => Ok(Login::Row(row)),
            Renewal::Minter(_) | Renewal::ApiKey(_) => {
                let (chain, kind) = (self.chain(), self.kind.as_str());
                Err(format!(
                    "chain {chain} is of kind {kind:?} and holds no login, so there is nothing to {what}; \
                     name one of kind \"refresh_token\" with --chain"
                ))
            }
        }
    }
}

/// A login that is renewed, wherever its pair is of record.
#[derive(Debug, Clone, Copy)]
pub enum Login<'c, W: World> {
    /// In an auth file.
    File(&'c Keeper<W>),
    /// In a row of the database.
    Row(&'c RowChain<W>),
}

impl<W: World<State: VaultState>> Login<'_, W> {
    /// The operator has accepted the provider's terms, or there are none.
    pub fn accepted(&self) -> bool {
        match self {
            Self::File(keeper) => keeper.accepted(),
            Self::Row(row) => row.accepted(),
        }
    }

    /// Judges a grant without touching the vault: terms, prefixes, expiry.
    pub fn judge(&self, grant: &Grant) -> Result<(), Refused> {
        match self {
            Self::File(keeper) => keeper.judge(grant),
            Self::Row(row) => row.keeper().judge(row.chain(), grant),
        }
    }

    /// Takes a grant that was judged and probed.
    pub async fn import(&self, grant: Grant) -> Import {
        match self {
            Self::File(keeper) => keeper.import(grant).await,
            Self::Row(row) => row.keeper().import(row.chain(), grant).await,
        }
    }

    /// How it stands, without changing anything, and its grant.
    pub async fn glance(&self) -> (Report, Option<Record>, Option<Grant>) {
        match self {
            Self::File(keeper) => {
                let (report, record) = keeper.glance();
                (report, record, keeper.grant())
            }
            Self::Row(row) => row.glance().await,
        }
    }
}
