//! Spans of requests and exchanges, as a collector gets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use evergrant_core::Reason;
use evergrant_core::caller::NewCaller;
use evergrant_core::keeper::Look;
use evergrant_server::http::HttpClient;
use evergrant_server::metrics::Metrics;
use evergrant_server::traces::Settings;
use evergrant_server::traces::otel::Exporter;
use evergrant_server::{TokioWorld, Traces};
use evergrant_standin::{LoginOptions, StandIn};
use evergrant_store::MemoryState;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::fixture::{Scratch, chain, policy, profile, settings};
use crate::gateway::fixture::{ACCESS, Change, FALLBACK, Rig, answer, fallback, field, ok, soon};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector: it answers with `status`, and hands over what it got, heads and bodies.
struct Collector {
    endpoint: String,
    status: Arc<AtomicU16>,
    got: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
}

impl Collector {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let status = Arc::new(AtomicU16::new(200));
        let (tell, got) = mpsc::unbounded_channel();
        let answers = status.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let mut body = vec![0; field(&head, "content-length").unwrap().parse().unwrap()];
                stream.read_exact(&mut body).await.unwrap();
                let status = answers.load(Ordering::Relaxed);
                let reply = format!("HTTP/1.1 {status} told\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(reply.as_bytes()).await.unwrap();
                let _ = tell.send((head, body));
            }
        });
        Self { endpoint, status, got }
    }

    /// All spans, once the exporter has ended, and the bytes that they came in.
    async fn spans(&mut self, exporter: Exporter) -> (Vec<Span>, Vec<u8>) {
        soon("the exporter's end", exporter.end()).await;
        let (mut spans, mut bytes) = (Vec::new(), Vec::new());
        while let Ok((head, body)) = self.got.try_recv() {
            assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
            assert_eq!(field(&head, "content-type"), Some("application/x-protobuf"));
            assert!(field(&head, "user-agent").unwrap().starts_with("evergrant/"));
            let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            for resource in request.resource_spans {
                let of = resource.resource.unwrap();
                let service = of.attributes.iter().find(|attribute| attribute.key == "service.name");
                let service = service.and_then(|name| name.value.clone()?.value);
                assert_eq!(service, Some(Value::StringValue("evergrant".into())));
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
            bytes.extend_from_slice(head.as_bytes());
            bytes.extend_from_slice(&body);
        }
        (spans, bytes)
    }
}

fn export(endpoint: &str, sample_percent: u8, metrics: &Metrics) -> (Traces, Exporter) {
    let settings = Settings { endpoint: endpoint.parse().unwrap(), sample_percent };
    Exporter::start(&settings, HttpClient::new(None).unwrap(), metrics).unwrap()
}

