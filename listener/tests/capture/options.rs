//! What `track` accepts, refuses, and hides.

use super::changes;
use crate::support;

#[tokio::test]
async fn tracking_again_changes_the_options_and_untracking_ends_it() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key, v text, org text);
         select observer.track('t'); select observer.track('t');
         insert into t values (1, 'a', 'o');
         select observer.track('t', key => '{v}', tenant => 'org', exclude => '{id}');
         insert into t values (2, 'b', 'p')",
    )
    .await;
    assert_eq!(changes(&db).await, ["i 1", "i b"]);
    let tracked: String = db.value("select tracked::text from observer.tracked").await;
    assert_eq!(tracked, "(public.t,t,{v},org,{id})");
    db.run("select observer.untrack('t'); insert into t values (3, 'c', 'q'); select observer.untrack('t')").await;
    assert_eq!(changes(&db).await.len(), 2);
    assert_eq!(
        db.value::<i64>("select count(*) from observer.tracked")
            .await,
        0
    );
}

#[tokio::test]
async fn what_is_excluded_never_reaches_the_log() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key, pin text, v text, doc json);
         select observer.track('t', exclude => '{pin}');
         insert into t values (1, 'secret-1', 'a', '{\"pin\": \"kept\"}'); update t set v = 'b', pin = 'secret-2';
         alter table t rename pin to code; update t set code = 'secret-3';
         alter table t add pin text; update t set pin = 'secret-4'; delete from t",
    )
    .await;
    let leaked: i64 = db
        .value("select count(*) from observer.change_log l where l::text like '%secret%'")
        .await;
    assert_eq!(leaked, 0);
    let image: String = db
        .value("select new::text from observer.change_log order by id limit 1")
        .await;
    assert_eq!(image, r#"{ "id" : 1, "v" : "a", "doc" : {"pin": "kept"} }"#);
}

#[tokio::test]
async fn an_exclusion_follows_the_number_of_a_partitions_own_column() {
    let db = support::database().await;
    db.run(
        "create table t (id int, pin text, v text) partition by list (id);
         create table part (dropped int, v text, pin text, id int);
         alter table part drop column dropped;
         alter table t attach partition part for values in (1);
         select observer.track('t', key => '{id}', exclude => '{pin}');
         alter table t rename pin to code;
         insert into part values ('a', 'secret', 1); insert into t values (1, 'secret', 'b')",
    )
    .await;
    let got: String = db
        .value("select string_agg(new ->> 'v' || new::text, '') from observer.change_log")
        .await;
    assert!(!got.contains("secret"), "{got}");
    assert_eq!(changes(&db).await, ["i 1", "i 1"]);
}

#[tokio::test]
async fn what_cannot_be_tracked_is_refused() {
    let db = support::database().await;
    db.run(
        "create table keyless (a int); create table t (id int primary key, org text);
         create view v as select 1; create materialized view m as select 1; create sequence s;
         create table root (id int primary key) partition by range (id);
         create table leaf partition of root for values from (0) to (10)",
    )
    .await;
    for (call, message) in [
        ("'keyless'", "public.keyless has no primary key"),
        (
            "'keyless', key => '{}'",
            "public.keyless has no primary key",
        ),
        ("'t', key => '{nope}'", "public.t has no column nope"),
        ("'t', key => '{null}'", "public.t has no column NULL"),
        ("'t', tenant => 'Org'", "public.t has no column \"Org\""),
        ("'t', exclude => '{x}'", "public.t has no column x"),
        (
            "'t', exclude => '{id}'",
            "a column of the key or the tenant cannot be excluded",
        ),
        (
            "'t', tenant => 'org', exclude => '{org}'",
            "a column of the key or the tenant cannot be excluded",
        ),
        ("'v'", "public.v is a view and cannot be tracked"),
        ("'m'", "public.m is a view and cannot be tracked"),
        ("'s'", "public.s is not a table"),
        (
            "'leaf'",
            "public.leaf is a partition and is tracked with its root",
        ),
        (
            "'pg_class'",
            "pg_class is a system table and cannot be tracked",
        ),
        (
            "'observer.checkpoint'",
            "observer.checkpoint belongs to the log itself and cannot be tracked",
        ),
        ("null", "no table was named"),
    ] {
        assert_eq!(
            db.refusal(&format!("select observer.track({call})")).await,
            message,
            "{call}"
        );
    }
    let temporary = db
        .refusal("create temporary table x (id int primary key); select observer.track('x')")
        .await;
    assert_eq!(temporary, "x is a temporary table and cannot be tracked");
    assert_eq!(
        db.value::<i64>("select count(*) from observer.tracked")
            .await,
        0
    );
}

#[tokio::test]
async fn the_owner_of_a_table_may_track_it() {
    let db = support::database().await;
    let role = db.role("keeper", "login password 'k'").await;
    db.run(&format!(
        "grant usage on schema observer to {role};
         grant execute on function observer.track, observer.log_rows, observer.log_update, observer.log_truncate
         to {role};
         create schema mine authorization {role}"
    ))
    .await;
    let pool = testkit::database::pool(&db.url_as(&role, "k")).await;
    sqlx::raw_sql(
        "create table mine.t (id int primary key); select observer.track('mine.t'); insert into mine.t values (1)",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert_eq!(changes(&db).await, ["i 1"]);
}
