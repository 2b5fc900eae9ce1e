//! One chain of whatever kind: what keeps it, and what the commands ask of all kinds alike (SPEC §3, §11).

use std::path::{Path, PathBuf};

use evergrant_core::ChainName;
use evergrant_core::chain::Kind;
use evergrant_core::gateway::Position;
use evergrant_core::keeper::{Look, Report};
use evergrant_core::provider::Profile;
use evergrant_server::{ApiKeyChain, Keeper, Minter, Renewable, Wake};
use futures_channel::mpsc::UnboundedReceiver;
use futures_channel::mpsc::UnboundedSender;

use crate::host::World;

/// One chain, with the world that its provider needs.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) renewal: Renewal,
    /// The kind that the configuration makes of it.
    pub(crate) kind: Kind,
    pub(crate) world: World,
}

/// What keeps a chain.
#[derive(Debug, Clone)]
pub(crate) enum Renewal {
    /// The grant in an auth file.
    Keeper(Keeper<World>),
    /// What is never spent.
    Minter(Minter<World>),
    /// An API key.
    ApiKey(ApiKeyChain<World>),
}

impl Renewable for Chain {
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

impl Chain {
    /// Looks at the chain and does what is due, or what is asked for.
    pub(crate) async fn look(&self, look: Look) -> Report {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.look(look).await,
            Renewal::Minter(minter) => minter.look(look).await,
            Renewal::ApiKey(key) => key.look().await,
        }
    }

    /// Keeps the chain until `woken` ends.
    pub(crate) async fn run(&self, woken: UnboundedReceiver<Wake>, wake: UnboundedSender<Wake>) {
        match &self.renewal {
            Renewal::Keeper(keeper) => keeper.run(woken, wake).await,
            Renewal::Minter(minter) => minter.run(woken).await,
            Renewal::ApiKey(key) => key.run(woken).await,
        }
    }

    /// The file that tells the chain something new when it changes.
    pub(crate) fn watched_file(&self) -> Option<PathBuf> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Some(keeper.vault().path().to_owned()),
            Renewal::Minter(minter) => minter.grounds().identity_token_file.clone(),
            Renewal::ApiKey(key) => Some(key.file().to_owned()),
        }
    }

    /// Its auth file, if it has one.
    pub(crate) fn auth_file(&self) -> Option<&Path> {
        match &self.renewal {
            Renewal::Keeper(keeper) => Some(keeper.vault().path()),
            Renewal::Minter(_) | Renewal::ApiKey(_) => None,
        }
    }

    /// The keeper, for what only a grant can be told; `what` completes "there is nothing to …".
    pub(crate) fn keeper(&self, what: &str) -> Result<&Keeper<World>, String> {
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
