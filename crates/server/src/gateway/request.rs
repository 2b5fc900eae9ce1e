//! A client's head, and the head that the provider gets in its place: what is taken off, put in and left alone
//! (SPEC §7). Pure functions over bytes.

use evergrant_core::caller::{KeyHeader, Presented};
use evergrant_core::gateway::{Injection, PathRule, Rules};
use httparse::Header;

use super::http1::{Framing, Request, Version};
use crate::traces::Context;

/// The longest request id that is taken from a client, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// What a header field is to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Passed on as it is.
    Other,
    /// About this connection only (RFC 9110 §7.6.1).
    Hop,
    /// The chunked coding, which is passed on as it comes.
    TransferEncoding,
    /// Ours to say.
    Host,
    /// What may bear a caller key.
    Key(KeyHeader),
    /// Never for the provider: cookies, other vendors' keys, who asked from where.
    Private,
    /// `x-request-id`.
    RequestId,
    /// `content-type`.
    ContentType,
}

impl Field {
    pub(super) fn of(name: &str) -> Self {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => Self::Hop,
            4 if is("host") => Self::Host,
            6 if is("cookie") => Self::Private,
            6 if is("expect") => Self::Hop,
            7 if is("upgrade") => Self::Hop,
            7 if is("cookie2") || is("api-key") => Self::Private,
            9 if is(KeyHeader::ApiKey.name()) => Self::Key(KeyHeader::ApiKey),
            9 if is("x-real-ip") || is("forwarded") => Self::Private,
            10 if is("connection") || is("keep-alive") => Self::Hop,
            12 if is(KeyHeader::Own.name()) => Self::Key(KeyHeader::Own),
            12 if is("x-request-id") => Self::RequestId,
            12 if is("content-type") => Self::ContentType,
            13 if is(KeyHeader::Authorization.name()) => Self::Key(KeyHeader::Authorization),
            14 if is("x-goog-api-key") => Self::Private,
            14 if is("http2-settings") => Self::Hop,
            16 if is("proxy-connection") => Self::Hop,
            17 if is("transfer-encoding") => Self::TransferEncoding,
            18 if is("proxy-authenticate") => Self::Hop,
            19 if is("proxy-authorization") => Self::Hop,
            12.. if name[..12].eq_ignore_ascii_case("x-forwarded-") => Self::Private,
            _ => Self::Other,
        }
    }
}

/// Whether a trailer field of a request may pass: none that says who asks, or how a message ends.
pub(super) fn trailer_allowed(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let framing = ["content-length", "content-encoding", "content-range", "trailer", "set-cookie"];
    matches!(Field::of(name), Field::Other) && !framing.iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Who asks, as a request's head says it.
#[derive(Debug, Default)]
pub(super) struct Asker<'b> {
    pub(super) presented: Presented<'b>,
    /// The client's own request id, if it is a plain one.
    pub(super) request_id: Option<&'b str>,
}

impl<'b> Asker<'b> {
    pub(super) fn of(headers: &[Header<'b>]) -> Self {
        let mut asker = Self::default();
        for header in headers {
            match Field::of(header.name) {
                Field::Key(place) => asker.presented.see(place, header.value),
                Field::RequestId => {
                    asker.request_id = std::str::from_utf8(header.value).ok().filter(|id| plain_id(id));
                }
                Field::Other
                | Field::Hop
                | Field::TransferEncoding
                | Field::Host
                | Field::Private
                | Field::ContentType => {}
            }
        }
        asker
    }
}

fn plain_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_REQUEST_ID
        && id.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// The `host` field's value.
    pub(super) host: String,
    /// The path of the API's base, without a slash at its end.
    pub(super) base: String,
}

/// A secret, ready to be put into a head. It does not print.
#[derive(Clone)]
pub(super) struct Injected {
    /// The field with its line's end.
    pub(super) line: zeroize::Zeroizing<Vec<u8>>,
    /// A field, and what is appended to its list.
    pub(super) append: Option<(String, String)>,
}

impl Injected {
    pub(super) fn new(how: &Injection, secret: &str) -> Self {
        let line = format!("{}: {}{secret}\r\n", how.header, how.before).into_bytes();
        Self { line: line.into(), append: how.append.clone() }
    }
}

impl std::fmt::Debug for Injected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Injected")
    }
}

