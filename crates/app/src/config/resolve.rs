//! From the file to settings: paths made absolute, names and addresses made types, and what cannot be said in
//! a schema checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evergrant_core::keeper::Policy;
use evergrant_core::{ChainName, Reason};
use evergrant_server::probe::MessageProbe;

use super::environment::variable;
use super::fault::{Fault, Faults, Place, suggest};
use super::file::{Chain, Config};
use super::profile::{self, Resolved};
use super::settings::{ChainSettings, LogSettings, ProbeSettings, RetentionSettings, Settings, Template};
use super::structure::Places;
use super::{Environment, agent, alerts, gateway, kind, sink, source, telemetry, vault};

const DAY_SECS: u64 = 24 * 3600;

/// What resolving needs to know and collects.
pub(crate) struct Resolve<'a> {
    places: &'a Places,
    env: &'a Environment,
    faults: &'a mut Faults,
}

impl Resolve<'_> {
    /// The value with these keys is set: in the file, or by a variable.
    pub(crate) fn is_set(&self, keys: &[&str]) -> bool {
        self.places.has(keys)
    }

    /// The environment.
    pub(crate) fn env(&self) -> &Environment {
        self.env
    }

    /// A fault of the value with these keys.
    pub(crate) fn fault(&mut self, keys: &[&str], fault: Fault) {
        self.faults.add_at(self.places.of(keys), fault);
    }

    /// A fault of something that is not there: a variable that made its table is not to blame.
    pub(crate) fn missing(&mut self, keys: &[&str], fault: Fault) {
        match self.places.of(keys) {
            Some(place @ Place::File(_)) => self.faults.add_at(Some(place), fault),
            Some(Place::Variable(_)) | None => self.faults.add(fault),
        }
    }

    /// A variable of the environment that is no field, if it holds anything.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.trim().is_empty())
    }

    /// Makes a path absolute, in place. The outer `None`: it is faulty. The inner one: it is not set.
    pub(crate) fn path(&mut self, path: &mut Option<PathBuf>, keys: &[&str]) -> Option<Option<PathBuf>> {
        let Some(given) = path.clone() else {
            return Some(None);
        };
        match self.absolute(&given, keys) {
            Ok(absolute) => {
                *path = Some(absolute.clone());
                Some(Some(absolute))
            }
            Err(message) => {
                let key = keys.last().copied().unwrap_or_default();
                self.fault(keys, Fault::error(format!("{key} {message}")));
                None
            }
        }
    }

    fn absolute(&self, path: &Path, keys: &[&str]) -> Result<PathBuf, &'static str> {
        if path.as_os_str().is_empty() {
            return Err("must not be empty");
        }
        if let Ok(below) = path.strip_prefix("~") {
            let home = source::home(self.env).ok_or("begins with ~, and HOME is not set")?;
            return Ok(home.join(below));
        }
        if path.is_absolute() {
            return Ok(path.to_owned());
        }
        if path.to_string_lossy().starts_with('~') {
            return Err("can begin with ~/ only for your own home");
        }
        match self.places.of(keys) {
            Some(Place::Variable(_)) | None => Err("must be an absolute path, or begin with ~/"),
            Some(Place::File(_)) => {
                let folder = self.faults.file().and_then(|file| file.parent());
                folder.map(|folder| folder.join(path)).ok_or("must be an absolute path")
            }
        }
    }
}

