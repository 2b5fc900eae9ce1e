//! The queue of scripted faults, and the one flat plan that a request's faults add up to.

use std::time::Duration;

use jiff::SignedDuration;
use serde_json::json;

use crate::engine::Endpoint;
use crate::fault::{Fault, FaultBody, FaultTarget, Rule};
use crate::reply::{Body, Reply, Transport};
use crate::settings::Member;

/// The rules that wait, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queue(Vec<Rule>);

impl Queue {
    pub(crate) fn push(&mut self, rule: Rule) {
        if rule.times != Some(0) {
            self.0.push(rule);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.0
    }

    /// The plan of the next request at `endpoint`; what the rules allow is counted down.
    pub(crate) fn take(&mut self, endpoint: Endpoint) -> Plan {
        let mut played = None;
        for (at, rule) in self.0.iter_mut().enumerate() {
            if !befalls(rule.target, endpoint) {
                continue;
            }
            if rule.after > 0 {
                rule.after -= 1;
                continue;
            }
            played = Some(at);
            break;
        }
        let Some(at) = played else { return Plan::default() };
        let plan = Plan::of(&self.0[at]);
        if let Some(times) = &mut self.0[at].times {
            *times -= 1;
            if *times == 0 {
                self.0.remove(at);
            }
        }
        plan
    }
}

fn befalls(target: FaultTarget, endpoint: Endpoint) -> bool {
    match (target, endpoint) {
        // A greeting and an unknown path have nothing to lose; a scripted fault would be wasted on them.
        (_, Endpoint::Greeting | Endpoint::Unknown) => false,
        (FaultTarget::Any, Endpoint::Token | Endpoint::Probe | Endpoint::Api)
        | (FaultTarget::Token, Endpoint::Token)
        | (FaultTarget::Probe, Endpoint::Probe)
        | (FaultTarget::Api, Endpoint::Api) => true,
        (FaultTarget::Token | FaultTarget::Probe | FaultTarget::Api, _) => false,
    }
}

/// What the faults of one request add up to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) label: Option<String>,
    pub(crate) before: Duration,
    /// The request is not processed.
    pub(crate) skip: bool,
    pub(crate) omit: Vec<Member>,
    after: Duration,
    instead: Option<Instead>,
    missing_bytes: usize,
    pad_to_bytes: usize,
    skew_secs: i64,
    transport: Option<Transport>,
    /// Headers that the answer has besides.
    headers: Vec<(&'static str, String)>,
}

#[derive(Debug, Clone)]
struct Instead {
    status: u16,
    body: FaultBody,
    retry_after_secs: Option<u64>,
    location: Option<String>,
}

impl Plan {
    fn of(rule: &Rule) -> Self {
        let mut plan = Self { label: Some(rule.fault.label()), ..Self::default() };
        plan.add(&rule.fault);
        for fault in &rule.also {
            plan.add(fault);
        }
        plan
    }

    fn add(&mut self, fault: &Fault) {
        match fault {
            Fault::Status { status, body, retry_after_secs, location, processed } => {
                self.skip |= !processed;
                self.instead = Some(Instead {
                    status: *status,
                    body: body.clone(),
                    retry_after_secs: *retry_after_secs,
                    location: location.clone(),
                });
            }
            Fault::RequestLost => {
                self.skip = true;
                self.transport = Some(Transport::LoseRequest);
            }
            Fault::AnswerLost => self.transport = Some(Transport::LoseAnswer),
            Fault::NeverAnswer { processed } => {
                self.skip |= !processed;
                self.transport = Some(Transport::NeverAnswer);
            }
            Fault::DelayBefore { millis } => self.before += Duration::from_millis(*millis),
            Fault::DelayAfter { millis } => self.after += Duration::from_millis(*millis),
            Fault::TruncatedJson { missing_bytes } => self.missing_bytes = *missing_bytes,
            Fault::CutBody { after_bytes } => {
                self.transport = Some(Transport::CutBody { after_bytes: *after_bytes });
            }
            Fault::Omit { members } => self.omit.extend_from_slice(members),
            Fault::NotAToken { processed } => {
                self.skip |= !processed;
                let body = FaultBody::Json { text: json!({"ok": true}).to_string() };
                self.instead = Some(Instead { status: 200, body, retry_after_secs: None, location: None });
            }
            Fault::HugeBody { bytes } => self.pad_to_bytes = *bytes,
            Fault::DateSkew { secs } => self.skew_secs += secs,
            Fault::Retry { should, after_millis } => {
                self.headers.extend(should.map(|should| ("x-should-retry", should.to_string())));
                self.headers.extend(after_millis.map(|millis| ("retry-after-ms", millis.to_string())));
            }
        }
    }

