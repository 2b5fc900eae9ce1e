//! Chains whose renewal spends nothing, over real sockets: what is sent, what each answer leaves, and what happens to
//! the file of the identity token.

use std::path::PathBuf;
use std::time::Duration;

use evergrant_core::chain::{Generation, Lineage};
use evergrant_core::event::Event;
use evergrant_core::keeper::{Look, Policy, Report};
use evergrant_core::provider::{self, Profile};
use evergrant_core::secret::ClientSecret;
use evergrant_core::{Fingerprint, Reason};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::minter::Grounds;
use evergrant_server::probe::probe;
use evergrant_server::{Minter, Renewable, Snapshots, TokioWorld, Wake, World};
use evergrant_standin::{Capability, Client, ClientAuth, Fault, FaultTarget, Federation, Settings, StandIn};
use evergrant_store::{MemoryState, State};
use futures_channel::mpsc;
use tempfile::TempDir;

use crate::fixture::{chain, policy, profile, settings};

/// Assertions that are obviously nobody's.
const JWT: &str = "test.jwt.one";
const OTHER_JWT: &str = "test.jwt.two";

/// A provider that takes workloads, with everything that the built-in profile documents.
pub(crate) fn federated() -> Settings {
    let profile = Profile::claude();
    let federation = profile.federation.unwrap();
    let (header, value) = profile.token_headers[0].clone();
    let member = |name: &String| (name.clone(), Some(format!("{name}-1")));
    Settings {
        capability: Some(Capability {
            header,
            value,
            federation_value: federation.append.map(|(_, value)| value),
            on_exchange: true,
        }),
        federation: Some(Federation {
            members: federation.needs.iter().map(member).collect(),
            optional: federation.may_have,
        }),
        assertions: vec![JWT.into()],
        ..settings()
    }
}

/// The members that such a provider wants.
pub(crate) fn members() -> Vec<(String, String)> {
    let needs = Profile::claude().federation.unwrap().needs;
    needs.into_iter().map(|name| (name.clone(), format!("{name}-1"))).collect()
}

struct Fixture {
    folder: TempDir,
    standin: StandIn,
    world: TokioWorld<MemoryState>,
    snapshots: Snapshots,
    policy: Policy,
    minter: Minter<TokioWorld<MemoryState>>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(federated(), |_| {}).await
    }

    async fn with(settings: Settings, change: impl FnOnce(&mut Policy)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token.jwt");
        std::fs::write(&file, format!("{JWT}\n")).unwrap();
        let grounds = Grounds { identity_token_file: Some(file), members: members() };
        Self::from(folder, grounds, settings, change).await
    }

    async fn from(
        folder: TempDir,
        grounds: Grounds,
        settings: Settings,
        change: impl FnOnce(&mut Policy),
    ) -> Self {
        let standin = StandIn::start(settings.clone()).await.unwrap();
        let world = TokioWorld::new(MemoryState::new(), HttpClient::new(None).unwrap());
        let mut policy = policy(profile(standin.url().as_ref(), &settings));
        change(&mut policy);
        let snapshots = Snapshots::default();
        let minter = Minter::new(
            world.clone(),
            chain(),
            policy.clone(),
            grounds,
            snapshots.clone(),
            Metrics::default(),
        );
        Self { folder, standin, world, snapshots, policy, minter }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("token.jwt")
    }

    async fn look(&self) -> Report {
        self.minter.look(Look::Due).await
    }

    async fn force(&self) -> Report {
        self.minter.look(Look::Forced).await
    }

    fn exchanges(&self) -> usize {
        self.standin.engine().exchanges().len()
    }

    fn token(&self) -> String {
        self.snapshots.current(&chain()).unwrap().access.expose().to_owned()
    }

    async fn events(&self) -> Vec<Event> {
        let events = self.world.state().events(&chain(), 0, 1000).await.unwrap();
        events.into_iter().map(|numbered| numbered.event).collect()
    }

    /// Runs the loop until a report satisfies, and gives that one.
    async fn run_until(
        &self,
        wakes: mpsc::UnboundedReceiver<Wake>,
        holds: impl Fn(&Report) -> bool,
    ) -> Report {
        let minter = self.minter.clone();
        let task = tokio::spawn(async move { minter.run(wakes).await });
        let found = self.wait_for(holds).await;
        task.abort();
        found
    }

    async fn wait_for(&self, holds: impl Fn(&Report) -> bool) -> Report {
        let looked = async {
            loop {
                if let Some(report) = self.minter.last_report().filter(|report| holds(report)) {
                    return report;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), looked).await.expect("it holds in time")
    }
}

