//! The connections of one process: how many, how each is made, and what must hold on it.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::config::{SslNegotiation, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address::DatabaseUrl;
use crate::state::StateError;

/// For a connection, with all that is said on it before it is of use.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a connection to become free.
pub(super) const WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one statement; the server cuts it then.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was not used for so long is asked whether it lives before it is used again.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// What is said once on each connection. Idle transactions are those of a process that hangs.
const SET_UP: &str = "SET statement_timeout = '10s'; SET lock_timeout = '8s';
    SET idle_in_transaction_session_timeout = '20s'; SET default_transaction_isolation = 'read committed';
    SELECT current_setting('synchronous_commit'), current_setting('server_encoding')";

/// How a connection is made.
pub(super) fn config(url: &DatabaseUrl) -> tokio_postgres::Config {
    let mut config = url.config().clone();
    config
        .application_name("evergrant")
        .connect_timeout(CONNECT_TIMEOUT)
        // Unacknowledged for so long, a connection is given up by the system.
        .tcp_user_timeout(STATEMENT_TIMEOUT)
        .keepalives_idle(Duration::from_secs(15))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        // After a failover the old address may lead to a server that only reads.
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    config
}

pub(super) fn pool(url: &DatabaseUrl, max_connections: usize) -> Result<Pool, StateError> {
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(config(url), tls(url)?, recycling);
    Pool::builder(manager)
        .max_size(max_connections.max(1))
        .wait_timeout(Some(WAIT_TIMEOUT))
        .create_timeout(Some(CONNECT_TIMEOUT))
        .recycle_timeout(Some(ASK_TIMEOUT))
        .runtime(Runtime::Tokio1)
        .post_create(Hook::async_fn(|client, _| {
            Box::pin(async move {
                let said = client.simple_query(SET_UP).await.map_err(HookError::Backend)?;
                fit(&said).map_err(HookError::message)
            })
        }))
        .pre_recycle(Hook::async_fn(|client, metrics| {
            Box::pin(async move {
                if metrics.last_used() < TRUSTED_FOR {
                    return Ok(());
                }
                match tokio::time::timeout(ASK_TIMEOUT, client.simple_query("")).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(HookError::Backend(error)),
                    Err(_) => Err(HookError::message("no answer")),
                }
            })
        }))
        .build()
        .map_err(|error| StateError::Unfit { place: url.place(), why: error.to_string() })
}

/// Whether what a server says of itself will do.
fn fit(said: &[SimpleQueryMessage]) -> Result<(), String> {
    let row = said
        .iter()
        .rev()
        .find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
    let of = |index| row.and_then(|row| row.try_get(index).ok().flatten()).unwrap_or_default();
    if !["on", "remote_apply"].contains(&of(0)) {
        return Err(format!(
            "it has synchronous_commit = {}, and would lose what it said is kept: ALTER ROLE … SET \
             synchronous_commit = on, for the role or wherever it was set",
            of(0)
        ));
    }
    if of(1) != "UTF8" {
        return Err(format!(
            "its encoding is {}: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0",
            of(1)
        ));
    }
    Ok(())
}

/// Every certificate is verified, with its name; `sslmode` says only whether there is TLS.
pub(super) fn tls(url: &DatabaseUrl) -> Result<MakeRustlsConnect, StateError> {
    let mut roots = RootCertStore::empty();
    match url.root_cert() {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let unfit = |why: String| {
                let why = format!("sslrootcert {} cannot be used: {why}", file.display());
                StateError::Unfit { place: url.place(), why }
            };
            let certs = CertificateDer::pem_file_iter(file).map_err(|error| unfit(error.to_string()))?;
            for cert in certs {
                let cert = cert.map_err(|error| unfit(error.to_string()))?;
                roots.add(cert).map_err(|error| unfit(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unfit("it holds no certificate in PEM form".into()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the crypto provider supports the default protocol versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    if url.config().get_ssl_negotiation() == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(MakeRustlsConnect::new(config))
}
