//! What an operator is told: conditions, episodes and the alerts that come out of them (SPEC §6).

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::chain::ChainName;

mod action;
mod compose;
mod episode;
mod outcome;
pub mod render;
mod sample;
pub mod sink;

pub use action::{ActionContext, action};
pub use compose::{Links, Told, compose};
pub use episode::{Acknowledgement, Advance, Episode, GATHER, Quiet, Reminding, advance, gathering};
pub use outcome::Outcome;
pub use sample::{largest, samples};
pub use sink::{Sink, SinkKind};

macro_rules! conditions {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $level:ident, $group:ident;)+) => {
        /// What may be wrong with a chain. Each has one episode at a time.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Condition {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $variant,)+
        }

        impl Condition {
            /// All of them, in the order of SPEC §6.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The code as it stands in JSON, logs and metrics, and the name of its runbook page.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// How bad it is.
            pub fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)+ }
            }

            /// Where its alerts belong.
            pub fn group(self) -> Group {
                match self { $(Self::$variant => Group::$group,)+ }
            }

            /// What it is, for a person.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

conditions! {
    /// The workstation's agent has fallen silent.
    MacSilent = "mac_silent", Yellow, TokenPush;
    /// The last pushes from the workstation failed.
    Failed = "failed", Red, TokenPush;
    /// The workstation reports, but no push has succeeded for hours.
    Stale = "stale", Yellow, TokenPush;
    /// The grant is dead; somebody has to log in again.
    ReauthRequired = "reauth_required", Red, TokenPush;
    /// Nothing can serve requests.
    NotServing = "not_serving", Red, Chain;
    /// The fallback key serves requests, at its own cost.
    FallbackActive = "fallback_active", Red, Chain;
    /// The grant cannot be renewed.
    RenewalFailing = "renewal_failing", Red, Chain;
    /// A renewed pair could not be kept, so nothing is sent.
    VaultUnwritable = "vault_unwritable", Red, Chain;
    /// The vault was restored from a backup and may hold a spent pair.
    Quarantined = "quarantined", Red, Chain;
    /// Nobody can know whether the refresh token was spent.
    RenewalInDoubt = "renewal_in_doubt", Yellow, Chain;
    /// The login itself ends soon, whatever is renewed.
    LoginExpiring = "login_expiring", Yellow, Chain;
    /// The API refuses a live grant for what it is.
    GrantRefused = "grant_refused", Red, Chain;
    /// The fallback key does not work, so there is no reserve.
    FallbackUnusable = "fallback_unusable", Yellow, Chain;
    /// Half of the day's requests for the fallback key are used up.
    FallbackHalfUsed = "fallback_half_used", Yellow, Chain;
    /// Nine tenths of the day's requests for the fallback key are used up.
    FallbackNearlyUsed = "fallback_nearly_used", Red, Chain;
    /// The probe gets no answer, or the API refuses a token that should live.
    ProbeFailing = "probe_failing", Yellow, Chain;
    /// Somebody else rotates this chain's pair.
    SecondWriter = "second_writer", Yellow, Chain;
    /// The workstation's keychain has been locked for hours, so the agent sees nothing.
    AgentBlind = "agent_blind", Yellow, Chain;
    /// Our clock is more than 2 minutes off the provider's.
    ClockSkew = "clock_skew", Yellow, Chain;
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad it is; worse is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// It is over.
    Green,
    /// It needs a look.
    Yellow,
    /// It needs somebody now.
    Red,
}

impl Level {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }

    /// The sign that people see.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Green => "🟢",
            Self::Yellow => "🟡",
            Self::Red => "🔴",
        }
    }
}

/// Which family of alerts (SPEC §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// The workstation, its pushes, and the grant that they bring.
    TokenPush,
    /// Everything else about a chain.
    Chain,
}

impl Group {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenPush => "token_push",
            Self::Chain => "chain",
        }
    }
}

/// What an alert says of its episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// It began.
    Open,
    /// It still goes on.
    Reminder,
    /// It ended.
    Closed,
}

impl AlertState {
    /// The code as it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Reminder => "reminder",
            Self::Closed => "closed",
        }
    }
}

