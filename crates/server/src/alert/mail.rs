//! Mail by SMTP (SPEC §6). Each recipient gets a message of their own, so that one bad address costs nobody else's.

use std::time::Duration;

use evergrant_core::alert::render::Email;
use evergrant_core::alert::sink::SinkUrl;
use evergrant_core::alert::{Outcome, Sink, SinkKind};
use futures_util::future::join_all;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::AsyncSmtpTransport;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters, TlsVersion};
use lettre::{AsyncTransport, Message, Tokio1Executor};

use evergrant_core::address::is_loopback;

/// A conversation has several questions and answers; the timeout is for each.
const WHOLE: u32 = 3;

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte.
    Tls,
    /// TLS after `STARTTLS`, or not at all.
    StartTls,
    /// None.
    Plain,
}

/// What an address says of the server. Without `?tls=`, `smtp://` means `STARTTLS`, on loopback no TLS.
pub fn security(url: &SinkUrl) -> Result<Security, String> {
    let url = url.expose();
    let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
    match (url.scheme(), tls.as_deref()) {
        ("smtps", None) => Ok(Security::Tls),
        ("smtps", Some(_)) => Err("smtps:// is TLS in any case; leave ?tls= out".into()),
        ("smtp", Some("required")) => Ok(Security::StartTls),
        ("smtp", Some("none")) => Ok(Security::Plain),
        ("smtp", None) if is_loopback_host(url) => Ok(Security::Plain),
        ("smtp", None) => Ok(Security::StartTls),
        ("smtp", Some(other)) => Err(format!("tls is {other:?}; it is \"required\" or \"none\"")),
        (other, _) => Err(format!("a mail server's address begins with smtps:// or smtp://, not {other}://")),
    }
}

/// Whether the mail server is this machine.
pub fn is_loopback_host(url: &url::Url) -> bool {
    // Of a scheme that it does not know, the parser leaves an address as a name.
    let plain = url.host_str().map(|host| format!("http://{host}/"));
    plain.and_then(|url| url.parse().ok()).is_some_and(|url| is_loopback(&url))
}

/// Whether a text is one address of a person, alone or as `Name <address>`.
pub fn check_mailbox(text: &str) -> Result<(), String> {
    text.parse::<Mailbox>().map(drop).map_err(|error| error.to_string())
}

/// One attempt, to all recipients of the sink.
pub(super) async fn send(sink: &Sink, email: &Email, timeout: Duration) -> Outcome {
    let SinkKind::Email { smtp, from, to } = &sink.kind else {
        return Outcome::Refused { detail: "it is no sink of mail".into() };
    };
    let transport = match transport(sink, smtp, timeout) {
        Ok(transport) => transport,
        Err(why) => return Outcome::unavailable(why),
    };
    let one = async |recipient: &String| {
        let message = match message(email, from, recipient) {
            Ok(message) => message,
            Err(why) => return Outcome::Refused { detail: format!("no mail can be made: {why}") },
        };
        match tokio::time::timeout(timeout * WHOLE, transport.send(message)).await {
            Err(_) => Outcome::unavailable(format!("{} does not answer in time", smtp.host())),
            Ok(Ok(_)) => Outcome::Delivered,
            Ok(Err(error)) => failed(sink, smtp, &error),
        }
    };
    let outcomes = join_all(to.iter().map(one)).await;
    for detail in outcomes.iter().filter_map(Outcome::detail) {
        tracing::warn!(sink = sink.name, detail, "a recipient was not reached");
    }
    Outcome::any(outcomes)
}

fn transport(
    sink: &Sink,
    smtp: &SinkUrl,
    timeout: Duration,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
    let url = smtp.expose();
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let security = security(smtp)?;
    if security == Security::Plain && !is_loopback_host(url) && !sink.allow_insecure {
        return Err(format!(
            "{} is spoken to without TLS; set allow_insecure = true if that is meant",
            smtp.host()
        ));
    }
    let parameters = || tls(sink, host);
    let (tls, port) = match security {
        Security::Tls => (Tls::Wrapper(parameters()?), 465),
        Security::StartTls => (Tls::Required(parameters()?), 587),
        Security::Plain => (Tls::None, 25),
    };
    let builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
        .port(url.port().unwrap_or(port))
        .timeout(Some(timeout))
        .tls(tls);
    let decoded = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or_default()));
    let anonymous = user.is_empty() && password.is_empty();
    Ok(if anonymous {
        builder.build()
    } else {
        builder.credentials(Credentials::new(user, password)).build()
    })
}

fn tls(sink: &Sink, host: &str) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned()).set_min_tls_version(TlsVersion::Tlsv12);
    if let Some(file) = &sink.ca_file {
        let bad = |why: String| format!("the certificates in {} cannot be used: {why}", file.display());
        let pem = std::fs::read(file).map_err(|error| bad(error.to_string()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| bad(error.to_string()))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build_rustls().map_err(|error| format!("TLS cannot be used: {error}"))
}

fn message(email: &Email, from: &str, to: &str) -> Result<Message, String> {
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|error| error.to_string());
    let mut builder = Message::builder()
        .from(mailbox(from)?)
        .to(mailbox(to)?)
        .subject(&email.subject)
        .message_id(Some(email.message_id.clone()));
    if let Some(opening) = &email.references {
        builder = builder.references(opening.clone()).in_reply_to(opening.clone());
    }
    let body = MultiPart::alternative_plain_html(email.text.clone(), email.html.clone());
    builder.multipart(body).map_err(|error| error.to_string())
}

fn failed(sink: &Sink, smtp: &SinkUrl, error: &lettre::transport::smtp::Error) -> Outcome {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        cause = inner.source();
    }
    let detail = format!("{}: {}", smtp.host(), sink.scrub(&said));
    let code = error.status().map(u16::from);
    match code {
        // 530, 534, 535, 538: who sends is not accepted, which somebody may be putting right.
        Some(530 | 534 | 535 | 538) => Outcome::unavailable(detail),
        Some(500..) => Outcome::Refused { detail },
        Some(_) | None => Outcome::unavailable(detail),
    }
}
