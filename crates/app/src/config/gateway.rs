//! What the file and the environment say of the gateway, as settings.

use std::path::{Path, PathBuf};
use std::time::Duration;

use evergrant_core::ApiKey;
use evergrant_core::gateway::{AnswerRule, ErrorShape, FallbackOn, Injection, Meaning, PathRule, Rules};
use evergrant_server::gateway::{AccessLog, Limits};

use super::fault::Fault;
use super::file::{self, Chain, Config, Forwarding};
use super::profile::Resolved;
use super::resolve::Resolve;
use super::settings::GatewaySettings;

/// Paths that Evergrant answers itself.
const OWN_ROUTES: [&str; 6] = ["/api", "/runbook", "/healthz", "/readyz", "/metrics", "/"];

pub(crate) fn settings(raw: &mut Config, resolve: &mut Resolve<'_>) -> Option<GatewaySettings> {
    let gateway = &mut raw.gateway;
    let access_log = match gateway.access_log.as_str() {
        "-" => AccessLog::Stdout,
        "off" => AccessLog::Off,
        path => {
            let mut path = Some(PathBuf::from(path));
            let path = resolve.path(&mut path, &["gateway", "access_log"])??;
            gateway.access_log = path.to_string_lossy().into_owned();
            AccessLog::File(path)
        }
    };
    let on = |when: file::FallbackOn| gateway.fallback.on.contains(&when);
    let count = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    Some(GatewaySettings {
        threads: if gateway.threads == 0 { cores() } else { count(gateway.threads) },
        access_log,
        limits: Limits {
            replay_bytes: count(gateway.replay_mib << 20),
            connections: count(gateway.max_connections),
            drain: Duration::from_secs(gateway.drain_secs),
            ..Limits::default()
        },
        fallback_on: FallbackOn {
            unauthorized: on(file::FallbackOn::Unauthorized),
            exhausted: on(file::FallbackOn::Exhausted),
            rate_limited: on(file::FallbackOn::RateLimited),
            grant_refused: on(file::FallbackOn::GrantRefused),
        },
        max_fallbacks_per_day: gateway.fallback.max_requests_per_day,
    })
}

/// Certificate and key. The outer `None`: they are faulty. The inner one: TLS is not served.
pub(crate) fn tls(raw: &mut Config, resolve: &mut Resolve<'_>) -> Option<Option<(PathBuf, PathBuf)>> {
    let cert = resolve.path(&mut raw.http.tls_cert, &["http", "tls_cert"])?;
    let key = resolve.path(&mut raw.http.tls_key, &["http", "tls_key"])?;
    let (given, missing) = match (cert, key) {
        (Some(cert), Some(key)) => return Some(Some((cert, key))),
        (None, None) => return Some(None),
        (Some(_), None) => ("tls_cert", "tls_key"),
        (None, Some(_)) => ("tls_key", "tls_cert"),
    };
    let fault = Fault::error(format!("{given} is of no use without {missing}"));
    resolve.fault(&["http", given], fault.help(format!("set {missing} too: a path to a PEM file")));
    None
}

/// The fallback key of a chain. The outer `None`: it is faulty. The inner one: there is none.
pub(crate) fn fallback_key(
    name: &str,
    chain: &mut Chain,
    profile: &Resolved,
    resolve: &mut Resolve<'_>,
) -> Option<Option<ApiKey>> {
    let keys = ["chains", name, "fallback_key_file"];
    if let Some(file) = resolve.path(&mut chain.fallback_key_file, &keys)? {
        return match api_key(&file) {
            Ok(key) => Some(Some(key)),
            Err(why) => {
                let fault = Fault::error(format!("fallback_key_file {} {why}", file.display()));
                resolve.fault(&keys, fault);
                None
            }
        };
    }
    let variable = profile.profile.gateway.as_ref().and_then(|rules| rules.fallback_variable.as_deref());
    let Some((variable, text)) = variable.and_then(|name| Some((name, resolve.variable(name)?))) else {
        return Some(None);
    };
    match ApiKey::parse(text.trim()) {
        Ok(key) => Some(Some(key)),
        Err(why) => {
            resolve.missing(&keys, Fault::error(format!("{variable} holds no API key: {why}")));
            None
        }
    }
}

fn api_key(file: &Path) -> Result<ApiKey, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    ApiKey::parse(text.trim()).map_err(|why| format!("holds no API key: {why}"))
}

/// The rules of a provider that somebody describes.
pub(crate) fn rules(name: &str, given: &Forwarding, resolve: &mut Resolve<'_>) -> Option<Rules> {
    let at = |field| ["providers", name, "gateway", field];
    let route = given.route.trim_end_matches('/');
    let plain =
        |path: &str| path.starts_with('/') && !path.contains(['?', '#', '%', '\\']) && !path.contains("//");
    if !plain(&given.route) || OWN_ROUTES.contains(&route) || route.is_empty() || route.starts_with("/api/") {
        let fault = Fault::error(format!("route cannot be {:?}", given.route));
        let help = "use a path of its own that begins with \"/\", for example \"/v1/acme\"";
        resolve.fault(&at("route"), fault.help(help));
        return None;
    }
    if let Some(bad) = given.paths.iter().find(|path| !plain(path)) {
        let fault = Fault::error(format!("paths holds {bad:?}, which is no path that begins with \"/\""));
        resolve.fault(&at("paths"), fault);
        return None;
    }
    let bearer = Injection { header: "authorization".into(), before: "Bearer ".into(), append: None };
    let path = |path: &String| PathRule {
        method: None,
        path: path.trim_end_matches('/').to_owned(),
        below: true,
        body_limit: given.body_mib << 20,
        content_type: None,
    };
    Some(Rules {
        route: route.to_owned(),
        paths: given.paths.iter().map(path).collect(),
        api_key: given.api_key_header.as_ref().map_or_else(
            || bearer.clone(),
            |header| Injection { header: header.to_ascii_lowercase(), before: String::new(), append: None },
        ),
        oauth: bearer,
        defaults: Vec::new(),
        errors: ErrorShape::Problem,
        answers: vec![AnswerRule { status: 401, says: Vec::new(), meaning: Meaning::TokenRefused }],
        client_variable: "the API key of your client".into(),
        fallback_variable: None,
    })
}
