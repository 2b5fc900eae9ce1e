//! How a keeper of the model presents a pair, and keeps the answer.

use super::bridge::Write;
use super::state::{Answer, At, Attempt, Net, Receipt, Standing, State};
use super::{Break, Class, Model, Sometimes, Vault, Violation};

type Done = Result<(), Violation>;

impl Model {
    /// Hands an answer that has arrived to `with`.
    pub(super) fn receive(&self, s: &mut State, attempt: u8, with: impl FnOnce(&mut State, Answer)) {
        if let Net::Answered(answer) = s.attempt(attempt).net {
            let at = s.attempt_mut(attempt);
            at.net = Net::Quiet;
            at.unspent = matches!(answer, Answer::Unavailable | Answer::NotSent);
            // If the chain has moved on meanwhile, the pair that was presented last rules.
            let current = s.record.map(|record| record.pair) == s.attempt(attempt).presented;
            if let (Answer::Tokens(pair), true) = (answer, current) {
                s.ghost.received.add(pair);
            }
            with(s, answer);
        }
    }

    /// Step 6: the receipt is written, or the answer stays in memory.
    pub(super) fn keep(&self, s: &mut State, attempt: u8, answer: Answer, written: bool) {
        s.attempt_mut(attempt).reading = !written;
        let slot = self.slot(attempt);
        match s.receipts[slot] {
            Receipt::Reserved(of) | Receipt::Answered(of, _) if written => {
                s.receipts[slot] = Receipt::Answered(of, answer);
                s.attempt_mut(attempt).memory = None;
                if let Answer::Tokens(pair) = answer {
                    s.ghost.durable.add(pair);
                }
            }
            Receipt::Reserved(_) | Receipt::Answered(..) | Receipt::Missing => {
                s.attempt_mut(attempt).memory = Some(answer);
            }
        }
    }

    pub(super) fn slot(&self, attempt: u8) -> usize {
        if self.broken == Some(Break::ReceiptShared) { 0 } else { usize::from(attempt) - 1 }
    }

    pub(super) fn reserve(&self, s: &mut State, k: usize) -> Done {
        let Some(record) = s.record else { return Ok(()) };
        let last = super::healing::last_attempt(s, &record);
        if usize::from(last) >= self.config.attempts {
            self.rest(s, k, Some(super::keeper::seen(&record)));
            return Ok(());
        }
        let attempt = last + 1;
        *s.attempt_mut(attempt) = Attempt {
            by: k as u8 + 1,
            lineage: record.lineage,
            generation: record.generation,
            presented: Some(record.pair),
            reading: true,
            ..Attempt::default()
        };
        s.receipts[self.slot(attempt)] = Receipt::Reserved(attempt);
        let early = self.broken == Some(Break::SendBeforeIntent);
        s.keepers[k].at = if early { At::Send(attempt) } else { At::Intend(attempt) };
        Ok(())
    }

    pub(super) fn intend(&self, s: &mut State, k: usize, attempt: u8) -> Done {
        let Some(record) = s.record else { return Ok(()) };
        let of = s.attempt(attempt);
        let moved = record.position() != (of.lineage, of.generation) || record.intent > 0;
        if self.config.vault == Vault::Database && (moved || !self.has_right(s, k)) {
            self.saw(Sometimes::LeaseLost);
            s.attempt_mut(attempt).reading = false;
            s.receipts[self.slot(attempt)] = Receipt::Missing;
            self.rest(s, k, None);
            return Ok(());
        }
        if !matches!(record.standing, Standing::InDoubt(_)) {
            s.families[record.pair.family()].grace = 0;
        }
        self.write(s, Write::Begin(attempt));
        s.keepers[k].at = if s.attempt(attempt).sent { At::Await(attempt) } else { At::Check(attempt) };
        Ok(())
    }

    /// The lock is held until its holder dies; a lease may have ended meanwhile.
    pub(super) fn has_right(&self, s: &State, k: usize) -> bool {
        let ignored = self.broken == Some(Break::LeaseIgnored);
        self.config.vault == Vault::AuthFile || usize::from(s.holder) == k + 1 || ignored
    }

    pub(super) fn send(&self, s: &mut State, k: usize, attempt: u8) -> Done {
        self.may_send(s, k, attempt)?;
        let of = s.attempt_mut(attempt);
        (of.sent, of.net) = (true, Net::Request);
        let early = self.broken == Some(Break::SendBeforeIntent);
        s.keepers[k].at = if early { At::Intend(attempt) } else { At::Await(attempt) };
        Ok(())
    }

    /// I1, I2 and I5, at the moment of sending.
    pub(super) fn may_send(&self, s: &State, k: usize, attempt: u8) -> Done {
        let of = s.attempt(attempt);
        let (Some(record), Some(pair)) = (s.record, of.presented) else {
            return Err(Violation::new("I2", "something is sent, and nothing is known of the chain"));
        };
        let open = |other: &&Attempt| other.sent && other.net != Net::Quiet && other.reading && !other.late;
        if s.attempts.iter().any(|other| open(&other)) {
            return Err(Violation::new(
                "I1",
                "two exchanges are sent, unanswered and within their deadlines",
            ));
        }
        let intended = record.intent == attempt && record.pair == pair;
        if !intended && self.config.vault == Vault::AuthFile {
            return Err(Violation::new("I2", format!("{pair:?} is sent before its intent is durable")));
        }
        if !intended && record.lineage == of.lineage {
            return Err(Violation::new("I2", format!("{pair:?} is sent without being the chain's newest")));
        }
        // On a database a push and an older answer may come after the last look at the row: nothing can tell the sender.
        if s.ghost.replaced.has(pair) && intended {
            return Err(Violation::new("I5", format!("{pair:?} is known to be spent, and is presented")));
        }
        let spent_by = |of: &u8| s.attempt(*of).presented == Some(pair);
        let answered = s.receipts.iter().any(|receipt| {
            matches!(receipt, Receipt::Answered(of, Answer::Tokens(_)) if spent_by(of)
                && (self.config.vault == Vault::AuthFile
                    || usize::from(s.attempt(*of).by) == k + 1
                    || s.age(pair) < 2))
        });
        if answered && self.config.class != Class::None {
            return Err(Violation::new("I2", format!("{pair:?} is sent though a receipt has its successor")));
        }
        let mut others = s.attempts.iter().enumerate().filter(|(index, _)| index + 1 != usize::from(attempt));
        let read = |other: &Attempt| {
            let in_reach = self.config.vault == Vault::AuthFile || usize::from(other.by) == k + 1;
            other.reading && other.sent && other.presented == Some(pair) && in_reach
        };
        if others.any(|(_, other)| read(other)) {
            return Err(Violation::new(
                "I5",
                format!("{pair:?} is presented while its first answer is still being read"),
            ));
        }
        let uncertain = |other: &&Attempt| other.sent && !other.unspent && other.presented == Some(pair);
        let uncertain = s.attempts.iter().filter(uncertain).count();
        let nothing_to_lose = s.age(pair) >= 1 || record.access_refused;
        let allowed = match self.config.class {
            Class::None => true,
            Class::Grace => nothing_to_lose || uncertain == 1 && s.families[pair.family()].grace < 2,
            Class::Strict { .. } => nothing_to_lose,
        };
        if uncertain > 0 {
            self.saw(Sometimes::PresentedAgain);
        }
        if uncertain > 0 && !allowed {
            return Err(Violation::new("I5", format!("{pair:?} may be spent, and is presented again")));
        }
        Ok(())
    }
}
