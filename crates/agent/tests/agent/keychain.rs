//! The macOS keychain through a program that behaves as `security` does.

use std::fs;
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::push::PushKind;

use crate::programs::{calls, item, program, security};
use crate::server::Server;
use crate::support::{LOOK, Station, age, fingerprint, login, no_canary};

const SERVICE: &str = "Some Service-0badcafe";
const OLD: Duration = Duration::from_secs(3600);

fn station(server: &Server) -> Station {
    let station = Station::new(&server.url());
    let program = security(station.home.path());
    station.with_keychain(program, SERVICE, "ada")
}

#[test]
fn the_item_of_this_account_is_read_and_named() {
    let server = Server::start();
    let station = station(&server);
    let home = station.home.path();
    // Two items under one service, and a file that the keychain goes before.
    fs::write(item(home, SERVICE, "bob"), login("of-bob")).unwrap();
    fs::write(item(home, SERVICE, "ada"), login("of-ada")).unwrap();
    station.log_in("of-the-file");
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
    let call = server.last().call();
    assert_eq!(call.grant.unwrap().pair().fingerprint(), fingerprint("of-ada"));
    assert_eq!(call.message.local.entry, Some(format!("keychain {SERVICE}")));
    let modified = fs::metadata(item(home, SERVICE, "ada")).unwrap().modified().unwrap();
    let said = call.message.local.modified_at.unwrap();
    let secs = modified.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_secs();
    assert_eq!(said.as_second(), i64::try_from(secs).unwrap());
    let asked = format!("find-generic-password -s {SERVICE} -a ada");
    assert_eq!(calls(home, "security"), [asked.clone(), format!("{asked} -w")]);
    no_canary(home, &["login.json", "push.key", "Some Service-0badcafe.ada", "Some Service-0badcafe.bob"]);
}

#[test]
fn a_secret_with_other_characters_comes_in_hex() {
    let server = Server::start();
    let station = station(&server);
    let text = login("hex").replacen('{', "{\"owner\": \"Zoë\",\n", 1);
    fs::write(item(station.home.path(), SERVICE, "ada"), text).unwrap();
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
    assert_eq!(server.last().call().grant.unwrap().pair().fingerprint(), fingerprint("hex"));
}

#[test]
fn without_an_item_or_a_program_the_file_is_read() {
    let server = Server::start();
    let station = station(&server);
    station.log_in("of-the-file");
    assert_eq!(station.round(&LOOK).fingerprint, Some(fingerprint("of-the-file")));

    let station = Station::new(&server.url());
    let nowhere = station.path("no-such-program");
    let station = station.with_keychain(nowhere, SERVICE, "ada");
    station.log_in("of-the-file");
    assert_eq!(station.round(&LOOK).fingerprint, Some(fingerprint("of-the-file")));
}

#[test]
fn a_login_behind_a_lock_is_pushed_at_the_first_look_after_it() {
    for lock in ["locked", "locked-whole"] {
        let server = Server::start();
        let station = station(&server);
        let home = station.home.path();
        let entry = item(home, SERVICE, "ada");
        fs::write(&entry, login("old")).unwrap();
        age(&entry, OLD);
        assert_eq!(station.round(&LOOK).sent, Some(PushKind::Beat));
        fs::write(home.join(lock), "").unwrap();
        fs::write(&entry, login("new")).unwrap();
        age(&entry, OLD);
        let report = station.round(&LOOK);
        assert_eq!((report.ok, report.sent, report.reason), (false, None, Reason::KeychainLocked));
        station.round(&evergrant_agent::round::Ask::Now);
        let message = server.last().call().message;
        assert_eq!((message.reason, message.local.fingerprint), (Some(Reason::KeychainLocked), None));
        assert!(message.blind_since.is_some());
        fs::remove_file(home.join(lock)).unwrap();
        let report = station.round(&LOOK);
        assert_eq!((report.reason, report.fingerprint), (Reason::Accepted, Some(fingerprint("new"))));
        assert_eq!(server.last().call().message.blind_since, None);
    }
}

#[test]
fn a_locked_keychain_does_not_hide_a_login_in_the_file() {
    let server = Server::start();
    let station = station(&server);
    fs::write(item(station.home.path(), SERVICE, "ada"), login("locked-away")).unwrap();
    fs::write(station.path("locked"), "").unwrap();
    station.log_in("of-the-file");
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
    let call = server.last().call();
    assert_eq!(call.grant.unwrap().pair().fingerprint(), fingerprint("of-the-file"));
    assert!(call.message.blind_since.is_some(), "and it is said that the keychain is locked");
}

#[test]
fn a_wiped_item_does_not_hide_the_file_either() {
    let server = Server::start();
    let station = station(&server);
    fs::write(item(station.home.path(), SERVICE, "ada"), "{\"claudeAiOauth\":{\"accessToken\":\"\"}}")
        .unwrap();
    assert_eq!(station.round(&LOOK).sent, Some(PushKind::Beat));
    assert_eq!(server.last().call().message.reason, Some(Reason::Wiped));
    station.log_in("of-the-file");
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
}

#[test]
fn whatever_else_goes_wrong_with_the_keychain_passes_like_a_lock() {
    let server = Server::start();
    let station = Station::new(&server.url());
    let broken = program(station.home.path(), "security", "echo 'a new kind of trouble' >&2\nexit 51\n");
    let station = station.with_keychain(broken, SERVICE, "ada");
    let report = station.round(&LOOK);
    assert!(report.detail.is_none() || !report.ok);
    let message = server.last().call().message;
    assert_eq!((message.reason, message.blind_since.is_some()), (Some(Reason::KeychainLocked), true));
    let found = station.settings.chains[0].entry.look();
    assert!(found.fault.unwrap().contains("a new kind of trouble"));
}
