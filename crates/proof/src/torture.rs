//! Torture: two real `evergrant serve` processes with two states on one auth file, and a foreign client, against
//! the strict stand-in on real sockets. They are killed, stopped, cut off and starved of disk, and the provider's own
//! counters and log say whether a login was ever lost by a fault of ours.
//!
//! One end is nobody's fault here and is counted as `undelivered`: the provider spent the token, and its answer reached
//! nobody (it was lost or cut, or its process was killed before the receipt). What was in a receipt or in the file counts
//! as delivered; to present its predecessor is a violation, whoever did it.

mod client;
mod ledger;
mod process;
mod vault;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evergrant_core::provider::Profile;
use evergrant_server::http::HttpClient;
use evergrant_standin::{Fault, FaultTarget, LoginOptions, Settings, StandIn};
use jiff::SignedDuration;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use client::{ForeignClient, Presented, Renewal};
use ledger::Ledger;
use process::Machine;
use vault::Ballast;

/// Life of an access token: it is renewed after half of it.
const LIFE_SECS: u64 = 1;
/// How long a process waits for an answer; the least that stops and late answers have to exceed.
const DEADLINE: Duration = Duration::from_secs(3);
/// How much later than its deadline a late answer may come.
const LATE: SignedDuration = SignedDuration::from_millis(1_500);
const TICK: Duration = Duration::from_millis(4);
const STORM: Duration = Duration::from_secs(20);
/// In a calm the chain must be well within this.
const CALM: Duration = Duration::from_secs(15);
/// A wait that the chain's own record asks for is granted up to this.
const MOST_BACK_OFF: Duration = Duration::from_secs(120);

/// What is tortured, where and for how long.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary.
    pub binary: PathBuf,
    /// An existing folder for logs, which stays.
    pub scratch: PathBuf,
    /// An existing folder for homes, states and the auth file.
    pub room: PathBuf,
    /// The room is a small file system of its own, which may be filled up.
    pub may_fill: bool,
    /// For so long.
    pub time: Duration,
    /// Of all draws.
    pub seed: u64,
}

/// What it came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// `kill -9`.
    pub kills: u64,
    /// Those of them that were aimed at an exchange in flight or just answered.
    pub aimed: u64,
    /// Stops shorter than a deadline.
    pub short_stops: u64,
    /// Stops longer than a deadline.
    pub long_stops: u64,
    /// Times that the disk was full for a while; `None`: this part was left out.
    pub full_disks: Option<u64>,
    /// Answers that were lost, cut or replaced after the token was spent.
    pub cut_answers: u64,
    /// Other faults of the provider.
    pub faults: u64,
    /// Rotations that the provider counted.
    pub rotations: u64,
    /// Those of them by the foreign client.
    pub by_client: u64,
    /// Logins by a person.
    pub logins: u64,
    /// Families that ended because an answer never reached anybody.
    pub undelivered: u64,
    /// Families that the provider revoked for reuse; each was undelivered, or is a violation.
    pub revoked_by_reuse: u64,
    /// The most exchanges at one time, within their deadline and with a living process.
    pub most_in_flight: u64,
    /// Calms after which the chain was well.
    pub calms: u64,
    /// What did not hold.
    pub violations: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = self.full_disks.map_or("left out".into(), |times| times.to_string());
        write!(
            f,
            "kills {} (aimed {}), stops {} short and {} past the deadline, disks full {full}, answers cut {}, other faults {}, \
             rotations {} (by the foreign client {}), logins {}, undelivered ends {}, families revoked by reuse {}, \
             exchanges at once {}, calms {}, violations {}",
            self.kills,
            self.aimed,
            self.short_stops,
            self.long_stops,
            self.cut_answers,
            self.faults,
            self.rotations,
            self.by_client,
            self.logins,
            self.undelivered,
            self.revoked_by_reuse,
            self.most_in_flight,
            self.calms,
            self.violations.len(),
        )
    }
}

/// Runs it. `told` hears how it stands after each calm.
pub fn run(options: &Options, told: impl FnMut(&Outcome)) -> io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut torture = Torture::start(options).await?;
        torture.go_on(told).await?;
        Ok(torture.outcome())
    })
}

