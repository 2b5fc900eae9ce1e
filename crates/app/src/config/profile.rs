//! From `[providers]` to profiles. What a built-in profile says is taken from it, never spelled here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use evergrant_core::address::is_loopback;
use evergrant_core::provider::{ClientAuth, Encoding, Profile, ReuseClass};
use evergrant_core::secret::ClientSecret;
use url::Url;

use super::fault::Fault;
use super::file;
use super::resolve::Resolve;

/// Headers that Evergrant sets itself: what it is, it says itself.
const OWN_HEADERS: [&str; 6] =
    ["authorization", "content-length", "content-type", "host", "transfer-encoding", "user-agent"];

/// A profile with what belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    /// The profile.
    pub(crate) profile: Profile,
    /// Certificates that are trusted besides the public ones.
    pub(crate) ca_file: Option<PathBuf>,
    /// The default auth file is one of this provider.
    pub(crate) usual_auth_file: bool,
}

/// All profiles by name; `None` where one is faulty.
pub(crate) fn resolve_all(
    providers: &mut BTreeMap<String, file::Provider>,
    resolve: &mut Resolve<'_>,
) -> BTreeMap<String, Option<Resolved>> {
    let builtin = Profile::claude();
    let mut all = BTreeMap::new();
    let name = builtin.name.clone();
    if !providers.contains_key(&name) {
        let plain = Resolved { profile: builtin.clone(), ca_file: None, usual_auth_file: true };
        all.insert(name, Some(plain));
    }
    for (name, provider) in providers.iter_mut() {
        let resolved = one(name, provider, &builtin, resolve);
        all.insert(name.clone(), resolved);
    }
    all
}

fn one(
    name: &str,
    provider: &mut file::Provider,
    builtin: &Profile,
    resolve: &mut Resolve<'_>,
) -> Option<Resolved> {
    let at = |field: &'static str| ["providers", name, field];
    let extends = match provider.extends.as_deref() {
        Some(base) if base != builtin.name => {
            let message = format!("extends must name a built-in profile, and {base:?} is none");
            let fault = Fault::error(message).help(format!("there is one: {:?}", builtin.name));
            resolve.fault(&at("extends"), fault);
            return None;
        }
        Some(_) => true,
        None => name == builtin.name,
    };
    let token_url = url_of(&provider.token_url, &at("token_url"), resolve);
    let federation_url = url_of(&provider.federation_url, &at("federation_url"), resolve);
    let api_base = url_of(&provider.api_base, &at("api_base"), resolve);
    let probe_url = url_of(&provider.probe_url, &at("probe_url"), resolve);
    let mut profile = if extends {
        let mut profile = builtin.clone();
        profile.name = name.to_owned();
        profile
    } else {
        blank(name, provider, token_url.clone()?, api_base.clone()?, resolve)?
    };
    // Whoever leads the exchanges elsewhere means all of them: an identity token goes nowhere unsaid.
    let (token_url, federation_url) = (token_url?, federation_url?);
    if let Some(url) = federation_url.or_else(|| token_url.clone()) {
        federated(&mut profile, url, provider, name, resolve)?;
    }
    if let Some(url) = token_url {
        profile.token_url = url;
    }
    if let Some(url) = api_base? {
        profile.api_base = url;
    }
    if provider.probe_url.is_some() {
        profile.probe_url = probe_url?;
    }
    if let Some(id) = &provider.client_id {
        profile.client_id.clone_from(id);
    }
    plain_fields(&mut profile, provider, name, resolve)?;
    profile.client_auth = client_auth(&profile, provider, name, resolve)?;
    let more = [("headers", &provider.headers), ("api_headers", &provider.api_headers)];
    for (field, headers) in more {
        check_headers(headers, &["providers", name, field], resolve)?;
    }
    add_headers(&mut profile.token_headers, &provider.headers);
    add_headers(&mut profile.api_headers, &provider.api_headers);
    keep_terms(&mut profile, builtin);
    if let Some(forwarding) = &provider.gateway {
        profile.gateway = Some(super::gateway::rules(name, forwarding, resolve)?);
    }
    let ca_file = resolve.path(&mut provider.ca_file, &at("ca_file"))?;
    if let Some(path) = &ca_file
        && let Err(error) = std::fs::File::open(path)
    {
        let message = format!("ca_file {} cannot be read: {error}", path.display());
        resolve.fault(&at("ca_file"), Fault::error(message));
        return None;
    }
    Some(Resolved { profile, ca_file, usual_auth_file: extends })
}

