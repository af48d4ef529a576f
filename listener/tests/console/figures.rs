//! What pages cost with a history of a million events and 100,000 dead letters, what redriving all of these takes,
//! and what ten people who watch the live page cost deliveries: printed and not judged.

#![allow(clippy::cast_precision_loss, reason = "figures are read by people")]

use std::time::{Duration, Instant};

use testkit::http_sink::{Behaviour, Sink};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Visitor;
use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, ready};
use crate::support::told::letters;
use crate::support::{TestDb, database, eventually};

const TOKEN: &str = "a-token-of-many-letters";

struct Place {
    db: TestDb,
    sink: Sink,
    process: Process,
    address: String,
}

impl Place {
    async fn open(behaviour: Behaviour) -> Self {
        let db = database().await;
        db.run(
            "create table orders (id int primary key, note text); select observer.track('orders')",
        )
        .await;
        let sink = Sink::start(behaviour).await.unwrap();
        let observers = observer("orders", "public.orders", &sink.url("/"), "");
        let spec = format!(
            "  search: {{postgres: {{}}}}\n  console: {{}}\n  api: {{tokens: [{{name: a, token: {{value: {TOKEN}}}, role: Operate}}]}}\n"
        );
        let config = Config::new(&db.url, &spec, &observers);
        let (health, address) = (free_address(), free_address());
        let args = ["run", "--listen", &health, "--api-listen", &address, "-f"];
        let process = Process::start(&args, &config.path());
        ready(&health, 200).await;
        Self {
            db,
            sink,
            process,
            address,
        }
    }

