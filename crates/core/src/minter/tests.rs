//! Tables over the minter's decisions, and what holds for any run of answers, looks and refusals.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::*;
use crate::provider::Profile;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn rng() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

fn policy() -> Policy {
    Policy::new(Profile::claude())
}

fn received(status: u16, retry_after: Option<&str>, body: &str) -> Answer {
    let retry_after = retry_after.map(str::to_owned);
    Answer::Received { status, retry_after, date: None, body: body.into(), complete: true }
}

fn token(life_secs: u64) -> Attempt {
    read(&received(200, None, &format!(r#"{{"access_token":"a","expires_in":{life_secs}}}"#)), at(0))
}

/// A token of 8 h that was minted at 0 as lineage 1, generation 4.
fn mint() -> Mint {
    settle(Mint::default(), &token(8 * 3600), (Lineage(1), Generation(4)), &policy(), at(0), &mut rng())
}

fn failures(reason: Reason, not_before: i64, asked_by_provider: bool) -> Option<Failures> {
    Some(Failures { count: 1, since: at(0), reason, not_before: at(not_before), asked_by_provider })
}

#[test]
fn every_situation_has_its_decision() {
    let exchange = Decision::Exchange;
    let rest = |reason, error| Decision::Rest { reason, error };
    let failed = |reason| rest(reason, Some(reason));
    let none = Mint::default();
    let fresh = mint();
    let refused = access_refused(mint(), (Lineage(1), Generation(4)));
    let (throttled, down) = (Reason::ProviderThrottled, Reason::ProviderUnavailable);
    let backed_off = Mint { failures: failures(down, 900, false), ..fresh.clone() };
    let told = Mint { failures: failures(throttled, 900, true), ..none.clone() };
    let (renew, end) = (7 * 3600, 8 * 3600);
    for (case, mint, look, now, decision) in [
        ("nothing yet", &none, Look::Due, 0, exchange(Reason::NotMinted)),
        ("nothing yet", &none, Look::Forced, 0, exchange(Reason::Forced)),
        ("fresh", &fresh, Look::Due, 10, rest(Reason::NotDue, None)),
        ("forced too soon", &fresh, Look::Forced, 59, rest(Reason::TooSoon, None)),
        ("forced", &fresh, Look::Forced, 60, exchange(Reason::Forced)),
        ("due", &fresh, Look::Due, renew, exchange(Reason::RenewAt)),
        ("past its end", &fresh, Look::Due, end, exchange(Reason::RenewAt)),
        ("refused too soon", &refused, Look::Due, 59, rest(Reason::NotDue, None)),
        ("refused", &refused, Look::Due, 60, exchange(Reason::AccessRefused)),
        ("back-off", &backed_off, Look::Due, 899, failed(down)),
        ("own back-off, forced", &backed_off, Look::Forced, 899, exchange(Reason::Forced)),
        ("back-off over, not due", &backed_off, Look::Due, 901, failed(down)),
        ("back-off over, due", &backed_off, Look::Due, renew, exchange(Reason::RenewAt)),
        ("told to wait", &told, Look::Due, 899, failed(throttled)),
        ("told to wait, forced", &told, Look::Forced, 899, failed(throttled)),
        ("waited", &told, Look::Forced, 900, exchange(Reason::Forced)),
        ("waited", &told, Look::Due, 900, exchange(Reason::BackOff)),
    ] {
        let found = decide(mint, false, &policy(), look, at(now));
        // Why it was due is not the point of a back-off that has just run out.
        let found = match (found, decision) {
            (Decision::Exchange(_), Decision::Exchange(Reason::BackOff)) => decision,
            (found, _) => found,
        };
        assert_eq!(found, decision, "{case}, {look:?} at {now}");
        assert_eq!(decide(mint, true, &policy(), look, at(now)), Decision::Join, "{case}: in flight");
    }
}

#[test]
fn every_answer_has_its_meaning() {
    let denied = r#"{"type":"error","error":{"type":"authentication_error"}}"#;
    for (answer, reason, wait) in [
        (received(401, None, denied), Reason::ClientRejected, None),
        (received(400, None, r#"{"error":"invalid_grant"}"#), Reason::ClientRejected, None),
        (received(400, None, r#"{"error":"invalid_client"}"#), Reason::ClientRejected, None),
        (received(429, Some("30"), ""), Reason::ProviderThrottled, Some(30)),
        (received(503, Some("7"), "<html>"), Reason::ProviderUnavailable, Some(7)),
        (received(500, None, ""), Reason::ProviderUnavailable, None),
        (received(403, None, "<html>"), Reason::ProviderBlocked, None),
        (received(200, None, r#"{"ok":true}"#), Reason::ProviderUnavailable, None),
        (Answer::Lost { why: "reset".into() }, Reason::ProviderUnavailable, None),
        (Answer::NotSent { why: "no route".into() }, Reason::ProviderUnavailable, None),
    ] {
        let retry_after = wait.map(Duration::from_secs);
        assert_eq!(read(&answer, at(0)), Attempt::Failed(Unspent { reason, retry_after }), "{answer:?}");
    }
    assert!(matches!(token(300), Attempt::Minted(_)));
}

#[test]
fn what_is_not_said_is_kept_or_assumed() {
    let silent = read(&received(200, None, r#"{"access_token":"a"}"#), at(0));
    let settled = |before| settle(before, &silent, (Lineage(1), Generation(5)), &policy(), at(0), &mut rng());
    assert_eq!(settled(mint()).minted.unwrap().life.as_secs(), 8 * 3600);
    assert_eq!(settled(Mint::default()).minted.unwrap().life, ASSUMED_LIFE);
}

#[test]
fn a_throttling_that_lasts_an_hour_is_a_block() {
    let throttled = read(&received(429, None, ""), at(0));
    let mut mint = mint();
    for secs in [0, 3599, 3600] {
        mint = settle(mint, &throttled, (Lineage(1), Generation(5)), &policy(), at(secs), &mut rng());
        let expected = if secs < 3600 { Reason::ProviderThrottled } else { Reason::ProviderBlocked };
        assert_eq!(mint.failures.unwrap().reason, expected, "{secs}");
    }
}

#[test]
fn only_the_current_token_can_be_refused() {
    assert_eq!(access_refused(mint(), (Lineage(1), Generation(3))), mint());
    assert_eq!(access_refused(Mint::default(), (Lineage(1), Generation(3))), Mint::default());
    assert!(access_refused(mint(), (Lineage(1), Generation(4))).minted.unwrap().access_refused);
}

#[test]
fn another_identity_token_ends_the_back_off_that_the_old_one_earned() {
    for (reason, asked, at_once) in [
        (Reason::IdentityTokenUnusable, false, true),
        (Reason::ClientRejected, false, true),
        (Reason::ClientRejected, true, false),
        (Reason::ProviderThrottled, false, false),
        (Reason::ProviderUnavailable, false, false),
    ] {
        let mint = identity_changed(Mint { failures: failures(reason, 900, asked), minted: None });
        let exchanged = matches!(decide(&mint, false, &policy(), Look::Due, at(1)), Decision::Exchange(_));
        assert_eq!(exchanged, at_once, "{reason} {asked}");
    }
}

#[test]
fn positions_grow_over_whatever_was_there() {
    let position = |lineage, generation| (Lineage(lineage), Generation(generation));
    for (seen, record, next) in [
        (vec![], None, position(1, 1)),
        (vec![position(1, 1), position(1, 4), position(1, 3)], None, position(1, 5)),
        (vec![position(1, 9), position(2, 1)], None, position(2, 2)),
        // The chain was one of refresh tokens before.
        (vec![position(3, 41)], Some(Lineage(3)), position(4, 1)),
        (vec![position(4, 7)], Some(Lineage(3)), position(4, 8)),
        (vec![], Some(Lineage(3)), position(4, 1)),
    ] {
        assert_eq!(next_position(seen.clone(), record), next, "{seen:?} {record:?}");
    }
}

/// What happens between two looks.
#[derive(Debug, Clone)]
enum Step {
    Token(u64),
    Nothing(u16, Option<u64>),
    Refuse,
    Force,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..100_000).prop_map(Step::Token),
        4 => (400_u16..600, proptest::option::of(0_u64..1000)).prop_map(|(status, wait)| Step::Nothing(status, wait)),
        1 => Just(Step::Refuse),
        1 => Just(Step::Force),
    ]
}

proptest! {
    // Driven as the loop drives it: it wakes up when it said it would, and at every exchange comes the next answer.
    #[test]
    fn it_is_renewed_before_its_end_and_backs_off_within_bounds(
        steps in proptest::collection::vec(step(), 1..60), seed in any::<u64>(),
        interval in 0_u64..120, before in 0_u64..7200,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let policy = Policy {
            renew_before: Duration::from_secs(before),
            min_exchange_interval: Duration::from_secs(interval),
            ..policy()
        };
        let (mut mint, mut now, mut last) = (Mint::default(), at(0), None);
        for step in steps {
            let forced = matches!(step, Step::Force);
            if matches!(step, Step::Refuse) {
                let position = mint.minted.as_ref().map_or((Lineage(9), Generation(9)), |minted| minted.position);
                mint = access_refused(mint, position);
            }
            let look = if forced { Look::Forced } else { Look::Due };
            prop_assert_eq!(decide(&mint, true, &policy, look, now), Decision::Join);
            if let Decision::Exchange(_) = decide(&mint, false, &policy, look, now) {
                if let Some(minted) = mint.minted.as_ref().filter(|minted| !minted.access_refused && !forced) {
                    // Not before half of its life is over, and, where nothing failed, before its end.
                    prop_assert!(now >= minted.minted_at + minted.life.mul_f64(0.45) - Duration::from_millis(2));
                    if mint.failures.is_none() && minted.life.as_secs() >= 2 && before > 0 {
                        prop_assert!(now < minted.expires_at);
                    }
                }
                let answer = match step {
                    Step::Token(life) => received(200, None, &format!(r#"{{"access_token":"a","expires_in":{life}}}"#)),
                    Step::Nothing(status, wait) => received(status, wait.map(|wait| wait.to_string()).as_deref(), ""),
                    Step::Refuse | Step::Force => Answer::Lost { why: "reset".into() },
                };
                let position = next_position(last, None);
                let attempt = read(&answer, now);
                mint = settle(mint, &attempt, position, &policy, now, &mut rng);
                if let Some(failures) = mint.failures {
                    let wait = Duration::try_from(failures.not_before.duration_since(now)).unwrap();
                    let asked = match step { Step::Nothing(_, wait) => wait, Step::Token(_) | Step::Refuse | Step::Force => None };
                    let asked = Duration::from_secs(asked.unwrap_or(0));
                    prop_assert!(wait >= asked.max(Duration::from_secs(1)));
                    prop_assert!(wait <= asked.max(Duration::from_secs(300)));
                } else {
                    prop_assert!(last.is_none_or(|last| last < position), "positions grow");
                    last = Some(position);
                }
            }
            let (wake, _) = next_look(&mint, &policy, now);
            prop_assert!(wake > now && wake <= now + TICK);
            now = wake;
        }
    }
}
