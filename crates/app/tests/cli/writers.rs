//! Several writers on one auth file: two keepers, and a client that behaves as the provider's own does.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::keeper::{Look, Policy};
use evergrant_core::provider::Profile;
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::{Keeper, Snapshots, TokioWorld};
use evergrant_standin::{LoginOptions, StandIn};
use evergrant_store::authfile::TakeClientLocks;
use evergrant_store::{AuthFile, OsDisk, SqliteState};
use serde_json::{Value, json};

use crate::support::{Home, Running, lives, standin};

/// A process of its own that forces `EVERGRANT_TEST_ROTATIONS` exchanges; started by the tests below. By itself
/// it does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeper_process() {
    let variable = |name: &str| std::env::var(format!("EVERGRANT_TEST_{name}"));
    let Ok(folder) = variable("FOLDER").map(PathBuf::from) else { return };
    let base = variable("BASE").unwrap();
    let policy = Policy {
        min_exchange_interval: Duration::ZERO,
        ..Policy::new(evergrant_lab::towards(Profile::claude(), &base))
    };
    let state = SqliteState::open(&folder.join("state.db")).unwrap();
    let world = TokioWorld::new(state, HttpClient::new(None).unwrap());
    let auth_file = variable("AUTH_FILE").unwrap().into();
    let vault = AuthFile::new(OsDisk, auth_file, folder.join("vault"), TakeClientLocks::Always);
    let chain = "claude".parse().unwrap();
    let keeper = Keeper::new(world, chain, policy, true, vault, Snapshots::default(), Metrics::default());
    let mut left: u64 = variable("ROTATIONS").unwrap().parse().unwrap();
    while left > 0 {
        let report = keeper.look(Look::Forced).await;
        assert_eq!(report.error, None, "{report:?}");
        left -= u64::from(report.refreshed && report.reason == Reason::Renewed);
    }
}

/// Starts a keeper with a state of its own on the home's auth file.
fn start_keeper(home: &Home, name: &str, standin: &StandIn, rotations: u64) -> Running {
    let folder = home.folder.path().join(name);
    fs::create_dir(&folder).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writers::keeper_process", "--nocapture"]);
    command.env("EVERGRANT_TEST_FOLDER", folder).env("EVERGRANT_TEST_BASE", standin.url());
    command.env("EVERGRANT_TEST_AUTH_FILE", &home.auth_file);
    command.env("EVERGRANT_TEST_ROTATIONS", rotations.to_string());
    Running(command.spawn().unwrap())
}

