//! Statements in Postgres. Values are bound as parameters, never put into the statement's text.
//!
//! In the listener's own database each delivery takes effect exactly once: with the effect, in the
//! same transaction, a row of `observer.effect` is written that names the delivery, and an attempt
//! that finds one there does nothing. (An idempotent receiver, as Hohpe and Woolf, "Enterprise
//! Integration Patterns", have it, with its memory in the transaction.) Elsewhere a statement whose
//! answer was lost is run again.
//!
//! This module owns `observer.effect`.

mod answer;
mod relay;

use std::sync::Arc;
use std::time::Duration;

use ::queue::transaction;
use crds::config::{OwnDatabase, PostgresConfig, Redacted, TlsConfig};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::relay::{Relay, Target, Tls};
use super::answer::{Answer, broken, within};
use super::escape::{Format, NULL};
use super::scope::Subject;
use super::shared::Shared;
use super::template::Template;
use super::tls::{Verify, client_config_by};
use super::{CompileError, Delivery, Failure, Outcome, Preview};
use crate::database;

/// Most connections of one action.
const MAX_CONNECTIONS: u32 = 8;

/// Longest wait for a connection; an action's timeout may be shorter.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// For how long a delivery that took effect is known, at least.
const REMEMBERED_DAYS: i32 = 7;

/// Most of those that one statement forgets.
const FORGOTTEN_AT_ONCE: i64 = 10_000;

/// Said of statements in a database that is not theirs to use.
const NOT_ALLOWED: &str = "statements in the listener's own database are not allowed: if they are to be, set \
     spec.egress.ownDatabase: Allowed of the ObserverListener; else give the action a postgres.url";

/// A compiled statement.
pub(super) struct Postgres {
    /// Where it is run; in the listener's own database where absent.
    elsewhere: Option<Server>,
    statement: String,
    parameters: Vec<Template>,
    pool: Mutex<Option<Connections>>,
}

/// Connections, and the way that they go to a server elsewhere.
#[derive(Clone)]
struct Connections {
    pool: PgPool,
    relay: Option<Arc<Relay>>,
}

struct Server {
    /// The URL, which may hold a password.
    key: String,
    host: String,
    options: PgConnectOptions,
    target: Target,
}

/// Why a statement was not run to its end.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("the way to the server cannot be opened")]
    NoRelay(#[source] std::io::Error),
    #[error("the server cannot be reached, or sends too much")]
    Relay(Answer),
    #[error("{NOT_ALLOWED}")]
    NotAllowed,
}

impl From<RunError> for Answer {
    fn from(error: RunError) -> Self {
        match error {
            RunError::NoRelay(error) => broken(error),
            RunError::Relay(answer) => answer,
            RunError::Database(error) => answer::read(&error),
            RunError::NotAllowed => Self::Forbidden(error.to_string()),
        }
    }
}