/// Checks and resolves; `None` where a fault leaves nothing to work with. Paths in `raw` are filled in.
pub(crate) fn resolve(
    raw: &mut Config,
    places: &Places,
    env: &Environment,
    faults: &mut Faults,
) -> Option<Settings> {
    let mut resolve = Resolve { places, env, faults };
    if raw.chains.is_empty() && !places.has(&["chains"]) {
        raw.chains.insert("claude".into(), Chain::default());
    }
    let state_dir = state_dir(raw, &mut resolve);
    let database = vault::database(raw, &mut resolve);
    let tls = gateway::tls(raw, &mut resolve);
    let listen = listen(raw, &mut resolve);
    let gateway = gateway::settings(raw, &mut resolve);
    let traces = telemetry::settings(raw, &mut resolve);
    let profiles = profile::resolve_all(&mut raw.providers, &mut resolve);
    let agent = agent::settings(raw, &mut resolve);
    let mut chains = Some((Vec::new(), Vec::new()));
    for (name, chain) in &mut raw.chains {
        let prefix = vault::prefix(name, chain, &mut resolve);
        let settings = one_chain(name, chain, &profiles, &mut resolve);
        // Without a sound database its own fault says enough.
        let held = database
            .as_ref()
            .is_none_or(|database| vault::check(name, chain, database.as_ref(), &mut resolve));
        match (settings, prefix, &mut chains) {
            (None, _, _) | (_, Some(None), _) => chains = None,
            (Some(_), _, _) if !held => chains = None,
            (Some(_), _, _) if !chain.enabled => {}
            (Some(_), _, None) => {}
            (Some(settings), None, Some((named, _))) => named.push(settings),
            (Some(settings), Some(Some(prefix)), Some((_, templates))) => {
                templates.push(Template::new(prefix, settings));
            }
        }
    }
    if let Some((chains, templates)) = &mut chains {
        files_of_their_own(chains, &mut resolve);
        templates.sort_by_key(|template: &Template| std::cmp::Reverse(template.prefix.len()));
    }
    let alerts = listen.and_then(|listen| alerts::settings(raw, listen, &mut resolve));
    let watchdog = alerts::watchdog(raw, &mut resolve);
    let sinks = sink::resolve_all(raw, &mut resolve);
    if let (Some(agent), Some(sinks)) = (&agent, &sinks) {
        agent::check_sinks(agent, sinks, &mut resolve);
    }
    let (chains, templates) = chains?;
    let days = |days: u64| Duration::from_secs(days * DAY_SECS);
    Some(Settings {
        state_dir: state_dir?,
        database: database?,
        listen: listen?,
        behind_proxy: raw.http.behind_proxy,
        tls: tls?,
        gateway: gateway?,
        log: LogSettings { format: raw.log.format, level: raw.log.level },
        traces: traces?,
        chains,
        templates,
        probe: ProbeSettings {
            enabled: raw.probe.enabled,
            every: Duration::from_secs(raw.probe.every_secs),
            message: raw.probe.message.then(|| MessageProbe { model: raw.probe.message_model.clone() }),
        },
        alerts: alerts?,
        sinks: sinks?,
        watchdog: watchdog?,
        agent: agent?,
        retention: RetentionSettings {
            events: days(raw.retention.events_days),
            rotations: days(raw.retention.rotations_days),
        },
    })
}

fn state_dir(raw: &mut Config, resolve: &mut Resolve<'_>) -> Option<PathBuf> {
    if let Some(given) = resolve.path(&mut raw.state_dir, &["state_dir"])? {
        return Some(given);
    }
    raw.state_dir = source::state_dir(resolve.env);
    if raw.state_dir.is_none() {
        let fault = Fault::error("there is no state folder: neither XDG_STATE_HOME nor HOME is set");
        let help = format!("set state_dir, or {}", variable(&["state_dir"]));
        resolve.missing(&["state_dir"], fault.help(help));
    }
    raw.state_dir.clone()
}

fn listen(raw: &Config, resolve: &mut Resolve<'_>) -> Option<SocketAddr> {
    let keys = ["http", "listen"];
    let Ok(address) = raw.http.listen.parse::<SocketAddr>() else {
        let message = format!("listen must be an address with a port, not {:?}", raw.http.listen);
        let help = "for example \"127.0.0.1:8787\" or \"[::1]:8787\"; a host name will not do";
        resolve.fault(&keys, Fault::error(message).help(help));
        return None;
    };
    let secured = raw.http.behind_proxy || raw.http.tls_cert.is_some();
    if reachable_without_tls(address, secured) {
        let message = format!("listen is {address}, which others can reach without TLS");
        let help = "listen on 127.0.0.1, set tls_cert and tls_key, or put a proxy that ends TLS in front and set \
                    behind_proxy = true";
        resolve.fault(&keys, Fault::error(message).help(help));
        return None;
    }
    Some(address)
}

/// Others can reach it, and what they say is read on the way unless it is `secured` by TLS, here or in a proxy.
pub(crate) fn reachable_without_tls(address: SocketAddr, secured: bool) -> bool {
    !address.ip().to_canonical().is_loopback() && !secured
}

