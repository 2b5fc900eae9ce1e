//! What a sink's answer means for an alert (SPEC §6).

use std::time::Duration;

use jiff::Timestamp;

use super::sink::{Sink, SinkKind};
use crate::keeper::parse_retry_after;

/// So much of what a sink says is shown.
const MAX_DETAIL: usize = 200;

/// What became of one attempt to deliver an alert. A detail never holds a secret of the sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The sink took it.
    Delivered,
    /// It may take it later, or once somebody has put an address, a key or itself right.
    Unavailable {
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// What happened.
        detail: String,
    },
    /// It refuses this alert, whatever is done.
    Refused {
        /// What it said.
        detail: String,
    },
}

impl Outcome {
    /// Not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::Unavailable { retry_after: None, detail: detail.into() }
    }

    /// Reads an answer over HTTP. `host` is what may be shown of the address.
    pub fn of_answer(
        sink: &Sink,
        host: &str,
        (status, retry_after, body): (u16, Option<&str>, &str),
        now: Timestamp,
    ) -> Self {
        // Teams' older connectors say in the body of a 200 that they were throttled or failed.
        let failed_all_the_same =
            matches!(sink.kind, SinkKind::Teams { .. }) && body.contains("delivery failed with error");
        if (200..300).contains(&status) && !failed_all_the_same {
            return Self::Delivered;
        }
        let said = sink.scrub(&super::render::one_line(body));
        let said = super::render::clip(&said, MAX_DETAIL);
        let colon = if said.is_empty() { "" } else { ": " };
        let detail = format!("{host} answers {status}{colon}{said}");
        match status {
            // 3xx: it moved; addresses are not followed, since they are secrets. 401, 403, 404: somebody may be at it.
            0..400 | 401 | 403 | 404 | 407 | 408 | 425 | 429 | 500.. => Self::Unavailable {
                retry_after: retry_after.and_then(|value| parse_retry_after(value, now)),
                detail,
            },
            400 | 402 | 405 | 406 | 409..=424 | 426..=428 | 430..500 => Self::Refused { detail },
        }
    }

    /// Of several messages that make up one delivery: it counts as delivered if all are, else as the worst of them.
    pub fn all(outcomes: impl IntoIterator<Item = Self>) -> Self {
        let rank = |outcome: &Self| match outcome {
            Self::Delivered => 0,
            Self::Refused { .. } => 1,
            Self::Unavailable { .. } => 2,
        };
        outcomes.into_iter().max_by_key(rank).unwrap_or(Self::Delivered)
    }

    /// Of the same message to several peers or people: one that took it is enough, since a second attempt would reach
    /// that one twice.
    pub fn any(outcomes: impl IntoIterator<Item = Self>) -> Self {
        let outcomes: Vec<_> = outcomes.into_iter().collect();
        if outcomes.contains(&Self::Delivered) { Self::Delivered } else { Self::all(outcomes) }
    }

    /// What happened, where it was not delivered.
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Delivered => None,
            Self::Unavailable { detail, .. } | Self::Refused { detail } => Some(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::sink::SinkUrl;
    use crate::alert::{Group, Level};

    fn sink() -> Sink {
        let url = SinkUrl::new("https://hooks.example.org/workflows/secretsecret".parse().unwrap());
        Sink {
            name: "t".into(),
            kind: SinkKind::Teams { url },
            min_level: Level::Yellow,
            groups: vec![Group::Chain],
            allow_insecure: false,
            ca_file: None,
        }
    }

    fn of(status: u16, retry_after: Option<&str>, body: &str) -> Outcome {
        Outcome::of_answer(&sink(), "hooks.example.org", (status, retry_after, body), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn every_status_is_delivered_tried_again_or_refused() {
        for status in [200, 201, 202, 204] {
            assert_eq!(of(status, None, "1"), Outcome::Delivered);
        }
        for status in [301, 401, 403, 404, 408, 425, 429, 500, 502, 503, 599] {
            assert!(matches!(of(status, None, ""), Outcome::Unavailable { .. }), "{status}");
        }
        for status in [400, 405, 410, 413, 422] {
            assert!(matches!(of(status, None, ""), Outcome::Refused { .. }), "{status}");
        }
        let throttled = of(200, None, "Webhook message delivery failed with error: HTTP error 429");
        assert!(matches!(throttled, Outcome::Unavailable { .. }));
    }

    #[test]
    fn what_it_says_is_kept_without_its_secrets() {
        let outcome = of(429, Some("17"), "slow down,\nsecretsecret");
        let Outcome::Unavailable { retry_after, detail } = outcome else { panic!("{outcome:?}") };
        assert_eq!(retry_after, Some(Duration::from_secs(17)));
        assert_eq!(detail, "hooks.example.org answers 429: slow down, …");
        assert!(of(400, None, &"x".repeat(9000)).detail().unwrap().len() < 300);
    }

    #[test]
    fn several_messages_count_as_one() {
        let (refused, later) = (Outcome::Refused { detail: "no".into() }, Outcome::unavailable("later"));
        let done = Outcome::Delivered;
        assert_eq!(Outcome::all([done.clone(), refused.clone(), later.clone()]), later);
        assert_eq!(Outcome::all([done.clone(), refused.clone()]), refused);
        assert_eq!(Outcome::any([later.clone(), done.clone()]), done);
        assert_eq!(Outcome::any([later.clone(), refused]), later);
    }
}
