//! What stands behind all three gateways: it writes down every request that it is given, of which input it is and
//! where it ended, and answers it. Its reader is its own, and knows only what a gateway may send.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::gateway::fixture::soon;

/// A request as it reached the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query as they came.
    pub(super) target: String,
    /// The head's lines behind the first one, and a field a line of the trailers.
    pub(super) fields: Vec<String>,
    /// The content, without chunks.
    pub(super) body: Vec<u8>,
    /// It came to its end.
    pub(super) whole: bool,
    /// Its end, or the request itself, is not to be made out: what came behind its head was not read.
    pub(super) unclear: bool,
}

/// Requests by the number of their input.
pub(super) type Record = BTreeMap<usize, Vec<Seen>>;

/// Says of which input a request is, by its fields.
pub(super) type Whose = fn(&Seen) -> Option<usize>;

/// The upstream of one gateway.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    record: Arc<Mutex<Record>>,
    accepting: JoinHandle<()>,
    serving: Arc<Mutex<JoinSet<()>>>,
}

impl Upstream {
    pub(super) async fn bind(whose: Whose) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), whose)
    }

    pub(super) fn on(listener: TcpListener, whose: Whose) -> Self {
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Mutex::new(Record::new()));
        let serving = Arc::new(Mutex::new(JoinSet::new()));
        let accepting = tokio::spawn({
            let (record, serving) = (record.clone(), serving.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let connection = Connection { stream, got: Vec::new(), record: record.clone(), whose };
                    serving.lock().unwrap().spawn(connection.serve());
                }
            }
        });
        Self { address, record, accepting, serving }
    }

    /// All that came, once the gateway has ended and with it its connections.
    pub(super) async fn end(self) -> Record {
        self.accepting.abort();
        let mut serving = std::mem::take(&mut *self.serving.lock().unwrap());
        while let Some(served) = soon("a connection's end", serving.join_next()).await {
            served.unwrap();
        }
        std::mem::take(&mut *self.record.lock().unwrap())
    }
}

struct Connection {
    stream: TcpStream,
    got: Vec<u8>,
    record: Arc<Mutex<Record>>,
    whose: Whose,
}

/// The other side has ended the connection.
struct Ended;

impl Connection {
    async fn serve(mut self) {
        while self.request().await.is_ok() {}
    }

    async fn request(&mut self) -> Result<(), Ended> {
        let head = self.line_end(b"\r\n\r\n").await?;
        let (seen, framing) = read_head(&String::from_utf8_lossy(&head));
        let input = (self.whose)(&seen).unwrap_or_else(|| panic!("of no input: {seen:?}"));
        let answer = match &*seen.method {
            "HEAD" => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
            // It opens no tunnel, in which no requests follow.
            "CONNECT" => "HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 2\r\n\r\nno",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        if seen.fields.iter().any(|field| field.to_lowercase().starts_with("expect:")) {
            self.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let at = {
            let mut record = self.record.lock().unwrap();
            let requests = record.entry(input).or_default();
            requests.push(seen);
            requests.len() - 1
        };
        let clear = match framing {
            Framing::Length(length) => self.content(length, input, at).await?,
            Framing::Chunked => self.chunks(input, at).await?,
            Framing::Unclear => false,
        };
        if !clear {
            self.with(input, at, |seen| seen.unclear = true);
            return Err(Ended);
        }
        self.with(input, at, |seen| seen.whole = true);
        self.send(answer).await
    }

    fn with(&self, input: usize, at: usize, with: impl FnOnce(&mut Seen)) {
        with(&mut self.record.lock().unwrap().get_mut(&input).unwrap()[at]);
    }

    /// `false`: these are no chunks.
    async fn chunks(&mut self, input: usize, at: usize) -> Result<bool, Ended> {
        loop {
            let line = self.line_end(b"\r\n").await?;
            let line = String::from_utf8_lossy(&line);
            let size = line.trim_end_matches("\r\n").split(';').next().unwrap_or_default();
            match number(size, 16) {
                Some(0) => break,
                Some(size) => self.content(size, input, at).await?,
                None => return Ok(false),
            };
            if self.line_end(b"\r\n").await? != b"\r\n" {
                return Ok(false);
            }
        }
        loop {
            let line = self.line_end(b"\r\n").await?;
            let line = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            if line.is_empty() {
                return Ok(true);
            }
            self.with(input, at, |seen| seen.fields.push(line));
        }
    }

    /// So much of a body.
    async fn content(&mut self, mut left: usize, input: usize, at: usize) -> Result<bool, Ended> {
        while left > 0 {
            if self.got.is_empty() {
                self.read().await?;
            }
            let here: Vec<u8> = self.got.drain(..left.min(self.got.len())).collect();
            left -= here.len();
            self.with(input, at, |seen| seen.body.extend_from_slice(&here));
        }
        Ok(true)
    }

    /// All until this, with it.
    async fn line_end(&mut self, end: &[u8]) -> Result<Vec<u8>, Ended> {
        loop {
            if let Some(at) = self.got.windows(end.len()).position(|here| here == end) {
                return Ok(self.got.drain(..at + end.len()).collect());
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Ended> {
        match self.stream.read_buf(&mut self.got).await {
            Ok(0) | Err(_) => Err(Ended),
            Ok(_) => Ok(()),
        }
    }

    async fn send(&mut self, bytes: &str) -> Result<(), Ended> {
        self.stream.write_all(bytes.as_bytes()).await.map_err(|_| Ended)
    }
}

enum Framing {
    Length(usize),
    Chunked,
    /// Nobody can be sure of it.
    Unclear,
}

/// Digits and nothing else: std takes a sign before them.
fn number(digits: &str, radix: u32) -> Option<usize> {
    let only_digits = digits.chars().all(|digit| digit.is_digit(radix));
    only_digits.then(|| usize::from_str_radix(digits, radix).ok()).flatten()
}

fn read_head(head: &str) -> (Seen, Framing) {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let (method, rest) = first.split_once(' ').unwrap_or((first, ""));
    // What is no request line has an odd target, which is like no other's.
    let target = rest.rsplit_once(" HTTP/1.").map_or(first, |(target, _)| target);
    let fields = lines.map(str::to_owned).collect();
    let (method, target) = (method.to_owned(), target.to_owned());
    let seen = Seen { method, target, fields, body: Vec::new(), whole: false, unclear: false };
    let framing = match (&*seen.values("transfer-encoding"), &*seen.values("content-length")) {
        ([], []) => Framing::Length(0),
        ([], [length]) => number(length, 10).map_or(Framing::Unclear, Framing::Length),
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") => Framing::Chunked,
        _ => Framing::Unclear,
    };
    (seen, framing)
}

impl Seen {
    /// What the fields of this name say.
    pub(super) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.fields.iter().filter_map(|field| field.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }
}

#[test]
fn a_number_is_digits_only() {
    assert_eq!((number("10", 10), number("1f", 16)), (Some(10), Some(31)));
    for none in ["", "+4", "-0", " 4", "4 ", "0x4", "4_0"] {
        assert_eq!((number(none, 10), number(none, 16)), (None, None), "{none:?}");
    }
}
