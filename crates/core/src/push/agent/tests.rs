//! The decision as tables.

use super::*;
use crate::alert::{AlertState, Links};
use crate::chain::ChainName;
use crate::push::Answer;

const HOUR: i64 = 3600;

fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + secs).unwrap()
}

fn grant(name: &str) -> Fingerprint {
    Fingerprint::of(name.as_bytes())
}

fn file(name: &str, modified_at: i64) -> Sight {
    Sight {
        entry: Some("file".into()),
        modified_at: Some(at(modified_at)),
        holds: Holds::Grant(grant(name)),
        keychain_locked: false,
    }
}

fn holds(holds: Holds) -> Sight {
    let entry = (holds != Holds::Nothing).then(|| "file".to_owned());
    Sight { entry, modified_at: None, holds, keychain_locked: holds == Holds::Locked }
}

fn decided(memory: &Memory, sight: &Sight, now: i64) -> Decision {
    decide(sight, memory, None, at(now), Periods::default())
}

fn beat(reason: Reason) -> Decision {
    Decision::Beat { reason, refused: None }
}

fn answer(reason: Reason, server: Option<&str>) -> Contact {
    Contact::Taken(Answer {
        chain: "claude".parse().unwrap(),
        reason,
        status: "ok".into(),
        since: None,
        fingerprint: server.map(grant),
        now: at(0),
        lineage: None,
        generation: None,
    })
}

fn pushed(name: &str) -> Sent {
    Sent { kind: PushKind::Push, fingerprint: Some(grant(name)), absence: None }
}

fn beaten() -> Sent {
    Sent { kind: PushKind::Beat, fingerprint: None, absence: None }
}

fn failed(reason: Reason) -> Contact {
    Contact::Failed { reason, retry_after_secs: None }
}

/// A memory that looked at the file with `old` at 0 and beat then.
fn settled() -> Memory {
    let mut memory = Memory::default();
    memory.look(&file("old", -HOUR), at(0));
    memory.settle(&beaten(), &answer(Reason::Beat, Some("of the server")), at(0));
    memory
}

#[test]
fn freshness_has_its_table() {
    let fresh = |memory: &Memory, sight: &Sight, now: i64| {
        let mut memory = memory.clone();
        memory.look(sight, at(now));
        memory.has_pending(sight)
    };
    let never = Memory::default();
    assert!(fresh(&never, &file("a", -300), 0), "written 5 min ago");
    assert!(!fresh(&never, &file("a", -301), 0), "older, and nobody looked before");
    assert!(fresh(&never, &file("a", 500), 0), "dated ahead by another clock");
    assert!(
        !fresh(&never, &Sight { modified_at: None, ..file("a", 0) }, 0),
        "no date, and nobody looked before"
    );

    let known = settled();
    let later = 9 * HOUR;
    assert!(!fresh(&known, &file("old", -HOUR), later), "nothing happened");
    assert!(fresh(&known, &file("new", HOUR), later), "written while nobody looked");
    assert!(fresh(&known, &file("new", -2 * HOUR), later), "another one than before, whatever its date");
    assert!(fresh(&known, &file("old", HOUR), later), "written again");
    assert!(!fresh(&known, &file("of the server", HOUR), later), "the server has it");
    let elsewhere = Sight { entry: Some("keychain".into()), ..file("older", -2 * HOUR) };
    assert!(!fresh(&known, &elsewhere, later), "an old one that another entry hid");
    assert!(fresh(&known, &Sight { modified_at: Some(at(HOUR)), ..elsewhere }, later), "a new one there");

    let mut empty = Memory::default();
    empty.look(&holds(Holds::Nothing), at(0));
    assert!(fresh(&empty, &file("moved here", -HOUR), 60), "nothing was there before");

    let mut sub_second = Memory::default();
    let look = at(100).checked_add(SignedDuration::from_millis(900)).unwrap();
    sub_second.look(&Sight { entry: Some("other".into()), ..file("old", -HOUR) }, look);
    assert!(fresh(&sub_second, &file("new", 100), later), "dates have whole seconds");
}

