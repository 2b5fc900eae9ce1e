//! Every row of the table over a database vault's rows, and what follows of a quarantine.

use super::*;
use crate::chain::{Mark, Quarantine};

/// Of the chain of `record()`: lineage 2, generation 3.
fn mark(lineage: u64, generation: u64, attempt: u64) -> Option<Mark> {
    Some(Mark { lineage: Lineage(lineage), generation: Generation(generation), attempt: AttemptId(attempt) })
}

fn behind(lineage: u64, generation: u64, attempt: u64) -> Option<Quarantine> {
    Some(Quarantine { since: at(100), behind: mark(lineage, generation, attempt).unwrap() })
}

fn row() -> Record {
    Record { last_attempt: AttemptId(8), ..record() }
}

fn finding(record: &Record, receipts: &[Receipt], mark: Option<Mark>, now: Timestamp) -> RowFinding {
    recover_row(FoundRow { record, receipts, mark, machine: "here" }, now)
}

#[test]
fn every_row_of_the_table() {
    let reserved = |being_read| ReceiptState::Reserved { being_read };
    let refused = || received(400, r#"{"error":"invalid_grant"}"#);
    let elsewhere = || {
        let mut record = intended();
        record.intent.as_mut().unwrap().machine = "there".into();
        record
    };
    let reopened = || {
        let mut record = intended();
        record.intent.as_mut().unwrap().attempt = AttemptId(10);
        record
    };
    let revoked = || Record { standing: refused_standing(), ..row() };
    let mut moved = row();
    moved.lineage = Lineage(3);
    for (what, record, receipts, mark, finds) in [
        ("nothing open", row(), vec![], None, RowFinding::Clean),
        ("at its mark", row(), vec![], mark(2, 3, 8), RowFinding::Clean),
        ("ahead of its mark", row(), vec![], mark(2, 2, 8), RowFinding::Clean),
        ("an answer", intended(), vec![receipt(9, 3, 5, gives(6))], None, RowFinding::Commit(AttemptId(9))),
        (
            "an answer, though somebody called the chain revoked meanwhile",
            revoked(),
            vec![receipt(9, 3, 5, gives(6))],
            None,
            RowFinding::Commit(AttemptId(9)),
        ),
        (
            "the answer that a restored row forgets",
            row(),
            vec![receipt(9, 3, 5, gives(6))],
            mark(2, 4, 9),
            RowFinding::Commit(AttemptId(9)),
        ),
        ("refused", intended(), vec![receipt(9, 3, 5, refused())], None, RowFinding::Settle(AttemptId(9))),
        (
            "a refusal of an attempt that is not the open one",
            Record { last_attempt: AttemptId(10), ..row() },
            vec![receipt(9, 3, 5, refused())],
            None,
            RowFinding::Clean,
        ),
        (
            "the receipt that made the row's pair stays",
            row(),
            vec![receipt(8, 2, 4, gives(5))],
            None,
            RowFinding::Clean,
        ),
        (
            "what made the row's pair was presented once more, and answered otherwise",
            row(),
            vec![receipt(9, 2, 4, gives(6))],
            None,
            RowFinding::Clean,
        ),
        (
            "an answer, while another attempt's intent is open",
            Record { last_attempt: AttemptId(10), ..reopened() },
            vec![receipt(9, 3, 5, gives(6))],
            None,
            RowFinding::InDoubt,
        ),
        (
            "the same, of another machine",
            elsewhere(),
            vec![receipt(9, 3, 5, gives(6))],
            None,
            RowFinding::Elsewhere(at(LIFE_SECS)),
        ),
        (
            "an answer of an older lineage",
            moved,
            vec![receipt(9, 3, 4, gives(6))],
            None,
            RowFinding::Outdated(AttemptId(9)),
        ),
        (
            "restored, with the newest pair in reach",
            row(),
            vec![receipt(12, 6, 7, gives(9))],
            mark(2, 7, 12),
            RowFinding::BringUp(AttemptId(12)),
        ),
        (
            "the same, and the pair was presented since",
            row(),
            vec![receipt(12, 6, 7, gives(9))],
            mark(2, 7, 13),
            RowFinding::BringUp(AttemptId(12)),
        ),
        (
            "the same, of which only another machine has heard",
            Record { quarantined: behind(2, 7, 13), ..row() },
            vec![receipt(12, 6, 7, gives(9))],
            mark(2, 7, 12),
            RowFinding::BringUp(AttemptId(12)),
        ),
        (
            "brought up, and the pair was presented since",
            Record { generation: Generation(7), last_attempt: AttemptId(12), ..row() },
            vec![receipt(12, 6, 7, gives(9))],
            mark(2, 7, 13),
            RowFinding::Forgotten(mark(2, 7, 13).unwrap()),
        ),
        (
            "restored, and others went on from what is in reach",
            row(),
            vec![receipt(12, 6, 7, gives(9))],
            mark(2, 8, 13),
            RowFinding::Behind(mark(2, 8, 13).unwrap()),
        ),
        ("restored", row(), vec![], mark(2, 4, 9), RowFinding::Behind(mark(2, 4, 9).unwrap())),
        (
            "restored from before a login",
            row(),
            vec![],
            mark(3, 1, 8),
            RowFinding::Behind(mark(3, 1, 8).unwrap()),
        ),
        (
            "restored, and the pair had been presented",
            row(),
            vec![],
            mark(2, 3, 9),
            RowFinding::Forgotten(mark(2, 3, 9).unwrap()),
        ),
        (
            "the same, with nothing in its receipt",
            row(),
            vec![receipt(9, 3, 5, reserved(false))],
            mark(2, 3, 9),
            RowFinding::Forgotten(mark(2, 3, 9).unwrap()),
        ),
        (
            "the same, and an answer is still being read here, of which others do not know",
            row(),
            vec![receipt(9, 3, 5, reserved(true))],
            mark(2, 3, 9),
            RowFinding::Forgotten(mark(2, 3, 9).unwrap()),
        ),
        (
            "restored, while an answer to its old pair is still being read",
            row(),
            vec![receipt(9, 3, 5, reserved(true))],
            mark(2, 4, 10),
            RowFinding::Behind(mark(2, 4, 10).unwrap()),
        ),
        ("being read", intended(), vec![receipt(9, 3, 5, reserved(true))], None, RowFinding::BeingRead),
        ("no answer", intended(), vec![receipt(9, 3, 5, reserved(false))], None, RowFinding::InDoubt),
        ("no receipt", intended(), vec![], None, RowFinding::InDoubt),
        (
            "sent elsewhere, under the number of an attempt that was never made here",
            elsewhere(),
            vec![receipt(9, 3, 5, refused())],
            None,
            RowFinding::Elsewhere(at(LIFE_SECS)),
        ),
        ("sent elsewhere", elsewhere(), vec![], None, RowFinding::Elsewhere(at(LIFE_SECS))),
    ] {
        assert_eq!(finding(&record, &receipts, mark, at(100)), finds, "{what}");
    }
    // Whoever sent it has had its time: nothing is left to lose.
    assert_eq!(finding(&elsewhere(), &[], None, at(LIFE_SECS)), RowFinding::InDoubt);
}

#[test]
fn a_row_that_forgets_a_presentation_is_in_doubt_once() {
    let mark = mark(2, 3, 11).unwrap();
    let doubted = forgotten(row(), mark, at(100), &mut rng());
    assert!(matches!(doubted.standing, Standing::InDoubt { .. }), "{doubted:?}");
    assert_eq!(doubted.mark(), mark);
    // Some machine may still read the answer, or have it: all wait for it, that one too.
    let until = doubted.expires_at;
    assert_eq!(finding(&doubted, &[], Some(mark), at(100)), RowFinding::Elsewhere(until));
    let mut answer = receipt(11, 3, 5, gives(6));
    assert_eq!(finding(&doubted, &[answer.clone()], None, at(100)), RowFinding::Commit(AttemptId(11)));
    // That of another attempt may come while this one is about to present the pair.
    answer.attempt = AttemptId(10);
    assert_eq!(finding(&doubted, &[answer], None, at(100)), RowFinding::Elsewhere(until));
    assert_eq!(finding(&doubted, &[], Some(mark), until), RowFinding::InDoubt);
}

#[test]
fn a_quarantined_row_is_not_presented_until_something_newer_comes() {
    let behind = quarantine(row(), mark(2, 7, 12).unwrap(), at(100));
    // Another machine knows more; since when stays.
    let behind = quarantine(behind, mark(4, 2, 20).unwrap(), at(200));
    let behind = quarantine(behind, mark(2, 7, 12).unwrap(), at(300));
    let is = behind.quarantined.unwrap();
    assert_eq!((is.since, is.behind), (at(100), mark(4, 2, 20).unwrap()));
    let policy = policy(ReuseClass::Strict);
    for (look, now) in [(Look::Due, LIFE_SECS), (Look::Forced, 100), (Look::Due, LIFE_SECS * 9)] {
        let rest = Decision::Rest { reason: Reason::Quarantined, error: Some(Reason::Quarantined) };
        assert_eq!(decide(&behind, &policy, look, at(now)), rest);
    }
    assert_eq!(wakes_at(&behind, RowFinding::Clean, &policy, at(100)), None);
    // A login counts as newer than everything that anybody has seen.
    let next = take_in(&behind.chain, Some(&behind), &grant(9), true, &policy, at(400), &mut rng());
    assert_eq!((next.lineage, next.quarantined), (Lineage(5), None));
    assert!(next.mark() > is.behind);
    // So does the pair that was the newest.
    let receipt = receipt(12, 6, 7, gives(9));
    let from = bring_up_from(&behind, &receipt);
    let brought = commit(&from, receipt.attempt, &grant(9), true, at(11), &policy, &mut rng());
    assert_eq!((brought.quarantined, brought.pair), (None, grant(9).pair()));
    // It was made by that attempt, of which the row knew nothing: no later one is forgotten with it.
    assert_eq!(brought.mark(), mark(2, 7, 12).unwrap());
    let mut one_behind = row();
    one_behind.last_attempt = AttemptId(0);
    let brought = commit(&one_behind, receipt.attempt, &grant(9), true, at(11), &policy, &mut rng());
    assert_eq!(brought.mark().attempt, AttemptId(12));
}

#[test]
fn a_pair_that_is_put_back_is_no_newer_than_what_is_known() {
    let put = |known| as_known(row(), known, at(200), &mut rng());
    for known in [None, mark(2, 3, 8), mark(2, 2, 7), mark(1, 9, 4)] {
        assert_eq!(put(known), row());
    }
    let presented = put(mark(2, 3, 9));
    assert!(matches!(presented.standing, Standing::InDoubt { .. }), "{presented:?}");
    assert_eq!(presented.mark(), mark(2, 3, 9).unwrap());
    for known in [mark(2, 4, 9), mark(3, 1, 8)] {
        assert_eq!(put(known).quarantined.map(|is| is.behind), known);
    }
}

/// What an answer that is only in memory is kept for.
#[test]
fn an_answer_is_awaited_where_it_was_asked_from_and_may_follow_what_is_older() {
    let refused = || received(400, r#"{"error":"invalid_grant"}"#);
    let older = || Record { generation: Generation(2), pair: grant(4).pair(), ..row() };
    let newer = || Record { generation: Generation(4), pair: grant(6).pair(), ..row() };
    let other = || Record { lineage: Lineage(3), generation: Generation(1), pair: grant(9).pair(), ..row() };
    let put_back = || Record { pair: grant(5).pair(), ..other() };
    for (what, record, state, is_awaited, may_follow) in [
        ("a pair, at its intent", intended(), gives(6), true, false),
        ("a pair, and the intent was settled", row(), gives(6), true, false),
        ("a refusal, at its intent", intended(), refused(), true, false),
        ("a refusal, and the intent was settled", row(), refused(), false, false),
        ("a pair, and the chain has moved on", newer(), gives(6), false, false),
        ("a pair behind a login", other(), gives(6), false, false),
        ("a pair, and the presented one was put back", put_back(), gives(6), true, false),
        ("a pair, and the row is an older copy", older(), gives(6), false, true),
        ("a refusal, and the row is an older copy", older(), refused(), false, false),
    ] {
        let receipt = receipt(9, 3, 5, state);
        assert_eq!(
            (receipt.is_awaited(&record), receipt.may_follow(&record)),
            (is_awaited, may_follow),
            "{what}"
        );
    }
}

#[test]
fn what_was_refused_twice_is_not_in_doubt_because_a_row_forgets_who_asked_since() {
    let refused =
        |confirmed| Standing::Refused { reason: Reason::RefreshTokenRevoked, at: at(50), confirmed };
    for confirmed in [false, true] {
        let record = Record { standing: refused(confirmed), ..row() };
        let next = forgotten(record.clone(), mark(2, 3, 11).unwrap(), at(100), &mut rng());
        assert_eq!(next.last_attempt, AttemptId(11));
        assert_eq!(matches!(next.standing, Standing::InDoubt { .. }), !confirmed);
        assert_eq!(next.intent.is_none(), confirmed);
    }
}

/// Of a chain at lineage 2, generation 3, after attempt 8; receipts are of the same lineage.
#[test]
fn a_receipt_says_something_until_others_have_gone_on_from_it() {
    let of_older_login = |state| Receipt { lineage: Lineage(1), ..receipt(3, 9, 4, state) };
    let reserved = |being_read| ReceiptState::Reserved { being_read };
    for (what, receipt, says_now) in [
        ("made an older pair", receipt(6, 1, 4, gives(5)), Says::Nothing),
        ("died before its answer", receipt(6, 1, 4, reserved(false)), Says::Nothing),
        ("made the newest pair", receipt(8, 2, 4, gives(5)), Says::NothingYet),
        ("is still read", receipt(6, 1, 4, reserved(true)), Says::NothingYet),
        ("has a newer pair", receipt(8, 3, 5, gives(6)), Says::Perhaps),
        ("asked since", receipt(9, 2, 5, reserved(false)), Says::Perhaps),
        ("spent an older login's pair", of_older_login(gives(5)), Says::Perhaps),
        ("an older login's, without an answer", of_older_login(reserved(false)), Says::Nothing),
    ] {
        assert_eq!(says(&receipt, mark(2, 3, 8).unwrap()), says_now, "{what}");
    }
}
