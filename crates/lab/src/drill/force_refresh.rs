//! A forced exchange: a new generation, in the auth file, that works.

use evergrant_server::probe::probe_token;
use evergrant_server::renewable::Pass;
use serde_json::json;

use super::Steps;
use super::stage::Stage;

pub(super) async fn run(stage: &Stage, steps: &mut Steps) -> Result<(), String> {
    let before = stage.grant().ok_or("the stage has no grant")?;
    let first = stage.keeper.last_report().and_then(|report| report.generation);
    let report = stage.force().await;
    let shown = json!({
        "ok": report.ok, "refreshed": report.refreshed, "token_present": report.token_present,
        "token_valid": report.token_valid, "error": report.error,
    });
    let expected = json!({
        "ok": true, "refreshed": true, "token_present": true, "token_valid": true, "error": null,
    });
    steps.step("force an exchange", &expected.to_string(), shown == expected, shown.to_string());
    let (was, is) = (first.map_or(0, |generation| generation.0), report.generation.map_or(0, |now| now.0));
    let happened = format!("generation {was}, then {is}");
    steps.step("compare the generations", "one more than before", is == was + 1, happened);
    let after = stage.grant();
    let replaced = after.as_ref().is_some_and(|after| after.pair() != before.pair());
    let happened = match (&after, replaced) {
        (Some(_), true) => "the auth file holds another pair",
        (Some(_), false) => "the auth file holds the old pair",
        (None, _) => "the auth file holds no grant",
    };
    steps.step("read the auth file", "it holds the new pair", replaced, happened);
    let Some(after) = after else { return Ok(()) };
    let profile = &stage.keeper.policy().profile;
    let probed =
        probe_token(stage.world.inner().client(), profile, &Pass::AccessToken(after.access), None).await;
    let reason = probed.verdict.reason();
    let works = reason == evergrant_core::Reason::ProbeOk;
    steps.step("probe the new access token", "the API takes it", works, reason.sentence());
    Ok(())
}
