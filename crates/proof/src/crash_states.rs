//! Every state that a crash may leave of the vault's files recovers (SPEC §4, I7). The states are derived from the
//! operations that the real keeper and vault did, as a recording disk wrote them down; none is listed by hand.
//!
//! What a crash may leave, at each place of a sequence:
//!
//! - *Data*: a write that was not synced is there, is not, or is torn: cut after 0 bytes, 1 byte, half, all but one; with
//!   its length but not its bytes; page by page in every combination up to five pages; and a shortening may be there
//!   without the bytes. `create`, `fill` and `append` write and sync in one verb, so that each has such states within.
//! - *Names*: a change is durable once a folder that it touches was synced. Of the others every combination may be
//!   there, not only those that a journal's order allows, as long as no change is there without the earlier ones of
//!   the same names (a file that was not made cannot have been renamed). Up to 12 pending changes are tried in all
//!   combinations; beyond that (it takes a broken vault) prefixes, single losses and single survivors.
//! - *Renames*: within a folder, and as an exchange, one change: ext4, xfs and btrfs put either into one transaction
//!   of their journal or log. A rename from one folder to another one may be half there as "both names", with only the
//!   new one's folder durable; never as "no name", which none of the three can leave.
//! - *Edits from outside* are durable by themselves, with what came before under the same name and nothing else.
//!
//! On each state a new process starts, with an empty state and with the old one, and is judged by `judge`.

mod disk;
mod image;
mod judge;
mod room;
mod scenarios;
mod states;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use disk::Moment;
use scenarios::{Recorded, Scenario};
use states::{CrashState, Replay};

/// A promise of the disk that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Syncing a folder does nothing.
    FoldersNotSynced,
    /// Receipts are written and not synced.
    ReceiptsNotSynced,
    /// All other files are written and not synced.
    FilesNotSynced,
    /// An exchange is three renames.
    ExchangeInSteps,
}

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Every so manieth state of a scenario is judged, and the first ones.
    pub every: usize,
    /// An edit falls before every so manieth operation.
    pub edits_every: usize,
    /// Only the scenario of this name.
    pub only: Option<&'static str>,
    /// From every so manieth state that is judged, the recovery is recorded and cut short as well; 0: from none.
    pub again_every: usize,
    /// Ends a scenario with its first violation.
    pub first_only: bool,
}

impl Extent {
    /// Everything.
    pub const WHOLE: Self = Self { every: 1, edits_every: 1, only: None, again_every: 0, first_only: false };
}

/// So many states of a scenario are judged whatever the extent.
const ALWAYS: usize = 20;

/// What a scenario came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Which one.
    pub name: &'static str,
    /// How often it was run, with an edit at another place each time.
    pub runs: usize,
    /// Recoveries that were recorded and cut short as well.
    pub recoveries: usize,
    /// Operations on files that its first run called.
    pub verbs: usize,
    /// Changes and syncs that were recorded, over all runs.
    pub operations: usize,
    /// Different states that a crash may leave, over all runs.
    pub states: usize,
    /// Those that were judged, each with an empty state and with the old one.
    pub judged: usize,
    /// What did not hold; the first ones.
    pub violations: Vec<String>,
    /// How many states did not hold.
    pub violated: usize,
}

/// Derives the states of every scenario and judges them. `told` hears of each scenario.
pub fn run(extent: Extent, lie: Option<Lie>, mut told: impl FnMut(&Outcome)) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for scenario in scenarios::all() {
        if extent.only.is_none_or(|only| scenario.name == only) {
            let outcome = run_one(scenario, extent, lie);
            told(&outcome);
            outcomes.push(outcome);
        }
    }
    outcomes
}

fn run_one(scenario: Scenario, extent: Extent, lie: Option<Lie>) -> Outcome {
    let mut outcome = Outcome { name: scenario.name, ..Outcome::default() };
    let mut before = 0;
    loop {
        let recorded = scenario.record(before, lie);
        outcome.runs += 1;
        outcome.operations += recorded.ops.len();
        outcome.verbs = outcome.verbs.max(recorded.verbs);
        try_states(&recorded, extent, &format!("edit before {before}"), &mut outcome);
        before += extent.edits_every;
        if !scenario.has_edits() || before > outcome.verbs || extent.first_only && outcome.violated > 0 {
            return outcome;
        }
    }
}

fn try_states(recorded: &Recorded, extent: Extent, run: &str, outcome: &mut Outcome) {
    if recorded.dropped {
        outcome.violated += 1;
        outcome.violations.push(format!("I7: the keeper was given an answer, and never kept it [{run}]"));
    }
    let mut replay = Replay::new(recorded.base.clone());
    let mut seen: Vec<HashSet<u64>> = vec![HashSet::new(); recorded.moments.len()];
    for place in 0..=recorded.ops.len() {
        if let Some(op) = place.checked_sub(1).and_then(|last| recorded.ops.get(last)) {
            replay.step(op);
        }
        for (number, moment) in recorded.moments.iter().enumerate() {
            if extent.first_only && outcome.violated > 0 {
                return;
            }
            // Between two moments that fall on one place, both are true: before an exchange, and after it.
            let next = recorded.moments.get(number + 1);
            let over = next.is_some_and(|next| place > next.from || place == next.from && next.by_a_step);
            if place < moment.from || over {
                continue;
            }
            for state in replay.states(&mut seen[number]) {
                outcome.states += 1;
                if outcome.states <= ALWAYS || outcome.states.is_multiple_of(extent.every) {
                    try_one(recorded, &state, moment, &format!("{run}, place {place}"), outcome);
                    try_again(recorded, &state, moment, extent, outcome);
                }
            }
        }
    }
}

