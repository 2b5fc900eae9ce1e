//! From the model's small values to the real types and back: every decision of the model is made by the function
//! of `core` that the keeper calls. The same question is asked once and remembered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use evergrant_core::chain::{
    self, AttemptId, Generation, Intent, Kind, Lineage, OldDoubt, Quarantine, Record, Standing as Real,
};
use evergrant_core::grant::{Grant, PairId};
use evergrant_core::keeper::{
    self, Decision, FileFound, Finding, Found, FoundRow, Outcome, Policy, ReceiptState, RowFinding,
    Staged as RealStaged,
};
use evergrant_core::provider::{Profile, ReuseClass};
use evergrant_core::{AccessToken, ChainName, Reason, RefreshToken};
use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::search::Fast;
use super::state::{ATTEMPTS, Answer, Content, Mark, Pair, Pairs, Rec, Standing, look};
use super::{Break, Class};

const LIFE: Duration = Duration::from_secs(8 * 3600);
const GRACE_SECS: u32 = 60;

/// A receipt as a keeper finds it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Filed {
    pub(super) attempt: u8,
    pub(super) lineage: u8,
    pub(super) generation: u8,
    pub(super) presented: Pair,
    pub(super) answer: Option<Answer>,
    pub(super) being_read: bool,
}

/// What a look reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Facts {
    pub(super) file: Content,
    pub(super) record: Option<Rec>,
    pub(super) receipts: [Option<Filed>; ATTEMPTS],
    pub(super) replaced: bool,
    pub(super) edit_beside: bool,
}

/// What a look at a row reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct RowFacts {
    pub(super) record: Rec,
    /// The receipts of this machine.
    pub(super) receipts: [Option<Filed>; ATTEMPTS],
    /// The open intent is this machine's.
    pub(super) intends: bool,
    /// What this machine remembers of the chain.
    pub(super) mark: Option<Mark>,
    pub(super) times: Times,
}

/// What `core` makes of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Verdict {
    SwapBack,
    Absent,
    Malformed,
    Finish(u8),
    Commit(u8),
    Settle(u8),
    Forward(u8),
    Spent,
    BeingRead,
    BringUp(u8),
    Forgotten(Mark),
    Behind(Mark),
    Elsewhere,
    InDoubt,
    Outdated(u8),
    Adopt,
    Clean,
}

/// The writes of the record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Write {
    Begin(u8),
    /// By the attempt, from this pair in the file.
    Commit {
        attempt: u8,
        presented: Pair,
        answer: Answer,
        file: Pair,
        /// Where this machine, or the row itself, knows that the chain has stood.
        known: Option<Mark>,
    },
    /// The same for a row that was restored from before this position was asked from.
    BringUp {
        attempt: u8,
        from: (u8, u8),
        presented: Pair,
        answer: Answer,
        known: Option<Mark>,
    },
    Settle(Answer),
    Doubt,
    Forgotten(Mark),
    Quarantine(Mark),
    TakeIn {
        pair: Pair,
        imported: bool,
    },
}

pub(super) type Times = (u8, u8);
/// The machine of every intent, as it is bridged; and another one.
const MACHINE: &str = "model";
const OTHER_MACHINE: &str = "other";
/// Answers by question.
type Remembered<Q, A> = RefCell<HashMap<Q, A, Fast>>;

/// Asks `core`.
pub(super) struct Bridge {
    policy: Policy,
    class: Class,
    broken: Option<Break>,
    chain: ChainName,
    findings: Remembered<Facts, Verdict>,
    row_findings: Remembered<RowFacts, Verdict>,
    decisions: Remembered<(Rec, Times, bool), Option<Reason>>,
    in_time: Remembered<(Rec, Times), bool>,
    writes: Remembered<(Option<Rec>, Times, Write), Option<Rec>>,
}

