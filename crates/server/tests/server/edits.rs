//! Edits of the auth file from outside: each as the specification says, nothing of the operator's overwritten.

use std::fs;

use evergrant_core::authfile::Reading;
use evergrant_core::keeper::Report;
use evergrant_core::{Reason, authfile};
use evergrant_server::keeper::Import;
use evergrant_standin::{Fault, FaultTarget, LoginOptions};
use serde_json::json;

use crate::fixture::{Fixture, chain};

async fn renewed() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.look().await;
    assert!(fixture.force().await.refreshed);
    fixture
}

#[tokio::test]
async fn removed_and_put_back() {
    let fixture = renewed().await;
    let bytes = fs::read(&fixture.scratch.file).unwrap();
    fs::remove_file(&fixture.scratch.file).unwrap();
    let report = fixture.force().await;
    assert_eq!((report.error, report.token_present), (Some(Reason::TokenAbsent), false));
    assert!(!fixture.scratch.file.exists(), "a removed file is never made again");
    assert!(!fixture.scratch.snapshots.current(&chain()).unwrap().present);

    fs::write(&fixture.scratch.file, bytes).unwrap();
    let report = fixture.look().await;
    assert_eq!((report.error, report.generation.unwrap().0), (None, 2));
    assert!(fixture.scratch.snapshots.current(&chain()).unwrap().present);
    assert!(fixture.force().await.refreshed);
}

#[tokio::test]
async fn an_older_file_is_undone_and_its_pair_never_presented() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let first = fs::read(&fixture.scratch.file).unwrap();
    fixture.force().await;
    let newest = fixture.scratch.read();
    fs::write(&fixture.scratch.file, &first).unwrap();
    let report = fixture.look().await;
    assert_eq!((report.error, report.reason), (None, Reason::AuthFileRolledBack));
    assert_eq!(fixture.scratch.read(), newest);
    assert!(fixture.force().await.refreshed);

    // Two generations back: its receipt is gone, but the newest one's is there.
    fs::write(&fixture.scratch.file, &first).unwrap();
    assert_eq!(fixture.force().await.reason, Reason::Renewed);
    fixture.assert_alive();

    // Without any receipt the pair is known to be worth nothing.
    fs::write(&fixture.scratch.file, &first).unwrap();
    let receipts = fixture.scratch.file.with_file_name("auth.json.evergrant").join("receipts");
    for receipt in fs::read_dir(receipts).unwrap() {
        fs::remove_file(receipt.unwrap().path()).unwrap();
    }
    let before = fixture.standin.engine().exchanges().len();
    assert_eq!(fixture.force().await.error, Some(Reason::GrantSpent));
    assert_eq!(fs::read(&fixture.scratch.file).unwrap(), first);
    assert_eq!(fixture.standin.engine().exchanges().len(), before);
    assert_eq!(fixture.standin.engine().counters().families_revoked_by_reuse, 0);
}