    /// The answer as the faults leave it.
    pub(crate) fn shape(self, mut reply: Reply, request_id: &str) -> Reply {
        if let Some(instead) = self.instead {
            reply = instead.reply(reply, request_id);
        }
        if self.pad_to_bytes > 0 || self.missing_bytes > 0 {
            let mut bytes = reply.bytes().to_vec();
            pad(&mut bytes, self.pad_to_bytes);
            bytes.truncate(bytes.len().saturating_sub(self.missing_bytes));
            reply.body = Body::Whole(bytes.into());
        }
        reply.headers.extend(self.headers.into_iter().map(|(name, value)| (name, value.into())));
        reply.date = reply.date.checked_add(SignedDuration::from_secs(self.skew_secs)).unwrap_or(reply.date);
        reply.delay += self.after;
        if let Some(transport) = self.transport {
            reply.transport = transport;
        }
        reply
    }
}

impl Instead {
    fn reply(self, before: Reply, request_id: &str) -> Reply {
        let (status, now) = (self.status, before.date);
        let mut reply = match self.body {
            FaultBody::Empty => {
                let mut reply = Reply::new(status, "text/plain", "", now);
                reply.headers.clear();
                reply
            }
            FaultBody::Text { text } => Reply::new(status, "text/plain; charset=utf-8", text, now),
            FaultBody::Html { title } => {
                let page = format!(
                    "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
                );
                Reply::new(status, "text/html; charset=utf-8", page, now)
            }
            FaultBody::Json { text } => Reply::new(status, "application/json", text, now),
            FaultBody::ProviderError { error, message } => {
                Reply::api_error(status, &error, &message, request_id, now)
            }
            FaultBody::Oauth { error } => Reply::oauth_error(status, &error, "scripted fault", now),
            FaultBody::OauthObject { error } => {
                let body = json!({"error": {"type": error, "message": "scripted fault"}});
                Reply::json(status, &body, now)
            }
        };
        if let Some(secs) = self.retry_after_secs {
            reply.headers.push(("retry-after", secs.to_string().into()));
        }
        if let Some(location) = self.location {
            reply.headers.push(("location", location.into()));
        }
        reply
    }
}

/// Blows a JSON object up to `least` bytes by one more member, so that it stays whole.
fn pad(body: &mut Vec<u8>, least: usize) {
    if body.last() != Some(&b'}') || body.len() >= least {
        return;
    }
    body.pop();
    let comma: &[u8] = if body.last() == Some(&b'{') { b"" } else { b"," };
    body.extend_from_slice(comma);
    body.extend_from_slice(b"\"padding\":\"");
    let wanted = least.saturating_sub(2).max(body.len());
    body.resize(wanted, b'x');
    body.extend_from_slice(b"\"}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_played_in_order_and_counted_down() {
        let mut queue = Queue::default();
        queue.push(Rule::new(FaultTarget::Token, Fault::RequestLost, 2).after(1));
        queue.push(Rule::always(FaultTarget::Any, Fault::AnswerLost));
        queue.push(Rule::new(FaultTarget::Token, Fault::RequestLost, 0));
        let mut label = |endpoint| queue.take(endpoint).label;
        assert_eq!(label(Endpoint::Greeting), None);
        assert_eq!(label(Endpoint::Api).as_deref(), Some("answer_lost"));
        let names: Vec<_> = (0..4).filter_map(|_| label(Endpoint::Token)).collect();
        assert_eq!(names, ["answer_lost", "request_lost", "request_lost", "answer_lost"]);
        assert_eq!(queue.rules().len(), 1);
        queue.clear();
        assert!(queue.rules().is_empty());
    }

    #[test]
    fn padding_keeps_json_whole() {
        for start in ["{}", r#"{"a":1}"#] {
            let mut body = start.as_bytes().to_vec();
            pad(&mut body, 100);
            assert_eq!(body.len(), 100);
            serde_json::from_slice::<serde_json::Value>(&body).unwrap();
        }
    }
}