fn remembered<Q: Hash + Eq + Copy, A: Copy>(
    known: &Remembered<Q, A>,
    question: Q,
    ask: impl FnOnce() -> A,
) -> A {
    if let Some(answer) = known.borrow().get(&question) {
        return *answer;
    }
    let answer = ask();
    known.borrow_mut().insert(question, answer);
    answer
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap_or_default()
}

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(0)
}

impl Bridge {
    pub(super) fn new(class: Class, broken: Option<Break>) -> Self {
        let reuse = match class {
            Class::Strict { .. } => ReuseClass::Strict,
            Class::Grace => ReuseClass::Grace { secs: GRACE_SECS },
            Class::None => ReuseClass::None,
        };
        let profile = Profile { reuse, ..Profile::claude() };
        let policy = Policy { min_exchange_interval: Duration::ZERO, ..Policy::new(profile) };
        let chain = "claude".parse().expect("it is a chain name");
        let (findings, row_findings, decisions, in_time, writes) = Default::default();
        Self { policy, class, broken, chain, findings, row_findings, decisions, in_time, writes }
    }

    /// [`keeper::recover`].
    pub(super) fn recover(&self, facts: Facts) -> Verdict {
        remembered(&self.findings, facts, || {
            let attempt = |attempt: AttemptId| attempt.0 as u8;
            match keeper::recover(&self.found(&facts)) {
                Finding::SwapBack => Verdict::SwapBack,
                Finding::Absent => Verdict::Absent,
                Finding::Malformed(_) | Finding::Rewrite(_) => Verdict::Malformed,
                Finding::Finish(of) => Verdict::Finish(attempt(of)),
                Finding::Commit(of) => Verdict::Commit(attempt(of)),
                Finding::Settle(of) => Verdict::Settle(attempt(of)),
                Finding::RollForward(of) => Verdict::Forward(attempt(of)),
                Finding::Spent => Verdict::Spent,
                Finding::BeingRead => Verdict::BeingRead,
                Finding::InDoubt => Verdict::InDoubt,
                Finding::Outdated(of) => Verdict::Outdated(attempt(of)),
                Finding::Adopt => Verdict::Adopt,
                Finding::Clean => Verdict::Clean,
            }
        })
    }

    /// [`keeper::recover_row`].
    pub(super) fn recover_row(&self, facts: RowFacts) -> Verdict {
        remembered(&self.row_findings, facts, || {
            let record = self.record(&facts.record, facts.times);
            let receipts: Vec<_> = facts.receipts.iter().flatten().map(|filed| self.receipt(filed)).collect();
            let machine = if facts.intends { MACHINE } else { OTHER_MACHINE };
            let mark = facts.mark.map(real_mark);
            let found = FoundRow { record: &record, receipts: &receipts, mark, machine };
            let attempt = |attempt: AttemptId| attempt.0 as u8;
            match keeper::recover_row(found, now()) {
                RowFinding::Outdated(of) => Verdict::Outdated(attempt(of)),
                RowFinding::Commit(of) => Verdict::Commit(attempt(of)),
                RowFinding::Settle(of) => Verdict::Settle(attempt(of)),
                RowFinding::BeingRead => Verdict::BeingRead,
                RowFinding::Elsewhere(_) => Verdict::Elsewhere,
                RowFinding::InDoubt => Verdict::InDoubt,
                RowFinding::Clean => Verdict::Clean,
                RowFinding::BringUp(of) => Verdict::BringUp(attempt(of)),
                RowFinding::Forgotten(mark) => Verdict::Forgotten(small_mark(mark)),
                RowFinding::Behind(mark) => Verdict::Behind(small_mark(mark)),
            }
        })
    }

    /// [`keeper::decide`]: why the pair is presented now, if it is. `times`: the age of its access token, and how
    /// far the grace of its login has passed.
    pub(super) fn decide(&self, record: Rec, times: Times, forced: bool) -> Option<Reason> {
        remembered(&self.decisions, (record, times, forced), || {
            match keeper::decide(&self.record(&record, times), &self.policy, look(forced), now()) {
                Decision::Exchange(reason) => Some(reason),
                Decision::Rest { .. } => None,
            }
        })
    }

