//! What the stand-in saw, and whether it may have been so. A family that reuse revoked is a violation unless the
//! answer that gave its newest pair had never reached anybody: lost by the network, or by a kill before its receipt.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use evergrant_standin::{Exchange, ExchangeOutcome, Fingerprint, Handle};
use jiff::{SignedDuration, Timestamp};

use super::client::Presented;
use super::{DEADLINE, LATE, vault};

/// An answer that is not late by a fault is in its receipt within this, unless its process was stopped or killed.
const ANSWERED_WITHIN: Duration = DEADLINE;
/// A request may wait so long at the provider until it is decided, and its process may die meanwhile.
const DECIDED_WITHIN: SignedDuration = SignedDuration::from_millis(300);
/// A request of a process that was just killed may take so long to arrive.
const ARRIVES_WITHIN: SignedDuration = SignedDuration::from_millis(50);

/// How a token was spent.
#[derive(Debug, Clone)]
struct Spending {
    at: Timestamp,
    successor: Option<Fingerprint>,
    /// The fault that took the answer, or the time it took.
    fault: Option<String>,
    whole: bool,
}

/// Everything that decides whether an end was a fault of ours.
pub(super) struct Ledger {
    standin: Handle,
    auth_file: PathBuf,
    last_seq: u64,
    spent: BTreeMap<Fingerprint, Spending>,
    /// Refresh tokens that were in the file or in a receipt, or were presented.
    kept: BTreeSet<Fingerprint>,
    /// Families whose newest pair never reached anybody.
    undelivered: BTreeSet<u64>,
    kills: Vec<Timestamp>,
    /// From when to when a process was stopped.
    stops: Vec<(Timestamp, Timestamp)>,
    /// What the foreign client presented, which has no way to know of a doubt.
    by_client: Presented,
    /// Exchanges at the provider whose process is gone, until none is in flight.
    orphans: u64,
    in_flight_since: Option<Timestamp>,
    most_in_flight: u64,
    pub(super) cut_answers: u64,
    pub(super) violations: Vec<String>,
}

impl Ledger {
    pub(super) fn new(standin: Handle, auth_file: PathBuf, by_client: Presented) -> Self {
        Self {
            standin,
            auth_file,
            last_seq: 0,
            spent: BTreeMap::new(),
            kept: BTreeSet::new(),
            undelivered: BTreeSet::new(),
            kills: Vec::new(),
            stops: Vec::new(),
            by_client,
            orphans: 0,
            in_flight_since: None,
            most_in_flight: 0,
            cut_answers: 0,
            violations: Vec::new(),
        }
    }

    pub(super) fn undelivered(&self) -> u64 {
        self.undelivered.len() as u64
    }

    /// The most exchanges in flight at one time within their deadline and with a living process.
    pub(super) fn most_in_flight(&self) -> u64 {
        self.most_in_flight
    }

    /// A process was killed; what it had in flight is nobody's now.
    pub(super) fn killed(&mut self) {
        self.kills.push(self.standin.now());
        self.orphans = self.standin.counters().exchanges_in_flight;
    }

    /// A process is stopped for so long from now on.
    pub(super) fn stopped(&mut self, span: Duration) {
        let now = self.standin.now();
        self.stops.push((now, now + span));
    }

    pub(super) fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Reads on: exchanges in flight, the file, the provider's log.
    pub(super) fn follow(&mut self) {
        self.follow_flights();
        match vault::refresh_token(&self.auth_file) {
            Ok(token) => {
                self.kept.insert(Fingerprint::of(&token));
            }
            Err(what) => self.violation(what),
        }
        let last = self.last_seq;
        let fresh: Vec<Exchange> = self.standin.with(|engine| {
            let newer = engine.exchanges().rev().take_while(|exchange| exchange.seq > last);
            newer.cloned().collect()
        });
        for exchange in fresh.into_iter().rev() {
            self.last_seq = exchange.seq;
            self.note(&exchange);
        }
    }

