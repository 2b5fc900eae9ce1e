//! Scripted faults: what may go wrong with a request, and for how many of them. A fault is data, so that drills,
//! tests and people at the admin surface speak of the same ones.

use serde::{Deserialize, Serialize};

use crate::settings::Member;

/// Something that goes wrong with one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// This answer instead of the true one.
    Status {
        /// HTTP status.
        status: u16,
        /// Its body.
        #[serde(default)]
        body: FaultBody,
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after_secs: Option<u64>,
        /// `Location`.
        #[serde(default)]
        location: Option<String>,
        /// Whether the request is processed all the same (the refresh token is then spent).
        #[serde(default)]
        processed: bool,
    },
    /// The connection closes before the request is processed; nothing is spent and no byte is sent.
    RequestLost,
    /// The request is processed, then the connection closes; no byte is sent.
    AnswerLost,
    /// No byte is ever sent.
    NeverAnswer {
        /// Whether the request is processed.
        processed: bool,
    },
    /// The request waits this long before it is processed.
    DelayBefore {
        /// Milliseconds.
        millis: u64,
    },
    /// The answer waits this long after the processing.
    DelayAfter {
        /// Milliseconds.
        millis: u64,
    },
    /// The body ends early, and its length says so: a whole message that is not whole JSON.
    TruncatedJson {
        /// Bytes that are left out at the end.
        missing_bytes: usize,
    },
    /// The connection closes within the body: the client sees that it is incomplete.
    CutBody {
        /// Bytes of the body that arrive.
        after_bytes: usize,
    },
    /// The answer leaves members out.
    Omit {
        /// Which.
        members: Vec<Member>,
    },
    /// 200 with JSON that holds no token.
    NotAToken {
        /// Whether the request is processed all the same.
        processed: bool,
    },
    /// The true answer, blown up by a member of white noise.
    HugeBody {
        /// Least length of the body in bytes.
        bytes: usize,
    },
    /// The `Date` header is off.
    DateSkew {
        /// Seconds, negative into the past.
        secs: i64,
    },
    /// What the answer says of trying again, beside its `Retry-After`; for clients that obey it.
    Retry {
        /// `x-should-retry`.
        #[serde(default)]
        should: Option<bool>,
        /// `retry-after-ms`.
        #[serde(default)]
        after_millis: Option<u64>,
    },
}

/// The body of a scripted answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum FaultBody {
    /// Nothing.
    #[default]
    Empty,
    /// `text/plain`.
    Text {
        /// The body.
        text: String,
    },
    /// `text/html`, as an edge or a load balancer writes it.
    Html {
        /// The page's title.
        title: String,
    },
    /// `application/json`, as given.
    Json {
        /// The body.
        text: String,
    },
    /// The provider's own error object, `{"type":"error","error":{"type":…,"message":…}}`.
    ProviderError {
        /// `error.type`.
        error: String,
        /// `error.message`.
        message: String,
    },
    /// `{"error":"…"}` (RFC 6749 §5.2).
    Oauth {
        /// The code.
        error: String,
    },
    /// `{"error":{"type":"…"}}`.
    OauthObject {
        /// The code.
        error: String,
    },
}

/// Which requests a rule is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultTarget {
    /// The token endpoint.
    #[default]
    Token,
    /// The roles endpoint.
    Probe,
    /// The rest of the API.
    Api,
    /// All of them.
    Any,
}

/// A fault, and the requests that it befalls: the first rule of the queue that matches is played.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which requests.
    #[serde(default)]
    pub target: FaultTarget,
    /// What goes wrong: a fault, or the name of one of [`Fault::named`].
    #[serde(deserialize_with = "fault_or_name")]
    pub fault: Fault,
    /// What else goes wrong with the same requests.
    #[serde(default)]
    pub also: Vec<Fault>,
    /// Matching requests that pass before the first one is befallen.
    #[serde(default)]
    pub after: u32,
    /// How many are befallen; `null`: all, until the faults are cleared. Absent: one.
    #[serde(default = "once")]
    pub times: Option<u32>,
}

#[expect(clippy::unnecessary_wraps, reason = "serde wants the member's type")]
fn once() -> Option<u32> {
    Some(1)
}

impl Rule {
    /// `fault` for the next `times` requests at `target`.
    pub fn new(target: FaultTarget, fault: Fault, times: u32) -> Self {
        Self { target, fault, also: Vec::new(), after: 0, times: Some(times) }
    }

