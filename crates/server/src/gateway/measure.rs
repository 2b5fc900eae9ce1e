//! What the gateway counts and measures (SPEC §7).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::gateway::Source;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use crate::metrics::{Label, Metrics};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRequest {
    chain: Label,
    route: Label,
    status: Label,
    source: Label,
    caller: Label,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfChain {
    chain: Label,
}

/// The families of the gateway. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Measures(Arc<Families>);

#[derive(Debug)]
struct Families {
    requests: Family<OfRequest, Counter>,
    overhead: Histogram,
    first_byte: Histogram,
    in_flight: Gauge,
    connections: Gauge,
    forced: Family<OfChain, Counter>,
    fallbacks: Family<OfChain, Counter>,
    replays: Family<OfChain, Counter>,
    log_dropped: Counter,
}

impl Measures {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let fine = [10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 5e-3, 25e-3, 0.1];
        let coarse = [0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
        let families = Families {
            requests: Family::default(),
            overhead: Histogram::new(fine),
            first_byte: Histogram::new(coarse),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            forced: Family::default(),
            fallbacks: Family::default(),
            replays: Family::default(),
            log_dropped: Counter::default(),
        };
        metrics.register(|registry| {
            let f = &families;
            let mut counter = |name: &str, help: &str, family: &Family<OfChain, Counter>| {
                registry.register(name, help, family.clone());
            };
            counter(
                "gateway_forced_renewals",
                "Requests that asked for a renewal, since their access token was refused",
                &f.forced,
            );
            counter("gateway_fallbacks", "Requests that the fallback key served", &f.fallbacks);
            counter("gateway_replays", "Requests that were sent again after a refused token", &f.replays);
            registry.register("gateway_requests", "Requests of the gateway", f.requests.clone());
            let seconds = || Unit::Seconds;
            registry.register_with_unit(
                "gateway_overhead",
                "What the gateway itself takes of a request's time",
                seconds(),
                f.overhead.clone(),
            );
            registry.register_with_unit(
                "gateway_first_byte",
                "From the end of a request's head to the first byte of its answer",
                seconds(),
                f.first_byte.clone(),
            );
            registry.register("gateway_in_flight", "Requests in hand", f.in_flight.clone());
            registry.register("gateway_connections", "Open connections of clients", f.connections.clone());
            registry.register(
                "gateway_access_log_dropped",
                "Batches of the access log that the disk was too slow for",
                f.log_dropped.clone(),
            );
        });
        Self(Arc::new(families))
    }

    pub(super) fn connections(&self) -> &Gauge {
        &self.0.connections
    }

    pub(super) fn in_flight(&self) -> &Gauge {
        &self.0.in_flight
    }

    pub(super) fn log_dropped(&self) {
        self.0.log_dropped.inc();
    }

    pub(super) fn forced(&self, chain: &str) {
        self.0.forced.get_or_create(&OfChain { chain: chain.into() }).inc();
    }

    pub(super) fn fell_back(&self, chain: &str) {
        self.0.fallbacks.get_or_create(&OfChain { chain: chain.into() }).inc();
    }

    pub(super) fn replayed(&self, chain: &str) {
        self.0.replays.get_or_create(&OfChain { chain: chain.into() }).inc();
    }

    pub(super) fn request(&self, overhead: Duration, first_byte: Option<Duration>) {
        self.0.overhead.observe(overhead.as_secs_f64());
        if let Some(first_byte) = first_byte {
            self.0.first_byte.observe(first_byte.as_secs_f64());
        }
    }
}

/// One thread's way to the counters of requests: labels are put together once.
#[derive(Debug)]
pub(super) struct Requests {
    measures: Measures,
    known: RefCell<Known>,
}

#[derive(Debug, Default)]
struct Known {
    key: String,
    counters: HashMap<String, Counter>,
}

/// More entries than this say that callers came and went.
const MOST: usize = 100_000;

impl Requests {
    pub(super) fn new(measures: Measures) -> Self {
        Self { measures, known: RefCell::default() }
    }

    pub(super) fn count(&self, chain: &str, route: &str, caller: &str, status: u16, source: Source) {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let class = CLASSES[usize::from((status / 100).clamp(1, 5)) - 1];
        let mut known = self.known.borrow_mut();
        let Known { key, counters } = &mut *known;
        key.clear();
        for word in [chain, route, caller, class, source.as_str()] {
            key.push_str(word);
            key.push('\n');
        }
        if let Some(counter) = counters.get(key.as_str()) {
            counter.inc();
            return;
        }
        let labels = OfRequest {
            chain: chain.into(),
            route: route.into(),
            status: class.into(),
            source: source.as_str().into(),
            caller: caller.into(),
        };
        let counter = self.measures.0.requests.get_or_create(&labels).clone();
        counter.inc();
        if counters.len() >= MOST {
            counters.clear();
        }
        counters.insert(key.clone(), counter);
    }
}
