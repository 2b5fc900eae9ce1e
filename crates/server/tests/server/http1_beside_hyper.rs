//! Our HTTP/1.1 parser beside hyper's: over the committed corpus, which `cargo xtask fuzz` searches on from, and over
//! a short random run.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use crate::http1_oracle::{check_answer, check_request, check_stream};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/http1").join(target);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Every file against the check; all that fail are named.
fn replay(target: &str, check: fn(&[u8])) {
    let files = corpus(target);
    assert!(files.len() > 20, "the corpus `{target}` is there");
    let fails = |(_, bytes): &&(PathBuf, Vec<u8>)| std::panic::catch_unwind(|| check(bytes)).is_err();
    let failed: Vec<_> = files.iter().filter(fails).map(|(path, _)| path).collect();
    assert!(failed.is_empty(), "hyper finds something else in {failed:#?}");
}

#[test]
fn the_corpus_of_requests() {
    replay("request", check_request);
}

#[test]
fn the_corpus_of_answers() {
    replay("response", check_answer);
}

#[test]
fn the_corpus_of_connections() {
    replay("stream", check_stream);
}

/// What heads and bodies are made of, whole and broken.
const PIECES: &[&str] = &[
    "POST /a HTTP/1.1\r\nhost: a\r\n",
    "GET /a?b=c HTTP/1.1\r\nHost: a\r\n",
    "GET / HTTP/1.0\r\n",
    "CONNECT /a HTTP/1.1\r\nhost: a\r\n",
    "GET /a#b HTTP/1.1\r\nhost: a\r\n",
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200\r\n",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n",
    "HTTP/1.1 204 \r\n",
    "HTTP/1.1 304 x\r\n",
    "HEAD\n",
    "content-length: 3\r\n",
    "Content-Length: 03\r\n",
    "content-length: 0\r\n",
    "content-length: +3\r\n",
    "content-length: 18446744073709551615\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding:\tChunked \r\n",
    "transfer-encoding: chunked, chunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding : chunked\r\n",
    "connection: close\r\n",
    "connection: keep-alive\r\n",
    "connection: upgrade, keep-alive\r\n",
    "upgrade: h2c\r\n",
    "expect: 100-continue\r\n",
    "x: \u{e9}\r\n",
    "x:\r\n",
    " folded\r\n",
    "x: a\rb\r\n",
    "\r\n",
    "\n",
    "\r",
    "abc",
    "3\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\n",
    "000\r\nx-sum: 1\r\n\r\n",
    "3;a=b\r\nabc\r\n",
    "3 \r\nabc\r\n",
    "ffffffffffffffff\r\n",
    "x-sum: 1\r\nX-Sum: \u{e9}\r\n",
    "content-length: 3\r\n\r\n",
    " ",
    "\t",
    "\0",
];

fn input() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        30 => proptest::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 1..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8000))]

    #[test]
    fn random_connections(bytes in input()) {
        check_stream(&bytes);
        check_request(&bytes);
    }

    #[test]
    fn random_answers(bytes in input()) {
        check_answer(&bytes);
    }
}
