use std::collections::HashSet;
use std::io::Write as _;

use super::*;
use state::ANY;

/// More states than any search of the tests has.
const MOST: usize = 4_000_000;

const STRICT: Class = Class::Strict { revokes: true };

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
    let restore = with(1, |budget| budget.restores = 1);
    let config = |vault, budget| Config { vault, class: STRICT, keepers: 2, budget };
    let file = |budget| config(Vault::AuthFile, budget);
    let database = |budget| config(Vault::Database, budget);
    vec![
        (Break::LockIgnored, file(nothing), "I1"),
        (Break::LeaseIgnored, database(nothing), "I1"),
        (Break::PauseBoundDropped, database(with(2, |budget| budget.pauses = ANY)), "I1"),
        (Break::SendBeforeIntent, file(nothing), "I2"),
        (Break::PublishBeforeSync, file(nothing), "I3"),
        (Break::ReceiptSkipped, file(crash(1)), "I7"),
        (Break::ReceiptSkipped, database(crash(1)), "I7"),
        (Break::DoubtAsFailed, file(crash(1)), "I5"),
        (Break::DoubtAsFailed, database(crash(1)), "I5"),
        (Break::ServerErrorAsUnspent, file(with(1, |budget| budget.errors = ANY)), "I5"),
        (Break::StaleLineage, file(edit(1)), "I4"),
        (Break::StaleLineage, database(with(1, |budget| budget.imports = 1)), "I4"),
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
        (Break::OlderSnapshot, database(with(1, |budget| budget.pauses = ANY)), "I3"),
        (Break::MemoryForgotten, file(with(2, |budget| (budget.disk, budget.edits) = (ANY, ANY))), "I7"),
        (Break::ServerErrorAsRefused, file(with(1, |budget| budget.errors = ANY)), "I6"),
        (Break::ServerErrorAsRefused, database(with(1, |budget| budget.errors = ANY)), "I6"),
        (Break::LockOutlivesItsHolder, file(crash(1)), "L3"),
        (Break::ReceiptLeft, file(nothing), "L1"),
        (Break::ReceiptLeft, database(nothing), "L1"),
        (Break::IntentLeft, file(crash(1)), "L2"),
        (Break::IntentLeft, database(crash(1)), "L2"),
        (Break::DueUnseen, file(nothing), "L3"),
        (Break::DueUnseen, database(nothing), "L3"),
        (Break::NobodyHeld, database(restore), "I5"),
        (Break::HoldTooShort, database(restore), "I1"),
        (Break::MarksIgnored, database(restore), "I5"),
    ]
}

#[test]
fn every_broken_variant_is_caught() {
    for (broken, config, property) in broken() {
        let checked = Model::new(config, Some(broken)).watching(property).check(MOST);
        let trace = checked.violation.unwrap_or_else(|| panic!("{broken:?} does not break {property}"));
        assert_eq!(trace.violation.property, property);
        writeln!(std::io::stderr(), "{broken:?}, after {} states:\n{trace}\n", checked.states).unwrap();
    }
}

#[test]
fn every_property_is_broken_by_something() {
    let properties = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "L1", "L2", "L3"];
    let missed = properties.iter().filter(|is| !broken().iter().any(|(_, _, breaks)| breaks == *is));
    assert_eq!(missed.count(), 0);
}

/// All states that are reached, by what stands for them; `early`: only what stands for one goes on.
fn reached(model: &Model, early: bool) -> HashSet<u64> {
    let (mut known, mut ahead) = (HashSet::from([search::number(&model.first())]), vec![model.first()]);
    let mut stands = HashSet::new();
    while let Some(state) = ahead.pop() {
        stands.insert(search::number(&model.tidied(state)));
        let mut moves = Vec::new();
        model.moves(&state, &mut moves);
        for (action, next) in moves {
            let next = next.and_then(|next| model.holds(&state, action, next)).unwrap();
            let next = if early { model.tidied(next) } else { next };
            if known.insert(search::number(&next)) {
                ahead.push(next);
            }
        }
    }
    stands
}

/// What is forgotten is of no use: whether it is forgotten at once or at the end, the same is reached.
#[test]
fn what_falls_together_is_the_same() {
    let (file, row) = (Vault::AuthFile, Vault::Database);
    let crash = Budget { total: 1, crashes: 1, ..Budget::default() };
    let restore = Budget { total: 1, restores: 1, ..Budget::default() };
    for (vault, class, keepers, budget) in [
        (file, STRICT, 2, Budget::anything(1)),
        (file, STRICT, 3, crash),
        (row, STRICT, 2, Budget::anything(1)),
        (row, STRICT, 3, crash),
        (row, Class::Grace, 2, Budget::anything(1)),
        (row, STRICT, 2, restore),
    ] {
        let config = Config { vault, class, keepers, budget };
        let model = Model::new(config, None);
        let (early, late) = (reached(&model, true), reached(&model, false));
        let differ = early.symmetric_difference(&late).count();
        assert_eq!(differ, 0, "of {} states: {config:?}", late.len());
    }
}

/// Searches all that the test run has time for; says what was reached.
fn search(vault: Vault) -> (Vec<Sometimes>, Vec<&'static str>) {
    let (mut reached, mut crashed_in) = (Vec::new(), Vec::new());
    for run in short().into_iter().filter(|run| run.config.vault == vault) {
        let checked = Model::new(run.config, None).check(MOST);
        if let Some(trace) = checked.violation {
            panic!("{}:\n{trace}", run.name);
        }
        assert!(checked.complete, "{}: more than {MOST} states", run.name);
        reached.extend(checked.reached);
        crashed_in.extend(checked.crashed_in);
    }
    (reached, crashed_in)
}

#[test]
fn keepers_of_an_auth_file_hold() {
    let (reached, crashed_in) = search(Vault::AuthFile);
    // What only leases bring about; and a refusal that a late pair overtakes takes more faults than these.
    let elsewhere =
        |what: &_| Sometimes::OF_LEASES.contains(what) || *what == Sometimes::RefusedThenCommitted;
    let expected = Sometimes::ALL.into_iter().filter(|what| !elsewhere(what));
    let missed: Vec<_> = expected.filter(|what| !reached.contains(what)).collect();
    assert_eq!(missed, []);
    // A database commits in one step, and sends in two.
    // To make a file for an import and die takes three faults: the full search has them.
    let steps = Model::steps().filter(|step| !["Commit", "Send", "MakeFile"].contains(step));
    let alive: Vec<_> = steps.filter(|step| !crashed_in.contains(step)).collect();
    assert_eq!(alive, [""; 0], "steps in which no keeper died");
}

#[test]
fn keepers_of_a_database_hold() {
    let (reached, crashed_in) = search(Vault::Database);
    let shared = [Sometimes::RefusedThenCommitted, Sometimes::LateAnswerCommitted, Sometimes::PresentedAgain];
    for what in Sometimes::OF_LEASES.into_iter().chain(shared) {
        assert!(reached.contains(&what), "{what:?}");
    }
    for step in ["Look", "Reserve", "Intend", "Check", "Send", "Await", "Keep", "Commit", "Settle"] {
        assert!(crashed_in.contains(&step), "{step}");
    }
}