fn summary(report: &Report) -> (bool, bool, Option<Reason>, Reason) {
    (report.ok, report.refreshed, report.error, report.reason)
}

fn position(report: &Report) -> (u64, u64) {
    (report.lineage.unwrap().0, report.generation.unwrap().0)
}

#[tokio::test]
async fn a_workload_gets_a_token_that_the_api_accepts_and_keeps_it_until_it_is_due() {
    let fixture = Fixture::new().await;
    let report = fixture.look().await;
    assert_eq!(summary(&report), (true, true, None, Reason::Renewed), "{report:?}");
    assert_eq!(position(&report), (1, 1));
    let life = report.expires_at.unwrap().duration_since(fixture.world.now()).as_secs();
    assert!((3590..=3600).contains(&life), "{life}");
    assert_eq!(summary(&fixture.look().await), (true, false, None, Reason::NotDue));
    assert_eq!(fixture.exchanges(), 1);
    let exchange = fixture.standin.engine().exchanges()[0].clone();
    assert_eq!(exchange.presented.unwrap().to_string(), Fingerprint::of(JWT.as_bytes()).to_string());

    let probed = probe(&fixture.minter, &fixture.world, &fixture.snapshots, None).await;
    assert_eq!((probed.ok, probed.probe_status, probed.round_trip_status), (true, Some(200), Some(200)));

    let report = fixture.force().await;
    assert_eq!((summary(&report), position(&report)), ((true, true, None, Reason::Renewed), (1, 2)));
    let events = fixture.events().await;
    let kinds: Vec<_> = events.iter().map(|event| (event.kind.as_str(), event.generation.0)).collect();
    assert_eq!(kinds, [("committed", 1), ("probed", 1), ("committed", 2)]);
    let text = serde_json::to_string(&events).unwrap();
    assert!(!text.contains(&fixture.token()) && !text.contains(JWT), "{text}");
    assert!(text.contains("\"kind\":\"jwt_bearer\""), "{text}");
}

#[tokio::test]
async fn the_rfcs_way_and_client_credentials_work_at_providers_of_ones_own() {
    for (auth, mine) in [
        (
            ClientAuth::ClientSecretBasic,
            provider::ClientAuth::Basic as fn(ClientSecret) -> provider::ClientAuth,
        ),
        (ClientAuth::ClientSecretPost, provider::ClientAuth::Post),
    ] {
        for encoding in [provider::Encoding::Form, provider::Encoding::Json] {
            for workload in [true, false] {
                let client = Client { id: Some("me".into()), secret: Some("s&cret".into()), auth };
                let theirs = Settings { client, assertions: vec![JWT.into()], ..settings() };
                let folder = tempfile::tempdir().unwrap();
                let file = folder.path().join("token.jwt");
                std::fs::write(&file, JWT).unwrap();
                let members = vec![("scope".to_owned(), "user:profile".to_owned())];
                let grounds = Grounds { identity_token_file: workload.then_some(file), members };
                let secret = ClientSecret::parse("s&cret").unwrap();
                let fixture = Fixture::from(folder, grounds, theirs, |policy| {
                    policy.profile.federation = None;
                    policy.profile.token_headers.clear();
                    policy.profile.encoding = encoding;
                    policy.profile.client_auth = mine(secret);
                })
                .await;
                let report = fixture.look().await;
                assert_eq!(report.error, None, "{auth:?} {encoding:?} {workload}: {report:?}");
                let client = |client: &mut Settings| client.client.secret = Some("other".into());
                fixture.standin.engine().change_settings(client);
                // The assertion proves a workload; the secret proves a client.
                let error = (!workload).then_some(Reason::ClientRejected);
                assert_eq!(fixture.force().await.error, error, "{auth:?} {encoding:?} {workload}");
            }
        }
    }
}

