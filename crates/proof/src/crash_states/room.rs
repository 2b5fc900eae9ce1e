//! One keeper of the real code in a world where everything is ready at once: a clock that is set by hand, a
//! recording disk, and the stand-in's engine as the provider. Nothing runs but what is asked for.

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::Record;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{Answer, CLIENT_LOCK_STALE, Look, Policy, Report};
use evergrant_core::provider::TokenRequest;
use evergrant_server::metrics::Metrics;
use evergrant_server::{Keeper, Snapshots, World};
use evergrant_standin::{Call, Counters, Engine, LoginOptions, Settings, Transport};
use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{AuthFile, MemoryState, State};
use jiff::Timestamp;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::disk::JournalDisk;
use super::image::Image;

pub(super) const FILE: &str = "/grant/auth.json";
pub(super) const FOLDER: &str = "/grant/auth.json.evergrant";
const STATE_FOLDER: &str = "/state";
pub(super) const LIFE_SECS: u64 = 8 * 3600;
const EPOCH_SECS: i64 = 1_800_000_000;

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Shared {
    now: Timestamp,
    seed: u64,
    tasks: VecDeque<Task>,
}

/// The world of one keeper.
#[derive(Clone)]
pub(super) struct TinyWorld {
    shared: Arc<Mutex<Shared>>,
    disk: JournalDisk,
    state: MemoryState,
}

/// How a room is furnished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Furniture {
    /// The auth file is a mount point.
    pub(super) mounted: bool,
    /// The file system knows no exchange.
    pub(super) no_exchange: bool,
    /// The client's locks are taken.
    pub(super) client_locks: bool,
}

/// One keeper with its world.
pub(super) struct Room {
    pub(super) disk: JournalDisk,
    pub(super) furniture: Furniture,
    world: TinyWorld,
    keeper: Keeper<TinyWorld>,
}

pub(super) fn settings() -> Settings {
    let mut settings = Settings { log_kept: 4, spent_kept: 32, ..Settings::default() };
    settings.lives.access_secs = LIFE_SECS;
    settings
}

pub(super) fn epoch() -> Timestamp {
    Timestamp::from_second(EPOCH_SECS).unwrap_or_default()
}

impl Room {
    /// A process that starts on this disk.
    pub(super) fn new(
        image: Image,
        engine: Engine,
        now: Timestamp,
        remembered: Option<&Record>,
        furniture: Furniture,
    ) -> Self {
        let disk = JournalDisk::new(image, engine);
        if furniture.mounted {
            disk.mount(Path::new(FILE));
        }
        if furniture.no_exchange {
            disk.forget_exchange();
        }
        let shared = Shared { now, seed: 1, tasks: VecDeque::new() };
        let state = MemoryState::new();
        let world = TinyWorld { shared: Arc::new(Mutex::new(shared)), disk: disk.clone(), state };
        let locks = if furniture.client_locks { TakeClientLocks::Always } else { TakeClientLocks::Never };
        let vault = AuthFile::new(disk.clone(), FILE.into(), STATE_FOLDER.into(), locks);
        let policy = Policy { min_exchange_interval: Duration::ZERO, ..Policy::new(crate::profile()) };
        let chain = "claude".parse().expect("it is a chain name");
        let (snapshots, metrics) = (Snapshots::default(), Metrics::default());
        let keeper = Keeper::new(world.clone(), chain, policy, true, vault, snapshots, metrics);
        let room = Self { disk, furniture, world, keeper };
        if let Some(record) = remembered {
            let _ = room.wait_for(room.world.state.bring_up(record, None, &[]));
        }
        room
    }

