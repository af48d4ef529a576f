//! Deliveries by jobs, wherever the queue is and whoever works on it.

use testkit::http_sink::{Behaviour, Sink};

use super::{SEARCH, all_final, delivery, documents, orders};
use crate::jobs::{in_redis, redis};
use crate::support::eventually;
use crate::support::listener::{Config, Process, observer};

/// An observer whose deliveries are all jobs.
fn queued(name: &str, url: &str) -> String {
    observer(name, "public.orders", url, "")
        .replace("      retry:", "      mode: Queued\n      retry:")
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_in_redis_are_told_to_their_end() {
    let (db, redis) = (orders().await, redis().await);
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    sink.behave_at("/no", Behaviour::Status(400));
    sink.behave_at("/down", Behaviour::Status(503));
    let down = queued("down", &sink.url("/down")).replace(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 1s, maxBackoff: 1s",
    );
    let observers = [
        queued("ok", &sink.url("/ok")),
        queued("bad", &sink.url("/no")),
        down,
    ];
    let spec = format!("{}{SEARCH}", in_redis(&redis));
    let config = Config::new(&db.url, &spec, &observers.concat());
    let process = Process::run(&config);
    db.run("insert into orders select n, n, 's', null from generate_series(1, 20) n")
        .await;
    eventually("all of one observer wait for a retry", async || {
        let all = documents(&db).await;
        let waits = |one: &&serde_json::Value| {
            let down = delivery(one, "down");
            down["state"] == "retrying" && down["job"].is_string() && down["dueAt"].is_string()
        };
        (all.iter().filter(waits).count() == 20).then_some(())
    })
    .await;
    // What the process knows and has not told is lost.
    process.kill().await;
    sink.behave_at("/down", Behaviour::Ok);
    let process = Process::run(&config);
    assert_eq!(all_final(&db).await, 20);
    process.stop().await;
    for document in documents(&db).await {
        assert_eq!(
            delivery(&document, "ok")["state"],
            "delivered",
            "{document}"
        );
        let bad = delivery(&document, "bad");
        assert_eq!(bad["state"], "deadLetter", "{document}");
        assert_eq!(bad["history"][0]["status"], 400, "{document}");
        let down = delivery(&document, "down");
        assert_eq!(down["state"], "delivered", "{document}");
        assert!(down["attempts"].as_u64() >= Some(2), "{document}");
        assert_eq!(down["history"][0]["status"], 503, "{document}");
        assert!(down["detailsLost"].is_null(), "{document}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dedicated_worker_tells_what_became_of_its_jobs() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let observers = queued("slow", &sink.url("/")).replace(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 3s, maxBackoff: 3s",
    );
    let config = Config::new(&db.url, SEARCH, &observers);
    let process = Process::run(&config);
    db.run("insert into orders select n, n, 's', null from generate_series(1, 20) n")
        .await;
    let in_state = async |state: &str| {
        let all = documents(&db).await;
        let are = all
            .iter()
            .filter(|one| delivery(one, "slow")["state"] == state);
        are.count()
    };
    eventually("all jobs wait for a retry", async || {
        (in_state("retrying").await == 20).then_some(())
    })
    .await;
    process.stop().await;
    sink.behave(Behaviour::Ok);
    // It owns no shard, reads no log, and sweeps nothing.
    let worker = Process::start(&["worker", "--listen", "off", "-f"], &config.path());
    eventually("the worker tells of all jobs", async || {
        (in_state("delivered").await == 20).then_some(())
    })
    .await;
    worker.stop().await;
    for document in documents(&db).await {
        let slow = delivery(&document, "slow");
        assert!(slow["attempts"].as_u64() >= Some(2), "{document}");
        assert!(slow["detailsLost"].is_null(), "{document}");
        let history = slow["history"].as_array().unwrap();
        assert_eq!(history[0]["status"], 503, "{document}");
        assert!(history.last().unwrap()["error"].is_null(), "{document}");
    }
}
