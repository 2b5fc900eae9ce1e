//! Keys, scopes and decisions, by tables.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(secs).unwrap()
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn new_caller() -> NewCaller {
    NewCaller {
        name: "the web shop".parse().unwrap(),
        scopes: Scopes::default(),
        chain: "claude".parse().unwrap(),
        expires_in: None,
        requests_per_minute: NonZeroU32::new(60),
        concurrent: NonZeroU32::new(4),
        fallback: false,
    }
}

fn caller() -> Caller {
    new_caller().create(at(1_000), &mut rng()).unwrap().0
}

#[test]
fn a_key_has_its_form_and_never_prints() {
    let mut rng = rng();
    let (one, other) = (CallerKey::generate(&mut rng), CallerKey::generate(&mut rng));
    assert_ne!(one, other);
    for key in [&one, &other] {
        assert_eq!(key.expose().len(), KEY_LEN);
        let random = key.expose().strip_prefix("evg_").unwrap();
        assert!(random.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_eq!(format!("{key:?}"), "CallerKey(…)");
        assert_eq!(KeyHash::of_presented(key.expose().as_bytes()), Some(key.hash()));
    }
    for foreign in ["", "evg_", "evg_short", &format!("evh_{}", "x".repeat(43)), &one.expose()[1..]] {
        assert_eq!(KeyHash::of_presented(foreign.as_bytes()), None, "{foreign}");
    }
    assert_eq!(KeyHash::of_presented(format!("{}x", one.expose()).as_bytes()), None);
}

#[test]
fn hash_and_id_survive_their_text() {
    let hash = KeyHash::of(b"abc");
    assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(KeyHash::try_from(hash.to_string()), Ok(hash));
    assert_eq!(hash.id().to_string(), "key_ba7816bf8f01");
    assert_eq!("key_ba7816bf8f01".parse(), Ok(hash.id()));
    assert_eq!(format!("{hash:?}"), "KeyHash(key_ba7816bf8f01…)");
    assert_ne!(hash, KeyHash::of(b"abd"));
    for bad in [
        "",
        "key_",
        "key_ba7816bf8f0",
        "key_ba7816bf8f011",
        "key_BA7816BF8F01",
        "ba7816bf8f01",
        "key_+a7816bf8f01",
    ] {
        assert_eq!(bad.parse::<KeyId>(), Err(NotAKeyId), "{bad}");
    }
    assert_eq!(KeyHash::try_from("ba".repeat(31)), Err(NotAKeyHash));
    assert_eq!(KeyHash::try_from("Ba".repeat(32)), Err(NotAKeyHash));
}

#[test]
fn scopes_have_their_spelling_and_imply_little() {
    for scope in Scope::ALL {
        assert_eq!(scope.as_str().parse(), Ok(scope));
        assert_eq!(serde_json::to_value(scope).unwrap(), scope.as_str());
        assert_eq!(serde_json::from_value::<Scope>(scope.as_str().into()).unwrap(), scope);
        for needed in Scope::ALL {
            let allowed = scope == needed || (scope, needed) == (Scope::AdminWrite, Scope::AdminRead);
            assert_eq!(Scopes::from_iter([scope]).allow(needed), allowed, "{scope} for {needed}");
        }
    }
    assert!("admin".parse::<Scope>().is_err());
    assert_eq!(Scopes::from_iter([]), Scopes::default());
    assert_eq!(Scopes::default().iter().collect::<Vec<_>>(), [Scope::Gateway]);
}

#[test]
fn names_can_be_seen() {
    for good in ["a", "web shop", "Café #1", "客户", &"x".repeat(64)] {
        assert!(good.parse::<CallerName>().is_ok(), "{good}");
    }
    let long = "x".repeat(65);
    for bad in [
        "",
        " ",
        " a",
        "a ",
        "a\nb",
        "a\tb",
        "a\u{7}",
        "a\u{200b}b",
        "a\u{202e}b",
        "a\u{a0}b",
        "\u{1b}[1m",
        &long,
    ] {
        assert!(bad.parse::<CallerName>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_new_key_lives_as_long_as_asked() {
    let day = Duration::from_secs(86_400);
    for (expires_in, expected) in [
        (None, Ok(None)),
        (Some(day), Ok(Some(at(87_400)))),
        (Some(Duration::from_secs(1)), Ok(Some(at(1_001)))),
        (Some(Duration::ZERO), Err(NotALife)),
        (Some(Duration::MAX), Err(NotALife)),
        (Some(day * 40_000), Err(NotALife)),
    ] {
        let made = NewCaller { expires_in, ..new_caller() }.create(at(1_000), &mut rng());
        assert_eq!(made.map(|(caller, _)| caller.expires_at), expected, "{expires_in:?}");
    }
    let (caller, key) = new_caller().create(at(1_000), &mut rng()).unwrap();
    assert_eq!((caller.hash, caller.id), (key.hash(), key.hash().id()));
    let json = serde_json::to_string(&caller).unwrap();
    assert!(!json.contains(&key.expose()[4..]));
    assert_eq!(serde_json::from_str::<Caller>(&json).unwrap(), caller);
}

#[test]
fn refusals_come_in_their_order() {
    let (revoked, expired) = (Some(CallerRefusal::Revoked), Some(CallerRefusal::Expired));
    let scope = Some(CallerRefusal::Scope(Scope::Push));
    for (revoked_at, expires_at, needed, expected) in [
        (None, None, Scope::Gateway, None),
        (None, Some(at(2_001)), Scope::Gateway, None),
        (None, Some(at(2_000)), Scope::Gateway, expired),
        (None, Some(at(1_500)), Scope::Push, expired),
        (None, None, Scope::Push, scope),
        (Some(at(1_500)), None, Scope::Gateway, revoked),
        // Also where its clock was ahead of ours.
        (Some(at(3_000)), None, Scope::Gateway, revoked),
        (Some(at(1_500)), Some(at(1_600)), Scope::Push, revoked),
    ] {
        let caller = Caller { revoked_at, expires_at, ..caller() };
        assert_eq!(caller.refusal(at(2_000), needed), expected, "{caller:?} {needed}");
    }
    assert_eq!(CallerRefusal::Revoked.reason(), Reason::CallerRevoked);
    assert_eq!(CallerRefusal::Expired.reason(), Reason::CallerExpired);
    assert_eq!(CallerRefusal::Scope(Scope::Push).reason(), Reason::ScopeMissing);
}

#[test]
fn a_rotation_hands_over() {
    let hour = Duration::from_secs(3_600);
    for (expires_at, overlap, old_end, new_end) in [
        (None, Duration::ZERO, at(2_000), None),
        (None, hour, at(5_600), None),
        (Some(at(4_000)), Duration::ZERO, at(2_000), Some(at(5_000))),
        // The overlap gives the old key no longer life than it had.
        (Some(at(4_000)), hour, at(4_000), Some(at(5_000))),
        (None, Duration::MAX, Timestamp::MAX, None),
    ] {
        let before = Caller { expires_at, ..caller() };
        let Rotated { old, new, key } =
            before.rotate(overlap, at(2_000), &mut StdRng::seed_from_u64(8)).unwrap();
        assert_eq!(old, Caller { expires_at: Some(old_end), replaced_by: Some(new.id), ..before.clone() });
        assert_eq!((new.hash, new.id), (key.hash(), key.hash().id()));
        assert_ne!(new.hash, old.hash);
        let same =
            Caller { id: new.id, hash: new.hash, created_at: at(2_000), expires_at: new_end, ..before };
        assert_eq!(new, same);
    }
}

#[test]
fn what_does_not_work_is_not_rotated() {
    let other = KeyHash::of(b"other").id();
    for (revoked_at, expires_at, replaced_by, expected) in [
        (Some(at(1)), None, None, RotationRefusal::Revoked),
        (None, Some(at(2_000)), None, RotationRefusal::Expired),
        (None, Some(at(2_001)), Some(other), RotationRefusal::Replaced(other)),
        (None, Some(at(1_500)), Some(other), RotationRefusal::Replaced(other)),
    ] {
        let caller = Caller { revoked_at, expires_at, replaced_by, ..caller() };
        let refused = caller.rotate(Duration::ZERO, at(2_000), &mut rng());
        assert_eq!(refused.unwrap_err(), expected);
    }
}

#[test]
fn what_is_shown_holds_no_hash() {
    for (revoked_at, expires_at, standing) in [
        (None, None, "live"),
        (None, Some(at(2_001)), "live"),
        (None, Some(at(2_000)), "expired"),
        (Some(at(1)), Some(at(2_000)), "revoked"),
    ] {
        let caller = Caller { revoked_at, expires_at, ..caller() };
        let shown = serde_json::to_value(caller.shown(at(2_000))).unwrap();
        assert_eq!(shown["standing"], standing);
        assert_eq!(caller.shown(at(2_000)).standing.as_str(), standing);
        assert_eq!(shown["scopes"], serde_json::json!(["gateway"]));
        assert!(shown.get("hash").is_none() && !shown.to_string().contains(&caller.hash.to_string()));
    }
}

#[test]
fn a_key_has_exactly_one_chain() {
    let chains = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<ChainName>>();
    for (named, configured, expected) in [
        (None, &["claude"][..], Ok("claude")),
        (None, &["team", "claude"], Ok("claude")),
        (None, &["team"], Ok("team")),
        (None, &["a", "b"], Err("say which chain; there is: a, b")),
        (Some("b"), &["a", "b"], Ok("b")),
        (Some("c"), &["a", "b"], Err("there is no chain c in the configuration; there is: a, b")),
        (Some("a"), &[], Err("no chain is configured and enabled")),
    ] {
        let chosen = chain_of(named.map(|name: &str| name.parse().unwrap()), &chains(configured));
        let chosen = chosen.map(String::from).map_err(|error| error.to_string());
        assert_eq!(chosen.as_deref().map_err(String::as_str), expected);
    }
}

#[test]
fn the_first_header_that_bears_a_key_counts() {
    use KeyHeader::{ApiKey, Authorization, Own};
    for (headers, expected) in [
        (&[][..], None),
        (&[(Own, "a"), (ApiKey, "b"), (Authorization, "Bearer c")], Some("a")),
        (&[(Authorization, "Bearer c"), (ApiKey, "b"), (Own, "a")], Some("a")),
        (&[(ApiKey, "b"), (Authorization, "Bearer c")], Some("b")),
        (&[(ApiKey, " b ")], Some("b")),
        (&[(Authorization, "bearer  c ")], Some("c")),
        (&[(Authorization, "Basic c")], None),
        (&[(Authorization, "Bearer")], None),
        (&[(Authorization, "Bearer ")], None),
        // What bears none is as good as absent.
        (&[(Own, ""), (ApiKey, "b")], Some("b")),
        (&[(Own, " "), (Own, "a")], Some("a")),
        (&[(Authorization, "Basic c"), (Authorization, "Bearer d")], Some("d")),
        // Two of one name are a key that nobody has, the same one twice too; and they hide none behind them.
        (&[(ApiKey, "a"), (ApiKey, "b")], Some("")),
        (&[(ApiKey, "a"), (ApiKey, "a")], Some("")),
        (&[(ApiKey, "a"), (ApiKey, "b"), (ApiKey, "c")], Some("")),
        (&[(Own, "a"), (Own, "b"), (ApiKey, "c")], Some("")),
        (&[(Own, "a"), (ApiKey, "b"), (ApiKey, "c")], Some("a")),
    ] {
        let mut presented = Presented::default();
        for (header, value) in headers {
            presented.see(*header, value.as_bytes());
        }
        assert_eq!(presented.key(), expected.map(str::as_bytes), "{headers:?}");
        assert_eq!(format!("{presented:?}"), "Presented(…)");
    }
    assert_eq!(KeyHash::of_presented(b""), None, "nobody has it");
}
