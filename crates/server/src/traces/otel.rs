//! Exports spans over OTLP: HTTP and protobuf, by a thread of its own with this program's own HTTP client.

use std::io;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind as OtelKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::{HttpClient as OtelClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot};
use url::Url;

use super::{Settings, Span, SpanKind, Traces, Value};
use crate::http::HttpClient;
use crate::metrics::Metrics;

/// Spans of one request to the collector, at most.
const BATCH: usize = 512;
/// So long a span waits for others to go with it.
const PAUSE: Duration = Duration::from_secs(1);
/// For one answer of the collector, and for all repetitions together.
const ANSWER: Duration = Duration::from_secs(10);
/// So long the end waits for the spans that are left.
const LAST: Duration = Duration::from_secs(5);

/// The exporter, running.
#[derive(Debug)]
pub struct Exporter {
    end: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

impl Exporter {
    /// Starts its thread. Headers for the collector, such as its key, come from `OTEL_EXPORTER_OTLP_HEADERS`.
    pub fn start(settings: &Settings, client: HttpClient, metrics: &Metrics) -> io::Result<(Traces, Self)> {
        let exporter = exporter(&settings.endpoint, client).map_err(io::Error::other)?;
        let (traces, spans) = Traces::queue(settings.sample_percent, metrics);
        let dropped = traces.0.as_ref().map(|queue| queue.dropped.clone()).unwrap_or_default();
        let (end, ended) = oneshot::channel();
        let (tell, done) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || {
            runtime.block_on(export_all(&exporter, spans, &dropped, ended));
            runtime.shutdown_background();
            let _ = tell.send(());
        };
        std::thread::Builder::new().name("traces".into()).spawn(run)?;
        Ok((traces, Self { end, done }))
    }

    /// Exports what is left, within 5 s.
    pub async fn end(self) {
        let _ = self.end.send(());
        if tokio::time::timeout(LAST, self.done).await.is_err() {
            tracing::warn!("the last spans are not waited for: the collector does not take them");
        }
    }
}

fn exporter(endpoint: &Url, client: HttpClient) -> Result<SpanExporter, String> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Client(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/')))
        .with_timeout(ANSWER)
        .build()
        .map_err(|error| error.to_string())?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("evergrant").with_attribute(version);
    exporter.set_resource(&resource.build());
    Ok(exporter)
}

/// Exports spans until the end is told, then those that wait.
async fn export_all(
    exporter: &SpanExporter,
    mut spans: mpsc::Receiver<Span>,
    dropped: &Counter,
    mut ended: oneshot::Receiver<()>,
) {
    let scope = InstrumentationScope::builder("evergrant").build();
    let mut refused = false;
    let mut ending = false;
    loop {
        let mut batch = Vec::with_capacity(BATCH);
        let fill = async {
            spans.recv_many(&mut batch, BATCH).await;
            let more = async {
                loop {
                    let room = BATCH - batch.len();
                    if spans.recv_many(&mut batch, room).await == 0 {
                        return;
                    }
                }
            };
            let _ = tokio::time::timeout(PAUSE, more).await;
        };
        if ending {
            fill.await;
        } else {
            tokio::select! {
                () = fill => {}
                _ = &mut ended => {
                    spans.close();
                    ending = true;
                }
            }
        }
        if batch.is_empty() {
            if spans.is_closed() && spans.is_empty() {
                return;
            }
            continue;
        }
        let count = batch.len() as u64;
        let batch = batch.into_iter().map(|span| data(span, &scope)).collect();
        let taken = exporter.export(batch).await;
        if let Err(error) = &taken {
            dropped.inc_by(count);
            if !refused {
                tracing::warn!(%error, "spans are dropped: the collector does not take them");
            }
        } else if refused {
            tracing::info!("the collector takes spans again");
        }
        refused = taken.is_err();
    }
}

fn data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let Span { context, kind, name, ended, took, failed, attributes } = span;
    let flags = TraceFlags::default().with_sampled(context.sampled);
    let remote = false;
    let ended = u64::try_from(ended.as_nanosecond()).unwrap_or_default();
    let end_time = SystemTime::UNIX_EPOCH + Duration::from_nanos(ended);
    let attributes = attributes.into_iter().map(|(name, value)| match value {
        Value::Text(text) => KeyValue::new(name, text),
        Value::Number(number) => KeyValue::new(name, number),
        Value::Truth(truth) => KeyValue::new(name, truth),
    });
    SpanData {
        span_context: SpanContext::new(
            context.trace.into(),
            context.span.into(),
            flags,
            remote,
            TraceState::default(),
        ),
        parent_span_id: context.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: context.parent.is_some(),
        span_kind: match kind {
            SpanKind::Request => OtelKind::Server,
            SpanKind::Exchange => OtelKind::Client,
        },
        name: name.into(),
        start_time: end_time.checked_sub(took).unwrap_or(end_time),
        end_time,
        attributes: attributes.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}

/// This program's HTTP client, as the exporter knows one.
#[derive(Debug)]
struct Client(HttpClient);

#[async_trait]
impl OtelClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let url = Url::parse(&head.uri.to_string())?;
        let mut headers = Vec::with_capacity(head.headers.len());
        for (name, value) in &head.headers {
            if *name != http::header::USER_AGENT {
                headers.push((name.to_string(), value.to_str()?.to_owned()));
            }
        }
        let calling = self.0.call(head.method, &url, &headers, body);
        let reply = tokio::time::timeout(ANSWER, calling).await??;
        let mut response = Response::builder().status(reply.status).body(Bytes::from(reply.body))?;
        *response.headers_mut() = reply.headers;
        Ok(response)
    }
}
