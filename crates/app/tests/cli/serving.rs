//! The server as its service manager sees it: ready, reloaded, ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use evergrant_standin::{Fault, FaultTarget, LoginOptions};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Home, Running, lives, standin, wait_until};

/// A server whose log lines can be waited for.
pub(crate) struct Server {
    pub(crate) running: Running,
    lines: Receiver<Value>,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        command.env("EVERGRANT_LOG__FORMAT", "json").env("EVERGRANT_LOG__LEVEL", "debug");
        let mut running = Running::start(command);
        let stderr = BufReader::new(running.0.stderr.take().unwrap());
        let (line, lines) = channel();
        std::thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&text) {
                    let _ = line.send(value);
                }
            }
        });
        Self { running, lines }
    }

    /// The next line whose member says so.
    pub(crate) fn line(&self, member: &str, says: &str) -> Value {
        self.line_that(&format!("has {member} = {says}"), |line| line[member] == json!(says))
    }

    /// The next line of which that is true.
    pub(crate) fn line_that(&self, what: &str, is_true: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30));
            let line = line.unwrap_or_else(|_| panic!("no line that {what}"));
            if is_true(&line) {
                return line;
            }
        }
    }

    pub(crate) fn base(&self) -> String {
        let line = self.line("message", "serving");
        format!("http://{}", line["address"].as_str().unwrap())
    }
}

pub(crate) async fn get(url: &str) -> (u16, String) {
    let client = evergrant_server::http::HttpClient::new(None).unwrap();
    let reply = client.call(http::Method::GET, &url.parse().unwrap(), &[], Default::default()).await.unwrap();
    (reply.status, String::from_utf8(reply.body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_and_renews_what_it_finds() {
    let mut settings = crate::support::standin_settings();
    settings.lives.access_secs = 4;
    let standin = evergrant_standin::StandIn::start(settings).await.unwrap();
    let home = Home::new(&standin);
    home.log_in(&standin);
    let server = Server::start(&mut home.command(&["serve"]));
    let base = server.base();
    assert_eq!(get(&format!("{base}/healthz")).await, (200, "ok\n".into()));
    assert_eq!(get(&format!("{base}/readyz")).await.0, 200);
    for _ in 0..2 {
        server.line("reason", "renewed");
    }
    let (status, metrics) = get(&format!("{base}/metrics")).await;
    assert_eq!(status, 200);
    for line in
        ["evergrant_renewals_total{chain=\"claude\"}", "evergrant_token_valid{chain=\"claude\"} 1", "# EOF"]
    {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    // A login that somebody puts there is taken over at once.
    fs::write(&home.auth_file, standin.engine().login(LoginOptions::default()).auth_file().to_string())
        .unwrap();
    server.line("reason", "adopted");
    // And one that is taken away is missed at once.
    let away = home.folder.path().join("away");
    fs::rename(&home.auth_file, &away).unwrap();
    server.line("error", "token_absent");
    fs::rename(&away, &home.auth_file).unwrap();
    server.line("reason", "renewed");
    assert_eq!(get(&format!("{base}/readyz")).await.0, 200, "a chain's state makes no replica unready");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_in_flight_is_let_finish() {
    let mut settings = crate::support::standin_settings();
    settings.lives.access_secs = 4;
    let standin = evergrant_standin::StandIn::start(settings).await.unwrap();
    let home = Home::new(&standin);
    home.log_in(&standin);
    let before = home.refresh_token();
    standin.engine().push_fault(FaultTarget::Token, Fault::DelayAfter { millis: 1_500 }, 1);
    let mut server = Server::start(&mut home.command(&["serve"]));
    server.base();
    wait_until("the exchange is in flight", Duration::from_secs(20), || {
        standin.engine().counters().exchanges == 1
    });
    server.running.signal(Signal::TERM);
    assert!(server.running.0.wait().unwrap().success());
    assert_ne!(home.refresh_token(), before, "the answer was thrown away");
    assert!(lives(&standin, &home.refresh_token()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_configuration_is_refused_and_a_good_one_taken() {
    let standin = standin().await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    let server = Server::start(&mut home.command(&["serve"]));
    server.base();
    let good = fs::read_to_string(home.config()).unwrap();
    fs::write(home.config(), format!("{good}nonsense = 1\n")).unwrap();
    server.running.signal(Signal::HUP);
    let line = server.line("reason", "config_rejected");
    assert!(line["fault"].as_str().unwrap().contains("nonsense"), "{line}");
    // The new chain lies in another file, and is kept from now on.
    let other = home.folder.path().join("grant/other.json");
    fs::write(&other, standin.engine().login(LoginOptions::default()).auth_file().to_string()).unwrap();
    let more = format!(
        "\n[chains.other]\nprovider = \"stand-in\"\naccept_provider_terms = true\nauth_file = \"{}\"\n",
        other.display()
    );
    fs::write(home.config(), good + &more).unwrap();
    server.running.signal(Signal::HUP);
    // The chain may have been looked at before the log says that it is there.
    let mut awaited = vec![("reason", "config_reloaded"), ("chain", "other")];
    while !awaited.is_empty() {
        let line = server.line_that(&format!("is one of {awaited:?}"), |line| {
            awaited.iter().any(|(member, value)| line[*member] == *value)
        });
        awaited.retain(|(member, value)| line[*member] != *value);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let socket = home.folder.path().join("notify");
    let receiver = UnixDatagram::bind(&socket).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut command = home.command(&["serve"]);
    let mut server = Server::start(command.env("NOTIFY_SOCKET", &socket));
    let told = |receiver: &UnixDatagram| {
        let mut buffer = [0; 256];
        let len = receiver.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    };
    assert!(told(&receiver).contains("READY=1"));
    server.running.signal(Signal::HUP);
    assert!(told(&receiver).contains("RELOADING=1"));
    assert!(told(&receiver).contains("READY=1"));
    server.running.signal(Signal::TERM);
    assert!(told(&receiver).contains("STOPPING=1"));
    assert!(server.running.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_says_so() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let taken = standin.url().trim_start_matches("http://").to_owned();
    let output = home.command(&["serve"]).env("EVERGRANT_HTTP__LISTEN", &taken).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("cannot listen on {taken}")));
}

#[test]
fn the_demo_ends_by_itself() {
    let output = Command::new(crate::support::BINARY).args(["demo", "--for", "8s"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("renewed") && text.contains("presented twice: 0"), "{text}");
}
