//! Chains of a database vault: several replicas, each with its own disk, on one state, against the stand-in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use evergrant_core::authfile::{self, Reading};
use evergrant_core::chain::Standing;
use evergrant_core::event::EventKind;
use evergrant_core::grant::Grant;
use evergrant_core::keeper::{Answer, LEASE, Look, PAUSE_BOUND, Policy, Report, begin};
use evergrant_core::{ChainName, Reason};
use evergrant_server::http::HttpClient;
use evergrant_server::keeper::Import;
use evergrant_server::metrics::Metrics;
use evergrant_server::rows::{Paces, RowParts, RowPolicy};
use evergrant_server::{Moved, RowKeeper, Snapshots, TokioWorld, World};
use evergrant_standin::{Fault, FaultTarget, LoginOptions, StandIn};
use evergrant_store::marks::Marks;
use evergrant_store::receipts::Receipts;
use evergrant_store::seal::{KeyRing, Sealed};
use evergrant_store::vault::{Claimed, Holder, NextRow, Row, VaultState};
use evergrant_store::{MemoryState, OsDisk, Reservation, State};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::fixture::{policy, profile, settings};

pub(super) type ReplicaWorld = Moved<TokioWorld<MemoryState>>;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The provider, the state, and the time that all share.
pub(super) struct Rig {
    pub(super) standin: StandIn,
    pub(super) state: MemoryState,
    pub(super) later_secs: Arc<AtomicI64>,
    pub(super) policy: Policy,
}

/// One machine.
pub(super) struct Replica {
    pub(super) folder: TempDir,
    pub(super) world: ReplicaWorld,
    pub(super) marks: Marks,
    snapshots: Snapshots,
    pub(super) keeper: RowKeeper<ReplicaWorld>,
}

pub(super) fn chain(number: usize) -> ChainName {
    format!("chain-{number}").parse().unwrap()
}

fn real_now() -> Timestamp {
    TokioWorld::new(MemoryState::new(), HttpClient::new(None).unwrap()).now()
}

impl Rig {
    pub(super) async fn new() -> Self {
        let settings = settings();
        let standin = StandIn::start(settings.clone()).await.unwrap();
        let later_secs = Arc::new(AtomicI64::new(0));
        let policy = policy(profile(standin.url().as_ref(), &settings));
        let state = state(later_secs.clone());
        Self { standin, state, later_secs, policy }
    }

    pub(super) fn pass(&self, time: SignedDuration) {
        self.later_secs.fetch_add(time.as_secs(), Ordering::SeqCst);
    }

    pub(super) fn replica(&self, machine: &str) -> Replica {
        self.replica_on(machine, tempfile::tempdir().unwrap(), self.state.clone())
    }

    /// A process on a machine that is there already, or on another state.
    pub(super) fn replica_on(&self, machine: &str, folder: TempDir, state: MemoryState) -> Replica {
        let later = self.later_secs.clone();
        let world = TokioWorld::new(state, HttpClient::new(None).unwrap());
        let world =
            Moved::new(world, 1, move |now| now + SignedDuration::from_secs(later.load(Ordering::SeqCst)));
        let ring = KeyRing::parse(KEY).unwrap();
        let marks = Marks::open(&folder.path().join("marks.db")).unwrap();
        let receipts = Receipts::open(OsDisk, folder.path().join("receipts"), ring).unwrap();
        let policy =
            Arc::new(RowPolicy { policy: self.policy.clone(), accepted: true, world: world.clone() });
        let process = format!("{machine}-{}", world.now().as_nanosecond());
        let snapshots = Snapshots::default();
        let keeper = RowKeeper::new(RowParts {
            world: world.clone(),
            holder: Holder { process, machine: machine.into() },
            policies: Arc::new(move |_| Some(policy.clone())),
            receipts,
            marks: marks.clone(),
            snapshots: snapshots.clone(),
            metrics: Metrics::default(),
            most_at_once: 64,
            paces: Paces::default(),
            committed: None,
        });
        Replica { folder, world, marks, snapshots, keeper }
    }

