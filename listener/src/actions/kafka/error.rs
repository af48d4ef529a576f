//! Errors of the client of Kafka, as delivery errors.

use rskafka::client::error::{Error, ProtocolError};

use crate::egress::response::{DeliveryError, append_remedy, connection_failed};
use crate::egress::socks5::Socks5Proxy;

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum KafkaSendError {
    /// A broker was not reached; the proxy knows why.
    #[error("a broker cannot be reached")]
    Proxy(DeliveryError),
    #[error("the proxy to the brokers cannot be started")]
    ProxyStart(#[source] std::io::Error),
    #[error("there is no topic {0}")]
    NoTopic(String),
    #[error(transparent)]
    Client(#[from] Error),
}

/// Permanent errors of brokers, with their code in the protocol, and remedies.
const PERMANENT: [(ProtocolError, u16, &str); 9] = [
    (
        ProtocolError::MessageTooLarge,
        TOO_LARGE,
        "the record is larger than message.max.bytes of the broker, or max.message.bytes of the topic: give \
         the action a kafka.message that picks what it needs, or raise that",
    ),
    (
        ProtocolError::RecordListTooLarge,
        TOO_LONG,
        "the records are larger than segment.bytes of the topic: make kafka.batch smaller",
    ),
    (
        ProtocolError::InvalidRecord,
        INVALID,
        "the topic takes no such record; one that is compacted needs a key",
    ),
    (
        ProtocolError::PolicyViolation,
        44,
        "a policy of the cluster forbids the record",
    ),
    (
        ProtocolError::InvalidTopicException,
        17,
        "this is no topic that may be written to",
    ),
    (
        ProtocolError::TopicAuthorizationFailed,
        29,
        "the user may not write to the topic: allow it, as with \
         `kafka-acls.sh --add --allow-principal User:NAME --producer --topic TOPIC`",
    ),
    (
        ProtocolError::ClusterAuthorizationFailed,
        31,
        "the user may not write to this cluster",
    ),
    (
        ProtocolError::InvalidRequiredAcks,
        21,
        "the topic cannot wait for all of its replicas",
    ),
    (
        ProtocolError::UnsupportedForMessageFormat,
        43,
        "the topic has a format of records from before Kafka 0.11",
    ),
];

const TOO_LARGE: u16 = 10;
const TOO_LONG: u16 = 18;
const INVALID: u16 = 87;

/// Remedies for connections that fail, by a word of their error.
const REMEDIES: [(&str, &str); 3] = [
    (
        "UnknownIssuer",
        "if a private authority signed its certificate, give that as kafka.tls.ca",
    ),
    (
        "NotValidForName",
        "its certificate does not bear the name that the brokers give it; mend advertised.listeners",
    ),
    (
        "CertificateRequired",
        "it asks for a certificate; give kafka.tls.certificate and kafka.tls.key",
    ),
];

impl KafkaSendError {
    /// Returns the error of the client, or of the proxy where that knows better.
    pub(super) fn of(error: Error, proxy: &Socks5Proxy) -> Self {
        let unmade = matches!(error, Error::Connection(_) | Error::RetryFailed(_));
        match proxy.last_error() {
            Some(known) if unmade => Self::Proxy(known),
            _ => Self::Client(error),
        }
    }
}

impl From<KafkaSendError> for DeliveryError {
    fn from(error: KafkaSendError) -> Self {
        match error {
            KafkaSendError::Proxy(error) => error,
            KafkaSendError::ProxyStart(error) => connection_failed(error),
            KafkaSendError::NoTopic(topic) => Self::TemporarilyRejected(
                format!(
                    "there is no topic {topic}, or it may not be seen: make it, as with \
                     `kafka-topics.sh --create --topic {topic}`"
                ),
                None,
            ),
            KafkaSendError::Client(error) => of_client(&error),
        }
    }
}

fn of_client(error: &Error) -> DeliveryError {
    if let Error::ServerError { protocol_error, .. } = error {
        let known = PERMANENT.iter().find(|(known, ..)| known == protocol_error);
        return match known {
            Some((_, code, remedy)) => DeliveryError::Permanent((*remedy).to_owned(), Some(*code)),
            None => DeliveryError::Unavailable(format!("Kafka says {protocol_error}"), None),
        };
    }
    // The first cause is only in the text of the last error.
    let said = error.to_string();
    if let Some((_, why)) = said.split_once("Sasl handshake failed: ")
        && !why.starts_with("Request error")
    {
        return DeliveryError::Permanent(
            format!(
                "it lets nobody in with these kafka.sasl mechanism, username and password: {why}"
            ),
            None,
        );
    }
    connection_failed(append_remedy(said.clone(), &REMEDIES, |known| {
        said.contains(known)
    }))
}

/// Returns whether a rejection may be for one of several records that were sent together.
pub(super) fn concerns_content(result: &Result<(), DeliveryError>) -> bool {
    matches!(
        result,
        Err(DeliveryError::Permanent(
            _,
            Some(TOO_LARGE | TOO_LONG | INVALID)
        ))
    )
}
