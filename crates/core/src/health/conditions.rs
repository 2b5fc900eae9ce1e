//! Every condition of a chain besides its push track (SPEC §6).

use jiff::{SignedDuration, Timestamp};

use super::Finding;
use crate::alert::Condition;
use crate::chain::{Kind, Lineage, Record, Standing};
use crate::event::{Event, EventKind};
use crate::gateway::Source;
use crate::keeper::Report;
use crate::reason::Reason;

const BLIND_AFTER: SignedDuration = SignedDuration::from_hours(12);
/// A grant that was refused lately counts as refused; the gateway says so once a minute while it goes on.
pub const GRANT_REFUSED_FOR: SignedDuration = SignedDuration::from_mins(10);
/// Our clock and the provider's may differ by so much, in seconds.
pub const MOST_SKEW_SECS: i64 = 120;
const PROBES_IN_A_ROW: usize = 3;
/// The end of a login is told so long before, or a quarter of its life if that is less.
const LOGIN_ENDS_SOON: SignedDuration = SignedDuration::from_hours(3 * 24);
const STATIC_ENDS_SOON: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What would serve a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// Which source.
    pub source: Source,
    /// How long it can: the access token's end.
    pub until: Option<Timestamp>,
}

/// The last probes, newest first; three at most are looked at.
pub type Probing = Vec<(Reason, crate::gateway::Position)>;

/// What is known of a fallback key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FallbackFacts {
    /// There is one.
    pub there: bool,
    /// What the last daily check of it found.
    pub usable: Option<bool>,
    /// Requests that it served today.
    pub uses_today: u64,
    /// It serves so many a day at most.
    pub most_a_day: Option<u64>,
}

/// What is known of a chain's grant, and of what serves requests.
#[derive(Debug, Clone, PartialEq)]
pub struct GrantFacts {
    /// How it is renewed.
    pub kind: Kind,
    /// The last look's report.
    pub report: Report,
    /// The record behind it, where there is one.
    pub record: Option<Record>,
    /// How far the provider's clock is ahead of ours.
    pub clock_offset_secs: Option<i64>,
    /// What would serve now.
    pub serving: Serving,
    /// The key behind it.
    pub fallback: FallbackFacts,
    /// The last probes, newest first.
    pub probes: Probing,
    /// When the gateway last saw that the API refuses the grant of this lineage for what it is.
    pub grant_refused_at: Option<Timestamp>,
    /// Since when each agent that cannot read its entry cannot, the earliest.
    pub blind_since: Option<Timestamp>,
}

/// Every condition that holds, in the order of SPEC §6.
pub fn conditions(facts: &GrantFacts, now: Timestamp) -> Vec<Finding> {
    let GrantFacts { report, record, fallback, serving, .. } = facts;
    let dead = reauth_required(facts, now);
    let mut found: Vec<_> = dead.clone().into_iter().collect();
    let mut hold = |condition, since: Option<Timestamp>, reason: Option<Reason>| {
        found.push(Finding::new(condition, since, reason));
    };
    match serving.source {
        Source::None => hold(Condition::NotServing, None, report.error),
        Source::Fallback => hold(Condition::FallbackActive, None, report.error),
        Source::Oauth | Source::ApiKey => {}
    }
    if let Some(reason) = renewal_failing(facts, now) {
        let since = record.as_ref().and_then(|record| record.failures).map(|failures| failures.since);
        hold(Condition::RenewalFailing, since, Some(reason));
    }
    match report.error {
        Some(Reason::VaultUnwritable) => hold(Condition::VaultUnwritable, None, report.error),
        Some(Reason::Quarantined) => hold(Condition::Quarantined, None, report.error),
        Some(_) | None => {}
    }
    if let Some(Standing::InDoubt { since, .. }) = record.as_ref().map(|record| record.standing) {
        hold(Condition::RenewalInDoubt, Some(since), Some(Reason::InDoubt));
    }
    if dead.is_none() && login_expiring(facts, now) {
        hold(Condition::LoginExpiring, None, None);
    }
    if facts.grant_refused_at.is_some_and(|at| now.duration_since(at) < GRANT_REFUSED_FOR) {
        hold(Condition::GrantRefused, None, Some(Reason::GrantRefused));
    }
    if fallback.there && fallback.usable == Some(false) && serving.source == Source::Oauth {
        hold(Condition::FallbackUnusable, None, Some(Reason::FallbackKeyRefused));
    }
    if let Some(most) = fallback.most_a_day {
        let used = fallback.uses_today.saturating_mul(100);
        if used >= most.saturating_mul(90) {
            hold(Condition::FallbackNearlyUsed, None, Some(Reason::FallbackBudget));
        } else if used >= most.saturating_mul(50) {
            hold(Condition::FallbackHalfUsed, None, Some(Reason::FallbackBudget));
        }
    }
    if let Some(reason) = probe_failing(facts) {
        hold(Condition::ProbeFailing, None, Some(reason));
    }
    if record.as_ref().is_some_and(|record| record.second_writer(now)) {
        hold(Condition::SecondWriter, None, Some(Reason::SecondWriter));
    }
    if let Some(since) = facts.blind_since.filter(|since| now.duration_since(*since) >= BLIND_AFTER) {
        hold(Condition::AgentBlind, Some(since), Some(Reason::KeychainLocked));
    }
    if facts.clock_offset_secs.is_some_and(|secs| secs.abs() > MOST_SKEW_SECS) {
        hold(Condition::ClockSkew, None, Some(Reason::ClockSkew));
    }
    found
}