    /// A new login.
    pub(super) fn grant(&self) -> Grant {
        let file = self.standin.engine().login(LoginOptions::default()).auth_file();
        match authfile::read(file.to_string().as_bytes(), &self.policy.profile) {
            Reading::Grant(grant) => grant,
            other @ (Reading::Wiped | Reading::Malformed(_)) => panic!("{other:?}"),
        }
    }

    pub(super) async fn row(&self, number: usize) -> Row {
        self.state.row(&chain(number)).await.unwrap().unwrap()
    }

    /// The grant that a row holds.
    pub(super) async fn held(&self, number: usize) -> Grant {
        let Row { record, sealed, .. } = self.row(number).await;
        let ring = KeyRing::parse(KEY).unwrap();
        ring.open_pair(&record.chain, record.position(), &sealed, &self.policy.profile).unwrap()
    }

    pub(super) async fn assert_alive(&self, number: usize) {
        let held = self.held(number).await;
        let refresh = held.refresh.unwrap();
        let lives = self.standin.engine().with(|engine| engine.family_lives(refresh.expose(), real_now()));
        assert!(lives, "the family of chain {number} is dead");
        assert_eq!(self.standin.engine().counters().families_revoked_by_reuse, 0);
    }

    pub(super) fn exchanges(&self) -> usize {
        self.standin.engine().exchanges().len()
    }

    async fn kinds(&self, number: usize) -> Vec<EventKind> {
        let events = self.state.events(&chain(number), 0, 1000).await.unwrap();
        events.into_iter().map(|numbered| numbered.event.kind).collect()
    }
}

pub(super) fn state(later_secs: Arc<AtomicI64>) -> MemoryState {
    MemoryState::with_clock(move || real_now() + SignedDuration::from_secs(later_secs.load(Ordering::SeqCst)))
}

impl Replica {
    pub(super) async fn import(&self, number: usize, grant: Grant) -> Report {
        match self.keeper.import(&chain(number), grant).await {
            Import::Taken(report) => report,
            Import::Refused(refused) => panic!("{refused:?}"),
        }
    }

    pub(super) async fn force(&self, number: usize) -> Report {
        self.keeper.look(&chain(number), Look::Forced, None).await
    }

    fn holder(&self, machine: &str) -> Holder {
        Holder { process: format!("{machine}, before"), machine: machine.into() }
    }

    fn receipts(&self) -> Receipts<OsDisk> {
        let ring = KeyRing::parse(KEY).unwrap();
        Receipts::open(OsDisk, self.folder.path().join("receipts"), ring).unwrap()
    }

    /// A process of this machine is about to present the pair of chain 0.
    async fn intends(&self, rig: &Rig, machine: &str) -> Reservation<OsDisk> {
        let state = self.world.state();
        let claimed = state.claim(&chain(0), &self.holder(machine), LEASE).await.unwrap();
        let Claimed::Ours(claim) = claimed else { panic!("{claimed:?}") };
        let reservation = self.receipts().reserve(&claim.row.record).unwrap();
        let (attempt, now) = (reservation.attempt(), self.world.now());
        let intended = begin(claim.row.record.clone(), attempt, machine, &rig.policy, now);
        let lease = rig.policy.deadline + PAUSE_BOUND;
        let next = NextRow { record: &intended, sealed: None, replaced: &[], events: &[], wakes_at: None };
        assert!(state.begin_rotation(&claim, next, lease).await.unwrap());
        self.marks.raise(&chain(0), intended.mark()).unwrap();
        reservation
    }

