//! The file as it is written: every field with its unit and default. Schema and reference page are made from
//! these types, so their comments are written for the operator.

use std::collections::BTreeMap;
use std::path::PathBuf;

use evergrant_core::keeper::LONGEST_DEADLINE;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The configuration of Evergrant. Every field may be left out, and so may the whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Folder of the state (SQLite), a path. Without it: `$XDG_STATE_HOME/evergrant`, else
    /// `~/.local/state/evergrant`. A change needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state_dir: Option<PathBuf>,
    /// A PostgreSQL that several servers share, in place of the SQLite file, a secret:
    /// `postgres://USER:PASSWORD@HOST/DATABASE`. Its `sslmode` is `require` unless all hosts are this machine, and
    /// certificates are verified. Better set by its variable than in a file. A change needs a restart.
    #[serde(skip_serializing)]
    pub(crate) database_url: Option<super::sink::Hidden>,
    /// Where this machine remembers how far each chain of a database vault had come, a path: so a database that was
    /// restored from a backup is recognised. It lies outside the state folder, is never restored with it, and belongs to
    /// one database. Without it: `$XDG_DATA_HOME/evergrant/marks.db`, else `~/.local/share/evergrant/marks.db`; where that
    /// would lie in the state folder, `/var/lib/evergrant-marks/marks.db`. A change needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) marks_file: Option<PathBuf>,
    /// What seals pairs in the database.
    pub(crate) seal: Seal,
    /// What is logged, and how.
    pub(crate) log: Log,
    /// Traces of requests and exchanges, exported over OTLP, by a build with the feature `otel`. A change needs a restart.
    pub(crate) telemetry: Telemetry,
    /// Where Evergrant listens.
    pub(crate) http: Http,
    /// Requests to providers' APIs, with the chains' access tokens.
    pub(crate) gateway: Gateway,
    /// The chains: named slots that each hold one grant. Without any: one chain, `claude`. A name that ends in `*`, such
    /// as `[chains."team-*"]`, says what holds for every chain of the database whose name begins so; the longest such
    /// name counts, and a chain's own name before all.
    pub(crate) chains: BTreeMap<String, Chain>,
    /// Where alerts go. Without any: nowhere; they are kept and shown.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sinks: BTreeMap<String, super::sink::Sink>,
    /// The regular proof that the access tokens work.
    pub(crate) probe: Probe,
    /// What alerts say, and when they are repeated.
    pub(crate) alerts: Alerts,
    /// An outside dead-man, which is told that Evergrant itself lives.
    pub(crate) watchdog: Watchdog,
    /// The agent on a workstation.
    pub(crate) agent: super::agent::Agent,
    /// How long the past is kept.
    pub(crate) retention: Retention,
    /// Profiles of providers: your own, or overrides of the built-in `claude`.
    pub(crate) providers: BTreeMap<String, Provider>,
}

impl Config {
    /// Reads what was checked against the schema before.
    pub(crate) fn from_tree(tree: toml::Table) -> Result<Self, toml::de::Error> {
        Self::deserialize(toml::Value::Table(tree))
    }
}

/// What seals pairs in the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Seal {
    /// A file with the seal keys, a path: a key a line, as `evergrant seal new-key` prints it. The first seals, all open.
    /// `EVERGRANT_SEAL_KEY` holds the keys themselves, and goes before it; without both, the systemd credential
    /// `evergrant-seal-key` is read. A change needs a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// `text` for people, `json` for machines: one object a line.
    pub(crate) format: LogFormat,
    /// The least level that is logged.
    pub(crate) level: LogLevel,
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// The least level that is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogLevel {
    /// Only what failed.
    Error,
    /// And what needs a look.
    Warn,
    /// And what was done.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And everything.
    Trace,
}

impl LogLevel {
    /// The level as it stands in the file.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Traces of requests and exchanges, exported over OTLP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    /// The collector, such as `http://127.0.0.1:4318`: spans go to `/v1/traces` below it, as protobuf over HTTP. Headers
    /// that it wants, such as a key, are read from the variable `OTEL_EXPORTER_OTLP_HEADERS`. Without it: nothing is
    /// exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otlp_endpoint: Option<String>,
    /// Of the requests that come without a `traceparent`, so many in a hundred are exported. For the others the
    /// caller has decided. Exchanges are few, and all are.
    #[schemars(range(min = 0, max = 100))]
    pub(crate) sample_percent: u64,
    /// Plain HTTP to another machine is accepted. Loopback needs no such word.
    pub(crate) allow_insecure: bool,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { otlp_endpoint: None, sample_percent: 100, allow_insecure: false }
    }
}