impl Postgres {
    pub(super) fn compile(config: &PostgresConfig) -> Result<Self, CompileError> {
        Ok(Self {
            elsewhere: config
                .url
                .as_ref()
                .map(|url| Server::compile(url, config.tls.as_ref()))
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

    pub(super) fn endpoint(&self) -> (&str, &str) {
        let own = "the listener's own database";
        let server = self.elsewhere.as_ref();
        server.map_or((own, own), |server| (&server.key, &server.host))
    }

    /// Runs the statement for `delivery` and tells what came of it within `timeout`.
    pub(super) async fn attempt(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        timeout: Duration,
    ) -> Outcome {
        let parameters = match self.parameters(delivery) {
            Ok(parameters) => parameters,
            Err(failure) => return Outcome::Refused(failure),
        };
        let running = self.run(shared, delivery, &parameters, timeout);
        within(self.endpoint().1, timeout, running).await
    }

    /// What would be run.
    pub(super) fn preview(&self, delivery: &Delivery) -> Result<Preview, Failure> {
        let mut preview = vec![(self.endpoint().1.to_owned(), self.statement.clone())];
        let parameters = self.parameters(delivery)?.into_iter().enumerate();
        preview.extend(parameters.map(|(n, parameter)| {
            (
                format!("${}", n + 1),
                parameter.unwrap_or_else(|| "(null)".to_owned()),
            )
        }));
        Ok(preview)
    }

    /// Runs it in a transaction. Where the refusal is the session's, the next one gets another; one
    /// whose plan has grown old has had no effect, and is run again at once.
    async fn run(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        parameters: &[Option<String>],
        timeout: Duration,
    ) -> Result<(), RunError> {
        let ran = self.run_once(shared, delivery, parameters, timeout).await;
        let Err(RunError::Database(error)) = &ran else {
            return ran;
        };
        if answer::session_is_useless(error) {
            // Those that others use are closed once they are done.
            drop(self.pool.lock().await.take());
        }
        if answer::plan_is_old(error) {
            return self.run_once(shared, delivery, parameters, timeout).await;
        }
        ran
    }

    async fn run_once(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        parameters: &[Option<String>],
        timeout: Duration,
    ) -> Result<(), RunError> {
        let (Connections { pool, relay }, own) = self.pool(shared).await?;
        let begun = Instant::now();
        let ran = self.run_by(&pool, own, delivery, parameters, timeout).await;
        match (&ran, relay) {
            // What the server says itself is clear.
            (Err(sqlx::Error::Database(_)) | Ok(()), _) | (_, None) => Ok(ran?),
            (_, Some(relay)) => match relay.trouble.since(begun) {
                Some(known) => Err(RunError::Relay(known)),
                None => Ok(ran?),
            },
        }
    }

    async fn run_by(
        &self,
        pool: &PgPool,
        own: Option<&OwnDatabase>,
        delivery: &Delivery,
        parameters: &[Option<String>],
        timeout: Duration,
    ) -> Result<(), sqlx::Error> {
        let millis = timeout.as_millis().max(1);
        let begin = format!("begin; set local statement_timeout = {millis}");
        let mut tx = transaction::begin_by(pool, begin).await?;
        if let Some(own) = own {
            // Where another attempt is under way, this waits for what becomes of it.
            let new = sqlx::query(
                "insert into observer.effect (listener, delivery_id) values ($1, $2) on conflict do nothing",
            )
            .bind(&own.listener)
            .bind(delivery.effect_id())
            .persistent(false)
            .execute(&mut *tx)
            .await?;
            if new.rows_affected() == 0 {
                tx.rollback().await?;
                return Ok(());
            }
        }
        // Without a name, which is read anew each time: behind a pooler that gives each transaction a
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
        let subject = Subject::new(delivery);
        let parameters = self.parameters.iter();
        parameters
            .map(|template| parameter(template, &subject))
            .collect()
    }

    /// The connections, which go to addresses that may be dialled; and the listener's own database
    /// where it is that.
    async fn pool<'a>(
        &self,
        shared: &'a Shared,
    ) -> Result<(Connections, Option<&'a OwnDatabase>), RunError> {
        let own = match &self.elsewhere {
            Some(_) => None,
            None => Some(shared.own_database.as_ref().ok_or(RunError::NotAllowed)?),
        };
        let mut kept = self.pool.lock().await;
        if let Some(connections) = &*kept {
            return Ok((connections.clone(), own));
        }
        let made = match (&self.elsewhere, own) {
            (Some(server), _) => {
                let relay = Relay::open(server.target.clone(), &shared.guard);
                let relay = relay.map_err(RunError::NoRelay)?;
                let options = server.options.clone().ssl_mode(PgSslMode::Disable);
                Connections {
                    pool: connections(options.socket(relay.folder())),
                    relay: Some(Arc::new(relay)),
                }
            }
            (None, Some(own)) => {
                let options = database::options(&own.url)
                    .map_err(|error| sqlx::Error::Configuration(error.into()))?;
                Connections {
                    pool: connections(options),
                    relay: None,
                }
            }
            (None, None) => return Err(RunError::NotAllowed),
        };
        Ok((kept.insert(made).clone(), own))
    }
}

fn connections(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .connect_lazy_with(options.application_name("observer-listener action"))
}

impl Server {
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
            target: Target {
                host,
                port,
                tls: encryption(options.get_ssl_mode(), tls)?,
            },
            options,
        })
    }
}

/// How connections are encrypted: verified wherever the action has settings for it.
fn encryption(mode: PgSslMode, tls: Option<&TlsConfig>) -> Result<Option<Tls>, CompileError> {
    let verify = match (mode, tls) {
        (PgSslMode::VerifyCa, _) => Verify::Authority,
        (PgSslMode::VerifyFull, _) | (_, Some(_)) => Verify::Host,
        (PgSslMode::Disable | PgSslMode::Allow, None) => return Ok(None),
        (PgSslMode::Prefer | PgSslMode::Require, None) => Verify::Nothing,
    };
    let own = tls.cloned().unwrap_or_default();
    Ok(Some(Tls {
        config: Arc::new(client_config_by("postgres.tls", &own, verify)?),
        required: tls.is_some() || !matches!(mode, PgSslMode::Prefer),
    }))
}

fn parameter(template: &Template, subject: &Arc<Subject>) -> Result<Option<String>, Failure> {
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

/// Forgets deliveries that took effect long ago.
pub(crate) async fn forget(pool: &PgPool, listener: &str) -> Result<u64, sqlx::Error> {
    let forgotten = sqlx::query(
        "delete from observer.effect where ctid = any(array(
             select ctid from observer.effect
             where listener = $1 and at < clock_timestamp() - make_interval(days => $2)
             order by at limit $3))",
    )
    .bind(listener)
    .bind(REMEMBERED_DAYS)
    .bind(FORGOTTEN_AT_ONCE)
    .execute(pool)
    .await?;
    Ok(forgotten.rows_affected())
}
