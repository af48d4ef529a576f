//! The functions of the schema, and the view over them: the files of `migrations/functions`, in the order
//! of their names. They are applied again as a whole whenever they differ from those that the database
//! has, so each is there once, in its last form.
//!
//! The files are the whole truth: what the database has of them that no file defines any more is dropped,
//! and what cannot be replaced in place (another type of result, other names of parameters) is dropped
//! first. What others in the database depend on is left alone, and the migration fails. Rights that were
//! granted stay. Functions that others have put into the schema are none of these.

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, FromRow, PgConnection, Postgres, Transaction};

use super::MigrateError;
use crate::database::has_code;

macro_rules! files {
    ($($name:literal),+) => {
        [$(($name, include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"), "/../migrations/functions/", $name, ".sql"
        )))),+]
    };
}

/// Each with its name, in the order in which they are applied.
const FILES: [(&str, &str); 16] = files![
    "admin",
    "capture",
    "change_log",
    "delivery",
    "emit",
    "entity_change",
    "job_admin",
    "job_claim",
    "job_enqueue",
    "job_finish",
    "job_maintenance",
    "job_worker",
    "lock",
    "retention",
    "trace",
    "tracking"
];

/// A function or a view has another shape, which `create or replace` cannot give it; or there is one of the
/// name with other arguments, so that the name alone does not say which is meant.
const OTHER_SHAPE: [&str; 3] = ["42P13", "42P16", "42725"];

/// Something depends on what is to be dropped.
const DEPENDED_ON: &str = "2BP01";

/// Drops those of the recorded functions on which nothing depends that is not one of them.
const DROP_FREE: &str = "
do $drop$
declare
    name text;
    dropped boolean := true;
begin
    drop view if exists observer.tracked;
    while dropped loop
        dropped := false;
        for name in
            select p.oid::regprocedure::text from observer.function_set s, pg_proc p
            where p.oid::regprocedure::text = any (s.functions)
        loop
            begin
                execute 'drop function ' || name;
                dropped := true;
            exception when dependent_objects_still_exist then
                null;
            end;
        end loop;
    end loop;
end
$drop$";

/// Some of what depends on the recorded functions that are left, but for the triggers of tracked tables.
const DEPENDENTS: &str = "
select string_agg(format('%s depends on function %s', pg_describe_object(d.classid, d.objid, d.objsubid), d.signature), '; ')
from (
    select d.classid, d.objid, d.objsubid, p.oid::regprocedure as signature
    from observer.function_set s
    cross join pg_proc p
    join pg_depend d on d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid
    where p.oid::regprocedure::text = any (s.functions) and d.classid <> 'pg_trigger'::regclass
        and not (d.classid = 'pg_proc'::regclass and d.objid in (
            select oid from pg_proc where pronamespace = 'observer'::regnamespace))
    order by p.oid, d.objid limit 10
) d";

/// Version of a program: major, minor, patch. Builds between two releases are all of one version.
type Version = Vec<i32>;

/// A function in the catalog; `row` changes when it is replaced.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
struct DefinedFunction {
    signature: String,
    row: String,
}

/// The privilege of a role to call the functions of a name.
#[derive(Clone, Debug, FromRow)]
struct Grant {
    name: String,
    grantee: String,
    grantable: bool,
}

static DIGEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for (name, sql) in FILES {
        for part in [name, sql] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            digest.update(part);
        }
    }
    digest.finalize().to_vec()
});

/// Returns the version of this program.
fn own_version() -> Version {
    let numbers = [
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    ];
    numbers.map(|number| number.parse().unwrap_or(0)).into()
}

fn printed(version: &[i32]) -> String {
    let numbers: Vec<String> = version.iter().map(i32::to_string).collect();
    numbers.join(".")
}

/// Returns whether the database has exactly the functions of this program. Those of a newer one are an error.
pub(super) async fn are_current(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    let applied: Option<(Vec<u8>, Version)> =
        sqlx::query_as("select digest, version from observer.function_set")
            .fetch_optional(connection)
            .await
            .map_err(MigrateError::Database)?;
    let Some((digest, version)) = applied else {
        return Ok(false);
    };
    if digest == *DIGEST {
        return Ok(true);
    }
    let known = own_version();
    if version > known {
        return Err(MigrateError::NewerFunctions {
            found: printed(&version),
            known: printed(&known),
        });
    }
    Ok(false)
}

/// Returns the error of a database with older functions.
pub(super) fn outdated() -> MigrateError {
    MigrateError::OlderFunctions {
        needed: printed(&own_version()),
    }
}

/// Replaces the functions of the database by those of this program.
pub(super) async fn apply(transaction: &mut Transaction<'_, Postgres>) -> Result<(), MigrateError> {
    let grants = grants(transaction).await.map_err(MigrateError::Database)?;
    let before = functions(transaction)
        .await
        .map_err(MigrateError::Database)?;
    sqlx::query("savepoint functions")
        .execute(&mut **transaction)
        .await
        .map_err(MigrateError::Database)?;
    match run_files(transaction).await {
        Err(error) if has_code(&error, &OTHER_SHAPE) => {
            sqlx::raw_sql("rollback to savepoint functions")
                .execute(&mut **transaction)
                .await
                .map_err(MigrateError::Database)?;
            run(transaction, DROP_FREE)
                .await
                .map_err(|error| in_use(error, None))?;
            let dependents: Option<String> = sqlx::query_scalar(DEPENDENTS)
                .fetch_one(&mut **transaction)
                .await
                .map_err(MigrateError::Database)?;
            run_files(transaction)
                .await
                .map_err(|error| in_use(error, dependents))?;
        }
        applied => applied.map_err(MigrateError::Database)?,
    }
    let after = functions(transaction)
        .await
        .map_err(MigrateError::Database)?;
    drop_undefined(transaction, &before, &after).await?;
    let defined: Vec<DefinedFunction> = after
        .into_iter()
        .filter(|function| !before.contains(function))
        .collect();
    grant_again(transaction, &grants, &defined)
        .await
        .map_err(MigrateError::Database)?;
    record(transaction, &defined)
        .await
        .map_err(MigrateError::Database)
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(connection).await?;
    Ok(())
}

