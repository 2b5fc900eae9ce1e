//! What every state does, written once and run over each.

use evergrant_core::event::EventKind::{Committed, Found, Intended};
use evergrant_core::secret::Fingerprint;
use evergrant_store::postgres::MAX_CONNECTIONS;
use evergrant_store::postgres::scratch::SharedPostgres;
use evergrant_store::{MemoryState, PostgresState, SqliteState, State};

use crate::fixture::{chain, event, record, second};

/// What has to be there as long as the state is.
enum Kept {
    Nothing,
    Folder { _folder: tempfile::TempDir },
    Server { _server: SharedPostgres },
}

/// Two handles on one state, as two processes have them.
struct Two<S> {
    one: S,
    other: S,
    _kept: Kept,
}

fn memory() -> Two<MemoryState> {
    let one = MemoryState::new();
    Two { other: one.clone(), one, _kept: Kept::Nothing }
}

fn sqlite() -> Two<SqliteState> {
    let folder = tempfile::tempdir().unwrap();
    let one = SqliteState::open(&folder.path().join("state.db")).unwrap();
    Two { other: one.clone(), one, _kept: Kept::Folder { _folder: folder } }
}

fn sqlite_twice() -> Two<SqliteState> {
    let folder = tempfile::tempdir().unwrap();
    let open = || SqliteState::open(&folder.path().join("state.db")).unwrap();
    Two { one: open(), other: open(), _kept: Kept::Folder { _folder: folder } }
}

async fn postgres() -> Two<PostgresState> {
    let server = SharedPostgres::join().unwrap();
    let url = server.new_database().unwrap().parse().unwrap();
    let one = PostgresState::open(&url, MAX_CONNECTIONS).await.unwrap();
    Two { other: one.clone(), one, _kept: Kept::Server { _server: server } }
}

async fn postgres_twice() -> Two<PostgresState> {
    let server = SharedPostgres::join().unwrap();
    let url = server.new_database().unwrap().parse().unwrap();
    let open = || PostgresState::open(&url, MAX_CONNECTIONS);
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    Two { one, other, _kept: Kept::Server { _server: server } }
}

