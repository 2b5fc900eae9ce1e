//! Callers of the gateway and of the admin API: their keys, and what they may do (SPEC §7, §9, §13).

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::chain::ChainName;
use crate::reason::Reason;

mod key;
mod presented;

pub use key::{CallerKey, KEY_LEN, KEY_PREFIX, KeyHash, KeyId, KeyIdText, NotAKeyHash, NotAKeyId};
pub use presented::{KeyHeader, Presented};

/// What a caller key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scope {
    /// Requests through the gateway.
    #[serde(rename = "gateway")]
    Gateway,
    /// Heartbeats and grants from an agent.
    #[serde(rename = "push")]
    Push,
    /// What the admin API shows.
    #[serde(rename = "admin:read")]
    AdminRead,
    /// What the admin API changes; implies `admin:read`.
    #[serde(rename = "admin:write")]
    AdminWrite,
    /// The access token itself.
    #[serde(rename = "token:read")]
    TokenRead,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Gateway, Self::Push, Self::AdminRead, Self::AdminWrite, Self::TokenRead];

    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Push => "push",
            Self::AdminRead => "admin:read",
            Self::AdminWrite => "admin:write",
            Self::TokenRead => "token:read",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope: use gateway, push, admin:read, admin:write or token:read")]
pub struct NotAScope(String);

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == word);
        known.ok_or_else(|| NotAScope(word.to_owned()))
    }
}

/// The scopes of one key; `gateway` where none is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Whether they cover what is needed.
    pub fn allow(&self, needed: Scope) -> bool {
        self.0.contains(&needed) || needed == Scope::AdminRead && self.0.contains(&Scope::AdminWrite)
    }

    /// Each of them, in the order of [`Scope::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = Scope> + '_ {
        self.0.iter().copied()
    }
}

impl Default for Scopes {
    fn default() -> Self {
        Self(BTreeSet::from([Scope::Gateway]))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        let scopes: BTreeSet<_> = scopes.into_iter().collect();
        if scopes.is_empty() { Self::default() } else { Self(scopes) }
    }
}

/// What its operator calls a caller: 1 to 64 characters that can be seen, with single blanks inside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallerName(String);

/// A string that cannot name a caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no name of a caller: use 1 to 64 printable characters, with no blank at the ends")]
pub struct NotACallerName(String);

impl CallerName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Characters that print nothing, or that turn what follows around: a name with them could pass for another.
fn is_invisible(character: char) -> bool {
    let formats = ['\u{ad}', '\u{61c}', '\u{180e}', '\u{feff}'];
    character.is_control()
        || character.is_whitespace() && character != ' '
        || formats.contains(&character)
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(character, '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
}

impl TryFrom<String> for CallerName {
    type Error = NotACallerName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let len = name.chars().count();
        let fits = (1..=64).contains(&len) && name.trim() == name && !name.chars().any(is_invisible);
        if fits { Ok(Self(name)) } else { Err(NotACallerName(name)) }
    }
}

impl FromStr for CallerName {
    type Err = NotACallerName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        name.to_owned().try_into()
    }
}

impl From<CallerName> for String {
    fn from(name: CallerName) -> Self {
        name.0
    }
}

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is remembered of one caller key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// What the key is called by; made of its hash.
    pub id: KeyId,
    /// What its operator calls its holder.
    pub name: CallerName,
    /// The SHA-256 of the key.
    pub hash: KeyHash,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The chain whose grant serves it.
    pub chain: ChainName,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// So many requests a minute, and so many at once after a pause.
    pub requests_per_minute: Option<NonZeroU32>,
    /// So many requests at the same time.
    pub concurrent: Option<NonZeroU32>,
    /// Whether the fallback key may serve it.
    pub fallback: bool,
    /// When it was revoked, first.
    pub revoked_at: Option<Timestamp>,
    /// The key that took its place.
    pub replaced_by: Option<KeyId>,
}

