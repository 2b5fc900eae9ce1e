//! The keeper, the minter, the token client and the probe against the stand-in, and the admin calls: over real sockets, and on
//! simulated time.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod api_keys;
mod callers;
mod differential;
mod edits;
mod fixture;
mod gateway;
mod health;
mod http1_beside_hyper;
mod http1_oracle;
mod minting;
mod minting_time;
mod network;
mod openapi;
mod pushes;
mod rotation;
mod row_health;
mod row_restores;
mod rows;
mod simulated_time;
mod sinks;
#[cfg(feature = "otel")]
mod traces;
