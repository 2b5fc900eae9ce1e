//! A keeper of the model, step by step: each step is one read or one durable write, so that a crash, an edit or
//! another keeper may fall between any two.

use super::bridge::{Facts, Filed, Verdict, Write};
use super::file::{forget_staged, put_back};
use super::restored::raise;
use super::state::{
    ATTEMPTS, Answer, At, Attempt, Content, Goal, Pair, Pairs, Rec, Receipt, Seen, Standing, State,
};
use super::{Break, Model, Sometimes, Vault, Violation};

type Done = Result<(), Violation>;

impl Model {
    /// The next step of a keeper that is about to do something.
    pub(super) fn step(&self, s: &mut State, k: usize) -> Done {
        match s.keepers[k].at {
            At::Idle => Ok(()),
            At::Look => self.look(s, k),
            At::Stage(goal) => self.stage(s, k, goal),
            At::Exchange(goal) => self.exchange(s, k, goal),
            At::CameOut(goal) => self.came_out(s, k, goal),
            At::PutBack(goal) => {
                put_back(s, k, goal);
                Ok(())
            }
            At::MakeFile(pair) => {
                let missing = s.file == Content::Missing;
                if missing {
                    // A grant that was handed in may be adopted after a crash: it is a new lineage either way.
                    self.write_file(s, Content::Grant(pair), false);
                }
                s.keepers[k].at = if missing { At::TakeIn(pair) } else { At::Look };
                Ok(())
            }
            At::Remember(attempt) => self.remember(s, k, attempt),
            At::Books(attempt) | At::Commit(attempt) => self.books(s, k, attempt),
            At::DropReceipts(stands) => {
                raise(s, k, stands);
                self.drop_receipts(s, k);
                self.written_down(s, k);
                Ok(())
            }
            At::Settle(attempt) => self.settle(s, k, attempt),
            At::Doubt => {
                // Only who holds the lease may say so: its last holder may be about to send.
                if s.record.is_none_or(|record| record.intent == 0) {
                    s.keepers[k].at = At::Look;
                } else if self.has_right(s, k) {
                    self.write(s, Write::Doubt);
                    self.written_down(s, k);
                } else {
                    self.rest(s, k, None);
                }
                Ok(())
            }
            At::Outdate(attempt) => {
                self.outdate(s, k, attempt);
                Ok(())
            }
            At::Adopt => self.adopt(s, k),
            At::TakeIn(pair) => {
                self.write(s, Write::TakeIn { pair, imported: true });
                s.ghost.received = Pairs::default();
                s.keepers[k].import = None;
                self.rest(s, k, s.record.as_ref().map(seen));
                Ok(())
            }
            At::Reserve => self.reserve(s, k),
            At::Intend(attempt) => self.intend(s, k, attempt),
            At::Check(attempt) => {
                if self.restores() {
                    let of = s.attempt(attempt);
                    raise(s, k, Some((of.lineage, of.generation, attempt)));
                }
                let times = s.attempt(attempt).presented.map_or((0, 0), |pair| self.times(s, pair));
                let in_time = s.record.is_some_and(|record| self.bridge.in_time(record, times));
                let late = s.attempt(attempt).late || !in_time;
                if late {
                    self.saw(Sometimes::DeadlineBeforeSending);
                    s.attempt_mut(attempt).unspent = true;
                }
                s.keepers[k].at = if late { At::Keep(attempt, Answer::NotSent) } else { At::Send(attempt) };
                // Under a lock nothing can come in between; under a lease the holder may be paused here.
                if !late && self.config.vault == Vault::AuthFile { self.send(s, k, attempt) } else { Ok(()) }
            }
            At::Send(attempt) => self.send(s, k, attempt),
            At::Await(attempt) => {
                self.receive(s, attempt, |s, answer| s.keepers[k].at = At::Keep(attempt, answer));
                if self.broken == Some(Break::PublishBeforeSync)
                    && let At::Keep(_, Answer::Tokens(pair)) = s.keepers[k].at
                    && let Some(record) = &s.record
                {
                    let position = (record.lineage, record.generation + 1);
                    return self.publish(s, k, Some(Seen { position, pair }));
                }
                Ok(())
            }
            At::Keep(attempt, answer) => {
                self.keep(s, attempt, answer, self.broken != Some(Break::ReceiptSkipped));
                s.keepers[k].settles = if s.attempt(attempt).memory.is_some() { attempt } else { 0 };
                s.keepers[k].at = At::Look;
                Ok(())
            }
            At::Publish(seen) => {
                s.keepers[k].at = At::Idle;
                self.publish(s, k, seen)
            }
        }
    }

