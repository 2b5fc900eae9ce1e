//! Mail to a server that is not ours (aiosmtpd).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use evergrant_core::alert::{AlertState, Outcome, Sink, SinkKind};
use evergrant_server::Courier;
use evergrant_server::alert::Deliver as _;
use evergrant_server::http::HttpClient;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{alert, now, sink, url};

const BOUND: Duration = Duration::from_secs(30);
const RIGHT: &str = "evergrant:not-a-real-password@";

struct MailServer {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl MailServer {
    async fn start(arguments: &[&Path]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
        let python = root.join("target/tests-python/bin/python");
        assert!(python.exists(), "{} is missing: `cargo xtask test` installs it", python.display());
        let mut command = Command::new(python);
        command.env_clear().arg("-I").arg(root.join("tests-python/mail.py")).args(arguments);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = tokio::time::timeout(BOUND, lines.next_line()).await.unwrap().unwrap().unwrap();
        let port = serde_json::from_str::<Value>(&first).unwrap()["port"].as_u64().unwrap();
        Self { port: u16::try_from(port).unwrap(), lines, _child: child }
    }

    /// The next message that it took.
    async fn taken(&mut self) -> Value {
        let line = tokio::time::timeout(BOUND, self.lines.next_line()).await.unwrap().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn sink(&self, scheme: &str, user: &str, host: &str, query: &str, to: &[&str]) -> Sink {
        sink(SinkKind::Email {
            smtp: url(&format!("{scheme}://{user}{host}:{}{query}", self.port)),
            from: "Evergrant <evergrant@ops.example.org>".into(),
            to: to.iter().map(|to| (*to).to_owned()).collect(),
        })
    }
}

fn courier(sink: Sink) -> Courier {
    Courier::new(HttpClient::new(None).unwrap(), vec![sink], Duration::from_secs(10), now)
}

#[tokio::test]
async fn a_mail_arrives_whole_as_text_and_html_and_threads() {
    let mut server = MailServer::start(&[Path::new("plain")]).await;
    let sink = server.sink("smtp", RIGHT, "127.0.0.1", "", &["Op <op@example.org>"]);
    let courier = courier(sink);
    let mut alert = alert("reauth_required");
    assert_eq!(courier.deliver("email", &alert).await, Outcome::Delivered);
    let first = server.taken().await;
    assert_eq!(first["defects"], serde_json::json!([]));
    assert_eq!(
        (first["type"].as_str(), first["from"].as_str()),
        (Some("multipart/alternative"), Some("evergrant@ops.example.org"))
    );
    assert_eq!(first["to"], serde_json::json!(["op@example.org"]));
    let header = |mail: &Value, name: &str| mail["headers"][name].as_str().map(str::to_owned);
    let subject = header(&first, "subject").unwrap();
    assert!(subject.starts_with("[Evergrant] 🔴 Chain claude: "), "{subject}");
    let id = header(&first, "message-id").unwrap();
    assert_eq!(id, format!("<{}@ops.example.org>", alert.id));
    let action = alert.action.clone().unwrap();
    for part in ["text/plain", "text/html"] {
        let text = first["parts"][part].as_str().unwrap();
        for said in
            [action.commands[0].as_str(), action.commands[1].as_str(), &alert.runbook_url, "Serving now:"]
        {
            assert!(text.contains(said), "{part}: {said}\n{text}");
        }
    }
    alert.state = AlertState::Closed;
    alert.id = alert.id.replace("-open", "-closed");
    assert_eq!(courier.deliver("email", &alert).await, Outcome::Delivered);
    let second = server.taken().await;
    assert_eq!((header(&second, "references"), header(&second, "in-reply-to")), (Some(id.clone()), Some(id)));
}

#[tokio::test]
async fn one_bad_address_costs_nobody_elses_mail() {
    let mut server = MailServer::start(&[Path::new("plain")]).await;
    let to = ["nobody@example.org", "op@example.org"];
    let both = courier(server.sink("smtp", RIGHT, "localhost", "", &to));
    assert_eq!(both.deliver("email", &alert("stale")).await, Outcome::Delivered);
    assert_eq!(server.taken().await["to"], serde_json::json!(["op@example.org"]));
    let none = courier(server.sink("smtp", RIGHT, "localhost", "", &to[..1]));
    let outcome = none.deliver("email", &alert("stale")).await;
    assert!(
        matches!(&outcome, Outcome::Refused { detail } if detail.contains("no such mailbox")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_wrong_password_is_not_told_and_waits_for_the_right_one() {
    let server = MailServer::start(&[Path::new("plain")]).await;
    let wrong =
        courier(server.sink("smtp", "evergrant:another-password@", "127.0.0.1", "", &["op@example.org"]));
    let outcome = wrong.deliver("email", &alert("stale")).await;
    let Outcome::Unavailable { detail, .. } = &outcome else { panic!("{outcome:?}") };
    assert!(detail.contains("535") || detail.to_lowercase().contains("auth"), "{detail}");
    assert!(!detail.contains("another-password"), "{detail}");
}

fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

#[tokio::test]
async fn tls_is_checked_whether_it_comes_first_or_by_starttls() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(folder.path());
    for (mode, scheme, query) in [("tls", "smtps", ""), ("starttls", "smtp", "?tls=required")] {
        let mut server = MailServer::start(&[Path::new(mode), &cert, &key]).await;
        let mut sink = server.sink(scheme, RIGHT, "localhost", query, &["op@example.org"]);
        let outcome = courier(sink.clone()).deliver("email", &alert("stale")).await;
        assert!(
            matches!(outcome, Outcome::Unavailable { .. }),
            "{mode}: an unknown certificate: {outcome:?}"
        );
        sink.ca_file = Some(cert.clone());
        assert_eq!(
            courier(sink.clone()).deliver("email", &alert("stale")).await,
            Outcome::Delivered,
            "{mode}"
        );
        assert_eq!(server.taken().await["tls"], true, "{mode}");
    }
    // A server that offers no TLS gets nothing, the password included.
    let server = MailServer::start(&[Path::new("plain")]).await;
    let outcome = courier(server.sink("smtp", RIGHT, "localhost", "?tls=required", &["op@example.org"]))
        .deliver("email", &alert("stale"))
        .await;
    assert!(matches!(outcome, Outcome::Unavailable { .. }), "{outcome:?}");
}

#[tokio::test]
async fn mail_without_tls_needs_a_setting_and_a_dead_server_is_said() {
    let far = |query: &str| {
        sink(SinkKind::Email {
            smtp: url(&format!("smtp://u:not-a-real-password@192.0.2.1:25{query}")),
            from: "e@example.org".into(),
            to: vec!["op@example.org".into()],
        })
    };
    let outcome = courier(far("?tls=none")).deliver("email", &alert("stale")).await;
    assert!(outcome.detail().unwrap().contains("allow_insecure"), "{outcome:?}");
    let mut dead = far("");
    if let SinkKind::Email { smtp, .. } = &mut dead.kind {
        *smtp = url("smtp://u:not-a-real-password@127.0.0.1:9");
    }
    let outcome = courier(dead).deliver("email", &alert("stale")).await;
    let Outcome::Unavailable { detail, .. } = &outcome else { panic!("{outcome:?}") };
    assert!(detail.contains("127.0.0.1:9") && !detail.contains("not-a-real"), "{detail}");
}
