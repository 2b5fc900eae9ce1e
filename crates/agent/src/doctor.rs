//! `evergrant agent doctor`: how far the way to the server is open, step by step, each with what to do next (SPEC §5).

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::alert::span;
use evergrant_core::push::agent::Holds;
use evergrant_core::push::{BEAT_EVERY_SECS, MOST_AGENT_SKEW_SECS};
use serde::Serialize;

use crate::clock;
use crate::entry::Found;
use crate::key::PushKey;
use crate::round::Agent;
use crate::send::is_insecure;
use crate::settings::ChainSettings;

const CONNECT: Duration = Duration::from_secs(10);
/// A silence of this length is an alert at the server.
const SILENCE_SECS: i64 = 2 * BEAT_EVERY_SECS as i64;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Fine.
    Ok,
    /// It works, and needs a look.
    Warning,
    /// It does not work.
    Bad,
    /// It could not be tried, since something before it failed.
    Skipped,
}

/// One line.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do next.
    pub next: Option<String>,
}

fn check(name: &str, verdict: Verdict, found: impl Into<String>, next: Option<&str>) -> Check {
    Check { name: name.to_owned(), verdict, found: found.into(), next: next.map(str::to_owned) }
}

/// All checks, in the order in which one needs the other. Nothing is pushed, and nothing counts as a beat.
pub fn examine(agent: &Agent) -> Vec<Check> {
    let mut checks = Vec::new();
    for chain in &agent.settings().chains {
        checks.push(entry(chain, &chain.entry.look()));
    }
    let open = way(agent, &mut checks);
    let Some(first) = agent.settings().chains.first() else { return checks };
    let reached = open && tls_and_clock(agent, first, &mut checks);
    for chain in &agent.settings().chains {
        let name = format!("key of chain {}", chain.name);
        checks.push(match chain.key.key() {
            Err(error) => check(&name, Verdict::Bad, error.to_string(), None),
            Ok(key) if reached => try_key(agent, chain, &key, &name),
            Ok(_) => check(&name, Verdict::Skipped, "there is one; whether it works cannot be tried", None),
        });
    }
    if reached {
        checks.extend(agent.settings().chains.iter().map(|chain| last_seen(agent, chain)));
    } else {
        checks.push(check("last-seen", Verdict::Skipped, "cannot be asked for", None));
    }
    checks
}

fn entry(chain: &ChainSettings, found: &Found) -> Check {
    let name = format!("login of chain {}", chain.name);
    let place = found.sight.entry.clone().unwrap_or_default();
    let fault = found.fault.clone().unwrap_or_else(|| place.clone());
    let now = clock::now();
    match found.sight.holds {
        Holds::Grant(fingerprint) => {
            let age = found.sight.modified_at.map(|at| span(now.duration_since(at).as_secs()));
            let age = age.map(|age| format!(", written {age} ago")).unwrap_or_default();
            check(&name, Verdict::Ok, format!("{place}: grant {fingerprint}{age}"), None)
        }
        Holds::Locked => check(&name, Verdict::Bad, fault, Some("unlock it: security unlock-keychain")),
        Holds::Nothing => check(
            &name,
            Verdict::Bad,
            format!("there is none, neither in the keychain nor at {}", chain.entry.file.display()),
            Some("log in with the client in the chain's config folder (config_dir in [agent.chains])"),
        ),
        Holds::Wiped => {
            check(&name, Verdict::Bad, format!("{place}: it was logged out"), Some("log in again"))
        }
        Holds::Malformed => {
            check(&name, Verdict::Bad, fault, Some("log in again; the client writes it anew"))
        }
    }
}

/// Address, DNS and TCP. True: a connection can be made.
fn way(agent: &Agent, checks: &mut Vec<Check>) -> bool {
    let server = &agent.settings().server;
    let host = server.host_str().unwrap_or_default().to_owned();
    if is_insecure(server) {
        let found = format!("{server} is neither https nor loopback");
        checks.push(check(
            "address",
            Verdict::Bad,
            found,
            Some("give an https address as server in [agent]"),
        ));
        return false;
    }
    let port = server.port_or_known_default().unwrap_or(443);
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match (plain, port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let next = "see that the workstation is online, and that server in [agent] is spelt right";
            checks.push(check("DNS", Verdict::Bad, format!("{host} has no address: {error}"), Some(next)));
            return false;
        }
    };
    let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    checks.push(check("DNS", Verdict::Ok, format!("{host} is {}", shown.join(", ")), None));
    let mut last = String::from("it has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(_) => {
                checks.push(check("TCP", Verdict::Ok, format!("{address} takes connections"), None));
                return true;
            }
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    let next = "see that the server runs (evergrant status there), and that no firewall is between; a proxy is taken \
                from HTTPS_PROXY";
    checks.push(check("TCP", Verdict::Bad, last, Some(next)));
    // Behind a proxy only the proxy can be reached.
    ureq::Proxy::try_from_env().is_some()
}

