//! One HTTP/1.1 request on a fresh connection, once: no retry, no redirect, no reuse. It tells what was never
//! handed to a connection from what was (SPEC §3, §4 step 5).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use evergrant_core::address::is_loopback;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tower_service::Service;
use url::Url;

use crate::stream::Stream;

mod public;

use public::Resolver;
pub use public::is_public;

/// What every request of ours says of itself (SPEC §14).
pub const USER_AGENT: &str = concat!("evergrant/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// IPv4 is tried too when IPv6 has not connected by then.
const HAPPY_EYEBALLS: Duration = Duration::from_millis(250);
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Answers are read so far at most, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// What came back.
#[derive(Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as far as it came and at most 256 KiB.
    pub body: Vec<u8>,
    /// The message came to its end.
    pub complete: bool,
}

/// The body may hold tokens, so it does not print.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

/// Why nothing came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing was handed to a connection.
    #[error("{0}")]
    NotSent(String),
    /// It was sent, and no answer came.
    #[error("{0}")]
    Lost(String),
}

/// A certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the certificates in {path} cannot be used: {why}")]
pub struct BadCertificates {
    path: PathBuf,
    why: String,
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient {
    tls: Arc<rustls::ClientConfig>,
    proxies: Arc<Matcher>,
    public_only: bool,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}

impl HttpClient {
    /// Trusts Mozilla's roots and those in `ca_file`; `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`
    /// (or in lower case) are honoured, except towards loopback.
    pub fn new(ca_file: Option<&Path>) -> Result<Self, BadCertificates> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = ca_file {
            let bad = |why: String| BadCertificates { path: path.to_owned(), why };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?;
            let mut added = 0;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| bad(error.to_string()))?;
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
                added += 1;
            }
            if added == 0 {
                return Err(bad("it holds no certificate in PEM form".into()));
            }
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the crypto provider supports the default protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), proxies: Arc::new(Matcher::from_env()), public_only: false })
    }

    /// The same, but it reaches loopback and public addresses only. What a proxy reaches is the proxy's to judge.
    #[must_use]
    pub fn public_only(mut self) -> Self {
        self.public_only = true;
        self
    }

    /// Sends one request. It waits for the answer for as long as that takes: the caller bounds it.
    pub async fn call(
        &self,
        method: Method,
        url: &Url,
        headers: &[(String, String)],
        body: Bytes,
    ) -> Result<Reply, CallError> {
        let not_sent = |why: String| CallError::NotSent(why);
        // The address itself may be a secret: only its host is ever named.
        let no_url = |error| not_sent(format!("the address at {} is no URL: {error}", host(url)));
        let uri: Uri = url.as_str().parse().map_err(no_url)?;
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, self.connect(url, &uri, CONNECT_TIMEOUT));
        let (stream, via_proxy) = match connecting.await {
            Ok(connected) => connected.map_err(not_sent)?,
            Err(_) => return Err(not_sent(format!("no connection to {} within 10 s", host(url)))),
        };
        let request = build(method, url, &uri, headers, body, via_proxy.as_ref()).map_err(not_sent)?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| not_sent(error.to_string()))?;
        // The connection ends with the sender; its own errors come out of the request.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let why = describe(error.error());
                return Err(match error.take_message() {
                    Some(_) => CallError::NotSent(why),
                    None => CallError::Lost(why),
                });
            }
        };
        Ok(read(response).await)
    }

    /// A connection to the server of `url`, through a proxy where one is set, within `timeout`.
    pub async fn open(&self, url: &Url, timeout: Duration) -> Result<Stream, String> {
        let uri: Uri = url.as_str().parse().map_err(|error| format!("{url} is no URL: {error}"))?;
        match tokio::time::timeout(timeout, self.connect(url, &uri, timeout)).await {
            Ok(Ok((stream, None))) => Ok(stream),
            Ok(Ok((_, Some(_)))) => Err(format!("{} is plain HTTP, and not for a proxy", host(url))),
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no connection to {} within {} s", host(url), timeout.as_secs())),
        }
    }

    /// A stream to the host, through a proxy where one is set; for plain HTTP through a proxy also what the
    /// proxy wants for authorization.
    async fn connect(
        &self,
        url: &Url,
        uri: &Uri,
        limit: Duration,
    ) -> Result<(Stream, Option<ViaProxy>), String> {
        let secure = url.scheme() == "https";
        let proxy = if is_loopback(url) { None } else { self.proxies.intercept(uri) };
        let public_only = self.public_only && proxy.is_none();
        if public_only && !is_loopback(url) && literal(url).is_some_and(|address| !is_public(address)) {
            return Err(format!("{} is a private address", host(url)));
        }
        let mut connector = connector(Resolver::new(public_only), limit);
        let failed =
            |error: &dyn std::error::Error| format!("no connection to {}: {}", host(url), describe(error));
        let (tcp, via) = match proxy {
            None => (connector.call(uri.clone()).await.map_err(|error| failed(&error))?, None),
            Some(proxy) if secure => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                (tunnel.call(uri.clone()).await.map_err(|error| failed(&error))?, None)
            }
            Some(proxy) => {
                let tcp = connector.call(proxy.uri().clone()).await.map_err(|error| failed(&error))?;
                (tcp, Some(ViaProxy { auth: proxy.basic_auth().cloned() }))
            }
        };
        let tcp: TcpStream = tcp.into_inner();
        if !secure {
            return Ok((Stream::Plain(tcp), via));
        }
        let name = ServerName::try_from(url.host_str().unwrap_or_default().to_owned());
        let name = name.map_err(|_| format!("{} is no host name", host(url)))?;
        let tls = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp).await;
        let tls = tls.map_err(|error| format!("no TLS connection to {}: {error}", host(url)))?;
        Ok((Stream::Tls(Box::new(tls.into())), None))
    }
}

