//! Databases that are restored from a backup: what each machine knows of the chains, and what it makes of the rows.

use std::fs;
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::chain::{Mark, Standing};
use evergrant_core::keeper::{HOLD, Look};
use evergrant_server::keeper::Import;
use evergrant_standin::{Fault, FaultTarget};
use evergrant_store::MemoryState;
use evergrant_store::vault::{NextRow, Row, VaultState as _};

use jiff::SignedDuration;

use super::rows::{LIFE, Rig, chain, state};

const AGAIN: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(10);

fn as_it_was(row: &Row) -> NextRow<'_> {
    let (record, wakes_at) = (&row.record, row.record.renew_at);
    NextRow { record, sealed: Some(&row.sealed), replaced: &[], events: &[], wakes_at }
}

/// The rows as they are now, in another database.
async fn copy(rig: &Rig) -> MemoryState {
    let copy = state(rig.later_secs.clone());
    for row in rig.state.rows_after(None, 100).await.unwrap() {
        assert!(copy.take_in(None, as_it_was(&row)).await.unwrap());
    }
    copy
}

async fn until(holds: impl AsyncFn() -> bool) {
    let holds = async {
        while !holds().await {
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds).await.unwrap();
}

#[tokio::test]
async fn a_restored_database_is_recognised_and_brought_up_from_a_receipt() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    one.force(0).await;
    let backup = copy(&rig).await;
    let mut cursor = None;
    two.keeper.follow(&mut cursor).await.unwrap();
    for _ in 0..3 {
        assert!(one.force(0).await.refreshed);
    }
    two.keeper.follow(&mut cursor).await.unwrap();
    let newest = rig.held(0).await;
    let exchanges = rig.exchanges();

    let rig = Rig { state: backup.clone(), ..rig };
    // The machine that only heard of it does not present the spent pair, and says what to do.
    let two = rig.replica_on("two", two.folder, backup.clone());
    let report = two.force(0).await;
    assert_eq!(report.error, Some(Reason::Quarantined), "{report:?}");
    assert!(report.detail.unwrap().contains("restored from a backup"));
    rig.pass(LIFE * 3);
    assert!(two.keeper.tick().await.unwrap().is_empty());
    assert_eq!(two.force(0).await.error, Some(Reason::Quarantined));
    // Neither does one that knows nothing.
    assert_eq!(rig.replica("three").force(0).await.error, Some(Reason::Quarantined));
    assert_eq!(rig.exchanges(), exchanges);
    // The one that has the newest pair puts it back.
    let one = rig.replica_on("one", one.folder, backup);
    one.keeper.compare_all().await.unwrap();
    assert_eq!(rig.held(0).await.refresh, newest.refresh);
    // It may have more to say.
    assert_eq!(two.force(0).await.reason, Reason::Held);
    rig.pass(SignedDuration::try_from(HOLD).unwrap());
    assert!(two.force(0).await.refreshed);
    rig.assert_alive(0).await;
}

/// A disk that takes nothing and a restore at once: what is only in memory waits until its row is brought up to it.
#[tokio::test]
async fn an_answer_that_cannot_be_written_waits_for_a_restored_row() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    let backup = rig.row(0).await;
    assert!(two.force(0).await.refreshed);
    rig.standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 1_000 }, 1);
    let keeper = one.keeper.clone();
    let forced = tokio::spawn(async move { keeper.look(&chain(0), Look::Forced, None).await });
    until(async || rig.exchanges() == 2).await;
    fs::remove_dir_all(one.folder.path().join("receipts")).unwrap();
    let now = rig.row(0).await.record.mark();
    assert!(rig.state.settle_rotation(now, as_it_was(&backup)).await.unwrap());
    assert_eq!(forced.await.unwrap().error, Some(Reason::Quarantined));
    two.keeper.compare_all().await.unwrap();
    until(async || rig.row(0).await.record.generation.0 == 3).await;
    rig.pass(SignedDuration::try_from(HOLD).unwrap());
    assert!(two.force(0).await.refreshed);
    rig.assert_alive(0).await;
}

