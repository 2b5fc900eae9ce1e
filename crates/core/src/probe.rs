//! What the answers to a probe say about the access token (SPEC §8).

use serde::{Deserialize, Serialize};

use crate::provider::Profile;
use crate::reason::Reason;

/// What one request of a probe got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A status and the body, as far as it was read.
    Status(u16, String),
    /// No answer.
    Nothing(String),
}

/// What the probe makes of the access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It works.
    Works,
    /// It works as far as its scopes go: the round trip alone decided.
    Limited,
    /// The API refused it: renew it.
    Refused,
    /// Nothing was learned about it.
    Unavailable,
}

impl Verdict {
    /// The reason code.
    pub fn reason(self) -> Reason {
        match self {
            Self::Works => Reason::ProbeOk,
            Self::Limited => Reason::ProbeLimited,
            Self::Refused => Reason::ProbeRefused,
            Self::Unavailable => Reason::ProbeUnavailable,
        }
    }
}

/// Judges the reply of the probe URL, and those of the calls that go through the API.
///
/// A 401 of any refuses the token. The calls decide alone where the token's scopes do not cover the probe URL.
pub fn judge(profile: &Profile, roles: Option<&Reply>, calls: &[&Reply]) -> Verdict {
    let limited = roles.is_some_and(|reply| scope_insufficient(profile, reply));
    let counted: Vec<_> = roles.filter(|_| !limited).into_iter().chain(calls.iter().copied()).collect();
    let status = |reply: &&Reply| match reply {
        Reply::Status(status, _) => Some(*status),
        Reply::Nothing(_) => None,
    };
    if counted.iter().any(|reply| status(reply) == Some(401)) {
        return Verdict::Refused;
    }
    let works = !counted.is_empty() && counted.iter().all(|reply| matches!(status(reply), Some(200..=299)));
    match (works, limited) {
        (true, false) => Verdict::Works,
        (true, true) => Verdict::Limited,
        (false, _) => Verdict::Unavailable,
    }
}

fn scope_insufficient(profile: &Profile, reply: &Reply) -> bool {
    match (reply, &profile.probe_scope_reason) {
        (Reply::Status(403, body), Some(reason)) => body.contains(reason.as_str()),
        (Reply::Status(..) | Reply::Nothing(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_replies_has_its_verdict() {
        let profile = Profile::claude();
        let reason = profile.probe_scope_reason.clone().unwrap();
        let status = |status| Some(Reply::Status(status, String::new()));
        let limited = Some(Reply::Status(403, format!(r#"{{"error":{{"type":"{reason}"}}}}"#)));
        let nothing = Some(Reply::Nothing("refused".into()));
        for (roles, round_trip, verdict) in [
            (status(200), status(200), Verdict::Works),
            (status(200), None, Verdict::Works),
            (None, status(200), Verdict::Works),
            (None, None, Verdict::Unavailable),
            (limited.clone(), status(200), Verdict::Limited),
            (limited.clone(), status(401), Verdict::Refused),
            (limited.clone(), None, Verdict::Unavailable),
            (limited, nothing.clone(), Verdict::Unavailable),
            (status(401), status(200), Verdict::Refused),
            (status(200), status(401), Verdict::Refused),
            (status(403), status(200), Verdict::Unavailable),
            (status(500), status(200), Verdict::Unavailable),
            (status(429), status(429), Verdict::Unavailable),
            (nothing.clone(), status(200), Verdict::Unavailable),
            (status(200), nothing, Verdict::Unavailable),
        ] {
            assert_eq!(
                judge(&profile, roles.as_ref(), &round_trip.iter().collect::<Vec<_>>()),
                verdict,
                "{roles:?} {round_trip:?}"
            );
        }
    }
}
