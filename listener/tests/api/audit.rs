//! What people changed over HTTP is recorded: who, when, and what came of it.

use reqwest::Method;
use serde_json::{Value, json};

use super::shop::{ACME, ALL, ORDERS, READER, Shop, texts};
use crate::support::listener::{Config, Process, observer};
use crate::support::{amounts_to, database, eventually};

/// Status and body of a change.
async fn change(shop: &Shop, token: &str, path: &str, body: Value) -> (u16, Value) {
    let answer = shop.ask(token, Method::POST, path, Some(body)).await;
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_recorded_with_who_asked_and_what_came_of_it() {
    let shop = Shop::open().await;
    let letters = texts(&shop.json(ALL, "/dead-letters?limit=2").await, "id");
    let ids: Vec<i64> = letters.iter().map(|id| id.parse().unwrap()).collect();
    let all = json!({"all": true});
    assert_eq!(
        shop.change(ALL, "/dead-letters/drop", json!({"ids": ids}))
            .await,
        2
    );
    let orders = ORDERS as u64;
    assert_eq!(shop.change(ACME, "/jobs/cancel", all.clone()).await, orders);
    let many: Vec<i64> = (1_000_000..1_002_000).collect();
    assert_eq!(
        shop.change(ALL, "/dead-letters/drop", json!({"ids": many}))
            .await,
        0
    );
    let nobody = json!({"observer": "default/nobody"});
    assert_eq!(change(&shop, ALL, "/breakers/reset", nobody).await.0, 404);
    assert_eq!(
        change(&shop, ALL, "/cache/invalidate", all.clone()).await.0,
        200
    );
    // Those who may not, have changed nothing.
    assert_eq!(
        change(&shop, READER, "/jobs/retry", all.clone()).await.0,
        403
    );
    assert_eq!(change(&shop, ACME, "/breakers/reset", all).await.0, 403);
    // What is another listener's is nobody's here.
    shop.db
        .run("insert into observer.audit (listener, actor, operation, request) values ('a/b', 'all', 'retryJobs', '{}')")
        .await;

    let audit = shop.json(READER, "/audit").await;
    let items = audit["items"].as_array().unwrap();
    let shown: Vec<Value> = items
        .iter()
        .map(|one| {
            json!([
                one["operation"],
                one["actor"],
                one["tenant"],
                one["request"],
                one["count"],
                one["error"]
            ])
        })
        .collect();
    let missing = "the listener runs no observer default/nobody";
    let expected = [
        json!(["invalidateCache", "all", null, {"all": true}, null, null]),
        json!(["resetBreakers", "all", null, {"observer": "default/nobody"}, null, missing]),
        json!(["dropDeadLetters", "all", null, {"ids": 2000}, 0, null]),
        json!(["cancelJobs", "acme", "acme", {"all": true}, orders, null]),
        json!(["dropDeadLetters", "all", null, {"ids": ids}, 2, null]),
    ];
    assert_eq!(shown, expected);
    assert!(items.iter().all(|one| one["finishedAt"].is_string()));
    assert_eq!(audit["next"], Value::Null);

    let page = shop.json(ALL, "/audit?limit=3").await;
    let rest = format!("/audit?limit=3&before={}", page["next"]);
    let rest = shop.json(ALL, &rest).await;
    assert_eq!(
        (texts(&page, "actor").len(), texts(&rest, "actor")),
        (3, vec!["acme".to_owned(), "all".to_owned()])
    );
    let at = items[3]["at"].as_str().unwrap();
    for (filter, found) in [
        ("actor=acme", 1),
        ("operation=dropDeadLetters", 2),
        ("operation=dropDeadLetters&actor=acme", 0),
        (&*format!("since={at}"), 4),
        (&*format!("until={at}"), 1),
    ] {
        let page = shop.json(ALL, &format!("/audit?{filter}")).await;
        assert_eq!(texts(&page, "id").len(), found, "{filter}");
    }
    assert_eq!(shop.get(ALL, "/audit?operation=search").await.0, 400);
    assert_eq!(shop.get(ACME, "/audit").await.0, 403);
    shop.db
        .run("select observer.drop_listener('default/test')")
        .await;
    let left: String = shop
        .db
        .value("select string_agg(listener, ',') from observer.audit")
        .await;
    assert_eq!(left, "a/b");
    shop.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_that_cannot_be_recorded_is_not_made() {
    let shop = Shop::open().await;
    shop.db
        .run("alter table observer.audit rename to audit_elsewhere")
        .await;
    let all = json!({"all": true});
    let (status, problem) = change(&shop, ALL, "/dead-letters/drop", all.clone()).await;
    assert_eq!(status, 503, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("cannot be recorded"), "{detail}");
    let letters = texts(&shop.json(ALL, "/dead-letters").await, "id");
    assert_eq!(letters.len(), 2 * ORDERS);
    shop.db
        .run("alter table observer.audit_elsewhere rename to audit")
        .await;
    assert_eq!(
        shop.change(ALL, "/dead-letters/drop", all).await,
        2 * ORDERS as u64
    );
    shop.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn change_that_a_crash_cuts_off_leaves_its_entry() {
    let shop = Shop::open().await;
    let mut blocking = shop.db.pool.begin().await.unwrap();
    sqlx::query("lock table observer.dead_letter in exclusive mode")
        .execute(&mut *blocking)
        .await
        .unwrap();
    let url = format!("http://{}/api/observers/dead-letters/drop", shop.address);
    let request = reqwest::Client::new().post(url).bearer_auth(ALL);
    let asked = tokio::spawn(request.json(&json!({"all": true})).send());
    let entries =
        "select count(*) from observer.audit where operation = 'dropDeadLetters' and actor = 'all'
                       and finished_at is null and count is null and error is null";
    amounts_to("entries", 1, async || {
        shop.db.value::<i64>(entries).await.unsigned_abs()
    })
    .await;
    shop.process.kill().await;
    assert!(asked.await.unwrap().is_err());
    blocking.rollback().await.unwrap();
    assert_eq!(shop.db.value::<i64>(entries).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_kept_for_ninety_days() {
    let db = database().await;
    db.run(
        "insert into observer.audit (listener, actor, operation, request, at)
         select listener, 'a', 'retryJobs', '{}', now() - age
         from (values ('default/test'), ('a/b')) l(listener),
             (values (interval '91 days'), ('89 days'), ('0 days')) a(age)",
    )
    .await;
    let config = Config::new(
        &db.url,
        "",
        &observer("orders", "public.orders", "http://127.0.0.1:9/", ""),
    );
    let process = Process::run(&config);
    eventually("the oldest is gone", async || {
        let counts: String = db
            .value(
                "select count(*) filter (where listener = 'a/b') || ' and ' || count(*) from observer.audit",
            )
            .await;
        (counts == "3 and 5").then_some(())
    })
    .await;
    process.stop().await;
}
