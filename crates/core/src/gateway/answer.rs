//! What an answer means for the source that got it, and what follows.

use super::source::{Fallback, FallbackOn, Position};

/// What an answer says about the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing: it is the client's.
    Served,
    /// The access token is not accepted.
    TokenRefused,
    /// The access token is accepted, and this grant may not do it: renewing helps nothing.
    GrantRefused,
    /// The grant's rate or usage is exhausted for now.
    RateLimited,
}

/// A request whose access token was refused, with what has been tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The generation whose token was refused.
    pub used: Position,
    /// The renewer was asked about it, and has answered.
    pub asked: bool,
    /// The request was replayed already.
    pub replayed: bool,
}

/// What follows an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The client gets it as it came.
    PassOn,
    /// The client gets it as it came; the renewer is told, and nobody waits.
    PassOnAndTell,
    /// The renewer is asked: it probes the token, and renews it if that is dead too.
    Ask,
    /// Sent once more, with the current access token.
    Replay,
    /// Sent once more, with the fallback key.
    FallBack,
    /// The fallback key would serve, but for its limit of requests a day: the client is told that.
    UsedUp,
}

/// What follows an answer to the source `oauth`. `live` is the chain's access token now, `held` says that the whole
/// request can be sent again.
pub fn next(
    meaning: Meaning,
    refused: Refused,
    live: Option<Position>,
    held: bool,
    fallback: Fallback,
    on: FallbackOn,
) -> Next {
    let fall_back_or = |when: bool, otherwise: Next| match fallback {
        Fallback::Ready if when && held => Next::FallBack,
        // As it came, the answer would tell the client that its own key is bad.
        Fallback::UsedUp if when && held && meaning == Meaning::TokenRefused => Next::UsedUp,
        Fallback::Ready | Fallback::UsedUp | Fallback::Absent | Fallback::NotForCaller => otherwise,
    };
    match meaning {
        Meaning::Served => Next::PassOn,
        Meaning::GrantRefused => fall_back_or(on.grant_refused, Next::PassOn),
        Meaning::RateLimited => fall_back_or(on.rate_limited, Next::PassOn),
        Meaning::TokenRefused if !held => Next::PassOnAndTell,
        Meaning::TokenRefused if refused.replayed => fall_back_or(on.unauthorized, Next::PassOnAndTell),
        Meaning::TokenRefused => match live {
            Some(live) if live > refused.used || refused.asked => Next::Replay,
            Some(_) | None if !refused.asked => Next::Ask,
            Some(_) | None => fall_back_or(on.unauthorized, Next::PassOn),
        },
    }
}

impl Refused {
    /// After the first answer with this token.
    pub fn first(used: Position) -> Self {
        Self { used, asked: false, replayed: false }
    }
}
