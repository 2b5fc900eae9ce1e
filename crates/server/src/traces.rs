//! Traces: a span of each request and of each exchange, put into a queue that nobody waits for (SPEC §7). What takes
//! them out and exports them is behind the feature `otel`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::gateway::Position;
use evergrant_core::keeper::Answer;
use evergrant_core::{ChainName, Reason};
use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use url::Url;

use crate::metrics::Metrics;

#[cfg(feature = "otel")]
pub mod otel;

/// Spans that may wait to be exported; more are dropped and counted.
pub const WAITING: usize = 4096;

/// Where spans are exported to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The collector; `/v1/traces` is added to its path.
    pub endpoint: Url,
    /// Of the requests without a parent, so many in a hundred are sampled.
    pub sample_percent: u8,
}

/// Where spans go: to a queue, or nowhere. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<Span>,
    sample_percent: u8,
    dropped: Counter,
}

/// Where a span stands among others (W3C Trace Context).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
    /// The span that it belongs to; it is another program's.
    pub parent: Option<u64>,
    /// Whether it is exported.
    pub sampled: bool,
}

/// What took time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// A request, to the gateway.
    Request,
    /// An exchange, with a provider.
    Exchange,
}

/// What is said of a span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A number.
    Number(i64),
    /// Yes or no.
    Truth(bool),
}

/// Something that took time and is over. It holds no secret, no header's value and no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it stands.
    pub context: Context,
    /// What it was.
    pub kind: SpanKind,
    /// What it is called: one of few names.
    pub name: String,
    /// When it was over.
    pub ended: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// It failed.
    pub failed: bool,
    /// What else is said of it.
    pub attributes: Vec<(&'static str, Value)>,
}

/// An exchange that is over, or that is waited for no longer.
#[derive(Debug)]
pub struct Exchange<'a> {
    /// The chain.
    pub chain: &'a ChainName,
    /// The pair that was presented; `None`: nothing was spent.
    pub position: Option<Position>,
    /// Why it was made.
    pub why: Reason,
    /// What came of it; `None`: no answer in time.
    pub answer: Option<&'a Answer>,
    /// When it was over.
    pub ended: Timestamp,
    /// How long it took.
    pub took: Duration,
}

impl Traces {
    /// Traces, and the queue that they go to. Of the requests without a parent so many in a hundred are sampled.
    #[must_use]
    pub fn queue(sample_percent: u8, metrics: &Metrics) -> (Self, mpsc::Receiver<Span>) {
        let (spans, queue) = mpsc::channel(WAITING);
        let dropped = Counter::default();
        metrics.register(|registry| {
            let help = "Spans that were not exported: too many waited, or the collector did not take them";
            registry.register("traces_dropped", help, dropped.clone());
        });
        (Self(Some(Arc::new(Queue { spans, sample_percent, dropped }))), queue)
    }

    /// Begins a span of a request, if there are traces; `parents` are the values of its `traceparent` fields.
    pub(crate) fn begin<'h>(&self, parents: impl IntoIterator<Item = &'h [u8]>) -> Option<Context> {
        let queue = self.0.as_ref()?;
        let mut parents = parents.into_iter();
        let parent = match (parents.next(), parents.next()) {
            (Some(only), None) => Context::parse(only),
            _ => None,
        };
        Some(parent.map_or_else(
            || Context::root(queue.sample_percent),
            |parent| Context { parent: Some(parent.span), span: span_id(), ..parent },
        ))
    }

    /// Takes a span that is over and sampled.
    pub(crate) fn end(&self, span: Span) {
        if let Some(queue) = &self.0
            && queue.spans.try_send(span).is_err()
        {
            queue.dropped.inc();
        }
    }

    /// Takes an exchange: there are few, and all of them are sampled.
    pub(crate) fn exchanged(&self, exchange: &Exchange<'_>) {
        if self.0.is_some() {
            self.end(exchange.span());
        }
    }
}

impl Context {
    /// The first of its trace.
    fn root(sample_percent: u8) -> Self {
        let trace = rand::random::<u128>().max(1);
        // As the OpenTelemetry SDKs decide it by the trace, so that programs with the same share agree.
        let share = (trace as u64 >> 1) as f64 / (1_u64 << 63) as f64;
        let sampled = share < f64::from(sample_percent) / 100.0;
        Self { trace, span: span_id(), parent: None, sampled }
    }

    /// Somebody else's span, from the value of a `traceparent` field.
    fn parse(value: &[u8]) -> Option<Self> {
        let value = str::from_utf8(value).ok()?.trim_matches([' ', '\t']);
        let (known, more) = value.split_at_checked(55)?;
        let mut parts = known.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next().filter(|part| part.len() == digits)?;
            let plain = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            u128::from_str_radix(part, 16).ok().filter(|_| plain)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let whole = version < 0xff && (more.is_empty() || version > 0 && more.starts_with('-'));
        let span = u64::try_from(span).ok().filter(|span| whole && trace != 0 && *span != 0)?;
        Some(Self { trace, span, parent: None, sampled: flags & 1 == 1 })
    }

