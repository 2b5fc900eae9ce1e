//! The demo: a stand-in provider and a keeper on real sockets and a real auth file, token lives of seconds, and
//! one failure after the other.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use evergrant_core::keeper::{Policy, Report};
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Reason};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::{Keeper, Snapshots, TokioWorld, Wake, World};
use evergrant_standin::{Fault, FaultTarget, LoginOptions, StandIn};
use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{AuthFile, MemoryState, OsDisk, watch};
use futures_channel::mpsc;
use serde::Serialize;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Life of an access token in the demo, in seconds; it is renewed after half of it.
const LIFE_SECS: u64 = 6;
const PAUSE: Duration = Duration::from_millis(3_600);

/// How a line is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mood {
    /// As wished.
    Good,
    /// Needs somebody.
    Bad,
    /// Survived.
    Warn,
    /// What happens.
    Plain,
}

/// One line of what the demo shows.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Seconds since the start.
    pub at_secs: f64,
    /// Who says it: `demo`, `provider`, `operator`, `keeper` or `readers`.
    pub who: &'static str,
    /// What.
    pub what: String,
    /// How it is to be taken.
    pub mood: Mood,
}

/// What was last told of the keeper: reason, error and generation.
type Told = (Reason, Option<Reason>, Option<u64>);

/// A running demo.
pub struct Demo {
    folder: TempDir,
    file: PathBuf,
    standin: StandIn,
    world: TokioWorld<MemoryState>,
    keeper: Keeper<TokioWorld<MemoryState>>,
    snapshots: Snapshots,
    say: Box<dyn Fn(Line) + Send + Sync>,
    told: Mutex<Option<Told>>,
    without_token: Mutex<Duration>,
    tasks: Vec<JoinHandle<()>>,
    _watch: Option<watch::Watch>,
}

impl Demo {
    /// Starts everything. `say` gets each line.
    pub async fn start(say: impl Fn(Line) + Send + Sync + 'static) -> Result<Self, String> {
        let profile = Profile::claude();
        let mut settings = crate::like(&profile);
        settings.lives.access_secs = LIFE_SECS;
        let standin = StandIn::start(settings).await.map_err(|error| error.to_string())?;
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = folder.path().join("auth.json");
        let policy = Policy {
            min_exchange_interval: Duration::ZERO,
            deadline: Duration::from_secs(2),
            ..Policy::new(crate::towards(profile, &standin.url()))
        };
        let client = HttpClient::new(None).map_err(|error| error.to_string())?;
        let world = TokioWorld::new(MemoryState::new(), client);
        let vault = AuthFile::new(OsDisk, file.clone(), folder.path().join("state"), TakeClientLocks::Never);
        let chain: ChainName = "claude".parse().map_err(|error| format!("{error}"))?;
        let snapshots = Snapshots::default();
        let keeper =
            Keeper::new(world.clone(), chain, policy, true, vault, snapshots.clone(), Metrics::default());
        let (wake, woken) = mpsc::unbounded();
        let (looping, own) = (keeper.clone(), wake.clone());
        let mut demo = Self {
            folder,
            file: file.clone(),
            standin,
            world,
            keeper,
            snapshots,
            say: Box::new(say),
            told: Mutex::default(),
            without_token: Mutex::default(),
            tasks: Vec::new(),
            _watch: None,
        };
        demo.log_in()?;
        demo.introduce();
        demo._watch = watch::watch(&[file], move || {
            let _ = wake.unbounded_send(Wake::FileChanged);
        })
        .ok();
        demo.tasks.push(tokio::spawn(async move { looping.run(woken, own).await }));
        Ok(demo)
    }

    fn introduce(&self) {
        let base = self.standin.url();
        self.line(
            "demo",
            Mood::Plain,
            format!("a stand-in provider listens on {base}; access tokens live {LIFE_SECS} s"),
        );
        self.line("demo", Mood::Plain, format!("the keeper keeps {}", self.file.display()));
        self.line("demo", Mood::Plain, "break something yourself: remove or edit that file, or".into());
        let fault = r#"{"target":"token","fault":"answer_lost","times":1}"#;
        self.line("demo", Mood::Plain, format!("curl -d '{fault}' {base}/_stand-in/faults"));
    }

    fn line(&self, who: &'static str, mood: Mood, what: String) {
        (self.say)(Line { at_secs: self.world.monotonic().as_secs_f64(), who, what, mood });
    }

    fn log_in(&self) -> Result<(), String> {
        let login = self.standin.engine().login(LoginOptions::default()).auth_file();
        std::fs::write(&self.file, format!("{login:#}\n")).map_err(|error| error.to_string())
    }

