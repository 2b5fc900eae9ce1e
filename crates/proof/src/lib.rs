//! What shows that the rotation protocol holds. Driven by `cargo xtask`, never in the binary.

pub mod alerts;
pub mod crash_states;
pub mod model;
pub mod replicas;
pub mod sim;
pub mod torture;

use evergrant_core::provider::Profile;
use evergrant_standin::Settings;

/// The built-in profile, turned towards a stand-in that nobody can reach but by a simulated network.
pub(crate) fn profile() -> Profile {
    let settings = Settings::default();
    let token_url = format!("http://127.0.0.1:1{}", settings.token_path);
    Profile {
        token_url: token_url.parse().expect("it is a URL"),
        access_prefix: Some(settings.access_prefix),
        refresh_prefix: Some(settings.refresh_prefix),
        ..Profile::claude()
    }
}
