//! Which addresses name this machine: only those may be reached without TLS (SPEC §5, §13).

use url::{Host, Url};

/// Whether the address names this machine: `localhost`, 127.0.0.0/8 or `[::1]`, also as IPv4 within IPv6.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
