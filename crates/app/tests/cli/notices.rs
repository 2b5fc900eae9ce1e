//! Nobody notices: under a load of messages and streams the token dies, the grant dies, the file goes, the provider
//! fails, and the server is replaced, again and again; and not one request fails because of it (SPEC §7).
//!
//! `EVERGRANT_LOAD_SECS` makes it longer.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use evergrant_standin::{Fault, FaultTarget, LoginOptions, Source, StandIn};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rustix::process::Signal;

use crate::gateway::{FALLBACK, caller_key, provider};
use crate::serving::Server;
use crate::support::Home;

const MESSAGES: usize = 6;
const STREAMS: usize = 3;
/// One turn of everything that goes wrong takes no longer, or something is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the load has seen.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    served: AtomicU64,
    failures: Mutex<Vec<String>>,
}

#[expect(clippy::disallowed_methods, reason = "how long real processes take")]
fn now() -> Instant {
    Instant::now()
}

fn start(home: &Home, socket: &TcpListener) -> Server {
    let server = Server::start(home.serve_on(socket).env("ANTHROPIC_FALLBACK_KEY", FALLBACK));
    server.base();
    server
}

/// Asks again and again until it is over.
async fn load(seen: Arc<Seen>, address: SocketAddr, key: String, stream: bool, number: usize) {
    let client: Client<_, Full<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let body = format!(
        r#"{{"model":"stand-in-small","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "x".repeat(100 * (number + 1))
    );
    while !seen.over.load(Ordering::Relaxed) {
        let begun = now();
        let request = http::Request::post(format!("http://{address}/v1/anthropic/v1/messages"))
            .header("x-api-key", &key)
            .header("content-type", "application/json")
            .body(Full::from(body.clone()))
            .unwrap();
        let asked = async {
            let answer = client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let status = answer.status();
            let id = answer.headers().get("x-request-id").cloned();
            let body =
                answer.into_body().collect().await.map_err(|error| format!("{status} {id:?}: {error:?}"))?;
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            let whole = if stream { text.contains("message_stop") } else { text.contains("\"end_turn\"") };
            if status == 200 && whole { Ok(()) } else { Err(format!("{status} {id:?}: {text}")) }
        };
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(())) => {
                seen.served.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err(why)) => seen.failures.lock().unwrap().push(format!("after {:?}: {why}", begun.elapsed())),
            Err(_) => seen.failures.lock().unwrap().push("no answer".into()),
        }
    }
}

/// What is done to a chain while it serves.
struct Rehearsal<'a> {
    standin: &'a StandIn,
    home: &'a Home,
    socket: TcpListener,
    server: Server,
    /// From the grant's return to the first request that used it.
    returns: Vec<(&'static str, Duration)>,
}

