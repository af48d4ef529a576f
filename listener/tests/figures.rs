//! What one dead receiver costs nine others, printed and not judged: `make figures`. All else is
//! measured by `make speed`.

#![allow(clippy::cast_precision_loss, reason = "figures are read by people")]

use std::time::Instant;

use testkit::http_sink::{Behaviour, Options, Sink};

use crate::support::listener::{Config, Process, observer};
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
