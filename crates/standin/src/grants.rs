//! Families of refresh tokens, and the access tokens they gave: who is alive, what presenting a token does. This is
//! where reuse is detected (RFC 9700 §4.14.2).

use std::collections::{BTreeMap, VecDeque};

use jiff::{SignedDuration, Timestamp};
use rand::Rng;

use crate::fingerprint::Fingerprint;
use crate::log::Counters;
use crate::login::{Login, LoginOptions};
use crate::settings::{GraceSuccessor, ReuseClass, Rotation, Settings};

/// Access tokens remembered; the oldest go first.
const ACCESS_KEPT: usize = 65_536;

/// What is known of an access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessState {
    /// It works.
    Live,
    /// Its time is over.
    Expired,
    /// It or its family was revoked.
    Revoked,
    /// Never issued here, or forgotten.
    Unknown,
}

/// What presenting a refresh token came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Presented {
    Issued(Issued),
    Reuse,
    Refused(Refusal),
}

/// Why a refresh token is refused without counting as reuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    Revoked,
    Expired,
    Spent,
}

/// A pair that an exchange gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) access_token: String,
    pub(crate) refresh_token: String,
    pub(crate) how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Rotated,
    Repeated,
    Graced,
}

/// One login and all that came of it.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    pub(crate) generation: u64,
    pub(crate) scopes: Vec<String>,
    pub(crate) granted_at: Timestamp,
    pub(crate) grant_expires_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
    /// The newest refresh token.
    pub(crate) newest: String,
    access_ended_until: u64,
    access_revoked: bool,
    options: LoginOptions,
    refresh: VecDeque<Fingerprint>,
}

impl Family {
    pub(crate) fn ended(&self, now: Timestamp) -> bool {
        self.grant_expires_at.is_some_and(|end| now >= end)
    }

    pub(crate) fn access_secs(&self, settings: &Settings) -> u64 {
        self.options.access_secs.unwrap_or(settings.lives.access_secs)
    }

    fn idle_secs(&self, settings: &Settings) -> Option<u64> {
        self.options.refresh_idle_secs.or(settings.lives.refresh_idle_secs)
    }
}

#[derive(Debug, Clone)]
struct Refresh {
    family: u64,
    used_at: Timestamp,
    repeats: u32,
    spent: Option<Spent>,
}

#[derive(Debug, Clone)]
struct Spent {
    at: Timestamp,
    successor: String,
}

#[derive(Debug, Clone, Copy)]
struct Access {
    /// Absent for tokens of grants without refresh token.
    family: Option<u64>,
    generation: u64,
    expires_at: Timestamp,
}

/// Everything that was granted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Grants {
    families: BTreeMap<u64, Family>,
    refresh: BTreeMap<Fingerprint, Refresh>,
    access: BTreeMap<Fingerprint, Access>,
    access_order: VecDeque<Fingerprint>,
    last_family: u64,
    last_minted: Option<String>,
}

impl Grants {
    pub(crate) fn families(&self) -> &BTreeMap<u64, Family> {
        &self.families
    }

    /// The family of a refresh token, spent or not.
    pub(crate) fn family_of(&self, presented: Fingerprint) -> Option<u64> {
        self.refresh.get(&presented).map(|entry| entry.family)
    }

