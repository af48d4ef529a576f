//! Migration: by several at once, by an owner who is no super-user, and what is refused.

use observer_listener::migrate::{MigrateError, migrate, verify};

use testkit::servers::postgres::PrivateServer;

use crate::support;

#[tokio::test]
async fn several_at_once_migrate_once() {
    let db = support::empty_database().await;
    assert!(matches!(verify(&db.pool).await, Err(MigrateError::Missing)));
    let all = futures::future::join_all((0..8).map(|_| migrate(&db.pool))).await;
    let from: Vec<i64> = all
        .into_iter()
        .map(|migrated| migrated.unwrap().from)
        .collect();
    assert_eq!(
        from.iter().filter(|from| **from == 0).count(),
        1,
        "{from:?}"
    );
    verify(&db.pool).await.unwrap();
}

#[tokio::test]
async fn a_second_migration_does_nothing() {
    let db = support::database().await;
    let migrated = migrate(&db.pool).await.unwrap();
    assert_eq!(migrated.from, migrated.to);
    assert!(!migrated.functions);
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let db = support::database().await;
    db.run(
        "insert into observer.migration (version, description, success, checksum, execution_time)
         values (9999, 'later', true, '', 0)",
    )
    .await;
    for error in [
        migrate(&db.pool).await.unwrap_err(),
        verify(&db.pool).await.unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("use a newer observer-listener"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_database_without_steps_is_to_be_migrated() {
    let db = support::database().await;
    db.run("delete from observer.migration").await;
    let error = verify(&db.pool).await.unwrap_err();
    assert!(matches!(error, MigrateError::Missing), "{error}");
    assert!(
        error
            .to_string()
            .contains("run `observer-listener migrate`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_of_before_the_steps_were_one_is_refused() {
    let db = support::database().await;
    db.run(
        "update observer.migration set description = 'tables', checksum = 'x';
         insert into observer.migration (version, description, success, checksum, execution_time)
         select n, 'more', true, 'x', 0 from generate_series(2, 14) n",
    )
    .await;
    for error in [
        migrate(&db.pool).await.unwrap_err(),
        verify(&db.pool).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, MigrateError::Superseded { steps: 14 }),
            "{error}"
        );
        let said = error.to_string();
        assert!(said.contains("drop schema observer cascade"), "{said}");
    }
}

/// Makes the functions those of another build, as far as is recorded.
const OTHER_BUILD: &str = "update observer.function_set set digest = 'x'";

#[tokio::test]
async fn functions_of_another_build_are_renewed() {
    let db = support::database().await;
    let role = db.role("emitter", "").await;
    db.run(&format!(
        "create table public.t (id int primary key); select observer.track('public.t');
         grant execute on function observer.log_event to {role};
         create or replace function observer.low_watermark() returns bigint language sql as 'select -1::bigint';
         {OTHER_BUILD}"
    ))
    .await;
    let error = verify(&db.pool).await.unwrap_err();
    assert!(
        matches!(error, MigrateError::OlderFunctions { .. }),
        "{error}"
    );
    let said = error.to_string();
    assert!(said.contains("run `observer-listener migrate`"), "{said}");

    let migrated = migrate(&db.pool).await.unwrap();
    assert!(migrated.functions && migrated.from == migrated.to);
    assert_eq!(migrated.advice, None);
    verify(&db.pool).await.unwrap();
    assert!(!migrate(&db.pool).await.unwrap().functions);
    assert_ne!(db.value::<i64>("select observer.low_watermark()").await, -1);
    // Whose they are and who may call them is as it was, and what is tracked still is.
    let rights: bool = db
        .value(&format!(
            "select bool_and(pg_get_userbyid(proowner) = 'observer_capture')
                 and has_function_privilege('{role}', 'observer.log_event(text, json, text, text)', 'execute')
                 and not bool_or(coalesce(proacl::text like '%{{=%' or proacl::text like '%,=%', true))
             from pg_proc
             where pronamespace = 'observer'::regnamespace
                 and proname in ('log_rows', 'log_update', 'log_truncate', 'log_entity_changes', 'log_event')"
        ))
        .await;
    assert!(rights);
    db.run("insert into public.t values (1)").await;
    assert_eq!(
        db.value::<i64>("select count(*) from observer.change_log")
            .await,
        1
    );
}

#[tokio::test]
async fn functions_of_a_newer_program_are_left_alone() {
    let db = support::database().await;
    db.run("update observer.function_set set digest = 'x', version = '{9999,0,0}'")
        .await;
    for error in [
        migrate(&db.pool).await.unwrap_err(),
        verify(&db.pool).await.unwrap_err(),
    ] {
        assert!(
            matches!(&error, MigrateError::NewerFunctions { found, .. } if found == "9999.0.0"),
            "{error}"
        );
    }
}

/// What an older build may have left: a function with another type of result, one with other arguments,
/// and one that is not needed any more.
const OLDER_SHAPES: &str = "
    drop function observer.low_watermark;
    create function observer.low_watermark() returns text language sql as 'select null';
    drop function observer.drop_listener;
    create function observer.drop_listener(listener text, also text) returns bigint language sql as 'select 0::bigint';
    create function observer.retired() returns text language sql as 'select null';
    create function observer.theirs() returns text language sql as 'select null';
    update observer.function_set set digest = 'x', functions = (
        select array_agg(oid::regprocedure::text) from pg_proc
        where pronamespace = 'observer'::regnamespace and proname <> 'theirs')";

#[tokio::test]
async fn functions_of_other_shapes_make_way() {
    let db = support::database().await;
    let role = db.role("reader", "").await;
    db.run("create table public.t (id int primary key); select observer.track('public.t')")
        .await;
    // It stays what it is, since it depends on what has not changed.
    db.run("create view public.hashes as select observer.hash_of('a', 'b', 'c') as hash")
        .await;
    db.run(OLDER_SHAPES).await;
    db.run(&format!(
        "grant execute on function observer.low_watermark to {role};
         grant execute on function observer.drop_listener to {role}"
    ))
    .await;
    assert_eq!(migrate(&db.pool).await.unwrap().advice, None);
    verify(&db.pool).await.unwrap();
    let there: String = db
        .value(
            "select string_agg(oid::regprocedure::text, ' ' order by 1) from pg_proc
             where pronamespace = 'observer'::regnamespace
                 and proname in ('low_watermark', 'drop_listener', 'retired', 'theirs')",
        )
        .await;
    assert_eq!(
        there,
        "observer.drop_listener(text) observer.low_watermark() observer.theirs()"
    );
    let granted: bool = db
        .value(&format!(
            "select has_function_privilege('{role}', 'observer.low_watermark()', 'execute')
                 and has_function_privilege('{role}', 'observer.drop_listener(text)', 'execute')"
        ))
        .await;
    assert!(granted);
    db.run("insert into public.t values (1)").await;
    assert_eq!(
        db.value::<i64>(
            "select count(*) from observer.tracked, public.hashes, observer.change_log"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn what_depends_on_a_function_of_another_shape_is_named() {
    let db = support::database().await;
    db.run(OLDER_SHAPES).await;
    for (function, name) in [("low_watermark", "lows"), ("retired", "rests")] {
        db.run(&format!(
            "create view public.{name} as select observer.{function}() as it"
        ))
        .await;
        let error = migrate(&db.pool).await.unwrap_err();
        assert!(matches!(error, MigrateError::InUse { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains(function) && said.contains(name), "{said}");
        let untouched: bool = db
            .value("select digest = 'x' from observer.function_set")
            .await;
        assert!(untouched);
        db.run(&format!("drop view public.{name}")).await;
    }
    migrate(&db.pool).await.unwrap();
    verify(&db.pool).await.unwrap();
}

#[tokio::test]
async fn changed_steps_are_refused() {
    let db = support::database().await;
    db.run("update observer.migration set checksum = 'x' where version = 1")
        .await;
    assert!(matches!(
        migrate(&db.pool).await,
        Err(MigrateError::Changed(1))
    ));
    assert!(matches!(
        verify(&db.pool).await,
        Err(MigrateError::Changed(1))
    ));
}

#[tokio::test]
async fn a_schema_of_another_origin_is_left_alone() {
    let db = support::empty_database().await;
    db.run("create schema observer; create table observer.theirs ()")
        .await;
    assert!(matches!(
        migrate(&db.pool).await,
        Err(MigrateError::Foreign)
    ));
}

#[tokio::test]
async fn a_user_without_rights_learns_what_to_ask_for() {
    let db = support::empty_database().await;
    let role = db.role("migrator", "login password 'm'").await;
    let pool = testkit::database::pool(&db.url_as(&role, "m")).await;
    let error = migrate(&pool).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("create schema observer authorization {role}")),
        "{error}"
    );

    // Either remedy is enough.
    db.run(&format!("create schema observer authorization {role}"))
        .await;
    let migrated = migrate(&pool).await.unwrap();
    verify(&pool).await.unwrap();
    let advice = migrated.advice.unwrap();
    let whose = format!(
        "capture runs with the rights of {role}, instead of a role that may only add to the log"
    );
    assert!(advice.starts_with(&whose), "{advice}");
    let remedy = format!("create role observer_capture nologin; grant observer_capture to {role}");
    assert!(advice.contains(&remedy), "{advice}");
    db.run(&format!(
        "do $$ begin create role observer_capture nologin; exception when duplicate_object then null; end $$;
         grant observer_capture to {role}"
    ))
    .await;
    assert_eq!(migrate(&pool).await.unwrap().advice, None);
    db.run("create table public.t (id int primary key); select observer.track('public.t'); insert into public.t values (1)")
        .await;
    let identity: i64 = sqlx::query_scalar("select system_identifier from pg_control_system()")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_ne!(identity, 0);
}

#[tokio::test]
async fn others_than_the_owner_cannot_migrate() {
    let db = support::database().await;
    let role = db.role("stranger", "login password 's'").await;
    let pool = testkit::database::pool(&db.url_as(&role, "s")).await;
    for error in [
        migrate(&pool).await.unwrap_err(),
        verify(&pool).await.unwrap_err(),
    ] {
        assert!(matches!(error, MigrateError::Privilege { .. }), "{error}");
        assert!(error.to_string().contains("owner of the schema"), "{error}");
    }
}

#[tokio::test]
async fn databases_whose_texts_may_have_no_form_are_refused() {
    let db = support::empty_database().await;
    let name = format!(
        "{}_ascii",
        db.value::<String>("select current_database()::text").await
    );
    db.run(&format!(
        "create database {name} encoding 'SQL_ASCII' locale 'C' template template0"
    ))
    .await;
    let url = testkit::database::shared_url(&name).await;
    let pool = testkit::database::pool(&url).await;
    let error = migrate(&pool).await.unwrap_err();
    pool.close().await;
    db.run(&format!("drop database {name}")).await;
    assert!(
        matches!(&error, MigrateError::Encoding(encoding) if encoding == "SQL_ASCII"),
        "{error}"
    );
    assert!(
        error.to_string().contains("with the encoding UTF8"),
        "{error}"
    );
}

#[tokio::test]
async fn who_may_make_roles_makes_the_one_that_captures() {
    let server = PrivateServer::start(&support::binaries()).await.unwrap();
    let admin = testkit::database::pool(&server.url("postgres")).await;
    for statement in [
        "create role maker login password 'm' createrole",
        "grant create on database postgres to maker",
    ] {
        sqlx::query(statement).execute(&admin).await.unwrap();
    }
    let mut url = url::Url::parse(&server.url("postgres")).unwrap();
    url.set_username("maker").unwrap();
    url.set_password(Some("m")).unwrap();
    let pool = testkit::database::pool(url.as_str()).await;
    for _ in 0..2 {
        assert_eq!(migrate(&pool).await.unwrap().advice, None);
    }
    let owner: String = sqlx::query_scalar(
        "select pg_get_userbyid(proowner)::text from pg_proc where oid = 'observer.log_rows()'::regprocedure",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(owner, "observer_capture");
    for statement in [
        "create schema mine",
        "create table mine.t (id int primary key)",
        "select observer.track('mine.t')",
        "insert into mine.t values (1)",
        "truncate mine.t",
    ] {
        sqlx::query(statement).execute(&pool).await.unwrap();
    }
    let logged: i64 = sqlx::query_scalar("select count(*) from observer.change_log")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(logged, 2);
}
