//! What is decided for a chain whose renewal spends nothing: when an access token is minted, what an answer leaves,
//! and where the chain stands (SPEC §3). Any outcome may simply be retried; all of this lives in memory only.

use std::time::Duration;

use jiff::Timestamp;
use rand::Rng;

use crate::chain::{ChainName, Failures, Generation, Lineage};
use crate::gateway::Position;
use crate::keeper::{
    self, ASSUMED_LIFE, Answer, Look, NewTokens, Outcome, Policy, Report, TICK, Unspent, classify, failed,
    whole_millis,
};
use crate::reason::Reason;

/// An access token that was minted, without the token itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    /// Its lineage and generation.
    pub position: Position,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Its life when it was minted.
    pub life: Duration,
    /// When it was minted.
    pub minted_at: Timestamp,
    /// When the next one is minted; computed once, compared as stored.
    pub renew_at: Timestamp,
    /// A 401 was seen for it.
    pub access_refused: bool,
}

/// All that is known of such a chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mint {
    /// Its access token.
    pub minted: Option<Minted>,
    /// Attempts that failed since the last success.
    pub failures: Option<Failures>,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// An access token.
    Minted(Box<NewTokens>),
    /// None; it may be tried again.
    Failed(Unspent),
}

/// What is decided at a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Mint one.
    Exchange(Reason),
    /// Wait for the exchange that is in flight: there is never a second one.
    Join,
    /// Leave it.
    Rest {
        /// Why.
        reason: Reason,
        /// What is wrong, if something is.
        error: Option<Reason>,
    },
}

/// Two looks of the loop are so far apart at least.
const LEAST: Duration = Duration::from_millis(50);

/// Decides whether an access token is minted now. `exchanging`: an exchange is in flight.
pub fn decide(mint: &Mint, exchanging: bool, policy: &Policy, look: Look, now: Timestamp) -> Decision {
    if exchanging {
        return Decision::Join;
    }
    let (at, reason) = match look {
        Look::Due => due_at(mint, policy, now),
        Look::Forced => {
            let asked = mint.failures.filter(|failures| failures.asked_by_provider);
            let free =
                mint.minted.as_ref().map_or(now, |minted| minted.minted_at + min_interval(minted, policy));
            match asked.filter(|failures| now < failures.not_before) {
                Some(failures) => {
                    return Decision::Rest { reason: failures.reason, error: Some(failures.reason) };
                }
                None if now < free => return Decision::Rest { reason: Reason::TooSoon, error: None },
                None => (now, Reason::Forced),
            }
        }
    };
    if at <= now {
        return Decision::Exchange(reason);
    }
    let error = mint.failures.map(|failures| failures.reason);
    Decision::Rest { reason: error.unwrap_or(Reason::NotDue), error }
}

/// When to look at the chain next, at the latest in a tick, and why.
pub fn next_look(mint: &Mint, policy: &Policy, now: Timestamp) -> (Timestamp, Reason) {
    let (at, reason) = due_at(mint, policy, now);
    let (at, reason) = if at < now + TICK { (at, reason) } else { (now + TICK, Reason::Tick) };
    (at.max(now + LEAST), reason)
}

/// Reads an answer of the token URL. Nothing was spent, so whatever holds no access token is a failure of that attempt
/// and no more.
pub fn read(answer: &Answer, now: Timestamp) -> Attempt {
    let failed = |reason| Attempt::Failed(Unspent { reason, retry_after: keeper::retry_after(answer, now) });
    match classify(answer, now) {
        Outcome::Committed(tokens) => Attempt::Minted(tokens),
        Outcome::Unspent(unspent) => failed(unspent.reason),
        Outcome::Refused => failed(Reason::ClientRejected),
        Outcome::InDoubt => failed(Reason::ProviderUnavailable),
    }
}

