//! The token client: turns one exchange on the wire into the answer that a receipt keeps (SPEC §3).

use bytes::Bytes;
use evergrant_core::keeper::Answer;
use evergrant_core::provider::TokenRequest;
use http::{HeaderMap, Method};

use crate::http::{CallError, HttpClient};

/// Presents a pair, once.
pub async fn exchange(client: &HttpClient, request: TokenRequest) -> Answer {
    let body = Bytes::copy_from_slice(request.body.as_bytes());
    match client.call(Method::POST, &request.url, &request.headers, body).await {
        Ok(reply) => Answer::Received {
            status: reply.status,
            retry_after: header(&reply.headers, "retry-after"),
            date: header(&reply.headers, "date"),
            body: String::from_utf8_lossy(&reply.body).into_owned(),
            complete: reply.complete,
        },
        Err(CallError::NotSent(why)) => Answer::NotSent { why },
        Err(CallError::Lost(why)) => Answer::Lost { why },
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
