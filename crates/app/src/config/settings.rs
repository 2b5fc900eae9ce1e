//! The configuration as the rest of the program sees it: checked, resolved, in types.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evergrant_core::alert::{Links, Reminding, Sink};
use evergrant_core::chain::Kind;
use evergrant_core::gateway::FallbackOn;
use evergrant_core::health::Expected;
use evergrant_core::keeper::Policy;
use evergrant_core::{ApiKey, ChainName};
use evergrant_server::gateway::{AccessLog, Limits};
use evergrant_server::minter::Grounds;
use evergrant_server::probe::MessageProbe;
use evergrant_store::authfile::TakeClientLocks;
use url::Url;

use super::agent::AgentSettings;
use super::file::{LogFormat, LogLevel};

/// Everything that the rest of the program needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Folder of the state.
    pub(crate) state_dir: PathBuf,
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// A proxy in front ends TLS.
    pub(crate) behind_proxy: bool,
    /// Certificate chain and private key, if TLS is served directly, absolute.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// The data plane.
    pub(crate) gateway: GatewaySettings,
    /// What is logged, and how.
    pub(crate) log: LogSettings,
    /// The chains that are enabled, by name.
    pub(crate) chains: Vec<ChainSettings>,
    /// The probe.
    pub(crate) probe: ProbeSettings,
    /// What alerts say.
    pub(crate) alerts: AlertSettings,
    /// Where they go.
    pub(crate) sinks: Vec<Sink>,
    /// The outside dead-man that is told, and how often.
    pub(crate) watchdog: Option<(Url, Duration)>,
    /// The agent on a workstation.
    pub(crate) agent: AgentSettings,
    /// How long the past is kept.
    pub(crate) retention: RetentionSettings,
}

/// What alerts say, and when they are repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AlertSettings {
    /// Where they point to.
    pub(crate) links: Links,
    /// When reminders come.
    pub(crate) reminding: Reminding,
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    /// The shape of a line.
    pub(crate) format: LogFormat,
    /// The least level.
    pub(crate) level: LogLevel,
}

/// One chain that is enabled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ChainSettings {
    /// Its name.
    pub(crate) name: ChainName,
    /// How it gets its access tokens.
    pub(crate) way: Way,
    /// The provider's terms are accepted, or there are none for this kind of chain.
    pub(crate) accepted: bool,
    /// What its keeper decides by, the profile included.
    pub(crate) policy: Policy,
    /// Certificates that are trusted besides the public ones, absolute.
    pub(crate) ca_file: Option<PathBuf>,
    /// What serves while it cannot.
    pub(crate) fallback_key: Option<ApiKey>,
    /// An agent is to be heard of.
    pub(crate) push: bool,
    /// When.
    pub(crate) expected: Expected,
    /// Programs may read its access token.
    pub(crate) token_read: bool,
}

/// The data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatewaySettings {
    /// How many threads.
    pub(crate) threads: usize,
    /// Where requests are logged.
    pub(crate) access_log: AccessLog,
    /// Its limits.
    pub(crate) limits: Limits,
    /// When the fallback keys serve.
    pub(crate) fallback_on: FallbackOn,
    /// How many requests a day they serve at most, for each chain.
    pub(crate) max_fallbacks_per_day: Option<u64>,
}

impl ChainSettings {
    /// The kind that the configuration makes of it; a grant without refresh token makes it `static` later.
    pub(crate) fn kind(&self) -> Kind {
        match &self.way {
            Way::AuthFile { .. } => Kind::RefreshToken,
            Way::Minted(grounds) => grounds.kind(),
            Way::ApiKey { .. } => Kind::ApiKey,
        }
    }

    /// Its auth file, if it has one.
    pub(crate) fn auth_file(&self) -> Option<&Path> {
        match &self.way {
            Way::AuthFile { auth_file, .. } => Some(auth_file),
            Way::Minted(_) | Way::ApiKey { .. } => None,
        }
    }
}

/// How a chain gets its access tokens. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// By renewing the grant in an auth file.
    AuthFile {
        /// The file.
        auth_file: PathBuf,
        /// Whether the provider's own client's locks are taken.
        take_client_locks: TakeClientLocks,
    },
    /// By exchanging what is never spent.
    Minted(Grounds),
    /// Not at all: it is an API key.
    ApiKey {
        /// The file that holds the key.
        api_key_file: PathBuf,
    },
}

/// The probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeSettings {
    /// Whether it runs by itself.
    pub(crate) enabled: bool,
    /// How often.
    pub(crate) every: Duration,
    /// Whether it sends a minimal message too.
    pub(crate) message: Option<MessageProbe>,
}

/// How long the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetentionSettings {
    /// Events.
    pub(crate) events: Duration,
    /// Rotations with their fingerprints.
    pub(crate) rotations: Duration,
}
