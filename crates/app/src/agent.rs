//! `evergrant agent …` on a workstation: wires `[agent]` to the agent's room and prints what it says (SPEC §5, §11).
//!
//! Nothing here opens a server's state, and no runtime is started.

mod service;
mod show;
mod stdin;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use evergrant_agent::entry::{self, Entry, Keychain};
use evergrant_agent::key::{KeySource, PushKey};
use evergrant_agent::log::{self, CappedLog};
use evergrant_agent::notify::Notifier;
use evergrant_agent::process::Surroundings;
use evergrant_agent::round::{Agent, Ask, Report};
use evergrant_agent::run::Stop;
use evergrant_agent::settings::Sinks;
use evergrant_agent::{ChainSettings, Settings, absence, doctor};
use evergrant_core::ChainName;
use evergrant_core::alert::Links;
use evergrant_core::alert::sink::Sink;
use evergrant_core::provider::{ClientEntry, Profile};
use evergrant_core::push::Absence;
use evergrant_core::push::agent::Periods;
use jiff::{SignedDuration, Timestamp};

use crate::cli::{AgentCommand, Global};
use crate::config::{self, AgentChain, Environment, Loaded};
use crate::{logs, output};

/// Holds the push key where no file does.
pub(crate) const KEY_VARIABLE: &str = "EVERGRANT_AGENT_KEY";
/// `LOOK BEAT TROUBLE` in milliseconds, so that tests of the real program need no half hour.
pub(crate) const PERIODS_VARIABLE: &str = "EVERGRANT_AGENT_TEST_PERIODS";
/// What macOS reads its keychain with.
const SECURITY: &str = "/usr/bin/security";

/// Runs one of them.
pub(crate) fn run(command: &AgentCommand, global: &Global, env: &Environment) -> ExitCode {
    let loaded = match config::load(global.config.as_deref(), env) {
        Ok(loaded) => loaded,
        Err(faults) => {
            output::faults(&faults);
            return ExitCode::from(output::USAGE);
        }
    };
    let done = if matches!(command, AgentCommand::Run) {
        run_on(&loaded, env)
    } else {
        logs::start_quietly(loaded.settings.log);
        run_once(command, &loaded, global.json, env)
    };
    done.unwrap_or_else(output::failed)
}

