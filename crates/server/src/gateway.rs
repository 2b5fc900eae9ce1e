//! The gateway (SPEC §7).

pub mod http1;
