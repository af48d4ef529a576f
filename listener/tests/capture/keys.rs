//! Keys of every kind, key changes, and lanes.

use super::{changes, events};
use crate::support;

#[tokio::test]
async fn keys_of_one_and_of_several_columns() {
    let db = support::database().await;
    db.run(
        r#"create table one (id uuid primary key);
           create table two (a text, "B é" int, primary key ("B é", a));
           create table none (a int, b text);
           select observer.track('one'), observer.track('two'), observer.track('none', key => '{b}');
           insert into one values ('2f7e4232-5d96-44cf-b702-b8b6b1c7d1f8');
           insert into two values ('x "y"', 2);
           insert into none values (1, 'k'), (2, null)"#,
    )
    .await;
    assert_eq!(
        changes(&db).await,
        [
            "i 2f7e4232-5d96-44cf-b702-b8b6b1c7d1f8",
            r#"i [2, "x \"y\""]"#,
            "i k",
            "i -"
        ]
    );
}

#[tokio::test]
async fn odd_names() {
    let db = support::database().await;
    db.run(
        r#"create schema "We ird";
           create table "We ird"."Täble" ("new_rows" int, "old_rows" text, "it's" int primary key, "key" int, "image" int, n int, "entity" text);
           select observer.track('"We ird"."Täble"', tenant => 'entity');
           insert into "We ird"."Täble" values (1, 'b', 3, 4, 5, 6, 'q');
           update "We ird"."Täble" set n = 7;
           alter table "We ird"."Täble" rename to "re'named";
           delete from "We ird"."re'named""#,
    )
    .await;
    let image = |n| {
        format!(
            r#"{{"new_rows":1,"old_rows":"b","it's":3,"key":4,"image":5,"n":{n},"entity":"q"}}"#
        )
    };
    assert_eq!(
        events(&db).await,
        [
            format!("i We ird.Täble 3 - {}", image(6)),
            format!("u We ird.Täble 3 {} {}", image(6), image(7)),
            format!("d We ird.re'named 3 {} -", image(7)),
        ]
    );
    let tracked: String = db
        .value("select entity || ' ' || key::text from observer.tracked")
        .await;
    assert_eq!(tracked, "We ird.re'named {it's}");
}

#[tokio::test]
async fn changed_keys_are_deletes_then_inserts() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key deferrable, v text); select observer.track('t');
         insert into t values (1, 'a'), (2, 'b'), (9, 'z');
         truncate observer.change_log;
         update t set id = case when id = 9 then 9 else id + 1 end",
    )
    .await;
    assert_eq!(changes(&db).await, ["d 1", "d 2", "i 2", "i 3", "u 9"]);
}

#[tokio::test]
async fn a_changed_tenant_is_a_delete_and_an_insert() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key, org int); select observer.track('t', tenant => 'org');
         insert into t values (1, 5); update t set org = 6",
    )
    .await;
    let got: String = db
        .value("select string_agg(concat(operation, ':', tenant), ' ' order by id) from observer.change_log")
        .await;
    assert_eq!(got, "i:5 d:5 i:6");
}

#[tokio::test]
async fn the_lane_follows_from_tenant_entity_and_key() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key, org text); select observer.track('t', tenant => 'org');
         insert into t values (1, 'a'), (2, null)",
    )
    .await;
    let right: bool = db
        .value(
            r"select bool_and(hash >= 0 and hash = (hashtextextended(
                coalesce(tenant, '') || E'\x1f' || entity || E'\x1f' || coalesce(key, ''), 0) & 2147483647))
              from observer.change_log",
        )
        .await;
    assert!(right, "each hash is that of tenant, entity and key");
}