/// The chain after an attempt; a new access token has `position`.
pub fn settle(
    mint: Mint,
    attempt: &Attempt,
    position: Position,
    policy: &Policy,
    now: Timestamp,
    rng: &mut impl Rng,
) -> Mint {
    match attempt {
        Attempt::Failed(unspent) => {
            let expires_at = mint.minted.as_ref().map_or(now, |minted| minted.expires_at);
            let failures = failed(mint.failures, *unspent, expires_at, now, rng);
            Mint { failures: Some(failures), ..mint }
        }
        Attempt::Minted(tokens) => {
            let known = mint.minted.as_ref().map(|minted| minted.life);
            let life = tokens.expires_in.or(known).unwrap_or(ASSUMED_LIFE);
            let expires_at = whole_millis(now + life);
            let minted = Minted {
                position,
                expires_at,
                life,
                minted_at: now,
                renew_at: keeper::renew_at(expires_at, life, policy, rng),
                access_refused: false,
            };
            Mint { minted: Some(minted), failures: None }
        }
    }
}

/// The chain after its access token at `position` was refused. Nothing changes if it has another one by now.
#[must_use]
pub fn access_refused(mut mint: Mint, position: Position) -> Mint {
    if let Some(minted) = mint.minted.as_mut().filter(|minted| minted.position == position) {
        minted.access_refused = true;
    }
    mint
}

/// The chain after the file of its identity token changed: what failed for that file is tried again at once, unless
/// the provider itself asked to wait.
#[must_use]
pub fn identity_changed(mut mint: Mint) -> Mint {
    if let Some(failures) = &mut mint.failures {
        let of_the_file = matches!(failures.reason, Reason::IdentityTokenUnusable | Reason::ClientRejected);
        if of_the_file && !failures.asked_by_provider {
            failures.not_before = failures.since;
        }
    }
    mint
}

/// Where the next access token stands: above everything that was `seen` of the chain, and in a lineage of its own where
/// a grant with a record of its own (`record`) was the chain's before.
pub fn next_position(seen: impl IntoIterator<Item = Position>, record: Option<Lineage>) -> Position {
    let floor = record.map(|lineage| (lineage.next(), Generation(0)));
    let newest = seen.into_iter().chain(floor).max();
    newest.map_or((Lineage::FIRST, Generation::FIRST), |(lineage, generation)| (lineage, generation.next()))
}

/// The report of a look at such a chain.
pub fn report(
    chain: &ChainName,
    mint: &Mint,
    (reason, error): (Reason, Option<Reason>),
    now: Timestamp,
) -> Report {
    let minted = mint.minted.as_ref();
    let token_valid = minted.is_some_and(|minted| now < minted.expires_at && !minted.access_refused);
    Report {
        token_present: minted.is_some(),
        token_valid,
        ok: token_valid && error.is_none(),
        lineage: minted.map(|minted| minted.position.0),
        generation: minted.map(|minted| minted.position.1),
        expires_at: minted.map(|minted| minted.expires_at),
        renew_at: minted.map(|minted| minted.renew_at),
        ..Report::new(chain, None, false, (reason, error), now)
    }
}

/// When an access token may be minted, and why then.
fn due_at(mint: &Mint, policy: &Policy, now: Timestamp) -> (Timestamp, Reason) {
    let (at, reason) = match &mint.minted {
        None => (now, Reason::NotMinted),
        Some(minted) if minted.access_refused => {
            let free = minted.minted_at + min_interval(minted, policy);
            (free.min(minted.renew_at), Reason::AccessRefused)
        }
        Some(minted) => (minted.renew_at, Reason::RenewAt),
    };
    match mint.failures.map(|failures| failures.not_before) {
        Some(not_before) if not_before > at => (not_before, Reason::BackOff),
        Some(_) | None => (at, reason),
    }
}

fn min_interval(minted: &Minted, policy: &Policy) -> Duration {
    policy.min_exchange_interval.min(minted.life / 4)
}

#[cfg(test)]
mod tests;
