//! Rows of a database vault: claims, intents, commits and what followers see of them.

use std::collections::BTreeMap;
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::alert::{BookChange, Condition};
use evergrant_core::chain::{AttemptId, Intent, Mark, Record, Standing};
use evergrant_core::event::EventKind::{Committed, Intended};
use evergrant_core::grant::PairId;
use evergrant_core::secret::Fingerprint;
use evergrant_store::HealthState;
use evergrant_store::seal::Sealed;
use evergrant_store::vault::{
    Claim, Claimed, HealthClaim, HealthLooked, Holder, LATEST, NewRow, NextRow, Row, VaultState,
};
use jiff::Timestamp;

use super::health::{episode, somebody};
use super::{Kept, Two};
use crate::fixture::{chain, event, second};

macro_rules! conformance_of_vaults {
    ($($behaviour:ident),+ $(,)?) => {
        mod in_memory {
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(super::memory()).await })+
        }
        mod in_postgres {
            use crate::conformance::postgres;
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(postgres().await).await })+
        }
        mod in_postgres_opened_twice {
            use crate::conformance::postgres_twice;
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(postgres_twice().await).await })+
        }
    };
}

conformance_of_vaults! {
    a_row_comes_back_as_it_was,
    only_the_first_taking_in_makes_a_row,
    a_login_during_an_exchange_leaves_the_lease,
    a_login_behind_a_lease_is_due_as_it_says,
    a_look_behind_a_login_writes_nothing,
    a_spent_pair_is_remembered_beside_a_row,
    what_is_due_is_claimed_once,
    a_claimed_row_is_free_again_when_its_lease_ends,
    an_intent_needs_the_lease,
    a_commit_needs_the_attempt_and_no_lease,
    a_settlement_needs_the_attempt,
    a_doubt_needs_the_claim,
    what_a_machine_left_open_is_its_own_to_claim,
    events_and_replaced_pairs_come_with_the_row,
    followers_see_every_change,
    a_cursor_of_the_future_begins_anew,
    a_seal_is_replaced_only_where_it_is_as_it_was,
    many_rows_are_made_at_once,
    claims_at_once_share_nothing,
    health_is_looked_at_when_it_was_said,
    trouble_is_looked_at_at_once,
    what_is_written_during_a_look_is_looked_at_again,
    a_look_at_health_ends_with_its_lease,
    a_mute_and_an_acknowledgement_let_health_be_looked_at,
    the_latest_events_of_some_chains_are_read_at_once,
    intents_are_held_as_long_as_somebody_compares,
    rows_that_stand_before_marks_are_named,
    a_pair_that_is_spent_is_not_taken_in,
    a_chain_that_the_database_never_heard_of_is_missed_once,
}

fn memory() -> Two<evergrant_store::MemoryState> {
    let one = evergrant_store::MemoryState::with_clock(now);
    Two { other: one.clone(), one, _kept: Kept::Nothing }
}

#[expect(clippy::disallowed_methods, reason = "leases are timed by the real clock here, as PostgreSQL does")]
fn now() -> Timestamp {
    Timestamp::now()
}

const LEASE: Duration = Duration::from_secs(60);
/// A lease that has ended at once.
const NONE: Duration = Duration::ZERO;

fn holder(process: &str) -> Holder {
    Holder { process: process.into(), machine: format!("machine of {process}") }
}

fn record(name: &str, generation: u64, attempt: u64) -> Record {
    Record {
        last_attempt: AttemptId(attempt),
        standing: Standing::Live,
        access_refused: false,
        ..crate::fixture::record(name, 1, generation)
    }
}

fn intended(name: &str, generation: u64, attempt: u64, machine: &str) -> Record {
    let record = record(name, generation, attempt);
    let intent = Intent {
        attempt: AttemptId(attempt),
        lineage: record.lineage,
        generation: record.generation,
        presented: record.pair,
        sent_at: second(1),
        deadline: second(31),
        machine: machine.into(),
    };
    Record { intent: Some(intent), ..record }
}

fn next<'a>(record: &'a Record, sealed: Option<&'a Sealed>, wakes_at: Option<Timestamp>) -> NextRow<'a> {
    NextRow { record, sealed, replaced: &[], events: &[], wakes_at }
}

fn sealed(of: &str) -> Sealed {
    Sealed(format!("sealed {of}").into_bytes())
}

