//! Push events as the dead-man counts them: a set, whatever order they came in.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Span;
use crate::chain::ChainName;
use crate::event::{Event, EventKind};
use crate::gateway::Position;
use crate::push::{Absence, FailedAttempts, Local, Message, PushKind};
use crate::reason::Reason;

/// What a push event means for a failure streak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It ends a streak: a push that was accepted, or a beat with nothing refused and nothing pending.
    Good,
    /// It begins or lengthens one: a push that failed.
    Failed,
    /// It is a sign of life only.
    Neutral,
}

impl Outcome {
    /// Of a beat.
    pub fn of_beat(message: &Message) -> Self {
        let troubled = message.pending || message.reason == Some(Reason::Refused);
        if troubled { Self::Neutral } else { Self::Good }
    }

    /// The code as it stands in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Failed => "failed",
            Self::Neutral => "neutral",
        }
    }
}

/// One push event as it was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushSeen {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// What kind.
    pub kind: PushKind,
    /// What it means for a streak.
    pub outcome: Outcome,
    /// What became of it, or why a beat is no push.
    pub reason: Reason,
    /// The agent, as it then was.
    pub agent: AgentSeen,
}

impl PushSeen {
    /// The ledger's line of it, on a chain that stands there.
    pub fn event(&self, chain: &ChainName, (lineage, generation): Position) -> Event {
        let agent = &self.agent;
        let kind = match self.kind {
            PushKind::Beat => EventKind::Beat,
            PushKind::Push => EventKind::Pushed,
        };
        let detail = json!({ "ok": self.outcome != Outcome::Failed, "agent": agent.id, "host": agent.host,
            "entry": agent.local.entry, "fingerprint": agent.local.fingerprint, "failures": agent.failures });
        let (at, reason) = (self.at, self.reason);
        Event { chain: chain.clone(), at, kind, reason, lineage, generation, attempt: None, detail }
    }
}

/// What the last event of an agent said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentSeen {
    /// Which.
    pub id: String,
    /// Its workstation.
    pub host: String,
    /// Its version.
    pub version: String,
    /// When its last event came.
    pub last_at: Timestamp,
    /// Why its last beat was no push, or what became of its last push.
    pub reason: Reason,
    /// What it sees.
    pub local: Local,
    /// A grant waits to be pushed.
    pub pending: bool,
    /// Since when its entry cannot be read for a lock.
    pub blind_since: Option<Timestamp>,
    /// The absence that it announced: from the event on.
    pub absence: Option<Span>,
    /// Why, in the operator's words.
    pub absence_reason: Option<String>,
    /// What failed before its last contact; evidence only.
    pub failures: Vec<FailedAttempts>,
}

impl AgentSeen {
    /// Of one of which nothing else is known.
    pub fn new(id: &str, reason: Reason, at: Timestamp) -> Self {
        Self {
            id: id.to_owned(),
            host: String::new(),
            version: String::new(),
            last_at: at,
            reason,
            local: Local::default(),
            pending: false,
            blind_since: None,
            absence: None,
            absence_reason: None,
            failures: Vec::new(),
        }
    }

    /// Of a message that came at `at`.
    pub fn of(message: &Message, reason: Reason, at: Timestamp) -> Self {
        let absent = |absence: &Absence| Span { from: at, until: absence.until.max(at) };
        Self {
            id: message.agent_id.clone(),
            host: message.host.clone(),
            version: message.version.clone(),
            last_at: at,
            reason,
            local: message.local.clone(),
            pending: message.pending,
            blind_since: message.blind_since,
            absence: message.absence.as_ref().map(absent),
            absence_reason: message.absence.as_ref().map(|absence| absence.reason.clone()),
            failures: message.failures.clone(),
        }
    }
}

/// Failures since the last event that was good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streak {
    /// The first of them.
    pub since: Timestamp,
    /// The last of them.
    pub last_at: Timestamp,
    /// How many pushes.
    pub pushes: u32,
    /// The last one's reason.
    pub reason: Reason,
}

/// What a chain's push events come to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PushFacts {
    /// The last of any kind.
    pub last_at: Option<Timestamp>,
    /// The last that was good.
    pub last_good_at: Option<Timestamp>,
    /// The last push that was accepted.
    pub last_accepted_at: Option<Timestamp>,
    /// The last push that failed.
    pub last_failure_at: Option<Timestamp>,
    /// All of them.
    pub events: u64,
    /// Pushes that were accepted.
    pub accepted: u64,
    /// Pushes that failed.
    pub failed: u64,
    /// Failures since the last event that was good.
    pub streak: Option<Streak>,
    /// Each agent by its last event, by id.
    pub agents: Vec<AgentSeen>,
}

impl PushFacts {
    /// The folder in which the chain's login is made, by the agent that was heard last.
    pub fn config_dir(&self) -> Option<&str> {
        let last = self.agents.iter().max_by_key(|agent| agent.last_at)?;
        last.local.config_dir.as_deref()
    }

    /// Of a set of events, in whatever order.
    pub fn of<'s>(seen: impl IntoIterator<Item = &'s PushSeen>) -> Self {
        let mut seen: Vec<_> = seen.into_iter().collect();
        // Of two at one instant the good one counts as the later.
        let rank = |outcome| match outcome {
            Outcome::Failed => 0,
            Outcome::Neutral => 1,
            Outcome::Good => 2,
        };
        seen.sort_by(|one, two| {
            let key = |event: &PushSeen| (event.at, rank(event.outcome));
            key(one)
                .cmp(&key(two))
                .then_with(|| one.reason.as_str().cmp(two.reason.as_str()))
                .then_with(|| one.agent.id.cmp(&two.agent.id))
        });
        seen.into_iter().fold(Self::default(), Self::and)
    }

    /// With one more event, not earlier than those before.
    fn and(mut self, event: &PushSeen) -> Self {
        self.events += 1;
        self.last_at = Some(event.at);
        match (event.kind, event.outcome) {
            (PushKind::Push, Outcome::Good) => {
                self.accepted += 1;
                self.last_accepted_at = Some(event.at);
            }
            (PushKind::Push, Outcome::Failed) => {
                self.failed += 1;
                self.last_failure_at = Some(event.at);
            }
            (PushKind::Push, Outcome::Neutral) | (PushKind::Beat, _) => {}
        }
        match event.outcome {
            Outcome::Good => {
                self.last_good_at = Some(event.at);
                self.streak = None;
            }
            Outcome::Failed => {
                let before = self.streak.map_or((event.at, 0), |streak| (streak.since, streak.pushes));
                self.streak = Some(Streak {
                    since: before.0,
                    last_at: event.at,
                    pushes: before.1.saturating_add(1),
                    reason: event.reason,
                });
            }
            Outcome::Neutral => {}
        }
        match self.agents.binary_search_by(|agent| agent.id.cmp(&event.agent.id)) {
            Ok(known) => self.agents[known] = event.agent.clone(),
            Err(place) => self.agents.insert(place, event.agent.clone()),
        }
        self
    }
}
