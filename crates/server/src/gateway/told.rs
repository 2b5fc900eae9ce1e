//! The body of an answer that may tell something about the source: read for the decision only, and passed on as it
//! came (SPEC §7).

use std::io::Read;

use super::body::Body;
use super::http1::{Framing, empty_room, parse_response};

/// So much of a body is looked at, as it came and decoded.
const LOOKED_AT: usize = 64 * 1024;

/// Whether `got`, an answer from its head on, is whole or longer than what is looked at.
pub(super) fn is_enough(got: &[u8], to_head: bool) -> bool {
    with_body(got, to_head, |body, _, framing| body.len() >= LOOKED_AT || ends(body, framing)).unwrap_or(true)
}

/// Whether the answer ends exactly with `got`.
pub(super) fn is_whole(got: &[u8], to_head: bool) -> bool {
    let exactly = |body: &[u8], _: &[u8], framing| match framing {
        Framing::None => body.is_empty(),
        Framing::Length(_) | Framing::Chunked => {
            let taken = Body::new(framing, |_| true).take(body, |_| {});
            taken.is_ok_and(|taken| taken.ended && taken.used == body.len())
        }
        Framing::UntilClose => false,
    };
    with_body(got, to_head, exactly).unwrap_or(false)
}

/// The body's text, decoded; empty if it cannot be.
pub(super) fn text(got: &[u8], to_head: bool) -> String {
    let decoded = with_body(got, to_head, |body, coding, framing| {
        let mut content = Vec::new();
        // What came of a body that was cut says what it says.
        let _ = Body::new(framing, |_| true).take(body, |data| content.extend_from_slice(data));
        decode(&content, coding)
    });
    String::from_utf8_lossy(&decoded.unwrap_or_default()).into_owned()
}

fn with_body<T>(got: &[u8], to_head: bool, with: impl FnOnce(&[u8], &[u8], Framing) -> T) -> Option<T> {
    let mut room = empty_room();
    let head = parse_response(got, &mut room, to_head).ok()??;
    let coding = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-encoding"));
    Some(with(&got[head.len..], coding.map_or(&b""[..], |header| header.value), head.framing))
}

fn ends(body: &[u8], framing: Framing) -> bool {
    match framing {
        Framing::None => true,
        // A malformed one ends here too: passing it on says so.
        Framing::Length(_) | Framing::Chunked => {
            Body::new(framing, |_| true).take(body, |_| {}).map_or(true, |taken| taken.ended)
        }
        Framing::UntilClose => false,
    }
}

fn decode(content: &[u8], coding: &[u8]) -> Vec<u8> {
    let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
    if coding.is_empty() || is("identity") {
        content.to_vec()
    } else if is("gzip") || is("x-gzip") {
        read(flate2::read::MultiGzDecoder::new(content))
    } else if is("deflate") {
        read(flate2::read::ZlibDecoder::new(content))
    } else if is("br") {
        read(brotli_decompressor::Decompressor::new(content, 4096))
    } else if is("zstd") {
        ruzstd::decoding::StreamingDecoder::new(content).map(read).unwrap_or_default()
    } else {
        Vec::new()
    }
}

/// What can be decoded of it, and no more than is looked at: a small body may unfold to a huge one.
fn read(decoder: impl Read) -> Vec<u8> {
    let mut decoded = Vec::new();
    let _ = decoder.take(LOOKED_AT as u64).read_to_end(&mut decoded);
    decoded
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn answer(coding: &str, body: &[u8]) -> Vec<u8> {
        let head =
            format!("HTTP/1.1 403 F\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[test]
    fn what_is_compressed_is_read_in_every_usual_coding() {
        let said = br#"{"error":{"message":"the token is revoked"}}"#;
        let gzip = {
            let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(said).unwrap();
            to.finish().unwrap()
        };
        let deflate = {
            let mut to = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            to.write_all(said).unwrap();
            to.finish().unwrap()
        };
        // Made by the command-line tools of brotli and zstd.
        let brotli = include_bytes!("told/revoked.br");
        let zstd = include_bytes!("told/revoked.zst");
        for (coding, body) in
            [("identity", &said[..]), ("gzip", &gzip), ("deflate", &deflate), ("br", brotli), ("zstd", zstd)]
        {
            let answer = answer(coding, body);
            assert!(text(&answer, false).contains("revoked"), "{coding}");
            assert!(is_whole(&answer, false) && is_enough(&answer, false), "{coding}");
            assert!(!is_enough(&answer[..answer.len() - 1], false), "{coding}");
        }
        assert_eq!(text(&answer("snappy", said), false), "", "what cannot be decoded says nothing");
        assert_eq!(text(&answer("gzip", said), false), "");
    }

    #[test]
    fn a_body_that_unfolds_without_end_is_read_to_a_bound() {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        to.write_all(&vec![b'a'; 10 << 20]).unwrap();
        let answer = answer("gzip", &to.finish().unwrap());
        assert_eq!(text(&answer, false).len(), LOOKED_AT);
    }

    #[test]
    fn chunks_and_cut_bodies_are_read_as_far_as_they_came() {
        let head = "HTTP/1.1 401 U\r\ntransfer-encoding: chunked\r\n\r\n";
        let whole = format!("{head}3\r\nrev\r\n4\r\noked\r\n0\r\n\r\n");
        assert_eq!(text(whole.as_bytes(), false), "revoked");
        assert!(is_whole(whole.as_bytes(), false));
        assert!(!is_whole(format!("{whole}x").as_bytes(), false), "something came behind it");
        let cut = format!("{head}3\r\nrev\r\n4\r\no");
        assert_eq!(text(cut.as_bytes(), false), "revo");
        assert!(!is_enough(cut.as_bytes(), false));
        assert!(
            is_enough(b"HTTP/1.1 401 U\r\ncontent-length: 9\r\n\r\n", true),
            "an answer to HEAD has no body"
        );
    }
}
