//! Requests to the server, and what its responses mean.
//!
//! Errors are told in words of our own, and never with what a server or the client's library says in
//! full: it may repeat credentials, or values of a row.

use std::error::Error as _;
use std::fmt::{self, Debug, Formatter};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use crds::config::{ElasticsearchConfig, SearchLogin, ServerUrl, TlsConfig};
use elasticsearch::auth::{ClientCertificate, Credentials};
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Method;
use elasticsearch::http::headers::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT,
};
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::error::SearchError;

/// Longest time that a request takes, its response included. A server that needs 5 s for an answer is
/// slow, and still of use.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest time that a server is told to wait for others of its cluster.
pub(super) const SERVER_TIMEOUT: &str = "10s";

/// Maximum length of a response that gives its length. One that does not is bounded by its time.
const MAX_RESPONSE_BYTES: u64 = 256 * 1024 * 1024;

/// How long a search waits for shards that have not started.
const SHARD_START: Duration = Duration::from_secs(3);

/// Pause before it is repeated.
const SHARD_POLL: Duration = Duration::from_millis(100);

/// What the body of a request is. It is exactly this: OpenSearch refuses the media types that name a
/// version of Elasticsearch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyType {
    Json,
    NdJson,
}

impl BodyType {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
        }
    }
}

/// The server, and how to log in.
pub(super) struct Server {
    transport: Transport,
    /// Scheme, host and port; a redirect to others is not followed silently.
    origin: String,
}