/// A chain at generation 1 that is due since the epoch.
async fn due<S: VaultState>(state: &S, name: &str) {
    let record = record(name, 1, 0);
    assert!(state.take_in(None, next(&record, Some(&sealed(name)), Some(second(1)))).await.unwrap());
}

async fn ours<S: VaultState>(state: &S, name: &str, process: &str, lease: Duration) -> Claim {
    match state.claim(&chain(name), &holder(process), lease).await.unwrap() {
        Claimed::Ours(claim) => *claim,
        other @ (Claimed::Held(_) | Claimed::Unknown) => panic!("{other:?}"),
    }
}

async fn a_row_comes_back_as_it_was<S: VaultState>(Two { one, other, .. }: Two<S>) {
    assert_eq!(one.row(&chain("a")).await.unwrap(), None);
    assert_eq!(one.claim(&chain("a"), &holder("p"), LEASE).await.unwrap(), Claimed::Unknown);
    for name in ["c", "a", "b-2", "b_1"] {
        due(&one, name).await;
    }
    let row = other.row(&chain("a")).await.unwrap().unwrap();
    assert_eq!((row.record, row.sealed), (record("a", 1, 0), sealed("a")));
    let names =
        |rows: Vec<Row>| rows.into_iter().map(|row| row.record.chain.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(other.rows_after(None, 3).await.unwrap()), ["a", "b-2", "b_1"]);
    assert_eq!(names(other.rows_after(Some(&chain("b_1")), 3).await.unwrap()), ["c"]);
}

async fn only_the_first_taking_in_makes_a_row<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let second_login = record("a", 1, 0);
    assert!(!other.take_in(None, next(&second_login, Some(&sealed("x")), None)).await.unwrap());
    let at = second_login.mark();
    let behind = Mark { attempt: AttemptId(7), ..at };
    let third = Record { lineage: at.lineage.next(), ..record("a", 1, 0) };
    assert!(!other.take_in(Some(behind), next(&third, Some(&sealed("y")), None)).await.unwrap());
    assert_eq!(one.row(&chain("a")).await.unwrap().unwrap().sealed, sealed("a"));
    // A login wins over whoever holds the lease.
    let claim = ours(&one, "a", "p", LEASE).await;
    assert!(other.take_in(Some(at), next(&third, Some(&sealed("y")), None)).await.unwrap());
    assert_eq!(one.row(&chain("a")).await.unwrap().unwrap().record, third);
    let late = intended("a", 1, 1, "m");
    assert!(!one.begin_rotation(&claim, next(&late, None, None), LEASE).await.unwrap());
}

/// A login wins while a token is on its way, too; but until its sender gives up or its lease ends, nobody sends another.
async fn a_login_during_an_exchange_leaves_the_lease<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let claim = ours(&one, "a", "p", LEASE).await;
    let sent = intended("a", 1, 1, "m");
    assert!(one.begin_rotation(&claim, next(&sent, None, None), LEASE).await.unwrap());
    let mut login = sent.clone();
    for _ in 0..2 {
        let before = login.mark();
        login = Record { lineage: login.lineage.next(), ..record("a", 1, 1) };
        assert!(
            other.take_in(Some(before), next(&login, Some(&sealed("y")), Some(second(1)))).await.unwrap()
        );
        assert_eq!(one.row(&chain("a")).await.unwrap().unwrap().record, login);
        let again = other.claim(&chain("a"), &holder("q"), LEASE).await.unwrap();
        assert!(matches!(again, Claimed::Held(_)), "{again:?}");
        assert!(other.claim_due(&holder("q"), LEASE, 9).await.unwrap().is_empty());
    }
    one.release(&Claim { row: Row { record: sent, ..claim.row }, ..claim }, None).await.unwrap();
    assert_eq!(other.claim_due(&holder("q"), LEASE, 9).await.unwrap().len(), 1);
}

async fn a_login_behind_a_lease_is_due_as_it_says<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let sent = intended("a", 1, 1, "m");
    let claim = ours(&one, "a", "p", LEASE).await;
    assert!(one.begin_rotation(&claim, next(&sent, None, None), NONE).await.unwrap());
    let login = Record { lineage: sent.lineage.next(), ..record("a", 1, 1) };
    let in_a_year = Some(now() + Duration::from_secs(365 * 86_400));
    assert!(other.take_in(Some(sent.mark()), next(&login, Some(&sealed("y")), in_a_year)).await.unwrap());
    assert!(other.claim_due(&holder("q"), LEASE, 9).await.unwrap().is_empty());
    ours(&other, "a", "q", LEASE).await;
}

