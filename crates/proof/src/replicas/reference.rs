//! What the provider saw, what was delivered and what is of record; small enough to be believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evergrant_core::chain::{Record, Standing};
use evergrant_core::gateway::Position;
use evergrant_core::keeper::READ_LIMIT;
use evergrant_core::secret::Fingerprint;
use evergrant_core::{ChainName, Lineage};

use crate::sim::executor::ProcessId;
use crate::sim::reference::{Held, broken};

/// By so much a pair in doubt may be presented before the last ten minutes: jitter of stored instants.
const SLACK: Duration = Duration::from_secs(60);
const LAST_CHANCE: Duration = Duration::from_secs(600);
/// The keeper's deadline.
const DEADLINE: Duration = Duration::from_secs(30);
/// Within so much time an answer that was handed over is in its receipt: its process may stand still before it writes.
const SOON: Duration = Duration::from_secs(300);

/// What became of a refresh token that was presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nobody here knows.
    Open,
    /// It is not spent, and somebody was told so.
    Unspent,
    /// Its successor was handed over.
    Spent { successor: Fingerprint },
    /// The provider called it dead, and somebody was told so.
    Refused,
}

/// A refresh token that the provider gave.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) family: u64,
    /// Whose row has held it.
    chain: Option<ChainName>,
    /// When the access token beside it ends.
    access_ends: Duration,
    fate: Option<Fate>,
    /// What the provider gave for it.
    next: Option<Fingerprint>,
    /// Machines that hold the answer to its presentation in a receipt.
    kept_on: BTreeSet<usize>,
    /// The pair was of record once.
    of_record: bool,
}

#[derive(Debug, Clone)]
struct Open {
    number: u64,
    process: ProcessId,
    machine: usize,
    token: Fingerprint,
    chain: Option<ChainName>,
    sent: Duration,
}

/// A machine's intent, as it came to be of record.
#[derive(Debug, Clone)]
struct Intended {
    chain: ChainName,
    lineage: Lineage,
    attempt: u64,
}

/// An answer with a successor that a living process was given, and that is in no receipt yet.
#[derive(Debug, Clone)]
struct Handed {
    number: u64,
    process: ProcessId,
    token: Fingerprint,
    successor: Fingerprint,
    since: Duration,
}

/// The model.
#[derive(Debug, Default)]
pub(super) struct Reference {
    pub(super) tokens: BTreeMap<Fingerprint, Token>,
    open: Vec<Open>,
    sent: u64,
    records: BTreeMap<ChainName, Record>,
    /// Access tokens that were of record once.
    durable: BTreeSet<Fingerprint>,
    /// The last intent of a machine for a token; sending takes it.
    intents: BTreeMap<(usize, Fingerprint), Intended>,
    handed: Vec<Handed>,
    /// What was presented with an attempt of a machine, and as which exchange.
    attempts: BTreeMap<(ChainName, u64, usize), (Fingerprint, u64)>,
    /// Exchanges whose answer had a successor, and came.
    handed_over: BTreeSet<u64>,
    refused: BTreeSet<Fingerprint>,
    /// The database says so, and not only a receipt on some machine.
    refused_of_record: BTreeSet<Fingerprint>,
    /// Logins that somebody else ended.
    pub(super) meddled: BTreeSet<u64>,
    /// Logins whose spent token was presented once more, when there was nothing left to lose: its answer lay with nobody
    /// who could be asked.
    presented_again: BTreeSet<u64>,
    pub(super) restored_at: Option<Duration>,
    /// A wall clock has been off: what is compared with it is not judged.
    pub(super) clocks_off_until: Option<Duration>,
}

impl Reference {
    /// The provider gave a refresh token.
    pub(super) fn issued(&mut self, token: Fingerprint, family: u64, access_ends: Duration) {
        let kept_on = BTreeSet::new();
        let known =
            Token { family, chain: None, access_ends, fate: None, next: None, kept_on, of_record: false };
        self.tokens.insert(token, known);
    }

    /// The provider gave a successor, whether or not anybody hears of it.
    pub(super) fn succeeded(&mut self, token: Fingerprint, next: Fingerprint) {
        if let Some(known) = self.tokens.get_mut(&token) {
            known.next = Some(next);
        }
    }

    pub(super) fn refused(&mut self, token: Fingerprint) {
        self.refused.insert(token);
    }

