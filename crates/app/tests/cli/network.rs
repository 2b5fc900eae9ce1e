//! A provider behind a proxy and TLS: the proxy variables and a certificate file of the profile's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::serving::{Server, get};
use crate::support::{Home, Running, standin, wait_until};

/// A proxy that opens tunnels, and stands at their end with a certificate for the provider's name.
pub(crate) struct Proxy {
    pub(crate) address: String,
    heads: Arc<Mutex<Vec<String>>>,
    pub(crate) certificate: String,
}

impl Proxy {
    pub(crate) async fn start(provider: String) -> Self {
        let certified = rcgen::generate_simple_self_signed(["provider.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(tunnel(stream, acceptor.clone(), seen.clone(), provider.clone()));
            }
        });
        Self { address, heads, certificate: certified.cert.pem() }
    }
}

async fn tunnel(
    mut stream: TcpStream,
    acceptor: tokio_rustls::TlsAcceptor,
    heads: Arc<Mutex<Vec<String>>>,
    provider: String,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    heads.lock().unwrap().push(String::from_utf8(head).unwrap());
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
    let Ok(mut inner) = acceptor.accept(stream).await else { return };
    let mut upstream = TcpStream::connect(provider).await.unwrap();
    let _ = copy_bidirectional(&mut inner, &mut upstream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_variables_are_honoured() {
    let standin = standin().await;
    let proxy = Proxy::start(standin.url().trim_start_matches("http://").to_owned()).await;
    let home = Home::new(&standin);
    home.log_in(&standin);
    fs::write(home.folder.path().join("ca.pem"), &proxy.certificate).unwrap();
    let config = fs::read_to_string(home.config()).unwrap();
    let config = config.replace(&standin.url(), "https://provider.test");
    let config = config.replace("extends = \"claude\"\n", "extends = \"claude\"\nca_file = \"ca.pem\"\n");
    fs::write(home.config(), config).unwrap();

    let force = |variables: &[(&str, String)]| {
        let mut command = home.command(&["refresh", "--force", "--json"]);
        command.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
        serde_json::from_slice::<serde_json::Value>(&command.output().unwrap().stdout).unwrap()
    };
    let through = format!("http://user:pass@{}", proxy.address);
    let report = force(&[("HTTPS_PROXY", through.clone())]);
    assert_eq!((&report["refreshed"], &report["error"]), (&json!(true), &json!(null)), "{report}");
    let heads = proxy.heads.lock().unwrap().clone();
    assert_eq!(heads.len(), 1);
    assert!(heads[0].starts_with("CONNECT provider.test:443 HTTP/1.1\r\n"), "{}", heads[0]);
    assert!(heads[0].to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz"), "{}", heads[0]);

    // A host that is excepted is asked directly: the name does not exist, and nothing is spent.
    let report = force(&[("HTTPS_PROXY", through), ("NO_PROXY", "provider.test".into())]);
    assert_eq!(report["error"], json!("provider_unavailable"), "{report}");
    assert_eq!(proxy.heads.lock().unwrap().len(), 1);
    // A proxy that is down spends nothing either.
    let report = force(&[("HTTPS_PROXY", "http://127.0.0.1:9".into())]);
    assert_eq!(report["error"], json!("provider_unavailable"), "{report}");
    assert_eq!(standin.engine().counters().exchanges, 1);
}

/// Who trusts only this certificate can speak with the server.
async fn trusts(certified: &rcgen::CertifiedKey<rcgen::KeyPair>, address: &str) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(crypto).with_safe_default_protocol_versions();
    let config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect("localhost".try_into().unwrap(), tcp).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_was_renewed_is_read_again() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let certified = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (old, new) = (certified(), certified());
    let put = |certified: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        fs::write(home.folder.path().join("cert.pem"), certified.cert.pem()).unwrap();
        let key = home.folder.path().join("key.pem");
        fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    };
    put(&old);
    let config = fs::read_to_string(home.config()).unwrap();
    let tls = "[http]\ntls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n";
    fs::write(home.config(), config.replace("[http]\n", tls)).unwrap();
    let server = Server::start(&mut home.command(&["serve"]));
    let base = server.base();
    let address = base.split_once("://").unwrap().1;
    assert!(trusts(&old, address).await && !trusts(&new, address).await);
    // Half of it written: the old one stays.
    fs::write(home.folder.path().join("cert.pem"), "no certificate").unwrap();
    server.running.signal(Signal::HUP);
    server.line("reason", "config_rejected");
    assert!(trusts(&old, address).await);
    put(&new);
    server.running.signal(Signal::HUP);
    server.line("reason", "config_reloaded");
    assert!(trusts(&new, address).await && !trusts(&old, address).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_others_reach_is_refused_without_tls() {
    let standin = standin().await;
    let home = Home::new(&standin);
    let serve = |address: &str, behind_proxy: &str| {
        let socket = std::net::TcpListener::bind(address).unwrap();
        let mut command = home.serve_on(&socket);
        command.env("EVERGRANT_HTTP__BEHIND_PROXY", behind_proxy);
        command
    };
    let mut refused = Running::start(&mut serve("0.0.0.0:0", "false"));
    wait_until("it refuses to serve", Duration::from_secs(20), || refused.0.try_wait().unwrap().is_some());
    assert_eq!(refused.0.wait().unwrap().code(), Some(1));
    let said = std::io::read_to_string(refused.0.stderr.take().unwrap()).unwrap();
    assert!(said.contains("listens on 0.0.0.0:") && said.contains("set tls_cert and tls_key"), "{said}");
    for (address, behind_proxy) in [("0.0.0.0:0", "true"), ("127.0.0.1:0", "false")] {
        let server = Server::start(&mut serve(address, behind_proxy));
        let base = server.base();
        let port = base.rsplit_once(':').unwrap().1;
        assert_eq!(get(&format!("http://127.0.0.1:{port}/healthz")).await.0, 200, "{address}");
    }
}
