//! What the file says of traces.

use evergrant_core::address::is_loopback;
use evergrant_server::traces::Settings;
use url::Url;

use super::fault::Fault;
use super::file::Config;
use super::resolve::Resolve;

/// The outer `None`: it is faulty. The inner one: nothing is exported.
pub(crate) fn settings(raw: &Config, resolve: &mut Resolve<'_>) -> Option<Option<Settings>> {
    let telemetry = &raw.telemetry;
    let Some(text) = &telemetry.otlp_endpoint else { return Some(None) };
    let mut fault = |message: String, help: &str| {
        resolve.fault(&["telemetry", "otlp_endpoint"], Fault::error(message).help(help));
        None
    };
    if !cfg!(feature = "otel") {
        let message = "otlp_endpoint is set, and this build of evergrant cannot export traces".into();
        return fault(message, "use one that was built with `--features otel`, or take [telemetry] out");
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let plain = |url: &Url| {
        url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    // Whoever wrote a key into it shall not read it in a message.
    let Some(endpoint) = url.filter(plain) else {
        let message = "otlp_endpoint must be the web address of a collector, without user and query".into();
        let help = "for example \"http://127.0.0.1:4318\"; a key goes into OTEL_EXPORTER_OTLP_HEADERS";
        return fault(message, help);
    };
    if endpoint.scheme() != "https" && !is_loopback(&endpoint) && !telemetry.allow_insecure {
        let message = "otlp_endpoint is plain http: what is sent there is read on the way".into();
        return fault(message, "if that is meant, set allow_insecure = true");
    }
    let sample_percent = u8::try_from(telemetry.sample_percent).unwrap_or(100);
    Some(Some(Settings { endpoint, sample_percent }))
}
