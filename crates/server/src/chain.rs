//! One chain of whatever kind: what keeps it, and what commands and calls ask of all kinds alike (SPEC §3, §11).

use std::path::{Path, PathBuf};

use evergrant_core::ChainName;
use evergrant_core::chain::{Kind, Record};
use evergrant_core::gateway::Position;
use evergrant_core::keeper::{Look, Report};
use evergrant_core::provider::Profile;
use futures_channel::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::api_key::ApiKeyChain;
use crate::keeper::{Keeper, Wake};
use crate::minter::Minter;
use crate::renewable::Renewable;
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
    /// What is never spent.
    Minter(Minter<W>),
    /// An API key.
    ApiKey(ApiKeyChain<W>),
}

impl<W: World> Renewable for Chain<W> {
    fn chain(&self) -> &ChainName {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.chain(),
            Renewal::Minter(minter) => minter.chain(),
            Renewal::ApiKey(key) => key.chain(),
        }
    }

    fn profile(&self) -> &Profile {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.profile(),
            Renewal::Minter(minter) => minter.profile(),
            Renewal::ApiKey(key) => key.profile(),
        }
    }

    fn last_report(&self) -> Option<Report> {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.last_report(),
            Renewal::Minter(minter) => minter.last_report(),
            Renewal::ApiKey(key) => key.last_report(),
        }
    }

    async fn access_refused(&self, position: Position) -> Report {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.access_refused(position.0, position.1).await,
            Renewal::Minter(minter) => minter.access_refused(position).await,
            Renewal::ApiKey(key) => key.access_refused(position).await,
        }
    }

    fn is_api_key(&self) -> bool {
        match &self.renewal {
            Renewal::Keeper(_) | Renewal::Minter(_) => false,
            Renewal::ApiKey(key) => key.is_api_key(),
        }
    }
}

impl<W: World> Chain<W> {
    /// Looks at the chain and does what is due, or what is asked for.
    pub async fn look(&self, look: Look) -> Report {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.look(look).await,
            Renewal::Minter(minter) => minter.look(look).await,
            Renewal::ApiKey(key) => key.look().await,
        }
    }

    /// Keeps the chain until `woken` ends.
    pub async fn run(&self, woken: UnboundedReceiver<Wake>, wake: UnboundedSender<Wake>) {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.run(woken, wake).await,
            Renewal::Minter(minter) => minter.run(woken).await,
            Renewal::ApiKey(key) => key.run(woken).await,
        }
    }

    /// The file that tells the chain something new when it changes.
    pub fn watched_file(&self) -> Option<PathBuf> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Some(keeper.vault().path().to_owned()),
            Renewal::Minter(minter) => minter.grounds().identity_token_file.clone(),
            Renewal::ApiKey(key) => Some(key.file().to_owned()),
        }
    }

    /// Its auth file, if it has one.
    pub fn auth_file(&self) -> Option<&Path> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Some(keeper.vault().path()),
            Renewal::Minter(_) | Renewal::ApiKey(_) => None,
        }
    }

    /// The record of the last look; only a grant has one.
    pub fn record(&self) -> Option<Record> {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.last_record(),
            Renewal::Minter(_) | Renewal::ApiKey(_) => None,
        }
    }

    /// How far the provider's clock was ahead of ours at its last answer.
    pub fn clock_offset_secs(&self) -> Option<i64> {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.clock_offset_secs(),
            Renewal::Minter(minter) => minter.clock_offset_secs(),
            Renewal::ApiKey(_) => None,
        }
    }

    /// The keeper, for what only a grant can be told; `what` completes "there is nothing to …".
    pub fn keeper(&self, what: &str) -> Result<&Keeper<W>, String> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Ok(keeper),
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
