//! What all processes did in the last hour.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::shop::{ACME, ALL, ORDERS, Shop};
use crate::support::eventually_or;

/// Sum of a field over the hour.
fn sum(hour: &Value, field: &str) -> u64 {
    let items = hour["items"].as_array().unwrap().iter();
    items.map(|one| one[field].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_added_up_by_minute() {
    let shop = Shop::open().await;
    assert_eq!(shop.get(ACME, "/activity").await.0, 403);
    shop.db
        .run(
            "insert into observer.member (listener, name, uid, config_digest, expires_at, activity)
             select 'default/test', name, name, 'any', now() + lifetime, jsonb_build_array(
                 jsonb_build_object('minute', minute - 30, 'events', 1000, 'delivered', 700,
                     'lagSeconds', length(name), 'ofALaterVersion', 1),
                 jsonb_build_object('minute', minute - 300, 'events', 50000))
             from floor(extract(epoch from now()) / 60) minute, (values ('b', interval '1 hour'),
                 ('other', '1 hour'), ('has-ended', '-1 minute')) p(name, lifetime)",
        )
        .await;
    // Each order is a dead letter of one observer, and a job that is tried again tomorrow of another.
    let orders = 2 * ORDERS as u64;
    let counts = |hour: &Value| {
        ["events", "delivered", "failed", "deadLetters"].map(|field| sum(hour, field))
    };
    let hour = eventually_or(
        async || {
            let hour = shop.json(ALL, "/activity").await;
            (counts(&hour) == [2000 + orders, 1400, 2 * orders, orders]).then_some(hour)
        },
        async || format!("the activity of all: {}", shop.json(ALL, "/activity").await),
    )
    .await;
    let items = hour["items"].as_array().unwrap();
    let at = |item: &Value| {
        item["at"]
            .as_str()
            .unwrap()
            .parse::<DateTime<Utc>>()
            .unwrap()
    };
    assert_eq!(items.len(), 60);
    assert!(
        items
            .windows(2)
            .all(|two| at(&two[1]) - at(&two[0]) == TimeDelta::minutes(1))
    );
    let busy = items.iter().find(|one| one["events"] == 2000).unwrap();
    assert_eq!(
        (&busy["delivered"], &busy["lagSeconds"]),
        (&1400.into(), &5.into())
    );
    shop.process.stop().await;
}
