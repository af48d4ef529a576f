//! The figures, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::measure::{Drained, Idle, Steady, median};
use crate::sink::Faults;
use crate::writers::Writers;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) postgres: String,
    pub(crate) cores: usize,
    pub(crate) drains: Vec<Of<Drained>>,
    pub(crate) steady: Vec<Of<Steady>>,
    pub(crate) idle: Vec<Of<Idle>>,
    pub(crate) writers: Vec<Writers>,
    /// Rows a second that a bare `select` reads.
    pub(crate) read_per_second: Option<f64>,
}

/// All rounds of a system in one setting.
#[derive(Debug, Serialize)]
pub(crate) struct Of<T> {
    pub(crate) system: String,
    /// What else was so.
    pub(crate) setting: String,
    pub(crate) rounds: Vec<T>,
}

impl<T> Of<T> {
    fn middle(&self, figure: impl Fn(&T) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.rounds.iter().map(figure).collect();
        median(&mut figures)
    }

    /// The sums of what should not be, as the last cells of a line.
    fn faults(&self, faults: impl Fn(&T) -> Faults) -> String {
        let sum = |count: fn(&Faults) -> u64| -> u64 {
            self.rounds.iter().map(|one| count(&faults(one))).sum()
        };
        let (lost, repeated) = (sum(|f| f.lost), sum(|f| f.repeated));
        format!("{lost} | {repeated} | {} |", sum(|f| f.out_of_order))
    }
}

impl Report {
    /// As tables in Markdown; figures are medians of the rounds, faults are sums.
    pub(crate) fn markdown(&self) -> String {
        let mut out = format!("Postgres {}, {} cores.\n", self.postgres, self.cores);
        self.drain_table(&mut out);
        self.ratios(&mut out);
        self.steady_table(&mut out);
        if !self.idle.is_empty() {
            out.push_str("\n| idle | MB | % of a core | the database's |\n|---|---:|---:|---:|\n");
        }
        for of in &self.idle {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {:.1} | {:.2} | {:.2} |",
                of.system,
                of.middle(|one| one.resident_mib),
                of.middle(|one| one.cpu_percent),
                of.middle(|one| one.server_cpu_percent),
            );
        }
        if !self.writers.is_empty() {
            out.push_str(
                "\n| 8 clients write | transactions/s | with capture | ratio |\n|---|---:|---:|---:|\n",
            );
        }
        for one in &self.writers {
            let _ = writeln!(
                out,
                "| {} | {:.0} | {:.0} | {:.2} |",
                one.transaction, one.bare, one.captured, one.ratio
            );
        }
        if let Some(rate) = self.read_per_second {
            let _ = writeln!(out, "\nA bare `select` reads {rate:.0} rows/s.");
        }
        out
    }

    fn drain_table(&self, out: &mut String) {
        if self.drains.is_empty() {
            return;
        }
        out.push_str(
            "\n| backlog | setting | events/s | peak MB | CPU s per 1,000: sender | database | WAL bytes per event: written | worked off | lost | repeated | out of order |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for of in &self.drains {
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} | {:.3} | {:.3} | {:.0} | {:.0} | {}",
                of.system,
                of.setting,
                of.middle(|one| one.per_second),
                of.middle(|one| one.peak_mib),
                of.middle(|one| one.cpu_seconds),
                of.middle(|one| one.server_cpu_seconds),
                of.middle(|one| one.wal_bytes),
                of.middle(|one| one.drain_wal_bytes),
                of.faults(|one| one.faults),
            );
        }
    }

    /// Ours beside the limit of sending and beside the fastest of the others, for each setting.
    fn ratios(&self, out: &mut String) {
        let mut settings: Vec<&str> = Vec::new();
        for of in &self.drains {
            if !settings.contains(&of.setting.as_str()) {
                settings.push(&of.setting);
            }
        }
        for setting in settings {
            let here = || self.drains.iter().filter(|of| of.setting == setting);
            let rate = |of: &Of<Drained>| of.middle(|one| one.per_second);
            let ceiling = here().find(|of| of.system == "ceiling").map(rate);
            let others = here().filter(|of| !is_ours(&of.system) && of.system != "ceiling");
            let best = others
                .map(|of| (of.system.as_str(), rate(of)))
                .max_by(|a, b| a.1.total_cmp(&b.1));
            for ours in here().filter(|of| is_ours(&of.system)) {
                let _ = write!(out, "\n- {} of {setting}:", ours.system);
                if let Some(ceiling) = ceiling {
                    let _ = write!(out, " {:.2} of the ceiling;", rate(ours) / ceiling);
                }
                if let Some((name, best)) = best {
                    let _ = write!(out, " {:.1} times {name};", rate(ours) / best);
                }
            }
        }
        out.push('\n');
    }

    fn steady_table(&self, out: &mut String) {
        if self.steady.is_empty() {
            return;
        }
        out.push_str(
            "\n| steady rate | setting | written/s | p50 ms | p99 ms | p99.9 ms | peak MB | CPU s per 1,000: sender | database | lost | repeated | out of order |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for of in &self.steady {
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} | {:.3} | {:.3} | {}",
                of.system,
                of.setting,
                of.middle(|one| one.written_per_second),
                of.middle(|one| one.p50_ms),
                of.middle(|one| one.p99_ms),
                of.middle(|one| one.p999_ms),
                of.middle(|one| one.peak_mib),
                of.middle(|one| one.cpu_seconds),
                of.middle(|one| one.server_cpu_seconds),
                of.faults(|one| one.faults),
            );
        }
    }
}

fn is_ours(system: &str) -> bool {
    system.starts_with("observers")
}