/// A login that comes while a row is looked at wins over what was found of it, and is looked at itself.
async fn a_look_behind_a_login_writes_nothing<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let sent = intended("a", 1, 1, "m");
    let claim = ours(&one, "a", "p", LEASE).await;
    assert!(one.begin_rotation(&claim, next(&sent, None, None), NONE).await.unwrap());
    // Its sender is gone; somebody else looks.
    let look = ours(&other, "a", "q", LEASE).await;
    let login = Record { lineage: sent.lineage.next(), ..record("a", 1, 1) };
    assert!(one.take_in(Some(sent.mark()), next(&login, Some(&sealed("y")), None)).await.unwrap());
    let again = intended("a", 1, 2, "n");
    assert!(!other.begin_rotation(&look, next(&again, None, None), LEASE).await.unwrap());
    assert!(!other.doubt_rotation(&look, next(&record("a", 1, 1), None, None)).await.unwrap());
    other.release(&look, None).await.unwrap();
    assert_eq!(one.row(&chain("a")).await.unwrap().unwrap().record, login);
    assert_eq!(one.claim_due(&holder("p"), LEASE, 9).await.unwrap().len(), 1, "it is looked at at once");
}

/// An answer that comes too late says so of a pair, and nothing of the row that others are sending from.
async fn a_spent_pair_is_remembered_beside_a_row<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let claim = ours(&one, "a", "p", LEASE).await;
    let sent = intended("a", 1, 1, "m");
    assert!(one.begin_rotation(&claim, next(&sent, None, None), LEASE).await.unwrap());
    let spent = Fingerprint::of(b"an older pair");
    for at in [second(1), second(2)] {
        other.add_replaced(&chain("a"), spent, at).await.unwrap();
    }
    assert!(one.was_replaced(&chain("a"), spent).await.unwrap());
    assert!(!one.was_replaced(&chain("b"), spent).await.unwrap());
    assert_eq!(one.row(&chain("a")).await.unwrap().unwrap().record, sent);
    let again = other.claim(&chain("a"), &holder("q"), LEASE).await.unwrap();
    assert!(matches!(again, Claimed::Held(_)), "{again:?}");
    // It has been so since the first time.
    other.prune(second(0), second(2)).await.unwrap();
    assert!(!one.was_replaced(&chain("a"), spent).await.unwrap());
}

async fn what_is_due_is_claimed_once<S: VaultState>(Two { one, other, .. }: Two<S>) {
    for (name, wakes_at) in
        [("third", Some(second(3))), ("first", Some(second(1))), ("second", Some(second(2))), ("never", None)]
    {
        let record = record(name, 1, 0);
        assert!(one.take_in(None, next(&record, Some(&sealed(name)), wakes_at)).await.unwrap());
    }
    let later = record("later", 1, 0);
    let in_an_hour = Some(now() + Duration::from_secs(3600));
    assert!(one.take_in(None, next(&later, Some(&sealed("later")), in_an_hour)).await.unwrap());
    let names = |claims: &[Claim]| {
        let mut names: Vec<_> =
            claims.iter().map(|claim| claim.row.record.chain.as_str().to_owned()).collect();
        names.sort();
        names
    };
    let claims = one.claim_due(&holder("p"), LEASE, 2).await.unwrap();
    assert_eq!(names(&claims), ["first", "second"], "the longest due go first");
    assert_eq!(claims[0].row.epoch.0, 1);
    let claims = other.claim_due(&holder("q"), LEASE, 9).await.unwrap();
    assert_eq!(names(&claims), ["third"]);
    assert_eq!(one.claim_due(&holder("p"), LEASE, 9).await.unwrap(), []);
    // Given back, it is due when that was said, but not at once: whose clock is behind would claim it again and again.
    other.release(&claims[0], Some(second(3))).await.unwrap();
    let mut due = one.claim_due(&holder("p"), LEASE, 9).await.unwrap();
    assert_eq!(due, []);
    let given_back = now();
    while due.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        due = one.claim_due(&holder("p"), LEASE, 9).await.unwrap();
    }
    assert_eq!(names(&due), ["third"]);
    assert!(now().duration_since(given_back).as_millis() > 900);
    other.release(&claims[0], Some(second(3))).await.unwrap();
    assert_eq!(
        other.claim_due(&holder("q"), LEASE, 9).await.unwrap(),
        [],
        "it is not the first holder's any more"
    );
}

