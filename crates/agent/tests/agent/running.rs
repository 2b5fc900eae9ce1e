//! The loop, and what it says by itself while nobody hears it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use evergrant_agent::key::KeySource;
use evergrant_agent::notify::Notifier;
use evergrant_agent::process::Surroundings;
use evergrant_agent::run::{Stop, run};
use evergrant_agent::settings::Sinks;
use evergrant_core::alert::sink::{SigningKey, SinkUrl};
use evergrant_core::alert::{Group, Level, Sink, SinkKind};
use evergrant_core::push::PushKind;

use crate::programs::{calls, program};
use crate::server::{Reply, Request, Server};
use crate::support::{KEY, Station, fingerprint};

/// An agent that runs until it is dropped.
struct Running {
    stop: Stop,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn start(station: &Station) -> Self {
        let (stop, agent) = (Stop::default(), Arc::new(station.agent()));
        let stops = stop.clone();
        let thread = std::thread::spawn(move || run(&agent, &stops).unwrap());
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn pushes(requests: &[Request]) -> Vec<String> {
    let calls = requests.iter().map(Request::call).filter(|call| call.message.kind == PushKind::Push);
    calls.map(|call| call.grant.unwrap().pair().fingerprint().to_string()).collect()
}

#[test]
fn it_beats_and_pushes_each_login_once() {
    let server = Server::start();
    let station = Station::new(&server.url()).quick();
    let _running = Running::start(&station);
    server.wait("two beats", |requests| requests.len() >= 2 && pushes(requests).is_empty());
    for name in ["one", "two"] {
        station.log_in(name);
        server.wait("the push", |requests| pushes(requests).contains(&fingerprint(name).to_string()));
    }
    let before = server.requests().len();
    let requests = server.wait("two more beats", |requests| requests.len() >= before + 2);
    assert_eq!(pushes(&requests), [fingerprint("one").to_string(), fingerprint("two").to_string()]);
}

#[test]
fn a_login_waits_through_everything_and_a_restart() {
    let server = Server::start();
    for reply in [
        Reply::Close,
        Reply::Problem(503, "lease_held", ""),
        Reply::Problem(503, "probe_unavailable", "retry-after: 1\r\n"),
        Reply::Raw("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n".into()),
        Reply::Problem(401, "caller_unknown", ""),
    ] {
        server.then(reply);
    }
    let station = Station::new(&server.url()).quick();
    station.log_in("one");
    let running = Running::start(&station);
    server.wait("two attempts", |requests| requests.len() >= 2);
    drop(running);
    assert_eq!(station.memory().pending.map(|pending| pending.fingerprint), Some(fingerprint("one")));
    // By then its date is too old to be fresh: only the memory knows.
    station.age(Duration::from_secs(3600));
    let _running = Running::start(&station);
    server.wait("it is taken, and beats", |requests| {
        requests.last().is_some_and(|request| request.call().message.kind == PushKind::Beat)
    });
    assert_eq!(pushes(&server.requests()).len(), 6);
    assert_eq!(station.memory().delivered, Some(fingerprint("one")));
}

#[test]
fn one_runs_at_a_time_beside_commands_of_a_person() {
    let server = Server::start();
    let station = Station::new(&server.url()).quick();
    let _running = Running::start(&station);
    server.wait("it runs", |requests| !requests.is_empty());
    let second = run(&Arc::new(station.agent()), &Stop::default()).unwrap_err().to_string();
    assert!(second.contains("an agent runs already"), "{second}");
    for _ in 0..10 {
        station.round(&evergrant_agent::round::Ask::Now);
    }
    let nonces: std::collections::BTreeSet<_> =
        server.requests().iter().map(|request| request.call().message.nonce).collect();
    assert_eq!(nonces.len(), server.requests().len(), "no message is sent twice");
}

#[test]
fn several_chains_do_not_wait_for_each_other() {
    let server = Server::start();
    let mut station = Station::new(&server.url()).quick();
    let mut other = station.settings.chains[0].clone();
    other.name = "other".parse().unwrap();
    other.entry.file = station.path("other.json");
    // A key is one chain's.
    let key = KEY.replace("-0", "-1");
    fs::write(station.path("other.key"), &key).unwrap();
    other.key = KeySource::File(station.path("other.key"));
    station.settings.chains.push(other);
    server.then(Reply::Hang(Duration::from_secs(20)));
    let _running = Running::start(&station);
    server.wait("one chain hangs and the other beats", |requests| requests.len() >= 3);
    let chains: std::collections::BTreeSet<_> =
        server.requests().iter().filter_map(|request| request.call().message.chain).collect();
    assert_eq!(chains.len(), 2);
    for request in server.requests() {
        let key = if request.call().message.chain.unwrap().as_str() == "other" { key.as_str() } else { KEY };
        assert_eq!(request.header("authorization"), Some(format!("Bearer {key}").as_str()));
    }
}

#[test]
fn a_person_and_the_sinks_hear_of_silence_and_of_its_end() {
    let (server, sink) = (Server::start(), Server::start());
    let mut station = Station::new(&server.url()).quick();
    let told = program(station.home.path(), "notify-send", "exit 0\n");
    station.settings.notifier = Notifier { program: Some(told), around: Surroundings::default() };
    let url = SinkUrl::new(format!("{}/canary-path", sink.url()).parse().unwrap());
    let key = SigningKey::parse("whsec_bm90IGEga2V5IG9mIGFueWJvZHkgYXQgYWxs").unwrap();
    station.settings.sinks = Sinks::of(vec![Sink {
        name: "ops".into(),
        kind: SinkKind::Webhook { url, key },
        min_level: Level::Yellow,
        groups: vec![Group::TokenPush],
        allow_insecure: false,
        ca_file: None,
    }]);
    // The server is down for longer than a person should be left alone, and the first call of the sink fails.
    for _ in 0..12 {
        server.then(Reply::Close);
    }
    sink.then(Reply::Close);
    let _running = Running::start(&station);
    let alerts = |requests: &[Request]| -> Vec<serde_json::Value> {
        let body = |request: &Request| serde_json::from_slice::<serde_json::Value>(&request.body).unwrap();
        requests.iter().map(|request| body(request)["data"].clone()).collect()
    };
    server.wait("the server is back", |requests| requests.len() > 12);
    let seen = sink.wait("both ends", |requests| {
        alerts(requests).last().is_some_and(|alert| alert["state"] == "closed")
    });
    let states: Vec<_> = alerts(&seen).iter().map(|alert| alert["state"].clone()).collect();
    assert_eq!(states, ["open", "open", "closed"], "the first was not taken");
    let all = alerts(&seen);
    assert_eq!((all[1]["status"].clone(), all[2]["status"].clone()), ("failed".into(), "recovered".into()));
    assert_eq!(all[1]["concerned"][0]["episode"], all[2]["concerned"][0]["episode"]);
    assert!(all[1]["concerned"][0]["episode"].as_str().unwrap().starts_with("agent-"));
    assert_eq!(all[1]["condition"], "failed");
    let notices = calls(station.home.path(), "notify-send");
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert!(notices[0].contains("has not heard this workstation") && notices[1].contains("again"));
    assert!(!fs::read_to_string(station.path("agent/claude.json")).unwrap().contains("canary"));
}
