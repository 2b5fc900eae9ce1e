//! Connections to providers: those of one thread that wait for the next request, the one that was used last first.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};

use super::plane::Upstream;
use crate::stream::Stream;

/// The pool is swept so often.
pub(super) const SWEEP: Duration = Duration::from_secs(5);
/// None is used once it was idle for so many sweeps, a minute.
const MAX_SWEEPS: u8 = 12;

/// Idle connections by target. There are as many targets as chains: few enough to look at each.
#[derive(Debug, Default)]
pub(super) struct Pool(RefCell<Vec<(u64, Vec<Idle>)>>);

#[derive(Debug)]
struct Idle {
    stream: Stream,
    sweeps: u8,
}

impl Pool {
    /// The idle connection that was used last and is still open.
    pub(super) fn take(&self, upstream: &Upstream) -> Option<Stream> {
        let mut pool = self.0.borrow_mut();
        let (_, idle) = pool.iter_mut().find(|(target, _)| *target == upstream.id)?;
        std::iter::from_fn(|| idle.pop())
            .map(|idle| idle.stream)
            .find_map(|mut stream| silent(&mut stream).then_some(stream))
    }

    /// Keeps a connection whose answer came to its end.
    pub(super) fn put(&self, upstream: &Upstream, stream: Stream) {
        let mut pool = self.0.borrow_mut();
        let fresh = Idle { stream, sweeps: 0 };
        match pool.iter_mut().find(|(target, _)| *target == upstream.id) {
            Some((_, idle)) => idle.push(fresh),
            None => pool.push((upstream.id, vec![fresh])),
        }
    }

    /// Closes what nobody has used for too long, or the provider has closed.
    pub(super) fn sweep(&self) {
        self.0.borrow_mut().retain_mut(|(_, idle)| {
            idle.retain_mut(|idle| {
                idle.sweeps += 1;
                idle.sweeps < MAX_SWEEPS && silent(&mut idle.stream)
            });
            !idle.is_empty()
        });
    }
}

/// Nothing has come on it: no end, and no byte that nobody asked for. It costs no call to the system.
fn silent(stream: &mut Stream) -> bool {
    let mut byte = [0; 1];
    let mut cx = Context::from_waker(Waker::noop());
    Pin::new(stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::super::request::Target;
    use super::*;
    use crate::http::HttpClient;

    fn upstream(id: u64) -> Upstream {
        let target = Target { host: "provider".into(), base: String::new() };
        let client = HttpClient::new(None).unwrap();
        Upstream { id, url: "http://provider".parse().unwrap(), client, target }
    }

    /// A connection, and its other end, which keeps it open.
    async fn connected() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Stream::Plain(ours), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn none_is_used_after_a_minute_or_for_another_target() {
        let pool = Pool::default();
        let (one, _end) = connected().await;
        let sweep = |times| (0..times).for_each(|_| pool.sweep());
        assert_eq!(SWEEP * u32::from(MAX_SWEEPS), Duration::from_secs(60), "SPEC §7");
        pool.put(&upstream(1), one);
        assert!(pool.take(&upstream(2)).is_none(), "it leads elsewhere");
        for _ in 0..2 {
            sweep(MAX_SWEEPS - 1);
            let one = pool.take(&upstream(1)).unwrap();
            pool.put(&upstream(1), one);
        }
        sweep(MAX_SWEEPS);
        assert!(pool.take(&upstream(1)).is_none());
        assert!(pool.0.borrow().is_empty(), "nothing is left of the target");
    }
}
