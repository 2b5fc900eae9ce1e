//! What each command does: wires the rooms, prints what they say, and chooses the exit status.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::CommandFactory;
use evergrant_core::audit::{Act, Actor, AuditEntry};
use evergrant_core::authfile;
use evergrant_core::gateway::Source;
use evergrant_core::keeper::{Look, Report};
use evergrant_core::{ApiKey, Reason};
use evergrant_server::probe::MessageProbe;
use evergrant_server::{Renewable, Renewal, World as _, probe};
use evergrant_store::{AuthFile, HealthState as _, OsDisk, secret_file};
use serde_json::{Value, json};

use crate::cli::{Cli, Command, ConfigCommand, Global, OneChain, SealCommand};
use crate::config::{self, Environment, Fault, Loaded, Way};
use crate::host::{Chain, Host};
use crate::{alerts, drill, import, keys, logs, output, seal, serve, standin, status, timeline};

/// Runs one command.
pub(crate) async fn run(cli: Cli, env: Environment) -> ExitCode {
    let Cli { global, command } = cli;
    match command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "evergrant", &mut std::io::stdout());
            return ExitCode::SUCCESS;
        }
        Command::Man => return man(),
        Command::Demo { span } => return standin::demo(span, global.json).await,
        Command::Drill { name } => return drill::run(name, global.json).await,
        Command::Seal { command: SealCommand::NewKey } => return seal::new_key(),
        Command::StandIn(args) => return standin::stand_in(args, global.json).await,
        Command::Config { command: ConfigCommand::Schema } => {
            output::json(&config::schema());
            return ExitCode::SUCCESS;
        }
        Command::Config { command: ConfigCommand::Reference } => {
            anstream::print!("{}", config::reference());
            return ExitCode::SUCCESS;
        }
        Command::Config { command: ConfigCommand::Check } => return config_check(&global, &env),
        Command::Serve
        | Command::Status { .. }
        | Command::Alerts { .. }
        | Command::Refresh { .. }
        | Command::Probe { .. }
        | Command::Token { .. }
        | Command::Import(_)
        | Command::Export { .. }
        | Command::Keys { .. }
        | Command::Seal { .. }
        | Command::Agent { .. }
        | Command::Config { command: ConfigCommand::Show } => {}
    }
    let mut loaded = match config::load(global.config.as_deref(), &env) {
        Ok(loaded) => loaded,
        Err(faults) => {
            output::faults(&faults);
            return ExitCode::from(output::USAGE);
        }
    };
    if global.accept_provider_terms {
        loaded.accept_provider_terms();
    }
    logs::start(loaded.settings.log);
    with_configuration(command, loaded, &global, &env).await
}

/// The commands that need a configuration.
async fn with_configuration(
    command: Command,
    loaded: Loaded,
    global: &Global,
    env: &Environment,
) -> ExitCode {
    if let Command::Config { command: ConfigCommand::Show } = command {
        return config_show(&loaded, global.json);
    }
    if let Command::Serve = command {
        output::faults(&loaded.warnings);
        return serve::serve(loaded, global, env).await;
    }
    let host = match Host::open(&loaded.settings).await {
        Ok(host) => host,
        Err(why) => return output::failed(why),
    };
    let chain = |which: &OneChain| host.one_chain(&loaded.settings, which.chain.as_ref());
    let code = match &command {
        Command::Status { timeline: true, chain } => {
            timeline::show(&host, &loaded, chain.as_ref(), global.json).await
        }
        Command::Status { timeline: false, chain } => {
            status::status(&host, &loaded, chain.as_ref(), global.json).await
        }
        Command::Alerts { command } => alerts::run(&host, &loaded, env, command, global.json).await,
        Command::Refresh { chain: which, force, accept_stale } => match chain(which) {
            Ok(chain) => refresh(&chain, (*force, *accept_stale), keys::actor(env), global.json).await,
            Err(why) => Err(why),
        },
        Command::Probe { chain: which } => match chain(which) {
            Ok(chain) => {
                Ok(probe_now(&host, &chain, loaded.settings.probe.message.as_ref(), global.json).await)
            }
            Err(why) => Err(why),
        },
        Command::Token { chain: which } => match chain(which) {
            Ok(chain) => token(&host, &chain, global.json).await,
            Err(why) => Err(why),
        },
        Command::Import(args) => match chain(&args.chain) {
            Ok(chain) => import::run(&chain, args, keys::actor(env), global.json).await,
            Err(why) => Err(why),
        },
        Command::Export { file, chain: which, include_refresh_token } => match chain(which) {
            Ok(chain) => export(&chain, file.as_deref(), *include_refresh_token).await,
            Err(why) => Err(why),
        },
        Command::Seal { command } => seal::run(&host, &loaded.settings, command, global.json).await,
        Command::Keys { command } => keys::run(&host, &loaded.settings, env, command, global.json).await,
        Command::Serve
        | Command::Agent { .. }
        | Command::Demo { .. }
        | Command::Drill { .. }
        | Command::StandIn(_)
        | Command::Config { .. }
        | Command::Completions { .. }
        | Command::Man => Ok(ExitCode::SUCCESS),
    };
    wait_for_late_answers(&host).await;
    if let Some(rows) = &host.rows {
        rows.tell_at_last(&host.state).await;
    }
    code.unwrap_or_else(output::failed)
}