impl Debug for Server {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        // The transport has the credentials.
        formatter.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A response.
#[derive(Debug)]
pub(super) struct Reply {
    /// HTTP status.
    pub(super) status: u16,
    body: Bytes,
}

impl Server {
    pub(super) fn new(config: &ElasticsearchConfig) -> Result<Self, SearchError> {
        let refused = |what: &str| SearchError::Refused(what.to_owned());
        let parsed = ServerUrl::HTTP.parse(&config.url);
        let (mut url, _) = parsed.ok_or_else(|| refused("its URL is not one of a server"))?;
        // Only `login` counts.
        let cleared = url.set_username("").and_then(|()| url.set_password(None));
        cleared.map_err(|()| refused("its URL is not one of a server"))?;
        let origin = url.origin().ascii_serialization();
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url))
            .timeout(REQUEST_TIMEOUT)
            .disable_proxy()
            .enable_meta_header(false);
        if let Some(login) = &config.login {
            let value = authorization(login)
                .ok_or_else(|| refused("its credentials hold characters that a header cannot"))?;
            // As a header of all requests: the client has either these or a certificate.
            builder = builder.header(AUTHORIZATION, value);
        }
        if let Some(tls) = &config.tls {
            builder = with_tls(builder, tls)?;
        }
        let transport = builder.build();
        let transport = transport
            .map_err(|_| refused("its TLS settings do not fit each other, or cannot be read"))?;
        Ok(Self { transport, origin })
    }

    /// Sends a request. Everything that a repetition may cure is
    /// [`Unavailable`](SearchError::Unavailable); what is returned is for the caller to judge.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body_type: BodyType,
        body: Option<Bytes>,
    ) -> Result<Reply, SearchError> {
        let reply = self.exchange(method, path, query, body_type, body).await?;
        match reply.error() {
            Some(error) => Err(error),
            None => Ok(reply),
        }
    }

    /// Sends a request, and returns the response, of any status.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body_type: BodyType,
        body: Option<Bytes>,
    ) -> Result<Reply, SearchError> {
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(body_type.as_str()));
        let agent = concat!("observers/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        let sent = self
            .transport
            .send(method, path, headers, Some(query), body, None);
        let response = sent.await.map_err(|error| unreachable(&error))?;
        if response.url().origin().ascii_serialization() != self.origin {
            return Err(SearchError::Refused(
                "it redirects to another server; give that one's URL".to_owned(),
            ));
        }
        if response.content_length().unwrap_or(0) > MAX_RESPONSE_BYTES {
            return Err(SearchError::Response(format!(
                "it is longer than {MAX_RESPONSE_BYTES} bytes"
            )));
        }
        let status = response.status_code().as_u16();
        let body = response.bytes().await;
        let body = body.map_err(|error| unreachable(&error))?;
        Ok(Reply { status, body })
    }

    /// Asks what server it is; nothing where the credentials do not let us know.
    pub(super) async fn root(&self) -> Result<Option<Reply>, SearchError> {
        let reply = self.exchange(Method::Get, "/", &[], BodyType::Json, None);
        let reply = reply.await?;
        match reply.error() {
            Some(_) if reply.status == 403 => Ok(None),
            Some(error) => Err(error),
            None => Ok(Some(reply)),
        }
    }

    /// Sends JSON.
    pub(super) async fn json(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Reply, SearchError> {
        let body = Bytes::from(body.to_string());
        self.send(method, path, query, BodyType::Json, Some(body))
            .await
    }

    /// Sends a search, and repeats it for a while if shards have not started, as those of a new index: it
    /// would fail for all of a history at the beginning of each month.
    pub(super) async fn search(
        &self,
        path: &str,
        query: &[(&str, &str)],
        body: &Value,
    ) -> Result<Reply, SearchError> {
        let body = Bytes::from(body.to_string());
        let deadline = Instant::now() + SHARD_START;
        loop {
            let body = Some(body.clone());
            let reply = self.exchange(Method::Post, path, query, BodyType::Json, body);
            let reply = reply.await?;
            match reply.error() {
                Some(_) if reply.lacks_shards() && Instant::now() < deadline => {
                    tokio::time::sleep(SHARD_POLL).await;
                }
                Some(error) => return Err(error),
                None => return Ok(reply),
            }
        }
    }

    /// Sends no body.
    pub(super) async fn bare(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Reply, SearchError> {
        self.send(method, path, query, BodyType::Json, None).await
    }
}

impl Reply {
    /// Parses the body of a successful response.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, SearchError> {
        if !(200..300).contains(&self.status) {
            return Err(self.refused());
        }
        let parsed = serde_json::from_slice(&self.body);
        // What serde says may hold values of the body.
        parsed.map_err(|error| {
            SearchError::Response(format!(
                "not the JSON that was expected, line {} column {}",
                error.line(),
                error.column()
            ))
        })
    }

    /// Returns nothing if it is successful, else why not.
    pub(super) fn done(&self) -> Result<(), SearchError> {
        if (200..300).contains(&self.status) {
            Ok(())
        } else {
            Err(self.refused())
        }
    }

    /// Returns the type of the error that it tells, such as `index_not_found_exception`.
    pub(super) fn error_type(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let name = body.get("error")?.get("type")?.as_str()?;
        Some(plain(name)?.to_owned())
    }

    /// Returns whether a search failed because a shard was not there.
    fn lacks_shards(&self) -> bool {
        let kind = self.error_type();
        let lacks = |kind| {
            matches!(
                kind,
                "search_phase_execution_exception" | "no_shard_available_action_exception"
            )
        };
        self.status == 503 && kind.as_deref().is_some_and(lacks)
    }

    /// Returns why nobody can go on, if so.
    fn error(&self) -> Option<SearchError> {
        if (200..300).contains(&self.status) {
            return None;
        }
        let kind = self.error_type();
        let with = |text: &str| match &kind {
            Some(kind) => format!("{text} ({}, {kind})", self.status),
            None => format!("{text} ({})", self.status),
        };
        match (self.status, kind.as_deref()) {
            (_, Some(kind)) if is_passing(kind) => {
                Some(SearchError::Unavailable(with("it takes nothing for now")))
            }
            (401, _) => Some(SearchError::Refused(with(
                "it does not accept the credentials: check `username` and `password`, or `apiKey`",
            ))),
            (403, _) => Some(SearchError::Refused(match self.forbidden_action() {
                Some(action) => format!("the credentials lack the right to {action} (403)"),
                None => with("the credentials lack a right"),
            })),
            (406 | 415, _) => Some(SearchError::Refused(with(
                "it does not take JSON: is it a search server?",
            ))),
            (408 | 429, _) => Some(SearchError::Unavailable(with("it is overloaded"))),
            (500.., _) => Some(SearchError::Unavailable(with("it fails"))),
            (..=399, _) => Some(SearchError::Response(with("not one of a search server"))),
            _ => None,
        }
    }

    /// Returns the action that was forbidden, such as `indices:admin/create`.
    fn forbidden_action(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let reason = body.get("error")?.get("reason")?.as_str()?;
        let (_, rest) = reason.split_once("action [")?;
        let (action, _) = rest.split_once(']')?;
        Some(plain(action)?.to_owned())
    }

    /// An error of a request that was understood and not carried out.
    pub(super) fn refused(&self) -> SearchError {
        SearchError::Refused(match self.error_type() {
            Some(kind) => format!("{kind} ({})", self.status),
            None => format!("status {}", self.status),
        })
    }
}

