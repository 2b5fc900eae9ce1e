//! Rotations over real sockets: what each answer makes of the chain.

use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::keeper::{Look, Report};
use evergrant_core::provider::ReuseClass;
use evergrant_server::keeper::Import;
use evergrant_standin::{ExchangeOutcome, Fault, FaultTarget, LoginOptions, Member, Rule, Settings};
use evergrant_store::State;

use crate::fixture::{Fixture, chain, settings};

fn summary(report: &Report) -> (bool, bool, Option<Reason>, Reason) {
    (report.ok, report.refreshed, report.error, report.reason)
}

#[tokio::test]
async fn a_found_file_is_adopted_and_a_forced_look_renews_it() {
    let fixture = Fixture::new().await;
    let report = fixture.look().await;
    assert_eq!(summary(&report), (true, false, None, Reason::Adopted));
    assert_eq!((report.lineage.unwrap().0, report.generation.unwrap().0), (1, 1));

    let before = fixture.scratch.refresh_token();
    let report = fixture.force().await;
    assert_eq!(summary(&report), (true, true, None, Reason::Renewed));
    assert_eq!((report.lineage.unwrap().0, report.generation.unwrap().0), (1, 2));
    assert_ne!(fixture.scratch.refresh_token(), before);
    fixture.assert_alive();

    let current = fixture.scratch.snapshots.current(&chain()).unwrap();
    assert_eq!(current.access.expose(), fixture.scratch.read()["claudeAiOauth"]["accessToken"]);
    let kinds: Vec<_> = fixture.world_events().await.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["adopted", "intended", "committed"]);
}

impl Fixture {
    async fn world_events(&self) -> Vec<evergrant_core::event::Event> {
        use evergrant_server::World;
        let events = self.world.state().events(&chain(), 0, 1000).await.unwrap();
        events.into_iter().map(|numbered| numbered.event).collect()
    }
}

/// Every scripted fault: what the report says, whether the pair was presented once, and that the chain lives on
/// afterwards where the provider let it.
#[tokio::test]
async fn every_answer_has_its_report() {
    for (fault, error) in [
        ("throttled", Some(Reason::ProviderThrottled)),
        ("throttled_retry_after", Some(Reason::ProviderThrottled)),
        ("empty_500", Some(Reason::InDoubt)),
        ("html_502", Some(Reason::InDoubt)),
        ("text_503", Some(Reason::InDoubt)),
        ("html_504", Some(Reason::InDoubt)),
        ("text_529", Some(Reason::InDoubt)),
        ("api_error_500", Some(Reason::InDoubt)),
        ("overloaded_503", Some(Reason::ProviderUnavailable)),
        ("overloaded_529", Some(Reason::ProviderUnavailable)),
        ("spent_then_500", Some(Reason::InDoubt)),
        ("timeout_408", Some(Reason::InDoubt)),
        ("blocked_403", Some(Reason::ProviderBlocked)),
        ("blocked_404", Some(Reason::ProviderBlocked)),
        ("accepted_202", Some(Reason::InDoubt)),
        ("no_content_204", Some(Reason::InDoubt)),
        ("redirect_302", Some(Reason::InDoubt)),
        ("other_422", Some(Reason::ClientRejected)),
        ("invalid_grant_400", Some(Reason::RefreshTokenRevoked)),
        ("invalid_grant_401", Some(Reason::RefreshTokenRevoked)),
        ("invalid_grant_403", Some(Reason::RefreshTokenRevoked)),
        ("invalid_grant_object_400", Some(Reason::RefreshTokenRevoked)),
        ("invalid_grant_object_401", Some(Reason::RefreshTokenRevoked)),
        ("invalid_grant_object_403", Some(Reason::RefreshTokenRevoked)),
        ("invalid_client", Some(Reason::ClientRejected)),
        ("unauthorized_client", Some(Reason::ClientRejected)),
        ("unsupported_grant_type", Some(Reason::ClientRejected)),
        ("invalid_request", Some(Reason::ClientRejected)),
        ("invalid_scope", Some(Reason::ClientRejected)),
        ("request_lost", Some(Reason::InDoubt)),
        ("answer_lost", Some(Reason::InDoubt)),
        ("truncated_json", Some(Reason::InDoubt)),
        ("cut_body", Some(Reason::InDoubt)),
        ("not_a_token", Some(Reason::InDoubt)),
        ("huge_body", Some(Reason::InDoubt)),
        ("no_access_token", Some(Reason::InDoubt)),
        ("no_refresh_token", None),
        ("no_expires_in", None),
        ("no_scope", None),
        ("clock_ahead", None),
    ] {
        let fixture = Fixture::new().await;
        fixture.look().await;
        let fault_named = Fault::named(fault).unwrap_or_else(|| panic!("{fault}"));
        fixture.standin.engine().push_fault(FaultTarget::Token, fault_named, 1);
        let before = fixture.scratch.refresh_token();
        let report = fixture.force().await;
        assert_eq!(report.error, error, "{fault}: {report:?}");
        assert_eq!(report.refreshed, error.is_none(), "{fault}");
        assert!(report.token_valid, "{fault}: the access token still lives");
        assert_eq!(fixture.standin.engine().exchanges().len(), 1, "{fault}: presented once");
        if error.is_some() {
            assert_eq!(fixture.scratch.refresh_token(), before, "{fault}: the vault is untouched");
        }
        // Nothing is presented again without a reason to.
        fixture.look().await;
        assert_eq!(fixture.standin.engine().exchanges().len(), 1, "{fault}: presented once more");
        assert_eq!(fixture.standin.engine().counters().families_revoked_by_reuse, 0, "{fault}");
    }
}

