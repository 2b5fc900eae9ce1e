//! One connection of the load generator.

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::Target;
use crate::framing::Body;

const BUFFER: usize = 16 * 1024;

/// The reading half, with what was read and not used yet.
#[derive(Debug)]
pub(super) struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    held: usize,
    /// The status that answers have.
    expected: u16,
}

/// What the head of an answer says.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) body: Body,
    /// So many bytes of a body the upstream says to have received.
    pub(super) received: Option<u64>,
}

pub(super) async fn connect(target: &Target) -> Result<(Reader, OwnedWriteHalf)> {
    let address = target.address;
    let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {address}"))?;
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((Reader { stream: read, buffer: vec![0; BUFFER], held: 0, expected: 200 }, write))
}

impl Reader {
    /// From now on every answer has this status.
    pub(super) fn expect(&mut self, status: u16) {
        self.expected = status;
    }

    /// Reads one whole answer; its body goes to `content`.
    pub(super) async fn answer(&mut self, content: &mut Vec<u8>) -> Result<Option<u64>> {
        content.clear();
        let mut head = self.head().await?;
        self.body(&mut head.body, |part| content.extend(part)).await?;
        ensure!(self.held == 0, "{} bytes came behind an answer", self.held);
        Ok(head.received)
    }

    /// Reads a head with the status that is expected; anything else is an error that cites it.
    pub(super) async fn head(&mut self) -> Result<Head> {
        loop {
            let bytes = self.buffer.get(..self.held).unwrap_or_default();
            if let Some((head, length)) = parse(bytes, self.expected)? {
                self.use_up(length);
                return Ok(head);
            }
            self.read().await?;
        }
    }

    /// Reads a body to its end.
    pub(super) async fn body(&mut self, body: &mut Body, mut each: impl FnMut(&[u8])) -> Result<()> {
        loop {
            self.some_body(body, &mut each)?;
            if body.is_over() {
                return Ok(());
            }
            self.read().await?;
        }
    }

    /// Hands on what is there of a body.
    pub(super) fn some_body(&mut self, body: &mut Body, each: impl FnMut(&[u8])) -> Result<()> {
        let taken = body.take(self.buffer.get(..self.held).unwrap_or_default(), each)?;
        self.use_up(taken);
        Ok(())
    }

    /// Waits for more.
    pub(super) async fn read(&mut self) -> Result<()> {
        let free = self.buffer.get_mut(self.held..).filter(|free| !free.is_empty());
        match self.stream.read(free.context("the head is too long")?).await.context("reading an answer")? {
            0 => bail!("the connection was closed before the answer's end"),
            read => self.held += read,
        }
        Ok(())
    }

    fn use_up(&mut self, length: usize) {
        self.buffer.copy_within(length..self.held, 0);
        self.held -= length;
    }
}

fn parse(bytes: &[u8], expected: u16) -> Result<Option<(Head, usize)>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(bytes)? else {
        return Ok(None);
    };
    let code = response.code.unwrap_or_default();
    if code != expected {
        let body = bytes.get(length..).unwrap_or_default();
        bail!("the answer was {code}: {}", String::from_utf8_lossy(body).trim());
    }
    let received = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("x-received"));
    let received = received.map(|header| std::str::from_utf8(header.value).map(str::parse)).transpose()?;
    let received = received.transpose().context("x-received")?;
    Ok(Some((Head { body: Body::by_headers(response.headers)?, received }, length)))
}
