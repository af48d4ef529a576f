//! The HTTP API: the history, dead letters and jobs, and who may use them.

mod activity;
mod audit;
mod callers;
pub(crate) mod cluster;
mod contract;
mod history;
mod hostile;
mod live_tail;
pub(crate) mod shop;
mod tenants;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use testkit::http_sink::{Behaviour, Sink};

use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, get, ready};
use crate::support::told::letters;
use crate::support::{TestDb, amounts_to, database, eventually, while_progressing_or};

const TOKEN: &str = "a-token-of-many-letters";

/// A client of one listener's interface.
struct Api {
    address: String,
    token: Option<&'static str>,
}

impl Api {
    /// Asks, and again where a busy machine's database had no connection to spare in time.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let answered = async || {
            let (status, answer) = self.ask_once(method.clone(), path, body.clone()).await;
            let busy = status == 503 && answer["detail"].to_string().contains("pool timed out");
            (!busy).then_some((status, answer))
        };
        eventually(&format!("an answer to {method} {path}"), answered).await
    }

    async fn ask_once(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let url = format!("http://{}/api/observers{path}", self.address);
        let mut request = Client::new().request(method, url);
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let (status, kind) = (answer.status(), answer.headers()["content-type"].clone());
        let body: Value = answer.json().await.unwrap();
        if !status.is_success() {
            assert_eq!(kind, "application/problem+json");
            assert_eq!(body["status"], status.as_u16());
        }
        (status, body)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, None).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, body) = self.ask(Method::POST, path, Some(body)).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn fails(&self, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
        let (status, body) = self.ask(method, path, body).await;
        assert!(!status.is_success(), "{body}");
        (status.as_u16(), body["detail"].as_str().unwrap().to_owned())
    }
}

