//! The section `[agent]`: what the program on a workstation needs to know.

use std::collections::BTreeMap;
use std::path::PathBuf;

use evergrant_core::alert::{Sink, SinkKind};
use evergrant_core::{ChainName, Reason};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::fault::Fault;
use super::file::Config;
use super::resolve::Resolve;

/// The agent on a workstation (`evergrant agent …`): where the server is, and which logins are watched for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Agent {
    /// The server's address: an https URL (http only on loopback).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// The file with a caller key of scope `push` and nothing else, a path; it is read anew each time. It serves each
    /// chain that names none of its own. Without it: `$EVERGRANT_AGENT_KEY`, which an installed agent does not see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// The certificates (PEM) of the authority that the server's certificate is by, a path; then the public ones do
    /// not count for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// What the server is told this workstation is called. Without it: its host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<String>,
    /// Sinks that the agent alerts by itself when it cannot reach the server for 10 minutes.
    pub(crate) sinks: Vec<String>,
    /// The program that reads the macOS keychain, a path. Without it: `/usr/bin/security`, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) security_program: Option<PathBuf>,
    /// The program that shows a notification, a path: `osascript`, or one that takes a title and a text as
    /// `notify-send` does. Without it: the system's own, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) notify_program: Option<PathBuf>,
    /// The chains whose logins are watched. Without any: one, `claude`.
    pub(crate) chains: BTreeMap<String, AgentChain>,
}

/// One chain by its name at the server, and where its login lies on this workstation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentChain {
    /// The client's config folder, a path: what `CLAUDE_CONFIG_DIR` is when you log in for the server, to the letter.
    /// Without it: the client's usual one, whose login your own client renews.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) config_dir: Option<PathBuf>,
    /// The file with the login, a path. Without it: `.credentials.json` in the config folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<PathBuf>,
    /// Whether the keychain is looked at before the file, where there is one.
    pub(crate) keychain: bool,
    /// The account of the keychain's item. Without it: your login name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<String>,
    /// The file with this chain's caller key of scope `push`, a path: a key is one chain's. Without it: the agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
}

impl Default for AgentChain {
    fn default() -> Self {
        Self { config_dir: None, file: None, keychain: true, account: None, key_file: None }
    }
}

/// The section, checked. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentSettings {
    /// The server.
    pub(crate) server: Option<Url>,
    /// The file with the key.
    pub(crate) key_file: Option<PathBuf>,
    /// Certificates that are trusted in place of the public ones.
    pub(crate) ca_file: Option<PathBuf>,
    /// What the workstation is called.
    pub(crate) host: Option<String>,
    /// Names of sinks.
    pub(crate) sinks: Vec<String>,
    /// What reads the keychain.
    pub(crate) security_program: Option<PathBuf>,
    /// What notifies.
    pub(crate) notify_program: Option<PathBuf>,
    /// The chains, by name.
    pub(crate) chains: Vec<(ChainName, AgentChain)>,
}

/// Checks the section and fills in its paths.
pub(crate) fn settings(raw: &mut Config, resolve: &mut Resolve<'_>) -> Option<AgentSettings> {
    let agent = &mut raw.agent;
    if agent.chains.is_empty() && !resolve.is_set(&["agent", "chains"]) {
        agent.chains.insert("claude".into(), AgentChain::default());
    }
    let key_file = resolve.path(&mut agent.key_file, &["agent", "key_file"]);
    let ca_file = resolve.path(&mut agent.ca_file, &["agent", "ca_file"]);
    let security = resolve.path(&mut agent.security_program, &["agent", "security_program"]);
    let notify = resolve.path(&mut agent.notify_program, &["agent", "notify_program"]);
    let server = server(agent.server.as_deref(), resolve);
    let mut chains = Some(Vec::new());
    for (name, chain) in &mut agent.chains {
        let one = one_chain(name, chain, resolve);
        chains = chains.zip(one).map(|(mut chains, one)| {
            chains.push(one);
            chains
        });
    }
    Some(AgentSettings {
        server: server?,
        key_file: key_file?,
        ca_file: ca_file?,
        host: agent.host.clone(),
        sinks: agent.sinks.clone(),
        security_program: security?,
        notify_program: notify?,
        chains: chains?,
    })
}

/// Each sink that the agent alerts by itself is one of `[sinks]`, and none that takes mail.
pub(crate) fn check_sinks(agent: &AgentSettings, sinks: &[Sink], resolve: &mut Resolve<'_>) {
    for name in &agent.sinks {
        let message = match sinks.iter().find(|sink| sink.name == *name).map(|sink| &sink.kind) {
            Some(kind) if !matches!(kind, SinkKind::Email { .. }) => continue,
            Some(_) => format!("sinks names {name:?}, and the agent sends no mail"),
            None => format!("sinks names {name:?}, and there is no sink of that name"),
        };
        let help = format!(
            "describe it in [sinks.{name}] of the workstation's configuration; any kind but email will do"
        );
        resolve.fault(&["agent", "sinks"], Fault::error(message).help(help));
    }
}

fn one_chain(
    name: &str,
    chain: &mut AgentChain,
    resolve: &mut Resolve<'_>,
) -> Option<(ChainName, AgentChain)> {
    let parsed = name.parse::<ChainName>();
    if let Err(error) = &parsed {
        resolve.fault(&["agent", "chains", name], Fault::error(error.to_string()));
    }
    let config_dir = resolve.path(&mut chain.config_dir, &["agent", "chains", name, "config_dir"]);
    let file = resolve.path(&mut chain.file, &["agent", "chains", name, "file"]);
    let key_file = resolve.path(&mut chain.key_file, &["agent", "chains", name, "key_file"]);
    config_dir.and(file).and(key_file)?;
    Some((parsed.ok()?, chain.clone()))
}

/// The outer `None`: it is faulty. The inner one: there is none.
fn server(text: Option<&str>, resolve: &mut Resolve<'_>) -> Option<Option<Url>> {
    let Some(text) = text else { return Some(None) };
    let keys = ["agent", "server"];
    let plain = |url: &Url| {
        url.has_host() && url.query().is_none() && url.fragment().is_none() && url.username().is_empty()
    };
    let url = Url::parse(text).ok().filter(plain);
    let Some(url) = url else {
        let fault = Fault::error(format!("server must be the address of Evergrant, not {text:?}"));
        resolve.fault(&keys, fault.help("for example \"https://evergrant.example.org\""));
        return None;
    };
    if evergrant_agent::send::is_insecure(&url) {
        let fault =
            Fault::error(format!("server is {text}, where a login would go over the network in the clear"));
        let help =
            "give an https address; plain http is only for this machine, such as the end of an SSH tunnel";
        resolve.fault(&keys, fault.help(help).reason(Reason::ServerInsecure));
        return None;
    }
    Some(Some(url))
}
