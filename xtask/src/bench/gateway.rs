//! `cargo xtask bench gateway`: requests of 2 KB with answers of 1 KB, as fast as they come and at fixed rates.

use anyhow::{Context as _, Result, ensure};

use super::peer::{Peer, Site};
use super::rig::Rig;
use super::rounds::{OF_REQUESTS, Options, Scenario, alternate, words};
use super::{Figure, median};

const BENCH: &str = "gateway";
/// The highest rate first; what load and upstream cannot do without a proxy is not asked with one.
const RATES: [u64; 6] = [25_000, 22_500, 20_000, 17_500, 15_000, 12_500];
/// Beyond that the queue grows.
const SUSTAINED_P50_US: f64 = 2_000.0;
/// Microseconds that the gateway may add to the median beyond what nginx adds.
const ADDED_US: f64 = 20.0;
const WRONG_PER_SECOND: u64 = 5_000;

/// Measures and reports.
pub(super) fn run(options: &Options) -> Result<()> {
    let (rig, sites) = options.set_up(false)?;
    let mut figures = Vec::new();
    let seconds = options.seconds();
    let scenario = |title: String, load: String, for_slow| Scenario {
        title,
        path: "/v1/messages",
        load: words(&load),
        counted: ("requests", "request"),
        columns: &OF_REQUESTS,
        for_slow,
    };
    for connections in [1, 8, 64] {
        let load = format!("requests --connections {connections} --seconds {seconds}");
        let title = format!("closed loop, {connections} connections");
        let outcome = alternate(options, &rig, &sites, &scenario(title, load, true))?;
        if connections == 64 {
            figures.extend(outcome.cpu_figures(BENCH, "64_connections", 0.80));
        }
    }
    let top = top_rate(options, &rig)?;
    for rate in [2_000, 10_000, top] {
        let load = format!("requests --connections 64 --seconds {seconds} --rate {rate}");
        let title = format!("{rate} requests a second");
        let outcome = alternate(options, &rig, &sites, &scenario(title, load, false))?;
        figures.extend(outcome.cpu_figures(BENCH, &format!("{rate}_per_second"), 1.0));
        if rate == 2_000 {
            // What each adds to the direct way is in the same round, so the direct way cancels out.
            let added = outcome.difference(Peer::Evergrant, Peer::Nginx, 1);
            figures.extend(added.map(|value| Figure {
                bench: BENCH,
                figure: "added_median_latency_vs_nginx_2000_per_second".into(),
                value,
                unit: "us",
                at_most: Some(ADDED_US),
            }));
        }
    }
    let load = format!("requests --connections 64 --seconds {seconds} --chunked");
    let title = "closed loop, 64 connections, chunked both ways".to_owned();
    let outcome = alternate(options, &rig, &sites, &scenario(title, load, false))?;
    figures.extend(outcome.cpu_figures(BENCH, "64_connections_chunked", 1.0));
    figures.extend(wrong_keys(options, &rig, &sites)?);
    options.close(&sites, &figures)
}

/// What requests with unknown keys cost those with a known one: the ratio of the medians within a round.
fn wrong_keys(options: &Options, rig: &Rig, sites: &[Site]) -> Result<Option<Figure>> {
    let Some(evergrant) = sites.iter().find(|site| site.peer == Peer::Evergrant) else { return Ok(None) };
    let asked = format!("requests --connections 8 --seconds {} --rate 500", options.seconds());
    let mut rows =
        vec![["round", "p50 µs", "with wrong keys", "p99 µs", "with wrong keys"].map(str::to_owned).into()];
    let mut ratios = Vec::new();
    for round in 1..=options.rounds() {
        let measure = |more: &str| {
            let load = words(&format!("{asked}{more}"));
            let load: Vec<&str> = load.iter().map(String::as_str).collect();
            rig.load(evergrant, "/v1/messages", &load)
        };
        let (alone, beside) = (measure("")?, measure(&format!(" --wrong {WRONG_PER_SECOND}"))?);
        let refused = beside.number("wrong")? / options.time().as_secs_f64();
        ensure!(
            refused >= 0.9 * WRONG_PER_SECOND as f64,
            "{refused:.0} wrong keys a second were answered of {WRONG_PER_SECOND}: they were not beside anything"
        );
        let of = |name: &str| Ok::<_, anyhow::Error>((alone.number(name)?, beside.number(name)?));
        let (medians, p99) = (of("p50_us")?, of("p99_us")?);
        ratios.push(medians.1 / medians.0);
        let cells = [medians.0, medians.1, p99.0, p99.1].map(|us| format!("{us:.0}"));
        rows.push([vec![round.to_string()], cells.into()].concat());
    }
    options.table(&format!("500 requests a second beside {WRONG_PER_SECOND} with unknown keys"), &rows)?;
    Ok(median(&ratios).map(|value| Figure {
        bench: BENCH,
        figure: "median_latency_beside_wrong_keys".into(),
        value,
        unit: "x",
        at_most: Some(2.0),
    }))
}

/// The highest rate that load and upstream sustain on their core without a proxy.
fn top_rate(options: &Options, rig: &Rig) -> Result<u64> {
    let direct = Peer::Direct.start(rig)?;
    for rate in RATES {
        if sustains(rig, &direct, rate)? {
            options.line(&format!(
                "\nhighest rate that load and upstream sustain by themselves: {rate} a second"
            ))?;
            return Ok(rate);
        }
    }
    RATES.last().copied().context("no rate is known")
}

fn sustains(rig: &Rig, direct: &Site, rate: u64) -> Result<bool> {
    let load = words(&format!("requests --connections 64 --seconds 1 --rate {rate}"));
    let load: Vec<&str> = load.iter().map(String::as_str).collect();
    let measured = rig.load(direct, "/v1/messages", &load)?;
    Ok(measured.number("unsent")? < 1.0 && measured.number("p50_us")? < SUSTAINED_P50_US)
}