#[tokio::test]
async fn what_is_no_grant_is_left_as_it_is() {
    for (bytes, error) in [
        (&b"{\"claudeAiOauth\": {\"accessTok"[..], Reason::AuthFileMalformed),
        (b"garbage", Reason::AuthFileMalformed),
        (b"", Reason::AuthFileMalformed),
        (br#"{"claudeAiOauth":{"accessToken":"","refreshToken":""}}"#, Reason::TokenAbsent),
        (br#"{"claudeAiOauth":{"accessToken":"test-access-a","expiresAt":0}}"#, Reason::TokenAbsent),
        (
            br#"{"claudeAiOauth":{"accessToken":"test-access-a","expiresAt":17654321}}"#,
            Reason::AuthFileMalformed,
        ),
    ] {
        let fixture = renewed().await;
        let good = fs::read(&fixture.scratch.file).unwrap();
        fs::write(&fixture.scratch.file, bytes).unwrap();
        let report = fixture.force().await;
        assert_eq!(report.error, Some(error));
        assert_eq!(fs::read(&fixture.scratch.file).unwrap(), bytes);
        let current = fixture.scratch.snapshots.current(&chain()).unwrap();
        assert_eq!(current.present, error == Reason::AuthFileMalformed, "the last good grant stays in use");
        fs::write(&fixture.scratch.file, good).unwrap();
        assert!(fixture.force().await.refreshed);
    }
}

#[tokio::test]
async fn another_login_is_adopted_and_a_second_writer_noticed() {
    let fixture = renewed().await;
    for lineage in 2..=3 {
        fixture.scratch.write(&fixture.standin.engine().login(LoginOptions::default()).auth_file());
        let report = fixture.look().await;
        assert_eq!((report.lineage.unwrap().0, report.reason), (lineage, Reason::Adopted));
    }
    let (_, record) = fixture.keeper.vault().peek(&fixture.keeper.policy().profile);
    use evergrant_server::World;
    assert!(record.unwrap().second_writer(fixture.world.now()));
}

#[tokio::test]
async fn a_grant_without_refresh_token_is_static() {
    let fixture = renewed().await;
    let options = LoginOptions { without_refresh_token: true, ..LoginOptions::default() };
    fixture.scratch.write(&fixture.standin.engine().login(options).auth_file());
    let report = fixture.force().await;
    assert_eq!((report.error, report.refreshed), (None, false));
    assert_eq!(report.renew_at, None);
    assert_eq!(fixture.force().await.reason, Reason::NothingToRenew);
}

#[tokio::test]
async fn members_owner_and_mode_survive_and_a_link_stays() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new().await;
    let real = fixture.scratch.folder.path().join("elsewhere");
    fs::create_dir(&real).unwrap();
    let real = real.join("real.json");
    let mut file = fixture.scratch.read();
    file["other"] = json!({"kept": [1, 2, 3]});
    file["claudeAiOauth"]["ownNote"] = json!("kept");
    fs::write(&real, serde_json::to_vec(&file).unwrap()).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    fs::remove_file(&fixture.scratch.file).unwrap();
    std::os::unix::fs::symlink("../elsewhere/real.json", &fixture.scratch.file).unwrap();

    fixture.look().await;
    let report = fixture.force().await;
    assert!(report.refreshed, "{report:?}");
    assert!(fs::symlink_metadata(&fixture.scratch.file).unwrap().is_symlink());
    let after = fixture.scratch.read();
    assert_eq!(after["other"], file["other"]);
    assert_eq!(after["claudeAiOauth"]["ownNote"], "kept");
    assert_ne!(after["claudeAiOauth"]["refreshToken"], file["claudeAiOauth"]["refreshToken"]);
    assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
}

#[tokio::test]
async fn a_missing_folder_is_an_absent_token() {
    let fixture = renewed().await;
    fs::rename(fixture.scratch.folder.path().join("config"), fixture.scratch.folder.path().join("away"))
        .unwrap();
    let report = fixture.force().await;
    assert_eq!(report.error, Some(Reason::TokenAbsent));
    fs::rename(fixture.scratch.folder.path().join("away"), fixture.scratch.folder.path().join("config"))
        .unwrap();
    assert!(fixture.force().await.refreshed);
}

/// Waits until the stand-in has processed so many exchanges.
async fn until_exchanged(fixture: &Fixture, count: usize) {
    for _ in 0..2_000 {
        if fixture.standin.engine().exchanges().len() >= count {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("the stand-in saw no exchange");
}

/// Looks until a report that was made under the lock is as wanted.
async fn until_report(look: impl AsyncFn() -> Report, wanted: impl Fn(&Report) -> bool) {
    for _ in 0..500 {
        let report = look().await;
        if report.reason != Reason::LeaseHeld && wanted(&report) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no look found it so");
}

/// Two faults at once: the reserved receipt is gone when the answer comes, and so is the auth file. The only copy of
/// the new pair is in memory, and has to stay there until it can be committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_cannot_be_written_waits_for_the_auth_file() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    fixture.standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 1_000 }, 1);
    let keeper = fixture.keeper.clone();
    let forced = tokio::spawn(async move { keeper.look(evergrant_core::keeper::Look::Forced).await });
    until_exchanged(&fixture, 1).await;
    let receipts = fixture.scratch.file.with_file_name("auth.json.evergrant").join("receipts");
    let bytes = fs::read(&fixture.scratch.file).unwrap();
    fs::remove_dir_all(&receipts).unwrap();
    fs::remove_file(&fixture.scratch.file).unwrap();
    assert_eq!(forced.await.unwrap().error, Some(Reason::TokenAbsent));

    fs::write(&fixture.scratch.file, &bytes).unwrap();
    until_report(async || fixture.look().await, |report| report.generation.unwrap().0 == 2).await;
    fixture.assert_alive();
    // The task that committed it may hold the lock once more.
    until_report(async || fixture.force().await, |report| report.refreshed).await;
    assert_eq!(fixture.standin.engine().counters().families_revoked_by_reuse, 0);
}

/// What lies at the file's place cannot be read, so that nothing can be compared with it: an import says so and ends.
#[tokio::test]
async fn an_import_over_what_cannot_be_read_is_refused() {
    let fixture = renewed().await;
    fs::remove_file(&fixture.scratch.file).unwrap();
    fs::create_dir(&fixture.scratch.file).unwrap();
    let login = fixture.standin.engine().login(LoginOptions::default()).auth_file().to_string();
    let profile = &fixture.keeper.policy().profile;
    let Reading::Grant(grant) = authfile::read(login.as_bytes(), profile) else { panic!("it is a grant") };
    let Import::Refused(refused) = fixture.keeper.import(grant).await else { panic!("it was taken") };
    assert_eq!(refused.reason, Reason::VaultUnwritable);
    assert!(fixture.scratch.file.is_dir());
}

/// Without the lock, file and record may be read around somebody's commit: one's token never gets the other's number.
#[tokio::test]
async fn a_look_without_the_lock_publishes_only_what_belongs_together() {
    let fixture = renewed().await;
    let current = || fixture.scratch.snapshots.current(&chain()).unwrap();
    let before = current();
    let held = fixture.keeper.vault().lock(std::time::Duration::ZERO).unwrap();
    fixture.scratch.write(&fixture.standin.engine().login(LoginOptions::default()).auth_file());
    assert_eq!(fixture.look().await.reason, Reason::LeaseHeld);
    assert_eq!(current(), before);
    drop(held);
    assert_eq!(fixture.look().await.reason, Reason::Adopted);
    assert_ne!(current().access, before.access);
}