#[test]
fn what_is_written_behind_a_lock_is_new_to_the_first_look_after_it() {
    let mut memory = settled();
    for minute in 1..600 {
        memory.look(&holds(Holds::Locked), at(minute * 60));
    }
    assert_eq!(memory.blind_since, Some(at(60)));
    let mut unlocked = memory.clone();
    unlocked.look(&file("old", -HOUR), at(36_000));
    assert_eq!(unlocked.pending, None, "what lay there before is no news");
    memory.look(&file("new", HOUR), at(36_000));
    assert_eq!(
        (memory.pending.map(|pending| pending.fingerprint), memory.blind_since),
        (Some(grant("new")), None)
    );

    // From the very first look on, and with a file that can be read meanwhile.
    let mut memory = Memory::default();
    let beside = Sight { keychain_locked: true, ..file("old", -HOUR) };
    for minute in 0..600 {
        memory.look(&beside, at(minute * 60));
    }
    assert_eq!(memory.pending, None);
    memory.look(&Sight { entry: Some("keychain".into()), ..file("new", HOUR) }, at(36_000));
    assert_eq!(memory.pending.map(|pending| pending.fingerprint), Some(grant("new")));
}

#[test]
fn a_beat_says_why_it_is_no_push() {
    let memory = Memory::default();
    for (sight, reason) in [
        (file("old", -HOUR), Reason::NotFresh),
        (holds(Holds::Locked), Reason::KeychainLocked),
        (holds(Holds::Nothing), Reason::NoEntry),
        (holds(Holds::Wiped), Reason::Wiped),
        (holds(Holds::Malformed), Reason::Malformed),
    ] {
        let mut memory = memory.clone();
        memory.look(&sight, at(0));
        assert_eq!(decided(&memory, &sight, 0), beat(reason));
    }
    let mut memory = settled();
    memory.settle(&pushed("old"), &answer(Reason::SameGrant, Some("old")), at(60));
    assert_eq!(decided(&memory, &file("old", -HOUR), 60 + 1800), beat(Reason::SameGrant));
    // The server renews it: it is the same grant still.
    memory.settle(&beaten(), &answer(Reason::Beat, Some("renewed")), at(1860));
    memory.look(&file("old", 1861), at(1862));
    assert_eq!(decided(&memory, &file("old", 1861), 1860 + 1800), beat(Reason::SameGrant));
    memory.settle(&pushed("old"), &Contact::Refused(Reason::GrantSpent), at(4000));
    let refused = Decision::Beat { reason: Reason::Refused, refused: Some(Reason::GrantSpent) };
    assert_eq!(decided(&memory, &file("old", -HOUR), 4000 + 1800), refused);
}

#[test]
fn it_beats_every_half_hour_and_at_every_look_after_a_failure() {
    let memory = settled();
    let sight = file("old", -HOUR);
    let wait = |memory: &Memory, now| matches!(decided(memory, &sight, now), Decision::Wait { .. });
    assert!(wait(&memory, 1799) && !wait(&memory, 1800));
    assert_eq!(memory.next_wakeup(at(0), Periods::default()), (at(60), Reason::Tick));
    assert_eq!(memory.next_wakeup(at(1750), Periods::default()), (at(1800), Reason::Beat));
    assert!(!wait(&memory, -5), "the clock was set back");

    let mut memory = memory;
    memory.settle(&beaten(), &failed(Reason::ServerUnreachable), at(1800));
    assert!(!wait(&memory, 1860));
    memory.settle(&beaten(), &answer(Reason::Beat, None), at(1860));
    assert!(wait(&memory, 1920));
}

#[test]
fn pending_ends_with_accepted_same_grant_or_a_final_refusal() {
    let new = file("new", 30);
    let outcomes = [
        (answer(Reason::Accepted, Some("new")), false),
        (answer(Reason::SameGrant, Some("renewed since")), false),
        (Contact::Refused(Reason::IdentityMismatch), false),
        (Contact::Postponed { reason: Reason::ProbeUnavailable, retry_after_secs: None }, true),
        (failed(Reason::ServerUnreachable), true),
        (failed(Reason::CallerRevoked), true),
    ];
    for (outcome, stays) in outcomes {
        let mut memory = settled();
        memory.look(&new, at(60));
        assert_eq!(decided(&memory, &new, 60), Decision::Push);
        let kept = serde_json::to_string(&memory).unwrap();
        memory = serde_json::from_str(&kept).unwrap();
        memory.settle(&pushed("new"), &outcome, at(61));
        memory.look(&new, at(120));
        assert_eq!(decided(&memory, &new, 120) == Decision::Push, stays, "{outcome:?}");
    }
    // A login that came while another one was on its way is not ended with it.
    let mut memory = settled();
    memory.look(&new, at(60));
    memory.look(&file("newer", 61), at(62));
    memory.settle(&pushed("new"), &answer(Reason::Accepted, Some("new")), at(63));
    assert_eq!(decided(&memory, &file("newer", 61), 64), Decision::Push);
    // One that was wiped is gone.
    memory.look(&holds(Holds::Wiped), at(120));
    assert_eq!(memory.pending, None);
}

