//! The API that the access tokens open: roles, models, messages plain and streamed, batches, files, greetings (SPEC §7,
//! §8). It takes a Bearer access token with the capability, or an API key, and never both.

mod batches;
mod files;
mod multipart;
mod objects;

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rand::Rng;
use serde_json::{Value, json};

use crate::call::Call;
use crate::engine::{Endpoint, Engine, request_id};
use crate::fingerprint::Fingerprint;
use crate::grants::AccessState;
use crate::log::{Sighting, Source};
use crate::plan::Plan;
use crate::reply::{Body, Reply};
use crate::settings::{Settings, Streaming};

pub use objects::ObjectRules;
pub(crate) use objects::Objects;
use objects::Owner;

/// One API call in hand.
struct Visit<'a> {
    call: &'a Call<'a>,
    id: String,
    now: Timestamp,
}

impl Visit<'_> {
    fn error(&self, status: u16, kind: &str, message: &str) -> Reply {
        Reply::api_error(status, kind, message, &self.id, self.now)
    }

    fn invalid(&self, message: &str) -> Reply {
        self.error(400, "invalid_request_error", message)
    }

    fn not_allowed(&self) -> Reply {
        self.error(405, "invalid_request_error", "this method is not allowed here")
    }

    /// An identifier of what this call makes.
    fn named(&self, prefix: &str) -> String {
        self.id.replacen("req_", prefix, 1)
    }

    fn json(&self, body: &Value) -> Reply {
        let mut reply = Reply::json(200, body, self.now);
        reply.headers.push(("request-id", self.id.clone().into()));
        reply
    }
}

impl Engine {
    pub(crate) fn answer_api<R: Rng + ?Sized>(
        &mut self,
        call: &Call<'_>,
        endpoint: Endpoint,
        plan: Plan,
        now: Timestamp,
        rng: &mut R,
    ) -> Reply {
        let visit = Visit { call, id: request_id(rng), now };
        let (source, presented) = caller_of(call, &self.settings.api_keys);
        let reply = if plan.skip {
            Reply::new(200, "application/json", "", now)
        } else {
            match endpoint {
                Endpoint::Greeting => visit.json(&json!({"message": "hello"})),
                Endpoint::Probe => self.roles(&visit, source, presented),
                Endpoint::Api => self.api(&visit, source, presented),
                Endpoint::Token | Endpoint::Unknown => visit.error(404, "not_found_error", "nothing is here"),
            }
        };
        let fault = plan.label.clone();
        let reply = plan.shape(reply, &visit.id);
        if matches!(endpoint, Endpoint::Probe | Endpoint::Api) {
            self.counters.api_calls += 1;
            let sighting = Sighting {
                seq: self.counters.api_calls,
                at: now,
                method: call.method.to_owned(),
                target: call.target.to_owned(),
                source,
                presented: presented.map(Fingerprint::of),
                status: reply.status,
                fault,
                body_bytes: call.body.len(),
                headers: if self.settings.record_headers { shown_headers(call) } else { Vec::new() },
            };
            self.sightings.push(sighting, self.settings.log_kept);
        }
        reply
    }

    fn roles(&self, visit: &Visit<'_>, source: Source, presented: Option<&str>) -> Reply {
        if visit.call.method != "GET" {
            return visit.error(405, "invalid_request_error", "GET is the only method here");
        }
        if source != Source::Oauth {
            return visit.error(401, "authentication_error", "an access token is required here");
        }
        if let Err(refused) = self.check_access(visit, presented) {
            return refused;
        }
        let scopes = presented.and_then(|token| self.grants.scopes_of(token));
        let wanted = &self.settings.probe_scope;
        if scopes.is_some_and(|scopes| !scopes.contains(wanted)) {
            let mut reply = visit.error(403, "permission_error", "");
            let body = json!({
                "type": "error",
                "error": {
                    "type": "permission_error",
                    "message": format!("OAuth token does not meet scope requirement {wanted}"),
                    "details": {"error_code": "oauth_scope_insufficient", "required_scope": wanted},
                },
                "request_id": visit.id,
            });
            reply.body = Body::Whole(body.to_string().into());
            return reply;
        }
        visit.json(&json!({
            "organization_uuid": self.settings.organization_uuid,
            "organization_name": "Stand-in Organization",
            "organization_role": "admin",
            "workspace_role": null,
        }))
    }

