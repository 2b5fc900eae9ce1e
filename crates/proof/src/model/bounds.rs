//! How far the model is searched: in full by command, in a minute by the tests.

use super::state::ANY;
use super::{Budget, Class, Config, Vault};

/// One search.
#[derive(Debug, Clone)]
pub struct Run {
    /// What is searched, for a person.
    pub name: String,
    /// Its bounds.
    pub config: Config,
}

const CLASSES: [(Class, &str); 4] = [
    (Class::Strict { revokes: true }, "strict, a reuse revokes"),
    (Class::Strict { revokes: false }, "strict"),
    (Class::Grace, "grace"),
    (Class::None, "none"),
];
const VAULTS: [(Vault, &str); 2] = [(Vault::AuthFile, "auth file"), (Vault::Database, "database")];

/// Two keepers and any `faults` faults of every kind, and one more of kinds that belong together; three keepers with
/// one crash and two lost answers, and with a pause. A database has a lease besides, whose every end is a fault: it
/// gets one fault less, but for the provider that punishes most.
pub fn full(faults: u8) -> Vec<Run> {
    let punishes = Class::Strict { revokes: true };
    let less = faults.saturating_sub(1).max(1);
    let mut runs = Vec::new();
    for (vault, where_) in VAULTS {
        for (class, provider) in CLASSES {
            let faults = if vault == Vault::AuthFile || class == punishes { faults } else { less };
            let two = Config { vault, class, keepers: 2, budget: Budget::anything(faults) };
            runs.push(Run {
                name: format!("{where_}, {provider}, 2 keepers, faults: {faults}"),
                config: two,
            });
            for (pauses, besides) in [(0, ""), (1, ", a pause")] {
                let budget = Budget { total: 3 + pauses, crashes: 1, lost: 2, pauses, ..Budget::default() };
                let config = Config { vault, class, keepers: 3, budget };
                runs.push(Run { name: format!("{where_}, {provider}, 3 keepers{besides}"), config });
            }
        }
        if vault == Vault::Database {
            for (besides, budget) in restored(faults) {
                let config = Config { vault, class: punishes, keepers: 2, budget };
                runs.push(Run {
                    name: format!("{where_}, strict, restored, {besides}, faults: {faults}"),
                    config,
                });
            }
        }
        let faults = if vault == Vault::AuthFile { faults + 1 } else { faults };
        for (kinds, budget) in kinds(faults) {
            let config = Config { vault, class: punishes, keepers: 2, budget };
            runs.push(Run { name: format!("{where_}, strict, {kinds}, faults: {faults}"), config });
        }
    }
    runs
}

fn kinds(total: u8) -> [(&'static str, Budget); 3] {
    let crashes = Budget { total, crashes: ANY, ..Budget::default() };
    [
        ("people and crashes", Budget { edits: ANY, imports: ANY, ..crashes }),
        ("network and crashes", Budget { lost: ANY, errors: ANY, pauses: ANY, ..crashes }),
        ("disk, network and crashes", Budget { lost: ANY, disk: ANY, ..crashes }),
    ]
}

/// A database is restored, and that is one of the faults.
fn restored(total: u8) -> [(&'static str, Budget); 5] {
    let restored = Budget { total, restores: 1, ..Budget::default() };
    [
        ("crashes", Budget { crashes: ANY, ..restored }),
        ("logins", Budget { imports: ANY, ..restored }),
        ("answers lost", Budget { lost: ANY, errors: ANY, ..restored }),
        ("pauses", Budget { pauses: ANY, ..restored }),
        ("disk", Budget { disk: ANY, ..restored }),
    ]
}

/// What the tests search: one fault less, and three keepers only before the provider that punishes most, without a
/// pause.
pub fn short() -> Vec<Run> {
    let mut runs = full(1);
    runs.retain(|Run { config: Config { keepers, class, budget, .. }, .. }| {
        let two = *keepers == 2 && (budget.restores == 0 || budget.crashes > 0);
        let three = *class == Class::Strict { revokes: true } && *keepers == 3;
        two || three && budget.pauses == 0
    });
    runs
}
