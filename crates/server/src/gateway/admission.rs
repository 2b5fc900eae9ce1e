//! What becomes of a request by its head alone: whose it is, where it goes, with which source, or why not (SPEC §7).

use std::rc::Rc;
use std::sync::Arc;

use evergrant_core::Reason;
use evergrant_core::caller::Scope;
use evergrant_core::gateway::{Choice, ErrorShape, Fallback, OwnError, PathRule, Route, Source, choose};
use jiff::Timestamp;

use super::clock;
use super::entry::Entry;
use super::fallback::day_of;
use super::http1::{Framing, Request, Version, empty_room, parse_request};
use super::own_error::{
    bad_head, chain_not_looked_for, no_source, not_forwarded, over_limit, provider_token, too_large,
    unauthorized, unknown_chain,
};
use super::plane::Chain;
use super::request::{Asker, Injected, own_head, provider_head};
use super::thread::{Live, Seen, Thread};
use crate::caller::{KnownCaller, Permit};
use crate::traces::Context;

/// A request that goes to somebody.
pub(super) struct Job {
    /// What its client may be told, and how its body is delimited.
    pub(super) asked: Asked,
    /// The head for whoever answers.
    pub(super) out: Vec<u8>,
    /// Who serves it; `None`: Evergrant's own routes.
    pub(super) serving: Option<Serving>,
}

/// What the head says of the message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) head_len: usize,
    pub(super) framing: Framing,
    pub(super) version: Version,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) to_head: bool,
    /// The longest body.
    pub(super) limit: u64,
}

/// A chain that serves a request.
pub(super) struct Serving {
    pub(super) seen: Rc<Seen>,
    pub(super) chain: Arc<Chain>,
    /// The number of the path's rule.
    rule: usize,
    pub(super) caller: Arc<KnownCaller>,
    pub(super) with: With,
    _permit: Permit,
}

/// The secret that a request is sent with.
#[derive(Debug, Clone)]
pub(super) enum With {
    Chain(Live),
    Fallback,
}

/// A request that goes nowhere, with what is known of its message.
pub(super) struct Refusal {
    pub(super) asked: Option<Asked>,
    pub(super) shape: ErrorShape,
    pub(super) error: OwnError,
}

impl Serving {
    pub(super) fn rule(&self) -> &PathRule {
        &self.chain.rules.paths[self.rule]
    }

    fn injected(&self) -> Option<&Injected> {
        match (&self.with, &self.chain.fallback) {
            (With::Chain(live), _) => Some(&live.injected),
            (With::Fallback, Some(fallback)) => Some(&fallback.injected),
            (With::Fallback, None) => None,
        }
    }

    /// Whether the fallback key may serve this caller.
    pub(super) fn fallback(&self, now: Timestamp) -> Fallback {
        fallback(&self.chain, &self.caller, now)
    }

    /// Writes the head for the provider anew, from the client's own.
    pub(super) fn head(&self, out: &mut Vec<u8>, client_head: &[u8], trace: Option<&Context>) {
        let mut room = empty_room();
        if let Ok(Some(head)) = parse_request(client_head, &mut room) {
            self.write_head(out, &head, trace);
        }
    }

    fn write_head(&self, out: &mut Vec<u8>, head: &Request<'_, '_>, trace: Option<&Context>) {
        let (path, query) = split(head.target);
        let Chain { rules, upstream, .. } = &*self.chain;
        // Its path is one that is forwarded, or it would not be served.
        if let (Some(path), Some(injected)) = (rules.below_route(path), self.injected()) {
            let rules = (rules, self.rule());
            provider_head(out, head, (path, query), &upstream.target, injected, rules, trace);
        }
    }
}

/// Decides by the head that stands at the beginning of `bytes`. `None`: it is not whole.
pub(super) fn admit(thread: &Thread, bytes: &[u8], entry: &mut Entry) -> Option<Result<Job, Refusal>> {
    let seen = thread.seen();
    let mut room = empty_room();
    let head = match parse_request(bytes, &mut room) {
        Ok(Some(head)) => head,
        Ok(None) => return None,
        Err(bad) => {
            let shape = seen.plane.shape();
            return Some(Err(Refusal { asked: None, shape, error: bad_head(bad) }));
        }
    };
    let mut asked = Asked {
        head_len: head.len,
        framing: head.framing,
        version: head.version,
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
        to_head: head.method == "HEAD",
        limit: u64::MAX,
    };
    let asker = Asker::of(head.headers);
    entry.begin(head.method, asker.request_id, || thread.new_id());
    let path = split(head.target).0;
    let Some(shape) = seen.plane.route_of(path) else {
        let mut out = thread.buffer();
        own_head(&mut out, &head);
        return Some(Ok(Job { asked, out, serving: None }));
    };
    if entry.trace.is_none() {
        let parents = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("traceparent"));
        entry.trace = thread.shared.traces.begin(parents.map(|header| header.value)).map(Box::new);
    }
    Some(match serve(thread, seen, &head, asker.presented.key(), entry) {
        Ok(serving) => {
            asked.limit = serving.rule().body_limit;
            let mut out = thread.buffer();
            serving.write_head(&mut out, &head, entry.trace.as_deref());
            Ok(Job { asked, out, serving: Some(serving) })
        }
        Err(error) => Err(Refusal { asked: Some(asked), shape, error }),
    })
}

