//! What goes over the wire, and what each answer leaves.

use std::fs;
use std::time::Duration;

use evergrant_agent::absence;
use evergrant_agent::key::KeySource;
use evergrant_agent::round::Ask;
use evergrant_core::Reason;
use evergrant_core::grant::Grant;
use evergrant_core::push::{Absence, Identity, PushKind};
use jiff::Timestamp;

use crate::server::{Reply, Server};
use crate::support::{KEY, LOOK, Station, fingerprint, no_canary};

const OLD: Duration = Duration::from_secs(3600);

#[test]
fn a_fresh_login_is_pushed_whole_and_then_it_beats() {
    let server = Server::start();
    let station = Station::new(&server.url());
    let login = station.log_in("one");
    let report = station.round(&LOOK);
    assert_eq!((report.ok, report.sent, report.reason), (true, Some(PushKind::Push), Reason::Accepted));
    let request = server.last();
    assert_eq!(request.line, "POST /api/v1/admin/system/token-push?chain=claude HTTP/1.1");
    assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(request.header("user-agent"), Some(concat!("evergrant/", env!("CARGO_PKG_VERSION"))));
    let call = request.call();
    let grant = call.grant.unwrap();
    assert_eq!(grant.pair().fingerprint(), login);
    assert_eq!(grant.scopes, ["user:inference"]);
    let identity =
        Identity { account: Some("account-1".into()), organization: Some("organization-1".into()) };
    assert_eq!((call.identity, call.accept_new_identity), (Some(identity), false));
    let message = call.message;
    assert_eq!(
        (message.kind, message.host.as_str(), message.local.fingerprint),
        (PushKind::Push, "desk", Some(login))
    );
    assert!(
        (16..=64).contains(&message.nonce.len()) && message.pending && message.local.modified_at.is_some()
    );
    assert_eq!(message.local.entry, Some(format!("file {}", station.path("login.json").display())));

    // Nothing is due now; a beat that is asked for says why it pushes nothing, and bears no grant.
    assert_eq!(station.round(&LOOK).sent, None);
    let report = station.round(&Ask::Now);
    assert_eq!((report.sent, report.reason), (Some(PushKind::Beat), Reason::Beat));
    let beat = server.last().call();
    assert_eq!((beat.grant, beat.identity, beat.message.reason), (None, None, Some(Reason::SameGrant)));
    assert_ne!(beat.message.nonce, message.nonce);
    assert_eq!(beat.message.agent_id, message.agent_id);
    assert_eq!(server.requests().len(), 2);
    no_canary(station.home.path(), &["login.json", "push.key"]);
}

#[test]
fn a_login_that_nobody_saw_being_made_is_pushed_only_when_somebody_says_so() {
    let server = Server::start();
    let station = Station::new(&server.url());
    station.log_in("old");
    station.age(OLD);
    assert_eq!(station.round(&LOOK).sent, Some(PushKind::Beat));
    assert_eq!(server.last().call().message.reason, Some(Reason::NotFresh));
    // Another login, whatever its date, was made since that look.
    station.log_in("new");
    station.age(2 * OLD);
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
    station.log_in("new");
    station.age(OLD);
    server.then(Reply::Say("same_grant"));
    let report = station.round(&Ask::Push { accept_new_identity: true });
    assert_eq!((report.ok, report.reason, report.pending), (true, Reason::SameGrant, false));
    assert!(server.last().call().accept_new_identity);
}

#[test]
fn each_refusal_ends_the_grant_or_is_tried_again() {
    let cases: [(u16, &str, bool); 13] = [
        (422, "wrong_prefix", true),
        (422, "expired", true),
        (422, "grant_spent", true),
        (422, "identity_mismatch", true),
        (422, "probe_refused", true),
        (422, "terms_not_accepted", true),
        (422, "nothing_to_push", true),
        (422, "agent_clock_skew", false),
        (503, "probe_unavailable", false),
        (503, "lease_held", false),
        (401, "caller_revoked", false),
        (403, "scope_missing", false),
        (500, "grant_spent", false),
    ];
    for (status, reason, is_final) in cases {
        let server = Server::start();
        let station = Station::new(&server.url());
        let login = station.log_in("one");
        server.then(Reply::Problem(status, reason, ""));
        let report = station.round(&LOOK);
        assert_eq!((report.ok, report.reason.as_str(), report.pending), (false, reason, !is_final));
        assert_eq!(report.detail.as_deref(), Some("words of the server"));
        let again = station.round(&LOOK);
        if is_final {
            assert_eq!(again.sent, None, "{reason}");
            let refused = station.memory().refused.unwrap();
            assert_eq!((refused.fingerprint, refused.reason.as_str()), (login, reason));
            station.round(&Ask::Now);
            let beat = server.last().call().message;
            assert_eq!((beat.reason, beat.refused), (Some(Reason::Refused), Some(refused.reason)));
            // The next login is another matter, and so is a person's word.
            station.log_in("two");
            assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
            let station = Station::new(&server.url());
            station.log_in("one");
            server.then(Reply::Problem(status, reason, ""));
            station.round(&LOOK);
            assert_eq!(station.round(&Ask::Push { accept_new_identity: false }).reason, Reason::Accepted);
        } else {
            assert_eq!(again.reason, Reason::Accepted, "{reason}");
            assert_eq!(station.memory().pending, None);
        }
    }
}