/// Connects within `limit`, if one of a name's addresses lives.
fn connector<R>(resolver: R, limit: Duration) -> HttpConnector<R> {
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    // The addresses of one family share it, each has its turn, and there is room left for TLS.
    connector.set_connect_timeout(Some(limit * 4 / 5));
    connector
}

struct ViaProxy {
    auth: Option<HeaderValue>,
}

fn build(
    method: Method,
    url: &Url,
    uri: &Uri,
    headers: &[(String, String)],
    body: Bytes,
    via_proxy: Option<&ViaProxy>,
) -> Result<Request<Full<Bytes>>, String> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let target = if via_proxy.is_some() { url.as_str() } else { path };
    let mut request = Request::builder().method(method).uri(target).header("host", host(url));
    request = request.header("user-agent", USER_AGENT);
    if let Some(auth) = via_proxy.and_then(|via| via.auth.clone()) {
        request = request.header("proxy-authorization", auth);
    }
    for (name, value) in headers {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("{name:?} is no header name"))?;
        let mut value =
            HeaderValue::from_str(value).map_err(|_| format!("the value of header {name} cannot be sent"))?;
        value.set_sensitive(name == "authorization");
        request = request.header(name, value);
    }
    request.body(Full::new(body)).map_err(|error| error.to_string())
}

async fn read(response: ::http::Response<hyper::body::Incoming>) -> Reply {
    let (head, mut incoming) = response.into_parts();
    let mut body = Vec::new();
    let mut complete = true;
    while let Some(frame) = incoming.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => {
                let room = MAX_BODY - body.len();
                body.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    complete = false;
                    break;
                }
            }
            Ok(Err(_trailers)) => {}
            Err(_) => {
                complete = false;
                break;
            }
        }
    }
    Reply { status: head.status.as_u16(), headers: head.headers, body, complete }
}

/// The authority for the `Host` header and for messages.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn literal(url: &Url) -> Option<std::net::IpAddr> {
    match url.host()? {
        url::Host::Ipv4(address) => Some(address.into()),
        url::Host::Ipv6(address) => Some(address.into()),
        url::Host::Domain(_) => None,
    }
}

/// An error with its causes: the outer ones alone say little.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::future::{Ready, ready};
    use std::net::SocketAddr;
    use std::task::{Context, Poll};

    use hyper_util::client::legacy::connect::dns::Name;
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::Instant;

    use super::*;
    use crate::gateway::Limits;

    /// A name with these addresses.
    #[derive(Clone)]
    struct Named(Vec<SocketAddr>);

    impl Service<Name> for Named {
        type Response = std::vec::IntoIter<SocketAddr>;
        type Error = std::io::Error;
        type Future = Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Name) -> Self::Future {
            ready(Ok(self.0.clone().into_iter()))
        }
    }

    /// An address that takes nobody in and says nothing: its queue is full, which lasts as long as what is returned.
    async fn black_hole(ip: &str) -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let at = SocketAddr::new(ip.parse().unwrap(), 0);
        let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.bind(at).unwrap();
        let listener = socket.listen(1).unwrap();
        let at = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(connected) =
            tokio::time::timeout(Duration::from_millis(500), TcpStream::connect(at)).await
        {
            queued.push(connected.unwrap());
        }
        (at, listener, queued)
    }

    async fn refusing(ip: &str) -> SocketAddr {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        listener.local_addr().unwrap()
    }

    /// How long it takes to connect.
    async fn connecting(addresses: &[SocketAddr]) -> Duration {
        let begun = Instant::now();
        let mut connector = connector(Named(addresses.to_vec()), Limits::default().connect);
        let connected = connector.call(Uri::from_static("http://provider/")).await.unwrap().into_inner();
        assert_eq!(connected.peer_addr().unwrap(), *addresses.last().unwrap());
        begun.elapsed()
    }

    /// SPEC §7, RFC 8305.
    #[tokio::test]
    async fn a_dead_address_costs_little_where_another_one_lives() {
        let (v4, v6) = ("127.0.0.1", "::1");
        for (dead, lives) in [(v6, v4), (v4, v6)] {
            let living = TcpListener::bind((lives, 0)).await.unwrap();
            let living = living.local_addr().map(|at| (at, living)).unwrap();
            let took = connecting(&[refusing(dead).await, living.0]).await;
            assert!(took < Duration::from_millis(100), "{took:?} behind {dead}, which refuses");
            let hole = black_hole(dead).await;
            let took = connecting(&[hole.0, living.0]).await;
            assert!(took >= HAPPY_EYEBALLS, "{took:?}: {dead} is no black hole");
            assert!(took < HAPPY_EYEBALLS * 2, "{took:?} behind {dead}, which says nothing");
        }
    }

    /// Also where both are of one family.
    #[tokio::test]
    async fn a_dead_address_among_several_is_given_up_in_time() {
        let living = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let hole = black_hole("127.0.0.1").await;
        let limit = Limits::default().connect;
        let took = tokio::time::timeout(limit, connecting(&[hole.0, living.local_addr().unwrap()])).await;
        assert!(took.is_ok(), "no connection within {limit:?}");
    }
}
