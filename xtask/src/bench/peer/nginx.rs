//! nginx: one worker, the key looked up in a `map`, a buffered access log.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{CAPABILITY, KEY_HEADER, PATIENCE, Peer, Server, Site, TOKEN, needed};
use crate::bench::process::free_address;
use crate::bench::rig::Rig;
use crate::prerequisites::Needed;

pub(super) const NEEDED: Needed = needed("nginx", &["nginx"], "a peer of the gateway's measurements");

pub(super) fn start(rig: &Rig) -> Result<Site> {
    let folder = rig.folder("nginx")?;
    let address = free_address()?;
    let shown = folder.display();
    let upstream = rig.upstream();
    let callers: String = rig.keys().iter().enumerate().map(|(at, key)| format!("{key} c{at};\n")).collect();
    fs::write(folder.join("callers"), callers).context("writing the callers")?;
    // Small answers are buffered, which nginx does best; the upstream says `x-accel-buffering: no` on streams.
    // Bodies of requests are passed on as they come.
    let config = format!(
        r#"user root root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid {shown}/pid;
error_log {shown}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    client_body_temp_path {shown}/client;
    proxy_temp_path {shown}/proxy;
    fastcgi_temp_path {shown}/fastcgi;
    uwsgi_temp_path {shown}/uwsgi;
    scgi_temp_path {shown}/scgi;
    map_hash_max_size 8192;
    map_hash_bucket_size 128;
    map $http_x_cm_api_key $caller {{
        default "";
        include {shown}/callers;
    }}
    log_format gate '$msec $caller "$request_method $uri" $status $body_bytes_sent '
                    '$request_time $upstream_header_time';
    access_log {shown}/access.log gate buffer=32k flush=1s;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_max_body_size 0;
    client_body_buffer_size 16k;
    tcp_nodelay on;
    upstream api {{
        server {upstream};
        keepalive 256;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }}
    server {{
        listen {address} backlog=4096;
        location / {{
            if ($caller = "") {{ return 401; }}
            proxy_pass http://api;
            proxy_http_version 1.1;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
            proxy_set_header Connection "";
            proxy_set_header {KEY_HEADER} "";
            proxy_set_header Authorization "Bearer {TOKEN}";
            proxy_set_header anthropic-beta "{CAPABILITY}";
        }}
    }}
}}
"#
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, config).context("writing the configuration")?;
    let error_log = folder.join("error.log");
    let process = Server {
        peer: Peer::Nginx,
        program: Path::new("nginx"),
        arguments: ["-e", &error_log.to_string_lossy(), "-c", &file.to_string_lossy()]
            .map(str::to_owned)
            .into(),
        environment: vec![],
        folder: &folder,
        address,
        health: ("/", &[401]),
        patience: PATIENCE,
    }
    .start()?;
    Ok(Site {
        peer: Peer::Nginx,
        address,
        prefix: "",
        headers: vec![],
        keys: Some(rig.keys_file()),
        access_log: Some(folder.join("access.log")),
        process: Some(process),
    })
}
