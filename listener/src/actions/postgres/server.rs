//! Server of statements: connections to a remote one through a relay, or to the listener's own database.

use std::sync::Arc;
use std::time::Duration;

use crds::config::{PostgresConfig, Redacted, TlsConfig};
use sqlx::PgPool;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error;
use super::own_database::{self, DeliveryClaims, OwnDatabaseError};
use super::relay::{PostgresRelay, RelayTarget, RelayTls};
use crate::actions::deliver_action::denied_literal;
use crate::admission::action_runtime::ActionRuntime;
use crate::database;
use crate::egress::response::{DeliveryError, connection_failed};
use crate::egress::tls::{Verify, client_config_with};
use crate::templating::compile_error::CompileError;

/// Most connections to one server.
const MAX_CONNECTIONS: u32 = 8;

/// Longest wait for a connection; the timeout of an attempt may be shorter.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Message for statements in the listener's own database where that is not allowed.
const NOT_ALLOWED: &str = "statements in the listener's own database are not allowed: if they are to be, \
     give them a login of their own by spec.egress.ownDatabase.url of the ObserverListener; else give this a \
     postgres.url";

/// Server of statements.
pub(crate) struct PostgresServer {
    /// Where they are run; in the listener's own database where absent.
    remote: Option<RemoteServer>,
    connections: Mutex<Option<Connections>>,
}

/// Connections, their relay to a remote server, and how deliveries are claimed in the listener's own
/// database.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) pool: PgPool,
    relay: Option<Arc<PostgresRelay>>,
    pub(super) claims: Option<Arc<DeliveryClaims>>,
}

