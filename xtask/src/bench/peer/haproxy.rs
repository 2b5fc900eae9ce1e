//! `HAProxy`: one thread, the key looked up in a map file, connections to the upstream shared by all.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{CAPABILITY, KEY_HEADER, PATIENCE, Peer, Server, Site, TOKEN, needed};
use crate::bench::process::free_address;
use crate::bench::rig::Rig;
use crate::prerequisites::Needed;

pub(super) const NEEDED: Needed = needed("haproxy", &["haproxy"], "a peer of the gateway's measurements");

pub(super) fn start(rig: &Rig) -> Result<Site> {
    let folder = rig.folder("haproxy")?;
    let address = free_address()?;
    let upstream = rig.upstream();
    let callers = folder.join("callers");
    let lines: String = rig.keys().iter().enumerate().map(|(at, key)| format!("{key} c{at}\n")).collect();
    fs::write(&callers, lines).context("writing the callers")?;
    let callers = callers.display();
    // It has no buffered log into a file. The cheapest that can still be read afterwards is a ring in mapped memory,
    // which keeps the last megabyte: it is spared the writes that keep every line (about a tenth of its CPU time).
    let ring = folder.join("ring");
    let ring = ring.display();
    // Without that option it holds small parts of an answer back for up to 40 ms, which no stream of events bears.
    // Where there are no streams it does better without.
    let no_delay = if rig.streams { "option http-no-delay" } else { "" };
    let config = format!(
        r#"global
    nbthread 1
    maxconn 8000
    log ring@gate format raw local0 info
defaults
    mode http
    log global
    {no_delay}
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout http-keep-alive 1h
frontend gate
    bind {address} backlog 4096
    http-request set-var(txn.caller) req.hdr({KEY_HEADER}),map_str({callers})
    http-request deny deny_status 401 unless {{ var(txn.caller) -m found }}
    http-request del-header {KEY_HEADER}
    http-request set-header authorization "Bearer {TOKEN}"
    http-request set-header anthropic-beta "{CAPABILITY}"
    log-format "%Ts.%ms %[var(txn.caller)] \"%HM %HP\" %ST %B %Ta %Tr"
    default_backend api
backend api
    http-reuse always
    server one {upstream} pool-purge-delay 1h
ring gate
    format raw
    maxlen 1200
    size 1048576
    backing-file {ring}
"#
    );
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config).context("writing the configuration")?;
    let process = Server {
        peer: Peer::Haproxy,
        program: Path::new("haproxy"),
        arguments: ["-db", "-f", &file.to_string_lossy()].map(str::to_owned).into(),
        environment: vec![],
        folder: &folder,
        address,
        health: ("/", &[401]),
        patience: PATIENCE,
    }
    .start()?;
    Ok(Site {
        peer: Peer::Haproxy,
        address,
        prefix: "",
        headers: vec![],
        keys: Some(rig.keys_file()),
        access_log: Some(folder.join("ring")),
        process: Some(process),
    })
}