    /// `fault` for every request at `target`, until the faults are cleared.
    pub fn always(target: FaultTarget, fault: Fault) -> Self {
        Self { times: None, ..Self::new(target, fault, 0) }
    }

    /// The same rule with one more fault for the same requests.
    pub fn and(mut self, fault: Fault) -> Self {
        self.also.push(fault);
        self
    }

    /// The same rule, after `requests` matching requests have passed.
    pub fn after(mut self, requests: u32) -> Self {
        self.after = requests;
        self
    }
}

impl Fault {
    /// An answer of this status and body instead of the true one.
    pub fn status(status: u16, body: FaultBody) -> Self {
        Self::Status { status, body, retry_after_secs: None, location: None, processed: false }
    }

    /// An OAuth error code, as a string.
    pub fn oauth(status: u16, error: &str) -> Self {
        Self::status(status, FaultBody::Oauth { error: error.into() })
    }

    /// An OAuth error code, as an object.
    pub fn oauth_object(status: u16, error: &str) -> Self {
        Self::status(status, FaultBody::OauthObject { error: error.into() })
    }

    /// An error in the API's own shape.
    pub fn provider_error(status: u16, error: &str, message: &str) -> Self {
        Self::status(status, FaultBody::ProviderError { error: error.into(), message: message.into() })
    }

    /// 429 in the API's own shape.
    pub fn throttled(after_secs: Option<u64>) -> Self {
        let body = FaultBody::ProviderError {
            error: "rate_limit_error".into(),
            message: "Too many requests".into(),
        };
        Self::Status { status: 429, body, retry_after_secs: after_secs, location: None, processed: false }
    }

    /// The request is processed (the token is spent), then this plain-text status is answered.
    pub fn spent_then(status: u16) -> Self {
        let body = FaultBody::Text { text: "Internal error".into() };
        Self::Status { status, body, retry_after_secs: None, location: None, processed: true }
    }

    /// What the log calls it: its kind, and the status where it has one.
    pub fn label(&self) -> String {
        match self {
            Self::Status { status, processed: false, .. } => format!("status_{status}"),
            Self::Status { status, processed: true, .. } => format!("spent_then_{status}"),
            Self::RequestLost => "request_lost".into(),
            Self::AnswerLost => "answer_lost".into(),
            Self::NeverAnswer { .. } => "never_answer".into(),
            Self::DelayBefore { .. } => "delay_before".into(),
            Self::DelayAfter { .. } => "delay_after".into(),
            Self::TruncatedJson { .. } => "truncated_json".into(),
            Self::CutBody { .. } => "cut_body".into(),
            Self::Omit { .. } => "omit".into(),
            Self::NotAToken { .. } => "not_a_token".into(),
            Self::HugeBody { .. } => "huge_body".into(),
            Self::DateSkew { .. } => "date_skew".into(),
            Self::Retry { .. } => "retry".into(),
        }
    }

    /// A fault by its name in [`Fault::presets`].
    pub fn named(name: &str) -> Option<Self> {
        Self::presets().into_iter().find(|(preset, _)| *preset == name).map(|(_, fault)| fault)
    }