/// Two compare at once: who has seen less reads a row, and puts its pair back over what the other says of it meanwhile.
#[tokio::test]
async fn what_was_written_over_is_said_again() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    assert!(two.force(0).await.refreshed);
    let older = rig.row(0).await;
    assert!(two.force(0).await.refreshed);
    let mut cursor = None;
    one.keeper.follow(&mut cursor).await.unwrap();
    one.marks.raise(&chain(0), rig.row(0).await.record.mark()).unwrap();
    let now = rig.row(0).await.record.mark();
    assert!(rig.state.settle_rotation(now, as_it_was(&older)).await.unwrap());
    one.keeper.follow(&mut cursor).await.unwrap();
    assert!(rig.row(0).await.record.quarantined.is_some());
    rig.pass(SignedDuration::try_from(HOLD).unwrap());
    assert_eq!(one.force(0).await.error, Some(Reason::Quarantined));
    assert_eq!(rig.exchanges(), 2);
}

#[tokio::test]
async fn no_token_is_sent_before_whoever_has_seen_more_could_say_so() {
    for put_back in [false, true] {
        let rig = Rig::new().await;
        let (one, two, three) = (rig.replica("one"), rig.replica("two"), rig.replica("three"));
        one.import(0, rig.grant()).await;
        three.keeper.follow(&mut None).await.unwrap();
        let backup = rig.state.copy();
        // This renewal is heard of by the second machine, not by the third.
        assert!(one.force(0).await.refreshed);
        two.keeper.follow(&mut None).await.unwrap();
        two.marks.raise(&chain(0), rig.row(0).await.record.mark()).unwrap();
        let newest = rig.held(0).await;
        let exchanges = rig.exchanges();

        let rig = Rig { state: backup.clone(), ..rig };
        let on = |name, folder| rig.replica_on(name, folder, backup.clone());
        let three = on("three", three.folder);
        let report = three.force(0).await;
        assert_eq!((report.reason, report.error), (Reason::Held, None), "{report:?}");
        rig.pass(SignedDuration::from_secs(1));
        let mut cursor = None;
        let knows = if put_back { on("one", one.folder) } else { on("two", two.folder) };
        knows.keeper.follow(&mut cursor).await.unwrap();
        until(async || {
            let record = rig.row(0).await.record;
            record.quarantined.is_some() || record.pair == newest.pair()
        })
        .await;
        rig.pass(SignedDuration::try_from(HOLD).unwrap());
        assert_eq!(rig.exchanges(), exchanges);
        let report = three.force(0).await;
        assert_eq!(report.error, (!put_back).then_some(Reason::Quarantined), "{report:?}");
        assert_eq!(report.refreshed, put_back);
        if put_back {
            rig.assert_alive(0).await;
        }
    }
}

#[tokio::test]
async fn a_receipt_that_cannot_be_read_keeps_no_other_chain_waiting() {
    let rig = Rig::new().await;
    let one = rig.replica("one");
    for number in [0, 1] {
        one.import(number, rig.grant()).await;
    }
    let backup = rig.state.copy();
    for number in [0, 1] {
        assert!(one.force(number).await.refreshed);
    }
    for folder in fs::read_dir(one.folder.path().join("receipts")).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let file = file.unwrap();
            if file.file_name().to_string_lossy().starts_with("chain-0.") {
                fs::remove_file(file.path()).unwrap();
                fs::create_dir(file.path()).unwrap();
            }
        }
    }
    let rig = Rig { state: backup.clone(), ..rig };
    let one = rig.replica_on("one", one.folder, backup);
    one.keeper.compare_all().await.unwrap();
    let generations = [rig.row(0).await, rig.row(1).await].map(|row| row.record.generation.0);
    assert_eq!(generations, [1, 2], "the first waits for whoever mends the disk");
}

#[tokio::test]
async fn a_pair_that_is_put_back_and_was_presented_since_is_in_doubt() {
    for quarantined in [false, true] {
        let rig = Rig::new().await;
        let (one, two) = (rig.replica("one"), rig.replica("two"));
        one.import(0, rig.grant()).await;
        let backup = copy(&rig).await;
        assert!(one.force(0).await.refreshed);
        two.presents_and_dies(&rig, "two", false).await;
        if !quarantined {
            assert!(!one.keeper.follow(&mut None).await.unwrap());
            one.marks.raise(&chain(0), rig.row(0).await.record.mark()).unwrap();
        }
        let newest = rig.held(0).await;
        let exchanges = rig.exchanges();

        let rig = Rig { state: backup.clone(), ..rig };
        if quarantined {
            // Only the one that presented it has heard of that.
            let two = rig.replica_on("two", two.folder, backup.clone());
            assert_eq!(two.force(0).await.error, Some(Reason::Quarantined));
        }
        let one = rig.replica_on("one", one.folder, backup.clone());
        one.keeper.compare_all().await.unwrap();
        assert_eq!(rig.held(0).await.refresh, newest.refresh);
        let standing = rig.row(0).await.record.standing;
        assert!(matches!(standing, Standing::InDoubt { .. }), "quarantined {quarantined}: {standing:?}");
        // One that knows nothing of it has to see that.
        assert_eq!(rig.replica("three").force(0).await.error, Some(Reason::InDoubt));
        assert_eq!(rig.exchanges(), exchanges);
    }
}

