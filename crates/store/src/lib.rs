//! What Evergrant remembers: the auth file with everything beside it, and the state behind it.
//!
//! Methods are whole verbs of the domain and atomic; nothing outside sees a file handle or a transaction.

pub mod any;
pub mod authfile;
pub mod crash;
pub mod disk;
pub mod health;
pub mod marks;
pub mod memory;
pub mod postgres;
mod receipt;
pub mod receipts;
pub mod seal;
pub mod secret_file;
pub mod sqlite;
pub mod state;
pub mod vault;
pub mod watch;

pub use any::AnyState;
pub use authfile::{AuthFile, Held, LockError, Reservation, VaultError};
pub use disk::{Disk, OsDisk};
pub use health::HealthState;
pub use memory::MemoryState;
pub use postgres::PostgresState;
pub use sqlite::SqliteState;
pub use state::{State, StateError};
pub use vault::VaultState;