    /// A machine sends a token: I1, I2, I5. `lives`: its login does.
    pub(super) fn sends(
        &mut self,
        now: Duration,
        (process, machine): (ProcessId, usize),
        token: Fingerprint,
        lives: bool,
    ) -> Held<u64> {
        let Some(known) = self.tokens.get(&token).cloned() else {
            return broken("I2", format!("{token} is of no login"));
        };
        if let Some(open) =
            self.open.iter().find(|open| open.chain == known.chain && now < open.sent + DEADLINE)
        {
            return broken(
                "I1",
                format!("process {} still waits for the answer to {}", open.process, open.token),
            );
        }
        let Intended { chain, lineage, attempt } = self.intends(machine, token)?;
        let restored = self.restored_at.is_some_and(|at| now < at + DEADLINE * 4);
        if !restored {
            self.is_newest(token, &chain, lineage)?;
        }
        self.attempts.insert((chain, attempt, machine), (token, self.sent + 1));
        self.may_be_presented(now, machine, token, &known, lives)?;
        if known.next.is_some() {
            self.presented_again.insert(known.family);
        }
        if let Some(known) = self.tokens.get_mut(&token) {
            known.fate = Some(match &known.fate {
                Some(spent @ Fate::Spent { .. }) => spent.clone(),
                _ => Fate::Open,
            });
        }
        self.sent += 1;
        let number = self.sent;
        self.open.push(Open { number, process, machine, token, chain: known.chain, sent: now });
        Ok(number)
    }

    /// I2: the sender's own intent to present it was of record, and nothing was sent for it yet.
    fn intends(&mut self, machine: usize, token: Fingerprint) -> Held<Intended> {
        match self.intents.remove(&(machine, token)) {
            Some(intended) => Ok(intended),
            None => broken("I2", format!("{token} is sent before its sender's intent is durable")),
        }
    }

    /// I2: what is sent is the row's pair, and intended; but a login may come between the intent and the sending.
    fn is_newest(&self, token: Fingerprint, chain: &ChainName, lineage: Lineage) -> Held {
        let row = self.records.get(chain);
        let intended = row.and_then(|row| row.intent.as_ref());
        let is_open = intended.is_some_and(|intent| intent.presented.refresh == Some(token));
        if is_open || row.is_some_and(|row| row.lineage > lineage) {
            return Ok(());
        }
        broken("I2", format!("{token} is sent, and its chain has moved on, or ended the intent"))
    }

    fn may_be_presented(
        &self,
        now: Duration,
        machine: usize,
        token: Fingerprint,
        known: &Token,
        lives: bool,
    ) -> Held {
        let clocks_right = self.clocks_off_until.is_none_or(|until| until < now);
        let ended = now + SLACK >= known.access_ends || !clocks_right;
        let last = now + LAST_CHANCE + SLACK >= known.access_ends || !clocks_right;
        if let Some(open) = self.open.iter().find(|open| {
            open.token == token && now < open.sent + READ_LIMIT && (open.machine == machine || !ended)
        }) {
            return broken("I5", format!("process {} still reads an answer to {token}", open.process));
        }
        match &known.fate {
            None | Some(Fate::Unspent) => Ok(()),
            Some(Fate::Refused) if self.refused_of_record.contains(&token) => {
                broken("I5", format!("{token} is presented though it was refused"))
            }
            Some(Fate::Refused) => Ok(()),
            Some(Fate::Spent { successor }) => {
                let of_record = self.tokens.get(successor).is_some_and(|next| next.of_record);
                if of_record {
                    return broken("I5", format!("{token} is presented though {successor} was of record"));
                }
                if known.kept_on.contains(&machine) {
                    return broken(
                        "I5",
                        format!("{token} is presented though its answer lies on this machine"),
                    );
                }
                if !known.kept_on.is_empty() && !ended {
                    return broken(
                        "I5",
                        format!("{token} is presented though its answer lies on another machine"),
                    );
                }
                if lives && !last {
                    return broken(
                        "I5",
                        format!("{token} is in doubt, and is presented long before its end"),
                    );
                }
                Ok(())
            }
            Some(Fate::Open) if lives && !last => {
                broken("I5", format!("{token} is in doubt, and is presented long before its end"))
            }
            Some(Fate::Open) => Ok(()),
        }
    }

    /// The asking process has an answer, or is gone.
    pub(super) fn ends(&mut self, number: u64) {
        self.open.retain(|open| open.number != number);
    }

    /// What the answer of an exchange said that was handed over.
    pub(super) fn told(
        &mut self,
        since: Duration,
        (number, process): (u64, ProcessId),
        token: Fingerprint,
        fate: Fate,
    ) {
        if let Fate::Spent { successor } = fate {
            self.handed_over.insert(number);
            self.handed.push(Handed { number, process, token, successor, since });
        }
        if let Some(known) = self.tokens.get_mut(&token) {
            known.fate = Some(fate);
        }
    }

    /// A process is gone, with what it intended and what was only in its memory.
    pub(super) fn died(&mut self, process: ProcessId, machine: usize) {
        self.handed.retain(|handed| handed.process != process);
        self.intents.retain(|(of, _), _| *of != machine);
    }