#[test]
fn retry_after_is_honoured_by_looks_and_not_by_a_person() {
    for (status, reason) in [(429, "rate_limited"), (503, "lease_held")] {
        let server = Server::start();
        let station = Station::new(&server.url());
        station.log_in("one");
        server.then(Reply::Problem(status, reason, "retry-after: 600\r\n"));
        assert_eq!(station.round(&LOOK).reason.as_str(), reason);
        let waits = station.round(&LOOK);
        assert_eq!((waits.sent, waits.pending), (None, true));
        assert_eq!(station.round(&Ask::Now).reason, Reason::Accepted);
    }
    // What no Evergrant said.
    let server = Server::start();
    let station = Station::new(&server.url());
    station.log_in("one");
    let busy = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 600\r\ncontent-length: 4\r\n\r\nslow";
    server.then(Reply::Raw(busy.into()));
    assert_eq!(station.round(&LOOK).reason, Reason::RateLimited);
    assert_eq!(station.round(&LOOK).sent, None);
}

#[test]
fn what_failed_is_reported_at_the_next_contact() {
    let server = Server::start();
    let station = Station::new(&server.url());
    station.log_in("one");
    server.then(Reply::Close).then(Reply::Close);
    server.then(Reply::Raw("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 5\r\n\r\noops!".into()));
    server.then(Reply::Raw("not HTTP at all".into()));
    let reasons: Vec<_> = (0..4).map(|_| station.round(&LOOK).reason).collect();
    let gone = Reason::ServerUnreachable;
    assert_eq!(reasons, [gone, gone, Reason::ServerError, gone]);
    let report = station.round(&LOOK);
    assert_eq!((report.ok, report.reason), (true, Reason::Accepted));
    let failures = server.last().call().message.failures;
    let counts: Vec<_> = failures.iter().map(|failed| (failed.reason, failed.count)).collect();
    assert_eq!(counts, [(gone, 3), (Reason::ServerError, 1)]);
    assert!(failures[0].first < failures[0].last);
    assert_eq!((station.memory().failures.len(), station.memory().streak), (0, None));
}

