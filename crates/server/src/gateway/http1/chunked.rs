//! The chunked coding, byte by byte as it arrives (RFC 9112 §7.1). It tells where the message ends and which bytes
//! are data; what was read is passed on as it is.

/// The longest trailer section, in bytes.
const MAX_TRAILERS: usize = 8 * 1024;
/// The most trailer fields.
const MAX_TRAILER_FIELDS: usize = super::MAX_HEADERS;
/// More digits than any chunk of ours needs: 2^60 bytes.
const MAX_DIGITS: u8 = 15;

/// Chunks that are not passed on, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body's chunks are malformed: {0}")]
pub struct BadChunk(pub &'static str);

/// How far a scan came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes that belong to the message.
    pub used: usize,
    /// The message ended with them.
    pub ended: bool,
}

/// Where in the coding the next byte stands.
#[derive(Debug, Clone)]
pub struct Chunked {
    at: At,
    /// Of the size line: the size so far; of a chunk: what is left of it.
    left: u64,
    digits: u8,
    trailers: usize,
    trailer_fields: usize,
    /// The trailer field in hand.
    line: Vec<u8>,
    trailer_allowed: fn(&[u8]) -> bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
    Ended,
}

impl Chunked {
    /// At the first byte of the body. `trailer_allowed` says which trailer fields may pass, by name.
    pub fn new(trailer_allowed: fn(&[u8]) -> bool) -> Self {
        Self {
            at: At::Size,
            left: 0,
            digits: 0,
            trailers: 0,
            trailer_fields: 0,
            line: Vec::new(),
            trailer_allowed,
        }
    }

    /// Reads on; `data` gets the data of the chunks, without their framing.
    pub fn scan(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Result<Scanned, BadChunk> {
        let mut used = 0;
        while self.at != At::Ended {
            let Some(byte) = bytes.get(used) else {
                return Ok(Scanned { used, ended: false });
            };
            if self.at == At::Data {
                let rest = &bytes[used..];
                let here = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
                data(&rest[..here]);
                used += here;
                self.left -= here as u64;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            self.step(*byte)?;
            used += 1;
        }
        Ok(Scanned { used, ended: true })
    }

    fn step(&mut self, byte: u8) -> Result<(), BadChunk> {
        self.at = match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > MAX_DIGITS {
                    return Err(BadChunk("a chunk size of more than 15 digits"));
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                At::Size
            }
            (At::Size, b'\r') if self.digits > 0 => At::SizeLf,
            (At::Size, b';') => return Err(BadChunk("a chunk extension")),
            (At::Size, _) => return Err(BadChunk("a chunk size that is no hexadecimal number")),
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::Trailer } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::Trailer, b'\n') => return Err(BadChunk("a trailer line that ends without CR")),
            (At::Trailer, _) => {
                self.trailers += 1;
                if self.trailers > MAX_TRAILERS {
                    return Err(BadChunk("trailers of more than 8 KiB"));
                }
                self.line.push(byte);
                At::Trailer
            }
            (At::TrailerLf, b'\n') if self.line.is_empty() => At::Ended,
            (At::TrailerLf, b'\n') => {
                self.check_trailer()?;
                self.trailer_fields += 1;
                if self.trailer_fields > MAX_TRAILER_FIELDS {
                    return Err(BadChunk("more than 128 trailer fields"));
                }
                self.line.clear();
                At::Trailer
            }
            (At::SizeLf | At::DataCr | At::DataLf | At::TrailerLf, _) => {
                return Err(BadChunk("a line that does not end with CR LF"));
            }
            (At::Data | At::Ended, _) => At::Ended,
        };
        Ok(())
    }

    /// A field whose name is a token and whose value holds no control character (RFC 9110 §5).
    fn check_trailer(&self) -> Result<(), BadChunk> {
        let Some(colon) = memchr::memchr(b':', &self.line) else {
            return Err(BadChunk("a trailer line without a colon"));
        };
        let (name, value) = self.line.split_at(colon);
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(token) {
            return Err(BadChunk("a trailer field's name"));
        }
        if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(BadChunk("a trailer field's value"));
        }
        if !(self.trailer_allowed)(name) {
            return Err(BadChunk("a trailer field that may not stand there"));
        }
        Ok(())
    }
}
