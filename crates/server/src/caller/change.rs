//! Changes of the callers, as admin API and command line make them: decided by core, kept by the state with who
//! did it.

use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::audit::Actor;
use evergrant_core::caller::{Caller, CallerKey, KeyId, NewCaller, NotALife, Rotated, RotationRefusal};
use evergrant_store::{State, StateError};
use jiff::Timestamp;
use rand::CryptoRng;
use serde_json::{Value, json};

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// The life that was asked for.
    #[error(transparent)]
    Life(#[from] NotALife),
    /// There is no such key.
    #[error("there is no key {0}")]
    Unknown(KeyId),
    /// It is not rotated.
    #[error("{id} is not rotated: {refusal}")]
    Rotation {
        /// Which key.
        id: KeyId,
        /// Why not.
        refusal: RotationRefusal,
    },
    /// Somebody else was quicker.
    #[error("{0} was changed at the same moment: list the keys and try again")]
    Raced(KeyId),
    /// The state says so.
    #[error(transparent)]
    State(#[from] StateError),
}

impl ChangeError {
    /// The reason that it stands for.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Life(_) => Reason::RequestInvalid,
            Self::Unknown(_) => Reason::NotFound,
            Self::Rotation { refusal, .. } => refusal.reason(),
            Self::Raced(_) => Reason::CallerReplaced,
            Self::State(_) => Reason::StateUnavailable,
        }
    }
}

/// A key that was made. It is not kept: whoever asked for it sees it now, or never.
#[derive(Debug)]
pub struct Made {
    /// What is remembered of it.
    pub caller: Caller,
    /// The key.
    pub key: CallerKey,
    /// The caller that it takes the place of.
    pub replaces: Option<Caller>,
}

impl Made {
    /// The only answer that holds a key.
    pub fn json(&self, now: Timestamp) -> Value {
        let mut value = json!({ "key": self.key.expose() });
        let shown = serde_json::to_value(self.caller.shown(now)).unwrap_or_default();
        if let (Value::Object(value), Value::Object(shown)) = (&mut value, shown) {
            value.extend(shown);
        }
        if let Some(replaces) = &self.replaces {
            value["replaces"] = json!(replaces.shown(now));
        }
        value
    }
}

/// All callers, as they are shown.
pub fn list_json(callers: &[Caller], now: Timestamp) -> Value {
    let keys: Vec<_> = callers.iter().map(|caller| caller.shown(now)).collect();
    json!({ "keys": keys })
}

/// Makes a key.
pub async fn create<S: State>(
    state: &S,
    new: NewCaller,
    who: &Actor,
    now: Timestamp,
    rng: &mut impl CryptoRng,
) -> Result<Made, ChangeError> {
    let (caller, key) = new.create(now, rng)?;
    if !state.add_caller(&caller, who).await? {
        return Err(ChangeError::Raced(caller.id));
    }
    Ok(Made { caller, key, replaces: None })
}

/// Revokes a key; one that was revoked before stays as it is.
pub async fn revoke<S: State>(
    state: &S,
    id: KeyId,
    who: &Actor,
    now: Timestamp,
) -> Result<Caller, ChangeError> {
    state.revoke_caller(&id, now, who).await?.ok_or(ChangeError::Unknown(id))
}

/// Makes another key for the same caller; the old one ends after `overlap`.
pub async fn rotate<S: State>(
    state: &S,
    id: KeyId,
    overlap: Duration,
    who: &Actor,
    now: Timestamp,
    rng: &mut (impl CryptoRng + Send),
) -> Result<Made, ChangeError> {
    let callers = state.callers().await?;
    let before = callers.into_iter().find(|caller| caller.id == id).ok_or(ChangeError::Unknown(id))?;
    let rotated = before.rotate(overlap, now, rng);
    let Rotated { old, new, key } = rotated.map_err(|refusal| ChangeError::Rotation { id, refusal })?;
    if !state.replace_caller(&old, &new, who).await? {
        return Err(ChangeError::Raced(id));
    }
    Ok(Made { caller: new, key, replaces: Some(old) })
}
