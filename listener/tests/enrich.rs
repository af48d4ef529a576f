//! Lookups before the actions of an observer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::http_sink::{Behaviour, Handler, Options, Request, Response, Sink};
use testkit::seed::seed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::effects::{count, own_config};
use crate::support::listener::{Config, Process};
use crate::support::program::command;
use crate::support::told::{letters, told};
use crate::support::{TestDb, amounts_to, database};

/// A server of lookups: answers by a function of the request's target.
struct Answers<F>(F, AtomicU64);

impl<F: Fn(&str, u64) -> (u16, String) + Send + Sync> Handler for Answers<F> {
    fn control(&self, request: &Request) -> Option<Response> {
        if request.method() != "GET" {
            return None;
        }
        let target = request.line().split(' ').nth(1).unwrap_or_default();
        let (status, body) = self.0(target, self.1.fetch_add(1, Ordering::Relaxed));
        Some(Response {
            status,
            body: body.into_bytes(),
            behaviour: None,
        })
    }

    fn delivered(&self, _: &Request, _: u16) {}
}

pub(crate) async fn answers(
    answer: impl Fn(&str, u64) -> (u16, String) + Send + Sync + 'static,
) -> Sink {
    let options = Options {
        handler: Some(Arc::new(Answers(answer, AtomicU64::new(0)))),
        ..Options::default()
    };
    Sink::start_with(options).await.unwrap()
}

/// Orders, and customers that they refer to.
async fn shop() -> TestDb {
    let db = database().await;
    db.run(
        "create table orders (id int primary key, customer text, total numeric not null default 0);
         create table customer (id bigint primary key, name text, tier text, balance numeric, company text);
         insert into customer select n, 'Customer \"' || n || '\"', case when n % 2 = 0 then 'gold' else 'silver' end,
                                     9007199254740993.10 + n, 'c-' || n
         from generate_series(1, 20) n;
         select observer.track('orders')",
    )
    .await;
    db
}

const CUSTOMER: &str = "\n    - name: customer\n      postgres: {statement: \"select name, tier, balance, company from \
                        customer where id = $1::bigint;\", parameters: [\"{{ new.customer }}\"]}";