/// An answer that is still being read may hold the only successor: it is waited for, and that is said.
async fn wait_for_late_answers(host: &Host) {
    let soon = std::time::Duration::from_millis(500);
    if tokio::time::timeout(soon, host.world.settled()).await.is_err() {
        output::warn(
            "an answer is still being read, for 15 minutes at most; ending now leaves the chain in doubt",
        );
        host.world.settled().await;
    }
}

fn man() -> ExitCode {
    let mut page = Vec::new();
    if let Err(error) = clap_mangen::Man::new(Cli::command()).render(&mut page) {
        return output::failed(error);
    }
    match std::io::stdout().write_all(&page) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::failed(error),
    }
}

fn config_check(global: &Global, env: &Environment) -> ExitCode {
    let loaded = config::load(global.config.as_deref(), env);
    let (ok, faults, source) = match &loaded {
        Ok(loaded) => {
            (true, [loaded.warnings.clone(), file_warnings(loaded)].concat(), loaded.source.clone())
        }
        Err(faults) => (false, faults.clone(), None),
    };
    if global.json {
        let list: Vec<Value> = faults
            .iter()
            .map(|fault| {
                json!({ "severity": fault.severity.as_str(), "file": fault.file, "line": fault.line,
                    "column": fault.column, "message": fault.message, "help": fault.help })
            })
            .collect();
        output::json(&json!({ "ok": ok, "file": source, "faults": list }));
    } else {
        output::faults(&faults);
        match (ok, source) {
            (true, Some(file)) => anstream::println!("{} can be used", file.display()),
            (true, None) => anstream::println!("there is no configuration file; the defaults are used"),
            (false, _) => {}
        }
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::from(output::FAILED) }
}

/// What the system says of the files: mounts, network file systems, rights, and what cannot be used.
fn file_warnings(loaded: &Loaded) -> Vec<Fault> {
    let chains = loaded.settings.chains.iter().filter(|chain| chain.accepted);
    let warnings = chains.flat_map(|chain| {
        let concerns = match &chain.way {
            Way::AuthFile { auth_file, take_client_locks } => {
                AuthFile::new(OsDisk, auth_file.clone(), PathBuf::new(), *take_client_locks).concerns()
            }
            Way::Database { export } => {
                let folder = export.as_ref().and_then(|export| export.file.parent());
                let missing = folder.filter(|folder| !folder.is_dir());
                let missing = missing
                    .map(|folder| format!("the folder of its export is missing: {}", folder.display()));
                missing.into_iter().collect()
            }
            Way::Minted(grounds) => {
                let unusable = |file: &PathBuf| secret_file::identity_token(file).err();
                let unusable = grounds.identity_token_file.as_ref().and_then(unusable);
                unusable.map(|unusable| unusable.to_string()).into_iter().collect()
            }
            Way::ApiKey { api_key_file } => {
                let key = secret_file::api_key(api_key_file).map_err(|unusable| unusable.to_string());
                let place = |key: ApiKey| chain.policy.profile.api_key_place(key.expose());
                let shown = api_key_file.display();
                let wrong = key.and_then(|key| place(key).map_err(|wrong| format!("{shown} {wrong}"))).err();
                wrong.into_iter().collect()
            }
        };
        let of_chain = |what: String| Fault::warning(format!("chain {:?}: {what}", chain.name.as_str()));
        concerns.into_iter().map(of_chain)
    });
    warnings.collect()
}

fn config_show(loaded: &Loaded, json: bool) -> ExitCode {
    if json {
        output::json(&loaded.raw);
    } else {
        anstream::print!("{}", config::show(&loaded.raw));
    }
    ExitCode::SUCCESS
}

pub(crate) fn exit_of(report: &Report) -> ExitCode {
    ExitCode::from(if report.ok { output::FINE } else { output::FAILED })
}

pub(crate) fn print(report: &Report, chain: &Chain, json: bool) {
    if json {
        output::json(report);
    } else {
        output::report(report, chain.world.now());
    }
}

