//! Lookups, limits and what survives another table.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};

use evergrant_core::audit::Actor;
use evergrant_core::caller::{CallerKey, NewCaller, Scopes};
use evergrant_store::MemoryState;
use http::HeaderValue;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(secs).unwrap()
}

fn caller(seed: u64, per_minute: u32, concurrent: u32) -> (Caller, CallerKey) {
    let new = NewCaller {
        name: "a caller".parse().unwrap(),
        scopes: Scopes::default(),
        chain: "claude".parse().unwrap(),
        expires_in: Some(Duration::from_secs(1_000)),
        requests_per_minute: NonZeroU32::new(per_minute),
        concurrent: NonZeroU32::new(concurrent),
        fallback: true,
    };
    new.create(at(0), &mut StdRng::seed_from_u64(seed)).unwrap()
}

fn known(caller: Caller) -> Arc<KnownCaller> {
    KnownCaller::after(None, caller)
}

fn somebody() -> Actor {
    Actor::cli("somebody")
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_key_finds_its_caller_only() {
    let ((one, key), (other, other_key)) = (caller(1, 0, 0), caller(2, 0, 0));
    let table = CallerTable::after(&CallerTable::default(), vec![one.clone(), other.clone()]);
    assert_eq!((table.len(), table.is_empty()), (2, false));
    assert_eq!(table.find(key.expose().as_bytes()).unwrap().caller, one);
    assert_eq!(table.find(other_key.expose().as_bytes()).unwrap().caller, other);
    let (_, unknown) = caller(3, 0, 0);
    for presented in ["", "evg_", unknown.expose(), &key.expose()[..46], &key.expose().to_uppercase()] {
        assert!(table.find(presented.as_bytes()).is_none());
    }
    // Neither the hash nor the id is a key.
    assert!(table.find(one.hash.to_string().as_bytes()).is_none());
    assert!(table.find(one.id.to_string().as_bytes()).is_none());
}

/// An agent whose key has expired falls silent like any other.
#[test]
fn who_is_missed() {
    let chain: evergrant_core::ChainName = "claude".parse().unwrap();
    let missed = |callers: Vec<Caller>| {
        CallerTable::after(&CallerTable::default(), callers).anybody_missed(Scope::Push, &chain)
    };
    let push = |seed| {
        let (caller, _) = caller(seed, 0, 0);
        Caller { scopes: [Scope::Push].into_iter().collect(), ..caller }
    };
    let end = push(1).expires_at.unwrap();
    assert!(push(1).refusal(end, Scope::Push).is_some() && missed(vec![push(1)]));
    assert!(!missed(vec![caller(1, 0, 0).0]), "it pushes nothing");
    assert!(!missed(vec![Caller { chain: "other".parse().unwrap(), ..push(1) }]));
    let revoked = |caller| Caller { revoked_at: Some(at(9)), ..caller };
    assert!(!missed(vec![revoked(push(1))]));
    let rotated = push(1).rotate(Duration::ZERO, at(5), &mut StdRng::seed_from_u64(7)).unwrap();
    assert!(missed(vec![rotated.old.clone(), rotated.new.clone()]));
    assert!(!missed(vec![rotated.old, revoked(rotated.new)]));
}

#[test]
fn who_may_do_what() {
    let (one, key) = caller(1, 0, 0);
    let revoked = Caller { revoked_at: Some(at(5)), ..one.clone() };
    let table = |caller| CallerTable::after(&CallerTable::default(), vec![caller]);
    let (fine, revoked) = (table(one), table(revoked));
    let key = Some(key.expose().as_bytes());
    for (table, presented, needed, now, expected) in [
        (&fine, key, Scope::Gateway, 10, None),
        (&fine, key, Scope::AdminRead, 10, Some(Reason::ScopeMissing)),
        (&fine, key, Scope::Gateway, 1_000, Some(Reason::CallerExpired)),
        (&fine, None, Scope::Gateway, 10, Some(Reason::CallerMissing)),
        (&fine, Some(&b"nonsense"[..]), Scope::Gateway, 10, Some(Reason::CallerUnknown)),
        (&revoked, key, Scope::Gateway, 10, Some(Reason::CallerRevoked)),
    ] {
        assert_eq!(table.authorize(presented, needed, at(now)).err(), expected);
    }
}

#[test]
fn a_key_is_found_in_the_headers_of_a_library() {
    for (headers, expected) in [
        (&[][..], None),
        (&[("authorization", "Bearer c"), ("x-api-key", "b"), ("X-CM-API-Key", "a")], Some("a")),
        (&[("x-api-key", "b"), ("authorization", "Bearer c")], Some("b")),
        (&[("authorization", "bearer c")], Some("c")),
        (&[("x-api-key", "a"), ("x-api-key", "b")], Some("")),
        (&[("cookie", "x-api-key=a")], None),
    ] {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(presented_key(&map), expected.map(str::as_bytes), "{headers:?}");
    }
}

#[test]
fn requests_a_minute_are_limited() {
    let known = known(caller(1, 6, 0).0);
    let age = |secs: u64| Duration::from_secs(1_000 + secs);
    for _ in 0..6 {
        drop(known.admit(age(0)).unwrap());
    }
    let limit = known.admit(age(0)).unwrap_err();
    assert_eq!(limit, Limit { reason: Reason::RateLimited, retry_after: Duration::from_secs(10) });
    let limit = known.admit(age(9)).unwrap_err();
    assert_eq!((limit.retry_after, limit.retry_after_secs()), (Duration::from_secs(1), 1));
    // A clock of another thread that is behind changes nothing.
    assert!(known.admit(age(3)).is_err());
    drop(known.admit(age(10)).unwrap());
    assert!(known.admit(age(19)).is_err());
    assert_eq!(known.in_flight(), 0, "a refused request has no place");
    for _ in 0..6 {
        drop(known.admit(age(10) + 2 * MINUTE).unwrap());
    }
    assert!(known.admit(age(10) + 2 * MINUTE).is_err());
}

#[test]
fn waits_are_whole_seconds() {
    for (millis, secs) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (60_000, 60)] {
        let limit = Limit { reason: Reason::RateLimited, retry_after: Duration::from_millis(millis) };
        assert_eq!(limit.retry_after_secs(), secs);
    }
}

