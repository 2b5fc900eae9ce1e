//! What an outcome makes of the chain's record: each transition takes a record and returns the next (SPEC §4).

use std::time::Duration;

use jiff::Timestamp;
use rand::{Rng, RngExt};

use super::Policy;
use super::answer::{NewTokens, Outcome, Unspent};
use super::backoff::back_off;
use crate::chain::{
    AttemptId, ChainName, DAY_SECS, Failures, Generation, Intent, Kind, Lineage, OldDoubt, Record, Standing,
};
use crate::grant::{Grant, PairId};
use crate::provider::ReuseClass;
use crate::reason::Reason;

/// The life that is assumed where nobody ever said one.
pub(crate) const ASSUMED_LIFE: Duration = Duration::from_secs(3600);
/// A provider that throttles for so long counts as blocking.
const THROTTLED_TOO_LONG_SECS: i64 = 3600;
/// How many pairs of older lineages are remembered as in doubt.
const MOST_OLD_DOUBTS: usize = 32;
/// How many adoptions are remembered: two are enough to tell of a second writer, and the record stays small.
const MOST_ADOPTIONS: usize = 16;

/// The record with the intent to present its pair as `attempt`.
pub fn begin(
    mut record: Record,
    attempt: AttemptId,
    machine: &str,
    policy: &Policy,
    now: Timestamp,
) -> Record {
    record.intent = Some(Intent {
        attempt,
        lineage: record.lineage,
        generation: record.generation,
        presented: record.pair,
        sent_at: now,
        deadline: now + policy.deadline,
        machine: machine.to_owned(),
    });
    record.last_attempt = attempt;
    if let Standing::InDoubt { presented_again, .. } = &mut record.standing {
        *presented_again = presented_again.saturating_add(1);
    }
    record
}

/// No access token lives longer; what says so is wrong, and would be added to instants.
const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The grant that an answer makes of the one that was presented: what is absent is kept (SPEC §3).
pub fn committed_grant(old: &Grant, record: &Record, tokens: NewTokens, at: Timestamp) -> Grant {
    Grant {
        access: tokens.access,
        refresh: tokens.refresh.or_else(|| old.refresh.clone()),
        expires_at: Some(whole_millis(at + tokens.expires_in.unwrap_or(record.life()))),
        grant_expires_at: match tokens.grant_expires_in {
            Some(rest) => Some(whole_millis(at + rest)),
            None => record.grant_expires_at,
        },
        scopes: tokens.scopes.unwrap_or_else(|| record.scopes.clone()),
    }
}

/// The record after `attempt` made `grant` its next generation; the answer came at `at`.
///
/// Also used for a pair of the same lineage that was put back: the counters then say where it stands.
pub fn commit(
    record: &Record,
    attempt: AttemptId,
    grant: &Grant,
    expires_in_said: bool,
    at: Timestamp,
    policy: &Policy,
    rng: &mut impl Rng,
) -> Record {
    let expires_at = grant.expires_at.unwrap_or(at + record.life());
    let life = Duration::try_from(expires_at.duration_since(at)).unwrap_or_default();
    Record {
        generation: record.generation.next(),
        pair: grant.pair(),
        expires_at,
        expiry_assumed: !expires_in_said,
        life_secs: life.as_secs().max(1),
        grant_expires_at: grant.grant_expires_at,
        scopes: grant.scopes.clone(),
        stored_at: at,
        renew_at: Some(renew_at(expires_at, life, policy, rng)),
        standing: Standing::Live,
        access_refused: false,
        intent: None,
        made_by: Some(attempt),
        // A row that was restored does not know of it.
        last_attempt: attempt.max(record.last_attempt),
        failures: None,
        rewriting: None,
        quarantined: None,
        ..record.clone()
    }
}