async fn run_files(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for (_, sql) in FILES {
        run(connection, sql).await?;
    }
    Ok(())
}

/// Returns the error of functions that something else depends on; other errors are the database's.
fn in_use(error: sqlx::Error, dependents: Option<String>) -> MigrateError {
    if !has_code(&error, &OTHER_SHAPE) && !has_code(&error, &[DEPENDED_ON]) {
        return MigrateError::Database(error);
    }
    let refused = error.as_database_error();
    let message = refused.map_or("", sqlx::error::DatabaseError::message);
    let detail = refused
        .and_then(|refused| refused.try_downcast_ref::<PgDatabaseError>())
        .and_then(PgDatabaseError::detail)
        .map(str::to_owned);
    MigrateError::InUse {
        what: match dependents.or(detail) {
            Some(detail) => format!("{message}: {}", detail.replace('\n', "; ")),
            None => message.to_owned(),
        },
    }
}

/// Reads all functions in the schema.
async fn functions(connection: &mut PgConnection) -> Result<Vec<DefinedFunction>, sqlx::Error> {
    sqlx::query_as(
        "select oid::regprocedure::text as signature, concat_ws(' ', oid, xmin, ctid) as row
         from pg_proc where pronamespace = 'observer'::regnamespace order by 1",
    )
    .fetch_all(connection)
    .await
}

/// Reads which roles other than their owners may call the recorded functions.
async fn grants(connection: &mut PgConnection) -> Result<Vec<Grant>, sqlx::Error> {
    sqlx::query_as(
        "select distinct quote_ident(p.proname) as name, quote_ident(r.rolname) as grantee, a.is_grantable as grantable
         from observer.function_set s
         cross join pg_proc p
         cross join aclexplode(p.proacl) a
         join pg_roles r on r.oid = a.grantee
         where p.pronamespace = 'observer'::regnamespace and p.oid::regprocedure::text = any (s.functions)
             and a.grantee <> p.proowner",
    )
    .fetch_all(connection)
    .await
}

/// Drops the recorded functions that the files have not touched.
async fn drop_undefined(
    connection: &mut PgConnection,
    before: &[DefinedFunction],
    after: &[DefinedFunction],
) -> Result<(), MigrateError> {
    let recorded: Option<Vec<String>> =
        sqlx::query_scalar("select functions from observer.function_set")
            .fetch_optional(&mut *connection)
            .await
            .map_err(MigrateError::Database)?;
    let recorded = recorded.unwrap_or_default();
    let undefined: Vec<&str> = after
        .iter()
        .filter(|function| before.contains(function) && recorded.contains(&function.signature))
        .map(|function| &*function.signature)
        .collect();
    if undefined.is_empty() {
        return Ok(());
    }
    let all = format!("drop function {}", undefined.join(", "));
    sqlx::raw_sql(AssertSqlSafe(all))
        .execute(connection)
        .await
        .map_err(|error| in_use(error, None))?;
    Ok(())
}

/// Grants again what was granted on functions that were dropped, on those that have their names now. Those
/// that were replaced still have it.
async fn grant_again(
    connection: &mut PgConnection,
    grants: &[Grant],
    defined: &[DefinedFunction],
) -> Result<(), sqlx::Error> {
    let missing = "select exists (
            select from pg_roles r where quote_ident(r.rolname) = $2
                and not has_function_privilege(r.oid, $1::regprocedure, 'execute'))";
    for grant in grants {
        let beginning = format!("observer.{}(", grant.name);
        let of_name = defined
            .iter()
            .filter(|function| function.signature.starts_with(&beginning));
        for DefinedFunction { signature, .. } in of_name {
            let missing: bool = sqlx::query_scalar(missing)
                .bind(signature)
                .bind(&grant.grantee)
                .fetch_one(&mut *connection)
                .await?;
            if !missing {
                continue;
            }
            let option = if grant.grantable {
                " with grant option"
            } else {
                ""
            };
            let sql = format!(
                "grant execute on function {signature} to {}{option}",
                grant.grantee
            );
            sqlx::raw_sql(AssertSqlSafe(sql))
                .execute(&mut *connection)
                .await?;
        }
    }
    Ok(())
}

async fn record(
    connection: &mut PgConnection,
    defined: &[DefinedFunction],
) -> Result<(), sqlx::Error> {
    let signatures: Vec<&str> = defined.iter().map(|one| &*one.signature).collect();
    sqlx::query(
        "insert into observer.function_set (digest, version, functions) values ($1, $2, $3)
         on conflict (only_row) do update
         set digest = excluded.digest, version = excluded.version, functions = excluded.functions,
             applied_at = clock_timestamp()",
    )
    .bind(&*DIGEST)
    .bind(own_version())
    .bind(signatures)
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn files_are_applied_in_order_of_their_names() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/functions");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let applied: Vec<String> = FILES
            .iter()
            .map(|(name, _)| format!("{name}.sql"))
            .collect();
        assert_eq!(applied, names);
    }

    #[test]
    fn functions_can_be_applied_again() {
        for (name, sql) in FILES {
            for line in sql.lines() {
                let made = line.trim_start().trim_start_matches('\'');
                assert!(
                    !made.starts_with("create function") && !made.starts_with("create view"),
                    "{name}: {line}"
                );
            }
        }
    }
}
