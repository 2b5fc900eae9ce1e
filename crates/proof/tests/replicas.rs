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

fn is_found(lie: Lie, most_seeds: u64) {
    let found = (0..most_seeds).find_map(|seed| run_lying(seed, DAYS, 3, Some(lie)).violation);
    assert!(found.is_some(), "{lie:?} was not found within {most_seeds} seeds");
}

/// Hardly ever does one do harm.
#[test]
#[ignore = "takes minutes: cargo test --profile sim -p evergrant-proof --test replicas -- --ignored"]
fn pauses_beyond_the_bound() {
    is_found(Lie::PausesUnbounded, 2500);
}

macro_rules! lies {
    ($($test:ident: $lie:ident,)+) => {
        $(#[test] fn $test() { is_found(Lie::$lie, MOST_SEEDS); })+

        #[test]
        fn every_lie_has_a_test() {
            assert_eq!([$(Lie::$lie),+, Lie::PausesUnbounded].len(), Lie::ALL.len());
        }
    };
}

lies! {
    leases_that_are_ignored: LeaseIgnored,
    logins_that_end_a_lease: LoginEndsLease,
    intents_that_are_not_written: IntentNotWritten,
    commits_wherever_the_row_stands: CommitAnywhere,
    late_answers_that_are_fenced: LateAnswerFenced,
    machines_that_share_a_name: OneName,
    marks_that_are_forgotten: NoMarks,
    tokens_that_are_sent_at_once_after_a_restore: NobodyHeld,
    doubts_told_as_failures: DoubtAsFailed,
    receipts_that_are_forgotten: ReceiptsForgotten,
    answers_that_are_dropped: AnswerDropped,
}
