//! What one dead receiver costs nine others, and what traces cost, printed and not judged: `make figures`. All else
//! is measured by `make speed`.

#![allow(clippy::cast_precision_loss, reason = "figures are read by people")]

use std::time::Instant;

use testkit::http_sink::{Behaviour, Options, Sink};

use crate::support::collector::Collector;
use crate::support::listener::{Config, Process, observer};
use crate::support::probe::{free_address, metric};
use crate::support::{TestDb, database};

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
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024.0
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
        nine.arrived(9 * ROWS).await;
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

/// User and system time of a process so far, in seconds.
fn cpu(process: &Process) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.map(|one| one.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// The rate and the CPU time of a backlog without traces, with a tenth of them, and with all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn traces() {
    const ROWS: u64 = 40_000;
    let mut found = <[Vec<(f64, f64)>; 3]>::default();
    for round in 0..9 {
        let way = round % 3;
        let db = database().await;
        fill(&db, ROWS).await;
        let sink = counting_sink(Behaviour::Ok).await;
        let collector = Collector::start().await;
        let mut variables = Vec::new();
        if way > 0 {
            variables = collector.http();
            variables.push(("OTEL_METRICS_EXPORTER", "none"));
            variables.push(("OTEL_LOGS_EXPORTER", "none"));
            variables.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"));
            variables.push(("OTEL_TRACES_SAMPLER_ARG", ["0", "0.1", "1"][way]));
        }
        let observers = observer("o", "public.item", &sink.url("/"), "");
        let config = Config::new(&db.url, "", &observers);
        let listen = free_address();
        let mut process = Process::run_with(&config, &listen, &variables);
        process.says("running").await;
        let (begun, before) = (Instant::now(), cpu(&process));
        sink.arrived(ROWS).await;
        let rate = ROWS as f64 / begun.elapsed().as_secs_f64();
        let per_1000 = (cpu(&process) - before) / ROWS as f64 * 1000.0;
        let dropped = metric(&listen, "observer_telemetry_spans_dropped_total").await;
        let peak = peak(&process);
        process.stop().await;
        println!(
            "traces {}: {rate:>8.0} deliveries/s, {per_1000:.4} s of CPU per 1,000, peak {peak:.1} MiB, {} spans taken, {:?} \
             dropped",
            ["off", "0.1", "1.0"][way],
            collector.spans().len(),
            dropped
        );
        found[way].push((rate, per_1000));
    }
    let medians = found.map(|mut all| {
        let mut by = |part: fn(&(f64, f64)) -> f64| {
            all.sort_unstable_by(|a, b| part(a).total_cmp(&part(b)));
            part(&all[all.len() / 2])
        };
        (by(|one| one.0), by(|one| one.1))
    });
    let [off, tenth, all] = medians;
    println!(
        "ratio of the medians to off: rate {:.2} with 0.1, {:.2} with 1.0; CPU {:.2} and {:.2}",
        tenth.0 / off.0,
        all.0 / off.0,
        tenth.1 / off.1,
        all.1 / off.1
    );
}
