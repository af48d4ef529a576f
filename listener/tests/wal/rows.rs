//! Rows are the same as by triggers, byte for byte.

use serde_json::Value;
use sqlx::Row;

use super::{Source, sink};
use crate::support::fleet::LONG_LEASE;
use crate::support::listener::{Config, Process, observer};
use observer_listener::migrate::migrate;

/// Operation, entity, key, tenant and both images, as text.
pub(super) type LoggedRow = (
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
);

pub(super) async fn logged(pool: &sqlx::PgPool) -> Vec<LoggedRow> {
    let rows = sqlx::query(
        "select operation::text, entity, key, tenant, old::text, new::text, size, hash
         from observer.change_log order by id",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    rows.iter()
        .map(|row| {
            (
                row.get(0),
                row.get(1),
                row.get(2),
                row.get(3),
                row.get(4),
                row.get(5),
            )
        })
        .collect()
}

pub(super) const TYPES: &str = r#"
    create type mood as enum ('sad', 'so "so"', 'happy, really');
    create domain money_amount as numeric check (value >= 0);
    create type pair as (x int, "y z" text);
    create type nested as (p pair, ps pair[], at timestamptz, m mood);
    create domain pairs as pair[];
    create type odd as (n int);
    create function odd_json(odd) returns json language sql immutable as $$ select '{"odd": true}'::json $$;
    create cast (odd as json) with function odd_json(odd);
    create extension if not exists hstore;
    create extension if not exists citext;
    create extension if not exists ltree;
    create table every (
        id bigint primary key, org text, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric,
        m money, t text, v varchar(20), c char(8), c1 "char", nm name, ba bytea, d date, ti time, tz timetz, ts timestamp,
        tstz timestamptz, iv interval, u uuid, j json, jb jsonb, x xml, ip inet, ci cidr, ma macaddr, bits bit(5),
        vb varbit, pt point, bx box, po polygon, tsv tsvector, tsq tsquery, r4 int4range, rt tstzrange, mr int4multirange,
        o oid, x8 xid8, lsn pg_lsn, i2v int2vector, ov oidvector, e mood, es mood[], dom money_amount, p pair, ps pair[],
        dp pairs, ne nested, ia int[], ta text[], taa timestamptz[], bxa box[], ja json[], od odd, h hstore, cit citext,
        lt ltree, reg regclass, "We ""ird" int
    );
"#;

pub(super) const VALUES: &str = r#"
    insert into every (id) values (1);
    insert into every values (
        2, 'a', true, -32768, 2147483647, -9223372036854775808, 1.1, 'NaN', 'Infinity', 12.5, E'tab\t"q" \\ \x01 é \u2028',
        'x', 'pad', 'z', 'nm', '\x00ff', '2024-02-29', '12:34:56.789', '12:34+02', '2024-02-29 01:02:03.5',
        '2024-02-29 01:02:03.000001+05', '1 year 2 mons -3 days 04:05:06.7', '00000000-0000-0000-0000-000000000001',
        '{"a" : 1e400, "z": "\u0000"}', '{"b": 2, "a": [1, null]}', '<a>b</a>', '10.0.0.1/8', '10.0.0.0/8',
        '08:00:2b:01:02:03', B'10101', B'1', '(1,2)', '((1,2),(3,4))', '((0,0),(1,1),(1,0))', 'a b', 'a & b',
        '[1,5)', '[2024-01-01 00:00+00,)', '{[1,2),[5,6)}', 4294967295, '5', '0/16B3748', '1 2', '3 4', 'so "so"',
        '{sad,"happy, really",NULL}', 1.50, row(1, 'a,"b"'), array[row(1, null)::pair, null, row(2, '')::pair],
        array[row(3, 'c')::pair], row(row(1, 'x'), array[row(2, '{}')::pair], '2024-01-01 00:00+00', 'sad'),
        '[0:1][1:2]={{1,2},{3,NULL}}', array['', 'NULL', null, '{a}', 'a"b\c', ' '], array['-infinity'::timestamptz, now()],
        array['((1,2),(3,4))'::box, '((5,6),(7,8))'::box], array['{"a": 1}'::json, 'null'::json], row(1), 'k=>v, n=>NULL',
        'CiT', 'a.b', 'pg_class', 7
    );
    insert into every (id, d, ts, tstz, f8, f4, n, ia, iv) values
        (3, 'infinity', '-infinity', 'infinity', '-Infinity', 1e-30, 'NaN', '{}', '-00:00:01'),
        (4, '0044-03-15 BC', '0044-03-15 12:00 BC', '0044-03-15 12:00+00 BC', 1e300, 16777216, 1e-20, '{{1},{2}}', '0'),
        (5, '10000-01-01', '10000-01-01 00:00', '10000-01-01 00:00+00', 0.1, 0.1, 123456789012345678901234567890.12, null, '1 day');
    update every set t = 'changed', org = 'b' where id = 2;
    update every set org = 'b', t = repeat('long', 5000) where id = 3;
    update every set i4 = 1 where id = 3;
    update every set id = id + 100 where id in (4, 5);
    delete from every where id in (1, 2);
    begin; insert into every (id) values (7); savepoint s; insert into every (id) values (8); rollback to s; commit;
    alter table every add column later text default 'd';
    insert into every (id) values (9);
    alter table every drop column i2;
    alter table every rename column i4 to four;
    update every set four = 2 where id = 9;
    create table cities (id int, place text, v text, primary key (id, place)) partition by list (place);
    create table paris partition of cities for values in ('paris');
    create table rome partition of cities for values in ('rome');
    truncate every;
"#;

#[tokio::test(flavor = "multi_thread")]
async fn every_type_is_written_as_by_triggers() {
    let source = Source::apart().await;
    migrate(&source.read).await.unwrap();
    source.run(TYPES).await;
    source
        .run("select observer.track('every', tenant => 'org', exclude => '{vb}')")
        .await;
    let sink = sink().await;
    let tables = source.spec("      tables: [{table: public.every, tenant: org, exclude: [vb]}]\n");
    let observer = observer("none", "public.none", &sink.url("/"), "");
    let config = Config::new(
        &source.log_url(),
        &format!("{LONG_LEASE}{tables}"),
        &observer,
    );
    let process = Process::run(&config);
    source.is_read().await;
    for statement in VALUES.split(";\n") {
        if !statement.trim().is_empty() {
            source.run(statement).await;
        }
    }
    let by_triggers = logged(&source.read).await;
    source
        .logged(i64::try_from(by_triggers.len()).unwrap())
        .await;
    let by_wal = logged(&source.log).await;
    for (one, other) in by_triggers.iter().zip(&by_wal) {
        for image in [&one.4, &one.5].into_iter().flatten() {
            assert!(serde_json::from_str::<Value>(image).is_ok() || image.contains("1e400"));
        }
        assert_eq!(one, other);
    }
    assert_eq!(by_triggers.len(), by_wal.len());
    let differ: i64 = source
        .value("select count(*) from observer.change_log where hash <> observer.hash_of(tenant, entity, key)")
        .await;
    assert_eq!(differ, 0);
    process.stop().await;
}
