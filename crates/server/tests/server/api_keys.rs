//! Chains that are an API key: the file says which one, the API whether it works.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use evergrant_core::chain::{Generation, Lineage};
use evergrant_core::event::Event;
use evergrant_core::{ApiKey, Reason};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::probe::{MessageProbe, probe};
use evergrant_server::renewable::Pass;
use evergrant_server::{ApiKeyChain, Renewable, Snapshots, TokioWorld, Wake, World};
use evergrant_standin::{Settings, Source, StandIn};
use evergrant_store::{MemoryState, State};
use futures_channel::mpsc;
use tempfile::TempDir;

use crate::fixture::{ACCESS_PREFIX, chain, profile, settings};

/// Keys that are obviously nobody's.
const KEY: &str = "test-key-one";
const OTHER_KEY: &str = "test-key-two";

struct Fixture {
    _folder: TempDir,
    file: PathBuf,
    standin: StandIn,
    world: TokioWorld<MemoryState>,
    snapshots: Snapshots,
    chain: ApiKeyChain<TokioWorld<MemoryState>>,
}

impl Fixture {
    async fn new() -> Self {
        let settings = Settings { api_keys: vec![KEY.into(), OTHER_KEY.into()], ..settings() };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("api-key");
        std::fs::write(&file, format!("{KEY}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let standin = StandIn::start(settings.clone()).await.unwrap();
        let world = TokioWorld::new(MemoryState::new(), HttpClient::new(None).unwrap());
        let snapshots = Snapshots::default();
        let chain = ApiKeyChain::new(
            world.clone(),
            chain(),
            profile(standin.url().as_ref(), &settings),
            file.clone(),
            snapshots.clone(),
            Metrics::default(),
        );
        Self { _folder: folder, file, standin, world, snapshots, chain }
    }

    fn shown(&self) -> (u64, String) {
        let current = self.snapshots.current(&chain()).unwrap();
        assert!(current.usable(self.world.now()));
        assert_eq!(current.position.1, Generation(1));
        (current.position.0.0, current.access.expose().to_owned())
    }

    async fn events(&self) -> Vec<Event> {
        let events = self.world.state().events(&chain(), 0, 1000).await.unwrap();
        events.into_iter().map(|numbered| numbered.event).collect()
    }
}

#[tokio::test]
async fn a_key_is_shown_to_readers_and_accepted_by_the_api() {
    let fixture = Fixture::new().await;
    let report = fixture.chain.look().await;
    assert_eq!((report.ok, report.error, report.reason), (true, None, Reason::NothingToRenew));
    assert_eq!((report.expires_at, report.renew_at), (None, None));
    assert_eq!(fixture.shown(), (1, KEY.into()));
    let mode = std::fs::metadata(&fixture.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it is tightened");

    let message = MessageProbe::default();
    let probed = probe(&fixture.chain, &fixture.world, &fixture.snapshots, Some(&message)).await;
    assert_eq!((probed.ok, probed.reason), (true, Reason::ProbeOk), "{probed:?}");
    assert_eq!(
        (probed.probe_status, probed.round_trip_status, probed.message_status),
        (None, Some(200), Some(200))
    );
    let sightings = fixture.standin.engine().sightings();
    assert!(sightings.iter().all(|sighting| sighting.source == Source::ApiKey), "{sightings:?}");
    let current = fixture.snapshots.current(&chain()).unwrap();
    assert_eq!(Pass::of(&fixture.chain, &current.access), Pass::ApiKey(ApiKey::parse(KEY).unwrap()));
    let text = serde_json::to_string(&fixture.events().await).unwrap();
    assert!(!text.contains(KEY), "{text}");
}

#[tokio::test]
async fn another_key_in_the_file_is_taken_at_once() {
    let fixture = Fixture::new().await;
    let (wake, wakes) = mpsc::unbounded();
    let running = fixture.chain.clone();
    let task = tokio::spawn(async move { running.run(wakes).await });
    let until = |lineage: u64| {
        let snapshots = fixture.snapshots.clone();
        let holds = async move {
            while snapshots.current(&chain()).is_none_or(|current| current.position.0.0 < lineage) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), holds)
    };
    until(1).await.unwrap();
    std::fs::write(&fixture.file, OTHER_KEY).unwrap();
    wake.unbounded_send(Wake::FileChanged).unwrap();
    until(2).await.unwrap();
    assert_eq!(fixture.shown(), (2, OTHER_KEY.into()));
    task.abort();
    // A process that begins anew knows it by the ledger.
    let again = ApiKeyChain::new(
        fixture.world.clone(),
        chain(),
        fixture.chain.profile().clone(),
        fixture.file.clone(),
        Snapshots::default(),
        Metrics::default(),
    );
    assert_eq!(again.look().await.lineage, Some(Lineage(2)));
    let kinds: Vec<_> = fixture.events().await.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["adopted", "adopted"]);
}

#[tokio::test]
async fn a_file_without_a_key_serves_nothing_and_says_so() {
    let fixture = Fixture::new().await;
    fixture.chain.look().await;
    for (content, says) in [
        (String::new(), "it is empty"),
        ("two words".into(), "a character that no token has"),
        ("x".repeat(20_000), "too large"),
        (format!("{ACCESS_PREFIX}0123"), "holds an access token where an API key belongs"),
    ] {
        std::fs::write(&fixture.file, &content).unwrap();
        let report = fixture.chain.look().await;
        assert_eq!((report.ok, report.error), (false, Some(Reason::ApiKeyUnusable)));
        let detail = report.detail.unwrap();
        assert!(detail.contains(says) && !detail.contains("0123"), "{detail}");
        assert!(!fixture.snapshots.current(&chain()).unwrap().usable(fixture.world.now()));
    }
    std::fs::remove_file(&fixture.file).unwrap();
    assert_eq!(fixture.chain.look().await.error, Some(Reason::ApiKeyUnusable));
    std::fs::write(&fixture.file, KEY).unwrap();
    assert!(fixture.chain.look().await.ok);
    assert_eq!(fixture.shown(), (1, KEY.into()), "it is the same key");
}

#[tokio::test]
async fn a_refused_key_is_served_no_more_until_there_is_another() {
    let fixture = Fixture::new().await;
    fixture.chain.look().await;
    fixture.standin.engine().change_settings(|settings| settings.api_keys = vec![OTHER_KEY.into()]);
    let probed = probe(&fixture.chain, &fixture.world, &fixture.snapshots, None).await;
    assert_eq!((probed.reason, probed.renewal), (Reason::ProbeRefused, Some(Reason::ApiKeyRefused)));
    assert!(!fixture.snapshots.current(&chain()).unwrap().usable(fixture.world.now()));
    assert_eq!(fixture.chain.look().await.error, Some(Reason::ApiKeyRefused));
    std::fs::write(&fixture.file, OTHER_KEY).unwrap();
    assert!(fixture.chain.look().await.ok);
    assert_eq!(fixture.shown(), (2, OTHER_KEY.into()));
    // Whoever saw the first one refused comes late.
    assert!(fixture.chain.access_refused((Lineage(1), Generation(1))).await.ok);
    let reasons: Vec<_> = fixture.events().await.iter().map(|event| event.reason).collect();
    assert_eq!(reasons, [Reason::Adopted, Reason::ProbeRefused, Reason::ApiKeyRefused, Reason::Adopted]);
}
