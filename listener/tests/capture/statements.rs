//! Each kind of statement, and what a transaction leaves behind.

use super::{changes, events};
use crate::support;

const TABLE: &str = "create table t (id int primary key, v text); select observer.track('t')";

#[tokio::test]
async fn each_operation_is_an_event_with_its_images() {
    let db = support::database().await;
    db.run(TABLE).await;
    for sql in [
        "insert into t values (1, 'a')",
        "update t set v = 'b'",
        "update t set v = v",
        "delete from t",
        "truncate t",
    ] {
        db.run(sql).await;
    }
    assert_eq!(
        events(&db).await,
        [
            r#"i public.t 1 - {"id":1,"v":"a"}"#,
            r#"u public.t 1 {"id":1,"v":"a"} {"id":1,"v":"b"}"#,
            r#"u public.t 1 {"id":1,"v":"b"} {"id":1,"v":"b"}"#,
            r#"d public.t 1 {"id":1,"v":"b"} -"#,
            "t public.t - - -",
        ]
    );
}

#[tokio::test]
async fn bulk_statement_is_one_insert_and_an_empty_one_is_none() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run(
        "create table statements (operation text);
         create function note() returns trigger language plpgsql as
         'begin insert into public.statements select tg_op where exists (select from logged); return null; end';
         create trigger note after insert on observer.change_log referencing new table as logged
         for each statement execute function note();
         grant insert on statements to observer_capture; grant usage on schema public to observer_capture",
    )
    .await;
    db.run("insert into t select g, 'x' from generate_series(1, 1000) g")
        .await;
    db.run("update t set v = 'y'").await;
    db.run("delete from t where id <= 500").await;
    assert_eq!(db.value::<i64>("select count(*) from statements").await, 3);
    assert_eq!(
        db.value::<i64>("select count(*) from observer.change_log")
            .await,
        2500
    );

    db.run("insert into t select 1, 'x' where false; update t set v = 'z' where id < 0; delete from t where id < 0")
        .await;
    assert_eq!(
        db.value::<i64>("select count(*) from observer.change_log")
            .await,
        2500
    );
}

#[tokio::test]
async fn images_of_a_bulk_update_are_those_of_the_same_row() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("update t set v = 'warm' where id = 0; insert into t values (0, 'first'); update t set v = 'second'").await;
    db.run("insert into t select g, 'n' || g from generate_series(1, 20000) g order by random()")
        .await;
    db.run("update t set v = 'm' || id").await;
    let wrong: i64 = db
        .value(
            "select count(*) from observer.change_log where operation = 'u' and id > 2
             and (old ->> 'id' <> new ->> 'id' or key <> new ->> 'id' or new ->> 'v' <> 'm' || key and key <> '0')",
        )
        .await;
    assert_eq!(wrong, 0);
}

#[tokio::test]
async fn what_is_rolled_back_leaves_nothing() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run(
        "begin; insert into t values (1, 'a'); savepoint s; insert into t values (2, 'b');
         rollback to s; insert into t values (3, 'c'); commit;
         begin; insert into t values (4, 'd'); rollback",
    )
    .await;
    assert_eq!(changes(&db).await, ["i 1", "i 3"]);
    let xids: i64 = db
        .value("select count(distinct xid) from observer.change_log")
        .await;
    assert_eq!(xids, 1);
}

#[tokio::test]
async fn upsert_merge_copy_and_cascade() {
    let db = support::database().await;
    db.run(TABLE).await;
    db.run("insert into t values (1, 'a')").await;
    db.run("insert into t values (1, 'b'), (2, 'c') on conflict (id) do update set v = excluded.v")
        .await;
    let mut got = changes(&db).await;
    got.sort();
    assert_eq!(got, ["i 1", "i 2", "u 1"]);

    if db
        .value::<i32>("select current_setting('server_version_num')::int")
        .await
        >= 150_000
    {
        db.run("truncate observer.change_log").await;
        db.run(
            "merge into t using (values (1, 'x'), (2, 'y'), (3, 'z')) s (id, v) on t.id = s.id
             when matched and t.id = 1 then delete
             when matched then update set v = s.v
             when not matched then insert values (s.id, s.v)",
        )
        .await;
        let mut got = changes(&db).await;
        got.sort();
        assert_eq!(got, ["d 1", "i 3", "u 2"]);
    }

    db.run("truncate t; truncate observer.change_log").await;
    let mut connection = db.connect().await;
    let mut copy = connection.copy_in_raw("copy t from stdin").await.unwrap();
    copy.send(&b"7\tx\n8\ty\n"[..]).await.unwrap();
    copy.finish().await.unwrap();
    assert_eq!(changes(&db).await, ["i 7", "i 8"]);

    db.run(
        "truncate observer.change_log;
         create table child (id int primary key, parent int references t on delete cascade);
         select observer.track('child');
         insert into child values (1, 7), (2, 7), (3, 8)",
    )
    .await;
    db.run("truncate observer.change_log; delete from t").await;
    let mut got = changes(&db).await;
    got.sort();
    assert_eq!(got, ["d 1", "d 2", "d 3", "d 7", "d 8"]);
    db.run("truncate observer.change_log; truncate t cascade")
        .await;
    assert_eq!(changes(&db).await, ["t -", "t -"]);
}

