//! A gateway, a client that sends bytes, and a provider that answers with bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evergrant_core::audit::Actor;
use evergrant_core::caller::{Caller, NewCaller, Scopes};
use evergrant_core::gateway::{FallbackOn, Source};
use evergrant_core::provider::Profile;
use evergrant_core::{AccessToken, ApiKey, Generation, Lineage};
use evergrant_server::gateway::{
    AccessLog, Bound, ChainSettings, DayCount, FallbackKey, Gateway, Limits, OwnRoutes, Parts, Plane,
};
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::snapshot::Current;
use evergrant_server::{Callers, Snapshots, TokioWorld, Traces, World, tls};
use evergrant_store::{MemoryState, State};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::fixture::chain;

/// Nothing in these tests takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const ACCESS: &str = "sk-ant-oat01-test-access-0000000000000000";
pub(crate) const FALLBACK: &str = "sk-ant-api03-test-fallback-0000000000000";

/// Within [`PATIENCE`], or the test fails.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// What a test changes of the usual gateway.
pub(crate) struct Change {
    pub(crate) limits: Limits,
    pub(crate) chain: Box<dyn FnOnce(&mut ChainSettings)>,
    pub(crate) threads: usize,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) bound: Option<Bound>,
    /// In the place of a file of the rig's own.
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) traces: Traces,
}

impl Default for Change {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            chain: Box::new(|_| {}),
            threads: 1,
            tls: None,
            bound: None,
            access_log: None,
            traces: Traces::default(),
        }
    }
}

/// A gateway with one chain, whose provider is the test.
pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pub(crate) own_routes: Option<OwnRoutes>,
    pub(crate) upstream: TcpListener,
    pub(crate) snapshots: Snapshots,
    pub(crate) callers: Callers,
    pub(crate) world: TokioWorld<MemoryState>,
    pub(crate) metrics: Metrics,
    pub(crate) key: String,
    folder: TempDir,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(Change::default()).await
    }

    pub(crate) async fn with(change: Change) -> Self {
        let rig = Self::sharing(change, Snapshots::default()).await;
        rig.put_token(ACCESS, 1);
        rig
    }

    /// With snapshots that somebody else publishes to.
    pub(crate) async fn sharing(change: Change, snapshots: Snapshots) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", upstream.local_addr().unwrap());
        let client = HttpClient::new(None).unwrap();
        let world = TokioWorld::new(MemoryState::new(), client);
        let mut settings = settings(&base);
        (change.chain)(&mut settings);
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let callers = Callers::load(world.state()).await.unwrap();
        let parts = Parts {
            plane: Plane::new(vec![settings], change.limits),
            snapshots: snapshots.clone(),
            callers: callers.clone(),
            metrics: metrics.clone(),
            access_log: change
                .access_log
                .unwrap_or_else(|| AccessLog::File(folder.path().join("access.log"))),
            traces: change.traces,
            tls: change.tls,
        };
        let bound = change
            .bound
            .unwrap_or_else(|| Bound::bind("127.0.0.1:0".parse().unwrap(), change.threads).unwrap());
        let (gateway, own_routes) = Gateway::start(bound, parts).unwrap();
        let own_routes = Some(own_routes);
        let mut rig = Self {
            gateway,
            own_routes,
            upstream,
            snapshots,
            callers,
            world,
            metrics,
            key: String::new(),
            folder,
        };
        rig.key = rig.add_caller(|_| {}).await.1;
        rig
    }

    /// One more caller, and its key.
    pub(crate) async fn add_caller(&self, change: impl FnOnce(&mut NewCaller)) -> (Caller, String) {
        let mut new = NewCaller {
            name: "a test".parse().unwrap(),
            scopes: Scopes::default(),
            chain: chain(),
            expires_in: None,
            requests_per_minute: None,
            concurrent: None,
            fallback: true,
        };
        change(&mut new);
        let (caller, key) = new.create(self.world.now(), &mut self.world.key_rng()).unwrap();
        assert!(self.world.state().add_caller(&caller, &Actor::cli("test")).await.unwrap());
        self.callers.refresh(self.world.state()).await.unwrap();
        (caller, key.expose().to_owned())
    }

    /// Makes this the chain's access token.
    pub(crate) fn put_token(&self, access: &str, generation: u64) {
        let current = Current {
            position: (Lineage::FIRST, Generation(generation)),
            access: AccessToken::parse(access).unwrap(),
            expires_at: self.world.now() + Duration::from_secs(3600),
            refused: false,
            present: true,
        };
        assert!(self.snapshots.put(&chain(), current));
    }

    pub(crate) async fn client(&self) -> Peer {
        Peer(TcpStream::connect(self.gateway.address()).await.unwrap())
    }

    /// The next connection that the provider gets.
    pub(crate) async fn provider(&self) -> Peer {
        Peer(soon("a connection to the provider", self.upstream.accept()).await.unwrap().0)
    }

    /// A request with a caller key, `fields` and a body.
    pub(crate) fn request(&self, line: &str, fields: &str, body: &str) -> String {
        let length =
            if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        format!(
            "{line} HTTP/1.1\r\nhost: gateway\r\nx-cm-api-key: {}\r\n{fields}{length}\r\n{body}",
            self.key
        )
    }

    pub(crate) fn message(&self, fields: &str, body: &str) -> String {
        self.request("POST /v1/anthropic/v1/messages", fields, body)
    }

    /// Ends the gateway and returns its access log.
    pub(crate) async fn log(self) -> String {
        soon("the end", self.gateway.end()).await;
        std::fs::read_to_string(self.folder.path().join("access.log")).unwrap()
    }
}