    pub(super) fn facts(&self, s: &State, k: usize) -> Facts {
        let mut receipts = [None; ATTEMPTS];
        for (filed, receipt) in receipts.iter_mut().zip(&s.receipts) {
            let (of, answer) = match *receipt {
                Receipt::Missing => continue,
                Receipt::Reserved(of) => (of, None),
                Receipt::Answered(of, answer) => (of, Some(answer)),
            };
            let attempt = s.attempt(of);
            if !self.in_reach(attempt, k) {
                continue;
            }
            *filed = self.filed(attempt, of, answer);
        }
        let settles = s.keepers[k].settles;
        if settles > 0 && s.attempt(settles).memory.is_some() {
            let attempt = s.attempt(settles);
            receipts[usize::from(settles) - 1] = self.filed(attempt, settles, attempt.memory);
        }
        let (file, record) = (self.vault(s), s.record);
        let replaced = match (file, &record) {
            (Content::Grant(pair), record) => {
                record.is_none_or(|record| record.pair != pair) && s.replaced.has(pair)
            }
            (Content::Missing | Content::Garbage, _) => false,
        };
        let edit_beside = s.staged.is_some_and(|staged| staged.swap.way_back(staged.lies).is_some());
        Facts { file, record, receipts, replaced, edit_beside }
    }

    pub(super) fn filed(&self, attempt: &Attempt, of: u8, answer: Option<Answer>) -> Option<Filed> {
        let being_read = attempt.reading && self.broken != Some(Break::PresentWhileRead);
        let Attempt { lineage, generation, presented, .. } = *attempt;
        Some(Filed { attempt: of, lineage, generation, presented: presented?, answer, being_read })
    }

    /// What the vault holds: the file, or the row's own pair.
    fn vault(&self, s: &State) -> Content {
        match (self.config.vault, &s.record) {
            (Vault::AuthFile, _) => s.file,
            (Vault::Database, record) => {
                record.map_or(Content::Missing, |record| Content::Grant(record.pair))
            }
        }
    }

    fn verdict(&self, s: &State, k: usize) -> Verdict {
        if let (Vault::Database, Some(record)) = (self.config.vault, s.record) {
            let verdict = self.row_verdict(s, k, record);
            let presents = verdict == Verdict::Elsewhere && self.broken == Some(Break::OtherMachinePresents);
            return if presents { Verdict::InDoubt } else { verdict };
        }
        let facts = self.facts(s, k);
        let differs = match (facts.file, &facts.record) {
            (Content::Grant(pair), Some(record)) => record.pair != pair,
            (Content::Grant(_) | Content::Missing | Content::Garbage, _) => false,
        };
        match self.broken {
            Some(Break::AdoptBeforeReceipts) if differs && !facts.replaced => return Verdict::Adopt,
            Some(Break::ReplacedAdopted) if facts.replaced => return Verdict::Adopt,
            Some(Break::StaleLineage) => {
                if let Some(filed) = older_lineage(&facts) {
                    return Verdict::Commit(filed.attempt);
                }
            }
            Some(_) | None => {}
        }
        self.bridge.recover(facts)
    }

    fn look(&self, s: &mut State, k: usize) -> Done {
        let file = self.vault(s);
        s.keepers[k].read = Some(file);
        if s.ghost.unseen == Some(file) {
            s.ghost.unseen = None;
        }
        let verdict = self.verdict(s, k);
        if verdict != Verdict::SwapBack {
            // What an earlier commit left otherwise is removed.
            forget_staged(s);
        }
        let known = s.record.as_ref().map(seen);
        if self.is_left(verdict) {
            self.rest(s, k, known);
            return Ok(());
        }
        s.keepers[k].at = match verdict {
            Verdict::SwapBack => At::PutBack(Goal::Back),
            Verdict::Absent | Verdict::Malformed => return self.stop(s, k, None),
            Verdict::Spent => {
                self.saw(Sometimes::Spent);
                return self.stop(s, k, None);
            }
            Verdict::BeingRead => {
                self.saw(Sometimes::BeingRead);
                return self.stop(s, k, known);
            }
            Verdict::Finish(attempt) => {
                self.saw(Sometimes::OwnCommitFinished);
                At::Remember(attempt)
            }
            Verdict::Commit(attempt) if self.config.vault == Vault::Database => At::Commit(attempt),
            Verdict::Commit(attempt) => At::Stage(Goal::Commit(attempt)),
            Verdict::Forward(attempt) => {
                self.saw(Sometimes::RolledForward);
                At::Stage(Goal::Forward(attempt))
            }
            Verdict::Settle(attempt) => At::Settle(attempt),
            Verdict::BringUp(attempt) => {
                self.bring_up(s, k, attempt);
                return Ok(());
            }
            Verdict::Forgotten(mark) => {
                self.forgotten(s, k, mark);
                return Ok(());
            }
            Verdict::Behind(mark) => return self.behind(s, k, mark),
            // Without a lease nothing is said but what an answer says, or a mark.
            Verdict::InDoubt | Verdict::Clean if s.keepers[k].compares => {
                self.rest(s, k, known);
                return Ok(());
            }
            Verdict::Elsewhere => {
                self.saw(Sometimes::WaitsForOtherMachine);
                return self.stop(s, k, known);
            }
            Verdict::InDoubt => return self.in_doubt(s, k),
            Verdict::Outdated(attempt) => At::Outdate(attempt),
            Verdict::Adopt => At::Adopt,
            Verdict::Clean => return self.ready(s, k),
        };
        Ok(())
    }