#[tokio::test]
async fn what_the_answer_leaves_out_is_kept() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let omit = Fault::Omit { members: vec![Member::RefreshToken, Member::ExpiresIn, Member::Scope] };
    let never =
        Settings { rotation: serde_json::from_str(r#"{"when":"never_omitted"}"#).unwrap(), ..settings() };
    fixture.standin.engine().change_settings(|settings| settings.rotation = never.rotation);
    fixture.standin.engine().push_fault(FaultTarget::Token, omit, 1);
    let before = fixture.scratch.read();
    let report = fixture.force().await;
    assert!(report.refreshed);
    let after = fixture.scratch.read();
    for member in ["refreshToken", "scopes", "subscriptionType"] {
        assert_eq!(after["claudeAiOauth"][member], before["claudeAiOauth"][member], "{member}");
    }
    // The repeated refresh token is not spent: it may be presented again.
    assert!(fixture.force().await.refreshed);
    fixture.assert_alive();
}

#[tokio::test]
async fn a_grace_lets_a_lost_answer_be_fetched_at_once() {
    let settings: Settings = Settings {
        reuse: serde_json::from_str(r#"{"class":"grace","secs":30,"successor":"new"}"#).unwrap(),
        ..settings()
    };
    let fixture = Fixture::with(settings, |policy| {
        policy.profile.reuse = ReuseClass::Grace { secs: 20 };
    })
    .await;
    fixture.look().await;
    fixture.standin.engine().push_fault(FaultTarget::Token, Fault::AnswerLost, 1);
    let report = fixture.force().await;
    assert_eq!(summary(&report), (true, true, None, Reason::Renewed));
    let outcomes: Vec<_> =
        fixture.standin.engine().exchanges().iter().map(|exchange| exchange.outcome).collect();
    assert_eq!(outcomes, [ExchangeOutcome::Rotated, ExchangeOutcome::Graced]);
    fixture.assert_alive();
}

#[tokio::test]
async fn a_late_answer_is_read_on_and_committed() {
    let fixture = Fixture::with(settings(), |policy| policy.deadline = Duration::from_millis(200)).await;
    fixture.look().await;
    fixture.standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 700 }, 1);
    let before = fixture.scratch.refresh_token();
    let report = fixture.force().await;
    assert_eq!((report.error, report.refreshed), (Some(Reason::InDoubt), false));
    // Meanwhile nobody presents the pair again, however often somebody asks.
    let meanwhile = fixture.force().await;
    assert_eq!(meanwhile.error, Some(Reason::InDoubt));
    assert_eq!(fixture.standin.engine().exchanges().len(), 1);
    fixture.world.settled().await;
    assert_ne!(fixture.scratch.refresh_token(), before);
    let report = fixture.look().await;
    assert_eq!((report.error, report.generation.unwrap().0), (None, 2));
    fixture.assert_alive();
}

#[tokio::test]
async fn revoked_is_final_until_the_vault_changes() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    fixture.standin.engine().revoke_all();
    assert_eq!(fixture.force().await.error, Some(Reason::RefreshTokenRevoked));
    for _ in 0..3 {
        assert_eq!(fixture.force().await.error, Some(Reason::RefreshTokenRevoked));
    }
    assert_eq!(fixture.standin.engine().exchanges().len(), 1);

    fixture.scratch.write(&fixture.standin.engine().login(LoginOptions::default()).auth_file());
    let report = fixture.look().await;
    assert_eq!(summary(&report), (true, false, None, Reason::Adopted));
    assert_eq!((report.lineage.unwrap().0, report.generation.unwrap().0), (2, 1));
    assert!(fixture.force().await.refreshed);
}

