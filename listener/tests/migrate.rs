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
async fn an_older_database_is_to_be_migrated() {
    let db = support::database().await;
    db.run("delete from observer.migration where version > 1")
        .await;
    let error = verify(&db.pool).await.unwrap_err();
    assert!(
        matches!(error, MigrateError::Older { found: 1, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("run `observer-listener migrate`"),
        "{error}"
    );
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
