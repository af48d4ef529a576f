//! A token of one tenant, tried on every path with everything that is another's.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Value, json};

use super::shop::{ACME, ALL, GLOBEX, ORDERS, Shop, texts};

/// What stands in everything of the other tenant.
const MARKER: &str = "globex";

/// Ids of one tenant's data.
struct Ids {
    events: Vec<String>,
    deliveries: Vec<String>,
    dead_letters: Vec<String>,
    jobs: Vec<String>,
    cursors: Vec<String>,
}

impl Ids {
    async fn of(shop: &Shop, tenant: &str) -> Self {
        let list = async |path: String, field: &str| {
            let page = shop.json(ALL, &path).await;
            texts(&page, field)
        };
        let search = format!("/search?tenant={tenant}&limit=2");
        let cursor = async |token: &str, path: &str| {
            let page = shop.json(token, path).await;
            page["next"].as_str().unwrap().to_owned()
        };
        let own = if tenant == "acme" { ACME } else { GLOBEX };
        let jobs = list(format!("/jobs?tenant={tenant}"), "id").await;
        Self {
            events: list(format!("/search?tenant={tenant}"), "id").await,
            deliveries: jobs.clone(),
            dead_letters: list(format!("/dead-letters?tenant={tenant}"), "id").await,
            jobs,
            cursors: vec![
                cursor(ALL, &search).await,
                cursor(ALL, "/search?limit=2").await,
                cursor(own, "/search?limit=2").await,
                cursor(own, &search).await,
            ],
        }
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        let ids = self.events.iter().chain(&self.deliveries);
        ids.chain(&self.dead_letters).chain(&self.jobs)
    }
}