#[tokio::test]
async fn a_writer_needs_no_rights_on_the_log() {
    let db = support::database().await;
    db.run(TABLE).await;
    let role = db.role("writer", "login password 'w'").await;
    db.run(&format!(
        "grant insert, update, delete, truncate, select on t to {role}"
    ))
    .await;
    let pool = testkit::database::pool(&db.url_as(&role, "w")).await;
    for sql in [
        "insert into t values (1, 'a')",
        "update t set v = 'b'",
        "delete from t",
        "truncate t",
    ] {
        sqlx::query(sql).execute(&pool).await.unwrap();
    }
    assert_eq!(changes(&db).await, ["i 1", "u 1", "d 1", "t -"]);
    for sql in [
        "select * from observer.change_log",
        "select observer.emit('e')",
        "select observer.track('t')",
    ] {
        let error = sqlx::query(sql).execute(&pool).await.unwrap_err();
        assert_eq!(
            error.as_database_error().unwrap().code().unwrap(),
            "42501",
            "{sql}"
        );
    }
}

#[tokio::test]
async fn a_custom_event_by_one_who_may_do_no_more() {
    let db = support::database().await;
    let role = db.role("emitter", "login password 'e'").await;
    db.run(&format!(
        "grant usage on schema observer to {role}; grant execute on function observer.log_event to {role}"
    ))
    .await;
    let pool = testkit::database::pool(&db.url_as(&role, "e")).await;
    let id: i64 = sqlx::query_scalar(
        r#"select observer.emit('invoice.due', '{"n": 1.50}', key => '7', tenant => 'acme')"#,
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    let got: String = db
        .value("select concat_ws(' ', id, operation, entity, key, tenant, size, new) from observer.change_log")
        .await;
    assert_eq!(
        got,
        format!(r#"{id} c invoice.due 7 acme 11 {{"n": 1.50}}"#)
    );
    sqlx::query("select observer.emit('bare')")
        .execute(&pool)
        .await
        .unwrap();
    let error = sqlx::query("select observer.emit('')")
        .execute(&pool)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("needs the name of an entity"),
        "{error}"
    );
    let error = sqlx::query("select * from observer.change_log")
        .execute(&pool)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("permission denied"), "{error}");
}

#[tokio::test]
async fn a_custom_event_takes_payloads_and_keys_of_any_type() {
    let db = support::database().await;
    for (arguments, logged) in [
        ("'e'", "- - -"),
        ("'e', null", "- - -"),
        ("'e', null, null, null", "- - -"),
        ("'e', '{}'", "- - {}"),
        ("'e', '{}', 'k'", "k - {}"),
        ("'e', '{}', 5, 't'", "5 t {}"),
        ("'e', '{}'::json, 'k', 't'", "k t {}"),
        ("'e', '{}'::jsonb", "- - {}"),
        ("'e', '{}'::jsonb, 5::bigint", "5 - {}"),
        ("'e', null::jsonb, 1.50", "1.50 - -"),
        (
            "'e', null, '6d0f2d6c-1c9f-4fbb-8b1c-0a2b3c4d5e6f'::uuid",
            "6d0f2d6c-1c9f-4fbb-8b1c-0a2b3c4d5e6f - -",
        ),
        ("'e', to_jsonb(7), 'k'::varchar, 't'::name", "k t 7"),
        ("'e', row_to_json(row(1)), 2::smallint", r#"2 - {"f1":1}"#),
        ("'e', key => 7", "7 - -"),
        ("'e', key => 'k'", "k - -"),
        ("'e', tenant => 't'", "- t -"),
        ("entity => 'e', payload => '[]', key => 7", "7 - []"),
        (
            "tenant => 't', entity => 'e', payload => jsonb_build_array(1)",
            "- t [1]",
        ),
    ] {
        let id: i64 = db
            .value(&format!("select observer.emit({arguments})"))
            .await;
        let query = format!(
            "select format('%s %s %s', coalesce(key, '-'), coalesce(tenant, '-'), coalesce(new::text, '-'))
             from observer.change_log where id = {id}"
        );
        assert_eq!(db.value::<String>(&query).await, logged, "{arguments}");
    }
    // As drivers call it, who leave types to the server or name some.
    for call in [
        "prepare p as select observer.emit($1, $2, $3, $4); execute p('e', '{}', 'k', null)",
        "prepare q(text, json, text, text) as select observer.emit($1, $2, $3, $4); execute q('e', '{}', null, 't')",
        "prepare r(varchar, jsonb, int) as select observer.emit($1, $2, $3); execute r('e', '{}', 5)",
    ] {
        db.run(call).await;
    }
}

#[tokio::test]
async fn a_custom_event_s_names_have_bounds() {
    let db = support::database().await;
    for (arguments, message) in [
        (
            "repeat('x', 256)",
            "the event's entity is longer than 255 bytes",
        ),
        (
            "'e', null, repeat('x', 8193)",
            "the event's key is longer than 8192 bytes",
        ),
        (
            "'e', null, 'k', repeat('é', 4097)",
            "the event's tenant is longer than 8192 bytes",
        ),
        ("''", "an event needs the name of an entity"),
    ] {
        assert_eq!(
            db.refusal(&format!("select observer.emit({arguments})"))
                .await,
            message
        );
    }
    db.run("select observer.emit(repeat('x', 255), null, repeat('x', 8192), repeat('x', 8192))")
        .await;
}
