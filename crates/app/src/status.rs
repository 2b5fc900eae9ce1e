//! `evergrant status`: what state the chains are in, without asking any provider (SPEC §11). What lives in the memory
//! of a server is shown as its ledger last had it.

use std::process::ExitCode;
use std::sync::Arc;

use evergrant_core::alert::{ActionContext, Episode, action};
use evergrant_core::caller::Scope;
use evergrant_core::chain::{Kind, Record};
use evergrant_core::event::{Event, EventKind};
use evergrant_core::gateway::Source;
use evergrant_core::keeper::Report;
use evergrant_core::provider::Profile;
use evergrant_core::{ChainName, Reason, api_key};
use evergrant_server::Callers;
use evergrant_server::health::{self, Standing};
use evergrant_server::{Renewable, Renewal, World};
use evergrant_store::state::Numbered;
use evergrant_store::{HealthState as _, State, StateError};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::{ChainSettings, Loaded, Settings, Template};
use crate::host::{self, Chain, Host};
use crate::output;
use crate::{alerts, gateway};

/// So many events are shown of a chain.
const EVENTS_SHOWN: usize = 5;
/// So far back the ledger is read for the last access token: probes lie between.
const EVENTS_READ: usize = 2_000;

/// What an exchange came to.
const EXCHANGED: [EventKind; 2] = [EventKind::Committed, EventKind::Unspent];

/// Shows the named chain; or all that have a section, and what is wrong with those that have none.
pub(crate) async fn status(
    host: &Host,
    loaded: &Loaded,
    only: Option<&ChainName>,
    json: bool,
) -> Result<ExitCode, String> {
    let mut shown = Vec::new();
    let mut worst = output::FINE;
    let callers = Callers::load(&host.state).await.map_err(|error| error.to_string())?;
    for settings in &host::chosen(&loaded.settings, only)? {
        let chain = host.chain(&loaded.settings, settings)?;
        let most = if chain.login("show").is_ok() { EVENTS_SHOWN } else { EVENTS_READ };
        let events = host.state.latest_events(chain.chain(), most).await;
        let events = events.map_err(|error| error.to_string())?;
        let now = chain.world.now();
        let (report, record) = match &chain.renewal {
            Renewal::Keeper(keeper) => keeper.glance(),
            Renewal::Row(row) => {
                let (report, record, _) = row.glance().await;
                (report, record)
            }
            Renewal::Minter(_) => (of_ledger(chain.chain(), &events, now), None),
            Renewal::ApiKey(key) => {
                let found = key.peek().map(|key| key.fingerprint());
                (of_file(chain.chain(), found, &events, now), None)
            }
        };
        let health = Health::of(host, settings, &callers, now).await?;
        if !report.token_valid || health.needs_somebody() {
            worst = output::NEEDS_SOMEBODY;
        }
        let last = &events[..events.len().min(EVENTS_SHOWN)];
        let serves = serves(&loaded.settings, settings, &report, now);
        if json {
            let mut value = as_json(&chain, &report, record.as_ref(), last)?;
            value["serves"] = json!(serves.as_str());
            health.into_json(&mut value);
            shown.push(value);
        } else {
            as_text(&chain, &report, record.as_ref(), last, now);
            let dim = output::DIM;
            anstream::println!("  {dim}serves{dim:#} {}", serves.as_str());
            health.print(&chain, now);
        }
    }
    let others = if only.is_none() { of_others(host, &loaded.settings).await? } else { Vec::new() };
    if others.iter().any(alerts::needs_somebody) {
        worst = output::NEEDS_SOMEBODY;
    }
    let sinks = host.state.sink_states().await.map_err(|error| error.to_string())?;
    if json {
        output::json(&json!({ "chains": shown, "episodes": others, "sinks": sinks }));
    } else {
        if only.is_none() {
            print_others(&loaded.settings, &others, host.world.now());
        }
        sinks.iter().for_each(alerts::sink);
    }
    Ok(ExitCode::from(worst))
}

/// What a request would be served by, as far as can be told from here: what the fallback key has served today is not.
fn serves(settings: &Settings, chain: &ChainSettings, report: &Report, now: Timestamp) -> Source {
    let position = (report.lineage.unwrap_or_default(), report.generation.unwrap_or_default());
    let live = report.token_valid.then(|| (position, report.expires_at.unwrap_or(Timestamp::MAX)));
    let own = if chain.kind() == Kind::ApiKey { Source::ApiKey } else { Source::Oauth };
    let fallback = gateway::fallback_key_counted(settings, chain, Arc::default());
    health::serving_of(live, own, fallback.as_ref(), now).source
}