/// Writes the head that the provider gets.
pub(super) fn provider_head(
    out: &mut Vec<u8>,
    head: &Request<'_, '_>,
    path_and_query: (&str, &str),
    target: &Target,
    injected: &Injected,
    (rules, rule): (&Rules, &PathRule),
    trace: Option<&Context>,
) {
    let (path, query) = path_and_query;
    line(out, &[head.method.as_bytes(), b" ", target.base.as_bytes(), path.as_bytes(), query.as_bytes()]);
    out.truncate(out.len() - 2);
    line(out, &[b" HTTP/1.1"]);
    line(out, &[b"host: ", target.host.as_bytes()]);
    let nominated = Nominated::of(head.headers);
    let mut missing: u64 = (1 << rules.defaults.len()) - 1;
    let mut appended = false;
    let mut typed = false;
    let ours = |name: &str| {
        [&rules.oauth, &rules.api_key].into_iter().any(|how| name.eq_ignore_ascii_case(&how.header))
    };
    for header in head.headers {
        match Field::of(header.name) {
            Field::Hop | Field::Host | Field::Key(_) | Field::Private => continue,
            Field::TransferEncoding => {}
            Field::RequestId | Field::ContentType | Field::Other if nominated.holds(header.name) => continue,
            // Where the secret goes, the client says nothing.
            Field::RequestId | Field::ContentType | Field::Other if ours(header.name) => continue,
            Field::Other if trace.is_some_and(|trace| trace.replaces(header.name)) => continue,
            Field::ContentType if replaces(rule, header.value) => continue,
            Field::ContentType => typed = true,
            Field::RequestId | Field::Other => {
                for (index, (name, _)) in rules.defaults.iter().enumerate() {
                    if header.name.eq_ignore_ascii_case(name) {
                        missing &= !(1 << index);
                    }
                }
                if let Some((name, value)) = &injected.append
                    && !appended
                    && header.name.eq_ignore_ascii_case(name)
                {
                    appended = true;
                    append(out, header, value);
                    continue;
                }
            }
        }
        line(out, &[header.name.as_bytes(), b": ", header.value]);
    }
    if let Some((name, value)) = injected.append.as_ref().filter(|_| !appended) {
        line(out, &[name.as_bytes(), b": ", value.as_bytes()]);
    }
    for (index, (name, value)) in rules.defaults.iter().enumerate() {
        if missing & (1 << index) != 0 {
            line(out, &[name.as_bytes(), b": ", value.as_bytes()]);
        }
    }
    if let Some(content_type) = rule.content_type.as_ref().filter(|_| !typed && head.framing != Framing::None)
    {
        line(out, &[b"content-type: ", content_type.0.as_bytes()]);
    }
    if let Some(trace) = trace {
        line(out, &[b"traceparent: ", trace.traceparent().as_bytes()]);
    }
    out.extend_from_slice(&injected.line);
    out.extend_from_slice(b"\r\n");
}

/// Writes a head for Evergrant's own routes: as it came, but for what is about the connection.
pub(super) fn own_head(out: &mut Vec<u8>, head: &Request<'_, '_>) {
    line(out, &[head.method.as_bytes(), b" ", head.target.as_bytes(), b" HTTP/1.1"]);
    if head.version == Version::Http10
        && !head.headers.iter().any(|header| Field::of(header.name) == Field::Host)
    {
        line(out, &[b"host: localhost"]);
    }
    for header in head.headers.iter().filter(|header| Field::of(header.name) != Field::Hop) {
        line(out, &[header.name.as_bytes(), b": ", header.value]);
    }
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// The field's list with one more member, unless it is there already.
fn append(out: &mut Vec<u8>, header: &Header<'_>, value: &str) {
    let there = super::http1::list(header.value).any(|word| word == value.as_bytes());
    let (comma, value): (&[u8], &[u8]) = match (there, header.value.is_empty()) {
        (true, _) => (b"", b""),
        (false, true) => (b"", value.as_bytes()),
        (false, false) => (b",", value.as_bytes()),
    };
    line(out, &[header.name.as_bytes(), b": ", header.value, comma, value]);
}

/// A bare client's form type says nothing about what it sent.
fn replaces(rule: &PathRule, content_type: &[u8]) -> bool {
    let media = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    rule.content_type.is_some()
        && (media.is_empty() || media.eq_ignore_ascii_case(b"application/x-www-form-urlencoded"))
}

/// The fields that `connection` names: they end here.
#[derive(Debug, Default)]
pub(super) struct Nominated<'b>(Vec<&'b [u8]>);

impl<'b> Nominated<'b> {
    pub(super) fn of(headers: &[Header<'b>]) -> Self {
        let mut names = Vec::new();
        for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection")) {
            let usual = |word: &&[u8]| {
                word.eq_ignore_ascii_case(b"close") || word.eq_ignore_ascii_case(b"keep-alive")
            };
            names.extend(super::http1::list(header.value).filter(|word| !usual(word)));
        }
        Self(names)
    }

    /// A length is never dropped: the body behind it goes on.
    pub(super) fn holds(&self, name: &str) -> bool {
        !self.0.is_empty()
            && self.0.iter().any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
            && !name.eq_ignore_ascii_case("content-length")
    }
}
