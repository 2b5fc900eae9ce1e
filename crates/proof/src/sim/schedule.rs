//! What befalls a run, as data: a list of steps that is drawn from the seed, so that it can be shortened until only
//! what matters is left.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::disk::When;
use super::provider::Weather;

/// What a run is made of besides its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Of all that the steps leave open.
    pub seed: u64,
    /// Life of access tokens.
    pub life: Duration,
    /// Keepers on one auth file.
    pub keepers: usize,
}

impl Setting {
    /// After the faults end, a chain must be well again within so much time: a life, what a wall clock that was off
    /// made of it, and the back-off behind it.
    pub fn heal(&self) -> Duration {
        self.life + self.most_skew() + HOUR
    }

    /// So far may a wall clock be off.
    fn most_skew(&self) -> Duration {
        self.life.min(2 * HOUR)
    }
}

/// One misfortune, and how long the world runs on after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The misfortune.
    pub what: What,
    /// What follows it.
    pub then: Duration,
    /// Of what chance decides from here on: a step that is left out changes nothing of the later ones.
    pub salt: u64,
}

/// A misfortune. `keeper` counts from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The network changes.
    Weather(Weather),
    /// Somebody asks for an exchange.
    Force {
        /// Whom.
        keeper: usize,
    },
    /// A process dies at an await, so many polls from now.
    DieAtAwait {
        /// Whose.
        keeper: usize,
        /// See above.
        polls: u32,
    },
    /// A process dies within a file operation, so many from now; an exchange is forced.
    DieOnDisk {
        /// Whose.
        keeper: usize,
        /// See above.
        operations: u32,
    },
    /// The power goes some time after an exchange was forced.
    PowerLoss {
        /// Where.
        keeper: usize,
        /// How long after.
        after: Duration,
    },
    /// The power goes within a file operation, so many from now; an exchange is forced.
    PowerLossOnDisk {
        /// Whose operation.
        keeper: usize,
        /// See above.
        operations: u32,
    },
    /// The disk is full while an exchange is forced, and for a while.
    FullDisk {
        /// Where.
        keeper: usize,
        /// For how long.
        lasts: Duration,
    },
    /// A wall clock is off from now on.
    ClockJump {
        /// Whose.
        keeper: usize,
        /// By how much.
        secs: i64,
    },
    /// A person logs in again.
    LogIn(When),
    /// An older content of the auth file is put back.
    OlderFile {
        /// How many contents ago.
        back: usize,
        /// Byte for byte.
        exact: bool,
        /// When.
        when: When,
    },
    /// The auth file is taken away.
    TakeAway(When),
    /// What was taken away is put back.
    PutAgain(When),
    /// The auth file is written over with something unreadable.
    Garbage(When),
    /// The provider revokes every login; `told`: somebody sees the 401.
    Revoke {
        /// See above.
        told: bool,
    },
    /// Another program rotates the pair; `against`: a keeper is made to do the same.
    Foreign {
        /// When it writes.
        when: When,
        /// See above.
        against: Option<usize>,
    },
    /// Good weather: the chain has to be well again.
    Calm,
}

const HOUR: Duration = Duration::from_secs(3600);
/// Lives that are seen at providers, in seconds, and how often they are drawn.
const LIVES: [(u64, u32); 5] = [(900, 2), (3600, 3), (2 * 3600, 5), (8 * 3600, 12), (15 * 3600, 8)];
/// Runs of shorter lives are shorter, so that every run has about as many rotations.
const USUAL_LIFE: Duration = Duration::from_secs(8 * 3600);

/// Draws a run of about so many days, of so many keepers or one; of short-lived tokens it is shorter.
pub fn draw(seed: u64, days: u64, keepers: usize) -> (Setting, Vec<Step>) {
    let mut rng = SmallRng::seed_from_u64(seed);
    // One keeper alone is what most people have.
    let keepers = if rng.random_bool(0.3) { 1 } else { keepers };
    let life = draw_life(&mut rng);
    let setting = Setting { seed, life, keepers };
    let mut draw = Draw { rng, setting };
    let share = (life.as_secs_f64() / USUAL_LIFE.as_secs_f64()).min(1.0);
    let end = Duration::from_secs(days * 86_400).mul_f64(share);
    let mut steps = Vec::new();
    let mut length = Duration::ZERO;
    while length < end {
        let begun = steps.len();
        draw.storm(&mut steps, share);
        let calm = setting.heal() + draw.up_to(Duration::from_secs(4 * 86_400).mul_f64(share));
        let step = draw.step(What::Calm, calm);
        steps.push(step);
        length += steps[begun..].iter().map(|step| step.then).sum();
    }
    (setting, steps)
}

