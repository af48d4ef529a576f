//! `jobs`: what a keeper sees and does.

use serde_json::Value;
use testkit::http_sink::{Behaviour, Sink};

use super::{left, observer, orders};
use crate::support::listener::{Config, Process};
use crate::support::program::command;
use crate::support::told::keys_of;

async fn jobs(config: &Config, args: &[&str]) -> String {
    let path = config.path();
    let args = [&["jobs"], args, &["-f", path.to_str().unwrap()]].concat();
    command(&args).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_shown_retried_and_cancelled() {
    let db = orders().await;
    let sink = Sink::start(Behaviour::Status(503)).await.unwrap();
    let seldom = "retry: {attempts: 9, initialBackoff: 24h, maxBackoff: 24h}";
    let config = Config::new(&db.url, "", &observer("shop", &sink.url("/hook"), seldom));
    assert_eq!(jobs(&config, &["list"]).await, "no jobs\n");
    let process = Process::run(&config);
    db.run("insert into orders select generate_series(1, 3)")
        .await;
    sink.arrived(3).await;
    left(&db, 3).await;
    db.run("update orders set total = 1 where id = 1").await;
    left(&db, 4).await;
    let all: Vec<Value> =
        serde_json::from_str(&jobs(&config, &["list", "-o", "json"]).await).unwrap();
    assert_eq!(all.len(), 4);
    let states: Vec<&str> = all
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["scheduled", "scheduled", "scheduled", "blocked"]);
    assert_eq!(all[0]["observer"], "default/shop");
    assert_eq!(all[0]["attempts"], 1);
    assert!(
        all[0]["error"].as_str().unwrap().contains("503"),
        "{}",
        all[0]
    );
    let table = jobs(&config, &["list", "--state", "blocked"]).await;
    assert!(
        table.starts_with("ID ") && table.contains("default/shop/post"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 2, "{table}");
    // One that no other waits behind; they are in the order in which their attempts ended.
    let alone = all.iter().find(|one| one["key"] != "1").unwrap();
    let id = alone["id"].as_str().unwrap();
    let shown: Value = serde_json::from_str(&jobs(&config, &["show", id]).await).unwrap();
    assert_eq!(shown["key"], alone["key"]);
    assert_eq!(shown["history"][0]["status"], 503);
    assert!(shown["event"]["new"]["id"].is_number(), "{shown}");
    assert!(
        !shown.to_string().contains(&sink.url("")),
        "no address is shown"
    );

    let said = jobs(&config, &["cancel", id]).await;
    assert_eq!(said, "1 cancelled\n");
    left(&db, 3).await;
    sink.behave(Behaviour::Ok);
    let said = jobs(&config, &["retry", "--all", "--observer", "shop"]).await;
    assert!(said.starts_with("2 available now"), "{said}");
    keys_of(&sink, "/hook", 3).await;
    left(&db, 0).await;
    for does in ["show", "retry", "cancel"] {
        let gone = command(&["jobs", does, id, "-f", config.path().to_str().unwrap()]).await;
        assert_eq!(gone.code, Some(1), "{}", gone.said());
        assert!(gone.err.contains("there is no job"), "{}", gone.said());
    }
    process.stop().await;
}
