//! Push events, episodes and alerts, in every state.

use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::alert::{
    Acknowledgement, Alert, AlertState, BookChange, Condition, Delivery, Episode, EpisodeId, Links, Mute,
    Reminding, Settled, Told, advance, compose,
};
use evergrant_core::audit::{Act, Actor};
use evergrant_core::event::{Event, EventKind};
use evergrant_core::health::{AgentSeen, Finding, Outcome, PushFacts, PushSeen, Span};
use evergrant_core::push::{Identity, PushKind};
use evergrant_store::HealthState;
use jiff::SignedDuration;

use super::{Two, postgres_twice};
use crate::fixture::{chain, event, second};

conformance! {
    a_track_begins_once,
    a_message_is_new_once,
    push_events_come_to_the_same_facts,
    whose_login_it_is_is_remembered,
    listening_is_spans,
    the_book_is_written_by_one_at_a_time,
    the_book_holds_what_is_open_owed_or_last,
    what_was_told_is_not_told_again,
    an_acknowledgement_and_a_mute_turn_the_page,
    deliveries_keep_their_order,
    one_holder_delivers_at_a_time,
    what_is_settled_stays_settled,
    an_attempt_counts_once,
    a_sink_may_say_anything,
    old_pushes_and_episodes_are_forgotten,
}

pub(super) fn somebody() -> Actor {
    Actor::cli("somebody")
}

fn seen(at: i64, kind: PushKind, outcome: Outcome, reason: Reason, agent: &str) -> PushSeen {
    let agent = AgentSeen {
        absence: Some(Span { from: second(at), until: second(at + 5) }),
        absence_reason: Some("away".into()),
        ..AgentSeen::new(agent, reason, second(at))
    };
    PushSeen { at: second(at), kind, outcome, reason, agent }
}

fn ledger(name: &str, at: i64) -> Event {
    event(name, at, EventKind::Beat, None)
}

pub(super) fn episode(name: &str, condition: Condition, at: i64) -> Episode {
    let finding = Finding::new(condition, None, Some(Reason::TokenAbsent));
    advance(&chain(name), &[], &[finding], Default::default(), Reminding::default(), second(at))
        .changed
        .remove(0)
}

fn alert(episode: &Episode, state: AlertState, at: i64) -> Alert {
    let links = Links { runbook: "https://docs.invalid/runbook".into(), server: "http://127.0.0.1:1".into() };
    let told = Told { episode, provider: "claude", grant: None, push: None, action: None };
    compose(&[told], state, &links, second(at)).unwrap()
}

fn closed(episode: &Episode, at: i64, owed: bool) -> Episode {
    Episode { ended_at: Some(second(at)), closed_at: Some(second(at)), owed, ..episode.clone() }
}

async fn keep<S: HealthState>(state: &S, episodes: Vec<Episode>, alerts: Vec<(Alert, Vec<String>)>) -> bool {
    let version = state.book(&[chain("claude")], second(0)).await.unwrap().version;
    state.keep_book(version, &BookChange { episodes, alerts }).await.unwrap()
}

async fn a_track_begins_once<S: HealthState>(Two { one, other, .. }: Two<S>) {
    assert_eq!(one.tracked_since(&chain("claude"), second(7)).await.unwrap(), second(7));
    assert_eq!(other.tracked_since(&chain("claude"), second(9)).await.unwrap(), second(7));
    assert_eq!(other.tracked_since(&chain("other"), second(9)).await.unwrap(), second(9));
}

async fn a_message_is_new_once<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let claude = chain("claude");
    assert!(one.take_nonce(&claude, "n1", second(10)).await.unwrap());
    assert!(!other.take_nonce(&claude, "n1", second(11)).await.unwrap());
    assert!(other.take_nonce(&claude, "n2", second(11)).await.unwrap());
    assert!(one.take_nonce(&chain("other"), "n1", second(11)).await.unwrap());
    // After an hour its clock alone refuses it.
    assert!(one.take_nonce(&claude, "n1", second(4000)).await.unwrap());
}