#[test]
fn a_redirect_is_not_followed_and_a_hanging_server_is_given_up() {
    let elsewhere = Server::start();
    let server = Server::start();
    let station = Station::new(&server.url());
    station.log_in("one");
    let moved = format!("HTTP/1.1 307 Moved\r\nlocation: {}/\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    server.then(Reply::Raw(moved));
    let report = station.round(&LOOK);
    assert_eq!(report.reason, Reason::ServerError);
    assert!(report.detail.unwrap().contains("redirect"));
    assert_eq!((server.requests().len(), elsewhere.requests().len()), (1, 0));

    server.then(Reply::Hang(Duration::from_secs(60)));
    let report = station.round(&LOOK);
    assert_eq!(report.reason, Reason::ServerUnreachable);
    assert!(report.detail.unwrap().contains("does not answer"));
    assert_eq!(server.requests().len(), 2, "it is sent once");
}

#[test]
fn nothing_goes_out_in_the_clear() {
    // Nobody could listen there; the point is that nothing is tried.
    for server in ["http://192.0.2.1:9", "http://evergrant.invalid"] {
        let station = Station::new(server);
        station.log_in("one");
        let report = station.round(&LOOK);
        assert_eq!((report.reason, report.pending), (Reason::ServerInsecure, true));
        assert!(report.detail.unwrap().contains("in the clear"));
    }
}

#[test]
fn an_agent_without_a_key_says_so_and_keeps_the_login_waiting() {
    let server = Server::start();
    let mut station = Station::new(&server.url());
    station.log_in("one");
    fs::write(station.path("push.key"), "nonsense").unwrap();
    let report = station.round(&LOOK);
    assert_eq!((report.reason, report.pending), (Reason::CallerMissing, true));
    assert!(report.detail.unwrap().contains("holds no key"));
    station.settings.chains[0].key = KeySource::Missing;
    assert!(station.round(&LOOK).detail.unwrap().contains("keys create --scope push"));
    assert_eq!(server.requests().len(), 0);
    // A key that is put there later is used without a restart.
    let key = station.path("push.key");
    fs::write(&key, KEY).unwrap();
    station.settings.chains[0].key = KeySource::File(key);
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
}

#[test]
fn a_server_that_repeats_secrets_is_not_quoted() {
    let server = Server::start();
    let station = Station::new(&server.url());
    station.log_in("one");
    server.then(Reply::Echo(500));
    let report = station.round(&LOOK);
    assert!(!report.ok && !format!("{report:?}").contains("canary"), "{report:?}");
    no_canary(station.home.path(), &["login.json", "push.key"]);
}

#[test]
fn entries_that_hold_no_login_are_reported() {
    let server = Server::start();
    let station = Station::new(&server.url());
    let said = |what: Option<&str>| {
        let path = station.path("login.json");
        match what {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap_or_default(),
        }
        station.round(&Ask::Now);
        server.last().call().message.reason.unwrap()
    };
    assert_eq!(said(None), Reason::NoEntry);
    assert_eq!(said(Some("{\"claudeAiOauth\": {\"accessToken\": \"\"}}")), Reason::Wiped);
    assert_eq!(said(Some("{\"claudeAiOauth\": {\"accessToken\": \"sk-ant-oat01-canary")), Reason::Malformed);
    let report = station.round(&Ask::Push { accept_new_identity: false });
    assert_eq!((report.ok, report.sent, report.reason), (false, None, Reason::Malformed));
    assert!(!format!("{report:?}").contains("canary"));
    // A login that was interrupted while it was written is fresh once it is whole.
    station.log_in("one");
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
}

#[test]
fn a_given_token_is_pushed_and_the_entry_keeps_its_own_fate() {
    let server = Server::start();
    let station = Station::new(&server.url());
    station.log_in("one");
    server.then(Reply::Problem(503, "lease_held", ""));
    station.round(&LOOK);
    let grant = Grant {
        access: evergrant_core::AccessToken::parse("sk-ant-oat01-canary-given").unwrap(),
        refresh: None,
        expires_at: None,
        grant_expires_at: None,
        scopes: Vec::new(),
    };
    let ask = Ask::Given { grant: Box::new(grant.clone()), accept_new_identity: false };
    assert_eq!(station.round(&ask).reason, Reason::Accepted);
    let call = server.last().call();
    assert_eq!((call.grant, call.identity), (Some(grant), None));
    assert_eq!(call.message.local.fingerprint, Some(fingerprint("one")));
    assert_eq!(station.memory().pending.map(|pending| pending.fingerprint), Some(fingerprint("one")));
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);
}

#[test]
fn an_absence_goes_with_every_message_until_it_is_taken_back() {
    let server = Server::start();
    let station = Station::new(&server.url());
    let agent = station.agent();
    station.round(&LOOK);
    let absence =
        Absence { until: "2099-01-01T00:00:00Z".parse::<Timestamp>().unwrap(), reason: "on a plane".into() };
    absence::announce(agent.folder(), &absence).unwrap();
    server.then(Reply::Close);
    assert!(!station.round(&LOOK).ok, "it is announced with the next look");
    assert_eq!(station.round(&LOOK).sent, Some(PushKind::Beat));
    assert_eq!(server.last().call().message.absence, Some(absence));
    assert_eq!(station.round(&LOOK).sent, None);
    absence::take_back(agent.folder()).unwrap();
    assert_eq!(station.round(&LOOK).sent, Some(PushKind::Beat));
    assert_eq!(server.last().call().message.absence, None);
}

#[test]
fn a_memory_that_cannot_be_written_stops_nothing() {
    let server = Server::start();
    let station = Station::new(&server.url());
    let agent = station.agent();
    // A folder lies where the file belongs.
    fs::create_dir_all(agent.folder().path().join("claude.json.new/x")).unwrap();
    station.log_in("one");
    let chain = &station.settings.chains[0];
    assert_eq!(agent.round(chain, &LOOK).unwrap().reason, Reason::Accepted);
    assert_eq!(agent.round(chain, &LOOK).unwrap().sent, None, "this process remembers");
    fs::remove_dir_all(agent.folder().path().join("claude.json.new")).unwrap();
    agent.round(chain, &LOOK).unwrap();
    assert_eq!(station.memory().delivered, Some(fingerprint("one")), "it is written as soon as it can be");
}
