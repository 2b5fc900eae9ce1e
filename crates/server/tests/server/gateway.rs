//! The gateway over real sockets: a client and a provider whose every byte the test writes and reads, and the
//! stand-in where a grant is renewed.

mod around;
mod ends;
pub(crate) mod fixture;
mod http2;
mod passing;
mod refusing;
mod sources;
