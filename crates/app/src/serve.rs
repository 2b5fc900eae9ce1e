//! `evergrant serve`: starts the parts, answers signals, and lets an exchange in flight finish.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::alert::Alert;
use evergrant_core::{ChainName, Reason};
use evergrant_server::admin::{self, Admin, Chains, Others};
use evergrant_server::alert::sink::TIMEOUT;
use evergrant_server::alert::{Alerter, Courier, repost, repost_all};
use evergrant_server::gateway::{FallbackUses, Gateway, Parts, check_fallback_key};
use evergrant_server::health::{Alerting, EpisodeKeeper, Monitor, WatchedChain};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::rows::{RowMonitor, RowWatch};
use evergrant_server::{Callers, Renewable, Wake, World as _, probe, watchdog};
use evergrant_store::{AnyState, watch};
use futures_channel::mpsc::{self, UnboundedReceiver, UnboundedSender};
use futures_util::FutureExt as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;

use crate::cli::Global;
use crate::config::{
    self, AlertSettings, ChainSettings, Environment, Loaded, ProbeSettings, Settings, Template,
};
use crate::export;
use crate::gateway;
use crate::host::{Chain, Host, World};
use crate::output;
use crate::rows::{Book, Keeping};
use crate::traces::Exporting;
use crate::upkeep::Upkeep;

/// The look behind the watch, for changes that it misses.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
/// The first probe comes soon after the start, when the first look is over.
const FIRST_PROBE: Duration = Duration::from_secs(2);
/// How often it is asked whether a look came to something else than the one before.
const NOTICE_CHANGE: Duration = Duration::from_millis(100);
/// So much longer than a deadline an exchange may take to be settled at the end.
const SETTLE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn serve(loaded: Loaded, global: &Global, env: &Environment) -> ExitCode {
    let settings = &loaded.settings;
    let metrics = Metrics::default();
    let (traces, exporting) = match Exporting::start(settings, &metrics) {
        Ok(started) => started,
        Err(why) => return output::failed(why),
    };
    let host = match Host::traced(settings, metrics, traces.clone()).await {
        Ok(host) => host,
        Err(why) => return output::failed(why),
    };
    let ready = gateway::bind(settings).and_then(|bound| Ok((bound, gateway::acceptor(settings)?)));
    let (bound, tls) = match ready {
        Ok(ready) => ready,
        Err(why) => return output::failed(why),
    };
    let callers = match Callers::load(&host.state).await {
        Ok(callers) => callers,
        Err(error) => return output::failed(error),
    };
    let follow = tokio::spawn(callers.clone().follow(host.world.clone()));
    let uses = FallbackUses::default();
    uses.save(&host.world).await;
    let common = Common {
        host: host.clone(),
        callers: callers.clone(),
        chains: Chains::default(),
        uses: uses.clone(),
        upkeep: Upkeep::default(),
    };
    let keeping = match (&host.rows, &host.state) {
        (Some(rows), AnyState::Postgres(state)) => Some(rows.keep(state)),
        (Some(_) | None, _) => None,
    };
    let running = match Running::start(&common, &loaded.settings) {
        Ok(running) => running,
        Err(why) => return output::failed(why),
    };
    let parts = Parts {
        plane: gateway::plane(&host, &loaded.settings, &running.chains, &uses),
        snapshots: host.snapshots.clone(),
        callers: callers.clone(),
        metrics: host.metrics.clone(),
        access_log: loaded.settings.gateway.access_log.clone(),
        traces,
        tls,
    };
    let (gateway, own_routes) = match Gateway::start(bound, parts) {
        Ok(started) => started,
        Err(error) => return output::failed(format!("the gateway cannot be started: {error}")),
    };
    let chains = common.chains.clone();
    let admin = Admin { world: host.world.clone(), metrics: host.metrics.clone(), callers, chains };
    let router = admin::router(admin);
    let http = tokio::spawn(async move { axum::serve(own_routes, router).await });
    let saving = tokio::spawn(uses.clone().keep_saving(host.world.clone()));
    let forgetting = tokio::spawn(common.upkeep.clone().run(host.world.clone()));
    // Before anybody is told that it is ready: a signal right after that must not end it.
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let shown: Vec<_> = names(&loaded.settings).map(String::from).collect();
    let address = gateway.address();
    tracing::info!(%address, chains = shown.join(","), version = env!("CARGO_PKG_VERSION"), "serving");
    notify(&[NotifyState::Ready]);
    let serving = Serving { common: &common, gateway, keeping: keeping.as_ref() };
    let deadline = serving.until_told_to_end(running, loaded.settings, global, env, signals).await;
    saving.abort();
    forgetting.abort();
    uses.save(&host.world).await;
    http.abort();
    follow.abort();
    if tokio::time::timeout(deadline + SETTLE, host.world.settled()).await.is_err() {
        tracing::warn!(
            "an answer is still outstanding; its intent is recorded, and the next start settles it"
        );
    }
    if let Some(keeping) = keeping {
        keeping.end();
    }
    exporting.end().await;
    tracing::info!("ended");
    ExitCode::SUCCESS
}

