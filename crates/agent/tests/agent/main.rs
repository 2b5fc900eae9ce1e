//! The agent against real sockets, files and programs: a server on loopback that answers as told, and small programs
//! that behave as those of macOS and Linux do.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod keychain;
mod programs;
mod rounds;
mod running;
mod server;
mod services;
mod support;
mod tls;
