//! Who did what: entries that are only ever added (SPEC §13).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::caller::KeyId;

/// Who did something: `cli:USER` on the server's machine, or the id of a caller key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Actor(String);

impl Actor {
    /// Somebody at the command line of the server's machine.
    pub fn cli(user: &str) -> Self {
        Self(format!("cli:{user}"))
    }

    /// Whoever holds a caller key.
    pub fn key(id: &KeyId) -> Self {
        Self(id.to_string())
    }

    /// As it is remembered.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// A caller key was made.
    KeyCreated,
    /// A caller key was revoked.
    KeyRevoked,
    /// A caller key was replaced by another one of the same caller.
    KeyRotated,
    /// An episode was acknowledged, or its acknowledgement taken back.
    EpisodeAcknowledged,
    /// Alerts about a chain were muted, or are let through again.
    ChainMuted,
    /// An exchange was asked for.
    RefreshForced,
    /// The access token was read.
    TokenRead,
    /// A grant was pushed, and taken.
    GrantPushed,
    /// A grant was imported.
    GrantImported,
}

impl Act {
    /// The code as it stands in JSON and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyCreated => "key_created",
            Self::KeyRevoked => "key_revoked",
            Self::KeyRotated => "key_rotated",
            Self::EpisodeAcknowledged => "episode_acknowledged",
            Self::ChainMuted => "chain_muted",
            Self::RefreshForced => "refresh_forced",
            Self::TokenRead => "token_read",
            Self::GrantPushed => "grant_pushed",
            Self::GrantImported => "grant_imported",
        }
    }

    /// Whether it is done to a chain.
    pub fn is_to_chain(self) -> bool {
        match self {
            Self::ChainMuted
            | Self::RefreshForced
            | Self::TokenRead
            | Self::GrantPushed
            | Self::GrantImported => true,
            Self::KeyCreated | Self::KeyRevoked | Self::KeyRotated | Self::EpisodeAcknowledged => false,
        }
    }
}

/// One act. It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub who: Actor,
    /// What.
    pub what: Act,
    /// To what: a key's id, an episode's, or a chain's name.
    #[serde(alias = "key")]
    pub to: String,
}
