//! Every drill holds, and fails when what it checks is switched off.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use evergrant_lab::drill::{self, Drill, DrillReport, Off};

async fn run(drill: Drill, off: Option<Off>) -> DrillReport {
    drill::run(drill, off).await.unwrap()
}

/// The first step that did not come out.
fn first_fault(report: &DrillReport) -> Option<&str> {
    report.steps.iter().find(|step| !step.ok).map(|step| step.expected.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_drill_holds() {
    for drill in Drill::ALL {
        let report = run(drill, None).await;
        assert!(report.ok, "{report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_drill_notices_what_is_switched_off() {
    for (drill, off, fault) in [
        (
            Drill::ForceRefresh,
            Off::Exchange,
            "{\"ok\":true,\"refreshed\":true,\"token_present\":true,\"token_valid\":true,\"error\":null}",
        ),
        (Drill::Revoked, Off::Exchange, "error refresh_token_revoked"),
        (Drill::Revoked, Off::Monitor, "one alert reauth_required"),
        (Drill::Revoked, Off::Alerter, "one alert reauth_required"),
        (Drill::Silence, Off::PushTrack, "one alert mac_silent"),
        (Drill::Silence, Off::Monitor, "one alert mac_silent"),
        (Drill::Silence, Off::Alerter, "one alert mac_silent"),
        (Drill::Fallback, Off::FallbackKey, "the fallback key serves them"),
        (Drill::Fallback, Off::Monitor, "one alert fallback_active"),
        (Drill::Fallback, Off::Watch, "the fallback key serves them"),
    ] {
        let report = run(drill, Some(off)).await;
        assert!(!report.ok, "{drill:?} holds without {off:?}");
        assert_eq!(first_fault(&report), Some(fault), "{drill:?} without {off:?}: {report:#?}");
    }
}