struct RemoteServer {
    /// The URL, which may hold a password.
    key: String,
    host: String,
    options: PgConnectOptions,
    target: RelayTarget,
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StatementError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the relay to the server cannot be started")]
    RelayStart(#[source] std::io::Error),
    #[error("the server cannot be reached, or sends too much")]
    Relay(DeliveryError),
    #[error("{NOT_ALLOWED}")]
    NotAllowed,
    #[error(transparent)]
    Own(#[from] OwnDatabaseError),
}

impl StatementError {
    /// Returns whether a statement wrote in a read-only transaction.
    pub(crate) fn is_read_only(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        let code = error.as_database_error().and_then(DatabaseError::code);
        code.as_deref() == Some(error::READ_ONLY)
    }
}

impl From<StatementError> for DeliveryError {
    fn from(error: StatementError) -> Self {
        match error {
            StatementError::RelayStart(error) => connection_failed(error),
            StatementError::Relay(error) => error,
            StatementError::Database(error) => error::delivery_error(&error),
            StatementError::NotAllowed => Self::EgressDenied(error.to_string()),
            StatementError::Own(error) => error.into(),
        }
    }
}

impl PostgresServer {
    pub(crate) fn compile(config: &PostgresConfig) -> Result<Self, CompileError> {
        let remote = config.url.as_ref();
        let remote = remote.map(|url| RemoteServer::compile(url, config.tls.as_ref()));
        Ok(Self {
            remote: remote.transpose()?,
            connections: Mutex::new(None),
        })
    }

    /// Returns a key that tells it from others and may hold a secret, and its host, for people.
    pub(crate) fn endpoint(&self) -> (&str, &str) {
        let own = ("the listener's own database", "the listener's own database");
        let remote = self.remote.as_ref();
        remote.map_or(own, |server| (&server.key, &server.host))
    }

    /// Returns why the egress policy denies it, where that is known without resolving a name.
    pub(crate) fn egress_denied(&self, runtime: &ActionRuntime) -> Option<String> {
        match &self.remote {
            Some(server) => denied_literal(&server.host, runtime),
            None if runtime.own_database.is_some() => None,
            None => Some(NOT_ALLOWED.to_owned()),
        }
    }

    /// Drops the connections; those in use are closed once they are returned.
    pub(crate) async fn disconnect(&self) {
        drop(self.connections.lock().await.take());
    }

    /// Runs statements by its connections. Where the session is at fault, the next attempt gets another; a
    /// statement whose cached plan is stale has had no effect, and is run again at once.
    pub(crate) async fn run<T, W, R>(
        &self,
        runtime: &ActionRuntime,
        work: &W,
    ) -> Result<T, StatementError>
    where
        W: Fn(Connections) -> R + Sync,
        R: Future<Output = Result<T, sqlx::Error>> + Send,
    {
        let ran = self.run_once(runtime, work).await;
        let Err(StatementError::Database(error)) = &ran else {
            return ran;
        };
        if error::session_is_useless(error) {
            self.disconnect().await;
        }
        if error::plan_is_old(error) {
            return self.run_once(runtime, work).await;
        }
        ran
    }

    async fn run_once<T, W, R>(
        &self,
        runtime: &ActionRuntime,
        work: &W,
    ) -> Result<T, StatementError>
    where
        W: Fn(Connections) -> R + Sync,
        R: Future<Output = Result<T, sqlx::Error>> + Send,
    {
        let connections = self.connections(runtime).await?;
        let (relay, begun) = (connections.relay.clone(), Instant::now());
        let ran = work(connections).await;
        match (&ran, relay) {
            // The server's own errors are clear.
            (Err(sqlx::Error::Database(_)) | Ok(_), _) | (_, None) => Ok(ran?),
            (_, Some(relay)) => match relay.fault.since(begun) {
                Some(known) => Err(StatementError::Relay(known)),
                None => Ok(ran?),
            },
        }
    }

    /// Returns the pool: to an address that the egress policy allows, or to the listener's own database by
    /// a login with few privileges.
    async fn connections(&self, runtime: &ActionRuntime) -> Result<Connections, StatementError> {
        let mut kept = self.connections.lock().await;
        if let Some(connections) = &*kept {
            return Ok(connections.clone());
        }
        let made = if let Some(server) = &self.remote {
            let relay = PostgresRelay::open(server.target.clone(), &runtime.egress);
            let relay = relay.map_err(StatementError::RelayStart)?;
            let options = server.options.clone().ssl_mode(PgSslMode::Disable);
            Connections {
                pool: pool(options.socket(relay.folder())),
                relay: Some(Arc::new(relay)),
                claims: None,
            }
        } else {
            let own = runtime
                .own_database
                .as_ref()
                .ok_or(StatementError::NotAllowed)?;
            let claims = own_database::claims(own).await?;
            let options = database::options(&own.url).map_err(OwnDatabaseError::Url)?;
            Connections {
                pool: pool(options),
                relay: None,
                claims: Some(Arc::new(claims)),
            }
        };
        Ok(kept.insert(made).clone())
    }
}

fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .connect_lazy_with(options.application_name("observer-listener action"))
}

impl RemoteServer {
    fn compile(url: &Redacted, tls: Option<&TlsConfig>) -> Result<Self, CompileError> {
        let bad = |what: String| CompileError::field("postgres.url", what);
        let identity = tls.is_some_and(|tls| tls.identity.is_some());
        let options = database::foreign_options(url, identity)
            .map_err(|error| bad(format!("cannot be used: {error}")))?;
        if options.get_socket().is_some() || options.get_host().starts_with('/') {
            return Err(bad("names a socket; write host and port".to_owned()));
        }
        let (host, port) = (options.get_host().to_owned(), options.get_port());
        Ok(Self {
            key: url.reveal().to_owned(),
            host: format!("{host}:{port}"),
            target: RelayTarget {
                host,
                port,
                tls: encryption(options.get_ssl_mode(), tls)?,
            },
            options,
        })
    }
}

/// Returns the encryption of connections: verified wherever the action has settings for it.
fn encryption(mode: PgSslMode, tls: Option<&TlsConfig>) -> Result<Option<RelayTls>, CompileError> {
    let verify = match (mode, tls) {
        (PgSslMode::VerifyCa, _) => Verify::Authority,
        (PgSslMode::VerifyFull, _) | (_, Some(_)) => Verify::Host,
        (PgSslMode::Disable | PgSslMode::Allow, None) => return Ok(None),
        (PgSslMode::Prefer | PgSslMode::Require, None) => Verify::Nothing,
    };
    let own = tls.cloned().unwrap_or_default();
    Ok(Some(RelayTls {
        config: Arc::new(client_config_with("postgres.tls", &own, verify)?),
        required: tls.is_some() || !matches!(mode, PgSslMode::Prefer),
    }))
}
