//! A way to a server that a test cuts and mends as a network does: a proxy on the loopback address, driven from the
//! process of the test.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a way stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Bytes flow.
    Whole,
    /// Nothing flows. Mended, it goes on where it was, as TCP does by sending again.
    Holds,
    /// What is sent is lost, either way. Mended, the connections that it was lost on break.
    Swallows,
    /// Half open: what is asked arrives, the answers are lost.
    Deaf,
    /// Connections are reset, and new ones, too.
    Resets,
}

/// The ways to be cut.
pub(crate) const CUTS: [Line; 4] = [Line::Holds, Line::Swallows, Line::Deaf, Line::Resets];

/// A way to one address.
#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    line: watch::Sender<Line>,
}

/// A connection that has broken.
struct Broken;

impl Wire {
    pub(crate) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, seen) = watch::channel(Line::Whole);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, seen.clone()));
            }
        });
        Self { address, line }
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, mut line: watch::Receiver<Line>) {
    let opened = async {
        let open = |line: &Line| matches!(line, Line::Whole | Line::Deaf | Line::Resets);
        let now = *line.wait_for(open).await.map_err(|_| Broken)?;
        if now == Line::Resets {
            return Err(Broken);
        }
        TcpStream::connect(target).await.map_err(|_| Broken)
    };
    let Ok(mut server) = opened.await else {
        let _ = client.set_zero_linger();
        return;
    };
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    let asking = pump(client_reads, server_writes, line.clone(), false);
    let answering = pump(server_reads, client_writes, line.clone(), true);
    if tokio::try_join!(asking, answering).is_err() {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// Carries one direction until its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut line: watch::Receiver<Line>,
    answers: bool,
) -> Result<(), Broken> {
    let mut buffer = vec![0; 16 << 10];
    let mut lost = false;
    loop {
        // Nothing is read that would have to wait here: what stays with its sender is sent again.
        let now = *line.wait_for(|line| *line != Line::Holds).await.map_err(|_| Broken)?;
        if now == Line::Resets || (lost && now == Line::Whole) {
            return Err(Broken);
        }
        let read = tokio::select! {
            changed = line.changed() => {
                changed.map_err(|_| Broken)?;
                continue;
            }
            read = from.read(&mut buffer) => read.map_err(|_| Broken)?,
        };
        let now = *line.wait_for(|line| *line != Line::Holds).await.map_err(|_| Broken)?;
        lost |= now == Line::Swallows || (now == Line::Deaf && answers);
        match (now, lost, read) {
            (Line::Resets, _, _) | (Line::Whole, true, _) => return Err(Broken),
            // The end is lost, too.
            (_, true, 0) => {
                let _ = line.wait_for(|line| matches!(line, Line::Whole | Line::Resets)).await;
                return Err(Broken);
            }
            (_, true, _) => {}
            (_, false, 0) => return to.shutdown().await.map_err(|_| Broken),
            (_, false, _) => to.write_all(&buffer[..read]).await.map_err(|_| Broken)?,
        }
    }
}
