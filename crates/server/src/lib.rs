//! What Evergrant does: the keeper, the probe, the callers and their admin calls, and what these need of the
//! network and the clock.

pub mod admin;
pub mod caller;
pub mod gateway;
pub mod http;
pub mod keeper;
pub mod metrics;
pub mod probe;
pub mod published;
pub mod snapshot;
pub mod token;
pub mod tokio_world;
pub mod world;

pub use caller::Callers;
pub use keeper::{Keeper, Wake};
pub use snapshot::Snapshots;
pub use tokio_world::TokioWorld;
pub use world::World;
