//! The two ends of the gateway's measurements, written for low cost so that what lies between them shows:
//! `upstream` answers as an API does, `load` asks and times. `cargo xtask bench` builds and runs both; see the
//! README beside.

pub mod clock;
pub mod framing;
pub mod load;
pub mod upstream;