fn split(target: &str) -> (&str, &str) {
    target.split_at(target.find('?').unwrap_or(target.len()))
}

fn serve(
    thread: &Thread,
    seen: Rc<Seen>,
    head: &Request<'_, '_>,
    presented: Option<&[u8]>,
    entry: &mut Entry,
) -> Result<Serving, OwnError> {
    let now = clock::wall();
    if let Some(variable) = presented.and_then(|key| seen.plane.provider_token(key)) {
        return Err(provider_token(variable));
    }
    let caller = seen.callers.authorize(presented, Scope::Gateway, now).map_err(unauthorized)?.clone();
    entry.caller = Some(caller.clone());
    let Some(chain) = seen.plane.chain(&caller.caller.chain) else {
        return Err(match seen.plane.not_answered(&caller.caller.chain) {
            true => chain_not_looked_for(&caller.caller.chain),
            false => unknown_chain(&caller.caller.chain),
        });
    };
    entry.chain = Some(chain.clone());
    let path = split(head.target).0;
    let Route::Forwarded(rule, _) = chain.rules.route(head.method, path) else {
        return Err(not_forwarded(&chain, head.method));
    };
    entry.rule = Some(rule);
    let limit = chain.rules.paths[rule].body_limit;
    if matches!(head.framing, Framing::Length(length) if length > limit) {
        return Err(too_large(limit));
    }
    let permit = caller.admit(clock::age(entry.begun)).map_err(over_limit)?;
    let live = seen.live(&chain, now);
    let fallback = fallback(&chain, &caller, now);
    let on = chain.fallback.as_ref().map(|fallback| fallback.key.on).unwrap_or_default();
    let with = match choose(live.as_ref().map(|live| live.position), fallback, on) {
        Choice::Oauth(_) => live.map(With::Chain).ok_or(Reason::NoSource),
        Choice::Fallback => spend_fallback(thread, &chain, &caller, now).map(|()| With::Fallback),
        Choice::None(reason) => Err(reason),
    };
    let with = with.map_err(|reason| no_source(&chain, reason))?;
    entry.serve(&chain, &with);
    Ok(Serving { seen, chain, rule, caller, with, _permit: permit })
}

fn fallback(chain: &Chain, caller: &KnownCaller, now: Timestamp) -> Fallback {
    let key = chain.fallback.as_ref().map(|fallback| &fallback.key);
    let left = key.is_some_and(|key| key.uses.left(day_of(now), key.max_requests_per_day));
    Fallback::of(key.is_some(), caller.caller.fallback, left)
}

/// One more request for the fallback key, said aloud: it costs money, and says that something is wrong.
pub(super) fn spend_fallback(
    thread: &Thread,
    chain: &Chain,
    caller: &KnownCaller,
    now: Timestamp,
) -> Result<(), Reason> {
    let Some(fallback) = &chain.fallback else { return Err(Reason::NoSource) };
    let spent = fallback.key.uses.take(day_of(now), fallback.key.max_requests_per_day);
    if !spent.allowed {
        return Err(Reason::FallbackUsedUp);
    }
    thread.shared.measures.fell_back(chain.labels("").0);
    let (chain, caller, key) = (&chain.name, &caller.caller.name, &fallback.shown);
    tracing::warn!(reason = %Reason::GatewayUsingFallbackKey, %chain, %caller, %key, "the fallback key serves a request");
    if let Some(percent) = spent.reached {
        tracing::warn!(
            reason = %Reason::FallbackBudget, %chain, percent,
            "so much of today's requests for the fallback key is used up; when all are, requests fail with 429"
        );
    }
    Ok(())
}

/// What served, for logs and metrics.
pub(super) fn source_of(chain: &Chain, with: &With) -> Source {
    match with {
        With::Chain(_) => chain.source,
        With::Fallback => Source::Fallback,
    }
}
