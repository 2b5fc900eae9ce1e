//! Rehearsals: the real rooms against the stand-in provider.

pub mod demo;
pub mod drill;

use evergrant_core::provider::Profile;
use evergrant_standin::{Capability, Federation, Settings};

/// Settings of a stand-in that speaks like a profile's provider: its prefixes, its paths, its client id.
pub fn like(profile: &Profile) -> Settings {
    let defaults = Settings::default();
    let mut settings = Settings {
        token_path: profile.token_url.path().to_owned(),
        access_prefix: profile.access_prefix.clone().unwrap_or_default(),
        refresh_prefix: profile.refresh_prefix.clone().unwrap_or_default(),
        probe_path: profile.probe_url.as_ref().map_or(defaults.probe_path, |url| url.path().to_owned()),
        ..Settings::default()
    };
    settings.client.id = Some(profile.client_id.clone());
    let federation = profile.federation.as_ref();
    settings.capability = profile.token_headers.first().map(|(header, value)| Capability {
        header: header.clone(),
        value: value.clone(),
        federation_value: federation.and_then(|federation| federation.append.clone()).map(|(_, value)| value),
        on_exchange: true,
    });
    settings.federation = federation.map(|federation| Federation {
        members: federation.needs.iter().map(|name| (name.clone(), None)).collect(),
        optional: federation.may_have.clone(),
    });
    settings
}

/// The profile, turned towards a stand-in at `base`.
pub fn towards(profile: Profile, base: &str) -> Profile {
    let turned = |path: &str| format!("{base}{path}").parse().ok();
    Profile {
        token_url: turned(profile.token_url.path()).unwrap_or(profile.token_url),
        federation: profile.federation.map(|federation| {
            let url = turned(federation.url.path()).unwrap_or(federation.url);
            evergrant_core::provider::Federation { url, ..federation }
        }),
        api_base: turned("").unwrap_or(profile.api_base),
        probe_url: profile.probe_url.as_ref().and_then(|url| turned(url.path())),
        ..profile
    }
}
