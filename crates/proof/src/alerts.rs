//! Simulates health monitors and alerters for months: several processes on one state, killed at random moments, a
//! state that fails at times to write down what was delivered, an agent that falls silent and fails, a provider that
//! flaps, and a sink that is down for hours. What they do is held against a small reference that knows only what was
//! true when (SPEC §6, I8).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::alert::{Alert, AlertState, Condition, Episode, EpisodeId, Links, Reminding};
use evergrant_core::health::TICK;
use evergrant_server::World as _;
use evergrant_server::alert::Alerter;
use evergrant_server::health::{Alerting, Monitor};
use evergrant_store::{HealthState as _, MemoryState};
use futures_channel::mpsc;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::sim::executor::{Executor, ProcessId};
use world::{AlertWorld, Reached, Shaky, Sink, Told, Truth, locked};

mod world;

pub use world::Lie;

const SINK: &str = "chat";
/// A condition that has held for so long is in an open episode, and one that has not held for longer than its hold
/// and so long is in none: two looks, and the time that they take.
const SEEN_WITHIN: Duration = Duration::from_secs(150);
const LONGEST_HOLD: Duration = Duration::from_secs(6 * 3600);
/// After the last misfortune the world is left alone for so long.
const CALM: Duration = Duration::from_secs(14 * 3600);

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Simulated days.
    pub days: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Episodes.
    pub episodes: u64,
    /// Alerts that the sink took, each once.
    pub alerts: u64,
    /// Alerts that it took once more, since their process was killed before it wrote that down.
    pub again: u64,
    /// Attempts that it did not take.
    pub turned_away: u64,
    /// What did not hold; a run ends with the first.
    pub violation: Option<String>,
}

/// Runs one seed with so many processes.
pub fn run(seed: u64, days: u64, processes: usize, lie: Option<Lie>) -> Outcome {
    let mut run = Run::new(seed, processes, lie);
    let end = Duration::from_secs(days * 86_400);
    let violation = run.go_on(end).or_else(|| run.calm_down(end + CALM)).or_else(|| run.judge());
    Outcome { days, violation, ..run.outcome }
}

struct Run {
    executor: Executor,
    rng: SmallRng,
    state: MemoryState,
    truth: Arc<Mutex<Truth>>,
    sink: Arc<Sink>,
    lie: Option<Lie>,
    /// The process at each place, or when it starts again.
    places: Vec<Place>,
    next_process: ProcessId,
    /// Since when some process has been up without a break.
    watched_since: Option<Duration>,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
enum Place {
    Up(ProcessId),
    Down { until: Duration },
}

impl Run {
    fn new(seed: u64, processes: usize, lie: Option<Lie>) -> Self {
        let executor = Executor::new(seed);
        Self {
            rng: SmallRng::seed_from_u64(seed ^ 0x5eed),
            state: MemoryState::new(),
            truth: Arc::new(Mutex::new(Truth::new(&executor))),
            sink: Arc::new(Sink::new(&executor, seed)),
            lie,
            places: vec![Place::Down { until: Duration::ZERO }; processes],
            next_process: 1,
            watched_since: None,
            outcome: Outcome::default(),
            executor,
        }
    }

    fn world(&self, process: ProcessId) -> AlertWorld {
        let state = Shaky::new(&self.executor, &self.state, self.lie, &self.sink);
        AlertWorld::new(&self.executor, process, state)
    }

    fn start(&mut self, place: usize) {
        let process = self.next_process;
        self.next_process += 1;
        let world = self.world(process);
        let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
        let sinks = Arc::new(|_: &Alert| vec![SINK.to_owned()]);
        let alerting = Alerting { links, reminding: Reminding::default(), sinks };
        let chains = Told::all(&self.truth);
        let monitor = Monitor::new(world.clone(), chains, alerting);
        // Nobody pokes: the sender lives as long as its process.
        let (poke, pokes) = mpsc::unbounded();
        let (other, others) = mpsc::unbounded();
        let reached = Arc::new(Reached { sink: self.sink.clone(), process });
        let alerter = Alerter::new(world, [SINK.to_owned()], &process.to_string(), reached);
        self.executor.spawn(process, async move {
            monitor.run(pokes).await;
            drop(poke);
        });
        self.executor.spawn(process, async move {
            alerter.run(others).await;
            drop(other);
        });
        self.places[place] = Place::Up(process);
    }

