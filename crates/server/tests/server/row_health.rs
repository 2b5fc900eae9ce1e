//! The health of the chains of a database vault that no section names: looked at when something may have changed, by one
//! of several replicas.

use std::sync::Arc;

use evergrant_core::alert::{Alert, AlertState, Condition, Links, Reminding};
use evergrant_core::event::{Event, EventKind};
use evergrant_core::{ChainName, Reason};
use evergrant_server::World as _;
use evergrant_server::health::{Alerting, EpisodeKeeper};
use evergrant_server::rows::{RowMonitor, RowWatch};
use evergrant_standin::{Fault, FaultTarget};
use evergrant_store::{HealthState as _, State as _, VaultState as _};
use jiff::SignedDuration;

use super::rows::{LIFE, Replica, ReplicaWorld, Rig, chain, state};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn monitor(replica: &Replica) -> RowMonitor<ReplicaWorld> {
    let links = Links { runbook: "https://r.invalid".into(), server: "https://s.invalid".into() };
    let sinks = Arc::new(|_: &Alert| vec!["chat".to_owned()]);
    let alerting = Alerting { links, reminding: Reminding::default(), sinks };
    let episodes = EpisodeKeeper::new(replica.world.clone(), alerting);
    let watches = |name: &ChainName| name.as_str().starts_with("chain-").then(RowWatch::default);
    RowMonitor::new(replica.keeper.clone(), Arc::new(watches), episodes)
}

/// What all monitors say in one round, and how many chains they looked at.
async fn round(monitors: &[&RowMonitor<ReplicaWorld>]) -> (usize, Vec<Alert>) {
    let (mut looked_at, mut alerts) = (0, Vec::new());
    for monitor in monitors {
        let ticked = monitor.tick().await.unwrap();
        looked_at += ticked.looked_at;
        alerts.extend(ticked.alerts);
    }
    (looked_at, alerts)
}

fn said(alerts: &[Alert]) -> Vec<(Condition, AlertState)> {
    alerts.iter().map(|alert| (alert.condition, alert.state)).collect()
}

/// The next renewal of a chain is refused for good.
async fn dies(rig: &Rig, replica: &Replica, number: usize) {
    rig.standin.engine().push_fault(FaultTarget::Token, Fault::named("invalid_grant_400").unwrap(), 1);
    assert_eq!(replica.force(number).await.error, Some(Reason::RefreshTokenRevoked));
}

#[tokio::test]
async fn chains_that_are_well_are_looked_at_once_in_the_life_of_a_token() {
    let rig = Rig::new().await;
    let (one, other) = (rig.replica("one"), rig.replica("other"));
    let (first, second) = (monitor(&one), monitor(&other));
    for number in 0..5 {
        one.import(number, rig.grant()).await;
    }
    assert_eq!(round(&[&first, &second]).await, (5, vec![]), "each by one of them");
    let mut looks = 0;
    for _ in 0..60 {
        rig.pass(MINUTE * 2);
        one.keeper.tick().await.unwrap();
        let (looked_at, alerts) = round(&[&first, &second]).await;
        looks += looked_at;
        assert_eq!(alerts, []);
    }
    // Two hours are two lives.
    assert_eq!(looks, 10);
    assert!(rig.exchanges() >= 10);
}

#[tokio::test]
async fn a_dead_grant_is_told_once_with_what_to_do_and_its_end_too() {
    let rig = Rig::new().await;
    let (one, other) = (rig.replica("one"), rig.replica("other"));
    let (first, second) = (monitor(&one), monitor(&other));
    one.import(0, rig.grant()).await;
    assert_eq!(round(&[&first, &second]).await.1, []);
    dies(&rig, &one, 0).await;
    let (looked_at, alerts) = round(&[&second, &first]).await;
    assert_eq!((looked_at, said(&alerts)), (1, vec![(Condition::ReauthRequired, AlertState::Open)]));
    assert!(alerts[0].action.as_ref().is_some_and(|action| !action.commands.is_empty()));
    assert!(alerts[0].evidence.iter().any(|fact| fact.label == "Grant"), "{:?}", alerts[0].evidence);
    // It is in the outbox of everybody, once.
    assert_eq!(rig.state.sink_states().await.unwrap()[0].waiting, 1);
    for _ in 0..5 {
        rig.pass(MINUTE);
        assert_eq!(round(&[&first, &second]).await.1, []);
    }
    one.import(0, rig.grant()).await;
    assert_eq!(round(&[&first, &second]).await, (1, vec![]), "its episode waits for the end of the hold");
    let mut closed = Vec::new();
    for _ in 0..7 {
        rig.pass(MINUTE);
        closed.extend(round(&[&first, &second]).await.1);
    }
    assert_eq!(said(&closed), [(Condition::ReauthRequired, AlertState::Closed)]);
    assert_eq!(closed[0].status, "recovered");
    rig.pass(MINUTE);
    assert_eq!(round(&[&first, &second]).await.0, 0, "and then nobody looks any more");
}