fn said(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        Value::DoubleValue(_)
        | Value::ArrayValue(_)
        | Value::KvlistValue(_)
        | Value::BytesValue(_)
        | Value::StringValueStrindex(_) => return None,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One request, its answer, and the head that the provider got.
async fn pass(rig: &Rig, fields: &str, reply: &str) -> String {
    let mut client = rig.client().await;
    client.send(rig.request("POST /v1/anthropic/v1/messages?beta=true", fields, "{}")).await;
    let mut provider = rig.provider().await;
    let head = provider.head().await;
    provider.exactly(2).await;
    provider.send(reply).await;
    client.answer().await;
    head
}

#[tokio::test]
async fn a_request_is_one_span_between_its_callers_and_the_providers() {
    let mut collector = Collector::new().await;
    let (traces, exporter) = export(&collector.endpoint, 100, &Metrics::default());
    let rig = Rig::with(Change { traces, ..Change::default() }).await;

    let fields = format!("traceparent: {PARENT}\r\ntracestate: theirs=1\r\nx-request-id: req-1\r\n");
    let child = pass(&rig, &fields, &ok("{}")).await;
    assert_eq!(field(&child, "tracestate"), Some("theirs=1"));
    let child = field(&child, "traceparent").unwrap().to_owned();

    let alone =
        pass(&rig, "traceparent: nonsense\r\ntracestate: theirs=1\r\n", &answer("529 Full", "{}")).await;
    assert_eq!(field(&alone, "tracestate"), None, "it belongs to no parent");
    let alone = field(&alone, "traceparent").unwrap().to_owned();

    let fields = format!("traceparent: {}\r\n", PARENT.replace("-01", "-00"));
    let unsampled = pass(&rig, &fields, &ok("{}")).await;
    let unsampled = field(&unsampled, "traceparent").unwrap().to_owned();
    assert!(unsampled.starts_with(&PARENT[..36]) && unsampled.ends_with("-00"), "{unsampled}");
    assert_ne!(unsampled[36..52], PARENT[36..52]);

    let mut refused = rig.client().await;
    refused.send(rig.request("GET /v1/anthropic/v1/organizations/secret-id", "", "")).await;
    assert!(refused.answer().await.starts_with("HTTP/1.1 404"));

    soon("the gateway's end", rig.gateway.end()).await;
    let (spans, _) = collector.spans(exporter).await;
    let [first, second, third] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!(child, format!("00-{}-{}-01", hex(&first.trace_id), hex(&first.span_id)));
    assert_eq!(hex(&first.trace_id), PARENT[3..35]);
    assert_eq!(hex(&first.parent_span_id), PARENT[36..52]);
    assert_eq!((first.name.as_str(), first.kind()), ("POST /v1/messages", SpanKind::Server));
    assert!(first.start_time_unix_nano < first.end_time_unix_nano);
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/messages"),
        ("http.response.status_code", "200"),
        ("evergrant.upstream_status", "200"),
        ("evergrant.chain", "claude"),
        ("evergrant.source", "oauth"),
        ("evergrant.replayed", "false"),
        ("evergrant.request_id", "req-1"),
    ] {
        assert_eq!(said(first, name).as_deref(), Some(value), "{name}");
    }
    assert!(said(first, "evergrant.key_id").unwrap().starts_with("key_"));
    assert_eq!(said(first, "evergrant.reason"), None);

    assert_eq!(alone, format!("00-{}-{}-01", hex(&second.trace_id), hex(&second.span_id)));
    assert_eq!(second.parent_span_id, b"");
    assert_eq!(said(second, "http.response.status_code").as_deref(), Some("529"));
    assert_eq!(second.status.clone().unwrap().code, 2, "an error");

    assert_eq!(third.name, "GET");
    assert_eq!(said(third, "http.response.status_code").as_deref(), Some("404"));
    assert_eq!(said(third, "evergrant.upstream_status"), None);
    assert_eq!(said(third, "evergrant.source").as_deref(), Some("none"));
}

#[tokio::test]
async fn without_traces_their_fields_pass_as_they_came() {
    let rig = Rig::new().await;
    let fields = "traceparent: whatever it is\r\ntracestate: theirs=1\r\n";
    let head = pass(&rig, fields, &ok("{}")).await;
    assert_eq!(field(&head, "traceparent"), Some("whatever it is"));
    assert_eq!(field(&head, "tracestate"), Some("theirs=1"));
    let head = pass(&rig, "", &ok("{}")).await;
    assert_eq!(field(&head, "traceparent"), None);
}

#[tokio::test]
async fn none_is_sampled_where_none_is_wanted_and_the_callers_word_goes_before() {
    let mut collector = Collector::new().await;
    let (traces, exporter) = export(&collector.endpoint, 0, &Metrics::default());
    let rig = Rig::with(Change { traces, ..Change::default() }).await;
    let head = pass(&rig, "", &ok("{}")).await;
    assert!(field(&head, "traceparent").unwrap().ends_with("-00"));
    pass(&rig, &format!("traceparent: {PARENT}\r\n"), &ok("{}")).await;
    soon("the gateway's end", rig.gateway.end()).await;
    let (spans, _) = collector.spans(exporter).await;
    let [only] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!(hex(&only.parent_span_id), PARENT[36..52]);
}

/// A collector that is not there, one that wants nothing, and one that never answers.
#[tokio::test]
async fn a_collector_that_takes_nothing_costs_no_request() {
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        (listener, endpoint)
    };
    let (_, gone) = listen().await;
    let (_silent, silent) = listen().await;
    let collector = Collector::new().await;
    collector.status.store(503, Ordering::Relaxed);
    for (endpoint, is_silent) in [(&gone, false), (&collector.endpoint, false), (&silent, true)] {
        let metrics = Metrics::default();
        let (traces, _exporter) = export(endpoint, 100, &metrics);
        let rig = Rig::with(Change { traces, ..Change::default() }).await;
        for _ in 0..3 {
            let begun = tokio::time::Instant::now();
            pass(&rig, "", &ok("{}")).await;
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        }
        let dropped = async {
            while metrics.text().contains("evergrant_traces_dropped_total 0\n") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if !is_silent {
            tokio::time::timeout(Duration::from_secs(30), dropped).await.unwrap();
        }
        assert!(metrics.text().contains("evergrant_traces_dropped_total"));
    }
}

