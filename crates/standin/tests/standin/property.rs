//! What holds whatever the order of calls and faults.

use evergrant_standin::{Fault, FaultTarget, Rotation, Settings};
use proptest::prelude::*;

use crate::client::Bench;

#[derive(Debug, Clone)]
enum Step {
    Exchange,
    Fault(usize),
    Pass(i64),
    Bogus,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Exchange),
        2 => (0..Fault::presets().len()).prop_map(Step::Fault),
        1 => (0..100_000_i64).prop_map(Step::Pass),
        1 => Just(Step::Bogus),
    ]
}

fn rotation() -> impl Strategy<Value = Rotation> {
    prop_oneof![
        Just(Rotation::Always),
        Just(Rotation::NeverOmitted),
        Just(Rotation::NeverRepeated),
        (0..4_u32).prop_map(|exchanges| Rotation::After { exchanges }),
    ]
}

proptest! {
    /// Under `strict`, presenting only ever the newest refresh token never revokes, whatever is lost on the way.
    #[test]
    fn the_newest_token_never_revokes(steps in prop::collection::vec(step(), 1..60), rotation in rotation()) {
        let mut bench = Bench::new(Settings { rotation, ..Settings::default() });
        let login = bench.login();
        let first = login.refresh_token.unwrap();
        for step in steps {
            match step {
                Step::Exchange => {
                    let newest = bench.engine.newest_refresh_token(login.family).unwrap().to_owned();
                    bench.refresh(&newest);
                }
                Step::Fault(at) => {
                    let (_, fault) = Fault::presets().swap_remove(at);
                    if fault != (Fault::HugeBody { bytes: 8 << 20 }) {
                        bench.engine.push_fault(FaultTarget::Token, fault, 1);
                    }
                }
                Step::Pass(secs) => bench.pass(secs),
                Step::Bogus => {
                    bench.refresh("refresh-bogus");
                }
            }
        }
        prop_assert!(bench.engine.family_lives(&first, bench.now));
        prop_assert_eq!(bench.engine.counters().reuses, 0);
        let seqs: Vec<u64> = bench.engine.exchanges().map(|exchange| exchange.seq).collect();
        prop_assert!(seqs.iter().zip(1..).all(|(seq, wanted)| *seq == wanted));
        bench.engine.clear_faults();
        let newest = bench.engine.newest_refresh_token(login.family).unwrap().to_owned();
        prop_assert_eq!(bench.refresh(&newest).status, 200);
    }

    /// A stand-in is a function of its seed and its calls.
    #[test]
    fn the_same_calls_give_the_same_answers(exchanges in 1..20_usize) {
        let run = || {
            let mut bench = Bench::new(Settings::default());
            let login = bench.login();
            let mut replies = Vec::new();
            for _ in 0..exchanges {
                let newest = bench.engine.newest_refresh_token(login.family).unwrap().to_owned();
                replies.push(bench.refresh(&newest));
            }
            replies
        };
        prop_assert_eq!(run(), run());
    }
}
