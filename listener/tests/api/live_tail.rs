//! The live tail: events as they are committed, for all who watch.

use futures::future::join_all;
use serde_json::{Value, json};

use super::shop::{ACME, ALL, GLOBEX, Shop, texts};
use crate::support::eventually;

/// Where the tail is now.
async fn begin(shop: &Shop, token: &str) -> String {
    let begun = shop.json(token, "/tail?wait=10").await;
    assert_eq!(
        (&begun["items"], &begun["missed"]),
        (&json!([]), &json!(false))
    );
    begun["next"].as_str().unwrap().to_owned()
}

/// Reads on until there are so many events. Gives them, and where they end.
async fn read(shop: &Shop, token: &str, after: &str, count: usize) -> (Vec<Value>, String) {
    let (mut found, mut after) = (Vec::new(), after.to_owned());
    while found.len() < count {
        let page = shop
            .json(token, &format!("/tail?wait=10&limit=2&after={after}"))
            .await;
        assert_eq!(page["missed"], false);
        page["next"].as_str().unwrap().clone_into(&mut after);
        found.extend(page["items"].as_array().unwrap().clone());
    }
    (found, after)
}

fn keys(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|one| one["key"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_as_they_are_committed_to_those_who_may_see_them() {
    let shop = Shop::open().await;
    let (all, acme, globex) = (
        begin(&shop, ALL).await,
        begin(&shop, ACME).await,
        begin(&shop, GLOBEX).await,
    );
    shop.db
        .run(
            "insert into orders values (11, 'acme', 'marker', 'card'), (12, 'globex', 'marker', 'card'),
                 (13, 'acme', 'marker', 'card')",
        )
        .await;
    shop.db
        .run("update orders set note = 'another marker', card = 'other' where id = 12")
        .await;
    let (events, end) = read(&shop, ALL, &all, 4).await;
    assert_eq!(keys(&events), ["11", "12", "13", "12"]);
    let update = &events[3];
    let expected = json!({
        "id": update["id"], "logId": update["logId"], "entity": "public.orders", "operation": "Update",
        "key": "12", "tenant": "globex", "occurredAt": update["occurredAt"], "changed": ["card", "note"],
    });
    assert_eq!(update, &expected);
    let shown = shop
        .json(ALL, &format!("/events/{}", update["id"].as_str().unwrap()))
        .await;
    assert_eq!(shown["logId"], update["logId"]);
    assert_eq!(keys(&read(&shop, ACME, &acme, 2).await.0), ["11", "13"]);
    assert_eq!(keys(&read(&shop, GLOBEX, &globex, 2).await.0), ["12", "12"]);

    // A tenant waits on for what is its own.
    let (of_acme, path) = (end.clone(), format!("/tail?wait=10&after={end}"));
    let (waited, ()) = tokio::join!(shop.json(ACME, &path), async {
        shop.db
            .run("insert into orders values (14, 'globex')")
            .await;
        read(&shop, ALL, &end, 1).await;
        shop.db.run("insert into orders values (15, 'acme')").await;
    });
    // On a slow machine the wait may be over before.
    let own = texts(&waited, "key");
    assert!(own.is_empty() || own == ["15"], "{waited}");
    assert_eq!(keys(&read(&shop, ACME, &of_acme, 1).await.0), ["15"]);

    for odd in ["7", "0123456789abcdef-1", "%25"] {
        let page = shop.json(ALL, &format!("/tail?after={odd}")).await;
        assert_eq!(page["missed"], true);
        assert_eq!(texts(&page, "key"), ["11", "12", "13", "12", "14", "15"]);
    }
    shop.process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_watch_share_one_reader_which_survives_lost_connections() {
    let shop = Shop::open().await;
    let after = begin(&shop, ALL).await;
    let path = format!("/tail?wait=10&after={after}");
    let insert = |id: i32| format!("insert into orders values ({id}, 'acme')");
    let watching = join_all((0..20).map(|_| read(&shop, ALL, &after, 1)));
    let first = insert(21);
    let (seen, ()) = tokio::join!(watching, shop.db.run(&first));
    assert!(seen.iter().all(|one| one == &seen[0]), "{seen:?}");
    assert_eq!(keys(&seen[0].0), ["21"]);

    shop.db
        .run(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .await;
    shop.db.run(&insert(22)).await;
    eventually("the next event", async || {
        let (status, page) = shop.get(ALL, &path).await;
        // Those who wait may see the session end.
        (status == 200 && (page["missed"] == true || texts(&page, "key") == ["21", "22"]))
            .then_some(())
    })
    .await;
    shop.process.stop().await;
}
