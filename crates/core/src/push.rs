//! What agent and server say to each other, and what each makes of it (SPEC §5).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::chain::{ChainName, Generation, Lineage};
use crate::grant::Grant;
use crate::reason::Reason;
use crate::secret::{AccessToken, Fingerprint, RefreshToken};

pub mod agent;
mod judge;

pub use judge::{MOST_AGENT_SKEW_SECS, Refusal, judge, outcome_of_refusal, same_identity};

/// Where push events are sent, below the server's address.
pub const PATH: &str = "/api/v1/admin/system/token-push";
/// The longest message of an agent, in bytes.
pub const MAX_LEN: usize = 64 * 1024;
/// An agent beats so often, in seconds.
pub const BEAT_EVERY_SECS: u64 = 30 * 60;
/// An agent looks at its entry so often, in seconds.
pub const LOOK_EVERY_SECS: u64 = 60;

/// What kind of push event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushKind {
    /// A heartbeat.
    Beat,
    /// A fresh re-authorization.
    Push,
}

impl PushKind {
    /// The code as it stands in JSON and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Beat => "beat",
            Self::Push => "push",
        }
    }
}

/// What the agent sees of the entry that it watches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Local {
    /// Where it lies: `keychain SERVICE` or `file PATH`; nothing if there is none.
    pub entry: Option<String>,
    /// Of the grant in it, if it holds one.
    pub fingerprint: Option<Fingerprint>,
    /// When it was written.
    pub modified_at: Option<Timestamp>,
    /// The client's config folder in which the chain's login is made, where it is one of its own; at most 1,024
    /// characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_dir: Option<String>,
}

/// Attempts to reach the server that failed since the last contact, for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedAttempts {
    /// Why.
    pub reason: Reason,
    /// How many.
    pub count: u32,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// The operator said that the workstation will be silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// Until when.
    pub until: Timestamp,
    /// Why, in the operator's words; at most 200 characters.
    pub reason: String,
}

/// A push event without its grant: what the ledger keeps of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// What kind.
    pub kind: PushKind,
    /// The chain; without it, the key's.
    #[serde(default)]
    pub chain: Option<ChainName>,
    /// Which agent: 1 to 64 characters of `A-Z a-z 0-9 - _ .`, kept over restarts.
    pub agent_id: String,
    /// The workstation's name; at most 255 characters.
    pub host: String,
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// When it was sent, by the agent's clock.
    pub sent_at: Timestamp,
    /// Once only: 16 to 64 characters of `A-Z a-z 0-9 - _`.
    pub nonce: String,
    /// What the agent sees.
    #[serde(default)]
    pub local: Local,
    /// Of a beat: why it is no push (`same_grant`, `not_fresh`, `refused`, `keychain_locked`, `no_entry`, `wiped`,
    /// `malformed`).
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Of a beat with the reason `refused`: the server's own reason then.
    #[serde(default)]
    pub refused: Option<Reason>,
    /// A grant waits to be pushed.
    #[serde(default)]
    pub pending: bool,
    /// Since when the entry cannot be read for a lock, if it is so.
    #[serde(default)]
    pub blind_since: Option<Timestamp>,
    /// What failed since the last contact; at most 16 lines.
    #[serde(default)]
    pub failures: Vec<FailedAttempts>,
    /// The operator announced an absence; nothing takes an earlier one back.
    #[serde(default)]
    pub absence: Option<Absence>,
}

/// A message with what belongs to a push. It does not print its tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct Call {
    /// The event.
    pub message: Message,
    /// Of a push: the grant.
    pub grant: Option<Grant>,
    /// Whose login it is, where the entry says so.
    pub identity: Option<Identity>,
    /// Another account than before is meant.
    pub accept_new_identity: bool,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("message", &self.message)
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

/// Whose login a grant is, by the provider's own ids.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {
    /// The account's id.
    pub account: Option<String>,
    /// The organization's id.
    pub organization: Option<String>,
}

impl Identity {
    /// Whether both are known in some part and differ in it.
    pub fn contradicts(&self, other: &Self) -> bool {
        let differ = |one: &Option<String>, two: &Option<String>| matches!((one, two), (Some(one), Some(two)) if one != two);
        differ(&self.account, &other.account) || differ(&self.organization, &other.organization)
    }
}

/// Why bytes are no message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotACall {
    /// They have another form.
    #[error("{0}")]
    Malformed(String),
    /// The login in them was wiped.
    #[error("the login was wiped: its access token is empty; log in again")]
    Wiped,
}

