//! What Evergrant does: the keeper, the minter, the probe, the health monitor and the alerter, the callers and their admin calls, and what these need of the
//! network and the clock.

pub mod admin;
pub mod alert;
pub mod api_key;
pub mod caller;
pub mod chain;
pub mod gateway;
pub mod health;
pub mod http;
pub mod keeper;
pub mod metrics;
pub mod minter;
pub mod moved;
pub mod probe;
pub mod published;
pub mod renewable;
pub mod rows;
pub mod snapshot;
mod stream;
pub mod tls;
pub mod token;
pub mod tokio_world;
pub mod traces;
pub mod watchdog;
pub mod world;

pub use alert::Courier;
pub use api_key::ApiKeyChain;
pub use caller::Callers;
pub use chain::{Chain, Login, Renewal};
pub use health::Monitor;
pub use keeper::{Keeper, Wake};
pub use minter::Minter;
pub use moved::Moved;
pub use renewable::Renewable;
pub use rows::RowKeeper;
pub use snapshot::Snapshots;
pub use tokio_world::TokioWorld;
pub use traces::Traces;
pub use world::World;
