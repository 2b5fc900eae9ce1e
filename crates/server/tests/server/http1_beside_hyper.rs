//! Our HTTP/1.1 parser beside hyper's: over the committed corpus, which `cargo xtask fuzz` searches on from, and over
//! a short random run.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::http1_oracle::{check_answer, check_request, check_stream};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/http1").join(target);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Every file against the check; all that fail are named. Ours takes so many messages of the corpus at least.
fn replay(target: &str, check: fn(&[u8]) -> usize, least: usize) {
    let files = corpus(target);
    assert!(files.len() > 20, "the corpus `{target}` is there");
    let (mut taken, mut failed) = (0, Vec::new());
    for (path, bytes) in &files {
        match std::panic::catch_unwind(|| check(bytes)) {
            Ok(messages) => taken += messages,
            Err(_) => failed.push(path),
        }
    }
    assert!(failed.is_empty(), "hyper finds something else in {failed:#?}");
    assert!(taken >= least, "ours takes {taken} messages only, of {} inputs", files.len());
}

#[test]
fn the_corpus_of_requests() {
    replay("request", check_request, 60);
}

#[test]
fn the_corpus_of_answers() {
    replay("response", check_answer, 60);
}

#[test]
fn the_corpus_of_connections() {
    replay("stream", check_stream, 80);
}

/// What heads and bodies are made of, whole and broken; the first ones begin a head.
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

const FIRST_LINES: usize = 11;

fn pieces(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        30 => proptest::sample::select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..most).prop_map(|pieces| pieces.concat())
}

/// Anything, or what begins like a message and comes to the end of its head: of the others hardly one is taken.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let first_line = proptest::sample::select(&PIECES[..FIRST_LINES]);
    let begun = (first_line, pieces(4), pieces(6))
        .prop_map(|(first, fields, rest)| [first.as_bytes(), &fields, b"\r\n", &rest].concat());
    prop_oneof![1 => pieces(12), 2 => begun]
}

/// Checks random bytes; ours takes so many messages of them at least.
fn random(least: usize, check: impl Fn(&[u8]) -> usize) {
    let config = ProptestConfig { source_file: Some(file!()), ..ProptestConfig::with_cases(8000) };
    let mut runner = TestRunner::new(config);
    let taken = Cell::new(0);
    let searched = runner.run(&input(), |bytes| {
        taken.set(taken.get() + check(&bytes));
        Ok(())
    });
    searched.unwrap();
    assert!(taken.get() >= least, "ours takes {} messages only", taken.get());
}

#[test]
fn random_connections() {
    random(250, check_stream);
}

#[test]
fn random_heads() {
    random(250, check_request);
}

#[test]
fn random_answers() {
    random(350, check_answer);
}