async fn push_events_come_to_the_same_facts<S: HealthState>(Two { one, other, .. }: Two<S>) {
    use Outcome::{Failed, Good, Neutral};
    use PushKind::{Beat, Push};
    let (same, unavailable, spent) = (Reason::SameGrant, Reason::ProbeUnavailable, Reason::GrantSpent);
    let claude = chain("claude");
    assert_eq!(one.push_facts(&claude).await.unwrap(), PushFacts::default());
    // They do not come in order.
    let events = [
        seen(30, Push, Failed, spent, "a"),
        seen(10, Beat, Good, same, "a"),
        seen(20, Push, Failed, unavailable, "b"),
        seen(20, Beat, Good, same, "a"),
        seen(40, Beat, Neutral, Reason::Refused, "b"),
        seen(35, Push, Failed, unavailable, "a"),
        seen(5, Push, Good, Reason::Accepted, "c"),
    ];
    for (index, event) in events.iter().enumerate() {
        one.add_push(event, &ledger("claude", event.at.as_second()), None).await.unwrap();
        one.add_push(event, &ledger("elsewhere", event.at.as_second()), None).await.unwrap();
        let facts = other.push_facts(&claude).await.unwrap();
        assert_eq!(facts, PushFacts::of(&events[..=index]), "after {}", index + 1);
    }
    let facts = other.push_facts(&claude).await.unwrap();
    let streak = facts.streak.unwrap();
    assert_eq!((streak.since, streak.pushes, streak.reason), (second(30), 2, unavailable));
    assert_eq!(one.events(&claude, 0, 99).await.unwrap().len(), events.len());
}

async fn whose_login_it_is_is_remembered<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let claude = chain("claude");
    assert_eq!(one.identity(&claude).await.unwrap(), None);
    let event = seen(1, PushKind::Push, Outcome::Good, Reason::Accepted, "a");
    let identity = |account: &str| Identity { account: Some(account.into()), organization: None };
    for account in ["one", "two"] {
        one.add_push(&event, &ledger("claude", 1), Some(&identity(account))).await.unwrap();
        assert_eq!(other.identity(&claude).await.unwrap(), Some(identity(account)));
    }
    one.add_push(&event, &ledger("claude", 1), None).await.unwrap();
    assert_eq!(other.identity(&claude).await.unwrap(), Some(identity("two")));
    one.keep_identity(&claude, &identity("three")).await.unwrap();
    one.keep_identity(&chain("other"), &identity("four")).await.unwrap();
    assert_eq!(other.identity(&claude).await.unwrap(), Some(identity("three")));
}

async fn listening_is_spans<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let pause = SignedDuration::from_secs(90);
    for (state, at) in
        [(&one, 0), (&other, 60), (&one, 150), (&other, 240), (&one, 331), (&other, 300), (&one, 400)]
    {
        state.listen(second(at), pause).await.unwrap();
    }
    let span = |from, until| Span { from: second(from), until: second(until) };
    assert_eq!(other.listened().await.unwrap(), [span(0, 240), span(331, 400)]);
}

async fn the_book_is_written_by_one_at_a_time<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let (first, second_one) =
        (episode("claude", Condition::Failed, 1), episode("claude", Condition::Failed, 2));
    let (book, same) = (
        one.book(&[chain("claude")], second(0)).await.unwrap(),
        other.book(&[chain("claude")], second(0)).await.unwrap(),
    );
    assert_eq!(book, same);
    let change = |episode: &Episode| BookChange {
        episodes: vec![episode.clone()],
        alerts: vec![(alert(episode, AlertState::Open, 1), vec!["chat".to_owned()])],
    };
    assert!(one.keep_book(book.version, &change(&first)).await.unwrap());
    assert!(!other.keep_book(same.version, &change(&second_one)).await.unwrap(), "it has moved on");
    assert_eq!(
        other.book(&[chain("claude")], second(0)).await.unwrap().episodes,
        std::slice::from_ref(&first)
    );
    // With the episode goes its alert, and without it none.
    let states = one.sink_states().await.unwrap();
    assert_eq!((states.len(), states[0].waiting), (1, 1));
}