/// The open episodes of chains that have no section: there may be any number of such chains.
async fn of_others(host: &Host, settings: &Settings) -> Result<Vec<Episode>, String> {
    if settings.templates.is_empty() {
        return Ok(Vec::new());
    }
    let mut open = host.state.open_episodes(None).await.map_err(|error| error.to_string())?;
    let named = |name: &ChainName| settings.chains.iter().any(|chain| chain.name == *name);
    open.retain(|episode| settings.template(&episode.chain).is_some() && !named(&episode.chain));
    Ok(open)
}

fn print_others(settings: &Settings, open: &[Episode], now: Timestamp) {
    for episode in open {
        if let Some(like) = settings.template(&episode.chain).map(Template::common) {
            print_episode(episode, like.kind(), &like.policy.profile, None, now);
        }
    }
    let prefixes: Vec<_> =
        settings.templates.iter().map(|template| format!("{}*", template.prefix)).collect();
    if !prefixes.is_empty() && open.is_empty() {
        anstream::println!("nothing is wrong with {}; --chain NAME shows one of them", prefixes.join(", "));
    }
    if prefixes.is_empty() && settings.chains.is_empty() {
        anstream::println!("no chain is configured and enabled");
    }
}

/// An open episode, and what to do.
fn print_episode(episode: &Episode, kind: Kind, profile: &Profile, config_dir: Option<&str>, now: Timestamp) {
    alerts::line(episode, now);
    let (chain, reason) = (&episode.chain, episode.reason);
    let context = ActionContext { chain, kind, profile, reason, config_dir };
    let action = action(episode.condition, &context).filter(|_| episode.holds());
    for command in action.iter().flat_map(|action| &action.commands) {
        anstream::println!("  {}next:{:#} {command}", output::DIM, output::DIM);
    }
}

/// The push track of a chain, and what is wrong with it.
struct Health {
    standing: Standing,
    open: Vec<Episode>,
}

impl Health {
    async fn of(
        host: &Host,
        settings: &ChainSettings,
        callers: &Callers,
        now: Timestamp,
    ) -> Result<Self, String> {
        let name = &settings.name;
        let tracked = settings.push || callers.table().anybody_missed(Scope::Push, name);
        let expected = tracked.then(|| settings.expected.clone());
        let failed = |error: StateError| error.to_string();
        let standing = health::standing(&host.state, name, expected, now).await.map_err(failed)?;
        let mut open = host.state.book(std::slice::from_ref(name), now).await.map_err(failed)?.episodes;
        open.retain(Episode::is_open);
        Ok(Self { standing, open })
    }

    fn needs_somebody(&self) -> bool {
        self.open.iter().any(alerts::needs_somebody)
    }

    fn into_json(self, value: &mut Value) {
        let Standing { push: (status, since), facts, tracked } = self.standing;
        value["push"] = json!({ "tracked": tracked, "status": status, "since": since, "facts": facts });
        value["episodes"] = json!(self.open);
    }

    fn print(&self, chain: &Chain, now: Timestamp) {
        let dim = output::DIM;
        let Standing { push: (status, _), facts, tracked } = &self.standing;
        if *tracked {
            let style = if status.condition().is_some() { output::WARN } else { output::GOOD };
            let last = facts.last_at.map_or("nothing heard yet".to_owned(), |at| {
                format!("last heard {} ago", output::span(now.duration_since(at).as_secs()))
            });
            anstream::println!("  {dim}push{dim:#} {style}{}{style:#}, {last}", status.as_str());
            for agent in &facts.agents {
                let ago = output::span(now.duration_since(agent.last_at).as_secs());
                anstream::println!("    {} on {}: {}, {ago} ago", agent.id, agent.host, agent.reason);
            }
        }
        for episode in &self.open {
            print_episode(episode, chain.kind, chain.profile(), facts.config_dir(), now);
        }
    }
}

fn as_json(
    chain: &Chain,
    report: &Report,
    record: Option<&Record>,
    events: &[Numbered],
) -> Result<Value, String> {
    let mut value = serde_json::to_value(report).map_err(|error| error.to_string())?;
    value["provider"] = json!(chain.profile().name);
    value["auth_file"] = json!(chain.auth_file());
    value["fingerprint"] = json!(record.map(|record| record.pair.fingerprint()));
    value["kind"] = json!(kind(chain, record));
    value["granted_at"] = json!(record.map(|record| record.granted_at));
    value["grant_expires_at"] = json!(record.and_then(|record| record.grant_expires_at));
    value["failures"] = json!(record.and_then(|record| record.failures));
    value["events"] = json!(events);
    Ok(value)
}