fn names(settings: &Settings) -> impl Iterator<Item = ChainName> {
    settings.chains.iter().map(|chain| chain.name.clone())
}

/// What runs from start to end.
struct Serving<'h> {
    common: &'h Common,
    gateway: Gateway,
    /// The keeper of the database's chains outlives configurations.
    keeping: Option<&'h Keeping>,
}

/// What outlives a configuration.
#[derive(Clone)]
struct Common {
    host: Host,
    callers: Callers,
    chains: Chains<AnyState>,
    uses: FallbackUses,
    upkeep: Upkeep,
}

impl Serving<'_> {
    /// Answers signals, and ends what serves. Returns the longest deadline of the chains that ran last.
    async fn until_told_to_end(
        self,
        mut running: Running,
        mut settings: Settings,
        global: &Global,
        env: &Environment,
        signals: [std::io::Result<Signal>; 3],
    ) -> Duration {
        let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)] = signals else {
            tracing::error!("signals cannot be received; serving until killed");
            std::future::pending::<()>().await;
            return Duration::ZERO;
        };
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    notify(&[NotifyState::Reloading]);
                    self.gateway.reopen_log();
                    if let Some(fresh) = reload(&settings, global, env) {
                        match self.take_up(&mut running, &settings, &fresh) {
                            Ok(()) => settings = fresh,
                            Err(why) => {
                                tracing::error!(reason = %Reason::ConfigRejected, why, "the old configuration stays");
                            }
                        }
                    }
                    notify(&[NotifyState::Ready]);
                }
            }
        }
        tracing::info!("ending; requests and an exchange in flight are let finish");
        notify(&[NotifyState::Stopping]);
        running.stop();
        if let Some(keeping) = self.keeping {
            keeping.stop();
        }
        self.gateway.end().await;
        let templates = settings.templates.iter().map(Template::common);
        settings.chains.iter().chain(templates).map(|chain| chain.policy.deadline).max().unwrap_or_default()
    }

    /// Goes on with another configuration.
    fn take_up(&self, running: &mut Running, old: &Settings, fresh: &Settings) -> Result<(), String> {
        let tls = gateway::acceptor(fresh)?;
        let new = fresh.chains.iter().filter(|chain| known(old, &chain.name).is_none());
        let host = &self.common.host;
        new.for_each(|chain| host.snapshots.forget(&chain.name));
        let book = host.rows.as_ref().map(|_| Book::of(fresh, &host.world)).transpose()?;
        // Last of what may fail: what runs cannot be taken back.
        let next = Running::start(self.common, fresh)?;
        if let (Some(rows), Some(book)) = (&host.rows, book) {
            rows.take_up(book);
        }
        self.gateway.set_plane(gateway::plane(host, fresh, &next.chains, &self.common.uses));
        self.gateway.set_tls(tls);
        std::mem::replace(running, next).stop();
        tracing::info!(reason = %Reason::ConfigReloaded, "the configuration was read again");
        Ok(())
    }
}

