//! The simulated provider and the weather before it: what it is asked, what it answers, and what the reference
//! learns of that. All that lies outside of our processes is behind one lock.

use std::fmt;
use std::time::Duration;

use evergrant_core::provider::TokenRequest;
use evergrant_core::secret::Fingerprint;
use evergrant_standin::{Call, Engine, LoginOptions};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::fault::{Fault, Tally};
use super::reference::{Held, Reference, Violation};
use super::trace::Trace;
use super::world::{presented_token, true_time};

/// What the network and the provider's answers may suffer, in thousandths of all exchanges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// See [`Fault::LostRequest`].
    pub lost_request: u16,
    /// See [`Fault::LostAnswer`].
    pub lost_answer: u16,
    /// See [`Fault::CutAnswer`].
    pub cut: u16,
    /// See [`Fault::SlowAnswer`].
    pub slow: u16,
    /// See [`Fault::LateAnswer`].
    pub late: u16,
    /// See [`Fault::NotSent`].
    pub not_sent: u16,
    /// See [`Fault::Unavailable`].
    pub unavailable: u16,
    /// See [`Fault::Bare5xx`].
    pub bare_5xx: u16,
    /// See [`Fault::SpentThen5xx`].
    pub spent_then_5xx: u16,
    /// See [`Fault::Throttled`].
    pub throttled: u16,
    /// See [`Fault::Blocked`].
    pub blocked: u16,
    /// See [`Fault::Stall`]; in thousandths of all groups of file operations.
    pub stall: u16,
}

/// What becomes of one exchange on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    LostRequest,
    Lost,
    Cut,
    Slow,
    Late,
    NotSent,
    Unavailable,
    Bare5xx,
    SpentThen5xx,
    Throttled,
    Blocked,
}

/// Who asks the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presenter {
    Keeper,
    Foreign,
}

/// The provider's answer, before the network has it.
#[derive(Debug, Clone)]
pub(super) struct Processed {
    pub(super) status: u16,
    pub(super) retry_after: Option<String>,
    pub(super) body: String,
    /// The successor that it holds.
    pub(super) next: Option<String>,
}

/// The provider, and everything that was presented to it.
pub struct Provider {
    /// The stand-in.
    pub(super) engine: Engine,
    /// What must hold.
    pub(super) reference: Reference,
    /// What the network does.
    pub(super) weather: Weather,
    /// The misfortunes so far.
    pub(super) tally: Tally,
    /// What happened.
    pub(super) trace: Trace,
    /// What did not hold.
    pub(super) violations: Vec<Violation>,
    pub(super) rng: SmallRng,
}

/// The error object of the provider itself.
pub(crate) fn error_body() -> String {
    r#"{"type":"error","error":{"type":"overloaded_error"}}"#.into()
}