/// What its operator asks of a new key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCaller {
    /// What its operator calls its holder.
    pub name: CallerName,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The chain whose grant serves it.
    pub chain: ChainName,
    /// How long it lives; none for ever.
    pub expires_in: Option<Duration>,
    /// So many requests a minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// So many requests at the same time.
    pub concurrent: Option<NonZeroU32>,
    /// Whether the fallback key may serve it.
    pub fallback: bool,
}

/// No chain for a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoChain {
    /// It is not configured.
    #[error("there is no chain {named} in the configuration; there is: {}", list(.configured))]
    Unknown {
        /// The one that was named.
        named: ChainName,
        /// Those that are.
        configured: Vec<ChainName>,
    },
    /// None was named, and which one is meant is not clear.
    #[error("say which chain; there is: {}", list(.0))]
    Unsaid(Vec<ChainName>),
    /// None is configured.
    #[error("no chain is configured and enabled")]
    None,
}

fn list(names: &[ChainName]) -> String {
    names.iter().map(ChainName::as_str).collect::<Vec<_>>().join(", ")
}

/// The chain that serves a key: the one that is named, if it is configured; else `claude`, else the only one.
pub fn chain_of(named: Option<ChainName>, configured: &[ChainName]) -> Result<ChainName, NoChain> {
    let default = || configured.iter().find(|chain| chain.as_str() == DEFAULT_CHAIN);
    match (named, configured) {
        (_, []) => Err(NoChain::None),
        (None, [only]) => Ok(only.clone()),
        (None, several) => default().cloned().ok_or_else(|| NoChain::Unsaid(several.to_vec())),
        (Some(named), configured) if configured.contains(&named) => Ok(named),
        (Some(named), configured) => Err(NoChain::Unknown { named, configured: configured.to_vec() }),
    }
}

/// The chain of a key for which none is named.
pub const DEFAULT_CHAIN: &str = "claude";

/// A life that no key can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key lives for at least 1 s and at most 100 years; leave its end out for one that does not expire")]
pub struct NotALife;

const LONGEST_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl NewCaller {
    /// Makes the key and what is remembered of it.
    pub fn create(self, now: Timestamp, rng: &mut impl CryptoRng) -> Result<(Caller, CallerKey), NotALife> {
        let expires_at = self.expires_in.map(|life| {
            let fits = (Duration::from_secs(1)..=LONGEST_LIFE).contains(&life);
            if fits { now.checked_add(life).map_err(|_| NotALife) } else { Err(NotALife) }
        });
        let key = CallerKey::generate(rng);
        let hash = key.hash();
        let caller = Caller {
            id: hash.id(),
            name: self.name,
            hash,
            scopes: self.scopes,
            chain: self.chain,
            created_at: now,
            expires_at: expires_at.transpose()?,
            requests_per_minute: self.requests_per_minute,
            concurrent: self.concurrent,
            fallback: self.fallback,
            revoked_at: None,
            replaced_by: None,
        };
        Ok((caller, key))
    }
}

/// Why a known caller is not let do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallerRefusal {
    /// Its key was revoked.
    Revoked,
    /// Its key has expired.
    Expired,
    /// Its key lacks a scope.
    Scope(Scope),
}

impl CallerRefusal {
    /// The reason that it stands for.
    pub fn reason(self) -> Reason {
        match self {
            Self::Revoked => Reason::CallerRevoked,
            Self::Expired => Reason::CallerExpired,
            Self::Scope(_) => Reason::ScopeMissing,
        }
    }
}

/// Why a key is not rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationRefusal {
    /// It was revoked.
    #[error("it was revoked, so there is nothing to hand over: create another key")]
    Revoked,
    /// It has expired.
    #[error("it has expired, so there is nothing to hand over: create another key")]
    Expired,
    /// It was rotated before.
    #[error("it was rotated already: {0} took its place")]
    Replaced(KeyId),
}