/// Reads the configuration again; a faulty one is refused whole.
fn reload(old: &Settings, global: &Global, env: &Environment) -> Option<Settings> {
    let mut loaded = match config::load(global.config.as_deref(), env) {
        Ok(loaded) => loaded,
        Err(faults) => {
            for fault in faults {
                tracing::error!(reason = %Reason::ConfigRejected, %fault, "the old configuration stays");
            }
            return None;
        }
    };
    if global.accept_provider_terms {
        loaded.accept_provider_terms();
    }
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "configuration");
    }
    let mut fresh = loaded.settings;
    let fixed = |settings: &Settings| {
        let gateway = &settings.gateway;
        (
            settings.state_dir.clone(),
            settings.database.clone(),
            settings.listen,
            gateway.threads,
            gateway.access_log.clone(),
            settings.traces.clone(),
        )
    };
    if fixed(&fresh) != fixed(old) {
        tracing::warn!(
            "addresses, threads, the access log, traces, the state and its seal keys change at the next start only"
        );
        fresh.state_dir.clone_from(&old.state_dir);
        fresh.database.clone_from(&old.database);
        fresh.listen = old.listen;
        fresh.gateway.threads = old.gateway.threads;
        fresh.gateway.access_log.clone_from(&old.gateway.access_log);
        fresh.traces.clone_from(&old.traces);
    }
    if fresh.tls.is_some() != old.tls.is_some() {
        tracing::warn!("TLS is switched on or off at the next start only");
        fresh.tls.clone_from(&old.tls);
    }
    for chain in &mut fresh.chains {
        let name = chain.name.clone();
        let vault = |chain: &ChainSettings| (chain.kind(), chain.in_database());
        let of = vault(chain);
        // Positions never go backwards, and those of another kind begin elsewhere.
        if let Some(old) = known(old, &name).filter(|old| vault(old) != of) {
            tracing::warn!(chain = %name, "the kind and the vault of a chain change at the next start only; they stay as they were");
            *chain = old.clone();
        }
    }
    Some(fresh)
}

fn known<'a>(settings: &'a Settings, name: &ChainName) -> Option<&'a ChainSettings> {
    settings.chains.iter().find(|chain| chain.name == *name)
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// The loops of one configuration.
struct Running {
    chains: Vec<Chain>,
    wakes: Vec<UnboundedSender<Wake>>,
    /// Loops that may be ended anywhere: they hold nothing that a look does.
    others: Vec<JoinHandle<()>>,
    _watch: Option<watch::Watch>,
    /// The alerter ends with it.
    _deliver: UnboundedSender<()>,
}

impl Running {
    fn start(common: &Common, settings: &Settings) -> Result<Self, String> {
        let host = &common.host;
        let chains = host.chains(settings)?;
        let mut wakes = Vec::new();
        let mut others = Vec::new();
        for chain in &chains {
            let (wake, woken) = mpsc::unbounded();
            wakes.push(wake.clone());
            let (kept, own_wake) = (chain.clone(), wake.clone());
            tokio::spawn(async move { kept.run(woken, own_wake).await });
            if chain.watched_file().is_some() {
                others.push(tokio::spawn(look_at_file(wake)));
            }
            if settings.probe.enabled {
                others.push(tokio::spawn(probe_loop(
                    chain.clone(),
                    host.snapshots.clone(),
                    settings.probe.clone(),
                )));
            }
        }
        let mut watched = Vec::new();
        for (one, chain) in settings.chains.iter().zip(&chains) {
            let watched_one = watched_chain(common, settings, one, chain);
            if let Some(key) = &watched_one.fallback {
                let (world, client) = (chain.world.clone(), chain.world.client().clone());
                let (name, profile) = (one.name.clone(), one.policy.profile.clone());
                others.push(tokio::spawn(check_fallback_key(world, client, name, profile, key.clone())));
            }
            watched.push(watched_one);
        }
        let (poke, pokes) = mpsc::unbounded();
        let alerting = alerting(settings);
        let courier = courier(host, settings)?;
        let (open, reposted) = mpsc::unbounded();
        let monitor = Monitor::new(host.world.clone(), watched.clone(), alerting)
            .telling(move |alerts| drop(open.unbounded_send(alerts)));
        let looks = monitor.looks();
        others.push(tokio::spawn(monitor.run(pokes)));
        others.push(tokio::spawn(repost(courier.clone(), reposted)));
        if let Some((monitor, open)) = row_monitor(common, settings) {
            others.push(tokio::spawn(monitor.run()));
            others.push(tokio::spawn(repost_all(courier.clone(), open)));
        }
        let (deliver, delivering) = mpsc::unbounded();
        let alerter = alerter(host, settings, courier);
        // Nobody cuts a delivery short: it ends with its sender, and a shutdown waits for it.
        host.world.spawn(alerter.run(delivering));
        if let Some((url, every)) = settings.watchdog.clone() {
            others.push(tokio::spawn(watchdog::ping(
                host.world.clone(),
                host.world.client().clone(),
                url,
                every,
                looks,
            )));
        }
        let exports = export::of(settings, &chains);
        if !exports.is_empty() {
            others.push(tokio::spawn(export::keep_writing(exports, host.snapshots.clone())));
        }
        others.push(tokio::spawn(poke_on_change(watched.clone(), poke.clone())));
        common.chains.set(watched, found_chains(common, settings), Some(poke));
        common.upkeep.go_by(settings, &chains);
        let watch = watch_files(&chains, wakes.clone());
        Ok(Self { chains, wakes, others, _watch: watch, _deliver: deliver })
    }

