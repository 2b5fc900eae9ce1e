//! What shows that the rotation protocol holds. Driven by `cargo xtask`, never in the binary.

pub mod sim;
