//! What an answer of the token URL means for the pair that was presented: the table of SPEC §3.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::reason::Reason;
use crate::secret::{AccessToken, RefreshToken};

/// The whole answer as it is kept in a receipt, before anything looks at it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Answer {
    /// Something came back.
    Received {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, as it was sent.
        retry_after: Option<String>,
        /// `Date`, as it was sent.
        date: Option<String>,
        /// The body, as far as it came.
        body: String,
        /// Whether the message came to its end.
        complete: bool,
    },
    /// Nothing was handed to a connection.
    NotSent {
        /// Why, for a person.
        why: String,
    },
    /// It was sent, and no answer came.
    Lost {
        /// Why, for a person.
        why: String,
    },
}

/// An answer's body may hold tokens, so it does not print.
impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Received { status, complete, .. } => {
                f.debug_struct("Received").field("status", status).field("complete", complete).finish()
            }
            Self::NotSent { why } => f.debug_tuple("NotSent").field(why).finish(),
            Self::Lost { why } => f.debug_tuple("Lost").field(why).finish(),
        }
    }
}

impl Answer {
    /// In a few words, without its body.
    pub fn in_words(&self) -> String {
        match self {
            Self::Received { status, complete, .. } => {
                let cut = if *complete { "" } else { ", cut short" };
                format!("the token URL answered {status}{cut}")
            }
            Self::NotSent { why } | Self::Lost { why } => why.clone(),
        }
    }
}

/// What a successful answer gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTokens {
    /// The new access token.
    pub access: AccessToken,
    /// The new refresh token; absent: the old one stays (RFC 6749 §6).
    pub refresh: Option<RefreshToken>,
    /// The life of the access token.
    pub expires_in: Option<Duration>,
    /// The rest of the grant's own life, if the provider says it.
    pub grant_expires_in: Option<Duration>,
    /// The scopes; absent: those from before.
    pub scopes: Option<Vec<String>>,
}

/// What an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A new pair; the presented refresh token is spent, unless the answer repeats it.
    Committed(Box<NewTokens>),
    /// `invalid_grant`: the presented refresh token is dead.
    Refused,
    /// The presented refresh token is unspent.
    Unspent(Unspent),
    /// Nobody can know.
    InDoubt,
}

/// Why nothing was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unspent {
    /// `client_rejected`, `provider_throttled`, `provider_blocked` or `provider_unavailable`.
    pub reason: Reason,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
}

/// Reads an answer. First match wins, as in SPEC §3; `now` only serves `Retry-After` with a date.
///
/// A body that was cut behind a whole JSON object with a token counts as `committed`: it is all that there is,
/// and the only successor.
pub fn classify(answer: &Answer, now: Timestamp) -> Outcome {
    let (status, retry_after, body) = match answer {
        Answer::NotSent { .. } => return unspent(Reason::ProviderUnavailable, None),
        Answer::Lost { .. } => return Outcome::InDoubt,
        Answer::Received { status, retry_after, body, complete, .. } => {
            let body = serde_json::from_str::<Value>(body).ok();
            if *status == 200
                && let Some(tokens) = body.as_ref().and_then(new_tokens)
            {
                return Outcome::Committed(Box::new(tokens));
            }
            if !complete {
                return Outcome::InDoubt;
            }
            (*status, retry_after.as_deref().and_then(|value| parse_retry_after(value, now)), body)
        }
    };
    let error = body.as_ref().and_then(oauth_error);
    let provider_said_it = body.as_ref().is_some_and(|body| body.get("error").is_some());
    match (status, error) {
        (400..=499, Some("invalid_grant")) => Outcome::Refused,
        (400..=499, Some(code)) if CLIENT_FAULTS.contains(&code) => unspent(Reason::ClientRejected, None),
        (429, _) => unspent(Reason::ProviderThrottled, retry_after),
        (503 | 529, _) if provider_said_it => unspent(Reason::ProviderUnavailable, retry_after),
        (403 | 404, _) => unspent(Reason::ProviderBlocked, retry_after),
        (400..=407 | 409..=499, _) => unspent(Reason::ClientRejected, retry_after),
        _ => Outcome::InDoubt,
    }
}

/// How long the provider asks to wait, whatever else it says.
pub(crate) fn retry_after(answer: &Answer, now: Timestamp) -> Option<Duration> {
    match answer {
        Answer::Received { retry_after, .. } => parse_retry_after(retry_after.as_deref()?, now),
        Answer::NotSent { .. } | Answer::Lost { .. } => None,
    }
}

