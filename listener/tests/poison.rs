//! What cannot be processed is set aside with its reason, and what is around it flows on.

use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process, observer};
use crate::support::program::dlq;
use crate::support::told::{Told, keys_of, letters, told};
use crate::support::{TestDb, database, eventually};

/// An observer of an entity with one action, given as YAML.
fn acting(name: &str, entity: &str, when: &str, action: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: \"{entity}\"}}\n  when: '{when}'\n  actions: [{{name: post, {action}}}]\n---\n"
    )
}

/// An action that posts a template's text.
fn template(url: &str, body: &str) -> String {
    format!("webhook: {{url: {{value: \"{url}\"}}, body: '{body}'}}")
}

fn post(url: &str) -> String {
    format!(
        "webhook: {{url: {{value: \"{url}\"}}}}, timeout: 5m, retry: {{attempts: 3, initialBackoff: 10ms}}"
    )
}

/// Starts once more on the same files: what is behind stays behind.
async fn nothing_is_repeated(config: &Config, db: &TestDb, sink: &Sink) {
    let before = sink.counts().requests;
    let letters = "select count(*) from observer.dead_letter";
    let set_aside: i64 = db.value(letters).await;
    let process = Process::run(config);
    db.run("select observer.emit('after', '{}')").await;
    sink.arrived(before + 1).await;
    process.stop().await;
    assert_eq!(sink.counts().requests, before + 1, "only the new event");
    assert_eq!(db.value::<i64>(letters).await, set_aside);
}

fn after(sink: &Sink) -> String {
    observer("after", "after", &sink.url("/after"), "")
}

