//! Hours and outages of minted chains on simulated time: the real loop, the stand-in's engine behind a function call,
//! and a clock that jumps to the next wake-up.

use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::keeper::Look;
use evergrant_server::metrics::Metrics;
use evergrant_server::minter::Grounds;
use evergrant_server::{Minter, Renewable, Snapshots, World};
use evergrant_standin::{Engine, Fault, FaultTarget, Rule, Settings};
use futures_channel::mpsc;

use crate::fixture::{chain, policy, profile};
use crate::minting::{federated, members};
use crate::simulated_time::PausedWorld;

struct Simulated {
    _folder: tempfile::TempDir,
    world: PausedWorld,
    snapshots: Snapshots,
    minter: Minter<PausedWorld>,
}

impl Simulated {
    fn new(life_secs: u64) -> Self {
        let mut settings = federated();
        settings.lives.access_secs = life_secs;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token.jwt");
        std::fs::write(&file, &settings.assertions[0]).unwrap();
        let policy = policy(profile("http://127.0.0.1:1", &settings));
        let world = PausedWorld::new(settings);
        let grounds = Grounds { identity_token_file: Some(file), members: members() };
        let snapshots = Snapshots::default();
        let minter =
            Minter::new(world.clone(), chain(), policy, grounds, snapshots.clone(), Metrics::default());
        Self { _folder: folder, world, snapshots, minter }
    }

    /// Runs the loop for so long, and says for how long no valid access token was published.
    async fn run(&self, span: Duration) -> Duration {
        let (_wake, wakes) = mpsc::unbounded();
        let minter = self.minter.clone();
        let task = tokio::spawn(async move { minter.run(wakes).await });
        let end = self.world.monotonic() + span;
        let step = Duration::from_secs(1);
        let mut without = Duration::ZERO;
        self.world.sleep(Duration::from_millis(1)).await;
        while self.world.monotonic() < end {
            let current = self.snapshots.current(&chain());
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

#[tokio::test(start_paused = true)]
async fn tokens_of_any_life_are_renewed_in_time() {
    for life in [60_u64, 300, 3600, 8 * 3600] {
        let simulated = Simulated::new(life);
        let hours = 24;
        assert_eq!(simulated.run(Duration::from_secs(hours * 3600)).await, Duration::ZERO, "{life} s");
        let exchanges = simulated.engine(|engine| engine.counters().exchanges);
        let least = hours * 3600 / life;
        assert!((least..=least * 5 / 2 + 1).contains(&exchanges), "{life} s: {exchanges} exchanges");
    }
}

/// A third of the life of each kind of failure, just when the renewal is due.
#[tokio::test(start_paused = true)]
async fn a_short_outage_costs_nothing() {
    for fault in [
        "empty_500",
        "html_502",
        "overloaded_503",
        "request_lost",
        "answer_lost",
        "throttled",
        "blocked_403",
        "not_a_token",
    ] {
        let simulated = Simulated::new(3600);
        assert_eq!(simulated.run(Duration::from_secs(1600)).await, Duration::ZERO);
        let rule = Rule::always(FaultTarget::Token, Fault::named(fault).unwrap());
        simulated.engine(|engine| engine.push_rule(rule));
        assert_eq!(simulated.run(Duration::from_secs(1200)).await, Duration::ZERO, "{fault}");
        let asked = simulated.engine(|engine| engine.counters().exchanges);
        assert!(asked <= 40, "{fault}: {asked} exchanges in 20 min");
        simulated.engine(Engine::clear_faults);
        assert_eq!(simulated.run(Duration::from_secs(3600)).await, Duration::ZERO, "{fault}: afterwards");
        assert_eq!(simulated.minter.last_report().unwrap().error, None, "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_kept_and_a_lasting_429_is_a_block() {
    let simulated = Simulated::new(3600);
    simulated.minter.look(Look::Due).await;
    let throttled = Rule::always(FaultTarget::Token, Fault::throttled(Some(600)));
    simulated.engine(|engine| engine.push_rule(throttled));
    simulated.run(Duration::from_secs(8 * 3600)).await;
    assert_eq!(simulated.minter.last_report().unwrap().error, Some(Reason::ProviderBlocked));
    let asked = simulated.engine(|engine| engine.counters().exchanges);
    assert!(asked <= 1 + 8 * 6, "{asked} exchanges");
    simulated.engine(Engine::clear_faults);
    simulated.run(Duration::from_secs(700)).await;
    assert_eq!(simulated.minter.last_report().unwrap().error, None);
}

/// A provider that says no life: an hour is assumed, then the last one that was said.
#[tokio::test(start_paused = true)]
async fn a_life_that_nobody_says_is_assumed() {
    let simulated = Simulated::new(600);
    simulated.engine(|engine| {
        let silent =
            Settings { omit: vec![evergrant_standin::Member::ExpiresIn], ..engine.settings().clone() };
        *engine.settings_mut() = silent;
    });
    let life = |report: evergrant_core::keeper::Report| {
        report.expires_at.unwrap().duration_since(simulated.world.now()).as_secs()
    };
    assert_eq!(life(simulated.minter.look(Look::Due).await), 3600);
    simulated.engine(|engine| engine.settings_mut().omit.clear());
    assert_eq!(life(simulated.minter.look(Look::Forced).await), 600);
    simulated.engine(|engine| engine.settings_mut().omit.push(evergrant_standin::Member::ExpiresIn));
    assert_eq!(life(simulated.minter.look(Look::Forced).await), 600);
}