    /// It presents the pair, and dies: before or after the answer is in its receipt.
    pub(super) async fn presents_and_dies(&self, rig: &Rig, machine: &str, answered: bool) {
        let reservation = self.intends(rig, machine).await;
        let now = self.world.now();
        let refresh = rig.held(0).await.refresh.unwrap();
        let answer = self.world.exchange(rig.policy.profile.refresh_request(&refresh)).await;
        assert!(matches!(answer, Answer::Received { status: 200, .. }), "{answer:?}");
        if answered {
            let mut rng = self.world.rng();
            self.receipts().write(&reservation, &chain(0), (now, &answer), &mut rng).unwrap();
        }
    }
}

/// The life of an access token there.
pub(super) const LIFE: SignedDuration = SignedDuration::from_hours(1);

#[tokio::test]
async fn a_row_is_renewed_when_it_is_due_and_not_before() {
    let rig = Rig::new().await;
    let replica = rig.replica("one");
    let report = replica.import(0, rig.grant()).await;
    assert_eq!((report.ok, report.reason), (true, Reason::Imported));
    assert!(replica.keeper.tick().await.unwrap().is_empty());
    assert!(replica.keeper.find(&chain(0)).await.unwrap().is_some());
    let before = replica.snapshots.current(&chain(0)).unwrap();

    rig.pass(SignedDuration::from_mins(50));
    let reports = replica.keeper.tick().await.unwrap();
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((report.ok, report.refreshed, report.reason), (true, true, Reason::Renewed), "{report:?}");
    assert_eq!((report.lineage.unwrap().0, report.generation.unwrap().0), (1, 2));
    assert!(replica.keeper.tick().await.unwrap().is_empty());
    assert_eq!(rig.exchanges(), 1);
    let after = replica.snapshots.current(&chain(0)).unwrap();
    assert!(after.position > before.position && after.access != before.access);
    assert_eq!(rig.held(0).await.access, after.access);
    assert_eq!(rig.kinds(0).await, [EventKind::Adopted, EventKind::Intended, EventKind::Committed]);
    rig.assert_alive(0).await;
    // What it was renewed from is never taken again.
    let row = rig.row(0).await;
    assert!(!String::from_utf8_lossy(&row.sealed.0).contains("test-"), "a row holds no token in the clear");
    let replaced = replica.keeper.import(&chain(0), rig.grant()).await;
    assert!(matches!(replaced, Import::Taken(_)));
}

#[tokio::test]
async fn many_replicas_exchange_each_chain_once_a_period() {
    const CHAINS: usize = 100;
    let rig = Rig::new().await;
    let replicas = ["one", "two", "three"].map(|machine| rig.replica(machine));
    for number in 0..CHAINS {
        replicas[0].import(number, rig.grant()).await;
    }
    for period in 1..=3 {
        rig.pass(LIFE);
        loop {
            let ticks = replicas.iter().map(|replica| replica.keeper.tick());
            let reports = futures_util::future::join_all(ticks).await;
            let reports: Vec<_> = reports.into_iter().flat_map(Result::unwrap).collect();
            assert!(reports.iter().all(|report| report.refreshed), "{reports:?}");
            if reports.is_empty() {
                break;
            }
        }
        assert_eq!(rig.exchanges(), period * CHAINS);
    }
    for number in 0..CHAINS {
        rig.assert_alive(number).await;
    }
}

#[tokio::test]
async fn forced_looks_at_once_are_one_exchange() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    rig.standin.engine().push_fault(FaultTarget::Token, Fault::DelayBefore { millis: 200 }, 1);
    let (first, second) = tokio::join!(one.force(0), two.force(0));
    let renewed = [&first, &second].iter().filter(|report| report.refreshed).count();
    assert_eq!((renewed, rig.exchanges()), (1, 1), "{first:?} {second:?}");
    let held = if first.refreshed { second } else { first };
    assert_eq!((held.reason, held.error), (Reason::LeaseHeld, None));
    rig.assert_alive(0).await;
}