macro_rules! conformance {
    ($($behaviour:ident),+ $(,)?) => {
        mod in_memory {
            use crate::conformance::memory;
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(memory()).await })+
        }
        mod in_sqlite {
            use crate::conformance::sqlite;
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(sqlite()).await })+
        }
        mod in_sqlite_opened_twice {
            use crate::conformance::sqlite_twice;
            $(#[tokio::test] async fn $behaviour() { super::$behaviour(sqlite_twice()).await })+
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

mod callers;
mod health;
mod vault;

conformance! {
    a_record_comes_back_as_it_was,
    a_record_never_goes_backwards,
    an_event_of_one_attempt_is_written_once,
    a_repeated_bring_up_changes_nothing,
    events_come_in_order,
    replaced_pairs_are_known,
    old_things_are_forgotten,
    chains_are_apart,
    writers_at_once_lose_nothing,
    a_reader_that_pages_misses_nothing,
}

async fn a_record_comes_back_as_it_was<S: State>(Two { one, other, .. }: Two<S>) {
    one.check().await.unwrap();
    assert_eq!(one.record(&chain("claude")).await.unwrap(), None);
    let mut record = record("claude", 3, 41);
    assert!(one.bring_up(&record, None, &[]).await.unwrap());
    assert_eq!(other.record(&chain("claude")).await.unwrap().as_ref(), Some(&record));
    // Where it stands may be said anew.
    record.access_refused = false;
    assert!(other.bring_up(&record, None, &[]).await.unwrap());
    assert_eq!(one.record(&chain("claude")).await.unwrap(), Some(record));
}

async fn a_record_never_goes_backwards<S: State>(Two { one, other, .. }: Two<S>) {
    let newest = record("claude", 2, 5);
    assert!(one.bring_up(&newest, None, &[]).await.unwrap());
    for (index, (lineage, generation)) in [(2, 4), (1, 6), (1, 900)].into_iter().enumerate() {
        let told = [event("claude", 1, Committed, Some(index as u64))];
        let spent = Fingerprint::of(format!("{index}").as_bytes());
        let older = record("claude", lineage, generation);
        assert!(!other.bring_up(&older, Some((spent, second(1))), &told).await.unwrap());
        assert_eq!(one.record(&chain("claude")).await.unwrap().as_ref(), Some(&newest));
        assert_eq!(one.events(&chain("claude"), 0, 99).await.unwrap().len(), index + 1);
        assert!(one.was_replaced(&chain("claude"), spent).await.unwrap());
    }
    for (lineage, generation) in [(2, 6), (3, 1)] {
        let newer = record("claude", lineage, generation);
        assert!(other.bring_up(&newer, None, &[]).await.unwrap());
        assert_eq!(one.record(&chain("claude")).await.unwrap(), Some(newer));
    }
}

async fn an_event_of_one_attempt_is_written_once<S: State>(Two { one, other, .. }: Two<S>) {
    let intended = event("claude", 1, Intended, Some(7));
    let committed = event("claude", 2, Committed, Some(7));
    let found = event("claude", 3, Found, None);
    one.add_events(&[intended.clone(), intended.clone(), committed.clone(), found.clone()]).await.unwrap();
    other.add_events(&[found.clone(), committed.clone(), intended.clone()]).await.unwrap();
    let next = event("claude", 4, Intended, Some(8));
    other.bring_up(&record("claude", 1, 1), None, &[next.clone(), intended.clone()]).await.unwrap();
    let events = one.events(&chain("claude"), 0, 99).await.unwrap();
    let events: Vec<_> = events.into_iter().map(|numbered| numbered.event).collect();
    assert_eq!(events, [intended, committed, found.clone(), found, next]);
}

async fn a_repeated_bring_up_changes_nothing<S: State>(Two { one, other, .. }: Two<S>) {
    let (record, spent) = (record("claude", 1, 2), Fingerprint::of(b"spent"));
    let events = [event("claude", 1, Intended, Some(1)), event("claude", 2, Committed, Some(1))];
    for state in [&one, &other, &one] {
        assert!(state.bring_up(&record, Some((spent, second(5))), &events).await.unwrap());
        let seqs = |events: Vec<evergrant_store::state::Numbered>| {
            events.into_iter().map(|numbered| numbered.event.at).collect::<Vec<_>>()
        };
        assert_eq!(seqs(one.events(&chain("claude"), 0, 99).await.unwrap()), [second(1), second(2)]);
        assert_eq!(one.record(&chain("claude")).await.unwrap().as_ref(), Some(&record));
    }
    // The first time of being replaced stays.
    one.bring_up(&record, Some((spent, second(50))), &[]).await.unwrap();
    assert_eq!(one.prune(second(0), second(6)).await.unwrap(), 1);
}

async fn events_come_in_order<S: State>(Two { one, other, .. }: Two<S>) {
    for at in 0..10 {
        let state = if at % 2 == 0 { &one } else { &other };
        // Their numbers order them, not their clocks.
        state.add_events(&[event("claude", 100 - at, Found, None)]).await.unwrap();
    }
    let all = one.events(&chain("claude"), 0, 99).await.unwrap();
    assert_eq!(all.len(), 10);
    assert!(all.is_sorted_by(|a, b| a.seq < b.seq && a.event.at > b.event.at));
    let mut paged = Vec::new();
    loop {
        let after = paged.last().map_or(0, |last: &evergrant_store::state::Numbered| last.seq);
        let page = other.events(&chain("claude"), after, 3).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let mut latest = other.latest_events(&chain("claude"), 4).await.unwrap();
    latest.reverse();
    assert_eq!(latest, all[6..]);
    for after in [all[9].seq, i64::MAX as u64, u64::MAX] {
        assert_eq!(one.events(&chain("claude"), after, 99).await.unwrap(), [], "after {after}");
    }
    assert_eq!(one.events(&chain("claude"), 0, 0).await.unwrap(), []);
    assert_eq!(one.events(&chain("claude"), 0, usize::MAX).await.unwrap(), all);
    assert_eq!(one.latest_events(&chain("claude"), usize::MAX).await.unwrap().len(), 10);
}

async fn replaced_pairs_are_known<S: State>(Two { one, other, .. }: Two<S>) {
    let spent = Fingerprint::of(b"spent");
    assert!(!one.was_replaced(&chain("claude"), spent).await.unwrap());
    one.bring_up(&record("claude", 1, 2), Some((spent, second(1))), &[]).await.unwrap();
    assert!(other.was_replaced(&chain("claude"), spent).await.unwrap());
    assert!(!other.was_replaced(&chain("claude"), Fingerprint::of(b"live")).await.unwrap());
    assert!(!other.was_replaced(&chain("team"), spent).await.unwrap());
}

async fn old_things_are_forgotten<S: State>(Two { one, other, .. }: Two<S>) {
    let (old, young) = (Fingerprint::of(b"old"), Fingerprint::of(b"young"));
    let events: Vec<_> = (1..=4).map(|at| event("claude", at, Committed, Some(at as u64))).collect();
    one.bring_up(&record("claude", 1, 2), Some((old, second(10))), &events).await.unwrap();
    one.bring_up(&record("claude", 1, 3), Some((young, second(20))), &[]).await.unwrap();
    assert_eq!(other.prune(second(3), second(20)).await.unwrap(), 3);
    let left = one.events(&chain("claude"), 0, 99).await.unwrap();
    assert_eq!(left.iter().map(|numbered| numbered.event.at).collect::<Vec<_>>(), [second(3), second(4)]);
    assert!(!one.was_replaced(&chain("claude"), old).await.unwrap());
    assert!(one.was_replaced(&chain("claude"), young).await.unwrap());
    assert_eq!(one.record(&chain("claude")).await.unwrap().map(|record| record.generation.0), Some(3));
    assert_eq!(other.prune(second(3), second(20)).await.unwrap(), 0);
    // A number is never given twice, even when the newest are gone.
    assert_eq!(one.prune(second(99), second(20)).await.unwrap(), 2);
    one.add_events(&[event("claude", 5, Found, None)]).await.unwrap();
    assert!(one.latest_events(&chain("claude"), 1).await.unwrap()[0].seq > left[1].seq);
}

async fn chains_are_apart<S: State>(Two { one, other, .. }: Two<S>) {
    one.bring_up(&record("claude", 9, 9), None, &[event("claude", 1, Intended, Some(1))]).await.unwrap();
    assert!(
        other.bring_up(&record("team", 1, 1), None, &[event("team", 2, Intended, Some(1))]).await.unwrap()
    );
    assert_eq!(one.record(&chain("claude")).await.unwrap(), Some(record("claude", 9, 9)));
    assert_eq!(one.record(&chain("team")).await.unwrap(), Some(record("team", 1, 1)));
    for name in ["claude", "team"] {
        let events = one.events(&chain(name), 0, 99).await.unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].event.chain, chain(name));
        assert_eq!(other.latest_events(&chain(name), 9).await.unwrap(), events);
    }
}

async fn writers_at_once_lose_nothing<S: State>(Two { one, other, .. }: Two<S>) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 1..=24_u64 {
        let state = if n % 2 == 0 { one.clone() } else { other.clone() };
        tasks.spawn(async move {
            let spent = Fingerprint::of(&n.to_be_bytes());
            let events =
                [event("claude", n as i64, Committed, Some(n)), event("claude", 0, Intended, Some(0))];
            state.bring_up(&record("claude", 1, n), Some((spent, second(1))), &events).await.unwrap()
        });
    }
    let taken = tasks.join_all().await;
    assert!(taken.contains(&true));
    assert_eq!(one.record(&chain("claude")).await.unwrap(), Some(record("claude", 1, 24)));
    assert_eq!(other.events(&chain("claude"), 0, 99).await.unwrap().len(), 25);
    for n in 1..=24_u64 {
        assert!(one.was_replaced(&chain("claude"), Fingerprint::of(&n.to_be_bytes())).await.unwrap());
    }
}