    /// Resident memory in MB, now and at most.
    fn memory(&self) -> (u64, u64) {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace()
                .nth(1)
                .unwrap()
                .parse::<u64>()
                .unwrap()
                / 1024
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    async fn count(&self, table: &str) -> i64 {
        let count = format!("select count(*) from observer.{table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(count))
            .fetch_one(&self.db.pool)
            .await
            .unwrap()
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, and takes minutes"]
async fn figures_of_pages_with_a_million_events() {
    let place = Place::open(Behaviour::Status(400)).await;
    place
        .db
        .run("insert into orders select g, 'order ' || g from generate_series(1, 10) g")
        .await;
    letters(&place.db, 10).await;
    eventually("the history has them", async || {
        let told =
            "select count(*) from observer.search_document where 'deadLetter' = any(outcomes)";
        let told: i64 = sqlx::query_scalar(told)
            .fetch_one(&place.db.pool)
            .await
            .unwrap();
        (told == 10).then_some(())
    })
    .await;
    make_many(&place).await;
    let visitor = Visitor::with_token(&place.address, TOKEN).await;
    look(&place, &visitor).await;
    redrive_all(&place, &visitor).await;
}

/// Makes a million events and 100,000 dead letters of ten.
async fn make_many(place: &Place) {
    let began = Instant::now();
    place
        .db
        .run(
            "insert into observer.search_document
                 (listener, id, log_id, occurred_at, entity, operation, key, tenant, observers, outcomes, unfinished, terms, body)
             select listener, split_part(id, '-', 1) || '-' || (log_id + g * 100) || '-' || split_part(id, '-', 3),
                 log_id + g * 100, occurred_at - g * interval '20 seconds', entity, operation, key, tenant, observers,
                 case when g % 3 = 0 then array['delivered'] else outcomes end, unfinished, terms, body
             from observer.search_document, generate_series(1, 100000) g;
             insert into observer.dead_letter
                 (listener, event_id, log_id, observer, action, entity, operation, key, tenant, hash, occurred_at, old, new,
                  attempts, error_kind, error, status, history)
             select listener, split_part(event_id, '-', 1) || '-' || (log_id + g * 100) || '-' || split_part(event_id, '-', 3),
                 log_id + g * 100, observer, action, entity, operation, key, tenant, hash, occurred_at, old, new,
                 attempts, error_kind, error, status, history
             from observer.dead_letter, generate_series(1, 10000) g;
             analyze observer.search_document; analyze observer.dead_letter",
        )
        .await;
    println!(
        "{} events and {} dead letters made in {:.0?}",
        place.count("search_document").await,
        place.count("dead_letter").await,
        began.elapsed()
    );
}

/// Prints what pages cost beside their queries.
async fn look(place: &Place, visitor: &Visitor) {
    let (client, before) = (reqwest::Client::new(), place.memory());
    for (page, query) in [
        ("/console", "/status"),
        ("/console/observers", "/observers"),
        (
            "/console/events",
            "/search?facets=true&highlight=true&limit=50",
        ),
        (
            "/console/events?q=order&outcome=deadLetter",
            "/search?q=order&outcome=deadLetter&facets=true&highlight=true&limit=50",
        ),
        (
            "/console/dead-letters",
            "/dead-letters?limit=100&count=true",
        ),
        (
            "/console/acts/redrive-dead-letters?all=true",
            "/dead-letters?limit=1&count=true",
        ),
        ("/console/jobs", "/jobs?limit=100"),
        ("/console/audit", "/audit?limit=50"),
    ] {
        let (mut pages, mut queries) = (Vec::new(), Vec::new());
        for _ in 0..11 {
            let began = Instant::now();
            let shown = visitor.get(page).await;
            pages.push(began.elapsed());
            assert_eq!(shown.status, 200, "{page}: {}", shown.body);
            let began = Instant::now();
            let url = format!("http://{}/api/observers{query}", place.address);
            let answer = client.get(url).bearer_auth(TOKEN).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{query}");
            answer.bytes().await.unwrap();
            queries.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (page_ms, query_ms) = (median(pages), median(queries));
        println!(
            "{page}: {page_ms:.0} ms at the median, {:.2} times the query alone ({query_ms:.0} ms)",
            page_ms / query_ms
        );
    }
    println!("memory {before:?} MB before, {:?} MB after", place.memory());
}

/// Prints what it takes to deliver all dead letters again.
async fn redrive_all(place: &Place, visitor: &Visitor) {
    place.sink.behave(Behaviour::Ok);
    let (before, began) = (place.memory(), Instant::now());
    let act = "/console/acts/redrive-dead-letters";
    let done = visitor.post(act, &[("fields", "all=true")]).await;
    println!(
        "redrive of all: {} {:?} after {:.1?}",
        done.status,
        done.location,
        began.elapsed()
    );
    while place.count("dead_letter").await > 0 {
        assert!(
            began.elapsed() < Duration::from_mins(20),
            "{} left",
            place.count("dead_letter").await
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!(
        "all delivered after {:.0?}: {} requests; memory {before:?} MB before, {:?} MB after",
        began.elapsed(),
        place.sink.counts().succeeded,
        place.memory()
    );
}

/// Deliveries each second while rows are written as fast as they can be.
async fn rate(place: &Place, from: u32, rows: u32) -> f64 {
    let before = place.sink.counts().succeeded;
    let began = Instant::now();
    for at in (from..from + rows).step_by(1000) {
        place
            .db
            .run(&format!(
                "insert into orders select g, 'x' from generate_series({at}, {at} + 999) g"
            ))
            .await;
    }
    place.sink.arrived(before + u64::from(rows)).await;
    f64::from(rows) / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, and takes minutes"]
async fn figures_of_ten_who_watch() {
    let place = Place::open(Behaviour::Ok).await;
    let rows = 20_000;
    rate(&place, 1, rows).await;
    let mut ratios = Vec::new();
    for round in 0..3_u32 {
        let first = 1_000_000 * (round + 1);
        let alone = rate(&place, first, rows).await;
        let (stop, mut watchers) = (CancellationToken::new(), JoinSet::new());
        for _ in 0..10 {
            let visitor = Visitor::with_token(&place.address, TOKEN).await;
            let stop = stop.clone();
            watchers.spawn(async move {
                let mut path = "/console/live".to_owned();
                let mut looks = 0_u32;
                while !stop.is_cancelled() {
                    let page = visitor.get(&path).await;
                    let next = page
                        .body
                        .split("hx-get=\"")
                        .nth(1)
                        .and_then(|rest| rest.split('"').next());
                    path = match (page.location, next) {
                        (Some(location), _) => location,
                        (None, Some(next)) => next.replace("&amp;", "&"),
                        (None, None) => "/console/live".to_owned(),
                    };
                    looks += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                looks
            });
        }
        let watched = rate(&place, first + rows, rows).await;
        stop.cancel();
        let looks: u32 = watchers.join_all().await.iter().sum();
        println!(
            "round {round}: {alone:.0}/s alone, {watched:.0}/s with ten who looked {looks} times: {:.3}",
            watched / alone
        );
        ratios.push(watched / alone);
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "deliveries keep {:.3} of their rate at the median",
        ratios[1]
    );
}
