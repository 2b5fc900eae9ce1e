//! Which states are the same for all that can happen: what no decision and no property depends on any more is
//! forgotten, and keepers that nobody tells apart change places, so that states fall together.

use super::restored::marks_are_of_use;
use super::search::number;
use super::state::{ATTEMPTS, Answer, At, Attempt, Family, KEEPERS, Net, Pair, Pairs, Rec, Receipt, State};
use super::{Budget, Model, Vault};

impl Model {
    /// The state that stands for all that are the same.
    pub(super) fn tidied(&self, mut s: State) -> State {
        if s.left.total == 0 {
            s.left = Budget::default();
        }
        if s.left.edits == 0 {
            s.ghost.was_in_file = Pairs::default();
        }
        for number in 1..=ATTEMPTS as u8 {
            let of = *s.attempt(number);
            if of.by == 0 || under_way(&s, number) {
                continue;
            }
            let (presented, sent) = if of.sent && !of.unspent { (of.presented, true) } else { (None, false) };
            *s.attempt_mut(number) = Attempt { presented, sent, ..Attempt::default() };
        }
        if self.config.vault == Vault::Database && !marks_are_of_use(&s) {
            (s.restored.backup, s.restored.marks) = (None, Default::default());
            // Who holds what a restored row lacks may bring it up.
            if s.record.is_none_or(|record| record.behind.is_none()) {
                rows_only_move_on(&mut s);
            }
        }
        // Readers of the first are watched; the others are alike.
        if self.config.keepers == KEEPERS {
            let changed = changed_places(&s);
            if number(&changed) < number(&s) {
                return changed;
            }
        }
        s
    }
}

/// A row never goes back to an older pair: what is remembered of pairs that it has left is of no use, unless one is
/// still being presented, on its way, or about to be told.
fn rows_only_move_on(s: &mut State) {
    let Some(record) = s.record else { return };
    let mut current = Pairs::default();
    current.add(record.pair);
    for number in 1..=ATTEMPTS as u8 {
        if under_way(s, number) {
            s.attempt(number).presented.into_iter().for_each(|pair| current.add(pair));
        }
    }
    for attempt in &mut s.attempts {
        // Presented once, of no row and by nobody any more.
        if attempt.by == 0 && attempt.presented.is_some_and(|pair| !current.has(pair)) {
            *attempt = Attempt::default();
        }
    }
    for (index, family) in s.families.iter_mut().enumerate() {
        let of_use = index == record.pair.family()
            || Pair::all().any(|pair| pair.family() == index && current.has(pair));
        if family.exists && !of_use {
            *family = Family { exists: true, newest: 0, revoked: true, grace: 0 };
        }
    }
    s.ghost.refused.keep(current);
    s.ghost.replaced.keep(current);
    s.replaced.keep(current);
    let mut known = current;
    let mut answer = |answer: Answer| {
        if let Answer::Tokens(pair) = answer {
            known.add(pair);
        }
    };
    for attempt in &s.attempts {
        attempt.memory.into_iter().for_each(&mut answer);
        if let Net::Answered(of) = attempt.net {
            answer(of);
        }
    }
    for receipt in &s.receipts {
        if let Receipt::Answered(_, of) = receipt {
            answer(*of);
        }
    }
    for keeper in &s.keepers {
        if let At::Keep(_, of) = keeper.at {
            answer(of);
        }
    }
    for keeper in &mut s.keepers {
        keeper.read = None;
        keeper.refused = keeper.refused.filter(|refused| *refused == record.position());
        let told = if let At::Publish(seen) = keeper.at { seen } else { None };
        told.into_iter().chain(keeper.background).for_each(|seen| known.add(seen.pair));
    }
    s.ghost.durable.keep(known);
    for pair in Pair::all().filter(|pair| !known.has(*pair)) {
        s.ages[usize::from(pair.0)] = 0;
    }
    let family = record.pair.family();
    let mut live = Pairs::default();
    live.add(Pair::new(family, s.families[family].newest.into()));
    s.ghost.received.keep(live);
}

/// Whether an attempt is still being made, or record, receipt or keeper still mean it.
fn under_way(s: &State, number: u8) -> bool {
    let of = s.attempt(number);
    let of_it = |record: Rec| record.intent == number && !record.nobodys;
    let intended = [s.record, s.restored.backup].into_iter().flatten().any(of_it);
    let filed = s.receipts.iter().any(|receipt| match receipt {
        Receipt::Reserved(of) | Receipt::Answered(of, _) => *of == number,
        Receipt::Missing => false,
    });
    let meant = |keeper: &super::state::Keeper| keeper.settles == number || keeper.at.means(number);
    of.net != Net::Quiet
        || of.reading
        || of.memory.is_some()
        || intended
        || filed
        || s.keepers.iter().any(meant)
}

/// The last two keepers in each other's place.
fn changed_places(s: &State) -> State {
    let other = |keeper: u8| match keeper {
        2 => 3,
        3 => 2,
        same => same,
    };
    let mut changed = *s;
    changed.keepers.swap(1, 2);
    changed.restored.marks.swap(1, 2);
    changed.restored.compared.swap(1, 2);
    changed.holder = other(s.holder);
    for attempt in &mut changed.attempts {
        attempt.by = other(attempt.by);
    }
    changed
}
