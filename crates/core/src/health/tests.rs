use jiff::SignedDuration;
use jiff::civil::{Weekday, time};
use jiff::tz::{Offset, TimeZone};
use proptest::prelude::*;

use super::*;
use crate::push::PushKind;

fn at(minutes: i64) -> Timestamp {
    // A Monday, 00:00 UTC.
    "2026-11-23T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minutes)
}

fn span(from: i64, until: i64) -> Span {
    Span { from: at(from), until: at(until) }
}

fn seen(minutes: i64, kind: PushKind, outcome: Outcome, agent: &str) -> PushSeen {
    let reason = match outcome {
        Outcome::Good => Reason::SameGrant,
        Outcome::Failed => Reason::ProbeUnavailable,
        Outcome::Neutral => Reason::Refused,
    };
    let agent = AgentSeen::new(agent, reason, at(minutes));
    PushSeen { at: at(minutes), kind, outcome, reason, agent }
}

fn track(events: &[PushSeen], listened: &[Span]) -> PushTrack {
    PushTrack {
        facts: PushFacts::of(events),
        tracked_since: at(0),
        listened: listened.to_vec(),
        expected: Expected::Always,
    }
}

fn status(track: &PushTrack, minute: i64) -> PushStatus {
    push_status(track, at(minute)).0
}

#[test]
fn it_waits_for_an_hour_for_the_first_event() {
    let track = track(&[], &[span(0, 10_000)]);
    assert_eq!(status(&track, 0), PushStatus::Waiting);
    assert_eq!(status(&track, 59), PushStatus::Waiting);
    assert_eq!(status(&track, 60), PushStatus::MacSilent);
}

#[test]
fn silence_counts_only_while_a_server_listened() {
    let beat = [seen(0, PushKind::Beat, Outcome::Good, "a")];
    let down_for_a_day = track(&beat, &[span(0, 30), span(30 + 1440, 90 + 1440)]);
    assert_eq!(status(&down_for_a_day, 29 + 1440), PushStatus::Ok);
    assert_eq!(status(&down_for_a_day, 59 + 1440), PushStatus::Ok);
    assert_eq!(push_status(&down_for_a_day, at(60 + 1440)), (PushStatus::MacSilent, Some(at(0))));
}

#[test]
fn an_announced_absence_does_not_count() {
    let mut away = seen(0, PushKind::Beat, Outcome::Good, "a");
    away.agent.absence = Some(span(0, 480));
    let track = track(&[away], &[span(0, 10_000)]);
    assert_eq!(status(&track, 480 + 59), PushStatus::Ok);
    assert_eq!(status(&track, 480 + 60), PushStatus::MacSilent);
}

#[test]
fn what_an_agent_said_that_is_gone_hides_nothing() {
    let mut gone = seen(0, PushKind::Beat, Outcome::Good, "a");
    (gone.agent.absence, gone.agent.blind_since) = (Some(span(0, 10_000)), Some(at(0)));
    let track = track(&[gone, seen(10, PushKind::Beat, Outcome::Good, "b")], &[span(0, 20_000)]);
    assert_eq!(status(&track, 69), PushStatus::Ok);
    assert_eq!(status(&track, 70), PushStatus::MacSilent);
    assert_eq!([59, 60].map(|minute| blind_since(&track.facts, at(minute))), [Some(at(0)), None]);
}

#[test]
fn hours_in_which_nothing_is_expected_do_not_count() {
    let zone = TimeZone::fixed(Offset::constant(1));
    let days = [Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday];
    let hours = Hours::new(days.to_vec(), time(9, 0, 0, 0), time(18, 0, 0, 0), zone).unwrap();
    // Friday 17:30 of that place is 16:30 UTC; Monday 9:00 is 8:00 UTC.
    let (friday, monday) = (4 * 1440 + 16 * 60 + 30, 7 * 1440 + 8 * 60);
    let beat = [seen(friday, PushKind::Beat, Outcome::Good, "a")];
    let track = PushTrack { expected: Expected::Hours(hours), ..track(&beat, &[span(0, 100_000)]) };
    assert_eq!(status(&track, monday + 29), PushStatus::Ok);
    assert_eq!(status(&track, monday + 30), PushStatus::MacSilent);
    // Weeks later it is still silent.
    assert_eq!(status(&track, monday + 5 * 7 * 1440), PushStatus::MacSilent);
}

