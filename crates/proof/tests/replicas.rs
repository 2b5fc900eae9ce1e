//! The simulator of replicas over a few seeds; and that it finds every way in which their world may lie.

use evergrant_proof::replicas::{FAULTS, Lie, Tally, run, run_lying};

const DAYS: u64 = 15;
/// A lie has to be found within so many seeds.
const MOST_SEEDS: u64 = 150;

fn holds(seed: u64) -> Tally {
    let outcome = run(seed, DAYS, 3);
    if let Some(violation) = outcome.violation {
        let trace = outcome.trace.join("\n");
        panic!(
            "{trace}\nseed {seed} violates {violation}\nmore: cargo xtask sim-replicas --seed {seed} --days {DAYS}"
        );
    }
    outcome.tally
}

#[test]
fn seeds_hold() {
    let mut sum = Tally::new();
    for seed in 0..12 {
        for (fault, times) in holds(seed) {
            *sum.entry(fault).or_default() += times;
        }
    }
    for fault in FAULTS {
        assert!(sum[fault] > 0, "no {fault} befell these seeds");
    }
}

/// The first seed that shows a lie; the honest world must hold there.
fn is_found(lie: Lie, most_seeds: u64, as_one_of: &[&str]) {
    let found = (0..most_seeds).find_map(|seed| Some((seed, run_lying(seed, DAYS, 3, Some(lie)).violation?)));
    let Some((seed, violation)) = found else { panic!("{lie:?} was not found within {most_seeds} seeds") };
    assert!(as_one_of.contains(&violation.invariant), "seed {seed}: {lie:?} is found as {violation}");
    holds(seed);
}

/// Hardly ever does one do harm.
#[test]
#[ignore = "takes minutes: cargo test --profile sim -p evergrant-proof --test replicas -- --ignored"]
fn pauses_beyond_the_bound() {
    is_found(Lie::PausesUnbounded, 2500, &["I1", "I5"]);
}

macro_rules! lies {
    ($($test:ident: $lie:ident as $($invariant:literal)|+;)+) => {
        $(#[test] fn $test() { is_found(Lie::$lie, MOST_SEEDS, &[$($invariant),+]); })+

        #[test]
        fn every_lie_has_a_test() {
            assert_eq!([$(Lie::$lie),+, Lie::PausesUnbounded].len(), Lie::ALL.len());
        }
    };
}

lies! {
    leases_that_are_ignored: LeaseIgnored as "I1" | "I2";
    logins_that_end_a_lease: LoginEndsLease as "I1";
    intents_that_are_not_written: IntentNotWritten as "I2";
    commits_wherever_the_row_stands: CommitAnywhere as "I4";
    late_answers_that_are_fenced: LateAnswerFenced as "I3";
    machines_that_share_a_name: OneName as "I5";
    marks_that_are_forgotten: NoMarks as "I5";
    tokens_that_are_sent_at_once_after_a_restore: NobodyHeld as "I5";
    doubts_told_as_failures: DoubtAsFailed as "I5";
    receipts_that_are_forgotten: ReceiptsForgotten as "I5";
    answers_that_are_dropped: AnswerDropped as "I7";
}
