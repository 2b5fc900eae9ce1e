//! The upstream: answers what an API of messages does, at the least cost that is still HTTP/1.1.
//!
//! `POST /v1/messages` gets 1 KB of JSON; with `?chunked` in chunks; with `?events=N&gap_us=G` as a stream of
//! events, each a chunk in a write of its own that bears the time; with `?hold` one event and then silence.
//! Every request but `GET /` must bear the token that the proxy injects and no caller key any more: a proxy that
//! does less than the others gets 400, and its run is no measurement.

use std::io;
use std::ops::Range;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::clock::{Ticker, now_ns};
use crate::framing::{Body, in_chunks};

/// The header of the caller key, which must not arrive here.
pub const KEY_HEADER: &str = "x-cm-api-key";
/// Length of an answer of JSON.
pub const ANSWER_LENGTH: usize = 1024;
/// What stands before the time in each event: its first byte is the event's first.
pub const BEFORE_TIME: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"t\":\"";
/// The time takes so many digits.
pub const TIME_DIGITS: usize = 20;

const AFTER_TIME: &str = "\",\"delta\":{\"type\":\"text_delta\",\"text\":\"to be or not\"}}\n\n";
const HEADS_DATE: &str = "date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
const BUFFER: usize = 64 * 1024;
const MOST_HEADERS: usize = 64;

/// The JSON that is answered; the load generator compares.
#[must_use]
pub fn answer() -> Vec<u8> {
    // Some gateways refuse what is no whole message.
    let before = concat!(
        r#"{"id":"msg_bench","type":"message","role":"assistant","model":"claude-bench","#,
        r#""content":[{"type":"text","text":""#
    );
    let after =
        r#""}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":9}}"#;
    let filler = "x".repeat(ANSWER_LENGTH - before.len() - after.len());
    [before, &filler, after].concat().into_bytes()
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Health,
    Json,
    Chunked,
    Events {
        count: u64,
        gap_us: u64,
    },
    Hold,
    /// It does not bear what a proxy has to put there, or still bears what it has to take off.
    Wrong(&'static str),
}

/// Answers connections until it is dropped. With a token, each request must bear it.
pub async fn serve(listener: TcpListener, token: Option<String>) -> Result<()> {
    let expected = token.map(|token| format!("Bearer {token}"));
    loop {
        let (stream, _) = listener.accept().await.context("accepting a connection")?;
        let expected = expected.clone();
        // How a connection ends is its other end's business.
        tokio::spawn(async move { connection(stream, expected.as_deref()).await.ok() });
    }
}

async fn connection(mut stream: TcpStream, expected: Option<&str>) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut json, mut chunked) = (Template::json(), Template::chunked());
    let mut buffer = vec![0; BUFFER];
    let mut held = 0..0;
    while let Some((asked, received)) = request(&mut stream, &mut buffer, &mut held, expected).await? {
        match asked {
            Asked::Json => stream.write_all(json.with(received)).await?,
            Asked::Chunked => stream.write_all(chunked.with(received)).await?,
            Asked::Events { count, gap_us } => events(&mut stream, count, gap_us).await?,
            Asked::Hold => {
                stream.write_all(&first_event()).await?;
                // The client sends nothing more: this returns when it goes.
                let _ = stream.read(&mut buffer).await?;
                return Ok(());
            }
            Asked::Health => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?,
            Asked::Wrong(what) => {
                let length = what.len();
                let head = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {length}\r\n\r\n{what}");
                stream.write_all(head.as_bytes()).await?;
            }
        }
    }
    Ok(())
}

/// The next request, read to its end, and the length of its body. `held` is what of `buffer` is not used yet.
async fn request(
    stream: &mut TcpStream,
    buffer: &mut [u8],
    held: &mut Range<usize>,
    expected: Option<&str>,
) -> Result<Option<(Asked, u64)>> {
    let (asked, mut body) = loop {
        if let Some((asked, body, length)) = head(buffer.get(held.clone()).unwrap_or_default(), expected)? {
            held.start += length;
            break (asked, body);
        }
        if held.start > 0 {
            buffer.copy_within(held.clone(), 0);
            *held = 0..held.len();
        }
        let free =
            buffer.get_mut(held.end..).filter(|free| !free.is_empty()).context("the head is too long")?;
        match stream.read(free).await? {
            0 => return Ok(None),
            read => held.end += read,
        }
    };
    let mut received = 0;
    loop {
        let bytes = buffer.get(held.clone()).unwrap_or_default();
        held.start += body.take(bytes, |content| received += content.len() as u64)?;
        if held.start == held.end {
            *held = 0..0;
        }
        if body.is_over() {
            return Ok(Some((asked, received)));
        }
        match stream.read(buffer).await? {
            0 => bail!("the body was cut off"),
            read => *held = 0..read,
        }
    }
}

fn head(bytes: &[u8], expected: Option<&str>) -> Result<Option<(Asked, Body, usize)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes)? else {
        return Ok(None);
    };
    let body = Body::by_headers(request.headers)?;
    let path = request.path.unwrap_or_default();
    let asked = if path == "/" {
        Asked::Health
    } else if let Some(expected) = expected
        && let Some(wrong) = wrong(request.headers, expected)
    {
        Asked::Wrong(wrong)
    } else {
        asked(path)
    };
    Ok(Some((asked, body, length)))
}