#[test]
fn a_person_may_push_whatever_was_refused() {
    let mut memory = settled();
    memory.settle(&pushed("old"), &Contact::Refused(Reason::TermsNotAccepted), at(10));
    memory.ask_for(grant("old"), false, at(20));
    assert_eq!(decided(&memory, &file("old", -HOUR), 20), Decision::Push);
    memory.settle(&pushed("old"), &answer(Reason::Accepted, Some("old")), at(21));
    assert_eq!((memory.pending, memory.refused), (None, None));
}

#[test]
fn a_login_that_was_taken_unheard_and_replaced_since_is_not_refused() {
    let (new, spent) = (file("new", 30), Contact::Refused(Reason::GrantSpent));
    for answer_lost in [true, false] {
        let mut memory = settled();
        memory.look(&new, at(60));
        if answer_lost {
            let lost = Contact::Failed { reason: Reason::ServerUnreachable, retry_after_secs: None };
            memory.settle(&pushed("new"), &lost, at(60));
        }
        memory.settle(&pushed("new"), &spent, at(9 * HOUR));
        assert_eq!(memory.pending, None);
        let said =
            if answer_lost { (Reason::SameGrant, None) } else { (Reason::Refused, Some(Reason::GrantSpent)) };
        assert_eq!(memory.why_no_push(&new), said);
    }
}

#[test]
fn what_a_person_accepted_stays_so_until_it_is_taken() {
    let mut memory = settled();
    let (new, postponed) = (file("new", 30), Reason::ProbeUnavailable);
    memory.ask_for(grant("new"), true, at(60));
    memory.settle(&pushed("new"), &Contact::Postponed { reason: postponed, retry_after_secs: None }, at(60));
    memory.look(&new, at(120));
    assert!(memory.has_pending(&new) && memory.accepts_new_identity());
    memory.settle(&pushed("new"), &answer(Reason::Accepted, Some("new")), at(121));
    memory.look(&file("newer", 180), at(181));
    assert!(memory.pending.is_some() && !memory.accepts_new_identity());
}

#[test]
fn a_clock_that_is_set_back_hides_no_silence() {
    let mut memory = settled();
    let lost = Contact::Failed { reason: Reason::ServerUnreachable, retry_after_secs: None };
    for now in [24 * HOUR, 0, 300, 700] {
        memory.settle(&pushed("new"), &lost, at(now));
    }
    let chain: ChainName = "claude".parse().unwrap();
    let notice = memory.take_stock(&chain, "a", None, at(700), Periods::default());
    assert!(matches!(notice, Some(Notice::Opened(_))), "{notice:?}");
}

#[test]
fn retry_after_is_kept_within_bounds() {
    let mut memory = settled();
    let new = file("new", 30);
    memory.look(&new, at(60));
    let throttled = |secs| Contact::Failed { reason: Reason::RateLimited, retry_after_secs: Some(secs) };
    memory.settle(&pushed("new"), &throttled(120), at(60));
    assert_eq!(decided(&memory, &new, 179), Decision::Wait { until: at(180), reason: Reason::BackOff });
    assert_eq!(decided(&memory, &new, 180), Decision::Push);
    memory.settle(&pushed("new"), &throttled(86_400), at(180));
    assert!(matches!(decided(&memory, &new, 180 + 899), Decision::Wait { .. }));
    assert_eq!(decided(&memory, &new, 180 + 900), Decision::Push, "15 min at most");
    assert_eq!(decided(&memory, &new, -10_000), Decision::Push, "the clock was set back");
}