#[tokio::test]
async fn a_denial_is_retried_with_back_off_and_another_identity_token_is_tried_at_once() {
    let fixture = Fixture::new().await;
    fixture.standin.engine().change_settings(|settings| settings.assertions = vec![OTHER_JWT.into()]);
    let (wake, wakes) = mpsc::unbounded();
    let minter = fixture.minter.clone();
    let task = tokio::spawn(async move { minter.run(wakes).await });
    let denied = fixture.wait_for(|report| report.error == Some(Reason::ClientRejected)).await;
    assert_eq!((denied.ok, denied.token_present), (false, false));
    assert!(denied.detail.unwrap().contains("401"));
    // What did not change is no news.
    wake.unbounded_send(Wake::FileChanged).unwrap();
    let many = fixture.look().await;
    assert_eq!(summary(&many), (false, false, Some(Reason::ClientRejected), Reason::ClientRejected));
    assert!(fixture.exchanges() <= 4);
    std::fs::write(fixture.file(), OTHER_JWT).unwrap();
    wake.unbounded_send(Wake::FileChanged).unwrap();
    let minted = fixture.wait_for(|report| report.ok).await;
    assert_eq!(position(&minted), (1, 1));
    task.abort();
    let events = fixture.events().await;
    assert_eq!((events[0].kind.as_str(), events[0].reason), ("unspent", Reason::ClientRejected));
    assert_eq!(events[0].generation, Generation(0));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_sends_nothing_and_says_so() {
    let fixture = Fixture::new().await;
    std::fs::remove_file(fixture.file()).unwrap();
    let check = |report: &Report, says: &str| {
        assert_eq!(report.error, Some(Reason::IdentityTokenUnusable), "{report:?}");
        let detail = report.detail.as_deref().unwrap();
        assert!(detail.contains(says) && detail.contains("token.jwt"), "{detail}");
    };
    check(&fixture.look().await, "cannot be read");
    for (bytes, says) in [
        (vec![], "it is empty"),
        (b" \n".to_vec(), "it is empty"),
        (vec![b'x'; 16 * 1024 + 1], "too large"),
        (b"two words".to_vec(), "a character that no token has"),
        (vec![0xff], "not text"),
    ] {
        std::fs::write(fixture.file(), bytes).unwrap();
        check(&fixture.force().await, says);
    }
    assert_eq!(fixture.exchanges(), 0);
    // It is there at last: nobody waits for the back-off.
    let (wake, wakes) = mpsc::unbounded();
    std::fs::write(fixture.file(), JWT).unwrap();
    wake.unbounded_send(Wake::FileChanged).unwrap();
    assert_eq!(position(&fixture.run_until(wakes, |report| report.ok).await), (1, 1));
}

#[tokio::test]
async fn a_file_that_goes_away_leaves_the_living_token() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let token = fixture.token();
    std::fs::remove_file(fixture.file()).unwrap();
    let report = fixture.force().await;
    assert_eq!((report.error, report.token_valid), (Some(Reason::IdentityTokenUnusable), true));
    assert_eq!(fixture.token(), token);
    assert_eq!(fixture.exchanges(), 1);
}