/// A number that becomes visible after a higher one was read would be passed over for good.
async fn a_reader_that_pages_misses_nothing<S: State>(Two { one, other, .. }: Two<S>) {
    const WRITERS: i64 = 8;
    const TIMES: i64 = 10;
    const AT_ONCE: i64 = 100;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let state = if writer % 2 == 0 { one.clone() } else { other.clone() };
        writers.spawn(async move {
            for time in 0..TIMES {
                let first = (writer * TIMES + time) * AT_ONCE;
                let events: Vec<_> =
                    (first..first + AT_ONCE).map(|at| event("claude", at, Found, None)).collect();
                if time % 2 == 0 {
                    state.add_events(&events).await.unwrap();
                } else {
                    state.bring_up(&record("claude", 1, 1), None, &events).await.unwrap();
                }
            }
        });
    }
    let mut read = Vec::new();
    loop {
        while writers.try_join_next().is_some() {}
        let all_is_written = writers.is_empty();
        let after = read.last().map_or(0, |last: &evergrant_store::state::Numbered| last.seq);
        let page = other.events(&chain("claude"), after, 1000).await.unwrap();
        if page.is_empty() && all_is_written {
            break;
        }
        read.extend(page);
        tokio::task::yield_now().await;
    }
    assert!(read.is_sorted_by(|one, next| one.seq < next.seq));
    let mut instants: Vec<_> = read.iter().map(|numbered| numbered.event.at.as_second()).collect();
    instants.sort_unstable();
    assert_eq!(instants, (0..WRITERS * TIMES * AT_ONCE).collect::<Vec<_>>());
}
