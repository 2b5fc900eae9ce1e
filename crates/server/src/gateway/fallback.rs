//! The key that serves when a chain cannot: how often it has, and whether it works (SPEC §7).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use evergrant_core::gateway::{FallbackOn, Spent, spend};
use evergrant_core::health::FallbackFacts;
use evergrant_core::provider::Profile;
use evergrant_core::{ApiKey, ChainName, Reason};
use evergrant_store::State;
use http::Method;
use jiff::Timestamp;

use crate::http::HttpClient;
use crate::world::World;

/// How often the uses are written down.
const SAVE_USES: Duration = Duration::from_secs(1);
/// Keys that are not in use are compared with what other processes have added once in so many times.
const COMPARE_EVERY: u32 = 60;
/// How often it is looked at whether a key still works.
const CHECK_KEYS: Duration = Duration::from_secs(24 * 3600);
const FIRST_CHECK: Duration = Duration::from_secs(1);
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// A key that serves when a chain cannot.
#[derive(Debug, Clone)]
pub struct FallbackKey {
    /// The key.
    pub key: ApiKey,
    /// What API keys begin with.
    pub prefix: Option<String>,
    /// When it serves.
    pub on: FallbackOn,
    /// How many requests a day it serves at most.
    pub max_requests_per_day: Option<u64>,
    /// How many it has served today.
    pub uses: Arc<DayCount>,
}

impl FallbackKey {
    /// What is known of it.
    pub fn facts(&self, now: Timestamp) -> FallbackFacts {
        FallbackFacts {
            there: true,
            usable: self.uses.usable(),
            uses_today: self.uses.used(day_of(now)),
            most_a_day: self.max_requests_per_day,
        }
    }
}

/// How many requests a fallback key has served on a day (UTC), and whether it works.
#[derive(Debug, Default)]
pub struct DayCount(Mutex<Day>, Mutex<Option<bool>>);

#[derive(Debug, Default, Clone, Copy)]
struct Day {
    day: i32,
    used: u64,
    /// Of these, not yet written to the state.
    unsaved: u64,
    /// How often it could have been compared with the state's count.
    rounds: u32,
}

/// Days since the epoch.
pub(crate) fn day_of(at: Timestamp) -> i32 {
    i32::try_from(at.as_second().div_euclid(24 * 3600)).unwrap_or(i32::MAX)
}

impl DayCount {
    fn with<T>(&self, day: i32, with: impl FnOnce(&mut Day) -> T) -> T {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.day != day {
            *counted = Day { day, ..Day::default() };
        }
        with(&mut counted)
    }

    /// The same, unless another day has begun meanwhile.
    fn still<T: Default>(&self, day: i32, with: impl FnOnce(&mut Day) -> T) -> T {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.day == day { with(&mut counted) } else { T::default() }
    }

    /// One more request, unless `max` are served already.
    pub fn take(&self, day: i32, max: Option<u64>) -> Spent {
        self.with(day, |counted| {
            let spent = spend(counted.used, max);
            if spent.allowed {
                counted.used += 1;
                counted.unsaved += 1;
            }
            spent
        })
    }

    /// Whether one more is allowed.
    pub fn left(&self, day: i32, max: Option<u64>) -> bool {
        self.with(day, |counted| spend(counted.used, max).allowed)
    }

    /// How many it has served.
    pub fn used(&self, day: i32) -> u64 {
        self.with(day, |counted| counted.used)
    }