    fn stop(self) {
        for wake in &self.wakes {
            wake.close_channel();
        }
        for other in &self.others {
            other.abort();
        }
    }
}

/// What a look finds is told at once, and not a minute later.
async fn poke_on_change(watched: Vec<WatchedChain<World>>, poke: UnboundedSender<()>) {
    let stand = |one: &WatchedChain<World>| {
        one.chain
            .last_report()
            .map(|report| (report.error, report.lineage, report.generation, report.token_valid))
    };
    let mut before = vec![None; watched.len()];
    loop {
        let now: Vec<_> = watched.iter().map(stand).collect();
        // A start waits for the first look at each, so that one alert tells of all.
        if now.iter().all(Option::is_some) && now != before {
            if poke.unbounded_send(()).is_err() {
                return;
            }
            before = now;
        }
        tokio::time::sleep(NOTICE_CHANGE).await;
    }
}

fn watched_chain(
    common: &Common,
    settings: &Settings,
    one: &ChainSettings,
    chain: &Chain,
) -> WatchedChain<World> {
    WatchedChain {
        chain: chain.clone(),
        snapshots: common.host.snapshots.clone(),
        fallback: gateway::fallback_key(settings, one, &common.uses),
        push: one.push,
        expected: one.expected.clone(),
        token_read: one.token_read,
        callers: common.callers.clone(),
    }
}

/// The database's chains that no section names, as the admin calls ask for them.
fn found_chains(common: &Common, settings: &Settings) -> Option<Others<AnyState>> {
    common.host.rows.as_ref().filter(|_| !settings.templates.is_empty())?;
    let prefixes = settings.templates.iter().map(|template| template.prefix.clone()).collect();
    let (common, settings) = (common.clone(), Arc::new(settings.clone()));
    let first = {
        let (common, settings) = (common.clone(), settings.clone());
        move |name: &ChainName| {
            let (one, chain) = common.host.first_of(&settings, name)?;
            Some(watched_chain(&common, &settings, &one, &chain))
        }
    };
    let find = move |name: ChainName| {
        let (common, settings) = (common.clone(), settings.clone());
        async move {
            let found = common.host.find(&settings, &name).await?;
            Ok(found.map(|(one, chain)| watched_chain(&common, &settings, &one, &chain)))
        }
        .boxed()
    };
    Some(Others { prefixes, find: Arc::new(find), first: Arc::new(first) })
}

/// What watches the database's chains that no section names, and what it says of open episodes.
fn row_monitor(
    common: &Common,
    settings: &Settings,
) -> Option<(RowMonitor<World>, UnboundedReceiver<Vec<Alert>>)> {
    let host = &common.host;
    let rows = host.rows.as_ref()?;
    if settings.templates.is_empty() {
        return None;
    }
    let (open, told) = mpsc::unbounded();
    let episodes = EpisodeKeeper::new(host.world.clone(), alerting(settings))
        .telling(move |alerts| drop(open.unbounded_send(alerts)));
    let (settings, uses) = (settings.clone(), common.uses.clone());
    let watches = move |name: &ChainName| {
        let template = settings.template(name).filter(|_| known(&settings, name).is_none())?;
        let fallback = gateway::fallback_key_counted(&settings, template.common(), uses.known(name));
        Some(RowWatch { fallback })
    };
    Some((RowMonitor::new(rows.keeper.clone(), Arc::new(watches), episodes), told))
}

fn alerting(settings: &Settings) -> Alerting {
    let AlertSettings { links, reminding } = settings.alerts.clone();
    let sinks = settings.sinks.clone();
    let wanted = move |alert: &Alert| {
        let wants = sinks.iter().filter(|sink| sink.wants(alert));
        wants.map(|sink| sink.name.clone()).collect()
    };
    Alerting { links, reminding, sinks: Arc::new(wanted) }
}