    /// Goes through the failures again and again, until it is dropped.
    pub async fn run(&self) -> Result<(), String> {
        self.pause(PAUSE).await;
        loop {
            self.fault("answers 503 twice, and did not spend the token", "overloaded_503", 2).await;
            self.fault("loses a request: nobody can know whether the token was spent", "request_lost", 1)
                .await;
            self.older_file().await?;
            self.removed_file().await?;
            self.fault("takes 3 s to answer, which is past the deadline", "slow_after", 1).await;
            self.revoked().await?;
        }
    }

    async fn fault(&self, what: &str, fault: &str, times: u32) {
        let fault = match fault {
            "slow_after" => Some(Fault::DelayAfter { millis: 3_000 }),
            named => Fault::named(named),
        };
        if let Some(fault) = fault {
            self.line("provider", Mood::Warn, what.to_owned());
            self.standin.engine().push_fault(FaultTarget::Token, fault, times);
        }
        self.pause(PAUSE * 2).await;
    }

    async fn older_file(&self) -> Result<(), String> {
        let older = std::fs::read(&self.file).map_err(|error| error.to_string())?;
        self.pause(PAUSE).await;
        self.line(
            "operator",
            Mood::Warn,
            "puts an older auth file back, whose refresh token is spent".into(),
        );
        std::fs::write(&self.file, older).map_err(|error| error.to_string())?;
        self.pause(PAUSE).await;
        Ok(())
    }

    async fn removed_file(&self) -> Result<(), String> {
        let away = self.folder.path().join("taken-away.json");
        self.line("operator", Mood::Warn, "takes the auth file away".into());
        std::fs::rename(&self.file, &away).map_err(|error| error.to_string())?;
        self.pause(Duration::from_secs(1)).await;
        self.line("operator", Mood::Plain, "puts it back".into());
        std::fs::rename(&away, &self.file).map_err(|error| error.to_string())?;
        self.pause(PAUSE).await;
        Ok(())
    }

    async fn revoked(&self) -> Result<(), String> {
        self.line("provider", Mood::Warn, "revokes the login, as after a login elsewhere".into());
        self.standin.engine().revoke_all();
        self.pause(PAUSE).await;
        self.line("operator", Mood::Plain, "logs in again".into());
        self.log_in()?;
        self.pause(PAUSE).await;
        Ok(())
    }

    /// Lets time pass, tells what the keeper reports, and measures how long readers had no token.
    async fn pause(&self, span: Duration) {
        let step = Duration::from_millis(50);
        let end = self.world.monotonic() + span;
        while self.world.monotonic() < end {
            let before = self.world.monotonic();
            tokio::time::sleep(step).await;
            self.tell();
            let current = self.snapshots.current(self.keeper.chain());
            if !current.is_some_and(|current| current.usable(self.world.now())) {
                *lock(&self.without_token) += self.world.monotonic() - before;
            }
        }
    }

    fn tell(&self) {
        let Some(report) = self.keeper.last_report() else {
            return;
        };
        let seen = (report.reason, report.error, report.generation.map(|generation| generation.0));
        if report.reason == Reason::NotDue || lock(&self.told).replace(seen) == Some(seen) {
            return;
        }
        let (mood, what) = describe(&report);
        self.line("keeper", mood, what);
    }

    /// Ends it with what it came to.
    pub async fn end(&self) -> Result<(), String> {
        for task in &self.tasks {
            task.abort();
        }
        self.world.settled().await;
        let counters = self.standin.engine().counters();
        let without = lock(&self.without_token).as_secs_f64();
        let (rotations, exchanges) = (counters.rotations, counters.exchanges);
        let revoked = counters.families_revoked_by_reuse;
        self.line("demo", Mood::Plain, format!(
            "{exchanges} exchanges, {rotations} rotations; families revoked because a token was presented twice: {revoked}"
        ));
        self.line("readers", Mood::Plain, format!("had no access token for {without:.1} s"));
        if revoked > 0 { Err("a refresh token was presented twice".into()) } else { Ok(()) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn describe(report: &Report) -> (Mood, String) {
    let position = match (report.lineage, report.generation) {
        (Some(lineage), Some(generation)) => format!("grant {lineage}, generation {generation}"),
        _ => "no grant".into(),
    };
    let word = report.error.unwrap_or(report.reason);
    let mood = match (report.error, report.token_valid, report.refreshed) {
        (None, _, true) => Mood::Good,
        (None, _, false) => Mood::Plain,
        (Some(_), true, _) => Mood::Warn,
        (Some(_), false, _) => Mood::Bad,
    };
    let serves = if report.token_valid { "" } else { "; readers have no access token" };
    (mood, format!("{word} ({position}): {}{serves}", word.sentence().trim_end_matches('.')))
}
