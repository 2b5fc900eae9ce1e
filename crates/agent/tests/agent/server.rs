//! A server on loopback: it reads one request a connection, remembers it and answers as it is told.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use evergrant_core::push::Call;
use serde_json::{Value, json};

/// What it does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// `accepted`, or `beat`, with this fingerprint of its own.
    Take(Option<&'static str>),
    /// Another word of success.
    Say(&'static str),
    /// A problem document.
    Problem(u16, &'static str, &'static str),
    /// These bytes.
    Raw(String),
    /// Nothing, for so long; then it closes.
    Hang(Duration),
    /// It closes at once.
    Close,
    /// It says back what it was sent.
    Echo(u16),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn call(&self) -> Call {
        Call::decode(&self.body).unwrap()
    }
}

#[derive(Default)]
struct Inner {
    replies: VecDeque<Reply>,
    requests: Vec<Request>,
}

/// It lives until its test ends.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    inner: Arc<(Mutex<Inner>, Condvar)>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner: Arc<(Mutex<Inner>, Condvar)> = Arc::default();
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { address, inner }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it does next, in turn; when nothing is left it takes everything.
    pub(crate) fn then(&self, reply: Reply) -> &Self {
        self.inner.0.lock().unwrap().replies.push_back(reply);
        self
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.inner.0.lock().unwrap().requests.clone()
    }

    pub(crate) fn last(&self) -> Request {
        self.requests().last().cloned().unwrap()
    }

    /// Waits, for a bounded time, until it has seen what is asked for.
    pub(crate) fn wait(&self, what: &str, holds: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let inner = self.inner.0.lock().unwrap();
        let bound = Duration::from_secs(30);
        let (inner, waited) =
            self.inner.1.wait_timeout_while(inner, bound, |inner| !holds(&inner.requests)).unwrap();
        assert!(!waited.timed_out(), "not within {bound:?}: {what}; {:#?}", inner.requests);
        inner.requests.clone()
    }
}

fn serve(mut stream: TcpStream, shared: &(Mutex<Inner>, Condvar)) {
    let Some(request) = read(&stream) else { return };
    let reply = {
        let mut inner = shared.0.lock().unwrap();
        inner.requests.push(request.clone());
        inner.replies.pop_front().unwrap_or(Reply::Take(Some("of the server")))
    };
    shared.1.notify_all();
    let bytes = match reply {
        Reply::Close => return,
        Reply::Hang(span) => return std::thread::sleep(span),
        Reply::Raw(raw) => raw,
        Reply::Echo(status) => {
            let problem =
                json!({ "reason": "request_invalid", "detail": String::from_utf8_lossy(&request.body) });
            http(status, "", &problem)
        }
        Reply::Problem(status, reason, headers) => http(
            status,
            headers,
            &json!({ "status": status, "reason": reason, "detail": "words of the server" }),
        ),
        Reply::Say(reason) => http(200, "", &answer(reason, None)),
        Reply::Take(fingerprint) => {
            let is_push = Call::decode(&request.body).is_ok_and(|call| call.grant.is_some());
            http(200, "", &answer(if is_push { "accepted" } else { "beat" }, fingerprint))
        }
    };
    let _ = stream.write_all(bytes.as_bytes());
}

fn answer(reason: &str, fingerprint: Option<&str>) -> Value {
    let fingerprint = fingerprint.map(|name| evergrant_core::Fingerprint::of(name.as_bytes()));
    json!({
        "chain": "claude", "reason": reason, "status": "ok", "since": null, "fingerprint": fingerprint,
        "now": "2026-01-01T00:00:00Z", "lineage": 1, "generation": 1,
    })
}

pub(crate) fn http(status: u16, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} Word\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let (first, rest) = head.split_first()?;
    let headers: Vec<(String, String)> = rest
        .iter()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut request = Request { line: first.clone(), headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}
