//! Liveness as bounded safety: from every state that is reached the chain is well again soon once nothing goes wrong
//! any more, or there is a good reason why it is not.

use std::collections::HashSet;

use super::restored::{begin_to_compare, end_hold};
use super::search::{Fast, number};
use super::sending::last_attempt;
use super::state::{ATTEMPTS, Answer, At, Attempt, Content, Net, Receipt, Standing, State};
use super::{Budget, Model, Vault, Violation};

/// Steps of good weather within which all must be well.
const HEALS_WITHIN: usize = 400;

impl Model {
    /// L1 to L3: if nothing goes wrong any more, the chain is well soon, or there is a good reason why not. States that
    /// heal are remembered by their numbers.
    pub(super) fn heals(&self, state: &State, healed: &mut HashSet<u64, Fast>) -> Result<(), Violation> {
        let hash = |s: &State| {
            let mut plain = *s;
            plain.left = Budget::default();
            number(&plain)
        };
        let (mut s, mut on_the_way) = (*state, Vec::new());
        for _ in 0..HEALS_WITHIN {
            let here = hash(&s);
            if healed.contains(&here) {
                healed.extend(on_the_way);
                return Ok(());
            }
            on_the_way.push(here);
            if let Some(next) = self.calm(&s) {
                s = next?;
                continue;
            }
            if self.well(&s) {
                healed.extend(on_the_way);
                return Ok(());
            }
            let before = s;
            s = self.calm_look(s)?;
            if s != before {
                continue;
            }
            let pair = s.record.map(|record| record.pair);
            match pair.filter(|pair| s.age(*pair) < self.config.oldest()) {
                Some(_) => {
                    self.grow_older(&mut s);
                    s.families.iter_mut().for_each(|family| family.grace = 2);
                }
                None if self.excused(&s) => {
                    healed.extend(on_the_way);
                    return Ok(());
                }
                None => {
                    let what = format!(
                        "not well though nothing goes wrong any more: {:?}, file {:?}",
                        s.record, s.file
                    );
                    return Err(Violation::new(unlively(&s), what));
                }
            }
        }
        Err(Violation::new(unlively(&s), "it goes round and round"))
    }

    /// One whole look of the first keeper in good weather.
    fn calm_look(&self, mut s: State) -> Result<State, Violation> {
        let dead = s.record.filter(|record| !s.access_lives(record.pair));
        s.keepers[0].refused = dead.map(|record| record.position());
        if s.holder != 0 {
            return Err(Violation::new("L3", "nobody works, and nobody can have the lock"));
        }
        s.holder = 1;
        s.keepers[0].at = At::Look;
        for _ in 0..HEALS_WITHIN {
            match self.calm(&s) {
                Some(next) => s = next?,
                None => return Ok(s),
            }
        }
        Err(Violation::new(unlively(&s), "a look does not end"))
    }

    fn well(&self, s: &State) -> bool {
        let Some(record) = &s.record else { return false };
        let in_vault = self.config.vault == Vault::Database || s.file == Content::Grant(record.pair);
        let family = s.families[record.pair.family()];
        let newest = usize::from(family.newest) == record.pair.generation();
        let known = s.keepers[0].snapshot.is_some_and(|seen| seen.pair == record.pair);
        in_vault
            && newest
            && known
            && !family.revoked
            && nothing_open(s)
            && record.standing == Standing::Live
            && s.age(record.pair) == 0
            && s.staged.is_none()
    }

    /// Why a chain may be not well for good: the operator's doing, the provider's word, or the bounds of the search.
    fn excused(&self, s: &State) -> bool {
        let Some(record) = s.record else { return s.file == Content::Missing || s.file == Content::Garbage };
        let no_room = !s.has_room(record.pair.family()) || usize::from(last_attempt(s, &record)) >= ATTEMPTS;
        let spent = matches!(s.file, Content::Grant(pair) if s.replaced.has(pair) && pair != record.pair);
        let unusable = self.config.vault == Vault::AuthFile
            && (matches!(s.file, Content::Missing | Content::Garbage) || spent);
        let quarantined = record.behind.is_some();
        let refused = matches!(record.standing, Standing::Refused(true)) && s.ghost.refused.has(record.pair);
        // Another machine's receipts are its own to commit, and it does not run here.
        let open = record.intent > 0 || receipt_waits(s, |of| self.in_reach(of, 0));
        unusable || refused || (quarantined || no_room) && !open
    }

    /// Good weather: the one thing that happens next when nothing goes wrong any more and the first keeper runs.
    /// `None`: nothing is under way.
    fn calm(&self, s: &State) -> Option<Result<State, Violation>> {
        let mut next = *s;
        for number in 1..=ATTEMPTS as u8 {
            let of = *next.attempt(number);
            if of.net == Net::Request {
                let answer = of.presented.map(|pair| self.provider(&mut next, pair));
                let net = answer.filter(|_| of.reading).map_or(Net::Quiet, Net::Answered);
                next.attempt_mut(number).net = net;
                return Some(Ok(next));
            }
            let awaited = (0..self.config.keepers).any(|k| next.keepers[k].at == At::Await(number));
            if of.reading && !awaited && of.memory.is_none() && of.late {
                if let Net::Answered(_) = of.net {
                    self.receive(&mut next, number, |s, answer| self.keep(s, number, answer, true));
                } else {
                    next.attempt_mut(number).reading = false;
                }
                return Some(Ok(next));
            }
        }
        if let Some(k) = (0..self.config.keepers).find(|k| self.can_step(&next, *k)) {
            return Some(self.step(&mut next, k).map(|()| next));
        }
        for number in 1..=ATTEMPTS as u8 {
            if let Some(answer) = next.attempt(number).memory {
                self.keep(&mut next, number, answer, true);
                return Some(Ok(next));
            }
        }
        if next.holder != 0 && self.config.vault == Vault::Database {
            next.holder = 0;
            return Some(Ok(next));
        }
        if let Some(k) = (0..self.config.keepers).find(|k| self.compares(s, *k)) {
            begin_to_compare(&mut next, k);
            return Some(Ok(next));
        }
        if s.restored.held {
            end_hold(&mut next);
            return Some(Ok(next));
        }
        None
    }
}

/// Whether no receipt waits and no intent is open.
fn nothing_open(s: &State) -> bool {
    s.record.is_some_and(|record| record.intent == 0) && !receipt_waits(s, |_| true)
}

/// One of these attempts' receipts has the successor of the record's pair.
fn receipt_waits(s: &State, counts: impl Fn(&Attempt) -> bool) -> bool {
    s.receipts.iter().any(|receipt| match receipt {
        Receipt::Answered(of, Answer::Tokens(_)) => {
            let of = s.attempt(*of);
            counts(of) && s.record.map(|record| record.pair) == of.presented
        }
        Receipt::Answered(..) | Receipt::Reserved(_) | Receipt::Missing => false,
    })
}

/// Which of L1 to L3 does not hold where a chain does not get well.
fn unlively(s: &State) -> &'static str {
    if receipt_waits(s, |_| true) {
        "L1"
    } else if s.record.is_some_and(|record| record.intent > 0) {
        "L2"
    } else {
        "L3"
    }
}