impl Provider {
    /// A provider with good weather.
    pub fn new(engine: Engine, reference: Reference, seed: u64) -> Self {
        Self {
            engine,
            reference,
            weather: Weather::default(),
            tally: Tally::default(),
            trace: Trace::default(),
            violations: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Adds a line to the trace.
    pub(super) fn say(&mut self, now: Duration, what: fmt::Arguments<'_>) {
        self.trace.say(now, what);
    }

    /// Notes what does not hold.
    pub(super) fn judge<T>(&mut self, held: Held<T>) -> Option<T> {
        held.map_err(|violation| self.violations.push(violation)).ok()
    }

    /// A person logs in; gives the auth file's content.
    pub(super) fn log_in(&mut self, now: Duration) -> serde_json::Value {
        let login = self.engine.login(LoginOptions::default(), true_time(now), &mut self.rng);
        if let Some(refresh) = &login.refresh_token {
            self.reference.logged_in(login.family, refresh, now);
        }
        login.auth_file()
    }

    /// Whether the login of a token lives.
    pub(super) fn lives(&self, token: Fingerprint, now: Duration) -> bool {
        let family = self.reference.family_of(token);
        family.is_some_and(|family| self.newest(family, now).is_some())
    }

    /// The newest refresh token of a login that lives.
    pub(super) fn newest(&self, family: u64, now: Duration) -> Option<&str> {
        let newest = self.engine.newest_refresh_token(family)?;
        self.engine.family_lives(newest, true_time(now)).then_some(newest)
    }

    /// Draws what becomes of an exchange; it counts when that has come about.
    pub(super) fn fate(&mut self) -> Fate {
        let weather = self.weather;
        let mut draw = self.rng.random_range(0..1_000_u16);
        for (share, fate) in [
            (weather.lost_request, Fate::LostRequest),
            (weather.lost_answer, Fate::Lost),
            (weather.cut, Fate::Cut),
            (weather.slow, Fate::Slow),
            (weather.late, Fate::Late),
            (weather.not_sent, Fate::NotSent),
            (weather.unavailable, Fate::Unavailable),
            (weather.bare_5xx, Fate::Bare5xx),
            (weather.spent_then_5xx, Fate::SpentThen5xx),
            (weather.throttled, Fate::Throttled),
            (weather.blocked, Fate::Blocked),
        ] {
            if draw < share {
                return fate;
            }
            draw -= share;
        }
        Fate::Fine
    }

    /// An exchange has met its fate; `spent`: and its token is.
    pub(super) fn befell(&mut self, fate: Fate, spent: bool) {
        let fault = match fate {
            Fate::Fine => return,
            Fate::Lost | Fate::SpentThen5xx if !spent => return,
            Fate::LostRequest => Fault::LostRequest,
            Fate::Lost => Fault::LostAnswer,
            Fate::Cut => Fault::CutAnswer,
            Fate::Slow => Fault::SlowAnswer,
            Fate::Late => Fault::LateAnswer,
            Fate::NotSent => Fault::NotSent,
            Fate::Unavailable => Fault::Unavailable,
            Fate::Bare5xx => Fault::Bare5xx,
            Fate::SpentThen5xx => Fault::SpentThen5xx,
            Fate::Throttled => Fault::Throttled,
            Fate::Blocked => Fault::Blocked,
        };
        self.tally.count(fault);
    }

    /// How long a process sleeps before or after its file operations.
    pub(super) fn stall(&mut self) -> Option<Duration> {
        let stalls = self.weather.stall > 0 && self.rng.random_range(0..1_000) < self.weather.stall;
        stalls.then(|| {
            self.tally.count(Fault::Stall);
            let most = 10_u64.pow(self.rng.random_range(1..=4)) * 5;
            Duration::from_millis(self.rng.random_range(1..most))
        })
    }

    /// Processes one request.
    pub(super) fn process(&mut self, request: &TokenRequest, by: Presenter, now: Duration) -> Processed {
        let headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let target = request.url.path();
        let call = Call { method: "POST", target, headers: &headers, body: request.body.as_bytes() };
        let reply = self.engine.handle(&call, true_time(now), &mut self.rng);
        let body = String::from_utf8_lossy(&reply.bytes()).into_owned();
        let (token, next) = (presented_token(request), refresh_in(&body));
        if by == Presenter::Foreign {
            self.reference.meddles(token);
        }
        let said = match (&next, reply.status) {
            (Some(next), _) => {
                let next = Fingerprint::of(next.as_bytes());
                self.reference.issued(token, next, by == Presenter::Keeper, now);
                format!("gives {next}")
            }
            (None, status) => {
                if body.contains("invalid_grant") {
                    self.reference.refused(token);
                }
                format!("answers {status}")
            }
        };
        self.say(now, format_args!("the provider {said} for {token} of {by:?}"));
        let retry_after = reply.header("retry-after").map(str::to_owned);
        Processed { status: reply.status, retry_after, body, next }
    }
}

fn refresh_in(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    body["refresh_token"].as_str().map(str::to_owned)
}
