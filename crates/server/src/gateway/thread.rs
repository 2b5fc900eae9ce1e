//! One thread of the data plane: its listener, its connections, its idle connections to providers, its buffers. It
//! shares nothing that a request would have to wait for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::ChainName;
use evergrant_core::gateway::Position;
use jiff::Timestamp;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::access_log::{BATCH, Line, Log};
use super::listen::Listener;
use super::measure::{Measures, Requests};
use super::plane::{Chain, Plane};
use super::pool::{Pool, SWEEP};
use super::request::Injected;
use super::seat::Seats;
use super::{clock, connection, text};
use crate::caller::{CallerTable, Callers};
use crate::published::Published;
use crate::snapshot::{Snapshots, Tokens};
use crate::traces::Traces;

/// One read takes so much at most, in bytes.
const SCRATCH: usize = 64 * 1024;
/// Buffers that wait for the next request take so much together at most, in bytes; a larger one than the second is
/// let go.
const BUFFERS_ROOM: usize = 4 << 20;
const BUFFER_ROOM: usize = 512 * 1024;
const FLUSH: Duration = Duration::from_secs(1);
/// Connections whose answer is cut have so long for it; those without an answer just close.
const CUT: Duration = Duration::from_millis(500);

/// What all threads share.
pub(super) struct Shared {
    pub(super) plane: Published<Plane>,
    pub(super) snapshots: Snapshots,
    pub(super) callers: Callers,
    pub(super) measures: Measures,
    pub(super) log: Log,
    pub(super) traces: Traces,
    pub(super) tls: Published<Option<TlsAcceptor>>,
    /// Connections for Evergrant's own routes.
    pub(super) own: mpsc::UnboundedSender<DuplexStream>,
}

/// One thread.
pub(super) struct Thread {
    pub(super) shared: Arc<Shared>,
    pub(super) seats: Rc<Seats>,
    pub(super) pool: Pool,
    pub(super) requests: Requests,
    scratch: RefCell<Box<[u8]>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    buffers_room: Cell<usize>,
    seen: RefCell<(Versions, Rc<Seen>)>,
    batch: RefCell<Vec<u8>>,
    ids: (u64, Cell<u64>),
}

/// What is published, as this thread saw it last: whoever holds it sees one plane, one table of callers and the
/// access tokens that go with them.
pub(super) struct Seen {
    pub(super) plane: Arc<Plane>,
    pub(super) callers: Arc<CallerTable>,
    /// By the chain's number in the plane.
    live: Vec<Option<Live>>,
    tokens: Arc<Tokens>,
    /// Of chains without a number, as they are asked for.
    found: RefCell<HashMap<ChainName, Option<Live>>>,
}

/// The numbers of what is published, as they were before [`Seen`] was made.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Versions {
    plane: u64,
    callers: u64,
    tokens: u64,
}

/// A chain's access token, ready to be put into a head.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) position: Position,
    pub(super) injected: Rc<Injected>,
    pub(super) shown: Rc<str>,
    expires_at_ms: i64,
}

