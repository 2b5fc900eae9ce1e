//! JSON bodies that are taken whole, or refused with what is wrong in them.

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use evergrant_core::Reason;
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::admin::Problem;

/// The longest body that an admin call takes, in bytes.
pub const MAX_BODY_LEN: usize = 64 * 1024;

/// So much of a body that is too long is read and dropped, so that its sender comes to read the answer.
const MAX_DROPPED_LEN: usize = 32 << 20;

/// A body of at most `most` bytes; nothing of one that is longer or breaks off.
pub(super) async fn read_up_to(most: usize, mut body: Body) -> Option<Bytes> {
    let (mut kept, mut len) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        len += data.len();
        if len <= most {
            kept.extend_from_slice(&data);
        } else if len > MAX_DROPPED_LEN {
            return None;
        }
    }
    (len <= most).then(|| kept.into())
}

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
