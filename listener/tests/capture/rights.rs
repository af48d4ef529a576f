//! What those may do who were let into the schema for one thing.

use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::support::{self, TestDb};

/// Connections of a role that may enter the schema and call these functions of it. Its own function
/// `intruder.note()` notes as whom it runs.
async fn intruder(db: &TestDb, functions: &str) -> PgPool {
    let role = db.role("intruder", "login password 'k'").await;
    db.run(&format!(
        "grant usage on schema observer to {role}; grant execute on function {functions} to {role};
         create schema intruder authorization {role};
         create table public.ran_as (role text); grant insert on public.ran_as to public;
         grant temporary on database {database} to {role}",
        database = db.value::<String>("select current_database()::text").await,
    ))
    .await;
    let pool = testkit::database::pool(&db.url_as(&role, "k")).await;
    pool.execute(
        "create function intruder.note() returns int language plpgsql as
         'begin insert into public.ran_as values (current_user); return 1; end'",
    )
    .await
    .unwrap();
    pool
}

#[tokio::test]
async fn no_function_is_executable_by_all_but_those_that_only_compute() {
    let db = support::database().await;
    let open: Vec<String> = sqlx::query_scalar(
        "select p.proname::text from pg_proc p
         where p.pronamespace = 'observer'::regnamespace and has_function_privilege('public', p.oid, 'execute')
         order by 1",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(
        open,
        [
            "check_columns",
            "check_trackable",
            "comment_traceparent",
            "composite_key",
            "current_traceparent",
            "emit",
            "emit",
            "emit",
            "entity_change",
            "entity_of",
            "escaped_field",
            "excluded_columns",
            "field",
            "has_own_json",
            "hash_of",
            "identity_of",
            "kept_exclusions",
            "key_of",
            "long_message_traceparent",
            "make_triggers",
            "options_of",
            "primary_key",
            "raw_field",
            "trace",
            "trouble_of",
            "valid_traceparent",
            "visible_columns",
            "with_change",
        ]
    );
    let definers: i64 = db
        .value(
            "select count(*) from pg_proc p where p.pronamespace = 'observer'::regnamespace and p.prosecdef
             and has_function_privilege('public', p.oid, 'execute')",
        )
        .await;
    assert_eq!(definers, 0);
}

#[tokio::test]
async fn definers_resolve_names_in_no_schema_of_others() {
    let db = support::database().await;
    let loose: Vec<String> = sqlx::query_scalar(
        "select p.oid::regprocedure::text from pg_proc p
         where p.pronamespace = 'observer'::regnamespace and p.prosecdef
           and not coalesce(p.proconfig && array[
               'search_path=pg_catalog, pg_temp', 'search_path=pg_catalog, observer, pg_temp'], false)",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(loose, Vec::<String>::new());
}

#[tokio::test]
async fn who_may_emit_makes_no_trigger_of_the_logs_functions() {
    let db = support::database().await;
    let pool = intruder(&db, "observer.log_event").await;
    let mut connection = pool.acquire().await.unwrap();
    connection
        .execute("create temporary table t (id int)")
        .await
        .unwrap();
    for function in [
        "log_rows",
        "log_update",
        "log_truncate",
        "log_entity_changes",
    ] {
        let trigger = format!(
            "create trigger x after insert on t for each statement execute function observer.{function}('{{}}')"
        );
        let refused = connection.execute(AssertSqlSafe(trigger)).await;
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains("permission denied for function"),
            "{function}: {error}"
        );
    }
}

