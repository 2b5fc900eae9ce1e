//! Rows that were restored from a backup, and what commands make of them.

use std::fs;

use evergrant_standin::Rotation;
use serde_json::Value;

use crate::gateway::provider;
use crate::replicas::{Rig, new_key};
use crate::support::shown;

/// The rows as they stand, in a table beside theirs: a backup.
async fn back_up(sql: &tokio_postgres::Client) {
    let copy = "CREATE TABLE saved_rows AS TABLE vault_rows; CREATE TABLE saved_replaced AS TABLE replaced";
    sql.batch_execute(copy).await.unwrap();
}

/// The rows as they stood then.
async fn restore_rows(sql: &tokio_postgres::Client) {
    sql.batch_execute("TRUNCATE vault_rows; INSERT INTO vault_rows TABLE saved_rows").await.unwrap();
}

/// The minute after a restore, in which no token is sent, is over.
async fn the_minute_is_over(sql: &tokio_postgres::Client) {
    sql.batch_execute("UPDATE incarnation SET until_ms = 0").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_row_is_accepted_by_its_operator_only() {
    // One whose refresh token lives on, so that its older rows are worth something.
    let standin = provider().await;
    standin.engine().change_settings(|settings| settings.rotation = Rotation::NeverRepeated);
    let rig = Rig::with(standin);
    let machine = rig.machine(&new_key(), "");
    machine.import(&rig.standin, "claude");
    let sql = rig.sql().await;
    back_up(&sql).await;
    for _ in 0..2 {
        assert_eq!(machine.json(&["refresh", "--force"])["refreshed"], true);
    }
    let newest = machine.token();
    // The receipt of this machine has the pair that the row has lost.
    restore_rows(&sql).await;
    let report = machine.json(&["refresh"]);
    assert_eq!((&report["generation"], &report["error"]), (&3.into(), &Value::Null), "{report}");
    assert_eq!(machine.token(), newest);
    // Without it nobody has, and nothing is presented.
    restore_rows(&sql).await;
    fs::remove_dir_all(machine.folder.path().join(".local/state/evergrant/receipts")).unwrap();
    let exchanges = rig.standin.engine().counters().exchanges;
    for args in [&["refresh"][..], &["refresh", "--force"]] {
        let output = machine.run(args);
        assert_eq!(output.status.code(), Some(1), "{}", shown(&output));
        let said = shown(&output);
        for part in [
            "claude  quarantined  ",
            "the database was restored from a backup: this machine has seen lineage 1, generation 3",
            "evergrant import FILE --chain claude --move",
            "evergrant refresh --chain claude --force --accept-stale",
        ] {
            assert!(said.contains(part), "{part:?} is missing in {said}");
        }
        let report = machine.json(args);
        assert_eq!((&report["ok"], &report["error"]), (&false.into(), &"quarantined".into()), "{report}");
    }
    assert_eq!(rig.standin.engine().counters().exchanges, exchanges, "a quarantined pair was presented");
    // As it was told to.
    let report = machine.json(&["refresh", "--chain", "claude", "--force", "--accept-stale"]);
    assert_eq!((&report["reason"], &report["lineage"]), (&"held".into(), &2.into()), "{report}");
    the_minute_is_over(&sql).await;
    let report = machine.json(&["refresh", "--force"]);
    let facts = (&report["refreshed"], &report["lineage"], &report["generation"], &report["error"]);
    assert_eq!(facts, (&true.into(), &2.into(), &2.into(), &Value::Null), "{report}");
    assert_eq!(rig.standin.engine().counters().exchanges, exchanges + 1);
    // Once only.
    let output = machine.run(&["refresh", "--force", "--accept-stale"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(shown(&output).contains("chain claude is not quarantined: there is nothing to accept"));
    assert_eq!(machine.json(&["refresh", "--force"])["refreshed"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_is_known_to_be_spent_is_accepted_from_nobody() {
    let rig = Rig::new().await;
    let machine = rig.machine(&new_key(), "");
    machine.import(&rig.standin, "claude");
    let sql = rig.sql().await;
    back_up(&sql).await;
    assert_eq!(machine.json(&["refresh", "--force"])["refreshed"], true);
    restore_rows(&sql).await;
    fs::remove_dir_all(machine.folder.path().join(".local/state/evergrant/receipts")).unwrap();
    assert_eq!(machine.json(&["refresh", "--force"])["error"], "quarantined");
    let output = machine.run(&["refresh", "--force", "--accept-stale"]);
    let said = shown(&output);
    assert!(said.contains("nothing was accepted (grant_spent)") && said.contains("log in again"), "{said}");
    assert_eq!(rig.standin.engine().counters().families_revoked_by_reuse, 0);
    // A new login ends it.
    machine.import(&rig.standin, "claude");
    let report = machine.json(&["refresh", "--force"]);
    assert_eq!((&report["ok"], &report["reason"]), (&true.into(), &"held".into()), "{report}");
    let detail = report["detail"].as_str().unwrap();
    assert!(detail.starts_with("the rows are compared first: again in "), "{detail}");
    the_minute_is_over(&sql).await;
    let report = machine.json(&["refresh", "--force"]);
    assert_eq!((&report["refreshed"], &report["lineage"]), (&true.into(), &2.into()), "{report}");
}
