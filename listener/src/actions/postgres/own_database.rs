//! Statements in the listener's own database, by a login of their own.
//!
//! Authors of observers write the statements, and a statement may do all that its login may:
//! `set local role` is no border, since a statement can reset it. So that login is another than the
//! listener's, and may claim deliveries and do nothing else in the schema `observer`. What it claims is
//! named by a digest with a secret that it cannot read, so that a statement which calls
//! `observer.claim_delivery` itself cannot name another delivery than its own.
//!
//! This module owns `observer.processed_delivery` and `observer.claim_secret`.

use crds::config::{OwnDatabase, Redacted};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, PgPool};

use super::error;
use crate::database;
use crate::delivery::Delivery;
use crate::egress::response::DeliveryError;
use crate::text::hex::hex;

/// Days that a processed delivery is remembered, at least.
const RETENTION_DAYS: i32 = 7;

/// Most rows that one statement deletes.
const PURGE_BATCH: i64 = 10_000;

/// Begins a transaction in which no name means what somebody else has made.
const BEGIN: &str = "begin; set local search_path = pg_catalog, pg_temp";

/// Identity of the listener's database, and its secret.
const LISTENER: &str = "
    select s.system_identifier, d.oid::bigint, c.secret::text
    from pg_control_system() s, pg_database d, observer.claim_secret c
    where d.datname = current_database()";

/// Which database a login of statements leads to, its name, what it lacks and what it may that it should
/// not: itself, or as one of the roles that it may become.
const LOGIN: &str = "
    select
        s.system_identifier, d.oid::bigint, quote_ident(session_user),
        coalesce(has_schema_privilege(session_user, n.oid, 'usage')
            and has_function_privilege(session_user, f.oid, 'execute'), false),
        (select w.why || case when w.role = session_user then '' else format(' (as a member of %I)', w.role) end
         from (
             select r.rolname as role, case
                 when r.rolsuper then 'is a superuser'
                 when r.rolcreaterole then 'may make itself a member of other roles (createrole)'
                 when r.oid = n.nspowner then 'owns the schema observer'
                 when r.rolname in ('pg_execute_server_program', 'pg_write_server_files')
                     then 'may act as the user whom the server runs as'
                 when has_schema_privilege(r.oid, n.oid, 'create') then 'may create in the schema observer'
                 when exists (
                     select from pg_class c
                     where c.relnamespace = n.oid and c.relkind in ('r', 'p', 'S') and (
                         has_table_privilege(r.oid, c.oid, 'insert, update, delete, truncate, references, trigger')
                         or has_any_column_privilege(r.oid, c.oid, 'insert, update, references'))
                 ) then 'may write to tables of the schema observer'
                 when exists (
                     select from pg_proc p
                     where p.pronamespace = n.oid and p.prosecdef and p.prorettype <> 'trigger'::regtype
                         and p.proname not in ('claim_delivery', 'log_event')
                         and has_function_privilege(r.oid, p.oid, 'execute')
                 ) then 'may call functions of the schema observer that act with its owner''s rights'
             end as why
             from pg_roles r
             where pg_has_role(session_user, r.oid, 'member')
         ) w
         where w.why is not null
         order by w.role <> session_user, w.role limit 1)
    from pg_control_system() s
    join pg_database d on d.datname = current_database()
    left join pg_namespace n on n.nspname = 'observer'
    left join pg_proc f on f.pronamespace = n.oid and f.proname = 'claim_delivery'";

/// Why statements cannot run in the listener's own database.
#[derive(Debug, thiserror::Error)]
pub enum OwnDatabaseError {
    /// The URL is invalid.
    #[error("{0}")]
    Url(#[from] database::DatabaseError),
    /// It cannot be queried.
    #[error("the listener's own database cannot be queried: {}", ::queue::describe_error(.0))]
    Database(#[from] sqlx::Error),
    /// It is another database.
    #[error(
        "spec.egress.ownDatabase.url of the ObserverListener leads to another database than \
         spec.database.url: correct it, or give the action a postgres.url"
    )]
    OtherDatabase,
    /// The login may do more than statements of observers should.
    #[error(
        "statements may not run as {role}, the user in spec.egress.ownDatabase.url, who {why}: with that, whoever \
         may write observers could change the log. Give it a login of its own, with rights on the tables that \
         statements write to, `grant usage on schema observer` and \
         `grant execute on function observer.claim_delivery`"
    )]
    ExcessivePrivileges {
        /// Its user.
        role: String,
        /// What it may.
        why: String,
    },
    /// The login may not claim deliveries.
    #[error(
        "{role}, the user in spec.egress.ownDatabase.url, may not claim deliveries: run `grant usage on schema \
         observer to {role}; grant execute on function observer.claim_delivery to {role}`"
    )]
    MissingPrivileges {
        /// Its user.
        role: String,
    },
}

