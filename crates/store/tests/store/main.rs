//! The store from outside: one suite over every state, what SQLite and PostgreSQL have to do besides, and the auth-file vault on a disk
//! that fails and is edited at every step.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod conformance;
mod fault_disk;
mod fixture;
mod postgres;
mod postgres_faults;
mod sqlite;
mod vault;
mod vault_edits;
mod vault_locks;
