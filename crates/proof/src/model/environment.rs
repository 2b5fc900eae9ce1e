//! Everything that is not a keeper: provider and network, people and programs that edit the file, crashes, pauses,
//! and time.

use super::bridge::Write;
use super::keeper::seen;
use super::restored::{marks_are_of_use, raise};
use super::state::{ANY, ATTEMPTS, Answer, At, Content, FAMILIES, Keeper, Net, Pair, Pairs, State};
use super::{Break, Budget, Class, Model, Sometimes, Vault, Violation};

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// A keeper takes its next step.
    Step(u8, At),
    /// A keeper takes the lock or the lease for a look.
    Wake {
        /// Which.
        keeper: u8,
        /// A 401 was seen.
        refused: bool,
    },
    /// A look that somebody forces.
    Forced(u8),
    /// A keeper takes the lock to bring a grant in.
    Import(u8, Pair),
    /// A keeper takes the lock to settle an answer that is only in its memory.
    SettleMemory(u8, u8),
    /// It tries once more to write that receipt.
    WriteReceipt(u8),
    /// The acknowledgement of a write is lost: it happened, and the keeper looks again.
    LostAcknowledgement(u8, At),
    /// A receipt cannot be written.
    ReceiptUnwritable(u8, u8),
    /// A process dies, and is started again.
    Crash(u8, At),
    /// A publication waits while its process goes on.
    PublishLater(u8),
    /// It happens now.
    PublishNow(u8),
    /// The deadline of a keeper's attempt passes.
    Deadline(u8),
    /// The holder's lease ends.
    LeaseEnds,
    /// A late answer is written down.
    LateAnswer(u8),
    /// The reading of a late answer is given up.
    GiveUp(u8),
    /// The provider processes an exchange, and answers so.
    Process(u8, Answer),
    /// What is on the way is lost.
    Lose(u8),
    /// A person logs in.
    LogIn(Pair),
    /// An older file is put back.
    PutBack(Pair),
    /// The file is taken away.
    Remove,
    /// The file is spoilt.
    Spoil,
    /// A foreign client rotates what the file holds.
    ForeignRotation(Pair),
    /// The provider ends a login.
    Revoke(u8),
    /// Access tokens grow older.
    TimePasses,
    /// The grace of a login passes by one more count.
    GracePasses(u8),
    /// The database is backed up.
    BackUp,
    /// It is restored from that.
    Restore,
    /// A machine hears where the chain stands.
    Hears(u8),
    /// A machine compares what it has seen with the row.
    Compare(u8),
    /// Intents are taken again.
    HoldEnds,
}

/// What may happen, with the state after it.
pub(super) type Moves = Vec<(Action, Result<State, Violation>)>;

impl Model {
    /// Everything that may happen next.
    pub(super) fn moves(&self, s: &State, moves: &mut Moves) {
        if let Some(k) = (0..self.config.keepers).find(|k| self.is_private(s.keepers[*k].at)) {
            self.step_move(s, k, moves);
            self.step_faults(s, k, moves);
            if !matches!(s.keepers[k].at, At::Publish(_)) {
                self.crash_move(s, k, moves);
            }
            return;
        }
        for k in 0..self.config.keepers {
            self.keeper_moves(s, k, moves);
        }
        for attempt in 1..=ATTEMPTS as u8 {
            self.network_moves(s, attempt, moves);
        }
        self.time_moves(s, moves);
        if self.config.vault == Vault::AuthFile {
            self.edits(s, moves);
        } else {
            self.pushes(s, moves);
            self.restore_moves(s, moves);
        }
        for family in 0..FAMILIES as u8 {
            let lives = s.families[usize::from(family)].exists && !s.families[usize::from(family)].revoked;
            if lives {
                self.spend(
                    s,
                    moves,
                    Action::Revoke(family),
                    |left| &mut left.revocations,
                    |s| {
                        s.families[usize::from(family)].revoked = true;
                    },
                );
            }
        }
    }

    /// What is nobody else's business, so that there is no need to interleave it: what a process tells its own readers,
    /// and at a database what it does with receipts on its own disk.
    fn is_private(&self, at: At) -> bool {
        let receipts = matches!(at, At::Keep(..) | At::DropReceipts(_));
        matches!(at, At::Publish(_)) || self.config.vault == Vault::Database && receipts
    }

