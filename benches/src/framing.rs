//! Where a body of HTTP/1.1 ends: a pure function over bytes, as lenient as a benchmark's two ends may be.

use anyhow::{Result, bail};

/// A body that is being read.
#[derive(Debug)]
pub struct Body(State);

#[derive(Debug, Clone, Copy)]
enum State {
    /// Content-length: so many bytes are to come.
    Plain(u64),
    /// In the line of a chunk's size; whether its extension has begun.
    Size(u64, bool),
    /// So many bytes of the chunk are to come.
    Data(u64),
    /// At the end of the line behind a chunk.
    AfterData,
    /// In a trailer's line of that length so far.
    Trailer(usize),
    Over,
}

impl Body {
    /// A body of a stated length.
    #[must_use]
    pub fn of_length(length: u64) -> Self {
        Self(if length == 0 { State::Over } else { State::Plain(length) })
    }

    /// A body in chunks.
    #[must_use]
    pub fn chunked() -> Self {
        Self(State::Size(0, false))
    }

    /// By what a head says; without a word there is none.
    pub fn by_headers(headers: &[httparse::Header<'_>]) -> Result<Self> {
        let mut body = Self::of_length(0);
        for header in headers {
            if header.name.eq_ignore_ascii_case("content-length") {
                body = Self::of_length(std::str::from_utf8(header.value)?.trim().parse()?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                return Ok(Self::chunked());
            }
        }
        Ok(body)
    }

    /// Nothing is to come any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.0, State::Over)
    }

    /// Takes off the front of `bytes` what belongs to the body, hands its content to `each`, and says how many
    /// bytes those were, framing included.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> Result<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            self.0 = match self.0 {
                State::Over => break,
                State::Plain(left) | State::Data(left) => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let here = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    each(rest.get(..here).unwrap_or_default());
                    at += here;
                    self.0 = self.shortened(left - here as u64);
                    continue;
                }
                State::Size(size, extension) => match byte {
                    b'\n' if size == 0 => State::Trailer(0),
                    b'\n' => State::Data(size),
                    b';' => State::Size(size, true),
                    b'\r' | b' ' => State::Size(size, extension),
                    _ if extension => State::Size(size, true),
                    _ => State::Size(longer(size, byte)?, false),
                },
                State::AfterData if byte == b'\n' => State::Size(0, false),
                State::AfterData if byte == b'\r' => State::AfterData,
                State::AfterData => bail!("a chunk is longer than its size says"),
                State::Trailer(0) if byte == b'\n' => State::Over,
                State::Trailer(_) if byte == b'\n' => State::Trailer(0),
                State::Trailer(length) if byte == b'\r' => State::Trailer(length),
                State::Trailer(length) => State::Trailer(length + 1),
            };
            at += 1;
        }
        Ok(at)
    }

    fn shortened(&self, left: u64) -> State {
        match (self.0, left) {
            (State::Plain(_), 0) => State::Over,
            (State::Plain(_), left) => State::Plain(left),
            (_, 0) => State::AfterData,
            (_, left) => State::Data(left),
        }
    }
}

fn longer(size: u64, digit: u8) -> Result<u64> {
    let Some(digit) = char::from(digit).to_digit(16) else {
        bail!("{:?} in a chunk's size", char::from(digit));
    };
    match size.checked_mul(16) {
        Some(size) => Ok(size + u64::from(digit)),
        None => bail!("a chunk's size is too long"),
    }
}

/// `content` in chunks of at most `piece` bytes, with the last chunk.
#[must_use]
pub fn in_chunks(content: &[u8], piece: usize) -> Vec<u8> {
    let mut framed = Vec::new();
    for piece in content.chunks(piece) {
        framed.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        framed.extend(piece);
        framed.extend(b"\r\n");
    }
    framed.extend(b"0\r\n\r\n");
    framed
}

#[cfg(test)]
mod tests {
    use super::{Body, in_chunks};

    fn read(body: &mut Body, pieces: &[&[u8]]) -> (Vec<u8>, usize) {
        let (mut content, mut taken) = (Vec::new(), 0);
        for piece in pieces {
            taken += body.take(piece, |part| content.extend(part)).unwrap();
        }
        (content, taken)
    }

    #[test]
    fn a_length_is_kept_and_the_rest_left() {
        let mut body = Body::of_length(5);
        assert_eq!(read(&mut body, &[b"he", b"llo", b"GET"]), (b"hello".to_vec(), 5));
        assert!(body.is_over());
        assert!(Body::of_length(0).is_over());
    }

    #[test]
    fn chunks_are_read_however_they_are_cut() {
        let content: Vec<u8> = (0..=255).collect();
        let framed = in_chunks(&content, 100);
        for step in 1..framed.len() {
            let mut body = Body::chunked();
            let pieces: Vec<&[u8]> = framed.chunks(step).collect();
            assert_eq!(read(&mut body, &pieces), (content.clone(), framed.len()));
            assert!(body.is_over());
        }
    }

    #[test]
    fn extensions_and_trailers_are_skipped() {
        let mut body = Body::chunked();
        let framed = b"3;name=5\r\nabc\r\n0\r\nx-sum: 7\r\n\r\nrest";
        assert_eq!(read(&mut body, &[framed]), (b"abc".to_vec(), framed.len() - 4));
        assert!(body.is_over());
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        assert!(Body::chunked().take(b"xyz\r\n", |_| ()).is_err());
        assert!(Body::chunked().take(b"1\r\nab\r\n", |_| ()).is_err());
        assert!(Body::chunked().take(b"fffffffffffffffffff\r\n", |_| ()).is_err());
    }
}
