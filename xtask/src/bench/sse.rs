//! `cargo xtask bench sse`: what an event of a stream costs and how long it is under way, and the memory of a stream
//! that is open and silent.

use anyhow::Result;

use super::peer::{Peer, Site};
use super::rig::Rig;
use super::rounds::{Options, Scenario, alternate, median_of, words};
use super::{Figure, table};

const BENCH: &str = "sse";
const STREAMS: u64 = 64;
/// 32,000 events a second over all: near what load and upstream can do on their core, where nobody is overrun.
const GAP_US: u64 = 2_000;
const COLUMNS: [(&str, &str); 4] = [
    ("events/s", "events_per_second"),
    ("first p50 µs", "first_p50_us"),
    ("delay p50 µs", "delay_p50_us"),
    ("delay p99 µs", "delay_p99_us"),
];
const IDLE_STREAMS: &str = "2000";
/// Of nginx's memory.
const IDLE_PART: f64 = 0.33;

/// Measures and reports.
pub(super) fn run(options: &Options) -> Result<()> {
    let (rig, sites) = options.set_up(true)?;
    let events = options.time().as_micros() / u128::from(GAP_US);
    let scenario = Scenario {
        title: format!("{STREAMS} streams, an event each {} ms", GAP_US / 1000),
        path: "/v1/messages",
        load: words(&format!("sse --streams {STREAMS} --events {events} --gap-us {GAP_US}")),
        counted: ("events", "event"),
        columns: &COLUMNS,
        for_slow: false,
    };
    let outcome = alternate(options, &rig, &sites, &scenario)?;
    let mut figures: Vec<Figure> = outcome.cpu_figures(BENCH, "sse_event", 1.0).collect();
    sites.iter().try_for_each(Site::check_log)?;
    // Each begins anew: what the events left in memory would hide what idle streams take.
    let peers: Vec<Peer> = sites.iter().map(|site| site.peer).collect();
    drop(sites);
    figures.extend(idle(options, &rig, &peers)?);
    options.close(&[], &figures)
}

fn idle(options: &Options, rig: &Rig, peers: &[Peer]) -> Result<Option<Figure>> {
    let rounds = options.rounds().min(3);
    let proxies = [Peer::Nginx, Peer::Haproxy, Peer::Evergrant];
    let mut grown = vec![];
    for peer in proxies.into_iter().filter(|peer| peers.contains(peer)) {
        let mut kilobytes = vec![];
        for _ in 0..rounds {
            let site = peer.start(rig)?;
            rig.load(&site, "/v1/messages", &["requests", "--connections", "8", "--each", "50"])?;
            let held = rig.load(&site, "/v1/messages", &["hold", "--streams", IDLE_STREAMS])?;
            let bytes = held.ready_bytes.saturating_sub(held.before_bytes);
            kilobytes.push(bytes as f64 / 1024.0 / held.number("streams")?);
        }
        grown.push((peer, median_of(&kilobytes)?));
    }
    let of = |peer: Peer| grown.iter().find(|(its, _)| *its == peer).map(|(_, grown)| *grown);
    let part = |grown: f64| of(Peer::Nginx).map(|nginx| grown / nginx);
    let titles = ["peer", "KB/stream", "x nginx"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(grown.iter().map(|(peer, grown)| {
        vec![peer.name().to_owned(), table::shown(Some(*grown)), table::shown(part(*grown))]
    }));
    options.table(&format!("{IDLE_STREAMS} streams held open in silence: memory that grew"), &rows)?;
    let value = of(Peer::Evergrant).and_then(part);
    let figure = "memory_of_idle_stream_vs_nginx";
    Ok(value.map(|value| Figure {
        bench: BENCH,
        figure: figure.into(),
        value,
        unit: "x",
        at_most: Some(IDLE_PART),
    }))
}