struct Torture<'a> {
    options: &'a Options,
    rng: SmallRng,
    standin: StandIn,
    auth_file: PathBuf,
    machines: [Machine; 2],
    client: ForeignClient,
    ledger: Ledger,
    ballast: Option<Ballast>,
    /// What ends when: a stop, a full disk, a death.
    until: [Option<Instant>; 2],
    stopped: [bool; 2],
    disk_until: Option<Instant>,
    client_at: Instant,
    log_in_at: Option<Instant>,
    counts: Outcome,
}

#[expect(clippy::disallowed_methods, reason = "real processes are tortured in real time")]
fn now() -> Instant {
    Instant::now()
}

fn settings() -> Settings {
    let profile = Profile::claude();
    let mut settings = Settings {
        token_path: profile.token_url.path().to_owned(),
        access_prefix: profile.access_prefix.unwrap_or_default(),
        refresh_prefix: profile.refresh_prefix.unwrap_or_default(),
        log_kept: 65_536,
        families_kept: 65_536,
        ..Settings::default()
    };
    settings.lives.access_secs = LIFE_SECS;
    settings
}

impl<'a> Torture<'a> {
    async fn start(options: &'a Options) -> io::Result<Self> {
        let standin = StandIn::start(settings()).await.map_err(io::Error::other)?;
        let folder = options.room.join("grant");
        std::fs::create_dir_all(&folder)?;
        let auth_file = folder.join("auth.json");
        let login = standin.engine().login(LoginOptions::default()).auth_file();
        vault::write(&auth_file, "person", login.to_string().as_bytes())?;
        let mut machines = [
            Machine::new("one", options, &standin, &auth_file)?,
            Machine::new("other", options, &standin, &auth_file)?,
        ];
        for machine in &mut machines {
            machine.start()?;
        }
        let token_url = standin.token_url().parse().map_err(io::Error::other)?;
        let presented = Presented::default();
        let client = ForeignClient {
            auth_file: auth_file.clone(),
            profile: Profile { token_url, ..Profile::claude() },
            http: HttpClient::new(None).map_err(io::Error::other)?,
            standin: standin.engine().clone(),
            presented: presented.clone(),
        };
        let ledger = Ledger::new(standin.engine().clone(), auth_file.clone(), presented);
        let counts = Outcome { full_disks: options.may_fill.then_some(0), ..Outcome::default() };
        let rng = SmallRng::seed_from_u64(options.seed);
        let (until, stopped) = ([None; 2], [false; 2]);
        let (ballast, disk_until, log_in_at, client_at) = (None, None, None, now());
        Ok(Self {
            options,
            rng,
            standin,
            auth_file,
            machines,
            client,
            ledger,
            ballast,
            until,
            stopped,
            disk_until,
            client_at,
            log_in_at,
            counts,
        })
    }

    fn outcome(&self) -> Outcome {
        let counters = self.standin.engine().counters();
        Outcome {
            cut_answers: self.ledger.cut_answers,
            rotations: counters.rotations,
            logins: counters.logins,
            undelivered: self.ledger.undelivered(),
            revoked_by_reuse: counters.families_revoked_by_reuse,
            most_in_flight: self.ledger.most_in_flight(),
            violations: self.ledger.violations.clone(),
            ..self.counts.clone()
        }
    }