    fn api(&mut self, visit: &Visit<'_>, source: Source, presented: Option<&str>) -> Reply {
        if let Err(refused) = self.check_caller(visit, source, presented) {
            return refused;
        }
        let (call, path) = (visit.call, visit.call.path());
        match (call.method, path) {
            ("GET" | "HEAD", "/v1/models") => self.models(visit),
            ("GET" | "HEAD", _) if path.starts_with("/v1/models/") => {
                let name = &path["/v1/models/".len()..];
                if self.settings.models.iter().any(|model| model == name) {
                    visit.json(&model(name))
                } else {
                    visit.error(404, "not_found_error", "no such model")
                }
            }
            ("POST", "/v1/messages" | "/v1/messages/count_tokens") => self.messages(visit),
            _ if within(path, batches::PATH) => self.batches(visit, Owner::of(source, presented)),
            _ if within(path, files::PATH) => self.files(visit, Owner::of(source, presented)),
            _ => visit.not_allowed(),
        }
    }

    fn check_caller(&self, visit: &Visit<'_>, source: Source, presented: Option<&str>) -> Result<(), Reply> {
        match source {
            Source::Both => {
                let said = "an access token and an API key exclude each other";
                Err(visit.error(400, "invalid_request_error", said))
            }
            Source::None => Err(visit.error(401, "authentication_error", "x-api-key header is required")),
            Source::ApiKey if self.settings.api_keys.iter().any(|key| Some(key.as_str()) == presented) => {
                Ok(())
            }
            Source::ApiKey => Err(visit.error(401, "authentication_error", "invalid x-api-key")),
            Source::Oauth => self.check_access(visit, presented),
        }
    }

    fn check_access(&self, visit: &Visit<'_>, presented: Option<&str>) -> Result<(), Reply> {
        if let Some(capability) = &self.settings.capability
            && !visit.call.lists(&capability.header, &capability.value)
        {
            let said = "OAuth authentication is not supported without its capability";
            return Err(visit.error(401, "authentication_error", said));
        }
        match self.grants.access_state(presented.unwrap_or_default(), visit.now) {
            AccessState::Live => Ok(()),
            AccessState::Expired => Err(visit.error(401, "authentication_error", "OAuth token has expired")),
            AccessState::Unknown => Err(visit.error(401, "authentication_error", "Invalid bearer token")),
            AccessState::Revoked => {
                let status = self.settings.revoked_status;
                let kind = if status == 403 { "permission_error" } else { "authentication_error" };
                Err(visit.error(status, kind, "OAuth token has been revoked"))
            }
        }
    }

    fn models(&self, visit: &Visit<'_>) -> Reply {
        let limit = match visit.call.query("limit").map(|text| text.parse::<usize>()) {
            None => 20,
            Some(Ok(limit @ 1..=1000)) => limit,
            Some(Ok(_) | Err(_)) => {
                return visit.error(
                    400,
                    "invalid_request_error",
                    "limit: a number from 1 to 1000 is expected",
                );
            }
        };
        let names = &self.settings.models;
        let shown: Vec<Value> = names.iter().take(limit).map(|name| model(name)).collect();
        visit.json(&json!({
            "first_id": names.first(),
            "last_id": names.get(limit.min(names.len()).saturating_sub(1)),
            "has_more": names.len() > limit,
            "data": shown,
        }))
    }

    fn messages(&self, visit: &Visit<'_>) -> Reply {
        let call = visit.call;
        if let Err(said) = check_headers(&self.settings, call, true) {
            return visit.invalid(&said);
        }
        let Ok(request) = serde_json::from_slice::<Value>(call.body) else {
            return visit.invalid("the body is not JSON");
        };
        let counting = call.path().ends_with("/count_tokens");
        if let Err(said) = check_message(&request, counting) {
            return visit.invalid(&said);
        }
        if counting {
            return visit.json(&json!({"input_tokens": call.body.len() / 4}));
        }
        let mut message = message(&visit.named("msg_"), &request, call.body.len());
        if request["stream"] == true {
            message["content"] = json!([]);
            message["stop_reason"] = Value::Null;
            return stream(visit, &message, self.settings.streaming);
        }
        visit.json(&message)
    }
}

