//! Values that a careless log would refuse or change.

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
    let image =
        r#"{ "id" : "k", "j" : {"a":"\u0000","b":"\ud800","\u0075":"\u00750075 \\u0041"} }"#;
    assert_eq!(
        images,
        ["i", "u", "d"].map(|operation| format!("{operation} k k {image}"))
    );
}
