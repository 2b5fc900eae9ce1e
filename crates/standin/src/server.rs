//! The stand-in on a loopback socket. What a reply's transport says is really done to the connection.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::{fmt, io};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::admin;
use crate::call::Call;
use crate::engine::Endpoint;
use crate::handle::Handle;
use crate::reply::{Reply, Transport};
use crate::settings::Settings;
use crate::transport::Sending;

/// Longest request body that is read; a longer one is 413.
const BODY_LIMIT: usize = 64 << 20;

/// A running stand-in. It ends when it is dropped or [`StandIn::stop`]ped; its [`Handle`] outlives it.
#[derive(Debug)]
pub struct StandIn {
    handle: Handle,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// Why a stand-in did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// It holds no secret worth keeping and guards nothing: it has no business beyond this machine.
    #[error("a stand-in listens on loopback only, not on {0}")]
    NotLoopback(SocketAddr),
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

impl StandIn {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), settings).await
    }

    /// Starts on `address`, which must be loopback.
    pub async fn start_at(address: SocketAddr, settings: Settings) -> Result<Self, StartError> {
        Self::resume_at(address, Handle::new(settings)).await
    }

    /// Starts on `address` with the grants of a stand-in that was stopped: a provider that comes back.
    pub async fn resume_at(address: SocketAddr, handle: Handle) -> Result<Self, StartError> {
        if !address.ip().is_loopback() {
            return Err(StartError::NotLoopback(address));
        }
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bound.await.map_err(|source| StartError::Bind { address, source })?;
        let (stop, stopped) = watch::channel(false);
        let accepting = tokio::spawn(accept(listener, handle.clone(), stopped));
        Ok(Self { handle, address, stop, accepting })
    }

    /// `http://127.0.0.1:PORT`, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The whole URL of the token endpoint.
    pub fn token_url(&self) -> String {
        format!("{}{}", self.url(), self.handle.with(|engine| engine.settings().token_path.clone()))
    }

    /// The whole URL of the roles endpoint.
    pub fn probe_url(&self) -> String {
        format!("{}{}", self.url(), self.handle.with(|engine| engine.settings().probe_path.clone()))
    }

    /// The engine, from within the process.
    pub fn engine(&self) -> &Handle {
        &self.handle
    }

    /// Stops listening and closes every connection; gives back the engine, which may be resumed.
    pub async fn stop(mut self) -> Handle {
        self.stop.send_replace(true);
        // A failed join says that the task is over too.
        let _ = (&mut self.accepting).await;
        self.handle.clone()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, handle: Handle, stopped: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let ending = end(stopped.clone());
    tokio::pin!(ending);
    loop {
        tokio::select! {
            () = &mut ending => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve(stream, handle.clone(), stopped.clone()));
            }
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Returns when the stand-in stops, or is gone.
async fn end(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

async fn serve(stream: TcpStream, handle: Handle, stopped: watch::Receiver<bool>) {
    // Latency only; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, handle.clone(), stopped.clone()));
    // A connection that a client or a fault broke is no error of ours.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Given to hyper in place of a response, so that it closes the connection without sending a byte.
#[derive(Debug)]
struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is closed by a scripted fault")
    }
}

impl std::error::Error for Closed {}

/// Counts an exchange as in flight while it lives.
struct InFlight(Handle);

impl InFlight {
    fn begin(handle: &Handle) -> Self {
        handle.with(crate::engine::Engine::exchange_began);
        Self(handle.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.with(crate::engine::Engine::exchange_ended);
    }
}

async fn respond(
    request: Request<Incoming>,
    handle: Handle,
    stopped: watch::Receiver<bool>,
) -> Result<Response<Sending>, Closed> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            let reply = Reply::new(413, "text/plain", "too large", handle.now());
            return Ok(response(&reply, &handle));
        }
        // The client went away within its own request.
        Err(_) => return Err(Closed),
    };
    // In a task of its own: a provider goes on with a request whose client has gone away.
    let working = tokio::spawn(work(head, body, handle.clone(), stopped));
    let Ok(Some((reply, _in_flight))) = working.await else {
        return Err(Closed);
    };
    match reply.transport {
        Transport::LoseRequest | Transport::LoseAnswer => Err(Closed),
        Transport::NeverAnswer => match pending::<Infallible>().await {},
        Transport::Deliver | Transport::CutBody { .. } => Ok(response(&reply, &handle)),
    }
}

/// Nothing when the stand-in stops meanwhile.
async fn work(
    head: http::request::Parts,
    body: Bytes,
    handle: Handle,
    stopped: watch::Receiver<bool>,
) -> Option<(Reply, Option<InFlight>)> {
    let answering = async {
        let lines = head.headers.iter();
        let lines: Vec<(&str, Cow<'_, str>)> =
            lines.map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))).collect();
        let headers: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let call = Call { method: head.method.as_str(), target, headers: &headers, body: &body };
        if let Some(rest) = call.path().strip_prefix(admin::PREFIX) {
            return (admin::answer(&handle, call.method, rest, call.body), None);
        }
        let arrival = handle.with(|engine| {
            let endpoint = engine.endpoint(call.path());
            engine.arrive(endpoint)
        });
        let in_flight = (arrival.endpoint() == Endpoint::Token).then(|| InFlight::begin(&handle));
        pause(arrival.wait()).await;
        let reply = handle.answer(&call, arrival);
        pause(reply.delay).await;
        (reply, in_flight)
    };
    tokio::select! {
        answer = answering => Some(answer),
        () = end(stopped) => None,
    }
}

async fn pause(wait: std::time::Duration) {
    if !wait.is_zero() {
        sleep(wait).await;
    }
}

fn response(reply: &Reply, handle: &Handle) -> Response<Sending> {
    let mut response = Response::new(Sending::of(reply, handle));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let date = reply.http_date();
    let dated = std::iter::once(("date", date.as_str()));
    for (name, value) in reply.headers.iter().map(|(name, value)| (*name, value.as_ref())).chain(dated) {
        // A scripted value that no header can hold is left out.
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().append(HeaderName::from_static(name), value);
        }
    }
    response
}
