//! The network and the provider of the model: what becomes of an exchange on its way, and at its end.

use super::environment::{Action, Moves};
use super::state::{Answer, At, Net, Pair, State};
use super::{Class, Model};

impl Model {
    pub(super) fn network_moves(&self, s: &State, number: u8, moves: &mut Moves) {
        let of = *s.attempt(number);
        if let Some(answer) = of.memory {
            let mut next = *s;
            self.keep(&mut next, number, answer, true);
            moves.push((Action::WriteReceipt(number), Ok(next)));
        }
        match of.net {
            Net::Quiet => {}
            Net::Request => self.process_moves(s, number, moves),
            Net::Answered(answer) if answer != Answer::Lost => {
                self.spend(
                    s,
                    moves,
                    Action::Lose(number),
                    |left| &mut left.lost,
                    |s| {
                        s.attempt_mut(number).net = Net::Answered(Answer::Lost);
                    },
                );
            }
            Net::Answered(_) => {}
        }
        let awaited = (0..self.config.keepers).any(|k| s.keepers[k].at == At::Await(number));
        if !of.late || !of.reading || awaited || of.memory.is_some() {
            return;
        }
        if let Net::Answered(_) = of.net {
            let mut next = *s;
            self.receive(&mut next, number, |s, answer| self.keep(s, number, answer, true));
            moves.push((Action::LateAnswer(number), Ok(next)));
        }
        if of.sent {
            self.spend(
                s,
                moves,
                Action::GiveUp(number),
                |left| &mut left.pauses,
                |s| {
                    s.attempt_mut(number).reading = false;
                },
            );
        }
    }

    fn process_moves(&self, s: &State, number: u8, moves: &mut Moves) {
        let of = s.attempt(number);
        let reply = |s: &mut State, answer| {
            let of = s.attempt_mut(number);
            of.net = if of.reading { Net::Answered(answer) } else { Net::Quiet };
        };
        if !of.reading {
            // Nobody would ever know: it may as well never arrive.
            let mut next = *s;
            next.attempt_mut(number).net = Net::Quiet;
            moves.push((Action::Lose(number), Ok(next)));
        }
        let Some(pair) = of.presented else { return };
        let mut next = *s;
        let answer = self.provider(&mut next, pair);
        reply(&mut next, answer);
        moves.push((Action::Process(number, answer), Ok(next)));
        for spends in [false, true] {
            self.spend(
                s,
                moves,
                Action::Process(number, Answer::ServerError),
                |left| &mut left.errors,
                |s| {
                    if spends {
                        self.provider(s, pair);
                    }
                    reply(s, Answer::ServerError);
                },
            );
        }
        self.spend(
            s,
            moves,
            Action::Process(number, Answer::Unavailable),
            |left| &mut left.errors,
            |s| {
                reply(s, Answer::Unavailable);
            },
        );
        if of.reading {
            self.spend(s, moves, Action::Lose(number), |left| &mut left.lost, |s| reply(s, Answer::Lost));
        }
    }

    /// The provider's transaction for a presented pair.
    pub(super) fn provider(&self, s: &mut State, pair: Pair) -> Answer {
        let (index, generation) = (pair.family(), pair.generation() as u8);
        let has_room = s.has_room(index);
        let family = &mut s.families[index];
        let newest = generation == family.newest;
        let in_grace = generation + 1 == family.newest && family.grace < 2;
        let rotates = match self.config.class {
            Class::None => true,
            Class::Grace => newest || in_grace,
            Class::Strict { .. } => newest,
        };
        if rotates && !family.revoked && !has_room {
            // Beyond the bounds of the search.
            return Answer::Unavailable;
        }
        if family.revoked || !rotates {
            let punished = match self.config.class {
                Class::Strict { revokes } => revokes,
                Class::Grace => true,
                Class::None => false,
            };
            family.revoked |= !rotates && punished;
            s.ghost.refused.add(pair);
            return Answer::InvalidGrant;
        }
        family.newest += 1;
        let next = Pair::new(index, usize::from(family.newest));
        s.ages[usize::from(next.0)] = 0;
        Answer::Tokens(next)
    }
}
