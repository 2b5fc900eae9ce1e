//! The head that the client gets: the provider's as it came, but for what is about the connection; and errors of
//! our own. Pure functions over bytes.

use std::io::Write as _;

use evergrant_core::gateway::{ErrorShape, OwnError};

use super::exchange::Recode;
use super::http1::Response;
use super::request::{Field, Nominated};
use super::text;

/// What the client is told about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// It stays, which HTTP/1.1 takes for granted.
    Stays,
    /// It stays, which HTTP/1.0 has to be told.
    KeepAlive,
    /// It closes behind this answer.
    Closes,
}

/// Writes the head of a provider's answer.
pub(super) fn client_head(
    out: &mut Vec<u8>,
    head: &Response<'_, '_>,
    request_id: &str,
    connection: Connection,
    recode: Recode,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    text::three(out, head.status.into());
    out.push(b' ');
    out.extend_from_slice(head.reason.as_bytes());
    out.extend_from_slice(b"\r\n");
    let nominated = Nominated::of(head.headers);
    let mut named = false;
    for header in head.headers {
        match Field::of(header.name) {
            Field::Hop => continue,
            Field::TransferEncoding if recode == Recode::Dechunk => continue,
            Field::Other | Field::RequestId | Field::ContentType if nominated.holds(header.name) => continue,
            Field::RequestId => named = true,
            Field::Other
            | Field::TransferEncoding
            | Field::Host
            | Field::Key(_)
            | Field::Private
            | Field::ContentType => {}
        }
        out.extend_from_slice(header.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(header.value);
        out.extend_from_slice(b"\r\n");
    }
    if !named {
        out.extend_from_slice(b"x-request-id: ");
        out.extend_from_slice(request_id.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if recode == Recode::Chunk {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    connection.write(out);
    out.extend_from_slice(b"\r\n");
}

impl Connection {
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Stays => {}
            Self::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
            Self::Closes => out.extend_from_slice(b"connection: close\r\n"),
        }
    }
}

/// Writes an error of our own. `to_head`: the request was `HEAD`, so the body stays out.
pub(super) fn own_error(
    out: &mut Vec<u8>,
    error: &OwnError,
    shape: ErrorShape,
    request_id: &str,
    connection: Connection,
    to_head: bool,
) {
    let (content_type, body) = error.body(shape, request_id);
    let _ = write!(
        out,
        "HTTP/1.1 {} {}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         x-request-id: {request_id}\r\nx-should-retry: {}\r\n",
        error.kind.status(),
        error.kind.phrase(),
        body.len(),
        error.retry,
    );
    if let Some(secs) = error.retry_after_secs {
        let _ = write!(out, "retry-after: {secs}\r\n");
    }
    connection.write(out);
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(body.as_bytes());
    }
}