fn draw_life(rng: &mut SmallRng) -> Duration {
    let mut draw = rng.random_range(0..LIVES.iter().map(|(_, weight)| weight).sum());
    for (secs, weight) in LIVES {
        if draw < weight {
            return Duration::from_secs(secs);
        }
        draw -= weight;
    }
    USUAL_LIFE
}

struct Draw {
    rng: SmallRng,
    setting: Setting,
}

impl Draw {
    fn step(&mut self, what: What, then: Duration) -> Step {
        Step { what, then, salt: self.rng.random() }
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.rng.random_range(0..=most.as_millis() as u64))
    }

    /// As often a moment as hours.
    fn a_while(&mut self, share: f64) -> Duration {
        let exponent = self.rng.random_range(0.0..4.2 + share.log10().max(-1.0));
        Duration::from_millis((10_f64.powf(exponent) * 1_000.0) as u64)
    }

    fn storm(&mut self, steps: &mut Vec<Step>, share: f64) {
        let weather = What::Weather(self.weather());
        steps.push(self.step(weather, Duration::ZERO));
        for _ in 0..self.rng.random_range(4..24) {
            let what = self.mischief();
            let again = matches!(what, What::TakeAway(_)) && self.rng.random_bool(0.7);
            let then = self.a_while(share);
            steps.push(self.step(what, then));
            if again {
                let (when, then) = (self.when(), self.a_while(share));
                steps.push(self.step(What::PutAgain(when), then));
            }
        }
    }

    fn weather(&mut self) -> Weather {
        let outage = self.rng.random_bool(0.15);
        let mut share =
            |most: u16| if self.rng.random_bool(0.5) { self.rng.random_range(0..=most) } else { 0 };
        let mut weather = Weather {
            lost_request: share(90),
            lost_answer: share(80),
            cut: share(90),
            slow: share(90),
            late: share(90),
            not_sent: share(80),
            unavailable: share(80),
            bare_5xx: share(80),
            spent_then_5xx: share(80),
            throttled: share(80),
            blocked: share(90),
            stall: share(40),
        };
        if self.rng.random_bool(0.1) {
            // A machine that is out of breath.
            weather.stall = 300;
        }
        if outage {
            // A storm of one kind, as a provider's bad hour is.
            let calm = Weather { stall: weather.stall, ..Weather::default() };
            weather = match self.rng.random_range(0..5) {
                0 => Weather { throttled: 900, ..calm },
                1 => Weather { unavailable: 900, ..calm },
                2 => Weather { not_sent: 950, ..calm },
                3 => Weather { bare_5xx: 700, spent_then_5xx: 100, ..calm },
                _ => Weather { late: 500, slow: 400, ..calm },
            };
        }
        weather
    }

    fn when(&mut self) -> When {
        match self.rng.random_range(0..6) {
            0 => When::After(self.rng.random_range(0..60)),
            1 => When::BeforeReplace,
            _ => When::Now,
        }
    }

    fn skew(&mut self) -> i64 {
        let most = self.setting.most_skew().as_secs() as i64;
        self.rng.random_range(-most..=most)
    }

    fn mischief(&mut self) -> What {
        let keeper = self.rng.random_range(0..self.setting.keepers);
        match self.rng.random_range(0..36) {
            0..=2 => What::DieAtAwait { keeper, polls: self.rng.random_range(0..60) },
            3..=5 => What::DieOnDisk { keeper, operations: self.rng.random_range(0..90) },
            6..=9 | 32 | 33 => What::PowerLossOnDisk { keeper, operations: self.rng.random_range(0..90) },
            10 => What::PowerLoss { keeper, after: self.a_while(0.3).min(Duration::from_secs(60)) },
            11 => What::FullDisk { keeper, lasts: self.up_to(Duration::from_secs(240)) },
            12 | 13 => What::ClockJump { keeper, secs: self.skew() },
            14 | 15 => What::LogIn(self.when()),
            16 | 17 => What::OlderFile {
                back: self.rng.random_range(0..6),
                exact: self.rng.random_bool(0.5),
                when: self.when(),
            },
            18 | 19 => What::TakeAway(self.when()),
            20 => What::Garbage(self.when()),
            21 => What::Revoke { told: self.rng.random_bool(0.5) },
            22 | 23 => {
                let against = self.rng.random_bool(0.5).then_some(keeper);
                What::Foreign { when: self.when(), against }
            }
            24 | 25 => What::Weather(self.weather()),
            _ => What::Force { keeper },
        }
    }
}
