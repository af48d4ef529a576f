//! Statements in Postgres as actions.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::enrich::{answers, lookup};
use crate::support::listener::{Config, Process};
use crate::support::probe::free_address;
use crate::support::tls::speak_tls;
use crate::support::told::letters;
use crate::support::{TestDb, amounts_to, database, eventually, own_database, own_server};
use testkit::certs::Certs;
use testkit::seed::seed;
use testkit::wait::Patience;

/// An observer of `public.orders` that runs a statement; `url` is its line, where it has one.
pub(crate) fn observer(name: &str, url: &str, statement: &str, parameters: &[&str]) -> String {
    let parameters: Vec<String> = parameters.iter().map(|one| format!("{one:?}")).collect();
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n    - name: run\n      postgres:\n        {url}\n        \
         statement: {statement:?}\n        parameters: [{}]\n      \
         retry: {{attempts: 5, initialBackoff: 20ms, maxBackoff: 100ms}}\n---\n",
        parameters.join(", ")
    )
}

pub(crate) fn config(db: &TestDb, observers: &str) -> Config {
    Config::new(&db.url, "", observers)
}

/// The same, where statements may run in the own database and have these tables there.
pub(crate) async fn own_config(db: &TestDb, observers: &str, tables: &str) -> Config {
    let config = config(db, observers);
    let egress = own_database(db, tables).await;
    config.change("egress: {allow: [127.0.0.0/8]}", &egress);
    config
}

pub(crate) async fn orders() -> TestDb {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total int not null default 0);
         select observer.track('orders')",
    )
    .await;
    db
}

pub(crate) async fn count(db: &TestDb, table: &str) -> u64 {
    let count: i64 = db.value(&format!("select count(*) from {table}")).await;
    count.unsigned_abs()
}

