//! Where alerts go, and which of them (SPEC §6). What a sink is reached and proven by is a secret.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;
use zeroize::Zeroizing;

use super::{Alert, EpisodeId, Group, Level};
use crate::secret::SinkKey;

/// Where PagerDuty takes events, unless the sink's own setting says otherwise.
pub const PAGERDUTY_URL: &str = "https://events.pagerduty.com/v2/enqueue";

/// One place that alerts go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    /// Its name in the configuration.
    pub name: String,
    /// What it is, and how it is reached.
    pub kind: SinkKind,
    /// It gets alerts of this level and worse.
    pub min_level: Level,
    /// It gets alerts of these groups.
    pub groups: Vec<Group>,
    /// Plain HTTP, mail without TLS and private addresses are accepted.
    pub allow_insecure: bool,
    /// Certificates that are trusted for it besides the public ones.
    pub ca_file: Option<PathBuf>,
}

impl Sink {
    /// Whether it gets this alert. What closes goes wherever it was opened: the level of its condition counts, or of
    /// one that gives way to it.
    pub fn wants(&self, alert: &Alert) -> bool {
        let replaces = || alert.replaces.iter().filter_map(EpisodeId::parts);
        (self.opens(alert) || replaces().any(|(_, condition, _)| condition.level() >= self.min_level))
            && self.groups.contains(&alert.group)
    }

    /// Whether it is to hold the alert's own episodes for open, and not only to end those that they replace.
    pub(super) fn opens(&self, alert: &Alert) -> bool {
        alert.condition.level() >= self.min_level
    }

    /// An open episode is posted to it again so often, besides reminders; `None`: it remembers by itself.
    pub fn repost_every(&self) -> Option<Duration> {
        match self.kind {
            SinkKind::Alertmanager { .. } => Some(Duration::from_secs(60)),
            SinkKind::Teams { .. }
            | SinkKind::Slack { .. }
            | SinkKind::PagerDuty { .. }
            | SinkKind::Email { .. }
            | SinkKind::Ntfy { .. }
            | SinkKind::Webhook { .. } => None,
        }
    }

    /// Takes whatever of its secrets stands in a text out of it: for what a peer answers.
    pub fn scrub(&self, text: &str) -> String {
        let mut secrets = Vec::new();
        let mut of_url = |url: &SinkUrl| {
            let url = url.expose();
            secrets.push(url.as_str().to_owned());
            secrets.push(url[url::Position::BeforePath..].to_owned());
            let parts = url.path().split('/').chain(url.query().unwrap_or_default().split(['&', '=']));
            let userinfo = [url.username(), url.password().unwrap_or_default()];
            secrets.extend(parts.chain(userinfo).map(str::to_owned));
        };
        let mut key = None;
        match &self.kind {
            SinkKind::Teams { url } | SinkKind::Slack { url } => of_url(url),
            SinkKind::PagerDuty { url, routing_key } => {
                of_url(url);
                key = Some(routing_key.expose());
            }
            SinkKind::Alertmanager { peers, key: bearer } => {
                peers.iter().for_each(&mut of_url);
                key = bearer.as_ref().map(SinkKey::expose);
            }
            SinkKind::Email { smtp, .. } => of_url(smtp),
            SinkKind::Ntfy { url, key: bearer } => {
                of_url(url);
                key = bearer.as_ref().map(SinkKey::expose);
            }
            SinkKind::Webhook { url, .. } => of_url(url),
        }
        secrets.extend(key.map(str::to_owned));
        // Short parts of a path (`v2`, `hooks`) are words; replacing those would only garble the text.
        secrets.retain(|secret| secret.len() >= 8);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "…"))
    }
}

/// What a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// A Workflows webhook of Microsoft Teams.
    Teams {
        /// The webhook.
        url: SinkUrl,
    },
    /// An incoming webhook of Slack.
    Slack {
        /// The webhook.
        url: SinkUrl,
    },
    /// PagerDuty's Events API v2.
    PagerDuty {
        /// Where events are taken.
        url: SinkUrl,
        /// The integration's key.
        routing_key: SinkKey,
    },
    /// Prometheus Alertmanager, API v2.
    Alertmanager {
        /// The addresses of all peers, without the API's path.
        peers: Vec<SinkUrl>,
        /// What a proxy in front takes as a bearer token.
        key: Option<SinkKey>,
    },
    /// Mail by SMTP.
    Email {
        /// `smtps://` or `smtp://`, with user and password.
        smtp: SinkUrl,
        /// The sender.
        from: String,
        /// The recipients; at least one.
        to: Vec<String>,
    },
    /// A topic of ntfy.
    Ntfy {
        /// The topic's address.
        url: SinkUrl,
        /// An access token.
        key: Option<SinkKey>,
    },
    /// Anything that takes signed JSON (Standard Webhooks).
    Webhook {
        /// Where it is posted.
        url: SinkUrl,
        /// What it is signed with.
        key: SigningKey,
    },
}

