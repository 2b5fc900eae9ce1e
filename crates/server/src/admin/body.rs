//! JSON bodies that are taken whole, or refused with what is wrong in them.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use evergrant_core::Reason;
use serde::de::DeserializeOwned;

use crate::admin::Problem;

/// The longest body that an admin call takes, in bytes.
pub const MAX_BODY_LEN: usize = 64 * 1024;

/// A JSON body as a type; an empty one counts as `{}`.
#[derive(Debug)]
pub struct Parsed<T>(
    /// What it says.
    pub T,
);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Parsed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let detail = format!("the body is longer than {} KiB", MAX_BODY_LEN / 1024);
                return Problem::with(StatusCode::PAYLOAD_TOO_LARGE, Reason::BodyTooLarge, detail);
            }
            Problem::invalid("the body could not be read to its end")
        })?;
        let json = if body.trim_ascii().is_empty() { &b"{}"[..] } else { &body };
        let invalid = |error| Problem::invalid(format!("the body is not what this call takes: {error}"));
        serde_json::from_slice(json).map(Self).map_err(invalid)
    }
}
