//! What each kind of chain needs and what is of no use to it (SPEC §3): from its fields to the way in which it gets its
//! access tokens.

use std::path::PathBuf;

use evergrant_core::chain::Kind;
use evergrant_core::provider::{ClientAuth, Profile};
use evergrant_server::minter::Grounds;
use evergrant_store::authfile::TakeClientLocks;

use super::environment::variable;
use super::fault::{Fault, suggest};
use super::file::{Chain, ChainKind, ClientLocks, Vault};
use super::profile::Resolved;
use super::resolve::Resolve;
use super::settings::Way;
use super::{source, vault};

/// Fields that are of use to some kinds only, and those kinds.
const FIELDS: [(&str, &[Kind]); 12] = [
    ("auth_file", &[Kind::RefreshToken]),
    ("vault", &[Kind::RefreshToken]),
    ("export", &[Kind::RefreshToken]),
    ("export_refresh_token", &[Kind::RefreshToken]),
    ("identity_token_file", &[Kind::JwtBearer]),
    ("federation_rule_id", &[Kind::JwtBearer]),
    ("organization_id", &[Kind::JwtBearer]),
    ("service_account_id", &[Kind::JwtBearer]),
    ("workspace_id", &[Kind::JwtBearer]),
    ("scope", &[Kind::JwtBearer, Kind::ClientCredentials]),
    ("members", &[Kind::JwtBearer, Kind::ClientCredentials]),
    ("api_key_file", &[Kind::ApiKey]),
];

/// Members that a request has in any case, or that have a field of their own.
const OWN_MEMBERS: [&str; 6] =
    ["grant_type", "assertion", "client_id", "client_secret", "refresh_token", "scope"];

/// The kind that the file names.
pub(crate) fn of(kind: ChainKind) -> Kind {
    match kind {
        ChainKind::RefreshToken => Kind::RefreshToken,
        ChainKind::JwtBearer => Kind::JwtBearer,
        ChainKind::ClientCredentials => Kind::ClientCredentials,
        ChainKind::ApiKey => Kind::ApiKey,
    }
}

/// How the chain gets its access tokens; `None`: a fault says why not.
pub(crate) fn way(
    name: &str,
    chain: &mut Chain,
    profile: Option<&Resolved>,
    resolve: &mut Resolve<'_>,
) -> Option<Way> {
    let useless = of_no_use(name, of(chain.kind), resolve);
    let way = match chain.kind {
        ChainKind::RefreshToken => match chain.vault {
            Vault::AuthFile => auth_file(name, chain, profile, resolve),
            Vault::Database => vault::way(name, chain, resolve),
        },
        ChainKind::JwtBearer => {
            let file = needed_file(name, &mut chain.identity_token_file, "identity_token_file", resolve);
            let profile = &profile?.profile;
            let members = federation_members(name, chain, profile, resolve);
            Some(Way::Minted(Grounds { identity_token_file: Some(file?), members: members? }))
        }
        ChainKind::ClientCredentials => {
            let profile = &profile?.profile;
            if profile.client_auth == ClientAuth::None {
                let message =
                    format!("provider {:?} has no client secret to get access tokens with", profile.name);
                let help = "set client_auth and client_secret_file in its section, or choose another kind";
                resolve.fault(&["chains", name, "kind"], Fault::error(message).help(help));
                return None;
            }
            let members = own_members(name, chain, resolve)?;
            Some(Way::Minted(Grounds { identity_token_file: None, members }))
        }
        ChainKind::ApiKey => {
            let api_key_file = needed_file(name, &mut chain.api_key_file, "api_key_file", resolve)?;
            Some(Way::ApiKey { api_key_file })
        }
    };
    way.filter(|_| !useless)
}

/// Says which fields are of no use to this kind, and which kind was probably meant.
fn of_no_use(name: &str, kind: Kind, resolve: &mut Resolve<'_>) -> bool {
    let mut any = false;
    for (field, kinds) in FIELDS {
        if kinds.contains(&kind) || !resolve.is_set(&["chains", name, field]) {
            continue;
        }
        let message = format!("{field} is of no use to a chain of kind {:?}", kind.as_str());
        let kinds: Vec<_> = kinds.iter().map(|kind| format!("kind = {:?}", kind.as_str())).collect();
        let help = format!("take it out, or set {}", kinds.join(" or "));
        resolve.fault(&["chains", name, field], Fault::error(message).help(help));
        any = true;
    }
    any
}

fn missing(name: &str, field: &str, what: &str, resolve: &mut Resolve<'_>) {
    let keys = ["chains", name, field];
    let variable = variable(&keys).replace('-', "_");
    let fault = Fault::error(format!("chain {name:?} has no {field}"));
    resolve.missing(&keys, fault.help(format!("set {field}: {what}; or {variable}")));
}

