use proptest::prelude::*;

use super::*;
use crate::alert::{ActionContext, Links, Told, action, compose};
use crate::chain::Kind;
use crate::provider::Profile;

fn chain() -> ChainName {
    "claude".parse().unwrap()
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + minutes * 60).unwrap()
}

fn finding(condition: Condition) -> Finding {
    Finding::new(condition, None, None)
}

/// A chain's episodes, driven minute by minute.
#[derive(Default)]
struct Book {
    episodes: Vec<Episode>,
    said: Vec<(i64, Condition, AlertState)>,
}

impl Book {
    fn look(&mut self, minute: i64, found: &[Condition], muted: bool) {
        let found: Vec<_> = found.iter().copied().map(finding).collect();
        let advance = advance(
            &chain(),
            &self.known(),
            &found,
            Quiet { muted, gathering: &[] },
            Reminding::default(),
            at(minute),
        );
        for changed in advance.changed {
            match self.episodes.iter_mut().find(|known| known.id == changed.id) {
                Some(known) => *known = changed,
                None => self.episodes.push(changed),
            }
        }
        self.said.extend(advance.say.iter().map(|(episode, state)| (minute, episode.condition, *state)));
    }

    /// What the store gives: open, owing, and the last closed one of each condition.
    fn known(&self) -> Vec<Episode> {
        let last = |episode: &Episode| {
            let same = self.episodes.iter().filter(|other| other.condition == episode.condition);
            same.max_by_key(|other| other.opened_at).map(|other| &other.id) == Some(&episode.id)
        };
        self.episodes
            .iter()
            .filter(|episode| episode.is_open() || episode.owed || last(episode))
            .cloned()
            .collect()
    }

    fn states(&self) -> Vec<AlertState> {
        self.said.iter().map(|(_, _, state)| *state).collect()
    }
}

#[test]
fn an_episode_opens_at_once_and_closes_five_minutes_after_its_end() {
    let mut book = Book::default();
    for minute in 0..20 {
        let found: &[_] = if (3..8).contains(&minute) { &[Condition::NotServing] } else { &[] };
        book.look(minute, found, false);
    }
    assert_eq!(
        book.said,
        [(3, Condition::NotServing, AlertState::Open), (13, Condition::NotServing, AlertState::Closed)]
    );
    let [episode] = &book.episodes[..] else { panic!("one episode") };
    assert_eq!((episode.since, episode.ended_at, episode.closed_at), (at(3), Some(at(8)), Some(at(13))));
}

#[test]
fn what_comes_back_within_the_hold_is_the_same_episode() {
    let mut book = Book::default();
    for minute in 0..40 {
        let found: &[_] = if minute < 30 && minute % 4 == 0 { &[Condition::ProbeFailing] } else { &[] };
        book.look(minute, found, false);
    }
    assert_eq!(book.states(), [AlertState::Open, AlertState::Closed]);
}

#[test]
fn reminders_come_for_red_ones_after_4_h_then_at_twice_the_pause_up_to_a_day() {
    let mut book = Book::default();
    for minute in 0..(80 * 60) {
        book.look(minute, &[Condition::NotServing, Condition::LoginExpiring], false);
    }
    let hours: Vec<_> =
        book.said.iter().filter(|said| said.2 == AlertState::Reminder).map(|said| said.0 / 60).collect();
    assert_eq!(hours, [4, 12, 28, 52, 76]);
    assert!(book.said.iter().all(|said| said.2 != AlertState::Reminder || said.1 == Condition::NotServing));
}

#[test]
fn an_acknowledged_one_does_not_remind_but_says_that_it_closed() {
    for (until, reminders) in [(None, 0), (Some(at(10 * 60)), 1)] {
        let mut book = Book::default();
        for minute in 0..(11 * 60) {
            book.look(minute, &[Condition::NotServing], false);
            if minute == 10 {
                let by = Actor::cli("root");
                book.episodes[0].acknowledged = Some(Acknowledgement { by, at: at(10), until });
            }
        }
        (0..10).for_each(|minute| book.look(11 * 60 + minute, &[], false));
        let states = book.states();
        assert_eq!(states.iter().filter(|state| **state == AlertState::Reminder).count(), reminders);
        assert_eq!(states.last(), Some(&AlertState::Closed));
    }
}