/// Where Evergrant listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Http {
    /// Address and port. Port 0: any that is free. A change needs a restart.
    pub(crate) listen: String,
    /// A proxy in front of Evergrant ends TLS. Needed for an address that is not loopback, unless TLS is served
    /// directly.
    pub(crate) behind_proxy: bool,
    /// The certificate chain (PEM) for TLS, a path; with it goes `tls_key`. `SIGHUP` reads both again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key (PEM) of the certificate, a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8787".into(), behind_proxy: false, tls_cert: None, tls_key: None }
    }
}

/// Requests to providers' APIs: a caller key in, the chain's access token out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Gateway {
    /// Threads that serve requests; 0: one for each core. A change needs a restart.
    #[schemars(range(min = 0, max = 256))]
    pub(crate) threads: u64,
    /// Where each request is logged, as one JSON object a line: `"-"` is standard output, `"off"` nowhere, anything
    /// else a file (`SIGHUP` opens it anew). A change needs a restart.
    pub(crate) access_log: String,
    /// Memory for copies of requests, which a refused token may need to be sent again, in MiB. One request takes a
    /// quarter at most; what does not fit is not sent again.
    #[schemars(range(min = 0, max = 65_536))]
    pub(crate) replay_mib: u64,
    /// Open connections of clients at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) max_connections: u64,
    /// How long a request may take that is in hand when the server ends, in seconds.
    #[schemars(range(min = 0, max = 3600))]
    pub(crate) drain_secs: u64,
    /// The API key that serves while a chain cannot.
    pub(crate) fallback: Fallback,
}

impl Default for Gateway {
    fn default() -> Self {
        let fallback = Fallback::default();
        Self {
            threads: 0,
            access_log: "-".into(),
            replay_mib: 64,
            max_connections: 20_000,
            drain_secs: 30,
            fallback,
        }
    }
}

/// The API key that serves while a chain cannot: `ANTHROPIC_FALLBACK_KEY` for chains of the provider `claude`, or
/// a chain's `fallback_key_file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Fallback {
    /// When it serves. `rate_limited` and `grant_refused` cost money in ordinary operation.
    pub(crate) on: Vec<FallbackOn>,
    /// So many requests a day (UTC) at most, of each chain; then they fail with 429. Without it: no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(crate) max_requests_per_day: Option<u64>,
}

impl Default for Fallback {
    fn default() -> Self {
        Self { on: vec![FallbackOn::Unauthorized, FallbackOn::Exhausted], max_requests_per_day: None }
    }
}

/// When the fallback key serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FallbackOn {
    /// The access token is refused, and renewing it did not help.
    Unauthorized,
    /// The chain has no live access token.
    Exhausted,
    /// The API answers 429.
    RateLimited,
    /// The API says that the grant may not do what was asked.
    GrantRefused,
}

/// One chain. Its name: 1 to 64 of `a-z`, `0-9`, `-` and `_`, a letter or digit first; `*` may follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Chain {
    /// Whether it is kept alive at all.
    pub(crate) enabled: bool,
    /// The provider's profile: `claude` or one of `[providers]`.
    pub(crate) provider: String,
    /// How it gets its access tokens. `jwt_bearer`: a workload's identity token is exchanged (RFC 7523, workload
    /// identity federation). `api_key`: the chain is an API key. `client_credentials`: the client's own id and secret
    /// (RFC 6749 §4.4). `refresh_token`: a login that is renewed; one without refresh token is only watched.
    pub(crate) kind: ChainKind,
    /// For `jwt_bearer`: the file with the identity token, a path. Whoever runs the workload writes a JWT there and
    /// renews it; it is read anew each time, at most 16 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity_token_file: Option<PathBuf>,
    /// For `jwt_bearer` at `claude`: the federation rule that the identity token is judged by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) federation_rule_id: Option<String>,
    /// For `jwt_bearer` at `claude`: the organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) organization_id: Option<String>,
    /// For `jwt_bearer` at `claude`: the service account that the access token acts as.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_account_id: Option<String>,
    /// For `jwt_bearer` at `claude`: the workspace, where the service account has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) workspace_id: Option<String>,
    /// For `jwt_bearer` and `client_credentials` at providers of your own: the scopes that are asked for, with blanks
    /// between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// For `jwt_bearer` and `client_credentials` at providers of your own: more members of the request, name and value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) members: BTreeMap<String, String>,
    /// For `api_key`: the file with the API key and nothing else, a path. Another key that is put there is taken at
    /// once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// For `refresh_token`: where its pair is of record, a path (`~/` is your home, a relative one begins at the configuration's
    /// folder). Without it, for `claude`: `$XDG_CONFIG_HOME/claude-code/auth.json`, else
    /// `~/.config/claude-code/auth.json`. Each chain needs a file of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) auth_file: Option<PathBuf>,
    /// For `refresh_token`: where its pair is of record. `database`: sealed, in the database of `database_url`; any
    /// number of servers may renew it, one at a time.
    #[serde(skip_serializing_if = "Vault::is_default")]
    pub(crate) vault: Vault,
    /// With `vault = "database"`: an auth file that this server writes for readers after each renewal, a path. It holds no
    /// refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) export: Option<PathBuf>,
    /// The exported auth file holds the refresh token too: whoever renews with it becomes a second writer and breaks the
    /// chain.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) export_refresh_token: bool,
    /// You own this login and accept the provider's terms for what you use it for. Without it a chain whose
    /// provider has terms does nothing: `terms_not_accepted`. Only the kind `refresh_token` needs it.
    pub(crate) accept_provider_terms: bool,
    /// How long before its end the access token is renewed, in seconds; at most half of its life counts.
    #[schemars(range(min = 0, max = 31_536_000))]
    pub(crate) renew_before_secs: u64,
    /// The least time between two exchanges when one is forced, in seconds; at most a quarter of the access
    /// token's life counts.
    #[schemars(range(min = 0, max = 86_400))]
    pub(crate) min_exchange_interval_secs: u64,
    /// How long the provider's answer is waited for, in seconds; a refresh token counts as in doubt after that.
    #[schemars(range(min = 1, max = LONGEST_DEADLINE.as_secs()))]
    pub(crate) deadline_secs: u64,
    /// Whether the directory locks of the provider's own client are taken around the auth file.
    pub(crate) client_locks: ClientLocks,
    /// A file with the API key that serves while this chain cannot, a path; it goes before the environment's.
    /// `SIGHUP` reads it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fallback_key_file: Option<PathBuf>,
    /// An agent on a workstation is to be heard of: silence is told. A key with the scope `push` that names the chain
    /// does the same.
    pub(crate) push: bool,
    /// When push events are expected; without it day and night.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<ExpectedHours>,
    /// Programs whose key has the scope `token:read` may read the access token.
    pub(crate) token_read: bool,
}