/// An observer of orders with lookups, which posts what a template makes of them.
pub(crate) fn observer(name: &str, enrich: &str, when: &str, url: &str, body: &str) -> String {
    format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\nmetadata: {{name: {name}}}\nspec:\n  \
         events: {{entity: public.orders}}\n  enrich:{enrich}\n  actions:\n    - name: post\n{when}      \
         webhook: {{url: {{value: \"{url}\"}}, body: '{body}'}}\n      \
         retry: {{attempts: 20, initialBackoff: 20ms, maxBackoff: 100ms}}\n---\n"
    )
}

pub(crate) fn lookup(name: &str, url: &str, more: &str) -> String {
    format!("\n    - name: {name}\n      http: {{url: {{value: \"{url}\"}}, {more}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_responses_enrich_a_delivery() {
    const ORDERS: usize = 300;
    let db = shop().await;
    let api =
        answers(|target, _| (200, format!("{{\"asked\": \"{target}\", \"rate\": 0.10}}"))).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let company = lookup(
        "company",
        &api.url("/v1/"),
        "path: \"/companies/{{ enrich.customer.company }}?order={{ new.id }}\"",
    );
    let body = r#"{"key": {{ key }}, "name": {{ enrich.customer.name }}, "balance": {{ enrich.customer.balance }}, "company": {{ enrich.company }}}"#;
    let observer = observer(
        "post",
        &(CUSTOMER.to_owned() + &company),
        "",
        &sink.url("/"),
        body,
    );
    let config = own_config(&db, &observer, "customer").await;
    let process = Process::run(&config);
    db.run(&format!(
        "insert into orders select n, 1 + n % 20 from generate_series(1, {ORDERS}) n"
    ))
    .await;
    sink.arrived(ORDERS as u64).await;
    for one in told(&sink) {
        let id: u64 = one.body["key"].as_str().unwrap().parse().unwrap();
        let customer = 1 + id % 20;
        assert_eq!(one.body["name"], format!("Customer \"{customer}\""));
        let asked = format!("/v1/companies/c-{customer}?order={id}");
        assert_eq!(one.body["company"]["asked"], asked);
    }
    let raw = sink.received();
    let first = raw
        .iter()
        .find(|one| one.body.starts_with(b"{\"key\": \"1\""));
    let text = str::from_utf8(&first.unwrap().body).unwrap();
    assert!(text.contains("\"balance\": 9007199254740995.10"), "{text}");
    assert!(text.contains("\"rate\":0.10"), "{text}");
    assert_eq!(count(&db, "observer.dead_letter").await, 0);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_lookup_fails_the_delivery_or_gives_null() {
    let db = shop().await;
    let api = answers(|target, _| match target {
        "/none" => (404, "no such thing".to_owned()),
        "/text" => (200, "<html>".to_owned()),
        _ => (422, "not this one".to_owned()),
    })
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let body = r#"{"key": {{ key }}, "found": {{ enrich.thing }}}"#;
    let of = |name: &str, path: &str, more: &str| {
        let url = api.url(path);
        let thing = lookup("thing", &url, "headers: {x-trace: {value: \"{{ id }}\"}}") + more;
        observer(name, &thing, "", &sink.url(&format!("/{name}")), body)
    };
    let observers = of("a-rejected", "/no", "")
        + &of("b-text", "/text", "")
        + &of("missing", "/none", "")
        + &of("tolerant", "/no", "      onError: \"Null\"\n");
    let config = Config::new(&db.url, "", &observers);
    let process = Process::run(&config);
    db.run("insert into orders values (7, '1')").await;
    sink.arrived(2).await;
    for one in told(&sink) {
        assert_eq!(
            one.body,
            serde_json::json!({"key": "7", "found": null}),
            "{}",
            one.path
        );
    }
    let letters = letters(&db, 2).await;
    let kinds: Vec<_> = letters.iter().map(|one| (&*one.0, &*one.2)).collect();
    assert_eq!(kinds, [("a-rejected", "lookup"), ("b-text", "lookup")]);
    assert!(
        letters[0].3.starts_with("lookup thing: "),
        "{}",
        letters[0].3
    );
    assert!(
        letters[0].3.contains("rejected it with 422"),
        "{}",
        letters[0].3
    );
    assert!(letters[1].3.contains("is not JSON"), "{}", letters[1].3);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn action_is_skipped_where_its_condition_does_not_hold() {
    let db = shop().await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let when = "      when: enrich.customer != null && enrich.customer.tier == 'gold' && new.total < enrich.customer.balance\n";
    let body = r#"{"key": {{ key }}}"#;
    let observer = observer("gold", CUSTOMER, when, &sink.url("/"), body);
    let config = own_config(&db, &observer, "customer").await;
    let process = Process::run(&config);
    db.run("insert into orders select n, n from generate_series(1, 30) n")
        .await;
    sink.arrived(10).await;
    crate::support::all_is_behind(&db).await;
    let mut keys: Vec<u32> = told(&sink)
        .iter()
        .map(|one| one.body["key"].as_str().unwrap().parse().unwrap())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]);
    assert_eq!(count(&db, "observer.dead_letter").await, 0);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn value_stays_within_its_part_of_a_path() {
    let db = shop().await;
    let api = answers(|target, _| (200, format!("{target:?}"))).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let path = "path: \"/customers/{{ new.customer }}/card?of={{ new.customer }}\"";
    let body = r#"{"key": {{ key }}, "asked": {{ enrich.card }}}"#;
    let observer = observer(
        "post",
        &lookup("card", &api.url("/v1"), path),
        "",
        &sink.url("/"),
        body,
    );
    let config = Config::new(&db.url, "", &observer);
    let process = Process::run(&config);
    db.run(
        "insert into orders values (1, 'a/b?c=d&e#f'), (2, '%2e%2e'), (3, 'é\\ \"'), (4, '..'), (5, ''), (6, null),
                                   (7, '.'), (8, 'x' || chr(10) || 'y')",
    )
    .await;
    sink.arrived(4).await;
    let mut asked: Vec<(String, String)> = told(&sink)
        .iter()
        .map(|one| {
            [&one.body["key"], &one.body["asked"]].map(|text| text.as_str().unwrap().to_owned())
        })
        .map(|[key, asked]| (key, asked))
        .collect();
    asked.sort();
    let of = |value: &str| format!("/v1/customers/{value}/card?of={value}");
    assert_eq!(asked[0].1, of("a%2Fb%3Fc%3Dd%26e%23f"));
    assert_eq!(asked[1].1, of("%252e%252e"));
    assert_eq!(asked[2].1, of("%C3%A9%5C%20%22"));
    assert_eq!(asked[3], ("8".to_owned(), of("x%0Ay")));
    let letters = letters(&db, 4).await;
    let keys: Vec<_> = letters.iter().filter_map(|one| one.1.clone()).collect();
    assert_eq!(keys, ["4", "5", "6", "7"]);
    for letter in letters {
        assert!(
            letter.3.starts_with("lookup card: the template http.path"),
            "{letter:?}"
        );
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn query_that_fails_for_one_event_is_made_for_the_others() {
    let db = shop().await;
    db.run("create function bump() returns int language sql as 'update customer set tier = null returning 1'")
        .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let body =
        r#"{"key": {{ key }}, "name": {{ enrich.customer.name if enrich.customer else null }}}"#;
    let several = "\n    - name: customer\n      postgres: {statement: \"select name from customer where id <> $1::bigint \
                   order by id\", parameters: [\"{{ new.customer }}\"]}\n      timeout: 1m";
    let writes = "\n    - name: customer\n      postgres: {statement: \"select bump() as name\"}\n      timeout: 1m";
    let observers = observer("post", CUSTOMER, "", &sink.url("/"), body)
        + &observer("several", several, "", &sink.url("/several"), body)
        + &observer("writes", writes, "", &sink.url("/writes"), body);
    let config = own_config(&db, &observers, "customer").await;
    let process = Process::run(&config);
    db.run("insert into orders select n, case when n % 10 = 3 then 'x' else n::text end from generate_series(1, 40) n")
        .await;
    sink.arrived(36).await;
    let letters = letters(&db, 4 + 40 + 40).await;
    let of = |name: &str| {
        letters
            .iter()
            .filter(|one| one.0 == name)
            .map(|one| one.3.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("post").len(), 4);
    assert!(
        of("post")[0].contains("invalid input syntax"),
        "{}",
        of("post")[0]
    );
    assert!(
        of("several")
            .iter()
            .any(|error| error.contains("several rows")),
        "{:?}",
        of("several")
    );
    assert!(
        of("writes")
            .iter()
            .all(|error| error.contains("must not write")),
        "{:?}",
        of("writes")
    );
    assert_eq!(told(&sink).len(), 36);
    process.stop().await;
}

#[tokio::test]
async fn lookup_that_is_not_there_is_named_wherever_it_is_used() {
    let body = r#"{"key": {{ new.id }}}"#;
    let observer = observer("post", CUSTOMER, "", "http://127.0.0.1:9/", body);
    let cache = "      cache: {invalidateOn: [{entity: public.customer, key: \"{{ enrich.KEY }}\"}]}\n      retry:";
    for (key, problem) in [
        (
            "custmer.id",
            "spec.actions[0].cache.invalidateOn[0].key: there is no lookup custmer; did you mean enrich.customer?",
        ),
        ("customer.company", ""),
    ] {
        let cached = observer.replace("      retry:", &cache.replace("KEY", key));
        let config = Config::new("postgres://a:b@127.0.0.1:9/x", "", &cached);
        config.change(
            "egress: {allow: [127.0.0.0/8]}",
            "egress: {allow: [127.0.0.0/8], ownDatabase: {url: {value: \"postgres://c:d@127.0.0.1:9/x\"}}}",
        );
        let path = config.path();
        let said = command(&["check", "-f", path.to_str().unwrap()]).await;
        let expected = if problem.is_empty() { 0 } else { 2 };
        assert_eq!(said.code, Some(expected), "{key}: {}", said.err);
        assert!(said.err.contains(problem), "{}", said.err);
    }
}

/// A server of lookups that answers at once, too late, or never. Returns its URL.
async fn unsteady(seed: u64) -> (String, JoinSet<()>) {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/rate", server.local_addr().unwrap());
    let mut all = JoinSet::new();
    all.spawn(async move {
        let mut random = StdRng::seed_from_u64(seed);
        let mut connections = JoinSet::new();
        while let Ok((mut connection, _)) = server.accept().await {
            let mut random = StdRng::seed_from_u64(random.random());
            connections.spawn(async move {
                let (mut read, mut some) = (Vec::new(), [0; 4096]);
                while let Ok(count @ 1..) = connection.read(&mut some).await {
                    read.extend_from_slice(&some[..count]);
                    if !read.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    read.clear();
                    match random.random_range(0..20) {
                        0 => std::future::pending().await,
                        1..=3 => tokio::time::sleep(2 * LOOKUP_TIMEOUT).await,
                        _ => {}
                    }
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1";
                    if connection.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (url, all)
}

/// Timeout of lookups that hang.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_and_nothing_lost_with_lookups_that_hang_or_are_late() {
    const KEYS: u64 = 20;
    const ROUNDS: u64 = 10;
    let (db, seed) = (shop().await, seed());
    let (url, _server) = unsteady(seed).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let body = r#"{"key": {{ key }}, "total": {{ new.total }}, "rate": {{ enrich.rate }}}"#;
    let rate = lookup("rate", &url, "") + "      timeout: 200ms\n";
    let observer =
        observer("post", &rate, "", &sink.url("/"), body).replace("attempts: 20", "attempts: 100");
    all_come_in_order(&db, &sink, &observer, (KEYS, ROUNDS), seed).await;
}

/// Changes so many keys in so many rounds, and waits until all have come, each key's in order.
async fn all_come_in_order(
    db: &TestDb,
    sink: &Sink,
    observer: &str,
    (keys, rounds): (u64, u64),
    seed: u64,
) {
    let config = Config::new(&db.url, "", observer);
    let process = Process::run(&config);
    db.run(&format!(
        "insert into orders select generate_series(1, {keys})"
    ))
    .await;
    for _ in 1..rounds {
        db.run("update orders set total = total + 1").await;
    }
    amounts_to("deliveries", keys * rounds, async || {
        told(sink).len() as u64
    })
    .await;
    let mut next = vec![0; 1 + usize::try_from(keys).unwrap()];
    for one in told(sink) {
        let key: usize = one.body["key"].as_str().unwrap().parse().unwrap();
        assert_eq!(one.body["total"], next[key], "key {key}, seed {seed}");
        next[key] += 1;
    }
    assert_eq!(count(db, "observer.dead_letter").await, 0, "seed {seed}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_and_nothing_lost_with_lookups_that_fail() {
    const KEYS: u64 = 20;
    const ROUNDS: u64 = 25;
    let db = shop().await;
    let seed = seed();
    let random = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
    let api = answers(move |_, _| {
        let share = random.lock().unwrap().random_range(0..10);
        let status = if share < 3 { 503 } else { 200 };
        (status, "1".to_owned())
    })
    .await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let body = r#"{"key": {{ key }}, "total": {{ new.total }}, "rate": {{ enrich.rate }}}"#;
    let observer = observer(
        "post",
        &lookup("rate", &api.url("/rate"), ""),
        "",
        &sink.url("/"),
        body,
    );
    all_come_in_order(&db, &sink, &observer, (KEYS, ROUNDS), seed).await;
}