    /// What a broken keeper leaves as it found it.
    fn is_left(&self, verdict: Verdict) -> bool {
        match self.broken {
            Some(Break::ReceiptLeft) => matches!(verdict, Verdict::Commit(_) | Verdict::Finish(_)),
            Some(Break::IntentLeft) => matches!(verdict, Verdict::InDoubt | Verdict::Settle(_)),
            Some(_) | None => false,
        }
    }

    /// At a database another machine may have presented the pair once more after its access token had ended: then
    /// that presentation was the last one, and rules. Its answer is waited for.
    fn intent_of_another(&self, s: &State, attempt: u8) -> bool {
        let open = s.record.map_or(0, |record| record.intent);
        self.config.vault == Vault::Database && open != 0 && open != attempt
    }

    /// An open intent without an answer.
    fn in_doubt(&self, s: &mut State, k: usize) -> Done {
        let Some(record) = s.record else { return Ok(()) };
        if self.broken == Some(Break::DoubtAsFailed) {
            s.record = Some(Rec { intent: 0, standing: Standing::Live, ..record });
            return Ok(());
        }
        s.keepers[k].at = At::Doubt;
        Ok(())
    }

    /// Nothing is open: an import goes in, or it is decided whether the pair is presented.
    fn ready(&self, s: &mut State, k: usize) -> Done {
        let Some(record) = s.record else { return Ok(()) };
        let known = Some(seen(&record));
        let keeper = s.keepers[k];
        if keeper.import.is_some() || keeper.settles > 0 {
            return self.stop(s, k, known);
        }
        if keeper.refused == Some(record.position()) && !record.access_refused {
            s.record = Some(Rec { access_refused: true, ..record });
            return Ok(());
        }
        let times = self.times(s, record.pair);
        let why = self.bridge.decide(record, times, keeper.forced);
        let has_room = s.has_room(record.pair.family());
        // To present a replaced pair makes no other.
        let newest = usize::from(s.families[record.pair.family()].newest);
        let has_room = has_room || self.restores() && record.pair.generation() < newest;
        match why.filter(|_| self.broken != Some(Break::DueUnseen)) {
            Some(_) if has_room => s.keepers[k].at = At::Reserve,
            Some(_) | None => self.rest(s, k, known),
        }
        Ok(())
    }

    /// Nothing more can be done with what the vault holds; an import may go in all the same.
    fn stop(&self, s: &mut State, k: usize, known: Option<Seen>) -> Done {
        let Some(pair) = s.keepers[k].import else {
            self.rest(s, k, known);
            return Ok(());
        };
        let is_current = s.record.is_some_and(|record| record.pair == pair);
        if is_current || s.replaced.has(pair) {
            s.keepers[k].import = None;
            self.rest(s, k, known);
        } else if self.vault(s) == Content::Missing {
            s.keepers[k].at = At::MakeFile(pair);
        } else {
            s.keepers[k].at = At::Stage(Goal::Import(pair));
        }
        Ok(())
    }

    /// The look is over.
    pub(super) fn rest(&self, s: &mut State, k: usize, known: Option<Seen>) {
        let settles = s.keepers[k].settles;
        if settles > 0 {
            self.memory_settled(s, settles);
        }
        if usize::from(s.holder) == k + 1 {
            s.holder = 0;
        }
        s.restored.compared[k] |= s.keepers[k].compares && s.restored.held;
        let keeper = &mut s.keepers[k];
        keeper.compares = false;
        (keeper.read, keeper.refused, keeper.forced, keeper.settles) = (None, None, false, 0);
        keeper.at = At::Publish(known);
    }

