//! What shows that the rotation protocol holds. Driven by `cargo xtask`, never in the binary.

pub mod crash_states;
pub mod model;
pub mod sim;
pub mod torture;
