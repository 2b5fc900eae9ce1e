//! A sink on loopback that answers as it is told, and remembers what it was sent.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// What it answers.
#[derive(Debug, Clone)]
pub(super) enum Say {
    /// Status, more head lines, body.
    Answer(u16, &'static str, String),
    /// It reads the request and closes.
    Close,
    /// It reads the request and says nothing for as long as the client waits.
    Nothing,
}

/// What came.
#[derive(Debug, Clone)]
pub(super) struct Came {
    pub(super) at: Instant,
    /// The request line and the header lines, in lower case.
    pub(super) head: String,
    pub(super) body: Value,
}

#[derive(Debug, Clone)]
pub(super) struct Listener {
    pub(super) port: u16,
    came: Arc<Mutex<Vec<Came>>>,
    says: Arc<Mutex<VecDeque<Say>>>,
}

impl Listener {
    /// Answers the first requests so, and all others with 200.
    pub(super) async fn start(says: impl IntoIterator<Item = Say>) -> Self {
        Self::over(says, None).await
    }

    pub(super) async fn over(says: impl IntoIterator<Item = Say>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let says = Arc::new(Mutex::new(says.into_iter().collect()));
        let here = Self { port, came: Arc::default(), says };
        let all = here.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (one, tls) = (all.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => one.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                one.serve(stream).await;
                            }
                        }
                    }
                });
            }
        });
        here
    }

    pub(super) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn came(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let Some((head, body)) = read(&mut stream).await else { return };
        let body = serde_json::from_slice(&body).unwrap();
        self.came.lock().unwrap().push(Came { at: Instant::now(), head, body });
        let say = self.says.lock().unwrap().pop_front();
        match say.unwrap_or(Say::Answer(200, "", String::new())) {
            Say::Answer(status, more, body) => {
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n{more}connection: close\r\n\r\n{body}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
            Say::Close => {}
            // Until the client has gone.
            Say::Nothing => while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {},
        }
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            while bytes.len() < end + 4 + length {
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            return Some((head, bytes[end + 4..].to_vec()));
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