#[test]
fn an_absence_is_announced_at_once_and_so_is_its_end() {
    let absence = Absence { until: at(8 * HOUR), reason: "on a plane".into() };
    let mut memory = settled();
    let sight = file("old", -HOUR);
    let now = |memory: &Memory, absence: Option<&Absence>, secs| {
        decide(&sight, memory, absence, at(secs), Periods::default()) == beat(Reason::NotFresh)
    };
    assert!(now(&memory, Some(&absence), 1));
    memory.settle(&Sent { absence: Some(absence.clone()), ..beaten() }, &answer(Reason::Beat, None), at(1));
    assert!(!now(&memory, Some(&absence), 2) && now(&memory, None, 2));
    memory.settle(&beaten(), &answer(Reason::Beat, None), at(1700));
    assert!(!now(&memory, None, 1701));
    // One that is over by itself needs no word.
    memory.settle(
        &Sent { absence: Some(absence), ..beaten() },
        &answer(Reason::Beat, None),
        at(8 * HOUR - 9),
    );
    assert!(!now(&memory, None, 8 * HOUR));
}

#[test]
fn the_journal_is_short_and_counts() {
    let mut memory = settled();
    for (second, reason) in Reason::ALL.iter().cycle().take(200).enumerate() {
        memory.settle(&beaten(), &failed(*reason), at(second as i64));
    }
    assert_eq!(memory.failures.len(), MOST_FAILURES);
    assert_eq!(memory.failures.last().map(|failed| failed.last), Some(at(199)));
    let mut memory = settled();
    for second in 0..5 {
        memory.settle(&beaten(), &failed(Reason::ServerUnreachable), at(second));
    }
    let line = FailedAttempts { reason: Reason::ServerUnreachable, count: 5, first: at(0), last: at(4) };
    assert_eq!(memory.failures, [line]);
    memory.settle(&beaten(), &answer(Reason::Beat, None), at(9));
    assert_eq!((memory.failures.len(), memory.streak), (0, None));
}

#[test]
fn a_person_is_told_once_and_sinks_hear_both_ends() {
    let chain: ChainName = "claude".parse().unwrap();
    let stock = |memory: &mut Memory, now| memory.take_stock(&chain, "a1", None, at(now), Periods::default());
    let links = Links { runbook: "https://docs.test".into(), server: "https://server.test".into() };
    let about = About { chain: &chain, provider: "claude", host: "desk", links: &links };
    let mut memory = settled();
    for (now, told) in [(0, false), (300, false), (599, false), (600, true), (660, false)] {
        memory.settle(&beaten(), &failed(Reason::ServerUnreachable), at(now));
        let notice = stock(&mut memory, now);
        assert_eq!(matches!(notice, Some(Notice::Opened(_))), told, "{now}: {notice:?}");
    }
    let alert = memory.alert(&about, at(660)).unwrap();
    assert_eq!((alert.state, alert.status.as_str()), (AlertState::Open, "failed"));
    assert!(alert.concerned[0].episode.as_str().starts_with("agent-a1-claude-failed-"));
    assert_eq!(alert.runbook_url, "https://docs.test/failed.md");
    memory.trouble.as_mut().unwrap().told.insert("ops".into());
    memory.settle(&beaten(), &answer(Reason::Beat, None), at(700));
    assert_eq!(stock(&mut memory, 700), Some(Notice::Closed));
    let closing = about.closing(&memory.closing[0], &memory, at(700));
    assert_eq!((closing.state, closing.status.as_str()), (AlertState::Closed, "recovered"));
    assert_eq!(closing.concerned[0].episode, alert.concerned[0].episode);
    stock(&mut memory, 700 + 25 * HOUR);
    assert_eq!(memory.closing, [], "a sink that is gone is given up");

    // No sink took it: none hears of its end.
    let mut memory = settled();
    for now in [0, 300, 600] {
        memory.settle(&beaten(), &failed(Reason::ServerUnreachable), at(now));
    }
    assert!(stock(&mut memory, 600).is_some());
    memory.settle(&beaten(), &answer(Reason::Beat, None), at(700));
    assert_eq!((stock(&mut memory, 700), memory.closing.len()), (Some(Notice::Closed), 0));
}

