//! Alerts to rehearse with: one of each status, made as real ones are (SPEC §6).

use jiff::{SignedDuration, Timestamp};

use super::{ActionContext, Alert, AlertState, Condition, Episode, EpisodeId, Links, Told, action, compose};
use crate::chain::{ChainName, Kind};
use crate::gateway::Source;
use crate::health::{AgentSeen, FallbackFacts, GrantFacts, PushFacts, Serving, Streak};
use crate::keeper::Report;
use crate::provider::Profile;
use crate::push::{FailedAttempts, Local};
use crate::reason::Reason;
use crate::secret::Fingerprint;

/// One of each status: `mac_silent`, `failed`, `stale`, `reauth_required`, `recovered`.
pub fn samples(links: &Links, now: Timestamp) -> Vec<Alert> {
    let minutes = |minutes| Some(now - SignedDuration::from_mins(minutes));
    let streak = |minutes, pushes, reason| {
        let since = now - SignedDuration::from_mins(minutes);
        Some(Streak { since, last_at: now - SignedDuration::from_mins(4), pushes, reason })
    };
    let silent =
        Sample { last_at: minutes(61), last_good_at: minutes(61), ..Sample::of(Condition::MacSilent, 61) };
    let failed = Sample {
        reason: Some(Reason::ProbeRefused),
        last_at: minutes(4),
        last_good_at: minutes(38),
        streak: streak(12, 3, Reason::ProbeRefused),
        ..Sample::of(Condition::Failed, 12)
    };
    let stale = Sample {
        reason: Some(Reason::IdentityMismatch),
        last_at: minutes(4),
        last_good_at: minutes(133),
        streak: streak(123, 2, Reason::IdentityMismatch),
        ..Sample::of(Condition::Stale, 123)
    };
    let dead = Sample {
        reason: Some(Reason::RefreshTokenRevoked),
        source: Source::Fallback,
        last_at: minutes(17),
        last_good_at: minutes(17),
        ..Sample::of(Condition::ReauthRequired, 3)
    };
    let over = Sample {
        ended: true,
        last_at: minutes(6),
        last_good_at: minutes(6),
        ..Sample::of(Condition::ReauthRequired, 78)
    };
    [silent, failed, stale, dead, over].into_iter().filter_map(|sample| sample.alert(links, now)).collect()
}

/// One with more evidence than any sink shows.
pub fn largest(links: &Links, now: Timestamp) -> Option<Alert> {
    let agents = 24;
    Sample { agents, last_at: Some(now), ..Sample::of(Condition::Failed, 600) }.alert(links, now)
}

/// What is particular to one of them.
#[derive(Debug, Clone)]
struct Sample {
    condition: Condition,
    since_mins: i64,
    ended: bool,
    reason: Option<Reason>,
    source: Source,
    last_at: Option<Timestamp>,
    last_good_at: Option<Timestamp>,
    streak: Option<Streak>,
    agents: u8,
}

impl Sample {
    fn of(condition: Condition, since_mins: i64) -> Self {
        Self {
            condition,
            since_mins,
            ended: false,
            reason: None,
            source: Source::Oauth,
            last_at: None,
            last_good_at: None,
            streak: None,
            agents: 1,
        }
    }

    fn alert(&self, links: &Links, now: Timestamp) -> Option<Alert> {
        let profile = Profile::claude();
        let chain: ChainName = profile.name.parse().ok()?;
        let episode = self.episode(&chain, now);
        let (grant, push) = (self.grant(&chain, now), self.push(now));
        let context = ActionContext {
            chain: &chain,
            kind: Kind::RefreshToken,
            profile: &profile,
            reason: self.reason,
            config_dir: None,
        };
        let told = Told {
            episode: &episode,
            provider: &profile.name,
            grant: Some(&grant),
            push: Some(&push),
            action: action(self.condition, &context),
        };
        let state = if self.ended { AlertState::Closed } else { AlertState::Open };
        compose(&[told], state, links, now)
    }

    fn episode(&self, chain: &ChainName, now: Timestamp) -> Episode {
        let since = now - SignedDuration::from_mins(self.since_mins);
        let opened_at = if self.ended { since } else { now };
        Episode {
            id: EpisodeId::new(chain, self.condition, opened_at),
            chain: chain.clone(),
            condition: self.condition,
            reason: self.reason,
            since,
            opened_at,
            ended_at: self.ended.then(|| now - SignedDuration::from_mins(6)),
            closed_at: self.ended.then_some(now),
            flaps: 0,
            announced_at: None,
            owed: false,
            reminders: 0,
            remind_at: None,
            acknowledged: None,
            replaces: None,
        }
    }

