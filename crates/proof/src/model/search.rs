//! Breadth-first search over all states: the first violation that is found has the shortest trace.

use std::collections::HashSet;
use std::fmt;

use indexmap::IndexMap;

use super::bridge::Write;
use super::environment::{Action, Moves};
use super::state::{Answer, At, Content, Pair, Rec, Receipt, State};
use super::{Class, Model, Sometimes, Vault, Violation};

/// A quick hash; the states are our own.
pub(super) type Fast = foldhash::fast::FixedState;

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

type Known = IndexMap<State, (u32, Option<Action>), Fast>;

impl Model {
    /// Searches all states within the bounds, `most` of them at most.
    pub fn check(&self, most: usize) -> Checked {
        let mut known = Known::default();
        let mut healed = HashSet::<u64, Fast>::default();
        known.insert(self.first(), (0, None));
        let (mut index, mut transitions, mut moves) = (0, 0, Moves::new());
        let mut violation = None;
        'search: while let Some((state, _)) = known.get_index(index) {
            let state = *state;
            if let Err(broken) = self.heals(&state, &mut healed)
                && self.counts(&broken)
            {
                violation = Some(trace(&known, index, None, broken));
                break;
            }
            moves.clear();
            self.moves(&state, &mut moves);
            for (action, next) in moves.drain(..) {
                transitions += 1;
                match next.and_then(|next| self.holds(&state, action, next)) {
                    Ok(next) if known.len() < most => {
                        known.entry(next).or_insert((index as u32, Some(action)));
                    }
                    Ok(_) => {}
                    Err(broken) if !self.counts(&broken) => {}
                    Err(broken) => {
                        violation = Some(trace(&known, index, Some(action), broken));
                        break 'search;
                    }
                }
            }
            index += 1;
        }
        Checked {
            states: known.len(),
            transitions,
            complete: index == known.len() && known.len() < most,
            violation,
            reached: self.reached(),
            crashed_in: self.crashed_in(),
        }
    }

    fn first(&self) -> State {
        let mut state = State::first(self.config.budget);
        if self.config.vault == Vault::Database {
            let write = Write::TakeIn { pair: Pair::new(0, 0), imported: true };
            state.record = self.bridge.write(None, (0, 0), write);
            state.file = Content::Missing;
        }
        state
    }

    /// What must hold in every state, whatever led there.
    fn holds(&self, before: &State, action: Action, mut s: State) -> Result<State, Violation> {
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
        s.tidy();
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

fn trace(known: &Known, mut index: usize, last: Option<Action>, violation: Violation) -> Trace {
    let mut steps: Vec<String> = last.map(|action| format!("{action:?}")).into_iter().collect();
    while let Some((state, (parent, Some(action)))) = known.get_index(index) {
        steps.push(format!("{:<58} {}", format!("{action:?}"), summary(state)));
        index = *parent as usize;
    }
    steps.reverse();
    Trace { violation, steps }
}

fn summary(s: &State) -> String {
    let record = s.record.map_or("-".to_owned(), |record| {
        let Rec { lineage, generation, pair, standing, intent, .. } = record;
        format!("{lineage}.{generation} {pair:?} {standing:?} intent {intent}")
    });
    let receipts: Vec<_> = s.receipts.iter().filter(|receipt| **receipt != Receipt::Missing).collect();
    format!("| file {:?} | record {record} | {receipts:?}", s.file)
}
