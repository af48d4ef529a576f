//! Connections to the source: ordinary ones for its catalog, and the replication session.

use std::time::Duration;

use crds::config::Redacted;
use pgoutput::SETTINGS;
use pgwire_replication::{
    Lsn, PgWireError, ReplicationClient, ReplicationConfig, SslMode, TlsConfig,
};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use url::Url;

use super::error::IngestError;
use crate::database::{self, DatabaseError};

/// Time until a source that does not answer counts as away.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an unused connection for the catalog stays open.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Interval of reports to the server of what is saved.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Messages that wait to be read.
const BUFFERED: usize = 512;

/// Returns connections for the catalog of a source; opens none yet.
pub(crate) fn catalog_pool(url: &Redacted) -> Result<PgPool, IngestError> {
    let options = database::options(url)?;
    Ok(PgPoolOptions::new()
        .max_connections(1)
        .min_connections(0)
        .acquire_timeout(CONNECT_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::query("select set_config('search_path', 'pg_catalog', false)")
                    .execute(connection)
                    .await
                    .map(drop)
            })
        })
        .connect_lazy_with(options))
}

/// Opens a replication session that waits before it starts to read at `from`.
pub(crate) async fn open_session(
    url: &Redacted,
    (slot, publication): (&str, &str),
    from: Lsn,
) -> Result<ReplicationClient, IngestError> {
    let options = database::options(url)?;
    let mut config = ReplicationConfig::new(
        host(&options),
        options.get_username(),
        password(url),
        options.get_database().unwrap_or(options.get_username()),
        slot,
        publication,
    )
    .with_port(options.get_port())
    .with_tls(tls(&options, url))
    .with_start_lsn(from)
    .with_ack_lsn(from)
    .with_status_interval(STATUS_INTERVAL)
    .with_buffer_size(BUFFERED)
    .with_application_name("observer-listener");
    if let Some(own) = options.get_options() {
        config = config.with_options(own);
    }
    let mut session = ReplicationClient::connect_gated(config).await?;
    for (name, value) in SETTINGS {
        query(&mut session, &format!("set {name} = '{value}'")).await?;
    }
    Ok(session)
}

/// Asks the session before it starts to read; texts of the rows' columns.
pub(crate) async fn query(
    session: &mut ReplicationClient,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, IngestError> {
    let asked = tokio::time::timeout(CONNECT_TIMEOUT, session.simple_query(sql));
    let rows = asked.await.map_err(|_| timed_out())??;
    let text = |value: Option<_>| {
        value.map(|bytes: bytes::Bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    Ok(rows
        .into_iter()
        .map(|row| row.into_iter().map(text).collect())
        .collect())
}

/// Error of a server that does not answer.
pub(crate) fn timed_out() -> IngestError {
    PgWireError::from(std::io::Error::from(std::io::ErrorKind::TimedOut)).into()
}

/// The host, or the folder of the socket.
fn host(options: &PgConnectOptions) -> String {
    options.get_socket().map_or_else(
        || options.get_host().to_owned(),
        |socket| socket.display().to_string(),
    )
}

/// The driver keeps the password to itself.
fn password(url: &Redacted) -> String {
    let parsed = Url::parse(url.reveal()).ok();
    let of_url = parsed.as_ref().and_then(|url| {
        let by_name = url.query_pairs().find(|(name, _)| name == "password");
        by_name.map(|(_, value)| value.into_owned()).or_else(|| {
            let encoded = url.password()?;
            let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8();
            decoded.ok().map(std::borrow::Cow::into_owned)
        })
    });
    of_url
        .or_else(|| std::env::var("PGPASSWORD").ok())
        .unwrap_or_default()
}

fn tls(options: &PgConnectOptions, url: &Redacted) -> TlsConfig {
    let parsed = Url::parse(url.reveal()).ok();
    let file = |names: [&str; 3], variable: &str| {
        let pairs = parsed.as_ref().map(Url::query_pairs);
        let named = pairs.and_then(|mut pairs| pairs.find(|(name, _)| names.contains(&&**name)));
        named
            .map(|(_, value)| value.into_owned())
            .or_else(|| std::env::var(variable).ok())
            .map(std::path::PathBuf::from)
    };
    let ca = file(["sslrootcert", "ssl-root-cert", "ssl-ca"], "PGSSLROOTCERT");
    let mut tls = TlsConfig::disabled();
    tls.mode = match options.get_ssl_mode() {
        PgSslMode::Disable | PgSslMode::Allow => SslMode::Disable,
        PgSslMode::Prefer => SslMode::Prefer,
        // As the driver: with an authority of one's own it is checked.
        PgSslMode::Require if ca.is_some() => SslMode::VerifyCa,
        PgSslMode::Require => SslMode::Require,
        PgSslMode::VerifyCa => SslMode::VerifyCa,
        PgSslMode::VerifyFull => SslMode::VerifyFull,
    };
    if options.get_socket().is_some() {
        tls.mode = SslMode::Disable;
    }
    tls.ca_pem_path = ca;
    tls.client_cert_pem_path = file(["sslcert", "ssl-cert", ""], "PGSSLCERT");
    tls.client_key_pem_path = file(["sslkey", "ssl-key", ""], "PGSSLKEY");
    tls
}

/// Checks that the source is there.
pub(crate) async fn check(pool: &PgPool, url: &Redacted) -> Result<(), IngestError> {
    match sqlx::query("select 1").execute(pool).await {
        Ok(_) => Ok(()),
        Err(error) => Err(match database::diagnose_url(url).await {
            Some(cause) => IngestError::Database(cause),
            None => IngestError::Catalog(error),
        }),
    }
}

impl From<DatabaseError> for Box<IngestError> {
    fn from(error: DatabaseError) -> Self {
        Self::new(error.into())
    }
}
