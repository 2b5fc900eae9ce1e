//! Hours and outages on simulated time: the real keeper, the real disk, the stand-in's engine behind a function
//! call, and a clock that jumps to the next wake-up.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::keeper::{Answer, Look, Policy};
use evergrant_core::provider::{ReuseClass, TokenRequest};
use evergrant_server::{Keeper, Wake, World};
use evergrant_standin::{Call, Engine, Fault, FaultTarget, LoginOptions, Rule, Settings, Transport};
use evergrant_store::{MemoryState, OsDisk};
use futures_channel::mpsc;
use jiff::Timestamp;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::fixture::{Scratch, chain, policy, profile, settings};

/// A world whose clock is tokio's paused one.
#[derive(Clone)]
pub(crate) struct PausedWorld {
    pub(crate) engine: Arc<Mutex<Engine>>,
    state: MemoryState,
    begun: tokio::time::Instant,
    /// Happens right after the next piece of work under the lock.
    afterwards: Arc<Mutex<Option<Happening>>>,
}

impl PausedWorld {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            engine: Arc::new(Mutex::new(Engine::new(settings))),
            state: MemoryState::new(),
            begun: tokio::time::Instant::now(),
            afterwards: Arc::default(),
        }
    }
}

type Happening = Box<dyn FnOnce() + Send>;

const EPOCH_SECS: i64 = 1_800_000_000;

impl World for PausedWorld {
    type Disk = OsDisk;
    type State = MemoryState;

    fn now(&self) -> Timestamp {
        Timestamp::from_second(EPOCH_SECS).unwrap() + self.monotonic()
    }
    fn monotonic(&self) -> Duration {
        self.begun.elapsed()
    }
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(task);
    }
    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let done = work();
        if let Some(happens) = self.afterwards.lock().unwrap().take() {
            happens();
        }
        done
    }
    async fn exchange(&self, request: TokenRequest) -> Answer {
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let call = Call {
            method: "POST",
            target: request.url.path(),
            headers: &headers,
            body: request.body.as_bytes(),
        };
        let reply = self.engine.lock().unwrap().handle(&call, self.now(), &mut self.rng());
        self.sleep(reply.delay).await;
        match reply.transport {
            Transport::LoseRequest | Transport::LoseAnswer => Answer::Lost { why: "closed".into() },
            Transport::NeverAnswer => std::future::pending().await,
            Transport::Deliver | Transport::CutBody { .. } => Answer::Received {
                status: reply.status,
                retry_after: reply.header("retry-after").map(str::to_owned),
                date: None,
                body: String::from_utf8(reply.bytes()[..].to_vec()).unwrap(),
                complete: matches!(reply.transport, Transport::Deliver),
            },
        }
    }
    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(self.monotonic().as_nanos() as u64)
    }
    fn state(&self) -> &MemoryState {
        &self.state
    }
    fn machine(&self) -> &str {
        "simulated"
    }
}

struct Simulated {
    scratch: Scratch,
    world: PausedWorld,
    keeper: Keeper<PausedWorld>,
}

impl Simulated {
    fn new(settings: Settings, change: impl FnOnce(&mut Policy)) -> Self {
        let scratch = Scratch::new();
        let mut policy = policy(profile("http://127.0.0.1:1", &settings));
        change(&mut policy);
        let world = PausedWorld::new(settings);
        let login =
            world.engine.lock().unwrap().login(LoginOptions::default(), world.now(), &mut world.rng());
        scratch.write(&login.auth_file());
        let keeper = scratch.keeper(world.clone(), policy);
        Self { scratch, world, keeper }
    }

    /// Runs the loop for so long, and says for how long no valid access token was published.
    async fn run(&self, span: Duration) -> Duration {
        let (wake, wakes) = mpsc::unbounded();
        let (keeper, own) = (self.keeper.clone(), wake.clone());
        let task = tokio::spawn(async move { keeper.run(wakes, own).await });
        let end = self.world.monotonic() + span;
        let step = Duration::from_secs(1);
        let mut without = Duration::ZERO;
        self.world.sleep(Duration::from_millis(1)).await;
        while self.world.monotonic() < end {
            let current = self.scratch.snapshots.current(&chain());
            if !current.is_some_and(|current| current.usable(self.world.now())) {
                without += step;
            }
            self.world.sleep(step).await;
        }
        task.abort();
        without
    }

    fn engine<T>(&self, with: impl FnOnce(&mut Engine) -> T) -> T {
        with(&mut self.world.engine.lock().unwrap())
    }
}

fn with_life(secs: u64) -> Settings {
    let mut settings = settings();
    settings.lives.access_secs = secs;
    settings
}

#[tokio::test(start_paused = true)]
async fn short_lived_tokens_are_renewed_in_time_for_an_hour() {
    for life in [60, 300] {
        let simulated = Simulated::new(with_life(life), |_| {});
        assert_eq!(simulated.run(Duration::from_secs(3600)).await, Duration::ZERO, "{life} s");
        let rotations = simulated.engine(|engine| engine.counters().rotations);
        let least = 3600 / life;
        assert!((least..=least * 5 / 2).contains(&rotations), "{life} s: {rotations} rotations");
    }
}