/// The record after an answer without a pair.
pub fn settle(
    mut record: Record,
    outcome: &Outcome,
    policy: &Policy,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Record {
    match outcome {
        Outcome::Committed(_) => record,
        Outcome::InDoubt => doubt(record, now, rng),
        Outcome::Refused => {
            let ended = record.grant_expires_at.is_some_and(|end| now >= end);
            let reason = if ended { Reason::GrantExpired } else { Reason::RefreshTokenRevoked };
            let again = matches!(record.standing, Standing::Refused { .. });
            let confirmed = again || policy.profile.reuse != ReuseClass::None;
            record.standing = Standing::Refused { reason, at: now, confirmed };
            record.intent = None;
            record.failures = None;
            record
        }
        Outcome::Unspent(Unspent { reason, retry_after }) => {
            record.intent = None;
            let unspent = Unspent { reason: *reason, retry_after: *retry_after };
            record.failures = Some(failed(record.failures, unspent, record.expires_at, now, rng));
            record
        }
    }
}

/// The record when nobody can know whether the pair of its open intent was spent.
pub fn doubt(mut record: Record, now: Timestamp, rng: &mut impl Rng) -> Record {
    let Some(intent) = record.intent.take() else {
        return record;
    };
    record.standing = match record.standing {
        Standing::InDoubt { .. } => record.standing,
        Standing::Live | Standing::Refused { .. } => {
            Standing::InDoubt { sent_at: intent.sent_at, since: now, presented_again: 0 }
        }
    };
    let since = record.failures.map_or(now, |failures| failures.since);
    let doubt = Unspent { reason: Reason::InDoubt, retry_after: None };
    record.failures = Some(failure(record.failures, doubt, since, record.expires_at, now, rng));
    record
}

/// The record after a grant came from outside: adopted as it was found, or imported.
///
/// A pair that was in doubt or refused when it was last the chain's is in doubt again: putting a file back proves
/// nothing.
pub fn take_in(
    chain: &ChainName,
    before: Option<&Record>,
    grant: &Grant,
    imported: bool,
    policy: &Policy,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Record {
    let pair = grant.pair();
    let known_life = before.map(Record::life);
    let expires_at =
        grant.expires_at.unwrap_or_else(|| whole_millis(now + known_life.unwrap_or(ASSUMED_LIFE)));
    let left = Duration::try_from(expires_at.duration_since(now)).unwrap_or_default();
    let life = left.max(known_life.unwrap_or_default()).min(LONGEST_LIFE);
    let mut old_doubts = before.map(doubts_left_behind).unwrap_or_default();
    let doubted = old_doubts.iter().position(|old| old.fingerprint == pair.fingerprint());
    let standing = match doubted.map(|index| old_doubts.remove(index)) {
        Some(old) => Standing::InDoubt { sent_at: old.sent_at, since: now, presented_again: 0 },
        None => Standing::Live,
    };
    let mut adoptions = before.map(|record| record.adoptions.clone()).unwrap_or_default();
    adoptions.retain(|at| !imported && now.duration_since(*at).as_secs() < DAY_SECS);
    if before.is_some() && !imported {
        adoptions.push(now);
    }
    let surplus = adoptions.len().saturating_sub(MOST_ADOPTIONS);
    adoptions.drain(..surplus);
    let kind = Kind::of(grant);
    Record {
        chain: chain.clone(),
        lineage: before.map_or(Lineage::FIRST, next_lineage),
        generation: Generation::FIRST,
        kind,
        pair,
        expires_at,
        expiry_assumed: grant.expires_at.is_none(),
        life_secs: life.as_secs().max(1),
        granted_at: now,
        grant_expires_at: grant.grant_expires_at,
        scopes: grant.scopes.clone(),
        stored_at: now,
        renew_at: match kind {
            Kind::RefreshToken => Some(renew_at(expires_at, life, policy, rng)),
            Kind::Static | Kind::JwtBearer | Kind::ClientCredentials | Kind::ApiKey => None,
        },
        standing,
        access_refused: false,
        intent: None,
        made_by: None,
        last_attempt: before.map_or(AttemptId(0), |record| record.last_attempt),
        failures: None,
        rewriting: None,
        old_doubts,
        adoptions,
        quarantined: None,
    }
}

/// Above everything that any machine has seen of the chain.
fn next_lineage(record: &Record) -> Lineage {
    record.quarantined.map_or(record.lineage, |is| is.behind.lineage.max(record.lineage)).next()
}

fn doubts_left_behind(record: &Record) -> Vec<OldDoubt> {
    let mut old_doubts = record.old_doubts.clone();
    let sent_at = match (&record.standing, &record.intent) {
        (Standing::InDoubt { sent_at, .. } | Standing::Refused { at: sent_at, .. }, _) => Some(*sent_at),
        (Standing::Live, intent) => intent.as_ref().map(|intent| intent.sent_at),
    };
    if let Some(sent_at) = sent_at {
        old_doubts.push(OldDoubt { fingerprint: record.pair.fingerprint(), sent_at });
    }
    let surplus = old_doubts.len().saturating_sub(MOST_OLD_DOUBTS);
    old_doubts.drain(..surplus);
    old_doubts
}

/// One more attempt that spent nothing; a provider that throttles for too long counts as blocking.
pub(crate) fn failed(
    before: Option<Failures>,
    unspent: Unspent,
    expires_at: Timestamp,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Failures {
    let since = match &before {
        Some(failures) if throttled(failures.reason) == throttled(unspent.reason) => failures.since,
        Some(_) | None => now,
    };
    let too_long = now.duration_since(since).as_secs() >= THROTTLED_TOO_LONG_SECS;
    let blocked = unspent.reason == Reason::ProviderThrottled && too_long;
    let reason = if blocked { Reason::ProviderBlocked } else { unspent.reason };
    failure(before, Unspent { reason, ..unspent }, since, expires_at, now, rng)
}

fn failure(
    before: Option<Failures>,
    unspent: Unspent,
    since: Timestamp,
    expires_at: Timestamp,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Failures {
    let count = before.map_or(0, |failures| failures.count).saturating_add(1);
    Failures {
        count,
        since,
        reason: unspent.reason,
        not_before: back_off(count, unspent.retry_after, expires_at, now, rng),
        asked_by_provider: unspent.retry_after.is_some(),
    }
}

fn throttled(reason: Reason) -> bool {
    matches!(reason, Reason::ProviderThrottled | Reason::ProviderBlocked)
}

/// When a pair is to be renewed: its end less the lead, up to a tenth of the lead earlier.
pub(crate) fn renew_at(
    expires_at: Timestamp,
    life: Duration,
    policy: &Policy,
    rng: &mut impl Rng,
) -> Timestamp {
    let lead = policy.renew_before.min(life / 2);
    whole_millis(expires_at - lead - lead.mul_f64(rng.random_range(0.0..=0.1)))
}

/// Instants are stored in milliseconds everywhere, so that what is compared is what was stored.
pub(crate) fn whole_millis(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// Whether the refresh token was really replaced; an answer may repeat it, and then it is not spent.
pub fn replaces(record: &Record, next: PairId) -> bool {
    record.pair.refresh != next.refresh
}