fn asked(path: &str) -> Asked {
    let Some((_, query)) = path.split_once('?') else {
        return Asked::Json;
    };
    let number = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|value| value.parse().ok())
    };
    let has = |name: &str| query.split('&').any(|pair| pair.trim_end_matches('=') == name);
    match number("events") {
        Some(count) => Asked::Events { count, gap_us: number("gap_us").unwrap_or(1000) },
        None if has("hold") => Asked::Hold,
        None if has("chunked") => Asked::Chunked,
        None => Asked::Json,
    }
}

fn wrong(headers: &[httparse::Header<'_>], expected: &str) -> Option<&'static str> {
    let (mut token, mut capability) = (false, false);
    for header in headers {
        match header.name.len() {
            12 if header.name.eq_ignore_ascii_case(KEY_HEADER) => {
                return Some("the caller key arrived upstream");
            }
            // Where others inject it, as an API key.
            9 if header.name.eq_ignore_ascii_case("x-api-key") => {
                token = Some(header.value) == expected.strip_prefix("Bearer ").map(str::as_bytes);
            }
            13 if header.name.eq_ignore_ascii_case("authorization") => {
                token = header.value == expected.as_bytes();
            }
            14 if header.name.eq_ignore_ascii_case("anthropic-beta") => capability = !header.value.is_empty(),
            _ => {}
        }
    }
    if !token {
        return Some("the token did not arrive upstream");
    }
    (!capability).then_some("anthropic-beta did not arrive upstream")
}

async fn events(stream: &mut TcpStream, count: u64, gap_us: u64) -> io::Result<()> {
    let mut to_come = count.max(1);
    // The first is written with the head, as servers do.
    stream.write_all(&first_event()).await?;
    to_come -= 1;
    let gap_ns = gap_us.max(1) * 1000;
    let mut ticker = Ticker::new(now_ns() + gap_ns, gap_ns)?;
    let mut chunk = Vec::new();
    while to_come > 0 {
        for _ in 0..ticker.ticks().await?.min(to_come) {
            chunk.clear();
            event(&mut chunk);
            stream.write_all(&chunk).await?;
            to_come -= 1;
        }
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// The head of a stream and its first event. nginx buffers answers unless it is told, as one would for streams.
fn first_event() -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\n{HEADS_DATE}content-type: text/event-stream\r\ncache-control: no-cache\r\n\
         x-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    event(&mut bytes);
    bytes
}

/// One event as one chunk, with the time at which it is written.
fn event(chunk: &mut Vec<u8>) {
    let length = BEFORE_TIME.len() + TIME_DIGITS + AFTER_TIME.len();
    let text =
        format!("{length:x}\r\n{BEFORE_TIME}{:0width$}{AFTER_TIME}\r\n", now_ns(), width = TIME_DIGITS);
    chunk.extend(text.as_bytes());
}

/// An answer that is made once but for the number of bytes that were received.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    digits: Range<usize>,
}

impl Template {
    fn json() -> Self {
        Self::new(&format!("content-length: {ANSWER_LENGTH}"), &answer())
    }

    fn chunked() -> Self {
        Self::new("transfer-encoding: chunked", &in_chunks(&answer(), ANSWER_LENGTH / 4))
    }

    fn new(framing: &str, body: &[u8]) -> Self {
        let before = format!(
            "HTTP/1.1 200 OK\r\n{HEADS_DATE}content-type: application/json\r\n{framing}\r\nx-received: "
        );
        let digits = before.len()..before.len() + TIME_DIGITS;
        let mut bytes = format!("{before}{}\r\n\r\n", "0".repeat(TIME_DIGITS)).into_bytes();
        bytes.extend(body);
        Self { bytes, digits }
    }

    fn with(&mut self, received: u64) -> &[u8] {
        let mut left = received;
        for digit in self.bytes.get_mut(self.digits.clone()).unwrap_or_default().iter_mut().rev() {
            *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
            left /= 10;
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{ANSWER_LENGTH, Asked, Template, answer, asked, head};

    #[test]
    fn the_query_says_what_is_answered() {
        assert_eq!(asked("/v1/messages"), Asked::Json);
        assert_eq!(asked("/v1/messages?chunked"), Asked::Chunked);
        assert_eq!(asked("/v1/messages?hold="), Asked::Hold);
        assert_eq!(asked("/v1/messages?events=7&gap_us=50"), Asked::Events { count: 7, gap_us: 50 });
    }

    #[test]
    fn a_request_must_bear_what_the_proxy_injects() {
        let ask = |headers: &str| {
            let text = format!("POST /v1/messages HTTP/1.1\r\n{headers}\r\n");
            head(text.as_bytes(), Some("Bearer t")).unwrap().unwrap().0
        };
        assert_eq!(ask("Authorization: Bearer t\r\nanthropic-beta: b\r\n"), Asked::Json);
        assert!(matches!(ask("Authorization: Bearer u\r\nanthropic-beta: b\r\n"), Asked::Wrong(_)));
        assert!(matches!(ask("authorization: Bearer t\r\n"), Asked::Wrong(_)));
        assert_eq!(ask("x-api-key: t\r\nanthropic-beta: b\r\n"), Asked::Json);
        let key = "authorization: Bearer t\r\nanthropic-beta: b\r\nX-CM-API-Key: k\r\n";
        assert!(matches!(ask(key), Asked::Wrong(_)));
    }

    #[test]
    fn the_answer_has_its_length_and_says_what_arrived() {
        assert_eq!(answer().len(), ANSWER_LENGTH);
        let text = String::from_utf8(Template::json().with(2048).to_vec()).unwrap();
        assert!(text.contains("x-received: 00000000000000002048\r\n\r\n{"), "{text}");
    }
}