/// When push events are expected of a workstation. Outside these hours its silence does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExpectedHours {
    /// The days.
    pub(crate) days: Vec<Day>,
    /// From when, as `HH:MM`.
    pub(crate) from: String,
    /// Until when, as `HH:MM`, on the same day.
    pub(crate) until: String,
    /// Whose clock: a name of the IANA database such as `Europe/Berlin`, or `UTC`.
    pub(crate) time_zone: String,
}

impl Default for ExpectedHours {
    fn default() -> Self {
        let days = vec![Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri];
        Self { days, from: "09:00".into(), until: "17:00".into(), time_zone: "UTC".into() }
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            enabled: true,
            provider: "claude".into(),
            kind: ChainKind::RefreshToken,
            identity_token_file: None,
            federation_rule_id: None,
            organization_id: None,
            service_account_id: None,
            workspace_id: None,
            scope: None,
            members: BTreeMap::new(),
            api_key_file: None,
            auth_file: None,
            vault: Vault::AuthFile,
            export: None,
            export_refresh_token: false,
            accept_provider_terms: false,
            renew_before_secs: 3600,
            min_exchange_interval_secs: 60,
            deadline_secs: 30,
            client_locks: ClientLocks::Auto,
            fallback_key_file: None,
            push: false,
            expected: None,
            token_read: false,
        }
    }
}

/// How a chain gets its access tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ChainKind {
    /// A login is renewed.
    #[default]
    RefreshToken,
    /// A workload's identity token is exchanged.
    JwtBearer,
    /// The client's own id and secret.
    ClientCredentials,
    /// It is an API key.
    ApiKey,
}

/// Where a pair is of record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Vault {
    /// In the auth file.
    #[default]
    AuthFile,
    /// In the database, sealed.
    Database,
}

impl Vault {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether the directory locks of the provider's own client are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientLocks {
    /// Where the provider's client has any and the folder is its own.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The regular proof that the access tokens work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Probe {
    /// Whether it runs by itself; `evergrant probe` runs it in any case.
    pub(crate) enabled: bool,
    /// How often, in seconds.
    #[schemars(range(min = 1, max = 86_400))]
    pub(crate) every_secs: u64,
    /// Whether each probe sends one minimal message too. It costs a little.
    pub(crate) message: bool,
    /// The model that the message asks; without it the provider's smallest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message_model: Option<String>,
}

impl Default for Probe {
    fn default() -> Self {
        Self { enabled: true, every_secs: 300, message: false, message_model: None }
    }
}

/// What alerts say, and when they are repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Alerts {
    /// The address under which people reach this server, for links in alerts. Without it: the one that it listens on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) public_url: Option<String>,
    /// Where the runbook lies; `/CODE.md` is appended. Without it: this server shows it, below `/runbook`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runbook_url: Option<String>,
    /// A red alert is repeated after so long, in seconds; then after twice as long each time, up to a day.
    #[schemars(range(min = 60, max = 604_800))]
    pub(crate) remind_after_secs: u64,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { public_url: None, runbook_url: None, remind_after_secs: 4 * 3600 }
    }
}