async fn a_claimed_row_is_free_again_when_its_lease_ends<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let first = ours(&one, "a", "p", LEASE).await;
    match other.claim(&chain("a"), &holder("q"), LEASE).await.unwrap() {
        Claimed::Held(row) => assert_eq!(row.record, record("a", 1, 0)),
        held @ (Claimed::Ours(_) | Claimed::Unknown) => panic!("{held:?}"),
    }
    one.release(&first, None).await.unwrap();
    let second_claim = ours(&other, "a", "q", NONE).await;
    assert_eq!(second_claim.row.epoch.0, 2);
    // Its lease has ended: it is due for everybody, even if it would have slept.
    let third = one.claim_due(&holder("p"), LEASE, 9).await.unwrap();
    assert_eq!((third.len(), third[0].row.epoch.0), (1, 3));
}

async fn an_intent_needs_the_lease<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let stale = ours(&one, "a", "p", NONE).await;
    let claim = ours(&other, "a", "q", LEASE).await;
    let intent = intended("a", 1, 1, "machine of q");
    assert!(!one.begin_rotation(&stale, next(&intent, None, None), LEASE).await.unwrap());
    // Neither by a name that is right with an epoch that is not.
    let mixed = Claim { process: "q".into(), ..stale };
    assert!(!one.begin_rotation(&mixed, next(&intent, None, None), LEASE).await.unwrap());
    assert!(other.begin_rotation(&claim, next(&intent, None, None), LEASE).await.unwrap());
    let row = one.row(&chain("a")).await.unwrap().unwrap();
    assert_eq!((&row.record, &row.sealed), (&intent, &sealed("a")), "the pair is as it was");
    assert!(matches!(one.claim(&chain("a"), &holder("p"), LEASE).await.unwrap(), Claimed::Held(_)));
    assert_eq!(one.claim_due(&holder("p"), LEASE, 9).await.unwrap(), []);
}

async fn a_commit_needs_the_attempt_and_no_lease<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let claim = ours(&one, "a", "p", NONE).await;
    let intent = intended("a", 1, 1, "m");
    assert!(one.begin_rotation(&claim, next(&intent, None, None), NONE).await.unwrap());
    // Somebody has taken over; the answer comes late.
    ours(&other, "a", "q", LEASE).await;
    let committed = record("a", 2, 1);
    let new = sealed("a, generation 2");
    assert!(one.settle_rotation(intent.mark(), next(&committed, Some(&new), None)).await.unwrap());
    let row = other.row(&chain("a")).await.unwrap().unwrap();
    assert_eq!((&row.record, &row.sealed), (&committed, &new));
    // Twice is once.
    assert!(!one.settle_rotation(intent.mark(), next(&committed, Some(&new), None)).await.unwrap());
    // The lease has ended with it.
    ours(&one, "a", "p", LEASE).await;
}

async fn a_settlement_needs_the_attempt<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let claim = ours(&one, "a", "p", NONE).await;
    let first = intended("a", 1, 1, "m");
    assert!(one.begin_rotation(&claim, next(&first, None, None), NONE).await.unwrap());
    let claim = ours(&other, "a", "q", NONE).await;
    let second_intent = intended("a", 1, 2, "n");
    assert!(other.begin_rotation(&claim, next(&second_intent, None, None), LEASE).await.unwrap());
    let settled = record("a", 1, 1);
    assert!(!one.settle_rotation(first.mark(), next(&settled, None, None)).await.unwrap());
    // Not even with a pair: the other attempt may be about to present the one that is there.
    let (committed, new) = (record("a", 2, 1), sealed("new"));
    assert!(!one.settle_rotation(first.mark(), next(&committed, Some(&new), None)).await.unwrap());
    let settled = record("a", 1, 2);
    assert!(
        other.settle_rotation(second_intent.mark(), next(&settled, None, Some(second(5)))).await.unwrap()
    );
    assert_eq!(one.row(&chain("a")).await.unwrap().unwrap().record, settled);
    assert_eq!(one.claim_due(&holder("p"), LEASE, 9).await.unwrap().len(), 1);
}

