//! The refresh token becomes worthless: it is said once, and once more when a login brings the chain back.

use evergrant_core::alert::AlertState;
use evergrant_core::{Reason, RefreshToken, authfile};
use evergrant_server::keeper::Import;

use super::Steps;
use super::stage::Stage;

pub(super) async fn run(stage: &Stage, steps: &mut Steps) -> Result<(), String> {
    let saved = stage.grant().ok_or("the stage has no grant")?;
    let original = std::fs::read(&stage.file).map_err(|error| error.to_string())?;
    let prefix = stage.keeper.policy().profile.refresh_prefix.clone().unwrap_or_default();
    let bogus = RefreshToken::parse(&format!("{prefix}bogus-for-a-drill-000000000000"))
        .map_err(|error| error.to_string())?;
    let mut broken = saved.clone();
    broken.refresh = Some(bogus);
    std::fs::write(&stage.file, authfile::write(Some(&original), &broken))
        .map_err(|error| error.to_string())?;
    let report = stage.force().await;
    let error = report.error.map_or("none".to_owned(), |error| error.to_string());
    steps.step(
        "replace the refresh token by a bogus one, and force an exchange",
        "error refresh_token_revoked",
        report.error == Some(Reason::RefreshTokenRevoked),
        format!("error {error}"),
    );
    stage.minutes(2).await?;
    let alerts = stage.alerts("reauth_required");
    let opened = alerts.iter().filter(|alert| alert.state == AlertState::Open).count();
    let said =
        alerts.first().map_or("no alert".to_owned(), |alert| format!("{opened} alert: {}", alert.summary));
    steps.step("let the health monitor look", "one alert reauth_required", opened == 1, said);
    let command =
        alerts.first().and_then(|alert| alert.action.as_ref()).and_then(|action| action.commands.last());
    let pushes = command.is_some_and(|command| command.starts_with("evergrant agent push"));
    let shown = command.cloned().unwrap_or_else(|| "nothing".into());
    steps.step("read what it says to do", "evergrant agent push", pushes, shown);
    let restored = stage.keeper.import(saved).await;
    let (ok, happened) = match restored {
        Import::Taken(report) => (report.token_valid, report.reason.sentence().to_owned()),
        Import::Refused(refused) => (false, refused.detail),
    };
    steps.step("bring the saved grant back", "it is taken", ok, happened);
    let report = stage.force().await;
    let error = report.error.map_or("none".to_owned(), |error| error.to_string());
    steps.step("force an exchange", "it is renewed", report.ok && report.refreshed, format!("error {error}"));
    stage.minutes(7).await?;
    let recovered = stage.alerts("recovered");
    let said = recovered.first().map_or("no alert".to_owned(), |alert| alert.summary.clone());
    steps.step("let 7 minutes pass", "one alert recovered", recovered.len() == 1, said);
    Ok(())
}
