//! The address: a listening socket for each thread, or one that was handed over for all of them.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 4096;

/// The listening socket of one thread.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    /// Somebody else holds it too, and goes on with it when this process ends.
    pub(super) handed_over: bool,
}

/// Listening sockets that no runtime owns yet.
#[derive(Debug)]
pub struct Bound {
    sockets: Vec<std::net::TcpListener>,
    address: SocketAddr,
    handed_over: bool,
}

impl Bound {
    /// Binds `address` once for each of `threads`; port 0 is any that is free.
    ///
    /// The sockets share the port, so that each thread has a queue of its own. Before that the address is bound
    /// without sharing: another server that listens there is an error, not a rival for every other connection.
    pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Self> {
        let address = listen(address, false)?.local_addr()?;
        let sockets = (0..threads.max(1)).map(|_| listen(address, true)).collect::<io::Result<_>>()?;
        Ok(Self { sockets, address, handed_over: false })
    }

    /// Takes a socket that listens already. All threads share it: a connection that waits in it is lost to
    /// nobody when one of them ends.
    pub fn handed_over(socket: std::net::TcpListener, threads: usize) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let mut sockets = (1..threads).map(|_| socket.try_clone()).collect::<io::Result<Vec<_>>>()?;
        sockets.push(socket);
        Ok(Self { sockets, address, handed_over: true })
    }

    /// Where they listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For how many threads.
    pub(super) fn threads(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn into_sockets(self) -> impl Iterator<Item = Unowned> {
        self.sockets.into_iter().map(move |socket| Unowned { socket, handed_over: self.handed_over })
    }
}

/// A listening socket on its way to its thread.
#[derive(Debug)]
pub(super) struct Unowned {
    socket: std::net::TcpListener,
    handed_over: bool,
}

impl Unowned {
    /// Makes it the socket of the runtime that this is called in.
    pub(super) fn own(self) -> io::Result<Listener> {
        self.socket.set_nonblocking(true)?;
        Ok(Listener { socket: TcpListener::from_std(self.socket)?, handed_over: self.handed_over })
    }
}

fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(shared)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}
