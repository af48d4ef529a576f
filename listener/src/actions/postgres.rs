//! Postgres actions: statements. Values are bound as parameters, never put into the statement's text.
//!
//! In the listener's own database each delivery takes effect exactly once: with the effect, in the
//! same transaction, the delivery is claimed, and an attempt that finds it claimed does nothing. (An
//! idempotent receiver, as Hohpe and Woolf, "Enterprise Integration Patterns", have it, with its memory
//! in the transaction.) Elsewhere a statement whose answer was lost is run again.

mod error;
pub(crate) mod own_database;
mod relay;
pub(crate) mod server;
pub(crate) mod statement;

use std::sync::Arc;

use ::queue::sql_transaction;
use chrono::{DateTime, Utc};
use crds::config::PostgresConfig;
use sqlx::AssertSqlSafe;

pub(crate) use self::own_database::purge_processed;
pub use self::own_database::{OwnDatabaseError, verify as verify_own_database};
use self::server::{Connections, PostgresServer, StatementError};
use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::template_source::{TemplateSource, TemplateSources};
use crate::admission::action_runtime::ActionRuntime;
use crate::delivery::Delivery;
use crate::delivery::failure::Failure;
use crate::egress::redaction::Secrets;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::{Format, NULL};
use crate::templating::template::Template;

/// Compiled statement.
pub(super) struct Postgres {
    server: PostgresServer,
    statement: String,
    parameters: Vec<Template>,
}

impl Postgres {
    fn compile(config: &PostgresConfig) -> Result<Self, CompileError> {
        Ok(Self {
            server: PostgresServer::compile(config)?,
            statement: config.statement.clone(),
            parameters: parameters(config)?,
        })
    }

    /// Runs it in a transaction.
    async fn run(
        &self,
        request: AttemptRequest<'_>,
        parameters: Vec<Option<String>>,
    ) -> Result<(), StatementError> {
        let work = async |by: Connections| self.run_by(by, request, &parameters).await;
        self.server.run(request.runtime, &work).await
    }

    async fn run_by(
        &self,
        connections: Connections,
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
        render_parameters(&self.parameters, &RenderInput::new(delivery))
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

    fn compile(&self, _: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
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
        Some(self.server.endpoint())
    }

    fn egress_denied(&self, runtime: &ActionRuntime) -> Option<String> {
        self.server.egress_denied(runtime)
    }

    fn preview(&self, delivery: &Delivery, _: DateTime<Utc>) -> Result<Preview, Failure> {
        let parameters = self.parameters(delivery)?;
        Ok(preview(&self.server, &self.statement, parameters))
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let parameters = self.parameters(request.delivery)?;
        Ok(Transmission::of(self.run(request, parameters)))
    }
}

/// Compiles the templates of the parameters.
pub(crate) fn parameters(config: &PostgresConfig) -> Result<Vec<Template>, CompileError> {
    Template::all("postgres.parameters", &config.parameters, Format::Parameter)
}

/// Renders the parameters.
pub(crate) fn render_parameters(
    templates: &[Template],
    input: &Arc<RenderInput>,
) -> Result<Vec<Option<String>>, Failure> {
    let rendered = templates.iter();
    rendered
        .map(|template| parameter(template, input))
        .collect()
}

/// Returns what would be run.
pub(crate) fn preview(
    server: &PostgresServer,
    statement: &str,
    parameters: Vec<Option<String>>,
) -> Preview {
    let (_, host) = server.endpoint();
    let mut preview = vec![(host.to_owned(), statement.to_owned())];
    let parameters = parameters.into_iter().enumerate();
    preview.extend(parameters.map(|(n, parameter)| {
        (
            format!("${}", n + 1),
            parameter.unwrap_or_else(|| "(null)".to_owned()),
        )
    }));
    preview
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