    fn grant(&self, chain: &ChainName, now: Timestamp) -> GrantFacts {
        let serves = self.source == Source::Oauth;
        let end = now + SignedDuration::from_mins(if serves { 5 * 60 + 42 } else { -3 });
        let error = self.reason.filter(|_| !serves);
        let report = Report {
            chain: chain.clone(),
            ok: serves,
            refreshed: false,
            token_present: true,
            token_valid: serves,
            error,
            reason: error.unwrap_or(Reason::NotDue),
            lineage: Some((0..2).fold(crate::Lineage::FIRST, |last, _| last.next())),
            generation: Some((0..40).fold(crate::Generation::FIRST, |last, _| last.next())),
            expires_at: Some(end),
            renew_at: Some(end - SignedDuration::from_hours(1)),
            took_ms: 1,
            detail: None,
        };
        let fallback =
            FallbackFacts { there: true, usable: Some(true), uses_today: 214, most_a_day: Some(5000) };
        GrantFacts {
            kind: Kind::RefreshToken,
            report,
            record: None,
            clock_offset_secs: None,
            serving: Serving { source: self.source, until: serves.then_some(end) },
            fallback,
            probes: Vec::new(),
            grant_refused_at: None,
            blind_since: None,
        }
    }

    fn push(&self, now: Timestamp) -> PushFacts {
        let last_at = self.last_at.unwrap_or(now);
        PushFacts {
            last_at: self.last_at,
            last_good_at: self.last_good_at,
            last_accepted_at: Some(now - SignedDuration::from_hours(31)),
            last_failure_at: self.streak.map(|streak| streak.last_at),
            events: 96,
            accepted: 2,
            failed: self.streak.map_or(0, |streak| streak.pushes.into()),
            streak: self.streak,
            agents: (0..self.agents).map(|nth| self.agent(nth, last_at)).collect(),
        }
    }

    fn agent(&self, nth: u8, last_at: Timestamp) -> AgentSeen {
        let many = self.agents > 1;
        let failed = |nth: i64| FailedAttempts {
            reason: Reason::ServerUnreachable,
            count: 30,
            first: last_at - SignedDuration::from_mins(nth * 40 + 35),
            last: last_at - SignedDuration::from_mins(nth * 40 + 5),
        };
        let host = if many { format!("workstation-{nth}.example") } else { "studio-mac".into() };
        AgentSeen {
            id: format!("agent-{nth}"),
            version: env!("CARGO_PKG_VERSION").into(),
            host,
            last_at,
            reason: self.streak.map_or(Reason::SameGrant, |streak| streak.reason),
            local: Local {
                entry: Some("the login keychain".into()),
                fingerprint: Some(Fingerprint::of(&[nth])),
                modified_at: Some(last_at),
                config_dir: None,
            },
            pending: false,
            blind_since: None,
            absence: None,
            absence_reason: None,
            failures: if many { (0..16).map(failed).collect() } else { Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::Level;

    #[test]
    fn there_is_one_of_each_status_and_each_is_whole() {
        let links = Links { runbook: "https://r.example".into(), server: "https://s.example".into() };
        let now: Timestamp = "2026-11-24T18:00:00Z".parse().unwrap();
        let samples = samples(&links, now);
        let statuses: Vec<_> = samples.iter().map(|alert| alert.status.as_str()).collect();
        assert_eq!(statuses, ["mac_silent", "failed", "stale", "reauth_required", "recovered"]);
        for alert in &samples {
            assert_eq!(alert.action.is_none(), alert.level == Level::Green, "{alert:?}");
            assert!(alert.evidence.len() >= 4 && alert.serving.len() > 10, "{alert:?}");
            assert!(alert.runbook_url.ends_with(&format!("/{}.md", alert.status)));
        }
        let largest = largest(&links, now).unwrap();
        assert!(largest.evidence.len() > 400, "{}", largest.evidence.len());

        let test = samples[0].clone().rehearsed();
        assert!(test.test && test.id.starts_with("test-"));
        let (chain, condition, opened) = test.concerned[0].episode.parts().unwrap();
        assert_eq!((chain.as_str(), condition, opened), ("test-claude", Condition::MacSilent, now));
        assert_eq!(test.concerned[0].chain, chain);
    }
}
