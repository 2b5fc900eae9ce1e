//! Errors of the gateway's own, in the shape of the API's: what happened, what to do, and whether to try again.

use serde_json::json;

use crate::reason::Reason;

/// How the provider's API shapes its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"type":"error","error":{"type":…,"message":…},"request_id":…}`.
    TypedObject,
    /// RFC 9457: `{"title":…,"status":…,"detail":…,"reason":…}`.
    Problem,
}

/// What kind of error it is: the status, and the API's word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// 400.
    BadRequest,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 408.
    Timeout,
    /// 413.
    TooLarge,
    /// 417.
    Expectation,
    /// 429.
    TooMany,
    /// 431.
    HeadTooLarge,
    /// 502: no answer came from the provider, or none that can be passed on.
    BadGateway,
    /// 503.
    Unavailable,
    /// 504.
    GatewayTimeout,
    /// 505.
    Version,
}

impl ErrorKind {
    /// The status.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Timeout => 408,
            Self::TooLarge => 413,
            Self::Expectation => 417,
            Self::TooMany => 429,
            Self::HeadTooLarge => 431,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
            Self::GatewayTimeout => 504,
            Self::Version => 505,
        }
    }

    /// The status line's text.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::BadRequest => "Bad Request",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::Timeout => "Request Timeout",
            Self::TooLarge => "Content Too Large",
            Self::Expectation => "Expectation Failed",
            Self::TooMany => "Too Many Requests",
            Self::HeadTooLarge => "Request Header Fields Too Large",
            Self::BadGateway => "Bad Gateway",
            Self::Unavailable => "Service Unavailable",
            Self::GatewayTimeout => "Gateway Timeout",
            Self::Version => "HTTP Version Not Supported",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::BadRequest | Self::Timeout | Self::Expectation | Self::HeadTooLarge | Self::Version => {
                "invalid_request_error"
            }
            Self::Unauthorized => "authentication_error",
            Self::Forbidden => "permission_error",
            Self::NotFound => "not_found_error",
            Self::TooLarge => "request_too_large",
            Self::TooMany => "rate_limit_error",
            Self::BadGateway | Self::GatewayTimeout => "api_error",
            Self::Unavailable => "overloaded_error",
        }
    }
}

/// An error of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnError {
    /// Status and word.
    pub kind: ErrorKind,
    /// The code for logs and metrics.
    pub reason: Reason,
    /// What happened, and what to do.
    pub message: String,
    /// Whether the same request may succeed later; the official clients obey it.
    pub retry: bool,
    /// When, in seconds, where waiting helps.
    pub retry_after_secs: Option<u64>,
}

impl OwnError {
    /// An error that the same request gets again.
    pub fn lasting(kind: ErrorKind, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, reason, message: message.into(), retry: false, retry_after_secs: None }
    }

    /// An error that may be gone later.
    pub fn passing(
        kind: ErrorKind,
        reason: Reason,
        message: impl Into<String>,
        retry_after_secs: Option<u64>,
    ) -> Self {
        Self { kind, reason, message: message.into(), retry: true, retry_after_secs }
    }

    /// Content type and body.
    pub fn body(&self, shape: ErrorShape, request_id: &str) -> (&'static str, String) {
        match shape {
            ErrorShape::TypedObject => {
                let error = json!({ "type": self.kind.word(), "message": self.message });
                let body = json!({ "type": "error", "error": error, "request_id": request_id });
                ("application/json", body.to_string())
            }
            ErrorShape::Problem => {
                let body = json!({
                    "title": self.kind.phrase(),
                    "status": self.kind.status(),
                    "detail": self.message,
                    "reason": self.reason,
                    "request_id": request_id,
                });
                ("application/problem+json", body.to_string())
            }
        }
    }
}
