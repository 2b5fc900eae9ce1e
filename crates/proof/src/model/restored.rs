//! A database that is restored from a backup: its row is older than what the provider has seen. Each machine has a
//! high-water mark on its own disk, and compares; until all have, no intent is taken (ADR 6).

use super::bridge::{RowFacts, Verdict, Write};
use super::environment::{Action, Moves};
use super::state::{Answer, At, Mark, Pair, Rec, Restored, State};
use super::{Break, Model, Sometimes, Vault, Violation};

impl Model {
    /// Whether anything is restored in this search: elsewhere nobody needs a mark.
    pub(super) fn restores(&self) -> bool {
        self.config.vault == Vault::Database && self.config.budget.restores > 0
    }

    pub(super) fn restore_moves(&self, s: &State, moves: &mut Moves) {
        let (true, Some(record)) = (self.restores(), s.record) else { return };
        let marks_are_of_use = marks_are_of_use(s);
        match s.restored.backup {
            None if s.left.restores > 0 => {
                let mut next = *s;
                next.restored.backup = s.record;
                moves.push((Action::BackUp, Ok(next)));
            }
            Some(backup) if backup != record => {
                self.spend(s, moves, Action::Restore, |left| &mut left.restores, |s| restore(s, backup));
            }
            Some(_) | None => {}
        }
        for k in 0..self.config.keepers {
            let mut may = |action, with: &dyn Fn(&mut State)| {
                let mut next = *s;
                with(&mut next);
                moves.push((action, Ok(next)));
            };
            if marks_are_of_use && s.restored.marks[k] < Some(record.mark()) {
                may(Action::Hears(k as u8), &|s| raise(s, k, Some(record.mark())));
            }
            if s.keepers[k].at == At::Idle && self.compares(s, k) {
                may(Action::Compare(k as u8), &|s| begin_to_compare(s, k));
            }
        }
        if self.hold_may_end(s) {
            let mut next = *s;
            end_hold(&mut next);
            moves.push((Action::HoldEnds, Ok(next)));
        }
    }

    /// What the machine that has just moved the row has to remember.
    pub(super) fn to_raise(&self, s: &State) -> Option<Mark> {
        s.record.filter(|_| self.restores()).map(|record| record.mark())
    }

    /// Where this machine, or the row itself, knows that the chain has stood.
    pub(super) fn known(&self, s: &State, k: usize) -> Option<Mark> {
        self.mark(s, k).max(s.record.and_then(|record| record.behind))
    }

    fn mark(&self, s: &State, k: usize) -> Option<Mark> {
        s.restored.marks[k].filter(|_| self.broken != Some(Break::MarksIgnored))
    }

    /// What a machine finds of the row.
    pub(super) fn row_verdict(&self, s: &State, k: usize, record: Rec) -> Verdict {
        let intends = record.intent == 0 || self.in_reach(s.attempt(record.intent), k);
        let (receipts, mark) = (self.facts(s, k).receipts, self.mark(s, k));
        let times = (s.age(record.pair), 0);
        self.bridge.recover_row(RowFacts { record, receipts, intends, mark, times })
    }

    /// No intent is taken.
    pub(super) fn holds_intents(&self, s: &State) -> bool {
        s.restored.held && self.broken != Some(Break::NobodyHeld)
    }

    /// A machine compares: it has not since the restore, or it goes through its receipts.
    pub(super) fn compares(&self, s: &State, k: usize) -> bool {
        s.restored.was && (self.has_to_compare(s, k) || self.knows_more(s, k))
    }

    fn has_to_compare(&self, s: &State, k: usize) -> bool {
        s.restored.held && (!s.restored.compared[k] || s.keepers[k].compares || self.knows_more(s, k))
    }

    /// The row is older than what a machine has seen or has in its receipts, and does not say so.
    fn knows_more(&self, s: &State, k: usize) -> bool {
        s.record.is_some_and(|record| match self.row_verdict(s, k, record) {
            Verdict::BringUp(_) | Verdict::Forgotten(_) | Verdict::Commit(_) | Verdict::Settle(_) => true,
            Verdict::Behind(mark) => record.behind < Some(mark),
            Verdict::SwapBack | Verdict::Absent | Verdict::Malformed | Verdict::Finish(_) => false,
            Verdict::Forward(_) | Verdict::Spent => false,
            Verdict::BeingRead | Verdict::Elsewhere | Verdict::InDoubt | Verdict::Outdated(_) => false,
            Verdict::Adopt | Verdict::Clean => false,
        })
    }