async fn a_doubt_needs_the_claim<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let claim = ours(&one, "a", "p", LEASE).await;
    let intent = intended("a", 1, 1, "m");
    assert!(one.begin_rotation(&claim, next(&intent, None, None), NONE).await.unwrap());
    let taken_over = ours(&other, "a", "q", LEASE).await;
    let refused = Standing::Refused { reason: Reason::RefreshTokenRevoked, at: second(5), confirmed: true };
    let (settled, doubted) = (Record { standing: refused, ..record("a", 1, 1) }, record("a", 1, 1));
    assert!(!one.doubt_rotation(&claim, next(&doubted, None, None)).await.unwrap(), "it was taken over");
    // The answer came after all, and whoever is about to say that it did not has read the row before.
    assert!(one.settle_rotation(intent.mark(), next(&settled, None, None)).await.unwrap());
    assert!(!other.doubt_rotation(&taken_over, next(&doubted, None, None)).await.unwrap());
    assert_eq!(one.row(&chain("a")).await.unwrap().unwrap().record, settled);
    let claim = ours(&one, "a", "p", LEASE).await;
    assert!(one.doubt_rotation(&claim, next(&doubted, None, None)).await.unwrap());
    assert!(matches!(other.claim(&chain("a"), &holder("q"), LEASE).await.unwrap(), Claimed::Ours(_)));
}

async fn what_a_machine_left_open_is_its_own_to_claim<S: VaultState>(Two { one, other, .. }: Two<S>) {
    for (name, lease) in
        [("open", NONE), ("under way", LEASE)].map(|(name, lease)| (name.replace(' ', "-"), lease))
    {
        due(&one, &name).await;
        let claim = ours(&one, &name, "p", LEASE).await;
        let intent = intended(&name, 1, 1, "machine of p");
        assert!(one.begin_rotation(&claim, next(&intent, None, None), lease).await.unwrap());
    }
    assert_eq!(other.claim_left_open(&holder("q"), LEASE, 9).await.unwrap(), []);
    let after = Holder { process: "p, started again".into(), machine: "machine of p".into() };
    let [claim] = other.claim_left_open(&after, LEASE, 9).await.unwrap().try_into().unwrap();
    assert_eq!(claim.row.record.chain, chain("open"));
    assert_eq!(other.claim_left_open(&after, LEASE, 9).await.unwrap(), []);
}

async fn events_and_replaced_pairs_come_with_the_row<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let claim = ours(&one, "a", "p", LEASE).await;
    let intent = intended("a", 1, 1, "m");
    let told = [event("a", 1, Intended, Some(1))];
    let begun = NextRow { events: &told, ..next(&intent, None, None) };
    assert!(one.begin_rotation(&claim, begun, LEASE).await.unwrap());
    let (old, older) = (Fingerprint::of(b"old"), Fingerprint::of(b"older"));
    let told = [event("a", 2, Committed, Some(1))];
    let replaced = [(old, second(1)), (older, second(2))];
    let committed = record("a", 2, 1);
    let new = sealed("new");
    let commit = NextRow { events: &told, replaced: &replaced, ..next(&committed, Some(&new), None) };
    assert!(one.settle_rotation(intent.mark(), commit).await.unwrap());
    // What is refused leaves nothing behind.
    let spurious = Fingerprint::of(b"spurious");
    let (told, replaced) = ([event("a", 3, Committed, Some(2))], [(spurious, second(1))]);
    let late = NextRow { events: &told, replaced: &replaced, ..next(&committed, Some(&new), None) };
    assert!(!one.settle_rotation(intent.mark(), late).await.unwrap());
    let events = other.events(&chain("a"), 0, 9).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|numbered| numbered.event.kind).collect();
    assert_eq!(kinds, [Intended, Committed]);
    for (fingerprint, known) in [(old, true), (older, true), (spurious, false)] {
        assert_eq!(other.was_replaced(&chain("a"), fingerprint).await.unwrap(), known);
    }
}

/// Reads all that changed since `cursor`, page by page.
async fn read_on<S: VaultState>(
    state: &S,
    cursor: &mut evergrant_store::vault::ChangesCursor,
    seen: &mut BTreeMap<String, Mark>,
) {
    loop {
        let changes = state.changes(Some(*cursor), 50).await.unwrap();
        assert!(!changes.begins_anew);
        seen.extend(changes.rows.iter().map(|(chain, mark)| (chain.as_str().to_owned(), *mark)));
        *cursor = changes.cursor;
        if !changes.more {
            return;
        }
    }
}