/// What brings alerts to the sinks.
pub(crate) fn courier(host: &Host, settings: &Settings) -> Result<Courier, String> {
    let client = HttpClient::new(None).map_err(|error| error.to_string())?;
    let world = host.world.clone();
    Ok(Courier::new(client, settings.sinks.clone(), TIMEOUT, move || world.now()))
}

fn alerter(host: &Host, settings: &Settings, courier: Courier) -> Alerter<World, Courier> {
    let world = host.world.clone();
    let names: Vec<_> = settings.sinks.iter().map(|sink| sink.name.clone()).collect();
    let holder = format!("{}-{}-{}", world.machine(), std::process::id(), world.now().as_nanosecond());
    Alerter::new(world, names, &holder, Arc::new(courier))
}

fn watch_files(chains: &[Chain], wakes: Vec<UnboundedSender<Wake>>) -> Option<watch::Watch> {
    let files: Vec<_> = chains.iter().filter_map(Chain::watched_file).collect();
    let changed = move || {
        for wake in &wakes {
            let _ = wake.unbounded_send(Wake::FileChanged);
        }
    };
    watch::watch(&files, changed)
        .inspect_err(|error| tracing::warn!(%error, "files are looked at every 5 s only"))
        .ok()
}

async fn look_at_file(wake: UnboundedSender<Wake>) {
    loop {
        tokio::time::sleep(LOOK_AT_FILES).await;
        // Whoever wakes up compares: a file that did not change costs one look at it.
        if wake.unbounded_send(Wake::FileChanged).is_err() {
            return;
        }
    }
}

async fn probe_loop(chain: Chain, snapshots: evergrant_server::Snapshots, settings: ProbeSettings) {
    let mut wait = FIRST_PROBE.min(settings.every);
    loop {
        tokio::time::sleep(wait).await;
        wait = settings.every;
        let live = snapshots.current(chain.chain()).is_some_and(|current| current.usable(chain.world.now()));
        if live {
            probe::probe(&chain, &chain.world, &snapshots, settings.message.as_ref()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use evergrant_core::event::{Event, EventKind};
    use evergrant_core::{Generation, Lineage};
    use evergrant_store::State as _;

    use super::*;
    use crate::upkeep;

    #[tokio::test(start_paused = true)]
    async fn old_events_are_forgotten_however_often_the_configuration_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        let text = "state_dir = \"state\"\n[chains.claude]\nauth_file = \"grant/auth.json\"\n\
                    [retention]\nevents_days = 90\n";
        std::fs::write(&path, text).unwrap();
        let settings = config::load(Some(&path), &Environment::new()).unwrap().settings;
        let host = Host::open(&settings).await.unwrap();
        let callers = Callers::load(&host.state).await.unwrap();
        let common = Common {
            host: host.clone(),
            callers,
            chains: Chains::default(),
            uses: FallbackUses::default(),
            upkeep: Upkeep::default(),
        };
        tokio::spawn(common.upkeep.clone().run(host.world.clone()));
        let chain: ChainName = "claude".parse().unwrap();
        let old = |days: u64| Event {
            chain: chain.clone(),
            at: host.world.now() - Duration::from_secs(days * 24 * 3600),
            kind: EventKind::Found,
            reason: Reason::NotDue,
            lineage: Lineage::FIRST,
            generation: Generation::FIRST,
            attempt: None,
            detail: serde_json::Value::Null,
        };
        let left = async || host.state.latest_events(&chain, 9).await.unwrap().len();
        host.state.add_events(&[old(91), old(89)]).await.unwrap();
        let begun = tokio::time::Instant::now();
        let mut running = Running::start(&common, &settings).unwrap();
        while left().await > 1 {
            assert!(begun.elapsed() < Duration::from_secs(120), "nothing was forgotten");
            tokio::time::sleep(Duration::from_secs(10)).await;
            let next = Running::start(&common, &settings).unwrap();
            std::mem::replace(&mut running, next).stop();
        }
        running.stop();
        // And again a day later.
        host.state.add_events(&[old(91), old(89)]).await.unwrap();
        tokio::time::sleep(upkeep::EVERY - Duration::from_secs(120)).await;
        assert_eq!(left().await, 3);
        while left().await > 2 {
            assert!(begun.elapsed() < upkeep::EVERY + Duration::from_secs(240), "nothing was forgotten");
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }
}
