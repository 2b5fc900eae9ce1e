//! `[sinks]`: what the file says of each, and what it comes to (SPEC §6, §12, §13).

use std::fmt;
use std::path::PathBuf;

use evergrant_core::address::is_loopback;
use evergrant_core::alert::sink::{PAGERDUTY_URL, SigningKey, SinkUrl};
use evergrant_core::alert::{self, SinkKind};
use evergrant_core::secret::SinkKey;
use evergrant_server::alert::mail;
use evergrant_server::http::is_public;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::environment::variable;
use super::fault::Fault;
use super::file::Config;
use super::resolve::Resolve;

/// One place that alerts go to. Its name: 1 to 64 of `a-z`, `0-9`, `-` and `_`, a letter or digit first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(transform = super::file::without_null_defaults)]
pub(crate) struct Sink {
    /// What it is. Needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<Kind>,
    /// Its address, a secret. For `email` the mail server: `smtps://USER:PASSWORD@HOST` or `smtp://…`, which means
    /// STARTTLS; for `ntfy` the topic's address. Needed by all but `pagerduty` and `alertmanager`.
    #[serde(skip_serializing)]
    pub(crate) url: Option<Hidden>,
    /// A file that holds the address and nothing else, a path; in place of `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url_file: Option<PathBuf>,
    /// A secret. For `pagerduty` the routing key, for `webhook` the signing key (`whsec_…`), both needed; for `ntfy` and
    /// `alertmanager` a bearer token.
    #[serde(skip_serializing)]
    pub(crate) key: Option<Hidden>,
    /// A file that holds the key and nothing else, a path; in place of `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// For `alertmanager`: the addresses of all peers, without `/api/v2/alerts`.
    #[serde(skip_serializing)]
    pub(crate) peers: Vec<Hidden>,
    /// For `email`: the sender, alone or as `Name <address>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<String>,
    /// For `email`: the recipients.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) to: Vec<String>,
    /// It gets alerts of this level and worse, and what closes them.
    pub(crate) min_level: Level,
    /// It gets alerts of these groups: the workstation with its pushes and the grant, and all else about a chain.
    pub(crate) groups: Groups,
    /// Plain HTTP, mail without TLS and private addresses are accepted. Loopback needs no such word.
    pub(crate) allow_insecure: bool,
    /// Certificates (PEM) that are trusted for it besides the public ones, a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// What a sink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A Workflows webhook of Microsoft Teams.
    Teams,
    /// An incoming webhook of Slack.
    Slack,
    /// PagerDuty's Events API v2.
    #[serde(rename = "pagerduty")]
    PagerDuty,
    /// Prometheus Alertmanager, API v2.
    Alertmanager,
    /// Mail by SMTP.
    Email,
    /// A topic of ntfy.
    Ntfy,
    /// Signed JSON (Standard Webhooks).
    Webhook,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Teams => "teams",
            Self::Slack => "slack",
            Self::PagerDuty => "pagerduty",
            Self::Alertmanager => "alertmanager",
            Self::Email => "email",
            Self::Ntfy => "ntfy",
            Self::Webhook => "webhook",
        }
    }
}

/// The least level that goes to a sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    /// What needs a look.
    #[default]
    Yellow,
    /// Only what needs somebody now.
    Red,
}

/// Groups of alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Groups(Vec<Group>);

impl Default for Groups {
    fn default() -> Self {
        Self(vec![Group::TokenPush, Group::Chain])
    }
}

/// A group of alerts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Group {
    /// The workstation, its pushes, and the grant that they bring.
    TokenPush,
    /// Everything else about a chain.
    Chain,
}

/// A secret as it stands in the file: it neither prints nor is it written anywhere.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Hidden(String);

