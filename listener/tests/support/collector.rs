//! A collector of traces, metrics and logs, by gRPC and by HTTP with protobuf: the official messages and the official service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{
    LogsService, LogsServiceServer,
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

use super::eventually_or;

/// What a collector does with what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    All,
    /// It refuses it for now.
    Nothing,
    /// It never answers.
    Forever,
}

/// A span that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    /// As in the protocol: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub(crate) kind: i32,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) resource: BTreeMap<String, String>,
    pub(crate) is_error: bool,
    pub(crate) times: (u64, u64),
}

/// Metrics that were taken in one request.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) resource: BTreeMap<String, String>,
    pub(crate) metrics: Vec<Metric>,
}

/// A log line that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) resource: BTreeMap<String, String>,
    pub(crate) target: String,
    pub(crate) severity: (i32, String),
    pub(crate) message: String,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) trace: String,
    pub(crate) span: String,
}

/// A request for what is sent of one kind.
trait Sent: prost::Message + Default {
    type Answer: prost::Message + Default;

    fn keep(self, taken: &Taken);
}

#[derive(Clone)]
struct Taken {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<Vec<Metrics>>>,
    lines: Arc<Mutex<Vec<Line>>>,
    /// Values of the header `authorization`.
    logins: Arc<Mutex<Vec<String>>>,
    takes: Arc<Mutex<Takes>>,
}

/// A running collector.
pub(crate) struct Collector {
    taken: Taken,
    grpc: String,
    http: String,
    _servers: [AbortOnDropHandle<()>; 2],
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        Some(Value::ArrayValue(array)) => {
            let all: Vec<String> = array.values.iter().map(|one| text(Some(one))).collect();
            all.join(",")
        }
        other => format!("{other:?}"),
    }
}

pub(crate) fn texts(all: &[KeyValue]) -> BTreeMap<String, String> {
    all.iter()
        .map(|one| (one.key.clone(), text(one.value.as_ref())))
        .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Taken {
    async fn take(&self, login: Option<&str>, sent: impl Sent) -> Result<(), ()> {
        let takes = *self.takes.lock().unwrap();
        match takes {
            Takes::All => {}
            Takes::Nothing => return Err(()),
            Takes::Forever => std::future::pending().await,
        }
        self.logins.lock().unwrap().extend(login.map(str::to_owned));
        sent.keep(self);
        Ok(())
    }

    async fn take_by_grpc<S: Sent>(
        &self,
        request: Request<S>,
    ) -> Result<Response<S::Answer>, Status> {
        let login = request.metadata().get("authorization").cloned();
        let login = login.as_ref().and_then(|login| login.to_str().ok());
        let taken = self.take(login, request.into_inner()).await;
        taken.map_err(|()| Status::unavailable("not now"))?;
        Ok(Response::new(S::Answer::default()))
    }
}

impl Sent for ExportTraceServiceRequest {
    type Answer = ExportTraceServiceResponse;

    fn keep(self, taken: &Taken) {
        let mut spans = taken.spans.lock().unwrap();
        for of_resource in self.resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            for span in of_resource.scope_spans.into_iter().flat_map(|of| of.spans) {
                spans.push(Span {
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    name: span.name,
                    kind: span.kind,
                    attributes: texts(&span.attributes),
                    resource: texts(&resource.attributes),
                    is_error: span.status.is_some_and(|status| status.code == 2),
                    times: (span.start_time_unix_nano, span.end_time_unix_nano),
                });
            }
        }
    }
}

impl Sent for ExportMetricsServiceRequest {
    type Answer = ExportMetricsServiceResponse;

    fn keep(self, taken: &Taken) {
        let all = self.resource_metrics.into_iter().map(|one| Metrics {
            resource: texts(&one.resource.unwrap_or_default().attributes),
            metrics: one
                .scope_metrics
                .into_iter()
                .flat_map(|of| of.metrics)
                .collect(),
        });
        taken.metrics.lock().unwrap().extend(all);
    }
}

impl Sent for ExportLogsServiceRequest {
    type Answer = ExportLogsServiceResponse;

