//! The callers that the data plane knows: a published table, looked up by the hash of a presented key, with
//! the limits of each (SPEC §7, §13).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::caller::{Caller, KeyHash, KeyHeader, Presented, Scope};
use evergrant_core::{ChainName, Reason};
use evergrant_store::{State, StateError};
use http::HeaderMap;
use jiff::Timestamp;

use crate::published::Published;
use crate::world::World;

pub mod change;
mod limit;

pub use limit::{Limit, Permit};

use limit::{Flow, Pace};

/// How often the state is asked whether its callers changed: a revocation works within twice that.
const LOOK_AT_CALLERS: Duration = Duration::from_millis(500);

/// An agent sends one in half an hour, and at most one in 60 s while it has something to say; several share a key.
const PUSHES_A_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("it is not 0");

/// One caller that is known, with what it has in flight.
#[derive(Debug)]
pub struct KnownCaller {
    /// What is remembered of it.
    pub caller: Caller,
    flow: Arc<Flow>,
    pace: Option<Arc<Pace>>,
    /// How often it may push; only a key with that scope has it.
    pushes: Option<Arc<Pace>>,
}

impl KnownCaller {
    /// The same as before where nothing changed; limits go on where they stood.
    fn after(before: Option<&Arc<Self>>, caller: Caller) -> Arc<Self> {
        if let Some(before) = before.filter(|before| before.caller == caller) {
            return before.clone();
        }
        let pace = match (before, caller.requests_per_minute) {
            (Some(before), asked) if before.caller.requests_per_minute == asked => before.pace.clone(),
            (_, asked) => asked.map(|per_minute| Arc::new(Pace::new(per_minute))),
        };
        let flow = before.map(|before| before.flow.clone()).unwrap_or_default();
        let pushes = caller.scopes.allow(Scope::Push).then(|| {
            let before = before.and_then(|before| before.pushes.clone());
            before.unwrap_or_else(|| Arc::new(Pace::new(PUSHES_A_MINUTE)))
        });
        Arc::new(Self { caller, flow, pace, pushes })
    }

    /// Lets one request in, or says which limit it is over. `now` is the age of this process by a clock that
    /// nobody sets ([`World::monotonic`]), the same clock for all who ask. Free of locks; the
    /// permit gives the place back when it is dropped.
    pub fn admit(&self, now: Duration) -> Result<Permit, Limit> {
        let permit = self.flow.enter(self.caller.concurrent)?;
        match &self.pace {
            Some(pace) => pace.take(now).map(|()| permit),
            None => Ok(permit),
        }
    }

    /// Lets one push event in, or says when to try again.
    pub fn admit_push(&self, now: Duration) -> Result<(), Limit> {
        self.pushes.as_ref().map_or(Ok(()), |pace| pace.take(now))
    }

    /// How many requests it has in flight.
    pub fn in_flight(&self) -> u32 {
        self.flow.in_flight()
    }
}

/// All callers at one version of the state.
#[derive(Debug, Default)]
pub struct CallerTable(HashMap<KeyHash, Arc<KnownCaller>>);

impl CallerTable {
    fn after(before: &Self, callers: Vec<Caller>) -> Self {
        let known = |caller: Caller| {
            let hash = caller.hash;
            (hash, KnownCaller::after(before.0.get(&hash), caller))
        };
        Self(callers.into_iter().map(known).collect())
    }

    /// The caller whose key was presented, whether or not it may do anything. What has not the form of our keys,
    /// such as a provider's token, is not even hashed.
    pub fn find(&self, presented: &[u8]) -> Option<&Arc<KnownCaller>> {
        self.0.get(&KeyHash::of_presented(presented)?)
    }

    /// The caller whose key was presented, if it may do what needs `needed`; else why not.
    pub fn authorize(
        &self,
        presented: Option<&[u8]>,
        needed: Scope,
        now: Timestamp,
    ) -> Result<&Arc<KnownCaller>, Reason> {
        let known = self.find(presented.ok_or(Reason::CallerMissing)?).ok_or(Reason::CallerUnknown)?;
        match known.caller.refusal(now, needed) {
            Some(refusal) => Err(refusal.reason()),
            None => Ok(known),
        }
    }

    /// Whether somebody holds a key of this chain who [is missed](Caller::is_missed) where nothing comes.
    pub fn anybody_missed(&self, scope: Scope, chain: &ChainName) -> bool {
        let is = |caller: &Caller| caller.chain == *chain && caller.is_missed(scope);
        self.0.values().any(|known| is(&known.caller))
    }

    /// How many keys it holds.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The key that a request presents.
pub fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut presented = Presented::default();
    for header in KeyHeader::ALL {
        for value in headers.get_all(header.name()) {
            presented.see(header, value.as_bytes());
        }
    }
    presented.key()
}

/// The table of one version of the state.
#[derive(Debug, Default)]
struct Loaded {
    version: u64,
    table: Arc<CallerTable>,
}

/// The table that is in force. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Callers(Arc<Published<Loaded>>);

impl Callers {
    /// Reads the callers of a state.
    pub async fn load<S: State>(state: &S) -> Result<Self, StateError> {
        let callers = Self::default();
        callers.refresh(state).await?;
        Ok(callers)
    }

    /// Changes whenever the table does. One atomic load: a thread keeps its table until this differs from what
    /// it was before that table was taken.
    pub fn version(&self) -> u64 {
        self.0.version()
    }

    /// The table.
    pub fn table(&self) -> Arc<CallerTable> {
        self.0.current().table.clone()
    }

    /// Reads the state's callers again, if they changed. Says whether another table was published.
    pub async fn refresh<S: State>(&self, state: &S) -> Result<bool, StateError> {
        // Its first version is 0, of a state without callers, as the table's is before the first reading.
        let version = state.callers_version().await?.unsigned_abs();
        if version == self.0.current().version {
            return Ok(false);
        }
        // What changes between these two reads is published too early, and then once more.
        Ok(self.publish(version, state.callers().await?))
    }

    fn publish(&self, version: u64, callers: Vec<Caller>) -> bool {
        self.0.replace(|before| {
            // Somebody who began to read later was quicker: a revocation is never taken back.
            let next = (version > before.version).then(|| CallerTable::after(&before.table, callers))?;
            Some(Loaded { version, table: Arc::new(next) })
        })
    }

    /// Keeps the table up to date until its task is dropped. A state that cannot be read leaves it as it is.
    pub async fn follow<W: World>(self, world: W) {
        let mut failing = false;
        loop {
            world.sleep(LOOK_AT_CALLERS).await;
            match self.refresh(world.state()).await {
                Ok(published) => {
                    if published || failing {
                        tracing::debug!(version = self.version(), keys = self.table().len(), "caller keys");
                    }
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        let reason = Reason::StateUnavailable;
                        tracing::warn!(%reason, %error, "changes of caller keys are not seen until it is back");
                    }
                    failing = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
