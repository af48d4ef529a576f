//! Dead letters as their keeper sees them: listed, shown, redriven and dropped by the program.

use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process};
use crate::support::program::{command, dlq};
use crate::support::told::{keys_of, letters, told};
use crate::support::{TestDb, comes, database, while_progressing_or};

/// Stands wherever a secret may stand.
const SECRET: &str = "hunter2swordfish";

/// An observer of `public.orders` with one action and this policy for retries.
fn observer(name: &str, when: &str, url: &str, retry: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n  when: '{when}'\n  actions:\n    - name: post\n      \
         webhook: {{url: {{value: \"{url}\"}}}}\n      timeout: 5m\n      retry: {{{retry}}}\n---\n"
    )
}

const ONCE: &str = "attempts: 1";
const THRICE: &str = "attempts: 3, initialBackoff: 10ms, maxBackoff: 20ms";

async fn orders() -> TestDb {
    let db = database().await;
    db.run("create table orders (id int primary key, total text); select observer.track('orders')")
        .await;
    db
}

/// Runs `dlq` with these arguments on the test's database.
async fn list(db: &TestDb, args: &[&str]) -> Vec<Value> {
    let text = dlq(db, &[&["list", "-o", "json"], args].concat()).await;
    serde_json::from_str(&text).unwrap()
}

/// Waits until no redrive is under way, and so many dead letters are left.
async fn settled(db: &TestDb, left: usize) -> Vec<Value> {
    let jobs = async || db.value::<i64>("select count(*) from observer.job").await;
    let look = async || {
        let letters = list(db, &[]).await;
        let asked = letters
            .iter()
            .filter(|one| !one["redriveRequestedAt"].is_null());
        let (asked, jobs) = (asked.count(), jobs().await);
        if asked == 0 && jobs == 0 && letters.len() == left {
            Ok(letters)
        } else {
            Err((asked, jobs, letters.len()))
        }
    };
    while_progressing_or(look, async || {
        let (letters, jobs) = (list(db, &[]).await, jobs().await);
        format!("{left} dead letters and no redrive: {jobs} jobs, and {letters:?}")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_delivers_under_the_same_id_and_removes_it() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("shop", "true", &sink.url("/hook"), THRICE),
    );
    let process = Process::run(&config);
    db.run("insert into orders values (1, '10')").await;
    letters(&db, 1).await;
    let [letter] = list(&db, &[]).await.try_into().unwrap();
    for (field, expected) in [
        ("listener", "default/test"),
        ("observer", "default/shop"),
        ("action", "post"),
        ("entity", "public.orders"),
        ("operation", "Insert"),
        ("key", "1"),
        ("errorKind", "status"),
    ] {
        assert_eq!(letter[field], expected, "{field}");
    }
    assert_eq!(
        (&letter["attempts"], &letter["status"]),
        (&3.into(), &503.into())
    );
    let id = letter["id"].to_string();
    let shown: Value = serde_json::from_str(&dlq(&db, &["show", &id]).await).unwrap();
    assert_eq!(shown["new"]["total"], "10");
    let history = shown["history"].as_array().unwrap();
    assert_eq!(history.len(), 3);
    assert!(
        history
            .iter()
            .all(|one| one["status"] == 503 && one["kind"] == "status" && one["tookMs"].is_u64())
    );
    let table = dlq(&db, &["list"]).await;
    assert!(
        table.starts_with("ID ") && table.contains("default/shop/post"),
        "{table}"
    );

    dlq(&db, &["redrive", &id]).await;
    let [again] = settled(&db, 1).await.try_into().unwrap();
    assert_eq!(again["attempts"], 6);
    // It was a job meanwhile, and is another dead letter now.
    let id = again["id"].to_string();
    let shown: Value = serde_json::from_str(&dlq(&db, &["show", &id]).await).unwrap();
    assert_eq!(
        shown["history"].as_array().unwrap().len(),
        6,
        "history is kept"
    );

    sink.behave(Behaviour::Ok);
    let said = dlq(&db, &["redrive", &id]).await;
    assert!(said.starts_with("1 to redrive"), "{said}");
    settled(&db, 0).await;
    let received = sink.received();
    assert_eq!(received.len(), 7);
    assert!(
        received
            .iter()
            .all(|one| one.webhook_id == received[0].webhook_id)
    );
    assert_eq!(received[6].body, received[0].body, "the same event");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_redriven_in_the_order_of_their_keys() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("shop", "true", &sink.url("/hook"), ONCE),
    );
    let process = Process::run(&config);
    db.run("insert into orders select n, '0' from generate_series(1, 20) n")
        .await;
    for total in 1..=4 {
        db.run(&format!("update orders set total = '{total}'"))
            .await;
    }
    letters(&db, 100).await;
    sink.behave(Behaviour::Ok);
    assert!(
        dlq(&db, &["redrive", "--all", "--yes"])
            .await
            .starts_with("100 to redrive")
    );
    settled(&db, 0).await;
    process.stop().await;
    let told = told(&sink);
    assert_eq!(told.len(), 100);
    for key in (1..=20).map(|key: i32| key.to_string()) {
        let totals = told.iter().filter(|one| one.body["key"] == key.as_str());
        let totals: Vec<_> = totals.map(|one| one.body["new"]["total"].clone()).collect();
        assert_eq!(totals, ["0", "1", "2", "3", "4"], "key {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_that_was_mended_decides_anew() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("shop", "new.total > 10", &sink.url("/hook"), ONCE),
    );
    let process = Process::run(&config);
    db.run("insert into orders values (1, 'much'), (2, 'little')")
        .await;
    letters(&db, 2).await;
    dlq(&db, &["redrive", "--all", "--yes"]).await;
    let letters = settled(&db, 2).await;
    assert!(
        letters.iter().all(|one| one["errorKind"] == "condition"),
        "{letters:?}"
    );
    process.stop().await;
    config.change("new.total > 10", "new.total == \"much\"");
    dlq(&db, &["redrive", "--all", "--yes", "--kind", "condition"]).await;
    let process = Process::run(&config);
    settled(&db, 0).await;
    process.stop().await;
    assert_eq!(
        keys_of(&sink, "/hook", 1).await,
        ["1"],
        "the other is no match"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_observer_left_behind_can_be_dropped() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let shop = observer("shop", "true", &sink.url("/hook"), ONCE);
    let config = Config::new(
        &db.url,
        "",
        &(shop + &observer("gone", "true", &sink.url("/gone"), ONCE)),
    );
    let process = Process::run(&config);
    db.run("insert into orders values (1, ''), (2, ''), (3, '')")
        .await;
    letters(&db, 6).await;
    process.stop().await;
    config.change("name: gone", "name: heir");
    let process = Process::run(&config);
    dlq(&db, &["redrive", "--all", "--yes", "--observer", "gone"]).await;
    let left = settled(&db, 6).await;
    let removed: Vec<&Value> = left
        .iter()
        .filter(|one| one["errorKind"] == "removed")
        .collect();
    assert_eq!(removed.len(), 3);
    assert!(
        removed
            .iter()
            .all(|one| one["observer"] == "default/gone" && one["attempts"] == 1)
    );
    assert_eq!(list(&db, &["--kind", "removed"]).await.len(), 3);
    assert_eq!(list(&db, &["--limit", "2"]).await.len(), 2);
    process.stop().await;
    assert_eq!(
        dlq(&db, &["drop", "--all", "--observer", "gone", "--yes"]).await,
        "3 dropped\n"
    );
    let left = list(&db, &[]).await;
    assert!(
        left.iter().all(|one| one["observer"] == "default/shop"),
        "{left:?}"
    );
    let first = left[0]["id"].to_string();
    assert_eq!(dlq(&db, &["drop", &first]).await, "1 dropped\n");
    for does in ["drop", "redrive", "show"] {
        let missing = command(&["dead-letters", does, &first, "--database-url", &db.url]).await;
        assert_eq!(missing.code, Some(1), "{does}: {}", missing.said());
        assert!(
            missing
                .err
                .contains(&format!("there is no dead letter {first}")),
            "{does}: {}",
            missing.said()
        );
    }
    let file = config.path();
    let by_file = command(&["dead-letters", "list", "-f", file.to_str().unwrap()])
        .await
        .ok();
    assert_eq!(by_file.lines().count(), 3, "a head and two: {by_file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_s_wish_to_wait_is_granted_within_bounds() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at(
        "/asks",
        Behaviour::Throttle {
            times: 1,
            seconds: 1,
        },
    );
    sink.behave_at(
        "/exaggerates",
        Behaviour::Throttle {
            times: 1,
            seconds: 3600,
        },
    );
    // The one could wait for longer than it is asked to, and the other may not: for longer than
    // anybody waits here, both times.
    let long = "attempts: 3, initialBackoff: 10ms, maxBackoff: 1h";
    let short = "attempts: 3, initialBackoff: 10ms, maxBackoff: 2s";
    let config = Config::new(
        &db.url,
        "",
        &(observer("asks", "true", &sink.url("/asks"), long)
            + &observer("exaggerates", "true", &sink.url("/exaggerates"), short)),
    );
    let process = Process::run(&config);
    db.run("insert into orders values (1, '')").await;
    sink.arrived(4).await;
    process.stop().await;
    let received = sink.received();
    let waited = |path: &str| {
        let line = format!("POST {path}");
        let times: Vec<_> = received
            .iter()
            .filter(|one| one.line == line)
            .map(|one| one.at)
            .collect();
        times[1] - times[0]
    };
    let (asked, exaggerated) = (waited("/asks"), waited("/exaggerates"));
    assert!(
        asked.as_millis() >= 950,
        "a second was asked for: {asked:?}"
    );
    assert!(
        exaggerated.as_millis() >= 1950,
        "as long as may be: {exaggerated:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows_in_dead_letters_logs_or_metrics() {
    let db = orders().await;
    let role = db
        .role("secretive", &format!("superuser login password '{SECRET}'"))
        .await;
    let sink = Sink::start(Behaviour::Echo(400)).await.unwrap();
    sink.behave_at(
        format!("/{SECRET}/redirects"),
        Behaviour::Redirect(sink.url(&format!("/{SECRET}"))),
    );
    sink.behave_at(format!("/{SECRET}/breaks"), Behaviour::Garbage);
    let action = |name: &str| {
        format!(
            r#"    - name: {name}
      webhook:
        url: {{value: "{}?token={SECRET}"}}
        headers: {{authorization: {{secretKeyRef: {{name: hooks, key: token}}}}}}
        signingSecret: {{secretKeyRef: {{name: hooks, key: signing}}}}
      retry: {{attempts: 2, initialBackoff: 10ms}}
"#,
            sink.url(&format!("/{SECRET}/{name}"))
        )
    };
    // The signing secret is base64 of 24 bytes or more; it holds the marker too.
    let signing = format!("whsec_{SECRET}{SECRET}");
    let observers = format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: shop}}\nspec:\n  \
         events: {{entity: public.orders}}\n  actions:\n{}{}{}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: hooks}}\n\
         stringData: {{token: \"Bearer {SECRET}\", signing: \"{signing}\"}}\n",
        action("refuses"),
        action("redirects"),
        action("breaks"),
    );
    let config = Config::new(&db.url_as(&role, SECRET), "", &observers);
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    drop(socket);
    let process = Process::start(&["run", "--listen", &address, "-f"], &config.path());
    db.run("insert into orders values (1, '')").await;
    let letters = letters(&db, 3).await;
    assert!(
        letters.iter().all(|one| !one.3.contains(SECRET)),
        "{letters:?}"
    );
    let rows: String = db
        .value("select string_agg(d::text, ' ') from observer.dead_letter d")
        .await;
    assert!(!rows.contains(SECRET), "{rows}");
    let metrics = reqwest::get(format!("http://{address}/metrics"))
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("observer_dead_letters_written_total") && !metrics.contains(SECRET));
    let said = process.stop().await;
    assert!(
        said.contains("given up") && !said.contains(SECRET),
        "{said}"
    );
    assert!(!dlq(&db, &["list", "-o", "json"]).await.contains(SECRET));
    let sent = sink.received();
    let held = |name: &str| {
        sent[0]
            .headers
            .iter()
            .any(|(n, v)| n == name && v.contains(SECRET))
    };
    assert!(
        held("authorization"),
        "the receiver is sent what is its own"
    );
    comes(
        "the end of a role that nothing is left of",
        db.run(&format!("drop role {role}")),
    )
    .await;
}