    /// Runs a future and everything that was spawned to its end.
    pub(super) fn wait_for<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut context = Context::from_waker(Waker::noop());
        let mut done = None;
        loop {
            if done.is_none()
                && let Poll::Ready(value) = future.as_mut().poll(&mut context)
            {
                done = Some(value);
            }
            let task = self.world.lock().tasks.pop_front();
            match (task, done) {
                (Some(mut task), still) => {
                    done = still;
                    // Whatever waits longer waits for a clock: it dies with this process.
                    let _ = task.as_mut().poll(&mut context);
                }
                (None, Some(value)) => return value,
                (None, None) => done = None,
            }
        }
    }

    pub(super) fn look(&self, look: Look) -> Report {
        self.wait_for(self.keeper.look(look))
    }

    /// Looks until a look changes nothing any more. A client's lock that a dead process left counts as left behind
    /// after a minute, each of the two for itself.
    pub(super) fn look_until_rest(&self) -> Report {
        let mut report = self.look_until_same();
        for _ in 0..2 {
            if report.reason == Reason::LeaseHeld {
                self.set_now(self.now() + CLIENT_LOCK_STALE);
                report = self.look_until_same();
            }
        }
        report
    }

    fn look_until_same(&self) -> Report {
        let mut before = self.disk.lock().ops.len();
        let mut report = self.look(Look::Due);
        for _ in 0..8 {
            let again = self.look(Look::Due);
            let after = self.disk.lock().ops.len();
            let rests = again.reason == report.reason && !again.refreshed && !report.refreshed;
            report = again;
            if rests || before == after {
                break;
            }
            before = after;
        }
        report
    }

    pub(super) fn import(&self, grant: Grant) -> evergrant_server::keeper::Import {
        self.wait_for(self.keeper.import(grant))
    }

    pub(super) fn now(&self) -> Timestamp {
        self.world.lock().now
    }

    pub(super) fn set_now(&self, now: Timestamp) {
        self.world.lock().now = now;
    }

    /// A person's login at the provider: the family and the content of an auth file.
    pub(super) fn log_in(&self) -> (u64, Vec<u8>) {
        let (now, mut rng) = (self.now(), self.world.rng());
        let login = self.disk.lock().engine.login(LoginOptions::default(), now, &mut rng);
        (login.family, login.auth_file().to_string().into_bytes())
    }

    pub(super) fn file(&self) -> Option<Vec<u8>> {
        self.disk.image().content(Path::new(FILE)).map(|data| data.to_vec())
    }

    pub(super) fn grant(&self) -> Option<Grant> {
        match authfile::read(&self.file()?, &crate::profile()) {
            Reading::Grant(grant) => Some(grant),
            Reading::Wiped | Reading::Malformed(_) => None,
        }
    }

    /// The record beside the file, or in the state folder.
    pub(super) fn record(&self) -> Option<Record> {
        let folder = if self.furniture.mounted { STATE_FOLDER } else { FOLDER };
        let bytes = self.disk.image().content(&PathBuf::from(folder).join("chain.json"))?.clone();
        serde_json::from_slice(&bytes).ok()
    }

    pub(super) fn counters(&self) -> Counters {
        *self.disk.lock().engine.counters()
    }
}

impl TinyWorld {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World for TinyWorld {
    type Disk = JournalDisk;
    type State = MemoryState;

    fn now(&self) -> Timestamp {
        self.lock().now
    }

    fn monotonic(&self) -> Duration {
        Duration::try_from(self.now().duration_since(epoch())).unwrap_or_default()
    }

    fn sleep(&self, _duration: Duration) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.lock().tasks.push_back(Box::pin(task));
    }

    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        work()
    }

    async fn exchange(&self, request: TokenRequest) -> Answer {
        let (now, mut rng) = (self.now(), self.rng());
        let headers: Vec<(&str, &str)> =
            request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let target = request.url.path();
        let call = Call { method: "POST", target, headers: &headers, body: request.body.as_bytes() };
        let mut behind = self.disk.lock();
        let reply = behind.engine.handle(&call, now, &mut rng);
        behind.turn(|facts| facts.kept = false);
        let complete = reply.transport == Transport::Deliver;
        let retry_after = reply.header("retry-after").map(str::to_owned);
        let body = String::from_utf8_lossy(&reply.bytes()).into_owned();
        Answer::Received { status: reply.status, retry_after, date: None, body, complete }
    }

    fn rng(&self) -> SmallRng {
        let mut shared = self.lock();
        shared.seed += 1;
        SmallRng::seed_from_u64(shared.seed)
    }

    fn state(&self) -> &MemoryState {
        &self.state
    }

    fn machine(&self) -> &str {
        "simulated"
    }
}