/// The usual chain, with its provider there.
pub(crate) fn settings(base: &str) -> ChainSettings {
    let profile = Profile::claude();
    ChainSettings {
        name: chain(),
        rules: profile.gateway.clone().unwrap(),
        api_base: base.parse().unwrap(),
        client: HttpClient::new(None).unwrap(),
        source: Source::Oauth,
        shown_prefix: profile.access_prefix.clone(),
        provider_prefixes: vec!["sk-ant-oat01-".into(), "sk-ant-ort01-".into(), "sk-ant-api".into()],
        fallback: None,
        renewer: None,
        terms: None,
    }
}

/// One end of a connection.
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until what came ends with this.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        let read = async {
            while !got.ends_with(end.as_bytes()) {
                match self.0.read_u8().await {
                    Ok(byte) => got.push(byte),
                    Err(error) => {
                        panic!("{error} before {end:?}, behind {:?}", String::from_utf8_lossy(&got))
                    }
                }
            }
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(()) => String::from_utf8(got).unwrap(),
            Err(_) => panic!("no {end:?} behind {:?}", String::from_utf8_lossy(&got)),
        }
    }

    /// A head, with its empty line.
    pub(crate) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut got = vec![0; count];
        soon("the rest of a body", self.0.read_exact(&mut got)).await.unwrap();
        got
    }

    /// An answer with a length, as text.
    pub(crate) async fn answer(&mut self) -> String {
        let head = self.head().await;
        let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
        head + &String::from_utf8(self.exactly(length).await).unwrap()
    }

    /// All until the other side ends; `Err`: what came before it was cut.
    pub(crate) async fn rest(&mut self) -> Result<Vec<u8>, Vec<u8>> {
        let mut got = Vec::new();
        match soon("the connection's end", self.0.read_to_end(&mut got)).await {
            Ok(_) => Ok(got),
            Err(_) => Err(got),
        }
    }

    /// Nobody will read or write here any more.
    pub(crate) async fn closed(&mut self) {
        let rest = self.rest().await.unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

/// A field of a head.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let mut found = fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    let value = found.next();
    assert_eq!(found.next(), None, "{name} stands twice in {head}");
    value
}

/// An answer with a length.
pub(crate) fn ok(body: &str) -> String {
    answer("200 OK", body)
}

pub(crate) fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn fallback() -> FallbackKey {
    FallbackKey {
        key: ApiKey::parse(FALLBACK).unwrap(),
        prefix: Some("sk-ant-api".into()),
        on: FallbackOn::default(),
        max_requests_per_day: None,
        uses: Arc::new(DayCount::default()),
    }
}

/// A certificate that nobody signed but itself, with its key.
pub(crate) type Certified = rcgen::CertifiedKey<rcgen::KeyPair>;

pub(crate) fn certified() -> Certified {
    rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
}

/// Serves TLS with it, from files.
pub(crate) fn acceptor(folder: &Path, certified: &Certified) -> TlsAcceptor {
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    tls::acceptor(&cert, &key).unwrap()
}

/// The client's side of a handshake.
pub(crate) async fn secure(
    tcp: TcpStream,
    trusted: &Certified,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await
}

/// What an access token needs besides, as the profile has it.
pub(crate) fn capability() -> String {
    Profile::claude().gateway.unwrap().oauth.append.unwrap().1
}