/// What answers mean is the auth file's table; here that a row takes them the same way.
#[tokio::test]
async fn every_kind_of_answer_has_its_report() {
    for (fault, error) in [
        ("throttled", Some(Reason::ProviderThrottled)),
        ("overloaded_503", Some(Reason::ProviderUnavailable)),
        ("blocked_403", Some(Reason::ProviderBlocked)),
        ("invalid_client", Some(Reason::ClientRejected)),
        ("invalid_grant_400", Some(Reason::RefreshTokenRevoked)),
        ("spent_then_500", Some(Reason::InDoubt)),
        ("answer_lost", Some(Reason::InDoubt)),
        ("cut_body", Some(Reason::InDoubt)),
        ("no_refresh_token", None),
        ("no_expires_in", None),
    ] {
        let rig = Rig::new().await;
        let replica = rig.replica("one");
        replica.import(0, rig.grant()).await;
        let before = rig.held(0).await;
        rig.standin.engine().push_fault(FaultTarget::Token, Fault::named(fault).unwrap(), 1);
        let report = replica.force(0).await;
        assert_eq!(report.error, error, "{fault}: {report:?}");
        assert_eq!(report.refreshed, error.is_none(), "{fault}");
        assert!(report.token_valid, "{fault}: the access token still lives");
        if error.is_some() {
            assert_eq!(rig.held(0).await, before, "{fault}: the pair is untouched");
        }
        replica.keeper.tick().await.unwrap();
        assert_eq!(rig.exchanges(), 1, "{fault}: presented once");
        assert_eq!(rig.standin.engine().counters().families_revoked_by_reuse, 0, "{fault}");
    }
}

#[tokio::test]
async fn an_answer_on_a_machine_is_waited_for_and_committed_by_it() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    one.presents_and_dies(&rig, "one", true).await;
    // While the lease lasts nobody looks.
    let report = two.force(0).await;
    assert_eq!((report.reason, report.error), (Reason::LeaseHeld, None));
    assert!(one.keeper.settle_left_open().await.unwrap().is_empty());
    rig.pass(SignedDuration::from_mins(2));
    let report = two.force(0).await;
    assert_eq!((report.error, report.token_valid), (Some(Reason::InDoubt), true), "{report:?}");
    assert!(report.detail.unwrap().contains("one"), "it says which machine is waited for");
    assert_eq!(rig.exchanges(), 1);
    let reports = one.keeper.settle_left_open().await.unwrap();
    let [report] = reports.as_slice() else { panic!("{reports:?}") };
    assert_eq!((report.refreshed, report.reason), (true, Reason::ReceiptCommitted), "{report:?}");
    rig.assert_alive(0).await;
    assert!(two.force(0).await.refreshed);
    rig.assert_alive(0).await;
}

#[tokio::test]
async fn a_machine_without_an_answer_says_so_and_the_pair_is_in_doubt() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    one.presents_and_dies(&rig, "one", false).await;
    rig.pass(SignedDuration::from_mins(2));
    let [report] = one.keeper.settle_left_open().await.unwrap().try_into().unwrap();
    assert_eq!((report.error, report.token_valid), (Some(Reason::InDoubt), true), "{report:?}");
    assert!(matches!(rig.row(0).await.record.standing, Standing::InDoubt { .. }));
    // Known to all from now on, and left alone until there is nothing left to lose.
    assert_eq!(two.force(0).await.error, Some(Reason::InDoubt));
    rig.pass(SignedDuration::from_mins(45));
    assert!(two.keeper.tick().await.unwrap().is_empty());
    assert_eq!(rig.exchanges(), 1);
    rig.pass(SignedDuration::from_mins(5));
    let [report] = two.keeper.tick().await.unwrap().try_into().unwrap();
    assert_eq!((report.error, rig.exchanges()), (Some(Reason::RefreshTokenRevoked), 2), "{report:?}");
}