#[test]
fn a_mute_holds_alerts_back_and_what_is_still_open_is_sent_at_its_end() {
    let mut book = Book::default();
    for minute in 0..100 {
        let found: &[_] = match minute {
            // Came and went in the window: nobody hears of it.
            12..20 => &[Condition::ClockSkew, Condition::NotServing],
            0..5 | 20..60 => &[Condition::NotServing],
            _ => &[],
        };
        book.look(minute, found, (10..40).contains(&minute));
    }
    assert_eq!(
        book.said,
        [
            (0, Condition::NotServing, AlertState::Open),
            // It had closed and opened again in the window.
            (40, Condition::NotServing, AlertState::Closed),
            (40, Condition::NotServing, AlertState::Open),
            (70, Condition::NotServing, AlertState::Closed),
        ]
    );
}

#[test]
fn one_status_of_the_push_track_gives_way_to_another_without_a_recovery() {
    let mut book = Book::default();
    for minute in 0..60 {
        let found: &[_] = match minute {
            0..10 => &[Condition::MacSilent],
            10..20 => &[Condition::Failed],
            20..30 => &[Condition::Stale, Condition::ReauthRequired],
            _ => &[],
        };
        book.look(minute, found, false);
        let open = |episode: &&Episode| episode.is_open() && on_push_track(episode.condition);
        assert!(book.episodes.iter().filter(open).count() <= 1);
    }
    use AlertState::{Closed, Open};
    assert_eq!(
        book.said,
        [
            (0, Condition::MacSilent, Open),
            (10, Condition::Failed, Open),
            (20, Condition::Stale, Open),
            (20, Condition::ReauthRequired, Open),
            (35, Condition::Stale, Closed),
            (35, Condition::ReauthRequired, Closed),
        ]
    );
    // Sinks that keep alerts open are told which one to close.
    assert_eq!(book.episodes[1].replaces, Some(book.episodes[0].id.clone()));
    assert_eq!(book.episodes[2].replaces, Some(book.episodes[1].id.clone()));
}

/// Sinks still hold the first one for open.
#[test]
fn what_gave_way_to_a_status_that_nobody_heard_of_is_said_to_be_over() {
    let mut book = Book::default();
    for minute in 0..100 {
        let found: &[_] = match minute {
            0..10 => &[Condition::MacSilent],
            10..20 => &[Condition::Failed],
            _ => &[],
        };
        book.look(minute, found, (10..40).contains(&minute));
    }
    let said = [(0, Condition::MacSilent, AlertState::Open), (40, Condition::Failed, AlertState::Closed)];
    assert_eq!(book.said, said);
    assert_eq!(book.episodes[1].replaces, Some(book.episodes[0].id.clone()));
}

#[test]
fn a_week_of_flapping_says_less_than_one_alert_an_hour() {
    for period in [7, 11, 13, 20, 35, 59, 90, 125, 250, 361, 400, 500] {
        let mut book = Book::default();
        for minute in 0..(7 * 24 * 60) {
            let found: &[_] = if minute % period < period / 4 + 1 {
                &[Condition::ProbeFailing, Condition::RenewalFailing, Condition::FallbackActive]
            } else {
                &[]
            };
            book.look(minute, found, false);
        }
        let said = book.said.len();
        assert!(said <= 7 * 24, "{said} alerts with a period of {period} min");
    }
}

#[test]
fn chains_of_one_provider_are_told_of_together() {
    let found = [finding(Condition::RenewalFailing)];
    let named = |name: &str| name.parse::<ChainName>().unwrap();
    let first = advance(&named("a"), &[], &found, Quiet::default(), Reminding::default(), at(0));
    assert_eq!(first.say.len(), 1);
    let told = Told { episode: &first.say[0].0, provider: "p", grant: None, push: None, action: None };
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let lately = [compose(&[told], AlertState::Open, &links, at(0)).unwrap()];
    assert_eq!(gathering(&lately, "p", &named("a"), at(3)), [], "it tells of no other chain");
    assert_eq!(gathering(&lately, "q", &named("b"), at(3)), []);
    let look = |minute, known: &[Episode]| {
        let gathering = gathering(&lately, "p", &named("b"), at(minute));
        let quiet = Quiet { muted: false, gathering: &gathering };
        advance(&named("b"), known, &found, quiet, Reminding::default(), at(minute))
    };
    // In the same look they are one alert anyway.
    assert_eq!(look(0, &[]).say.len(), 1);
    let waits = look(3, &[]);
    assert_eq!((waits.changed.len(), waits.say.len()), (1, 0));
    assert_eq!(look(9, &waits.changed).say, []);
    let told = look(10, &waits.changed);
    assert_eq!(told.say[0].1, AlertState::Open);
    assert_eq!(told.changed[0].opened_at, at(3));
}