fn at<'a>(told: &'a [Told], key: &str) -> &'a Value {
    &told.iter().find(|one| one.body["key"] == key).unwrap().body["new"]
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_values_arrive_as_they_are() {
    let db = database().await;
    db.run(
        "create table odd (id int primary key, n numeric, f float8, t text, j json, b jsonb, a int[], y bytea, d timestamptz);
         select observer.track('odd')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("odd", "public.odd", &sink.url("/odd"), "")
        + &observer(
            "some",
            "public.odd",
            &sink.url("/some"),
            "  when: new.id > 0 && new.t != \"nothing\"\n",
        )
        + &after(&sink);
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    db.run("insert into odd (id) values (1)").await;
    db.run(
        "insert into odd (id, n) values (2, '1e400'), (3, '1234567890123456789012345678901234567890.5'), (4, 'NaN')",
    )
    .await;
    db.run("insert into odd (id, f) values (5, 'Infinity'), (6, '-0'), (7, 1e-300)")
        .await;
    db.run(r#"insert into odd (id, j) values (8, '{"a": "\u0000", "b": "\ud800", "a": 1e999}')"#)
        .await;
    db.run("insert into odd (id, t) values (9, E'\\x01\\x1f\\x7f\\u0085\\u2028\\u202e\\ufeff\\uffff\\U0001F469\\u200d\\U0001F469 \"\\\\')")
        .await;
    db.run("insert into odd (id, a, y, d) values (10, '{{1,null},{3,4}}', '\\x00ff', 'infinity'), (11, '{}', '', '-infinity')")
        .await;
    db.run("update odd set t = 'last' where id = 1").await;
    let all = keys_of(&sink, "/odd", 12).await;
    assert_eq!(all.len(), 12);
    process.stop().await;
    let told = told(&sink);
    let plain: Vec<Told> = told
        .iter()
        .filter(|one| one.path == "/odd")
        .cloned()
        .collect();
    assert_eq!(at(&plain, "1")["t"], Value::Null);
    assert_eq!(
        at(&plain, "2")["n"].to_string(),
        format!("1{}", "0".repeat(400))
    );
    assert_eq!(
        at(&plain, "3")["n"].to_string(),
        "1234567890123456789012345678901234567890.5"
    );
    assert_eq!(at(&plain, "4")["n"], "NaN");
    assert_eq!(at(&plain, "5")["f"], "Infinity");
    assert_eq!(at(&plain, "8")["j"]["a"].to_string(), "1e+999");
    let text = at(&plain, "9")["t"].as_str().unwrap();
    assert!(
        text.starts_with("\u{1}\u{1f}\u{7f}\u{85}\u{2028}\u{202e}\u{feff}\u{ffff}"),
        "{text:?}"
    );
    assert_eq!(at(&plain, "10")["d"], "infinity");
    nothing_is_repeated(&config, &db, &sink).await;
}

/// Kinds and keys of the dead letters of one observer.
fn of<'a>(
    letters: &'a [(String, Option<String>, String, String)],
    observer: &str,
) -> Vec<(&'a str, &'a str)> {
    letters
        .iter()
        .filter(|one| one.0 == observer)
        .map(|one| (one.1.as_deref().unwrap_or_default(), one.2.as_str()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn json_without_bottom_harms_no_one() {
    let db = database().await;
    db.run("create table deep (id int primary key, j json); select observer.track('deep')")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let body = template(&sink.url("/template"), "{{ new.j | tojson }}");
    let observers = observer("plain", "public.deep", &sink.url("/plain"), "")
        + &acting(
            "judge",
            "public.deep",
            "size(new.j) < 5",
            &post(&sink.url("/judge")),
        )
        + &acting("template", "public.deep", "true", &body)
        + &after(&sink);
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    for id in 1..=3 {
        let depth = if id == 2 { 10_000 } else { 3 };
        db.run(&format!(
            "insert into deep values ({id}, (repeat('[', {depth}) || repeat(']', {depth}))::json)"
        ))
        .await;
    }
    sink.arrived(9).await;
    process.stop().await;
    let letters = "select count(*) from observer.dead_letter";
    assert_eq!(db.value::<i64>(letters).await, 0, "nothing is given up");
    let received = sink.received();
    for path in ["POST /plain", "POST /judge", "POST /template"] {
        let deep = received
            .iter()
            .filter(|one| one.line == path && one.body.len() >= 20_000);
        assert_eq!(deep.count(), 1, "{path}: delivered whole");
    }
    nothing_is_repeated(&config, &db, &sink).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_poison_is_set_aside_with_its_reason() {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, total text, note text);
         select observer.track('orders')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/refuses", Behaviour::Status(400));
    let observers = acting("good", "public.orders", "true", &post(&sink.url("/good")))
        + &acting(
            "condition",
            "public.orders",
            "new.total > 10",
            &post(&sink.url("/condition")),
        )
        + &acting(
            "missing",
            "public.orders",
            "new.nothing == 1",
            &post(&sink.url("/missing")),
        )
        + &acting(
            "template",
            "public.orders",
            "true",
            &template(
                &sink.url("/template"),
                r#"{"half": {{ 10 / (new.total | int) }}}"#,
            ),
        )
        + &acting(
            "absent",
            "public.orders",
            "true",
            &template(&sink.url("/absent"), r#"{"x": {{ new.nothing }}}"#),
        )
        + &acting(
            "refused",
            "public.orders",
            "true",
            &post(&sink.url("/refuses")),
        )
        + &after(&sink);
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    for (id, total) in [(1, "20"), (2, "many"), (3, "30"), (2, "40")] {
        db.run(&format!(
            "insert into orders values ({id}, '{total}') on conflict (id) do update set total = excluded.total"
        ))
        .await;
    }
    let letters = letters(&db, 4 + 4 + 1 + 4 + 1).await;
    process.stop().await;
    assert_eq!(keys_of(&sink, "/good", 4).await.len(), 4);
    let good: Vec<(String, String)> = told(&sink)
        .iter()
        .filter(|one| one.path == "/good" && one.body["key"] == "2")
        .map(|one| {
            (
                one.body["operation"].to_string(),
                one.body["new"]["total"].to_string(),
            )
        })
        .collect();
    let expected = [("\"Insert\"", "\"many\""), ("\"Update\"", "\"40\"")];
    assert_eq!(
        good,
        expected.map(|(a, b)| (a.to_owned(), b.to_owned())),
        "in order"
    );
    let mut judged = keys_of(&sink, "/condition", 3).await;
    judged.sort_unstable();
    assert_eq!(judged, ["1", "2", "3"]);
    assert_eq!(
        of(&letters, "condition"),
        [("2", "condition")],
        "{letters:?}"
    );
    let every = |kind| [("1", kind), ("2", kind), ("3", kind), ("2", kind)];
    assert_eq!(of(&letters, "missing"), every("condition"), "{letters:?}");
    assert_eq!(of(&letters, "absent"), every("template"), "{letters:?}");
    assert_eq!(of(&letters, "refused"), every("status"), "{letters:?}");
    assert_eq!(of(&letters, "template"), [("2", "template")], "{letters:?}");
    assert_eq!(of(&letters, "good"), []);
    let missing = letters.iter().find(|one| one.0 == "missing").unwrap();
    assert!(missing.3.contains("nothing"), "{}", missing.3);
    nothing_is_repeated(&config, &db, &sink).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_rows_arrive_whole_and_larger_ones_are_set_aside() {
    const MIB: usize = 1 << 20;
    let db = database().await;
    db.run("create table big (id int primary key, t text); select observer.track('big')")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("big", "public.big", &sink.url("/big"), "") + &after(&sink);
    let config = Config::new(&db.url, "", &observers);
    let mut process = Process::run(&config);
    for (id, size) in [(1, 1), (2, 10 * MIB), (3, 20 * MIB), (4, 1)] {
        db.run(&format!(
            "insert into big values ({id}, repeat('x', {size}))"
        ))
        .await;
    }
    db.run("update big set t = 'small' where id = 2").await;
    process.says("exclude large columns").await;
    sink.arrived(4).await;
    let letters = letters(&db, 1).await;
    assert_eq!(of(&letters, "big"), [("3", "event")]);
    assert!(
        letters[0].3.contains("exclude large columns"),
        "{}",
        letters[0].3
    );
    process.stop().await;
    let keys = keys_of(&sink, "/big", 4).await;
    assert_eq!(keys.len(), 4);
    let told = told(&sink);
    let large = at(&told, "2")["t"].as_str().unwrap();
    assert_eq!(large.len(), 10 * MIB);
    let process = Process::run(&config);
    dlq(&db, &["redrive", "--all", "--yes"]).await;
    eventually("the redrive is over", async || {
        let settled = "select coalesce(bool_and(redrive_requested_at is null), false) from observer.dead_letter";
        db.value::<bool>(settled).await.then_some(())
    })
    .await;
    process.stop().await;
    assert_eq!(
        sink.counts().requests,
        4,
        "an event without its images is not delivered"
    );
    nothing_is_repeated(&config, &db, &sink).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_be_altered_and_dropped() {
    let db = database().await;
    db.run(
        "create table item (id int primary key, name text, price int); select observer.track('item')",
    )
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let observers = observer("item", "public.item", &sink.url("/item"), "")
        + &acting(
            "price",
            "public.item",
            "new.price > 1",
            &post(&sink.url("/price")),
        )
        + &after(&sink);
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    for step in [
        "insert into item values (1, 'a', 10)",
        "alter table item add column colour text default 'red'",
        "insert into item values (2, 'b', 20)",
        "alter table item rename column name to title",
        "insert into item values (3, 'c', 30)",
        "alter table item drop column price",
        "insert into item values (4, 'd')",
        "alter table item alter column id type text using id::text",
        "insert into item values ('five', 'e')",
        "begin; insert into item values ('6', 'f'); alter table item add column late int; insert into item values ('7', 'g'); commit",
        "drop table item",
        "create table item (id int primary key)",
        "insert into item values (8)",
    ] {
        db.run(step).await;
    }
    let keys = keys_of(&sink, "/item", 7).await;
    let letters = letters(&db, 4).await;
    process.stop().await;
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, ["1", "2", "3", "4", "6", "7", "five"]);
    let told = told(&sink);
    assert_eq!(at(&told, "2")["colour"], "red");
    assert_eq!(at(&told, "3")["title"], "c");
    assert_eq!(at(&told, "4").get("price"), None);
    assert!(
        letters
            .iter()
            .all(|one| one.0 == "price" && one.2 == "condition"),
        "{letters:?}"
    );
    nothing_is_repeated(&config, &db, &sink).await;
}