/// One continuous run of one condition on one chain, by name: `CHAIN-CONDITION-OPENED`. It is the key under which
/// sinks tell alerts apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EpisodeId(String);

impl EpisodeId {
    /// Of the episode that opened then.
    pub fn new(chain: &ChainName, condition: Condition, opened_at: Timestamp) -> Self {
        Self(format!("{chain}-{condition}-{}", opened_at.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// One that was written down before.
    pub fn known(id: &str) -> Self {
        Self(id.to_owned())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Chain, condition and opening, as the id says them; `None` of an id that was not made here.
    pub fn parts(&self) -> Option<(ChainName, Condition, Timestamp)> {
        let mut parts = self.0.rsplitn(3, '-');
        let (opened, condition, chain) = (parts.next()?, parts.next()?, parts.next()?);
        let condition = Condition::ALL.iter().copied().find(|known| known.as_str() == condition)?;
        Some((chain.parse().ok()?, condition, opened.parse().ok()?))
    }
}

impl fmt::Display for EpisodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of the episodes that an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concerned {
    /// The episode: the key under which sinks tell alerts apart.
    pub episode: EpisodeId,
    /// Its chain.
    pub chain: ChainName,
    /// Since when it has been so.
    pub since: Timestamp,
    /// Since when it is no longer so; `None` while it is open.
    pub ended_at: Option<Timestamp>,
}

/// One line of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is.
    pub label: String,
    /// How it stands. It never holds a token.
    pub value: String,
}

impl Fact {
    /// A line.
    pub fn new(label: &str, value: impl Into<String>) -> Self {
        Self { label: label.to_owned(), value: value.into() }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// In a sentence or two.
    pub text: String,
    /// The exact commands, one a line.
    pub commands: Vec<String>,
}

/// One message out of an episode, whole: a sink needs nothing else to show it. Several chains of one provider with
/// the same condition share one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Its own id, which a message that is sent again keeps: the first episode's id, and what is said of it.
    pub id: String,
    /// When it was made.
    pub at: Timestamp,
    /// Which family.
    pub group: Group,
    /// The condition's code; `recovered` where an episode of the group `token_push` ended.
    pub status: String,
    /// What is or was wrong.
    pub condition: Condition,
    /// What is said of it.
    pub state: AlertState,
    /// How bad it is now: green if it ended.
    pub level: Level,
    /// The provider's name.
    pub provider: String,
    /// Whom it concerns; at least one.
    pub concerned: Vec<Concerned>,
    /// Episodes that gave way to these without an alert of their own: sinks that keep alerts open close them.
    #[serde(default)]
    pub replaces: Vec<EpisodeId>,
    /// What, in one sentence.
    pub summary: String,
    /// Since when: the earliest of the episodes.
    pub since: Timestamp,
    /// When it ended: the latest of the episodes.
    pub ended_at: Option<Timestamp>,
    /// The last event, counts, expiry and the like; the most telling first.
    pub evidence: Vec<Fact>,
    /// What serves requests now, and for how long it can.
    pub serving: String,
    /// What to do next; nothing where it is over.
    pub action: Option<Action>,
    /// The runbook's page.
    pub runbook_url: String,
    /// Where the chain's status is shown.
    pub status_url: String,
    /// It rehearses only: `evergrant alerts test`.
    pub test: bool,
}

impl Alert {
    /// As a rehearsal: no sink takes it or its episodes for real ones.
    pub fn rehearsed(mut self) -> Self {
        self.test = true;
        self.id = format!("test-{}", self.id);
        for concerned in &mut self.concerned {
            concerned.episode = EpisodeId(format!("test-{}", concerned.episode));
            if let Ok(chain) = format!("test-{}", concerned.chain).parse() {
                concerned.chain = chain;
            }
        }
        self
    }

    /// The names of the chains, for a person.
    pub fn chains(&self) -> String {
        self.concerned.iter().map(|concerned| concerned.chain.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// A span as people say it: `36 h 5 min`, `2 min 3 s`; the two largest units.
pub fn span(secs: i64) -> String {
    let secs = secs.max(0);
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large} {unit}") } else { format!("{large} {unit} {small} {small_unit}") }
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, minutes) => two(minutes, "min", secs % 60, "s"),
        (0, hours, minutes) => two(hours, "h", minutes, "min"),
        (days, hours, _) => two(days, "d", hours, "h"),
    }
}

/// What is new in the book of episodes after one look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BookChange {
    /// Episodes that are new or changed.
    pub episodes: Vec<Episode>,
    /// Alerts, each with the names of the sinks that want it.
    pub alerts: Vec<(Alert, Vec<String>)>,
}

/// The book of episodes as the monitor reads it, of some chains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Book {
    /// Rises with every change, whoever makes it.
    pub version: i64,
    /// Those that are open, those that owe their closing alert, and the last one of each chain and condition.
    pub episodes: Vec<Episode>,
    /// Maintenance windows that have not ended, by chain.
    pub mutes: Vec<Mute>,
    /// What was told of any chain since [`GATHER`] ago.
    pub lately: Vec<Alert>,
}

impl Book {
    /// Whether alerts about this chain are held back.
    pub fn is_muted(&self, chain: &ChainName, now: Timestamp) -> bool {
        self.mutes.iter().any(|mute| mute.chain == *chain && now < mute.until)
    }
}

/// A maintenance window: alerts about the chain are held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mute {
    /// The chain.
    pub chain: ChainName,
    /// Until when.
    pub until: Timestamp,
}

