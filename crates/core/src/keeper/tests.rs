//! Tables over the keeper's decisions: every row of SPEC §4's recovery table, when a pair is presented, and what
//! an outcome leaves behind; and properties that hold whatever the table.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::authfile::Malformed;
use crate::chain::{AttemptId, Generation, Kind, Lineage, Record, Standing};
use crate::grant::Grant;
use crate::provider::{Profile, ReuseClass};
use crate::reason::Reason;
use crate::secret::{AccessToken, RefreshToken};

mod row;

const LIFE_SECS: i64 = 8 * 3600;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn policy(reuse: ReuseClass) -> Policy {
    Policy::new(Profile { reuse, ..Profile::claude() })
}

/// The grant of pair `pair`: access token `aN`, refresh token `rN`.
fn grant(pair: u32) -> Grant {
    Grant {
        access: AccessToken::parse(&format!("a{pair}")).unwrap(),
        refresh: Some(RefreshToken::parse(&format!("r{pair}")).unwrap()),
        expires_at: Some(at(LIFE_SECS)),
        grant_expires_at: None,
        scopes: vec![],
    }
}

/// A chain that holds pair 5 as lineage 2, generation 3.
fn record() -> Record {
    let chain = "claude".parse().unwrap();
    let record = take_in(&chain, None, &grant(5), true, &policy(ReuseClass::Strict), at(0), &mut rng());
    Record { lineage: Lineage(2), generation: Generation(3), made_by: Some(AttemptId(8)), ..record }
}

fn intended() -> Record {
    begin(record(), AttemptId(9), "here", &policy(ReuseClass::Strict), at(10))
}

fn received(status: u16, body: &str) -> ReceiptState {
    let answer =
        Answer::Received { status, retry_after: None, date: None, body: body.into(), complete: true };
    ReceiptState::Answered { at: at(11), answer }
}