    /// What was settled from memory is let go of once the chain has moved on; else it is tried again.
    fn memory_settled(&self, s: &mut State, attempt: u8) {
        let filed = self.filed(s.attempt(attempt), attempt, s.attempt(attempt).memory);
        let is_open = |record| filed.is_some_and(|filed| self.bridge.is_open(record, filed));
        if !s.record.is_some_and(is_open) || self.broken == Some(Break::MemoryForgotten) {
            let of = s.attempt_mut(attempt);
            (of.memory, of.reading) = (None, false);
        }
    }

    pub(super) fn times(&self, s: &State, pair: Pair) -> (u8, u8) {
        (s.age(pair), s.families[pair.family()].grace)
    }

    fn remember(&self, s: &mut State, k: usize, attempt: u8) -> Done {
        let (Some(record), Some(pair)) = (s.record, self.pair_of(s, attempt)) else {
            s.keepers[k].at = At::Look;
            return Ok(());
        };
        if self.bridge.replaces(record.pair, pair) {
            let kept = s.file == Content::Grant(pair) || s.in_receipt(pair);
            if !kept && s.attempt(attempt).memory.is_none() && s.ghost.file_is_ours {
                return Err(Violation::new(
                    "I3",
                    format!("{:?} is forgotten before {pair:?} is durable", record.pair),
                ));
            }
            s.replaced.add(record.pair);
        }
        s.keepers[k].at = At::Books(attempt);
        Ok(())
    }

    /// The record moves on; in a database this is the whole commit, where the chain's pair is still the
    /// one that was presented.
    fn books(&self, s: &mut State, k: usize, attempt: u8) -> Done {
        let of = *s.attempt(attempt);
        s.keepers[k].at = At::Look;
        let (Some(record), Some(answer), Some(presented)) = (s.record, self.answer(s, attempt), of.presented)
        else {
            return Ok(());
        };
        let moved = record.pair != presented || self.intent_of_another(s, attempt);
        if self.config.vault == Vault::Database && moved && self.broken != Some(Break::StaleLineage) {
            self.saw(Sometimes::ChainMovedBeforeCommit);
            return Ok(());
        }
        if record.lineage != of.lineage && record.pair != presented {
            return Err(Violation::new("I4", "the result of an older lineage overwrites a newer one"));
        }
        let known = if self.restores() { self.known(s, k) } else { None };
        let write = Write::Commit { attempt, presented, answer, file: presented, known };
        let Some(next) = self.bridge.write(Some(record), self.times(s, record.pair), write) else {
            self.rest(s, k, None);
            return Ok(());
        };
        if next.pair.family() != record.pair.family() {
            return Err(Violation::new("I4", "the pair of another login overwrites this one's"));
        }
        if of.late {
            self.saw(Sometimes::LateAnswerCommitted);
        }
        if matches!(record.standing, Standing::Refused(_)) {
            self.saw(Sometimes::RefusedThenCommitted);
        }
        if self.bridge.replaces(record.pair, next.pair) {
            s.ghost.replaced.add(record.pair);
            s.replaced.add(record.pair);
        }
        s.ghost.durable.add(next.pair);
        self.store(s, next);
        s.keepers[k].at = At::DropReceipts(self.to_raise(s));
        Ok(())
    }

    fn drop_receipts(&self, s: &mut State, k: usize) {
        let keep = s.record.map_or(0, |record| record.made_by);
        for slot in 0..ATTEMPTS {
            let of = match s.receipts[slot] {
                Receipt::Missing => continue,
                Receipt::Reserved(of) | Receipt::Answered(of, _) => of,
            };
            let being_read = s.attempt(of).reading && self.broken != Some(Break::PresentWhileRead);
            // Where a restored row was put back, later ones may hold its successor; elsewhere they say nothing any more.
            let old = if self.restores() { of < keep } else { of != keep };
            if old && !being_read && self.in_reach(s.attempt(of), k) {
                s.receipts[slot] = Receipt::Missing;
            }
        }
    }