async fn the_book_holds_what_is_open_owed_or_last<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let of = |condition, at| episode("claude", condition, at);
    let old = closed(&of(Condition::Failed, 1), 5, false);
    let owing = closed(&of(Condition::Stale, 2), 6, true);
    let last = closed(&of(Condition::Failed, 7), 8, false);
    let stale = closed(&of(Condition::Stale, 8), 9, false);
    let open = of(Condition::NotServing, 3);
    assert!(keep(&one, vec![old.clone(), owing.clone(), open.clone()], Vec::new()).await);
    assert!(keep(&other, vec![last.clone(), stale.clone()], Vec::new()).await);
    let book = one.book(&[chain("claude")], second(10)).await.unwrap();
    assert_eq!(book.episodes, [owing.clone(), open.clone(), last.clone(), stale.clone()]);
    assert_eq!(other.episodes(None, 2).await.unwrap(), [stale.clone(), last.clone()]);
    assert_eq!(other.episodes(Some(&chain("other")), 9).await.unwrap(), []);
    assert_eq!(other.open_episodes(None).await.unwrap(), std::slice::from_ref(&open));
    // One closes and another opens in one change.
    let again = of(Condition::NotServing, 11);
    assert!(keep(&one, vec![again.clone(), closed(&open, 11, false)], Vec::new()).await);
    let elsewhere = episode("other", Condition::Failed, 10);
    assert!(keep(&one, vec![elsewhere.clone()], Vec::new()).await);
    assert_eq!(other.open_episodes(None).await.unwrap(), [again.clone(), elsewhere.clone()]);
    assert_eq!(other.open_episodes(Some(&chain("other"))).await.unwrap(), [elsewhere]);
    assert_eq!(one.book(&[chain("claude")], second(12)).await.unwrap().episodes, [owing, last, stale, again]);
}

async fn an_acknowledgement_and_a_mute_turn_the_page<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let open = episode("claude", Condition::NotServing, 1);
    assert!(keep(&one, vec![open.clone()], Vec::new()).await);
    let version = one.book(&[chain("claude")], second(2)).await.unwrap().version;
    let ack = Acknowledgement { by: somebody(), at: second(3), until: None };
    let taken = other.acknowledge(&open.id, Some(&ack), second(3), &somebody()).await.unwrap().unwrap();
    assert_eq!(taken.acknowledged.as_ref(), Some(&ack));
    assert_eq!(
        other.acknowledge(&EpisodeId::known("none"), Some(&ack), second(3), &somebody()).await.unwrap(),
        None
    );
    other.mute(&chain("claude"), second(90), second(4), &somebody()).await.unwrap();
    assert!(!one.keep_book(version, &BookChange::default()).await.unwrap(), "it was acknowledged meanwhile");
    let book = one.book(&[chain("claude")], second(5)).await.unwrap();
    assert_eq!(book.mutes, [Mute { chain: chain("claude"), until: second(90) }]);
    assert!(book.is_muted(&chain("claude"), second(89)) && !book.is_muted(&chain("other"), second(89)));
    assert_eq!(one.book(&[chain("claude")], second(90)).await.unwrap().mutes, []);
    let cleared = one.acknowledge(&open.id, None, second(6), &somebody()).await.unwrap().unwrap();
    assert_eq!(cleared, open);
    let audit: Vec<_> = one.audit(9).await.unwrap().into_iter().map(|entry| (entry.what, entry.to)).collect();
    let acknowledged = (Act::EpisodeAcknowledged, open.id.to_string());
    assert_eq!(audit, [acknowledged.clone(), (Act::ChainMuted, "claude".into()), acknowledged]);
}

async fn what_was_told_is_not_told_again<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let open = episode("claude", Condition::NotServing, 1);
    let told = alert(&open, AlertState::Open, 1);
    for state in [&one, &other] {
        assert!(keep(state, vec![open.clone()], vec![(told.clone(), vec!["chat".into()])]).await);
    }
    let states = one.sink_states().await.unwrap();
    assert_eq!((states.len(), states[0].waiting), (1, 1));
}

