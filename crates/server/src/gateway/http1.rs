//! HTTP/1.1 as bytes: heads, framing, chunks and trailers (RFC 9112). Pure functions over what has arrived; nothing
//! here reads or writes. Stricter than the RFC wherever two readers might split a message differently.

mod chunked;
mod head;
#[cfg(test)]
mod tests;

pub use chunked::{BadChunk, Chunked, Scanned};
pub(super) use head::list;
pub use head::{
    BadHead, Framing, MAX_HEAD, MAX_HEADERS, Request, Response, Room, Version, empty_room, head_may_end,
    parse_request, parse_response,
};
