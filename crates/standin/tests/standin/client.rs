//! What the tests share: an engine with its time, and an HTTP client that sees what really came over the wire.

use std::time::Duration;

use evergrant_standin::{Call, Engine, Login, LoginOptions, Reply, Settings, TokenRequest};
use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing that a test waits for takes longer.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) now: Timestamp,
    pub(crate) rng: StdRng,
}

impl Bench {
    pub(crate) fn new(settings: Settings) -> Self {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Self { engine: Engine::new(settings), now, rng: StdRng::seed_from_u64(7) }
    }

    pub(crate) fn login(&mut self) -> Login {
        self.login_with(LoginOptions::default())
    }

    pub(crate) fn login_with(&mut self, options: LoginOptions) -> Login {
        self.engine.login(options, self.now, &mut self.rng)
    }

    pub(crate) fn refresh(&mut self, token: &str) -> Reply {
        self.token(&TokenRequest::refresh(token))
    }

    pub(crate) fn token(&mut self, request: &TokenRequest) -> Reply {
        self.engine.token(request, self.now, &mut self.rng)
    }

    pub(crate) fn call(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let call = Call { method, target, headers, body: body.as_bytes() };
        self.engine.handle(&call, self.now, &mut self.rng)
    }

    pub(crate) fn pass(&mut self, secs: i64) {
        self.now += SignedDuration::from_secs(secs);
    }
}

pub(crate) fn json(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.bytes()).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

/// The refresh token of a 200.
pub(crate) fn successor(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    json(reply)["refresh_token"].as_str().unwrap().to_owned()
}

/// What came over the wire.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) raw: Vec<u8>,
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) whole: bool,
}

impl Wire {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn read(raw: Vec<u8>) -> Self {
        let Some(at) = raw.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Self { raw, status: 0, head: String::new(), body: Vec::new(), whole: false };
        };
        let head = String::from_utf8(raw[..at].to_vec()).unwrap();
        let status = head[9..12].parse().unwrap();
        let body = raw[at + 4..].to_vec();
        let mut wire = Self { raw, status, head, body, whole: false };
        wire.whole = match wire.header("content-length") {
            Some(length) => length.parse() == Ok(wire.body.len()),
            None if wire.header("transfer-encoding").is_some() => wire.body.ends_with(b"0\r\n\r\n"),
            None => true,
        };
        wire
    }
}

/// Sends one request on a fresh connection and reads until the other side closes it.
pub(crate) async fn send(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Wire {
    let mut stream = open(url, method, path, headers, body).await;
    let mut raw = Vec::new();
    // A reset is an end like any other; what came before it counts.
    let _ = timeout(BOUND, stream.read_to_end(&mut raw)).await.expect("the connection ends in time");
    Wire::read(raw)
}

/// Sends one request and leaves the connection to the test.
pub(crate) async fn open(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> TcpStream {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

/// One refresh exchange over the wire.
pub(crate) async fn exchange(url: &str, refresh_token: &str) -> Wire {
    send(url, "POST", "/v1/oauth/token", &[JSON], &refresh_body(refresh_token)).await
}

pub(crate) fn refresh_body(refresh_token: &str) -> String {
    serde_json::json!({"grant_type": "refresh_token", "refresh_token": refresh_token}).to_string()
}