/// Three alerts of one chain, all to the sink `chat`, the second one also to `mail`.
async fn three<S: HealthState>(state: &S) -> Vec<Alert> {
    let made: Vec<_> = [Condition::Failed, Condition::NotServing, Condition::ClockSkew]
        .into_iter()
        .enumerate()
        .map(|(index, condition)| {
            let open = episode("claude", condition, 10 + index as i64);
            let alert = alert(&open, AlertState::Open, 10 + index as i64);
            (open, alert)
        })
        .collect();
    for (index, (open, alert)) in made.iter().enumerate() {
        let sinks =
            if index == 1 { vec!["chat".to_owned(), "mail".to_owned()] } else { vec!["chat".to_owned()] };
        assert!(keep(state, vec![open.clone()], vec![(alert.clone(), sinks)]).await);
    }
    made.into_iter().map(|(_, alert)| alert).collect()
}

async fn claim<S: HealthState>(state: &S, sink: &str, holder: &str, at: i64) -> Option<Delivery> {
    state.claim_delivery(sink, holder, second(at), Duration::from_secs(60)).await.unwrap()
}

async fn deliveries_keep_their_order<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let alerts = three(&one).await;
    assert_eq!(claim(&other, "elsewhere", "p", 20).await, None);
    let first = claim(&other, "chat", "p", 20).await.unwrap();
    assert_eq!((&first.alert, first.attempts), (&alerts[0], 0));
    let again = Settled::Again { at: second(50), detail: "503".into() };
    other.settle_delivery(&first, "p", &again, second(21)).await.unwrap();
    // What is to be tried again holds up what is behind it, but no other sink.
    assert_eq!(claim(&one, "chat", "p", 49).await, None);
    assert_eq!(claim(&one, "mail", "p", 49).await.unwrap().alert, alerts[1]);
    let mut got = Vec::new();
    while let Some(delivery) = claim(&one, "chat", "p", 50).await {
        one.settle_delivery(&delivery, "p", &Settled::Delivered, second(51)).await.unwrap();
        got.push((delivery.alert, delivery.attempts));
    }
    assert_eq!(got, [(alerts[0].clone(), 1), (alerts[1].clone(), 0), (alerts[2].clone(), 0)]);
    let states = other.sink_states().await.unwrap();
    let chat = &states[0];
    assert_eq!((chat.sink.as_str(), chat.waiting, chat.delivered, chat.dropped), ("chat", 0, 3, 0));
    assert_eq!(chat.last_delivered_at, Some(second(51)));
    let mail = &states[1];
    assert_eq!((mail.sink.as_str(), mail.waiting, mail.waiting_since), ("mail", 1, Some(second(11))));
}

async fn one_holder_delivers_at_a_time<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let alerts = three(&one).await;
    let first = claim(&one, "chat", "p", 20).await.unwrap();
    assert_eq!(claim(&other, "chat", "q", 79).await, None);
    // Its holder may come again, and when it died somebody else.
    assert_eq!(claim(&one, "chat", "p", 30).await.unwrap(), first);
    assert_eq!(claim(&other, "chat", "q", 31).await, None);
    let over = one.claim_delivery("chat", "p", second(32), Duration::ZERO).await.unwrap();
    assert_eq!(over.as_ref(), Some(&first));
    assert_eq!(claim(&other, "chat", "q", 90).await.unwrap().alert, alerts[0]);
    other.settle_delivery(&first, "q", &Settled::Delivered, second(91)).await.unwrap();
    assert_eq!(claim(&one, "chat", "p", 92).await.unwrap().alert, alerts[1]);
}

#[tokio::test]
async fn one_holder_delivers_at_a_time_by_the_clock_of_the_database() {
    let Two { one, other, _kept } = postgres_twice().await;
    let alerts = three(&one).await;
    let first = claim(&one, "chat", "p", 20).await.unwrap();
    // Its clock is an hour ahead.
    assert_eq!(claim(&other, "chat", "q", 3620).await, None);
    one.settle_delivery(&first, "p", &Settled::Delivered, second(21)).await.unwrap();
    let next = other.claim_delivery("chat", "q", second(3621), Duration::ZERO).await.unwrap();
    assert_eq!(next.unwrap().alert, alerts[1]);
    // That one died, and nobody waits an hour.
    assert_eq!(claim(&one, "chat", "p", 22).await.unwrap().alert, alerts[1]);
}