fn one_chain(
    name: &str,
    chain: &mut Chain,
    profiles: &BTreeMap<String, Option<Resolved>>,
    resolve: &mut Resolve<'_>,
) -> Option<ChainSettings> {
    // A name that stands for many is judged elsewhere; any of them will do here.
    let parsed = match name.strip_suffix('*') {
        Some(prefix) => format!("{prefix}x").parse().or_else(|_| "x".parse::<ChainName>()),
        None => name.parse::<ChainName>(),
    };
    if let Err(error) = &parsed {
        resolve.fault(&["chains", name], Fault::error(error.to_string()));
    }
    let profile = match profiles.get(&chain.provider) {
        Some(profile) => profile.as_ref(),
        None => {
            let message = format!("there is no provider {:?}", chain.provider);
            let known: Vec<_> = profiles.keys().map(String::as_str).collect();
            let help = match suggest(&chain.provider, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("known: {}; another one is described in [providers.NAME]", known.join(", ")),
            };
            resolve.fault(&["chains", name, "provider"], Fault::error(message).help(help));
            None
        }
    };
    let way = kind::way(name, chain, profile, resolve);
    let profile = profile?;
    let fallback_key = gateway::fallback_key(name, chain, profile, resolve);
    let expected = alerts::expected(name, chain, resolve);
    let needs_terms = kind::of(chain.kind).needs_terms() && profile.profile.terms.is_some();
    let accepted = chain.accept_provider_terms || !needs_terms;
    if !accepted && chain.enabled {
        terms_warning(name, profile, resolve);
    }
    Some(ChainSettings {
        name: parsed.ok()?,
        way: way?,
        accepted,
        policy: Policy {
            profile: profile.profile.clone(),
            renew_before: Duration::from_secs(chain.renew_before_secs),
            min_exchange_interval: Duration::from_secs(chain.min_exchange_interval_secs),
            deadline: Duration::from_secs(chain.deadline_secs),
        },
        ca_file: profile.ca_file.clone(),
        fallback_key: fallback_key?,
        push: chain.push,
        expected: expected?,
        token_read: chain.token_read,
    })
}

fn terms_warning(name: &str, profile: &Resolved, resolve: &mut Resolve<'_>) {
    let terms = profile.profile.terms.as_deref().unwrap_or_default();
    let provider = &profile.profile.name;
    let line = "accept_provider_terms = true";
    let many = name.ends_with('*');
    let flag = variable(&["chains", name, "accept_provider_terms"]).replace('-', "_");
    let section = if many { format!("[chains.{name:?}]") } else { format!("[chains.{name}]") };
    let how = if matches!(resolve.places.of(&["chains", name]), Some(Place::File(_))) {
        format!("if it is yours and you do, add this line below {section}:\n{line}")
    } else {
        format!("if it is yours and you do, add these lines to the configuration:\n{section}\n{line}")
    };
    let message = format!(
        "chain {name:?} does nothing until its login's owner accepts the terms of {provider:?}: {terms}"
    );
    let how = if many { how } else { format!("{how}\nor set {flag}=true") };
    let fault = Fault::warning(message).help(how);
    resolve.missing(&["chains", name], fault.reason(Reason::TermsNotAccepted));
}

/// Two chains on one file would each take the other for a second writer.
fn files_of_their_own(chains: &[ChainSettings], resolve: &mut Resolve<'_>) {
    let mut owners: BTreeMap<PathBuf, &ChainName> = BTreeMap::new();
    for chain in chains {
        let Some(auth_file) = chain.written_file() else { continue };
        let file = one_name(auth_file);
        if let Some(owner) = owners.get(&file) {
            let message = format!(
                "chain {:?} has the auth file of chain {:?}: {}",
                chain.name.as_str(),
                owner.as_str(),
                auth_file.display()
            );
            let field = if chain.in_database() { "export" } else { "auth_file" };
            let fault =
                Fault::error(message).help(format!("each chain needs a file of its own: set {field}"));
            resolve.fault(&["chains", chain.name.as_str(), field], fault);
        } else {
            owners.insert(file, &chain.name);
        }
    }
}

/// The path with links and dots resolved as far as it exists.
fn one_name(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut there = path;
    loop {
        if let Ok(resolved) = there.canonicalize() {
            return missing.iter().rev().fold(resolved, |path, name| path.join(name));
        }
        match (there.parent(), there.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                there = parent;
            }
            (None, _) | (_, None) => return path.to_owned(),
        }
    }
}
