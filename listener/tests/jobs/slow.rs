//! What takes long delays nobody else.

use std::time::{Duration, Instant};

use testkit::http_sink::{Behaviour, Sink};

use super::{left, observer, orders, seconds};
use crate::support::eventually;
use crate::support::listener::{Config, Process};
use crate::support::probe::free_address;

#[tokio::test(flavor = "multi_thread")]
async fn a_long_action_delays_no_short_one() {
    let db = orders().await;
    // It answers once all short ones are there.
    let slow = Sink::start(Behaviour::Hold).await.unwrap();
    let quick = Sink::start(Behaviour::Ok).await.unwrap();
    // More of them than there is room for at once.
    let observers = [
        observer(
            "long",
            &slow.url("/long"),
            "mode: Queued\n      timeout: 5m",
        )
        .replace("  actions:", "  when: new.id <= 40\n  actions:"),
        observer("queued", &quick.url("/queued"), "mode: Queued")
            .replace("  actions:", "  when: new.id > 40\n  actions:"),
        observer("inline", &quick.url("/inline"), "timeout: 30s")
            .replace("  actions:", "  when: new.id > 40\n  actions:"),
    ];
    let config = Config::new(&db.url, super::LONG, &observers.concat());
    let process = Process::run(&config);
    db.run("insert into orders select generate_series(1, 40)")
        .await;
    eventually("as many long ones as there is room for", async || {
        let running =
            "select count(*) from observer.job where state = 'r' and observer = 'default/long'";
        let running: i64 = sqlx::query_scalar(running)
            .fetch_one(&db.pool)
            .await
            .unwrap();
        (running >= 12).then_some(())
    })
    .await;
    let mut begun = Vec::new();
    for id in 41..=80 {
        begun.push(Instant::now());
        db.run(&format!("insert into orders values ({id})")).await;
    }
    quick.arrived(80).await;
    assert_eq!(quick.counts().succeeded, 80, "each once");
    let received = quick.received();
    for path in ["/queued", "/inline"] {
        let took: Vec<Duration> = received
            .iter()
            .filter(|one| one.line.contains(path))
            .map(|one| {
                let body: serde_json::Value = serde_json::from_slice(&one.body).unwrap();
                let id = usize::try_from(body["new"]["id"].as_u64().unwrap()).unwrap();
                one.at - begun[id - 41]
            })
            .collect();
        let (median, most) = seconds(&took);
        println!(
            "beside actions without an end: {path} took {median:.3} s at the median, {most:.3} s at most"
        );
        assert_eq!(took.len(), 40, "all of {path}");
    }
    assert!(
        slow.counts().requests < 40,
        "there was no room for all at once"
    );
    slow.behave(Behaviour::Ok);
    left(&db, 0).await;
    assert_eq!(slow.counts().succeeded, 40, "each once");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_paused_for_too_long_is_refused() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Hang).await.unwrap();
    let hook = observer(
        "paused",
        &sink.url("/hook"),
        "mode: Queued\n      timeout: 5m",
    );
    let config = Config::new(&db.url, super::SHORT, &hook);
    let mut paused = Process::run(&config);
    db.run("insert into orders values (1)").await;
    sink.arrived(1).await;
    paused.signal("STOP").await;
    sink.behave(Behaviour::Ok);
    let address = free_address();
    let other = Process::start(&["worker", "--listen", &address, "-f"], &config.path());
    left(&db, 0).await;
    assert_eq!(sink.counts().succeeded, 1, "the other worker has done it");
    paused.signal("CONT").await;
    paused.says("worker lease expired").await;
    other.stop().await;
    paused.stop().await;
    assert_eq!(sink.counts().succeeded, 1, "and nobody else");
    let received = sink.received();
    let ids: Vec<&str> = received.iter().map(|one| &*one.webhook_id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one id: {ids:?}");
}
