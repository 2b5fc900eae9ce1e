//! The provider and the network before it, and all that lies outside of our processes, behind one lock.

use std::time::Duration;

use evergrant_core::authfile::{self, Reading};
use evergrant_core::grant::Grant;
use evergrant_core::provider::TokenRequest;
use evergrant_core::secret::Fingerprint;
use evergrant_standin::{Call, Engine, LoginOptions, Settings};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::reference::Reference;
use super::{FAULTS, Tally};
use crate::sim::reference::{Held, Violation};
use crate::sim::world::true_time;

/// What becomes of one exchange on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Fine,
    LostRequest,
    LostAnswer,
    Cut,
    Slow,
    Late,
    NotSent,
    Unavailable,
    Bare5xx,
    SpentThen5xx,
    Throttled,
}

/// Everything outside.
pub(super) struct Outside {
    pub(super) engine: Engine,
    pub(super) reference: Reference,
    pub(super) rng: SmallRng,
    /// How bad the network is, in thousandths of exchanges for each kind.
    pub(super) bad: u16,
    pub(super) life: Duration,
    pub(super) tally: Tally,
    pub(super) violations: Vec<Violation>,
    pub(super) trace: Vec<String>,
}

impl Outside {
    pub(super) fn new(seed: u64, life: Duration) -> Self {
        let mut settings = Settings { log_kept: 4, spent_kept: 4096, ..Settings::default() };
        settings.lives.access_secs = life.as_secs();
        Self {
            engine: Engine::new(settings),
            reference: Reference::default(),
            rng: SmallRng::seed_from_u64(seed),
            bad: 0,
            life,
            tally: FAULTS.iter().map(|fault| (*fault, 0)).collect(),
            violations: Vec::new(),
            trace: Vec::new(),
        }
    }

    pub(super) fn count(&mut self, fault: &'static str) {
        *self.tally.get_mut(fault).unwrap_or_else(|| panic!("{fault} is not in the list")) += 1;
    }

    pub(super) fn say(&mut self, now: Duration, what: impl std::fmt::Display) {
        if self.trace.len() > 400 {
            self.trace.drain(..200);
        }
        self.trace.push(format!("{:>12.3} {what}", now.as_secs_f64()));
    }

    pub(super) fn judge<T>(&mut self, now: Duration, held: Held<T>) -> Option<T> {
        match held {
            Ok(held) => Some(held),
            Err(violation) => {
                self.say(now, format_args!("VIOLATION {violation}"));
                self.violations.push(violation);
                None
            }
        }
    }

    /// A person logs in.
    pub(super) fn log_in(&mut self, now: Duration) -> Grant {
        let login = self.engine.login(LoginOptions::default(), true_time(now), &mut self.rng);
        let file = login.auth_file().to_string();
        let Reading::Grant(grant) = authfile::read(file.as_bytes(), &crate::profile()) else {
            unreachable!("the stand-in's file is a grant")
        };
        let token = grant.pair().fingerprint();
        self.reference.issued(token, login.family, now + self.life);
        grant
    }

    /// Whether the login of a token lives.
    pub(super) fn lives(&self, token: Fingerprint, now: Duration) -> bool {
        let family = self.reference.tokens.get(&token).map(|token| token.family);
        let newest = family.and_then(|family| self.engine.newest_refresh_token(family));
        newest.is_some_and(|newest| self.engine.family_lives(newest, true_time(now)))
    }

    /// Draws what becomes of an exchange; it counts when that has come about.
    pub(super) fn way(&mut self) -> Way {
        let mut draw = self.rng.random_range(0..1_000_u16);
        for way in [
            Way::LostRequest,
            Way::LostAnswer,
            Way::Cut,
            Way::Slow,
            Way::Late,
            Way::NotSent,
            Way::Unavailable,
            Way::Bare5xx,
            Way::SpentThen5xx,
            Way::Throttled,
        ] {
            if draw < self.bad {
                return way;
            }
            draw -= self.bad;
        }
        Way::Fine
    }

    /// An exchange has gone its way; `spent`: and its token is.
    pub(super) fn befell(&mut self, way: Way, spent: bool) {
        self.count(match way {
            Way::Fine => return,
            Way::LostAnswer | Way::SpentThen5xx if !spent => return,
            Way::LostRequest => "lost request",
            Way::LostAnswer => "lost answer",
            Way::Cut => "cut answer",
            Way::Slow => "slow answer",
            Way::Late => "late answer",
            Way::NotSent => "no connection",
            Way::Unavailable => "503 or 529",
            Way::Bare5xx => "5xx, unspent",
            Way::SpentThen5xx => "5xx, spent",
            Way::Throttled => "429",
        });
    }

    /// Processes one request; gives status, body and the refresh token in it.
    pub(super) fn process(
        &mut self,
        request: &TokenRequest,
        token: Fingerprint,
        now: Duration,
    ) -> (u16, String, Option<Fingerprint>) {
        let headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let target = request.url.path();
        let call = Call { method: "POST", target, headers: &headers, body: request.body.as_bytes() };
        let reply = self.engine.handle(&call, true_time(now), &mut self.rng);
        let body = String::from_utf8_lossy(&reply.bytes()).into_owned();
        let json: Option<serde_json::Value> = serde_json::from_str(&body).ok();
        let next = json.as_ref().and_then(|json| json["refresh_token"].as_str());
        let next = next.map(|next| Fingerprint::of(next.as_bytes()));
        let family = self.reference.tokens.get(&token).map(|token| token.family);
        if let (Some(next), Some(family)) = (next, family) {
            self.reference.issued(next, family, now + self.life);
            self.reference.succeeded(token, next);
        } else if body.contains("invalid_grant") {
            self.reference.refused(token);
        }
        self.say(now, format_args!("the provider answers {} for {token}: {next:?}", reply.status));
        (reply.status, body, next)
    }
}
