//! What is refused, what is taken, and that it does not matter how the bytes are cut.

use proptest::prelude::*;

use super::*;

fn request(text: &str) -> Result<Option<(Framing, bool, usize)>, BadHead> {
    let mut room = empty_room();
    let parsed = parse_request(text.as_bytes(), &mut room)?;
    Ok(parsed.map(|head| (head.framing, head.keep_alive, head.len)))
}

fn with(fields: &str) -> String {
    format!("POST /v1/x HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

#[test]
fn a_body_is_framed_in_one_way_or_the_request_is_refused() {
    for (fields, framing) in [
        ("", Framing::None),
        ("content-length: 0\r\n", Framing::None),
        ("Content-Length: 12\r\n", Framing::Length(12)),
        ("Transfer-Encoding: Chunked\r\n", Framing::Chunked),
    ] {
        assert_eq!(request(&with(fields)).unwrap().unwrap().0, framing, "{fields:?}");
    }
    for fields in [
        "content-length: 1\r\ncontent-length: 1\r\n",
        "content-length: 1\r\ncontent-length: 2\r\n",
        "content-length: 1, 1\r\n",
        "content-length: +1\r\n",
        "content-length: -1\r\n",
        "content-length: 0x1\r\n",
        "content-length: 1 1\r\n",
        "content-length:\r\n",
        "content-length: 99999999999999999999\r\n",
        "content-length: 18446744073709551615\r\n",
        "content-length: 1152921504606846976\r\n",
        "content-length: 1\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 1\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding:\x0bchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding: identity\r\n",
        "x: 1\r\n folded\r\n",
        "x: 1\n",
        "x: 1\r\r\n",
        "x: a\rb\r\n",
        "x: a\0b\r\n",
        "x y: 1\r\n",
        ": 1\r\n",
        "host: b\r\n",
        "expect: 200-ok\r\n",
        "connection: keep-alive, \u{e4}\r\n",
    ] {
        assert!(request(&with(fields)).is_err(), "{fields:?}");
    }
}

#[test]
fn the_request_line_is_a_method_a_path_and_a_version() {
    for line in [
        "GET http://a/ HTTP/1.1",
        "GET //a/ HTTP/1.1",
        "GET * HTTP/1.1",
        "CONNECT a:1 HTTP/1.1",
        "CONNECT /a HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /<a> HTTP/1.1",
        "GET /?`a HTTP/1.1",
        "GET /?\"a\" HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /\u{e4} HTTP/1.1",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / http/1.1",
        "GET /",
        "G\u{e4}T / HTTP/1.1",
    ] {
        assert!(request(&format!("{line}\r\nhost: a\r\n\r\n")).is_err(), "{line}");
    }
    assert!(request("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").is_err(), "an empty line before it");
    assert!(request("GET / HTTP/1.1\nhost: a\n\n").is_err(), "bare line feeds");
    assert!(request("GET / HTTP/1.1\r\n\r\n").is_err(), "no host");
    assert!(request("GET / HTTP/1.0\r\n\r\n").unwrap().is_some_and(|(_, keep, _)| !keep));
    let kept = request("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n").unwrap().unwrap();
    assert!(kept.1);
    assert!(request("GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
}

#[test]
fn heads_are_bounded() {
    let long = with(&format!("x: {}\r\n", "a".repeat(MAX_HEAD)));
    assert_eq!(request(&long), Err(BadHead::TooLarge));
    assert_eq!(request(&long[..MAX_HEAD]), Err(BadHead::TooLarge), "also while it is not whole");
    assert_eq!(request(&with(&"x: 1\r\n".repeat(MAX_HEADERS))), Err(BadHead::TooLarge));
}

#[test]
fn an_answer_is_framed_by_its_status_its_fields_and_its_request() {
    let framing = |text: &str, to_head: bool| {
        let mut room = empty_room();
        parse_response(text.as_bytes(), &mut room, to_head)
            .map(|head| head.map(|head| (head.framing, head.keep_alive)))
    };
    for (text, to_head, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", false, (Framing::Length(3), true)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", true, (Framing::None, true)),
        ("HTTP/1.1 204 \r\n\r\n", false, (Framing::None, true)),
        ("HTTP/1.1 304 \r\ncontent-length: 3\r\n\r\n", false, (Framing::None, true)),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false, (Framing::Chunked, true)),
        ("HTTP/1.1 200 OK\r\n\r\n", false, (Framing::UntilClose, false)),
        ("HTTP/1.1 200\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", false, (Framing::None, false)),
        ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", false, (Framing::Length(3), false)),
    ] {
        assert_eq!(framing(text, to_head), Ok(Some(expected)), "{text:?}");
    }
    for text in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-length: 3\n\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        assert!(framing(text, false).is_err(), "{text:?}");
    }
}

fn dechunk(bytes: &[u8], cuts: usize) -> Result<(Vec<u8>, usize, bool), BadChunk> {
    let mut chunked = Chunked::new(|name| !name.eq_ignore_ascii_case(b"authorization"));
    let (mut data, mut used, mut ended) = (Vec::new(), 0, false);
    for piece in bytes.chunks(cuts.max(1)) {
        let scanned = chunked.scan(piece, |more| data.extend_from_slice(more))?;
        used += scanned.used;
        ended = scanned.ended;
        if ended {
            break;
        }
    }
    Ok((data, used, ended))
}

#[test]
fn chunks_end_where_they_say() {
    for (text, data, rest) in [
        ("0\r\n\r\n", "", 0),
        ("3\r\nabc\r\n0\r\n\r\n", "abc", 0),
        ("3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\nnext", "abc0123456789", 4),
        ("1\r\na\r\n0\r\nx-sum: 1\r\n\r\nGET", "a", 3),
    ] {
        for cuts in 1..=text.len() {
            let found = dechunk(text.as_bytes(), cuts).unwrap();
            assert_eq!(found, (data.into(), text.len() - rest, true), "{text:?} by {cuts}");
        }
    }
    for text in [
        "\r\n",
        "x\r\n",
        " 3\r\nabc\r\n",
        "3 \r\nabc\r\n",
        "0x3\r\nabc\r\n",
        "+3\r\nabc\r\n",
        "3\nabc\r\n",
        "3;a=b\r\nabc\r\n",
        "3\r\nabcd\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "1000000000000000\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\n: x\r\n\r\n",
        "0\r\na b: x\r\n\r\n",
        "0\r\na: x\n\r\n",
        "0\r\na: x\rb\r\n\r\n",
        "0\r\nAuthorization: x\r\n\r\n",
    ] {
        for cuts in 1..=text.len() {
            assert!(dechunk(text.as_bytes(), cuts).is_err(), "{text:?} by {cuts}");
        }
    }
    let long = format!("0\r\nx: {}\r\n\r\n", "a".repeat(9000));
    assert!(dechunk(long.as_bytes(), 100).is_err());
    let many = |fields| format!("0\r\n{}\r\n", "x: 1\r\n".repeat(fields));
    assert!(dechunk(many(MAX_HEADERS).as_bytes(), 100).is_ok());
    assert!(dechunk(many(MAX_HEADERS + 1).as_bytes(), 100).is_err());
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_changes_nothing(text in "[0-3a;: \r\n]{0,40}", cuts in 1usize..8) {
        prop_assert_eq!(dechunk(text.as_bytes(), cuts), dechunk(text.as_bytes(), 1));
    }

    #[test]
    fn a_head_is_the_same_with_whatever_stands_behind_it(
        fields in "([a-z]{1,4}: ?[ -~]{0,8}\r\n){0,4}",
        behind in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let text = with(&fields);
        let mut longer = text.clone().into_bytes();
        longer.extend(behind);
        let mut room = empty_room();
        let found = parse_request(&longer, &mut room).map(|head| head.map(|head| (head.framing, head.keep_alive, head.len)));
        prop_assert_eq!(found, request(&text));
    }
}
