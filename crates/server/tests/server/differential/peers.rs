//! nginx and `HAProxy` as processes of their own, each in a scratch folder, in front of an upstream that tells by the
//! client's address which input a request is of. They forward whatever they understand.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::CLIENT_FIELD;
use super::upstream::{Record, Upstream};
use crate::gateway::fixture::soon;

/// A gateway of somebody else's.
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    process: Process,
    upstream: Upstream,
}

/// Somebody else may take a free port before its server does.
const TRIES: usize = 5;

impl Peer {
    pub(super) async fn nginx(upstream: Upstream) -> Self {
        Self::start(upstream, "nginx", nginx, &["-e", "error.log", "-c"]).await
    }

    pub(super) async fn haproxy(upstream: Upstream) -> Self {
        Self::start(upstream, "haproxy", haproxy, &["-db", "-f"]).await
    }

    async fn start(
        upstream: Upstream,
        program: &str,
        config: fn(&Path, SocketAddr, SocketAddr) -> String,
        arguments: &[&str],
    ) -> Self {
        for _ in 0..TRIES {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("config");
            fs::write(&file, config(folder.path(), free, upstream.address)).unwrap();
            // Debian keeps servers where not everybody looks for programs.
            let installed = Path::new("/usr/sbin").join(program);
            let mut command = Command::new(if installed.exists() { &installed } else { Path::new(program) });
            command.args(arguments).arg(&file).current_dir(folder.path());
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command.stderr(fs::File::create(folder.path().join("said")).unwrap());
            let child = command.spawn().unwrap_or_else(|error| {
                panic!("{program}: {error}; `cargo xtask test` brings the Debian package of that name")
            });
            let mut process = Process { child, folder };
            if soon("the server listens", process.listens(free)).await {
                return Self { address: free, process, upstream };
            }
            let said = fs::read_to_string(process.folder.path().join("said")).unwrap();
            assert!(said.to_lowercase().contains("bind"), "{program}: {said}");
        }
        panic!("{program}: no port stays free");
    }

    /// Ends it; all that its upstream got.
    pub(super) async fn end(self) -> Record {
        drop(self.process);
        self.upstream.end().await
    }
}

struct Process {
    child: Child,
    folder: TempDir,
}

impl Process {
    /// `false`: it has ended instead.
    async fn listens(&mut self, address: SocketAddr) -> bool {
        loop {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(address).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Process {
    /// Asks first: a master that is killed leaves its workers behind.
    fn drop(&mut self) {
        let id = Pid::from_raw(self.child.id().cast_signed());
        if id.is_some_and(|id| kill_process(id, Signal::TERM).is_ok()) {
            for _ in 0..300 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx(folder: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "user root root;
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log crit;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/client;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_header_timeout 1s;
    client_body_timeout 1s;
    keepalive_timeout 1s;
    client_max_body_size 0;
    large_client_header_buffers 8 64k;
    server {{
        listen {address} backlog=1024;
        location / {{
            proxy_pass http://{upstream};
            proxy_http_version 1.1;
            proxy_set_header {CLIENT_FIELD} $remote_addr;
        }}
    }}
}}
"
    )
}

fn haproxy(_: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 1024
defaults
    mode http
    timeout connect 5s
    timeout server 2s
    timeout client 1s
    timeout http-request 1s
    timeout http-keep-alive 1s
frontend gate
    bind {address} backlog 1024
    http-request set-header {CLIENT_FIELD} %[src]
    default_backend api
backend api
    http-reuse never
    server one {upstream}
"
    )
}