async fn followers_see_every_change<S: VaultState>(Two { one, other, .. }: Two<S>) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 20;
    let mut cursor = other.changes(None, 50).await.unwrap().cursor;
    let mut seen = BTreeMap::new();
    let write = |writer: u64| {
        let state = if writer.is_multiple_of(2) { one.clone() } else { other.clone() };
        async move {
            let name = format!("chain-{writer}");
            due(&state, &name).await;
            for generation in 1..ROUNDS {
                let committed = record(&name, generation + 1, generation);
                let before = record(&name, generation, generation - 1).mark();
                let new = sealed(&name);
                assert!(state.settle_rotation(before, next(&committed, Some(&new), None)).await.unwrap());
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(writer))).collect();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        read_on(&other, &mut cursor, &mut seen).await;
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.unwrap();
    }
    read_on(&other, &mut cursor, &mut seen).await;
    for writer in 0..WRITERS {
        let mark = seen[&format!("chain-{writer}")];
        assert_eq!(mark.generation.0, ROUNDS, "the last change of chain-{writer} was passed over");
    }
}

async fn a_cursor_of_the_future_begins_anew<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let future = evergrant_store::vault::ChangesCursor(u64::from(u32::MAX) * 1000);
    let changes = other.changes(Some(future), 50).await.unwrap();
    assert!(changes.begins_anew && changes.cursor < future, "{changes:?}");
    let changes = other.changes(Some(changes.cursor), 50).await.unwrap();
    assert!(!changes.begins_anew);
}

async fn a_seal_is_replaced_only_where_it_is_as_it_was<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let (old, new) = (sealed("a"), sealed("a, anew"));
    assert!(!one.reseal(&chain("a"), &sealed("b"), &new).await.unwrap());
    assert!(one.reseal(&chain("a"), &old, &new).await.unwrap());
    assert_eq!(other.row(&chain("a")).await.unwrap().unwrap().sealed, new);
    assert!(!other.reseal(&chain("a"), &old, &new).await.unwrap());
}

async fn many_rows_are_made_at_once<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "chain-7").await;
    let new = |number: u64| {
        let name = format!("chain-{number}");
        NewRow { record: record(&name, 3, 2), sealed: sealed(&name), wakes_at: Some(second(1)) }
    };
    let rows: Vec<_> = (0..100).map(new).collect();
    assert_eq!(one.take_in_new(&rows).await.unwrap(), 99);
    assert_eq!(one.take_in_new(&rows).await.unwrap(), 0);
    assert_eq!(other.row(&chain("chain-7")).await.unwrap().unwrap().record, record("chain-7", 1, 0));
    assert_eq!(other.row(&chain("chain-99")).await.unwrap().unwrap().record, rows[99].record);
    assert_eq!(other.claim_due(&holder("p"), LEASE, 1000).await.unwrap().len(), 100);
}

async fn claims_at_once_share_nothing<S: VaultState>(Two { one, other, .. }: Two<S>) {
    let rows: Vec<_> = (0..200)
        .map(|number| {
            let name = format!("chain-{number}");
            NewRow { record: record(&name, 1, 0), sealed: sealed(&name), wakes_at: Some(second(1)) }
        })
        .collect();
    one.take_in_new(&rows).await.unwrap();
    let claim = |number: usize| {
        let state = if number.is_multiple_of(2) { one.clone() } else { other.clone() };
        async move {
            let mut mine = Vec::new();
            loop {
                let claims = state.claim_due(&holder(&format!("p{number}")), LEASE, 7).await.unwrap();
                if claims.is_empty() {
                    return mine;
                }
                mine.extend(claims.into_iter().map(|claim| claim.row.record.chain));
            }
        }
    };
    let claimers: Vec<_> = (0..6).map(|number| tokio::spawn(claim(number))).collect();
    let mut all = Vec::new();
    for claimer in claimers {
        all.extend(claimer.await.unwrap());
    }
    let distinct: std::collections::BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!((all.len(), distinct.len()), (200, 200));
}

async fn looks<S: VaultState>(state: &S, lease: Duration) -> Vec<HealthClaim> {
    state.claim_health(lease, 9).await.unwrap()
}

fn looked(claim: &HealthClaim, next_at: Option<Timestamp>, open: bool) -> HealthLooked {
    HealthLooked { chain: claim.chain.clone(), until: claim.until, next_at, open }
}

/// Chain "a", whose health was looked at and found to be as `open` says.
async fn looked_at<S: VaultState>(state: &S, open: bool) {
    due(state, "a").await;
    let [claim] = looks(state, LEASE).await.try_into().unwrap();
    state.settle_health(&[looked(&claim, None, open)]).await.unwrap();
    assert_eq!(looks(state, LEASE).await, []);
}