    pub(crate) fn login<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        options: LoginOptions,
        now: Timestamp,
        rng: &mut R,
    ) -> Login {
        self.last_family += 1;
        let id = self.last_family;
        let scopes = options.scopes.clone().unwrap_or_else(|| settings.scopes.clone());
        let refresh_token =
            (!options.without_refresh_token).then(|| random_token(&settings.refresh_prefix, rng));
        let grant_secs = options.grant_secs.or(settings.lives.grant_secs);
        let family = Family {
            generation: 1,
            scopes: scopes.clone(),
            granted_at: now,
            grant_expires_at: grant_secs.map(|secs| later(now, secs)),
            revoked_at: None,
            newest: refresh_token.clone().unwrap_or_default(),
            access_ended_until: 0,
            access_revoked: false,
            options,
            refresh: VecDeque::new(),
        };
        let (expires_at, grant_expires_at) =
            (later(now, family.access_secs(settings)), family.grant_expires_at);
        self.families.insert(id, family);
        if let Some(token) = &refresh_token {
            self.remember(settings, id, token, now);
        }
        let access_token = self.mint_access(settings, Some(id), now, rng);
        while self.families.len() > settings.families_kept.max(1) {
            self.forget_oldest();
        }
        Login {
            family: id,
            access_token,
            refresh_token,
            expires_at,
            grant_expires_at,
            scopes,
            subscription_type: settings.subscription_type.clone(),
            rate_limit_tier: settings.rate_limit_tier.clone(),
        }
    }

    /// An access token of `family`, or of nobody in particular.
    pub(crate) fn mint_access<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        family: Option<u64>,
        now: Timestamp,
        rng: &mut R,
    ) -> String {
        let owner = family.and_then(|id| self.families.get(&id));
        let secs = owner.map_or(settings.lives.access_secs, |owner| owner.access_secs(settings));
        let generation = owner.map_or(0, |owner| owner.generation);
        let token = random_token(&settings.access_prefix, rng);
        let print = Fingerprint::of(&token);
        self.access.insert(print, Access { family, generation, expires_at: later(now, secs) });
        self.access_order.push_back(print);
        // An expired access token and a forgotten one are refused alike, so the expired may go.
        while let Some(oldest) = self.access_order.front() {
            let over = self.access.get(oldest).is_none_or(|entry| later(entry.expires_at, 86_400) <= now);
            if !over && self.access_order.len() <= ACCESS_KEPT {
                break;
            }
            self.access.remove(oldest);
            self.access_order.pop_front();
        }
        token
    }

    /// An access token without refresh token, and its life in seconds.
    pub(crate) fn mint<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        now: Timestamp,
        rng: &mut R,
    ) -> (String, u64) {
        let again = self
            .last_minted
            .clone()
            .filter(|token| settings.repeats_minted && self.access_state(token, now) == AccessState::Live);
        let token = again.unwrap_or_else(|| self.mint_access(settings, None, now, rng));
        self.last_minted = Some(token.clone());
        let end = self.access.get(&Fingerprint::of(&token)).map_or(now, |entry| entry.expires_at);
        (token, u64::try_from(end.duration_since(now).as_secs()).unwrap_or(0))
    }

    pub(crate) fn present<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        token: &str,
        now: Timestamp,
        rng: &mut R,
        counters: &mut Counters,
    ) -> Presented {
        let Some(entry) = self.refresh.get(&Fingerprint::of(token)) else {
            return Presented::Refused(Refusal::Unknown);
        };
        let id = entry.family;
        let Some(family) = self.families.get(&id) else {
            return Presented::Refused(Refusal::Unknown);
        };
        if family.revoked_at.is_some() {
            return Presented::Refused(Refusal::Revoked);
        }
        if family.ended(now) {
            return Presented::Refused(Refusal::Expired);
        }
        if let Some(spent) = entry.spent.clone() {
            return self.present_spent(settings, id, &spent, now, rng, counters);
        }
        let idle_end = family.idle_secs(settings).map(|secs| later(entry.used_at, secs));
        if idle_end.is_some_and(|end| now >= end) {
            return Presented::Refused(Refusal::Expired);
        }
        let repeats = match settings.rotation {
            Rotation::Always => false,
            Rotation::NeverOmitted | Rotation::NeverRepeated => true,
            Rotation::After { exchanges } => entry.repeats < exchanges,
        };
        let how = if repeats { How::Repeated } else { How::Rotated };
        Presented::Issued(self.issue(settings, id, token, how, now, rng))
    }

    fn present_spent<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        id: u64,
        spent: &Spent,
        now: Timestamp,
        rng: &mut R,
        counters: &mut Counters,
    ) -> Presented {
        match settings.reuse {
            ReuseClass::Grace { secs, successor } if now < later(spent.at, secs) => {
                let print = Fingerprint::of(&spent.successor);
                let unspent = self.refresh.get(&print).is_some_and(|entry| entry.spent.is_none());
                let same = match successor {
                    GraceSuccessor::Same => unspent.then(|| spent.successor.clone()),
                    GraceSuccessor::New => None,
                };
                Presented::Issued(self.issue_graced(settings, id, same, now, rng))
            }
            ReuseClass::None => Presented::Refused(Refusal::Spent),
            ReuseClass::Strict | ReuseClass::Grace { .. } => {
                counters.reuses += 1;
                if settings.revoke_family {
                    counters.families_revoked_by_reuse += 1;
                    self.revoke_family(id, now, settings.revoke_access);
                }
                Presented::Reuse
            }
        }
    }

    fn issue<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        id: u64,
        token: &str,
        how: How,
        now: Timestamp,
        rng: &mut R,
    ) -> Issued {
        self.next_generation(settings, id);
        let refresh_token = if how == How::Repeated {
            if let Some(entry) = self.refresh.get_mut(&Fingerprint::of(token)) {
                entry.repeats = entry.repeats.saturating_add(1);
                entry.used_at = now;
            }
            token.to_owned()
        } else {
            let successor = self.mint_refresh(settings, id, now, rng);
            if let Some(entry) = self.refresh.get_mut(&Fingerprint::of(token)) {
                entry.spent = Some(Spent { at: now, successor: successor.clone() });
            }
            successor
        };
        let access_token = self.mint_access(settings, Some(id), now, rng);
        Issued { access_token, refresh_token, how }
    }

    fn issue_graced<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        id: u64,
        same: Option<String>,
        now: Timestamp,
        rng: &mut R,
    ) -> Issued {
        let refresh_token = if let Some(successor) = same {
            successor
        } else {
            self.next_generation(settings, id);
            self.mint_refresh(settings, id, now, rng)
        };
        let access_token = self.mint_access(settings, Some(id), now, rng);
        Issued { access_token, refresh_token, how: How::Graced }
    }

    fn next_generation(&mut self, settings: &Settings, id: u64) {
        if let Some(family) = self.families.get_mut(&id) {
            if settings.rotation_ends_access {
                family.access_ended_until = family.generation;
            }
            family.generation += 1;
        }
    }

    fn mint_refresh<R: Rng + ?Sized>(
        &mut self,
        settings: &Settings,
        id: u64,
        now: Timestamp,
        rng: &mut R,
    ) -> String {
        let token = random_token(&settings.refresh_prefix, rng);
        self.remember(settings, id, &token, now);
        if let Some(family) = self.families.get_mut(&id) {
            family.newest.clone_from(&token);
        }
        token
    }

    fn remember(&mut self, settings: &Settings, id: u64, token: &str, now: Timestamp) {
        let print = Fingerprint::of(token);
        self.refresh.insert(print, Refresh { family: id, used_at: now, repeats: 0, spent: None });
        let Some(family) = self.families.get_mut(&id) else {
            return;
        };
        family.refresh.push_back(print);
        // The newest and the one that is being spent for it always stay.
        while family.refresh.len() > settings.spent_kept.saturating_add(1).max(2) {
            if let Some(oldest) = family.refresh.pop_front() {
                self.refresh.remove(&oldest);
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, family)) = self.families.pop_first() {
            for print in family.refresh {
                self.refresh.remove(&print);
            }
        }
    }

    /// Revokes the family that a refresh or access token belongs to; a token without family dies alone.
    /// Says whether something that lived was revoked.
    pub(crate) fn revoke(&mut self, token: &str, now: Timestamp) -> bool {
        let print = Fingerprint::of(token);
        let of_access = self.access.get(&print).copied();
        let family = self.family_of(print).or(of_access.and_then(|entry| entry.family));
        match (family, of_access) {
            (Some(id), _) => self.revoke_family(id, now, true),
            (None, Some(_)) => self.access.remove(&print).is_some(),
            (None, None) => false,
        }
    }

    /// Revokes one access token; says whether it was known.
    pub(crate) fn revoke_access(&mut self, access_token: &str) -> bool {
        self.access.remove(&Fingerprint::of(access_token)).is_some()
    }

    /// Revokes the refresh tokens of a family, whose access tokens live on; says whether it lived.
    pub(crate) fn revoke_refresh(&mut self, refresh_token: &str, now: Timestamp) -> bool {
        let family = self.family_of(Fingerprint::of(refresh_token));
        family.is_some_and(|id| self.revoke_family(id, now, false))
    }

    /// Revokes every family; says how many lived.
    pub(crate) fn revoke_all(&mut self, now: Timestamp) -> u64 {
        let ids: Vec<u64> = self.families.keys().copied().collect();
        self.access.retain(|_, entry| entry.family.is_some());
        ids.into_iter().filter(|id| self.revoke_family(*id, now, true)).map(|_| 1).sum()
    }

    fn revoke_family(&mut self, id: u64, now: Timestamp, access_too: bool) -> bool {
        let Some(family) = self.families.get_mut(&id) else {
            return false;
        };
        family.access_revoked |= access_too;
        let lived = family.revoked_at.is_none();
        family.revoked_at.get_or_insert(now);
        lived
    }

    pub(crate) fn access_state(&self, token: &str, now: Timestamp) -> AccessState {
        let Some(entry) = self.access.get(&Fingerprint::of(token)) else {
            return AccessState::Unknown;
        };
        if now >= entry.expires_at {
            return AccessState::Expired;
        }
        let Some(id) = entry.family else {
            return AccessState::Live;
        };
        let Some(family) = self.families.get(&id) else {
            return AccessState::Unknown;
        };
        if family.access_revoked || entry.generation <= family.access_ended_until {
            AccessState::Revoked
        } else if family.ended(now) {
            AccessState::Expired
        } else {
            AccessState::Live
        }
    }

    /// Scopes of an access token; none for a token without family, which is not limited.
    pub(crate) fn scopes_of(&self, access_token: &str) -> Option<&[String]> {
        let entry = self.access.get(&Fingerprint::of(access_token))?;
        Some(&self.families.get(&entry.family?)?.scopes)
    }
}

/// `secs` after `at`, or the end of time.
pub(crate) fn later(at: Timestamp, secs: u64) -> Timestamp {
    let secs = SignedDuration::from_secs(i64::try_from(secs).unwrap_or(i64::MAX));
    at.checked_add(secs).unwrap_or(Timestamp::MAX)
}

/// A prefix and 48 hex digits.
fn random_token<R: Rng + ?Sized>(prefix: &str, rng: &mut R) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut noise = [0; 24];
    rng.fill_bytes(&mut noise);
    let mut token = String::with_capacity(prefix.len() + 48);
    token.push_str(prefix);
    for byte in noise {
        token.push(char::from(DIGITS[usize::from(byte >> 4)]));
        token.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    token
}