impl Hidden {
    /// The secret itself.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// Lines for [`super::show`] that say which secrets are set and not shown.
pub(crate) fn unshown(config: &Config) -> String {
    let mut lines = String::new();
    if config.database_url.is_some() {
        lines.push_str("# database_url is set, and not shown\n");
    }
    for (name, sink) in &config.sinks {
        let set =
            [("url", sink.url.is_some()), ("key", sink.key.is_some()), ("peers", !sink.peers.is_empty())];
        for (field, _) in set.iter().filter(|(_, set)| *set) {
            lines.push_str(&format!("# [sinks.{name}] {field} is set, and not shown\n"));
        }
    }
    lines
}

/// Fields that are of use to some kinds only, and those kinds.
const FIELDS: [(&str, &[Kind]); 7] = {
    use Kind::{Alertmanager, Email, Ntfy, PagerDuty, Slack, Teams, Webhook};
    [
        ("url", &[Teams, Slack, PagerDuty, Email, Ntfy, Webhook]),
        ("url_file", &[Teams, Slack, PagerDuty, Email, Ntfy, Webhook]),
        ("key", &[PagerDuty, Alertmanager, Ntfy, Webhook]),
        ("key_file", &[PagerDuty, Alertmanager, Ntfy, Webhook]),
        ("peers", &[Alertmanager]),
        ("from", &[Email]),
        ("to", &[Email]),
    ]
};

/// All sinks by name; `None` where one is faulty.
pub(crate) fn resolve_all(config: &mut Config, resolve: &mut Resolve<'_>) -> Option<Vec<alert::Sink>> {
    let mut sinks = Some(Vec::new());
    for (name, sink) in &mut config.sinks {
        match (one(name, sink, resolve), &mut sinks) {
            (Some(sink), Some(sinks)) => sinks.push(sink),
            (None, _) => sinks = None,
            (Some(_), None) => {}
        }
    }
    sinks
}

fn one(name: &str, sink: &mut Sink, resolve: &mut Resolve<'_>) -> Option<alert::Sink> {
    let named = name.parse::<evergrant_core::ChainName>().is_ok();
    if !named {
        let help = "use 1 to 64 of a-z, 0-9, - and _, a letter or digit first";
        resolve.fault(&["sinks", name], Fault::error(format!("{name:?} cannot name a sink")).help(help));
    }
    let Some(kind) = sink.kind else {
        let kinds = "teams, slack, pagerduty, alertmanager, email, ntfy or webhook";
        let fault = Fault::error(format!("sink {name:?} has no kind")).help(format!("set kind: {kinds}"));
        resolve.missing(&["sinks", name], fault);
        return None;
    };
    let useless = of_no_use(name, kind, resolve);
    let ca_file = resolve.path(&mut sink.ca_file, &["sinks", name, "ca_file"]);
    let kind = the_kind(name, kind, sink, resolve);
    let groups = sink.groups.0.iter().map(|group| match group {
        Group::TokenPush => alert::Group::TokenPush,
        Group::Chain => alert::Group::Chain,
    });
    let made = alert::Sink {
        name: name.to_owned(),
        kind: kind?,
        min_level: match sink.min_level {
            Level::Yellow => alert::Level::Yellow,
            Level::Red => alert::Level::Red,
        },
        groups: groups.collect(),
        allow_insecure: sink.allow_insecure,
        ca_file: ca_file?,
    };
    (named && !useless).then_some(made)
}

fn of_no_use(name: &str, kind: Kind, resolve: &mut Resolve<'_>) -> bool {
    let mut any = false;
    for (field, kinds) in FIELDS {
        if kinds.contains(&kind) || !resolve.is_set(&["sinks", name, field]) {
            continue;
        }
        let fault = Fault::error(format!("{field} is of no use to a sink of kind {:?}", kind.as_str()));
        let help = match (kind, field) {
            (Kind::Alertmanager, "url" | "url_file") => "list the addresses of all peers in peers",
            (_, _) => "take it out",
        };
        resolve.fault(&["sinks", name, field], fault.help(help));
        any = true;
    }
    any
}

fn the_kind(name: &str, kind: Kind, sink: &mut Sink, resolve: &mut Resolve<'_>) -> Option<SinkKind> {
    let insecure = sink.allow_insecure;
    let url = secret(name, "url", &sink.url, &mut sink.url_file, resolve);
    let key = secret(name, "key", &sink.key, &mut sink.key_file, resolve);
    let key = |resolve: &mut Resolve<'_>| match key.clone()? {
        None => Some(None),
        Some(text) => match SinkKey::parse(&text) {
            Ok(key) => Some(Some(key)),
            Err(why) => fault(name, "key", &format!("holds no key: {why}"), None, resolve),
        },
    };
    let address = |resolve: &mut Resolve<'_>| match url.clone()? {
        Some(text) => web_address(name, "url", &text, insecure, resolve),
        None => missing(name, "url", needed_address(kind), resolve),
    };
    match kind {
        Kind::Teams => Some(SinkKind::Teams { url: address(resolve)? }),
        Kind::Slack => Some(SinkKind::Slack { url: address(resolve)? }),
        Kind::PagerDuty => {
            let text = url.clone()?.unwrap_or_else(|| PAGERDUTY_URL.to_owned());
            let url = web_address(name, "url", &text, insecure, resolve);
            let key = match key(resolve)? {
                None => missing(
                    name,
                    "key",
                    "the routing key of the service's integration \"Events API v2\"",
                    resolve,
                ),
                some => some,
            };
            Some(SinkKind::PagerDuty { url: url?, routing_key: key? })
        }
        Kind::Alertmanager => {
            let peers = peers(name, sink, resolve);
            let key = key(resolve);
            Some(SinkKind::Alertmanager { peers: peers?, key: key? })
        }
        Kind::Email => {
            let people = people(name, sink, resolve);
            let smtp = match url.clone()? {
                Some(text) => mail_server(name, &text, insecure, resolve),
                None => missing(name, "url", needed_address(kind), resolve),
            };
            let (from, to) = people?;
            Some(SinkKind::Email { smtp: smtp?, from, to })
        }
        Kind::Ntfy => {
            let url = address(resolve)?;
            if url.expose().path().trim_matches('/').is_empty() {
                return fault(name, "url", "names no topic", Some("write https://SERVER/TOPIC"), resolve);
            }
            Some(SinkKind::Ntfy { url, key: key(resolve)? })
        }
        Kind::Webhook => {
            let url = address(resolve);
            let signing = match secret(name, "key", &sink.key, &mut sink.key_file, resolve)? {
                None => missing(name, "key", "the signing key that the receiver shows: whsec_…", resolve),
                Some(text) => match SigningKey::parse(&text) {
                    Ok(key) => Some(key),
                    Err(why) => fault(name, "key", &format!("cannot be used: {why}"), None, resolve),
                },
            };
            Some(SinkKind::Webhook { url: url?, key: signing? })
        }
    }
}

