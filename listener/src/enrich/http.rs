//! Lookups by HTTP: a request whose response is JSON.

use std::sync::Arc;

use crds::config::{HeaderValue as HeaderConfig, HttpLookupConfig, Redacted, RequestMethod};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::value::RawValue;

use super::lookup::{LookupRequest, LookupResult, LookupSource, MAX_RESULT, PreparedLookup};
use crate::actions::Preview;
use crate::actions::http::RequestHeaders;
use crate::actions::template_source::{TemplateOutput, TemplateSource, TemplateSources};
use crate::cache::key::CacheKeyBuilder;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::egress::http_client::HttpEndpoint;
use crate::egress::redaction::Secrets;
use crate::egress::response::DeliveryError;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Compiled request.
pub(super) struct HttpLookup {
    endpoint: HttpEndpoint,
    path: Option<Path>,
    method: Method,
    headers: RequestHeaders,
    content_type: HeaderValue,
    body: Option<Template>,
}

/// Template of a path.
struct Path {
    template: Template,
    /// The template ends its path with a slash, and so may what is rendered.
    ends_with_slash: bool,
}

impl Path {
    fn compile(source: &str) -> Result<Self, CompileError> {
        Ok(Self {
            template: Template::compile("http.path".to_owned(), source, Format::Url)?,
            ends_with_slash: before_query(source).ends_with('/'),
        })
    }

    /// Renders the path. A value must not change where it leads: by a part that is empty, or that goes up.
    fn render(&self, input: &Arc<RenderInput>) -> Result<String, Failure> {
        let text = self.template.render(input)?;
        let path = before_query(&text);
        let mut parts: Vec<&str> = path.split('/').skip(1).collect();
        if self.ends_with_slash {
            parts.pop();
        }
        if parts.iter().any(|part| part.is_empty()) {
            return Err(self.template.refusal(
                "came out with an empty part of the path: give what may be empty a default, or a null result \
                 by a condition",
            ));
        }
        if parts.iter().any(|part| matches!(*part, "." | "..")) {
            return Err(self
                .template
                .refusal("came out with the part `.` or `..`, which would lead to another path"));
        }
        Ok(text)
    }
}

fn before_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

pub(super) fn templates(config: &HttpLookupConfig) -> Vec<TemplateSource<'_>> {
    let output = TemplateOutput::of_content_type(&config.content_type);
    let mut sources = TemplateSources::default()
        .text("http.path", &config.path)
        .add("http.body", &config.body, output);
    for (name, value) in &config.headers {
        if let HeaderConfig::Template(source) = value {
            sources = sources.text(format!("http.headers[{name}]"), source);
        }
    }
    sources.into_vec()
}

pub(super) fn secrets(config: &HttpLookupConfig) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.url(&config.url);
    for secret in header_secrets(config) {
        secrets.secret(secret.reveal());
    }
    secrets
}

fn header_secrets(config: &HttpLookupConfig) -> impl Iterator<Item = &Redacted> {
    config.headers.iter().filter_map(|(_, value)| match value {
        HeaderConfig::Secret(secret) => Some(secret),
        HeaderConfig::Template(_) => None,
    })
}

impl HttpLookup {
    pub(super) fn compile(config: &HttpLookupConfig) -> Result<Self, CompileError> {
        let content_type = HeaderValue::from_str(&config.content_type).map_err(|_| {
            CompileError::field(
                "http.contentType",
                "is no content type; write it like application/json",
            )
        })?;
        let secrets = header_secrets(config).map(Redacted::reveal);
        let endpoint = HttpEndpoint::compile("http.url", &config.url, secrets)?;
        let format = Format::of_content_type(&config.content_type);
        Ok(Self {
            endpoint: endpoint.with_tls("http.tls", config.tls.as_ref())?,
            path: config.path.as_deref().map(Path::compile).transpose()?,
            method: match config.method {
                RequestMethod::Get => Method::GET,
                RequestMethod::Post => Method::POST,
            },
            headers: RequestHeaders::compile("http.headers", &config.headers)?,
            content_type,
            body: Template::optional("http.body", config.body.as_deref(), format)?,
        })
    }

    /// Renders path, headers and body.
    fn render(&self, delivery: &Delivery) -> Result<(String, HeaderMap, Vec<u8>), Failure> {
        let input = RenderInput::new(delivery);
        let path = self.path.as_ref().map(|path| path.render(&input));
        let mut headers = self.headers.render(&input)?;
        if !headers.contains_key(ACCEPT) {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        }
        let body = match &self.body {
            Some(body) => {
                headers.insert(CONTENT_TYPE, self.content_type.clone());
                body.render(&input)?.into_bytes()
            }
            None => Vec::new(),
        };
        Ok((path.transpose()?.unwrap_or_default(), headers, body))
    }
}

impl LookupSource for HttpLookup {
    fn endpoint(&self) -> (&str, &str) {
        self.endpoint.names()
    }

    fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure> {
        let (path, headers, body) = self.render(delivery)?;
        let target = format!("{}{path}", self.endpoint.host);
        let mut preview = vec![(self.method.to_string(), target)];
        preview.extend(crate::actions::http::shown(&headers));
        if !body.is_empty() {
            let body = String::from_utf8_lossy(&body).into_owned();
            preview.push(("body".to_owned(), body));
        }
        Ok(preview)
    }

    fn look_up<'a>(&'a self, request: LookupRequest<'a>) -> Result<PreparedLookup<'a>, Failure> {
        let (path, mut headers, body) = self.render(request.delivery)?;
        let key = CacheKeyBuilder::empty().part(self.endpoint.names().0.as_bytes());
        let key = key
            .part(self.method.as_str().as_bytes())
            .part(path.as_bytes());
        let key = headers.iter().fold(key, |key, (name, value)| {
            key.part(name.as_str().as_bytes()).part(value.as_bytes())
        });
        let digest = key.part(&body).digest();
        // It is not part of what is asked.
        if let Some(trace) = request.delivery.given_trace()
            && let Ok(value) = HeaderValue::try_from(trace.to_string())
        {
            headers.entry("traceparent").or_insert(value);
        }
        let by = (&request.runtime.egress, &request.runtime.http);
        let http = (self.method.clone(), headers, body);
        let asking = async move {
            let fetched = self
                .endpoint
                .fetch(by, &path, http, request.now, MAX_RESULT);
            fetched.await?.map_or(Ok(None), parse)
        };
        Ok((digest, Box::pin(asking)))
    }
}

/// Reads a response.
fn parse(body: Vec<u8>) -> Result<LookupResult, DeliveryError> {
    let bad = |why: String| {
        let message = format!("the response is not JSON: {why}");
        DeliveryError::Permanent(message, None)
    };
    let text = String::from_utf8(body).map_err(|_| bad("it is not UTF-8".to_owned()))?;
    let result: Box<RawValue> =
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    Ok((result.get() != "null").then(|| Arc::from(result)))
}