    /// Every ready-made fault with its name.
    pub fn presets() -> Vec<(&'static str, Self)> {
        let text = |text: &str| FaultBody::Text { text: text.into() };
        let html = |title: &str| FaultBody::Html { title: title.into() };
        let overloaded = |status| Self::provider_error(status, "overloaded_error", "Overloaded");
        let omit = |member| Self::Omit { members: vec![member] };
        let redirect = Self::Status {
            status: 302,
            body: FaultBody::Empty,
            retry_after_secs: None,
            location: Some("/elsewhere".into()),
            processed: false,
        };
        let forbidden = r#"{"message":"Forbidden"}"#.into();
        let revoked = "OAuth token has been revoked";
        vec![
            ("throttled", Self::throttled(None)),
            ("throttled_retry_after", Self::throttled(Some(30))),
            ("empty_500", Self::status(500, FaultBody::Empty)),
            ("text_500", Self::status(500, text("Internal Server Error"))),
            ("html_502", Self::status(502, html("502 Bad Gateway"))),
            ("text_503", Self::status(503, text("Service Unavailable"))),
            ("html_504", Self::status(504, html("504 Gateway Time-out"))),
            ("text_529", Self::status(529, text("Overloaded"))),
            ("api_error_500", Self::provider_error(500, "api_error", "Internal server error")),
            ("overloaded_503", overloaded(503)),
            ("overloaded_529", overloaded(529)),
            ("timeout_408", Self::status(408, text("Request Timeout"))),
            ("blocked_403", Self::status(403, html("Access denied"))),
            ("blocked_404", Self::status(404, html("Not found"))),
            ("forbidden_json_403", Self::status(403, FaultBody::Json { text: forbidden })),
            ("accepted_202", Self::status(202, FaultBody::Empty)),
            ("no_content_204", Self::status(204, FaultBody::Empty)),
            ("redirect_302", redirect),
            ("invalid_grant_400", Self::oauth(400, "invalid_grant")),
            ("invalid_grant_401", Self::oauth(401, "invalid_grant")),
            ("invalid_grant_403", Self::oauth(403, "invalid_grant")),
            ("invalid_grant_object_400", Self::oauth_object(400, "invalid_grant")),
            ("invalid_grant_object_401", Self::oauth_object(401, "invalid_grant")),
            ("invalid_grant_object_403", Self::oauth_object(403, "invalid_grant")),
            ("invalid_client", Self::oauth(401, "invalid_client")),
            ("unauthorized_client", Self::oauth(400, "unauthorized_client")),
            ("unsupported_grant_type", Self::oauth(400, "unsupported_grant_type")),
            ("invalid_request", Self::oauth(400, "invalid_request")),
            ("invalid_scope", Self::oauth(400, "invalid_scope")),
            ("other_422", Self::status(422, text("Unprocessable"))),
            ("request_lost", Self::RequestLost),
            ("answer_lost", Self::AnswerLost),
            ("never_answer", Self::NeverAnswer { processed: false }),
            ("never_answer_spent", Self::NeverAnswer { processed: true }),
            ("slow_before", Self::DelayBefore { millis: 2000 }),
            ("slow_after", Self::DelayAfter { millis: 2000 }),
            ("truncated_json", Self::TruncatedJson { missing_bytes: 20 }),
            ("cut_body", Self::CutBody { after_bytes: 20 }),
            ("no_refresh_token", omit(Member::RefreshToken)),
            ("no_access_token", omit(Member::AccessToken)),
            ("no_expires_in", omit(Member::ExpiresIn)),
            ("no_scope", omit(Member::Scope)),
            ("not_a_token", Self::NotAToken { processed: false }),
            ("not_a_token_spent", Self::NotAToken { processed: true }),
            ("huge_body", Self::HugeBody { bytes: 8 << 20 }),
            ("clock_ahead", Self::DateSkew { secs: 600 }),
            ("clock_behind", Self::DateSkew { secs: -600 }),
            ("spent_then_500", Self::spent_then(500)),
            ("spurious_401", Self::provider_error(401, "authentication_error", "Invalid bearer token")),
            ("revoked_403", Self::provider_error(403, "permission_error", revoked)),
            (
                "organization_403",
                Self::provider_error(403, "permission_error", "OAuth is not allowed for this organization"),
            ),
        ]
    }
}

fn fault_or_name<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Fault, D::Error> {
    use serde::de::Error;
    let value = serde_json::Value::deserialize(deserializer)?;
    match value.as_str() {
        Some(name) => {
            Fault::named(name).ok_or_else(|| D::Error::custom(format!("no fault is named `{name}`")))
        }
        None => serde_json::from_value(value).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_by_name_or_whole() {
        let rule: Rule = serde_json::from_str(r#"{"fault":"answer_lost"}"#).unwrap();
        assert_eq!(rule, Rule::new(FaultTarget::Token, Fault::AnswerLost, 1));
        let text = r#"{"target":"api","fault":{"kind":"status","status":418},"times":null,"after":2}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule, Rule::always(FaultTarget::Api, Fault::status(418, FaultBody::Empty)).after(2));
        let error = serde_json::from_str::<Rule>(r#"{"fault":"bad_luck"}"#).unwrap_err();
        assert!(error.to_string().contains("bad_luck"));
    }

    #[test]
    fn presets_are_unique_and_survive_json() {
        let presets = Fault::presets();
        for (at, (name, fault)) in presets.iter().enumerate() {
            assert!(presets[..at].iter().all(|(other, _)| other != name), "{name} twice");
            let text = serde_json::to_string(fault).unwrap();
            assert_eq!(&serde_json::from_str::<Fault>(&text).unwrap(), fault);
        }
    }
}