/// Where the profile exchanges identity tokens.
fn federated(
    profile: &mut Profile,
    url: Url,
    provider: &file::Provider,
    name: &str,
    resolve: &mut Resolve<'_>,
) -> Option<()> {
    match &mut profile.federation {
        Some(federation) => federation.url = url,
        None if provider.federation_url.is_some() => {
            let fault =
                Fault::error("federation_url is of no use to a provider that extends no built-in one")
                    .help("take it out: identity tokens are exchanged at token_url, as RFC 7523 has it");
            resolve.fault(&["providers", name, "federation_url"], fault);
            return None;
        }
        None => {}
    }
    Some(())
}

/// A profile that extends nothing.
fn blank(
    name: &str,
    provider: &file::Provider,
    token_url: Option<Url>,
    api_base: Option<Url>,
    resolve: &mut Resolve<'_>,
) -> Option<Profile> {
    let needed = [
        ("token_url", provider.token_url.is_some()),
        ("client_id", provider.client_id.is_some()),
        ("api_base", provider.api_base.is_some()),
    ];
    let missing: Vec<_> = needed.iter().filter(|(_, there)| !there).map(|(field, _)| *field).collect();
    if !missing.is_empty() {
        let fault = Fault::error(format!("provider {name:?} has no {}", missing.join(", no ")))
            .help("add it, or begin with a built-in profile: extends = \"claude\"");
        resolve.missing(&["providers", name], fault);
        return None;
    }
    Some(Profile {
        name: name.to_owned(),
        token_url: token_url?,
        client_id: provider.client_id.clone()?,
        encoding: Encoding::Form,
        client_auth: ClientAuth::None,
        federation: None,
        token_headers: vec![],
        reuse: ReuseClass::Strict,
        access_prefix: None,
        refresh_prefix: None,
        api_key_prefix: None,
        api_base: api_base?,
        probe_url: None,
        round_trip: None,
        message: None,
        api_headers: vec![],
        probe_scope_reason: None,
        client_locks: false,
        terms: None,
        console: None,
        login: None,
        gateway: None,
    })
}

fn plain_fields(
    profile: &mut Profile,
    provider: &file::Provider,
    name: &str,
    resolve: &mut Resolve<'_>,
) -> Option<()> {
    match provider.encoding {
        Some(file::Encoding::Json) => profile.encoding = Encoding::Json,
        Some(file::Encoding::Form) => profile.encoding = Encoding::Form,
        None => {}
    }
    match provider.reuse {
        Some(file::Reuse::Strict) => profile.reuse = ReuseClass::Strict,
        Some(file::Reuse::None) => profile.reuse = ReuseClass::None,
        Some(file::Reuse::Grace(secs)) => match u32::try_from(secs) {
            Ok(secs) => profile.reuse = ReuseClass::Grace { secs },
            Err(_) => {
                let fault = Fault::error(format!("grace is too long: {secs} s"));
                resolve.fault(&["providers", name, "reuse", "grace"], fault);
                return None;
            }
        },
        None => {}
    }
    let texts = [
        (&provider.access_prefix, &mut profile.access_prefix),
        (&provider.refresh_prefix, &mut profile.refresh_prefix),
        (&provider.api_key_prefix, &mut profile.api_key_prefix),
        (&provider.round_trip, &mut profile.round_trip),
        (&provider.probe_scope_reason, &mut profile.probe_scope_reason),
    ];
    for (given, field) in texts {
        if let Some(text) = given {
            *field = Some(text.clone()).filter(|text| !text.is_empty());
        }
    }
    if let Some(path) = &profile.round_trip
        && !path.starts_with('/')
    {
        let fault = Fault::error("round_trip must be a path below api_base that begins with \"/\"");
        resolve.fault(&["providers", name, "round_trip"], fault);
        return None;
    }
    if let Some(locks) = provider.client_locks {
        profile.client_locks = locks;
    }
    Some(())
}

