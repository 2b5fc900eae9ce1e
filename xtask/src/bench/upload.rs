//! `cargo xtask bench upload`: bodies of 256 KB, and the memory that one of 200 MB takes.

use anyhow::Result;

use super::peer::{Peer, Site};
use super::rig::Rig;
use super::rounds::{OF_REQUESTS, Options, Scenario, alternate, median_of, words};
use super::{Figure, table};

const BENCH: &str = "upload";
const LARGE: &str = "200000000";
/// Megabytes that one large body may add: what is on its way, never the body.
const ADDED_MB: f64 = 4.0;

/// Measures and reports.
pub(super) fn run(options: &Options) -> Result<()> {
    let (rig, sites) = options.set_up(false)?;
    let scenario = Scenario {
        title: "256 KB uploads, 8 connections".to_owned(),
        path: "/v1/messages",
        load: words(&format!("requests --connections 8 --seconds {} --body 262144", options.seconds())),
        counted: ("requests", "request"),
        columns: &OF_REQUESTS,
        for_slow: true,
    };
    let outcome = alternate(options, &rig, &sites, &scenario)?;
    let mut figures: Vec<Figure> = outcome.cpu_figures(BENCH, "256_kb_uploads", 1.0).collect();
    figures.extend(one_large(options, &rig, &sites)?);
    options.close(&sites, &figures)
}

fn one_large(options: &Options, rig: &Rig, sites: &[Site]) -> Result<Option<Figure>> {
    let titles = ["peer", "seconds", "CPU ms", "resident MB before", "at most", "added MB"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let mut figure = None;
    for site in sites.iter().filter(|site| !matches!(site.peer, Peer::Litellm | Peer::Portkey)) {
        let (mut seconds, mut cpu, mut before, mut peak, mut added) =
            (vec![], vec![], vec![], vec![], vec![]);
        for _ in 0..options.rounds() {
            // Where the API takes large bodies.
            let load = ["requests", "--connections", "1", "--each", "1", "--body", LARGE];
            let measured = rig.load(site, "/v1/files", &load)?;
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            seconds.push(measured.number("seconds")?);
            cpu.push(measured.cpu_ns as f64 / 1e6);
            before.push(megabytes(measured.before_bytes));
            peak.push(megabytes(measured.peak_bytes));
            added.push(megabytes(measured.peak_bytes.saturating_sub(measured.before_bytes)));
        }
        let mut row = vec![site.peer.name().to_owned(), table::shown(Some(median_of(&seconds)?))];
        for values in [&cpu, &before, &peak, &added] {
            row.push(table::shown(site.id().map(|_| median_of(values)).transpose()?));
        }
        rows.push(row);
        if site.peer == Peer::Evergrant {
            // The first one counts: later ones find the memory of the first.
            let value = added.iter().copied().fold(0.0, f64::max);
            let name = "memory_added_by_200_mb_upload".to_owned();
            figure = Some(Figure { bench: BENCH, figure: name, value, unit: "MB", at_most: Some(ADDED_MB) });
        }
    }
    options.table("one body of 200 MB", &rows)?;
    Ok(figure)
}
