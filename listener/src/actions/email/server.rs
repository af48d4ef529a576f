//! Connections to SMTP servers, and their errors as delivery errors.

use std::net::SocketAddr;
use std::sync::Arc;

use crds::config::{SmtpConfig, SmtpTls, TlsConfig};
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, AsyncTokioStream, Certificate, TlsParameters, TlsVersion,
};
use lettre::transport::smtp::extension::ClientId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::egress::bounded::{BoundedStream, ConnectionFault, EXCLUSIVE};
use crate::egress::policy::{DialError, EgressPolicy};
use crate::egress::response::{DeliveryError, connection_failed};
use crate::egress::tls::client_config;
use crate::templating::compile_error::CompileError;

/// Remedy for an address that the server does not support.
const NOT_ASCII: &str = "an address has a letter before its @ that is not ASCII: give another one, or a server with \
     SMTPUTF8 and 8BITMIME";

/// SMTP server.
pub(super) struct SmtpServer {
    pub(super) key: String,
    /// `host:port`.
    pub(super) address: String,
    host: String,
    port: u16,
    encryption: Encryption,
    /// Why the last connection failed.
    pub(super) fault: ConnectionFault,
    login: Option<Credentials>,
}

/// Encryption of connections.
enum Encryption {
    None,
    /// TLS from the beginning.
    Implicit(Arc<ClientConfig>, ServerName<'static>),
    /// STARTTLS.
    StartTls(TlsParameters),
}

/// Why a message was not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum SmtpSendError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Smtp(#[from] smtp::Error),
    #[error("the connection cannot be encrypted")]
    Encrypt(#[source] std::io::Error),
}

impl AsyncTokioStream for BoundedStream<TcpStream> {
    fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        self.get_ref().peer_addr()
    }
}

impl AsyncTokioStream for BoundedStream<TlsStream<TcpStream>> {
    fn peer_addr(&self) -> std::io::Result<SocketAddr> {
        self.get_ref().get_ref().0.peer_addr()
    }
}

impl SmtpServer {
    pub(super) fn compile(config: &SmtpConfig) -> Result<Self, CompileError> {
        let address = format!("{}:{}", config.host, config.port);
        let login = config.login.as_ref();
        let user = login.map_or("", |(user, _)| user.reveal());
        Ok(Self {
            key: format!("smtp://{user}@{address}"),
            address,
            host: config.host.clone(),
            port: config.port,
            encryption: match config.tls {
                SmtpTls::None => Encryption::None,
                SmtpTls::Implicit => implicit(config)?,
                SmtpTls::StartTls => Encryption::StartTls(parameters(config)?),
            },
            fault: ConnectionFault::default(),
            login: login.map(|(user, password)| {
                let (user, password) = (user.reveal().trim(), password.reveal().trim());
                Credentials::new(user.to_owned(), password.to_owned())
            }),
        })
    }

    /// Connects to an address that the egress policy allows, and logs in.
    pub(super) async fn connect(
        &self,
        egress: &EgressPolicy,
    ) -> Result<AsyncSmtpConnection, SmtpSendError> {
        let stream = egress.dial(&self.host, self.port).await?;
        let stream: Box<dyn AsyncTokioStream> = match &self.encryption {
            Encryption::Implicit(config, name) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let stream = connector.connect(name.clone(), stream).await;
                let stream = stream.map_err(SmtpSendError::Encrypt)?;
                Box::new(BoundedStream::new(stream, EXCLUSIVE, &self.fault))
            }
            Encryption::None | Encryption::StartTls(_) => {
                Box::new(BoundedStream::new(stream, EXCLUSIVE, &self.fault))
            }
        };
        let hello = ClientId::default();
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &hello).await?;
        if let Encryption::StartTls(parameters) = &self.encryption {
            connection.starttls(parameters.clone(), &hello).await?;
        }
        if let Some(login) = &self.login {
            connection.auth(DEFAULT_MECHANISMS, login).await?;
        }
        Ok(connection)
    }
}

fn implicit(config: &SmtpConfig) -> Result<Encryption, CompileError> {
    let name = config.host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(name)
        .map_err(|_| CompileError::field("email.smtp.host", "is no host"))?;
    let own = TlsConfig {
        ca: config.ca.clone(),
        ..TlsConfig::default()
    };
    Ok(Encryption::Implicit(
        Arc::new(client_config("email.smtp", &own)?),
        name,
    ))
}

fn parameters(config: &SmtpConfig) -> Result<TlsParameters, CompileError> {
    let mut builder =
        TlsParameters::builder(config.host.clone()).set_min_tls_version(TlsVersion::Tlsv12);
    if let Some(ca) = &config.ca {
        let bad = |what: String| CompileError::field("email.smtp.ca", what);
        let certificate = Certificate::from_pem(ca.reveal().as_bytes())
            .map_err(|_| bad("holds no certificate; give it as PEM".to_owned()))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder.build().map_err(|error| {
        CompileError::field("email.smtp", format!("cannot be reached by TLS: {error}"))
    })
}

impl From<SmtpSendError> for DeliveryError {
    fn from(error: SmtpSendError) -> Self {
        let error = match error {
            SmtpSendError::Dial(why) => return why.into(),
            SmtpSendError::Encrypt(error) => return connection_failed(error),
            SmtpSendError::Smtp(error) => error,
        };
        let status = error.status().map(u16::from);
        if error.is_transient() {
            return match status {
                // Of a mailbox, or of this message; those of the server itself are others.
                Some(450..=453 | 455..=459) => Self::TemporarilyRejected(said(&error), status),
                _ => Self::Unavailable(said(&error), status),
            };
        }
        if error.is_tls() || error.is_client() {
            let said = said(&error);
            // The client's words for what the server does not offer.
            if said.contains("non-ascii") {
                return Self::Permanent(format!("{said}; {NOT_ASCII}"), None);
            }
            return Self::Misconfigured(said);
        }
        if !error.is_permanent() {
            return connection_failed(said(&error));
        }
        let remedy = match status {
            Some(530 | 534 | 535 | 538) => {
                "; user or password of email.smtp are wrong, or it wants another way to log in"
            }
            Some(550 | 551 | 553) => "; correct the address, or take it out",
            Some(552) => "; the message is too large for the server or the mailbox",
            Some(554) => "; the server takes no such message from this sender",
            _ => "",
        };
        Self::Permanent(format!("{}{remedy}", said(&error)), status)
    }
}

/// Returns the error and its cause, where it does not name that itself.
fn said(error: &smtp::Error) -> String {
    let said = error.to_string();
    let cause = std::error::Error::source(error).map(ToString::to_string);
    // It is cut once it holds no secret.
    match cause {
        Some(cause) if !said.contains(&cause) => format!("{said}: {cause}"),
        _ => said,
    }
}