fn tls_and_clock(agent: &Agent, chain: &ChainSettings, checks: &mut Vec<Check>) -> bool {
    let name = if agent.settings().server.scheme() == "https" { "TLS" } else { "HTTP" };
    let seen = match agent.client().last_seen(&chain.name) {
        Ok(seen) => seen,
        Err(error) => {
            let next = "a certificate of your own authority goes into ca_file in [agent]; something in between that \
                        opens TLS (a proxy, a portal) shows its own";
            checks.push(check(name, Verdict::Bad, error, Some(next)));
            return false;
        }
    };
    if seen.status == 200 || seen.reason == Some(Reason::ChainUnknown) {
        checks.push(check(name, Verdict::Ok, "Evergrant answers", None));
    } else {
        let found = format!("it answers {}, which is not Evergrant", seen.status);
        checks.push(check(
            name,
            Verdict::Bad,
            found,
            Some("see that server in [agent] is Evergrant's own address"),
        ));
        return false;
    }
    checks.push(match seen.ahead_secs {
        None => check("clock", Verdict::Warning, "the server does not say its time", None),
        Some(ahead) if ahead.abs() > MOST_AGENT_SKEW_SECS => {
            let word = if ahead > 0 { "ahead of" } else { "behind" };
            let found = format!("it is {} {word} the server's, which refuses that", span(ahead.abs()));
            check("clock", Verdict::Bad, found, Some("set the clock, here or on the server"))
        }
        Some(ahead) => {
            check("clock", Verdict::Ok, format!("within {} of the server's", span(ahead.abs())), None)
        }
    });
    true
}

fn try_key(agent: &Agent, chain: &ChainSettings, key: &PushKey, name: &str) -> Check {
    let next = format!(
        "make one on the server (evergrant keys create --scope push --chain {}) and put it into the key file",
        chain.name
    );
    let next = next.as_str();
    let memory = agent.folder().load(&chain.name).unwrap_or_default();
    // Only a push event proves the scope, and this is to be none: the last one tells.
    let lacks_scope = memory.streak.is_some_and(|streak| streak.reason == Reason::ScopeMissing);
    match agent.client().try_key(key, &chain.name) {
        Ok((200 | 403, _)) if lacks_scope => {
            let found = "the server knows it, and refused the last push event: it lacks the scope push, or is of \
                         another chain";
            check(name, Verdict::Bad, found, Some(next))
        }
        Ok((200, _) | (403, Some(Reason::ScopeMissing))) => {
            check(name, Verdict::Ok, "the server knows it", None)
        }
        Ok((401 | 403, reason)) => {
            let found = reason.map_or("the server refuses it", Reason::sentence);
            check(name, Verdict::Bad, found, Some(next))
        }
        Ok((429, _)) => {
            check(name, Verdict::Warning, "it is used too often at the moment", Some("try again"))
        }
        Ok((status, reason)) => {
            let words = || format!("the server answers {status}");
            let found = reason.map_or_else(words, |reason| reason.sentence().to_owned());
            check(name, Verdict::Warning, found, Some("see evergrant status on the server"))
        }
        Err(error) => check(name, Verdict::Warning, error, Some("try again")),
    }
}

fn last_seen(agent: &Agent, chain: &ChainSettings) -> Check {
    let name = format!("last-seen of chain {}", chain.name);
    let start = Some("see evergrant agent status; evergrant agent install starts it");
    match agent.client().last_seen(&chain.name) {
        Ok(seen) if seen.reason == Some(Reason::ChainUnknown) => {
            let next = "see evergrant status on the server, and the names in [agent.chains]";
            check(&name, Verdict::Bad, "the server has no chain of this name", Some(next))
        }
        Ok(seen) => match seen.at {
            None => check(&name, Verdict::Warning, "the server never heard from an agent for it", start),
            Some(at) => {
                let ago = clock::now().duration_since(at).as_secs();
                let found = format!("{} ago", span(ago));
                if ago > SILENCE_SECS {
                    check(&name, Verdict::Bad, found, start)
                } else {
                    check(&name, Verdict::Ok, found, None)
                }
            }
        },
        Err(error) => check(&name, Verdict::Warning, error, Some("try again")),
    }
}