#[tokio::test]
async fn a_login_during_an_exchange_wins() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    fixture.standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 300 }, 1);
    let keeper = fixture.keeper.clone();
    let exchange = tokio::spawn(async move { keeper.look(Look::Forced).await });
    while fixture.standin.engine().counters().exchanges == 0 {
        tokio::task::yield_now().await;
    }
    let login = fixture.standin.engine().login(LoginOptions::default()).auth_file();
    fixture.scratch.write(&login);
    let report = exchange.await.unwrap();
    assert_eq!(fixture.scratch.read(), login, "the new login was overwritten");
    assert_eq!((report.error, report.lineage.unwrap().0), (None, 2));
    fixture.assert_alive();
}

#[tokio::test]
async fn an_import_is_judged_and_taken() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let spent = fixture.scratch.read();
    fixture.force().await;

    let grant = |file: &serde_json::Value| {
        let bytes = serde_json::to_vec(file).unwrap();
        match evergrant_core::authfile::read(&bytes, &fixture.keeper.policy().profile) {
            evergrant_core::authfile::Reading::Grant(grant) => grant,
            other @ (evergrant_core::authfile::Reading::Wiped
            | evergrant_core::authfile::Reading::Malformed(_)) => panic!("{other:?}"),
        }
    };
    let before = fixture.scratch.read();
    match fixture.keeper.import(grant(&spent)).await {
        Import::Refused(refused) => assert_eq!(refused.reason, Reason::GrantSpent),
        Import::Taken(report) => panic!("a spent pair was taken: {report:?}"),
    }
    assert_eq!(fixture.scratch.read(), before);

    let login = fixture.standin.engine().login(LoginOptions::default()).auth_file();
    match fixture.keeper.import(grant(&login)).await {
        Import::Taken(report) => {
            assert_eq!((report.lineage.unwrap().0, report.reason), (2, Reason::Imported))
        }
        Import::Refused(refused) => panic!("{refused:?}"),
    }
    match fixture.keeper.import(grant(&login)).await {
        Import::Taken(report) => assert_eq!(report.reason, Reason::SameGrant),
        Import::Refused(refused) => panic!("{refused:?}"),
    }
    assert!(fixture.force().await.refreshed);
    fixture.assert_alive();

    let foreign = serde_json::json!({"claudeAiOauth": {"accessToken": "other-x", "refreshToken": "other-y"}});
    assert_eq!(fixture.keeper.judge(&grant(&foreign)).unwrap_err().reason, Reason::WrongPrefix);
}

#[tokio::test]
async fn a_refused_access_token_forces_a_renewal_once() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let rule = Rule::new(FaultTarget::Probe, Fault::named("spurious_401").unwrap(), 1);
    fixture.standin.engine().push_rule(rule);
    let report =
        evergrant_server::probe::probe(&fixture.keeper, &fixture.world, &fixture.scratch.snapshots, None)
            .await;
    assert_eq!((report.ok, report.reason), (false, Reason::ProbeRefused));
    assert_eq!(report.renewal, Some(Reason::Renewed));
    assert_eq!(fixture.standin.engine().counters().rotations, 1);
    // A 401 of the generation before makes the new one not due.
    let late = fixture.keeper.access_refused(report.lineage.unwrap(), report.generation.unwrap()).await;
    assert_eq!((late.reason, late.refreshed), (Reason::NotDue, false));
    let report =
        evergrant_server::probe::probe(&fixture.keeper, &fixture.world, &fixture.scratch.snapshots, None)
            .await;
    assert_eq!((report.ok, report.reason, report.message_status), (true, Reason::ProbeOk, None));
    let message = evergrant_server::probe::MessageProbe::default();
    let snapshots = &fixture.scratch.snapshots;
    let report =
        evergrant_server::probe::probe(&fixture.keeper, &fixture.world, snapshots, Some(&message)).await;
    assert_eq!((report.ok, report.message_status), (true, Some(200)));
}

#[tokio::test]
async fn without_accepted_terms_nothing_is_done() {
    let fixture = Fixture::new().await;
    let scratch = &fixture.scratch;
    let keeper = evergrant_server::Keeper::new(
        fixture.world.clone(),
        chain(),
        fixture.keeper.policy().clone(),
        false,
        fixture.keeper.vault().clone(),
        scratch.snapshots.clone(),
        scratch.metrics.clone(),
    );
    let before = scratch.read();
    let report = keeper.look(Look::Forced).await;
    assert_eq!((report.ok, report.error), (false, Some(Reason::TermsNotAccepted)));
    assert!(report.detail.unwrap().contains("accept_provider_terms"));
    assert_eq!(scratch.read(), before);
    assert!(scratch.snapshots.current(&chain()).is_none());
    assert!(fixture.standin.engine().exchanges().is_empty());
}
