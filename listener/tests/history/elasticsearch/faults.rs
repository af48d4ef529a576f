//! A search server that is away, full, busy, slow or of others, under a constant load: deliveries go on at
//! their rate, and afterwards each event has its document.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::PgPool;
use testkit::fault_proxy::{Answer, Fault, FaultProxy, Request};
use testkit::http_sink::{Options, Sink};
use testkit::servers::elasticsearch::SearchServer;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::{INDEX, all_final, count, search, server};
use crate::support::fleet::{LONG_LEASE, SAVE_OFTEN};
use crate::support::listener::{Config, Process, observer, patient};
use crate::support::{TestDb, database, eventually, while_progressing};

/// How many seconds each fault lasts, instead of as few as show something.
const SECONDS: &str = "OBSERVER_TEST_FAULT_SECONDS";

/// Events in a second, unless deliveries are slower; and what names another number of them.
const PACE: u32 = 200;
const PACE_SETTING: &str = "OBSERVER_TEST_FAULT_PACE";

/// Events that are written at once.
const ROWS: u32 = 20;

/// Events that may wait to be delivered. So the load is what is delivered, and no more.
const MAX_AHEAD: u64 = 200;

/// Smallest part of the rate before a fault that deliveries keep. The aim is 0.95; other work on this machine
/// is slower than that. Deliveries that waited for the index would keep nothing.
const LEAST: f64 = 0.7;

/// Writes events as fast as they are delivered.
struct Load {
    stop: Arc<AtomicBool>,
    task: JoinHandle<u64>,
}

impl Load {
    fn start(pool: PgPool, sink: Arc<Sink>, pace: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            // What could not be written in time is not made up for: that would be another load.
            let mut turns = interval(Duration::from_secs(1) * ROWS / pace);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut written = 0;
            while !stopped.load(Ordering::Relaxed) {
                turns.tick().await;
                let most = sink.counts().succeeded + MAX_AHEAD;
                let rows = most.saturating_sub(written).min(u64::from(ROWS));
                if rows == 0 {
                    continue;
                }
                let insert =
                    "insert into orders select 'order-' || n from generate_series($1, $2) n";
                let first = i64::try_from(written).unwrap();
                sqlx::query(insert)
                    .bind(first + 1)
                    .bind(first + i64::try_from(rows).unwrap())
                    .execute(&pool)
                    .await
                    .unwrap();
                written += rows;
            }
            written
        });
        Self { stop, task }
    }

    /// Ends it; returns how many events it wrote.
    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// A listener under load.
struct Scene {
    db: TestDb,
    sink: Arc<Sink>,
    server: SearchServer,
    proxy: FaultProxy,
    process: Process,
    /// Deliveries in a second while nothing is wrong.
    healthy: f64,
    /// How long all faults last, if that is given.
    length: Option<Duration>,
    begun: Instant,
}

impl Scene {
    /// Deliveries in a second, over a while.
    async fn rate(&self, length: Duration) -> f64 {
        let (before, begun) = (self.sink.counts().succeeded, Instant::now());
        tokio::time::sleep(length).await;
        let delivered = self.sink.counts().succeeded - before;
        f64::from(u32::try_from(delivered).unwrap()) / begun.elapsed().as_secs_f64()
    }

    fn failures(&self) -> usize {
        let said = self.process.said();
        said.matches("cannot write documents of the history;")
            .count()
    }

    /// Compares the rate during a fault, which has begun, with that before. `fails` says how often the index
    /// had failed before it, if it must be found out.
    async fn bears(&self, fault: &str, seconds: u64, fails: Option<usize>) {
        let length = self.length.unwrap_or(Duration::from_secs(seconds));
        let rate = self.rate(length).await;
        let ratio = rate / self.healthy;
        println!(
            "{:5.1} s: {fault} for {length:?}: {rate:.0} deliveries a second, {ratio:.2} of {:.0} before",
            self.seconds(),
            self.healthy
        );
        if let Some(before) = fails {
            eventually("the index fails", async || {
                (self.failures() > before).then_some(())
            })
            .await;
        }
        assert!(ratio >= LEAST, "{fault}: {ratio:.2}");
    }

