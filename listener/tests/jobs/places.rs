//! Jobs that are in one place while new ones are added to another.

use testkit::http_sink::{Behaviour, Sink};

use super::lanes::{accepted, in_order};
use super::{in_redis, observer, orders, redis};
use crate::support::listener::{Config, Process};
use crate::support::program::command;
use crate::support::while_progressing_or;

/// Jobs that `jobs list` counts, in both places.
async fn listed(config: &Config) -> usize {
    let path = config.path();
    let args = [
        "jobs",
        "list",
        "-o",
        "json",
        "--limit",
        "1000",
        "-f",
        path.to_str().unwrap(),
    ];
    let text = command(&args).await.ok();
    serde_json::from_str::<Vec<serde_json::Value>>(&text)
        .unwrap()
        .len()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_the_place_before_are_worked_off_first() {
    const ROWS: usize = 30;
    const PLACES: [&str; 3] = ["Postgres", "Postgres,Redis", "Postgres,Redis"];
    let (db, redis) = (orders().await, redis().await);
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let often = "timeout: 5m\n      retry: {attempts: 100, initialBackoff: 1s, maxBackoff: 10s}";
    let hook = observer("both", &sink.url("/hook"), often);
    // No worker dies here, and none is to be taken for dead.
    let spec = in_redis(&redis).replace("workerLeaseDuration: 5s", "workerLeaseDuration: 1m");
    let config = Config::new(&db.url, &spec, &hook);
    let (redis, postgres) = ("backend: Redis", "backend: Postgres");
    let mut rounds = 0;
    for (from, to) in [(redis, postgres), (postgres, redis), (redis, postgres)] {
        config.change(from, to);
        let process = Process::run(&config);
        if rounds == 0 {
            db.run(&format!(
                "insert into orders select generate_series(1, {ROWS})"
            ))
            .await;
        } else {
            db.run("update orders set total = total + 1").await;
        }
        rounds += 1;
        let jobs = rounds * ROWS;
        let look = async || match listed(&config).await {
            listed if listed == jobs => Ok(()),
            listed => Err(listed),
        };
        while_progressing_or(look, async || {
            format!("{jobs} jobs in both places: {}", listed(&config).await)
        })
        .await;
        let place: String = db.value("select backend from observer.job_queue").await;
        assert_eq!(
            place,
            PLACES[rounds - 1],
            "going back waits for what was begun"
        );
        process.stop().await;
    }
    sink.behave(Behaviour::Ok);
    let process = Process::run(&config);
    accepted(&sink, (rounds * ROWS) as u64).await;
    in_order(&sink.received(), ROWS, 2);
    process.stop().await;
}
