//! Alternation: in each round every peer does the same scenario, so that what the machine does meanwhile meets all of
//! them. Ratios and differences are taken within a round, and the median of the rounds is the figure.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::peer::{Peer, Site};
use super::rig::Rig;
use super::{Figure, median, report, table};
use crate::run::{print, say};

/// Options of the gateway's benchmarks.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One JSON object a figure; tables go to standard error.
    #[arg(long)]
    json: bool,
    /// Two rounds of a second instead of five of three: to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Besides, where they can keep up: the gateways of `LiteLLM` and Portkey, as they are pinned in benches/peers.
    #[arg(long)]
    peers: bool,
    /// Only these.
    #[arg(long, value_name = "PEERS", value_delimiter = ',')]
    only: Vec<Peer>,
}

/// A little may be under way when the time is over.
const LAGGING: f64 = 0.01;
const USUAL: [Peer; 4] = [Peer::Direct, Peer::Nginx, Peer::Haproxy, Peer::Evergrant];
const SLOW: [Peer; 2] = [Peer::Litellm, Peer::Portkey];

impl Options {
    pub(super) fn rounds(&self) -> usize {
        if self.quick { 2 } else { 5 }
    }

    pub(super) fn time(&self) -> Duration {
        Duration::from_secs(if self.quick { 1 } else { 3 })
    }

    /// The time as the load generator takes it.
    pub(super) fn seconds(&self) -> String {
        self.time().as_secs().to_string()
    }

    /// Who is measured, in the order of the tables.
    pub(super) fn peers(&self) -> Vec<Peer> {
        if !self.only.is_empty() {
            return self.only.clone();
        }
        USUAL.into_iter().chain(self.peers.then_some(SLOW).into_iter().flatten()).collect()
    }

    /// Brings up what is needed, and starts every peer; for streams of events or for requests.
    pub(super) fn set_up(&self, streams: bool) -> Result<(Rig, Vec<Site>)> {
        let mut rig = Rig::new(streams)?;
        let mut peers = self.peers();
        if streams {
            // They are far from the rate of events that is measured.
            peers.retain(|peer| !SLOW.contains(peer));
        }
        for peer in &peers {
            peer.provide(&mut rig)?;
        }
        let sites = peers.iter().map(|peer| peer.start(&rig)).collect::<Result<_>>()?;
        Ok((rig, sites))
    }

    /// One line of the tables.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        if self.json {
            say(format_args!("{text}"));
            Ok(())
        } else {
            print(format_args!("{text}"))
        }
    }

    pub(super) fn table(&self, title: &str, rows: &[Vec<String>]) -> Result<()> {
        self.line(&format!("\n{title}"))?;
        table::lines(rows).iter().try_for_each(|line| self.line(line))
    }

    /// Says what the figures are, and that there are none where Evergrant or who it is compared with is missing.
    pub(super) fn close(&self, sites: &[Site], figures: &[Figure]) -> Result<()> {
        sites.iter().try_for_each(Site::check_log)?;
        self.line("\nKernel work for the network is charged to whoever runs when it happens.\n")?;
        if figures.is_empty() {
            return self.line("No figures: they compare evergrant with haproxy, nginx and direct.");
        }
        report(figures, self.json)
    }
}

/// One kind of load.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) title: String,
    pub(super) path: &'static str,
    /// What the load generator is told.
    pub(super) load: Vec<String>,
    /// Of what the CPU time is shown: the load generator's member and its singular.
    pub(super) counted: (&'static str, &'static str),
    /// Title of a column and the load generator's member for it; the first is the rate.
    pub(super) columns: &'static [(&'static str, &'static str)],
    /// Also for gateways that are many times slower.
    pub(super) for_slow: bool,
}

/// The columns of requests.
pub(super) const OF_REQUESTS: [(&str, &str); 3] =
    [("req/s", "rps"), ("p50 µs", "p50_us"), ("p99 µs", "p99_us")];

/// What one peer gave in one round.
#[derive(Debug, Clone)]
struct Sample {
    /// CPU time of the proxy a request or event, in microseconds.
    cpu_us: Option<f64>,
    columns: Vec<f64>,
    /// The part of what was due that was never sent.
    unsent: f64,
}

/// What one peer gave in all rounds.
#[derive(Debug)]
struct Series {
    peer: Peer,
    samples: Vec<Sample>,
}