    fn follow_flights(&mut self) {
        let (now, in_flight) = (self.standin.now(), self.standin.counters().exchanges_in_flight);
        if in_flight == 0 {
            (self.orphans, self.in_flight_since) = (0, None);
            return;
        }
        let since = *self.in_flight_since.get_or_insert(now);
        let within_deadline =
            now.duration_since(since) < SignedDuration::try_from(DEADLINE).unwrap_or_default();
        let just_killed = self.kills.last().is_some_and(|kill| now.duration_since(*kill) < ARRIVES_WITHIN);
        if just_killed {
            self.orphans = self.orphans.max(in_flight);
        }
        if self.orphans > 0 || !within_deadline {
            return;
        }
        self.most_in_flight = self.most_in_flight.max(in_flight);
        if in_flight > 1 {
            self.violation(format!("I1: {in_flight} exchanges in flight at once"));
        }
    }

    fn note(&mut self, exchange: &Exchange) {
        let whole = exchange.delivered
            && exchange.status == 200
            && exchange.fault.as_deref() != Some("truncated_json");
        self.cut_answers += u64::from(!whole && exchange.outcome == ExchangeOutcome::Rotated);
        let Some(presented) = exchange.presented else { return };
        match exchange.outcome {
            ExchangeOutcome::Rotated => {
                self.kept.insert(presented);
                let (at, successor, fault) = (exchange.at, exchange.issued, exchange.fault.clone());
                self.spent.insert(presented, Spending { at, successor, fault, whole });
            }
            ExchangeOutcome::ReuseDetected => self.judge_reuse(presented, exchange),
            ExchangeOutcome::Repeated
            | ExchangeOutcome::Graced
            | ExchangeOutcome::Refused
            | ExchangeOutcome::Minted
            | ExchangeOutcome::NotProcessed => {}
        }
    }

    /// A spent token was presented: only where its answer had never reached anybody.
    fn judge_reuse(&mut self, presented: Fingerprint, exchange: &Exchange) {
        match self.why_undelivered(presented, exchange.at) {
            Ok(_) => self.undelivered.extend(exchange.family),
            Err(why) => self.violation(format!("I5: {presented} was presented again: {why}; {exchange:?}")),
        }
    }

    /// Why the answer that spent a token never arrived, or why it must have.
    fn why_undelivered(&mut self, presented: Fingerprint, until: Timestamp) -> Result<String, String> {
        let Some(spending) = self.spent.get(&presented).cloned() else {
            return Err("nobody has spent it".into());
        };
        self.kept.extend(vault::in_receipts(&self.auth_file));
        if let Some(successor) = spending.successor.filter(|successor| self.kept.contains(successor)) {
            return Err(format!("its successor {successor} had been kept"));
        }
        if !spending.whole {
            return Ok(format!("the answer was lost: {:?}", spending.fault));
        }
        if self.was_killed(spending.at, until) {
            return Ok("a process was killed before its receipt".into());
        }
        let late = SignedDuration::try_from(DEADLINE).unwrap_or_default();
        if self.by_client.contains(&presented) && until.duration_since(spending.at) + LATE >= late {
            return Ok("the client presented what was late".into());
        }
        Err(format!("{spending:?}"))
    }

    /// Whether a kill may have taken an answer that was decided at `at`: while the request waited, or soon after it,
    /// unless a process was stopped.
    fn was_killed(&self, at: Timestamp, until: Timestamp) -> bool {
        let soon = at + ANSWERED_WITHIN;
        let stops = self.stops.iter().filter(|(from, to)| *from < soon && *to > at);
        let last = stops.map(|(_, to)| *to + ANSWERED_WITHIN).max().unwrap_or(soon).max(soon).min(until);
        self.kills.iter().any(|kill| *kill + DECIDED_WITHIN >= at && *kill <= last)
    }

    /// Whether the token in the file is worth nothing any more, and why that is nobody's fault; a violation if not.
    pub(super) fn end_of(&mut self, token: &str) -> Option<Result<String, String>> {
        let (now, presented) = (self.standin.now(), Fingerprint::of(token));
        let lives = self.standin.with(|engine| engine.family_lives(token, now));
        let spent = self.spent.get(&presented).map(|spending| now.duration_since(spending.at));
        match (lives, spent) {
            (true, None) => None,
            // It may still be on its way.
            (true, Some(ago)) if ago < SignedDuration::try_from(DEADLINE).unwrap_or_default() + LATE => None,
            (_, Some(_)) => match self.why_undelivered(presented, now) {
                Ok(why) => Some(Ok(why)),
                // It lies in a receipt and has yet to be committed, which a calm shows.
                Err(_) if lives => None,
                Err(why) => Some(Err(why)),
            },
            (false, None) => Some(Err("its family was revoked, and nobody has spent it".into())),
        }
    }

