//! Faults as whoever is on call sees them: a real Prometheus with the chart's alerts reads real processes, a
//! fault is made, and its alert fires, a panel shows it, and status and log tell of it. Then the fault ends,
//! and so does the alert. What is expected stands in `docs/how-to/faults.md` alone.

mod database;
mod fleet;
mod receivers;
mod rules;
mod sources;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;
use testkit::http_sink::{Behaviour, Sink};
use testkit::servers::prometheus::Prometheus;
use tokio_util::task::AbortOnDropHandle;

use crate::support::listener::{Config, Process};
use crate::support::probe::{ask_prometheus, free_address, get};
use crate::support::rows::{all_told, change_rows, make_rows, rows_to};
use crate::support::{TestDb, database, eventually, while_progressing_or};

/// From one change of all rows to the next, while there is a load.
const LOAD_INTERVAL: Duration = Duration::from_millis(250);

/// What the docs say of a fault.
#[derive(Debug)]
struct Expected {
    alert: String,
    panel: String,
    /// Texts of `/status`.
    status: Vec<String>,
    /// Texts of the log.
    log: Vec<String>,
}

/// Texts in backquotes.
fn quoted(cell: &str) -> Vec<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The rows of the table of faults, by their first cells.
fn table() -> Vec<(String, Vec<String>)> {
    let page = rules::file("docs/how-to/faults.md");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows = rows.skip(1).map(|line| {
        let cells = line.trim_matches('|').split(" | ");
        let cells: Vec<String> = cells.map(|cell| cell.trim().to_owned()).collect();
        assert_eq!(cells.len(), 6, "{line}");
        (cells[0].clone(), cells)
    });
    rows.collect()
}

/// What the docs say of a fault. What they say to do is checked to stand in the runbook.
fn expected(fault: &str) -> Expected {
    let mut rows = table().into_iter();
    let (_, cells) = rows
        .find(|(name, _)| name == fault)
        .unwrap_or_else(|| panic!("docs/how-to/faults.md has no row {fault:?}"));
    let alert = quoted(&cells[1]).remove(0);
    let runbook = rules::file("docs/how-to/runbook.md");
    let section = runbook.split(&format!("\n## {alert}\n")).nth(1);
    let section = section.and_then(|rest| rest.split("\n## ").next());
    let section = section.unwrap_or_else(|| panic!("the runbook has no section {alert}"));
    let todo = &cells[5];
    let link = format!("(runbook.md#{})", alert.to_lowercase());
    assert!(todo.ends_with(&link), "{todo} should lead to {link}");
    let words = todo.trim_start_matches('[').split(']').next().unwrap();
    assert!(
        section.contains(words),
        "the section {alert} should say {words:?}"
    );
    Expected {
        panel: cells[2].clone(),
        status: quoted(&cells[3]),
        log: quoted(&cells[4]),
        alert,
    }
}

/// Alerts that are pending or fire: name, state, and since when.
type Alerts = BTreeSet<[String; 3]>;

fn fires(alerts: &Alerts, alert: &str) -> bool {
    let mut alerts = alerts.iter();
    alerts.any(|[name, state, _]| name == alert && state == "firing")
}

/// A Prometheus that reads the processes of a test.
struct Watch {
    prometheus: Prometheus,
    /// Where the processes are to listen.
    addresses: Vec<String>,
    /// How many times faster the clock of its rules goes.
    faster: u32,
}

impl Watch {
    /// Starts it, for so many processes.
    async fn start(processes: usize) -> Self {
        Self::start_at(processes, rules::FASTER).await
    }

    /// Starts it with rules by a clock that goes so many times faster.
    async fn start_at(processes: usize, faster: u32) -> Self {
        let addresses: Vec<String> = (0..processes).map(|_| free_address()).collect();
        let labels = [
            ("namespace", "default"),
            ("app_kubernetes_io_name", "observer-listener"),
            ("app_kubernetes_io_instance", "test"),
        ];
        Self {
            prometheus: Prometheus::start(&addresses, &labels, &rules::alerts(faster)).await,
            addresses,
            faster,
        }
    }

    /// Runs a process that listens where Prometheus expects it.
    fn run(&self, n: usize, config: &Config) -> Process {
        let args = ["run", "--listen", &self.addresses[n], "-f"];
        Process::start(&args, &config.path())
    }

