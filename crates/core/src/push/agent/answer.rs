//! What an answer of the server means to the agent (SPEC §5, §9).

use serde_json::Value;

use super::{Contact, PushKind};
use crate::push::{Answer, is_final};
use crate::reason::Reason;

/// What is shown of a server's words, in characters.
const MOST_DETAIL: usize = 300;

/// An HTTP answer, as far as it matters.
#[derive(Debug, Clone, Default)]
pub struct HttpAnswer<'a> {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: &'a [u8],
    /// `retry-after` in seconds.
    pub retry_after_secs: Option<u64>,
}

/// What came of a message by the answer to it, and the server's words for a person.
pub fn judge(kind: PushKind, answer: &HttpAnswer<'_>) -> (Contact, Option<String>) {
    if answer.status == 200 {
        return match serde_json::from_slice::<Answer>(answer.body) {
            Ok(answer) if fits(kind, answer.reason) => (Contact::Taken(answer), None),
            Ok(_) | Err(_) => (failed(Reason::ServerError, answer), None),
        };
    }
    let problem: Value = serde_json::from_slice(answer.body).unwrap_or_default();
    let reason = problem.get("reason").and_then(Value::as_str).and_then(|code| code.parse::<Reason>().ok());
    let detail = problem.get("detail").and_then(Value::as_str);
    let detail = detail.map(|detail| detail.chars().take(MOST_DETAIL).collect());
    let contact = match reason {
        Some(reason) if kind == PushKind::Push && answer.status == 422 && is_final(reason) => {
            Contact::Refused(reason)
        }
        Some(reason) if is_heard(answer.status, reason) => {
            Contact::Postponed { reason, retry_after_secs: answer.retry_after_secs }
        }
        Some(reason) => failed(reason, answer),
        None if answer.status == 429 => failed(Reason::RateLimited, answer),
        None => failed(Reason::ServerError, answer),
    };
    (contact, detail)
}

/// The server has judged the message and written it down: it knows by itself what there is to tell.
fn is_heard(status: u16, reason: Reason) -> bool {
    let unheard = matches!(
        reason,
        Reason::StateUnavailable
            | Reason::ChainUnknown
            | Reason::NonceSeen
            | Reason::ServerError
            | Reason::NotFound
    );
    matches!(status, 400 | 413 | 422 | 503) && !unheard
}

fn fits(kind: PushKind, reason: Reason) -> bool {
    match kind {
        PushKind::Beat => reason == Reason::Beat,
        PushKind::Push => reason == Reason::Accepted || reason == Reason::SameGrant,
    }
}

fn failed(reason: Reason, answer: &HttpAnswer<'_>) -> Contact {
    Contact::Failed { reason, retry_after_secs: answer.retry_after_secs }
}