    /// [`keeper::send_within`]: whether an open intent may still be handed to the network.
    pub(super) fn in_time(&self, record: Rec, times: Times) -> bool {
        let ask = || !keeper::send_within(&self.record(&record, times), &self.policy, now()).is_zero();
        remembered(&self.in_time, (record, times), ask)
    }

    /// The record after one of the transitions of `core`; `None` where an answer does not fit the file.
    pub(super) fn write(&self, record: Option<Rec>, times: Times, write: Write) -> Option<Rec> {
        remembered(&self.writes, (record, times, write), || {
            let real = record.map(|record| self.record(&record, times));
            self.written(real, write).map(|record| self.back(&record))
        })
    }

    fn written(&self, record: Option<Record>, write: Write) -> Option<Record> {
        let (policy, mut rng) = (&self.policy, rng());
        match write {
            Write::TakeIn { pair, imported } => {
                let (grant, before) = (self.grant(pair), record.as_ref());
                Some(keeper::take_in(&self.chain, before, &grant, imported, policy, now(), &mut rng))
            }
            Write::Begin(attempt) => Some(keeper::begin(record?, id(attempt), MACHINE, policy, now())),
            Write::Settle(answer) => {
                let outcome = keeper::classify(&self.answer(answer), now());
                Some(keeper::settle(record?, &outcome, policy, now(), &mut rng))
            }
            Write::Doubt => Some(keeper::doubt(record?, now(), &mut rng)),
            Write::Forgotten(mark) => Some(keeper::forgotten(record?, real_mark(mark), now(), &mut rng)),
            Write::Quarantine(mark) => Some(keeper::quarantine(record?, real_mark(mark), now())),
            Write::Commit { attempt, presented, answer, file, known } => {
                let filed = filed(attempt, (0, 0), presented, answer);
                self.committed(record?, file, &filed, known)
            }
            Write::BringUp { attempt, from, presented, answer, known } => {
                let filed = filed(attempt, from, presented, answer);
                let from = keeper::bring_up_from(&record?, &self.receipt(&filed));
                self.committed(from, presented, &filed, known)
            }
        }
    }

    fn committed(&self, record: Record, file: Pair, filed: &Filed, known: Option<Mark>) -> Option<Record> {
        let (policy, mut rng) = (&self.policy, rng());
        let Outcome::Committed(tokens) = keeper::classify(&self.answer(filed.answer?), now()) else {
            return None;
        };
        let grant = keeper::committed_grant(&self.grant(file), &record, *tokens, now());
        let fits = Some(grant.pair()) == self.receipt(filed).pair();
        fits.then(|| {
            let next = keeper::commit(&record, id(filed.attempt), &grant, true, now(), policy, &mut rng);
            keeper::as_known(next, known.map(real_mark), now(), &mut rng)
        })
    }

    /// Whether an answer that is only in memory may still be wanted.
    pub(super) fn is_open(&self, record: Rec, filed: Filed) -> bool {
        let (receipt, record) = (self.receipt(&filed), self.record(&record, (0, 0)));
        receipt.is_awaited(&record) || receipt.may_follow(&record)
    }

    /// [`keeper::replaces`].
    pub(super) fn replaces(&self, old: Pair, new: Pair) -> bool {
        self.pair_id(old).refresh != self.pair_id(new).refresh
    }

    /// The pair of an answer to a presented pair, by [`keeper::Receipt::pair`].
    pub(super) fn pair_of(&self, filed: &Filed) -> Option<Pair> {
        let id = self.receipt(filed).pair()?;
        Pair::all().find(|pair| self.pair_id(*pair) == id)
    }