    /// A person has to log in, since this token's answer is lost.
    pub(super) fn given_up(&mut self, token: &str) {
        let presented = Fingerprint::of(token);
        let family = self.standin.with(|engine| {
            engine
                .exchanges()
                .rev()
                .find(|exchange| exchange.presented == Some(presented))
                .and_then(|it| it.family)
        });
        self.undelivered.extend(family);
    }
}

#[cfg(test)]
mod tests {
    use evergrant_standin::{Call, Fault, FaultTarget, LoginOptions};

    use super::*;
    use crate::torture::settings;

    struct Room {
        folder: tempfile::TempDir,
        standin: Handle,
        ledger: Ledger,
    }

    impl Room {
        fn new() -> Self {
            let (folder, standin) = (tempfile::tempdir().unwrap(), Handle::new(settings()));
            let file = folder.path().join("auth.json");
            let login = standin.login(LoginOptions::default()).auth_file();
            std::fs::write(&file, login.to_string()).unwrap();
            let ledger = Ledger::new(standin.clone(), file, Presented::default());
            Self { folder, standin, ledger }
        }

        fn file(&self) -> String {
            vault::refresh_token(&self.folder.path().join("auth.json")).unwrap()
        }

        /// Presents a token, and says its successor, whatever becomes of the answer.
        fn present(&self, token: &str) -> Option<String> {
            let id = &self.standin.settings().client.id;
            let body =
                serde_json::json!({"grant_type": "refresh_token", "refresh_token": token, "client_id": id});
            let target = self.standin.settings().token_path;
            let headers = [("content-type", "application/json")];
            let body = body.to_string().into_bytes();
            self.standin.handle(&Call { method: "POST", target: &target, headers: &headers, body: &body });
            let families = self.standin.state().families;
            let family = families.last().unwrap().family;
            self.standin.with(|engine| engine.newest_refresh_token(family).map(str::to_owned))
        }

        fn put(&self, token: &str) {
            let file = serde_json::json!({"claudeAiOauth": {"refreshToken": token}});
            std::fs::write(self.folder.path().join("auth.json"), file.to_string()).unwrap();
        }

        /// The first token again; whether that is a violation, and how many ends were undelivered.
        fn again(mut self, first: &str) -> (bool, u64) {
            self.ledger.follow();
            self.present(first);
            self.ledger.follow();
            assert_eq!(self.standin.counters().families_revoked_by_reuse, 1);
            (!self.ledger.violations.is_empty(), self.ledger.undelivered())
        }
    }

    #[test]
    fn a_token_whose_answer_had_arrived_is_not_presented_again() {
        let room = Room::new();
        let first = room.file();
        room.put(&room.present(&first).unwrap());
        assert_eq!(room.again(&first), (true, 0), "its successor was in the file");
        let room = Room::new();
        let first = room.file();
        room.present(&first);
        assert_eq!(room.again(&first), (true, 0), "nothing explains where its answer went");
    }

    #[test]
    fn a_lost_answer_and_a_kill_explain_an_end() {
        let room = Room::new();
        let first = room.file();
        room.standin.push_fault(FaultTarget::Token, Fault::AnswerLost, 1);
        room.present(&first);
        assert_eq!(room.again(&first), (false, 1), "the answer was lost");
        let mut room = Room::new();
        let first = room.file();
        room.present(&first);
        room.ledger.killed();
        assert_eq!(room.again(&first), (false, 1), "the process was killed");
        let mut room = Room::new();
        let first = room.file();
        room.put(&room.present(&first).unwrap());
        room.ledger.follow();
        room.ledger.killed();
        assert_eq!(room.again(&first), (true, 0), "a kill explains nothing that had been kept");
    }
}