    /// Minute by minute: misfortunes, then the world runs, then what must hold is looked at.
    fn go_on(&mut self, end: Duration) -> Option<String> {
        while self.executor.now() < end {
            self.misfortunes();
            self.agent();
            let violation = self.minute();
            if violation.is_some() {
                return violation;
            }
        }
        None
    }

    fn minute(&mut self) -> Option<String> {
        let now = self.executor.now();
        for place in 0..self.places.len() {
            if matches!(self.places[place], Place::Down { until } if until <= now) {
                self.start(place);
            }
        }
        let until = now + TICK;
        while self.executor.now() < until {
            match self.executor.step(until) {
                crate::sim::executor::Ran::Idle => break,
                crate::sim::executor::Ran::Polled(_) => {}
                crate::sim::executor::Ran::Died { process, .. } => self.died(process),
            }
        }
        let up = self.places.iter().any(|place| matches!(place, Place::Up(_)));
        self.watched_since = if up { self.watched_since.or(Some(now)) } else { None };
        self.check()
    }

    fn died(&mut self, process: ProcessId) {
        self.outcome.kills += 1;
        self.sink.died(process);
        let pause = Duration::from_secs(self.rng.random_range(1..1200));
        let until = self.executor.now() + pause;
        for place in &mut self.places {
            if matches!(place, Place::Up(up) if *up == process) {
                *place = Place::Down { until };
            }
        }
    }

    fn misfortunes(&mut self) {
        let now = self.executor.now();
        for place in self.places.clone() {
            if let Place::Up(process) = place
                && self.rng.random_bool(0.01)
            {
                // At one of its next awaits: within a look, between claim and delivery, or after it.
                self.executor.doom(process, self.rng.random_range(0..60));
            }
        }
        locked(&self.truth).drift(&mut self.rng, now);
        self.sink.drift(&mut self.rng);
    }

    /// What the workstation's agent sends in this minute.
    fn agent(&self) {
        let world = self.world(0);
        let seen = locked(&self.truth).heard(world.now());
        for (seen, event) in seen {
            // A state in memory is never pending.
            let add = self.state.add_push(&seen, &event, None);
            let done = futures_now(add);
            done.expect("a state in memory always answers");
        }
    }

    fn calm_down(&mut self, end: Duration) -> Option<String> {
        self.executor.spare();
        let now = self.executor.now();
        for place in &mut self.places {
            if let Place::Down { until } = place {
                *until = now;
            }
        }
        self.sink.heal();
        locked(&self.truth).heal(now);
        while self.executor.now() < end {
            self.agent();
            let violation = self.minute();
            if violation.is_some() {
                return violation;
            }
        }
        None
    }

    fn all_episodes(&self) -> Vec<Episode> {
        futures_now(self.state.episodes(None, usize::MAX)).expect("a state in memory always answers")
    }

    /// The book against what is true: nothing is missed, nothing stays open, never two of one.
    fn check(&self) -> Option<String> {
        let now = self.executor.now();
        let watched_for = self.watched_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        let truth = locked(&self.truth);
        let chains: Vec<_> = truth.chains().cloned().collect();
        let book = futures_now(self.state.book(&chains, epoch));
        let episodes = book.expect("a state in memory always answers").episodes;
        for chain in truth.chains() {
            let open: Vec<_> = episodes.iter().filter(|one| one.chain == *chain && one.is_open()).collect();
            let conditions: BTreeSet<_> = open.iter().map(|episode| episode.condition).collect();
            if conditions.len() != open.len() {
                return Some(format!("two open episodes of one condition on {chain} at {now:?}"));
            }
            let on_track = [Condition::MacSilent, Condition::Failed, Condition::Stale];
            if on_track.iter().filter(|condition| conditions.contains(condition)).count() > 1 {
                return Some(format!("two open episodes on the push track of {chain} at {now:?}"));
            }
            for (condition, holds, since) in truth.steady(chain) {
                let steady = now.saturating_sub(since).min(watched_for);
                let holding = open.iter().any(|one| one.condition == condition && one.holds());
                if holds && steady > SEEN_WITHIN && !holding {
                    return Some(format!(
                        "{condition} of {chain} has held for {steady:?}, and no episode holds"
                    ));
                }
                if !holds && steady > LONGEST_HOLD + SEEN_WITHIN && conditions.contains(&condition) {
                    return Some(format!(
                        "{condition} of {chain} ended {steady:?} ago, and its episode is open"
                    ));
                }
            }
        }
        None
    }

