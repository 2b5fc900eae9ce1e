//! Our HTTP/1.1 parser beside hyper's, over the same bytes. Whatever ours takes, hyper takes too, and finds the same
//! in it: method, target or status, fields, content, and the byte at which the message ends. Ours may be stricter,
//! never laxer: what two readers split differently is how requests are smuggled (RFC 9112 §11.2).
//!
//! The tests of this folder and the targets of the crate `fuzz` share this file.
//!
//! Where hyper and ours may differ:
//! - Both read heads by `httparse`, so that a fault of it is seen by neither. What is compared is what stands on top
//!   of it: framing, fields and targets.
//! - What a server says of the connection is compared one way only: ours may close one that hyper would keep.
//! - hyper counts header fields and trailers against a limit of its own, which is set to ours here.

mod hyper_side;
mod wire;

use evergrant_server::gateway::http1::{
    BadChunk, BadHead, Chunked, Framing, empty_room, parse_request, parse_response,
};
use httparse::EMPTY_HEADER;

use self::hyper_side::{read_answer, read_requests};

/// Header or trailer fields: names in lower case, in their order by name; fields of one name in their own order.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// A message as a reader found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Method and target, or status and reason.
    pub(crate) first_line: (String, String),
    /// HTTP/1.1, not 1.0.
    pub(crate) is_11: bool,
    /// The header fields.
    pub(crate) fields: Fields,
    /// The content, without its framing.
    pub(crate) content: Vec<u8>,
    /// The trailer fields.
    pub(crate) trailers: Fields,
    /// It came to its end.
    pub(crate) whole: bool,
}

/// A request that nothing else looks like; it shows where the one before it ended.
pub(crate) const NEXT_REQUEST: &[u8] = b"QQQ /next HTTP/1.1\r\nhost: next\r\n\r\n";
/// An answer that nothing else looks like.
pub(crate) const NEXT_ANSWER: &[u8] = b"HTTP/1.1 299 next\r\ncontent-length: 0\r\n\r\n";
/// Stands before an answer that is one to `HEAD`.
const TO_HEAD: &[u8] = b"HEAD\n";

/// One request's head: hyper finds the same in it. Says how many messages ours took, as all of these do: a reader that
/// refuses everything is never found to differ.
pub(crate) fn check_request(bytes: &[u8]) -> usize {
    let mut room = empty_room();
    let Ok(Some(head)) = parse_request(bytes, &mut room) else { return 0 };
    for end in cuts(head.len) {
        let mut room = empty_room();
        let cut = parse_request(&bytes[..end], &mut room).map(|head| head.is_some());
        assert_eq!(cut, Ok(false), "the first {end} bytes of a head that is taken");
    }
    let ours = Found {
        first_line: (head.method.to_owned(), head.target.to_owned()),
        is_11: head.version == evergrant_server::gateway::http1::Version::Http11,
        fields: fields(head.headers.iter().map(|header| (header.name, header.value))),
        whole: head.framing == Framing::None,
        ..Found::default()
    };
    let seen = read_requests(&bytes[..head.len], usize::MAX);
    assert_eq!(seen, [ours], "the head {:?}", shown(&bytes[..head.len]));
    1
}

/// A connection's requests, one behind the other: hyper finds the same messages in them, with the same ends.
pub(crate) fn check_stream(bytes: &[u8]) -> usize {
    let cut = pace(bytes);
    let ours = our_requests(bytes, cut);
    assert_eq!(ours, our_requests(bytes, usize::MAX), "by {cut} bytes, and all at once");
    let Stream { mut messages, end, open, part } = ours;
    let taken = messages.len();
    if messages.is_empty() && part.is_none() {
        return taken;
    }
    if !open && end > 0 {
        // Closed by its own word: nothing that follows would tell. One byte less is a message that did not end.
        let seen = read_requests(&bytes[..end - 1], cut);
        let whole = seen.iter().filter(|message| message.whole).count();
        assert_eq!(whole, messages.len() - 1, "{:?} without its last byte", shown(&bytes[..end]));
    }
    if let Some(part) = part {
        messages.push(part);
        assert_eq!(read_requests(bytes, cut), messages, "{:?}, which goes on", shown(bytes));
        return taken;
    }
    let mut fed = bytes[..end].to_vec();
    if open {
        fed.extend_from_slice(NEXT_REQUEST);
        messages.push(Found {
            first_line: ("QQQ".into(), "/next".into()),
            is_11: true,
            fields: vec![("host".into(), b"next".to_vec())],
            whole: true,
            ..Found::default()
        });
    }
    assert_eq!(read_requests(&fed, cut), messages, "{:?}", shown(&fed));
    taken
}

/// An answer, with interim ones before it: hyper's client finds the same in it, with the same end. Bytes that begin
/// with a line `HEAD` are the answer to that method.
pub(crate) fn check_answer(bytes: &[u8]) -> usize {
    let (to_head, bytes) = bytes.strip_prefix(TO_HEAD).map_or((false, bytes), |rest| (true, rest));
    let cut = pace(bytes);
    let ours = our_answer(bytes, to_head, cut);
    assert_eq!(ours, our_answer(bytes, to_head, usize::MAX), "by {cut} bytes, and all at once");
    let Some(Answer { found, end, open, until_close }) = ours else { return 0 };
    let seen = read_answer(&bytes[..end], to_head, cut, open);
    let told = || format!("{:?}, to HEAD: {to_head}", shown(&bytes[..end]));
    assert_eq!(seen.answer.as_ref(), Some(&found), "{}", told());
    assert_eq!(seen.next_is_found, open, "the next answer behind {}", told());
    if !open && !until_close && found.whole {
        let less = read_answer(&bytes[..end - 1], to_head, cut, false);
        assert!(!less.answer.is_some_and(|answer| answer.whole), "without its last byte, {}", told());
    }
    usize::from(found.whole)
}

