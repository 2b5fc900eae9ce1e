//! Errors of the gateway's own, as its clients read them: what happened, to what, and what to do next.

use evergrant_core::gateway::{ErrorKind, OwnError};
use evergrant_core::{ChainName, Reason};

use super::http1::BadHead;
use super::plane::Chain;
use crate::caller::Limit;

/// A head that is not passed on.
pub(super) fn bad_head(bad: BadHead) -> OwnError {
    let kind = match bad {
        BadHead::TooLarge => ErrorKind::HeadTooLarge,
        BadHead::Version => ErrorKind::Version,
        BadHead::Expectation => ErrorKind::Expectation,
        BadHead::Syntax(_) | BadHead::Framing(_) | BadHead::Target | BadHead::Host => ErrorKind::BadRequest,
    };
    OwnError::lasting(kind, Reason::BadRequest, bad.to_string())
}

/// The caller may not do this, or is not known.
pub(super) fn unauthorized(reason: Reason) -> OwnError {
    let unknown =
        "this caller key is not known here: check that it was copied whole (`evergrant keys list` shows all)";
    let messages = [
        (
            Reason::CallerMissing,
            "no caller key came with the request: send one as X-CM-API-Key, x-api-key or Authorization: Bearer \
             (`evergrant keys create` makes one)",
        ),
        (Reason::CallerRevoked, "this caller key was revoked: ask its operator for another"),
        (Reason::CallerExpired, "this caller key has expired: ask its operator for another"),
        (
            Reason::ScopeMissing,
            "this caller key lacks the scope gateway: it is not made for requests to the API",
        ),
    ];
    let message = messages.into_iter().find(|(of, _)| *of == reason).map_or(unknown, |(_, message)| message);
    let kind = if reason == Reason::ScopeMissing { ErrorKind::Forbidden } else { ErrorKind::Unauthorized };
    OwnError::lasting(kind, reason, message)
}

/// A provider's own token or key was presented.
pub(super) fn provider_token(variable: &str) -> OwnError {
    OwnError::lasting(
        ErrorKind::Unauthorized,
        Reason::ProviderTokenPresented,
        format!(
            "what was presented is a token or key of the provider; Evergrant takes its own caller keys only: set \
             {variable} to one of them (`evergrant keys create` makes one)"
        ),
    )
}

/// The caller's chain was configured once, and is not any more.
pub(super) fn unknown_chain(chain: &ChainName) -> OwnError {
    let message = format!(
        "the chain {chain} of this caller key is not configured here, or its provider is not forwarded to"
    );
    OwnError::lasting(ErrorKind::Forbidden, Reason::ChainUnknown, message)
}

/// The caller's chain may be in the database, which does not answer.
pub(super) fn chain_not_looked_for(chain: &ChainName) -> OwnError {
    let message =
        format!("the chain {chain} of this caller key cannot be looked for at the moment: try again");
    OwnError::passing(ErrorKind::Unavailable, Reason::StateUnavailable, message, Some(1))
}

/// The caller is over a limit of its key.
pub(super) fn over_limit(limit: Limit) -> OwnError {
    let message = if limit.reason == Reason::ConcurrencyLimited {
        "this caller key has as many requests in flight as it may"
    } else {
        "this caller key sends more requests a minute than it may"
    };
    OwnError::passing(ErrorKind::TooMany, limit.reason, message, Some(limit.retry_after_secs()))
}

/// The path is none that is lent a key.
pub(super) fn not_forwarded(chain: &Chain, method: &str) -> OwnError {
    let rules = chain.rules.paths.iter().filter(|rule| rule.method.is_none());
    let mut paths: Vec<_> = rules.map(|rule| &*rule.path).collect();
    paths.sort_unstable();
    let method = if method.len() <= 16 { method } else { "a request" };
    let (route, paths) = (&chain.rules.route, paths.join(", "));
    let message = format!("{method} to this path is not forwarded; below {route} these are: {paths}");
    OwnError::lasting(ErrorKind::NotFound, Reason::NotForwarded, message)
}

/// The body is longer than this.
pub(super) fn too_large(limit: u64) -> OwnError {
    let message = format!("the body is larger than the {} MiB that this path takes", limit >> 20);
    OwnError::lasting(ErrorKind::TooLarge, Reason::RequestTooLarge, message)
}

/// Nothing serves.
pub(super) fn no_source(chain: &Chain, reason: Reason) -> OwnError {
    let message = chain.why_not(reason);
    if reason == Reason::FallbackUsedUp {
        OwnError::passing(ErrorKind::TooMany, reason, message, Some(60))
    } else if chain.terms.is_some() {
        OwnError::lasting(ErrorKind::Unavailable, Reason::TermsNotAccepted, message)
    } else {
        OwnError::passing(ErrorKind::Unavailable, reason, message, Some(5))
    }
}
