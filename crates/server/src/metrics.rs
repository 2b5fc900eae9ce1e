//! What is counted and measured, for `/metrics` (SPEC §2, §8).

use std::fmt::Write as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use evergrant_core::alert::SinkState;
use evergrant_core::keeper::Report;
use evergrant_core::probe::Verdict;
use evergrant_core::{ChainName, Reason};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfChain {
    chain: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WithReason {
    chain: Label,
    reason: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSink {
    sink: Label,
    state: Label,
}

/// A chain's name or a reason: both come from closed sets, so that nobody can flood the labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Label(String);

impl EncodeLabelValue for Label {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(&self.0)
    }
}

impl From<&ChainName> for Label {
    fn from(chain: &ChainName) -> Self {
        Self(chain.as_str().to_owned())
    }
}

impl From<&str> for Label {
    fn from(word: &str) -> Self {
        Self(word.to_owned())
    }
}

impl From<Reason> for Label {
    fn from(reason: Reason) -> Self {
        Self(reason.as_str().to_owned())
    }
}

/// The metrics of this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    registry: RwLock<Registry>,
    looks: Family<WithReason, Counter>,
    renewals: Family<OfChain, Counter>,
    exchange_seconds: Family<OfChain, Histogram>,
    state_failures: Family<OfChain, Counter>,
    probes: Family<WithReason, Counter>,
    push_events: Family<WithReason, Counter>,
    push_refused: Family<OfReason, Counter>,
    sink_alerts: Family<OfSink, Gauge>,
    token_valid: Family<OfChain, Gauge>,
    expires_at: Family<OfChain, Gauge<f64, AtomicU64>>,
    renew_at: Family<OfChain, Gauge<f64, AtomicU64>>,
    lineage: Family<OfChain, Gauge>,
    generation: Family<OfChain, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        let families = Families {
            registry: RwLock::new(Registry::with_prefix("evergrant")),
            looks: Family::default(),
            renewals: Family::default(),
            exchange_seconds: Family::new_with_constructor(seconds),
            state_failures: Family::default(),
            probes: Family::default(),
            push_events: Family::default(),
            push_refused: Family::default(),
            sink_alerts: Family::default(),
            token_valid: Family::default(),
            expires_at: Family::default(),
            renew_at: Family::default(),
            lineage: Family::default(),
            generation: Family::default(),
        };
        register(&families);
        Self(Arc::new(families))
    }
}

fn register(families: &Families) {
    let mut registry = families.registry.write().unwrap_or_else(PoisonError::into_inner);
    registry.register("looks", "Looks at a chain, by what they came to", families.looks.clone());
    registry.register("renewals", "Generations committed", families.renewals.clone());
    registry.register_with_unit(
        "exchange",
        "Time from sending a refresh token to its whole answer",
        Unit::Seconds,
        families.exchange_seconds.clone(),
    );
    registry.register("state_failures", "Writes of the state that failed", families.state_failures.clone());
    registry.register("probes", "Probes of the access token, by what they found", families.probes.clone());
    registry.register("push_events", "Push events, by what they came to", families.push_events.clone());
    registry.register(
        "push_requests_refused",
        "Requests that were no push event: without a key that may push, or too many",
        families.push_refused.clone(),
    );
    registry.register(
        "sink_alerts",
        "Alerts of each sink: waiting for it, delivered to it, or dropped since it did not take them",
        families.sink_alerts.clone(),
    );
    registry.register("token_valid", "1 while the access token is valid", families.token_valid.clone());
    registry.register_with_unit(
        "access_token_expires_at",
        "When the access token ends, since the epoch",
        Unit::Seconds,
        families.expires_at.clone(),
    );
    registry.register_with_unit(
        "renew_at",
        "When the access token is renewed, since the epoch",
        Unit::Seconds,
        families.renew_at.clone(),
    );
    registry.register("lineage", "Number of the grant", families.lineage.clone());
    registry.register("generation", "Number of the pair", families.generation.clone());
}

impl Metrics {
    /// For a part that brings families of its own.
    pub fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.0.registry.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Counts a look and takes over what it found.
    pub fn looked(&self, report: &Report) {
        let chain = || OfChain { chain: (&report.chain).into() };
        let families = &self.0;
        let with_reason = WithReason { chain: (&report.chain).into(), reason: report.reason.into() };
        families.looks.get_or_create(&with_reason).inc();
        if report.refreshed {
            families.renewals.get_or_create(&chain()).inc();
        }
        families.token_valid.get_or_create(&chain()).set(report.token_valid.into());
        if let Some(at) = report.expires_at {
            families.expires_at.get_or_create(&chain()).set(at.as_millisecond() as f64 / 1e3);
        }
        if let Some(at) = report.renew_at {
            families.renew_at.get_or_create(&chain()).set(at.as_millisecond() as f64 / 1e3);
        }
        if let (Some(lineage), Some(generation)) = (report.lineage, report.generation) {
            families.lineage.get_or_create(&chain()).set(lineage.0 as i64);
            families.generation.get_or_create(&chain()).set(generation.0 as i64);
        }
    }

    /// Measures one exchange.
    pub fn exchanged(&self, chain: &ChainName, took: Duration) {
        self.0.exchange_seconds.get_or_create(&OfChain { chain: chain.into() }).observe(took.as_secs_f64());
    }

    /// Counts a write of the state that failed.
    pub fn state_unwritable(&self, chain: &ChainName) {
        self.0.state_failures.get_or_create(&OfChain { chain: chain.into() }).inc();
    }

    /// Counts a probe.
    pub fn probed(&self, chain: &ChainName, verdict: Verdict) {
        let with_reason = WithReason { chain: chain.into(), reason: verdict.reason().into() };
        self.0.probes.get_or_create(&with_reason).inc();
    }

    /// Counts a push event.
    pub fn pushed(&self, chain: &ChainName, reason: Reason) {
        self.0.push_events.get_or_create(&WithReason { chain: chain.into(), reason: reason.into() }).inc();
    }

    /// Counts a request that was no push event.
    pub fn push_refused(&self, reason: Reason) {
        self.0.push_refused.get_or_create(&OfReason { reason: reason.into() }).inc();
    }

    /// Takes over how the sinks fare.
    pub fn sinks(&self, states: &[SinkState]) {
        for state in states {
            let counts =
                [("waiting", state.waiting), ("delivered", state.delivered), ("dropped", state.dropped)];
            for (word, count) in counts {
                let of_sink = OfSink { sink: state.sink.as_str().into(), state: word.into() };
                self.0.sink_alerts.get_or_create(&of_sink).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    /// All of them in OpenMetrics text.
    pub fn text(&self) -> String {
        let registry = self.0.registry.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing into a string cannot fail");
        text
    }
}
