//! The stand-in against what it claims: tables over the engine, and a raw client over real sockets.

#![expect(clippy::unwrap_used, reason = "clippy takes the helpers of a test binary for ordinary code")]

mod api;
mod client;
mod exchange;
mod faults;
mod objects;
mod property;
mod reuse;
mod sdk;
mod sockets;