impl RotationRefusal {
    /// The reason that it stands for.
    pub fn reason(self) -> Reason {
        match self {
            Self::Revoked => Reason::CallerRevoked,
            Self::Expired => Reason::CallerExpired,
            Self::Replaced(_) => Reason::CallerReplaced,
        }
    }
}

/// What a rotation leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The old key, which ends with the overlap at the latest.
    pub old: Caller,
    /// The new one, for the same caller.
    pub new: Caller,
    /// Its key.
    pub key: CallerKey,
}

impl Caller {
    /// Why it may not do what needs `needed`, if it may not.
    pub fn refusal(&self, now: Timestamp, needed: Scope) -> Option<CallerRefusal> {
        if self.revoked_at.is_some() {
            return Some(CallerRefusal::Revoked);
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Some(CallerRefusal::Expired);
        }
        (!self.scopes.allow(needed)).then_some(CallerRefusal::Scope(needed))
    }

    /// Whether its holder is missed where nothing comes that needs `scope`: one whose key has expired is, since nobody meant
    /// that; one whose key was revoked or replaced is not.
    pub fn is_missed(&self, scope: Scope) -> bool {
        self.revoked_at.is_none() && self.replaced_by.is_none() && self.scopes.allow(scope)
    }

    /// Another key for the same caller, with its name, scopes, chain and limits and as long a life; the old one
    /// ends after `overlap`, or at its own end if that is earlier.
    pub fn rotate(
        &self,
        overlap: Duration,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<Rotated, RotationRefusal> {
        if self.revoked_at.is_some() {
            return Err(RotationRefusal::Revoked);
        }
        if let Some(successor) = self.replaced_by {
            return Err(RotationRefusal::Replaced(successor));
        }
        if self.expires_at.is_some_and(|end| end <= now) {
            return Err(RotationRefusal::Expired);
        }
        let life = self.expires_at.map(|end| end.duration_since(self.created_at));
        let key = CallerKey::generate(rng);
        let hash = key.hash();
        let expires_at = life.map(|life| now.checked_add(life).unwrap_or(Timestamp::MAX));
        let new = Self { id: hash.id(), hash, created_at: now, expires_at, ..self.clone() };
        let handed_over = now.checked_add(overlap).unwrap_or(Timestamp::MAX);
        let end = self.expires_at.map_or(handed_over, |end| end.min(handed_over));
        let old = Self { expires_at: Some(end), replaced_by: Some(new.id), ..self.clone() };
        Ok(Rotated { old, new, key })
    }

    /// What of it may be shown.
    pub fn shown(&self, now: Timestamp) -> ShownCaller {
        let standing = match (self.revoked_at, self.expires_at) {
            (Some(_), _) => CallerStanding::Revoked,
            (None, Some(end)) if end <= now => CallerStanding::Expired,
            (None, Some(_) | None) => CallerStanding::Live,
        };
        ShownCaller {
            id: self.id,
            name: self.name.clone(),
            standing,
            scopes: self.scopes.clone(),
            chain: self.chain.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            requests_per_minute: self.requests_per_minute,
            concurrent: self.concurrent,
            fallback: self.fallback,
            revoked_at: self.revoked_at,
            replaced_by: self.replaced_by,
        }
    }
}

/// Whether a key works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerStanding {
    /// It works.
    Live,
    /// It has expired.
    Expired,
    /// It was revoked.
    Revoked,
}

impl CallerStanding {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A caller as API and command line show it: all of it but the hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownCaller {
    /// What the key is called by.
    pub id: KeyId,
    /// What its operator calls its holder.
    pub name: CallerName,
    /// Whether it works.
    pub standing: CallerStanding,
    /// What it may be used for.
    pub scopes: Scopes,
    /// The chain whose grant serves it.
    pub chain: ChainName,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// So many requests a minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// So many requests at the same time.
    pub concurrent: Option<NonZeroU32>,
    /// Whether the fallback key may serve it.
    pub fallback: bool,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The key that took its place.
    pub replaced_by: Option<KeyId>,
}

#[cfg(test)]
mod tests;