impl Thread {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let seen = (Versions::of(&shared), Rc::new(Seen::of(&shared)));
        Self {
            seats: Rc::new(Seats::default()),
            pool: Pool::default(),
            requests: Requests::new(shared.measures.clone()),
            scratch: RefCell::new(vec![0; SCRATCH].into()),
            buffers: RefCell::default(),
            buffers_room: Cell::new(0),
            seen: RefCell::new(seen),
            batch: RefCell::new(Vec::new()),
            ids: (rand::random(), Cell::new(0)),
            shared,
        }
    }

    /// Serves what `listener` brings until `ending`, then drains.
    pub(super) async fn run(self: Rc<Self>, listener: Listener, mut ending: watch::Receiver<bool>) {
        let watching = tokio::task::spawn_local({
            let seats = self.seats.clone();
            async move { seats.watch(clock::now).await }
        });
        let keeping = tokio::task::spawn_local(self.clone().keep_house());
        loop {
            tokio::select! {
                accepted = listener.socket.accept() => match accepted {
                    Ok((stream, _)) => self.clone().welcome(stream),
                    // Out of descriptors, mostly: a connection that ends frees one.
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                _ = ending.wait_for(|ending| *ending) => break,
            }
        }
        // A socket that was handed over goes on without us.
        if listener.handed_over {
            drop(listener);
        } else {
            self.clone().welcome_the_last(listener);
        }
        self.seats.drain(clock::now());
        let drain = self.seen().plane.limits.drain;
        if tokio::time::timeout(drain, self.seats.emptied()).await.is_err() {
            let left = self.seats.taken();
            tracing::warn!(left, "connections are cut: their requests outlasted the drain");
            // By themselves: what is only closed may look whole.
            self.seats.end();
            let _ = tokio::time::timeout(CUT, self.seats.emptied()).await;
        }
        watching.abort();
        keeping.abort();
        self.flush_log();
    }

    /// Those that are connected already, and nobody knows of yet, are served: closing would reset them. The system is
    /// asked itself, for what came since the runtime looked last.
    fn welcome_the_last(self: Rc<Self>, listener: Listener) {
        let Ok(socket) = listener.socket.into_std() else { return };
        while let Ok((stream, _)) = socket.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                self.clone().welcome(stream);
            }
        }
    }

    fn welcome(self: Rc<Self>, stream: tokio::net::TcpStream) {
        let most = self.seen().plane.limits.connections;
        let open = self.shared.measures.connections().inc();
        let counted = Counted(self.clone());
        if usize::try_from(open).unwrap_or(0) >= most {
            tracing::warn!(most, "a connection is refused: there are too many");
            return;
        }
        // Latency only; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        // A drain that begins before the task does waits for it too.
        let seat = self.seats.reserve();
        tokio::task::spawn_local(async move {
            let _counted = counted;
            connection::welcome(&self, stream, seat).await;
        });
    }

    /// Once in a while: lines of the log that wait, connections that nobody used.
    async fn keep_house(self: Rc<Self>) {
        let mut swept = clock::now();
        loop {
            tokio::time::sleep(FLUSH).await;
            self.flush_log();
            if clock::now().duration_since(swept) >= SWEEP {
                swept = clock::now();
                self.pool.sweep();
            }
        }
    }

    /// What is published now. While nothing changes it costs a look at three numbers.
    pub(super) fn seen(&self) -> Rc<Seen> {
        let now = Versions::of(&self.shared);
        let mut seen = self.seen.borrow_mut();
        if seen.0 != now {
            *seen = (now, Rc::new(Seen::of(&self.shared)));
        }
        seen.1.clone()
    }

    /// An empty buffer.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let Some(buffer) = self.buffers.borrow_mut().pop() else { return Vec::with_capacity(4096) };
        self.buffers_room.set(self.buffers_room.get() - buffer.capacity());
        buffer
    }

    /// Gives a buffer back.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        let (room, all) = (buffer.capacity(), self.buffers_room.get());
        if room > 0 && room <= BUFFER_ROOM && all + room <= BUFFERS_ROOM {
            buffer.clear();
            self.buffers_room.set(all + room);
            self.buffers.borrow_mut().push(buffer);
        }
    }

    /// The room that reads go to, for the length of one poll.
    pub(super) fn scratch<T>(&self, with: impl FnOnce(&mut [u8]) -> T) -> T {
        with(&mut self.scratch.borrow_mut())
    }

    /// An id for a request that came without one.
    pub(super) fn new_id(&self) -> String {
        let (random, count) = (self.ids.0, self.ids.1.get());
        self.ids.1.set(count.wrapping_add(1));
        // An odd multiplier: ids do not look alike, and do not repeat.
        let mixed = random.wrapping_add(count.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let digits = text::hex(mixed);
        ["evg_", str::from_utf8(&digits).unwrap_or_default()].concat()
    }

    /// Logs one request.
    pub(super) fn log(&self, line: &Line<'_>) {
        if !self.shared.log.is_on() {
            return;
        }
        let full = {
            let mut batch = self.batch.borrow_mut();
            line.write(&mut batch);
            batch.len() >= BATCH
        };
        if full {
            self.flush_log();
        }
    }

    fn flush_log(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty() {
            return;
        }
        let full = std::mem::replace(&mut *batch, Vec::with_capacity(BATCH + 1024));
        if !self.shared.log.hand_over(full) {
            self.shared.measures.log_dropped();
        }
    }
}

impl Versions {
    fn of(shared: &Shared) -> Self {
        Self {
            plane: shared.plane.version(),
            callers: shared.callers.version(),
            tokens: shared.snapshots.published().version(),
        }
    }
}

impl Seen {
    fn of(shared: &Shared) -> Self {
        let plane = shared.plane.current();
        let tokens = shared.snapshots.published().current();
        let live = plane.chains.iter().map(|chain| Live::of(chain, &tokens)).collect();
        Self { plane, callers: shared.callers.table(), live, tokens, found: RefCell::default() }
    }

    /// The access token of a chain of the plane, if it lives.
    pub(super) fn live(&self, chain: &Chain, now: Timestamp) -> Option<Live> {
        let lives = |live: &Live| now.as_millisecond() < live.expires_at_ms;
        if let Some(number) = self.plane.number(&chain.name) {
            return self.live.get(number)?.clone().filter(lives);
        }
        let mut found = self.found.borrow_mut();
        if let Some(live) = found.get(&chain.name) {
            return live.clone().filter(lives);
        }
        let live = Live::of(chain, &self.tokens);
        found.insert(chain.name.clone(), live.clone());
        live.filter(lives)
    }
}

impl Live {
    fn of(chain: &Chain, tokens: &Tokens) -> Option<Self> {
        let current = tokens.get(&chain.name).filter(|current| current.present && !current.refused)?;
        chain.terms.is_none().then(|| Self {
            position: current.position,
            injected: Rc::new(Injected::new(chain.injection(), current.access.expose())),
            shown: current.access.shown(chain.shown_prefix.as_deref()).into(),
            expires_at_ms: current.expires_at.as_millisecond(),
        })
    }
}

/// Counts a connection as open while it lives.
struct Counted(Rc<Thread>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.shared.measures.connections().dec();
    }
}
