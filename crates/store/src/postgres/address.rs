//! Where a PostgreSQL is, as a URL that its operator wrote: parsed once, and shown without its password.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, SslMode};

/// Where a PostgreSQL is and how to get in: `postgres://USER:PASSWORD@HOST[:PORT][,HOST…]/DATABASE[?OPTION=VALUE&…]`.
///
/// TLS is said by `sslmode`: `disable`; `prefer` (if the server offers it); `require`, `verify-ca` and `verify-full`,
/// which all mean that there is none without it. Whenever there is TLS, the server's certificate and name are verified.
/// Without `sslmode`: `disable` where all hosts are this machine, else `require`. `sslrootcert` is a PEM file with the
/// roots to trust; without it, or with `system`, those that browsers trust. Of several hosts the first that takes writes
/// is used.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    config: tokio_postgres::Config,
    root_cert: Option<PathBuf>,
}

/// A URL that cannot be one of a PostgreSQL. It does not quote it, for there may be a password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a PostgreSQL URL: {0}")]
pub struct BadDatabaseUrl(String);

impl DatabaseUrl {
    pub(super) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    pub(super) fn root_cert(&self) -> Option<&PathBuf> {
        self.root_cert.as_ref()
    }

    /// Where it is, without the password: `HOST:PORT/DATABASE`.
    pub fn place(&self) -> String {
        let ports = self.config.get_ports();
        let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let hosts = self.config.get_hosts().iter().enumerate().map(|(index, host)| match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]:{}", port(index)),
            Host::Tcp(name) => format!("{name}:{}", port(index)),
            Host::Unix(folder) => format!("{}:{}", folder.display(), port(index)),
        });
        let hosts: Vec<_> = hosts.collect();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("{}/{database}", hosts.join(","))
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({})", self.place())
    }
}

impl FromStr for DatabaseUrl {
    type Err = BadDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, BadDatabaseUrl> {
        let bad = |why: &str| Err(BadDatabaseUrl(why.to_owned()));
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            return bad("it begins with postgres://");
        }
        let (base, options) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut root_cert, mut others) = (None, None, Vec::new());
        for option in options.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match (name, value.as_ref()) {
                ("sslmode", "disable") => mode = Some(SslMode::Disable),
                ("sslmode", "prefer") => mode = Some(SslMode::Prefer),
                ("sslmode", "require" | "verify-ca" | "verify-full") => mode = Some(SslMode::Require),
                ("sslmode", _) => {
                    return bad("sslmode is disable, prefer, require, verify-ca or verify-full");
                }
                ("sslrootcert", "system") => root_cert = None,
                ("sslrootcert", file) => root_cert = Some(PathBuf::from(file)),
                _ => others.push(option),
            }
        }
        let mut rest = base.to_owned();
        if !others.is_empty() {
            rest = format!("{rest}?{}", others.join("&"));
        }
        let mut config: tokio_postgres::Config = rest.parse().map_err(|error| BadDatabaseUrl(why(&error)))?;
        if config.get_hosts().is_empty() {
            return bad("it names no host");
        }
        let here = config.get_hosts().iter().all(is_this_machine);
        config.ssl_mode(mode.unwrap_or(if here { SslMode::Disable } else { SslMode::Require }));
        Ok(Self { config, root_cert })
    }
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) if name == "localhost" => true,
        Host::Tcp(name) => name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback()),
    }
}

fn why(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    cause.unwrap_or_else(|| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> DatabaseUrl {
        text.parse().unwrap()
    }

    #[test]
    fn its_place_is_shown_without_the_password() {
        for (text, place) in [
            ("postgres://me:canary@db.example/evergrant", "db.example:5432/evergrant"),
            ("postgresql://me:canary@[::1]:6432/x?sslmode=disable", "[::1]:6432/x"),
            ("postgres://me:canary@one,two:6000/x", "one:5432,two:6000/x"),
            ("postgres://me:canary@%2Frun%2Fpostgresql/x", "/run/postgresql:5432/x"),
            ("postgres://me:canary@host", "host:5432/me"),
        ] {
            let url = url(text);
            assert_eq!(url.place(), place);
            assert!(!format!("{url:?}").contains("canary"));
        }
    }

    #[test]
    fn tls_is_the_rule_outside_this_machine() {
        for (text, mode) in [
            ("postgres://a@db.example/x", SslMode::Require),
            ("postgres://a@db.example/x?sslmode=verify-full", SslMode::Require),
            ("postgres://a@db.example/x?sslmode=prefer", SslMode::Prefer),
            ("postgres://a@db.example/x?sslmode=disable", SslMode::Disable),
            ("postgres://a@localhost/x", SslMode::Disable),
            ("postgres://a@127.0.0.2,[::1]/x", SslMode::Disable),
            ("postgres://a@127.0.0.2,db.example/x", SslMode::Require),
            ("postgres://a@localhost/x?sslmode=require", SslMode::Require),
        ] {
            assert_eq!(url(text).config().get_ssl_mode(), mode, "{text}");
        }
        let file = url("postgres://a@b/x?sslrootcert=%2Fetc%2Froot.pem&connect_timeout=3");
        assert_eq!(file.root_cert(), Some(&PathBuf::from("/etc/root.pem")));
        assert_eq!(url("postgres://a@b/x?sslrootcert=system").root_cert(), None);
    }

    #[test]
    fn what_is_wrong_is_said_and_not_quoted() {
        for (text, said) in [
            ("host=canary password=canary", "it begins with postgres://"),
            ("postgres://a:canary@b/x?sslmode=canary", "sslmode is disable"),
            ("postgres://a:canary@b:nine/x", "port"),
            ("postgres://a:canary@b/x?color=red", "color"),
            ("postgres:///x", "it names no host"),
        ] {
            let error = text.parse::<DatabaseUrl>().unwrap_err().to_string();
            assert!(error.contains(said) && !error.contains("canary"), "{text}: {error}");
        }
    }
}