fn needed_address(kind: Kind) -> &'static str {
    match kind {
        Kind::Email => "the mail server, smtps://USER:PASSWORD@HOST",
        Kind::Ntfy => "the topic's address, https://SERVER/TOPIC",
        Kind::Teams => "the webhook's address that Teams' workflow shows",
        Kind::Slack | Kind::PagerDuty | Kind::Alertmanager | Kind::Webhook => "the webhook's address",
    }
}

/// A fault of one field; it never quotes what may be a secret.
fn fault<T>(name: &str, field: &str, what: &str, help: Option<&str>, resolve: &mut Resolve<'_>) -> Option<T> {
    let file = format!("{field}_file");
    let field = if resolve.is_set(&["sinks", name, &file]) { &file } else { field };
    let fault = Fault::error(format!("{field} {what}")).maybe_help(help.map(str::to_owned));
    resolve.fault(&["sinks", name, field], fault);
    None
}

fn missing<T>(name: &str, field: &str, what: &str, resolve: &mut Resolve<'_>) -> Option<T> {
    let keys = ["sinks", name, field];
    let by_variable = variable(&keys).replace('-', "_");
    let fault = Fault::error(format!("sink {name:?} has no {field}"));
    let file = if field == "peers" { String::new() } else { format!(" or {field}_file") };
    resolve.missing(&keys, fault.help(format!("set {field}{file}: {what}; or {by_variable}")));
    None
}

/// A secret from its field or its file. The outer `None`: it is faulty. The inner one: there is none.
fn secret(
    name: &str,
    field: &str,
    given: &Option<Hidden>,
    file: &mut Option<PathBuf>,
    resolve: &mut Resolve<'_>,
) -> Option<Option<String>> {
    let in_file = format!("{field}_file");
    let keys = ["sinks", name, &in_file];
    let path = resolve.path(file, &keys)?;
    match (given, path) {
        (None, None) => Some(None),
        (Some(Hidden(text)), None) => Some(Some(text.trim().to_owned())),
        (Some(_), Some(_)) => {
            let fault = Fault::error(format!("{field} and {in_file} are both set"));
            resolve.fault(&keys, fault.help("leave one of them out"));
            None
        }
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => {
                resolve.fault(&keys, Fault::error(format!("{in_file} {} is empty", path.display())));
                None
            }
            Ok(text) => Some(Some(text.trim().to_owned())),
            Err(error) => {
                let fault = Fault::error(format!("{in_file} {} cannot be read: {error}", path.display()));
                resolve.fault(&keys, fault);
                None
            }
        },
    }
}

