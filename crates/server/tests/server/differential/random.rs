//! Random inputs, always the same ones: messages put together from pieces that are whole and broken, and a few bytes
//! that went wrong on the way.

use super::inputs::{Expected, Input, KEY};
use super::table::written_out;

const COUNT: usize = 3000;
const SEED: u64 = 0x0a11_ce5e_ed00_0007;

/// What messages begin with.
const LINES: &[&str] = &[
    "POST /v1/anthropic/v1/messages HTTP/1.1\r\n{H}",
    "POST /v1/anthropic/v1/messages?a=%2e HTTP/1.1\r\n{H}",
    "GET /v1/anthropic/v1/models/a HTTP/1.1\r\n{H}",
    "PUT /v1/anthropic/v1/files/a HTTP/1.1\r\n{H}",
    "POST /v1/anthropic/v1/files HTTP/1.1\r\n{H}connection: keep-alive\r\n",
    "POST /v1/anthropic/v1/messages HTTP/1.0\r\n{H}connection: keep-alive\r\n",
    "DELETE /v1/anthropic/v1/files/a HTTP/1.1\r\n{H}",
];

const FIELDS: &[&str] = &[
    "accept: */*\r\n",
    "x-odd: \u{e9}\r\n",
    "x:\r\n",
    "connection: x-odd\r\n",
    "connection: close\r\n",
    "content-length: 4\r\n",
    "content-length: 0\r\n",
    "Content-Length:\t04\r\n",
    "content-length: +4\r\n",
    "content-length: 4,4\r\n",
    "content-length : 4\r\n",
    "transfer-encoding: chunked\r\n",
    "Transfer-Encoding: Chunked\r\n",
    "transfer-encoding: xchunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding:\u{b}chunked\r\n",
    "transfer-encoding\t: chunked\r\n",
    "transfer_encoding: chunked\r\n",
    "expect: 100-continue\r\n",
    "upgrade: h2c\r\n",
    " folded\r\n",
    "x: a\ntransfer-encoding: chunked\r\n",
    "x: a\rb\r\n",
    "te: trailers\r\n",
];

const BODIES: &[&str] = &[
    "",
    "body",
    "4\r\nbody\r\n0\r\n\r\n",
    "4;a=b\r\nbody\r\n0\r\n\r\n",
    "4\nbody\n0\n\n",
    "04\r\nbody\r\n00\r\nx-sum: 1\r\n\r\n",
    "0\r\n\r\n",
    "0\r\ncontent-length: 4\r\n\r\n",
    "4 \r\nbody\r\n0\r\n\r\n",
    "fffffffffffffff\r\nbody",
    "GET /v1/anthropic/v1/models?inner HTTP/1.1\r\n{H}\r\n",
    "\r\n",
    "1\r\nx\r\n0\r\n\r\nGET /v1/anthropic/v1/models?inner HTTP/1.1\r\n{H}\r\n",
];

/// Bodies that are what their fields say.
const FRAMED: &[&str] = &[
    "\r\n",
    "content-length: 4\r\n\r\nbody",
    "content-length: 47\r\n\r\nGET /v1/anthropic/v1/models HTTP/1.1\r\nhost: a\r\n",
    "transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
    "transfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n\r\n",
];

const BYTES: &[char] = &[
    '\r', '\n', '\t', ' ', '\0', '\u{b}', '\u{7f}', '\u{e9}', ':', ';', ',', '0', '1', 'f', 'x', '/', '-',
    '_',
];

pub(super) fn inputs() -> Vec<Input> {
    let mut dice = Dice(SEED);
    (0..COUNT).map(|number| input(number, &mut dice)).collect()
}

fn input(number: usize, dice: &mut Dice) -> Input {
    let mut text = String::new();
    for _ in 0..1 + dice.below(4) {
        text.push_str(dice.of(LINES));
        if dice.below(3) > 0 {
            text.push_str(dice.of(FRAMED));
            continue;
        }
        for _ in 0..dice.below(4) {
            text.push_str(dice.of(FIELDS));
        }
        text.push_str("\r\n");
        text.push_str(dice.of(BODIES));
    }
    text.push_str("GET /v1/anthropic/v1/models?last HTTP/1.1\r\n{H}connection: close\r\n\r\n");
    let mut text: Vec<char> = written_out(&text).chars().collect();
    if dice.below(2) == 0 {
        for _ in 0..1 + dice.below(3) {
            go_wrong(&mut text, dice);
        }
    }
    let cut = if dice.below(2) == 0 { usize::MAX } else { 1 + dice.below(60) };
    let name = format!("random {number}");
    Input { name, text: text.into_iter().collect(), cut, expected: Expected::Holds }
}

fn go_wrong(text: &mut Vec<char>, dice: &mut Dice) {
    let at = dice.below(text.len());
    // The key stays where it is: what has none is forwarded by nobody.
    if text[at] == KEY {
        return;
    }
    match dice.below(3) {
        0 => text[at] = BYTES[dice.below(BYTES.len())],
        1 => text.insert(at, BYTES[dice.below(BYTES.len())]),
        _ => drop(text.remove(at)),
    }
}

/// A generator of its own, so that another version of a library makes no other inputs (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % end as u64).unwrap()
    }

    fn of<'t, T: ?Sized>(&mut self, these: &[&'t T]) -> &'t T {
        these[self.below(these.len())]
    }
}
