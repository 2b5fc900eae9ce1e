//! What the engine answers: status, headers, body, and what the transport does with them. The server carries it out on
//! a socket, a simulator in its own time.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

/// An answer and its delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers, `content-type` among them; `date` and the framing are not.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The whole body, also where the transport cuts it.
    pub body: Body,
    /// What the `Date` header says.
    pub date: Timestamp,
    /// Wait after the processing, before the first byte.
    pub delay: Duration,
    /// How it is delivered.
    pub transport: Transport,
}

/// A body.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// Sent at once, with its length.
    Whole(Bytes),
    /// Sent one after the other, chunked.
    Events {
        /// Server-sent events, each with its blank line.
        events: Vec<Bytes>,
        /// Wait before every event but the first.
        gap: Duration,
    },
}

/// What happens to the answer on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// It arrives.
    Deliver,
    /// The request was lost before it was processed: the connection closes, no byte is sent, nothing was spent.
    LoseRequest,
    /// The request was processed and its answer is lost: the connection closes, no byte is sent.
    LoseAnswer,
    /// The head and this many bytes of the body arrive, then the connection closes.
    CutBody {
        /// Bytes of the body that arrive.
        after_bytes: usize,
    },
    /// No byte is sent and the connection stays open.
    NeverAnswer,
}

impl Reply {
    /// The body's bytes as they would arrive if nothing were lost.
    pub fn bytes(&self) -> Bytes {
        match &self.body {
            Body::Whole(bytes) => bytes.clone(),
            Body::Events { events, .. } => events.concat().into(),
        }
    }

    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_ref())
    }

    /// The `Date` header as HTTP writes it (RFC 9110 §5.6.7).
    pub fn http_date(&self) -> String {
        self.date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// Whether the whole answer arrives.
    pub fn delivered(&self) -> bool {
        self.transport == Transport::Deliver
    }

    pub(crate) fn new(
        status: u16,
        content_type: &'static str,
        body: impl Into<Bytes>,
        now: Timestamp,
    ) -> Self {
        Self {
            status,
            headers: vec![("content-type", Cow::Borrowed(content_type))],
            body: Body::Whole(body.into()),
            date: now,
            delay: Duration::ZERO,
            transport: Transport::Deliver,
        }
    }

    pub(crate) fn json(status: u16, body: &impl Serialize, now: Timestamp) -> Self {
        let body = serde_json::to_vec(body).expect("the stand-in's own answers have string keys only");
        Self::new(status, "application/json", body, now)
    }

    /// An error of the token endpoint (RFC 6749 §5.2).
    pub(crate) fn oauth_error(status: u16, error: &str, description: &str, now: Timestamp) -> Self {
        let mut reply = Self::json(status, &json!({"error": error, "error_description": description}), now);
        reply.headers.push(("cache-control", "no-store".into()));
        reply
    }

    /// An error in the API's shape.
    pub(crate) fn api_error(
        status: u16,
        kind: &str,
        message: &str,
        request_id: &str,
        now: Timestamp,
    ) -> Self {
        let body = json!({
            "type": "error", "error": {"type": kind, "message": message}, "request_id": request_id,
        });
        let mut reply = Self::json(status, &body, now);
        reply.headers.push(("request-id", request_id.to_owned().into()));
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_is_written_as_http_writes_it() {
        let reply = Reply::new(200, "text/plain", "", "1994-11-06T08:49:37Z".parse().unwrap());
        assert_eq!(reply.http_date(), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