    fn found(&self, facts: &Facts) -> Found {
        let file = match facts.file {
            Content::Missing => FileFound::Missing,
            Content::Garbage => FileFound::Malformed(evergrant_core::authfile::Malformed::TooLarge),
            Content::Grant(pair) => FileFound::Grant(self.grant(pair)),
        };
        Found {
            file,
            record: facts.record.map(|record| self.record(&record, (0, 0))),
            receipts: facts.receipts.iter().flatten().map(|filed| self.receipt(filed)).collect(),
            replaced: facts.replaced,
            staged: if facts.edit_beside { RealStaged::OutsideEdit } else { RealStaged::Nothing },
        }
    }

    fn receipt(&self, filed: &Filed) -> keeper::Receipt {
        let state = match filed.answer {
            Some(answer) => ReceiptState::Answered { at: now(), answer: self.answer(answer) },
            None => ReceiptState::Reserved { being_read: filed.being_read },
        };
        keeper::Receipt {
            attempt: id(filed.attempt),
            lineage: Lineage(filed.lineage.into()),
            generation: Generation(filed.generation.into()),
            presented: self.pair_id(filed.presented),
            state,
        }
    }

    fn answer(&self, answer: Answer) -> keeper::Answer {
        let received = |status: u16, body: String| keeper::Answer::Received {
            status,
            retry_after: None,
            date: None,
            body,
            complete: true,
        };
        let own_error = r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#;
        let answer = match (answer, self.broken) {
            (Answer::ServerError, Some(Break::ServerErrorAsUnspent)) => Answer::Unavailable,
            (Answer::ServerError, Some(Break::ServerErrorAsRefused)) => Answer::InvalidGrant,
            (Answer::Lost, Some(Break::DoubtAsFailed)) => Answer::NotSent,
            (answer, _) => answer,
        };
        match answer {
            Answer::Tokens(pair) => {
                let Grant { access, refresh, .. } = self.grant(pair);
                // A provider that does not rotate leaves the refresh token out.
                let refresh = refresh.filter(|_| self.class != Class::None);
                let refresh = refresh
                    .map_or(String::new(), |token| format!(r#","refresh_token":"{}""#, token.expose()));
                let life = LIFE.as_secs();
                received(
                    200,
                    format!(r#"{{"access_token":"{}","expires_in":{life}{refresh}}}"#, access.expose()),
                )
            }
            Answer::InvalidGrant => received(400, r#"{"error":"invalid_grant"}"#.into()),
            Answer::ServerError => received(502, "<html>".into()),
            Answer::Unavailable => received(503, own_error.into()),
            Answer::Lost => keeper::Answer::Lost { why: "closed".into() },
            Answer::NotSent => keeper::Answer::NotSent { why: "no route".into() },
        }
    }

    fn grant(&self, pair: Pair) -> Grant {
        let generation = if self.class == Class::None { 0 } else { pair.generation() };
        let access = format!("access-{}-{}", pair.family(), pair.generation());
        let refresh = format!("refresh-{}-{generation}", pair.family());
        Grant {
            access: AccessToken::parse(&access).expect("it is a token"),
            refresh: Some(RefreshToken::parse(&refresh).expect("it is a token")),
            expires_at: Some(now() + LIFE),
            grant_expires_at: None,
            scopes: Vec::new(),
        }
    }

    pub(super) fn pair_id(&self, pair: Pair) -> PairId {
        thread_local! {
            static KNOWN: Remembered<(bool, Pair), PairId> = RefCell::default();
        }
        KNOWN.with(|known| remembered(known, (self.class == Class::None, pair), || self.grant(pair).pair()))
    }

    fn record(&self, record: &Rec, (age, grace): Times) -> Record {
        let left = match age {
            0 => SignedDuration::from_hours(7),
            1 => SignedDuration::from_secs(300),
            _ => SignedDuration::from_secs(-1),
        };
        let expires_at = now() + left;
        let sent_at = if grace == 0 {
            now() - SignedDuration::from_secs(1)
        } else {
            now() - SignedDuration::from_hours(1)
        };
        let (lineage, generation) = (Lineage(record.lineage.into()), Generation(record.generation.into()));
        let standing = match record.standing {
            Standing::Live => Real::Live,
            Standing::InDoubt(again) => {
                Real::InDoubt { sent_at, since: sent_at, presented_again: again.into() }
            }
            Standing::Refused(confirmed) => {
                let at = now() - SignedDuration::from_hours(1);
                Real::Refused { reason: Reason::RefreshTokenRevoked, at, confirmed }
            }
        };
        let intent = (record.intent > 0).then(|| Intent {
            attempt: id(record.intent),
            lineage,
            generation,
            presented: self.pair_id(record.pair),
            sent_at,
            deadline: sent_at + self.policy.deadline,
            machine: if record.nobodys { String::new() } else { MACHINE.into() },
        });
        let old_doubts = Pair::all().filter(|pair| record.old_doubts.has(*pair));
        let old_doubt = |pair| OldDoubt { fingerprint: self.pair_id(pair).fingerprint(), sent_at };
        Record {
            chain: self.chain.clone(),
            lineage,
            generation,
            kind: Kind::RefreshToken,
            pair: self.pair_id(record.pair),
            expires_at,
            expiry_assumed: false,
            life_secs: LIFE.as_secs(),
            granted_at: now() - SignedDuration::from_hours(1),
            grant_expires_at: None,
            scopes: Vec::new(),
            stored_at: now() - SignedDuration::from_hours(1),
            renew_at: Some(expires_at - SignedDuration::from_hours(1)),
            standing,
            access_refused: record.access_refused,
            intent,
            made_by: (record.made_by > 0).then(|| id(record.made_by)),
            last_attempt: id(record.last_attempt),
            failures: None,
            rewriting: None,
            old_doubts: old_doubts.map(old_doubt).collect(),
            adoptions: Vec::new(),
            quarantined: record.behind.map(|mark| Quarantine { since: now(), behind: real_mark(mark) }),
        }
    }

    fn back(&self, record: &Record) -> Rec {
        let pair_of = |id: PairId| Pair::all().find(|pair| self.pair_id(*pair) == id);
        let attempt = |id: AttemptId| id.0 as u8;
        let mut old_doubts = Pairs::default();
        for old in &record.old_doubts {
            let is = |pair: &Pair| self.pair_id(*pair).fingerprint() == old.fingerprint;
            Pair::all().filter(is).for_each(|pair| old_doubts.add(pair));
        }
        Rec {
            lineage: record.lineage.0 as u8,
            generation: record.generation.0 as u8,
            pair: pair_of(record.pair).expect("the model knows every pair"),
            standing: match record.standing {
                Real::Live => Standing::Live,
                Real::InDoubt { presented_again, .. } => Standing::InDoubt(presented_again.min(2) as u8),
                Real::Refused { confirmed, .. } => Standing::Refused(confirmed),
            },
            access_refused: record.access_refused,
            intent: record.intent.as_ref().map_or(0, |intent| attempt(intent.attempt)),
            made_by: record.made_by.map_or(0, attempt),
            last_attempt: attempt(record.last_attempt),
            old_doubts,
            nobodys: record.intent.as_ref().is_some_and(|intent| intent.machine.is_empty()),
            behind: record.quarantined.map(|is| small_mark(is.behind)),
        }
    }
}

fn filed(attempt: u8, (lineage, generation): (u8, u8), presented: Pair, answer: Answer) -> Filed {
    Filed { attempt, lineage, generation, presented, answer: Some(answer), being_read: false }
}

fn real_mark((lineage, generation, attempt): Mark) -> chain::Mark {
    chain::Mark {
        lineage: Lineage(lineage.into()),
        generation: Generation(generation.into()),
        attempt: id(attempt),
    }
}

fn small_mark(mark: chain::Mark) -> Mark {
    (mark.lineage.0 as u8, mark.generation.0 as u8, mark.attempt.0 as u8)
}

fn id(attempt: u8) -> AttemptId {
    AttemptId(attempt.into())
}
