//! A bad day as `status --timeline` tells it: silence, failure, revocation, recovery. The real monitor writes the book,
//! with a clock that the test moves on.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use evergrant_core::alert::{Action, Alert, Episode, Links, Reminding};
use evergrant_core::chain::Kind;
use evergrant_core::gateway::Source;
use evergrant_core::health::{AgentSeen, Expected, FallbackFacts, Outcome, PushSeen, Serving};
use evergrant_core::keeper::Report;
use evergrant_core::push::PushKind;
use evergrant_core::{ChainName, Generation, Lineage, Reason};
use evergrant_server::health::{Alerting, Described, Live, Monitor, Watched};
use evergrant_server::http::HttpClient;
use evergrant_server::{Moved, TokioWorld, World as _};
use evergrant_store::{HealthState as _, SqliteState};
use jiff::{SignedDuration, Timestamp};

use crate::support::{Home, shown, standin};

/// The real world, at another time.
type Day = Moved<TokioWorld<SqliteState>>;

/// The chain, with the error of its last look.
#[derive(Clone)]
struct Claude(ChainName, Arc<Mutex<Option<Reason>>>);

impl Described for Claude {
    fn chain(&self) -> &ChainName {
        &self.0
    }
    fn provider(&self) -> &str {
        "stand-in"
    }
    fn action(&self, _episode: &Episode, _config_dir: Option<&str>) -> Option<Action> {
        None
    }
}

impl Watched for Claude {
    fn live(&self, now: Timestamp) -> Option<Live> {
        let error = *self.1.lock().unwrap();
        let report = Report {
            error,
            token_present: true,
            token_valid: true,
            ..Report::new(&self.0, None, true, (Reason::NotDue, None), now)
        };
        Some(Live {
            kind: Kind::RefreshToken,
            report,
            record: None,
            clock_offset_secs: None,
            serving: Serving { source: Source::Oauth, until: None },
            fallback: FallbackFacts::default(),
        })
    }
    fn expected(&self) -> Option<Expected> {
        Some(Expected::Always)
    }
}

struct Story {
    day: Day,
    minute: Arc<AtomicI64>,
    claude: Claude,
    monitor: Monitor<Day, Claude>,
}

impl Story {
    async fn minutes(&self, minutes: u32) {
        for _ in 0..minutes {
            self.minute.fetch_add(1, Ordering::AcqRel);
            self.monitor.tick().await.unwrap();
        }
    }

    async fn hears(&self, kind: PushKind, outcome: Outcome, reason: Reason, lineage: u64) {
        let at = self.day.now();
        let agent = AgentSeen::new("studio", reason, at);
        let seen = PushSeen { at, kind, outcome, reason, agent };
        let event = seen.event(&self.claude.0, (Lineage(lineage), Generation(1)));
        self.day.state().add_push(&seen, &event, None).await.unwrap();
        self.monitor.tick().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_day_is_told_in_order() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    // The first command makes the state.
    home.run(&["status"]);
    let state = SqliteState::open(&home.folder.path().join(".local/state/evergrant/state.db")).unwrap();
    let client = HttpClient::new(None).unwrap();
    let begins: Timestamp = "2026-11-23T08:00:00Z".parse().unwrap();
    let minute = Arc::<AtomicI64>::default();
    let hand = minute.clone();
    let clock = move |_| begins + SignedDuration::from_mins(hand.load(Ordering::Acquire));
    let day = Moved::new(TokioWorld::new(state, client), 1, clock);
    let claude = Claude("claude".parse().unwrap(), Arc::default());
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let alerting =
        Alerting { links, reminding: Reminding::default(), sinks: Arc::new(|_: &Alert| Vec::new()) };
    let monitor = Monitor::new(day.clone(), vec![claude.clone()], alerting);
    let story = Story { day, minute, claude: claude.clone(), monitor };

    story.hears(PushKind::Beat, Outcome::Good, Reason::SameGrant, 1).await;
    story.minutes(95).await;
    story.hears(PushKind::Beat, Outcome::Good, Reason::SameGrant, 1).await;
    story.minutes(10).await;
    *claude.1.lock().unwrap() = Some(Reason::RefreshTokenRevoked);
    for _ in 0..3 {
        story.minutes(1).await;
        story.hears(PushKind::Push, Outcome::Failed, Reason::ProbeUnavailable, 1).await;
    }
    story.minutes(4).await;
    story.hears(PushKind::Push, Outcome::Good, Reason::Accepted, 2).await;
    *claude.1.lock().unwrap() = None;
    story.minutes(8).await;

    let output = home.run(&["status", "--timeline"]);
    let text = shown(&output);
    let told: Vec<_> = text.lines().filter(|line| line.starts_with("2026-11-23")).collect();
    let expected = [
        "2026-11-23 08:00:00  claude  beat by studio: same_grant (lineage 1, generation 1)",
        "2026-11-23 09:00:00  claude  mac_silent opened",
        "2026-11-23 09:35:00  claude  beat by studio: same_grant (lineage 1, generation 1)",
        "2026-11-23 09:35:00  claude  mac_silent ended after 1 h 35 min",
        "2026-11-23 09:40:00  claude  mac_silent closed",
        "2026-11-23 09:46:00  claude  pushed by studio: probe_unavailable (lineage 1, generation 1)",
        "2026-11-23 09:46:00  claude  reauth_required opened: refresh_token_revoked",
        "2026-11-23 09:47:00  claude  pushed by studio: probe_unavailable (lineage 1, generation 1)",
        "2026-11-23 09:48:00  claude  pushed by studio: probe_unavailable (lineage 1, generation 1)",
        "2026-11-23 09:48:00  claude  failed opened: probe_unavailable",
        "2026-11-23 09:52:00  claude  pushed by studio: accepted (lineage 2, generation 1)",
        "2026-11-23 09:52:00  claude  failed ended after 6 min",
        "2026-11-23 09:53:00  claude  reauth_required ended after 7 min",
        "2026-11-23 09:57:00  claude  failed closed",
        "2026-11-23 09:58:00  claude  reauth_required closed",
    ];
    assert_eq!(told, expected, "{text}");
}