fn run_once(
    command: &AgentCommand,
    loaded: &Loaded,
    json: bool,
    env: &Environment,
) -> Result<ExitCode, String> {
    match command {
        AgentCommand::Run => run_on(loaded, env),
        AgentCommand::Once { chain } => rounds(&agent(loaded, env)?, chain.chain.as_ref(), &Ask::Now, json),
        AgentCommand::Push { chain, stdin, accept_new_identity } => {
            let (agent, accept_new_identity) = (agent(loaded, env)?, *accept_new_identity);
            let chain = one_chain(&agent, chain.chain.as_ref())?.name.clone();
            let ask = if *stdin {
                Ask::Given { grant: Box::new(stdin::grant(&Profile::claude())?), accept_new_identity }
            } else {
                Ask::Push { accept_new_identity }
            };
            rounds(&agent, Some(&chain), &ask, json)
        }
        AgentCommand::Pause { span, reason, off } => {
            pause(&agent(loaded, env)?, span.filter(|_| !off), reason, json)
        }
        AgentCommand::Status { service } => {
            let state =
                service::service(service, loaded, env).and_then(|service| service.state().map_err(say));
            show::status(&agent(loaded, env)?, state, now(), json)
        }
        AgentCommand::Doctor => Ok(show::doctor(&doctor::examine(&agent(loaded, env)?), json)),
        AgentCommand::Install { service, print, linger } => {
            service::install(service, *print, *linger, loaded, env)
        }
        AgentCommand::Uninstall { service } => service::uninstall(service, loaded, env),
        AgentCommand::Logs { lines } => {
            let path = folder(loaded).join(log::NAME);
            for line in log::tail(&path, *lines).map_err(|error| format!("{}: {error}", path.display()))? {
                anstream::println!("{line}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Until it is told to stop. What it has to say goes into its own log; on a terminal it is shown as well.
fn run_on(loaded: &Loaded, env: &Environment) -> Result<ExitCode, String> {
    let stop = Stop::on_signals().map_err(say)?;
    let agent = Arc::new(agent(loaded, env)?);
    let path = agent.folder().path().join(log::NAME);
    let file =
        CappedLog::open(&path, log::MOST_LEN).map_err(|error| format!("{}: {error}", path.display()))?;
    logs::start_in(loaded.settings.log, file, std::io::stderr().is_terminal());
    evergrant_agent::run::run(&agent, &stop).map_err(say)?;
    Ok(ExitCode::SUCCESS)
}

fn rounds(agent: &Agent, chain: Option<&ChainName>, ask: &Ask, json: bool) -> Result<ExitCode, String> {
    let chains = match chain {
        Some(_) => vec![one_chain(agent, chain)?],
        None => agent.settings().chains.iter().collect(),
    };
    let mut reports: Vec<Report> = Vec::new();
    for chain in chains {
        reports.push(agent.round(chain, ask).map_err(say)?);
    }
    Ok(show::reports(&reports, matches!(ask, Ask::Given { .. }), json))
}

fn pause(agent: &Agent, span: Option<Duration>, reason: &str, json: bool) -> Result<ExitCode, String> {
    if reason.chars().count() > absence::MOST_REASON {
        return Err(format!("--reason has {} characters at most", absence::MOST_REASON));
    }
    match span {
        Some(span) => {
            let until = SignedDuration::try_from(span).ok().and_then(|span| now().checked_add(span).ok());
            let until = until.ok_or("--for is too long")?;
            absence::announce(agent.folder(), &Absence { until, reason: reason.to_owned() }).map_err(say)?;
            if !json {
                anstream::println!("announced: silent until {}", until.strftime("%Y-%m-%d %H:%M UTC"));
            }
        }
        None => {
            absence::take_back(agent.folder()).map_err(say)?;
            if !json {
                anstream::println!("taken back: silence counts again");
            }
        }
    }
    // A server that cannot be reached now hears of it at the next contact.
    rounds(agent, None, &Ask::Now, json)
}

/// The chain that is meant: the named one, or the only one.
fn one_chain<'a>(agent: &'a Agent, name: Option<&ChainName>) -> Result<&'a ChainSettings, String> {
    let chains = &agent.settings().chains;
    let names = || chains.iter().map(|chain| chain.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, chains.as_slice()) {
        (Some(name), chains) => chains
            .iter()
            .find(|chain| chain.name == *name)
            .ok_or_else(|| format!("there is no chain {name} in [agent.chains]; there is: {}", names())),
        (None, [only]) => Ok(only),
        (None, _) => Err(format!("say which chain with --chain: {}", names())),
    }
}

fn folder(loaded: &Loaded) -> PathBuf {
    loaded.settings.state_dir.join("agent")
}

fn agent(loaded: &Loaded, env: &Environment) -> Result<Agent, String> {
    Agent::new(settings(loaded, env)?).map_err(say)
}

/// From the configuration to what the agent's room wants.
fn settings(loaded: &Loaded, env: &Environment) -> Result<Settings, String> {
    let given = &loaded.settings.agent;
    let missing = "the agent does not know its server; set server in [agent] of the configuration, for example \
                   server = \"https://evergrant.example.org\"";
    let server = given.server.clone().ok_or(missing)?;
    let around = Surroundings::of(env);
    let key = match (&given.key_file, env.get(KEY_VARIABLE).filter(|text| !text.trim().is_empty())) {
        (Some(file), _) => KeySource::File(file.clone()),
        (None, Some(text)) => {
            let key = PushKey::parse(text);
            KeySource::Given(key.ok_or_else(|| format!("{KEY_VARIABLE} holds no key: one begins with evg_"))?)
        }
        (None, None) => KeySource::Missing,
    };
    let key_of = |chain: &AgentChain| chain.key_file.clone().map_or_else(|| key.clone(), KeySource::File);
    let notifier = match &given.notify_program {
        Some(program) => Notifier { program: Some(program.clone()), around: around.clone() },
        None => Notifier::of_this_machine(around.clone()),
    };
    let base = server.as_str().trim_end_matches('/').to_owned();
    let runbook = loaded.raw.alerts.runbook_url.clone().unwrap_or_else(|| format!("{base}/runbook"));
    let chains = given.chains.iter().map(|(name, chain)| {
        let (name, key) = (name.clone(), key_of(chain));
        Ok(ChainSettings { name, entry: entry(chain, loaded, &around, env)?, key })
    });
    Ok(Settings {
        folder: folder(loaded),
        ca_file: given.ca_file.clone(),
        host: given.host.clone().unwrap_or_else(host_name),
        chains: chains.collect::<Result<_, String>>()?,
        notifier,
        sinks: Sinks::of(sinks(loaded)),
        links: Links { runbook, server: base },
        periods: periods(env)?,
        server,
    })
}

fn entry(
    chain: &AgentChain,
    loaded: &Loaded,
    around: &Surroundings,
    env: &Environment,
) -> Result<Entry, String> {
    let client = ClientEntry::claude();
    let home = || {
        config::home(env).ok_or("HOME is not set, so that the client's config folder is not known; set it")
    };
    let config_dir = match &chain.config_dir {
        Some(folder) => folder.clone(),
        None => home()?.join(client.folder),
    };
    let program = loaded.settings.agent.security_program.clone();
    let program = program.or_else(|| Some(PathBuf::from(SECURITY)).filter(|program| program.exists()));
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| around.variable(name));
    let account = chain.account.as_deref().or(user);
    let own = chain.config_dir.as_ref().map(|folder| folder.to_string_lossy().into_owned());
    let keychain = match (program.filter(|_| chain.keychain), account) {
        (None, _) => None,
        (Some(_), None) => {
            return Err("neither USER nor LOGNAME is set; set account in [agent.chains]".to_owned());
        }
        (Some(program), Some(account)) => Some(Keychain {
            program,
            service: entry::service(client.keychain_service, own.as_deref()),
            account: account.to_owned(),
            around: around.clone(),
        }),
    };
    let file = chain.file.clone().unwrap_or_else(|| config_dir.join(client.file));
    Ok(Entry { keychain, file, config_dir: own, profile: Profile::claude() })
}

/// The sinks that `[agent] sinks` names.
fn sinks(loaded: &Loaded) -> Vec<Sink> {
    let named = |sink: &&Sink| loaded.settings.agent.sinks.contains(&sink.name);
    loaded.settings.sinks.iter().filter(named).cloned().collect()
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

fn periods(env: &Environment) -> Result<Periods, String> {
    let Some(text) = env.get(PERIODS_VARIABLE) else { return Ok(Periods::default()) };
    let millis: Vec<_> = text.split(' ').filter_map(|word| word.parse::<i64>().ok()).collect();
    match millis[..] {
        [look, beat, trouble] if look > 0 => {
            let span = SignedDuration::from_millis;
            Ok(Periods { look: span(look), beat: span(beat), trouble: span(trouble) })
        }
        _ => Err(format!("{PERIODS_VARIABLE} must be three numbers of milliseconds")),
    }
}

#[expect(clippy::disallowed_methods, reason = "a command of a person begins here")]
fn now() -> Timestamp {
    Timestamp::now()
}

fn say(error: evergrant_agent::AgentError) -> String {
    error.to_string()
}
