//! TLS that is served directly (SPEC §12, §13).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("TLS cannot be served with {path}: {why}")]
pub struct BadTls {
    path: PathBuf,
    why: String,
}

/// Reads certificate chain and private key (PEM). HTTP/2 and HTTP/1.1 are offered.
pub fn acceptor(cert_file: &Path, key_file: &Path) -> Result<TlsAcceptor, BadTls> {
    let bad = |path: &Path, why: String| BadTls { path: path.to_owned(), why };
    let of_cert = |why: String| bad(cert_file, why);
    let certs = CertificateDer::pem_file_iter(cert_file).map_err(|error| of_cert(error.to_string()))?;
    let certs: Vec<_> = certs.collect::<Result<_, _>>().map_err(|error| of_cert(error.to_string()))?;
    if certs.is_empty() {
        return Err(of_cert("it holds no certificate in PEM form".into()));
    }
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| bad(key_file, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the crypto provider supports the default protocol versions")
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .map_err(|error| bad(key_file, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
