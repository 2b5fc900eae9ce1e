//! What is known of a request when it is over: one line of the access log, and its counters (SPEC §7).

use std::sync::Arc;
use std::time::{Duration, Instant};

use evergrant_core::Reason;
use evergrant_core::gateway::Source;

use super::access_log::Line;
use super::admission::{With, source_of};
use super::clock;
use super::plane::Chain;
use super::thread::Thread;
use crate::caller::KnownCaller;
use crate::traces::{Context, Span, SpanKind, Value, number};

/// One request, as it goes along.
pub(super) struct Entry {
    pub(super) begun: Instant,
    pub(super) request_id: String,
    method: &'static str,
    pub(super) chain: Option<Arc<Chain>>,
    /// The number of the path's rule.
    pub(super) rule: Option<usize>,
    pub(super) caller: Option<Arc<KnownCaller>>,
    source: Source,
    shown: String,
    pub(super) reason: Option<Reason>,
    pub(super) status: u16,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// When its head was ready for whoever answers.
    pub(super) ready: Option<Instant>,
    /// When the answer's head was there, and when the client's was ready.
    pub(super) answered: Option<(Instant, Instant)>,
    /// It is for Evergrant's own routes.
    pub(super) own: bool,
    /// It was sent again with a newer token.
    pub(super) replayed: bool,
    /// Where it stands among spans, if there are traces.
    pub(super) trace: Option<Box<Context>>,
}

/// What nginx made the custom for a client that went away before its answer.
const CLIENT_GONE: u16 = 499;

impl Entry {
    /// One whose head was there `begun`.
    pub(super) fn new(begun: Instant) -> Self {
        Self {
            begun,
            request_id: String::new(),
            method: "",
            chain: None,
            rule: None,
            caller: None,
            source: Source::None,
            shown: String::new(),
            reason: None,
            status: CLIENT_GONE,
            bytes_in: 0,
            bytes_out: 0,
            ready: None,
            answered: None,
            own: false,
            replayed: false,
            trace: None,
        }
    }

    /// The head was read.
    pub(super) fn begin(&mut self, method: &str, request_id: Option<&str>, new_id: impl FnOnce() -> String) {
        const METHODS: [&str; 7] = ["POST", "GET", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS"];
        self.method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        self.request_id = request_id.map_or_else(new_id, str::to_owned);
    }

    /// It has an id at least, though its head could not be read.
    pub(super) fn name(&mut self, new_id: impl FnOnce() -> String) {
        if self.request_id.is_empty() {
            self.request_id = new_id();
        }
    }

    /// A source serves it, for now.
    pub(super) fn serve(&mut self, chain: &Chain, with: &With) {
        self.source = source_of(chain, with);
        self.shown.clear();
        self.shown.push_str(match (with, &chain.fallback) {
            (With::Chain(live), _) => &live.shown,
            (With::Fallback, Some(fallback)) => &fallback.shown,
            (With::Fallback, None) => "",
        });
    }

    /// Nothing served it: the answer is our own.
    pub(super) fn unserved(&mut self, status: u16, reason: Reason) {
        self.source = Source::None;
        self.shown.clear();
        (self.status, self.reason) = (status, Some(reason));
    }

    /// It is over. Returns since when.
    pub(super) fn finish(self, thread: &Thread) -> Instant {
        let ended = clock::now();
        if self.own {
            return ended;
        }
        let first_byte = self.ready.zip(self.answered).map(|(ready, (came, _))| came.duration_since(ready));
        let ready = self.ready.unwrap_or(ended).duration_since(self.begun);
        let passed_on =
            self.answered.map_or(Duration::ZERO, |(came, passed_on)| passed_on.duration_since(came));
        let overhead = ready + passed_on;
        let chain = self.chain.as_ref().map_or("", |chain| chain.name.as_str());
        let route = match (&self.chain, self.rule) {
            (Some(chain), Some(rule)) => chain.rules.paths[rule].path.as_str(),
            _ => "",
        };
        let caller = self.caller.as_ref().map(|known| &known.caller);
        let name = caller.map_or("", |caller| caller.name.as_str());
        let (counted, by) = match (&self.chain, caller) {
            (Some(chain), _) => chain.labels(name),
            // Of callers whose chain no configuration names there may be very many.
            (None, Some(caller)) if thread.seen().plane.number(&caller.chain).is_none() => ("", "*"),
            (None, _) => ("", name),
        };
        thread.requests.count(counted, route, by, self.status, self.source);
        if self.source != Source::None {
            thread.shared.measures.request(overhead, first_byte);
        }
        if let Some(context) = self.trace.as_deref().filter(|context| context.sampled) {
            thread.shared.traces.end(self.span(*context, ended.duration_since(self.begun), (chain, route)));
        }
        thread.log(&Line {
            at: clock::wall(),
            request_id: &self.request_id,
            caller: name,
            key: caller.map(|caller| caller.id),
            chain,
            method: self.method,
            route,
            status: self.status,
            source: self.source.as_str(),
            shown: &self.shown,
            reason: self.reason.map(Reason::as_str),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            first_byte_us: first_byte.map_or(0, micros),
            took_us: micros(ended.duration_since(self.begun)),
            overhead_us: micros(overhead),
        });
        ended
    }

    fn span(&self, context: Context, took: Duration, (chain, route): (&str, &str)) -> Span {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut attributes = vec![
            ("http.request.method", text(self.method)),
            ("http.response.status_code", number(self.status)),
            ("evergrant.source", text(self.source.as_str())),
            ("evergrant.replayed", Value::Truth(self.replayed)),
            ("evergrant.request_id", text(&self.request_id)),
        ];
        if self.answered.is_some() {
            attributes.push(("evergrant.upstream_status", number(self.status)));
        }
        let caller = self.caller.as_ref().map(|known| known.caller.id.text());
        let known = [
            ("http.route", route),
            ("evergrant.chain", chain),
            ("evergrant.key_id", caller.as_ref().map_or("", |id| id.as_str())),
            ("evergrant.reason", self.reason.map_or("", Reason::as_str)),
        ];
        let known = known.into_iter().filter(|(_, value)| !value.is_empty());
        attributes.extend(known.map(|(name, value)| (name, text(value))));
        let name = if route.is_empty() { self.method.to_owned() } else { format!("{} {route}", self.method) };
        let (kind, failed) = (SpanKind::Request, self.status >= 500);
        Span { context, kind, name, ended: clock::wall(), took, failed, attributes }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
