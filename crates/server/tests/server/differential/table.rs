//! Inputs that readers of HTTP/1.1 are known to split differently, and plain ones that all must take.

use super::inputs::{Expected, Input, KEY};

const PASSES: &[(&str, usize, &str)] = &[
    ("a length", 2, "{P}content-length: 4\r\n\r\nbody"),
    ("no body", 2, "{G}\r\n"),
    ("a length of nothing", 2, "{P}content-length: 0\r\n\r\n"),
    ("a length with zeros", 2, "{P}content-length: 0004\r\n\r\nbody"),
    ("chunks", 2, "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\nA\r\n0123456789\r\n0\r\n\r\n"),
    ("chunks of nothing", 2, "{P}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunks with zeros", 2, "{P}transfer-encoding: chunked\r\n\r\n0004\r\nbody\r\n000\r\n\r\n"),
    ("chunked in capitals", 2, "{P}Transfer-Encoding:\tCHUNKED \r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a trailer", 2, "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n"),
    ("sent ahead", 4, "{P}content-length: 3\r\n\r\none{P}content-length: 3\r\n\r\ntwo{G}\r\n"),
    (
        "chunks sent ahead",
        3,
        "{P}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n{P}content-length: 1\r\n\r\nb",
    ),
    ("a request as a body", 2, "{P}content-length: 37\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: g\r\n\r\n."),
    ("blanks around a value", 2, "{P}content-length: \t 4 \t \r\n\r\nbody"),
    ("no blank before a value", 2, "{P}content-length:4\r\n\r\nbody"),
    ("8-bit in a value", 2, "{P}x-odd: \u{e9}\u{ff}\r\ncontent-length: 1\r\n\r\nx"),
    ("8-bit in a body", 2, "{P}content-length: 3\r\n\r\n\0\u{ff}\n"),
    ("an expectation", 2, "{P}expect: 100-continue\r\ncontent-length: 4\r\n\r\nbody"),
    ("HTTP/1.0", 1, "{P0}content-length: 4\r\n\r\nbody"),
    ("HTTP/1.0 that stays", 2, "{P0}connection: keep-alive\r\ncontent-length: 4\r\n\r\nbody"),
    ("close with more behind", 1, "{P}connection: close\r\ncontent-length: 4\r\n\r\nbody{G}\r\n"),
    ("a query", 2, "GET /v1/anthropic/v1/models?a=b&c=/../d&e=%2e%2e HTTP/1.1\r\n{H}\r\n"),
    ("an encoded blank", 2, "GET /v1/anthropic/v1/models/a%20b HTTP/1.1\r\n{H}\r\n"),
    ("HEAD", 2, "HEAD /v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    (
        "PUT and PATCH",
        3,
        "PUT /v1/anthropic/v1/files/a HTTP/1.1\r\n{H}content-length: 1\r\n\r\nxPATCH /v1/anthropic/v1/files/a HTTP/1.1\r\n{H}content-length: 1\r\n\r\ny",
    ),
    ("DELETE with a body", 2, "DELETE /v1/anthropic/v1/files/a HTTP/1.1\r\n{H}content-length: 1\r\n\r\nx"),
    ("GET with a body", 2, "{G}content-length: 5\r\n\r\nGET /"),
    ("GET with chunks", 2, "{G}transfer-encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n"),
    (
        "a field that connection names",
        2,
        "{P}connection: x-odd, keep-alive\r\nx-odd: 1\r\ncontent-length: 4\r\n\r\nbody",
    ),
    ("an upgrade", 2, "{P}connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 4\r\n\r\nbody"),
    ("te", 2, "{P}te: trailers\r\nconnection: te\r\ncontent-length: 4\r\n\r\nbody"),
    (
        "names that resemble",
        2,
        "{P}content-lengths: 9\r\nx-transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\nbody",
    ),
    ("a field without a value", 2, "{P}x-odd:\r\ncontent-length: 4\r\n\r\nbody"),
];