    /// All that run have compared by then, and none knows more, or it would have begun anew. It outlasts a sender's
    /// deadline by more than any pause, as a lease does.
    pub(super) fn hold_may_end(&self, s: &State) -> bool {
        let too_short = self.broken == Some(Break::HoldTooShort);
        let sends = |k: usize| matches!(s.keepers[k].at, At::Send(_));
        let settled = |k: usize| if sends(k) { too_short } else { !self.has_to_compare(s, k) };
        s.restored.held && (0..self.config.keepers).all(settled)
    }

    /// The receipt's pair is put back over the restored one.
    pub(super) fn bring_up(&self, s: &mut State, k: usize, attempt: u8) {
        let of = *s.attempt(attempt);
        let (Some(record), Some(answer), Some(presented)) = (s.record, self.answer(s, attempt), of.presented)
        else {
            return;
        };
        let (from, known) = ((of.lineage, of.generation), self.known(s, k));
        let write = Write::BringUp { attempt, from, presented, answer, known };
        let Some(next) = self.bridge.write(Some(record), self.times(s, presented), write) else {
            return self.rest(s, k, None);
        };
        self.saw(Sometimes::BroughtUp);
        for old in [record.pair, presented].into_iter().filter(|old| self.bridge.replaces(*old, next.pair)) {
            s.ghost.replaced.add(old);
            s.replaced.add(old);
        }
        self.store(s, next);
        s.keepers[k].at = At::DropReceipts(self.to_raise(s));
    }

    /// The row forgets that its pair was presented: nobody knows any more who asked.
    pub(super) fn forgotten(&self, s: &mut State, k: usize, mark: Mark) {
        self.saw(Sometimes::Forgotten);
        self.write(s, Write::Forgotten(mark));
        self.written_down(s, k);
    }

    /// The row is older than what this machine has seen, and what followed is not in its reach.
    pub(super) fn behind(&self, s: &mut State, k: usize, mark: Mark) -> Result<(), Violation> {
        self.saw(Sometimes::Quarantined);
        if s.record.is_some_and(|record| record.behind < Some(mark)) {
            self.write(s, Write::Quarantine(mark));
        }
        self.rest(s, k, None);
        Ok(())
    }
}

/// A row may still go back, or has and not all have compared.
pub(super) fn marks_are_of_use(s: &State) -> bool {
    s.restored.held || s.left.restores > 0
}

/// A machine remembers where the chain stands.
pub(super) fn raise(s: &mut State, k: usize, stands: Option<Mark>) {
    let mark = &mut s.restored.marks[k];
    *mark = (*mark).max(stands);
}

fn restore(s: &mut State, backup: Rec) {
    let now = s.record;
    s.record = Some(backup);
    s.holder = 0;
    s.restored = Restored { was: true, held: true, backup: None, ..s.restored };
    // What only the row had is lost with it.
    if let Some(record) = now.filter(|record| !in_hand(s, record.pair)) {
        s.ghost.received.remove(record.pair);
    }
}

fn in_hand(s: &State, pair: Pair) -> bool {
    let answers = |answer: Option<Answer>| answer == Some(Answer::Tokens(pair));
    let kept = |at: At| matches!(at, At::Keep(_, answer) if answers(Some(answer)));
    s.in_receipt(pair)
        || s.attempts.iter().any(|attempt| answers(attempt.memory))
        || s.keepers.iter().any(|keeper| kept(keeper.at))
}

pub(super) fn begin_to_compare(s: &mut State, k: usize) {
    (s.keepers[k].at, s.keepers[k].compares) = (At::Look, true);
}

pub(super) fn end_hold(s: &mut State) {
    for keeper in s.keepers {
        if let At::Check(attempt) | At::Await(attempt) = keeper.at {
            s.attempt_mut(attempt).late = true;
        }
    }
    (s.restored.held, s.restored.compared) = (false, Default::default());
}
