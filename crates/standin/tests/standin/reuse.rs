//! What happens to spent refresh tokens: reuse classes and rotation.

use evergrant_standin::{
    AccessState, ExchangeOutcome, Fingerprint, GraceSuccessor, ReuseClass, Rotation, Settings,
};

use crate::client::{Bench, json, successor};

fn outcomes(bench: &Bench) -> Vec<ExchangeOutcome> {
    bench.engine.exchanges().map(|exchange| exchange.outcome).collect()
}

#[test]
fn strict_revokes_the_family_with_its_live_access_token() {
    let mut bench = Bench::new(Settings::default());
    let login = bench.login();
    let first = login.refresh_token.unwrap();
    let answer = bench.refresh(&first);
    let (second, access) = (successor(&answer), json(&answer)["access_token"].as_str().unwrap().to_owned());
    assert_eq!(bench.engine.access_state(&access, bench.now), AccessState::Live);

    let reused = bench.refresh(&first);
    assert_eq!((reused.status, json(&reused)["error"].as_str()), (400, Some("invalid_grant")));
    assert_eq!(bench.engine.access_state(&access, bench.now), AccessState::Revoked);
    assert_eq!(bench.refresh(&second).status, 400);
    assert!(!bench.engine.family_lives(&second, bench.now));
    assert_eq!(
        outcomes(&bench),
        [ExchangeOutcome::Rotated, ExchangeOutcome::ReuseDetected, ExchangeOutcome::Refused]
    );
    assert_eq!(bench.engine.counters().families_revoked_by_reuse, 1);
    let log: Vec<_> = bench.engine.exchanges().cloned().collect();
    assert_eq!(log[0].presented, Some(Fingerprint::of(&first)));
    assert_eq!((log[0].issued, log[0].generation), (Some(Fingerprint::of(&second)), Some(2)));
    assert!(!format!("{log:?} {:?}", bench.engine.state(bench.now)).contains("refresh-"));
}

#[test]
fn what_strict_harms_is_a_setting() {
    // (revoke_family, revoke_access) -> does the newest pair survive, does the access token
    for (family, access, pair_lives, access_lives) in
        [(true, true, false, false), (true, false, false, true), (false, true, true, true)]
    {
        let settings = Settings { revoke_family: family, revoke_access: access, ..Settings::default() };
        let mut bench = Bench::new(settings);
        let login = bench.login();
        let first = login.refresh_token.unwrap();
        let second = successor(&bench.refresh(&first));
        assert_eq!(bench.refresh(&first).status, 400);
        assert_eq!(bench.engine.counters().reuses, 1);
        assert_eq!(
            bench.engine.access_state(&login.access_token, bench.now) == AccessState::Live,
            access_lives
        );
        assert_eq!(bench.refresh(&second).status == 200, pair_lives);
    }
}

#[test]
fn grace_counts_from_the_spending_and_ends() {
    let reuse = ReuseClass::Grace { secs: 30, successor: GraceSuccessor::Same };
    let mut bench = Bench::new(Settings { reuse, ..Settings::default() });
    let first = bench.login().refresh_token.unwrap();
    let second = successor(&bench.refresh(&first));
    bench.pass(29);
    assert_eq!(successor(&bench.refresh(&first)), second);
    bench.pass(1);
    assert_eq!(bench.refresh(&first).status, 400);
    assert_eq!(bench.refresh(&second).status, 400);
    assert_eq!(
        outcomes(&bench),
        [
            ExchangeOutcome::Rotated,
            ExchangeOutcome::Graced,
            ExchangeOutcome::ReuseDetected,
            ExchangeOutcome::Refused
        ]
    );
}

#[test]
fn grace_may_give_another_successor_and_both_are_valid() {
    let reuse = ReuseClass::Grace { secs: 30, successor: GraceSuccessor::New };
    let mut bench = Bench::new(Settings { reuse, ..Settings::default() });
    let first = bench.login().refresh_token.unwrap();
    let (second, other) = (successor(&bench.refresh(&first)), successor(&bench.refresh(&first)));
    assert_ne!(second, other);
    assert_eq!(bench.refresh(&second).status, 200);
    assert_eq!(bench.refresh(&other).status, 200);
}

#[test]
fn none_refuses_reuse_without_harm() {
    let mut bench = Bench::new(Settings { reuse: ReuseClass::None, ..Settings::default() });
    let first = bench.login().refresh_token.unwrap();
    let second = successor(&bench.refresh(&first));
    assert_eq!(bench.refresh(&first).status, 400);
    assert_eq!(bench.refresh(&second).status, 200);
    assert_eq!(bench.engine.counters().reuses, 0);
}

#[test]
fn an_unknown_token_is_refused_and_harms_nobody() {
    let mut bench = Bench::new(Settings::default());
    let first = bench.login().refresh_token.unwrap();
    let refused = bench.refresh("refresh-bogus");
    assert_eq!((refused.status, json(&refused)["error"].as_str()), (400, Some("invalid_grant")));
    assert_eq!(bench.refresh(&first).status, 200);
}

#[test]
fn rotation_follows_its_setting() {
    // The tokens that four exchanges answer with, each presenting the newest; "-": none, "=": the presented one, "+": new.
    for (rotation, wanted) in [
        (Rotation::Always, "++++"),
        (Rotation::NeverOmitted, "----"),
        (Rotation::NeverRepeated, "===="),
        (Rotation::After { exchanges: 2 }, "==+="),
    ] {
        let mut bench = Bench::new(Settings { rotation, ..Settings::default() });
        let mut newest = bench.login().refresh_token.unwrap();
        let mut seen = String::new();
        for _ in 0..4 {
            let answer = bench.refresh(&newest);
            assert_eq!(answer.status, 200);
            let token = json(&answer)["refresh_token"].as_str().map(str::to_owned);
            seen.push(match &token {
                None => '-',
                Some(token) if *token == newest => '=',
                Some(_) => '+',
            });
            newest = token.unwrap_or(newest);
        }
        assert_eq!(seen, wanted, "{rotation:?}");
        assert_eq!(bench.engine.counters().reuses, 0);
    }
}

#[test]
fn rotation_may_end_the_access_token_before() {
    for ends in [false, true] {
        let mut bench = Bench::new(Settings { rotation_ends_access: ends, ..Settings::default() });
        let login = bench.login();
        bench.refresh(&login.refresh_token.unwrap());
        let wanted = if ends { AccessState::Revoked } else { AccessState::Live };
        assert_eq!(bench.engine.access_state(&login.access_token, bench.now), wanted);
    }
}