/// Half an hour of each kind of 5xx, just when the renewal is due.
#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_nothing() {
    for fault in [
        "empty_500",
        "html_502",
        "text_503",
        "html_504",
        "text_529",
        "overloaded_503",
        "overloaded_529",
        "request_lost",
        "timeout_408",
        "throttled",
        "blocked_403",
    ] {
        let simulated = Simulated::new(with_life(8 * 3600), |_| {});
        let due = Duration::from_secs(8 * 3600 - 3600 - 400);
        assert_eq!(simulated.run(due).await, Duration::ZERO);
        simulated.engine(|engine| {
            engine.push_rule(Rule::always(FaultTarget::Token, Fault::named(fault).unwrap()));
        });
        let without = simulated.run(Duration::from_secs(1800)).await;
        assert_eq!(without, Duration::ZERO, "{fault}");
        simulated.engine(|engine| engine.clear_faults());
        let without = simulated.run(Duration::from_secs(3600)).await;
        assert_eq!(without, Duration::ZERO, "{fault}: after the outage");
        let counters = simulated.engine(|engine| *engine.counters());
        assert!(counters.rotations >= 1, "{fault}: renewed afterwards");
        assert_eq!(counters.families_revoked_by_reuse, 0, "{fault}");
    }
}

/// A strict provider that spent the token and lost the answer: the living access token is served to its last
/// minutes, the pair is presented again then, and the end is definite.
#[tokio::test(start_paused = true)]
async fn in_doubt_at_a_strict_provider_ends_definitely() {
    for (fault, spent) in [(Fault::AnswerLost, true), (Fault::RequestLost, false)] {
        let simulated = Simulated::new(with_life(8 * 3600), |_| {});
        simulated.engine(|engine| engine.push_fault(FaultTarget::Token, fault.clone(), 1));
        assert_eq!(simulated.keeper.look(Look::Due).await.error, None);
        let report = simulated.keeper.look(Look::Forced).await;
        assert_eq!((report.error, report.token_valid), (Some(Reason::InDoubt), true));
        // Until ten minutes before its end nothing is presented, whoever asks.
        simulated.run(Duration::from_secs(8 * 3600 - 660)).await;
        assert_eq!(simulated.keeper.look(Look::Forced).await.error, Some(Reason::InDoubt));
        assert_eq!(simulated.engine(|engine| engine.counters().exchanges), 1);
        simulated.run(Duration::from_secs(3600)).await;
        let report = simulated.keeper.last_report().unwrap();
        if spent {
            assert_eq!(report.error, Some(Reason::RefreshTokenRevoked));
            assert_eq!(simulated.engine(|engine| engine.counters().exchanges), 2, "not a loop");
        } else {
            assert_eq!((report.error, report.token_valid), (None, true));
            assert_eq!(simulated.engine(|engine| engine.counters().rotations), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_reuse_harms_nothing_a_doubt_is_retried_and_a_refusal_confirmed_once() {
    let settings =
        Settings { reuse: serde_json::from_str(r#"{"class":"none"}"#).unwrap(), ..with_life(8 * 3600) };
    let simulated = Simulated::new(settings, |policy| policy.profile.reuse = ReuseClass::None);
    simulated.engine(|engine| engine.push_fault(FaultTarget::Token, Fault::RequestLost, 3));
    simulated.keeper.look(Look::Due).await;
    assert_eq!(simulated.keeper.look(Look::Forced).await.error, Some(Reason::InDoubt));
    assert_eq!(simulated.run(Duration::from_secs(900)).await, Duration::ZERO);
    assert_eq!(simulated.engine(|engine| engine.counters().rotations), 1);

    simulated.engine(|engine| {
        let now = simulated.world.now();
        engine.revoke_all(now)
    });
    assert_eq!(simulated.keeper.look(Look::Forced).await.error, Some(Reason::RefreshTokenRevoked));
    let asked = simulated.engine(|engine| engine.counters().exchanges);
    simulated.run(Duration::from_secs(3600)).await;
    assert_eq!(simulated.engine(|engine| engine.counters().exchanges), asked + 1, "confirmed once");
}

/// A provider that throttles for an hour is called blocking, and is not asked more often than it wants.
#[tokio::test(start_paused = true)]
async fn retry_after_is_kept_and_a_lasting_429_is_a_block() {
    let simulated = Simulated::new(with_life(8 * 3600), |_| {});
    simulated.keeper.look(Look::Due).await;
    let throttled = Rule::always(FaultTarget::Token, Fault::throttled(Some(600)));
    simulated.engine(|engine| engine.push_rule(throttled));
    assert_eq!(simulated.keeper.look(Look::Forced).await.error, Some(Reason::ProviderThrottled));
    assert_eq!(simulated.keeper.look(Look::Forced).await.error, Some(Reason::ProviderThrottled));
    assert_eq!(
        simulated.engine(|engine| engine.counters().exchanges),
        1,
        "Retry-After binds a forced one too"
    );
    simulated.run(Duration::from_secs(8 * 3600)).await;
    assert_eq!(simulated.keeper.last_report().unwrap().error, Some(Reason::ProviderBlocked));
    let asked = simulated.engine(|engine| engine.counters().exchanges);
    assert!(asked <= 1 + 8 * 6, "{asked} exchanges");
}

/// The edit falls between a look's reading and its end: what tells of it must not be taken for old news.
#[tokio::test(start_paused = true)]
async fn an_edit_right_behind_a_look_is_seen_at_once() {
    let simulated = Simulated::new(settings(), |_| {});
    let (wake, wakes) = mpsc::unbounded();
    let (file, mut rng) = (simulated.scratch.file.clone(), SmallRng::seed_from_u64(1));
    let now = simulated.world.now();
    let login = simulated.engine(|engine| engine.login(LoginOptions::default(), now, &mut rng).auth_file());
    let tell = wake.clone();
    *simulated.world.afterwards.lock().unwrap() = Some(Box::new(move || {
        std::fs::write(&file, login.to_string()).unwrap();
        tell.unbounded_send(Wake::FileChanged).unwrap();
    }));
    let keeper = simulated.keeper.clone();
    let task = tokio::spawn(async move { keeper.run(wakes, wake).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = simulated.keeper.last_report().unwrap();
    assert_eq!((report.lineage.unwrap().0, report.reason), (2, Reason::Adopted));
    task.abort();
}