#[tokio::test]
async fn what_follows_a_pair_that_is_put_back_is_not_lost_with_it() {
    let rig = Rig::new().await;
    let one = rig.replica("one");
    one.import(0, rig.grant()).await;
    let (first, lineage) = (copy(&rig).await, rig.row(0).await.record.lineage);
    one.import(0, rig.grant()).await;
    assert!(one.force(0).await.refreshed);
    // The database is put back before the next answer is of record: its receipt has the only successor.
    one.presents_and_dies(&rig, "one", true).await;
    let rig = Rig { state: first.clone(), ..rig };
    let one = rig.replica_on("one", one.folder, first);
    assert_eq!(rig.row(0).await.record.lineage, lineage);
    one.keeper.compare_all().await.unwrap();
    let record = rig.row(0).await.record;
    assert_eq!((record.lineage.0, record.generation.0), (lineage.0 + 1, 3), "{record:?}");
    assert_eq!(record.standing, Standing::Live);
    rig.assert_alive(0).await;
}

#[tokio::test]
async fn a_quarantine_ends_with_a_login_or_an_operator_s_word() {
    for login in [true, false] {
        let rig = Rig::new().await;
        let one = rig.replica("one");
        one.import(0, rig.grant()).await;
        let backup = copy(&rig).await;
        one.presents_and_dies(&rig, "one", false).await;
        let ahead = Mark { generation: evergrant_core::Generation(9), ..rig.row(0).await.record.mark() };
        one.marks.raise(&chain(0), ahead).unwrap();
        let rig = Rig { state: backup.clone(), ..rig };
        let one = rig.replica_on("one", one.folder, backup);
        assert_eq!(one.force(0).await.error, Some(Reason::Quarantined));
        let taken = match login {
            true => one.keeper.import(&chain(0), rig.grant()).await,
            false => one.keeper.accept_stale(&chain(0)).await,
        };
        let Import::Taken(report) = taken else { panic!("{taken:?}") };
        assert_eq!((report.ok, report.lineage.unwrap().0), (true, 2), "{report:?}");
        assert_eq!(one.force(0).await.refreshed, login);
        // Only a quarantined chain has something to accept.
        let again = one.keeper.accept_stale(&chain(0)).await;
        assert!(matches!(again, Import::Refused(_)), "{again:?}");
    }
}

#[tokio::test]
async fn a_login_for_a_row_that_was_lost_is_newer_than_what_was_seen_of_it() {
    for swept in [false, true] {
        let rig = Rig::new().await;
        let one = rig.replica("one");
        one.import(0, rig.grant()).await;
        assert!(one.force(0).await.refreshed);
        let empty = state(rig.later_secs.clone());
        let rig = Rig { state: empty.clone(), ..rig };
        let one = rig.replica_on("one", one.folder, empty);
        let login = rig.grant();
        one.import(0, login.clone()).await;
        if swept {
            one.keeper.sweep().await;
        }
        one.keeper.compare_all().await.unwrap();
        assert_eq!(rig.held(0).await.refresh, login.refresh, "swept {swept}");
        rig.pass(SignedDuration::try_from(HOLD).unwrap());
        assert!(one.force(0).await.refreshed);
        rig.assert_alive(0).await;
    }
}

#[tokio::test]
async fn a_restored_row_that_forgets_a_presentation_is_in_doubt() {
    let rig = Rig::new().await;
    let one = rig.replica("one");
    one.import(0, rig.grant()).await;
    let backup = copy(&rig).await;
    one.presents_and_dies(&rig, "one", false).await;
    let rig = Rig { state: backup.clone(), ..rig };
    let one = rig.replica_on("one", one.folder, backup);
    let report = one.force(0).await;
    assert_eq!((report.error, report.token_valid), (Some(Reason::InDoubt), true), "{report:?}");
    assert_eq!(rig.exchanges(), 1);
}