async fn what_is_settled_stays_settled<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let alerts = three(&one).await;
    let first = claim(&one, "chat", "p", 20).await.unwrap();
    let dropped = Settled::Dropped { reason: Reason::SinkRefused, detail: "400".into() };
    one.settle_delivery(&first, "p", &dropped, second(21)).await.unwrap();
    let again = Settled::Again { at: second(22), detail: "late".into() };
    other.settle_delivery(&first, "q", &again, second(22)).await.unwrap();
    assert_eq!(claim(&one, "chat", "p", 30).await.unwrap().alert, alerts[1]);
    let states = one.sink_states().await.unwrap();
    assert_eq!((states[0].dropped, states[0].waiting), (1, 2));
    assert_eq!(states[0].last_fault.as_deref(), Some("sink_refused: 400"));
}

async fn an_attempt_counts_once<S: HealthState>(Two { one, other, .. }: Two<S>) {
    let alerts = three(&one).await;
    let first = claim(&one, "chat", "p", 20).await.unwrap();
    let again = |at| Settled::Again { at: second(at), detail: "503".into() };
    one.settle_delivery(&first, "p", &again(50), second(21)).await.unwrap();
    // Nobody heard that it was written down.
    one.settle_delivery(&first, "p", &again(50), second(21)).await.unwrap();
    let second_try = claim(&other, "chat", "q", 50).await.unwrap();
    assert_eq!((&second_try.alert, second_try.attempts), (&alerts[0], 1));
    other.settle_delivery(&second_try, "q", &again(80), second(51)).await.unwrap();
    // Whoever comes late with an attempt that is counted changes nothing, but what was taken was taken.
    one.settle_delivery(&first, "p", &again(22), second(21)).await.unwrap();
    assert_eq!(claim(&one, "chat", "p", 79).await, None);
    one.settle_delivery(&first, "p", &Settled::Delivered, second(52)).await.unwrap();
    assert_eq!(claim(&other, "chat", "q", 53).await.unwrap().alert, alerts[1]);
}

async fn a_sink_may_say_anything<S: HealthState>(Two { one, other, .. }: Two<S>) {
    three(&one).await;
    let first = claim(&one, "chat", "p", 20).await.unwrap();
    let again = Settled::Again { at: second(22), detail: "\u{1F534} nul \0, 'quotes' and \u{FFFF}".into() };
    other.settle_delivery(&first, "p", &again, second(21)).await.unwrap();
    let fault = one.sink_states().await.unwrap().remove(0).last_fault.unwrap();
    assert!(fault.starts_with("\u{1F534} nul ") && fault.ends_with(", 'quotes' and \u{FFFF}"), "{fault:?}");
}

async fn old_pushes_and_episodes_are_forgotten<S: HealthState>(Two { one, other, .. }: Two<S>) {
    for at in [10, 1000] {
        let event = seen(at, PushKind::Beat, Outcome::Good, Reason::SameGrant, "a");
        one.add_push(&event, &ledger("claude", at), None).await.unwrap();
        one.listen(second(at), SignedDuration::from_secs(9)).await.unwrap();
    }
    let done = closed(&episode("claude", Condition::Failed, 10), 20, false);
    let owing = closed(&episode("claude", Condition::Stale, 10), 20, true);
    let open = episode("claude", Condition::NotServing, 10);
    let told = alert(&done, AlertState::Closed, 20);
    keep(&one, vec![done, owing.clone(), open.clone()], vec![(told, vec!["chat".into()])]).await;
    other.prune(second(500), second(0)).await.unwrap();
    assert_eq!(one.push_facts(&chain("claude")).await.unwrap().events, 1);
    assert_eq!(one.listened().await.unwrap(), [Span { from: second(1000), until: second(1000) }]);
    let left: Vec<_> = one.episodes(None, 9).await.unwrap().into_iter().map(|episode| episode.id).collect();
    assert_eq!(left, [owing.id, open.id]);
}
