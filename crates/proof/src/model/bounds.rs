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

/// Two keepers and any `faults` faults of every kind; three keepers with one crash and two lost answers.
pub fn full(faults: u8) -> Vec<Run> {
    let mut runs = Vec::new();
    for (vault, where_) in VAULTS {
        for (class, provider) in CLASSES {
            let two = bounds(vault, class, 2, Budget::anything(faults));
            let three = Budget { total: 3, crashes: 1, lost: 2, ..Budget::default() };
            let three = bounds(vault, class, 3, three);
            runs.push(Run { name: format!("{where_}, {provider}, 2 keepers"), config: two });
            runs.push(Run { name: format!("{where_}, {provider}, 3 keepers"), config: three });
        }
    }
    let strict = Class::Strict { revokes: true };
    let some = |change: fn(&mut Budget)| {
        let mut budget = Budget { total: faults + 1, crashes: ANY, ..Budget::default() };
        change(&mut budget);
        budget
    };
    for (name, budget) in [
        ("people and crashes", some(|budget| (budget.edits, budget.imports) = (ANY, ANY))),
        ("network and crashes", some(|budget| (budget.lost, budget.errors, budget.pauses) = (ANY, ANY, ANY))),
        ("disk, network and crashes", some(|budget| (budget.lost, budget.disk) = (ANY, ANY))),
    ] {
        for (vault, where_) in VAULTS {
            let config = bounds(vault, strict, 2, budget);
            runs.push(Run { name: format!("{where_}, strict, {name}, one fault more"), config });
        }
    }
    runs
}

/// What the tests search: one fault less, and of the largest searches none.
pub fn short() -> Vec<Run> {
    let mut runs = full(1);
    runs.retain(|run| {
        let Config { vault, class, keepers, .. } = run.config;
        let revokes = class == Class::Strict { revokes: true };
        (keepers == 2 || revokes) && (vault == Vault::AuthFile || !run.name.ends_with("one fault more"))
    });
    runs
}

fn bounds(vault: Vault, class: Class, keepers: usize, budget: Budget) -> Config {
    let oldest = match vault {
        Vault::AuthFile => 1,
        // Another machine waits for the end of the access token.
        Vault::Database => 2,
    };
    Config { vault, class, keepers, generations: 3, attempts: 4, oldest, budget }
}
