//! Sending by HTTP, for the kinds of action that do.

use std::sync::Arc;

use crds::config::{HeaderValue as HeaderConfig, Redacted, is_own_header};
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::deliver_action::{AttemptRequest, Transmission};
use crate::delivery::failure::{Failure, FailureKind};
use crate::egress::http_client::HttpEndpoint;
use crate::egress::response::DeliveryError;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;
use crate::trace::spans::AttemptTrace;

/// Headers that a configuration adds to a request.
pub(crate) struct RequestHeaders(Vec<(HeaderName, Header)>);

enum Header {
    Template(Template),
    Fixed(HeaderValue),
}

impl RequestHeaders {
    /// Compiles the headers at `place`.
    pub(crate) fn compile(
        place: &str,
        headers: &[(String, HeaderConfig)],
    ) -> Result<Self, CompileError> {
        let headers = headers.iter().map(|one| header(place, one));
        headers.collect::<Result<_, _>>().map(Self)
    }

    /// Renders the headers for one delivery, with room for some more.
    pub(crate) fn render(&self, input: &Arc<RenderInput>) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::with_capacity(self.0.len() + 6);
        for (name, value) in &self.0 {
            headers.append(name.clone(), value.render(name, input)?);
        }
        Ok(headers)
    }
}

/// Returns headers for people: names, and values without secrets.
pub(crate) fn shown(headers: &HeaderMap) -> impl Iterator<Item = (String, String)> {
    headers.iter().map(|(name, value)| {
        let hidden = value.is_sensitive() || name == "webhook-signature";
        let shown = if hidden {
            Redacted::default().to_string()
        } else {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        (name.to_string(), shown)
    })
}

impl HttpEndpoint {
    /// Returns the sending of an HTTP request.
    pub(super) fn transmit<'a>(
        &'a self,
        request: AttemptRequest<'a>,
        http: (Method, HeaderMap, Vec<u8>),
    ) -> Transmission<'a> {
        let (runtime, now, timeout) = (request.runtime, request.now, request.timeout);
        let by = (&runtime.egress, &runtime.http);
        let delivery = request.delivery;
        Transmission::of(async move {
            let status = self.send(by, http, now, timeout).await?;
            if let AttemptTrace::Recorded(span) = &delivery.trace {
                span.note_status(status.as_u16());
            }
            Ok::<_, DeliveryError>(())
        })
    }
}

impl Header {
    fn render(&self, name: &HeaderName, input: &Arc<RenderInput>) -> Result<HeaderValue, Failure> {
        let template = match self {
            Self::Fixed(value) => return Ok(value.clone()),
            Self::Template(template) => template,
        };
        let text = template.render(input)?;
        if text.chars().any(char::is_control) {
            let message = format!(
                "the header {name} came out with a line break or another control character: \
                 remove it in the template, for instance with {{{{ new.note|replace(\"\\n\", \" \") }}}}"
            );
            return Err(Failure::of(FailureKind::Template, message));
        }
        HeaderValue::try_from(text).map_err(|_| {
            let message = format!("the header {name} came out as no header value");
            Failure::of(FailureKind::Template, message)
        })
    }
}

fn header(
    place: &str,
    (name, value): &(String, HeaderConfig),
) -> Result<(HeaderName, Header), CompileError> {
    let bad = |what| CompileError::field(format!("{place}[{name}]"), what);
    let parsed = HeaderName::try_from(name.as_str())
        .map_err(|_| bad("is no header name; use letters, digits and hyphens"))?;
    if is_own_header(parsed.as_str()) {
        return Err(bad("is set by the listener itself; remove it"));
    }
    let value = match value {
        HeaderConfig::Template(source) => {
            let place = format!("{place}[{name}]");
            Header::Template(Template::compile(place, source, Format::Text)?)
        }
        HeaderConfig::Secret(secret) => {
            // Secrets read from files often end in a line break.
            let mut value = HeaderValue::from_str(secret.reveal().trim())
                .map_err(|_| bad("has a secret that is no header value"))?;
            value.set_sensitive(true);
            Header::Fixed(value)
        }
    };
    Ok((parsed, value))
}
