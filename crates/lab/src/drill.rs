//! Drills: rehearsed failures with the real keeper, monitor, alerter and gateway against a stand-in provider, each
//! with its checks (SPEC §10). What would take an hour takes seconds: the clock is moved on.

use std::time::Duration;

use serde::Serialize;

mod fallback;
mod force_refresh;
mod load;
mod revoked;
mod silence;
mod stage;

use stage::Stage;

/// Which failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drill {
    /// A forced exchange.
    ForceRefresh,
    /// The refresh token is replaced by a bogus one.
    Revoked,
    /// The agent falls silent.
    Silence,
    /// The auth file goes away under load.
    Fallback,
}

impl Drill {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ForceRefresh, Self::Revoked, Self::Silence, Self::Fallback];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForceRefresh => "force-refresh",
            Self::Revoked => "revoked",
            Self::Silence => "silence",
            Self::Fallback => "fallback",
        }
    }
}

/// What a test switches off, to see that a drill notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// The provider takes no exchange.
    Exchange,
    /// Nobody watches health.
    Monitor,
    /// Nobody delivers alerts.
    Alerter,
    /// The chain has no push track, so that silence means nothing.
    PushTrack,
    /// There is no fallback key.
    FallbackKey,
    /// Nobody looks at the auth file.
    Watch,
}

/// One thing that was done, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// What should come of it.
    pub expected: String,
    /// What came of it.
    pub happened: String,
    /// That is the same.
    pub ok: bool,
}

/// What a drill came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrillReport {
    /// Which.
    pub drill: Drill,
    /// All that was expected happened.
    pub ok: bool,
    /// What was done.
    pub steps: Vec<Step>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// The steps of a drill while it runs.
#[derive(Debug, Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn step(&mut self, what: &str, expected: &str, ok: bool, happened: impl Into<String>) {
        let happened = happened.into();
        self.0.push(Step { what: what.into(), expected: expected.into(), happened, ok });
    }

    fn ok(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|step| step.ok)
    }
}

/// Runs a drill on a stage of its own; `off` is for those who check the drill itself.
pub async fn run(drill: Drill, off: Option<Off>) -> Result<DrillReport, String> {
    let stage = Stage::set(off).await?;
    let begun = stage.elapsed();
    let mut steps = Steps::default();
    match drill {
        Drill::ForceRefresh => force_refresh::run(&stage, &mut steps).await?,
        Drill::Revoked => revoked::run(&stage, &mut steps).await?,
        Drill::Silence => silence::run(&stage, &mut steps).await?,
        Drill::Fallback => fallback::run(&stage, &mut steps).await?,
    }
    let took = stage.elapsed().saturating_sub(begun);
    stage.end().await;
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Ok(DrillReport { drill, ok: steps.ok(), steps: steps.0, took_ms })
}

/// Waits until it holds, for as long as `patience` at most; says whether it did.
async fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let holds = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(patience, holds).await.is_ok()
}
