//! `CloudEvents` 1.0, in structured and in binary mode.

use std::borrow::Cow;

use chrono::SecondsFormat;
use percent_encoding::{
    AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_encode_byte, utf8_percent_encode,
};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{HeaderProtocol, Headers, envelope};
use crate::delivery::Delivery;
use crate::delivery::event::Envelope;

/// What types begin with: the name of the resources' group, from its end.
const TYPE_PREFIX: &str = "dev.fraiseql.observers.";

/// Content type of the data.
const DATA_CONTENT_TYPE: &str = "application/json";

/// What the path of a URI cannot hold as it is; `/` parts namespace and name.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// What a value in a header of HTTP or NATS cannot hold as it is. All beyond ASCII is encoded anyway.
const HEADER_VALUE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Names and values of attributes.
type Attributes<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// An event in structured mode.
struct Structured<'a> {
    attributes: Attributes<'a>,
    data: Envelope<'a>,
}

impl Serialize for Structured<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.attributes.len() + 1))?;
        for (name, value) in &self.attributes {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("data", &self.data)?;
        map.end()
    }
}

/// Writes a delivery in structured mode.
pub(super) fn structured(listener: &str, delivery: &Delivery) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Structured {
        attributes: attributes(listener, delivery),
        data: envelope(delivery),
    })
}

/// Returns the headers of a delivery in binary mode.
pub(super) fn headers(listener: &str, delivery: &Delivery, protocol: HeaderProtocol) -> Headers {
    // NATS has no other header for it.
    let is_sent = |name: &str| protocol == HeaderProtocol::Nats || name != "datacontenttype";
    let header = |(name, value): (&str, Cow<'_, str>)| match protocol {
        HeaderProtocol::Kafka => (format!("ce_{name}"), value.into_owned()),
        HeaderProtocol::Http | HeaderProtocol::Nats => (
            format!("ce-{name}"),
            utf8_percent_encode(&value, HEADER_VALUE).to_string(),
        ),
    };
    attributes(listener, delivery)
        .into_iter()
        .filter(|(name, _)| is_sent(name))
        .map(header)
        .collect()
}

/// Returns the attributes that have a value. They are the same in each attempt.
fn attributes<'a>(listener: &str, delivery: &'a Delivery) -> Attributes<'a> {
    let event = &delivery.event;
    let (entity, key) = (text(&event.entity), event.key.as_deref().map(text));
    let subject = match &key {
        Some(key) => Cow::Owned(format!("{entity}/{key}")),
        None => entity,
    };
    let source = format!("/observers/{}", utf8_percent_encode(listener, PATH));
    let kind = event.operation.as_str().to_ascii_lowercase();
    let time = event
        .occurred_at
        .to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let all = [
        ("specversion", Some("1.0".into())),
        ("id", Some(Cow::from(&event.id))),
        ("source", Some(source.into())),
        ("type", Some(format!("{TYPE_PREFIX}{kind}").into())),
        ("subject", Some(subject)),
        ("time", Some(time.into())),
        ("datacontenttype", Some(DATA_CONTENT_TYPE.into())),
        ("partitionkey", key),
        ("tenant", event.tenant.as_deref().map(text)),
        ("observer", Some((&*delivery.observer).into())),
        ("action", Some((&*delivery.action).into())),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

/// Returns a text as an attribute may have it: control characters and code points that Unicode gives no
/// meaning are percent-encoded.
fn text(text: &str) -> Cow<'_, str> {
    if !text.contains(is_forbidden) {
        return text.into();
    }
    let mut allowed = String::with_capacity(text.len() + 2);
    for c in text.chars() {
        if is_forbidden(c) {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).bytes();
            allowed.extend(bytes.map(percent_encode_byte));
        } else {
            allowed.push(c);
        }
    }
    allowed.into()
}

/// Returns whether no attribute may hold a character.
fn is_forbidden(c: char) -> bool {
    let is_noncharacter = matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe;
    c.is_control() || is_noncharacter
}