/// An outside dead-man, which is told that Evergrant itself lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Watchdog {
    /// An address that is fetched (GET) while the health monitor looks; https, but for loopback. Without it: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ping_url: Option<String>,
    /// How often, in seconds.
    #[schemars(range(min = 10, max = 86_400))]
    pub(crate) every_secs: u64,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { ping_url: None, every_secs: 300 }
    }
}

/// How long the past is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Retention {
    /// Events, in days.
    #[schemars(range(min = 1, max = 36_500))]
    pub(crate) events_days: u64,
    /// Rotations with the fingerprints of replaced pairs, in days. A pair older than that is no longer known
    /// to be spent.
    #[schemars(range(min = 1, max = 36_500))]
    pub(crate) rotations_days: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events_days: 90, rotations_days: 400 }
    }
}

/// A provider's profile. What is left out comes from the profile that it extends; `[providers.claude]` always
/// extends the built-in one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = without_null_defaults)]
pub(crate) struct Provider {
    /// The built-in profile that this one begins with: `claude`. Without it `token_url`, `client_id` and
    /// `api_base` are needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) extends: Option<String>,
    /// Where pairs are exchanged: an https URL (http only on loopback).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_url: Option<String>,
    /// Where a workload's identity token is exchanged: an https URL (http only on loopback). Without it: `token_url`,
    /// where that is set here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) federation_url: Option<String>,
    /// The OAuth client id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_id: Option<String>,
    /// How the token URL wants its request. Without it: `form`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoding: Option<Encoding>,
    /// How the client proves itself at the token URL. Without it: `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_auth: Option<ClientAuth>,
    /// A file that holds the client's secret, a path; for `client_secret_basic` and `client_secret_post`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_secret_file: Option<PathBuf>,
    /// More headers of the exchange: name and value. Those of the profile that is extended stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) headers: BTreeMap<String, String>,
    /// More headers of calls to the API: name and value. Those of the profile that is extended stay.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) api_headers: BTreeMap<String, String>,
    /// What the provider does when a spent refresh token is presented again. Without it: `strict`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reuse: Option<Reuse>,
    /// What every access token begins with; empty: anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) access_prefix: Option<String>,
    /// What every refresh token begins with; empty: anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_prefix: Option<String>,
    /// What every API key begins with; empty: anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_prefix: Option<String>,
    /// Where the API is: an https URL (http only on loopback).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) api_base: Option<String>,
    /// What answers 200 to a live access token: an https URL (http only on loopback); empty: nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probe_url: Option<String>,
    /// A free call below `api_base` that proves the round trip: a path with its query; empty: there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) round_trip: Option<String>,
    /// What the body of a 403 says when the token's scopes do not cover the probe URL; empty: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) probe_scope_reason: Option<String>,
    /// The provider's own client takes directory locks around the auth file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_locks: Option<bool>,
    /// Certificates (PEM) that are trusted for this provider besides the public ones, a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// How the gateway forwards to its API. Without it, and without a profile that has it: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<Forwarding>,
}

/// How the gateway forwards to a provider's API: access tokens go as `authorization: Bearer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forwarding {
    /// What clients put before the API's paths, and what is taken off: for example `/v1/acme`.
    pub(crate) route: String,
    /// The API's paths that are forwarded, with all below them; every other one is 404.
    pub(crate) paths: Vec<String>,
    /// The longest request body, in MiB.
    #[serde(default = "default_body_mib")]
    #[schemars(range(min = 1, max = 65_536))]
    pub(crate) body_mib: u64,
    /// The header that API keys go in, as they are; without it they go as access tokens do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_header: Option<String>,
}

fn default_body_mib() -> u64 {
    32
}

/// How the token URL wants its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// How the client proves itself at the token URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientAuth {
    /// A public client: its id only.
    None,
    /// HTTP Basic.
    ClientSecretBasic,
    /// In the body.
    ClientSecretPost,
}

/// What the provider does when a spent refresh token is presented again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reuse {
    /// It may revoke the whole family.
    Strict,
    /// It refuses, and nothing else happens.
    None,
    /// It may be presented again for so many seconds after it was spent.
    Grace(u64),
}

pub(crate) fn without_null_defaults(schema: &mut schemars::Schema) {
    let properties = schema.get_mut("properties").and_then(|properties| properties.as_object_mut());
    for property in properties.into_iter().flatten().map(|(_, property)| property) {
        if let Some(property) = property.as_object_mut()
            && property.get("default").is_some_and(serde_json::Value::is_null)
        {
            property.remove("default");
        }
    }
}