#[tokio::test]
async fn an_exchange_is_a_span() {
    let mut collector = Collector::new().await;
    let (traces, exporter) = export(&collector.endpoint, 0, &Metrics::default());
    let scratch = Scratch::new();
    let standin = StandIn::start(settings()).await.unwrap();
    scratch.write(&standin.engine().login(LoginOptions::default()).auth_file());
    let world = TokioWorld::new(MemoryState::new(), HttpClient::new(None).unwrap()).with_traces(traces);
    let keeper = scratch.keeper(world, policy(profile(standin.url().as_ref(), &settings())));
    assert!(keeper.look(Look::Forced).await.refreshed);
    assert!(!keeper.look(Look::Due).await.refreshed);
    let (spans, bytes) = collector.spans(exporter).await;
    let [only] = &spans[..] else { panic!("{spans:#?}") };
    assert_eq!((only.name.as_str(), only.kind()), ("exchange", SpanKind::Client));
    let position = ["evergrant.lineage", "evergrant.generation"].map(|name| said(only, name).unwrap());
    assert_eq!(position, ["1", "1"], "what was presented");
    assert_eq!(said(only, "evergrant.chain").as_deref(), Some(chain().as_str()));
    assert_eq!(said(only, "evergrant.reason").as_deref(), Some(Reason::Forced.as_str()));
    assert_eq!(said(only, "http.response.status_code").as_deref(), Some("200"));
    assert!(only.start_time_unix_nano < only.end_time_unix_nano);
    absent(&bytes, &[crate::fixture::ACCESS_PREFIX, crate::fixture::REFRESH_PREFIX]);
}

fn absent(bytes: &[u8], secrets: &[&str]) {
    for secret in secrets {
        let there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!there, "{secret} was exported");
    }
}

/// Whatever becomes of a request, none of its secrets is in what is exported.
#[tokio::test]
async fn no_secret_is_exported() {
    const QUERY: &str = "canary-query";
    const VALUE: &str = "canary-value";
    let mut collector = Collector::new().await;
    let (traces, exporter) = export(&collector.endpoint, 100, &Metrics::default());
    let chain =
        Box::new(|chain: &mut evergrant_server::gateway::ChainSettings| chain.fallback = Some(fallback()));
    let rig = Rig::with(Change { traces, chain, ..Change::default() }).await;
    let (_, stranger) = rig.add_caller(|new: &mut NewCaller| new.name = "another".parse().unwrap()).await;
    let fields =
        format!("x-canary: {VALUE}\r\ntracestate: {VALUE}=1\r\nbaggage: {VALUE}\r\ncookie: {VALUE}\r\n");
    let line = |path: &str| format!("POST /v1/anthropic{path}?q={QUERY}");

    // Refused with the access token, twice, then served by the fallback key.
    let mut client = rig.client().await;
    client.send(rig.request(&line("/v1/messages"), &fields, "{}")).await;
    for reply in [answer("401 No", "{}"), answer("401 No", "{}"), ok("{}")] {
        let mut provider = rig.provider().await;
        provider.head().await;
        provider.exactly(2).await;
        provider.send(reply).await;
    }
    assert!(client.answer().await.starts_with("HTTP/1.1 200"));
    for request in [
        rig.request(&line("/v1/organizations/canary-path"), &fields, "{}"),
        rig.request(&line("/v1/messages"), &fields, "{}").replace(&rig.key, "not-a-key-0000000000000000"),
        rig.request(&line("/v1/messages"), &fields, "{}").replace(&rig.key, ACCESS),
        rig.request(&line("/v1/messages"), &fields, "{}").replace(&rig.key, &(stranger.clone() + "x")),
    ] {
        let mut client = rig.client().await;
        client.send(request).await;
        assert!(client.answer().await.starts_with("HTTP/1.1 4"));
    }
    let key = rig.key.clone();
    soon("the gateway's end", rig.gateway.end()).await;
    let (spans, bytes) = collector.spans(exporter).await;
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let served = spans.iter().find(|span| said(span, "http.response.status_code").as_deref() == Some("200"));
    assert_eq!(said(served.unwrap(), "evergrant.source").as_deref(), Some("fallback"));
    assert_eq!(said(served.unwrap(), "evergrant.replayed").as_deref(), Some("true"));
    absent(
        &bytes,
        &[ACCESS, FALLBACK, &key, &key[4..20], &stranger, QUERY, VALUE, "canary-path", "not-a-key", "sk-ant"],
    );
}