    /// The field for whoever is asked on its behalf.
    pub(crate) fn traceparent(&self) -> String {
        let mut value = String::with_capacity(55);
        // Writing into a string cannot fail.
        let _ = write!(value, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled));
        value
    }

    /// Whether a field of the client's gives way to ours: a `tracestate` is of no use without its parent.
    pub(crate) fn replaces(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case("traceparent")
            || self.parent.is_none() && name.eq_ignore_ascii_case("tracestate")
    }
}

fn span_id() -> u64 {
    rand::random::<u64>().max(1)
}

impl Exchange<'_> {
    fn span(&self) -> Span {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut attributes = vec![
            ("evergrant.chain", text(self.chain.as_str())),
            ("evergrant.reason", text(self.why.as_str())),
        ];
        if let Some((lineage, generation)) = self.position {
            attributes.push(("evergrant.lineage", number(lineage.0)));
            attributes.push(("evergrant.generation", number(generation.0)));
        }
        let status = match self.answer {
            Some(Answer::Received { status, .. }) => Some(*status),
            Some(Answer::NotSent { .. } | Answer::Lost { .. }) | None => None,
        };
        if let Some(status) = status {
            attributes.push(("http.response.status_code", number(status)));
        }
        Span {
            context: Context { sampled: true, ..Context::root(100) },
            kind: SpanKind::Exchange,
            name: "exchange".to_owned(),
            ended: self.ended,
            took: self.took,
            failed: status != Some(200),
            attributes,
        }
    }
}

/// A number, as large as one can be said.
pub(crate) fn number(number: impl TryInto<i64>) -> Value {
    Value::Number(number.try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn begin(traces: &Traces, parents: &[&str]) -> Context {
        traces.begin(parents.iter().map(|parent| parent.as_bytes())).unwrap()
    }

    #[test]
    fn a_parent_is_taken_over_only_if_it_is_valid() {
        let (traces, _queue) = Traces::queue(0, &Metrics::default());
        for (parent, sampled) in [
            (PARENT.to_owned(), true),
            (format!(" {PARENT}\t"), true),
            (PARENT.replace("-01", "-00"), false),
            (PARENT.replace("-01", "-ff"), true),
            (PARENT.replacen("00-", "cc-", 1), true),
            (PARENT.replacen("00-", "cc-", 1) + "-more", true),
        ] {
            let context = begin(&traces, &[&parent]);
            assert_eq!(context.trace, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, "{parent}");
            assert_eq!((context.parent, context.sampled), (Some(0xb7ad_6b71_6920_3331), sampled), "{parent}");
            let ours = format!("{:016x}", context.span);
            assert_eq!(
                context.traceparent(),
                format!("00-0af7651916cd43dd8448eb211c80319c-{ours}-0{}", u8::from(sampled))
            );
            assert!(context.replaces("Traceparent") && !context.replaces("tracestate"));
        }
        for bad in [
            String::new(),
            PARENT.to_uppercase(),
            format!("{PARENT}-more"),
            format!("{PARENT}0"),
            PARENT[..54].to_owned(),
            PARENT.replacen("00-", "ff-", 1),
            PARENT.replacen("00-", "0x-", 1),
            PARENT.replacen("00-", "+0-", 1),
            PARENT.replace("b7ad6b7169203331", "0000000000000000"),
            PARENT.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            PARENT.replace("-01", "é"),
            PARENT.replace("-01", "_01"),
        ] {
            let context = begin(&traces, &[&bad]);
            assert_eq!((context.parent, context.sampled), (None, false), "{bad}");
            assert!(context.replaces("tracestate"));
        }
        assert_eq!(begin(&traces, &[PARENT, PARENT]).parent, None, "one of them is not ours to choose");
        assert_eq!(Traces::default().begin([PARENT.as_bytes()]), None);
    }

    #[test]
    fn as_many_are_sampled_as_are_wanted() {
        for (percent, wanted) in [(0, 0..=0), (25, 2000..=3000), (100, 10_000..=10_000)] {
            let sampled = (0..10_000).filter(|_| Context::root(percent).sampled).count();
            assert!(wanted.contains(&sampled), "{sampled} at {percent} %");
        }
    }

    #[test]
    fn what_finds_no_room_is_dropped_and_counted() {
        let metrics = Metrics::default();
        let (traces, queue) = Traces::queue(100, &metrics);
        let chain = "claude".parse().unwrap();
        let exchange = Exchange {
            chain: &chain,
            position: None,
            why: Reason::Forced,
            answer: None,
            ended: Timestamp::UNIX_EPOCH,
            took: Duration::ZERO,
        };
        (0..WAITING + 3).for_each(|_| traces.exchanged(&exchange));
        assert!(metrics.text().contains("evergrant_traces_dropped_total 3\n"), "{}", metrics.text());
        drop(queue);
        traces.exchanged(&exchange);
        assert!(metrics.text().contains("evergrant_traces_dropped_total 4\n"));
    }
}