/// How far the provider's clock is ahead of ours, by the `Date` of its answer; negative: behind.
pub fn clock_offset_secs(answer: &Answer, now: Timestamp) -> Option<i64> {
    match answer {
        Answer::Received { date: Some(date), .. } => {
            let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
            Some(theirs.duration_since(now).as_secs())
        }
        Answer::Received { .. } | Answer::NotSent { .. } | Answer::Lost { .. } => None,
    }
}

/// OAuth's own words for a fault of the client or its settings (RFC 6749 §5.2).
const CLIENT_FAULTS: [&str; 5] =
    ["invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_request", "invalid_scope"];

fn unspent(reason: Reason, retry_after: Option<Duration>) -> Outcome {
    Outcome::Unspent(Unspent { reason, retry_after })
}

/// The error code of a body: `error` is a string (RFC 6749 §5.2) or an object with a `type` or `code`.
fn oauth_error(body: &Value) -> Option<&str> {
    match body.get("error")? {
        Value::String(code) => Some(code),
        Value::Object(error) => {
            ["type", "code", "error"].iter().find_map(|member| error.get(*member)?.as_str())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}

fn new_tokens(body: &Value) -> Option<NewTokens> {
    let text = |member: &str| body.get(member).and_then(Value::as_str);
    let seconds = |member: &str| {
        let value = body.get(member)?;
        let secs = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())?;
        (1.0..=MAX_LIFE_SECS).contains(&secs).then(|| Duration::from_secs(secs as u64))
    };
    Some(NewTokens {
        access: AccessToken::parse(text("access_token")?).ok()?,
        refresh: text("refresh_token").and_then(|raw| RefreshToken::parse(raw).ok()),
        expires_in: seconds("expires_in"),
        grant_expires_in: seconds("refresh_token_expires_in").or_else(|| seconds("refresh_expires_in")),
        scopes: text("scope").map(|scope| scope.split_ascii_whitespace().map(str::to_owned).collect()),
    })
}

/// Longer lives are taken for nonsense, so that instants stay in range: 100 years.
const MAX_LIFE_SECS: f64 = 100.0 * 365.25 * 86_400.0;

/// `Retry-After` in seconds or as a date (RFC 9110 §10.2.3); capped at a day.
pub(crate) fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let secs = match value.parse::<u64>() {
        Ok(secs) => secs,
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
            u64::try_from(at.duration_since(now).as_secs()).unwrap_or(0)
        }
    };
    Some(Duration::from_secs(secs.min(86_400)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn received(status: u16, body: &str) -> Answer {
        Answer::Received { status, retry_after: None, date: None, body: body.into(), complete: true }
    }

    fn name(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Committed(_) => "committed",
            Outcome::Refused => "refused",
            Outcome::Unspent(unspent) => unspent.reason.as_str(),
            Outcome::InDoubt => "in_doubt",
        }
    }

    #[test]
    fn the_table_of_the_specification() {
        let own_error = r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#;
        for (status, body, means) in [
            (200, r#"{"access_token":"a"}"#, "committed"),
            (200, r#"{"access_token":""}"#, "in_doubt"),
            (200, r#"{"token":"a"}"#, "in_doubt"),
            (200, "<html>", "in_doubt"),
            (200, r#"{"access_token":"a","refresh_tok"#, "in_doubt"),
            (201, r#"{"access_token":"a"}"#, "in_doubt"),
            (204, "", "in_doubt"),
            (302, "", "in_doubt"),
            (400, r#"{"error":"invalid_grant"}"#, "refused"),
            (401, r#"{"error":"invalid_grant"}"#, "refused"),
            (403, r#"{"error":"invalid_grant"}"#, "refused"),
            (400, r#"{"error":{"type":"invalid_grant"}}"#, "refused"),
            (401, r#"{"error":{"code":"invalid_grant"}}"#, "refused"),
            (429, r#"{"error":"invalid_grant"}"#, "refused"),
            (500, r#"{"error":"invalid_grant"}"#, "in_doubt"),
            (200, r#"{"error":"invalid_grant"}"#, "in_doubt"),
            (400, r#"{"error":"invalid_client"}"#, "client_rejected"),
            (401, r#"{"error":"unauthorized_client"}"#, "client_rejected"),
            (403, r#"{"error":"invalid_request"}"#, "client_rejected"),
            (400, r#"{"error":{"type":"invalid_scope"}}"#, "client_rejected"),
            (400, r#"{"error":"unsupported_grant_type"}"#, "client_rejected"),
            (429, "", "provider_throttled"),
            (429, own_error, "provider_throttled"),
            (503, own_error, "provider_unavailable"),
            (529, own_error, "provider_unavailable"),
            (503, "<html>", "in_doubt"),
            (529, "", "in_doubt"),
            (403, "<html>", "provider_blocked"),
            (404, "", "provider_blocked"),
            (403, own_error, "provider_blocked"),
            (408, "", "in_doubt"),
            (500, own_error, "in_doubt"),
            (502, "", "in_doubt"),
            (504, "", "in_doubt"),
            (400, "nonsense", "client_rejected"),
            (401, own_error, "client_rejected"),
            (405, "", "client_rejected"),
            (413, "", "client_rejected"),
            (499, "", "client_rejected"),
        ] {
            let outcome = classify(&received(status, body), Timestamp::UNIX_EPOCH);
            assert_eq!(name(&outcome), means, "{status} {body}");
        }
        let lost = classify(&Answer::Lost { why: "reset".into() }, Timestamp::UNIX_EPOCH);
        assert_eq!(name(&lost), "in_doubt");
        let not_sent = classify(&Answer::NotSent { why: "no route".into() }, Timestamp::UNIX_EPOCH);
        assert_eq!(name(&not_sent), "provider_unavailable");
    }

    #[test]
    fn a_cut_answer_counts_only_if_the_token_is_whole() {
        let cut = |status, body: &str| {
            let answer = Answer::Received {
                status,
                retry_after: None,
                date: None,
                body: body.into(),
                complete: false,
            };
            name(&classify(&answer, Timestamp::UNIX_EPOCH))
        };
        assert_eq!(cut(200, r#"{"access_token":"a"}"#), "committed");
        assert_eq!(cut(200, r#"{"access_token":"a""#), "in_doubt");
        assert_eq!(cut(400, r#"{"error":"invalid_grant"}"#), "in_doubt");
        assert_eq!(cut(429, ""), "in_doubt");
    }

    #[test]
    fn lives_are_read_in_every_form() {
        for (member, life) in [
            (r#""expires_in":300"#, Some(300)),
            (r#""expires_in":"300""#, Some(300)),
            (r#""expires_in":299.9"#, Some(299)),
            (r#""expires_in":0"#, None),
            (r#""expires_in":-5"#, None),
            (r#""expires_in":1e300"#, None),
            (r#""expires_in":null"#, None),
            (r#""refresh_expires_in":0"#, None),
        ] {
            let body = format!(r#"{{"access_token":"a",{member}}}"#);
            let Outcome::Committed(tokens) = classify(&received(200, &body), Timestamp::UNIX_EPOCH) else {
                panic!("committed")
            };
            assert_eq!(tokens.expires_in.map(|life| life.as_secs()), life, "{member}");
            assert_eq!(tokens.grant_expires_in, None);
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::from_second(784_111_777).unwrap();
        for (value, secs) in [
            ("120", Some(120)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("99999999", Some(86_400)),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(value, now).map(|wait| wait.as_secs()), secs, "{value}");
        }
        let date = Some("Sun, 06 Nov 1994 08:52:37 GMT".into());
        let answer =
            Answer::Received { status: 200, retry_after: None, date, body: String::new(), complete: true };
        assert_eq!(clock_offset_secs(&answer, now), Some(180));
    }

    proptest! {
        // I6 begins here: only a complete 4xx that says `invalid_grant` ever refuses.
        #[test]
        fn nothing_but_invalid_grant_refuses(
            status in 100_u16..600, body in "\\PC{0,60}", complete in any::<bool>(),
        ) {
            let answer = Answer::Received { status, retry_after: None, date: None, body: body.clone(), complete };
            if classify(&answer, Timestamp::UNIX_EPOCH) == Outcome::Refused {
                prop_assert!(body.contains("invalid_grant") && (400..500).contains(&status) && complete);
            }
        }

        #[test]
        fn a_server_error_is_never_called_unspent_without_its_own_word(status in 500_u16..600) {
            prop_assert_eq!(classify(&received(status, "<html>"), Timestamp::UNIX_EPOCH), Outcome::InDoubt);
        }
    }
}