    /// The sink against the book: each opening and closing was told, once, in order.
    fn judge(&mut self) -> Option<String> {
        let episodes = self.all_episodes();
        let got = self.sink.got();
        self.outcome.episodes = episodes.len() as u64;
        self.outcome.turned_away = self.sink.turned_away();
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        for alert in &got {
            *times.entry(&alert.id).or_default() += 1;
        }
        self.outcome.alerts = times.len() as u64;
        self.outcome.again = got.len() as u64 - times.len() as u64;
        if self.outcome.again > self.sink.cut_short() {
            let (again, cut) = (self.outcome.again, self.sink.cut_short());
            return Some(format!(
                "{again} alerts came once more, and {cut} times a kill fell between a delivery and its record"
            ));
        }
        let first = |id: &EpisodeId, state| {
            let tells =
                |alert: &Alert| alert.state == state && alert.concerned.iter().any(|one| one.episode == *id);
            got.iter().position(tells)
        };
        let distinct = |id: &EpisodeId, state| {
            let tells =
                |alert: &&Alert| alert.state == state && alert.concerned.iter().any(|one| one.episode == *id);
            got.iter().filter(tells).map(|alert| &alert.id).collect::<BTreeSet<_>>().len()
        };
        let replaced: BTreeSet<_> = episodes.iter().filter_map(|episode| episode.replaces.clone()).collect();
        // What gave way to another status of the push track ends with what tells of that one first.
        let told: BTreeSet<_> = got.iter().flat_map(|alert| alert.replaces.clone()).collect();
        if let Some(untold) = replaced.difference(&told).next() {
            return Some(format!("nothing told the sink that {untold} gave way"));
        }
        for episode in &episodes {
            let id = &episode.id;
            if episode.is_open() || episode.owed {
                return Some(format!("{id} is still open or owed after {CALM:?} of calm"));
            }
            let (opened, closed) = (distinct(id, AlertState::Open), distinct(id, AlertState::Closed));
            let announced = usize::from(episode.announced_at.is_some());
            if opened != announced {
                return Some(format!(
                    "{id} was announced {announced} times in the book, and {opened} times to the sink"
                ));
            }
            let speaks = announced == 1 || episode.replaces.is_some();
            let expected = usize::from(speaks && !gave_way(episode, &episodes));
            if closed != expected {
                return Some(format!("{id} was closed {closed} times to the sink, not {expected} times"));
            }
            match (first(id, AlertState::Open), first(id, AlertState::Closed)) {
                (Some(open), Some(close)) if close < open => {
                    return Some(format!("{id} closed before it opened"));
                }
                (None, Some(_)) if episode.replaces.is_none() => {
                    return Some(format!("{id} closed and was never opened"));
                }
                (Some(_) | None, Some(_) | None) => {}
            }
        }
        None
    }
}

/// One status of the push track gives way to another at once, and that one tells of it.
fn gave_way(episode: &Episode, all: &[Episode]) -> bool {
    let on_track = |episode: &Episode| {
        matches!(episode.condition, Condition::MacSilent | Condition::Failed | Condition::Stale)
    };
    let follows = |next: &Episode| {
        next.chain == episode.chain
            && on_track(next)
            && Some(next.opened_at) == episode.closed_at
            && next.id != episode.id
    };
    on_track(episode) && all.iter().any(follows)
}

/// The result of a future that is never pending.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => unreachable!("a state in memory never waits"),
    }
}