/// 2,000 rotations by two processes with two states on one file, at full speed against a strict provider.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_keepers_never_break_the_chain() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let mut keepers = ["one", "other"].map(|name| start_keeper(&home, name, &standin, 1_000));
    for keeper in &mut keepers {
        assert!(tokio::task::block_in_place(|| keeper.0.wait()).unwrap().success());
    }
    let counters = standin.engine().counters();
    assert_eq!(counters.rotations, 2_000);
    assert_eq!((counters.families_revoked_by_reuse, counters.max_concurrent_exchanges), (0, 1));
    assert!(lives(&standin, &home.refresh_token()));
    let record = fs::read(home.beside_file().join("chain.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    assert_eq!((&record["lineage"], &record["generation"]), (&json!(1), &json!(2_001)));
}

/// Renews as the provider's own client does: its two directory locks, a look at the file, one exchange, a write.
struct ForeignClient {
    auth_file: PathBuf,
    token_url: String,
    client: HttpClient,
    profile: Profile,
}

impl ForeignClient {
    fn locks(&self) -> [PathBuf; 2] {
        let folder = self.auth_file.parent().unwrap();
        let mut second = folder.as_os_str().to_owned();
        second.push(".lock");
        [folder.join(".oauth_refresh.lock"), second.into()]
    }

    /// One renewal, or `false` if somebody else had the locks.
    async fn renew(&self) -> bool {
        let mut taken = Vec::new();
        for lock in self.locks() {
            match fs::create_dir(&lock) {
                Ok(()) => taken.push(lock),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                    taken.iter().rev().for_each(|lock| fs::remove_dir(lock).unwrap());
                    return false;
                }
            }
        }
        let mut file: Value = serde_json::from_slice(&fs::read(&self.auth_file).unwrap()).unwrap();
        let refresh = file["claudeAiOauth"]["refreshToken"].as_str().unwrap().to_owned();
        let request = self.profile.refresh_request(&evergrant_core::RefreshToken::parse(&refresh).unwrap());
        let url = self.token_url.parse().unwrap();
        let body = request.body.as_bytes().to_vec().into();
        let reply = self.client.call(http::Method::POST, &url, &request.headers, body).await.unwrap();
        assert_eq!(reply.status, 200, "the foreign client found a dead token");
        let answer: Value = serde_json::from_slice(&reply.body).unwrap();
        file["claudeAiOauth"]["accessToken"] = answer["access_token"].clone();
        file["claudeAiOauth"]["refreshToken"] = answer["refresh_token"].clone();
        let fresh = self.auth_file.with_extension("foreign");
        fs::write(&fresh, file.to_string()).unwrap();
        fs::rename(&fresh, &self.auth_file).unwrap();
        taken.iter().rev().for_each(|lock| fs::remove_dir(lock).unwrap());
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_client_and_two_keepers_never_break_the_chain() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let foreign = ForeignClient {
        auth_file: home.auth_file.clone(),
        token_url: standin.token_url(),
        client: HttpClient::new(None).unwrap(),
        profile: Profile::claude(),
    };
    let mut keepers = ["one", "other"].map(|name| start_keeper(&home, name, &standin, 300));
    let mut renewed = 0;
    loop {
        renewed += u32::from(foreign.renew().await);
        tokio::time::sleep(Duration::from_millis(2)).await;
        let ended = keepers.iter_mut().map(|keeper| keeper.0.try_wait().unwrap()).collect::<Vec<_>>();
        assert!(ended.iter().flatten().all(|status| status.success()));
        if ended.iter().all(Option::is_some) {
            break;
        }
    }
    assert!(renewed > 10, "the foreign client had its turns: {renewed}");
    let counters = standin.engine().counters();
    assert_eq!((counters.families_revoked_by_reuse, counters.max_concurrent_exchanges), (0, 1));
    assert_eq!(counters.rotations, 600 + u64::from(renewed));
    assert!(lives(&standin, &home.refresh_token()));
}

/// Short-lived processes of two machines, of which every third is killed somewhere. A kill between the provider's
/// answer and our receipt is the one window that stays open: then the chain is in doubt and says so, and somebody
/// logs in again. Nothing else may ever be said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_and_kills_never_break_the_chain() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let other = home.beside(&standin);
    home.log_in(&standin);
    let ended = Arc::new(AtomicBool::new(false));
    let threads = [home, other].map(|home| {
        let (ended, engine) = (ended.clone(), standin.engine().clone());
        std::thread::spawn(move || {
            let mut round = 0_u64;
            while !ended.load(Ordering::Relaxed) {
                round += 1;
                if round.is_multiple_of(3) {
                    let mut child = Running::start(&mut home.command(&["refresh", "--force"]));
                    std::thread::sleep(Duration::from_millis(round % 23));
                    child.0.kill().unwrap();
                    child.0.wait().unwrap();
                    continue;
                }
                match home.force()["error"].as_str() {
                    None => {}
                    Some("in_doubt") => {
                        let login = engine.login(LoginOptions::default()).auth_file().to_string();
                        let own = home.folder.path().file_name().unwrap();
                        let fresh = home.auth_file.with_file_name(own);
                        fs::write(&fresh, login).unwrap();
                        fs::rename(&fresh, &home.auth_file).unwrap();
                    }
                    Some(other) => panic!("{other}"),
                }
            }
            home
        })
    });
    tokio::time::sleep(Duration::from_secs(8)).await;
    ended.store(true, Ordering::Relaxed);
    let [home, _other] = threads.map(|thread| thread.join().unwrap());
    let counters = standin.engine().counters();
    assert_eq!(counters.families_revoked_by_reuse, 0);
    assert!(counters.rotations > 20, "{counters:?}");
    let report = home.json(&["refresh"]);
    match report["error"].as_str() {
        None => assert!(lives(&standin, &home.refresh_token())),
        Some("in_doubt") => {}
        Some(other) => panic!("{other}: {report}"),
    }
}
