//! What an alert says: sentence, evidence, what serves meanwhile, and the next command (SPEC §6).

use jiff::Timestamp;

use super::{Action, Alert, AlertState, Concerned, Condition, Episode, Fact, Group, Level, span};
use crate::chain::ChainName;
use crate::gateway::Source;
use crate::health::{FallbackFacts, GrantFacts, MOST_SKEW_SECS, PushFacts, Serving};
use crate::reason::Reason;

/// So many chains of one alert are named in its text, with their evidence.
const MOST_SHOWN: usize = 20;
/// So many different things to do are said in one alert, and so many commands.
const MOST_TEXTS: usize = 2;
const MOST_COMMANDS: usize = 8;

/// Where an alert points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// The folder of the runbook: a page's name and `.md` are appended.
    pub runbook: String,
    /// The server's own address, for people.
    pub server: String,
}

impl Links {
    pub(crate) fn status(&self, chain: &ChainName) -> String {
        format!("{}/api/v1/admin/system/token-push/status?chain={chain}", self.server.trim_end_matches('/'))
    }

    pub(crate) fn runbook(&self, code: &str) -> String {
        format!("{}/{code}.md", self.runbook.trim_end_matches('/'))
    }
}

/// What an alert is made of, for one chain.
#[derive(Debug, Clone)]
pub struct Told<'f> {
    /// The episode.
    pub episode: &'f Episode,
    /// The provider's name.
    pub provider: &'f str,
    /// The chain's grant and what serves, if it was looked at.
    pub grant: Option<&'f GrantFacts>,
    /// Its push events, if it has a push track.
    pub push: Option<&'f PushFacts>,
    /// What to do.
    pub action: Option<Action>,
}

