//! Searches and single events over HTTP.

use reqwest::Method;
use serde_json::{Value, json};

use super::shop::{ACME, ALL, GLOBEX, ORDERS, READER, Shop, texts};

#[tokio::test(flavor = "multi_thread")]
async fn history_is_searched_page_by_page_with_signed_cursors() {
    let shop = Shop::open().await;
    let all = shop.json(READER, "/search?sort=oldest&q=marker").await;
    let ids = texts(&all, "id");
    assert_eq!((ids.len(), &all["total"]), (2 * ORDERS, &json!(2 * ORDERS)));
    assert_eq!(all["next"], Value::Null);
    assert_eq!(all["facets"], Value::Null);
    let first = &all["items"][0];
    assert_eq!(first["new"]["card"], Value::Null, "{first}");
    assert_eq!(first["observers"].as_array().unwrap().len(), 3, "{first}");

    // Pages are the whole, in each order.
    for sort in ["oldest", "newest"] {
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/search?q=marker&sort={sort}&limit=3{cursor}");
            let page = shop.json(READER, &path).await;
            paged.extend(texts(&page, "id"));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        if sort == "newest" {
            paged.reverse();
        }
        assert_eq!(paged, ids, "{sort}");
    }

    let page = shop.json(READER, "/search?q=marker&limit=2").await;
    let cursor = page["next"].as_str().unwrap();
    for (token, query) in [
        (READER, "q=globex"),
        (READER, "q=marker&sort=oldest"),
        (READER, "q=marker&tenant=acme"),
        (READER, "q=marker&operation=Insert"),
        (ACME, "q=marker"),
        (ALL, "q=marker&tenant=globex"),
    ] {
        let path = format!("/search?{query}&limit=2&cursor={cursor}");
        let (status, problem) = shop.get(token, &path).await;
        assert_eq!(status, 400, "{path}: {problem}");
        assert!(
            problem["detail"].to_string().contains("cursor"),
            "{problem}"
        );
    }
    let mut altered = cursor.to_owned();
    let last = if altered.pop() == Some('A') { 'Q' } else { 'A' };
    altered.push(last);
    let path = format!("/search?q=marker&cursor={altered}");
    assert_eq!(shop.get(READER, &path).await.0, 400);
    // What is shown of the hits is no filter.
    let path = format!("/search?limit=100&facets=true&cursor={cursor}&q=marker");
    let rest = shop.json(READER, &path).await;
    assert_eq!(texts(&rest, "id").len(), 2 * ORDERS - 2);
    assert_eq!(rest["facets"]["entity"][0]["value"], "public.orders");

    let none = shop
        .json(READER, "/search?limit=0&outcome=deadLetter,retrying")
        .await;
    assert_eq!(
        (texts(&none, "id").len(), &none["total"]),
        (0, &json!(2 * ORDERS))
    );
    let highlighted = shop
        .json(READER, "/search?q=marker&highlight=true&limit=1")
        .await;
    let highlights = highlighted["items"][0]["highlights"].to_string();
    assert!(highlights.contains("«marker»"), "{highlights}");
    let (status, problem) = shop.get(READER, "/search?q=%28marker").await;
    assert_eq!(status, 400, "{problem}");
    assert!(problem["position"].is_u64(), "{problem}");
    shop.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_is_shown_from_the_history_and_from_the_log_before() {
    let shop = Shop::open().await;
    let found = shop.json(ALL, "/search?tenant=acme&key=1").await;
    let id = &texts(&found, "id")[0];
    let path = format!("/events/{id}");
    let indexed = shop.json(ACME, &path).await;
    let of = |event: &Value, observer: &str| {
        let observers = event["observers"].as_array().unwrap().clone();
        let found = observers
            .into_iter()
            .find(|one| one["observer"] == observer);
        found.unwrap_or_else(|| panic!("{observer} in {event}"))
    };
    let letter = &of(&indexed, "default/all")["deliveries"][0];
    assert_eq!(letter["state"], "deadLetter", "{indexed}");
    assert_eq!(letter["attempts"], 1);
    let job = &of(&indexed, "default/of-acme")["deliveries"][0];
    assert_eq!(job["state"], "retrying");
    // That there are observers of other tenants is not for this one to know.
    let observers = |event: &Value| event["observers"].as_array().unwrap().len();
    let whole = shop.json(ALL, &path).await;
    assert_eq!((observers(&indexed), observers(&whole)), (2, 3));
    let other = of(&whole, "default/of-globex");
    assert_eq!(other["deliveries"], Value::Null);

    // A delivery's id leads to its event.
    let delivery = job["delivery"].as_str().unwrap();
    assert_eq!(
        shop.json(ACME, &format!("/events/{delivery}")).await,
        indexed
    );

    // What the history does not have yet, the log has.
    shop.db
        .run("delete from observer.search_document where key = '1'")
        .await;
    let composed = shop.json(ACME, &path).await;
    assert_eq!(
        (
            observers(&composed),
            observers(&shop.json(ALL, &path).await)
        ),
        (2, 3)
    );
    assert_eq!(composed["new"], indexed["new"], "without what is redacted");
    assert_eq!(
        of(&composed, "default/all")["deliveries"][0]["state"],
        "deadLetter"
    );
    let job = &of(&composed, "default/of-acme")["deliveries"][0];
    assert_eq!(
        (&job["state"], &job["attempts"]),
        (&json!("retrying"), &json!(1))
    );
    for (token, path) in [
        (GLOBEX, path.as_str()),
        (ALL, "/events/1-1-1"),
        (ALL, "/events/999999"),
    ] {
        let (status, problem) = shop.get(token, path).await;
        assert_eq!(status, 404, "{path}: {problem}");
    }
    shop.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overview_shows_observers_shards_and_processes() {
    let shop = Shop::open().await;
    let observers = shop.json(ALL, "/observers").await;
    assert_eq!(
        texts(&observers, "observer"),
        ["default/all", "default/of-acme", "default/of-globex"]
    );
    let first = &observers["items"][0];
    assert_eq!(first["condition"], "new.id > 0");
    assert_eq!(first["actions"][0]["kind"], "webhook");
    assert_eq!(first["actions"][0]["circuit"], "closed");
    let own = shop.json(ACME, "/observers").await;
    assert_eq!(texts(&own, "observer"), ["default/all", "default/of-acme"]);
    assert_eq!(texts(&own, "condition"), ["null", "new.id > 0"]);
    let shards = shop.json(READER, "/shards").await;
    assert_eq!(texts(&shards, "shard").len(), 8);
    assert!(
        texts(&shards, "ownerIsGone")
            .iter()
            .all(|gone| gone == "false"),
        "{shards}"
    );
    let status = shop.json(READER, "/status").await;
    assert_eq!(status["processes"].as_array().unwrap().len(), 1);
    let history = json!({"backend": "postgres", "gaps": 0, "latestGap": null});
    assert_eq!(status["history"], history);
    assert_eq!(shop.json(ACME, "/status").await.get("history"), None);
    let head = shop.ask(READER, Method::HEAD, "/status", None).await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.text().await.unwrap(), "");
    shop.process.stop().await;
}
