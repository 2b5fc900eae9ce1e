use super::*;
use state::ANY;

const STRICT: Class = Class::Strict { revokes: true };

fn config(vault: Vault, class: Class, budget: Budget) -> Config {
    let oldest = if vault == Vault::Database { 2 } else { 1 };
    Config { vault, class, keepers: 2, generations: 3, attempts: 4, oldest, budget }
}

/// The smallest bound that shows it, and the property that fails.
fn broken() -> Vec<(Break, Config, &'static str)> {
    let nothing = Budget::anything(0);
    let with = |total, change: fn(&mut Budget)| {
        let mut budget = Budget { total, ..Budget::default() };
        change(&mut budget);
        budget
    };
    let crash = |total| with(total, |budget| budget.crashes = ANY);
    let edit = |total| with(total, |budget| (budget.crashes, budget.edits) = (ANY, ANY));
    let file = |budget| config(Vault::AuthFile, STRICT, budget);
    let database = |budget| config(Vault::Database, STRICT, budget);
    vec![
        (Break::LockIgnored, file(nothing), "I1"),
        (Break::LeaseIgnored, database(nothing), "I1"),
        (Break::PauseBoundDropped, database(with(2, |budget| budget.pauses = ANY)), "I1"),
        (Break::SendBeforeIntent, file(nothing), "I2"),
        (Break::PublishBeforeSync, file(nothing), "I3"),
        (Break::ReceiptSkipped, file(crash(1)), "I7"),
        (Break::DoubtAsFailed, file(crash(1)), "I5"),
        (Break::ServerErrorAsUnspent, file(with(1, |budget| budget.errors = ANY)), "I5"),
        (Break::StaleLineage, file(edit(1)), "I4"),
        (Break::AdoptBeforeReceipts, file(crash(1)), "I9"),
        (Break::ReplacedAdopted, file(edit(1)), "I9"),
        (Break::ReceiptShared, file(with(2, |budget| (budget.pauses, budget.edits) = (ANY, ANY))), "I4"),
        (Break::PresentWhileRead, file(with(2, |budget| budget.pauses = ANY)), "I5"),
        (
            Break::OtherMachinePresents,
            database(with(2, |budget| (budget.crashes, budget.pauses) = (ANY, ANY))),
            "I2",
        ),
        (Break::PlainRename, file(edit(1)), "I4"),
        (Break::RemovedMadeAgain, file(edit(1)), "I4"),
        (Break::OlderSnapshot, file(with(1, |budget| budget.pauses = ANY)), "I3"),
        (Break::MemoryForgotten, file(with(2, |budget| (budget.disk, budget.edits) = (ANY, ANY))), "I7"),
        (Break::ServerErrorAsRefused, file(with(1, |budget| budget.errors = ANY)), "I6"),
        (Break::LockOutlivesItsHolder, file(crash(1)), "L1 to L3"),
    ]
}

#[test]
fn every_broken_variant_is_caught() {
    for (broken, config, property) in broken() {
        let begun = std::time::Instant::now();
        let honest = Model::new(config, None).check(3_000_000);
        eprintln!("{broken:?}: honest {} states {:?}", honest.states, begun.elapsed());
        if let Some(trace) = honest.violation {
            eprintln!("HONEST {trace}");
        }
        let checked = Model::new(config, Some(broken)).watching(property).check(3_000_000);
        let Some(trace) = checked.violation else {
            eprintln!("{broken:?} NOT CAUGHT in {} states", checked.states);
            continue;
        };
        if trace.violation.property != property {
            eprintln!("WRONG {} {property}", trace.violation.property);
        }
        eprintln!("{broken:?}, {} states:\n{trace}\n", checked.states);
    }
}