#[test]
fn a_permit_gives_its_place_back() {
    let known = known(caller(1, 0, 2).0);
    let first = known.admit(MINUTE).unwrap();
    let second = known.admit(MINUTE).unwrap();
    let limit = known.admit(MINUTE).unwrap_err();
    assert_eq!((limit.reason, limit.retry_after_secs()), (Reason::ConcurrencyLimited, 1));
    assert_eq!(known.in_flight(), 2);
    // On another thread, and after everything else of the caller is gone.
    std::thread::spawn(move || drop(first)).join().unwrap();
    let third = known.admit(MINUTE).unwrap();
    assert!(known.admit(MINUTE).is_err());
    drop(known);
    drop((second, third));
}

#[test]
fn a_full_house_takes_nothing_from_the_pace() {
    let known = known(caller(1, 2, 1).0);
    let held = known.admit(MINUTE).unwrap();
    for _ in 0..5 {
        assert_eq!(known.admit(MINUTE).unwrap_err().reason, Reason::ConcurrencyLimited);
    }
    drop(held);
    drop(known.admit(MINUTE).unwrap());
    assert_eq!(known.admit(MINUTE).unwrap_err().reason, Reason::RateLimited);
}

#[test]
fn many_threads_get_no_more_than_is_allowed() {
    let known = known(caller(1, 100, 8).0);
    let (admitted, most) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..500 {
                    if let Ok(permit) = known.admit(MINUTE) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                        most.fetch_max(known.in_flight().into(), Ordering::Relaxed);
                        drop(permit);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 100);
    assert!(most.into_inner() <= 8);
    assert_eq!(known.in_flight(), 0);
}

#[test]
fn limits_go_on_under_another_table() {
    let (one, key) = caller(1, 2, 3);
    let find = |table: &CallerTable| table.find(key.expose().as_bytes()).unwrap().clone();
    let first = CallerTable::after(&CallerTable::default(), vec![one.clone()]);
    let held = find(&first).admit(MINUTE).unwrap();
    drop(find(&first).admit(MINUTE).unwrap());
    // It ends earlier now: what it used up stays used up.
    let second = CallerTable::after(&first, vec![Caller { expires_at: Some(at(500)), ..one.clone() }]);
    assert_eq!(find(&second).caller.expires_at, Some(at(500)));
    assert_eq!(find(&second).in_flight(), 1);
    assert_eq!(find(&second).admit(MINUTE).unwrap_err().reason, Reason::RateLimited);
    // Another pace begins anew; what is in flight stays in flight.
    let wider = Caller { requests_per_minute: NonZeroU32::new(3), ..one };
    let third = CallerTable::after(&second, vec![wider]);
    drop(find(&third).admit(MINUTE).unwrap());
    assert_eq!(find(&third).in_flight(), 1);
    drop(held);
    assert_eq!(find(&third).in_flight(), 0);
    assert!(CallerTable::after(&third, Vec::new()).is_empty());
}

#[tokio::test]
async fn two_tables_follow_one_state() {
    let state = MemoryState::new();
    let (one, other) = (Callers::load(&state).await.unwrap(), Callers::load(&state).await.unwrap());
    assert!(one.table().is_empty());
    let (caller, key) = caller(1, 0, 0);
    state.add_caller(&caller, &somebody()).await.unwrap();
    let before = one.version();
    assert!(one.refresh(&state).await.unwrap());
    assert!(!one.refresh(&state).await.unwrap());
    assert_ne!(one.version(), before);
    assert_eq!(one.clone().version(), one.version());
    assert!(other.table().is_empty() && other.version() == before);
    let kept = one.table();
    state.revoke_caller(&caller.id, at(9), &somebody()).await.unwrap();
    for callers in [&one, &other] {
        assert!(callers.refresh(&state).await.unwrap());
        let table = callers.table();
        let now = table.find(key.expose().as_bytes()).unwrap();
        assert_eq!(now.caller.revoked_at, Some(at(9)));
    }
    assert_eq!(kept.find(key.expose().as_bytes()).unwrap().caller, caller, "a table never changes");
}

#[test]
fn an_older_reading_does_not_replace_a_newer_one() {
    let (caller, key) = caller(1, 0, 0);
    let callers = Callers::default();
    let revoked = Caller { revoked_at: Some(at(9)), ..caller.clone() };
    assert!(callers.publish(5, vec![revoked]));
    for version in [4, 5] {
        assert!(!callers.publish(version, vec![caller.clone()]));
    }
    let table = callers.table();
    assert!(table.find(key.expose().as_bytes()).unwrap().caller.revoked_at.is_some());
}