impl Rehearsal<'_> {
    fn access_token(&self) -> String {
        self.home.file()["claudeAiOauth"]["accessToken"].as_str().unwrap().to_owned()
    }

    /// Waits until the API is asked by this source anew.
    async fn asked_by(&self, what: &str, source: Source) -> Duration {
        let engine = self.standin.engine();
        let newest = || {
            engine.with(|engine| {
                let ours = |call: &&evergrant_standin::Sighting| {
                    call.source == source && call.status == 200 && call.target.starts_with("/v1/messages")
                };
                engine.sightings().rev().find(ours).map(|call| call.seq)
            })
        };
        let (begun, before) = (now(), newest());
        while newest() == before {
            assert!(begun.elapsed() < PATIENCE, "{what}: no request by {source:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        begun.elapsed()
    }

    async fn back(&mut self, what: &'static str) {
        let took = self.asked_by(what, Source::Oauth).await;
        self.returns.push((what, took));
    }

    async fn dead_token(&mut self) {
        let before = self.standin.engine().counters().rotations;
        let access = self.access_token();
        assert!(self.standin.engine().with(|engine| engine.revoke_access(&access)));
        let begun = now();
        while self.standin.engine().counters().rotations == before {
            assert!(begun.elapsed() < PATIENCE, "a dead token is renewed");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.back("a token that was renewed").await;
    }

    async fn dead_grant(&mut self) {
        assert!(self.standin.engine().revoke(&self.home.refresh_token()));
        self.asked_by("the grant is dead", Source::ApiKey).await;
        self.log_in().await;
        self.back("a login that was imported").await;
    }

    /// A new login, by the command line.
    async fn log_in(&self) {
        let file = self.home.folder.path().join("login.json");
        let login = self.standin.engine().login(LoginOptions::default()).auth_file();
        fs::write(&file, login.to_string()).unwrap();
        let mut command = self.home.command(&["import", "--move", file.to_str().unwrap()]);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(output.status.success(), "{}", crate::support::shown(&output));
    }

    async fn file_away(&mut self) {
        let aside = self.home.folder.path().join("aside.json");
        fs::rename(&self.home.auth_file, &aside).unwrap();
        self.asked_by("the file is away", Source::ApiKey).await;
        fs::rename(&aside, &self.home.auth_file).unwrap();
        self.back("a file that was put back").await;
    }

    /// One at a time: a second one would be the probe's, and a third one the fallback key's.
    async fn spurious(&self) {
        for _ in 0..3 {
            self.standin.engine().push_fault(FaultTarget::Api, Fault::named("spurious_401").unwrap(), 1);
            let (begun, played) = (now(), || self.standin.engine().with(|engine| engine.faults().is_empty()));
            while !played() {
                assert!(begun.elapsed() < PATIENCE, "nobody asks");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.asked_by("a spurious 401", Source::Oauth).await;
        }
    }

    async fn failing_token_url(&mut self) {
        self.standin.engine().push_fault(FaultTarget::Token, Fault::named("overloaded_529").unwrap(), 2);
        let mut command = self.home.command(&["refresh", "--force"]);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        self.asked_by("the token URL is overloaded", Source::Oauth).await;
        self.standin.engine().clear_faults();
        // Nobody can know whether a 500 has spent the pair: a login makes it whole.
        self.standin.engine().push_fault(FaultTarget::Token, Fault::named("empty_500").unwrap(), 1);
        let mut command = self.home.command(&["refresh", "--force"]);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        self.asked_by("the token URL answered 500", Source::Oauth).await;
        self.standin.engine().clear_faults();
        self.log_in().await;
        self.back("a login that was imported").await;
    }

    async fn handed_over(&mut self) {
        let (home, socket) = (self.home, self.socket.try_clone().unwrap());
        let fresh = tokio::task::block_in_place(|| start(home, &socket));
        let old = std::mem::replace(&mut self.server, fresh);
        old.running.signal(Signal::TERM);
        tokio::task::block_in_place(|| old.line("message", "ended"));
        self.asked_by("another server", Source::Oauth).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_chain_no_request_fails() {
    let standin = provider().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let key = caller_key(&home);
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = start(&home, &socket);
    let seen = Arc::new(Seen::default());
    let workers: Vec<_> = (0..MESSAGES + STREAMS)
        .map(|number| tokio::spawn(load(seen.clone(), address, key.clone(), number >= MESSAGES, number)))
        .collect();
    let mut rehearsal = Rehearsal { standin: &standin, home: &home, socket, server, returns: Vec::new() };
    rehearsal.asked_by("the beginning", Source::Oauth).await;
    let secs = std::env::var("EVERGRANT_LOAD_SECS").map_or(20, |secs| secs.parse().unwrap());
    let (begun, mut rounds) = (now(), 0);
    while begun.elapsed() < Duration::from_secs(secs) || rounds < 2 {
        rehearsal.dead_token().await;
        rehearsal.spurious().await;
        rehearsal.file_away().await;
        rehearsal.handed_over().await;
        rehearsal.dead_grant().await;
        rehearsal.failing_token_url().await;
        rounds += 1;
    }
    seen.over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let failures = seen.failures.lock().unwrap();
    let served = seen.served.load(Ordering::Relaxed);
    assert!(
        failures.is_empty(),
        "{} of {served} failed in {rounds} rounds:\n{}",
        failures.len(),
        failures.join("\n")
    );
    let mut returns: Vec<_> = rehearsal.returns.iter().map(|(_, took)| *took).collect();
    returns.sort_unstable();
    let (median, longest) = (returns[returns.len() / 2], returns[returns.len() - 1]);
    let shown =
        format!("{rounds} rounds, {served} requests; OAuth again after {median:?}, at most {longest:?}");
    assert!(longest < Duration::from_secs(5), "{shown}: {:?}", rehearsal.returns);
    say(&shown, &rehearsal.returns);
}

#[expect(clippy::print_stderr, reason = "the figures are for whoever runs this test alone")]
fn say(shown: &str, returns: &[(&str, Duration)]) {
    eprintln!("{shown}");
    for (what, took) in returns {
        eprintln!("{took:>14.1?} {what}");
    }
}