fn client_auth(
    profile: &Profile,
    provider: &mut file::Provider,
    name: &str,
    resolve: &mut Resolve<'_>,
) -> Option<ClientAuth> {
    let at = ["providers", name, "client_secret_file"];
    let file = resolve.path(&mut provider.client_secret_file, &at)?;
    let make = match provider.client_auth {
        Some(file::ClientAuth::ClientSecretBasic) => ClientAuth::Basic,
        Some(file::ClientAuth::ClientSecretPost) => ClientAuth::Post,
        None | Some(file::ClientAuth::None) => {
            if file.is_some() {
                let fault = Fault::error("client_secret_file is of no use to a public client")
                    .help("set client_auth to \"client_secret_basic\" or \"client_secret_post\"");
                resolve.fault(&at, fault);
                return None;
            }
            return Some(profile.client_auth.clone());
        }
    };
    let Some(file) = file else {
        let fault = Fault::error("client_auth needs a secret")
            .help("put it into a file of its own and set client_secret_file");
        resolve.fault(&["providers", name, "client_auth"], fault);
        return None;
    };
    let secret =
        std::fs::read_to_string(&file).map_err(|error| format!("cannot be read: {error}")).and_then(|text| {
            let parsed = ClientSecret::parse(text.trim());
            parsed.map_err(|error| format!("holds no secret: {error}"))
        });
    match secret {
        Ok(secret) => Some(make(secret)),
        Err(why) => {
            let fault = Fault::error(format!("client_secret_file {} {why}", file.display()));
            resolve.fault(&at, fault);
            None
        }
    }
}

fn check_headers(
    headers: &BTreeMap<String, String>,
    at: &[&str; 3],
    resolve: &mut Resolve<'_>,
) -> Option<()> {
    let mut sound = Some(());
    for (name, value) in headers {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        let message = if name.is_empty() || !name.bytes().all(token) {
            format!("{name:?} cannot be the name of a header")
        } else if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            format!("the header {name:?} is set by Evergrant itself")
        } else if !value.bytes().all(printable) {
            format!("the value of the header {name:?} holds a character that no header has")
        } else {
            continue;
        };
        resolve.fault(&[at[0], at[1], at[2], name], Fault::error(message));
        sound = None;
    }
    sound
}

fn add_headers(to: &mut Vec<(String, String)>, more: &BTreeMap<String, String>) {
    for (name, value) in more {
        to.retain(|(there, _)| !there.eq_ignore_ascii_case(name));
        to.push((name.to_ascii_lowercase(), value.clone()));
    }
}

/// The terms go with the provider's hosts, whatever the profile is called.
fn keep_terms(profile: &mut Profile, builtin: &Profile) {
    let hosts = [builtin.token_url.host(), builtin.api_base.host()];
    let theirs = [profile.token_url.host(), profile.api_base.host()];
    if theirs.iter().any(|host| host.is_some() && hosts.contains(host)) {
        profile.terms.clone_from(&builtin.terms);
    }
}

/// The outer `None`: it is faulty. The inner one: it is not set.
fn url_of(given: &Option<String>, at: &[&str; 3], resolve: &mut Resolve<'_>) -> Option<Option<Url>> {
    let Some(raw) = given.as_deref().filter(|raw| !raw.is_empty()) else {
        return Some(None);
    };
    let field = at[2];
    let (message, help) = match Url::parse(raw) {
        Err(error) => (format!("{field} is no URL: {error}"), None),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            let help = "use client_auth and client_secret_file for what proves the client";
            (format!("{field} must not hold a user name or password"), Some(help))
        }
        Ok(url) if url.fragment().is_some() => (format!("{field} must not hold a fragment (#…)"), None),
        Ok(url) if url.scheme() == "https" || url.scheme() == "http" && is_loopback(&url) => {
            return Some(Some(url));
        }
        Ok(_) => {
            let help = "plain http is accepted for localhost, 127.0.0.0/8 and [::1] only";
            (format!("{field} must begin with https://"), Some(help))
        }
    };
    resolve.fault(at, Fault::error(message).maybe_help(help.map(str::to_owned)));
    None
}