/// A rotation of chain "a" that went well.
async fn rotated<S: VaultState>(state: &S, generation: u64) {
    let (before, after) = (record("a", generation - 1, 0), record("a", generation, 0));
    assert!(state.settle_rotation(before.mark(), next(&after, None, None)).await.unwrap());
}

async fn a_pair_that_is_spent_is_not_taken_in<S: VaultState>(Two { one, other, .. }: Two<S>) {
    let pair = |generation: u64| {
        let record = record("a", generation, 0);
        let refresh = Some(Fingerprint::of(&generation.to_be_bytes()));
        Record { pair: PairId { refresh, ..record.pair }, ..record }
    };
    let first = pair(1);
    // Somebody hears that it is spent after whoever brings it in has asked.
    other.add_replaced(&first.chain, first.pair.fingerprint(), second(3)).await.unwrap();
    assert!(!one.take_in(None, next(&first, Some(&sealed("x")), None)).await.unwrap());
    assert_eq!(one.row(&first.chain).await.unwrap(), None);
    let second_pair = pair(2);
    assert!(one.take_in(None, next(&second_pair, Some(&sealed("y")), None)).await.unwrap());
    assert!(!one.take_in(Some(second_pair.mark()), next(&first, Some(&sealed("x")), None)).await.unwrap());
    let third = pair(3);
    assert!(one.take_in(Some(second_pair.mark()), next(&third, Some(&sealed("z")), None)).await.unwrap());
}

async fn health_is_looked_at_when_it_was_said<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let [claim] = looks(&one, LEASE).await.try_into().unwrap();
    assert_eq!(claim.row, one.row(&chain("a")).await.unwrap());
    assert_eq!(looks(&other, LEASE).await, [], "somebody looks at it");
    let far = now() + Duration::from_secs(3600);
    one.settle_health(&[looked(&claim, Some(far), false)]).await.unwrap();
    assert_eq!(looks(&other, LEASE).await, []);
    rotated(&one, 2).await;
    assert_eq!(looks(&other, LEASE).await, [], "a chain that is well may be renewed without a look");
    one.wake_health(&chain("a")).await.unwrap();
    let [claim] = looks(&other, LEASE).await.try_into().unwrap();
    other.settle_health(&[looked(&claim, Some(second(1)), false)]).await.unwrap();
    assert_eq!(looks(&one, LEASE).await.len(), 1, "its time has come");
}

async fn trouble_is_looked_at_at_once<S: VaultState>(Two { one, other, .. }: Two<S>) {
    looked_at(&one, false).await;
    let refused = Standing::Refused { reason: Reason::RefreshTokenRevoked, at: second(5), confirmed: true };
    let dead = Record { standing: refused, ..record("a", 1, 0) };
    assert!(one.settle_rotation(dead.mark(), next(&dead, None, None)).await.unwrap());
    let [claim] = looks(&other, LEASE).await.try_into().unwrap();
    assert_eq!(claim.row.as_ref().map(|row| &row.record), Some(&dead));
    other.settle_health(&[looked(&claim, None, true)]).await.unwrap();
    // What ends it is looked at at once as well.
    rotated(&one, 2).await;
    assert_eq!(looks(&other, LEASE).await.len(), 1);
}

async fn what_is_written_during_a_look_is_looked_at_again<S: VaultState>(Two { one, other, .. }: Two<S>) {
    looked_at(&one, false).await;
    one.wake_health(&chain("a")).await.unwrap();
    let [claim] = looks(&one, LEASE).await.try_into().unwrap();
    rotated(&other, 2).await;
    one.settle_health(&[looked(&claim, None, true)]).await.unwrap();
    let [again] = looks(&other, LEASE).await.try_into().unwrap();
    assert_eq!(again.row.map(|row| row.record), Some(record("a", 2, 0)));
}

async fn a_look_at_health_ends_with_its_lease<S: VaultState>(Two { one, other, .. }: Two<S>) {
    due(&one, "a").await;
    let [claim] = looks(&one, NONE).await.try_into().unwrap();
    assert_eq!(looks(&other, LEASE).await.len(), 1, "who looked may be dead");
    one.settle_health(&[looked(&claim, Some(second(1)), false)]).await.unwrap();
    assert_eq!(looks(&one, LEASE).await, [], "the late one has no say");
}