impl From<OwnDatabaseError> for DeliveryError {
    fn from(error: OwnDatabaseError) -> Self {
        match error {
            OwnDatabaseError::Database(failed) => error::delivery_error(&failed),
            refused => Self::EgressDenied(refused.to_string()),
        }
    }
}

/// Claims of the deliveries of a listener.
#[derive(Debug)]
pub(super) struct DeliveryClaims {
    listener: String,
    secret: Redacted,
}

impl DeliveryClaims {
    /// Claims a delivery in the transaction that its statement runs in; false where it took effect before.
    /// Waits for the transaction of another attempt that has claimed it.
    pub(super) async fn claim(
        &self,
        transaction: &mut PgConnection,
        delivery: &Delivery,
    ) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar("select observer.claim_delivery($1, $2)")
            .bind(&self.listener)
            .bind(self.name(&delivery.effect_id()))
            .persistent(false)
            .fetch_one(transaction)
            .await
    }

    /// Returns the name of a delivery, which cannot be computed without the secret.
    fn name(&self, delivery_id: &str) -> String {
        let text = [self.secret.reveal(), &self.listener, delivery_id].join("\n");
        hex(&Sha256::digest(text))
    }
}

/// Verifies that a login is of the listener's own database and has the privileges that statements of
/// observers need and no more.
pub async fn verify(own: &OwnDatabase) -> Result<(), OwnDatabaseError> {
    claims(own).await.map(drop)
}

/// Returns the claims of deliveries, once the login is verified.
pub(super) async fn claims(own: &OwnDatabase) -> Result<DeliveryClaims, OwnDatabaseError> {
    type Listener = (i64, i64, String);
    type Login = (i64, i64, String, bool, Option<String>);
    let (system, database, role, may_claim, too_much): Login = ask(&own.url, LOGIN).await?;
    let (own_system, own_database, secret): Listener = ask(&own.listener_url, LISTENER).await?;
    if (system, database) != (own_system, own_database) {
        return Err(OwnDatabaseError::OtherDatabase);
    }
    if let Some(why) = too_much {
        return Err(OwnDatabaseError::ExcessivePrivileges { role, why });
    }
    if !may_claim {
        return Err(OwnDatabaseError::MissingPrivileges { role });
    }
    Ok(DeliveryClaims {
        listener: own.listener.clone(),
        secret: Redacted::new(secret),
    })
}

/// Derives a key of the listener's database for a purpose: the same in all of its processes, and known to
/// nobody who cannot read the secret.
pub(crate) async fn derive_key(pool: &PgPool, purpose: &str) -> Result<[u8; 32], sqlx::Error> {
    let secret: String = sqlx::query_scalar("select secret::text from observer.claim_secret")
        .fetch_one(pool)
        .await?;
    let mut digest = Sha256::new();
    digest.update(purpose);
    digest.update([0]);
    digest.update(secret);
    Ok(digest.finalize().into())
}

/// Returns the row of a query in a session of its own, in which no statement has set anything.
async fn ask<T>(url: &Redacted, query: &'static str) -> Result<T, OwnDatabaseError>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
{
    let mut connection = PgConnection::connect_with(&database::options(url)?).await?;
    let mut transaction = connection.begin_with(BEGIN).await?;
    let row = sqlx::query_as(query)
        .persistent(false)
        .fetch_one(&mut *transaction)
        .await?;
    transaction.rollback().await?;
    // Whether the server hears of the close does not matter.
    let _ = connection.close().await;
    Ok(row)
}

/// Deletes what is remembered of deliveries that took effect long ago.
pub(crate) async fn purge_processed(pool: &PgPool, listener: &str) -> Result<u64, sqlx::Error> {
    let purged = sqlx::query(
        "delete from observer.processed_delivery where ctid = any(array(
             select ctid from observer.processed_delivery
             where listener = $1 and at < clock_timestamp() - make_interval(days => $2)
             order by at limit $3))",
    )
    .bind(listener)
    .bind(RETENTION_DAYS)
    .bind(PURGE_BATCH)
    .execute(pool)
    .await?;
    Ok(purged.rows_affected())
}
