//! Heads: request and status lines, header fields, and how the body behind them is framed.

use std::mem::MaybeUninit;

use httparse::Header;

/// The longest head, in bytes.
pub const MAX_HEAD: usize = 64 * 1024;
/// The most header fields.
pub const MAX_HEADERS: usize = 128;
/// The longest body, in bytes: as much as chunks may hold, and far from where counting overflows.
const MAX_LENGTH: u64 = (1 << 60) - 1;

/// Room for the fields of one head. Nothing is written to it before it is needed.
pub type Room<'b> = [MaybeUninit<Header<'b>>; MAX_HEADERS];

/// An empty one.
pub fn empty_room<'b>() -> Room<'b> {
    [const { MaybeUninit::uninit() }; MAX_HEADERS]
}

/// HTTP/1.0 or HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.0.
    Http10,
    /// 1.1.
    Http11,
}

/// How a body is delimited (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Whatever comes until the connection closes; answers only.
    UntilClose,
}

/// A head that is not passed on, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    /// It is not HTTP.
    #[error("this is not HTTP/1.1: {0}")]
    Syntax(&'static str),
    /// Only 1.0 and 1.1 are spoken here.
    #[error("only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here")]
    Version,
    /// Longer than [`MAX_HEAD`], or more than [`MAX_HEADERS`] fields.
    #[error("the request's head is longer than 64 KiB or has more than 128 fields")]
    TooLarge,
    /// Two readers might find different ends of it.
    #[error("the end of the message is not clear: {0}")]
    Framing(&'static str),
    /// The target is not a path.
    #[error("the request target must be a path that begins with a single '/', without any of # < > ` \"")]
    Target,
    /// RFC 9112 §3.2.
    #[error("a request has exactly one host field")]
    Host,
    /// An expectation other than `100-continue`.
    #[error("the only expectation that can be met is 100-continue")]
    Expectation,
}

/// A request's head. It borrows from the bytes that were read.
#[derive(Debug)]
pub struct Request<'h, 'b> {
    /// The method.
    pub method: &'b str,
    /// Path and query.
    pub target: &'b str,
    /// The version.
    pub version: Version,
    /// The header fields, as received.
    pub headers: &'h [Header<'b>],
    /// How its body is delimited.
    pub framing: Framing,
    /// The connection may be used for another request.
    pub keep_alive: bool,
    /// It waits for `100 Continue`.
    pub expects_continue: bool,
    /// Length of the head in bytes.
    pub len: usize,
}

/// An answer's head. It borrows from the bytes that were read.
#[derive(Debug)]
pub struct Response<'h, 'b> {
    /// The status.
    pub status: u16,
    /// The text behind it.
    pub reason: &'b str,
    /// The version.
    pub version: Version,
    /// The header fields, as received.
    pub headers: &'h [Header<'b>],
    /// How its body is delimited.
    pub framing: Framing,
    /// The connection may be used for another request.
    pub keep_alive: bool,
    /// Length of the head in bytes.
    pub len: usize,
}

/// Parses a request's head; `None`: it is not whole yet.
pub fn parse_request<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
) -> Result<Option<Request<'h, 'b>>, BadHead> {
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, room);
    let Some(len) = whole(parsed, bytes)? else {
        return Ok(None);
    };
    let httparse::Request { method: Some(method), path: Some(target), version: Some(version), headers } =
        request
    else {
        return Err(BadHead::Syntax("the request line is not whole"));
    };
    let version = if version == 1 { Version::Http11 } else { Version::Http10 };
    if method == "CONNECT" {
        return Err(BadHead::Syntax("CONNECT asks for a tunnel, in which no messages follow"));
    }
    if !target.starts_with('/') || target.starts_with("//") || !target.bytes().all(in_target) {
        return Err(BadHead::Target);
    }
    let mut hosts = 0;
    let mut expects_continue = false;
    let fields = Fields::read(headers, |header| {
        if header.name.eq_ignore_ascii_case("host") {
            hosts += 1;
        } else if header.name.eq_ignore_ascii_case("expect") {
            if !header.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(BadHead::Expectation);
            }
            expects_continue = version == Version::Http11;
        }
        Ok(())
    })?;
    if hosts > 1 || (hosts == 0 && version == Version::Http11) {
        return Err(BadHead::Host);
    }
    if fields.chunked && version == Version::Http10 {
        return Err(BadHead::Framing("transfer-encoding in HTTP/1.0"));
    }
    let framing = match (fields.chunked, fields.length) {
        (true, _) => Framing::Chunked,
        (false, Some(0) | None) => Framing::None,
        (false, Some(length)) => Framing::Length(length),
    };
    let keep_alive = fields.keeps_alive(version);
    Ok(Some(Request { method, target, version, headers, framing, keep_alive, expects_continue, len }))
}