fn web_address(
    name: &str,
    field: &str,
    text: &str,
    insecure: bool,
    resolve: &mut Resolve<'_>,
) -> Option<SinkUrl> {
    let url = match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        Ok(_) => return fault(name, field, "must begin with https://", None, resolve),
        Err(error) => return fault(name, field, &format!("is no address: {error}"), None, resolve),
    };
    let allow = Some("if that is meant, set allow_insecure = true");
    let literal = match url.host() {
        Some(url::Host::Ipv4(address)) => Some(address.into()),
        Some(url::Host::Ipv6(address)) => Some(address.into()),
        Some(url::Host::Domain(_)) | None => None,
    };
    if is_loopback(&url) || insecure {
        return Some(SinkUrl::new(url));
    }
    if url.scheme() != "https" {
        return fault(name, field, "is plain http: what is sent there is read on the way", allow, resolve);
    }
    if literal.is_some_and(|address| !is_public(address)) {
        return fault(name, field, "is a private address", allow, resolve);
    }
    Some(SinkUrl::new(url))
}

fn mail_server(name: &str, text: &str, insecure: bool, resolve: &mut Resolve<'_>) -> Option<SinkUrl> {
    let url = match Url::parse(text) {
        Ok(url) if url.has_host() => url,
        Ok(_) => return fault(name, "url", "names no mail server", Some("write smtps://HOST"), resolve),
        Err(error) => return fault(name, "url", &format!("is no address: {error}"), None, resolve),
    };
    let here = mail::is_loopback_host(&url);
    let url = SinkUrl::new(url);
    match mail::security(&url) {
        Err(why) => fault(name, "url", &format!("cannot be used: {why}"), None, resolve),
        Ok(mail::Security::Plain) if !here && !insecure => {
            let help = "use smtps://, or leave ?tls=none out; if it is meant, set allow_insecure = true";
            fault(name, "url", "means mail without TLS, the password included", Some(help), resolve)
        }
        Ok(mail::Security::Plain | mail::Security::StartTls | mail::Security::Tls) => Some(url),
    }
}

fn peers(name: &str, sink: &Sink, resolve: &mut Resolve<'_>) -> Option<Vec<SinkUrl>> {
    if sink.peers.is_empty() {
        return missing(
            name,
            "peers",
            "the addresses of all peers, such as [\"https://am-1.example.org\"]",
            resolve,
        );
    }
    let mut peers = Some(Vec::new());
    for Hidden(text) in &sink.peers {
        match (web_address(name, "peers", text, sink.allow_insecure, resolve), &mut peers) {
            (Some(peer), Some(peers)) => peers.push(peer),
            (None, _) => peers = None,
            (Some(_), None) => {}
        }
    }
    peers
}

fn people(name: &str, sink: &Sink, resolve: &mut Resolve<'_>) -> Option<(String, Vec<String>)> {
    let mut sound = true;
    let mut check = |field: &str, text: &str, resolve: &mut Resolve<'_>| {
        if let Err(why) = mail::check_mailbox(text) {
            let message = format!("{field} holds {text:?}, which is no address of mail: {why}");
            resolve.fault(&["sinks", name, field], Fault::error(message));
            sound = false;
        }
    };
    if let Some(from) = &sink.from {
        check("from", from, resolve);
    }
    sink.to.iter().for_each(|to| check("to", to, resolve));
    let lacks = [("from", sink.from.is_none(), "the sender"), ("to", sink.to.is_empty(), "the recipients")];
    for (field, lacks, what) in lacks {
        if lacks {
            let keys = ["sinks", name, field];
            let fault = Fault::error(format!("sink {name:?} has no {field}"));
            resolve.missing(&keys, fault.help(format!("set {field}: {what}")));
            sound = false;
        }
    }
    let from = sink.from.clone()?;
    sound.then(|| (from, sink.to.clone()))
}
