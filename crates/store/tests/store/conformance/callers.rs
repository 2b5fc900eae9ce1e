//! Callers, the audit of their changes, and what the fallback key served.

use evergrant_core::audit::{Act, Actor};
use evergrant_core::caller::{Caller, CallerName, KeyHash, NewCaller, Rotated, Scope, Scopes};
use evergrant_store::State;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Two;
use crate::fixture::{chain, second};

conformance! {
    a_caller_comes_back_as_it_was,
    a_known_key_is_not_added_again,
    the_first_revocation_stays,
    a_rotation_is_whole,
    one_of_several_rotations_is_taken,
    the_version_rises_with_every_change,
    callers_survive_housekeeping,
    fallback_uses_add_up,
}

fn caller(name: &str, at: i64) -> Caller {
    let scopes = Scopes::from_iter([Scope::Gateway, Scope::AdminWrite]);
    let new = NewCaller {
        name: name.parse().unwrap(),
        scopes,
        chain: chain("claude"),
        expires_in: Some(std::time::Duration::from_millis(86_400_123)),
        requests_per_minute: std::num::NonZeroU32::new(60),
        concurrent: None,
        fallback: false,
    };
    let seed = name.bytes().fold(at as u64, |seed, byte| seed * 31 + u64::from(byte));
    new.create(second(at), &mut StdRng::seed_from_u64(seed)).unwrap().0
}

fn rotated(old: &Caller, at: i64) -> Rotated {
    let mut rng = StdRng::seed_from_u64(at as u64);
    old.rotate(std::time::Duration::from_secs(60), second(at), &mut rng).unwrap()
}

fn somebody() -> Actor {
    Actor::cli("somebody")
}

fn names(callers: &[Caller]) -> Vec<&str> {
    callers.iter().map(|caller| caller.name.as_str()).collect()
}

async fn a_caller_comes_back_as_it_was<S: State>(Two { one, other, .. }: Two<S>) {
    assert_eq!(one.callers().await.unwrap(), []);
    let (late, early) = (caller("late", 20), caller("early", 10));
    assert!(one.add_caller(&late, &somebody()).await.unwrap());
    assert!(other.add_caller(&early, &Actor::key(&late.id)).await.unwrap());
    assert_eq!(one.callers().await.unwrap(), [early.clone(), late.clone()]);
    let audit = other.audit(9).await.unwrap();
    let said: Vec<_> =
        audit.iter().map(|entry| (entry.at, entry.who.as_str(), entry.what, entry.to.clone())).collect();
    let by_key = late.id.to_string();
    assert_eq!(
        said,
        [
            (second(10), by_key.as_str(), Act::KeyCreated, early.id.to_string()),
            (second(20), "cli:somebody", Act::KeyCreated, late.id.to_string())
        ]
    );
    assert_eq!(other.audit(1).await.unwrap(), audit[..1]);
}

async fn a_known_key_is_not_added_again<S: State>(Two { one, other, .. }: Two<S>) {
    let caller = caller("one", 10);
    assert!(one.add_caller(&caller, &somebody()).await.unwrap());
    let name: CallerName = "two".parse().unwrap();
    assert!(!other.add_caller(&Caller { name: name.clone(), ..caller.clone() }, &somebody()).await.unwrap());
    let other_id = KeyHash::of(b"other").id();
    assert!(!other.add_caller(&Caller { id: other_id, name, ..caller.clone() }, &somebody()).await.unwrap());
    assert_eq!(one.callers().await.unwrap(), [caller]);
    assert_eq!(one.audit(9).await.unwrap().len(), 1);
}

async fn the_first_revocation_stays<S: State>(Two { one, other, .. }: Two<S>) {
    let caller = caller("one", 10);
    assert_eq!(one.revoke_caller(&caller.id, second(11), &somebody()).await.unwrap(), None);
    one.add_caller(&caller, &somebody()).await.unwrap();
    let revoked = Caller { revoked_at: Some(second(12)), ..caller.clone() };
    for (state, at) in [(&one, 12), (&other, 13), (&one, 11)] {
        let now = state.revoke_caller(&caller.id, second(at), &somebody()).await.unwrap();
        assert_eq!(now.as_ref(), Some(&revoked));
        assert_eq!(other.callers().await.unwrap(), std::slice::from_ref(&revoked));
    }
    let audit = one.audit(9).await.unwrap();
    assert_eq!(audit.iter().map(|entry| entry.what).collect::<Vec<_>>(), [Act::KeyRevoked, Act::KeyCreated]);
    assert_eq!(audit[0].at, second(12));
}