/// Every scripted fault: nothing is spent, the living token stays, and the next attempt gets another one.
#[tokio::test]
async fn every_answer_has_its_report() {
    for (fault, error) in [
        ("throttled", Some(Reason::ProviderThrottled)),
        ("empty_500", Some(Reason::ProviderUnavailable)),
        ("html_502", Some(Reason::ProviderUnavailable)),
        ("text_503", Some(Reason::ProviderUnavailable)),
        ("overloaded_503", Some(Reason::ProviderUnavailable)),
        ("overloaded_529", Some(Reason::ProviderUnavailable)),
        ("timeout_408", Some(Reason::ProviderUnavailable)),
        ("blocked_403", Some(Reason::ProviderBlocked)),
        ("blocked_404", Some(Reason::ProviderBlocked)),
        ("no_content_204", Some(Reason::ProviderUnavailable)),
        ("redirect_302", Some(Reason::ProviderUnavailable)),
        ("other_422", Some(Reason::ClientRejected)),
        ("invalid_grant_400", Some(Reason::ClientRejected)),
        ("invalid_client", Some(Reason::ClientRejected)),
        ("invalid_scope", Some(Reason::ClientRejected)),
        ("request_lost", Some(Reason::ProviderUnavailable)),
        ("answer_lost", Some(Reason::ProviderUnavailable)),
        ("truncated_json", Some(Reason::ProviderUnavailable)),
        ("cut_body", Some(Reason::ProviderUnavailable)),
        ("not_a_token", Some(Reason::ProviderUnavailable)),
        ("huge_body", Some(Reason::ProviderUnavailable)),
        ("no_access_token", Some(Reason::ProviderUnavailable)),
        ("no_expires_in", None),
        ("no_scope", None),
        ("clock_ahead", None),
    ] {
        let fixture = Fixture::new().await;
        fixture.look().await;
        let before = fixture.token();
        let fault_named = Fault::named(fault).unwrap_or_else(|| panic!("{fault}"));
        fixture.standin.engine().push_fault(FaultTarget::Token, fault_named, 1);
        let report = fixture.force().await;
        assert_eq!(report.error, error, "{fault}: {report:?}");
        assert_eq!(report.refreshed, error.is_none(), "{fault}");
        assert!(report.token_valid, "{fault}: the access token still lives");
        assert_eq!(fixture.token() == before, error.is_some(), "{fault}");
        if fault == "no_access_token" {
            assert!(report.detail.unwrap().contains("without an access token"));
        }
        let report = fixture.force().await;
        assert_eq!((report.error, report.refreshed), (None, true), "{fault}: the next one");
        assert_ne!(fixture.token(), before, "{fault}");
        assert_eq!(fixture.standin.engine().counters().max_concurrent_exchanges, 1, "{fault}");
    }
}

#[tokio::test]
async fn what_the_provider_asks_for_binds_a_forced_one_too() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let unavailable = Fault::named("overloaded_503").unwrap();
    for fault in [Fault::throttled(Some(600)), unavailable] {
        fixture.standin.engine().push_fault(FaultTarget::Token, fault, 1);
    }
    let report = fixture.force().await;
    assert_eq!((report.error, report.token_valid), (Some(Reason::ProviderThrottled), true));
    for look in [Look::Forced, Look::Due] {
        assert_eq!(fixture.minter.look(look).await.error, Some(Reason::ProviderThrottled));
    }
    assert_eq!(fixture.exchanges(), 2);
}

#[tokio::test]
async fn no_answer_within_the_deadline_is_given_up_on() {
    let fixture = Fixture::with(federated(), |policy| policy.deadline = Duration::from_millis(300)).await;
    let never = Fault::NeverAnswer { processed: true };
    fixture.standin.engine().push_fault(FaultTarget::Token, never, 1);
    let report = fixture.look().await;
    assert_eq!(report.error, Some(Reason::ProviderUnavailable));
    assert!(report.detail.unwrap().contains("no answer within"));
    assert_eq!(fixture.force().await.error, None);
}

