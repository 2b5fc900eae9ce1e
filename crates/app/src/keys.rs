//! `evergrant keys …`: on the state of this machine, whether or not a server runs (SPEC §11, §13).

use std::process::ExitCode;

use evergrant_core::ChainName;
use evergrant_core::audit::Actor;
use evergrant_core::caller::{Caller, CallerStanding, NewCaller, chain_of};
use evergrant_server::World;
use evergrant_server::caller::change::{self, Made};
use evergrant_store::State;
use jiff::Timestamp;

use crate::cli::{KeysCommand, NewKeyArgs};
use crate::config::{Environment, Settings};
use crate::host::Host;
use crate::output::{self, BAD, DIM, GOOD, WARN, span};

/// Runs one of them.
pub(crate) async fn run(
    host: &Host,
    settings: &Settings,
    env: &Environment,
    command: &KeysCommand,
    json: bool,
) -> Result<ExitCode, String> {
    let (now, who, mut rng) = (host.world.now(), actor(env), host.world.key_rng());
    let state = &host.state;
    match command {
        KeysCommand::Create(args) => {
            let made = change::create(state, new_caller(args, settings)?, &who, now, &mut rng).await;
            show_made(&made.map_err(say)?, now, json);
        }
        KeysCommand::List => {
            let callers = state.callers().await.map_err(|error| error.to_string())?;
            show_list(&callers, now, json);
        }
        KeysCommand::Revoke { id } => {
            let revoked = change::revoke(state, *id, &who, now).await.map_err(say)?;
            if json {
                output::json(&revoked.shown(now));
            } else {
                anstream::println!("{id}  {BAD}revoked{BAD:#}  a running server refuses it within 1 s");
            }
        }
        KeysCommand::Rotate { id, overlap } => {
            let made = change::rotate(state, *id, *overlap, &who, now, &mut rng).await.map_err(say)?;
            show_made(&made, now, json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An error with what to do next, where it does not say so itself.
fn say(error: change::ChangeError) -> String {
    let unknown = matches!(error, change::ChangeError::Unknown(_));
    format!("{error}{}", if unknown { "; `evergrant keys list` shows all" } else { "" })
}

/// Who runs the command, for the audit.
pub(crate) fn actor(env: &Environment) -> Actor {
    let user = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| env.get(name));
    let user = user.filter(|user| !user.is_empty()).cloned();
    Actor::cli(&user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw())))
}

fn new_caller(args: &NewKeyArgs, settings: &Settings) -> Result<NewCaller, String> {
    let mut configured: Vec<ChainName> = settings.chains.iter().map(|chain| chain.name.clone()).collect();
    configured.extend(args.chain.iter().filter(|name| settings.template(name).is_some()).cloned());
    let chain = chain_of(args.chain.clone(), &configured).map_err(|error| format!("--chain: {error}"))?;
    Ok(NewCaller {
        name: args.name.clone(),
        scopes: args.scopes.iter().copied().collect(),
        chain,
        expires_in: args.expires_in,
        requests_per_minute: args.requests_per_minute,
        concurrent: args.concurrent,
        fallback: !args.no_fallback,
    })
}

/// The only place that prints a key.
fn show_made(made: &Made, now: Timestamp, json: bool) {
    if json {
        output::json(&made.json(now));
        return;
    }
    show_caller(&made.caller, now);
    if let Some(old) = &made.replaces {
        let end = old.expires_at.filter(|end| *end > now);
        let ends = end.map(|end| format!("ends in {}", span(end.duration_since(now).as_secs())));
        anstream::println!(
            "  {DIM}in place of{DIM:#} {}, which {}",
            old.id,
            ends.as_deref().unwrap_or("has ended")
        );
    }
    anstream::println!("\n{}\n", made.key.expose());
    anstream::println!(
        "This is the only time that the key is shown: it is not stored. Put it where it is used now."
    );
}

fn show_list(callers: &[Caller], now: Timestamp, json: bool) {
    if json {
        output::json(&change::list_json(callers, now));
        return;
    }
    if callers.is_empty() {
        anstream::println!("there is no key; next: evergrant keys create --scope admin:write");
    }
    for caller in callers {
        show_caller(caller, now);
    }
}

fn show_caller(caller: &Caller, now: Timestamp) {
    let standing = caller.shown(now).standing;
    let style = match standing {
        CallerStanding::Live => GOOD,
        CallerStanding::Expired => WARN,
        CallerStanding::Revoked => BAD,
    };
    let word = standing.as_str();
    anstream::println!("{}  {style}{word}{style:#}  {}", caller.id, caller.name);
    anstream::println!("  {}", facts(caller, now).join("; "));
}

/// What a key may do, and until when.
fn facts(caller: &Caller, now: Timestamp) -> Vec<String> {
    let scopes: Vec<_> = caller.scopes.iter().map(|scope| scope.as_str()).collect();
    let mut facts = vec![format!("scopes {}", scopes.join(", ")), format!("chain {}", caller.chain)];
    match (caller.revoked_at, caller.expires_at) {
        (Some(at), _) => facts.push(format!("revoked {} ago", span(now.duration_since(at).as_secs()))),
        (None, None) => facts.push("does not expire".into()),
        (None, Some(end)) if end > now => {
            facts.push(format!("ends in {}", span(end.duration_since(now).as_secs())));
        }
        (None, Some(end)) => facts.push(format!("ended {} ago", span(now.duration_since(end).as_secs()))),
    }
    facts.extend(caller.requests_per_minute.map(|most| format!("{most} requests a minute")));
    facts.extend(caller.concurrent.map(|most| format!("{most} at once")));
    if !caller.fallback {
        facts.push("no fallback".into());
    }
    facts.extend(caller.replaced_by.map(|by| format!("replaced by {by}")));
    facts
}
