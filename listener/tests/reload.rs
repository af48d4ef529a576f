//! Other observers while deliveries are under way and wait: nothing is lost, and nothing new goes
//! where it should not.

use std::sync::Arc;
use std::time::Duration;

use crds::loader::load;
use crds::manifest::SourceFile;
use observer_listener::admission::action_runtime::ActionRuntime;
use observer_listener::admission::endpoint_gate::EndpointRegistry;
use observer_listener::coordination::process;
use observer_listener::observers::Observers;
use observer_listener::runtime::fixed_listener::FixedListener;
use observer_listener::runtime::supervisor::{self, ProcessOptions};
use observer_listener::server::MetricsAccess;
use observer_listener::telemetry::metrics::Metrics;
use testkit::http_sink::{Behaviour, Sink};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::support::listener::{Config, observer, patient};
use crate::support::told::{keys, keys_of};
use crate::support::{TestDb, database, eventually, eventually_or};

const ROWS: usize = 40;

/// The observers of files, and the listener that runs them.
pub(crate) fn loaded(config: &Config) -> (crds::config::ListenerConfig, Arc<Observers>) {
    let file = SourceFile {
        path: "observers.yaml".to_owned(),
        text: std::fs::read_to_string(config.path()).unwrap(),
    };
    let bundle = load(&[file], &|_, _| None, None).unwrap().bundle;
    let shared = ActionRuntime::new(&bundle.listener.egress, &EndpointRegistry::default()).unwrap();
    let observers = Observers::compile(&bundle.observers, &shared).unwrap();
    (bundle.listener, Arc::new(observers))
}

async fn insert(db: &TestDb, from: usize) {
    let to = from + ROWS - 1;
    db.run(&format!(
        "insert into item select k from generate_series({from}, {to}) k"
    ))
    .await;
}

fn sorted(mut keys: Vec<String>) -> Vec<usize> {
    keys.sort();
    let mut keys: Vec<usize> = keys.iter().map(|key| key.parse().unwrap()).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_receiver_gets_all_of_it_through_many_reloads() {
    let db = database().await;
    db.run("create table item (k int primary key); select observer.track('item')")
        .await;
    // It answers nothing until there are other observers.
    let slow = Sink::start(Behaviour::Hold).await.unwrap();
    let failing = Sink::start(Behaviour::Status(503)).await.unwrap();
    let files =
        |observers: &str| Config::new(&db.url, "  delivery: {maxConcurrency: 4}", observers);
    let stays = |path: &str| patient(&observer("stays", "public.item", &slow.url(path), ""));
    let goes = patient(&observer("goes", "public.item", &slow.url("/goes"), ""));
    // Nothing of it is given up meanwhile.
    let fails = observer("fails", "public.item", &failing.url("/fails"), "").replace(
        "initialBackoff: 20ms, maxBackoff: 200ms",
        "initialBackoff: 24h, maxBackoff: 24h",
    );

    let (listener, observers) = loaded(&files(&format!("{}{goes}{fails}", stays("/first"))));
    let (send, observers) = watch::channel(observers);
    let between = loaded(&files(&stays("/second"))).1;
    let comes = observer("comes", "public.item", &slow.url("/comes"), "");
    let last = loaded(&files(&format!("{}{comes}", stays("/second")))).1;
    let stop = CancellationToken::new();
    let metrics = Metrics::new("default/test").unwrap();
    let options = ProcessOptions {
        listener: listener.identity(),
        member: process::member(),
        listen: None,
        api_listen: None,
        console: false,
        metrics: Some(metrics.clone()),
        metrics_access: MetricsAccess::default(),
    };
    let source = FixedListener::new(listener, observers);
    let running = tokio::spawn(supervisor::run(source, options, stop.clone()));
    insert(&db, 1).await;
    // A shard that comes late has its rows read late, and that under other observers.
    eventually("all rows are read", async || {
        (metrics.events.get() == ROWS as u64).then_some(())
    })
    .await;
    keys_of(&slow, "/goes", 1).await;
    eventually("a retry", async || {
        (failing.counts().requests > 0).then_some(())
    })
    .await;

    // Most of the first rows still wait for their turn with all three.
    for _ in 0..20 {
        send.send_replace(Arc::clone(&between));
        tokio::task::yield_now().await;
        send.send_replace(Arc::clone(&last));
        tokio::task::yield_now().await;
    }
    slow.behave(Behaviour::Delay(Duration::from_millis(200)));
    let known = keys(&slow, "/second").len();
    keys_of(&slow, "/second", known + 4).await;
    insert(&db, ROWS + 1).await;

    let first: Vec<usize> = (1..=ROWS).collect();
    let second: Vec<usize> = (ROWS + 1..=2 * ROWS).collect();
    let gone = sorted(keys_of(&slow, "/goes", ROWS).await);
    assert_eq!(gone, first, "what was begun is finished, and nothing new");
    let came = sorted(keys_of(&slow, "/comes", ROWS).await);
    assert_eq!(came, second);
    eventually("all of what stays", async || {
        let count = keys(&slow, "/first").len() + keys(&slow, "/second").len();
        (count >= 2 * ROWS).then_some(())
    })
    .await;
    let (old, new) = (keys(&slow, "/first"), keys(&slow, "/second"));
    assert!(
        old.len() < ROWS,
        "later attempts follow what is new: {old:?}, then {new:?}"
    );
    let all = sorted([old, new].concat());
    assert_eq!(all, [first.clone(), second].concat(), "each once");
    // The rows that nobody takes any more are jobs, which wait for their observer to come back.
    let jobs = async || -> i64 {
        db.value("select count(*) from observer.job where observer = 'default/fails'")
            .await
    };
    let letters = async || -> String {
        db.value("select coalesce(json_agg(d), '[]')::text from observer.dead_letter d")
            .await
    };
    eventually_or(
        async || (usize::try_from(jobs().await).unwrap() == ROWS).then_some(()),
        async || format!("{} jobs of what is gone; {}", jobs().await, letters().await),
    )
    .await;
    failing.behave(Behaviour::Ok);
    let back = loaded(&files(&format!("{}{comes}{fails}", stays("/second")))).1;
    send.send_replace(back);
    db.run("update observer.job set scheduled_at = now(), state = 'a' where state = 's'")
        .await;
    assert_eq!(sorted(keys_of(&failing, "/fails", ROWS).await), first);
    stop.cancel();
    running.await.unwrap().unwrap();
    let partly: String = db
        .value("select partially_completed::text from observer.checkpoint where listener = 'default/test'")
        .await;
    assert_eq!(partly, "[]", "all is over");
}