/// What all of them gave.
#[derive(Debug)]
pub(super) struct Outcome {
    series: Vec<Series>,
}

/// Does a scenario in rounds and shows its table.
pub(super) fn alternate(
    options: &Options,
    rig: &Rig,
    sites: &[Site],
    scenario: &Scenario,
) -> Result<Outcome> {
    let sites: Vec<&Site> =
        sites.iter().filter(|site| scenario.for_slow || !SLOW.contains(&site.peer)).collect();
    let mut series: Vec<Series> =
        sites.iter().map(|site| Series { peer: site.peer, samples: Vec::new() }).collect();
    let rounds = options.rounds();
    for round in 0..rounds {
        say(format_args!("{}: round {} of {rounds}", scenario.title, round + 1));
        // Each round begins with another one.
        for step in 0..sites.len() {
            let at = (round + step) % sites.len();
            if let (Some(site), Some(series)) = (sites.get(at), series.get_mut(at)) {
                series.samples.push(sample(rig, site, scenario)?);
            }
        }
    }
    let outcome = Outcome { series };
    options.table(&scenario.title, &outcome.rows(scenario))?;
    if outcome.series.iter().any(|series| series.lagged()) {
        options.line("* did not keep up: requests that were due were never sent")?;
    }
    Ok(outcome)
}

fn sample(rig: &Rig, site: &Site, scenario: &Scenario) -> Result<Sample> {
    let what: Vec<&str> = scenario.load.iter().map(String::as_str).collect();
    let measured = rig.load(site, scenario.path, &what)?;
    let count = measured.number(scenario.counted.0)?;
    ensure!(count > 0.0, "{}: nothing was answered in the time", site.peer.name());
    let columns =
        scenario.columns.iter().map(|(_, member)| measured.number(member)).collect::<Result<_>>()?;
    let cpu_us = site.id().map(|_| measured.cpu_ns as f64 / 1000.0 / count);
    let unsent = measured.number("unsent").unwrap_or(0.0);
    let unsent = unsent / (unsent + count);
    Ok(Sample { cpu_us, columns, unsent })
}

impl Series {
    fn median(&self, value: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let values: Option<Vec<f64>> = self.samples.iter().map(value).collect();
        median(&values?)
    }

    fn lagged(&self) -> bool {
        self.samples.iter().any(|sample| sample.unsent > LAGGING)
    }
}

impl Outcome {
    fn of(&self, peer: Peer) -> Option<&Series> {
        self.series.iter().find(|series| series.peer == peer)
    }

    /// Median over the rounds of what `compare` makes of both values of a round.
    fn paired(
        &self,
        (one, other): (Peer, Peer),
        value: impl Fn(&Sample) -> Option<f64>,
        compare: impl Fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let pairs = self.of(one)?.samples.iter().zip(&self.of(other)?.samples);
        let compared: Option<Vec<f64>> =
            pairs.map(|(one, other)| Some(compare(value(one)?, value(other)?))).collect();
        median(&compared?)
    }

    /// CPU time as a multiple of the other's.
    pub(super) fn cpu_ratio(&self, peer: Peer, other: Peer) -> Option<f64> {
        self.paired((peer, other), |sample| sample.cpu_us, |one, other| one / other)
    }

    /// A column less the other's.
    pub(super) fn difference(&self, peer: Peer, other: Peer, column: usize) -> Option<f64> {
        self.paired((peer, other), |sample| sample.columns.get(column).copied(), |one, other| one - other)
    }

    fn rows(&self, scenario: &Scenario) -> Vec<Vec<String>> {
        let mut columns = scenario.columns.iter().map(|(title, _)| (*title).to_owned());
        let cpu = format!("CPU µs/{}", scenario.counted.1);
        let mut rows = vec![vec!["peer".to_owned()]];
        if let Some(head) = rows.first_mut() {
            head.extend(columns.next());
            head.extend([cpu, "x HAProxy".to_owned()]);
            head.extend(columns);
        }
        for series in &self.series {
            let column = |at: usize| series.median(|sample| sample.columns.get(at).copied());
            let mark = if series.lagged() { "*" } else { "" };
            let mut row = vec![
                series.peer.name().to_owned(),
                format!("{mark}{}", table::shown(column(0))),
                table::shown(series.median(|sample| sample.cpu_us)),
                table::shown(self.cpu_ratio(series.peer, Peer::Haproxy)),
            ];
            row.extend((1..scenario.columns.len()).map(|at| table::shown(column(at))));
            rows.push(row);
        }
        rows
    }