    /// A fault that changes anything, if the budget has one left.
    pub(super) fn spend(
        &self,
        s: &State,
        moves: &mut Moves,
        action: Action,
        which: impl Fn(&mut Budget) -> &mut u8,
        with: impl FnOnce(&mut State),
    ) {
        let mut next = *s;
        if next.left.total > 0 && *which(&mut next.left) > 0 {
            next.left.total -= 1;
            let left = which(&mut next.left);
            *left -= u8::from(*left != ANY);
            with(&mut next);
            if (State { left: s.left, ..next }) != *s {
                moves.push((action, Ok(next)));
            }
        }
    }

    fn keeper_moves(&self, s: &State, k: usize, moves: &mut Moves) {
        let (keeper, name) = (s.keepers[k], k as u8);
        self.step_move(s, k, moves);
        self.step_faults(s, k, moves);
        if let Some(seen) = keeper.background {
            let mut next = *s;
            next.keepers[k].background = None;
            let done = self.publish(&mut next, k, Some(seen));
            moves.push((Action::PublishNow(name), done.map(|()| next)));
        }
        if keeper.at == At::Idle {
            self.wakes(s, k, moves);
        }
        self.crash_move(s, k, moves);
    }

    fn crash_move(&self, s: &State, k: usize, moves: &mut Moves) {
        let action = Action::Crash(k as u8, s.keepers[k].at);
        self.spend(s, moves, action, |left| &mut left.crashes, |s| self.crash(s, k));
    }

    fn step_move(&self, s: &State, k: usize, moves: &mut Moves) {
        if !self.can_step(s, k) {
            return;
        }
        let mut next = *s;
        let done = self.step(&mut next, k);
        moves.push((Action::Step(k as u8, s.keepers[k].at), done.map(|()| next)));
        if s.keepers[k].at == At::Look {
            let mut forced = *s;
            forced.keepers[k].forced = true;
            let done = self.step(&mut forced, k);
            forced.keepers[k].forced = false;
            if forced != next || done.is_err() {
                moves.push((Action::Forced(k as u8), done.map(|()| forced)));
            }
        }
    }

    pub(super) fn can_step(&self, s: &State, k: usize) -> bool {
        if let At::Await(attempt) = s.keepers[k].at {
            return matches!(s.attempt(attempt).net, Net::Answered(_));
        }
        s.keepers[k].at != At::Idle
    }

    fn step_faults(&self, s: &State, k: usize, moves: &mut Moves) {
        let (keeper, name) = (s.keepers[k], k as u8);
        if let At::Keep(attempt, answer) = keeper.at {
            self.spend(
                s,
                moves,
                Action::ReceiptUnwritable(name, attempt),
                |left| &mut left.disk,
                |s| {
                    self.keep(s, attempt, answer, false);
                    s.keepers[k].settles = attempt;
                    s.keepers[k].at = At::Look;
                },
            );
        }
        if let (At::Publish(Some(seen)), None, 0) = (keeper.at, keeper.background, k) {
            self.spend(
                s,
                moves,
                Action::PublishLater(name),
                |left| &mut left.pauses,
                |s| {
                    s.keepers[k].background = Some(seen);
                    s.keepers[k].at = At::Idle;
                },
            );
        }
        match self.config.vault {
            Vault::AuthFile => self.deadline(s, k, moves),
            Vault::Database => self.lost_acknowledgement(s, k, moves),
        }
    }

    fn deadline(&self, s: &State, k: usize, moves: &mut Moves) {
        let at = s.keepers[k].at;
        let (At::Await(attempt) | At::Check(attempt)) = at else { return };
        self.spend(
            s,
            moves,
            Action::Deadline(k as u8),
            |left| &mut left.pauses,
            |s| {
                s.attempt_mut(attempt).late = true;
                if at == At::Await(attempt) {
                    self.rest(s, k, s.record.as_ref().map(seen));
                }
            },
        );
    }

    /// The transaction happened, or was refused; either way the keeper does not know, and reads again.
    fn lost_acknowledgement(&self, s: &State, k: usize, moves: &mut Moves) {
        let at = s.keepers[k].at;
        if !matches!(at, At::Commit(_) | At::Intend(_) | At::Settle(_)) {
            return;
        }
        let action = Action::LostAcknowledgement(k as u8, at);
        self.spend(
            s,
            moves,
            action,
            |left| &mut left.disk,
            |s| {
                let _ = self.step(s, k);
                if let At::Intend(attempt) = at {
                    s.attempt_mut(attempt).reading = false;
                }
                s.keepers[k].at = At::Look;
                self.saw(Sometimes::LostAcknowledgement);
            },
        );
    }

