//! The figures, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use crate::backfill::Backfilled;
use crate::drain::Drained;
use crate::enrich::EnrichFigures;
use crate::figures::median;
use crate::idle::Idle;
use crate::search::SearchFigures;
use crate::sink::Faults;
use crate::steady::Steady;
use crate::writers::Writers;

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) postgres: String,
    pub(crate) cores: usize,
    /// Whether commits waited for the disk, but for writers, who did both.
    pub(crate) fsync: bool,
    pub(crate) drains: Vec<Of<Drained>>,
    pub(crate) steady: Vec<Of<Steady>>,
    pub(crate) idle: Vec<Of<Idle>>,
    pub(crate) writers: Vec<Writers>,
    /// Rows a second that a bare `select` reads.
    pub(crate) read_per_second: Option<f64>,
    /// Of a history.
    pub(crate) search: SearchFigures,
    pub(crate) enrich: EnrichFigures,
    pub(crate) backfills: Vec<Of<Backfilled>>,
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
    pub(crate) fn middle(&self, figure: impl Fn(&T) -> f64) -> f64 {
        let mut figures: Vec<f64> = self.rounds.iter().map(figure).collect();
        median(&mut figures)
    }

    /// How far the furthest round is from the middle one, as a part of that.
    pub(crate) fn spread(&self, figure: impl Fn(&T) -> f64) -> f64 {
        let middle = self.middle(&figure);
        let off = self
            .rounds
            .iter()
            .map(|one| (figure(one) / middle - 1.0).abs());
        off.fold(0.0, f64::max)
    }

    /// The sums of what should not be, as the last cells of a line.
    pub(crate) fn faults(&self, faults: impl Fn(&T) -> Faults) -> String {
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
        let fsync = if self.fsync { "on" } else { "off" };
        let mut out = format!(
            "Postgres {}, fsync {fsync}, {} cores.\n",
            self.postgres, self.cores
        );
        self.drain_table(&mut out);
        self.ratios(&mut out);
        self.steady_table(&mut out);
        if !self.idle.is_empty() {
            out.push_str("\n| idle | MB | of them its own | % of a core | the database's |\n|---|---:|---:|---:|---:|\n");
        }
        for of in &self.idle {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {:.1} | {:.1} | {:.2} | {:.2} |",
                of.system,
                of.middle(|one| one.resident_mib),
                of.middle(|one| one.own_mib),
                of.middle(|one| one.cpu_percent),
                of.middle(|one| one.server_cpu_percent),
            );
        }
        if !self.writers.is_empty() {
            out.push_str(
                "\n| 8 clients write | fsync | transactions/s | with capture | ratio |\n|---|---|---:|---:|---:|\n",
            );
        }
        for one in &self.writers {
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.0} | {:.2} |",
                one.transaction,
                if one.fsync { "on" } else { "off" },
                one.bare,
                one.captured,
                one.ratio
            );
        }
        if let Some(rate) = self.read_per_second {
            let _ = writeln!(out, "\nA bare `select` reads {rate:.0} rows/s.");
        }
        self.search.markdown(&mut out);
        self.enrich.markdown(&mut out);
        self.backfill_table(&mut out);
        out
    }

    fn backfill_table(&self, out: &mut String) {
        if self.backfills.is_empty() {
            return;
        }
        out.push_str(
            "\n| backfill beside updates | rows | rows/s | updates | p50 ms of updates: alone | beside it | p99 ms: alone | beside it | ratio | peak MB | lost | wrong at the end | older after newer |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (of, one) in self
            .backfills
            .iter()
            .flat_map(|of| of.rounds.iter().map(move |one| (of, one)))
        {
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} | {} | {} | {} |",
                of.system,
                one.rows,
                one.per_second,
                one.updates,
                one.p50_ms[0],
                one.p50_ms[1],
                one.p99_ms[0],
                one.p99_ms[1],
                one.p99_ms[1] / one.p99_ms[0],
                one.peak_mib,
                one.lost,
                one.wrong,
                one.older,
            );
        }
    }

    fn drain_table(&self, out: &mut String) {
        if self.drains.is_empty() {
            return;
        }
        out.push_str(
            "\n| backlog | setting | events/s | spread | peak MB | CPU s per 1,000: sender | database | WAL bytes per event: written | worked off | lost | repeated | out of order |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for of in &self.drains {
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {:.2} | {:.0} | {:.3} | {:.3} | {:.0} | {:.0} | {}",
                of.system,
                of.setting,
                of.middle(|one| one.per_second),
                of.spread(|one| one.per_second),
                of.middle(|one| one.peak_mib),
                of.middle(|one| one.cpu_seconds),
                of.middle(|one| one.server_cpu_seconds),
                of.middle(|one| one.wal_bytes),
                of.middle(|one| one.drain_wal_bytes),
                of.faults(|one| one.faults),
            );
        }
    }

    /// Ours beside the limit of sending, beside the fastest of the others, and beside itself in the
    /// base, which comes first.
    fn ratios(&self, out: &mut String) {
        let rate = |of: &Of<Drained>| of.middle(|one| one.per_second);
        let cpu = |of: &Of<Drained>| of.middle(|one| one.cpu_seconds + one.server_cpu_seconds);
        for ours in self.drains.iter().filter(|of| is_ours(&of.system)) {
            let here = || self.drains.iter().filter(|of| of.setting == ours.setting);
            let mut parts = Vec::new();
            if let Some(ceiling) = here().find(|of| of.system == CEILING) {
                parts.push(format!("{:.2} of the ceiling", rate(ours) / rate(ceiling)));
            }
            let others = here().filter(|of| !is_ours(&of.system) && of.system != CEILING);
            if let Some(best) = others.max_by(|a, b| rate(a).total_cmp(&rate(b))) {
                let times = rate(ours) / rate(best);
                parts.push(format!("{times:.1} times {}", best.system));
            }
            let base = self.drains.iter().find(|of| of.system == ours.system);
            if let Some(base) = base.filter(|base| base.setting != ours.setting) {
                let (rate, cpu) = (rate(ours) / rate(base), cpu(ours) / cpu(base));
                let base = &base.setting;
                parts.push(format!(
                    "{rate:.2} of the rate and {cpu:.2} of the CPU time of {base}"
                ));
            }
            if parts.is_empty() {
                continue;
            }
            // Writing to a string cannot fail.
            let (system, setting) = (&ours.system, &ours.setting);
            let _ = write!(out, "\n- {system}, {setting}: {}", parts.join(", "));
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

/// The limit of sending, as it is called.
const CEILING: &str = "ceiling";

fn is_ours(system: &str) -> bool {
    system.starts_with("observers")
}