fn try_one(recorded: &Recorded, state: &CrashState, moment: &Moment, place: &str, outcome: &mut Outcome) {
    outcome.judged += 1;
    for remembers in [false, true] {
        let judged =
            catch_unwind(AssertUnwindSafe(|| judge::judge(recorded, &state.image, moment, remembers)));
        let wrong = match judged {
            Ok(Ok(())) => continue,
            Ok(Err(wrong)) => wrong,
            Err(_) => "it panics".to_owned(),
        };
        outcome.violated += 1;
        if outcome.violations.len() < 20 {
            let CrashState { lost, key, .. } = state;
            outcome
                .violations
                .push(format!("{wrong} [{place}; state {key:x}: {lost}; remembers {remembers}]"));
        }
        return;
    }
}

/// A second crash, within the recovery from a first one.
fn try_again(
    recorded: &Recorded,
    state: &CrashState,
    moment: &Moment,
    extent: Extent,
    outcome: &mut Outcome,
) {
    let again = extent.again_every;
    if again == 0 || !outcome.judged.is_multiple_of(again) {
        return;
    }
    let recovery = recorded.of_recovery(&state.image, moment);
    outcome.recoveries += 1;
    outcome.operations += recovery.ops.len();
    let run = format!("recovery from {:x}", state.key);
    try_states(&recovery, Extent { again_every: 0, ..extent }, &run, outcome);
}

#[cfg(test)]
mod tests {
    use super::disk::Op;
    use super::image::Names;
    use super::*;

    #[test]
    fn a_sample_of_crash_states_recovers() {
        let sample = Extent { every: 13, edits_every: 11, again_every: 60, ..Extent::WHOLE };
        for outcome in run(sample, None, |_| {}) {
            assert!(outcome.violated == 0, "{outcome:#?}");
            assert!(outcome.judged > 0, "{outcome:#?}");
        }
    }

    #[test]
    fn a_vault_on_a_disk_that_lies_is_caught() {
        let rotation = Extent { only: Some("rotation"), first_only: true, ..Extent::WHOLE };
        for (lie, caught) in [
            (Lie::FoldersNotSynced, ["I5", "I7"].as_slice()),
            (Lie::ReceiptsNotSynced, &["I7"]),
            (Lie::FilesNotSynced, &["does not recover", "I5", "not the newest"]),
            (Lie::ExchangeInSteps, &["absent"]),
        ] {
            let outcomes = run(rotation, Some(lie), |_| {});
            let violations: Vec<_> = outcomes.iter().flat_map(|outcome| &outcome.violations).collect();
            let fits = violations.iter().any(|said| caught.iter().any(|word| said.contains(word)));
            assert!(fits, "{lie:?}: {violations:#?}");
        }
    }

    /// The client must find no moment at which it could present the pair whose answer lies in our receipt.
    #[test]
    fn the_clients_locks_are_not_given_up_before_a_kept_answer_is_committed() {
        let find = |scenario: &Scenario| scenario.name == "rotation under the client's locks";
        let recorded = scenarios::all().into_iter().find(find).unwrap().record(0, None);
        let exchange = |op: &Op| matches!(op, Op::Names(Names::Exchange(..)));
        let mut replay = Replay::new(recorded.base.clone());
        let died_at = recorded.ops.iter().position(exchange).unwrap();
        recorded.ops[..died_at].iter().for_each(|op| replay.step(op));
        let recovery = recorded.of_recovery(&replay.killed(), recorded.moments.last().unwrap());
        let given_up = recovery.ops.iter().position(
            |op| matches!(op, Op::Names(Names::Unlink(path)) if path.ends_with(".oauth_refresh.lock")),
        );
        assert!(recovery.ops.iter().position(exchange).unwrap() < given_up.unwrap(), "{:#?}", recovery.ops);
    }

    /// A keeper that is killed leaves no lock that the next one takes for a client's, and waits a minute for.
    #[test]
    fn no_death_leaves_a_clients_lock_that_is_not_known_as_ours() {
        let find = |scenario: &Scenario| scenario.name == "rotation under the client's locks";
        let recorded = scenarios::all().into_iter().find(find).unwrap().record(0, None);
        let mut replay = Replay::new(recorded.base.clone());
        for (place, op) in recorded.ops.iter().enumerate() {
            replay.step(op);
            let report = recorded.first_look(&replay.killed(), recorded.moments.last().unwrap());
            assert_ne!(report.reason, evergrant_core::Reason::LeaseHeld, "place {place}: {report:?}");
        }
    }
}