#[tokio::test]
async fn a_machine_that_never_comes_back_is_waited_for_until_the_access_token_ends() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    one.presents_and_dies(&rig, "one", true).await;
    for _ in 0..7 {
        rig.pass(SignedDuration::from_mins(8));
        assert!(two.keeper.settle_left_open().await.unwrap().is_empty());
        two.keeper.tick().await.unwrap();
        assert_eq!(rig.exchanges(), 1);
    }
    rig.pass(SignedDuration::from_mins(8));
    // First in doubt, then presented: nothing is left to lose.
    two.keeper.tick().await.unwrap();
    rig.pass(SignedDuration::from_mins(6));
    two.keeper.tick().await.unwrap();
    assert_eq!(rig.exchanges(), 2);
    assert!(matches!(rig.row(0).await.record.standing, Standing::Refused { .. }));
    // It does come back, and its answer is the newest pair there is, if the provider let it live: the row takes it.
    one.keeper.sweep().await;
    assert!(matches!(rig.row(0).await.record.standing, Standing::Live));
}

#[tokio::test]
async fn an_answer_waits_while_another_machine_may_be_presenting_the_pair() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    one.presents_and_dies(&rig, "one", true).await;
    rig.pass(LIFE);
    // In doubt, and about to be presented again: the first answer may not take the pair away under it.
    assert_eq!(two.keeper.tick().await.unwrap().len(), 1);
    let reservation = two.intends(&rig, "two").await;
    let before = rig.row(0).await;
    one.keeper.sweep().await;
    assert_eq!(rig.row(0).await, before);
    // It was not: nothing stands in the way any more.
    let not_sent = Answer::NotSent { why: "it was late".into() };
    let mut rng = two.world.rng();
    two.receipts().write(&reservation, &chain(0), (two.world.now(), &not_sent), &mut rng).unwrap();
    drop(reservation);
    rig.pass(SignedDuration::from_mins(2));
    assert_eq!(two.keeper.settle_left_open().await.unwrap().len(), 1);
    one.keeper.sweep().await;
    assert_eq!(rig.row(0).await.record.generation.0, 2);
    rig.assert_alive(0).await;
}

/// Why a machine's name is one instance's: an intent is matched to its receipt by attempt and machine.
#[tokio::test]
async fn two_that_go_by_one_name_lose_a_chain_unless_one_rests() {
    for (name, rests, revoked) in [("two", false, 0), ("one", false, 1), ("one", true, 0)] {
        let rig = Rig::new().await;
        let (one, two) = (rig.replica("one"), rig.replica(name));
        one.import(0, rig.grant()).await;
        // The database did not take the intent of an attempt here.
        let reservation = one.receipts().reserve(&rig.row(0).await.record).unwrap();
        let not_sent = Answer::NotSent { why: "the database did not take the intent".into() };
        let mut rng = one.world.rng();
        one.receipts().write(&reservation, &chain(0), (one.world.now(), &not_sent), &mut rng).unwrap();
        drop(reservation);
        // There an attempt of the same number is made, and its answer is not of record yet.
        two.presents_and_dies(&rig, name, true).await;
        one.keeper.rest(rests);
        one.keeper.sweep().await;
        one.force(0).await;
        assert_eq!(rig.standin.engine().counters().families_revoked_by_reuse, revoked, "{name}, {rests}");
    }
}

#[tokio::test]
async fn a_login_during_an_exchange_wins() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    let first = rig.grant();
    one.import(0, first.clone()).await;
    rig.standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 300 }, 1);
    let login = rig.grant();
    let (report, pushed) = tokio::join!(one.force(0), async {
        while rig.exchanges() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        two.import(0, login.clone()).await
    });
    assert_eq!((pushed.lineage.unwrap().0, pushed.generation.unwrap().0), (2, 1));
    assert!(!report.refreshed, "{report:?}");
    assert_eq!(rig.held(0).await.access, login.access);
    // What was presented is spent, and never taken back.
    match two.keeper.import(&chain(0), first).await {
        Import::Refused(refused) => assert_eq!(refused.reason, Reason::GrantSpent),
        Import::Taken(report) => panic!("{report:?}"),
    }
    assert!(two.force(0).await.refreshed);
    rig.assert_alive(0).await;
}

