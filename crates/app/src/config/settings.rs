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
use evergrant_server::traces::Settings as TraceSettings;
use evergrant_store::authfile::TakeClientLocks;
use url::Url;

use super::agent::AgentSettings;
use super::file::{LogFormat, LogLevel};
use super::vault::DatabaseSettings;

/// Everything that the rest of the program needs to know.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// Folder of the state.
    pub(crate) state_dir: PathBuf,
    /// The database that several servers share, if there is one.
    pub(crate) database: Option<DatabaseSettings>,
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
    /// Where traces are exported to, if they are.
    pub(crate) traces: Option<TraceSettings>,
    /// The chains that are enabled, by name.
    pub(crate) chains: Vec<ChainSettings>,
    /// What holds for all other chains of the database whose names begin so, the longest beginning first.
    pub(crate) templates: Vec<Template>,
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

/// What holds for every chain of the database whose name begins so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    /// How the names begin.
    pub(crate) prefix: String,
    /// The settings of one of them.
    like: ChainSettings,
}

impl Template {
    /// Of the settings of any chain of such a name.
    pub(crate) fn new(prefix: String, like: ChainSettings) -> Self {
        Self { prefix, like }
    }

    /// The settings of a chain of such a name.
    pub(crate) fn of(&self, name: &ChainName) -> ChainSettings {
        ChainSettings { name: name.clone(), ..self.like.clone() }
    }

    /// What holds for all of them alike.
    pub(crate) fn common(&self) -> &ChainSettings {
        &self.like
    }

    /// The terms of all of them count as accepted.
    pub(crate) fn accept_provider_terms(&mut self) {
        self.like.accepted = true;
    }
}

impl Settings {
    /// The settings of a chain: its own, or those of the longest beginning of its name.
    pub(crate) fn chain(&self, name: &ChainName) -> Option<ChainSettings> {
        let own = self.chains.iter().find(|chain| chain.name == *name).cloned();
        own.or_else(|| self.template(name).map(|template| template.of(name)))
    }

    /// What holds for a chain that has no settings of its own.
    pub(crate) fn template(&self, name: &ChainName) -> Option<&Template> {
        self.templates.iter().find(|template| name.as_str().starts_with(&template.prefix))
    }
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
            Way::AuthFile { .. } | Way::Database { .. } => Kind::RefreshToken,
            Way::Minted(grounds) => grounds.kind(),
            Way::ApiKey { .. } => Kind::ApiKey,
        }
    }

    /// The auth file that it writes: its vault, or its export.
    pub(crate) fn written_file(&self) -> Option<&Path> {
        match &self.way {
            Way::AuthFile { auth_file, .. } => Some(auth_file),
            Way::Database { export } => export.as_ref().map(|export| export.file.as_path()),
            Way::Minted(_) | Way::ApiKey { .. } => None,
        }
    }

    /// Its pair is of record in the database.
    pub(crate) fn in_database(&self) -> bool {
        match &self.way {
            Way::Database { .. } => true,
            Way::AuthFile { .. } | Way::Minted(_) | Way::ApiKey { .. } => false,
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
    /// By renewing the grant in a row of the database.
    Database {
        /// What is written for readers.
        export: Option<Export>,
    },
    /// By exchanging what is never spent.
    Minted(Grounds),
    /// Not at all: it is an API key.
    ApiKey {
        /// The file that holds the key.
        api_key_file: PathBuf,
    },
}

/// An auth file for readers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    /// The file, absolute.
    pub(crate) file: PathBuf,
    /// It holds the refresh token too.
    pub(crate) refresh_token: bool,
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
