//! The built binary as its users run it: real files, real processes, real peers.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod agent;
mod alerts;
mod crash;
mod files;
mod gateway;
mod health;
mod input;
mod keys;
mod kinds;
mod network;
mod notices;
mod oidc;
mod replicas;
mod restored;
mod secrets;
mod serving;
mod support;
mod timeline;
mod traces;
mod writers;