/// Values to try for a parameter of this name.
fn values(name: &str, ids: &Ids) -> Vec<String> {
    let texts: &[&str] = match name {
        "q" => &[
            "globex",
            "marker",
            "tenant:globex",
            "new.note:globex OR old.note:globex",
            "NOT tenant:acme",
            "new.id:>100",
            "\"marker of globex\"",
            "' or tenant = 'globex",
            "*) OR (tenant:*",
            "notMatched:of-globex OR globex",
            "notMatched:*",
            "-notMatched:\"it sees another tenant's events only\"",
            "observer:\"default/of-globex\"",
        ],
        "tenant" => &["globex", "%", "acme' or 'a'='a", "null", "GLOBEX"],
        "observer" => &["default/of-globex", "of-globex", "default/all"],
        "action" => &["post"],
        "entity" => &["public.orders"],
        "key" => &["101", "[101]", "1"],
        "kind" => &["status"],
        "operation" => &["Insert", "Insert,Update,Delete,Truncate,Custom"],
        "outcome" => &["deadLetter", "retrying", "pending,queued,retrying"],
        "state" => &["scheduled", "completed"],
        "from" | "since" => &["2000-01-01T00:00:00Z"],
        "to" | "until" => &["2100-01-01T00:00:00Z"],
        "sort" => &["newest", "oldest"],
        "limit" => &["1", "1000"],
        "actor" => &["globex", "all"],
        "after" => &["globex", "0"],
        "wait" => &["0", "1"],
        "before" => &["1", "9223372036854775807"],
        "facets" | "highlight" | "count" => &["true"],
        "cursor" => return ids.cursors.clone(),
        other => panic!("no values for {other}"),
    };
    texts.iter().map(|one| (*one).to_owned()).collect()
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Queries for an endpoint: each value alone, and beside what shows most.
fn queries(operation: &Value, ids: &Ids) -> Vec<String> {
    let all = operation["parameters"].as_array().unwrap().iter();
    let names: Vec<&str> = all
        .filter(|one| one["in"] == "query")
        .map(|one| one["name"].as_str().unwrap())
        .collect();
    let mut queries = vec![String::new()];
    for name in &names {
        for value in values(name, ids) {
            let value = encoded(&value);
            queries.push(format!("?{name}={value}"));
            let mut most = String::new();
            for (other, rest) in [("facets", "true"), ("highlight", "true"), ("limit", "1000")] {
                if names.contains(&other) && other != *name {
                    most = format!("{most}&{other}={rest}");
                }
            }
            queries.push(format!("?{name}={value}{most}"));
        }
    }
    queries
}

/// Every GET of the document, with every value. Gives the requests that showed the marker, and how many there were.
async fn read_everything(shop: &Shop, token: &str, ids: &Ids) -> (Vec<String>, usize) {
    let document = shop.json(token, "/openapi.json").await;
    let (mut shown, mut requests) = (Vec::new(), 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        let Some(operation) = methods.get("get") else {
            continue;
        };
        let paths: Vec<(String, &str)> = if path.contains("{id}") {
            ids.all()
                .map(|id| (path.replace("{id}", &encoded(id)), id.as_str()))
                .collect()
        } else {
            vec![(path.clone(), "")]
        };
        for (path, id) in paths {
            for query in queries(operation, ids) {
                let path = format!("{path}{query}");
                let answer = shop.ask(token, Method::GET, &path, None).await;
                let (status, headers) = (answer.status(), format!("{:?}", answer.headers()));
                let mut text = answer.text().await.unwrap();
                if !id.is_empty() && status == 404 {
                    // What was asked for may stand in the answer that there is none.
                    text = text.replace(id, "");
                }
                requests += 1;
                let count = serde_json::from_str(&text).map_or(0, |body: Value| {
                    let counts = [&body["total"], &body["count"], &body["deadLetters"]];
                    counts
                        .into_iter()
                        .filter_map(Value::as_u64)
                        .max()
                        .unwrap_or_default()
                });
                let given_away = count > ORDERS as u64
                    || text.to_lowercase().contains(MARKER)
                    || headers.to_lowercase().contains(MARKER)
                    || ids.all().any(|one| one.len() > 6 && text.contains(one));
                if given_away {
                    shown.push(format!("{path}: {status} {text}"));
                }
            }
        }
    }
    (shown, requests)
}

/// Rows of the other tenant that nobody has touched.
async fn untouched(shop: &Shop) -> (i64, i64) {
    let letters = shop.db.value(
        "select count(*) from observer.dead_letter where tenant = 'globex' and redrive_requested_at is null",
    );
    let letters = letters.await;
    let jobs = shop.db.value(
        "select count(*) from observer.job where tenant = 'globex' and state = 's' and cancelled is null
             and scheduled_at > now()",
    );
    (letters, jobs.await)
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_token_finds_nothing_of_another_on_any_path() {
    let shop = Shop::open().await;
    let others = Ids::of(&shop, "globex").await;
    let orders = ORDERS as u64;
    assert_eq!(others.events.len(), ORDERS);
    assert_eq!(
        (others.dead_letters.len(), others.jobs.len()),
        (ORDERS, ORDERS)
    );

    // The same requests show a lot to whom it is meant for.
    let (shown, requests) = read_everything(&shop, GLOBEX, &others).await;
    assert!(
        requests > 150 && shown.len() > 50,
        "{requests}, {}",
        shown.len()
    );
    let (shown, requests) = read_everything(&shop, ACME, &others).await;
    assert!(shown.is_empty(), "of {requests}:\n{}", shown.join("\n"));

    // Its own it does see, and no more.
    let own = shop.json(ACME, "/search?facets=true&limit=1000").await;
    assert_eq!(own["total"], orders);
    assert!(texts(&own, "tenant").iter().all(|one| one == "acme"));
    for facet in ["entity", "operation", "outcome"] {
        for bucket in own["facets"][facet].as_array().unwrap() {
            assert!(bucket["count"].as_u64().unwrap() <= orders, "{own}");
        }
    }
    assert_eq!(shop.json(ACME, "/jobs").await["count"], orders);
    assert_eq!(
        texts(&shop.json(ACME, "/dead-letters").await, "id").len(),
        ORDERS
    );
    let status = shop.json(ACME, "/status").await;
    assert_eq!(
        (&status["deadLetters"], &status["jobs"]["scheduled"]),
        (&json!(orders), &json!(orders))
    );
    assert_eq!(status.get("processes"), None);
    assert_eq!(shop.get(ACME, "/shards").await.0, 403);
    let all = shop.json(ALL, "/status").await;
    assert_eq!(all["deadLetters"], 2 * orders);

    // What is another's cannot be changed, by no name.
    let number = |id: &String| id.parse::<i64>().unwrap();
    let letters: Vec<i64> = others.dead_letters.iter().map(number).collect();
    for what in ["redrive", "drop"] {
        let path = format!("/dead-letters/{what}");
        for body in [
            json!({"ids": letters}),
            json!({"all": true, "filter": {"tenant": "globex"}}),
            json!({"all": true, "filter": {"key": "101"}}),
        ] {
            assert_eq!(shop.change(ACME, &path, body).await, 0, "{what}");
        }
    }
    for what in ["retry", "cancel"] {
        let path = format!("/jobs/{what}");
        for body in [
            json!({"ids": others.jobs}),
            json!({"all": true, "tenant": "globex"}),
            json!({"all": true, "observer": "default/of-globex"}),
        ] {
            assert_eq!(shop.change(ACME, &path, body).await, 0, "{what}");
        }
    }
    // An empty text is a variable that is not set, not all.
    for what in [
        "jobs/retry",
        "jobs/cancel",
        "dead-letters/redrive",
        "dead-letters/drop",
    ] {
        let (path, letters) = (format!("/{what}"), what.starts_with("dead"));
        for field in ["observer", "action", "tenant"] {
            for text in ["", "a\0"] {
                let mut body = json!({"all": true});
                if letters {
                    body["filter"] = json!({field: text});
                } else {
                    body[field] = json!(text);
                }
                for token in [ACME, ALL] {
                    let answer = shop.ask(token, Method::POST, &path, Some(body.clone()));
                    assert_eq!(answer.await.status(), 422, "{path} {body}");
                }
            }
        }
    }
    let rows = i64::try_from(ORDERS).unwrap();
    assert_eq!(untouched(&shop).await, (rows, rows));
    // All is all of one's own.
    assert_eq!(
        shop.change(ACME, "/jobs/cancel", json!({"all": true}))
            .await,
        orders
    );
    let all = json!({"all": true});
    assert_eq!(shop.change(ACME, "/dead-letters/drop", all).await, orders);
    assert_eq!(untouched(&shop).await, (rows, rows));
    shop.process.stop().await;
}
