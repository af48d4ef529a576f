//! Validation of a Kafka record: the rules that its schema cannot say.

use super::batch::batch;
use super::format::{check_format, format_content_type};
use crate::config::{KafkaConfig, SaslConfig, SaslMechanism, TlsConfig};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{Kafka, Sasl, Tls};
use crate::validation::context::ValidationContext;
use crate::validation::names::is_domain;
use crate::validation::tls;

/// Port of a broker that names none.
const DEFAULT_PORT: u16 = 9092;

/// Validates a Kafka record and returns its configuration, with placeholders for what it reports.
pub(super) fn check(at: &str, kafka: &Kafka, context: &mut ValidationContext<'_>) -> KafkaConfig {
    let (brokers, tls, sasl) = cluster(
        at,
        (&kafka.brokers, kafka.tls.as_ref(), kafka.sasl.as_ref()),
        context,
    );
    check_format(
        at,
        kafka.format,
        ("message", kafka.message.as_ref()),
        context,
    );
    KafkaConfig {
        brokers,
        topic: kafka.topic.clone(),
        key: kafka.key.clone(),
        message: kafka.message.clone(),
        format: kafka.format,
        content_type: format_content_type(at, kafka.format, (&kafka.content_type, false), context),
        tls,
        sasl,
        batch: batch(&field(at, "batch"), kafka.batch, context),
    }
}

/// Brokers, and what connections to them need.
type Cluster = (Vec<(String, u16)>, Option<TlsConfig>, Option<SaslConfig>);

/// Validates the brokers of a cluster at `at`, and what connections to them need.
pub(in crate::validation) fn cluster(
    at: &str,
    (names, tls, sasl): (&[String], Option<&Tls>, Option<&Sasl>),
    context: &mut ValidationContext<'_>,
) -> Cluster {
    if let Some(sasl) = sasl
        && sasl.mechanism == SaslMechanism::Plain
        && tls.is_none()
    {
        context.error(
            &field(&field(at, "sasl"), "mechanism"),
            "would send the password in the clear; give `tls`, or make it ScramSha512 or ScramSha256",
        );
    }
    (
        brokers(&field(at, "brokers"), names, context),
        tls.map(|tls| tls::check(&field(at, "tls"), tls, context)),
        sasl.and_then(|sasl| login(&field(at, "sasl"), sasl, context)),
    )
}

fn brokers(
    at: &str,
    brokers: &[String],
    context: &mut ValidationContext<'_>,
) -> Vec<(String, u16)> {
    let mut all = Vec::with_capacity(brokers.len());
    for (index, broker) in brokers.iter().enumerate() {
        let parsed = parse(broker);
        if parsed.is_none() {
            context.error(
                &format!("{at}/{index}"),
                "is no broker; write its name or IPv4 address and its port, as kafka.example.com:9092",
            );
        }
        all.extend(parsed);
    }
    all
}

fn parse(broker: &str) -> Option<(String, u16)> {
    let (host, port) = match broker.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        None => (broker, DEFAULT_PORT),
    };
    let host = host.to_ascii_lowercase();
    let proper = is_domain(&host) || host.parse::<std::net::Ipv4Addr>().is_ok();
    proper.then_some((host, port))
}

fn login(at: &str, sasl: &Sasl, context: &mut ValidationContext<'_>) -> Option<SaslConfig> {
    let username = context.resolve(&field(at, "username"), &sasl.username);
    let password = context.resolve(&field(at, "password"), &sasl.password);
    Some(SaslConfig {
        mechanism: sasl.mechanism,
        username: username?.1,
        password: password?.1,
    })
}