/// Neither a login nor an answer that comes too late to matter lets a second token be sent.
#[tokio::test]
async fn whoever_is_sending_keeps_the_lease() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    let first = rig.grant();
    one.import(0, first.clone()).await;
    one.presents_and_dies(&rig, "one", true).await;
    rig.pass(SignedDuration::from_mins(2));
    two.import(0, rig.grant()).await;
    let _sends = two.intends(&rig, "two").await;
    // What "one" presented is spent, and that is all that its answer says.
    one.keeper.sweep().await;
    assert!(rig.state.was_replaced(&chain(0), first.pair().fingerprint()).await.unwrap());
    for _ in 0..2 {
        assert_eq!(one.force(0).await.reason, Reason::LeaseHeld);
        one.import(0, rig.grant()).await;
    }
    assert_eq!(rig.exchanges(), 1);
    rig.pass(SignedDuration::from_mins(2));
    assert!(one.force(0).await.refreshed);
    rig.assert_alive(0).await;
}

/// A sweep that knows of the login by its mark only.
#[tokio::test]
async fn what_an_older_login_s_answer_says_is_remembered_before_its_receipt_goes() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    let first = rig.grant();
    one.import(0, first.clone()).await;
    one.presents_and_dies(&rig, "one", true).await;
    rig.pass(SignedDuration::from_mins(2));
    two.import(0, rig.grant()).await;
    one.marks.raise(&chain(0), rig.row(0).await.record.mark()).unwrap();
    one.keeper.sweep().await;
    assert!(rig.state.was_replaced(&chain(0), first.pair().fingerprint()).await.unwrap());
    assert_eq!(one.receipts().of(&chain(0)).unwrap(), []);
    let again = one.keeper.import(&chain(0), first).await;
    assert!(matches!(&again, Import::Refused(refused) if refused.reason == Reason::GrantSpent), "{again:?}");
}

#[tokio::test]
async fn others_see_a_commit_when_they_follow() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    one.import(1, rig.grant()).await;
    assert!(two.keeper.find(&chain(0)).await.unwrap().is_some());
    let mut cursor = None;
    assert!(!two.keeper.follow(&mut cursor).await.unwrap());
    for number in [0, 1] {
        assert!(one.force(number).await.refreshed);
    }
    assert!(!two.keeper.follow(&mut cursor).await.unwrap());
    let seen = two.snapshots.current(&chain(0)).unwrap();
    assert_eq!(seen.access, rig.held(0).await.access);
    // What nobody asks for here is not kept in memory, but it is remembered how far it has come.
    assert_eq!(two.snapshots.current(&chain(1)), None);
    assert_eq!(two.marks.of(&chain(1)).unwrap(), Some(rig.row(1).await.record.mark()));
}

/// Wherever a look at the changes is cut short, the next one shows what it had not shown.
#[tokio::test]
async fn a_look_at_changes_that_was_cut_short_loses_none() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    assert!(two.keeper.find(&chain(0)).await.unwrap().is_some());
    let mut cursor = None;
    two.keeper.follow(&mut cursor).await.unwrap();
    assert!(one.force(0).await.refreshed);
    two.keeper.follow(&mut cursor).await.unwrap();
    // From now on this machine remembers where it was.
    for polls in 0..12 {
        assert!(one.force(0).await.refreshed);
        let mut cursor = None;
        {
            let mut following = std::pin::pin!(two.keeper.follow(&mut cursor));
            for _ in 0..polls {
                if futures_util::poll!(following.as_mut()).is_ready() {
                    break;
                }
                // Its files are read elsewhere meanwhile.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        two.keeper.follow(&mut None).await.unwrap();
        let seen = two.snapshots.current(&chain(0)).unwrap();
        assert_eq!(seen.access, rig.held(0).await.access, "cut short after {polls} polls");
    }
}

#[tokio::test]
async fn what_is_committed_between_the_first_reading_and_the_first_following_is_seen() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    let policy = RowPolicy { policy: rig.policy.clone(), accepted: true, world: two.world.clone() };
    two.keeper.chain(chain(0), policy);
    one.import(1, rig.grant()).await;
    assert!(two.keeper.find(&chain(0)).await.unwrap().is_none());
    assert!(two.keeper.find(&chain(1)).await.unwrap().is_some());
    one.import(0, rig.grant()).await;
    assert!(one.force(1).await.refreshed);
    assert!(!two.keeper.follow(&mut None).await.unwrap());
    for number in [0, 1] {
        let seen = two.snapshots.current(&chain(number)).unwrap();
        assert_eq!(seen.access, rig.held(number).await.access);
    }
}