#[test]
fn what_is_told_together_says_what_to_do_about_each() {
    let opened = |name: &str, reason| {
        let found = [Finding::new(Condition::RenewalFailing, None, Some(reason))];
        let of = advance(&name.parse().unwrap(), &[], &found, Quiet::default(), Reminding::default(), at(0));
        of.say[0].0.clone()
    };
    let episodes: Vec<_> =
        [("a", Reason::TokenAbsent), ("b", Reason::TokenAbsent), ("c", Reason::LockForeign)]
            .map(|(name, reason)| opened(name, reason))
            .into();
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let profile = Profile::claude();
    let told = |episodes: &[Episode]| {
        let told = episodes.iter().map(|episode| {
            let context = ActionContext {
                chain: &episode.chain,
                kind: Kind::RefreshToken,
                profile: &profile,
                reason: episode.reason,
                config_dir: None,
            };
            let action = action(episode.condition, &context);
            Told { episode, provider: "p", grant: None, push: None, action }
        });
        let told: Vec<_> = told.collect();
        compose(&told, AlertState::Open, &links, at(0)).unwrap().action.unwrap()
    };
    let all = told(&episodes);
    let import = |name: &str| format!("evergrant import FILE --chain {name} --move");
    assert_eq!(all.commands, [import("a"), "evergrant status".into(), import("b")]);
    assert!(
        all.text.contains("no grant any more") && all.text.contains("Another program holds"),
        "{}",
        all.text
    );
    assert_eq!(all.text.matches("no grant any more").count(), 1);
    let many: Vec<_> = (0..20).map(|number| opened(&format!("n-{number}"), Reason::TokenAbsent)).collect();
    let many = told(&many);
    assert!(many.commands.len() <= 8 && many.text.contains("the first of them"), "{many:?}");
}

proptest! {
    /// An episode opens and closes once, in this order, and alerts tell just that.
    #[test]
    fn opening_and_closing_alternate(steps in prop::collection::vec((0_u8..4, any::<bool>(), 1_i64..400), 1..200)) {
        let conditions = [Condition::MacSilent, Condition::Failed, Condition::NotServing];
        let mut book = Book::default();
        let mut minute = 0;
        for (which, muted, pause) in steps {
            minute += pause;
            let found: Vec<_> = conditions.get(usize::from(which)).copied().into_iter().collect();
            book.look(minute, &found, muted);
            // Its condition opens at once.
            for condition in &found {
                prop_assert_eq!(book.episodes.iter().filter(|known| known.holds() && known.condition == *condition).count(), 1);
            }
            for condition in conditions {
                let open = book.episodes.iter().filter(|known| known.is_open() && known.condition == condition).count();
                prop_assert!(open <= 1);
            }
        }
        (0..2).for_each(|late| book.look(minute + 10 + late * 1000, &[], false));
        prop_assert!(book.episodes.iter().all(|episode| !episode.is_open() && !episode.owed));
        for condition in conditions {
            let said: Vec<_> = book.said.iter().filter(|said| said.1 == condition).map(|said| said.2).collect();
            let opened = said.iter().filter(|state| **state == AlertState::Open).count();
            let announced: Vec<_> = book.episodes.iter().filter(|known| known.condition == condition && known.announced_at.is_some()).collect();
            prop_assert_eq!(opened, announced.len());
            // Each that was announced, or that took the place of one that was, says that it closed, or another one took its place.
            let closed = said.iter().filter(|state| **state == AlertState::Closed).count();
            let follows = |old: &Episode, new: &Episode| on_push_track(new.condition) && new.id != old.id && Some(new.opened_at) == old.closed_at;
            let gave_way = |old: &Episode| on_push_track(old.condition) && book.episodes.iter().any(|new| follows(old, new));
            let speaks = |known: &&Episode| known.announced_at.is_some() || known.replaces.is_some();
            let of_it = book.episodes.iter().filter(|known| known.condition == condition);
            prop_assert_eq!(closed, of_it.filter(speaks).filter(|old| !gave_way(old)).count());
        }
    }
}