/// Parses an answer's head; `None`: it is not whole yet. `to_head`: the request was `HEAD`, so no body follows.
pub fn parse_response<'h, 'b>(
    bytes: &'b [u8],
    room: &'h mut Room<'b>,
    to_head: bool,
) -> Result<Option<Response<'h, 'b>>, BadHead> {
    let mut response = httparse::Response::new(&mut []);
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room);
    let Some(len) = whole(parsed, bytes)? else {
        return Ok(None);
    };
    let httparse::Response { version: Some(version), code: Some(status), reason, headers } = response else {
        return Err(BadHead::Syntax("the status line is not whole"));
    };
    if status < 100 {
        return Err(BadHead::Syntax("a status has three digits, the first from 1 to 9"));
    }
    if status == 101 {
        return Err(BadHead::Syntax("another protocol, which nobody asked for, follows 101"));
    }
    let version = if version == 1 { Version::Http11 } else { Version::Http10 };
    let fields = Fields::read(headers, |_| Ok(()))?;
    let bodiless = to_head || matches!(status, 100..=199 | 204 | 304);
    if fields.chunked && version == Version::Http10 {
        return Err(BadHead::Framing("transfer-encoding in HTTP/1.0"));
    }
    let framing = match (bodiless, fields.chunked, fields.length) {
        (true, _, _) | (false, false, Some(0)) => Framing::None,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::UntilClose,
    };
    let keep_alive = fields.keeps_alive(version) && framing != Framing::UntilClose;
    let reason = reason.unwrap_or_default();
    Ok(Some(Response { status, reason, version, headers, framing, keep_alive, len }))
}

/// Whether a head may end in what came behind the first `from` bytes. A head that grows byte by byte is looked at
/// once more only then; what is plainly no head ends at once, at its first byte or its size.
pub fn head_may_end(bytes: &[u8], from: usize) -> bool {
    let fresh = &bytes[from.saturating_sub(3).min(bytes.len())..];
    let ends = |at: usize| matches!(fresh.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..]));
    bytes.len() >= MAX_HEAD
        || bytes.first().is_some_and(|first| !first.is_ascii_graphic())
        || memchr::memchr_iter(b'\n', fresh).any(ends)
}

fn whole(
    parsed: Result<httparse::Status<usize>, httparse::Error>,
    bytes: &[u8],
) -> Result<Option<usize>, BadHead> {
    match parsed {
        Ok(httparse::Status::Complete(len)) if len > MAX_HEAD => Err(BadHead::TooLarge),
        Ok(httparse::Status::Complete(len)) => {
            strict_lines(&bytes[..len])?;
            Ok(Some(len))
        }
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_HEAD => Err(BadHead::TooLarge),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(match error {
            httparse::Error::TooManyHeaders => BadHead::TooLarge,
            httparse::Error::Version => BadHead::Version,
            httparse::Error::HeaderName => BadHead::Syntax("a header field's name"),
            httparse::Error::HeaderValue => BadHead::Syntax("a header field's value"),
            httparse::Error::NewLine => BadHead::Syntax("a line's end"),
            httparse::Error::Status => BadHead::Syntax("the status line"),
            httparse::Error::Token => BadHead::Syntax("the request line"),
        }),
    }
}

/// Every line ends with CR LF, and neither stands anywhere else; no empty line before the first.
fn strict_lines(head: &[u8]) -> Result<(), BadHead> {
    if head.first().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        return Err(BadHead::Syntax("an empty line before the first"));
    }
    // Lines are short: three counts over all of it are quicker than a search for each end.
    let following = head.get(1..).unwrap_or_default();
    let is_end = |(cr, lf): (&u8, &u8)| u16::from((*cr == b'\r') & (*lf == b'\n'));
    let pairs = usize::from(head.iter().zip(following).map(is_end).sum::<u16>());
    if memchr::memchr_iter(b'\n', head).count() != pairs {
        return Err(BadHead::Syntax("a line that ends without CR"));
    }
    if memchr::memchr_iter(b'\r', head).count() != pairs {
        return Err(BadHead::Syntax("a CR that ends no line"));
    }
    Ok(())
}

/// What the fields say about framing and the connection.
#[derive(Default)]
struct Fields {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn read<'b>(
        headers: &[Header<'b>],
        mut other: impl FnMut(&Header<'b>) -> Result<(), BadHead>,
    ) -> Result<Self, BadHead> {
        let mut fields = Self::default();
        for header in headers {
            match header.name.len() {
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    if fields.length.is_some() {
                        return Err(BadHead::Framing("content-length stands twice"));
                    }
                    fields.length = Some(length(header.value)?);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if fields.chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadHead::Framing("a transfer-encoding other than chunked"));
                    }
                    fields.chunked = true;
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    // Who cannot read the list does not know whether the connection stays.
                    if !header.value.is_ascii() {
                        return Err(BadHead::Syntax("a connection field that is no list of words"));
                    }
                    for word in list(header.value) {
                        fields.close |= word.eq_ignore_ascii_case(b"close");
                        fields.keep_alive |= word.eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                _ => other(header)?,
            }
        }
        if fields.chunked && fields.length.is_some() {
            return Err(BadHead::Framing("content-length beside transfer-encoding"));
        }
        Ok(fields)
    }

    fn keeps_alive(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

/// The members of a comma-separated list.
pub(in crate::gateway) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|word| !word.is_empty())
}

/// A fragment would be cut off by the next reader, and brackets and quotes are in no path or query (RFC 9112 §3.2.1).
fn in_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"#<>`\"".contains(&byte)
}

/// Digits only, and not more than [`MAX_LENGTH`].
fn length(value: &[u8]) -> Result<u64, BadHead> {
    let bad = BadHead::Framing("content-length is not a number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    let text = std::str::from_utf8(value).map_err(|_| bad)?;
    text.parse().ok().filter(|length| *length <= MAX_LENGTH).ok_or(bad)
}
