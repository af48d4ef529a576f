//! What sends telemetry, as its resource says.

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;

/// Returns what sends telemetry of a listener. The environment has the last word.
pub(crate) fn resource(
    listener: &str,
    instance: &str,
    variable: impl Fn(&str) -> Option<String>,
) -> Resource {
    let given = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let has_name = variable("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
    let own = [
        ("service.name", "observer-listener"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
        ("observer.listener", listener),
    ];
    let own = own.into_iter().filter(|(key, _)| {
        let is_given = given.split(',').any(|pair| {
            let name = pair.split_once('=').map(|(name, _)| name.trim());
            name == Some(key)
        });
        !(is_given || *key == "service.name" && has_name)
    });
    Resource::builder()
        .with_attributes(own.map(|(key, value)| KeyValue::new(key, value.to_owned())))
        .build()
}
