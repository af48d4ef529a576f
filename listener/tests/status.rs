//! `status --watch`.

use serde_json::Value;

use crate::support::follower::Follower;
use crate::support::listener::{Config, Process, observer};
use crate::support::program::command;
use crate::support::{database, own_server};

#[tokio::test(flavor = "multi_thread")]
async fn status_is_shown_again_and_again_through_an_outage() {
    let (server, _pool) = own_server().await;
    let url = server.url("postgres");
    let config = Config::new(
        &url,
        "  shards: 1\n",
        &observer("a", "public.a", "http://127.0.0.1:9/", ""),
    );
    let file = config.path();
    let file = file.to_str().unwrap();
    let watch = ["status", "-f", file, "--watch", "--interval", "100ms"];
    let mut text = Follower::start(&watch);
    let mut json = Follower::start(&[&watch[..], &["-o", "json"]].concat());
    let times = |text: &'static str, wanted: usize| {
        move |lines: &[String]| {
            let count = lines.iter().filter(|line| line.contains(text)).count();
            (count >= wanted).then_some(count)
        }
    };
    text.prints(
        "the status twice",
        times("has not run in this database yet", 2),
    )
    .await;
    // The time before each, and a blank line between.
    let printed = text.printed();
    assert!(
        printed[0].ends_with('Z') && printed[2].is_empty() && printed[3].ends_with('Z'),
        "{printed:?}"
    );
    json.prints("two documents", |lines| (lines.len() >= 2).then_some(()))
        .await;
    let process = Process::run(&config);
    text.prints("its process", times("default/test: 1 shard, 1 process", 2))
        .await;
    process.stop().await;

    server.stop().await.unwrap();
    text.says("error: ").await;
    json.says("error: ").await;
    server.resume().await.unwrap();
    let before = json.printed().len();
    json.prints("more documents", |lines| {
        (lines.len() >= before + 2).then_some(())
    })
    .await;
    for line in json.printed() {
        let document: Value = serde_json::from_str(&line).unwrap();
        assert!(document.is_array(), "{line}");
    }
    for watching in [&mut text, &mut json] {
        assert_eq!(
            watching.interrupted().await.code(),
            Some(0),
            "{}",
            watching.said()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn intervals_out_of_bounds_are_refused() {
    let db = database().await;
    for (args, told) in [
        (["--watch", "--interval", "1ms"], "use 100ms to 1h"),
        (["--watch", "--interval", "soon"], "is not a duration"),
    ] {
        let ended = command(&[&["status", "--database-url", &db.url][..], &args].concat()).await;
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert!(ended.err.contains(told), "{}", ended.said());
    }
}