#[tokio::test]
async fn many_that_force_at_once_share_one_exchange() {
    let fixture = Fixture::new().await;
    let slow = Fault::DelayAfter { millis: 200 };
    fixture.standin.engine().push_fault(FaultTarget::Token, slow, 1);
    let (one, two, three) = tokio::join!(fixture.force(), fixture.force(), fixture.look());
    assert_eq!(fixture.exchanges(), 1);
    for report in [&one, &two, &three] {
        assert_eq!((summary(report), position(report)), ((true, true, None, Reason::Renewed), (1, 1)));
    }
    // A caller that leaves does not take the exchange with it.
    let slow = Fault::DelayAfter { millis: 300 };
    fixture.standin.engine().push_fault(FaultTarget::Token, slow, 1);
    let left = tokio::time::timeout(Duration::from_millis(50), fixture.force()).await;
    assert!(left.is_err());
    fixture.wait_for(|report| report.generation == Some(Generation(2))).await;
    assert_eq!(fixture.exchanges(), 2);
}

#[tokio::test]
async fn a_revoked_token_is_replaced_and_an_older_one_changes_nothing() {
    let fixture = Fixture::new().await;
    fixture.look().await;
    let first = fixture.token();
    assert!(fixture.standin.engine().revoke(&first));
    let probed = probe(&fixture.minter, &fixture.world, &fixture.snapshots, None).await;
    assert_eq!((probed.reason, probed.renewal), (Reason::ProbeRefused, Some(Reason::Renewed)));
    assert_ne!(fixture.token(), first);
    let probed = probe(&fixture.minter, &fixture.world, &fixture.snapshots, None).await;
    assert_eq!((probed.ok, probed.generation), (true, Some(Generation(2))));
    // Whoever saw the first one refused comes late.
    let report = fixture.minter.access_refused((Lineage(1), Generation(1))).await;
    assert_eq!(summary(&report), (true, false, None, Reason::NotDue));
    let all = (0..5).map(|_| fixture.minter.access_refused((Lineage(1), Generation(2))));
    let reports = futures_util::future::join_all(all).await;
    assert!(reports.iter().all(|report| report.generation == Some(Generation(3))), "{reports:?}");
    assert_eq!(fixture.exchanges(), 3, "one for all that saw it");
}

#[tokio::test]
async fn a_token_that_is_refused_again_and_again_is_not_minted_without_end() {
    let hour = Duration::from_secs(3600);
    let fixture = Fixture::with(federated(), |policy| policy.min_exchange_interval = hour).await;
    fixture.look().await;
    let current = (Lineage(1), Generation(1));
    let report = fixture.minter.access_refused(current).await;
    assert_eq!((report.token_valid, report.refreshed, report.ok), (false, false, false));
    let shown = fixture.snapshots.current(&chain()).unwrap();
    assert!(shown.refused && !shown.usable(fixture.world.now()), "readers see it at once");
    assert_eq!(fixture.force().await.reason, Reason::TooSoon);
    assert_eq!(fixture.exchanges(), 1);
}

#[tokio::test]
async fn positions_grow_when_the_same_token_comes_again_and_in_every_process() {
    let fixture = Fixture::with(Settings { repeats_minted: true, ..federated() }, |_| {}).await;
    fixture.look().await;
    let token = fixture.token();
    let report = fixture.force().await;
    assert_eq!((position(&report), fixture.token()), ((1, 2), token));
    // Another process: nothing in memory, the same ledger.
    let other = |snapshots: Snapshots| {
        let grounds = fixture.minter.grounds().clone();
        let (world, policy) = (fixture.world.clone(), fixture.policy.clone());
        Minter::new(world, chain(), policy, grounds, snapshots, Metrics::default())
    };
    assert_eq!(position(&other(Snapshots::default()).look(Look::Due).await), (1, 3));
    // And the same process with another configuration: its readers go forwards only.
    let report = other(fixture.snapshots.clone()).look(Look::Due).await;
    assert_eq!(position(&report), (1, 4));
    assert_eq!(fixture.snapshots.current(&chain()).unwrap().position, (Lineage(1), Generation(4)));
}
