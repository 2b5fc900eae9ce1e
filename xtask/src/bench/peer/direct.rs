//! No proxy: the load generator bears what a proxy would inject. The floor of every time.

use super::{CAPABILITY, Peer, Site, TOKEN};
use crate::bench::rig::Rig;

pub(super) fn site(rig: &Rig) -> Site {
    Site {
        peer: Peer::Direct,
        address: rig.upstream(),
        prefix: "",
        headers: vec![format!("authorization: Bearer {TOKEN}"), format!("anthropic-beta: {CAPABILITY}")],
        keys: None,
        access_log: None,
        process: None,
    }
}
