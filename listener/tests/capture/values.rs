//! Values that a careless log would refuse or change.

use super::changes;
use crate::support;

#[tokio::test]
async fn whatever_the_table_accepts_the_log_accepts() {
    let db = support::database().await;
    db.run(
        r#"create type pair as (x int, y text);
           create table t (id int primary key, n numeric, f float8, j json, b bytea, a text[], p pair, ts timestamptz, d date,
               r int4range, s text, doubled int generated always as (id * 2) stored, nothing text, "a""b" bool);
           select observer.track('t');
           insert into t values (1, ('1' || repeat('0', 400))::numeric, 'Infinity', '{"z":"\u0000", "n": 1e400}', '\x00ff',
               '{a,"b c",null}', row(1, 'q"'), 'infinity', '-infinity', '[1,5)', E'tab\t é 😀 \\ "', default, null, true);
           insert into t (id, n, f) values (2, 'NaN', 'NaN'), (3, '-0.00', '-0')"#,
    )
    .await;
    let images: Vec<String> =
        sqlx::query_scalar("select new::text from observer.change_log order by id")
            .fetch_all(&db.pool)
            .await
            .unwrap();
    let numeric = format!("1{}", "0".repeat(400));
    assert_eq!(
        images[0],
        format!(
            r#"{{"id":1,"n":{numeric},"f":"Infinity","j":{{"z":"\u0000", "n": 1e400}},"b":"\\x00ff","a":["a","b c",null],"p":{{"x":1,"y":"q\""}},"ts":"infinity","d":"-infinity","r":"[1,5)","s":"tab\t é 😀 \\ \"","doubled":2,"nothing":null,"a\"b":true}}"#
        )
    );
    assert!(
        images[1].contains(r#""n":"NaN","f":"NaN""#),
        "{}",
        images[1]
    );
    assert!(images[2].contains(r#""n":0.00,"f":-0"#), "{}", images[2]);
    let sizes: bool = db
        .value("select bool_and(size = octet_length(new::text)) from observer.change_log")
        .await;
    assert!(sizes, "each size is that of the new image");
}

#[tokio::test]
async fn large_values_are_whole_in_both_images_though_untouched() {
    let db = support::database().await;
    db.run(
        "create table t (id int primary key, big text, v int); select observer.track('t');
         insert into t select 1, string_agg(md5(g::text), ''), 1 from generate_series(1, 20000) g;
         update t set v = 2",
    )
    .await;
    let whole: bool = db
        .value(
            "select l.old ->> 'big' = t.big and l.new ->> 'big' = t.big and length(t.big) = 640000
             from observer.change_log l, t where l.operation = 'u'",
        )
        .await;
    assert!(whole, "the text is in both images as it is in the table");
}

#[tokio::test]
async fn json_that_postgres_stores_but_cannot_read_stops_nobody() {
    let db = support::database().await;
    db.run(
        r#"create table t (id text primary key, pin text, j json);
           select observer.track('t', tenant => 'id', exclude => '{pin}');
           insert into t values ('k', 'secret', '{"a":"\u0000","b":"\ud800","\u0075":"\u00750075 \\u0041"}');
           update t set pin = 'other'; delete from t"#,
    )
    .await;
    let images: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', operation, key, tenant, coalesce(new, old)) from observer.change_log order by id",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    let image = r#"{"id":"k","j":{"a":"\u0000","b":"\ud800","\u0075":"\u00750075 \\u0041"}}"#;
    assert_eq!(
        images,
        ["i", "u", "d"].map(|operation| format!("{operation} k k {image}"))
    );
}

/// A type with a cast to json of its own that raises, in all that a column's type can be made of.
const CASTS: &str = "
    create type level as enum ('low', 'high');
    create domain grade as level; create type pair as (x int, l grade); create type span as (p pair, ls level[]);
    create table t (id int primary key, v int, l level, ls level[], g grade, p pair, ps pair[], s span);
    create table plain (id int primary key, l level);
    select observer.track('t'), observer.track('plain');
    create function refuse(level) returns json language plpgsql as
        $$ begin raise exception 'the cast was called by %', current_user; end $$;
    create cast (level as json) with function refuse(level)";

#[tokio::test]
async fn casts_of_a_type_s_own_are_not_called() {
    let db = support::database().await;
    db.run(CASTS).await;
    let row = "'low', '{low,high}', 'high', row(1, 'low'), array[row(1, 'low')::pair], row(row(1, 'low'), '{low}')";
    db.run(&format!(
        "insert into t values (1, 1, {row}), (2, 2, null, null, null, null, null, null); insert into plain values (1, 'low');
         update t set v = 3 where id = 1; update t set v = v + 1; update t set id = id + 10; delete from t where id = 11"
    ))
    .await;
    let image: String = db
        .value("select new::text from observer.change_log order by id limit 1")
        .await;
    let told: serde_json::Value = serde_json::from_str(&image).unwrap();
    assert_eq!(
        told,
        serde_json::json!({
            "id": 1, "v": 1, "l": "low", "ls": "{low,high}", "g": "high", "p": "(1,low)",
            "ps": "{\"(1,low)\"}", "s": "(\"(1,low)\",{low})"
        })
    );
    assert_eq!(
        changes(&db).await,
        [
            "i 1", "i 2", "i 1", "u 1", "u 2", "u 1", "d 2", "d 1", "i 12", "i 11", "d 11"
        ]
    );
}

/// Reading it would raise; no transaction pays for what it does not log.
#[tokio::test]
async fn columns_that_are_excluded_are_not_read() {
    let db = support::database().await;
    db.run(CASTS).await;
    db.run(
        "create table docs (id int primary key, data bytea, note text);
         alter table docs alter data set storage external;
         select observer.track('docs', exclude => '{data}');
         insert into docs values (1, '\\x00', 'a');
         update docs set note = 'b'",
    )
    .await;
    let list: String = db
        .value("select observer.visible_columns('docs'::regclass, observer.options_of('docs'::regclass))")
        .await;
    assert_eq!(list, "id, note");
    let image: String = db
        .value("select old::text || new::text from observer.change_log where operation = 'u'")
        .await;
    assert_eq!(image, r#"{"id":1,"note":"a"}{"id":1,"note":"b"}"#);
}

#[tokio::test]
async fn virtual_columns_have_their_values() {
    let db = support::database().await;
    let version: i32 = db
        .value("select current_setting('server_version_num')::int")
        .await;
    if version < 180_000 {
        println!("version {version} has none");
        return;
    }
    db.run(
        "create table t (id int primary key, price numeric, qty int);
         select observer.track('t');
         alter table t add total numeric generated always as (price * qty) virtual;
         insert into t values (1, 10, 2), (2, 5, 1); update t set qty = 3 where id = 1; update t set qty = qty + 1;
         select observer.track('t', exclude => '{qty}'); delete from t where id = 1",
    )
    .await;
    let totals: String = db
        .value(
            "select string_agg(concat_ws('>', old ->> 'total', new ->> 'total'), ' ' order by id)
             from observer.change_log",
        )
        .await;
    assert_eq!(totals, "20 5 20>30 5>10 30>40 40");
}

/// Whatever Postgres can write as text, of each type that it brings, is logged the same under any
/// setting that a session may have.
#[tokio::test]
async fn no_setting_changes_the_text_of_any_type_of_postgres() {
    let db = support::database().await;
    db.run(
        "create schema \"Odd Names\"; create table \"Odd Names\".\"Some Table\" (id int primary key);
         create function \"Odd Names\".\"Some Function\"() returns int language sql return 1;
         create table samples (kind text primary key, sample text);
         insert into samples values
             ('money', '1234.5'), ('regclass', '\"Odd Names\".\"Some Table\"'), ('regproc', '\"Odd Names\".\"Some Function\"'),
             ('regprocedure', '\"Odd Names\".\"Some Function\"()'), ('regtype', '\"Odd Names\".\"Some Table\"'),
             ('regoper', 'pg_catalog.||/'), ('regoperator', 'pg_catalog.+(int,int)'), ('regrole', 'pg_monitor'),
             ('regnamespace', '\"Odd Names\"'), ('regconfig', 'english'), ('regdictionary', 'simple'),
             ('regcollation', '\"C\"'), ('timestamptz', '2024-02-03 04:05:06.7+00'), ('timestamp', '2024-02-03 04:05:06.7'),
             ('date', '2024-02-03'), ('timetz', '04:05:06+01'), ('interval', '1 year 2 days 03:04:05.6'),
             ('float4', '0.1234567'), ('float8', '0.12345678901234567'), ('bytea', '\\x6162ff00'),
             ('tstzrange', '[2024-02-03 04:05:06+00,)'), ('tstzmultirange', '{[2024-02-03 04:05:06+00,)}'),
             ('daterange', '[2024-02-03,)'), ('point', '(0.12345678901234567,2)'), ('numeric', '1e-3'),
             ('xml', '<?xml version=\"1.0\"?><a/>'), ('tsquery', 'a & b'), ('bit', '1'), ('aclitem', '=r/pg_monitor')",
    )
    .await;
    // A column for each, and one for an array of each.
    let kinds: Vec<(String, String)> = sqlx::query_as(
        "select coalesce(s.kind, t.typname::text), s.sample
         from pg_type t join samples s on s.kind = format_type(t.oid, null) or s.kind = t.typname
         where t.typnamespace = 'pg_catalog'::regnamespace",
    )
    .fetch_all(&db.pool)
    .await
    .unwrap();
    assert!(kinds.len() >= 29, "{kinds:?}");
    let columns: Vec<String> = kinds
        .iter()
        .map(|(kind, _)| format!("c_{kind} {kind}, a_{kind} {kind}[]"))
        .collect();
    let values: Vec<String> = kinds
        .iter()
        .map(|(kind, sample)| {
            let sample = sample.replace('\'', "''");
            format!("'{sample}'::{kind}, array['{sample}'::{kind}]")
        })
        .collect();
    db.run(&format!(
        "create table t (id int, {}); select observer.track('t', key => '{{id}}');
         insert into t values (1, {}); delete from observer.change_log",
        columns.join(", "),
        values.join(", ")
    ))
    .await;
    let settings = [
        "search_path = \"Odd Names\", pg_catalog, public",
        "search_path = public",
        "quote_all_identifiers = on",
        "timezone = 'Asia/Tokyo'",
        "datestyle = 'German, DMY'",
        "datestyle = 'SQL, DMY'",
        "intervalstyle = 'iso_8601'",
        "intervalstyle = 'sql_standard'",
        "bytea_output = 'escape'",
        "extra_float_digits = -15",
        "extra_float_digits = 3",
        "xmlbinary = hex",
        "xmloption = document",
        "lc_monetary = 'C.UTF-8'",
        "lc_numeric = 'C.UTF-8'",
        "client_encoding = 'LATIN1'",
        "default_text_search_config = 'german'",
        "standard_conforming_strings = off",
        "backslash_quote = on",
        "array_nulls = off",
    ];
    for setting in settings {
        db.run(&format!("set {setting}; update public.t set id = id"))
            .await;
    }
    let (logged, different): (i64, i64) = sqlx::query_as(
        "select count(*), count(distinct old::text || new::text) from observer.change_log",
    )
    .fetch_one(&db.pool)
    .await
    .unwrap();
    assert_eq!((logged, different), (20, 1));
}