/// Returns whether an error of this type passes by itself or by an operator's help, and nothing is wrong
/// with what was sent: blocks of a full disk, too much at once, no shard yet, no more shards.
pub(super) fn is_passing(kind: &str) -> bool {
    matches!(
        kind,
        "cluster_block_exception"
            | "es_rejected_execution_exception"
            | "opensearch_rejected_execution_exception"
            | "rejected_execution_exception"
            | "circuit_breaking_exception"
            | "unavailable_shards_exception"
            | "no_shard_available_action_exception"
            | "node_closed_exception"
            | "node_not_connected_exception"
            | "process_cluster_event_timeout_exception"
            | "master_not_discovered_exception"
            | "cluster_manager_not_discovered_exception"
            | "shard_not_in_primary_mode_exception"
            | "index_closed_exception"
            | "timeout_exception"
    )
}

/// Returns a name that a server gives, if it is no longer or odder than names are.
pub(super) fn plain(name: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_:/-[]*.".contains(&byte);
    (!name.is_empty() && name.len() <= 100 && name.bytes().all(is_plain)).then_some(name)
}

fn authorization(login: &SearchLogin) -> Option<HeaderValue> {
    let text = match login {
        SearchLogin::Basic(user, password) => {
            let both = format!("{}:{}", user.reveal(), password.reveal());
            format!("Basic {}", BASE64_STANDARD.encode(both))
        }
        SearchLogin::ApiKey(key) => format!("ApiKey {}", key.reveal().trim()),
    };
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn with_tls(builder: TransportBuilder, tls: &TlsConfig) -> Result<TransportBuilder, SearchError> {
    let mut builder = builder;
    if let Some(ca) = &tls.ca {
        let ca = Certificate::from_pem(ca.reveal().as_bytes())
            .map_err(|_| SearchError::Refused("its `tls.ca` holds no certificates".to_owned()))?;
        builder = builder.cert_validation(CertificateValidation::Full(ca));
    }
    if let Some((certificate, key)) = &tls.identity {
        let both = format!("{}\n{}", certificate.reveal(), key.reveal());
        let identity = ClientCertificate::Pem(both.into_bytes());
        builder = builder.auth(Credentials::Certificate(identity));
    }
    Ok(builder)
}

/// Tells why there is no response, by the innermost reason: those around it name URLs.
fn unreachable(error: &elasticsearch::Error) -> SearchError {
    let mut reason = None;
    let mut source = error.source().and_then(std::error::Error::source);
    let mut timed_out = error.is_timeout();
    while let Some(one) = source {
        timed_out |= one
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut);
        reason = Some(one.to_string());
        source = one.source();
    }
    SearchError::Unavailable(match reason {
        _ if timed_out => format!("no response within {} s", REQUEST_TIMEOUT.as_secs()),
        Some(reason) if reason.starts_with("invalid peer certificate") => {
            format!("{reason}: check `tls.ca`, the URL's host and the server's certificate")
        }
        Some(reason) => reason.chars().take(200).collect(),
        None => "the connection fails".to_owned(),
    })
}