    fn wakes(&self, s: &State, k: usize, moves: &mut Moves) {
        let ignored = match self.config.vault {
            Vault::AuthFile => self.broken == Some(Break::LockIgnored),
            Vault::Database => self.broken == Some(Break::LeaseIgnored),
        };
        if s.holder != 0 && !ignored {
            return;
        }
        let name = k as u8;
        let mut wake = |action, with: &dyn Fn(&mut State)| {
            let mut next = *s;
            next.holder = name + 1;
            next.keepers[k].at = At::Look;
            with(&mut next);
            moves.push((action, Ok(next)));
        };
        wake(Action::Wake { keeper: name, refused: false }, &|_| {});
        if let Some(record) = s.record
            && !record.access_refused
            && !s.access_lives(record.pair)
        {
            let action = Action::Wake { keeper: name, refused: true };
            wake(action, &|s| s.keepers[k].refused = Some(record.position()));
        }
        for attempt in 1..=ATTEMPTS as u8 {
            let of = s.attempt(attempt);
            if of.by == name + 1 && of.memory.is_some() {
                wake(Action::SettleMemory(name, attempt), &|s| s.keepers[k].settles = attempt);
            }
        }
        if self.config.vault == Vault::AuthFile
            && let Some(pair) = next_login(s)
        {
            self.spend(
                s,
                moves,
                Action::Import(name, pair),
                |left| &mut left.imports,
                |s| {
                    log_in(s, pair);
                    s.holder = name + 1;
                    s.keepers[k].at = At::Look;
                    s.keepers[k].import = Some(pair);
                },
            );
        }
    }

    fn crash(&self, s: &mut State, k: usize) {
        self.crashed(&s.keepers[k].at);
        if let At::Keep(_, Answer::Tokens(pair)) = s.keepers[k].at {
            // The one window that stays open.
            s.ghost.received.remove(pair);
        }
        for attempt in &mut s.attempts {
            if usize::from(attempt.by) != k + 1 {
                continue;
            }
            if let Some(Answer::Tokens(pair)) = attempt.memory
                && self.broken != Some(Break::ReceiptSkipped)
            {
                // Two faults at once: no room for the answer though it was reserved, and a crash. The pair may be
                // lost, or found in the file and adopted.
                s.ghost.received.remove(pair);
                s.ghost.file_is_ours = false;
            }
            (attempt.reading, attempt.memory) = (false, None);
        }
        let freed = self.config.vault == Vault::AuthFile && self.broken != Some(Break::LockOutlivesItsHolder);
        if usize::from(s.holder) == k + 1 && freed {
            s.holder = 0;
        }
        s.keepers[k] = Keeper::default();
    }

    fn time_moves(&self, s: &State, moves: &mut Moves) {
        for k in 0..self.config.keepers {
            if self.config.vault == Vault::Database && usize::from(s.holder) == k + 1 {
                self.lease_ends(s, k, moves);
            }
        }
        // Time matters only to who is about to look at it: elsewhere it may as well pass later. While intents are held, which
        // is for minutes, no access token ends that has long to live.
        let at = |is: fn(&At) -> bool| s.keepers.iter().any(|keeper| is(&keeper.at));
        let looked_at = at(|at| *at == At::Look);
        if let Some(record) = &s.record
            && s.age(record.pair) < self.config.oldest()
            && looked_at
            && !s.restored.held
        {
            let mut next = *s;
            self.grow_older(&mut next);
            moves.push((Action::TimePasses, Ok(next)));
        }
        if self.config.class != Class::Grace {
            return;
        }
        let keepers_look = looked_at || at(|at| matches!(at, At::Check(_)));
        let provider_looks = s.attempts.iter().any(|attempt| attempt.net == Net::Request);
        // Who has looked at the clock has sent before the provider's grace is over too: no check can do better.
        let sending = at(|at| matches!(at, At::Send(_)));
        for (index, family) in s.families.iter().enumerate() {
            let passes = match family.grace {
                0 => keepers_look,
                1 => provider_looks && !sending,
                _ => false,
            };
            if passes && family.newest > 0 {
                let mut next = *s;
                next.families[index].grace += 1;
                moves.push((Action::GracePasses(index as u8), Ok(next)));
            }
        }
    }