    fn settle(&self, s: &mut State, k: usize, attempt: u8) -> Done {
        let of = *s.attempt(attempt);
        let (Some(record), Some(answer)) = (s.record, self.answer(s, attempt)) else {
            s.keepers[k].at = At::Look;
            return Ok(());
        };
        let moved = record.position() != (of.lineage, of.generation) || record.intent != attempt;
        if self.config.vault == Vault::Database && moved {
            s.keepers[k].at = At::Look;
            return Ok(());
        }
        self.write(s, Write::Settle(answer));
        s.keepers[k].at = At::DropReceipts(self.to_raise(s));
        let refused = s.record.is_some_and(|next| matches!(next.standing, Standing::Refused(_)));
        if refused && !s.ghost.refused.has(record.pair) {
            return Err(Violation::new(
                "I6",
                format!("{:?} is called revoked, and the provider never said so", record.pair),
            ));
        }
        Ok(())
    }

    pub(super) fn write(&self, s: &mut State, write: Write) {
        let times = s.record.map_or((0, 0), |record| self.times(s, record.pair));
        match (write, self.bridge.write(s.record, times, write)) {
            (_, None) => {}
            (Write::Begin(_) | Write::TakeIn { .. }, next) => s.record = next,
            (_, Some(next)) => self.store(s, next),
        }
    }

    /// The record is written. With a row, unless it is an intent or a login, its lease ends, whoever has it.
    pub(super) fn store(&self, s: &mut State, next: Rec) {
        s.record = Some(next);
        if self.config.vault == Vault::Database {
            s.holder = 0;
        }
    }

    /// What was found is of record: under a lock, or where rows are compared, it is looked what else there is.
    pub(super) fn written_down(&self, s: &mut State, k: usize) {
        if self.config.vault == Vault::AuthFile || s.keepers[k].compares {
            s.keepers[k].at = At::Look;
        } else {
            self.rest(s, k, s.record.as_ref().map(seen));
        }
    }

    /// What an answer of an older lineage shows to be spent is remembered, and the receipt goes.
    fn outdate(&self, s: &mut State, k: usize, attempt: u8) {
        self.saw(Sometimes::Outdated);
        if let Some(presented) = s.attempt(attempt).presented {
            s.replaced.add(presented);
            s.ghost.replaced.add(presented);
        }
        s.receipts[self.slot(attempt)] = Receipt::Missing;
        if s.keepers[k].settles == attempt {
            let of = s.attempt_mut(attempt);
            (of.memory, of.reading) = (None, false);
        }
        s.keepers[k].at = At::Look;
    }

    fn adopt(&self, s: &mut State, k: usize) -> Done {
        s.keepers[k].at = At::Look;
        let Some(Content::Grant(pair)) = s.keepers[k].read else { return Ok(()) };
        if s.ghost.file_is_ours && s.file == Content::Grant(pair) && s.record.is_some() {
            return Err(Violation::new("I9", format!("our own {pair:?} is taken for an outside edit")));
        }
        if s.ghost.replaced.has(pair) {
            return Err(Violation::new("I9", format!("{pair:?} was replaced, and is adopted")));
        }
        self.saw(Sometimes::Adopted);
        self.write(s, Write::TakeIn { pair, imported: false });
        s.ghost.received = Pairs::default();
        Ok(())
    }

    /// Readers are told, unless they know something newer.
    pub(super) fn publish(&self, s: &mut State, k: usize, next: Option<Seen>) -> Done {
        let Some(next) = next else { return Ok(()) };
        if !s.ghost.durable.has(next.pair) {
            return Err(Violation::new("I3", format!("readers see {:?}, which is not durable", next.pair)));
        }
        if k > 0 {
            // All keepers are alike: the readers of one are watched.
            return Ok(());
        }
        let before = s.keepers[k].snapshot;
        let older = before.is_some_and(|seen| seen.position > next.position);
        if older {
            self.saw(Sometimes::OlderSnapshotRefused);
        }
        if !older || self.broken == Some(Break::OlderSnapshot) {
            s.keepers[k].snapshot = Some(next);
        }
        if older && s.keepers[k].snapshot == Some(next) {
            return Err(Violation::new("I3", "readers see lineage and generation go backwards"));
        }
        Ok(())
    }
}

fn older_lineage(facts: &Facts) -> Option<Filed> {
    let record = facts.record?;
    let tokens = |filed: &&Filed| matches!(filed.answer, Some(Answer::Tokens(_)));
    facts.receipts.iter().flatten().filter(tokens).find(|filed| filed.lineage < record.lineage).copied()
}

pub(super) fn seen(record: &Rec) -> Seen {
    Seen { position: record.position(), pair: record.pair }
}