/// One alert for episodes of one condition and provider in the same state; `None` of none.
pub fn compose(told: &[Told<'_>], state: AlertState, links: &Links, now: Timestamp) -> Option<Alert> {
    let first = told.first()?;
    let (episode, condition) = (first.episode, first.episode.condition);
    let ended = state == AlertState::Closed;
    let concerned: Vec<_> = told.iter().map(|told| concerned(told.episode)).collect();
    let since = told.iter().map(|told| told.episode.since).min()?;
    let ended_at = told.iter().filter_map(|told| told.episode.ended_at).max().filter(|_| ended);
    let recovered = ended && condition.group() == Group::TokenPush;
    let status = if recovered { "recovered" } else { condition.as_str() };
    let nth = if state == AlertState::Reminder { format!("-{}", episode.reminders) } else { String::new() };
    Some(Alert {
        id: format!("{}-{}{nth}", episode.id, state.as_str()),
        at: now,
        group: condition.group(),
        status: status.to_owned(),
        condition,
        state,
        level: if ended { Level::Green } else { condition.level() },
        provider: first.provider.to_owned(),
        replaces: told.iter().filter_map(|told| told.episode.replaces.clone()).collect(),
        summary: summary(told, &concerned, state, now),
        since,
        ended_at,
        evidence: told.iter().take(MOST_SHOWN).flat_map(|one| evidence(one, told.len() > 1, now)).collect(),
        serving: serving(told, now),
        action: together(told).filter(|_| !ended),
        runbook_url: links.runbook(status),
        status_url: links.status(&episode.chain),
        test: false,
        concerned,
    })
}

/// What to do about all of them: the text once for each reason, and each command once.
fn together(told: &[Told<'_>]) -> Option<Action> {
    let mut reasons = Vec::new();
    let (mut texts, mut commands) = (Vec::new(), Vec::new());
    for Told { episode, action, .. } in told {
        let Some(action) = action else { continue };
        if !reasons.contains(&episode.reason) && !texts.contains(&action.text.as_str()) {
            reasons.push(episode.reason);
            texts.push(action.text.as_str());
        }
        for command in &action.commands {
            if !commands.contains(command) {
                commands.push(command.clone());
            }
        }
    }
    let more = texts.len() > MOST_TEXTS || commands.len() > MOST_COMMANDS;
    texts.truncate(MOST_TEXTS);
    commands.truncate(MOST_COMMANDS);
    if more {
        texts.push("This is for the first of them: `evergrant status` shows the others.");
    }
    (!texts.is_empty()).then(|| Action { text: texts.join(" "), commands })
}

fn concerned(episode: &Episode) -> Concerned {
    Concerned {
        episode: episode.id.clone(),
        chain: episode.chain.clone(),
        since: episode.since,
        ended_at: episode.ended_at,
    }
}

fn summary(told: &[Told<'_>], concerned: &[Concerned], state: AlertState, now: Timestamp) -> String {
    let mut names: Vec<_> = concerned.iter().take(MOST_SHOWN).map(|one| one.chain.to_string()).collect();
    if concerned.len() > MOST_SHOWN {
        names.push(format!("and {} more", concerned.len() - MOST_SHOWN));
    }
    let chains = match names.as_slice() {
        [one] => format!("Chain {one}"),
        several => format!("{} chains ({})", concerned.len(), several.join(", ")),
    };
    let Some(first) = told.first() else { return chains };
    let lasted = span(first.episode.lasts(now).as_secs());
    let what = sentence(first, &lasted);
    match state {
        AlertState::Open => format!("{chains}: {what}"),
        AlertState::Reminder => format!("{chains}, for {lasted} now: {what}"),
        AlertState::Closed => format!("{chains}: over after {lasted}: {}", over(first.episode.condition)),
    }
}

/// What is wrong, with the numbers that matter.
fn sentence(told: &Told<'_>, lasted: &str) -> String {
    let reason = told.episode.reason.map(Reason::sentence);
    match told.episode.condition {
        Condition::MacSilent => format!("the workstation's agent has been silent for {lasted}."),
        Condition::Failed => {
            let streak = told.push.and_then(|push| push.streak.as_ref());
            match streak {
                Some(streak) => format!(
                    "the last {} pushes from the workstation failed: {}",
                    streak.pushes,
                    streak.reason.sentence()
                ),
                None => "the last pushes from the workstation failed.".into(),
            }
        }
        Condition::Stale => format!("the workstation reports, but no push has succeeded for {lasted}."),
        Condition::ReauthRequired => begin_small(reason.unwrap_or(told.episode.condition.sentence())),
        Condition::NotServing => {
            format!("requests fail: nothing can serve them. {}", reason.unwrap_or_default())
        }
        Condition::FallbackActive => format!(
            "requests are served by the fallback key, at its own cost. {}",
            reason.unwrap_or_default()
        ),
        Condition::RenewalFailing => format!("the grant cannot be renewed. {}", reason.unwrap_or_default()),
        other @ (Condition::VaultUnwritable
        | Condition::Quarantined
        | Condition::RenewalInDoubt
        | Condition::LoginExpiring
        | Condition::GrantRefused
        | Condition::FallbackUnusable
        | Condition::FallbackHalfUsed
        | Condition::FallbackNearlyUsed
        | Condition::ProbeFailing
        | Condition::SecondWriter
        | Condition::AgentBlind
        | Condition::ClockSkew) => other.sentence().to_owned(),
    }
    .trim_end()
    .to_owned()
}

/// A sentence that goes on behind a colon.
fn begin_small(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// How it is when it is over.
fn over(condition: Condition) -> &'static str {
    match condition {
        Condition::MacSilent => "the workstation's agent reports again, or is expected no more.",
        Condition::Failed | Condition::Stale => "pushes from the workstation succeed again.",
        Condition::ReauthRequired => "the chain has a live grant again.",
        Condition::NotServing => "requests are served again.",
        Condition::FallbackActive => "requests are served by the grant again.",
        Condition::RenewalFailing => "the grant is renewed again.",
        Condition::VaultUnwritable => "the vault can be written again.",
        Condition::Quarantined => "the vault holds a grant that is known to be good.",
        Condition::RenewalInDoubt => "it is known again which refresh token lives.",
        Condition::LoginExpiring => "the login was renewed.",
        Condition::GrantRefused => "the API takes the grant again.",
        Condition::FallbackUnusable => "the fallback key works, or is not needed.",
        Condition::FallbackHalfUsed | Condition::FallbackNearlyUsed => {
            "a new day has begun, or the limit was raised."
        }
        Condition::ProbeFailing => "the probe is answered again.",
        Condition::SecondWriter => "nobody else rotates the pair any more.",
        Condition::AgentBlind => "the agent can read the keychain again.",
        Condition::ClockSkew => "the clocks agree again.",
    }
}

/// What serves requests now, and for how long it can.
fn serving(told: &[Told<'_>], now: Timestamp) -> String {
    let one = |told: &Told<'_>| {
        let Some(grant) = told.grant else { return "nothing is known yet".to_owned() };
        served_by(grant.serving, grant.fallback, now)
    };
    match told {
        [only] => one(only),
        several => several
            .iter()
            .take(MOST_SHOWN)
            .map(|told| format!("{}: {}", told.episode.chain, one(told)))
            .collect::<Vec<_>>()
            .join("; "),
    }
}

fn served_by(serving: Serving, fallback: FallbackFacts, now: Timestamp) -> String {
    let left = |until: Option<Timestamp>| match until {
        Some(until) => format!(" for {} more", span(until.duration_since(now).as_secs())),
        None => String::new(),
    };
    let reserve = match (fallback.there, fallback.usable) {
        (false, _) => "no fallback key is set",
        (true, Some(false)) => "the fallback key behind it does not work",
        (true, Some(true) | None) => "the fallback key stands behind it",
    };
    match serving.source {
        Source::Oauth => format!("the grant's access token{}; {reserve}", left(serving.until)),
        Source::ApiKey => "the chain's API key".into(),
        Source::Fallback => {
            let most = fallback.most_a_day.map_or(String::new(), |most| format!(" of at most {most}"));
            format!("the fallback key: {} requests{most} today", fallback.uses_today)
        }
        Source::None => "nothing: requests fail".into(),
    }
}

/// The most telling first.
fn evidence(told: &Told<'_>, several: bool, now: Timestamp) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |label: &str, value: String| {
        let label = if several { format!("{}: {label}", told.episode.chain) } else { label.to_owned() };
        facts.push(Fact { label, value });
    };
    if let Some(reason) = told.episode.reason {
        add("Reason", format!("{reason}: {}", reason.sentence()));
    }
    let push = told.push.filter(|_| {
        told.episode.condition.group() == Group::TokenPush || told.episode.condition == Condition::AgentBlind
    });
    if let Some(push) = push {
        push_evidence(push, &mut add, now);
    }
    if let Some(grant) = told.grant {
        if let Some(detail) = &grant.report.detail {
            add("Detail", detail.clone());
        }
        grant_evidence(grant, &mut add, now);
    }
    facts
}

/// An instant as people read it: with how long ago or ahead it is.
fn when(at: Timestamp, now: Timestamp) -> String {
    let away = now.duration_since(at).as_secs();
    let said = at.strftime("%Y-%m-%d %H:%M:%S UTC");
    if away >= 0 { format!("{said} ({} ago)", span(away)) } else { format!("{said} (in {})", span(-away)) }
}

fn push_evidence(push: &PushFacts, add: &mut impl FnMut(&str, String), now: Timestamp) {
    add("Last event", push.last_at.map_or("never".into(), |at| when(at, now)));
    add("Last success", push.last_good_at.map_or("never".into(), |at| when(at, now)));
    if let Some(streak) = &push.streak {
        add("Failed in a row", format!("{}, since {}", streak.pushes, when(streak.since, now)));
    }
    for agent in &push.agents {
        let entry = agent.local.entry.as_deref().unwrap_or("no entry");
        add("Agent", format!("{} on {}: {} ({entry})", agent.id, agent.host, agent.reason));
        for failed in &agent.failures {
            add(
                "Before its last contact",
                format!(
                    "{} x {}, {} to {}",
                    failed.count,
                    failed.reason,
                    when(failed.first, now),
                    when(failed.last, now)
                ),
            );
        }
    }
}

fn grant_evidence(grant: &GrantFacts, add: &mut impl FnMut(&str, String), now: Timestamp) {
    let report = &grant.report;
    if let (Some(lineage), Some(generation)) = (report.lineage, report.generation) {
        add("Grant", format!("lineage {lineage}, generation {generation}, {}", grant.kind.as_str()));
    }
    if let Some(end) = report.expires_at {
        add("Access token ends", when(end, now));
    }
    if let Some(end) = grant.record.as_ref().and_then(|record| record.grant_expires_at) {
        add("Login ends", when(end, now));
    }
    if let Some(failures) = grant.record.as_ref().and_then(|record| record.failures) {
        add("Failed renewals", format!("{} in a row, since {}", failures.count, when(failures.since, now)));
    }
    if let Some(offset) = grant.clock_offset_secs.filter(|secs| secs.abs() > MOST_SKEW_SECS) {
        add(
            "Provider's clock",
            format!("{} {} of ours", span(offset.abs()), if offset > 0 { "ahead" } else { "behind" }),
        );
    }
}