async fn a_mute_and_an_acknowledgement_let_health_be_looked_at<S: VaultState + HealthState>(
    Two { one, other, .. }: Two<S>,
) {
    looked_at(&one, true).await;
    let who = somebody();
    other.mute(&chain("a"), second(9), second(5), &who).await.unwrap();
    assert_eq!(looks(&one, NONE).await.len(), 1);
    let [claim] = looks(&one, LEASE).await.try_into().unwrap();
    let episode = episode("a", Condition::NotServing, 1);
    let change = BookChange { episodes: vec![episode.clone()], alerts: Vec::new() };
    let version = one.book(&[], second(1)).await.unwrap().version;
    assert!(one.keep_book(version, &change).await.unwrap());
    one.settle_health(&[looked(&claim, None, true)]).await.unwrap();
    other.acknowledge(&episode.id, None, second(6), &who).await.unwrap();
    assert_eq!(looks(&one, LEASE).await.len(), 1);
}

async fn the_latest_events_of_some_chains_are_read_at_once<S: VaultState>(Two { one, other, .. }: Two<S>) {
    let events = |name: &'static str| (0..30).map(move |at| event(name, at, Committed, None));
    let all: Vec<_> = ["a", "b", "c"].into_iter().flat_map(events).collect();
    one.add_events(&all).await.unwrap();
    let read = other.events_since(&[chain("a"), chain("c"), chain("none")], second(25)).await.unwrap();
    let expected: Vec<_> = ["a", "c"].into_iter().flat_map(|name| events(name).skip(25)).collect();
    assert_eq!(read, expected);
    let read = other.events_since(&[chain("b")], second(0)).await.unwrap();
    assert_eq!(read, events("b").skip(30 - LATEST).collect::<Vec<_>>());
}

async fn intents_are_held_as_long_as_somebody_compares<S: VaultState>(Two { one, other, .. }: Two<S>) {
    let first = one.incarnation(LEASE).await.unwrap();
    assert_eq!(first.held, None, "a new database has nothing to compare");
    due(&one, "a").await;
    let claim = ours(&one, "a", "p", LEASE).await;
    let intent = intended("a", 1, 1, "m");
    other.hold_on(LEASE).await.unwrap();
    // A shorter time takes nothing away from a longer one.
    one.hold_on(NONE).await.unwrap();
    let held = one.incarnation(NONE).await.unwrap();
    assert_eq!(held.id, first.id);
    assert!(held.held.is_some_and(|held| held > LEASE / 2 && held <= LEASE), "{held:?}");
    assert!(!one.begin_rotation(&claim, next(&intent, None, None), LEASE).await.unwrap());
    assert_eq!(
        other.row(&chain("a")).await.unwrap().unwrap().record,
        record("a", 1, 0),
        "nothing was written"
    );
    // What does not present a pair goes on.
    let told = record("a", 1, 0);
    assert!(other.settle_rotation(told.mark(), next(&told, None, None)).await.unwrap());
}

async fn rows_that_stand_before_marks_are_named<S: VaultState>(Two { one, other, .. }: Two<S>) {
    assert_eq!(one.behind(&[]).await.unwrap(), []);
    for name in ["a", "b", "c"] {
        due(&one, name).await;
    }
    let at = |generation, attempt| record("a", generation, attempt).mark();
    let marks = [("a", at(1, 0)), ("b", at(1, 1)), ("c", at(2, 0)), ("unknown", at(9, 9))];
    let marks = marks.map(|(name, mark)| (chain(name), mark));
    let mut behind = other.behind(&marks).await.unwrap();
    behind.sort();
    assert_eq!(behind, [chain("b"), chain("c")]);
}

async fn a_chain_that_the_database_never_heard_of_is_missed_once<S: VaultState>(
    Two { one, other, .. }: Two<S>,
) {
    looked_at(&one, false).await;
    one.add_events(&[event("told", 1, Committed, None)]).await.unwrap();
    let names = ["a", "told", "lost"].map(chain);
    assert_eq!(one.miss(&names).await.unwrap(), [chain("lost")]);
    assert_eq!(other.miss(&names).await.unwrap(), []);
    let [claim] = looks(&other, LEASE).await.try_into().unwrap();
    assert_eq!((&claim.chain, &claim.row), (&chain("lost"), &None));
    let far = now() + Duration::from_secs(3600);
    other.settle_health(&[looked(&claim, Some(far), true)]).await.unwrap();
    // It is brought in again.
    due(&one, "lost").await;
    let [claim] = looks(&other, LEASE).await.try_into().unwrap();
    assert_eq!(claim.row, one.row(&chain("lost")).await.unwrap());
}