    /// Asks the API of Prometheus.
    async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        ask_prometheus(&self.prometheus.address, path, parameters).await
    }

    /// The values of a query.
    async fn values(&self, query: &str) -> Vec<f64> {
        let Some(data) = self.ask("query", &[("query", query)]).await else {
            return Vec::new();
        };
        let result = data["result"].as_array().unwrap().iter();
        result
            .filter_map(|one| one["value"][1].as_str()?.parse().ok())
            .collect()
    }

    /// The alerts that are pending or fire.
    async fn alerts(&self) -> Alerts {
        let Some(data) = self.ask("alerts", &[]).await else {
            return Alerts::new();
        };
        let alerts = data["alerts"].as_array().unwrap().iter();
        let told = alerts.map(|alert| {
            let name = &alert["labels"]["alertname"];
            [name, &alert["state"], &alert["activeAt"]]
                .map(|text| text.as_str().unwrap().to_owned())
        });
        told.collect()
    }

    /// What it reads and finds, for a test that waits in vain.
    async fn found(&self) -> String {
        let (up, alerts) = (self.values("up").await, self.alerts().await);
        let said = self.prometheus.said();
        format!("processes are up: {up:?}, alerts: {alerts:?}, it says:\n{said}")
    }

    /// Waits until Prometheus has read all processes.
    async fn reads_all(&self) {
        let look = async || {
            let up = self.values("up").await;
            let read = up.iter().filter(|up| **up > 0.0).count();
            if read == self.addresses.len() {
                Ok(())
            } else {
                Err(read)
            }
        };
        while_progressing_or(look, async || {
            format!("Prometheus reads all processes; {}", self.found().await)
        })
        .await;
    }

    /// Waits until the alert of a fault fires, and checks what else tells of the fault. `process` is one of
    /// those that are concerned, if any runs.
    async fn tells(&self, fault: &str, process: Option<&mut Process>) -> Firing<'_> {
        let expected = expected(fault);
        let alert = expected.alert.clone();
        // That an alert is pending, this one or another, is progress.
        let look = async || {
            let alerts = self.alerts().await;
            if fires(&alerts, &alert) {
                Ok(())
            } else {
                Err(alerts)
            }
        };
        while_progressing_or(look, async || {
            format!("{alert} fires; {}", self.found().await)
        })
        .await;
        let queries = rules::panel(&expected.panel, self.faster);
        eventually(
            &format!("panel {} shows {fault}", expected.panel),
            async || {
                for query in &queries {
                    if self.values(query).await.iter().any(|value| *value > 0.0) {
                        return Some(());
                    }
                }
                None
            },
        )
        .await;
        for text in &expected.status {
            let told = async || {
                for address in &self.addresses {
                    let answer = get(address, "/status").await;
                    if answer.is_some_and(|(_, status)| status.contains(&format!("\"{text}\""))) {
                        return Some(());
                    }
                }
                None
            };
            eventually(&format!("/status tells of {text}"), told).await;
        }
        if let Some(process) = process {
            for text in &expected.log {
                process.says(text).await;
            }
        }
        Firing { watch: self, alert }
    }
}

/// An alert that fires.
struct Firing<'a> {
    watch: &'a Watch,
    alert: String,
}

impl Firing<'_> {
    /// Waits until it does not any more.
    async fn ends(self) {
        let Self { watch, alert } = self;
        let look = async || {
            let alerts = watch.alerts().await;
            if fires(&alerts, &alert) {
                Err(alerts)
            } else {
                Ok(())
            }
        };
        while_progressing_or(look, async || {
            format!("{alert} ends; {}", watch.found().await)
        })
        .await;
    }
}

/// A listener under watch that has delivered a first change of its rows.
struct Scene {
    watch: Watch,
    db: TestDb,
    sink: Sink,
    process: Process,
    config: Config,
}

impl Scene {
    /// One with this spec, whose observer is changed in its text.
    async fn start(spec: &str, change: impl Fn(String) -> String) -> Self {
        let (watch, db) = (Watch::start(1).await, database().await);
        make_rows(&db.pool).await;
        let sink = Sink::start(Behaviour::Ok).await.unwrap();
        let config = Config::new(&db.url, spec, &change(rows_to(&sink, "/hook")));
        let process = watch.run(0, &config);
        change_rows(&db.pool, 1).await;
        all_told(&sink, 1).await;
        watch.reads_all().await;
        Self {
            watch,
            db,
            sink,
            process,
            config,
        }
    }
}

/// Changes all rows again and again until it is dropped.
fn load(pool: &PgPool) -> AbortOnDropHandle<()> {
    let pool = pool.clone();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut turns = tokio::time::interval(LOAD_INTERVAL);
        loop {
            turns.tick().await;
            // The database may be what is away.
            let _changed = sqlx::query("update kv set v = v + 1").execute(&pool).await;
        }
    }))
}

#[test]
fn every_fault_of_the_docs_is_made() {
    let sources = [
        include_str!("database.rs"),
        include_str!("fleet.rs"),
        include_str!("receivers.rs"),
        include_str!("sources.rs"),
    ];
    for (fault, _) in table() {
        let made = format!(".tells(\"{fault}\"");
        let made = sources
            .iter()
            .filter(|source| source.contains(&made))
            .count();
        assert_eq!(made, 1, "{fault}");
        expected(&fault);
    }
}
