//! What sinks are sent, read by libraries that are not ours.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod cards;
mod pictures;
mod runbook;
mod signature;
mod support;