async fn refresh(
    chain: &Chain,
    (force, accept_stale): (bool, bool),
    who: Actor,
    json: bool,
) -> Result<ExitCode, String> {
    if force {
        audit(chain, who, Act::RefreshForced).await;
    }
    if accept_stale && let Err(refused) = chain.accept_stale().await {
        return Err(format!("nothing was accepted ({}): {}", refused.reason, refused.detail));
    }
    let look = if force { Look::Forced } else { Look::Due };
    let report = chain.look(look).await;
    print(&report, chain, json);
    Ok(exit_of(&report))
}

/// Writes down who did something to a chain. It is done in any case: what keeps a chain alive waits for no ledger.
pub(crate) async fn audit(chain: &Chain, who: Actor, what: Act) {
    let entry = AuditEntry { at: chain.world.now(), who, what, to: chain.chain().to_string() };
    if let Err(error) = chain.world.state().add_audit(&entry).await {
        output::warn(format!("who did this could not be written down: {error}"));
    }
}

async fn probe_now(host: &Host, chain: &Chain, message: Option<&MessageProbe>, json: bool) -> ExitCode {
    // A look first: it finishes what is found, and publishes the access token that is probed.
    let looked = chain.look(Look::Due).await;
    if !looked.token_present {
        print(&looked, chain, json);
        return ExitCode::from(output::FAILED);
    }
    let report = probe::probe(chain, &chain.world, &host.snapshots, message).await;
    if json {
        output::json(&report);
    } else {
        let style = if report.ok { output::GOOD } else { output::BAD };
        anstream::println!(
            "{}  {style}{}{style:#}  {}",
            report.chain,
            report.reason,
            report.reason.sentence()
        );
        let shown =
            |status: Option<u16>| status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let (probed, round_trip) = (shown(report.probe_status), shown(report.round_trip_status));
        anstream::println!("  probe URL: {probed}, round trip: {round_trip}, {} ms", report.took_ms);
        if let Some(renewal) = report.renewal {
            anstream::println!("  renewed because of it: {renewal}");
        }
    }
    ExitCode::from(if report.ok { output::FINE } else { output::FAILED })
}

/// Prints the chain's access token, or its API key. One that lives in memory only is minted here: that spends nothing.
async fn token(host: &Host, chain: &Chain, json: bool) -> Result<ExitCode, String> {
    let (report, access) = match &chain.renewal {
        Renewal::Keeper(_) | Renewal::Row(_) => {
            let (report, _, grant) = chain.login("read")?.glance().await;
            (report, grant.map(|grant| grant.access))
        }
        Renewal::Minter(_) | Renewal::ApiKey(_) => {
            let report = chain.look(Look::Due).await;
            let access = host.snapshots.current(chain.chain()).map(|current| current.access);
            (report, access)
        }
    };
    let Some(access) = access.filter(|_| report.token_valid) else {
        let why = report.error.unwrap_or(Reason::Expired);
        let detail = report.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        return Err(format!(
            "chain {} has no valid access token ({why}{detail}): see `evergrant status`",
            report.chain
        ));
    };
    if json {
        let source = if chain.is_api_key() { Source::ApiKey } else { Source::Oauth };
        let (access, source) = (access.expose(), source.as_str());
        output::json(&json!({ "access_token": access, "source": source, "expires_at": report.expires_at }));
    } else {
        anstream::println!("{}", access.expose());
    }
    Ok(ExitCode::SUCCESS)
}

async fn export(chain: &Chain, file: Option<&Path>, include_refresh_token: bool) -> Result<ExitCode, String> {
    let (report, _, grant) = chain.login("export")?.glance().await;
    let Some(mut grant) = grant else {
        let detail = report.detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        return Err(format!("the vault of chain {} holds no grant{detail}", chain.chain()));
    };
    if include_refresh_token {
        output::warn("whoever renews with this file becomes a second writer and breaks the chain");
    } else {
        grant.refresh = None;
    }
    let bytes = authfile::write(None, &grant);
    match file {
        None => std::io::stdout().write_all(&bytes).map_err(|error| error.to_string())?,
        Some(file) => write_private(file, &bytes)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A new file that only its owner may read; one that exists is not overwritten.
pub(crate) fn write_private(file: &Path, bytes: &[u8]) -> Result<(), String> {
    let failed =
        |error: std::io::Error| format!("{} cannot be written: {error}", PathBuf::from(file).display());
    let mut options = std::fs::OpenOptions::new();
    let mut opened = options.write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    opened.write_all(bytes).and_then(|()| opened.sync_all()).map_err(failed)
}