/// A listener whose receiver refuses, with an interface.
async fn refused(sink: &Sink) -> (TestDb, Process, Api) {
    let db = database().await;
    db.run("create table orders (id int primary key); select observer.track('orders')")
        .await;
    let spec =
        format!("  api: {{tokens: [{{name: admin, token: {{value: {TOKEN}}}, role: Operate}}]}}\n");
    let config = Config::new(
        &db.url,
        &spec,
        &observer("orders", "public.orders", &sink.url("/"), ""),
    );
    // Jobs are to wait for long.
    config.change(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 24h, maxBackoff: 24h",
    );
    let address = free_address();
    // One port for both has to be asked for.
    let args = ["run", "--listen", &address, "--api-listen", &address, "-f"];
    let process = Process::start(&args, &config.path());
    let api = Api {
        address,
        token: Some(TOKEN),
    };
    eventually("an answer", async || {
        let url = format!("http://{}/readyz", api.address);
        let answer = reqwest::get(url).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    (db, process, api)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_shown_exported_redriven_and_dropped() {
    let sink = Sink::start(Behaviour::Status(400)).await.unwrap();
    let (db, process, api) = refused(&sink).await;
    db.run("insert into orders select generate_series(1, 5)")
        .await;
    letters(&db, 5).await;
    // What is another listener's is nobody's here.
    db.run("update observer.dead_letter set listener = 'other/one' where key = '5'")
        .await;

    let first = api.get("/dead-letters?limit=3").await;
    let ids = |page: &Value| -> Vec<i64> {
        let items = page["items"].as_array().unwrap();
        items
            .iter()
            .map(|one| one["id"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(ids(&first).len(), 3);
    let next = first["next"].as_i64().unwrap();
    let second = api
        .get(&format!("/dead-letters?limit=3&before={next}"))
        .await;
    assert_eq!((ids(&second).len(), &second["next"]), (1, &Value::Null));
    assert!(
        ids(&first).iter().all(|id| *id > ids(&second)[0]),
        "{first}, then {second}"
    );

    assert_eq!(
        (&first["count"], &second["count"]),
        (&Value::Null, &Value::Null)
    );
    let counted = api
        .get(&format!("/dead-letters?limit=1&before={next}&count=true"))
        .await;
    assert_eq!((ids(&counted).len(), &counted["count"]), (1, &json!(4)));

    let one = api.get("/dead-letters?key=2&count=true").await;
    assert_eq!(one["count"], 1);
    let id = ids(&one)[0];
    let full = api.get(&format!("/dead-letters/{id}")).await;
    assert_eq!(full["new"], json!({"id": 2}));
    assert_eq!(full["history"].as_array().unwrap().len(), 1);
    assert_eq!(full["errorKind"], "status");
    let others: i64 = db
        .value("select id from observer.dead_letter where key = '5'")
        .await;
    let (status, _) = api
        .fails(Method::GET, &format!("/dead-letters/{others}"), None)
        .await;
    assert_eq!(status, 404);

    let url = format!("http://{}/api/observers/dead-letters/export", api.address);
    let export = Client::new()
        .get(url)
        .bearer_auth(TOKEN)
        .send()
        .await
        .unwrap();
    let export = export.text().await.unwrap();
    let mut keys: Vec<String> = export
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["key"].to_string())
        .collect();
    keys.sort_unstable();
    assert_eq!(keys, ["\"1\"", "\"2\"", "\"3\"", "\"4\""]);

    sink.behave(Behaviour::Ok);
    let asked = api
        .post("/dead-letters/redrive", json!({"ids": [id, others]}))
        .await;
    assert_eq!(asked, json!({"count": 1}));
    amounts_to("deliveries", 1, async || sink.counts().succeeded).await;
    let all = json!({"all": true, "filter": {"kind": "status", "observer": "default/orders"}});
    eventually("one is gone", async || {
        (ids(&api.get("/dead-letters").await).len() == 3).then_some(())
    })
    .await;
    assert_eq!(
        api.post("/dead-letters/drop", all).await,
        json!({"count": 3})
    );
    assert!(ids(&api.get("/dead-letters").await).is_empty());
    let left: i64 = db.value("select count(*) from observer.dead_letter").await;
    assert_eq!(left, 1);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_shown_retried_and_cancelled() {
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let (db, process, api) = refused(&sink).await;
    db.run("insert into orders values (1), (2)").await;
    let listed = eventually("two jobs", async || {
        let listed = api.get("/jobs").await;
        // The count is taken after the list, so it may know of more.
        (listed["items"].as_array()?.len() == 2).then_some(listed)
    })
    .await;
    let id = listed["items"][0]["id"].as_str().unwrap().to_owned();
    let shown = api.get(&format!("/jobs/{id}")).await;
    assert_eq!(shown["observer"], "default/orders");
    assert!(shown["event"].is_object());
    let retried = api
        .post(
            "/jobs/retry",
            json!({"all": true, "observer": "default/orders"}),
        )
        .await;
    assert!(retried["count"].is_u64());
    // One that somebody has hold of at this moment is left alone.
    let gone = async || {
        api.post("/jobs/cancel", json!({"ids": [id]})).await;
        let jobs = api.get("/jobs").await;
        if jobs["count"] == 1 {
            Ok(())
        } else {
            Err(jobs.to_string())
        }
    };
    while_progressing_or(gone, async || {
        format!("one of two jobs is gone: {}", api.get("/jobs").await)
    })
    .await;
    let (status, _) = api.fails(Method::GET, &format!("/jobs/{id}"), None).await;
    assert_eq!(status, 404);
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_in_without_the_token_and_mistakes_are_named() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (_db, process, api) = refused(&sink).await;
    for token in [None, Some("a-token-of-many-letter"), Some("")] {
        let stranger = Api {
            address: api.address.clone(),
            token,
        };
        for (method, path) in [
            (Method::GET, "/dead-letters"),
            (Method::POST, "/dead-letters/drop"),
            (Method::GET, "/jobs"),
            (Method::GET, "/nowhere"),
        ] {
            let (status, detail) = stranger.fails(method, path, None).await;
            assert_eq!(status, 401);
            assert!(detail.contains("Bearer") && !detail.contains(TOKEN));
        }
    }
    for (method, path, body, status, named) in [
        (
            Method::GET,
            "/nowhere",
            None,
            404,
            "docs/reference/http-api.md",
        ),
        (Method::GET, "/dead-letters?limit=0", None, 400, "1 to 1000"),
        (Method::GET, "/dead-letters?observr=x", None, 400, "observr"),
        (Method::GET, "/dead-letters?since=today", None, 400, "since"),
        (Method::GET, "/dead-letters?key=a%00", None, 400, "key"),
        (
            Method::GET,
            "/dead-letters/export?tenant=%00",
            None,
            400,
            "tenant",
        ),
        (Method::GET, "/jobs?action=a%00", None, 400, "action"),
        (Method::GET, "/jobs/%00", None, 404, "NUL"),
        (
            Method::GET,
            "/jobs?state=running&state=blocked",
            None,
            400,
            "twice",
        ),
        (Method::GET, "/search?q=a", None, 404, "spec.search"),
        (Method::GET, "/events/odd", None, 404, "no event id"),
        (Method::GET, "/events/1-1-1?a=1", None, 400, "none is known"),
        (Method::DELETE, "/jobs", None, 405, "Allow"),
        (
            Method::GET,
            "/dead-letters/x",
            None,
            404,
            "no dead letter x",
        ),
        (
            Method::GET,
            "/jobs?state=odd",
            None,
            400,
            "one of available",
        ),
        (
            Method::POST,
            "/dead-letters/drop",
            Some(json!({})),
            422,
            "all: true",
        ),
        (
            Method::POST,
            "/dead-letters/drop",
            Some(json!({"all": true, "ids": [1]})),
            422,
            "either",
        ),
        (
            Method::POST,
            "/dead-letters/redrive",
            Some(json!({"all": true, "filter": {"limit": 3}})),
            422,
            "limit",
        ),
        (
            Method::POST,
            "/jobs/cancel",
            Some(json!({"ids": ["1"], "al": true})),
            422,
            "al",
        ),
    ] {
        let (told, detail) = api.fails(method, path, body).await;
        assert_eq!(told, status, "{path}: {detail}");
        assert!(detail.contains(named), "{path}: {detail}");
    }
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn circuit_breakers_of_nobody_are_not_reset() {
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let (_db, process, api) = refused(&sink).await;
    let nobody = json!({"observer": "default/nobody"});
    let (status, detail) = api
        .fails(Method::POST, "/breakers/reset", Some(nobody))
        .await;
    assert_eq!(status, 404, "{detail}");
    assert!(detail.contains("no observer default/nobody"), "{detail}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn api_has_a_port_of_its_own_while_the_listener_has_one() {
    let db = database().await;
    let api = "  api: {tokens: [{name: a, token: {value: a-token-of-many-letters}, role: Read}]}\n";
    let config = Config::new(
        &db.url,
        api,
        &observer("orders", "public.orders", "http://127.0.0.1:9/", ""),
    );
    let (health, own) = (free_address(), free_address());
    let args = ["run", "--listen", &health, "--api-listen", &own, "-f"];
    let mut process = Process::start(&args, &config.path());
    ready(&health, 200).await;
    let api = Api {
        address: own.clone(),
        token: Some(TOKEN),
    };
    let status = api.get("/status").await;
    assert_eq!(status["listener"], "default/test");
    // Neither port serves what is the other's.
    assert_eq!(get(&health, "/api/observers/status").await.unwrap().0, 404);
    for path in ["/metrics", "/healthz", "/"] {
        assert_eq!(get(&own, path).await.unwrap().0, 404, "{path}");
    }
    config.change("  api: {tokens:", "  deadLetters: {} #");
    process.signal("HUP").await;
    process.says("draining to restart it").await;
    eventually("the port is closed", async || {
        get(&own, "/api/observers/status")
            .await
            .is_none()
            .then_some(())
    })
    .await;
    ready(&health, 200).await;
    process.stop().await;
}
