//! What Evergrant decides, as pure functions: facts and the time go in, decisions and reasons come out.
//!
//! No async runtime, no database, no HTTP client, no file system, no environment and no clock: those live in
//! the rooms that call this one.

pub mod address;
pub mod alert;
pub mod api_key;
pub mod audit;
pub mod authfile;
pub mod caller;
pub mod chain;
pub mod event;
pub mod gateway;
pub mod grant;
pub mod health;
pub mod keeper;
pub mod minter;
pub mod probe;
pub mod provider;
pub mod push;
pub mod reason;
pub mod secret;

pub use chain::{AttemptId, ChainName, Epoch, Generation, Lineage};
pub use reason::Reason;
pub use secret::{AccessToken, ApiKey, Fingerprint, RefreshToken};
