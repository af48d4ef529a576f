//! What the spans of an action's attempts say, after the semantic conventions of OpenTelemetry: where it goes,
//! and never a URL, a header or a value.

use std::borrow::Cow;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::deliver_action::DeliverAction;
use crate::admission::host_limits::without_port;

/// Name, kind and attributes of all spans of an action.
#[derive(Debug)]
pub(crate) struct ActionSpan {
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: SpanKind,
    pub(crate) attributes: Vec<KeyValue>,
}

impl ActionSpan {
    /// Describes an action of a kind.
    pub(super) fn of(kind: &'static str, action: &dyn DeliverAction) -> Self {
        let mut attributes = match kind {
            "webhook" | "slack" | "teams" => {
                let method = action.http_method().to_string();
                vec![KeyValue::new("http.request.method", method)]
            }
            "kafka" | "nats" | "redis" => vec![
                KeyValue::new("messaging.system", kind),
                KeyValue::new("messaging.operation.name", "send"),
                KeyValue::new("messaging.operation.type", "send"),
            ],
            "postgres" => vec![KeyValue::new("db.system.name", "postgresql")],
            _ => Vec::new(),
        };
        if let Some((_, host)) = action.endpoint() {
            attributes.extend(server(host));
        }
        Self {
            name: match kind {
                "webhook" | "slack" | "teams" => Cow::Owned(action.http_method().to_string()),
                "kafka" | "nats" | "redis" => Cow::Borrowed("send"),
                other => Cow::Borrowed(other),
            },
            kind: match kind {
                "kafka" | "nats" | "redis" => SpanKind::Producer,
                "log" => SpanKind::Internal,
                _ => SpanKind::Client,
            },
            attributes,
        }
    }
}

/// Returns the attributes of a host, perhaps with a port.
pub(crate) fn server(host: &str) -> impl Iterator<Item = KeyValue> {
    let address = without_port(host);
    let port = host
        .rsplit_once(':')
        .filter(|(name, _)| name.ends_with(']') || !name.contains(':'))
        .and_then(|(_, port)| port.parse::<i64>().ok());
    let address: Arc<str> = Arc::from(address);
    std::iter::once(KeyValue::new("server.address", address))
        .chain(port.map(|port| KeyValue::new("server.port", port)))
}

#[cfg(test)]
mod tests {
    use super::server;

    #[test]
    fn hosts_are_told_from_ports() {
        let shown = |host| {
            let all = server(host).map(|one| format!("{}={}", one.key, one.value));
            all.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("example.com"), "server.address=example.com");
        assert_eq!(shown("kafka:9092"), "server.address=kafka server.port=9092");
        assert_eq!(shown("[::1]:80"), "server.address=::1 server.port=80");
        assert_eq!(shown("fe80::1"), "server.address=fe80::1");
    }
}