async fn a_rotation_is_whole<S: State>(Two { one, other, .. }: Two<S>) {
    let before = caller("one", 10);
    let Rotated { old, new, .. } = rotated(&before, 20);
    assert!(!one.replace_caller(&old, &new, &somebody()).await.unwrap(), "there is no old one");
    assert_eq!(one.callers().await.unwrap(), []);
    one.add_caller(&before, &somebody()).await.unwrap();
    assert!(other.replace_caller(&old, &new, &somebody()).await.unwrap());
    assert_eq!(one.callers().await.unwrap(), [old.clone(), new.clone()]);
    // A revoked one is not brought back, and a replaced one not replaced again.
    let Rotated { old: again, new: another, .. } = rotated(&before, 30);
    assert!(!one.replace_caller(&again, &another, &somebody()).await.unwrap());
    other.revoke_caller(&new.id, second(40), &somebody()).await.unwrap();
    let Rotated { old: again, new: another, .. } = rotated(&new, 50);
    assert!(!one.replace_caller(&again, &another, &somebody()).await.unwrap());
    let revoked = Caller { revoked_at: Some(second(40)), ..new };
    assert_eq!(one.callers().await.unwrap(), [old, revoked]);
    let audit = one.audit(9).await.unwrap();
    let said: Vec<_> = audit.iter().map(|entry| (entry.what, entry.to.clone(), entry.at)).collect();
    assert_eq!(
        said[1..],
        [
            (Act::KeyRotated, before.id.to_string(), second(20)),
            (Act::KeyCreated, before.id.to_string(), second(10))
        ]
    );
}

async fn one_of_several_rotations_is_taken<S: State>(Two { one, other, .. }: Two<S>) {
    let before = caller("one", 10);
    one.add_caller(&before, &somebody()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..8 {
        let state = if n % 2 == 0 { one.clone() } else { other.clone() };
        let Rotated { old, new, .. } = rotated(&before, 20 + n);
        tasks.spawn(async move { state.replace_caller(&old, &new, &somebody()).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|taken| *taken).count(), 1);
    let callers = other.callers().await.unwrap();
    assert_eq!(callers.len(), 2);
    assert_eq!(callers[0].replaced_by, Some(callers[1].id));
}

async fn the_version_rises_with_every_change<S: State>(Two { one, other, .. }: Two<S>) {
    let mut last = one.callers_version().await.unwrap();
    assert_eq!(other.callers_version().await.unwrap(), last);
    let (before, bystander) = (caller("one", 10), caller("two", 11));
    let Rotated { old, new, .. } = rotated(&before, 20);
    for (step, changes) in
        [(0, true), (0, false), (1, true), (2, true), (2, false), (3, true), (3, false), (4, false)]
    {
        match step {
            0 => drop(one.add_caller(&before, &somebody()).await.unwrap()),
            1 => drop(other.add_caller(&bystander, &somebody()).await.unwrap()),
            2 => drop(one.replace_caller(&old, &new, &somebody()).await.unwrap()),
            3 => drop(other.revoke_caller(&new.id, second(30), &somebody()).await.unwrap()),
            _ => drop(one.add_fallback_uses(&chain("claude"), 1, 1).await.unwrap()),
        }
        let version = one.callers_version().await.unwrap();
        assert_eq!(version > last, changes, "step {step}");
        assert_eq!(other.callers_version().await.unwrap(), version);
        last = version;
    }
}

async fn callers_survive_housekeeping<S: State>(Two { one, other, .. }: Two<S>) {
    for at in [10, 20, 30] {
        one.add_caller(&caller("kept", at), &somebody()).await.unwrap();
    }
    let before = one.callers_version().await.unwrap();
    assert_eq!(other.prune(second(99), second(20)).await.unwrap(), 1);
    assert_eq!(names(&one.callers().await.unwrap()), ["kept"; 3]);
    let audit = one.audit(9).await.unwrap();
    assert_eq!(audit.iter().map(|entry| entry.at).collect::<Vec<_>>(), [second(30), second(20)]);
    assert_eq!(one.callers_version().await.unwrap(), before);
}

async fn fallback_uses_add_up<S: State>(Two { one, other, .. }: Two<S>) {
    let (claude, team) = (chain("claude"), chain("team"));
    for (chain, day, uses, total) in [
        (&claude, 20_000, 0, 0),
        (&claude, 20_000, 3, 3),
        (&claude, 20_000, 0, 3),
        (&claude, 20_000, 4, 7),
        (&claude, 20_001, 1, 1),
        (&team, 20_000, 2, 2),
        (&claude, 20_000, 0, 7),
    ] {
        assert_eq!(one.add_fallback_uses(chain, day, uses).await.unwrap(), total, "{chain} {day} {uses}");
    }
    let at_once = (0..10).map(|n| (if n % 2 == 0 { one.clone() } else { other.clone() }, claude.clone()));
    let mut tasks = tokio::task::JoinSet::new();
    for (state, claude) in at_once {
        tasks.spawn(async move { state.add_fallback_uses(&claude, 20_002, 5).await.unwrap() });
    }
    let mut totals = tasks.join_all().await;
    totals.sort_unstable();
    assert_eq!(totals, (1..=10).map(|n| n * 5).collect::<Vec<u64>>(), "each total is given once");
    // The day of the instant itself stays.
    let noon = second(20_001 * 86_400 + 43_200);
    assert_eq!(one.prune(noon, second(0)).await.unwrap(), 2);
    assert_eq!(other.add_fallback_uses(&claude, 20_000, 0).await.unwrap(), 0);
    assert_eq!(other.add_fallback_uses(&claude, 20_001, 0).await.unwrap(), 1);
    assert_eq!(other.add_fallback_uses(&claude, 20_002, 0).await.unwrap(), 50);
}
