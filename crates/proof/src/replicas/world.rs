//! The world of one process: its clock, its disk, its way to the database, and the network before the provider.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::keeper::Answer;
use evergrant_core::provider::TokenRequest;
use evergrant_core::secret::Fingerprint;
use evergrant_server::World;
use futures_channel::oneshot;
use jiff::{SignedDuration, Timestamp};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Lie;
use super::database::Database;
use super::provider::{Outside, Way};
use super::reference::Fate;
use crate::sim::disk::SimDisk;
use crate::sim::executor::{Executor, ProcessId};
use crate::sim::provider::error_body;
use crate::sim::world::{PROVIDER, lock, lost, presented_token, received, true_time};

/// The world of one process.
#[derive(Clone)]
pub(super) struct ReplicaWorld {
    pub(super) executor: Executor,
    pub(super) process: ProcessId,
    pub(super) name: Arc<str>,
    pub(super) disk: SimDisk,
    pub(super) database: Database,
    pub(super) skew_secs: Arc<Mutex<i64>>,
    pub(super) begun: Duration,
}

/// An exchange that a process waits for; it ends with the wait, whatever ends that.
struct Waiting {
    outside: Arc<Mutex<Outside>>,
    number: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.outside).reference.ends(self.number);
    }
}

impl ReplicaWorld {
    fn outside(&self) -> &Arc<Mutex<Outside>> {
        &self.database.outside
    }

    /// Tells the reference that a token is sent, and draws what becomes of it.
    fn sends(&self, token: Fingerprint) -> (Way, Waiting) {
        let now = self.executor.now();
        let mut outside = lock(self.outside());
        let lives = outside.lives(token, now);
        let sender = (self.process, self.database.machine);
        let held = outside.reference.sends(now, sender, token, lives);
        let number = outside.judge(now, held).unwrap_or_default();
        let way = outside.way();
        outside.say(now, format_args!("machine {} sends {token}: {way:?}", sender.1));
        drop(outside);
        (way, Waiting { outside: self.outside().clone(), number })
    }

    fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(lock(self.outside()).rng.random_range(range))
    }

    fn told(&self, waiting: &Waiting, token: Fingerprint, fate: Fate) {
        let now = self.executor.now();
        lock(self.outside()).reference.told(now, (waiting.number, self.process), token, fate);
    }

    /// An answer that comes from somewhere before the provider.
    fn before_provider(&self, way: Way, waiting: &Waiting, token: Fingerprint) -> Option<Answer> {
        let (answer, unspent) = match way {
            Way::NotSent => (Answer::NotSent { why: "no route".into() }, true),
            Way::LostRequest => (lost(), false),
            Way::Unavailable => (received(503, None, error_body()), true),
            Way::Throttled => (received(429, None, error_body()), true),
            Way::Bare5xx => (received(502, None, "<html>".into()), false),
            Way::Fine | Way::LostAnswer | Way::Cut | Way::Slow | Way::Late | Way::SpentThen5xx => {
                return None;
            }
        };
        lock(self.outside()).befell(way, false);
        if unspent {
            self.told(waiting, token, Fate::Unspent);
        }
        Some(answer)
    }

    async fn carried(&self, request: TokenRequest) -> Answer {
        let token = presented_token(&request);
        let (way, waiting) = self.sends(token);
        self.executor.sleep(self.millis(5..50)).await;
        if let Some(answer) = self.before_provider(way, &waiting, token) {
            return answer;
        }
        let wait = if way == Way::Late {
            self.millis(31_000..850_000)
        } else if way == Way::Slow {
            self.millis(5_000..29_000)
        } else {
            self.millis(5..900)
        };
        let (answered, answer) = oneshot::channel();
        let (outside, executor) = (self.outside().clone(), self.executor.clone());
        // The provider's work goes on whether or not the asking process lives.
        self.executor.spawn(PROVIDER, async move {
            let processed = lock(&outside).process(&request, token, executor.now());
            executor.sleep(wait).await;
            let _ = answered.send(processed);
        });
        let Ok((status, mut body, next)) = answer.await else { return lost() };
        lock(self.outside()).befell(way, next.is_some());
        if way == Way::LostAnswer {
            return lost();
        }
        if way == Way::SpentThen5xx {
            return received(500, None, "<html>".into());
        }
        if way == Way::Cut {
            body.truncate(body.len() / 3);
            return Answer::Received { status, retry_after: None, date: None, body, complete: false };
        }
        match next {
            Some(successor) => self.told(&waiting, token, Fate::Spent { successor }),
            None if body.contains("invalid_grant") => self.told(&waiting, token, Fate::Refused),
            None => self.told(&waiting, token, Fate::Unspent),
        }
        received(status, None, body)
    }
}

impl World for ReplicaWorld {
    type Disk = SimDisk;
    type State = Database;

    fn now(&self) -> Timestamp {
        true_time(self.executor.now()) + SignedDuration::from_secs(*lock(&self.skew_secs))
    }
    fn monotonic(&self) -> Duration {
        self.executor.now().saturating_sub(self.begun)
    }
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send {
        self.executor.sleep(duration)
    }
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.executor.spawn(self.process, task);
    }
    async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.executor.pass().await;
        let done = work();
        self.executor.pass().await;
        done
    }
    async fn exchange(&self, request: TokenRequest) -> Answer {
        let answer = self.carried(request).await;
        match (self.database.lie, answer) {
            (Some(Lie::DoubtAsFailed), Answer::Lost { why }) => Answer::NotSent { why },
            (_, answer) => answer,
        }
    }
    fn rng(&self) -> SmallRng {
        SmallRng::seed_from_u64(lock(self.outside()).rng.random())
    }
    fn state(&self) -> &Database {
        &self.database
    }
    fn machine(&self) -> &str {
        &self.name
    }
}