#[test]
fn neither_an_absence_nor_a_night_asleep_is_told() {
    let chain: ChainName = "claude".parse().unwrap();
    let mut memory = settled();
    let absence = Absence { until: at(8 * HOUR), reason: String::new() };
    for now in [0, 300, 600] {
        memory.settle(&beaten(), &failed(Reason::ServerUnreachable), at(now));
    }
    let told = memory.take_stock(&chain, "a1", Some(&absence), at(600), Periods::default());
    assert_eq!(told, None);

    memory.woke(at(9 * HOUR));
    for now in [9 * HOUR + 5, 9 * HOUR + 65] {
        memory.settle(&beaten(), &failed(Reason::ServerUnreachable), at(now));
        assert_eq!(memory.take_stock(&chain, "a1", None, at(now), Periods::default()), None);
    }
    assert_eq!(memory.failures[0].count, 5, "the journal keeps all");
}

#[test]
fn answers_have_their_table() {
    let taken = |reason: &str| {
        format!(
            r#"{{"chain":"claude","reason":"{reason}","status":"ok","since":null,"fingerprint":null,
            "now":"2026-01-01T00:00:00Z","lineage":1,"generation":2}}"#
        )
    };
    let problem = |reason: &str| format!(r#"{{"status":1,"reason":"{reason}","detail":"words"}}"#);
    let (push, beat) = (PushKind::Push, PushKind::Beat);
    let failed = |reason| Contact::Failed { reason, retry_after_secs: Some(7) };
    let postponed = |reason| Contact::Postponed { reason, retry_after_secs: Some(7) };
    let cases = [
        (push, 422, problem("grant_spent"), Contact::Refused(Reason::GrantSpent)),
        (push, 422, problem("agent_clock_skew"), postponed(Reason::AgentClockSkew)),
        (beat, 422, problem("agent_clock_skew"), postponed(Reason::AgentClockSkew)),
        (push, 422, problem("nonce_seen"), failed(Reason::NonceSeen)),
        (push, 422, problem("reason_of_the_future"), failed(Reason::ServerError)),
        (beat, 422, problem("grant_spent"), postponed(Reason::GrantSpent)),
        (push, 500, problem("grant_spent"), failed(Reason::GrantSpent)),
        (push, 400, problem("request_invalid"), postponed(Reason::RequestInvalid)),
        (push, 503, problem("probe_unavailable"), postponed(Reason::ProbeUnavailable)),
        (push, 503, problem("lease_held"), postponed(Reason::LeaseHeld)),
        (push, 503, problem("state_unavailable"), failed(Reason::StateUnavailable)),
        (push, 404, problem("chain_unknown"), failed(Reason::ChainUnknown)),
        (push, 401, problem("caller_unknown"), failed(Reason::CallerUnknown)),
        (push, 403, problem("scope_missing"), failed(Reason::ScopeMissing)),
        (push, 429, "slow down".into(), failed(Reason::RateLimited)),
        (push, 502, "<html>".into(), failed(Reason::ServerError)),
        (push, 301, String::new(), failed(Reason::ServerError)),
        (push, 200, "<html>a portal</html>".into(), failed(Reason::ServerError)),
        (push, 200, taken("beat"), failed(Reason::ServerError)),
        (beat, 200, taken("accepted"), failed(Reason::ServerError)),
        (push, 200, taken("grant_spent"), failed(Reason::ServerError)),
    ];
    for (kind, status, body, expected) in cases {
        let answer = HttpAnswer { status, body: body.as_bytes(), retry_after_secs: Some(7) };
        assert_eq!(judge(kind, &answer).0, expected, "{status} {body}");
    }
    for (kind, reason) in [(push, "accepted"), (push, "same_grant"), (beat, "beat")] {
        let body = taken(reason);
        let answer = HttpAnswer { status: 200, body: body.as_bytes(), retry_after_secs: None };
        assert!(matches!(judge(kind, &answer).0, Contact::Taken(_)), "{reason}");
    }
    let wiped = problem("wiped");
    let answer = HttpAnswer { status: 422, body: wiped.as_bytes(), retry_after_secs: None };
    assert_eq!(judge(push, &answer).1.as_deref(), Some("words"));
}