/// Whether a path is `of`, or beneath it.
pub(crate) fn within(path: &str, of: &str) -> bool {
    path.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path leads to batches or files.
pub(crate) fn keeps_objects(path: &str) -> bool {
    within(path, batches::PATH) || within(path, files::PATH)
}

/// The answer to a request that has all that it needs.
fn message(id: &str, request: &Value, request_bytes: usize) -> Value {
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": request["model"],
        "content": [{"type": "text", "text": "Hello from the stand-in provider."}],
        "stop_reason": "end_turn",
        "stop_sequence": null,
        "usage": {"input_tokens": request_bytes / 4, "output_tokens": 1},
    })
}

/// What a request for a message needs, or for a count of its tokens.
fn check_message(request: &Value, counting: bool) -> Result<(), String> {
    let needed: &[&str] =
        if counting { &["model", "messages"] } else { &["model", "max_tokens", "messages"] };
    if let Some(missing) = needed.iter().find(|name| request.get(**name).is_none()) {
        return Err(format!("{missing}: Field required"));
    }
    if !counting && request["max_tokens"].as_u64().unwrap_or(0) == 0 {
        return Err("max_tokens: Input should be greater than or equal to 1".into());
    }
    Ok(())
}

fn check_version(settings: &Settings, call: &Call<'_>) -> Result<(), String> {
    match &settings.version_header {
        Some(name) if call.header(name).is_none() => Err(format!("{name}: header is required")),
        Some(_) | None => Ok(()),
    }
}

fn check_headers(settings: &Settings, call: &Call<'_>, with_json: bool) -> Result<(), String> {
    check_version(settings, call)?;
    if with_json && call.media_type().as_deref() != Some("application/json") {
        return Err("content-type: application/json is required".into());
    }
    Ok(())
}

fn stream(visit: &Visit<'_>, message: &Value, streaming: Streaming) -> Reply {
    let text = "x".repeat(streaming.delta_bytes as usize);
    let delta =
        event("content_block_delta", &json!({"index": 0, "delta": {"type": "text_delta", "text": text}}));
    let mut events = vec![
        event("message_start", &json!({"message": message})),
        event("content_block_start", &json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
        event("ping", &json!({})),
    ];
    events.extend(std::iter::repeat_n(delta, streaming.deltas as usize));
    let stop = json!({
        "delta": {"stop_reason": "end_turn", "stop_sequence": null},
        "usage": {"output_tokens": streaming.deltas},
    });
    events.push(event("content_block_stop", &json!({"index": 0})));
    events.push(event("message_delta", &stop));
    events.push(event("message_stop", &json!({})));
    let mut reply = Reply::new(200, "text/event-stream; charset=utf-8", "", visit.now);
    reply.headers.push(("cache-control", "no-cache".into()));
    reply.headers.push(("request-id", visit.id.clone().into()));
    reply.body = Body::Events { events, gap: Duration::from_millis(streaming.gap_millis) };
    reply
}

fn event(name: &str, members: &Value) -> Bytes {
    let mut data = json!({"type": name});
    if let (Some(into), Some(from)) = (data.as_object_mut(), members.as_object()) {
        into.extend(from.clone());
    }
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn model(name: &str) -> Value {
    json!({"type": "model", "id": name, "display_name": name, "created_at": "2025-01-01T00:00:00Z"})
}

/// What a call authenticates with: API key and Bearer token, whichever stand there. Newer clients of the provider send
/// API keys as Bearer too.
fn caller_of<'a>(call: &Call<'a>, api_keys: &[String]) -> (Source, Option<&'a str>) {
    let key = call.header("x-api-key");
    let bearer = call.header("authorization").and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    match (bearer, key) {
        (Some(_), Some(_)) => (Source::Both, None),
        (Some(token), None) if api_keys.iter().any(|key| key == token) => (Source::ApiKey, Some(token)),
        (Some(token), None) => (Source::Oauth, Some(token)),
        (None, Some(key)) => (Source::ApiKey, Some(key)),
        (None, None) => (Source::None, None),
    }
}

fn shown_headers(call: &Call<'_>) -> Vec<(String, String)> {
    let secret = ["authorization", "x-api-key", "cookie", "proxy-authorization"];
    let shown = |(name, value): &(&str, &str)| {
        let name = name.to_ascii_lowercase();
        let value = if secret.contains(&name.as_str()) {
            let token = value.split_once(' ').map_or(*value, |(_, token)| token);
            Fingerprint::of(token).to_string()
        } else {
            (*value).to_owned()
        };
        (name, value)
    };
    call.headers.iter().map(shown).collect()
}