    pub(super) fn grow_older(&self, s: &mut State) {
        for pair in Pair::all() {
            if !given(s, pair) {
                continue;
            }
            let age = &mut s.ages[usize::from(pair.0)];
            *age = (*age + 1).min(self.config.oldest());
        }
    }

    /// A lease outlives its holder's deadline by more than any pause: who has checked its deadline has sent.
    fn lease_ends(&self, s: &State, k: usize, moves: &mut Moves) {
        let keeper = s.keepers[k];
        let sending = matches!(keeper.at, At::Send(_));
        if sending && self.broken != Some(Break::PauseBoundDropped) {
            return;
        }
        let ends = |s: &mut State| {
            s.holder = 0;
            if let At::Check(attempt) | At::Await(attempt) = keeper.at {
                s.attempt_mut(attempt).late = true;
            }
            if let At::Await(_) = keeper.at {
                self.rest(s, k, s.record.as_ref().map(seen));
            }
            self.saw(Sometimes::TakenOver);
        };
        if keeper.at != At::Idle {
            self.spend(s, moves, Action::LeaseEnds, |left| &mut left.pauses, ends);
        } else {
            let mut next = *s;
            ends(&mut next);
            moves.push((Action::LeaseEnds, Ok(next)));
        }
    }

    fn edits(&self, s: &State, moves: &mut Moves) {
        let edit = |action, content, moves: &mut Moves, more: &dyn Fn(&mut State)| {
            self.spend(
                s,
                moves,
                action,
                |left| &mut left.edits,
                |s| {
                    more(s);
                    // Who overwrites the only copy of a pair has seen it.
                    if let Content::Grant(pair) = s.file
                        && !s.in_receipt(pair)
                    {
                        s.ghost.received.remove(pair);
                    }
                    self.write_file(s, content, false);
                    s.ghost.unseen = (content != Content::Missing).then_some(content);
                },
            );
        };
        if let Some(pair) = next_login(s) {
            edit(Action::LogIn(pair), Content::Grant(pair), moves, &|s| log_in(s, pair));
        }
        for pair in Pair::all() {
            if s.ghost.was_in_file.has(pair) && s.file != Content::Grant(pair) {
                edit(Action::PutBack(pair), Content::Grant(pair), moves, &|_| {});
            }
        }
        if s.file != Content::Missing {
            edit(Action::Remove, Content::Missing, moves, &|_| {});
        }
        if s.file != Content::Garbage {
            edit(Action::Spoil, Content::Garbage, moves, &|_| {});
        }
        if let Content::Grant(pair) = s.file {
            let family = s.families[pair.family()];
            let usable = !family.revoked && usize::from(family.newest) == pair.generation();
            if usable && s.has_room(pair.family()) {
                self.spend(
                    s,
                    moves,
                    Action::ForeignRotation(pair),
                    |left| &mut left.foreign,
                    |s| {
                        if let Answer::Tokens(next) = self.provider(s, pair) {
                            let content = Content::Grant(next);
                            self.write_file(s, content, false);
                            s.ghost.unseen = Some(content);
                            self.saw(Sometimes::ForeignRotation);
                        }
                    },
                );
            }
        }
    }

    /// At a database a push is a transaction of its own, whoever holds the lease.
    fn pushes(&self, s: &State, moves: &mut Moves) {
        let Some(pair) = next_login(s) else { return };
        // Whoever took it remembers; without a restore that is of no use.
        let takers = if marks_are_of_use(s) { self.config.keepers } else { 1 };
        for k in 0..takers {
            self.spend(
                s,
                moves,
                Action::LogIn(pair),
                |left| &mut left.imports,
                |s| {
                    log_in(s, pair);
                    self.write(s, Write::TakeIn { pair, imported: true });
                    s.ghost.received = Pairs::default();
                    raise(s, k, self.to_raise(s));
                },
            );
        }
    }
}

fn given(s: &State, pair: Pair) -> bool {
    let family = s.families[pair.family()];
    family.exists && pair.generation() <= usize::from(family.newest)
}

fn next_login(s: &State) -> Option<Pair> {
    let family = s.families.iter().position(|family| !family.exists)?;
    Some(Pair::new(family, 0))
}

fn log_in(s: &mut State, pair: Pair) {
    s.families[pair.family()].exists = true;
    s.ghost.durable.add(pair);
}
