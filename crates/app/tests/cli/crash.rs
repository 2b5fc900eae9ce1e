//! The process dies between any two steps; the next one finds what it left, and the chain lives on.

use evergrant_standin::{Fault, FaultTarget, LoginOptions, ReuseClass, StandIn};
use evergrant_store::crash::POINTS;
use serde_json::json;

use crate::support::{Home, lives, shown, standin, standin_settings};

/// What must hold after any crash: the next looks settle the chain, nothing that was delivered is lost, and no
/// token was presented twice to a strict provider.
fn recover(home: &Home, standin: &StandIn, point: &str) {
    let report = home.json(&["refresh"]);
    let delivered = standin.engine().counters().rotations > 0;
    let received = !["locked", "reserved", "intended", "intent_in_state", "answered"].contains(&point);
    match point {
        // Nothing was sent: the intent is not durable yet.
        "locked" | "reserved" => assert_eq!(report["error"], json!(null), "{point}: {report}"),
        // Nobody can know what became of it.
        "intended" | "intent_in_state" | "answered" => {
            assert_eq!(report["error"], json!("in_doubt"), "{point}: {report}");
            assert_eq!(report["token_valid"], json!(true), "{point}: the access token is served on");
        }
        _ => assert_eq!(report["error"], json!(null), "{point}: {report}"),
    }
    assert_eq!(standin.engine().counters().families_revoked_by_reuse, 0, "{point}");
    if received {
        assert!(delivered);
        assert!(lives(standin, &home.refresh_token()), "{point}: the delivered pair is lost");
        let report = home.force();
        assert_eq!(report["refreshed"], json!(true), "{point}: {report}");
        assert_eq!(report["generation"], json!(3), "{point}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_of_a_rotation_is_survived() {
    for point in POINTS {
        let standin = standin().await;
        let home = Home::new(&standin);
        home.log_in(&standin);
        assert_eq!(home.json(&["refresh"])["reason"], json!("adopted"));
        let died = home.command(&["refresh", "--force"]).env("EVERGRANT_CRASH_AT", point).output().unwrap();
        assert!(!died.status.success() && died.status.code().is_none(), "{point}: {}", shown(&died));
        recover(&home, &standin, point);
    }
}

/// A second crash at any point of the recovery from a first one.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_during_recovery_is_survived() {
    for first in ["receipt_written", "staged", "exchanged", "file_replaced"] {
        for second in ["locked", "fresh_written", "staged", "exchanged", "file_replaced", "record_written"] {
            let standin = standin().await;
            let home = Home::new(&standin);
            home.log_in(&standin);
            home.json(&["refresh"]);
            for point in [first, second] {
                home.command(&["refresh", "--force"]).env("EVERGRANT_CRASH_AT", point).output().unwrap();
            }
            let report = home.json(&["refresh"]);
            assert_eq!(report["error"], json!(null), "{first}, {second}: {report}");
            assert!(lives(&standin, &home.refresh_token()), "{first}, {second}");
            assert_eq!(standin.engine().counters().families_revoked_by_reuse, 0, "{first}, {second}");
            assert_eq!(home.force()["refreshed"], json!(true), "{first}, {second}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_doubt_with_a_grace_recovers_at_once() {
    for (point, successor) in [("intended", "same"), ("answered", "same"), ("answered", "new")] {
        let mut settings = standin_settings();
        settings.reuse = serde_json::from_value::<ReuseClass>(
            json!({ "class": "grace", "secs": 60, "successor": successor }),
        )
        .unwrap();
        let standin = StandIn::start(settings).await.unwrap();
        let home = Home::new(&standin);
        let more = "\n[providers.graceful]\nextends = \"claude\"\nreuse = { grace = 50 }\n";
        let text = std::fs::read_to_string(home.config()).unwrap();
        let text = text.replace("extends = \"claude\"", "extends = \"claude\"\nreuse = { grace = 50 }");
        std::fs::write(home.config(), text + more).unwrap();
        home.log_in(&standin);
        home.json(&["refresh"]);
        home.command(&["refresh", "--force"]).env("EVERGRANT_CRASH_AT", point).output().unwrap();
        let report = home.json(&["refresh"]);
        assert_eq!(
            (&report["error"], &report["refreshed"]),
            (&json!(null), &json!(true)),
            "{point}: {report}"
        );
        assert!(lives(&standin, &home.refresh_token()), "{point}");
    }
}

/// In doubt at a strict provider: served on, presented again near the end, and then a definite end.
#[tokio::test(flavor = "multi_thread")]
async fn in_doubt_at_a_strict_provider_ends_near_the_tokens_end() {
    for (point, renewed) in [("intended", true), ("answered", false)] {
        let mut settings = standin_settings();
        settings.lives.access_secs = 10;
        let standin = StandIn::start(settings).await.unwrap();
        let home = Home::new(&standin);
        home.log_in(&standin);
        home.json(&["refresh"]);
        home.command(&["refresh", "--force"]).env("EVERGRANT_CRASH_AT", point).output().unwrap();
        let in_doubt = home.json(&["refresh"]);
        assert_eq!(in_doubt["error"], json!("in_doubt"), "{point}: {in_doubt}");
        let presented = standin.engine().exchanges().len();
        assert_eq!(home.force()["error"], json!("in_doubt"), "{point}: not even a forced look presents it");
        assert_eq!(standin.engine().exchanges().len(), presented);
        crate::support::wait_until("a definite end", std::time::Duration::from_secs(30), || {
            let report = home.json(&["refresh"]);
            match renewed {
                true => report["refreshed"] == json!(true),
                false => report["error"] == json!("refresh_token_revoked"),
            }
        });
        let presented = standin.engine().exchanges().len();
        home.force();
        home.force();
        if !renewed {
            assert_eq!(standin.engine().exchanges().len(), presented, "a refusal is no loop");
        }
    }
}

/// The first login of a new machine, which has not even the folder.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_login_is_imported_into_a_folder_that_is_made_for_it() {
    let standin = standin().await;
    let home = Home::new(&standin);
    std::fs::remove_dir_all(home.auth_file.parent().unwrap()).unwrap();
    let login = standin.engine().login(LoginOptions::default()).auth_file();
    let fresh = home.folder.path().join("fresh.json");
    std::fs::write(&fresh, login.to_string()).unwrap();
    let output = home.run(&["import", fresh.to_str().unwrap(), "--move", "--json"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert_eq!(home.force()["refreshed"], json!(true));
    let timeline = shown(&home.run(&["status", "--timeline"]));
    for act in ["grant_imported by cli:", "refresh_forced by cli:"] {
        assert!(timeline.contains(act), "{timeline}");
    }
}

/// The way out of a revoked chain.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_imported_over_a_revoked_chain() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    home.json(&["refresh"]);
    standin.engine().push_fault(FaultTarget::Token, Fault::named("invalid_grant_400").unwrap(), 1);
    assert_eq!(home.force()["error"], json!("refresh_token_revoked"));
    let login = standin.engine().login(LoginOptions::default()).auth_file();
    let fresh = home.folder.path().join("fresh.json");
    std::fs::write(&fresh, login.to_string()).unwrap();
    let output = home.run(&["import", fresh.to_str().unwrap(), "--move", "--json"]);
    assert!(output.status.success(), "{}", shown(&output));
    assert!(!fresh.exists(), "--move removes the source");
    let report = home.force();
    assert_eq!((&report["refreshed"], &report["lineage"]), (&json!(true), &json!(2)));
}