#[tokio::test]
async fn a_row_that_was_swapped_does_not_open() {
    let rig = Rig::new().await;
    let one = rig.replica("one");
    one.import(0, rig.grant()).await;
    one.import(1, rig.grant()).await;
    let (first, second) = (rig.row(0).await, rig.row(1).await);
    assert!(rig.state.reseal(&chain(0), &first.sealed, &second.sealed).await.unwrap());
    let report = one.force(0).await;
    assert_eq!((report.error, report.token_present), (Some(Reason::SealBroken), false), "{report:?}");
    assert_eq!(rig.exchanges(), 0);
    // A login heals it.
    one.import(0, rig.grant()).await;
    assert!(one.force(0).await.refreshed);
    let garbage = Sealed(vec![0; 100]);
    let sealed = rig.row(1).await.sealed;
    assert!(rig.state.reseal(&chain(1), &sealed, &garbage).await.unwrap());
    assert_eq!(one.force(1).await.error, Some(Reason::SealBroken));
}

#[tokio::test]
async fn receipts_that_others_have_gone_beyond_are_swept() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    for number in 0..3 {
        one.import(number, rig.grant()).await;
        assert!(one.force(number).await.refreshed);
    }
    let chains =
        |replica: &Replica| replica.receipts().chains().unwrap().into_iter().collect::<BTreeSet<_>>();
    assert_eq!(chains(&one).len(), 3, "the newest receipt of a chain stays");
    assert!(two.force(1).await.refreshed);
    one.keeper.follow(&mut None).await.unwrap();
    one.marks.raise(&chain(1), rig.row(1).await.record.mark()).unwrap();
    one.keeper.sweep().await;
    assert_eq!(chains(&one), BTreeSet::from([chain(0), chain(2)]));
    assert_eq!(chains(&two), BTreeSet::from([chain(1)]));
}

#[tokio::test]
async fn a_sleeper_whose_lease_was_taken_over_sends_nothing() {
    let rig = Rig::new().await;
    let (one, two) = (rig.replica("one"), rig.replica("two"));
    one.import(0, rig.grant()).await;
    let claimed = rig.state.claim(&chain(0), &one.holder("one"), LEASE).await.unwrap();
    let Claimed::Ours(asleep) = claimed else { panic!("{claimed:?}") };
    rig.pass(SignedDuration::from_secs(61));
    assert!(two.force(0).await.refreshed);
    let intended =
        begin(asleep.row.record.clone(), evergrant_core::AttemptId(1), "one", &rig.policy, rig_now(&one));
    let next = NextRow { record: &intended, sealed: None, replaced: &[], events: &[], wakes_at: None };
    assert!(!rig.state.begin_rotation(&asleep, next, LEASE).await.unwrap());
    assert!(!rig.state.settle_rotation(asleep.row.record.mark(), next).await.unwrap());
    rig.assert_alive(0).await;
}

fn rig_now(replica: &Replica) -> Timestamp {
    replica.world.now()
}
