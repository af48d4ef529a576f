//! Client that sends metrics over OTLP. The SDK's exporter accepts only metrics that the SDK itself recorded.

use std::io::Write as _;
use std::time::Duration;

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_otlp::Protocol;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use reqwest::Url;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::REQUEST_TIMEOUT;
use super::settings::{SettingsError, Signal};

/// Path of metrics below the endpoint for all signals.
const PATH: &str = "v1/metrics";

/// Why metrics were not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// They could not be compressed.
    #[error("metrics cannot be compressed")]
    Compress(#[from] std::io::Error),
    /// The collector cannot be asked, or refuses.
    #[error("the collector cannot be asked, or refuses")]
    Http(#[source] reqwest::Error),
    /// The same by gRPC.
    #[error("the collector cannot be asked, or refuses")]
    Grpc(#[from] tonic::Status),
}

/// Client of a collector of metrics.
#[derive(Debug)]
pub(super) struct MetricsClient {
    transport: Transport,
    headers: HeaderMap,
    is_compressed: bool,
    timeout: Duration,
    /// The variable that names the collector.
    endpoint_by: String,
}

#[derive(Debug)]
enum Transport {
    Http(reqwest::Client, Url),
    Grpc(MetricsServiceClient<Channel>),
}

impl MetricsClient {
    /// Creates the client that the environment describes. It connects once it sends.
    pub(super) fn new(
        protocol: Protocol,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let of = |what| Signal::Metrics.variable(what, &variable);
        let is_compressed = match of("COMPRESSION") {
            None => false,
            Some((_, found)) if found == "none" => false,
            Some((_, found)) if found == "gzip" => true,
            Some((name, found)) => {
                return Err(SettingsError {
                    name,
                    found,
                    remedy: "use gzip or none",
                });
            }
        };
        let (name, endpoint) = of("ENDPOINT").unwrap_or_default();
        let transport = match protocol {
            Protocol::Grpc => {
                let is_insecure =
                    of("INSECURE").is_some_and(|(_, is)| is.eq_ignore_ascii_case("true"));
                grpc(&endpoint, is_insecure)
            }
            _ => http(&endpoint, name == "OTEL_EXPORTER_OTLP_ENDPOINT"),
        };
        // An endpoint may hold a login.
        let transport = transport.ok_or_else(|| SettingsError {
            name: name.clone(),
            found: "no URL to send to".to_owned(),
            remedy: "give one as http://collector:4318",
        })?;
        let headers = of("HEADERS").map(|(_, text)| headers(&text));
        Ok(Self {
            transport,
            headers: headers.unwrap_or_default(),
            is_compressed,
            timeout: export_timeout(of("TIMEOUT"))?,
            endpoint_by: name,
        })
    }

    /// Longest time of a request.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The variable that names the collector.
    pub(super) fn endpoint_by(&self) -> &str {
        &self.endpoint_by
    }

    /// Sends metrics.
    pub(super) async fn send(&self, request: ExportMetricsServiceRequest) -> Result<(), SendError> {
        match &self.transport {
            Transport::Http(client, url) => {
                let mut request_headers = self.headers.clone();
                let protobuf = HeaderValue::from_static("application/x-protobuf");
                request_headers.insert(CONTENT_TYPE, protobuf);
                let mut body = request.encode_to_vec();
                if self.is_compressed {
                    request_headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
                    gzip.write_all(&body)?;
                    body = gzip.finish()?;
                }
                let post = client.post(url.clone()).headers(request_headers).body(body);
                let answer = post
                    .send()
                    .await
                    .and_then(reqwest::Response::error_for_status);
                // The URL may hold a key.
                answer.map_err(|error| SendError::Http(error.without_url()))?;
            }
            Transport::Grpc(client) => {
                let mut client = client.clone();
                if self.is_compressed {
                    client = client.send_compressed(CompressionEncoding::Gzip);
                }
                let mut request = tonic::Request::new(request);
                *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
                client.export(request).await?;
            }
        }
        Ok(())
    }
}

/// Reads the longest time of a request, in milliseconds.
fn export_timeout(found: Option<(String, String)>) -> Result<Duration, SettingsError> {
    let Some((name, found)) = found else {
        return Ok(REQUEST_TIMEOUT);
    };
    match found.parse() {
        Ok(milliseconds) if milliseconds > 0 => {
            Ok(REQUEST_TIMEOUT.min(Duration::from_millis(milliseconds)))
        }
        _ => Err(SettingsError {
            name,
            found,
            remedy: "give milliseconds, 1 at least; more than 10000 are as many",
        }),
    }
}

fn http(endpoint: &str, is_base: bool) -> Option<Transport> {
    let mut url: Url = endpoint.parse().ok()?;
    if is_base {
        let path = format!("{}/{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    let client = reqwest::Client::builder().build().ok()?;
    url.has_host().then_some(Transport::Http(client, url))
}

fn grpc(endpoint: &str, is_insecure: bool) -> Option<Transport> {
    let scheme = if is_insecure { "http" } else { "https" };
    let endpoint = if endpoint.contains("://") {
        endpoint.to_owned()
    } else {
        format!("{scheme}://{endpoint}")
    };
    let mut endpoint = Endpoint::from_shared(endpoint).ok()?;
    if endpoint.uri().scheme_str() == Some("https") {
        let tls = ClientTlsConfig::new().with_enabled_roots();
        endpoint = endpoint.tls_config(tls).ok()?;
    }
    let client = MetricsServiceClient::new(endpoint.connect_lazy());
    Some(Transport::Grpc(client))
}

/// Reads headers as `name=value`, with commas between them. What cannot be a header is left out, as by the
/// SDK.
fn headers(text: &str) -> HeaderMap {
    let pairs = text.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let mut value = HeaderValue::from_str(&value).ok()?;
        value.set_sensitive(true);
        Some((HeaderName::try_from(name.trim()).ok()?, value))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn client(
        protocol: Protocol,
        variables: &[(&str, &str)],
    ) -> Result<MetricsClient, SettingsError> {
        MetricsClient::new(protocol, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

    #[tokio::test]
    async fn endpoints_for_all_signals_get_the_path_of_metrics() {
        let url = |name, value| match client(Protocol::HttpBinary, &[(name, value)])
            .unwrap()
            .transport
        {
            Transport::Http(_, url) => url.to_string(),
            Transport::Grpc(_) => "none".to_owned(),
        };
        assert_eq!(url(ALL, "http://a:4318"), "http://a:4318/v1/metrics");
        assert_eq!(url(ALL, "https://a/otlp/"), "https://a/otlp/v1/metrics");
        let own = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
        assert_eq!(url(own, "http://a/metrics"), "http://a/metrics");
        for endpoint in ["http://a:4317", "https://a", "a:4317"] {
            client(Protocol::Grpc, &[(ALL, endpoint)]).unwrap();
        }
        for (protocol, wrong) in [
            (Protocol::HttpBinary, "user:hidden@a"),
            (Protocol::HttpBinary, "unix:/hidden"),
            (Protocol::Grpc, "http://hidden login"),
        ] {
            let error = client(protocol, &[(ALL, wrong)]).unwrap_err().to_string();
            assert!(
                error.starts_with(ALL) && !error.contains("hidden"),
                "{error}"
            );
        }
        let compression = ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd");
        let wrong = client(Protocol::HttpBinary, &[(ALL, "http://a"), compression]);
        let said = wrong.unwrap_err().to_string();
        assert_eq!(
            said,
            "OTEL_EXPORTER_OTLP_COMPRESSION is zstd: use gzip or none"
        );
        let timeout = |text| {
            let timeout = ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", text);
            client(Protocol::HttpBinary, &[(ALL, "http://a"), timeout]).map(|it| it.timeout())
        };
        assert_eq!(timeout("500").unwrap(), Duration::from_millis(500));
        assert_eq!(timeout("60000").unwrap(), REQUEST_TIMEOUT);
        assert_eq!(timeout("").unwrap(), REQUEST_TIMEOUT);
        for wrong in ["0", "1s", "-1"] {
            timeout(wrong).unwrap_err();
        }
    }

    #[test]
    fn headers_are_decoded_and_hidden() {
        let all = headers("authorization=Bearer%20hidden, x-a=1 ,wrong,=2,b c=3");
        assert_eq!(all.len(), 2);
        assert_eq!(all["authorization"], "Bearer hidden");
        assert_eq!(all["x-a"], "1");
        assert!(!format!("{all:?}").contains("hidden"));
    }
}
