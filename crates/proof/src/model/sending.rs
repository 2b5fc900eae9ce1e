//! How a keeper of the model presents a pair, and keeps the answer.

use super::bridge::Write;
use super::keeper::seen;
use super::state::{ATTEMPTS, Answer, At, Attempt, Net, Pair, Rec, Receipt, Standing, State};
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
        let last = last_attempt(s, &record);
        if usize::from(last) >= ATTEMPTS {
            self.rest(s, k, Some(seen(&record)));
            return Ok(());
        }
        let attempt = last + 1;
        if self.restores() {
            s.restored.given = attempt;
        }
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
        if self.config.vault == Vault::Database && (moved || !self.has_right(s, k) || self.holds_intents(s)) {
            self.saw(if self.holds_intents(s) { Sometimes::Held } else { Sometimes::LeaseLost });
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
    fn may_send(&self, s: &State, k: usize, attempt: u8) -> Done {
        let of = s.attempt(attempt);
        let (Some(record), Some(pair)) = (s.record, of.presented) else {
            return Err(Violation::new("I2", "something is sent, and nothing is known of the chain"));
        };
        let open = |other: &Attempt| other.sent && other.net != Net::Quiet && other.reading && !other.late;
        if s.attempts.iter().any(open) {
            let what = "two exchanges are sent, unanswered and within their deadlines";
            return Err(Violation::new("I1", what));
        }
        let intended = record.intent == attempt && record.pair == pair;
        self.is_newest(s, k, attempt, pair, intended)?;
        // On a database a push and an older answer may come after the last look at the row: nothing can tell.
        if s.ghost.replaced.has(pair) && intended {
            return Err(Violation::new("I5", format!("{pair:?} is known to be spent, and is presented")));
        }
        self.may_present_again(s, k, attempt, pair)
    }

    /// I2.
    fn is_newest(&self, s: &State, k: usize, attempt: u8, pair: Pair, intended: bool) -> Done {
        let same_lineage = s.record.is_some_and(|record| record.lineage == s.attempt(attempt).lineage);
        if !intended && self.config.vault == Vault::AuthFile {
            return Err(Violation::new("I2", format!("{pair:?} is sent before its intent is durable")));
        }
        // A restore may take the intent away under who is about to send; nobody else's is taken before it has.
        if !intended && same_lineage && !s.restored.held {
            return Err(Violation::new("I2", format!("{pair:?} is sent without being the chain's newest")));
        }
        let answers = |receipt: &Receipt| match receipt {
            // Another machine's is asked for until the access token has ended.
            Receipt::Answered(of, Answer::Tokens(_)) => {
                let of = s.attempt(*of);
                of.presented == Some(pair) && (self.in_reach(of, k) || s.age(pair) < 2)
            }
            Receipt::Answered(..) | Receipt::Reserved(_) | Receipt::Missing => false,
        };
        if s.receipts.iter().any(answers) && self.config.class != Class::None {
            return Err(Violation::new("I2", format!("{pair:?} is sent though a receipt has its successor")));
        }
        Ok(())
    }

    /// I5.
    fn may_present_again(&self, s: &State, k: usize, attempt: u8, pair: Pair) -> Done {
        let earlier = |(index, other): &(usize, &Attempt)| {
            index + 1 != usize::from(attempt) && other.sent && other.presented == Some(pair)
        };
        let earlier = || s.attempts.iter().enumerate().filter(earlier).map(|(_, other)| other);
        if earlier().any(|other| other.reading && self.in_reach(other, k)) {
            let what = format!("{pair:?} is presented while its first answer is still being read");
            return Err(Violation::new("I5", what));
        }
        let uncertain = earlier().filter(|other| !other.unspent).count();
        if uncertain == 0 {
            return Ok(());
        }
        self.saw(Sometimes::PresentedAgain);
        let access_refused = s.record.is_some_and(|record| record.access_refused);
        let nothing_to_lose = s.age(pair) >= 1 || access_refused;
        let in_grace = uncertain == 1 && s.families[pair.family()].grace < 2;
        let allowed = match self.config.class {
            Class::None => true,
            Class::Grace => nothing_to_lose || in_grace,
            Class::Strict { .. } => nothing_to_lose,
        };
        if allowed {
            return Ok(());
        }
        Err(Violation::new("I5", format!("{pair:?} may be spent, and is presented again")))
    }

    /// Whether a keeper's own disk has the receipt of an attempt.
    pub(super) fn in_reach(&self, of: &Attempt, k: usize) -> bool {
        self.config.vault == Vault::AuthFile || usize::from(of.by) == k + 1
    }
}

/// The highest attempt that record or receipts know of: the next one is numbered behind it.
pub(super) fn last_attempt(s: &State, record: &Rec) -> u8 {
    let filed = s.receipts.iter().map(|receipt| match receipt {
        Receipt::Reserved(of) | Receipt::Answered(of, _) => *of,
        Receipt::Missing => 0,
    });
    filed.max().unwrap_or(0).max(record.last_attempt).max(s.restored.given)
}
