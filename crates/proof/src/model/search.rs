//! Breadth-first search over all states: the first violation that is found has the shortest trace.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::BuildHasher as _;

use super::bridge::Write;
use super::environment::{Action, Moves};
use super::state::{Answer, At, Content, Pair, Rec, Receipt, State};
use super::{Class, Model, Sometimes, Vault, Violation};

/// A quick hash; the states are our own.
pub(super) type Fast = foldhash::fast::FixedState;
/// Of whose 64 bits each is as good as the others.
type Even = foldhash::quality::FixedState;

/// What a search came to.
#[derive(Debug)]
pub struct Checked {
    /// Different states.
    pub states: usize,
    /// Transitions between them.
    pub transitions: u64,
    /// Every state within the bounds was seen.
    pub complete: bool,
    /// What does not hold, and how one comes there.
    pub violation: Option<Trace>,
    /// What was reached.
    pub reached: Vec<Sometimes>,
    /// The steps in which a keeper has died.
    pub crashed_in: Vec<&'static str>,
}

/// The way to a violation.
#[derive(Debug)]
pub struct Trace {
    /// What does not hold.
    pub violation: Violation,
    /// One line a step.
    pub steps: Vec<String>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>3} {step}", number + 1)?;
        }
        write!(f, "    {}: {}", self.violation.property, self.violation.what)
    }
}

/// A number for a state. What was seen is remembered by 64 bits: among 100 million states some two are taken for one
/// another with a chance of 1 to 3,700.
pub(super) fn number(state: &State) -> u64 {
    Even::default().hash_one(state)
}

/// How a state was reached first: from which one, and by which of its moves.
type From = (u32, u16);

/// The states that were found, in their order.
struct Known {
    numbers: HashSet<u64, Fast>,
    from: Vec<From>,
    /// Those whose moves are still to be looked at.
    ahead: VecDeque<State>,
}

impl Known {
    fn new(first: State) -> Self {
        let mut known = Self { numbers: HashSet::default(), from: Vec::new(), ahead: VecDeque::new() };
        known.add(first, (0, 0));
        known
    }

    fn add(&mut self, state: State, from: From) {
        if self.numbers.insert(number(&state)) {
            self.from.push(from);
            self.ahead.push_back(state);
        }
    }
}

impl Model {
    /// Searches all states within the bounds, `most` of them at most.
    pub fn check(&self, most: usize) -> Checked {
        let mut known = Known::new(self.first());
        let mut healed = HashSet::<u64, Fast>::default();
        let (mut index, mut transitions, mut moves) = (0, 0, Moves::new());
        let mut violation = None;
        'search: while let Some(state) = known.ahead.pop_front() {
            if let Err(broken) = self.heals(&state, &mut healed)
                && self.counts(&broken)
            {
                violation = Some(self.trace(&known.from, (index, None), broken));
                break;
            }
            moves.clear();
            self.moves(&state, &mut moves);
            for (nth, (action, next)) in moves.drain(..).enumerate() {
                transitions += 1;
                match next.and_then(|next| self.holds(&state, action, next)) {
                    Ok(next) if known.from.len() < most => known.add(self.tidied(next), (index, nth as u16)),
                    Ok(_) => {}
                    Err(broken) if !self.counts(&broken) => {}
                    Err(broken) => {
                        violation = Some(self.trace(&known.from, (index, Some(action)), broken));
                        break 'search;
                    }
                }
            }
            index += 1;
        }
        Checked {
            states: known.from.len(),
            transitions,
            complete: known.ahead.is_empty() && known.from.len() < most,
            violation,
            reached: self.reached(),
            crashed_in: self.crashed_in(),
        }
    }

    pub(super) fn first(&self) -> State {
        let mut state = State::first(self.config.budget);
        if self.config.vault == Vault::Database {
            let write = Write::TakeIn { pair: Pair::new(0, 0), imported: true };
            state.record = self.bridge.write(None, (0, 0), write);
            state.file = Content::Missing;
        }
        state
    }

    /// What must hold in every state, whatever led there.
    pub(super) fn holds(&self, before: &State, action: Action, s: State) -> Result<State, Violation> {
        if let Some(edit) = s.ghost.unseen
            && s.file != edit
            && s.staged.is_none_or(|staged| staged.lies != edit)
        {
            return Err(Violation::new("I4", format!("the edit {edit:?} is gone, and nobody has read it")));
        }
        let made = before.file == Content::Missing && s.file != Content::Missing;
        if let Action::Step(_, at) = action
            && made
            && !matches!(at, At::MakeFile(_))
        {
            return Err(Violation::new("I4", "a removed file is made again"));
        }
        if let Some(record) = &s.record {
            self.nothing_is_lost(&s, record)?;
        }
        Ok(s)
    }

    /// I7: what reached us, and is the live pair of the current lineage, is in the vault or in a receipt.
    fn nothing_is_lost(&self, s: &State, record: &Rec) -> Result<(), Violation> {
        let family = s.families[record.pair.family()];
        let live = Pair::new(record.pair.family(), family.newest.into());
        // Where nothing rotates nothing is lost.
        if family.revoked || !s.ghost.received.has(live) || self.config.class == Class::None {
            return Ok(());
        }
        let in_hand = s
            .keepers
            .iter()
            .any(|keeper| matches!(keeper.at, At::Keep(_, Answer::Tokens(pair)) if pair == live));
        let in_memory = s.attempts.iter().any(|attempt| attempt.memory == Some(Answer::Tokens(live)));
        let in_vault = match self.config.vault {
            Vault::AuthFile => {
                s.file == Content::Grant(live)
                    || s.staged.is_some_and(|staged| staged.lies == Content::Grant(live))
            }
            Vault::Database => record.pair == live,
        };
        if in_vault || in_hand || in_memory || s.in_receipt(live) {
            return Ok(());
        }
        Err(Violation::new("I7", format!("{live:?} reached us, and is lost")))
    }
}

impl Model {
    /// Walks the way to a state once more, and says each step.
    fn trace(&self, from: &[From], (mut index, last): (u32, Option<Action>), violation: Violation) -> Trace {
        let mut way = Vec::new();
        while index > 0 {
            let (before, nth) = from[index as usize];
            way.push(nth);
            index = before;
        }
        let (mut state, mut steps, mut moves) = (self.first(), Vec::new(), Moves::new());
        for nth in way.into_iter().rev() {
            moves.clear();
            self.moves(&state, &mut moves);
            let (action, next) = moves.swap_remove(usize::from(nth));
            let Ok(next) = next.and_then(|next| self.holds(&state, action, next)) else { break };
            state = self.tidied(next);
            steps.push(format!("{:<58} {}", format!("{action:?}"), summary(&state)));
        }
        steps.extend(last.map(|action| format!("{action:?}")));
        Trace { violation, steps }
    }
}

fn summary(s: &State) -> String {
    let record = s.record.map_or("-".to_owned(), |record| {
        let Rec { lineage, generation, pair, standing, intent, .. } = record;
        format!("{lineage}.{generation} {pair:?} {standing:?} intent {intent}")
    });
    let receipts: Vec<_> = s.receipts.iter().filter(|receipt| **receipt != Receipt::Missing).collect();
    format!("| file {:?} | record {record} | {receipts:?}", s.file)
}
