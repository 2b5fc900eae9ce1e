//! The health monitor and the alerter on simulated time: when alerts come, that each comes once, and when none comes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use evergrant_core::alert::{Action, Alert, AlertState, Condition, Links, Reminding};
use evergrant_core::chain::Kind;
use evergrant_core::gateway::Source;
use evergrant_core::health::{AgentSeen, Expected, FallbackFacts, Hours, Outcome, PushSeen, Serving, TICK};
use evergrant_core::keeper::Report;
use evergrant_core::push::PushKind;
use evergrant_core::{ChainName, Generation, Lineage, Reason};
use evergrant_server::World;
use evergrant_server::alert::{Alerter, Deliver, Outcome as Delivered};
use evergrant_server::health::{Alerting, Described, Live, Monitor, Watched};
use evergrant_store::{HealthState, MemoryState};
use futures_channel::mpsc;
use jiff::civil::{Weekday, time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::fixture::settings;
use crate::simulated_time::PausedWorld;

/// A chain that stands as the test says.
#[derive(Clone)]
struct Told {
    name: ChainName,
    expected: Expected,
    live: Arc<Mutex<Live>>,
}

impl Told {
    fn new(name: &str) -> Self {
        let name: ChainName = name.parse().unwrap();
        let report = Report {
            token_present: true,
            token_valid: true,
            ok: true,
            ..Report::new(&name, None, true, (Reason::NotDue, None), Timestamp::UNIX_EPOCH)
        };
        let live = Live {
            kind: Kind::RefreshToken,
            report,
            record: None,
            clock_offset_secs: None,
            serving: Serving { source: Source::Oauth, until: None },
            fallback: FallbackFacts::default(),
        };
        Self { name, expected: Expected::Always, live: Arc::new(Mutex::new(live)) }
    }

    fn error(&self, error: Option<Reason>) {
        self.live.lock().unwrap().report.error = error;
    }

    fn serves(&self, source: Source) {
        self.live.lock().unwrap().serving.source = source;
    }
}

impl Described for Told {
    fn chain(&self) -> &ChainName {
        &self.name
    }
    fn provider(&self) -> &str {
        "claude"
    }
    fn action(&self, episode: &evergrant_core::alert::Episode, config_dir: Option<&str>) -> Option<Action> {
        let command =
            config_dir.map_or("evergrant status".to_owned(), |folder| format!("FOLDER={folder} log in"));
        Some(Action { text: episode.condition.sentence().into(), commands: vec![command] })
    }
}

impl Watched for Told {
    fn live(&self, _now: Timestamp) -> Option<Live> {
        Some(self.live.lock().unwrap().clone())
    }
    fn expected(&self) -> Option<Expected> {
        Some(self.expected.clone())
    }
}

/// The monitor's loop, and an agent's events, on a clock that jumps.
struct Watch {
    world: PausedWorld,
    chains: Vec<Told>,
    poke: mpsc::UnboundedSender<()>,
    begun: Timestamp,
}

impl Watch {
    fn over(chains: Vec<Told>) -> Self {
        let world = PausedWorld::new(settings());
        let (poke, pokes) = mpsc::unbounded();
        let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
        let sinks = Arc::new(|_: &Alert| vec!["chat".to_owned()]);
        let alerting = Alerting { links, reminding: Reminding::default(), sinks };
        let monitor = Monitor::new(world.clone(), chains.clone(), alerting);
        tokio::spawn(monitor.run(pokes));
        let begun = world.now();
        Self { world, chains, poke, begun }
    }

    fn one() -> Self {
        Self::over(vec![Told::new("claude")])
    }

    async fn minutes(&self, minutes: u64) {
        self.world.sleep(Duration::from_secs(60 * minutes)).await;
    }

    async fn hear(&self, kind: PushKind, outcome: Outcome, reason: Reason) {
        hear(&self.world, &self.chains[0].name, kind, outcome, reason).await;
        self.poke.unbounded_send(()).unwrap();
    }

    async fn beat(&self) {
        self.hear(PushKind::Beat, Outcome::Good, Reason::SameGrant).await;
    }

    /// Every episode: its condition, and the minutes at which it opened, ended and closed.
    async fn episodes(&self) -> Vec<(Condition, i64, Option<i64>, Option<i64>)> {
        let minute = |at: Timestamp| at.duration_since(self.begun).as_secs() / 60;
        let mut episodes = self.world.state().episodes(None, 10_000).await.unwrap();
        episodes.reverse();
        let shown = |episode: &evergrant_core::alert::Episode| {
            let (ended, closed) = (episode.ended_at.map(minute), episode.closed_at.map(minute));
            (episode.condition, minute(episode.opened_at), ended, closed)
        };
        episodes.iter().map(shown).collect()
    }
}

async fn hear(world: &PausedWorld, chain: &ChainName, kind: PushKind, outcome: Outcome, reason: Reason) {
    let at = world.now();
    let agent = AgentSeen::new("desk", reason, at);
    let seen = PushSeen { at, kind, outcome, reason, agent };
    let event = seen.event(chain, (Lineage(1), Generation(1)));
    world.state().add_push(&seen, &event, None).await.unwrap();
}

/// All that waits for the sink, in order.
async fn alerts(state: &MemoryState, now: Timestamp) -> Vec<Alert> {
    let mut alerts = Vec::new();
    while let Some(delivery) = state.claim_delivery("chat", "test", now, Duration::ZERO).await.unwrap() {
        state
            .settle_delivery(&delivery, "test", &evergrant_core::alert::Settled::Delivered, now)
            .await
            .unwrap();
        alerts.push(delivery.alert);
    }
    alerts
}

fn said(alerts: &[Alert]) -> Vec<(&str, AlertState)> {
    alerts.iter().map(|alert| (alert.status.as_str(), alert.state)).collect()
}

#[tokio::test(start_paused = true)]
async fn silence_is_told_at_60_min_and_its_end_too() {
    for late_secs in [0, 1, 29, 59] {
        let watch = Watch::one();
        watch.world.sleep(Duration::from_secs(600 + late_secs)).await;
        watch.beat().await;
        let heard = watch.world.now();
        watch.minutes(59).await;
        assert_eq!(watch.episodes().await, []);
        watch.world.sleep(Duration::from_secs(120)).await;
        let episodes = watch.world.state().episodes(None, 9).await.unwrap();
        let opened = episodes[0].opened_at.duration_since(heard);
        assert_eq!((episodes.len(), episodes[0].condition), (1, Condition::MacSilent));
        assert!(
            opened >= SignedDuration::from_mins(60) && opened <= SignedDuration::from_mins(61),
            "{opened}"
        );
        assert_eq!(episodes[0].since, heard);
        watch.minutes(34).await;
        watch.beat().await;
        let back = watch.world.now();
        watch.minutes(7).await;
        let alerts = alerts(watch.world.state(), watch.world.now()).await;
        assert_eq!(said(&alerts), [("mac_silent", AlertState::Open), ("recovered", AlertState::Closed)]);
        assert_eq!(alerts[1].ended_at, Some(back));
        assert!(alerts[1].summary.contains("over after 1 h 35 min"), "{}", alerts[1].summary);
    }
}

#[tokio::test(start_paused = true)]
async fn the_command_names_the_folder_that_the_agent_told_of() {
    let watch = Watch::one();
    let (state, chain) = (watch.world.state(), &watch.chains[0].name);
    for (agent, folder) in [("old", Some("/Users/ada/old")), ("desk", Some("/Users/ada/login"))] {
        watch.minutes(1).await;
        let at = watch.world.now();
        let mut agent = AgentSeen::new(agent, Reason::SameGrant, at);
        agent.local.config_dir = folder.map(str::to_owned);
        let seen =
            PushSeen { at, kind: PushKind::Beat, outcome: Outcome::Good, reason: Reason::SameGrant, agent };
        state.add_push(&seen, &seen.event(chain, (Lineage(1), Generation(1))), None).await.unwrap();
    }
    watch.minutes(62).await;
    let alerts = alerts(state, watch.world.now()).await;
    assert_eq!(said(&alerts), [("mac_silent", AlertState::Open)]);
    assert_eq!(alerts[0].action.as_ref().unwrap().commands, ["FOLDER=/Users/ada/login log in"]);
}

#[tokio::test(start_paused = true)]
async fn every_status_opens_within_a_tick_of_what_makes_it_true() {
    let watch = Watch::one();
    watch.minutes(10).await;
    watch.beat().await;
    // Events wake the monitor: it looks in the same minute.
    for _ in 0..3 {
        watch.world.sleep(Duration::from_secs(1)).await;
        watch.hear(PushKind::Push, Outcome::Failed, Reason::ProbeUnavailable).await;
    }
    watch.world.sleep(Duration::from_secs(1)).await;
    assert_eq!(watch.episodes().await, [(Condition::Failed, 10, None, None)]);
    watch.beat().await;
    watch.minutes(10).await;
    watch.hear(PushKind::Push, Outcome::Failed, Reason::GrantSpent).await;
    for _ in 0..5 {
        watch.minutes(30).await;
        watch.hear(PushKind::Beat, Outcome::Neutral, Reason::Refused).await;
    }
    let [_, (Condition::Stale, opened, None, None)] = watch.episodes().await[..] else {
        panic!("{:?}", watch.episodes().await)
    };
    assert!((140..=141).contains(&opened), "{opened}");
    watch.beat().await;
    watch.minutes(10).await;
    let chain = &watch.chains[0];
    for (change, condition) in [
        (&(|| chain.error(Some(Reason::RefreshTokenRevoked))) as &dyn Fn(), Condition::ReauthRequired),
        (&|| chain.serves(Source::None), Condition::NotServing),
        (&|| chain.serves(Source::Fallback), Condition::FallbackActive),
    ] {
        let before = watch.world.now();
        change();
        watch.world.sleep(TICK).await;
        tokio::task::yield_now().await;
        let newest = watch.world.state().episodes(None, 1).await.unwrap().remove(0);
        assert_eq!(newest.condition, condition);
        assert!(newest.opened_at.duration_since(before) <= SignedDuration::try_from(TICK).unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_month_of_a_laptop_that_sleeps_raises_nothing_where_hours_are_set() {
    let days = [Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday];
    let hours = Hours::new(days.to_vec(), time(9, 0, 0, 0), time(17, 0, 0, 0), TimeZone::UTC).unwrap();
    for (expected, silent) in [(Expected::Hours(hours.clone()), false), (Expected::Always, true)] {
        let watch = Watch::over(vec![Told { expected, ..Told::new("claude") }]);
        for half_hour in 0..(30 * 48) {
            let local = watch.world.now().to_zoned_datetime(TimeZone::UTC);
            let weekday = days.contains(&local.weekday());
            // It is opened a little late and closed a little late, day by day another minute.
            let open = (9 * 60 + 20..17 * 60 + 40)
                .contains(&(i64::from(local.hour()) * 60 + i64::from(local.minute())));
            if weekday && open {
                watch.beat().await;
            }
            watch.world.sleep(Duration::from_secs(1800 + half_hour % 7)).await;
        }
        let episodes = watch.episodes().await;
        assert_eq!(episodes.is_empty(), !silent, "{episodes:?}");
        assert_eq!(alerts(watch.world.state(), watch.world.now()).await.is_empty(), !silent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_week_of_a_provider_that_flaps_says_less_than_one_alert_an_hour() {
    let watch = Watch::one();
    let chain = &watch.chains[0];
    for round in 0..(7 * 24 * 60 / 20) {
        let down = round % 2 == 0;
        chain.error(down.then_some(Reason::ProviderUnavailable));
        chain.serves(if down { Source::Fallback } else { Source::Oauth });
        for _ in 0..20 {
            watch.minutes(1).await;
        }
        watch.beat().await;
    }
    let said = alerts(watch.world.state(), watch.world.now()).await.len();
    assert!(said <= 7 * 24, "{said} alerts in a week");
    assert!(said >= 4, "{said}: what goes on for a week is told");
}

#[tokio::test(start_paused = true)]
async fn chains_of_one_provider_share_an_alert() {
    let watch = Watch::over(["a", "b", "c"].map(Told::new).to_vec());
    watch.minutes(1).await;
    watch.chains[0].error(Some(Reason::ProviderBlocked));
    watch.chains[1].error(Some(Reason::ProviderBlocked));
    watch.minutes(3).await;
    watch.chains[2].error(Some(Reason::ProviderBlocked));
    watch.minutes(12).await;
    let alerts = alerts(watch.world.state(), watch.world.now()).await;
    let of: Vec<_> = alerts.iter().map(Alert::chains).collect();
    assert_eq!(of, ["a, b", "c"]);
    assert!(alerts[0].summary.starts_with("2 chains (a, b):"), "{}", alerts[0].summary);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_silent_while_nobody_listens() {
    let watch = Watch::one();
    watch.minutes(5).await;
    watch.beat().await;
    watch.poke.close_channel();
    watch.minutes(24 * 60).await;
    // Another process takes over after a day.
    let again = Watch { world: watch.world.clone(), ..Watch::over(Vec::new()) };
    let (poke, pokes) = mpsc::unbounded();
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let alerting = Alerting { links, reminding: Reminding::default(), sinks: Arc::new(|_| Vec::new()) };
    let monitor = Monitor::new(watch.world.clone(), watch.chains.clone(), alerting);
    tokio::spawn(monitor.run(pokes));
    again.minutes(59).await;
    assert_eq!(watch.episodes().await, []);
    again.minutes(3).await;
    assert_eq!(watch.episodes().await.len(), 1);
    drop(poke);
}

/// A sink that is told when it is well.
#[derive(Default)]
struct Moody {
    well: Mutex<bool>,
    got: Mutex<Vec<String>>,
}

impl Deliver for Moody {
    async fn deliver(&self, sink: &str, alert: &Alert) -> Delivered {
        assert_eq!(sink, "chat");
        if !*self.well.lock().unwrap() {
            return Delivered::Unavailable { retry_after: None, detail: "503".into() };
        }
        self.got.lock().unwrap().push(alert.id.clone());
        Delivered::Delivered
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_was_down_gets_each_alert_once_and_in_order() {
    let watch = Watch::one();
    let sink = Arc::new(Moody::default());
    let alerter = |holder: &str| Alerter::new(watch.world.clone(), ["chat".to_owned()], holder, sink.clone());
    let (_poke, pokes) = mpsc::unbounded();
    let (_other, others) = mpsc::unbounded();
    tokio::spawn(alerter("one").run(pokes));
    tokio::spawn(alerter("two").run(others));
    let chain = &watch.chains[0];
    for error in
        [Some(Reason::ProviderBlocked), None, Some(Reason::VaultUnwritable), None, Some(Reason::Quarantined)]
    {
        chain.error(error);
        watch.minutes(10).await;
        watch.beat().await;
    }
    watch.minutes(10).await;
    assert_eq!(*sink.got.lock().unwrap(), [""; 0]);
    *sink.well.lock().unwrap() = true;
    // It is looked at again every 5 min at the latest.
    watch.minutes(6).await;
    let got = sink.got.lock().unwrap().clone();
    let told: Vec<_> = got.iter().map(|id| id.trim_start_matches("claude-")).collect();
    let word =
        |id: &str| (id.split('-').next().unwrap().to_owned(), id.rsplit('-').next().unwrap().to_owned());
    let told: Vec<_> = told.into_iter().map(word).collect();
    let expected = [
        ("renewal_failing", "open"),
        ("renewal_failing", "closed"),
        ("vault_unwritable", "open"),
        ("vault_unwritable", "closed"),
        ("quarantined", "open"),
    ];
    assert_eq!(told, expected.map(|(condition, state)| (condition.to_owned(), state.to_owned())));
    let states = watch.world.state().sink_states().await.unwrap();
    assert_eq!((states[0].delivered, states[0].waiting, states[0].dropped), (5, 0, 0));
}

/// One of its sinks never answers.
#[derive(Default)]
struct Stuck(Mutex<Vec<String>>);

impl Deliver for Stuck {
    async fn deliver(&self, sink: &str, alert: &Alert) -> Delivered {
        if sink == "stuck" {
            std::future::pending::<()>().await;
        }
        self.0.lock().unwrap().push(alert.status.clone());
        Delivered::Delivered
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_hangs_holds_up_no_other() {
    let (world, chain) = (PausedWorld::new(settings()), Told::new("claude"));
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let both = Arc::new(|_: &Alert| vec!["stuck".to_owned(), "chat".to_owned()]);
    let alerting = Alerting { links, reminding: Reminding::default(), sinks: both };
    let monitor = Monitor::new(world.clone(), vec![chain.clone()], alerting);
    let sinks = Arc::new(Stuck::default());
    let names = ["stuck".to_owned(), "chat".to_owned()];
    let alerter = Alerter::new(world.clone(), names, "one", sinks.clone());
    let (poke, pokes) = mpsc::unbounded();
    tokio::spawn(alerter.run(pokes));
    for (error, status) in
        [(Reason::ProviderBlocked, "renewal_failing"), (Reason::VaultUnwritable, "vault_unwritable")]
    {
        chain.error(Some(error));
        monitor.tick().await.unwrap();
        // Nobody waits for the next look.
        poke.unbounded_send(()).unwrap();
        world.sleep(Duration::from_millis(100)).await;
        let got = sinks.0.lock().unwrap().clone();
        assert_eq!(got.last().map(String::as_str), Some(status), "{got:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_announced_and_is_open_is_told_at_every_look() {
    let (world, chain) = (PausedWorld::new(settings()), Told::new("claude"));
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let alerting =
        Alerting { links, reminding: Reminding::default(), sinks: Arc::new(|_: &Alert| Vec::new()) };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    let monitor = Monitor::new(world.clone(), vec![chain.clone()], alerting)
        .telling(move |open| hears.lock().unwrap().push(open));
    let look = async || {
        monitor.tick().await.unwrap();
        world.sleep(TICK).await;
        heard.lock().unwrap().pop().unwrap()
    };
    assert_eq!(look().await, []);
    chain.serves(Source::None);
    // It is told from the look that opens it to the one before it closes, 5 minutes after its end.
    for minute in 0..10 {
        let open = look().await;
        let [alert] = &open[..] else { panic!("minute {minute}: {open:?}") };
        assert_eq!(
            (alert.condition, alert.state, alert.ended_at),
            (Condition::NotServing, AlertState::Open, None)
        );
        if minute == 4 {
            chain.serves(Source::Oauth);
        }
    }
    assert_eq!(look().await, []);
}
