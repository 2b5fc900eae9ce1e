//! What the HTTP client makes of networks: nothing handed over is unspent, TLS and proxies.

use std::time::Duration;

use bytes::Bytes;
use evergrant_core::Reason;
use evergrant_server::http::{CallError, HttpClient};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::fixture::{Fixture, settings};

#[tokio::test]
async fn a_provider_that_cannot_be_reached_costs_no_token() {
    let fixture = Fixture::with(settings(), |policy| {
        policy.profile.token_url = "http://127.0.0.1:9/token".parse().unwrap();
    })
    .await;
    fixture.look().await;
    let report = fixture.force().await;
    assert_eq!((report.error, report.token_valid), (Some(Reason::ProviderUnavailable), true));
    assert!(report.detail.unwrap().contains("127.0.0.1:9"));
}

#[tokio::test]
async fn a_tls_failure_is_unspent_and_a_trusted_certificate_is_used() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certified.cert.pem()).unwrap();
    let port = tls_server(certified).await;
    let url = format!("https://localhost:{port}/").parse().unwrap();
    let call = |client: HttpClient| {
        let url: url::Url = url;
        async move { client.call(Method::GET, &url, &[], Bytes::new()).await }
    };
    let untrusting = call.clone()(HttpClient::new(None).unwrap()).await;
    assert!(matches!(untrusting, Err(CallError::NotSent(why)) if why.contains("TLS")));
    let reply = call(HttpClient::new(Some(&ca)).unwrap()).await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice(), reply.complete), (200, &b"hello"[..], true));

    std::fs::write(&ca, "no certificate").unwrap();
    assert!(HttpClient::new(Some(&ca)).unwrap_err().to_string().contains("holds no certificate"));
}

async fn tls_server(certified: rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    port
}

#[tokio::test]
async fn our_own_user_agent_is_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/x?y=1", listener.local_addr().unwrap()).parse().unwrap();
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let len = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        String::from_utf8(request[..len].to_vec()).unwrap()
    });
    let client = HttpClient::new(None).unwrap();
    let call = client.call(Method::GET, &url, &[], Bytes::new());
    let reply = tokio::time::timeout(Duration::from_secs(10), call).await.unwrap().unwrap();
    assert_eq!(reply.status, 204);
    let request = seen.await.unwrap();
    assert!(request.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(concat!("user-agent: evergrant/", env!("CARGO_PKG_VERSION"))), "{request}");
}