#[tokio::test]
async fn the_text_of_a_key_does_not_depend_on_the_session() {
    let db = support::database().await;
    db.run(
        "create table t (at timestamptz, d tstzrange, p interval, f float8, b bytea, primary key (at, d, p, f, b));
         select observer.track('t');
         set timezone = 'Asia/Tokyo'; set datestyle = 'German'; set intervalstyle = 'iso_8601';
         set extra_float_digits = -5; set bytea_output = 'escape';
         insert into t values ('2024-01-02 03:04:05Z', '[2024-01-02 03:04:05Z,)', '1 day 2 hours', 0.1234567890123, 'ab')",
    )
    .await;
    assert_eq!(
        changes(&db).await,
        [
            r#"i ["2024-01-02T03:04:05+00:00", "[\"2024-01-02 03:04:05+00\",)", "1 day 02:00:00", 0.1234567890123, "\\x6162"]"#
        ]
    );
}

#[tokio::test]
async fn altering_a_tracked_table_never_stops_its_writers() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key, v text, org text); select observer.track('t', tenant => 'org');
         insert into t values (1, 'a', 'x'); update t set v = 'a'",
    )
    .await;
    for sql in [
        "alter table t add column extra int default 5; update t set extra = 6",
        "alter table t drop column v; update t set extra = 7",
        "alter table t alter column id type bigint; update t set extra = 8",
        "alter table t rename column id to number; update t set extra = 9; insert into t values (2)",
        "alter table t drop column org; update t set extra = 10",
        "alter table t drop column number; update t set extra = 11; insert into t values (1); delete from t",
    ] {
        db.run(sql).await;
    }
    let keys: String = db
        .value("select string_agg(distinct coalesce(key, '-'), ' ') from observer.change_log where id > 5")
        .await;
    assert_eq!(keys, "-");
    db.run("drop table t").await;
    assert_eq!(
        db.value::<i64>("select count(*) from observer.tracked")
            .await,
        0
    );
}

#[tokio::test]
async fn keys_and_tenants_are_the_very_texts_whatever_they_hold() {
    let db = support::database().await;
    db.run(
        r#"create table t (id text primary key, org text, j json); select observer.track('t', tenant => 'org');
           create table two (a text, b text, j json, primary key (a, b)); select observer.track('two');
           create table texts (t text);
           insert into texts values ('C:\users\anna'), (E'a\x01b'), ('au0001b'), ('a\u0001b'), ('\\u0041'), (E'\\\x1f"\n'),
               ('\\b'), ('é\ud800'), (''), ('null');
           insert into t select t, t, j from texts, (select '"\u0000 \ud800 \\u0001"'::json) as hostile (j);
           insert into t select 'beside ' || t, t, null from texts;
           insert into two select t, t, '{"x": "\u0000"}' from texts"#,
    )
    .await;
    let wrong: i64 = db
        .value(
            "select count(*) from observer.change_log l
             where entity = 'public.t' and not exists (select from t where (t.id, t.org) = (l.key, l.tenant))",
        )
        .await;
    assert_eq!(wrong, 0);
    let wrong: i64 = db
        .value(
            "select count(*) from observer.change_log l where entity = 'public.two'
                 and not exists (select from two where a = l.key::json ->> 0 and b = l.key::json ->> 1)",
        )
        .await;
    assert_eq!(wrong, 0);
    assert_eq!(changes(&db).await.len(), 30);
    // An update finds its row's own, too.
    db.run("update t set j = null; update two set j = null")
        .await;
    let kinds: String = db
        .value("select string_agg(distinct operation::text, '' order by operation::text) from observer.change_log")
        .await;
    assert_eq!(kinds, "iu");
}

#[tokio::test]
async fn names_with_dots_and_quotes_are_distinct_entities() {
    let db = support::database().await;
    db.run(
        r#"create schema "a.b"; create schema a; create table "a.b".c (id int primary key);
           create table a."b.c" (id int primary key); create table a."b""c" (id int primary key);
           select observer.track('"a.b".c'), observer.track('a."b.c"'), observer.track('a."b""c"');
           insert into "a.b".c values (1); insert into a."b.c" values (1); insert into a."b""c" values (1);
           update a."b.c" set id = 2; truncate "a.b".c"#,
    )
    .await;
    let entities: String = db
        .value("select string_agg(operation::text || entity, ' ' order by id) from observer.change_log")
        .await;
    assert_eq!(
        entities,
        r#"i"a.b".c ia."b.c" ia."b""c" da."b.c" ia."b.c" t"a.b".c"#
    );
}
