//! Validation of a webhook: the rules that its schema cannot say.

use std::collections::{BTreeMap, HashSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue as HttpValue};

use super::batch::batch;
use super::format::{check_format, format_content_type};
use crate::config::{
    HeaderValue, MessageFormat, Redacted, ServerUrl, WebhookConfig, is_json, is_own_header,
};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{ValueSource, Webhook};
use crate::validation::context::ValidationContext;
use crate::validation::tls;
use crate::validation::url::url;

/// What Standard Webhooks puts before the base64 of a secret.
const SECRET_PREFIX: &str = "whsec_";

/// Bytes of a signing secret, as Standard Webhooks has it.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Validates a webhook and returns its configuration, with placeholders for what it reports.
pub(super) fn check(
    at: &str,
    webhook: &Webhook,
    context: &mut ValidationContext<'_>,
) -> WebhookConfig {
    let format = webhook.format;
    check_format(at, format, ("body", webhook.body.as_ref()), context);
    if format == MessageFormat::CloudEventsBinary {
        check_binary(at, webhook, context);
    }
    if webhook.batch.is_some() {
        check_together(at, webhook, context);
    }
    WebhookConfig {
        url: url(&field(at, "url"), &webhook.url, ServerUrl::HTTP, context),
        method: webhook.method,
        headers: headers(&field(at, "headers"), &webhook.headers, context),
        body: webhook.body.clone(),
        format,
        content_type: format_content_type(
            at,
            format,
            (&webhook.content_type, webhook.batch.is_some()),
            context,
        ),
        signing_secrets: signing_secrets(at, webhook, context),
        batch: batch(&field(at, "batch"), webhook.batch, context),
        tls: webhook
            .tls
            .as_ref()
            .map(|tls| tls::check(&field(at, "tls"), tls, context)),
    }
}

/// The attributes of one event are headers.
fn check_binary(at: &str, webhook: &Webhook, context: &mut ValidationContext<'_>) {
    if webhook.batch.is_some() {
        context.error(
            &field(at, "format"),
            "has headers of one event, but one request is for several with `batch`; make it CloudEvents, or \
             leave out `batch`",
        );
    }
    for name in webhook.headers.keys() {
        if name.to_ascii_lowercase().starts_with("ce-") {
            context.error(
                &field(&field(at, "headers"), name),
                "is for the attributes that `format: CloudEventsBinary` sets; leave it out",
            );
        }
    }
}

/// One request is for several events.
fn check_together(at: &str, webhook: &Webhook, context: &mut ValidationContext<'_>) {
    if webhook.format == MessageFormat::Event && !is_json(&webhook.content_type) {
        context.error(
            &field(at, "contentType"),
            "is not JSON, but several events make a JSON array; leave out `batch`, or this",
        );
    }
    for (name, source) in &webhook.headers {
        let value = source.value.as_deref().unwrap_or_default();
        if value.contains("{{") || value.contains("{%") {
            context.error(
                &field(&field(at, "headers"), name),
                "holds a template, but one request is for several events with `batch`; put it into `body`",
            );
        }
    }
}

pub(in crate::validation) fn headers(
    at: &str,
    given: &BTreeMap<String, ValueSource>,
    context: &mut ValidationContext<'_>,
) -> Vec<(String, HeaderValue)> {
    let mut seen = HashSet::new();
    let mut headers = Vec::new();
    for (name, source) in given {
        let at = field(at, name);
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => context.error(
                &at,
                "is not a header's name; use letters, digits and `-`, as in `X-Shop`",
            ),
            Ok(header) => {
                if let Some(why) = own_header(header.as_str()) {
                    context.error(&at, why);
                }
                if !seen.insert(header) {
                    context.error(
                        &at,
                        "is there already in other letter case; keep one of them",
                    );
                }
            }
        }
        if let Some(value) = header_value(&at, source, context) {
            headers.push((name.clone(), value));
        }
    }
    headers
}

fn own_header(name: &str) -> Option<&'static str> {
    if name == "content-type" {
        Some("is set from `contentType`; give it there")
    } else if is_own_header(name) {
        Some("is set by the delivery itself; leave it out")
    } else {
        None
    }
}

fn header_value(
    at: &str,
    source: &ValueSource,
    context: &mut ValidationContext<'_>,
) -> Option<HeaderValue> {
    let (at, value) = context.resolve(at, source)?;
    if source.secret_key_ref.is_some() {
        if HttpValue::from_str(value.reveal()).is_err() {
            context.error(
                &at,
                "holds what no header can carry; the secret must be one line of visible ASCII",
            );
        }
        return Some(HeaderValue::Secret(value));
    }
    if value.reveal().chars().any(|c| c.is_control() && c != '\t') {
        context.error(
            &at,
            "holds a line break or another control character; write one line",
        );
    }
    Some(HeaderValue::Template(value.reveal().to_owned()))
}

pub(in crate::validation) fn content_type(
    at: &str,
    text: &str,
    context: &mut ValidationContext<'_>,
) -> String {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let proper = essence
        .split_once('/')
        .is_some_and(|(sort, subsort)| is_token(sort) && is_token(subsort));
    if !proper || HttpValue::from_str(text).is_err() {
        context.error(
            at,
            "is not a content type; write one such as `application/json`",
        );
    }
    text.to_owned()
}

/// A word as HTTP has it; names of headers are such words.
fn is_token(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

fn signing_secrets(
    at: &str,
    webhook: &Webhook,
    context: &mut ValidationContext<'_>,
) -> Vec<Redacted> {
    let mut sources = Vec::new();
    if let Some(source) = &webhook.signing_secret {
        sources.push((field(at, "signingSecret"), source));
    }
    if webhook.signing_secret.is_some() && !webhook.signing_secrets.is_empty() {
        context.error(
            &field(at, "signingSecrets"),
            "is given beside `signingSecret`; list every secret here and drop the other",
        );
    }
    let listed = webhook.signing_secrets.iter().enumerate();
    sources.extend(listed.map(|(index, source)| (format!("{at}/signingSecrets/{index}"), source)));
    sources
        .into_iter()
        .filter_map(|(at, source)| {
            let (at, secret) = context.resolve(&at, source)?;
            if !is_signing_secret(secret.reveal()) {
                context.error(
                    &at,
                    "is not a signing secret; write `whsec_` and the base64 of 24 to 64 random \
                     bytes, as `openssl rand -base64 32` prints it",
                );
            }
            Some(secret)
        })
        .collect()
}

fn is_signing_secret(text: &str) -> bool {
    let encoded = text.strip_prefix(SECRET_PREFIX).unwrap_or(text);
    STANDARD
        .decode(encoded)
        .is_ok_and(|bytes| SECRET_BYTES.contains(&bytes.len()))
}