impl SinkKind {
    /// The word as it stands in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Teams { .. } => "teams",
            Self::Slack { .. } => "slack",
            Self::PagerDuty { .. } => "pagerduty",
            Self::Alertmanager { .. } => "alertmanager",
            Self::Email { .. } => "email",
            Self::Ntfy { .. } => "ntfy",
            Self::Webhook { .. } => "webhook",
        }
    }
}

/// The address of a sink. Whoever knows it can post there, so it neither prints nor serialises.
#[derive(Clone, PartialEq, Eq)]
pub struct SinkUrl(Url);

impl SinkUrl {
    /// An address.
    pub fn new(url: Url) -> Self {
        Self(url)
    }

    /// The address itself. The only door.
    pub fn expose(&self) -> &Url {
        &self.0
    }

    /// What of it may be shown: the host, and the port if it is named.
    pub fn host(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }
}

impl fmt::Debug for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SinkUrl({}://{}/…)", self.0.scheme(), self.host())
    }
}

/// What webhooks are signed with (Standard Webhooks): `whsec_` and 24 to 64 bytes in base64.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Zeroizing<Vec<u8>>);

/// Text that is no signing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a signing key is \"whsec_\" and 24 to 64 bytes in base64")]
pub struct NotASigningKey;

impl SigningKey {
    /// Reads it as the receiver shows it.
    pub fn parse(text: &str) -> Result<Self, NotASigningKey> {
        let encoded = text.strip_prefix("whsec_").ok_or(NotASigningKey)?;
        let bytes = Zeroizing::new(STANDARD.decode(encoded).map_err(|_| NotASigningKey)?);
        if (24..=64).contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(NotASigningKey) }
    }

    /// The bytes themselves. The only door.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{Condition, Links, samples};
    use jiff::Timestamp;

    fn slack(min_level: Level, groups: &[Group]) -> Sink {
        let url = SinkUrl::new("https://hooks.example.org/services/T0/B0/verysecretpart".parse().unwrap());
        Sink {
            name: "chat".into(),
            kind: SinkKind::Slack { url },
            min_level,
            groups: groups.to_vec(),
            allow_insecure: false,
            ca_file: None,
        }
    }

    #[test]
    fn what_closes_goes_wherever_it_was_opened() {
        let links = Links { runbook: "https://r.example".into(), server: "https://s.example".into() };
        let both = [Group::TokenPush, Group::Chain];
        let wanted = |sink: &Sink| -> Vec<String> {
            let samples = samples(&links, Timestamp::UNIX_EPOCH);
            samples.into_iter().filter(|alert| sink.wants(alert)).map(|alert| alert.status).collect()
        };
        let all = ["mac_silent", "failed", "stale", "reauth_required", "recovered"];
        assert_eq!(wanted(&slack(Level::Yellow, &both)), all);
        // The one that recovered had been red.
        assert_eq!(wanted(&slack(Level::Red, &both)), ["failed", "reauth_required", "recovered"]);
        assert_eq!(wanted(&slack(Level::Yellow, &[Group::Chain])), [""; 0]);
    }

    #[test]
    fn what_gives_way_to_a_lesser_status_is_heard_where_it_was_opened() {
        let links = Links { runbook: "https://r.example".into(), server: "https://s.example".into() };
        let samples = samples(&links, Timestamp::UNIX_EPOCH);
        let mut silent = samples.into_iter().find(|alert| alert.status == "mac_silent").unwrap();
        let on_call = slack(Level::Red, &[Group::TokenPush]);
        let chain = silent.concerned[0].chain.clone();
        for (condition, wanted) in [(Condition::Stale, false), (Condition::Failed, true)] {
            silent.replaces = vec![EpisodeId::new(&chain, condition, Timestamp::UNIX_EPOCH)];
            assert_eq!((on_call.wants(&silent), on_call.opens(&silent)), (wanted, false), "{condition}");
        }
        assert!(!slack(Level::Red, &[Group::Chain]).wants(&silent));
    }

    #[test]
    fn addresses_and_keys_neither_print_nor_stay_in_what_a_peer_says() {
        let sink = slack(Level::Yellow, &[Group::Chain]);
        assert!(!format!("{sink:?}").contains("verysecret"), "{sink:?}");
        assert!(format!("{sink:?}").contains("hooks.example.org"));
        let said = "no service /services/T0/B0/verysecretpart, nor verysecretpart";
        assert_eq!(sink.scrub(said), "no service …, nor …");
        let routing_key = SinkKey::parse("0123456789abcdef").unwrap();
        let url = SinkUrl::new(PAGERDUTY_URL.parse().unwrap());
        let sink = Sink { kind: SinkKind::PagerDuty { url, routing_key }, ..sink };
        assert_eq!(sink.scrub("key 0123456789abcdef unknown"), "key … unknown");
        assert!(!format!("{sink:?}").contains("0123"));
    }

    #[test]
    fn a_signing_key_is_read_as_receivers_show_it() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!((key.expose().len(), format!("{key:?}").as_str()), (24, "SigningKey(…)"));
        for bad in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_!!"] {
            assert_eq!(SigningKey::parse(bad), Err(NotASigningKey));
        }
    }
}