    /// The figure of CPU time beside `HAProxy`; none where one of both is missing. Of others than Evergrant nothing is
    /// claimed, nor where one of both did not keep up.
    pub(super) fn cpu_figures(
        &self,
        bench: &'static str,
        what: &str,
        at_most: f64,
    ) -> impl Iterator<Item = Figure> {
        let of = |peer: Peer| {
            let value = self.cpu_ratio(peer, Peer::Haproxy)?;
            let own = peer == Peer::Evergrant;
            let lagged =
                [peer, Peer::Haproxy].into_iter().filter_map(|peer| self.of(peer)).any(Series::lagged);
            let figure = if own {
                format!("cpu_vs_haproxy_{what}")
            } else {
                format!("{}_cpu_vs_haproxy_{what}", peer.name())
            };
            Some(Figure { bench, figure, value, unit: "x", at_most: (own && !lagged).then_some(at_most) })
        };
        let peers = [Peer::Evergrant, Peer::Litellm, Peer::Portkey];
        peers.into_iter().filter_map(of).collect::<Vec<_>>().into_iter()
    }
}

/// The words of a command line.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A figure that is one of several measurements.
pub(super) fn median_of(values: &[f64]) -> Result<f64> {
    median(values).context("nothing was measured")
}

#[cfg(test)]
mod tests {
    use super::{OF_REQUESTS, Outcome, Sample, Scenario, Series};
    use crate::bench::peer::Peer;

    fn series(peer: Peer, values: &[(f64, f64)]) -> Series {
        let sample = |&(cpu, p50): &(f64, f64)| Sample {
            cpu_us: (peer != Peer::Direct).then_some(cpu),
            columns: vec![1000.0, p50, 90.0],
            unsent: 0.0,
        };
        Series { peer, samples: values.iter().map(sample).collect() }
    }

    fn outcome() -> Outcome {
        Outcome {
            series: vec![
                series(Peer::Direct, &[(0.0, 10.0), (0.0, 10.0), (0.0, 10.0)]),
                series(Peer::Haproxy, &[(10.0, 40.0), (20.0, 80.0), (10.0, 40.0)]),
                // Twice as dear in the first round, half in the others: the medians alone would say 1.0.
                series(Peer::Evergrant, &[(20.0, 50.0), (10.0, 85.0), (5.0, 41.0)]),
            ],
        }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        assert_eq!(outcome().cpu_ratio(Peer::Evergrant, Peer::Haproxy), Some(0.5));
        assert_eq!(outcome().cpu_ratio(Peer::Haproxy, Peer::Haproxy), Some(1.0));
        assert_eq!(outcome().cpu_ratio(Peer::Direct, Peer::Haproxy), None);
        assert_eq!(outcome().cpu_ratio(Peer::Evergrant, Peer::Nginx), None);
        assert_eq!(outcome().difference(Peer::Evergrant, Peer::Haproxy, 1), Some(5.0));
    }

    #[test]
    fn only_evergrant_has_targets() {
        let figures: Vec<_> = outcome().cpu_figures("gateway", "at_64", 0.8).collect();
        let shown: Vec<_> = figures.iter().map(|figure| (figure.figure.as_str(), figure.holds())).collect();
        assert_eq!(shown, [("cpu_vs_haproxy_at_64", Some(true))]);
    }

    #[test]
    fn the_table_has_a_row_a_peer() {
        let scenario = Scenario {
            title: "t".into(),
            path: "/",
            load: vec![],
            counted: ("requests", "request"),
            columns: &OF_REQUESTS,
            for_slow: true,
        };
        let rows = outcome().rows(&scenario);
        assert_eq!(rows[0], ["peer", "req/s", "CPU µs/request", "x HAProxy", "p50 µs", "p99 µs"]);
        assert_eq!(rows[1], ["direct", "1000", "-", "-", "10.00", "90.00"]);
        assert_eq!(rows[3], ["evergrant", "1000", "10.00", "0.50", "50.00", "90.00"]);
    }
}
