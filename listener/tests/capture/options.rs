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
    assert_eq!(tracked, "(public.t,t,{v},org,{id},)");
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
    assert_eq!(image, r#"{"id":1,"v":"a","doc":{"pin": "kept"}}"#);
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
async fn tracking_again_keeps_what_it_is_not_told() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key, v text unique, org text, pin text, code text);
         select observer.track('t', key => '{v}', tenant => 'org', exclude => '{pin}')",
    )
    .await;
    for (again, now) in [
        ("", "{v} org {pin}"),
        (", exclude => '{pin,code}'", "{v} org {pin,code}"),
        (", tenant => ''", "{v} none {pin,code}"),
        (", key => '{}'", "{id} none {pin,code}"),
        (", tenant => 'org', exclude => '{}'", "{id} org {}"),
        (", exclude => '{pin}'", "{id} org {pin}"),
    ] {
        db.run(&format!("select observer.track('t'{again})")).await;
        let tracked: String = db
            .value("select concat_ws(' ', key, coalesce(tenant, 'none'), exclude) from observer.tracked")
            .await;
        assert_eq!(tracked, now, "{again}");
    }
    // By the name that it has now.
    db.run("alter table t rename pin to secret; select observer.track('t')")
        .await;
    let excluded: String = db.value("select exclude::text from observer.tracked").await;
    assert_eq!(excluded, "{secret}");
}

/// What a dump does to a table: the same columns, without the gaps of those that were dropped, and
/// triggers by their definitions.
async fn restored(db: &support::TestDb, table: &str, columns: &str) {
    let triggers: Vec<String> = sqlx::query_scalar(
        "select pg_get_triggerdef(oid) from pg_trigger where tgrelid = $1::regclass order by 1",
    )
    .bind(table)
    .fetch_all(&db.pool)
    .await
    .unwrap();
    db.run(&format!(
        "alter table {table} rename to before; create table {table} ({columns}); {}; drop table before",
        triggers.join("; ")
    ))
    .await;
}

#[tokio::test]
async fn what_is_excluded_stays_so_in_a_restored_table() {
    let db = support::database().await;
    for table in ["renamed", "plain"] {
        db.run(&format!(
            "create table {table} (id int primary key, legacy text, pin text, email text, city text);
             alter table {table} drop column legacy;
             select observer.track('{table}', exclude => '{{pin}}')"
        ))
        .await;
    }
    db.run("alter table renamed rename pin to code").await;
    restored(
        &db,
        "renamed",
        "id int primary key, code text, email text, city text",
    )
    .await;
    restored(
        &db,
        "plain",
        "id int primary key, pin text, email text, city text",
    )
    .await;
    for table in ["renamed", "plain"] {
        db.run(&format!(
            "insert into {table} values (1, 'SECRET', 'a@example.com', 'Graz')"
        ))
        .await;
    }
    let images: Vec<String> =
        sqlx::query_scalar("select new::text from observer.change_log order by id")
            .fetch_all(&db.pool)
            .await
            .unwrap();
    assert_eq!(
        images,
        [r#"{"id":1,"email":"a@example.com","city":"Graz"}"#; 2]
    );
    let trouble: String = db
        .value("select string_agg(coalesce(trouble, 'none'), '; ' order by entity) from observer.tracked")
        .await;
    assert_eq!(
        trouble,
        "none; hidden until it is tracked again, as it was restored or copied: code"
    );

    // Which of the new names is the excluded one's, nobody can know.
    let refusal = db.refusal("select observer.track('renamed')").await;
    assert_eq!(
        refusal,
        "public.renamed was restored or copied, and has no column pin any more, which was excluded"
    );
    db.run("select observer.track('renamed', exclude => '{code}'), observer.track('plain')")
        .await;
    let kept: String = db
        .value("select string_agg(exclude::text, ' ' order by entity) from observer.tracked where trouble is null")
        .await;
    assert_eq!(kept, "{pin} {code}");
}

#[tokio::test]
async fn triggers_of_others_are_left_alone() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key); create table audit (what text);
         create function mine() returns trigger language plpgsql as
             'begin insert into audit values (tg_op); return null; end';
         create trigger observer_insert after insert on t for each statement execute function mine()",
    )
    .await;
    let refusal = db.refusal("select observer.track('t')").await;
    assert_eq!(
        refusal,
        "public.t has a trigger observer_insert of another origin, whose name is needed"
    );
    db.run("alter trigger observer_insert on t rename to theirs; select observer.track('t'); insert into t values (1)")
        .await;
    assert_eq!(db.value::<i64>("select count(*) from audit").await, 1);
    assert_eq!(changes(&db).await, ["i 1"]);
}

#[tokio::test]
async fn when_the_triggers_fire_is_kept_and_told() {
    let db = support::database().await;
    let trouble = "select coalesce(string_agg(trouble, ''), 'none') from observer.tracked";
    db.run(
        "create table t (id int primary key); select observer.track('t');
         alter table t enable always trigger observer_insert; select observer.track('t');
         set session_replication_role = replica; insert into t values (1)",
    )
    .await;
    assert_eq!(changes(&db).await, ["i 1"]);
    assert_eq!(db.value::<String>(trouble).await, "none");
    db.run("alter table t disable trigger observer_delete")
        .await;
    assert_eq!(
        db.value::<String>(trouble).await,
        "not logged, since these triggers are missing or disabled: observer_delete"
    );
    db.run("select observer.track('t'); alter table t rename id to number")
        .await;
    assert_eq!(
        db.value::<String>(trouble).await,
        "columns of the key or the tenant are not there any more: id"
    );
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