    fn keep(self, taken: &Taken) {
        let mut lines = taken.lines.lock().unwrap();
        for of_resource in self.resource_logs {
            let resource = texts(&of_resource.resource.unwrap_or_default().attributes);
            for of_scope in of_resource.scope_logs {
                let target = of_scope.scope.unwrap_or_default().name;
                lines.extend(of_scope.log_records.into_iter().map(|one| {
                    assert!(one.time_unix_nano > 0);
                    Line {
                        resource: resource.clone(),
                        target: target.clone(),
                        severity: (one.severity_number, one.severity_text),
                        message: text(one.body.as_ref()),
                        attributes: texts(&one.attributes),
                        trace: hex(&one.trace_id),
                        span: hex(&one.span_id),
                    }
                }));
            }
        }
    }
}

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take_by_grpc(request).await
    }
}

#[tonic::async_trait]
impl MetricsService for Taken {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take_by_grpc(request).await
    }
}

#[tonic::async_trait]
impl LogsService for Taken {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.take_by_grpc(request).await
    }
}

async fn by_http<S: Sent>(
    State(taken): State<Taken>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let is_protobuf = headers
        .get("content-type")
        .is_some_and(|of| of == "application/x-protobuf");
    let body = match headers.get("content-encoding") {
        Some(_) => {
            let mut text = Vec::new();
            let read = GzDecoder::new(&*body).read_to_end(&mut text);
            read.unwrap();
            Bytes::from(text)
        }
        None => body,
    };
    let Ok(request) = S::decode(body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    if !is_protobuf {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, Vec::new());
    }
    let login = headers
        .get("authorization")
        .and_then(|login| login.to_str().ok());
    match taken.take(login, request).await {
        Ok(()) => (StatusCode::OK, S::Answer::default().encode_to_vec()),
        Err(()) => (StatusCode::SERVICE_UNAVAILABLE, Vec::new()),
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let taken = Taken {
            spans: Arc::default(),
            metrics: Arc::default(),
            lines: Arc::default(),
            logins: Arc::default(),
            takes: Arc::new(Mutex::new(Takes::All)),
        };
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = format!("http://{}", socket.local_addr().unwrap());
        let routes = Router::new()
            .route("/v1/traces", post(by_http::<ExportTraceServiceRequest>))
            .route("/v1/metrics", post(by_http::<ExportMetricsServiceRequest>))
            .route("/v1/logs", post(by_http::<ExportLogsServiceRequest>))
            .with_state(taken.clone());
        let serving = async move { axum::serve(socket, routes).await.unwrap() };
        let by_http = AbortOnDropHandle::new(tokio::spawn(serving));
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = format!("http://{}", socket.local_addr().unwrap());
        let traces =
            TraceServiceServer::new(taken.clone()).accept_compressed(CompressionEncoding::Gzip);
        let metrics =
            MetricsServiceServer::new(taken.clone()).accept_compressed(CompressionEncoding::Gzip);
        let logs =
            LogsServiceServer::new(taken.clone()).accept_compressed(CompressionEncoding::Gzip);
        let incoming = tonic::transport::server::TcpIncoming::from(socket);
        let serving = async move {
            let server = tonic::transport::Server::builder()
                .add_service(traces)
                .add_service(metrics)
                .add_service(logs);
            server.serve_with_incoming(incoming).await.unwrap();
        };
        let by_grpc = AbortOnDropHandle::new(tokio::spawn(serving));
        Self {
            taken,
            grpc,
            http,
            _servers: [by_http, by_grpc],
        }
    }

    /// The variables that send everything here by HTTP.
    pub(crate) fn http(&self) -> Vec<(&str, &str)> {
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT", &self.http)]
    }

    /// The same by gRPC.
    pub(crate) fn grpc(&self) -> Vec<(&str, &str)> {
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.grpc),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ]
    }

    pub(crate) fn takes(&self, takes: Takes) {
        *self.taken.takes.lock().unwrap() = takes;
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.taken.spans.lock().unwrap().clone()
    }

    /// The metrics of each request so far.
    pub(crate) fn metrics(&self) -> Vec<Metrics> {
        self.taken.metrics.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.taken.lines.lock().unwrap().clone()
    }

    pub(crate) fn logins(&self) -> Vec<String> {
        self.taken.logins.lock().unwrap().clone()
    }

    /// Waits until some of the spans are so many, and returns those.
    pub(crate) async fn comes(&self, count: usize, is_it: impl Fn(&Span) -> bool) -> Vec<Span> {
        let found = || {
            let spans = self.spans().into_iter();
            spans.filter(|span| is_it(span)).collect::<Vec<_>>()
        };
        let look = async || Some(found()).filter(|spans| spans.len() >= count);
        eventually_or(look, async || {
            format!("{count} spans, there are {:#?}", self.spans())
        })
        .await
    }
}
