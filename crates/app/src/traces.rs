//! Starts what exports traces, in a build that can (the feature `otel`).

use evergrant_server::Traces;
use evergrant_server::metrics::Metrics;
#[cfg(feature = "otel")]
use evergrant_server::{http::HttpClient, traces::otel::Exporter};

use crate::config::Settings;

/// What exports traces, if anything does.
pub(crate) struct Exporting {
    #[cfg(feature = "otel")]
    exporter: Option<Exporter>,
}

impl Exporting {
    /// Starts it, where a collector is configured.
    #[cfg(feature = "otel")]
    pub(crate) fn start(settings: &Settings, metrics: &Metrics) -> Result<(Traces, Self), String> {
        let Some(settings) = &settings.traces else {
            return Ok((Traces::default(), Self { exporter: None }));
        };
        let client = HttpClient::new(None).map_err(|error| error.to_string())?;
        let started = Exporter::start(settings, client, metrics);
        let (traces, exporter) = started.map_err(|error| format!("traces cannot be exported: {error}"))?;
        Ok((traces, Self { exporter: Some(exporter) }))
    }

    /// Starts nothing: a configuration with a collector was refused.
    #[cfg(not(feature = "otel"))]
    pub(crate) fn start(_: &Settings, _: &Metrics) -> Result<(Traces, Self), String> {
        Ok((Traces::default(), Self {}))
    }

    /// Exports what is left.
    pub(crate) async fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(exporter) = self.exporter {
            exporter.end().await;
        }
    }
}