    /// A process does nothing until then.
    pub(super) fn stands_still(&mut self, process: ProcessId, until: Duration) {
        let of_process = |handed: &&mut Handed| handed.process == process;
        self.handed.iter_mut().filter(of_process).for_each(|handed| handed.since = until);
    }

    /// I7: what reached a process that lives is soon in its receipt, or of record.
    pub(super) fn nothing_is_dropped(&self, now: Duration) -> Held {
        match self.handed.iter().find(|handed| handed.since + SOON < now) {
            Some(Handed { process, token, .. }) => broken(
                "I7",
                format!("process {process} was given the answer to {token}, lives on, and has not kept it"),
            ),
            None => Ok(()),
        }
    }

    /// A machine has written a receipt.
    pub(super) fn kept(&mut self, chain: &ChainName, attempt: u64, machine: usize) {
        let Some((token, number)) = self.attempts.get(&(chain.clone(), attempt, machine)) else { return };
        self.handed.retain(|handed| handed.number != *number);
        if self.handed_over.contains(number)
            && let Some(known) = self.tokens.get_mut(token)
        {
            known.kept_on.insert(machine);
        }
    }

    /// The database has another record of a chain, which this machine wrote: I4, I6.
    pub(super) fn recorded(&mut self, record: &Record, machine: usize) -> Held {
        self.durable.insert(record.pair.access);
        self.intended(record, machine);
        self.handed.retain(|handed| Some(handed.successor) != record.pair.refresh);
        if let Some(known) = record.pair.refresh.and_then(|token| self.tokens.get_mut(&token)) {
            known.of_record = true;
            known.chain = Some(record.chain.clone());
        }
        let before = self.records.insert(record.chain.clone(), record.clone());
        if let Some(before) = before.filter(|before| before.position() > record.position()) {
            let (was, is) = (before.position(), record.position());
            return broken("I4", format!("{} went back from {was:?} to {is:?}", record.chain));
        }
        let refused = matches!(record.standing, Standing::Refused { .. });
        self.refused_of_record.extend(record.pair.refresh.filter(|_| refused));
        if refused && record.pair.refresh.is_some_and(|token| !self.refused.contains(&token)) {
            return broken(
                "I6",
                format!("{} is called revoked, and the provider never said so", record.chain),
            );
        }
        Ok(())
    }

    /// An intent that was not there before is of whoever wrote it.
    fn intended(&mut self, record: &Record, machine: usize) {
        let before = self.records.get(&record.chain).and_then(|record| record.intent.as_ref());
        if let Some(intent) = &record.intent
            && let Some(token) = intent.presented.refresh
            && before
                .is_none_or(|before| (before.attempt, &before.machine) != (intent.attempt, &intent.machine))
        {
            let Record { chain, lineage, .. } = record.clone();
            self.intents.insert((machine, token), Intended { chain, lineage, attempt: intent.attempt.0 });
        }
    }

    /// The database is an older copy of itself.
    pub(super) fn restored(&mut self, now: Duration, records: impl Iterator<Item = Record>) {
        self.restored_at = Some(now);
        self.refused_of_record.clear();
        self.records = records.map(|record| (record.chain.clone(), record)).collect();
    }

    /// I3: what a reader sees is not older than what it saw, and was of record.
    pub(super) fn reader_goes_on(
        &self,
        before: Option<Position>,
        now: Position,
        access: Fingerprint,
    ) -> Held {
        if before.is_some_and(|before| now < before) {
            return broken("I3", format!("readers saw {before:?}, and then {now:?}"));
        }
        if self.durable.contains(&access) {
            return Ok(());
        }
        broken("I3", format!("readers see {now:?}, which was never of record"))
    }

    /// Whether a successor in this login never came to be of record: it never reached us, or lay on a machine that did
    /// not come back in time.
    pub(super) fn undelivered(&self, family: u64) -> bool {
        let of_record = |next: &Fingerprint| self.tokens.get(next).is_some_and(|next| next.of_record);
        let lost = |token: &Token| token.family == family && token.next.is_some_and(|next| !of_record(&next));
        self.presented_again.contains(&family) || self.tokens.values().any(lost)
    }

    /// Forgets tokens of logins that nobody holds.
    pub(super) fn forget_but(&mut self, families: &BTreeSet<u64>, before: Duration) {
        self.tokens.retain(|_, token| families.contains(&token.family) || token.access_ends > before);
        self.attempts.retain(|_, (token, _)| self.tokens.contains_key(token));
        let numbers: BTreeSet<_> = self.attempts.values().map(|(_, number)| *number).collect();
        self.handed_over.retain(|number| numbers.contains(number));
        let known = &self.tokens;
        self.refused.retain(|token| known.contains_key(token));
    }
}
