//! HTTP client of actions: sends a request, and reads its response within bounds.
//!
//! Redirects are not followed, and the URL appears in no message: at most its host does.

use std::error::Error as StdError;
use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use crds::config::{Egress, Redacted, ServerUrl, TlsConfig};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::tls::{Certificate, Identity, Version};
use reqwest::{Client, ClientBuilder, Method, Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::policy::{EgressDenied, EgressPolicy};
use super::redaction::Redactor;
use super::response::{DeliveryError, PROXY_LOGIN, append_remedy, retry_after};
use crate::templating::compile_error::CompileError;

/// Longest wait for a connection; an action's timeout may be shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept.
const POOL_IDLE: Duration = Duration::from_mins(1);

/// Most idle connections of each host.
const POOL_PER_HOST: usize = 128;

/// Interval of keep-alive pings on an HTTP/2 connection in use, and the timeout of one.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Most bytes read of a response's body.
const MAX_ANSWER: usize = 64 * 1024;

/// Longest wait for a response's body once its head has arrived. The head has decided; the body only
/// makes the connection reusable and explains a failure.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How long before the end of an attempt's timeout the reading of a body stops.
const DRAIN_MARGIN: Duration = Duration::from_millis(5);

/// Remedies for connections that fail, by a word of their error.
const REMEDIES: [(&str, &str); 1] = [(PROXY_WORDS, PROXY_LOGIN)];

/// The client's words where a proxy asks for a login.
const PROXY_WORDS: &str = "proxy authorization required";

/// Creates the HTTP client of all actions of a process.
pub(crate) fn client(egress: &EgressPolicy) -> Result<Client, reqwest::Error> {
    builder(egress).build()
}

fn builder(egress: &EgressPolicy) -> ClientBuilder {
    // Proxies that the environment names are never used: they would dial in our place, past the egress
    // policy.
    let builder = match egress.proxy() {
        Some(proxy) => Client::builder().proxy(proxy),
        None => Client::builder().no_proxy(),
    };
    builder
        .user_agent(concat!("observer-listener/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .referer(false)
        .dns_resolver(egress.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_PER_HOST)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .tls_version_min(Version::TLS_1_2)
}

/// TLS settings of one action, and its client.
struct ClientTls {
    roots: Vec<Certificate>,
    identity: Option<Identity>,
    client: OnceLock<Client>,
}

impl ClientTls {
    /// Compiles the settings at `place`.
    fn compile(place: &str, config: &TlsConfig) -> Result<Self, CompileError> {
        let wrong = |field: &str, what: &str| CompileError::field(format!("{place}.{field}"), what);
        let roots = config.ca.as_ref().map_or(Ok(Vec::new()), |ca| {
            Certificate::from_pem_bundle(ca.reveal().as_bytes())
                .map_err(|_| wrong("ca", "holds no certificates; give them as PEM"))
        })?;
        let identity = config.identity.as_ref().map(|(certificate, key)| {
            let both = format!("{}\n{}", certificate.reveal(), key.reveal());
            let bad = |_| {
                wrong(
                    "certificate",
                    "and its key cannot be used; give both as PEM",
                )
            };
            Identity::from_pem(both.as_bytes()).map_err(bad)
        });
        let own = Self {
            roots,
            identity: identity.transpose()?,
            client: OnceLock::new(),
        };
        // Whether certificate and key match shows when a client is built.
        let tried = own.build(&EgressPolicy::new(&Egress::default()));
        tried.map_err(|_| {
            wrong(
                "certificate",
                "does not fit its key, or one of them cannot be read",
            )
        })?;
        Ok(own)
    }

    fn build(&self, egress: &EgressPolicy) -> Result<Client, reqwest::Error> {
        let mut builder = builder(egress).tls_certs_merge(self.roots.iter().cloned());
        if let Some(identity) = &self.identity {
            builder = builder.identity(identity.clone());
        }
        builder.build()
    }

    fn client(&self, egress: &EgressPolicy) -> Option<&Client> {
        // One that cannot be built now may be the next time.
        if self.client.get().is_none() {
            let built = self.build(egress).ok()?;
            return Some(self.client.get_or_init(|| built));
        }
        self.client.get()
    }
}

/// Returns the headers of a request whose body is JSON and that needs no others.
pub(crate) fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

/// Endpoint of HTTP requests. Its URL may hold a secret.
pub(crate) struct HttpEndpoint {
    url: Url,
    pub(crate) host: String,
    redactor: Redactor,
    tls: Option<ClientTls>,
}

impl HttpEndpoint {
    /// Compiles the URL at `place`; `secrets` are what else no message may hold.
    pub(crate) fn compile<'a>(
        place: &str,
        url: &Redacted,
        secrets: impl Iterator<Item = &'a str>,
    ) -> Result<Self, CompileError> {
        let rule = ServerUrl::HTTP;
        let parsed = rule.parse(url);
        let (url, host) = parsed.ok_or_else(|| CompileError::field(place, rule.message()))?;
        Ok(Self {
            redactor: Redactor::new(&url, secrets),
            host,
            url,
            tls: None,
        })
    }

    /// Returns it with TLS settings, which stand at `place`.
    pub(crate) fn with_tls(
        mut self,
        place: &str,
        tls: Option<&TlsConfig>,
    ) -> Result<Self, CompileError> {
        self.tls = tls.map(|tls| ClientTls::compile(place, tls)).transpose()?;
        Ok(self)
    }

    /// Returns its key, which may hold a secret, and its host, for people.
    pub(crate) fn names(&self) -> (&str, &str) {
        (self.url.as_str(), &self.host)
    }

    /// Sends a request, reads its response, and returns the status of one that succeeded. The caller bounds it by
    /// `timeout`.
    pub(crate) async fn send(
        &self,
        by: (&EgressPolicy, &Client),
        http: (Method, HeaderMap, Vec<u8>),
        now: DateTime<Utc>,
        timeout: Duration,
    ) -> Result<StatusCode, DeliveryError> {
        // The caller ends the attempt at its timeout; the status is to be returned before.
        let deadline = Instant::now() + timeout.saturating_sub(DRAIN_MARGIN);
        let response = self.exchange(by, self.url.clone(), http).await?;
        let deadline = deadline.min(Instant::now() + DRAIN_TIME);
        let status = response.status();
        if status.is_success() {
            drain(response, deadline).await;
            return Ok(status);
        }
        Err(self.rejection(response, now, deadline).await)
    }

    /// Sends a request to the URL with `suffix` appended, and returns the body of its response; nothing
    /// where the status says that there is none. The caller bounds it in time.
    pub(crate) async fn fetch(
        &self,
        by: (&EgressPolicy, &Client),
        suffix: &str,
        http: (Method, HeaderMap, Vec<u8>),
        now: DateTime<Utc>,
        most: usize,
    ) -> Result<Option<Vec<u8>>, DeliveryError> {
        let url = self.with_suffix(suffix)?;
        let mut response = self.exchange(by, url, http).await?;
        match response.status() {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND | StatusCode::GONE => {
                drain(response, Instant::now() + DRAIN_TIME).await;
                return Ok(None);
            }
            status if status.is_success() => {}
            _ => {
                let deadline = Instant::now() + DRAIN_TIME;
                return Err(self.rejection(response, now, deadline).await);
            }
        }
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.explain(&error))?
        {
            if body.len() + chunk.len() > most {
                let message = format!("the response is larger than {} KiB", most >> 10);
                return Err(DeliveryError::Permanent(message, None));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Some(body))
    }

    /// Returns the URL with more of a path, or a query.
    fn with_suffix(&self, suffix: &str) -> Result<Url, DeliveryError> {
        let own = self.url.as_str();
        let own = own.strip_suffix('/').unwrap_or(own);
        let url = Url::parse(&format!("{own}{suffix}")).ok();
        let same = |url: &Url| {
            url.origin() == self.url.origin() && url.path().starts_with(self.base_path())
        };
        url.filter(same).ok_or_else(|| {
            let message = "the path leads out of the URL: it has a part `.` or `..`";
            DeliveryError::Permanent(message.to_owned(), None)
        })
    }

    /// Returns the path of the URL, without a slash at its end.
    fn base_path(&self) -> &str {
        let path = self.url.path();
        path.strip_suffix('/').unwrap_or(path)
    }

    async fn exchange(
        &self,
        (egress, http): (&EgressPolicy, &Client),
        url: Url,
        (method, headers, body): (Method, HeaderMap, Vec<u8>),
    ) -> Result<Response, DeliveryError> {
        if let Err(denied) = egress.check_literal(&url) {
            return Err(DeliveryError::EgressDenied(denied.to_string()));
        }
        let own = self.tls.as_ref();
        let client = match own.map(|own| own.client(egress)) {
            None => http,
            Some(Some(client)) => client,
            Some(None) => {
                return Err(DeliveryError::Misconfigured(
                    "the client cannot be set up with its TLS settings".to_owned(),
                ));
            }
        };
        let request = client.request(method, url).headers(headers).body(body);
        let sent = request.send().await;
        sent.map_err(|error| self.explain(&error))
    }

    /// Returns what a response that is no success says.
    async fn rejection(
        &self,
        response: Response,
        now: DateTime<Utc>,
        deadline: Instant,
    ) -> DeliveryError {
        let status = response.status();
        let header = |name| response.headers().get(name)?.to_str().ok();
        let retry_after = header(RETRY_AFTER).and_then(|value| retry_after(value, now));
        let location = header(LOCATION)
            .and_then(|target| self.url.join(target).ok()?.host_str().map(str::to_owned));
        let body = drain(response, deadline).await;
        DeliveryError::Status {
            status,
            retry_after,
            location,
            excerpt: self.redactor.excerpt(&body),
        }
    }

    /// Returns what an error of the client means. Its own text would name the URL; its innermost cause
    /// does not.
    fn explain(&self, error: &reqwest::Error) -> DeliveryError {
        if let Some(refused) = cause::<EgressDenied>(error) {
            return DeliveryError::EgressDenied(refused.to_string());
        }
        let root = self
            .redactor
            .excerpt(innermost(error).to_string().as_bytes());
        if error.is_dns() {
            DeliveryError::Unreachable(format!("the name cannot be resolved: {root}"))
        } else if error.is_timeout() {
            DeliveryError::Unreachable(format!("no connection within {CONNECT_TIMEOUT:?}"))
        } else if error.is_connect() {
            let said = append_remedy(format!("no connection: {root}"), &REMEDIES, |known| {
                root.contains(known)
            });
            if concerns_set_up(error) || root.contains(PROXY_WORDS) {
                DeliveryError::Misconfigured(said)
            } else {
                DeliveryError::Unreachable(said)
            }
        } else if cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse) {
            DeliveryError::InvalidResponse(root)
        } else {
            DeliveryError::ConnectionFailed(format!("the connection broke: {root}"))
        }
    }
}

/// Reads a response, and returns the beginning of its body: the connection can be used again.
async fn drain(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut body = Vec::new();
    let drain = async {
        while body.len() < MAX_ANSWER {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = MAX_ANSWER - body.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                // A body that breaks off changes nothing.
                Ok(None) | Err(_) => break,
            }
        }
    };
    let _ = timeout_at(deadline, drain).await;
    body
}

/// Returns the first cause of type `T`.
fn cause<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    causes(error).find_map(|error| error.downcast_ref())
}

/// Returns whether one side does not accept the certificate of the other.
fn concerns_set_up(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        // What an error of I/O wraps is not its source.
        let wrapped = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        let wrapped = wrapped.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let tls = wrapped.or_else(|| cause.downcast_ref());
        matches!(
            tls,
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
        )
    })
}

fn innermost<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    causes(error).last().unwrap_or(error)
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
pub(crate) mod tests;