#[tokio::test]
async fn triggers_without_transition_tables_do_nothing() {
    let db = support::database().await;
    let functions = "observer.log_rows, observer.log_update, observer.log_truncate, observer.log_entity_changes";
    let pool = intruder(&db, functions).await;
    let mut connection = pool.acquire().await.unwrap();
    for (event, names, function) in [
        ("insert", &["changed_rows"][..], "log_rows"),
        ("delete", &["changed_rows"], "log_rows"),
        ("update", &["old_rows", "new_rows"], "log_update"),
        ("insert", &["changed_rows"], "log_entity_changes"),
    ] {
        for arguments in [
            r#"'{"key": "{note}"}'"#,
            r#"'{"key": "{note}"}', 'note'"#,
            r#"'{"key": "{note,id}", "exclude": "{id}", "partitioned": true}'"#,
        ] {
            connection
                .execute("create temporary table t (id int); insert into t values (1)")
                .await
                .unwrap();
            for name in names {
                let view = format!(
                    "create temporary view {name} as select intruder.note() as note, 1 as id"
                );
                connection.execute(AssertSqlSafe(view)).await.unwrap();
            }
            let trigger = format!(
                "create trigger x after {event} on t for each statement execute function observer.{function}({arguments})"
            );
            connection.execute(AssertSqlSafe(trigger)).await.unwrap();
            for statement in [
                "insert into t values (2)",
                "update t set id = 3",
                "delete from t",
            ] {
                // Its own columns are asked for where there are options of that kind.
                connection.execute(statement).await.ok();
            }
            connection.execute("discard temp").await.unwrap();
        }
    }
    let ran = "select count(*) from public.ran_as";
    assert_eq!(db.value::<i64>(ran).await, 0);
    let logged = "select count(*) from observer.change_log";
    assert_eq!(db.value::<i64>(logged).await, 0);
}

/// A type's cast to json would run with the rights of whoever captures: it is not called, and those
/// rights are a role's that may add to the log and nothing else.
#[tokio::test]
async fn capture_runs_as_a_role_that_may_only_add_to_the_log() {
    let db = support::database().await;
    let owners: Vec<String> = sqlx::query_scalar(
        "select p.proname || ' ' || pg_get_userbyid(p.proowner) from pg_proc p
         where p.pronamespace = 'observer'::regnamespace and p.prosecdef
             and (p.prorettype = 'trigger'::regtype or p.proname = 'log_event') order by 1",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(
        owners,
        [
            "log_entity_changes observer_capture",
            "log_event observer_capture",
            "log_rows observer_capture",
            "log_truncate observer_capture",
            "log_update observer_capture"
        ]
    );
    let rights: bool = db
        .value(
            "select rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication
                 or has_schema_privilege(oid, 'observer', 'create')
             from pg_roles where rolname = 'observer_capture'",
        )
        .await;
    assert!(!rights);
    let rights: Vec<String> = sqlx::query_scalar(
        "select distinct table_name || ' ' || privilege_type from information_schema.table_privileges
         where grantee = 'observer_capture' and table_schema = 'observer' order by 1",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert_eq!(
        rights,
        [
            "change_log INSERT",
            "changed_rows SELECT",
            "emit_restriction SELECT",
            "log_partition_state SELECT",
            "new_rows SELECT",
            "old_rows SELECT"
        ]
    );
}

/// What `role` may log of `entity` and `tenant`, as the message of the refusal, if it is refused.
async fn emitted(pool: &PgPool, entity: &str, tenant: Option<&str>) -> Option<String> {
    let emit = sqlx::query("select observer.emit($1, tenant => $2)")
        .bind(entity)
        .bind(tenant);
    let refused = emit.execute(pool).await.err()?;
    let refused = refused.into_database_error().unwrap();
    assert_eq!(refused.code().unwrap(), "42501", "{refused}");
    Some(refused.message().to_owned())
}