impl NotACall {
    /// The reason that it stands for.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::RequestInvalid,
            Self::Wiped => Reason::Wiped,
        }
    }
}

impl Call {
    /// The body of the request, with the tokens in it.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = serde_json::to_value(&self.message).unwrap_or_default();
        if let Some(grant) = &self.grant {
            body["grant"] = json!({
                "access_token": grant.access.expose(),
                "refresh_token": grant.refresh.as_ref().map(RefreshToken::expose),
                "expires_at": grant.expires_at,
                "grant_expires_at": grant.grant_expires_at,
                "scopes": grant.scopes,
            });
        }
        if let Some(identity) = &self.identity {
            body["identity"] = json!(identity);
        }
        if self.accept_new_identity {
            body["accept_new_identity"] = json!(true);
        }
        serde_json::to_vec(&body).unwrap_or_default()
    }

    /// Reads the body of a request. The fault never quotes a value.
    pub fn decode(body: &[u8]) -> Result<Self, NotACall> {
        let fault = |what: &str| NotACall::Malformed(what.to_owned());
        let Ok(Value::Object(mut body)) = serde_json::from_slice(body) else {
            return Err(fault("it is no JSON object"));
        };
        let (grant, identity) = (body.remove("grant"), body.remove("identity"));
        let accept_new_identity = match body.remove("accept_new_identity") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(accept)) => accept,
            Some(_) => return Err(fault("accept_new_identity is neither true nor false")),
        };
        let message = Message::deserialize(Value::Object(body)).map_err(|error| {
            NotACall::Malformed(format!("it is no push event: {}", without_values(&error.to_string())))
        })?;
        let grant = match grant {
            None | Some(Value::Null) => None,
            Some(grant) => Some(pushed(&grant)?),
        };
        let identity = match identity {
            None | Some(Value::Null) => None,
            Some(identity) => Some(
                Identity::deserialize(identity)
                    .map_err(|_| fault("identity holds texts account and organization"))?,
            ),
        };
        Ok(Self { message, grant, identity, accept_new_identity })
    }
}

/// Serde names fields in backquotes and quotes values: what is quoted may be anything.
fn without_values(error: &str) -> String {
    let mut parts = error.split('"');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.enumerate().fold(first, |said, (index, part)| if index % 2 == 0 { said + "…" } else { said + part })
}

fn pushed(grant: &Value) -> Result<Grant, NotACall> {
    let fault = |member: &str, what: &str| NotACall::Malformed(format!("grant.{member} {what}"));
    let text = |member: &str| match grant.get(member) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text.as_str()),
        Some(_) => Err(fault(member, "is no text")),
    };
    let instant = |member: &str| match text(member)? {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| fault(member, "is no instant (RFC 3339)")),
    };
    let token = |member: &str| fault(member, "is no token: one word of visible ASCII");
    if text("access_token")?.is_empty() {
        return Err(NotACall::Wiped);
    }
    let access = AccessToken::parse(text("access_token")?).map_err(|_| token("access_token"))?;
    let refresh = match text("refresh_token")? {
        "" => None,
        raw => Some(RefreshToken::parse(raw).map_err(|_| token("refresh_token"))?),
    };
    let scopes = match grant.get("scopes") {
        None | Some(Value::Null) => Vec::new(),
        Some(scopes) => Vec::deserialize(scopes).map_err(|_| fault("scopes", "is no list of texts"))?,
    };
    Ok(Grant {
        access,
        refresh,
        expires_at: instant("expires_at")?,
        grant_expires_at: instant("grant_expires_at")?,
        scopes,
    })
}

/// What the server did with a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The chain.
    pub chain: ChainName,
    /// `accepted`: the grant is the chain's now. `same_grant`: it was already. `beat`: it was heard.
    pub reason: Reason,
    /// The push track's status.
    pub status: String,
    /// Since when it has been so.
    pub since: Option<Timestamp>,
    /// Of the grant that the server holds.
    pub fingerprint: Option<Fingerprint>,
    /// The server's clock.
    pub now: Timestamp,
    /// Where the chain stands.
    pub lineage: Option<Lineage>,
    /// Where the chain stands.
    pub generation: Option<Generation>,
}

/// Whether a refusal of a push is final: the same grant is not tried again.
pub fn is_final(refusal: Reason) -> bool {
    matches!(
        refusal,
        Reason::WrongPrefix
            | Reason::Expired
            | Reason::Wiped
            | Reason::GrantSpent
            | Reason::IdentityMismatch
            | Reason::ProbeRefused
            | Reason::TermsNotAccepted
            | Reason::NothingToPush
    )
}