    fn fine(&self) -> bool {
        self.ledger.violations.is_empty()
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(least..=most))
    }

    async fn go_on(&mut self, mut told: impl FnMut(&Outcome)) -> io::Result<()> {
        let end = now() + self.options.time;
        while self.fine() && now() < end {
            let storm_ends = (now() + STORM).min(end);
            while self.fine() && now() < storm_ends {
                self.mischief().await?;
                let pause = self.millis(5, 150);
                self.run_for(pause).await?;
            }
            if self.fine() {
                self.calm().await?;
            }
            told(&self.outcome());
        }
        Ok(())
    }

    /// Lets time pass, and ends what is to end.
    async fn run_for(&mut self, span: Duration) -> io::Result<()> {
        let end = now() + span;
        while now() < end && self.fine() {
            self.ledger.follow();
            for index in 0..self.machines.len() {
                if let Some(ended) = self.machines[index].ended() {
                    // Where the disk is full, its state cannot be opened.
                    if self.ballast.is_none() {
                        self.ledger.violation(ended);
                    }
                    self.until[index] = Some(now() + Duration::from_millis(200));
                }
                if self.until[index].is_some_and(|until| now() >= until) {
                    self.go_on_with(index)?;
                }
            }
            if self.disk_until.is_some_and(|until| now() >= until) {
                (self.disk_until, self.ballast) = (None, None);
            }
            self.person()?;
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Continues a process that was stopped, or starts one that was killed.
    fn go_on_with(&mut self, index: usize) -> io::Result<()> {
        self.until[index] = None;
        if std::mem::take(&mut self.stopped[index]) {
            self.machines[index].signal(Signal::CONT);
        }
        if self.machines[index].runs() { Ok(()) } else { self.machines[index].start() }
    }

    /// Logs in again where an answer is lost, at once or late; a login that ended otherwise is a violation.
    fn person(&mut self) -> io::Result<()> {
        let Ok(token) = vault::refresh_token(&self.auth_file) else { return Ok(()) };
        match self.ledger.end_of(&token) {
            None => self.log_in_at = None,
            Some(Err(why)) => self.ledger.violation(format!("the login is lost: {why}")),
            Some(Ok(_)) => {
                let patience = self.millis(0, 1_500);
                let at = *self.log_in_at.get_or_insert(now() + patience);
                if now() >= at && self.ballast.is_none() {
                    self.ledger.given_up(&token);
                    self.log_in()?;
                }
            }
        }
        Ok(())
    }

    fn log_in(&mut self) -> io::Result<()> {
        self.log_in_at = None;
        let login = self.standin.engine().login(LoginOptions::default()).auth_file();
        vault::write(&self.auth_file, "person", login.to_string().as_bytes())
    }

    async fn mischief(&mut self) -> io::Result<()> {
        let index = self.rng.random_range(0..self.machines.len());
        match self.rng.random_range(0..100) {
            0..55 => self.kill(index).await?,
            55..65 => self.stop(index),
            65..82 => self.fault(),
            82..85 => self.fill_disk(),
            _ => self.let_client_renew().await?,
        }
        Ok(())
    }

    async fn kill(&mut self, index: usize) -> io::Result<()> {
        if !self.machines[index].runs() {
            return Ok(());
        }
        if self.rng.random_bool(0.6) {
            // Within an exchange, or just behind it: there a rotation is most vulnerable.
            let begun = self.standin.engine().counters().exchanges;
            let patience = now() + Duration::from_millis(300);
            while self.standin.engine().counters().exchanges == begun && now() < patience {
                self.ledger.follow();
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            self.counts.aimed += 1;
            let micros = self.rng.random_range(0..25_000);
            tokio::time::sleep(Duration::from_micros(micros)).await;
        }
        self.machines[index].kill();
        self.ledger.killed();
        self.counts.kills += 1;
        let pause = self.millis(0, 150);
        (self.stopped[index], self.until[index]) = (false, Some(now() + pause));
        Ok(())
    }

    fn stop(&mut self, index: usize) {
        if self.stopped[index] || !self.machines[index].runs() {
            return;
        }
        let long = self.rng.random_bool(0.1);
        let deadline = DEADLINE.as_millis() as u64;
        let span = if long { self.millis(deadline + 200, deadline + 2_000) } else { self.millis(5, 500) };
        if long {
            self.counts.long_stops += 1
        } else {
            self.counts.short_stops += 1
        }
        self.machines[index].signal(Signal::STOP);
        self.ledger.stopped(span);
        (self.stopped[index], self.until[index]) = (true, Some(now() + span));
    }

    fn fault(&mut self) {
        let deadline = DEADLINE.as_millis() as u64;
        let named = |name| Fault::named(name).unwrap_or(Fault::AnswerLost);
        let fault = match self.rng.random_range(0..40) {
            0..12 => Fault::DelayBefore { millis: self.rng.random_range(1..250) },
            12..26 => Fault::DelayAfter { millis: self.rng.random_range(1..250) },
            26 => Fault::DelayAfter { millis: self.rng.random_range(deadline + 50..deadline + 1_200) },
            27 => Fault::AnswerLost,
            28 => Fault::CutBody { after_bytes: self.rng.random_range(0..60) },
            29 => named("truncated_json"),
            30 => named("spent_then_500"),
            31 | 32 => Fault::RequestLost,
            33 => named("html_502"),
            34 => named("timeout_408"),
            35 | 36 => named("overloaded_503"),
            37 => named("throttled"),
            _ => named("text_503"),
        };
        if self.standin.engine().with(|engine| engine.faults().len()) < 3 {
            self.counts.faults += 1;
            self.standin.engine().push_fault(FaultTarget::Token, fault, 1);
        }
    }

    fn fill_disk(&mut self) {
        if self.options.may_fill && self.ballast.is_none() {
            self.ballast = Some(Ballast::fill(&self.options.room));
            let span = self.millis(100, 2_500);
            self.disk_until = Some(now() + span);
            self.counts.full_disks = self.counts.full_disks.map(|times| times + 1);
        }
    }

    async fn let_client_renew(&mut self) -> io::Result<()> {
        if self.ballast.is_some() || now() < self.client_at {
            return Ok(());
        }
        let engine = self.standin.engine().clone();
        let log_in = || engine.login(LoginOptions::default()).auth_file().to_string().into_bytes();
        let renewal = {
            let renewal = self.client.renew(log_in);
            tokio::pin!(renewal);
            // The provider's log is followed meanwhile.
            loop {
                tokio::select! {
                    renewal = &mut renewal => break renewal,
                    () = tokio::time::sleep(TICK) => self.ledger.follow(),
                }
            }
        };
        match renewal {
            Ok(Renewal::Busy | Renewal::Lost | Renewal::Refused) => {}
            Ok(Renewal::Done) => self.counts.by_client += 1,
            Err(what) => self.ledger.violation(what),
        }
        self.client_at = now() + self.millis(200, 1_500);
        Ok(())
    }

    /// No more misfortunes: the chain must be well soon.
    async fn calm(&mut self) -> io::Result<()> {
        self.standin.engine().clear_faults();
        (self.disk_until, self.ballast) = (None, None);
        for index in 0..self.machines.len() {
            self.go_on_with(index)?;
        }
        let begun = now();
        let rotations = self.standin.engine().counters().rotations;
        loop {
            self.run_for(Duration::from_millis(100)).await?;
            if !self.fine() || self.is_well(rotations) {
                self.counts.calms += u64::from(self.fine());
                return Ok(());
            }
            let waited = begun.elapsed();
            if waited > CALM && (!self.backs_off() || waited > MOST_BACK_OFF) {
                let record = vault::record(&self.auth_file);
                self.ledger.violation(format!("L3: not well {waited:?} after the faults ended: {record:?}"));
                return Ok(());
            }
        }
    }

    /// Two rotations since, the newest pair in the file, nothing open.
    fn is_well(&self, rotations: u64) -> bool {
        let engine = self.standin.engine();
        let Ok(token) = vault::refresh_token(&self.auth_file) else { return false };
        let at = engine.now();
        let newest = engine.with(|engine| {
            let lives = engine.family_lives(&token, at);
            let spent = |exchange: &evergrant_standin::Exchange| {
                exchange.presented == Some(evergrant_standin::Fingerprint::of(&token))
                    && exchange.issued.is_some()
            };
            lives && !engine.exchanges().rev().take(64).any(spent)
        });
        let record = vault::record(&self.auth_file).unwrap_or_default();
        let open = record["standing"]["is"] != "live" || !record["intent"].is_null();
        newest && !open && engine.counters().rotations >= rotations + 2
    }

    /// The record says that it is to be tried later, which a login would end.
    fn backs_off(&self) -> bool {
        let record = vault::record(&self.auth_file).unwrap_or_default();
        let not_before = record["failures"]["not_before"].as_str().and_then(|at| at.parse().ok());
        not_before.is_some_and(|at: jiff::Timestamp| {
            at + SignedDuration::from_secs(5) > self.standin.engine().now()
        })
    }
}

/// Copies what a violation left to where it stays.
pub fn keep(room: &Path, scratch: &Path) -> io::Result<()> {
    std::fs::create_dir_all(scratch)?;
    for entry in std::fs::read_dir(room)? {
        let entry = entry?;
        let to = scratch.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&to)?;
            keep(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}
