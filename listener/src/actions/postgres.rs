//! Postgres actions: statements. Values are bound as parameters, never put into the statement's text.
//!
//! In the listener's own database each delivery takes effect exactly once: with the effect, in the
//! same transaction, the delivery is claimed, and an attempt that finds it claimed does nothing. (An
//! idempotent receiver, as Hohpe and Woolf, "Enterprise Integration Patterns", have it, with its memory
//! in the transaction.) Elsewhere a statement whose answer was lost is run again.

mod error;
pub(crate) mod own_database;
mod relay;
mod statement;

use std::sync::Arc;
use std::time::Duration;

use ::queue::sql_transaction;
use chrono::{DateTime, Utc};
use crds::config::{PostgresConfig, Redacted, TlsConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::own_database::DeliveryClaims;
pub(crate) use self::own_database::purge_processed;
pub use self::own_database::{OwnDatabaseError, verify as verify_own_database};
use self::relay::{PostgresRelay, RelayTarget, RelayTls};
use super::deliver_action::{
    ActionDefinition, AttemptRequest, DeliverAction, Preview, Transmission, denied_literal,
};
use super::template_source::{TemplateSource, TemplateSources};
use crate::admission::action_runtime::ActionRuntime;
use crate::database;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::egress::redaction::Secrets;
use crate::egress::response::{DeliveryError, connection_failed};
use crate::egress::tls::{Verify, client_config_with};
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::{Format, NULL};
use crate::templating::template::Template;

/// Most connections of one action.
const MAX_CONNECTIONS: u32 = 8;

/// Longest wait for a connection; an action's timeout may be shorter.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Message for statements in the listener's own database where that is not allowed.
const NOT_ALLOWED: &str = "statements in the listener's own database are not allowed: if they are to be, \
     give them a login of their own by spec.egress.ownDatabase.url of the ObserverListener; else give the action a \
     postgres.url";

/// Compiled statement.
pub(super) struct Postgres {
    /// Where it is run; in the listener's own database where absent.
    remote: Option<RemoteServer>,
    statement: String,
    parameters: Vec<Template>,
    pool: Mutex<Option<Connections>>,
}

/// Connections, their relay to a remote server, and how deliveries are claimed in the listener's own
/// database.
#[derive(Clone)]
struct Connections {
    pool: PgPool,
    relay: Option<Arc<PostgresRelay>>,
    claims: Option<Arc<DeliveryClaims>>,
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
enum StatementError {
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

impl Postgres {
    fn compile(config: &PostgresConfig) -> Result<Self, CompileError> {
        Ok(Self {
            remote: config
                .url
                .as_ref()
                .map(|url| RemoteServer::compile(url, config.tls.as_ref()))
                .transpose()?,
            statement: config.statement.clone(),
            parameters: Template::all(
                "postgres.parameters",
                &config.parameters,
                Format::Parameter,
            )?,
            pool: Mutex::new(None),
        })
    }

    /// Runs it in a transaction. Where the session is at fault, the next attempt gets another; a statement
    /// whose cached plan is stale has had no effect, and is run again at once.
    async fn run(
        &self,
        request: AttemptRequest<'_>,
        parameters: Vec<Option<String>>,
    ) -> Result<(), StatementError> {
        let ran = self.run_once(request, &parameters).await;
        let Err(StatementError::Database(error)) = &ran else {
            return ran;
        };
        if error::session_is_useless(error) {
            // Connections in use are closed once they are returned.
            drop(self.pool.lock().await.take());
        }
        if error::plan_is_old(error) {
            return self.run_once(request, &parameters).await;
        }
        ran
    }

    async fn run_once(
        &self,
        request: AttemptRequest<'_>,
        parameters: &[Option<String>],
    ) -> Result<(), StatementError> {
        let connections = self.connections(request.runtime).await?;
        let begun = Instant::now();
        let ran = self.run_by(&connections, request, parameters).await;
        match (&ran, connections.relay) {
            // The server's own errors are clear.
            (Err(sqlx::Error::Database(_)) | Ok(()), _) | (_, None) => Ok(ran?),
            (_, Some(relay)) => match relay.fault.since(begun) {
                Some(known) => Err(StatementError::Relay(known)),
                None => Ok(ran?),
            },
        }
    }

    async fn run_by(
        &self,
        connections: &Connections,
        request: AttemptRequest<'_>,
        parameters: &[Option<String>],
    ) -> Result<(), sqlx::Error> {
        let millis = request.timeout.as_millis().max(1);
        let begin = format!("begin; set local statement_timeout = {millis}");
        let mut tx = sql_transaction::begin_with(&connections.pool, begin).await?;
        if let Some(claims) = &connections.claims
            && !claims.claim(&mut tx, request.delivery).await?
        {
            tx.rollback().await?;
            return Ok(());
        }
        // Without a name, so that it is parsed each time: behind a pooler that gives each transaction a
        // session, names that one connection gave are another's, or mean another's statement.
        let mut statement = sqlx::query(AssertSqlSafe(self.statement.clone())).persistent(false);
        for parameter in parameters {
            statement = statement.bind(parameter);
        }
        statement.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    fn parameters(&self, delivery: &Delivery) -> Result<Vec<Option<String>>, Failure> {
        let subject = RenderInput::new(delivery);
        let parameters = self.parameters.iter();
        parameters
            .map(|template| parameter(template, &subject))
            .collect()
    }

    /// Returns the pool: to an address that the egress policy allows, or to the listener's own database by
    /// a login with few privileges.
    async fn connections(&self, runtime: &ActionRuntime) -> Result<Connections, StatementError> {
        let mut kept = self.pool.lock().await;
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

impl ActionDefinition for PostgresConfig {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn address_field(&self) -> &'static str {
        match self.url {
            Some(_) => "postgres.url",
            None => "postgres",
        }
    }

    fn compile(&self, _: u32) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Postgres::compile(self)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        TemplateSources::default()
            .texts("postgres.parameters", &self.parameters)
            .into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        if let Some(url) = &self.url {
            secrets.url(url);
        }
    }

    fn lint(&self) -> Option<(String, String)> {
        let message = statement::wrong(&self.statement, self.parameters.len())?;
        Some(("postgres.statement".to_owned(), message))
    }
}

impl DeliverAction for Postgres {
    fn endpoint(&self) -> Option<(&str, &str)> {
        let own = ("the listener's own database", "the listener's own database");
        let remote = self.remote.as_ref();
        Some(remote.map_or(own, |server| (&server.key, &server.host)))
    }

    fn egress_denied(&self, runtime: &ActionRuntime) -> Option<String> {
        match &self.remote {
            Some(server) => denied_literal(&server.host, runtime),
            None if runtime.own_database.is_some() => None,
            None => Some(NOT_ALLOWED.to_owned()),
        }
    }

    fn preview(&self, delivery: &Delivery, _: DateTime<Utc>) -> Result<Preview, Failure> {
        let host = self.endpoint().map_or("", |(_, host)| host);
        let mut preview = vec![(host.to_owned(), self.statement.clone())];
        let parameters = self.parameters(delivery)?.into_iter().enumerate();
        preview.extend(parameters.map(|(n, parameter)| {
            (
                format!("${}", n + 1),
                parameter.unwrap_or_else(|| "(null)".to_owned()),
            )
        }));
        Ok(preview)
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let parameters = self.parameters(request.delivery)?;
        Ok(Transmission::of(self.run(request, parameters)))
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

fn parameter(template: &Template, subject: &Arc<RenderInput>) -> Result<Option<String>, Failure> {
    let text = template.render(subject)?;
    if text == NULL {
        return Ok(None);
    }
    if text.contains('\0') {
        return Err(template.refusal(
            "came out with a null amid text, or with a character that Postgres cannot hold (NUL): give what may be \
             null a default, as in {{ new.note or \"\" }}",
        ));
    }
    Ok(Some(text))
}