#[tokio::test(flavor = "multi_thread")]
async fn own_database_effects_are_exactly_once_across_kills() {
    let bill = "insert into billed (id, total) select $1::int, $2::int from pg_sleep(0.002)";
    let observer = observer("bill", "", bill, &["{{ new.id }}", "{{ new.total }}"]);
    exactly_once_across_kills(&observer, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_database_effects_are_exactly_once_with_lookups_that_fail() {
    let random = std::sync::Mutex::new(StdRng::seed_from_u64(seed()));
    let api = answers(move |_, _| {
        let fails = random.lock().unwrap().random_bool(0.3);
        (if fails { 503 } else { 200 }, "1".to_owned())
    })
    .await;
    let bill =
        "insert into billed (id, total) select $1::int, $2::int + $3::int - 1 from pg_sleep(0.002)";
    let parameters = ["{{ new.id }}", "{{ new.total }}", "{{ enrich.one }}"];
    let enrich = format!("  enrich:{}  actions:", lookup("one", &api.url("/one"), ""));
    let observer = observer("bill", "", bill, &parameters)
        .replace("  actions:", &enrich)
        .replace("attempts: 5", "attempts: 50");
    exactly_once_across_kills(&observer, 5).await;
}

/// Changes orders while an observer bills them and its process is killed. Everything is billed once, in order.
async fn exactly_once_across_kills(observers: &str, kills: u32) {
    const KEYS: u64 = 20;
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let db = orders().await;
    db.run("create table billed (n bigserial, id int, total int)")
        .await;
    let config = own_config(&db, observers, "billed").await;
    db.run(&format!(
        "insert into orders select generate_series(1, {KEYS})"
    ))
    .await;
    let mut rounds: u64 = 1;
    let mut twice = 0;
    for _ in 0..kills {
        let process = Process::run(&config);
        let before = count(&db, "billed").await;
        let until = before + random.random_range(1..2 * KEYS);
        // Some work is under way when it is killed.
        let mut patience = Patience::default();
        let mut last = before;
        while last < until {
            // On a busy machine, changes are not made faster than they are billed.
            if KEYS * rounds < last + 4 * KEYS {
                db.run("update orders set total = total + 1").await;
                rounds += 1;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(1..30))).await;
            let now = count(&db, "billed").await;
            if now != last {
                patience.renew();
            }
            last = now;
            assert!(
                patience.lasts(),
                "{until} effects, and there are {last}, seed {seed}: {}",
                process.said()
            );
        }
        process.kill().await;
        // What had taken effect and was not saved.
        let unsaved: i64 = db
            .value("select count(*) from observer.processed_delivery where at > (select max(saved_at) from observer.checkpoint)")
            .await;
        twice += unsaved;
    }
    let process = Process::run(&config);
    let all = KEYS * rounds;
    amounts_to("effects", all, async || count(&db, "billed").await).await;
    process.stop().await;
    println!("{all} changes, {kills} kills, {twice} attempted again and done once");
    assert_eq!(count(&db, "billed").await, all, "seed {seed}");
    let wrong: i64 = db
        .value(
            "select count(*) from (
                 select total, row_number() over (partition by id order by n) - 1 as place from billed) b
             where total <> place",
        )
        .await;
    assert_eq!(wrong, 0, "in order, seed {seed}");
    assert_eq!(count(&db, "observer.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_bound_whatever_they_hold() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, big bigint, exact numeric, note text, whole jsonb, at timestamptz,
                              paid boolean, nothing text);
         select observer.track('orders');
         create table copies (like orders, key text)",
    )
    .await;
    let copy = "insert into copies values ($1::int, $2::bigint, $3::numeric, $4, $5::jsonb, $6::timestamptz, \
                $7::boolean, $8, $9)";
    let parameters = [
        "{{ new.id }}",
        "{{ new.big }}",
        "{{ new.exact }}",
        "{{ new.note }}",
        "{{ new.whole }}",
        "{{ new.at }}",
        "{{ new.paid }}",
        "{{ new.nothing }}",
        "key {{ key }}",
    ];
    let url = format!("url: {{value: \"{}\"}}", db.url);
    let config = config(&db, &observer("copy", &url, copy, &parameters));
    let process = Process::run(&config);
    db.run(
        r#"insert into orders values
           (1, 9223372036854775807, 12345678901234567890.123456789, $$'); drop table orders; -- {{ id }} \ "$$,
            '{"a": [1, null, "x"]}', '2026-03-01 12:00:00.123456+02', true, null),
           (2, null, null, '', null, null, null, null)"#,
    )
    .await;
    amounts_to("copies", 2, async || count(&db, "copies").await).await;
    let same: i64 = db
        .value(
            "select count(*) from orders o join copies c using (id)
             where row(o.*) is not distinct from row(c.id, c.big, c.exact, c.note, c.whole, c.at, c.paid, c.nothing)
                 and c.key = 'key ' || o.id",
        )
        .await;
    assert_eq!(same, 2);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_sql_errors_name_a_remedy_and_transient_ones_retry() {
    let db = orders().await;
    db.run(
        "create table numbers (n int primary key);
         create sequence tries;
         create function hesitant(int) returns void language plpgsql as $$
         begin
             if nextval('tries') < 3 then
                 raise exception 'not now' using errcode = '40001';
             end if;
             insert into numbers values ($1);
         end $$;
         create function never() returns void language plpgsql as $$
         begin raise exception 'no such customer'; end $$",
    )
    .await;
    let url = format!("url: {{value: \"{}\"}}", db.url);
    let observers = [
        (
            "hesitant",
            "select hesitant($1::int)",
            &["{{ new.id }}"][..],
        ),
        (
            "untyped",
            "insert into numbers values ($1)",
            &["{{ new.id }}"],
        ),
        ("few", "select $1::int, $2::int", &["{{ new.id }}"]),
        ("never", "select never()", &[]),
        ("nowhere", "insert into nowhere values (1)", &[]),
        ("text", "select $1::int", &["{{ operation }}"]),
        ("amid", "select $1", &["{{ new.id }} {{ null }}"]),
    ];
    let observers: Vec<String> = observers
        .iter()
        .map(|(name, statement, parameters)| observer(name, &url, statement, parameters))
        .chain([observer("own", "", "select 1", &[])])
        .collect();
    let config = config(&db, &observers.concat());
    let process = Process::run(&config);
    db.run("insert into orders values (7)").await;
    amounts_to("rows", 1, async || count(&db, "numbers").await).await;
    let mut found = letters(&db, 7).await;
    found.sort();
    let expected = [
        ("amid", "template", "null amid text"),
        ("few", "status", "08P01"),
        (
            "never",
            "status",
            "no such customer; the function raised this",
        ),
        ("nowhere", "status", "with its schema"),
        ("own", "egress", "spec.egress.ownDatabase"),
        ("text", "status", "22P02"),
        ("untyped", "status", "as in $1::bigint"),
    ];
    for (letter, (name, kind, told)) in found.iter().zip(expected) {
        assert_eq!((&*letter.0, &*letter.2), (name, kind), "{letter:?}");
        assert!(letter.3.contains(told), "{letter:?}");
        assert!(!letter.3.contains("postgres://"), "{letter:?}");
    }
    let tries: i64 = db.value("select last_value from tries").await;
    assert_eq!(tries, 3);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_takes_too_long_is_ended_on_the_server_too() {
    let db = orders().await;
    let url = format!("url: {{value: \"{}\"}}", db.url);
    let config = config(&db, &observer("slow", &url, "select pg_sleep(600)", &[]));
    config.change(
        "retry: {attempts: 5,",
        "timeout: 300ms\n      retry: {attempts: 2,",
    );
    let process = Process::run(&config);
    db.run("insert into orders values (7)").await;
    let found = letters(&db, 1).await;
    assert_eq!(found[0].2, "timeout", "{found:?}");
    eventually("no statement is left", async || {
        let left: i64 = db
            .value("select count(*) from pg_stat_activity where query like '%pg_sleep(600)' and state = 'active'")
            .await;
        (left == 0).then_some(())
    })
    .await;
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_ca_is_verified_and_client_certificate_is_sent() {
    let certs = Certs::make();
    let db = orders().await;
    let (server, pool) = own_server().await;
    speak_tls(&pool, &certs).await;
    sqlx::query("create table proof (encrypted bool, dn text)")
        .execute(&pool)
        .await
        .unwrap();
    let url = server.url("postgres").replace("127.0.0.1", "localhost");
    let line = |pem: &str| format!("{{value: \"{}\"}}", pem.replace('\n', "\\n"));
    let tls = |certs: &Certs| {
        let (certificate, key) = &certs.client;
        format!(
            "url: {{value: \"{url}\"}}\n        tls: {{ca: {}, certificate: {}, key: {}}}",
            line(&certs.ca),
            line(certificate),
            line(key)
        )
    };
    let prove =
        "insert into proof select ssl, client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    let observers = observer("known", &tls(&certs), prove, &[])
        + &observer("strange", &tls(&Certs::make()), prove, &[]);
    let config = config(&db, &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (7)").await;
    let given_up = letters(&db, 1).await;
    assert_eq!(
        (&*given_up[0].0, &*given_up[0].2),
        ("strange", "connection"),
        "{given_up:?}"
    );
    let proof: Vec<(bool, String)> = eventually("it has come in", async || {
        let rows = sqlx::query_as("select encrypted, dn from proof")
            .fetch_all(&pool)
            .await;
        rows.ok().filter(|rows| !rows.is_empty())
    })
    .await;
    let [(encrypted, dn)] = &*proof else {
        panic!("{proof:?}")
    };
    assert!(*encrypted && dn.contains("CN=shop.example.com"), "{dn}");
    process.stop().await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_connections_is_told_as_such() {
    let db = orders().await;
    let address = free_address();
    let url = format!("url: {{value: \"postgres://u:p@{address}/shop\"}}");
    let observers = observer("away", &url, "select 1", &[]).replace("attempts: 5", "attempts: 1");
    let config = config(&db, &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (1)").await;
    let [(_, _, kind, error)] = letters(&db, 1).await.try_into().unwrap();
    process.stop().await;
    assert_eq!(kind, "connection", "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_table_gives_no_delivery_up() {
    let db = orders().await;
    db.run("create table acc (id int primary key, n int)").await;
    let statement = "insert into public.acc values ($1::int, 1) on conflict (id) do update set n = acc.n + 1 \
                     returning *";
    let url = format!("url: {{value: \"{}\"}}", db.url);
    let observers = observer("own", "", statement, &["{{ new.id }}"])
        + &observer("elsewhere", &url, statement, &["{{ new.id + 100 }}"]);
    // A second attempt is not needed.
    let observers = observers.replace("attempts: 5", "attempts: 1");
    let config = own_config(&db, &observers, "acc").await;
    let process = Process::run(&config);
    for n in 1..=6_u64 {
        db.run(&format!("insert into orders values ({n})")).await;
        amounts_to("rows", 2 * n, async || {
            count(&db, "acc").await + count(&db, "observer.dead_letter").await
        })
        .await;
        db.run(&format!("alter table acc add note{n} text")).await;
    }
    assert_eq!(count(&db, "observer.dead_letter").await, 0);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_resume_after_a_read_only_moment() {
    let db = orders().await;
    db.run("create table billed (id int)").await;
    db.run("drop role if exists biller; create role biller login password 'b'; grant insert on billed to biller")
        .await;
    let url = format!("url: {{value: \"{}\"}}", db.url_as("biller", "b"));
    let statement = "insert into public.billed values ($1::int)";
    let observers = observer("bill", &url, statement, &["{{ new.id }}"]);
    let observers = observers.replace("attempts: 5", "attempts: 100");
    let config = config(&db, &observers);
    db.run("alter role biller set default_transaction_read_only = on")
        .await;
    let process = Process::run(&config);
    db.run("insert into orders values (1)").await;
    let failed = "select count(*) from observer.job where json_array_length(history) > 1";
    eventually("attempts that fail", async || {
        (db.value::<i64>(failed).await > 0).then_some(())
    })
    .await;
    db.run("alter role biller reset default_transaction_read_only")
        .await;
    amounts_to("effects", 1, async || count(&db, "billed").await).await;
    process.stop().await;
    db.run("drop owned by biller; drop role biller").await;
}
