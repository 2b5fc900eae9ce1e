//! Errors as problem documents (RFC 9457) that carry their reason.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use evergrant_core::Reason;
use evergrant_store::StateError;
use serde_json::json;

use crate::caller::Limit;

/// Why a call is not answered as asked: `application/problem+json` with `title`, `status`, `detail`, `reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    reason: Reason,
    detail: String,
    retry_after_secs: Option<u64>,
}

impl Problem {
    /// With the reason's own sentence.
    pub fn of(status: StatusCode, reason: Reason) -> Self {
        Self::with(status, reason, reason.sentence())
    }

    /// With words of its own: what happened, to what, and what to do next.
    pub fn with(status: StatusCode, reason: Reason, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: detail.into(), retry_after_secs: None }
    }

    /// Not to be tried again earlier.
    #[must_use]
    pub fn retry_after(self, secs: u64) -> Self {
        Self { retry_after_secs: Some(secs), ..self }
    }

    /// Its reason.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// A request that cannot be understood.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::with(StatusCode::BAD_REQUEST, Reason::RequestInvalid, detail)
    }
}

impl From<StateError> for Problem {
    fn from(error: StateError) -> Self {
        // Where the state lies, and what the database says, is for the operator only.
        tracing::warn!(reason = %Reason::StateUnavailable, %error, "an admin call failed");
        Self::of(StatusCode::SERVICE_UNAVAILABLE, Reason::StateUnavailable)
    }
}

impl From<Limit> for Problem {
    fn from(limit: Limit) -> Self {
        let retry_after_secs = Some(limit.retry_after_secs());
        Self { retry_after_secs, ..Self::of(StatusCode::TOO_MANY_REQUESTS, limit.reason) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, reason, detail, retry_after_secs } = self;
        let title = status.canonical_reason().unwrap_or_default();
        let body = json!({ "title": title, "status": status.as_u16(), "detail": detail, "reason": reason });
        let mut response = (status, format!("{body}\n")).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(secs) = retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}
