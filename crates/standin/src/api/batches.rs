//! Message batches: made, listed, looked at, canceled, deleted, and their results as JSON lines.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::objects::{Batch, Owner, keep, page};
use super::{Visit, check_headers, check_message, message};
use crate::engine::Engine;
use crate::reply::Reply;

/// Where they are.
pub(super) const PATH: &str = "/v1/messages/batches";

impl Engine {
    pub(super) fn batches(&mut self, visit: &Visit<'_>, owner: Owner) -> Reply {
        let rest = visit.call.path()[PATH.len()..].trim_start_matches('/');
        let (id, verb) = rest.split_once('/').map_or((rest, ""), |(id, verb)| (id, verb));
        if let Err(said) =
            check_headers(&self.settings, visit.call, visit.call.method == "POST" && id.is_empty())
        {
            return visit.invalid(&said);
        }
        match (visit.call.method, id, verb) {
            ("POST", "", "") => self.make_batch(visit, owner),
            ("GET", "", "") => {
                let mut own: Vec<&Batch> =
                    self.objects.batches.iter().filter(|batch| batch.owner == owner).collect();
                own.reverse();
                match page(visit.call, &own, |batch| &batch.id, |batch| shown(visit, batch)) {
                    Ok(page) => visit.json(&page),
                    Err(said) => visit.invalid(&said),
                }
            }
            ("GET" | "POST" | "DELETE", _, "" | "cancel" | "results") => {
                let found = |batch: &Batch| batch.id == id && batch.owner == owner;
                match self.objects.batches.iter().position(found) {
                    Some(at) => self.on_batch(visit, at, verb),
                    None => visit.error(404, "not_found_error", &format!("no message batch {id} is here")),
                }
            }
            _ => visit.not_allowed(),
        }
    }

    fn on_batch(&mut self, visit: &Visit<'_>, at: usize, verb: &str) -> Reply {
        let batch = &mut self.objects.batches[at];
        let ended = batch.ended_at(visit.now).is_some();
        match (visit.call.method, verb, ended) {
            ("GET", "", _) => visit.json(&shown(visit, batch)),
            ("GET", "results", true) => results(visit, batch),
            ("GET", "results", false) => {
                visit.error(404, "not_found_error", "the batch has no results before it has ended")
            }
            ("POST", "cancel", true) => visit.invalid("the batch has ended and cannot be canceled"),
            ("POST", "cancel", false) => {
                batch.canceled_at = Some(visit.now);
                visit.json(&shown_as(visit, batch, "canceling"))
            }
            ("DELETE", "", false) => visit.invalid("a batch in progress has to be canceled first"),
            ("DELETE", "", true) => {
                let batch = self.objects.batches.remove(at);
                visit.json(&json!({"id": batch.id, "type": "message_batch_deleted"}))
            }
            _ => visit.not_allowed(),
        }
    }

    fn make_batch(&mut self, visit: &Visit<'_>, owner: Owner) -> Reply {
        let requests = match read(visit.call.body) {
            Ok(requests) => requests,
            Err(said) => return visit.invalid(&said),
        };
        let rules = self.settings.objects;
        let takes = SignedDuration::from_secs(i64::try_from(rules.batch_secs).unwrap_or(i64::MAX));
        let batch = Batch {
            id: visit.named("msgbatch_"),
            owner,
            created_at: visit.now,
            ends_at: visit.now.checked_add(takes).unwrap_or(Timestamp::MAX),
            canceled_at: None,
            requests,
        };
        let reply = visit.json(&shown_as(visit, &batch, "in_progress"));
        keep(&mut self.objects.batches, batch, rules.kept);
        reply
    }
}

/// `custom_id` and `params` of every request of a batch.
fn read(body: &[u8]) -> Result<Vec<(String, Value)>, String> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "the body is not JSON")?;
    let requests = body["requests"].as_array().ok_or("requests: Field required")?;
    if requests.is_empty() {
        return Err("requests: at least one is required".into());
    }
    let mut ids = BTreeSet::new();
    let mut read = Vec::new();
    for (at, request) in requests.iter().enumerate() {
        let id = request["custom_id"].as_str().filter(|id| !id.is_empty());
        let id = id.ok_or_else(|| format!("requests.{at}.custom_id: Field required"))?;
        if !request["params"].is_object() {
            return Err(format!("requests.{at}.params: Field required"));
        }
        if !ids.insert(id) {
            return Err(format!("requests.{at}.custom_id: `{id}` stands twice"));
        }
        read.push((id.to_owned(), request["params"].clone()));
    }
    Ok(read)
}

fn shown(visit: &Visit<'_>, batch: &Batch) -> Value {
    let ended = batch.ended_at(visit.now).is_some();
    shown_as(visit, batch, if ended { "ended" } else { "in_progress" })
}

fn shown_as(visit: &Visit<'_>, batch: &Batch, status: &str) -> Value {
    let ended = status == "ended";
    let canceled = batch.canceled_at.is_some();
    let all = batch.requests.len();
    let wrong = batch.requests.iter().filter(|(_, params)| check_message(params, false).is_err()).count();
    let count = |number: usize, counts: bool| if counts { number } else { 0 };
    let host = visit.call.header("host").unwrap_or("localhost");
    json!({
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": {
            "processing": count(all, !ended),
            "succeeded": count(all - wrong, ended && !canceled),
            "errored": count(wrong, ended && !canceled),
            "canceled": count(all, ended && canceled),
            "expired": 0,
        },
        "created_at": batch.created_at,
        "expires_at": batch.expires_at(),
        "ended_at": if ended { batch.ended_at(visit.now) } else { None },
        "cancel_initiated_at": batch.canceled_at,
        "archived_at": null,
        "results_url": ended.then(|| format!("http://{host}{PATH}/{}/results", batch.id)),
    })
}

/// One line for each request.
fn results(visit: &Visit<'_>, batch: &Batch) -> Reply {
    let mut lines = String::new();
    for (at, (custom_id, params)) in batch.requests.iter().enumerate() {
        let result = if batch.canceled_at.is_some() {
            json!({"type": "canceled"})
        } else if let Err(said) = check_message(params, false) {
            let error = json!({"type": "invalid_request_error", "message": said});
            json!({"type": "errored", "error": {"type": "error", "error": error, "request_id": visit.id}})
        } else {
            let id = format!("{}_{at}", batch.id.replacen("msgbatch_", "msg_", 1));
            json!({"type": "succeeded", "message": message(&id, params, params.to_string().len())})
        };
        lines.push_str(&json!({"custom_id": custom_id, "result": result}).to_string());
        lines.push('\n');
    }
    let mut reply = Reply::new(200, "application/x-jsonl", lines, visit.now);
    reply.headers.push(("request-id", visit.id.clone().into()));
    reply
}
