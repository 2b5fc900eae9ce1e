//! Monitors and alerters over a dozen seeds, and every lie of the state found.

use evergrant_proof::alerts::{self, Lie, Outcome};

const DAYS: u64 = 3;

fn holds(seed: u64, processes: usize) -> Outcome {
    let outcome = alerts::run(seed, DAYS, processes, None);
    if let Some(violation) = &outcome.violation {
        panic!("seed {seed} with {processes} processes: {violation}");
    }
    outcome
}

#[test]
fn one_process_and_three_hold() {
    let (mut kills, mut again, mut alerts) = (0, 0, 0);
    for seed in 0..12 {
        let outcome = holds(seed, if seed % 3 == 0 { 1 } else { 3 });
        kills += outcome.kills;
        again += outcome.again;
        alerts += outcome.alerts;
    }
    assert!(kills > 100 && alerts > 100, "{kills} kills, {alerts} alerts");
    // Some kills did fall between a sink's answer and its record.
    assert!(again > 0);
}

/// Each by what it breaks, on a seed on which the honest world holds.
#[test]
fn every_lie_is_found() {
    for (lie, breaks) in [(Lie::NoAlerts, "the sink"), (Lie::NoReceipt, "alerts came once more")] {
        let run = |seed| Some((seed, alerts::run(seed, DAYS, 3, Some(lie)).violation?));
        let (seed, violation) = (0..20).find_map(run).unwrap_or_else(|| panic!("{lie:?} was not found"));
        assert!(violation.contains(breaks), "seed {seed}: {lie:?} is found as {violation}");
        holds(seed, 3);
    }
}