fn needed_file(
    name: &str,
    path: &mut Option<PathBuf>,
    field: &'static str,
    resolve: &mut Resolve<'_>,
) -> Option<PathBuf> {
    let given = resolve.path(path, &["chains", name, field])?;
    if given.is_none() {
        let what = match field {
            "identity_token_file" => "the file with the JWT of this workload",
            _ => "a file with the API key and nothing else",
        };
        missing(name, field, what, resolve);
    }
    given
}

/// The members of a workload's request: those that the provider has for it, or those of RFC 7523.
fn federation_members(
    name: &str,
    chain: &Chain,
    profile: &Profile,
    resolve: &mut Resolve<'_>,
) -> Option<Vec<(String, String)>> {
    let fields = [
        ("federation_rule_id", &chain.federation_rule_id),
        ("organization_id", &chain.organization_id),
        ("service_account_id", &chain.service_account_id),
        ("workspace_id", &chain.workspace_id),
    ];
    let mut sound = true;
    let Some(federation) = &profile.federation else {
        for (field, value) in fields {
            if value.is_some() {
                let message = format!("{field} is of no use at provider {:?}", profile.name);
                let help =
                    format!("take it out, or name it in [chains.{name}.members] if its requests have it");
                resolve.fault(&["chains", name, field], Fault::error(message).help(help));
                sound = false;
            }
        }
        return own_members(name, chain, resolve).filter(|_| sound);
    };
    for field in ["scope", "members"] {
        if resolve.is_set(&["chains", name, field]) {
            let message = format!(
                "{field} is of no use at provider {:?}, which takes its own members only",
                profile.name
            );
            resolve.fault(&["chains", name, field], Fault::error(message).help("take it out"));
            sound = false;
        }
    }
    let mut members = Vec::new();
    for (field, value) in fields {
        match value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => members.push((field.to_owned(), value.to_owned())),
            None if federation.needs.iter().any(|needed| needed == field) => {
                missing(
                    name,
                    field,
                    "where the provider shows the federation rule, it shows this id",
                    resolve,
                );
                sound = false;
            }
            None => {}
        }
    }
    sound.then_some(members)
}

fn own_members(name: &str, chain: &Chain, resolve: &mut Resolve<'_>) -> Option<Vec<(String, String)>> {
    let mut sound = true;
    for member in chain.members.keys() {
        if OWN_MEMBERS.contains(&member.as_str()) {
            let help = match suggest(member, ["scope"]) {
                Some(field) => format!("it has a field of its own: {field}"),
                None => "take it out".to_owned(),
            };
            let fault = Fault::error(format!("the member {member:?} is set by Evergrant itself"));
            resolve.fault(&["chains", name, "members", member], fault.help(help));
            sound = false;
        }
    }
    let scope = chain.scope.clone().filter(|scope| !scope.is_empty());
    let scope = scope.map(|scope| ("scope".to_owned(), scope));
    let more = chain.members.iter().map(|(name, value)| (name.clone(), value.clone()));
    sound.then(|| scope.into_iter().chain(more).collect())
}

fn auth_file(
    name: &str,
    chain: &mut Chain,
    profile: Option<&Resolved>,
    resolve: &mut Resolve<'_>,
) -> Option<Way> {
    let keys = ["chains", name, "auth_file"];
    if vault::of_no_use(name, chain, resolve) {
        return None;
    }
    if resolve.path(&mut chain.auth_file, &keys)?.is_none() {
        usual_auth_file(name, chain, profile?, resolve);
    }
    let auth_file = chain.auth_file.clone()?;
    let take_client_locks = match chain.client_locks {
        ClientLocks::Auto if profile?.profile.client_locks => TakeClientLocks::Auto,
        ClientLocks::Auto | ClientLocks::Never => TakeClientLocks::Never,
        ClientLocks::Always => TakeClientLocks::Always,
    };
    Some(Way::AuthFile { auth_file, take_client_locks })
}

fn usual_auth_file(name: &str, chain: &mut Chain, profile: &Resolved, resolve: &mut Resolve<'_>) {
    let keys = ["chains", name, "auth_file"];
    if !profile.usual_auth_file {
        let fault = Fault::error(format!("chain {name:?} has no auth_file"));
        resolve.missing(&keys, fault.help("set auth_file: where its pair is of record"));
        return;
    }
    chain.auth_file = source::auth_file(resolve.env());
    if chain.auth_file.is_none() {
        let message = format!("chain {name:?} has no auth_file, and neither XDG_CONFIG_HOME nor HOME is set");
        let help = format!("set auth_file, or {}", variable(&keys).replace('-', "_"));
        resolve.missing(&keys, Fault::error(message).help(help));
    }
}
