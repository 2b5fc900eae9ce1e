//! A resolver that leaves out addresses which only mean something inside a network: an alert's address comes from a
//! setting, and must not be led to what listens there (SPEC §13).

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// Resolves names, to public addresses alone if that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Resolver {
    inner: GaiResolver,
    public_only: bool,
}

impl Resolver {
    pub(super) fn new(public_only: bool) -> Self {
        Self { inner: GaiResolver::new(), public_only }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        // What is called so is this machine, and somebody wrote it down.
        let public_only = self.public_only && name.as_str() != "localhost";
        let resolving = self.inner.call(name);
        Box::pin(async move {
            let found: Vec<_> = resolving.await?.collect();
            let kept: Vec<_> =
                found.iter().copied().filter(|at| !public_only || is_public(at.ip())).collect();
            if kept.is_empty() && !found.is_empty() {
                return Err(std::io::Error::other("the name leads to private addresses only"));
            }
            Ok(kept.into_iter())
        })
    }
}

/// Whether an address means the same everywhere.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => v4_is_public(address),
        IpAddr::V6(address) => v6_is_public(address),
    }
}

fn v4_is_public(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let shared = first == 100 && (64..128).contains(&second);
    let protocols = first == 192 && second == 0 && third == 0;
    let benchmarks = first == 198 && (18..20).contains(&second);
    !(first == 0
        || first >= 224
        || shared
        || protocols
        || benchmarks
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation())
}

fn v6_is_public(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| v4_is_public(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    if let Some(mapped) = address.to_ipv4_mapped() {
        return v4_is_public(mapped);
    }
    match segments {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0xdb8, ..] => false,
        // Global unicast is 2000::/3; everything else is local, multicast or reserved.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_the_same_everywhere_is_public() {
        for address in
            ["1.1.1.1", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_leads_nowhere() {
        // A resolver takes this spelling for a name, and gives 127.0.0.1.
        let name = || "127.1".parse::<Name>().unwrap();
        let open: Vec<_> = Resolver::new(false).call(name()).await.unwrap().collect();
        assert!(open[0].ip().is_loopback());
        let error = Resolver::new(true).call(name()).await.unwrap_err();
        assert!(error.to_string().contains("private addresses only"), "{error}");
        assert!(Resolver::new(true).call("localhost".parse().unwrap()).await.is_ok());
    }
}
