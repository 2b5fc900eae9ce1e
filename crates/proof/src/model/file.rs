//! How a keeper of the model brings a pair into the auth file: two files change places, and what comes out is looked at.

use evergrant_core::keeper::Swap;

use super::state::{Answer, At, Content, Goal, Pair, Pairs, Receipt, Staged, State};
use super::{Break, Model, Sometimes, Violation};

type Done = Result<(), Violation>;

impl Model {
    pub(super) fn write_file(&self, s: &mut State, content: Content, ours: bool) {
        s.file = content;
        s.ghost.file_is_ours = ours;
        if let Content::Grant(pair) = content {
            s.ghost.was_in_file.add(pair);
            s.ghost.durable.add(pair);
        }
    }

    pub(super) fn goes_in(&self, s: &State, goal: Goal) -> Option<Pair> {
        match goal {
            Goal::Import(pair) => Some(pair),
            Goal::Back => None,
            Goal::Commit(attempt) | Goal::Forward(attempt) => self.pair_of(s, attempt),
        }
    }

    pub(super) fn pair_of(&self, s: &State, attempt: u8) -> Option<Pair> {
        let answer = self.answer(s, attempt)?;
        self.bridge.pair_of(&self.filed(s.attempt(attempt), attempt, Some(answer))?)
    }

    pub(super) fn answer(&self, s: &State, attempt: u8) -> Option<Answer> {
        let written = s.receipts.iter().find_map(|receipt| match receipt {
            Receipt::Answered(of, answer) if *of == attempt => Some(*answer),
            Receipt::Answered(..) | Receipt::Reserved(_) | Receipt::Missing => None,
        });
        written.or(s.attempt(attempt).memory)
    }

    pub(super) fn stage(&self, s: &mut State, k: usize, goal: Goal) -> Done {
        let (Some(read), Some(pair)) = (s.keepers[k].read, self.goes_in(s, goal)) else {
            s.keepers[k].at = At::Look;
            return Ok(());
        };
        let new = Content::Grant(pair);
        if s.file == Content::Missing {
            self.saw(Sometimes::RemovedMeanwhile);
            s.keepers[k].at = At::Look;
            return Ok(());
        }
        if self.broken == Some(Break::PlainRename) {
            self.write_file(s, new, true);
            self.written(s, k, goal);
            return Ok(());
        }
        s.staged = Some(Staged { swap: Swap { back: false, expected: read, goes_in: new }, lies: new });
        s.keepers[k].at = At::Exchange(goal);
        Ok(())
    }

    pub(super) fn exchange(&self, s: &mut State, k: usize, goal: Goal) -> Done {
        let Some(staged) = &mut s.staged else {
            s.keepers[k].at = At::Look;
            return Ok(());
        };
        if s.file == Content::Missing {
            self.saw(Sometimes::RemovedMeanwhile);
            let lies = staged.lies;
            s.staged = None;
            s.keepers[k].at = At::Look;
            if self.broken == Some(Break::RemovedMadeAgain) {
                self.write_file(s, lies, true);
                self.written(s, k, goal);
            }
            return Ok(());
        }
        let (goes_in, ours) = (staged.lies, !staged.swap.back && !matches!(goal, Goal::Import(_)));
        staged.lies = s.file;
        if let Goal::Import(_) = goal {
            // The new login rules, whatever the older lineage had.
            s.ghost.received = Pairs::default();
        }
        self.write_file(s, goes_in, ours);
        s.keepers[k].at = At::CameOut(goal);
        Ok(())
    }

    pub(super) fn came_out(&self, s: &mut State, k: usize, goal: Goal) -> Done {
        let Some(staged) = s.staged else {
            s.keepers[k].at = At::Look;
            return Ok(());
        };
        if staged.swap.came_out(staged.lies).is_some() {
            self.saw(Sometimes::EditSwappedOut);
            s.keepers[k].at = At::PutBack(goal);
            return Ok(());
        }
        forget_staged(s);
        let wanted = self.goes_in(s, goal).map(Content::Grant);
        if wanted == Some(staged.swap.goes_in) {
            self.written(s, k, goal);
        } else {
            s.keepers[k].at = At::Look;
        }
        Ok(())
    }

    /// The file has what should go in.
    pub(super) fn written(&self, s: &mut State, k: usize, goal: Goal) {
        s.keepers[k].at = match goal {
            Goal::Commit(attempt) => At::Remember(attempt),
            Goal::Forward(attempt) => {
                let newest = s.record.map(|record| record.pair);
                if newest == self.pair_of(s, attempt) { At::Look } else { At::Remember(attempt) }
            }
            Goal::Import(pair) => At::TakeIn(pair),
            Goal::Back => At::Look,
        };
    }
}

/// What came out gets the name under which it goes back.
pub(super) fn put_back(s: &mut State, k: usize, goal: Goal) {
    let back = s.staged.and_then(|staged| staged.swap.way_back(staged.lies));
    match (&mut s.staged, back) {
        (Some(staged), Some(back)) => {
            staged.swap = back;
            s.keepers[k].at = At::Exchange(goal);
        }
        (Some(_) | None, _) => s.keepers[k].at = At::Look,
    }
}

/// What lies beside the file has the bytes that were read, or those that went in.
pub(super) fn forget_staged(s: &mut State) {
    if let Some(staged) = s.staged.take()
        && s.ghost.unseen == Some(staged.lies)
    {
        s.ghost.unseen = None;
    }
}