const HOLDS: &[(&str, &str)] = &[
    ("both framings", "{P}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("both, the other way round", "{P}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"),
    (
        "both, with chunks as long as the length",
        "{P}content-length: 11\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ),
    ("a length twice", "{P}content-length: 4\r\ncontent-length: 4\r\n\r\nbody"),
    ("two lengths", "{P}content-length: 4\r\ncontent-length: 9\r\n\r\nbodybody!"),
    ("two lengths, the longer first", "{P}content-length: 9\r\ncontent-length: 4\r\n\r\nbodybody!"),
    ("two lengths in one", "{P}content-length: 4, 4\r\n\r\nbody"),
    ("a list of a length", "{P}content-length: 4,\r\n\r\nbody"),
    ("a signed length", "{P}content-length: +4\r\n\r\nbody"),
    ("a length below zero", "{P}content-length: -1\r\n\r\n"),
    ("a length in hexadecimal", "{P}content-length: 0x4\r\n\r\nbody"),
    ("a length with a fraction", "{P}content-length: 4.0\r\n\r\nbody"),
    ("a length with a blank", "{P}content-length: 4 0\r\n\r\nbody"),
    ("a length with an underscore", "{P}content-length: 1_0\r\n\r\n0123456789"),
    ("an empty length", "{P}content-length: \r\n\r\nbody"),
    ("a length of 2^64 + 4", "{P}content-length: 18446744073709551620\r\n\r\nbody"),
    ("a length of 2^63", "{P}content-length: 9223372036854775808\r\n\r\nbody"),
    ("a blank before the colon of a length", "{P}content-length : 4\r\n\r\nbody"),
    ("a tab before the colon of a coding", "{P}transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n"),
    ("an underscore for a hyphen", "{P}content_length: 4\r\ntransfer_encoding: chunked\r\n\r\n"),
    ("xchunked", "{P}transfer-encoding: xchunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("xchunked beside a length", "{P}transfer-encoding: xchunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"),
    ("identity", "{P}transfer-encoding: identity\r\ncontent-length: 4\r\n\r\nbody"),
    ("gzip, chunked", "{P}transfer-encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("chunked, gzip", "{P}transfer-encoding: chunked, gzip\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("chunked, chunked", "{P}transfer-encoding: chunked, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    (
        "chunked twice",
        "{P}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ),
    (
        "chunked and identity",
        "{P}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ),
    ("an empty coding", "{P}transfer-encoding:\r\ncontent-length: 4\r\n\r\nbody"),
    ("a coding in quotes", "{P}transfer-encoding: \"chunked\"\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a coding with a parameter", "{P}transfer-encoding: chunked;a=b\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a coding behind a vertical tab", "{P}transfer-encoding: \u{b}chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a coding behind a comma", "{P}transfer-encoding: ,chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a folded coding", "{P}transfer-encoding:\r\n chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a coding behind a bare LF", "{P}x: y\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a coding behind a bare CR", "{P}x: y\rtransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    ("a coding behind NUL", "{P}x: y\0transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\nbody"),
    ("chunks in HTTP/1.0", "{P0}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
    (
        "chunks in HTTP/1.0 that stays",
        "{P0}connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ),
    ("a length that connection names", "{P}connection: content-length\r\ncontent-length: 4\r\n\r\nbody"),
    (
        "a coding that connection names",
        "{P}connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    ),
    ("a key that connection names", "{P}connection: x-cm-api-key, host\r\ncontent-length: 4\r\n\r\nbody"),
    (
        "lines that end with LF",
        "POST /v1/anthropic/v1/messages HTTP/1.1\nhost: gateway\n{K}content-length: 4\n\nbody",
    ),
    ("a head that ends with LF", "{P}content-length: 4\r\n\nbody"),
    ("a head that ends with LF CR LF", "{P}content-length: 4\n\r\nbody"),
    ("a head that ends with CR CR LF", "{P}content-length: 4\r\n\r\r\nbody"),
    ("a fold", "{P}x: y\r\n z\r\ncontent-length: 4\r\n\r\nbody"),
    (
        "a fold of the first field",
        "POST /v1/anthropic/v1/messages HTTP/1.1\r\n x: y\r\n{H}content-length: 4\r\n\r\nbody",
    ),
    ("a fold of a length", "{P}content-length: 4\r\n 0\r\n\r\nbody"),
    ("a line without a colon", "{P}x\r\ncontent-length: 4\r\n\r\nbody"),
    ("a name of nothing", "{P}: y\r\ncontent-length: 4\r\n\r\nbody"),
    ("8-bit in a name", "{P}x\u{e9}: y\r\ncontent-length: 4\r\n\r\nbody"),
    ("brackets in a name", "{P}x[y]: z\r\ncontent-length: 4\r\n\r\nbody"),
    ("NUL in a name", "{P}x\0y: z\r\ncontent-length: 4\r\n\r\nbody"),
    ("NUL in a value", "{P}x: \0\r\ncontent-length: 4\r\n\r\nbody"),
    ("DEL in a value", "{P}x: \x7f\r\ncontent-length: 4\r\n\r\nbody"),
    ("a control character in a value", "{P}x: \x01\r\ncontent-length: 4\r\n\r\nbody"),
    ("an empty line first", "\r\n{P}content-length: 4\r\n\r\nbody"),
    ("a bare LF first", "\n{P}content-length: 4\r\n\r\nbody"),
    ("an empty line between", "{P}content-length: 4\r\n\r\nbody\r\n{G}\r\n"),
    ("a body that is longer", "{P}content-length: 4\r\n\r\nbodybody"),
    ("a body that is shorter", "{P}content-length: 400\r\n\r\nbody"),
    ("no length, but a body", "{P}\r\nbody"),
    ("a request in a body without a length", "{P}\r\n{G}\r\n"),
    ("an extension", "{P}transfer-encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\n\r\n"),
    ("an extension in quotes", "{P}transfer-encoding: chunked\r\n\r\n4;a=\"\r\n\"\r\nbody\r\n0\r\n\r\n"),
    ("an extension with a bare LF", "{P}transfer-encoding: chunked\r\n\r\n4;a\nbody\r\n0\r\n\r\n"),
    ("an extension with a bare CR", "{P}transfer-encoding: chunked\r\n\r\n4;a\rx\r\nbody\r\n0\r\n\r\n"),
    ("an extension of the last chunk", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0;a=b\r\n\r\n"),
    ("a blank behind a size", "{P}transfer-encoding: chunked\r\n\r\n4 \r\nbody\r\n0\r\n\r\n"),
    ("a blank before a size", "{P}transfer-encoding: chunked\r\n\r\n 4\r\nbody\r\n0\r\n\r\n"),
    ("a tab behind a size", "{P}transfer-encoding: chunked\r\n\r\n4\t\r\nbody\r\n0\r\n\r\n"),
    ("a signed size", "{P}transfer-encoding: chunked\r\n\r\n+4\r\nbody\r\n0\r\n\r\n"),
    ("a size below zero", "{P}transfer-encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n"),
    ("a size with 0x", "{P}transfer-encoding: chunked\r\n\r\n0x4\r\nbody\r\n0\r\n\r\n"),
    ("a size that is no number", "{P}transfer-encoding: chunked\r\n\r\n4g\r\nbody\r\n0\r\n\r\n"),
    ("no size", "{P}transfer-encoding: chunked\r\n\r\n\r\nbody\r\n0\r\n\r\n"),
    ("a size of 2^64 + 4", "{P}transfer-encoding: chunked\r\n\r\n10000000000000004\r\nbody\r\n0\r\n\r\n"),
    ("a size of 2^32 + 4", "{P}transfer-encoding: chunked\r\n\r\n100000004\r\nbody\r\n0\r\n\r\n"),
    (
        "a size with many zeros",
        "{P}transfer-encoding: chunked\r\n\r\n00000000000000000000000000000004\r\nbody\r\n0\r\n\r\n",
    ),
    ("a size that ends with LF", "{P}transfer-encoding: chunked\r\n\r\n4\nbody\r\n0\r\n\r\n"),
    ("a size that ends with CR CR LF", "{P}transfer-encoding: chunked\r\n\r\n4\r\r\nbody\r\n0\r\n\r\n"),
    ("a chunk that ends with LF", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\n0\r\n\r\n"),
    ("a chunk without an end", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody0\r\n\r\n"),
    ("a chunk that is longer", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbodybody\r\n0\r\n\r\n"),
    ("a last chunk that ends with LF", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\n\r\n"),
    ("an end of LF", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\n"),
    ("an end of CR X", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\rX"),
    ("two ends", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n0\r\n\r\n"),
    ("no last chunk", "{P}transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n"),
    ("a trailer with a length", "{P}transfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 4\r\n\r\n"),
    (
        "a trailer with a coding",
        "{P}transfer-encoding: chunked\r\n\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    ),
    ("a trailer with the key", "{P}transfer-encoding: chunked\r\n\r\n0\r\n{K}\r\n"),
    ("a trailer with a bare LF", "{P}transfer-encoding: chunked\r\n\r\n0\r\nx: y\n\r\n"),
    ("a trailer without a colon", "{P}transfer-encoding: chunked\r\n\r\n0\r\nGET / HTTP/1.1\r\n\r\n"),
    ("a folded trailer", "{P}transfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n z\r\n\r\n"),
    ("NUL in a trailer", "{P}transfer-encoding: chunked\r\n\r\n0\r\nx: \0\r\n\r\n"),
    ("absolute form of another host", "GET http://other/v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("authority form", "GET gateway:80 HTTP/1.1\r\n{H}\r\n"),
    ("asterisk form", "OPTIONS * HTTP/1.1\r\n{H}\r\n"),
    ("two slashes first", "GET //v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("two slashes within", "GET /v1/anthropic//v1/models HTTP/1.1\r\n{H}\r\n"),
    ("dots", "GET /v1/anthropic/v1/models/../organizations HTTP/1.1\r\n{H}\r\n"),
    ("dots beyond the prefix", "GET /v1/anthropic/../../v1/models HTTP/1.1\r\n{H}\r\n"),
    ("encoded dots", "GET /v1/anthropic/v1/models/%2e%2e/organizations HTTP/1.1\r\n{H}\r\n"),
    ("an encoded slash", "GET /v1/anthropic/v1/models/..%2forganizations HTTP/1.1\r\n{H}\r\n"),
    ("a backslash", "GET /v1/anthropic/v1/models/..\\organizations HTTP/1.1\r\n{H}\r\n"),
    ("an encoded NUL", "GET /v1/anthropic/v1/models/%00 HTTP/1.1\r\n{H}\r\n"),
    ("an encoded LF", "GET /v1/anthropic/v1/models/%0d%0ax:y HTTP/1.1\r\n{H}\r\n"),
    ("a fragment", "GET /v1/anthropic/v1/models#x HTTP/1.1\r\n{H}\r\n"),
    ("a broken encoding", "GET /v1/anthropic/v1/models/%zz HTTP/1.1\r\n{H}\r\n"),
    ("8-bit in the target", "GET /v1/anthropic/v1/models/\u{e9} HTTP/1.1\r\n{H}\r\n"),
    ("a blank in the target", "GET /v1/anthropic/v1/models x HTTP/1.1\r\n{H}\r\n"),
    ("two blanks before the target", "GET  /v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("a tab before the target", "GET\t/v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("a blank behind the version", "GET /v1/anthropic/v1/models HTTP/1.1 \r\n{H}\r\n"),
    ("a blank before the method", " GET /v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("HTTP/0.9", "GET /v1/anthropic/v1/models\r\n"),
    ("HTTP/0.9 with fields", "GET /v1/anthropic/v1/models\r\n{H}\r\n"),
    ("HTTP/1.2", "GET /v1/anthropic/v1/models HTTP/1.2\r\n{H}\r\n"),
    ("HTTP/2.0", "GET /v1/anthropic/v1/models HTTP/2.0\r\n{H}\r\n"),
    ("HTTP/01.1", "GET /v1/anthropic/v1/models HTTP/01.1\r\n{H}\r\n"),
    ("http/1.1", "GET /v1/anthropic/v1/models http/1.1\r\n{H}\r\n"),
    ("another protocol", "GET /v1/anthropic/v1/models ICY/1.1\r\n{H}\r\n"),
    ("a method in small letters", "get /v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("a method of its own", "BREW /v1/anthropic/v1/models HTTP/1.1\r\n{H}content-length: 4\r\n\r\nbody"),
    ("a method with odd characters", "GE!T /v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("CONNECT", "CONNECT /v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("CONNECT to an authority", "CONNECT gateway:80 HTTP/1.1\r\n{H}\r\n"),
    ("TRACE", "TRACE /v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n"),
    ("HEAD with a body", "HEAD /v1/anthropic/v1/models HTTP/1.1\r\n{H}content-length: 4\r\n\r\nbody"),
    ("no host", "GET /v1/anthropic/v1/models HTTP/1.1\r\n{K}\r\n"),
    ("two hosts", "{P}host: other\r\ncontent-length: 4\r\n\r\nbody"),
    ("HTTP/1.0 without a host", "GET /v1/anthropic/v1/models HTTP/1.0\r\n{K}\r\n"),
    ("another expectation", "{P}expect: 200-ok\r\ncontent-length: 4\r\n\r\nbody"),
    ("an expectation in HTTP/1.0", "{P0}expect: 100-continue\r\ncontent-length: 4\r\n\r\nbody"),
    ("an expectation without a body", "{P}expect: 100-continue\r\n\r\n"),
    ("close beside keep-alive", "{P}connection: close, keep-alive\r\ncontent-length: 4\r\n\r\nbody{G}\r\n"),
    ("close in quotes", "{P}connection: \"close\"\r\ncontent-length: 4\r\n\r\nbody{G}\r\n"),
    (
        "an upgrade to h2c",
        "{G}connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
    ),
    ("garbage", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03"),
    ("nothing but ends of lines", "\r\n\r\n\r\n\r\n"),
];

/// Where nginx and `HAProxy` part ways themselves, and why.
const PEERS_DIFFER: &[(&str, &str, &str)] = &[(
    "absolute form",
    "HAProxy passes the target on as it came, nginx its path: Evergrant refuses",
    "GET http://gateway/v1/anthropic/v1/models HTTP/1.1\r\n{H}\r\n",
)];

pub(super) fn inputs() -> Vec<Input> {
    let passes = PASSES.iter().map(|(name, count, text)| (*name, *text, Expected::Passes(*count)));
    let holds = HOLDS.iter().map(|(name, text)| (*name, *text, Expected::Holds));
    let differ = PEERS_DIFFER.iter().map(|(name, why, text)| (*name, *text, Expected::PeersDiffer(why)));
    let mut inputs: Vec<_> =
        passes.chain(holds).chain(differ).map(|(name, text, expected)| input(name, text, expected)).collect();
    let big = |filler: &str| format!("{{P}}{filler}content-length: 4\r\n\r\nbody");
    for (name, filler) in [
        ("a field of 12 KB", format!("x: {}\r\n", "y".repeat(12_000))),
        ("a field of 40 KB", format!("x: {}\r\n", "y".repeat(40_000))),
        ("a field of 100 KB", format!("x: {}\r\n", "y".repeat(100_000))),
        ("a hundred fields", "x: y\r\n".repeat(100)),
        ("two hundred fields", "x: y\r\n".repeat(200)),
    ] {
        inputs.push(input(name, &big(&filler), Expected::Holds));
    }
    inputs
}

/// With a plain request behind it: whoever lost the way reads that one wrongly too.
fn input(name: &str, text: &str, expected: Expected) -> Input {
    let last = "GET /v1/anthropic/v1/models?last HTTP/1.1\r\n{H}connection: close\r\n\r\n";
    Input { name: name.to_owned(), text: written_out(&format!("{text}{last}")), cut: usize::MAX, expected }
}

/// Puts the usual heads in.
pub(super) fn written_out(text: &str) -> String {
    let mut text = text.to_owned();
    for (short, long) in [
        ("{P}", "POST /v1/anthropic/v1/messages HTTP/1.1\r\n{H}"),
        ("{P0}", "POST /v1/anthropic/v1/messages HTTP/1.0\r\n{H}"),
        ("{G}", "GET /v1/anthropic/v1/models HTTP/1.1\r\n{H}"),
        ("{H}", "host: gateway\r\n{K}"),
    ] {
        text = text.replace(short, long);
    }
    text.replace("{K}", &KEY.to_string())
}