/// Every way to cut a short head, and some of a long one.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by((len / 40).max(1)).chain(len.checked_sub(1))
}

/// How many bytes arrive at once: of the input itself, so that an input says everything.
fn pace(bytes: &[u8]) -> usize {
    1 + bytes.iter().fold(0usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte))) % 23
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Fields by name; within a name in their order.
fn fields<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> Fields {
    let mut fields: Fields =
        fields.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

/// What ours finds on a connection.
#[derive(Debug, PartialEq, Eq)]
struct Stream {
    /// Messages that came to their end.
    messages: Vec<Found>,
    /// Where the last of them ended.
    end: usize,
    /// Another may follow.
    open: bool,
    /// One whose body goes on behind what has come.
    part: Option<Found>,
}

fn our_requests(bytes: &[u8], cut: usize) -> Stream {
    let mut stream = Stream { messages: Vec::new(), end: 0, open: true, part: None };
    while stream.open {
        let rest = &bytes[stream.end..];
        let mut room = empty_room();
        let Ok(Some(head)) = parse_request(rest, &mut room) else { break };
        let mut found = Found {
            first_line: (head.method.to_owned(), head.target.to_owned()),
            is_11: head.version == evergrant_server::gateway::http1::Version::Http11,
            fields: fields(head.headers.iter().map(|header| (header.name, header.value))),
            ..Found::default()
        };
        match our_body(head.framing, &rest[head.len..], cut, &mut found) {
            Ok(used) if found.whole => {
                stream.end += head.len + used;
                stream.open = head.keep_alive;
                stream.messages.push(found);
            }
            Ok(_) => {
                stream.part = Some(found);
                break;
            }
            Err(BadChunk(_)) => break,
        }
    }
    stream
}

/// What ours finds in an answer.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    found: Found,
    end: usize,
    open: bool,
    until_close: bool,
}

fn our_answer(bytes: &[u8], to_head: bool, cut: usize) -> Option<Answer> {
    let mut end = 0;
    loop {
        let mut room = empty_room();
        let head: Result<_, BadHead> = parse_response(&bytes[end..], &mut room, to_head);
        let head = head.ok().flatten()?;
        end += head.len;
        if head.status < 200 {
            continue;
        }
        let mut found = Found {
            first_line: (head.status.to_string(), head.reason.to_owned()),
            is_11: head.version == evergrant_server::gateway::http1::Version::Http11,
            fields: fields(head.headers.iter().map(|header| (header.name, header.value))),
            ..Found::default()
        };
        let used = our_body(head.framing, &bytes[end..], cut, &mut found).ok()?;
        let until_close = head.framing == Framing::UntilClose;
        let open = head.keep_alive && found.whole;
        return Some(Answer { found, end: end + used, open, until_close });
    }
}

/// Reads a body as the gateway does; says how many bytes belong to it.
fn our_body(framing: Framing, bytes: &[u8], cut: usize, found: &mut Found) -> Result<usize, BadChunk> {
    match framing {
        Framing::None => {
            found.whole = true;
            Ok(0)
        }
        Framing::Length(length) => {
            let here = usize::try_from(length).map_or(bytes.len(), |length| length.min(bytes.len()));
            found.content.extend_from_slice(&bytes[..here]);
            found.whole = here as u64 == length;
            Ok(here)
        }
        Framing::UntilClose => {
            found.content.extend_from_slice(bytes);
            found.whole = true;
            Ok(bytes.len())
        }
        Framing::Chunked => {
            let mut chunked = Chunked::new(trailer_allowed);
            let mut used = 0;
            for piece in bytes.chunks(cut.min(bytes.len().max(1))) {
                let scanned = chunked.scan(piece, |data| found.content.extend_from_slice(data))?;
                used += scanned.used;
                found.whole = scanned.ended;
                if found.whole {
                    found.trailers = trailers(&bytes[..used]);
                    break;
                }
            }
            Ok(used)
        }
    }
}

/// The trailers of a chunked body that was taken, read back from its end: the lines behind the last chunk.
fn trailers(body: &[u8]) -> Fields {
    let mut at = 0;
    loop {
        let cr = body[at..].iter().position(|byte| *byte == b'\r');
        let line = at + cr.expect("a size line ends with CR");
        let size = std::str::from_utf8(&body[at..line]).expect("a size is ASCII");
        let size = usize::from_str_radix(size, 16).expect("a size is a hexadecimal number");
        at = line + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
    }
    let lines = body[at..].strip_suffix(b"\r\n").expect("an empty line is the end");
    let mut room = vec![EMPTY_HEADER; 4096];
    let section = [lines, b"\r\n"].concat();
    let parsed = httparse::parse_headers(&section, &mut room);
    let Ok(httparse::Status::Complete((_, parsed))) = parsed else {
        panic!("trailers that were taken and are none: {:?}", shown(lines));
    };
    fields(parsed.iter().map(|header| (header.name, header.value)))
}

/// As the gateway has it, for the names that matter most.
fn trailer_allowed(name: &[u8]) -> bool {
    let forbidden: [&[u8]; 5] =
        [b"transfer-encoding", b"content-length", b"host", b"authorization", b"x-api-key"];
    !forbidden.iter().any(|other| name.eq_ignore_ascii_case(other))
}