#[test]
fn hours_begin_before_they_end() {
    let zone = TimeZone::UTC;
    let nine = time(9, 0, 0, 0);
    assert_eq!(Hours::new(vec![], nine, time(10, 0, 0, 0), zone.clone()), Err(NotHours::NoDay));
    assert_eq!(Hours::new(vec![Weekday::Monday], nine, nine, zone), Err(NotHours::Backwards));
}

#[test]
fn streaks_fail_and_grow_stale_and_end() {
    use Outcome::{Failed, Good, Neutral};
    use PushKind::{Beat, Push};
    let all = [span(0, 10_000)];
    let failing =
        |pushes: &[i64]| pushes.iter().map(|minute| seen(*minute, Push, Failed, "a")).collect::<Vec<_>>();
    let mut events = failing(&[1, 2]);
    assert_eq!(status(&track(&events, &all), 2), PushStatus::Ok);
    events.push(seen(30, Beat, Neutral, "a"));
    events.push(seen(60, Beat, Neutral, "b"));
    events.push(seen(90, Beat, Neutral, "a"));
    events.push(seen(120, Beat, Neutral, "a"));
    assert_eq!(status(&track(&events, &all), 121), PushStatus::Ok);
    assert_eq!(push_status(&track(&events, &all), at(122)), (PushStatus::Stale, Some(at(1))));
    events.extend(failing(&[123]));
    assert_eq!(push_status(&track(&events, &all), at(123)), (PushStatus::Failed, Some(at(1))));
    // Silence comes first.
    assert_eq!(status(&track(&events, &all), 183), PushStatus::MacSilent);
    events.push(seen(184, Beat, Good, "a"));
    assert_eq!(status(&track(&events, &all), 184), PushStatus::Ok);
    let facts = PushFacts::of(&events);
    assert_eq!((facts.events, facts.failed, facts.accepted, facts.streak), (8, 3, 0, None));
    assert_eq!(facts.agents.iter().map(|agent| agent.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

fn some_event() -> impl Strategy<Value = PushSeen> {
    let kind = prop_oneof![Just(PushKind::Beat), Just(PushKind::Push)];
    let outcome = prop_oneof![Just(Outcome::Good), Just(Outcome::Failed), Just(Outcome::Neutral)];
    (0_i64..600, kind, outcome, "[ab]").prop_map(|(minute, kind, outcome, agent)| {
        // A beat never fails.
        let outcome =
            if (kind, outcome) == (PushKind::Beat, Outcome::Failed) { Outcome::Neutral } else { outcome };
        seen(minute, kind, outcome, &agent)
    })
}

proptest! {
    #[test]
    fn the_order_of_arrival_does_not_matter(
        (events, shuffled) in prop::collection::vec(some_event(), 0..40)
            .prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
        minute in 0_i64..1000,
    ) {
        let all = [span(0, 10_000)];
        prop_assert_eq!(push_status(&track(&events, &all), at(minute)), push_status(&track(&shuffled, &all), at(minute)));
    }

    #[test]
    fn silence_is_found_at_60_min_and_only_then(
        beats in prop::collection::vec(1_i64..60, 1..40),
        gap in 60_i64..5000,
    ) {
        let mut minute = 0;
        let mut events = vec![seen(0, PushKind::Beat, Outcome::Good, "a")];
        for pause in beats {
            let before = track(&events, &[span(0, 100_000)]);
            prop_assert_eq!(status(&before, minute + pause), PushStatus::Ok);
            minute += pause;
            events.push(seen(minute, PushKind::Beat, Outcome::Good, "a"));
        }
        prop_assert_eq!(status(&track(&events, &[span(0, 100_000)]), minute + gap), PushStatus::MacSilent);
    }
}

/// Two tables that SPEC §6 gives: which facts hold which condition.
mod table {
    use super::*;
    use crate::chain::{
        AttemptId, ChainName, Failures, Generation, Kind, Lineage, Quarantine, Record, Standing,
    };
    use crate::gateway::Source;
    use crate::grant::PairId;
    use crate::keeper::{Decision, Look, Policy, Report, decide};
    use crate::provider::Profile;
    use crate::secret::Fingerprint;

    fn record() -> Record {
        Record {
            chain: "claude".parse().unwrap(),
            lineage: Lineage(1),
            generation: Generation(4),
            kind: Kind::RefreshToken,
            pair: PairId { access: Fingerprint::of(b"a"), refresh: Some(Fingerprint::of(b"r")) },
            expires_at: at(8 * 60),
            expiry_assumed: false,
            life_secs: 8 * 3600,
            granted_at: at(0),
            grant_expires_at: Some(at(20 * 1440)),
            scopes: Vec::new(),
            stored_at: at(0),
            renew_at: Some(at(7 * 60)),
            standing: Standing::Live,
            access_refused: false,
            intent: None,
            made_by: None,
            last_attempt: AttemptId(3),
            failures: None,
            rewriting: None,
            old_doubts: Vec::new(),
            adoptions: Vec::new(),
            quarantined: None,
        }
    }

    fn facts(record: Record, error: Option<Reason>, now: Timestamp) -> GrantFacts {
        let chain: ChainName = record.chain.clone();
        let present = error != Some(Reason::TokenAbsent);
        let report =
            Report::new(&chain, Some(&record), present, (error.unwrap_or(Reason::NotDue), error), now);
        let source = if report.token_valid { Source::Oauth } else { Source::None };
        GrantFacts {
            kind: record.kind,
            serving: Serving { source, until: Some(record.expires_at) },
            report,
            record: Some(record),
            clock_offset_secs: Some(2),
            fallback: FallbackFacts::default(),
            probes: vec![(Reason::ProbeOk, (Lineage(1), Generation(4)))],
            grant_refused_at: None,
            blind_since: None,
        }
    }

    fn found(facts: &GrantFacts, now: Timestamp) -> Vec<Condition> {
        conditions(facts, now).into_iter().map(|finding| finding.condition).collect()
    }

    #[test]
    fn a_chain_that_is_well_has_none() {
        for minute in [0, 60, 7 * 60 + 29] {
            assert_eq!(found(&facts(record(), None, at(minute)), at(minute)), []);
        }
    }

    #[test]
    fn every_error_has_its_conditions_in_its_time() {
        use Condition as C;
        let early = at(60);
        let late = at(7 * 60 + 31);
        let at_once = [
            Reason::AuthFileMalformed,
            Reason::AuthFileRolledBack,
            Reason::GrantSpent,
            Reason::ClientRejected,
            Reason::ProviderBlocked,
            Reason::LockForeign,
        ];
        for reason in at_once {
            for now in [early, late] {
                assert_eq!(found(&facts(record(), Some(reason), now), now), [C::RenewalFailing], "{reason}");
            }
        }
        let in_time = [Reason::ProviderThrottled, Reason::ProviderUnavailable, Reason::InDoubt];
        for reason in in_time {
            assert_eq!(found(&facts(record(), Some(reason), early), early), [], "{reason}");
            assert_eq!(found(&facts(record(), Some(reason), late), late), [C::RenewalFailing], "{reason}");
        }
        for (reason, expected) in [
            (Reason::TokenAbsent, &[C::NotServing, C::RenewalFailing][..]),
            (Reason::VaultUnwritable, &[C::VaultUnwritable]),
            (Reason::Quarantined, &[C::Quarantined]),
            (Reason::RefreshTokenRevoked, &[C::ReauthRequired]),
            (Reason::GrantExpired, &[C::ReauthRequired]),
        ] {
            assert_eq!(found(&facts(record(), Some(reason), early), early), expected, "{reason}");
        }
    }

    #[test]
    fn a_record_has_its_conditions() {
        use Condition as C;
        let now = at(60);
        let refused = Standing::Refused { reason: Reason::RefreshTokenRevoked, at: at(50), confirmed: false };
        let doubt = Standing::InDoubt { sent_at: at(40), since: at(41), presented_again: 0 };
        for (name, change, expected) in [
            (
                "refused",
                &(|r: &mut Record| {
                    r.standing = Standing::Refused {
                        reason: Reason::RefreshTokenRevoked,
                        at: at(50),
                        confirmed: false,
                    }
                }) as &dyn Fn(&mut Record),
                &[C::ReauthRequired][..],
            ),
            (
                "in doubt",
                &|r| r.standing = Standing::InDoubt { sent_at: at(40), since: at(41), presented_again: 0 },
                &[C::RenewalInDoubt],
            ),
            ("ends soon", &|r| r.grant_expires_at = Some(at(60 + 3 * 1440 - 1)), &[]),
            (
                "a month's end in 3 days",
                &|r| {
                    r.granted_at = at(-30 * 1440);
                    r.grant_expires_at = Some(at(60 + 3 * 1440 - 1));
                },
                &[C::LoginExpiring],
            ),
            ("a day's end in 7 h", &|r| r.grant_expires_at = Some(at(1440)), &[]),
            (
                "static, two weeks left",
                &|r| {
                    r.kind = Kind::Static;
                    r.grant_expires_at = None;
                    r.expires_at = at(60 + 14 * 1440 - 1);
                    r.renew_at = None;
                },
                &[C::LoginExpiring],
            ),
            (
                "static, refused",
                &|r| {
                    r.kind = Kind::Static;
                    r.access_refused = true;
                    r.expires_at = at(100 * 1440);
                    r.grant_expires_at = None;
                },
                &[C::ReauthRequired, C::NotServing],
            ),
            (
                "static, ended",
                &|r| {
                    r.kind = Kind::Static;
                    r.expires_at = at(59);
                    r.grant_expires_at = None;
                },
                &[C::ReauthRequired, C::NotServing],
            ),
            ("two writers", &|r| r.adoptions = vec![at(30), at(50)], &[C::SecondWriter]),
        ] {
            let mut record = record();
            change(&mut record);
            assert_eq!(found(&facts(record, None, now), now), expected, "{name}");
        }
        let mut dead = record();
        dead.standing = refused;
        assert_eq!(conditions(&facts(dead, None, now), now)[0].since, Some(at(50)));
        let mut doubtful = record();
        doubtful.standing = doubt;
        assert_eq!(conditions(&facts(doubtful, None, now), now)[0].since, Some(at(41)));
        let mut failing = record();
        failing.failures = Some(Failures {
            count: 9,
            since: at(7 * 60),
            reason: Reason::ProviderUnavailable,
            not_before: at(0),
            asked_by_provider: false,
        });
        let late = at(7 * 60 + 40);
        let finding = &conditions(&facts(failing, Some(Reason::ProviderUnavailable), late), late)[0];
        assert_eq!((finding.condition, finding.since), (C::RenewalFailing, Some(at(7 * 60))));
    }

    #[test]
    fn what_serves_and_its_reserve_have_conditions() {
        use Condition as C;
        let now = at(60);
        let with = |change: &dyn Fn(&mut GrantFacts)| {
            let mut facts = facts(record(), None, now);
            facts.fallback =
                FallbackFacts { there: true, usable: Some(true), uses_today: 0, most_a_day: Some(10) };
            change(&mut facts);
            found(&facts, now)
        };
        assert_eq!(with(&|_| ()), []);
        assert_eq!(with(&|f| f.serving.source = Source::Fallback), [C::FallbackActive]);
        assert_eq!(with(&|f| f.serving.source = Source::None), [C::NotServing]);
        assert_eq!(with(&|f| f.fallback.usable = Some(false)), [C::FallbackUnusable]);
        assert_eq!(with(&|f| f.fallback.usable = None), []);
        assert_eq!(with(&|f| f.fallback.uses_today = 4), []);
        assert_eq!(with(&|f| f.fallback.uses_today = 5), [C::FallbackHalfUsed]);
        assert_eq!(with(&|f| f.fallback.uses_today = 9), [C::FallbackNearlyUsed]);
        assert_eq!(with(&|f| f.clock_offset_secs = Some(-121)), [C::ClockSkew]);
        assert_eq!(with(&|f| f.clock_offset_secs = Some(120)), []);
        assert_eq!(with(&|f| f.grant_refused_at = Some(at(51))), [C::GrantRefused]);
        assert_eq!(with(&|f| f.grant_refused_at = Some(at(50))), []);
        assert_eq!(with(&|f| f.blind_since = Some(at(60 - 720))), [C::AgentBlind]);
        assert_eq!(with(&|f| f.blind_since = Some(at(61 - 720))), []);
    }

    #[test]
    fn probes_fail_three_times_or_are_refused() {
        let now = at(60);
        let here = (Lineage(1), Generation(4));
        let (ok, none, refused) = (Reason::ProbeOk, Reason::ProbeUnavailable, Reason::ProbeRefused);
        for (probes, fails) in [
            (vec![(none, here); 2], false),
            (vec![(none, here); 3], true),
            (vec![(none, here), (ok, here), (none, here), (none, here)], false),
            (vec![(ok, here), (none, here), (none, here), (none, here)], false),
            (vec![(refused, here)], true),
            // Of a generation that is gone it says nothing.
            (vec![(refused, (Lineage(1), Generation(3)))], false),
        ] {
            let facts = GrantFacts { probes: probes.clone(), ..facts(record(), None, now) };
            assert_eq!(found(&facts, now) == [Condition::ProbeFailing], fails, "{probes:?}");
        }
    }

    /// A chain whose settings, provider and keepers do nothing: its error is what its record says.
    fn by_itself(record: &Record, now: Timestamp) -> GrantFacts {
        let policy = Policy::new(Profile::claude());
        let error = match decide(record, &policy, Look::Due, now) {
            Decision::Rest { error, .. } => error,
            Decision::Exchange(_) => record.failures.map(|failures| failures.reason),
        };
        facts(record.clone(), error, now)
    }

    fn some_record() -> impl Strategy<Value = Record> {
        let kinds = prop_oneof![Just(Kind::RefreshToken), Just(Kind::Static)];
        let grant_ends = prop::option::of(1_i64..40 * 1440);
        let failures = prop::option::of(Just(Failures {
            count: 1,
            since: at(10),
            reason: Reason::ProviderUnavailable,
            not_before: at(90),
            asked_by_provider: false,
        }));
        (kinds, 2_i64..60 * 1440, grant_ends, failures).prop_map(|(kind, ends, grant_ends, failures)| {
            Record {
                kind,
                expires_at: at(ends),
                renew_at: (kind == Kind::RefreshToken).then(|| at(ends - (ends / 2).min(60))),
                grant_expires_at: grant_ends.map(at),
                failures,
                ..record()
            }
        })
    }

    proptest! {
        #[test]
        fn a_chain_that_is_well_stays_so_until_it_is_said(
            record in some_record(),
            minute in 0_i64..50 * 1440,
            on_the_way in 0.0_f64..1.0,
        ) {
            let now = at(minute);
            let first = by_itself(&record, now);
            prop_assume!(conditions(&first, now).is_empty());
            let until = well_until(&first, now);
            let last = until.map_or(at(400 * 1440), |until| until - SignedDuration::from_millis(1));
            let between = now + last.duration_since(now).mul_f64(on_the_way);
            for later in [between, last] {
                prop_assert_eq!(found(&by_itself(&record, later), later), [], "at {}", later);
            }
        }

        /// And what begins then is seen then.
        #[test]
        fn nothing_begins_that_no_look_sees(record in some_record(), minute in 0_i64..50 * 1440) {
            let mut now = at(minute);
            let end = record.expires_at + SignedDuration::from_mins(1);
            let mut looks = 0;
            while conditions(&by_itself(&record, now), now).is_empty() && now < end {
                let next = well_until(&by_itself(&record, now), now);
                prop_assert!(next.is_some_and(|next| next > now), "the end of its access token is seen");
                now = next.unwrap_or(end);
                looks += 1;
            }
            prop_assert!(looks < 6, "{} looks", looks);
        }
    }

    #[test]
    fn what_a_record_says_of_trouble_is_trouble() {
        assert!(!shows_trouble(&record()));
        let doubt = Standing::InDoubt { sent_at: at(1), since: at(2), presented_again: 0 };
        let troubled: [&dyn Fn(&mut Record); 5] = [
            &|record| record.standing = doubt,
            &|record| record.access_refused = true,
            &|record| record.adoptions = vec![at(1), at(2)],
            &|record| record.quarantined = Some(Quarantine { since: at(1), behind: record.mark() }),
            &|record| {
                let (since, reason) = (at(1), Reason::ProviderBlocked);
                let asked_by_provider = false;
                record.failures =
                    Some(Failures { count: 1, since, reason, not_before: at(2), asked_by_provider });
            },
        ];
        for change in troubled {
            let mut record = record();
            change(&mut record);
            assert!(shows_trouble(&record), "{record:?}");
            let now = at(8 * 60 - 1);
            assert_ne!(found(&by_itself(&record, now), now), [], "{record:?}");
        }
    }
}