/// The provider refused the refresh token for good, the grant ended, or a static one got a 401.
fn reauth_required(facts: &GrantFacts, now: Timestamp) -> Option<Finding> {
    let found = |since, reason| Some(Finding::new(Condition::ReauthRequired, since, Some(reason)));
    match facts.kind {
        Kind::RefreshToken | Kind::Static => {}
        Kind::JwtBearer | Kind::ClientCredentials | Kind::ApiKey => return None,
    }
    let absent = !facts.report.token_present;
    if let Some(record) = facts.record.as_ref().filter(|_| !absent) {
        match record.standing {
            Standing::Refused { reason, at, .. } => return found(Some(at), reason),
            Standing::Live | Standing::InDoubt { .. } => {}
        }
        let ended = record.grant_expires_at.unwrap_or(record.expires_at).min(record.expires_at);
        match record.kind {
            Kind::Static if record.access_refused => return found(None, Reason::RefreshTokenRevoked),
            Kind::Static if now >= ended => return found(Some(ended), Reason::GrantExpired),
            Kind::Static | Kind::RefreshToken | Kind::JwtBearer | Kind::ClientCredentials | Kind::ApiKey => {}
        }
    }
    match facts.report.error {
        Some(reason @ (Reason::RefreshTokenRevoked | Reason::GrantExpired)) => found(None, reason),
        Some(_) | None => None,
    }
}

/// Why renewing fails, if it is time to say so.
fn renewal_failing(facts: &GrantFacts, now: Timestamp) -> Option<Reason> {
    let error = facts.report.error?;
    let told_elsewhere = matches!(
        error,
        Reason::RefreshTokenRevoked
            | Reason::GrantExpired
            | Reason::VaultUnwritable
            | Reason::Quarantined
            | Reason::TermsNotAccepted
    );
    if told_elsewhere {
        return None;
    }
    let at_once = matches!(
        error,
        Reason::TokenAbsent
            | Reason::AuthFileMalformed
            | Reason::AuthFileRolledBack
            | Reason::GrantSpent
            | Reason::SealBroken
            | Reason::ClientRejected
            | Reason::ProviderBlocked
            | Reason::LockForeign
            | Reason::IdentityTokenUnusable
            | Reason::ApiKeyUnusable
            | Reason::ApiKeyRefused
    );
    (at_once || half_of_the_reserve_is_gone(&facts.report, now)).then_some(error)
}

/// Less than half of the time between the renewal and the end is left.
fn half_of_the_reserve_is_gone(report: &Report, now: Timestamp) -> bool {
    half_of_the_reserve_at(report).is_none_or(|at| now > at)
}

fn half_of_the_reserve_at(report: &Report) -> Option<Timestamp> {
    let end = report.expires_at?;
    Some(end - end.duration_since(report.renew_at?) / 2)
}

fn login_expiring(facts: &GrantFacts, now: Timestamp) -> bool {
    facts.record.as_ref().and_then(login_ends_soon_at).is_some_and(|at| now > at)
}

/// After this the end of the login is near.
pub fn login_ends_soon_at(record: &Record) -> Option<Timestamp> {
    match record.kind {
        Kind::Static => Some(record.grant_expires_at.unwrap_or(record.expires_at) - STATIC_ENDS_SOON),
        Kind::RefreshToken => {
            let end = record.grant_expires_at?;
            Some(end - LOGIN_ENDS_SOON.min(end.duration_since(record.granted_at) / 4))
        }
        Kind::JwtBearer | Kind::ClientCredentials | Kind::ApiKey => None,
    }
}

/// When the gateway last saw that the API refuses the grant of this lineage for what it is; of any lineage, if none is known.
pub fn grant_refused_at<'e>(
    events: impl IntoIterator<Item = &'e Event>,
    lineage: Option<Lineage>,
) -> Option<Timestamp> {
    let refused = events.into_iter().filter(|event| {
        event.kind == EventKind::Found
            && event.reason == Reason::GrantRefused
            && lineage.is_none_or(|lineage| event.lineage == lineage)
    });
    refused.map(|event| event.at).max()
}

/// How long a chain of which no condition holds stays so by itself: until then only what somebody writes changes that.
pub fn well_until(facts: &GrantFacts, now: Timestamp) -> Option<Timestamp> {
    let record = facts.record.as_ref();
    // Of the millisecond in which something begins, the end is looked at.
    let after = |at: Timestamp| at + SignedDuration::from_millis(1);
    let failing = facts.report.error.and_then(|_| half_of_the_reserve_at(&facts.report)).map(after);
    let grant_ends = record.and_then(|record| record.grant_expires_at);
    let soon = record.and_then(login_ends_soon_at).map(after);
    let turns = [facts.report.expires_at, failing, grant_ends, soon];
    turns.into_iter().flatten().filter(|at| *at > now).min()
}

/// Whether a record by itself may show that a condition holds, whatever the time.
pub fn shows_trouble(record: &Record) -> bool {
    record.standing != Standing::Live
        || record.access_refused
        || record.failures.is_some()
        || record.quarantined.is_some()
        || record.adoptions.len() > 1
}

fn probe_failing(facts: &GrantFacts) -> Option<Reason> {
    let lives = facts.report.token_valid;
    let here = (facts.report.lineage, facts.report.generation);
    match facts.probes.first() {
        Some((reason @ Reason::ProbeRefused, (lineage, generation)))
            if lives && here == (Some(*lineage), Some(*generation)) =>
        {
            return Some(*reason);
        }
        Some(_) | None => {}
    }
    let last = facts.probes.iter().take(PROBES_IN_A_ROW);
    let unanswered = last.filter(|(reason, _)| *reason == Reason::ProbeUnavailable).count();
    (unanswered == PROBES_IN_A_ROW).then_some(Reason::ProbeUnavailable)
}