    /// Waits until the events of up to now have documents.
    async fn recovers(&self) {
        let events: i64 = self
            .db
            .value("select count(*) from observer.change_log")
            .await;
        while_progressing("documents of all events until now", async || {
            match count(&self.server, json!({"match_all": {}})).await {
                Some(stored) if stored >= events => Ok(()),
                stored => Err(stored.unwrap_or_default().unsigned_abs()),
            }
        })
        .await;
        println!(
            "{:5.1} s: all {events} events have documents",
            self.seconds()
        );
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    async fn index(&self) -> String {
        let all = self.server.must("GET", &format!("/{INDEX}"), "").await;
        all.as_object().unwrap().keys().next().unwrap().clone()
    }

    async fn killed(&mut self) {
        let before = self.failures();
        self.server.kill().await;
        self.bears("killed", 15, Some(before)).await;
        // It takes much of the machine to start.
        self.server.resume().await;
        self.recovers().await;
    }

    async fn read_only(&self) {
        let before = self.failures();
        let path = format!("/{INDEX}/_settings");
        let settings = |block: &str| format!(r#"{{"index.blocks.write": {block}}}"#);
        self.server.must("PUT", &path, &settings("true")).await;
        self.bears("read-only index", 4, Some(before)).await;
        self.server.must("PUT", &path, &settings("null")).await;
        self.recovers().await;
    }

    /// Has the server itself find its disk too full, and then not any more.
    async fn full_disk(&self) {
        let before = self.failures();
        let disk = |enabled: bool, free: &str| {
            let at = "cluster.routing.allocation.disk";
            json!({"persistent": {
                "cluster.info.update.interval": "10s",
                format!("{at}.threshold_enabled"): enabled,
                format!("{at}.watermark.low"): free,
                format!("{at}.watermark.high"): free,
                format!("{at}.watermark.flood_stage"): free,
            }})
            .to_string()
        };
        let settings = "/_cluster/settings";
        self.server
            .must("PUT", settings, &disk(true, "1000tb"))
            .await;
        self.is_blocked(true).await;
        self.bears("full disk", 4, Some(before)).await;
        self.server.must("PUT", settings, &disk(true, "1b")).await;
        self.is_blocked(false).await;
        self.recovers().await;
    }

    async fn is_blocked(&self, blocked: bool) {
        let path = format!("/{INDEX}/_settings/index.blocks.read_only_allow_delete");
        eventually(&format!("a block of a full disk: {blocked}"), async || {
            let found = self.server.must("GET", &path, "").await;
            (found.to_string().contains("read_only_allow_delete") == blocked).then_some(())
        })
        .await;
    }

    async fn busy(&self) {
        let before = self.failures();
        self.proxy.set(Fault::Answer(Arc::new(|request: &Request| {
            let body = r#"{"error":{"type":"es_rejected_execution_exception","reason":"rejected execution of coordinating operation"},"status":429}"#;
            request.target.starts_with("/_bulk").then(|| Answer {
                status: 429,
                body: body.to_owned(),
            })
        })));
        self.bears("429", 4, Some(before)).await;
        self.proxy.set(Fault::None);
        self.recovers().await;
    }

    /// Somebody adds a field that our keys do not fit.
    async fn other_mapping(&self) {
        let before = self.failures();
        let path = format!("/{}/_mapping", self.index().await);
        let mapping = |lenient: bool| {
            let number = json!({"type": "long", "ignore_malformed": lenient});
            json!({"properties": {
                "key": {"type": "keyword", "ignore_above": 1024, "fields": {"number": number}},
            }})
            .to_string()
        };
        self.server.must("PUT", &path, &mapping(false)).await;
        self.bears("mapping conflict", 4, Some(before)).await;
        self.server.must("PUT", &path, &mapping(true)).await;
        self.recovers().await;
    }

    async fn slow(&self) {
        self.proxy.set(Fault::Slow(Duration::from_secs(5)));
        self.bears("5 s an answer", 12, None).await;
        self.proxy.set(Fault::None);
        self.recovers().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_keep_their_rate_and_no_document_is_missing() {
    let setting = |name| Some(std::env::var(name).ok()?.parse::<u32>().unwrap());
    let length = setting(SECONDS).map(|seconds| Duration::from_secs(seconds.into()));
    let pace = setting(PACE_SETTING).unwrap_or(PACE);
    let db = database().await;
    db.run("create table orders (name text primary key); select observer.track('orders')")
        .await;
    let keep_nothing = Options {
        keep: false,
        ..Options::default()
    };
    let sink = Arc::new(Sink::start_with(keep_nothing).await.unwrap());
    let server = server().await;
    let proxy = FaultProxy::before(server.port).await;
    let spec = format!("{LONG_LEASE}{SAVE_OFTEN}{}", search(&proxy.url(), ""));
    let observers = patient(&observer("all", "public.orders", &sink.url("/hook"), ""));
    let config = Config::new(&db.url, &spec, &observers);
    let process = Process::run(&config);
    let load = Load::start(db.pool.clone(), Arc::clone(&sink), pace);
    sink.arrived(500).await;
    let mut scene = Scene {
        db,
        sink,
        server,
        proxy,
        process,
        healthy: 0.0,
        length,
        begun: Instant::now(),
    };
    scene.recovers().await;
    scene.healthy = scene.rate(length.unwrap_or(Duration::from_secs(5))).await;
    scene.read_only().await;
    scene.busy().await;
    scene.other_mapping().await;
    scene.full_disk().await;
    scene.slow().await;
    scene.killed().await;
    let again = scene.rate(Duration::from_secs(3)).await;
    let written = load.stop().await;
    let documents = all_final(&scene.db, &scene.server).await;
    println!(
        "{:5.1} s: {documents} events and documents; at the end {again:.0} deliveries a second",
        scene.seconds()
    );
    assert_eq!(u64::try_from(documents).unwrap(), written);
    let said = scene.process.stop().await;
    assert!(!said.contains("rejects the document"), "{said}");
}