    /// What the last check of the key said; nothing if none was answered.
    pub fn usable(&self) -> Option<bool> {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a check of the key said.
    pub fn checked(&self, usable: bool) {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(usable);
    }

    /// Whether it is to be compared with the state's count now: at once if something is unsaved, and of a key that is
    /// not in use now and then.
    fn is_due(&self, day: i32) -> bool {
        self.with(day, |counted| {
            let due = counted.unsaved > 0 || counted.rounds.is_multiple_of(COMPARE_EVERY);
            counted.rounds = counted.rounds.wrapping_add(1);
            due
        })
    }

    /// What is to be written to the state: it counts as written.
    pub fn unsaved(&self, day: i32) -> u64 {
        self.still(day, |counted| std::mem::take(&mut counted.unsaved))
    }

    /// The state's total of this day, which other processes and earlier ones have added to.
    pub fn seen(&self, day: i32, total: u64) {
        self.still(day, |counted| counted.used = counted.used.max(total + counted.unsaved));
    }

    /// What could not be written after all.
    pub fn not_saved(&self, day: i32, uses: u64) {
        self.still(day, |counted| counted.unsaved += uses);
    }
}

/// What fallback keys have served today, by chain. It outlives configurations; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct FallbackUses(Arc<Mutex<BTreeMap<ChainName, Arc<DayCount>>>>);

impl FallbackUses {
    /// What the key of this chain has served.
    pub fn of(&self, chain: &ChainName) -> Arc<DayCount> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(chain.clone()).or_default().clone()
    }

    /// The same, of a chain whose key has served something; without one, nothing is remembered of the chain.
    pub fn known(&self, chain: &ChainName) -> Arc<DayCount> {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(chain).cloned();
        counted.unwrap_or_default()
    }

    fn all(&self) -> BTreeMap<ChainName, Arc<DayCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds what was served to the state's count, and reads what other processes have added.
    pub async fn save<W: World>(&self, world: &W) {
        for (chain, count) in self.all() {
            let day = day_of(world.now());
            if !count.is_due(day) {
                continue;
            }
            let uses = count.unsaved(day);
            match world.state().add_fallback_uses(&chain, day, uses).await {
                Ok(total) => count.seen(day, total),
                Err(error) => {
                    count.not_saved(day, uses);
                    tracing::warn!(%chain, %error, "the fallback key's uses could not be written down yet");
                }
            }
        }
    }

    /// Keeps doing that.
    pub async fn keep_saving<W: World>(self, world: W) {
        loop {
            self.save(&world).await;
            world.sleep(SAVE_USES).await;
        }
    }
}

/// Looks once a day whether a chain's fallback key works, by a call that costs nothing.
pub async fn check_fallback_key<W: World>(
    world: W,
    client: HttpClient,
    chain: ChainName,
    profile: Profile,
    key: FallbackKey,
) {
    let FallbackKey { key, uses, .. } = key;
    let shown = key.shown(profile.api_key_prefix.as_deref());
    let mut wait = FIRST_CHECK;
    loop {
        world.sleep(wait).await;
        wait = CHECK_KEYS;
        match ask(&client, &profile, &key).await {
            Some(200) => {
                uses.checked(true);
                tracing::info!(reason = %Reason::FallbackKeyOk, %chain, key = shown, "the fallback key works");
            }
            Some(status @ (401 | 403)) => {
                uses.checked(false);
                tracing::warn!(
                    reason = %Reason::FallbackKeyRefused, %chain, key = shown, status,
                    "the provider refuses the fallback key: requests will fail when the chain does; put a key that \
                     works in its place"
                );
            }
            status => {
                tracing::debug!(%chain, key = shown, ?status, "nothing was learned about the fallback key")
            }
        }
    }
}

/// The status of the provider's free call; `None`: it has none, or did not answer.
async fn ask(client: &HttpClient, profile: &Profile, key: &ApiKey) -> Option<u16> {
    let url = profile.api_base.join(profile.round_trip.as_ref()?).ok()?;
    let headers = profile.api_key_headers(key);
    let call = client.call(Method::GET, &url, &headers, Bytes::new());
    let reply = tokio::time::timeout(CHECK_TIMEOUT, call).await.ok()?.ok()?;
    Some(reply.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_yesterday_changes_nothing_today() {
        let count = DayCount::default();
        assert!(count.take(1, None).allowed);
        let uses = count.unsaved(1);
        // Midnight passes while they are written down.
        assert!(count.take(2, Some(2)).allowed);
        count.seen(1, 40);
        count.not_saved(1, uses);
        assert_eq!(count.unsaved(1), 0);
        assert_eq!((count.used(2), count.unsaved(2)), (1, 1));
        assert!(count.take(2, Some(2)).allowed && !count.take(2, Some(2)).allowed);
    }
}
