//! Figures, printed and not judged: `make figures`. Speed is for people to compare within one run.

#![allow(clippy::cast_precision_loss, reason = "figures are read by people")]

use std::time::{Duration, Instant};

use observer_listener::demo::sink::{Behaviour, Options, Sink};
use sqlx::{Connection, Executor, PgConnection};

use crate::support::listener::{Config, Process, observer};
use crate::support::{TestDb, database};

const LONG: Duration = Duration::from_mins(10);

async fn counting_sink(behaviour: Behaviour) -> Sink {
    let options = Options {
        behaviour,
        keep: false,
        ..Options::default()
    };
    Sink::start_with(options).await.unwrap()
}

async fn fill(db: &TestDb, rows: u64) {
    db.run("create table item (id int primary key, n int not null, note text not null)")
        .await;
    db.run("select observer.track('item')").await;
    for from in (0..rows).step_by(100_000) {
        let to = rows.min(from + 100_000);
        db.run(&format!(
            "insert into item select g, g % 1000, repeat('x', 100) from generate_series({from}, {to} - 1) g"
        ))
        .await;
    }
}

/// Peak resident memory in MiB.
fn peak(process: &Process) -> f64 {
    memory(process, "VmHWM:")
}

fn memory(process: &Process, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn backlog() {
    for rows in [1_000, 100_000, 1_000_000] {
        for open in [false, true] {
            let db = database().await;
            let mut old = PgConnection::connect(&db.url).await.unwrap();
            if open {
                old.execute("begin; select pg_current_xact_id()")
                    .await
                    .unwrap();
            }
            fill(&db, rows).await;
            let sink = counting_sink(Behaviour::Ok).await;
            let config = Config::new(
                &db.url,
                "",
                &observer(
                    "some",
                    "public.item",
                    &sink.url("/"),
                    "  when: new.n == 999\n",
                ),
            );
            let mut process = Process::run(&config);
            process.says("running").await;
            let begun = Instant::now();
            assert!(sink.wait_for(rows / 1000, LONG).await);
            let took = begun.elapsed();
            println!(
                "backlog {rows:>8}, transaction open since before: {open:<5} {:>8.0} events/s, peak {:.1} MiB",
                rows as f64 / took.as_secs_f64(),
                peak(&process)
            );
            process.stop().await;
            old.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn receivers() {
    for (name, behaviour, rows) in [
        ("instant", Behaviour::Ok, 50_000),
        ("10 ms", Behaviour::Delay(Duration::from_millis(10)), 20_000),
        ("50 ms", Behaviour::Delay(Duration::from_millis(50)), 10_000),
    ] {
        let db = database().await;
        fill(&db, rows).await;
        let sink = counting_sink(behaviour).await;
        let config = Config::new(
            &db.url,
            "",
            &observer("all", "public.item", &sink.url("/"), ""),
        );
        let mut process = Process::run(&config);
        process.says("running").await;
        let begun = Instant::now();
        assert!(sink.wait_for(rows, LONG).await);
        let took = begun.elapsed();
        println!(
            "receiver {name:>8}, 64 in flight: {:>8.0} events/s, peak {:.1} MiB",
            rows as f64 / took.as_secs_f64(),
            peak(&process)
        );
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn idle() {
    let db = database().await;
    fill(&db, 10).await;
    let sink = counting_sink(Behaviour::Ok).await;
    let config = Config::new(
        &db.url,
        "",
        &observer("all", "public.item", &sink.url("/"), ""),
    );
    let process = Process::run(&config);
    assert!(sink.wait_for(10, LONG).await);
    let statements =
        "select sum(xact_commit)::bigint from pg_stat_database where datname = current_database()";
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .filter_map(|f| f.parse().ok())
            .collect();
        fields[10] + fields[11]
    };
    let (before, cpu, begun) = (db.value::<i64>(statements).await, ticks(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let took = begun.elapsed().as_secs_f64();
    let queries = db.value::<i64>(statements).await - before;
    println!(
        "idle: {:.1} MiB resident, {:.1} queries/s, {:.2} % of a core",
        memory(&process, "VmRSS:"),
        queries as f64 / took,
        (ticks() - cpu) as f64 / took
    );
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn latency() {
    let db = database().await;
    fill(&db, 1).await;
    let sink = Sink::start(Behaviour::Ok).await.unwrap();
    let config = Config::new(
        &db.url,
        "",
        &observer("all", "public.item", &sink.url("/"), ""),
    );
    let process = Process::run(&config);
    assert!(sink.wait_for(1, LONG).await);
    let mut writer = PgConnection::connect(&db.url).await.unwrap();
    for (name, pause, count) in [("1/s", 1000, 20), ("10/s", 100, 100), ("200/s", 5, 1000)] {
        let mut times = Vec::new();
        for _ in 0..count {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let seen = sink.counts().requests;
            writer
                .execute("update item set n = n + 1 where id = 0")
                .await
                .unwrap();
            let committed = Instant::now();
            assert!(sink.wait_for(seen + 1, LONG).await);
            times.push(committed.elapsed());
        }
        times.sort_unstable();
        println!(
            "commit to receipt at {name:>5}: p50 {:.1} ms, p99 {:.1} ms",
            times[count / 2].as_secs_f64() * 1e3,
            times[count * 99 / 100].as_secs_f64() * 1e3
        );
    }
    process.stop().await;
}

/// The rate at nine receivers of a backlog, while a tenth is well and while it hangs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn dead_receiver() {
    const ROWS: u64 = 20_000;
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..6 {
        let hangs = round % 2 == 1;
        let db = database().await;
        fill(&db, ROWS).await;
        let nine = counting_sink(Behaviour::Ok).await;
        let tenth = counting_sink(if hangs {
            Behaviour::Hang
        } else {
            Behaviour::Ok
        })
        .await;
        let observers: String = (0..10)
            .map(|n| {
                let sink = if n == 0 { &tenth } else { &nine };
                observer(
                    &format!("o{n}"),
                    "public.item",
                    &sink.url(&format!("/{n}")),
                    "",
                )
            })
            .collect();
        let config = Config::new(&db.url, "", &observers);
        let mut process = Process::run(&config);
        process.says("running").await;
        let begun = Instant::now();
        assert!(nine.wait_for(9 * ROWS, LONG).await);
        let rate = (9 * ROWS) as f64 / begun.elapsed().as_secs_f64();
        println!(
            "the tenth hangs: {hangs:<5} {rate:>8.0} deliveries/s at nine others, {} requests at it, peak {:.1} MiB",
            tenth.counts().requests,
            peak(&process)
        );
        rates[usize::from(hangs)].push(rate);
        // What waits for the one that hangs is of no more use.
        process.kill().await;
    }
    let median = |rates: &mut Vec<f64>| {
        rates.sort_unstable_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let [well, beside] = rates.each_mut().map(median);
    println!("ratio of the medians: {:.2}", beside / well);
}