#[tokio::test]
async fn a_restricted_role_emits_no_other_events() {
    let db = support::database().await;
    let pool = intruder(&db, "observer.log_event").await;
    let role: String = sqlx::query_scalar("select session_user::text")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(emitted(&pool, "public.orders", None).await, None);
    db.run(&format!(
        "select observer.restrict_emit('{role}', 'shop.'), observer.restrict_emit('{role}', 'shop.'),
                observer.restrict_emit('{role}', 'billing.', 'acme')"
    ))
    .await;
    for (entity, tenant) in [
        ("shop.closed", None),
        ("shop.closed", Some("other")),
        ("billing.closed", Some("acme")),
    ] {
        assert_eq!(emitted(&pool, entity, tenant).await, None, "{entity}");
    }
    for (entity, tenant) in [
        ("public.orders", None),
        ("shop", None),
        ("Shop.closed", None),
        ("billing.closed", None),
        ("billing.closed", Some("other")),
    ] {
        let refused = emitted(&pool, entity, tenant).await.unwrap();
        assert!(
            refused.contains("may not log events of entity"),
            "{refused}"
        );
    }
    // Nobody else is bound, and it cannot free itself.
    db.run("select observer.emit('public.orders')").await;
    for freeing in [
        format!("select observer.unrestrict_emit('{role}')"),
        format!("select observer.restrict_emit('{role}', '')"),
        "delete from observer.emit_restriction".to_owned(),
    ] {
        let refused = pool.execute(AssertSqlSafe(freeing)).await.unwrap_err();
        assert!(
            refused.to_string().contains("permission denied"),
            "{refused}"
        );
    }
    db.run(&format!("select observer.unrestrict_emit('{role}')"))
        .await;
    assert_eq!(emitted(&pool, "public.orders", None).await, None);
}

#[tokio::test]
async fn a_restriction_binds_members_and_outlives_a_new_name() {
    let db = support::database().await;
    let group = db.role("emitters", "nologin").await;
    let pool = intruder(&db, "observer.log_event").await;
    let role: String = sqlx::query_scalar("select session_user::text")
        .fetch_one(&pool)
        .await
        .unwrap();
    db.run(&format!(
        "grant {group} to {role}; select observer.restrict_emit('{group}', 'shop.');
         alter role {group} rename to {group}_x"
    ))
    .await;
    let refused = emitted(&pool, "public.orders", None).await;
    let kept: String = db
        .value("select role::text from observer.emit_restriction")
        .await;
    db.run(&format!("alter role {group}_x rename to {group}"))
        .await;
    assert!(refused.is_some());
    assert_eq!(kept, format!("{group}_x"));
    // What `set role` makes of a login sets it free of nothing.
    let mut connection = pool.acquire().await.unwrap();
    let other = db.role("other", "nologin").await;
    db.run(&format!(
        "grant {other} to {role}; grant usage on schema observer to {other};
         grant execute on function observer.log_event to {other}"
    ))
    .await;
    let set = format!("set role {other}");
    connection.execute(AssertSqlSafe(set)).await.unwrap();
    let refused = connection
        .execute("select observer.emit('public.orders')")
        .await;
    assert!(refused.unwrap_err().to_string().contains("may not log"));
    // A role that is gone binds nobody.
    drop(connection);
    db.run(&format!("drop owned by {group}; drop role {group}"))
        .await;
    assert_eq!(emitted(&pool, "public.orders", None).await, None);
}

#[tokio::test]
async fn a_cast_of_a_key_runs_with_the_caller_s_rights() {
    let db = support::database().await;
    let pool = intruder(&db, "observer.log_event").await;
    pool.execute(
        "create type intruder.k as (n int);
         create function intruder.text_of(intruder.k) returns text language plpgsql as
         'begin perform intruder.note(); return $1.n::text; end';
         create cast (intruder.k as text) with function intruder.text_of(intruder.k)",
    )
    .await
    .unwrap();
    pool.execute("select observer.emit('e', key => row(7)::intruder.k)")
        .await
        .unwrap();
    let ran: String = db.value("select role from public.ran_as").await;
    assert!(ran.starts_with("intruder"), "{ran}");
    let key: String = db.value("select key from observer.change_log").await;
    assert_eq!(key, "7");
}
