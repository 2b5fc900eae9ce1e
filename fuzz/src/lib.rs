//! What the targets run: the checks of the server's tests, each over whatever bytes libFuzzer thinks of.

#[path = "../../crates/server/tests/server/http1_oracle/mod.rs"]
mod http1_oracle;

/// One request's head.
pub fn request(bytes: &[u8]) {
    http1_oracle::check_request(bytes);
}

/// An answer.
pub fn response(bytes: &[u8]) {
    http1_oracle::check_answer(bytes);
}

/// A connection's requests.
pub fn stream(bytes: &[u8]) {
    http1_oracle::check_stream(bytes);
}