fn as_text(chain: &Chain, report: &Report, record: Option<&Record>, events: &[Numbered], now: Timestamp) {
    let dim = output::DIM;
    output::report(report, now);
    if let Some(kind) = kind(chain, record) {
        anstream::println!("  {dim}kind{dim:#} {kind}, {dim}provider{dim:#} {}", chain.profile().name);
    }
    for warning in record.iter().flat_map(|record| output::warnings(record, now)) {
        anstream::println!("  {}warning:{:#} {warning}", output::WARN, output::WARN);
    }
    for numbered in events.iter().rev() {
        let event = &numbered.event;
        let ago = output::span(now.duration_since(event.at).as_secs());
        anstream::println!("  {dim}{ago:>12} ago{dim:#}  {} {}", event.kind.as_str(), event.reason);
    }
}

/// The kind of the chain; of a login only what was found in its file is known.
fn kind(chain: &Chain, record: Option<&Record>) -> Option<&'static str> {
    match &chain.renewal {
        Renewal::Keeper(_) | Renewal::Row(_) => record.map(|record| record.kind.as_str()),
        Renewal::Minter(_) | Renewal::ApiKey(_) => Some(chain.kind.as_str()),
    }
}

/// A chain whose access token lives in the memory of the process that minted it.
fn of_ledger(chain: &ChainName, events: &[Numbered], now: Timestamp) -> Report {
    let exchanged = |event: &&Event| EXCHANGED.contains(&event.kind);
    let mut attempts = events.iter().map(|numbered| &numbered.event).filter(exchanged).peekable();
    let failed = attempts.peek().copied().filter(|event| event.kind == EventKind::Unspent);
    let minted = attempts.find(|event| event.kind == EventKind::Committed);
    let expires_at = minted.and_then(|event| instant(event, "expires_at"));
    let lives = expires_at.is_some_and(|end| now < end);
    let refused = minted.is_some_and(|minted| refused_since(minted, events));
    let error = failed.map(|event| event.reason);
    let reason = match (error, lives) {
        (Some(error), _) => error,
        (None, true) => Reason::Renewed,
        (None, false) => Reason::NotMinted,
    };
    let token_valid = lives && !refused;
    let detail = "as the ledger last had it: the access token is in the memory of the process that minted it";
    Report {
        token_present: lives,
        token_valid,
        ok: token_valid && error.is_none(),
        lineage: minted.map(|event| event.lineage),
        generation: minted.map(|event| event.generation),
        expires_at,
        renew_at: minted.and_then(|event| instant(event, "renew_at")),
        ..Report::new(chain, None, false, (reason, error), now)
    }
    .detail(minted.or(failed).map(|_| detail.to_owned()))
}

fn instant(event: &Event, member: &str) -> Option<Timestamp> {
    event.detail.get(member).and_then(Value::as_str)?.parse().ok()
}

/// The newest probe of this very token says that the API refuses it.
fn refused_since(minted: &Event, events: &[Numbered]) -> bool {
    let position = (minted.lineage, minted.generation);
    let of_it = |event: &&Event| {
        event.kind == EventKind::Probed
            && (event.lineage, event.generation) == position
            && event.at >= minted.at
    };
    let newest = events.iter().map(|numbered| &numbered.event).find(of_it);
    newest.is_some_and(|event| event.reason == Reason::ProbeRefused)
}

/// A chain that is an API key: which one the file holds, and what the API said of it last.
fn of_file(
    chain: &ChainName,
    found: Result<evergrant_core::Fingerprint, String>,
    events: &[Numbered],
    now: Timestamp,
) -> Report {
    let fingerprint = match found {
        Ok(fingerprint) => fingerprint,
        Err(unusable) => return api_key::report(chain, None, Some(unusable), now),
    };
    let of_key = |event: &&Event| {
        let held = event.detail.get("access_fingerprint").and_then(Value::as_str);
        held == Some(fingerprint.to_string().as_str())
    };
    let newest = events.iter().map(|numbered| &numbered.event).find(of_key);
    let refused = newest.filter(|event| matches!(event.reason, Reason::ApiKeyRefused | Reason::ProbeRefused));
    let mut held = api_key::take_in(None, fingerprint, now);
    if let Some(event) = newest {
        held.position = (event.lineage, event.generation);
    }
    held.refused_at = refused.map(|event| event.at);
    api_key::report(chain, Some(held), None, now)
}
