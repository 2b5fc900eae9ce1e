//! The little HTTP that setting up needs: is it healthy, and some calls of the admin API. Nothing here is measured.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

const PATIENCE: Duration = Duration::from_secs(30);

/// The code of what a path answers; `None` while nothing does.
pub(super) fn get(address: SocketAddr, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).ok()?;
    code(std::str::from_utf8(&line).ok()?)
}

fn code(status_line: &str) -> Option<u16> {
    status_line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

/// A connection that is kept.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(super) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE)).context("setting a time limit")?;
        stream.set_nodelay(true).context("setting up the connection")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Posts JSON; code and body of the answer, which states its length.
    pub(super) fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> Result<(u16, String)> {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).with_context(|| format!("asking {path}"))?;
        self.answer().with_context(|| format!("reading the answer of {path}"))
    }

    fn answer(&mut self) -> Result<(u16, String)> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let code = code(&line).with_context(|| format!("{line:?} is no answer"))?;
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().context("content-length")?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((code, String::from_utf8(body).context("the body is no text")?))
    }
}
