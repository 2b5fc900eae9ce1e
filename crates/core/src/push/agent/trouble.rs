//! What the agent says by itself while the server does not hear it: a notification on the workstation, and `failed`
//! straight to the sinks, as an episode of its own (SPEC §5).

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Memory, Periods, Streak};
use crate::alert::{Action, Alert, AlertState, Concerned, Condition, EpisodeId, Fact, Level, Links, span};
use crate::chain::ChainName;
use crate::push::Absence;
use crate::reason::Reason;

/// Contacts have to fail so often in a row before a person is told.
const LEAST_FAILURES: u32 = 3;
/// A sink that does not take the end of an episode is given up after so long, in seconds.
const GIVE_UP_SECS: i64 = 24 * 3600;

/// An episode of the agent's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Its id, which is no episode's of the server.
    pub id: EpisodeId,
    /// Since when it has been so.
    pub since: Timestamp,
    /// The sinks that took its alert.
    #[serde(default)]
    pub told: BTreeSet<String>,
}

/// An episode that ended, and whose end some sinks have yet to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The episode, with the sinks that still have to be told.
    pub trouble: Trouble,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// What a person at the workstation is to be told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The server does not hear the agent.
    Opened(Streak),
    /// It hears it again.
    Closed,
}

impl Memory {
    /// Opens or closes the episode of the agent's own. The notice comes once for each.
    pub fn take_stock(
        &mut self,
        chain: &ChainName,
        agent_id: &str,
        absence: Option<&Absence>,
        now: Timestamp,
        periods: Periods,
    ) -> Option<Notice> {
        self.closing.retain(|closing| now.duration_since(closing.ended_at).as_secs() < GIVE_UP_SECS);
        match (&self.trouble, self.streak) {
            (None, Some(streak)) => {
                let lasted = streak.last.duration_since(streak.first);
                let absent = absence.is_some_and(|absence| absence.until > now);
                if streak.count < LEAST_FAILURES || lasted < periods.trouble || absent {
                    return None;
                }
                let id =
                    format!("agent-{agent_id}-{}", EpisodeId::new(chain, Condition::Failed, streak.first));
                let trouble =
                    Trouble { id: EpisodeId::known(&id), since: streak.first, told: BTreeSet::new() };
                self.trouble = Some(trouble);
                Some(Notice::Opened(streak))
            }
            (Some(trouble), None) => {
                if !trouble.told.is_empty() {
                    self.closing.push(Closing { trouble: trouble.clone(), ended_at: now });
                }
                self.trouble = None;
                Some(Notice::Closed)
            }
            (None, None) | (Some(_), Some(_)) => None,
        }
    }

    /// The alert of the open episode, for sinks that were not told yet.
    pub fn alert(&self, about: &About<'_>, now: Timestamp) -> Option<Alert> {
        let (trouble, streak) = (self.trouble.as_ref()?, self.streak?);
        Some(about.alert(trouble, AlertState::Open, None, Some(streak), self, now))
    }
}

/// Whom an alert of the agent's own is about.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// The chain.
    pub chain: &'a ChainName,
    /// The provider's name.
    pub provider: &'a str,
    /// The workstation's name.
    pub host: &'a str,
    /// Where an alert points to.
    pub links: &'a Links,
}

impl About<'_> {
    /// The alert that ends an episode.
    pub fn closing(&self, closing: &Closing, memory: &Memory, now: Timestamp) -> Alert {
        self.alert(&closing.trouble, AlertState::Closed, Some(closing.ended_at), None, memory, now)
    }

    fn alert(
        &self,
        trouble: &Trouble,
        state: AlertState,
        ended_at: Option<Timestamp>,
        streak: Option<Streak>,
        memory: &Memory,
        now: Timestamp,
    ) -> Alert {
        let (chain, host) = (self.chain, self.host);
        let lasted = span(ended_at.unwrap_or(now).duration_since(trouble.since).as_secs());
        let status = if ended_at.is_some() { "recovered" } else { Condition::Failed.as_str() };
        let summary = match streak {
            Some(streak) => format!(
                "Chain {chain}: the agent on {host} has not reached the server for {lasted}: {}",
                streak.reason.sentence()
            ),
            None => format!("Chain {chain}: the agent on {host} reaches the server again, after {lasted}."),
        };
        Alert {
            id: format!("{}-{}", trouble.id, state.as_str()),
            at: now,
            group: Condition::Failed.group(),
            status: status.to_owned(),
            condition: Condition::Failed,
            state,
            level: if ended_at.is_some() { Level::Green } else { Condition::Failed.level() },
            provider: self.provider.to_owned(),
            concerned: vec![Concerned {
                episode: trouble.id.clone(),
                chain: chain.clone(),
                since: trouble.since,
                ended_at,
            }],
            replaces: Vec::new(),
            summary,
            since: trouble.since,
            ended_at,
            evidence: evidence(host, streak, memory),
            serving: "not known here: the server does not answer the agent".to_owned(),
            action: streak.map(|streak| action(streak.reason)),
            runbook_url: self.links.runbook(status),
            status_url: self.links.status(chain),
            test: false,
        }
    }
}

fn evidence(host: &str, streak: Option<Streak>, memory: &Memory) -> Vec<Fact> {
    let mut facts = vec![Fact::new("agent", host)];
    facts.extend(streak.map(|streak| {
        let value = format!("{} in a row since {}: {}", streak.count, streak.first, streak.reason);
        Fact::new("failed contacts", value)
    }));
    facts.extend(memory.last_contact.map(|at| Fact::new("last contact", at.to_string())));
    facts.extend(memory.pending.map(|pending| {
        Fact::new("a login waits to be pushed", format!("{}, since {}", pending.fingerprint, pending.since))
    }));
    facts
}

fn action(reason: Reason) -> Action {
    let of_the_key = matches!(
        reason,
        Reason::CallerMissing
            | Reason::CallerUnknown
            | Reason::CallerRevoked
            | Reason::CallerExpired
            | Reason::CallerReplaced
            | Reason::ScopeMissing
    );
    let text = if of_the_key {
        "The server refuses the agent's key. Make another one with the scope push on the server, and put it into the \
         agent's key file."
    } else {
        "See from the workstation how far the way to the server is open, and whether the server runs."
    };
    Action { text: text.to_owned(), commands: vec!["evergrant agent doctor".to_owned()] }
}
