//! The capture role: the change log's triggers run with the privileges of their functions' owner, in every
//! transaction that writes to a tracked table. So that owner is a role without login that may do nothing but
//! add to the change log.

use sqlx::PgConnection;

/// Its name. Roles are the server's, so all databases of a server share it.
pub(super) const CAPTURE_ROLE: &str = "observer_capture";

/// Makes the role the owner of the functions. What the migrating role may not do raises `insufficient_privilege`,
/// and the block's savepoint leaves everything as it was. `inherit` is a role's own property up to
/// version 15 and a membership's from 16 on; a role's maker is given what it needs either way.
const GIVE: &str = "
do $give$
declare
    given text;
    super boolean := (select rolsuper from pg_roles where rolname = current_user);
begin
    if not exists (select from pg_roles where rolname = 'observer_capture') then
        begin
            create role observer_capture nologin noinherit;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end if;
    if not super and not pg_has_role(
        current_user, 'observer_capture',
        -- From 16 on a role's maker is a member that may give it to others and no more.
        case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end
    ) then
        grant observer_capture to current_user;
    end if;
    if exists (
        select from pg_roles r
        where r.rolname = 'observer_capture' and (
            r.rolsuper or r.rolcanlogin or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication)
    ) then
        raise exception 'the role observer_capture has more rights than it should'
            using errcode = 'insufficient_privilege';
    end if;
    grant usage, create on schema observer to observer_capture;
    grant usage on sequence observer.change_log_id to observer_capture;
    grant insert on observer.change_log to observer_capture;
    grant select (id, xid, entity, operation) on observer.change_log to observer_capture;
    grant select on observer.log_partition_state, observer.changed_rows, observer.old_rows, observer.new_rows,
        observer.emit_restriction to observer_capture;
    grant execute on function observer.may_emit to observer_capture;
    foreach given in array array['log_rows()', 'log_update()', 'log_truncate()', 'log_entity_changes()',
        'log_event(text, json, text, text)'] loop
        execute format('alter function observer.%s owner to observer_capture', given);
    end loop;
    revoke create on schema observer from observer_capture;
end
$give$
";

/// Makes the capture role the owner of the functions that capture. Returns advice if it cannot: which role
/// owns them, and why.
pub(super) async fn give(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    // Of the functions that capture, one that is not that role's.
    let owner = "select p.proowner::regrole::text, r.rolsuper
                 from pg_proc p join pg_roles r on r.oid = p.proowner
                 where p.oid in (
                     'observer.log_rows()'::regprocedure, 'observer.log_update()'::regprocedure,
                     'observer.log_truncate()'::regprocedure, 'observer.log_entity_changes()'::regprocedure,
                     'observer.log_event(text, json, text, text)'::regprocedure)
                 order by r.rolname = 'observer_capture' limit 1";
    let (who, is_super): (String, bool) = sqlx::query_as(owner).fetch_one(&mut *connection).await?;
    if who == CAPTURE_ROLE {
        return Ok(None);
    }
    sqlx::query("savepoint give")
        .execute(&mut *connection)
        .await?;
    let refused = match sqlx::raw_sql(GIVE).execute(&mut *connection).await {
        Ok(_) => {
            sqlx::query("release savepoint give")
                .execute(&mut *connection)
                .await?;
            return Ok(None);
        }
        Err(sqlx::Error::Database(refused)) => refused.message().to_owned(),
        Err(error) => return Err(error),
    };
    sqlx::query("rollback to savepoint give")
        .execute(&mut *connection)
        .await?;
    let rights = if is_super { ", a superuser" } else { "" };
    Ok(Some(format!(
        "capture runs with the rights of {who}{rights}, instead of a role that may only add to the log ({refused}); \
         let an administrator run `create role {CAPTURE_ROLE} nologin; grant {CAPTURE_ROLE} to {who}`, \
         and then migrate again"
    )))
}
