//! The agent on the operator's workstation: looks at the login there, pushes a fresh one to the server, and beats
//! (SPEC §5). What it decides stands in `core`; this room reads, sends, remembers and installs.
//!
//! Everything that is macOS's is a process call or a file that is chosen at run time, so that it runs in tests
//! everywhere.

pub mod absence;
mod clock;
pub mod doctor;
pub mod entry;
mod error;
pub mod key;
pub mod log;
pub mod memory;
pub mod notify;
pub mod process;
pub mod round;
pub mod run;
pub mod send;
pub mod service;
pub mod settings;

pub use error::AgentError;
pub use settings::{ChainSettings, Settings};