#[tokio::test]
async fn a_chain_that_a_restored_database_has_lost_is_told_of_until_it_comes_in_again() {
    let rig = Rig::new().await;
    let one = rig.replica("one");
    one.import(0, rig.grant()).await;
    one.import(1, rig.grant()).await;
    // Neither was there when the backup was made, and the first was brought in again since.
    let rig = Rig { state: state(rig.later_secs.clone()), ..rig };
    let one = rig.replica_on("one", one.folder, rig.state.clone());
    one.import(0, rig.grant()).await;
    let watching = monitor(&one);
    assert_eq!(round(&[&watching]).await, (1, vec![]));
    for _ in 0..2 {
        one.keeper.compare_all().await.unwrap();
    }
    let (looked_at, alerts) = round(&[&watching]).await;
    let open = |condition| (condition, AlertState::Open);
    assert_eq!(
        (looked_at, said(&alerts)),
        (1, [Condition::NotServing, Condition::RenewalFailing].map(open).into())
    );
    let commands = alerts.iter().flat_map(|alert| &alert.action).flat_map(|action| &action.commands);
    assert!(commands.into_iter().any(|command| command == "evergrant import FILE --chain chain-1 --move"));
    one.import(1, rig.grant()).await;
    assert_eq!(round(&[&watching]).await.0, 1, "it is looked at at once");
    let mut closed = Vec::new();
    for _ in 0..7 {
        rig.pass(MINUTE);
        closed.extend(round(&[&watching]).await.1);
    }
    assert!(closed.iter().all(|alert| alert.state == AlertState::Closed), "{closed:?}");
    assert_eq!(closed.len(), 2);
    rig.assert_alive(1).await;
}

#[tokio::test]
async fn what_dies_together_is_told_together_and_what_follows_soon_after() {
    let rig = Rig::new().await;
    let replica = rig.replica("one");
    let monitor = monitor(&replica);
    for number in 0..30 {
        replica.import(number, rig.grant()).await;
    }
    monitor.tick().await.unwrap();
    for number in 0..25 {
        dies(&rig, &replica, number).await;
    }
    let (_, alerts) = round(&[&monitor]).await;
    assert_eq!((alerts.len(), alerts[0].concerned.len()), (1, 25));
    assert!(alerts[0].summary.starts_with("25 chains (chain-0, "), "{}", alerts[0].summary);
    assert!(alerts[0].summary.contains("and 5 more"), "{}", alerts[0].summary);
    rig.pass(MINUTE);
    for number in 25..30 {
        dies(&rig, &replica, number).await;
        assert_eq!(round(&[&monitor]).await.1, [], "it is told with those that follow");
    }
    let mut later = Vec::new();
    for _ in 0..10 {
        rig.pass(MINUTE);
        later.extend(round(&[&monitor]).await.1);
    }
    assert_eq!((later.len(), later[0].concerned.len()), (1, 5));
}

#[tokio::test]
async fn what_only_time_brings_is_seen_in_its_time() {
    let rig = Rig::new().await;
    let replica = rig.replica("one");
    let monitor = monitor(&replica);
    replica.import(0, rig.grant()).await;
    monitor.tick().await.unwrap();
    // Nobody renews it.
    rig.pass(LIFE - MINUTE);
    assert_eq!(round(&[&monitor]).await.0, 0);
    rig.pass(MINUTE * 2);
    assert_eq!(said(&round(&[&monitor]).await.1), [(Condition::NotServing, AlertState::Open)]);
}

#[tokio::test]
async fn what_the_gateway_hears_and_a_seal_that_does_not_open_are_seen_at_once() {
    let rig = Rig::new().await;
    let replica = rig.replica("one");
    let monitor = monitor(&replica);
    replica.import(0, rig.grant()).await;
    replica.import(1, rig.grant()).await;
    monitor.tick().await.unwrap();
    let position = rig.row(0).await.record.position();
    let note = evergrant_server::gateway::note_grant_refused(replica.world.clone(), chain(0));
    note(position).await;
    assert_eq!(said(&round(&[&monitor]).await.1), [(Condition::GrantRefused, AlertState::Open)]);
    // What was said of the grant before says nothing of the next one.
    replica.import(0, rig.grant()).await;
    assert_eq!(round(&[&monitor]).await.1, []);
    rig.pass(MINUTE * 6);
    assert_eq!(said(&round(&[&monitor]).await.1), [(Condition::GrantRefused, AlertState::Closed)]);
    // The pair of another row in its place.
    let (row, foreign) = (rig.row(1).await, rig.row(0).await.sealed);
    assert!(rig.state.reseal(&chain(1), &row.sealed, &foreign).await.unwrap());
    assert_eq!(replica.force(1).await.error, Some(Reason::SealBroken));
    let alerts = round(&[&monitor]).await.1;
    let expected = [Condition::NotServing, Condition::RenewalFailing].map(|one| (one, AlertState::Open));
    assert_eq!(said(&alerts), expected);
    assert!(alerts.iter().all(|alert| alert.concerned[0].chain == chain(1)), "{alerts:?}");
}

#[tokio::test]
async fn a_chain_that_is_not_watched_here_is_left_alone() {
    let rig = Rig::new().await;
    let replica = rig.replica("one");
    let named: ChainName = "named".parse().unwrap();
    let monitor = monitor(&replica);
    replica.keeper.import(&named, rig.grant()).await;
    let ticked = monitor.tick().await.unwrap();
    assert_eq!((ticked.looked_at, ticked.alerts), (1, vec![]));
    let at = replica.world.now();
    let record = rig.state.row(&named).await.unwrap().unwrap().record;
    let (kind, reason, attempt) = (EventKind::Found, Reason::GrantRefused, None);
    let (lineage, generation) = record.position();
    let detail = serde_json::json!({});
    let event = Event { chain: named.clone(), at, kind, reason, lineage, generation, attempt, detail };
    rig.state.add_events(&[event]).await.unwrap();
    rig.pass(MINUTE);
    assert_eq!(round(&[&monitor]).await, (0, vec![]));
}
