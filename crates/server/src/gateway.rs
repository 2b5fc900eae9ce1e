//! The gateway: takes requests with a caller key, and sends them to the provider with the chain's access token, or
//! with the fallback key while that cannot serve (SPEC §7).
//!
//! One thread a core, each with its own listening socket, connections and buffers; they share what is published
//! ([`Plane`], callers, snapshots) and wait for nobody. The HTTP/1.1 in here is our own, for its cost; everything
//! else that is asked of the address goes to the admin API, which runs elsewhere.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use crate::caller::Callers;
use crate::metrics::Metrics;
use crate::published::Published;
use crate::snapshot::Snapshots;
use crate::traces::Traces;

mod access_log;
mod admission;
mod body;
mod clock;
mod connection;
mod entry;
mod exchange;
mod fallback;
mod fault;
mod forward;
pub mod http1;
mod http2;
mod judge;
mod listen;
mod measure;
mod own_error;
mod plane;
mod pool;
mod renewer;
mod request;
mod response;
mod seat;
mod text;
mod thread;
mod told;

pub use access_log::AccessLog;
pub(crate) use fallback::day_of;
pub use fallback::{DayCount, FallbackKey, FallbackUses, check_fallback_key};
pub use listen::Bound;
pub use plane::{ChainSettings, Finder, Limits, NotAnswered, Plane, Renewer};
pub use renewer::{Act, ChainRenewer, note_grant_refused};

use access_log::Log;
use measure::Measures;
use thread::{Shared, Thread};

/// So much longer than a drain the end of its threads may take, and so long the rest of the log.
const BEHIND_DRAIN: Duration = Duration::from_secs(5);

/// What the gateway works with.
pub struct Parts {
    /// The chains and their rules.
    pub plane: Plane,
    /// The access tokens.
    pub snapshots: Snapshots,
    /// Who may ask.
    pub callers: Callers,
    /// Where it counts.
    pub metrics: Metrics,
    /// Where it logs.
    pub access_log: AccessLog,
    /// Where spans of requests go.
    pub traces: Traces,
    /// TLS, if it is served directly.
    pub tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("plane", &self.plane).finish_non_exhaustive()
    }
}

/// The gateway, running.
pub struct Gateway {
    shared: Arc<Shared>,
    ending: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
    log_writer: Option<JoinHandle<()>>,
    address: SocketAddr,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Gateway {
    /// Starts its threads. What is asked of Evergrant itself comes out of [`OwnRoutes`].
    pub fn start(bound: Bound, parts: Parts) -> io::Result<(Self, OwnRoutes)> {
        let (own, incoming) = mpsc::unbounded_channel();
        let (log, log_writer) = Log::open(&parts.access_log)?;
        let shared = Arc::new(Shared {
            plane: Published::new(parts.plane),
            snapshots: parts.snapshots,
            callers: parts.callers,
            measures: Measures::new(&parts.metrics),
            log,
            traces: parts.traces,
            tls: Published::new(parts.tls),
            own,
        });
        let (ending, told) = watch::channel(false);
        let address = bound.address();
        let mut threads = Vec::with_capacity(bound.threads());
        for (number, socket) in bound.into_sockets().enumerate() {
            let (shared, told) = (shared.clone(), told.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let run = move || {
                LocalSet::new().block_on(&runtime, async move {
                    match socket.own() {
                        Ok(listener) => Rc::new(Thread::new(shared)).run(listener, told).await,
                        Err(error) => tracing::error!(%error, "a listening socket cannot be used"),
                    }
                });
                // What hangs in a name look-up is not waited for.
                runtime.shutdown_background();
            };
            threads.push(std::thread::Builder::new().name(format!("gateway-{number}")).spawn(run)?);
        }
        Ok((Self { shared, ending, threads, log_writer, address }, OwnRoutes { incoming }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts another plane in the place of the one before; requests in hand end by the one that they began with.
    pub fn set_plane(&self, plane: Plane) {
        self.shared.plane.replace(|_| Some(plane));
    }

    /// Serves connections that come from now on with this certificate.
    pub fn set_tls(&self, tls: Option<TlsAcceptor>) {
        self.shared.tls.replace(|_| Some(tls));
    }

    /// Opens the access log anew.
    pub fn reopen_log(&self) {
        self.shared.log.reopen();
    }

    /// Takes no more connections, lets the requests in hand end (30 s at most), and returns.
    pub async fn end(self) {
        self.ending.send_replace(true);
        let Self { shared, threads, log_writer, .. } = self;
        let limit = shared.plane.current().limits.drain + BEHIND_DRAIN;
        // With the last end of the log its writer ends.
        drop(shared);
        let join = |threads: Vec<JoinHandle<()>>| {
            tokio::task::spawn_blocking(move || {
                // Each of them, whatever became of the one before.
                let panicked = threads.into_iter().filter_map(|thread| thread.join().err()).count();
                panicked == 0
            })
        };
        match tokio::time::timeout(limit, join(threads)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false) | Err(_)) => tracing::error!("a thread of the gateway has panicked"),
            Err(_) => tracing::error!("a thread of the gateway does not end"),
        }
        if tokio::time::timeout(BEHIND_DRAIN, join(log_writer.into_iter().collect())).await.is_err() {
            tracing::warn!("the last lines of the access log are not waited for: nobody takes them");
        }
    }
}

/// Connections for Evergrant's own routes: a listener for `axum::serve`.
#[derive(Debug)]
pub struct OwnRoutes {
    incoming: mpsc::UnboundedReceiver<DuplexStream>,
}

impl axum::serve::Listener for OwnRoutes {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.incoming.recv().await {
            Some(stream) => (stream, ()),
            // The gateway has ended: nobody comes any more.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}
