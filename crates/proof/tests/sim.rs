//! The simulator over fifty seeds and over those that once found something; that it repeats itself; and that it
//! finds every way in which the world may lie, which is how the keeper is broken on purpose.

use evergrant_proof::sim::fault::{Fault, Tally};
use evergrant_proof::sim::lie::Lie;
use evergrant_proof::sim::reference::Violation;
use evergrant_proof::sim::{run, run_lying, run_steps, schedule, shrink};

const DAYS: u64 = 20;
/// A lie has to be found within so many seeds.
const MOST_SEEDS: u64 = 120;

fn holds(seed: u64, days: u64, keepers: usize) -> Tally {
    let outcome = run(seed, days, keepers);
    if let Some(violation) = outcome.violation {
        let trace = outcome.trace.join("\n");
        panic!(
            "{trace}\nseed {seed} violates {violation}\nmore: cargo xtask sim --seed {seed} --days {days} --keepers {keepers}"
        );
    }
    outcome.tally
}

fn seeds_hold(seeds: std::ops::Range<u64>) {
    let mut sum = Tally::default();
    seeds.for_each(|seed| sum.add(&holds(seed, DAYS, 2)));
    for fault in Fault::ALL {
        assert!(sum.of(*fault) > 0, "no {} befell these seeds", fault.name());
    }
}

#[test]
fn seeds_0_to_24_hold() {
    seeds_hold(0..25);
}

#[test]
fn seeds_25_to_49_hold() {
    seeds_hold(25..50);
}

#[test]
fn three_keepers_hold() {
    (50..54).for_each(|seed| {
        holds(seed, DAYS, 3);
    });
}

#[test]
fn what_once_found_something_holds() {
    for line in include_str!("../src/sim/corpus.txt").lines().filter(|line| !line.starts_with('#')) {
        let numbers = line.split('#').next().unwrap_or_default();
        let numbers: Vec<u64> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let [seed, days, keepers] = numbers[..] else { panic!("{line:?} is not `seed days keepers # what`") };
        holds(seed, days, keepers as usize);
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 100..106 {
        let (one, other) = (run(seed, DAYS, 2), run(seed, DAYS, 2));
        assert_eq!(one.hash, other.hash, "seed {seed}");
        assert_eq!(one.trace, other.trace, "seed {seed}");
        hashes.insert(one.hash);
    }
    assert_eq!(hashes.len(), 6, "seeds differ");
}

/// The first seed that shows a lie; the honest world must hold there.
fn is_found(lie: Lie, as_one_of: &[&str]) -> (u64, Violation) {
    for seed in 0..MOST_SEEDS {
        if let Some(violation) = run_lying(seed, DAYS, 2, Some(lie)).violation {
            assert!(as_one_of.contains(&violation.invariant), "seed {seed}: {lie:?} is found as {violation}");
            holds(seed, DAYS, 2);
            return (seed, violation);
        }
    }
    panic!("{lie:?} is not found in {MOST_SEEDS} seeds");
}

macro_rules! lies {
    ($($name:ident: $lie:ident as $($invariant:literal)|+;)*) => {
        $(
            #[test]
            fn $name() {
                is_found(Lie::$lie, &[$($invariant),+]);
            }
        )*
    };
}

lies! {
    a_lock_that_is_ignored: LockIgnored as "I1" | "I2" | "I5";
    an_intent_that_is_not_durable: IntentNotDurable as "I2";
    a_pair_published_before_it_is_durable: PublishedBeforeSync as "I3" | "I7";
    a_receipt_that_is_skipped: ReceiptSkipped as "I5" | "I7";
    an_answer_that_is_dropped: AnswerDropped as "I7";
    a_doubt_taken_for_a_failure: DoubtAsFailed as "I5";
    a_server_error_taken_for_unspent: ServerErrorAsUnspent as "I5";
    an_answer_of_an_older_lineage_committed: StaleLineageCommitted as "I4";
    adoption_before_receipts: AdoptionBeforeReceipts as "I9";
    a_replaced_pair_adopted: ReplacedForgotten as "I9";
    a_receipt_that_two_attempts_share: SharedReceipt as "I7" | "I4" | "I5" | "L3";
    a_second_presentation_while_the_first_is_read: SecondWhileReading as "I5";
    an_edit_under_a_plain_rename: PlainRename as "I4";
    a_removed_file_made_again: RemovedMadeAgain as "I4";
    an_older_snapshot_taken: OlderSnapshot as "I3";
}

#[test]
fn what_is_found_is_shrunk() {
    let lie = Lie::RemovedMadeAgain;
    let (seed, found) = is_found(lie, &["I4"]);
    let (setting, steps) = schedule::draw(seed, DAYS, 2);
    let shrunk = shrink::shrink(setting, &steps, Some(lie));
    assert!(shrunk.len() <= 4 && shrunk.len() < steps.len(), "{} of {} steps", shrunk.len(), steps.len());
    let again = run_steps(setting, &shrunk, Some(lie)).violation.map(|violation| violation.invariant);
    assert_eq!(again, Some(found.invariant));
}
