//! The stand-in's own calls, under one prefix beside the provider's: log in, revoke, script faults, move the clock, look.

use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::fault::{Fault, Rule};
use crate::handle::Handle;
use crate::login::LoginOptions;
use crate::reply::Reply;

/// What every call of this surface begins with.
pub const PREFIX: &str = "/_stand-in/";

/// The calls, for people.
pub const INDEX: &str = "\
Stand-in provider. Calls under /_stand-in/, JSON in and out:

POST   login      {scopes?, access_secs?, refresh_idle_secs?, grant_secs?, without_refresh_token?}
                  a person's login; answers the content of an auth file
POST   revoke     {\"token\": TOKEN} the family of any of its tokens, or {\"all\": true}
GET    faults     the rules that wait, and the names of the ready-made faults
POST   faults     a rule or a list of them: {\"fault\": NAME or {\"kind\": ...}, target?: token|probe|api|any,
                  times?: NUMBER or null for ever, after?: NUMBER, also?: [FAULT...]}
DELETE faults     forget every rule
GET    settings   the settings
PATCH  settings   a JSON merge patch of them: {\"reuse\": {\"class\": \"grace\", \"secs\": 30}}
GET    exchanges  the log of the token endpoint, tokens as fingerprints
GET    calls      the log of the API
GET    streams    how many were begun, how many were dropped
POST   streams    {\"hold\": true|false} streamed answers stop before their next event, or go on;
                  {\"go\": NUMBER} lets so many events go
GET    state      families, counters
GET    clock      the stand-in's time
POST   clock      {\"advance_secs\": NUMBER} moves it
";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advance {
    advance_secs: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OfStreams {
    Hold(bool),
    Go(u64),
}

/// One rule or several. Not an untagged enum, whose errors would not name what is wrong.
struct Rules(Vec<Rule>);

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = Value::deserialize(deserializer)?;
        let list = if value.is_array() { value } else { Value::Array(vec![value]) };
        serde_json::from_value(list).map(Self).map_err(D::Error::custom)
    }
}

/// Answers the call `path` (without the prefix).
pub(crate) fn answer(handle: &Handle, method: &str, path: &str, body: &[u8]) -> Reply {
    let now = handle.now();
    if path.is_empty() && method == "GET" {
        return Reply::new(200, "text/plain; charset=utf-8", INDEX, now);
    }
    match json_answer(handle, method, path, body) {
        Ok(body) => Reply::json(200, &body, now),
        Err(Mistake::Body(error)) => Reply::json(400, &json!({"error": error.to_string()}), now),
        Err(Mistake::Call) => {
            Reply::json(404, &json!({"error": "no such call; GET /_stand-in/ lists them"}), now)
        }
    }
}

enum Mistake {
    Body(serde_json::Error),
    Call,
}

impl From<serde_json::Error> for Mistake {
    fn from(error: serde_json::Error) -> Self {
        Self::Body(error)
    }
}

fn json_answer(handle: &Handle, method: &str, path: &str, body: &[u8]) -> Result<Value, Mistake> {
    match (method, path) {
        ("POST", "login") => {
            let options: LoginOptions =
                if body.is_empty() { LoginOptions::default() } else { serde_json::from_slice(body)? };
            Ok(handle.login(options).auth_file())
        }
        ("POST", "revoke") => {
            let revoke: Revoke = serde_json::from_slice(body)?;
            let mut revoked = u64::from(revoke.token.is_some_and(|token| handle.revoke(&token)));
            if revoke.all {
                revoked += handle.revoke_all();
            }
            Ok(json!({"families_revoked": revoked}))
        }
        ("GET", "faults") => faults(handle),
        ("POST", "faults") => {
            let Rules(rules) = serde_json::from_slice(body)?;
            for rule in rules {
                handle.push_rule(rule);
            }
            faults(handle)
        }
        ("DELETE", "faults") => {
            handle.clear_faults();
            faults(handle)
        }
        ("GET", "settings") => Ok(serde_json::to_value(handle.settings())?),
        ("PATCH", "settings") => {
            let patch: Value = serde_json::from_slice(body)?;
            handle.patch_settings(&patch).map_err(|error| Mistake::Body(error.0))?;
            Ok(serde_json::to_value(handle.settings())?)
        }
        ("GET", "exchanges") => Ok(json!({"exchanges": handle.exchanges()})),
        ("GET", "calls") => Ok(json!({"calls": handle.sightings()})),
        ("GET", "streams") => Ok(streams(handle)),
        ("POST", "streams") => {
            match serde_json::from_slice(body)? {
                OfStreams::Hold(true) => handle.hold_streams(),
                OfStreams::Hold(false) => handle.release_streams(),
                OfStreams::Go(events) => handle.let_events_go(events),
            }
            Ok(streams(handle))
        }
        ("GET", "state") => Ok(serde_json::to_value(handle.state())?),
        ("GET", "clock") => Ok(clock(handle, SignedDuration::ZERO)),
        ("POST", "clock") => {
            let Advance { advance_secs } = serde_json::from_slice(body)?;
            Ok(clock(handle, SignedDuration::from_secs(advance_secs)))
        }
        _ => Err(Mistake::Call),
    }
}

fn streams(handle: &Handle) -> Value {
    let streams = handle.streams();
    json!({"begun": streams.begun, "dropped": streams.dropped})
}

fn clock(handle: &Handle, by: SignedDuration) -> Value {
    let offset = handle.advance(by);
    json!({"now": handle.now(), "offset_secs": offset.as_secs()})
}

fn faults(handle: &Handle) -> Result<Value, Mistake> {
    let waiting = handle.with(|engine| serde_json::to_value(engine.faults()))?;
    let named: Vec<&str> = Fault::presets().into_iter().map(|(name, _)| name).collect();
    Ok(json!({"waiting": waiting, "named": named}))
}