/// An alert on its way to a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its number, which orders them.
    pub seq: u64,
    /// The sink's name.
    pub sink: String,
    /// What is delivered.
    pub alert: Alert,
    /// How often it was tried.
    pub attempts: u32,
}

/// What became of an attempt to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The sink took it.
    Delivered,
    /// It is tried again then.
    Again {
        /// Not earlier.
        at: Timestamp,
        /// What the sink said.
        detail: String,
    },
    /// It is not tried again.
    Dropped {
        /// `sink_refused` or `sink_given_up`.
        reason: crate::reason::Reason,
        /// What the sink said.
        detail: String,
    },
}

/// How a sink fares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SinkState {
    /// Its name.
    pub sink: String,
    /// Alerts that wait for it.
    pub waiting: u64,
    /// The oldest of them was made then.
    pub waiting_since: Option<Timestamp>,
    /// Alerts that it took.
    pub delivered: u64,
    /// When it took the last one.
    pub last_delivered_at: Option<Timestamp>,
    /// Alerts that it did not take in the end.
    pub dropped: u64,
    /// What it said last, of what waits or was dropped.
    pub last_fault: Option<String>,
}

/// A delivery is tried again after so long: 5 s, then twice as long each time, up to 5 min, or what the sink asks for.
/// `None`: it was made more than 24 h ago.
pub fn try_again_at(
    made_at: Timestamp,
    attempts: u32,
    asked: Option<std::time::Duration>,
    now: Timestamp,
) -> Option<Timestamp> {
    const FIRST: std::time::Duration = std::time::Duration::from_secs(5);
    const LONGEST: std::time::Duration = std::time::Duration::from_secs(300);
    const GIVE_UP: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
    if now.duration_since(made_at) >= GIVE_UP {
        return None;
    }
    let doubled = FIRST.saturating_mul(1 << attempts.min(10)).min(LONGEST);
    let asked = asked.unwrap_or_default().min(std::time::Duration::from_secs(3600));
    Some(now + doubled.max(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_tried_for_a_day() {
        let made = Timestamp::UNIX_EPOCH;
        let secs = std::time::Duration::from_secs;
        let again = |attempts, asked| try_again_at(made, attempts, asked, made).map(|at| at.as_second());
        assert_eq!([0, 1, 2, 6, 60].map(|attempts| again(attempts, None)), [5, 10, 20, 300, 300].map(Some));
        assert_eq!(again(0, Some(secs(90))), Some(90));
        assert_eq!(again(0, Some(secs(90_000))), Some(3600));
        assert_eq!(try_again_at(made, 3, None, made + secs(24 * 3600)), None);
    }

    #[test]
    fn spans_are_said_in_their_two_largest_units() {
        for (secs, said) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (123, "2 min 3 s"),
            (3600, "1 h"),
            (129_900, "1 d 12 h"),
            (-5, "0 s"),
        ] {
            assert_eq!(span(secs), said);
        }
    }
}