fn gives(pair: u32) -> ReceiptState {
    received(200, &format!(r#"{{"access_token":"a{pair}","refresh_token":"r{pair}","expires_in":28800}}"#))
}

/// The receipt of an attempt that presented pair `presented` at `generation`.
fn receipt(attempt: u64, generation: u64, presented: u32, state: ReceiptState) -> Receipt {
    Receipt {
        attempt: AttemptId(attempt),
        lineage: Lineage(2),
        generation: Generation(generation),
        presented: grant(presented).pair(),
        state,
    }
}

fn found(file: FileFound, record: Record, receipts: Vec<Receipt>) -> Found {
    Found { file, record: Some(record), receipts, replaced: false, staged: Staged::Nothing }
}

#[test]
fn every_row_of_the_recovery_table() {
    let file = |pair| FileFound::Grant(grant(pair));
    let garbage = || FileFound::Malformed(Malformed::NoGrant);
    let clean = || found(file(5), record(), vec![]);
    let reserved = |being_read| ReceiptState::Reserved { being_read };
    let refused = || received(400, r#"{"error":"invalid_grant"}"#);
    let made_current = || receipt(8, 2, 4, gives(5));
    let replaced = |found: Found| Found { replaced: true, ..found };
    let rewriting = Record { rewriting: Some(AttemptId(9)), ..intended() };
    for (row, found, finding) in [
        ("clean", clean(), Finding::Clean),
        ("swapped out", Found { staged: Staged::OutsideEdit, ..clean() }, Finding::SwapBack),
        ("missing", Found { file: FileFound::Missing, ..clean() }, Finding::Absent),
        ("wiped", Found { file: FileFound::Wiped, ..clean() }, Finding::Absent),
        ("garbage", Found { file: garbage(), ..clean() }, Finding::Malformed(Malformed::NoGrant)),
        (
            "cut short while rewritten in place",
            found(garbage(), rewriting.clone(), vec![receipt(9, 3, 5, gives(6))]),
            Finding::Rewrite(AttemptId(9)),
        ),
        ("marked, no receipt", found(garbage(), rewriting, vec![]), Finding::Malformed(Malformed::NoGrant)),
        ("no record", Found { record: None, ..clean() }, Finding::Adopt),
        (
            "our own commit, cut short",
            found(file(6), intended(), vec![receipt(9, 3, 5, gives(6))]),
            Finding::Finish(AttemptId(9)),
        ),
        (
            "a receipt to commit",
            found(file(5), intended(), vec![receipt(9, 3, 5, gives(6))]),
            Finding::Commit(AttemptId(9)),
        ),
        (
            "a receipt to commit, though the chain was called revoked meanwhile",
            found(
                file(5),
                {
                    let mut record = record();
                    record.standing = refused_standing();
                    record
                },
                vec![receipt(9, 3, 5, gives(6))],
            ),
            Finding::Commit(AttemptId(9)),
        ),
        (
            "of two answers for one generation the last attempt's",
            found(file(5), intended(), vec![receipt(8, 3, 5, gives(6)), receipt(9, 3, 5, gives(7))]),
            Finding::Commit(AttemptId(9)),
        ),
        (
            "a pair before a refusal, whatever came last",
            found(file(5), intended(), vec![receipt(8, 3, 5, gives(6)), receipt(9, 3, 5, refused())]),
            Finding::Commit(AttemptId(8)),
        ),
        (
            "a refusal",
            found(file(5), intended(), vec![receipt(9, 3, 5, refused())]),
            Finding::Settle(AttemptId(9)),
        ),
        (
            "an old receipt without a pair settles nothing",
            found(file(5), record(), vec![receipt(9, 3, 5, refused())]),
            Finding::Clean,
        ),
        (
            "being read",
            found(file(5), intended(), vec![receipt(9, 3, 5, reserved(true))]),
            Finding::BeingRead,
        ),
        (
            "nobody reads",
            found(file(5), intended(), vec![receipt(9, 3, 5, reserved(false))]),
            Finding::InDoubt,
        ),
        ("no receipt at all", found(file(5), intended(), vec![]), Finding::InDoubt),
        (
            "rolled back to the presented pair of the current one's receipt",
            replaced(found(file(4), record(), vec![made_current()])),
            Finding::RollForward(AttemptId(8)),
        ),
        (
            "rolled back further",
            replaced(found(file(1), record(), vec![made_current()])),
            Finding::RollForward(AttemptId(8)),
        ),
        (
            "rolled back while the newest pair is still in a receipt",
            replaced(found(file(4), intended(), vec![made_current(), receipt(9, 3, 5, gives(6))])),
            Finding::RollForward(AttemptId(9)),
        ),
        ("rolled back, no receipt", replaced(found(file(4), record(), vec![])), Finding::Spent),
        ("somebody logged in", found(file(9), record(), vec![made_current()]), Finding::Adopt),
        (
            "somebody logged in while an answer waits",
            found(file(9), intended(), vec![receipt(9, 3, 5, gives(6))]),
            Finding::Adopt,
        ),
        (
            "put back after another login, and its late answer is here",
            found(file(5), put_back(), vec![receipt(9, 3, 5, gives(6))]),
            Finding::Commit(AttemptId(9)),
        ),
        (
            "put back after another login, and its answer is still being read",
            found(file(5), put_back(), vec![receipt(9, 3, 5, reserved(true))]),
            Finding::BeingRead,
        ),
        (
            "the answer of an older lineage: what was presented is spent",
            found(file(5), put_back(), vec![receipt(9, 3, 4, gives(6))]),
            Finding::Outdated(AttemptId(9)),
        ),
        (
            "the same, when somebody puts back what was presented",
            found(file(1), put_back(), vec![receipt(9, 3, 1, gives(6))]),
            Finding::Outdated(AttemptId(9)),
        ),
        (
            "an older lineage's answer without a pair, or none, is nobody's",
            found(file(5), put_back(), vec![receipt(9, 3, 4, refused()), receipt(10, 3, 3, reserved(true))]),
            Finding::Clean,
        ),
    ] {
        assert_eq!(recover(&found), finding, "{row}");
    }
}

/// The pair of an older lineage, adopted again.
fn put_back() -> Record {
    Record { lineage: Lineage(4), generation: Generation(1), standing: in_doubt(0), ..record() }
}

fn refused_standing() -> Standing {
    Standing::Refused { reason: Reason::RefreshTokenRevoked, at: at(5), confirmed: true }
}

fn in_doubt(presented_again: u32) -> Standing {
    Standing::InDoubt { sent_at: at(10), since: at(12), presented_again }
}

fn rest(reason: Reason, error: Option<Reason>) -> Decision {
    Decision::Rest { reason, error }
}

#[test]
fn when_a_pair_is_presented() {
    let strict = policy(ReuseClass::Strict);
    let grace = policy(ReuseClass::Grace { secs: 60 });
    let none = policy(ReuseClass::None);
    let live = record();
    let renew_at = live.renew_at.unwrap().duration_since(at(0)).as_secs() + 1;
    let standing = |standing| Record { standing, ..record() };
    let refused_access = |record: Record| Record { access_refused: true, ..record };
    let unconfirmed = Standing::Refused { reason: Reason::RefreshTokenRevoked, at: at(5), confirmed: false };
    let doubt = rest(Reason::InDoubt, Some(Reason::InDoubt));
    let revoked = rest(Reason::RefreshTokenRevoked, Some(Reason::RefreshTokenRevoked));
    let again = Decision::Exchange(Reason::DoubtPresentation);
    for (row, record, policy, look, now, decision) in [
        ("fresh", live.clone(), &strict, Look::Due, 100, rest(Reason::NotDue, None)),
        ("due", live.clone(), &strict, Look::Due, renew_at, Decision::Exchange(Reason::RenewAt)),
        ("forced", live.clone(), &strict, Look::Forced, 100, Decision::Exchange(Reason::Forced)),
        ("forced too soon", live.clone(), &strict, Look::Forced, 59, rest(Reason::TooSoon, None)),
        (
            "401 seen at this generation",
            refused_access(live.clone()),
            &strict,
            Look::Due,
            100,
            Decision::Exchange(Reason::AccessRefused),
        ),
        ("in doubt, strict", standing(in_doubt(0)), &strict, Look::Due, 100, doubt),
        ("in doubt, strict, forced", standing(in_doubt(0)), &strict, Look::Forced, 100, doubt),
        (
            "in doubt, strict, long before the end",
            standing(in_doubt(0)),
            &strict,
            Look::Due,
            LIFE_SECS - 601,
            doubt,
        ),
        ("in doubt, strict, near the end", standing(in_doubt(0)), &strict, Look::Due, LIFE_SECS - 600, again),
        ("in doubt, strict, 401", refused_access(standing(in_doubt(0))), &strict, Look::Due, 100, again),
        ("in doubt, within the grace", standing(in_doubt(0)), &grace, Look::Due, 69, again),
        ("in doubt, grace used", standing(in_doubt(1)), &grace, Look::Due, 69, doubt),
        ("in doubt, behind the grace", standing(in_doubt(0)), &grace, Look::Due, 70, doubt),
        (
            "in doubt, grace over, near the end",
            standing(in_doubt(1)),
            &grace,
            Look::Due,
            LIFE_SECS - 600,
            again,
        ),
        ("in doubt, reuse harms nothing", standing(in_doubt(3)), &none, Look::Due, 100, again),
        ("revoked", standing(refused_standing()), &strict, Look::Due, LIFE_SECS * 9, revoked),
        ("revoked, forced", standing(refused_standing()), &strict, Look::Forced, 100, revoked),
        ("refused where reuse harms nothing", standing(unconfirmed), &none, Look::Due, 64, revoked),
        (
            "confirmed once",
            standing(unconfirmed),
            &none,
            Look::Due,
            65,
            Decision::Exchange(Reason::Confirmation),
        ),
    ] {
        assert_eq!(decide(&record, policy, look, at(now)), decision, "{row}");
    }
    let static_grant = Grant { refresh: None, ..grant(5) };
    let chain = "claude".parse().unwrap();
    let fixed = take_in(&chain, None, &static_grant, false, &strict, at(0), &mut rng());
    assert_eq!((fixed.kind, fixed.renew_at), (Kind::Static, None));
    assert_eq!(decide(&fixed, &strict, Look::Forced, at(100)), rest(Reason::NothingToRenew, None));
    let refused = decide(&refused_access(fixed.clone()), &strict, Look::Due, at(100));
    assert_eq!(refused, rest(Reason::NothingToRenew, Some(Reason::RefreshTokenRevoked)));
    let ended = decide(&fixed, &strict, Look::Due, at(LIFE_SECS));
    assert_eq!(ended, rest(Reason::NothingToRenew, Some(Reason::GrantExpired)));
}

#[test]
fn a_second_presentation_is_sent_within_the_grace_or_not_at_all() {
    let grace = policy(ReuseClass::Grace { secs: 60 });
    let doubted = |presented_again| Record { standing: in_doubt(presented_again), ..record() };
    let refused = Record { access_refused: true, ..doubted(1) };
    let secs = |record: &Record, policy: &Policy, now| send_within(record, policy, at(now)).as_secs();
    assert_eq!(secs(&intended(), &grace, 65), 30, "the first presentation");
    assert_eq!(secs(&doubted(1), &grace, 20), 30);
    assert_eq!(secs(&doubted(1), &grace, 65), 5);
    assert_eq!(secs(&doubted(1), &grace, 71), 0);
    assert_eq!(secs(&doubted(2), &grace, 71), 30, "no grace was counted on");
    assert_eq!(secs(&refused, &grace, 71), 30, "nothing to lose");
    assert_eq!(secs(&doubted(1), &grace, LIFE_SECS - 600), 30, "nothing to lose");
    assert_eq!(secs(&doubted(1), &policy(ReuseClass::Strict), 71), 30);
}

#[test]
fn a_provider_that_asks_for_a_wait_gets_it_even_from_a_forced_look() {
    let policy = policy(ReuseClass::Strict);
    let unspent = |retry_after: Option<u64>| {
        let retry_after = retry_after.map(Duration::from_secs);
        Outcome::Unspent(Unspent { reason: Reason::ProviderThrottled, retry_after })
    };
    let asked = settle(intended(), &unspent(Some(500)), &policy, at(20), &mut rng());
    assert_eq!(asked.intent, None);
    let throttled = rest(Reason::ProviderThrottled, Some(Reason::ProviderThrottled));
    assert_eq!(decide(&asked, &policy, Look::Forced, at(519)), throttled);
    assert_eq!(decide(&asked, &policy, Look::Forced, at(520)), Decision::Exchange(Reason::Forced));
    let own = settle(intended(), &unspent(None), &policy, at(20), &mut rng());
    assert_eq!(decide(&own, &policy, Look::Forced, at(100)), Decision::Exchange(Reason::Forced));
    // An hour of it is a block.
    let later = settle(
        begin(asked, AttemptId(10), "here", &policy, at(3620)),
        &unspent(None),
        &policy,
        at(3621),
        &mut rng(),
    );
    assert_eq!(later.failures.unwrap().reason, Reason::ProviderBlocked);
}

#[test]
fn what_an_outcome_leaves_behind() {
    let strict = policy(ReuseClass::Strict);
    let refused = settle(intended(), &Outcome::Refused, &strict, at(20), &mut rng());
    let revoked = Reason::RefreshTokenRevoked;
    assert_eq!(refused.standing, Standing::Refused { reason: revoked, at: at(20), confirmed: true });
    assert_eq!(refused.position(), record().position());

    let ended = Record { grant_expires_at: Some(at(15)), ..intended() };
    let ended = settle(ended, &Outcome::Refused, &strict, at(20), &mut rng());
    let reason = Reason::GrantExpired;
    assert_eq!(ended.standing, Standing::Refused { reason, at: at(20), confirmed: true });

    let none = policy(ReuseClass::None);
    let once = settle(intended(), &Outcome::Refused, &none, at(20), &mut rng());
    assert_eq!(once.standing, Standing::Refused { reason: revoked, at: at(20), confirmed: false });
    let twice = settle(
        begin(once, AttemptId(10), "here", &none, at(90)),
        &Outcome::Refused,
        &none,
        at(91),
        &mut rng(),
    );
    assert_eq!(twice.standing, Standing::Refused { reason: revoked, at: at(91), confirmed: true });

    let doubted = settle(intended(), &Outcome::InDoubt, &strict, at(20), &mut rng());
    assert_eq!(doubted.standing, Standing::InDoubt { sent_at: at(10), since: at(20), presented_again: 0 });
    // Another lost answer keeps the first presentation's time: a grace counts from there.
    let again = begin(doubted.clone(), AttemptId(10), "here", &strict, at(30));
    let again = settle(again, &Outcome::InDoubt, &strict, at(40), &mut rng());
    assert_eq!(again.standing, Standing::InDoubt { sent_at: at(10), since: at(20), presented_again: 1 });
    // An answer that spent nothing says nothing about the presentation before it.
    let unspent = Outcome::Unspent(Unspent { reason: Reason::ProviderThrottled, retry_after: None });
    let throttled = settle(
        begin(doubted.clone(), AttemptId(10), "here", &strict, at(30)),
        &unspent,
        &strict,
        at(40),
        &mut rng(),
    );
    assert!(matches!(throttled.standing, Standing::InDoubt { .. }));

    // A pair that was in doubt when a login replaced it is in doubt again when it is put back.
    let chain = "claude".parse().unwrap();
    let login = take_in(&chain, Some(&doubted), &grant(9), false, &strict, at(50), &mut rng());
    assert_eq!(
        (login.lineage, login.generation, login.standing),
        (Lineage(3), Generation(1), Standing::Live)
    );
    let back = take_in(&chain, Some(&login), &grant(5), false, &strict, at(60), &mut rng());
    assert_eq!(back.standing, Standing::InDoubt { sent_at: at(10), since: at(60), presented_again: 0 });
    assert!(back.old_doubts.is_empty());
    // So is one that was refused: a file that is put back proves nothing.
    let refused = Record { standing: refused_standing(), ..record() };
    let other = take_in(&chain, Some(&refused), &grant(7), false, &strict, at(30), &mut rng());
    let again = take_in(&chain, Some(&other), &grant(5), false, &strict, at(40), &mut rng());
    assert_eq!(other.standing, Standing::Live);
    assert_eq!(again.standing, Standing::InDoubt { sent_at: at(5), since: at(40), presented_again: 0 });
    assert!(
        back.second_writer(at(60)) && !login.second_writer(at(60)) && !back.second_writer(at(50 + 86_400))
    );
}

#[test]
fn what_an_answer_does_not_say_is_kept() {
    let record = Record { grant_expires_at: Some(at(999)), scopes: vec!["one".into()], ..record() };
    let tokens = NewTokens {
        access: AccessToken::parse("a6").unwrap(),
        refresh: None,
        expires_in: None,
        grant_expires_in: None,
        scopes: None,
    };
    let next = committed_grant(&grant(5), &record, tokens.clone(), at(100));
    assert_eq!(next.refresh, grant(5).refresh);
    assert_eq!(next.expires_at, Some(at(100 + LIFE_SECS)), "the last known life");
    assert_eq!((next.grant_expires_at, &next.scopes), (Some(at(999)), &record.scopes));
    let committed =
        commit(&record, AttemptId(9), &next, false, at(100), &policy(ReuseClass::Strict), &mut rng());
    assert!(committed.expiry_assumed);
    assert!(!replaces(&record, committed.pair), "a repeated refresh token is not spent");

    let said = NewTokens { grant_expires_in: Some(Duration::from_secs(50)), ..tokens };
    assert_eq!(committed_grant(&grant(5), &record, said, at(100)).grant_expires_at, Some(at(150)));
}

fn any_class() -> impl Strategy<Value = ReuseClass> {
    prop_oneof![
        Just(ReuseClass::Strict),
        Just(ReuseClass::None),
        (0_u32..300).prop_map(|secs| ReuseClass::Grace { secs }),
    ]
}

#[test]
fn what_a_look_came_to_says_when_the_next_one_is() {
    let (policy, chain) = (policy(ReuseClass::Strict), record().chain);
    let next = |now: i64, reason, error| {
        let report = Report::new(&chain, Some(&record()), true, (reason, error), at(now));
        let (next, why) = next_look(&report, Some(&record()), &policy, at(now));
        (next.duration_since(at(now)).as_millis(), why)
    };
    let tick = TICK.as_millis() as i128;
    let late = 2 * LIFE_SECS;
    for (now, reason, error, wait, why) in [
        (0, Reason::NotDue, None, tick, Reason::Tick),
        (late, Reason::NotDue, None, 50, Reason::RenewAt),
        (late, Reason::InDoubt, Some(Reason::InDoubt), 1_000, Reason::RenewAt),
        (0, Reason::LeaseHeld, None, 2_000, Reason::LeaseHeld),
        (late, Reason::LeaseHeld, None, 50, Reason::LeaseHeld),
        (late, Reason::VaultUnwritable, Some(Reason::VaultUnwritable), 5_000, Reason::BackOff),
        (late, Reason::LockForeign, Some(Reason::LockForeign), 5_000, Reason::BackOff),
        (late, Reason::TermsNotAccepted, Some(Reason::TermsNotAccepted), tick, Reason::Tick),
        (late, Reason::TokenAbsent, Some(Reason::TokenAbsent), tick, Reason::Tick),
        (late, Reason::GrantSpent, Some(Reason::GrantSpent), tick, Reason::Tick),
    ] {
        assert_eq!(next(now, reason, error), (wait, why), "{now} {reason} {error:?}");
    }
}

/// A look at an attempt whose answer is still being read can do nothing: it must not be repeated at once.
#[test]
fn an_open_intent_is_looked_at_again_in_a_while() {
    let policy = policy(ReuseClass::Strict);
    let due = at(2 * LIFE_SECS);
    let open = begin(record(), AttemptId(7), "here", &policy, due);
    assert_eq!(next_wakeup(Some(&open), &policy, due), (due + AGAIN_AFTER_FAULT, Reason::InDoubt));
}

proptest! {
    /// `renew_at` lies within the life: after its first half less the jitter, and before its end.
    #[test]
    fn a_pair_is_renewed_in_the_second_half_of_its_life(
        life in 2_i64..1_000_000, before in 0_u64..100_000, seed in any::<u64>(),
    ) {
        let policy = Policy { renew_before: Duration::from_secs(before), ..policy(ReuseClass::Strict) };
        let grant = Grant { expires_at: Some(at(life)), ..grant(1) };
        let chain = "claude".parse().unwrap();
        let mut rng = SmallRng::seed_from_u64(seed);
        let record = take_in(&chain, None, &grant, false, &policy, at(0), &mut rng);
        let left = at(life).duration_since(record.renew_at.unwrap()).as_secs_f64();
        let lead = (before as f64).min(life as f64 / 2.0);
        prop_assert!(left >= lead - 0.01 && left <= lead * 1.1 + 0.01, "{left} of {lead}");
    }

    /// L3 in small: whatever is known of a chain, a look comes within a tick, and what is due is presented.
    #[test]
    fn the_next_wakeup_is_a_look_that_presents_what_is_due(
        class in any_class(), presented_again in 0_u32..3, refused_access in any::<bool>(),
        now in 0_i64..LIFE_SECS * 2, standing in 0..3,
    ) {
        let policy = policy(class);
        let standing = match standing {
            0 => Standing::Live,
            1 => in_doubt(presented_again),
            _ => refused_standing(),
        };
        let record = Record { standing, access_refused: refused_access, ..record() };
        let (next, reason) = next_wakeup(Some(&record), &policy, at(now));
        prop_assert!(next <= at(now) + TICK);
        if reason != Reason::Tick {
            let then = next.max(at(now));
            prop_assert!(matches!(decide(&record, &policy, Look::Due, then), Decision::Exchange(_)));
        }
    }

    /// I5: at a strict provider a pair in doubt is presented only near its end or when its access token is refused.
    #[test]
    fn a_doubt_is_not_presented_early(
        now in 0_i64..LIFE_SECS * 2, presented_again in 0_u32..3, forced in any::<bool>(),
    ) {
        let record = Record { standing: in_doubt(presented_again), ..record() };
        let look = if forced { Look::Forced } else { Look::Due };
        let decision = decide(&record, &policy(ReuseClass::Strict), look, at(now));
        if matches!(decision, Decision::Exchange(_)) {
            prop_assert!(now >= LIFE_SECS - 600);
        }
    }

    /// I6: nothing but a refusal makes a chain refused, and a refusal never moves its position.
    #[test]
    fn only_a_refusal_refuses(status in 100_u16..600, class in any_class()) {
        let ReceiptState::Answered { answer, at: when } = received(status, "") else { unreachable!() };
        let outcome = classify(&answer, when);
        let settled = settle(intended(), &outcome, &policy(class), at(20), &mut rng());
        let refused = matches!(settled.standing, Standing::Refused { .. });
        prop_assert!(!refused);
        prop_assert_eq!(settled.position(), record().position());
        prop_assert_eq!(settled.intent, None);
    }
}

/// A record that grows with every login would in the end be too large to be read.
#[test]
fn a_thousand_logins_a_day_leave_a_small_record() {
    let mut last = record();
    for login in 0..1_000 {
        let intended = begin(last, AttemptId(9), "here", &policy(ReuseClass::Strict), at(login));
        let (before, grant) = (Some(&intended), grant(100 + login as u32));
        last = take_in(
            &intended.chain,
            before,
            &grant,
            false,
            &policy(ReuseClass::Strict),
            at(login),
            &mut rng(),
        );
    }
    assert!(last.second_writer(at(1_000)));
    assert!(serde_json::to_vec(&last).unwrap().len() < 8 * 1024);
}
