//! Over TLS: a certificate of an authority of one's own, and one that is nobody's.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use evergrant_core::Reason;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::server::http;
use crate::support::{LOOK, Station};

/// A server with a certificate for `localhost`; the PEM of its authority.
fn server() -> (u16, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let config = ServerConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    let (listener, config) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(config));
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            // The body is one JSON object that ends the request.
            while !seen.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => seen.extend_from_slice(&buffer[..count]),
                }
            }
            let answer = json!({ "chain": "claude", "reason": "accepted", "status": "ok", "since": null,
                "fingerprint": null, "now": "2026-01-01T00:00:00Z", "lineage": 1, "generation": 1 });
            let _ = stream.write_all(http(200, "connection: close\r\n", &answer).as_bytes());
            let _ = stream.flush();
        }
    });
    (port, authority.pem())
}

#[test]
fn only_a_certificate_that_is_trusted_gets_the_login() {
    let (port, authority) = server();
    let mut station = Station::new(&format!("https://localhost:{port}"));
    station.log_in("one");
    let report = station.round(&LOOK);
    assert_eq!((report.reason, report.pending), (Reason::ServerUnreachable, true));
    assert!(report.detail.unwrap().to_lowercase().contains("certificate"));

    let ca_file = station.path("ca.pem");
    fs::write(&ca_file, authority).unwrap();
    station.settings.ca_file = Some(ca_file.clone());
    assert_eq!(station.round(&LOOK).reason, Reason::Accepted);

    // The name counts too.
    station.settings.server = format!("https://127.0.0.1:{port}").parse().unwrap();
    station.log_in("two");
    assert_eq!(station.round(&LOOK).reason, Reason::ServerUnreachable);

    fs::write(&ca_file, "nothing").unwrap();
    let fault = evergrant_agent::send::Client::new(&station.settings.server, Some(&ca_file)).unwrap_err();
    assert!(fault.to_string().contains("holds no certificate"), "{fault}");
}
