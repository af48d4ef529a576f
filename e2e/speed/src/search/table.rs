//! The figures of a history, as tables.

use std::fmt::Write as _;

use super::SearchFigures;
use crate::figures::real;
use crate::report::Of;
use crate::search::cost::Cost;

impl SearchFigures {
    /// Adds tables in Markdown.
    pub(crate) fn markdown(&self, out: &mut String) {
        self.cost_table(out);
        self.findable_table(out);
        self.query_table(out);
    }

    fn findable_table(&self, out: &mut String) {
        if self.findable.is_empty() {
            return;
        }
        out.push_str(
            "\n| found as delivered in | events/s | events | p50 ms | p99 ms | max ms | missing | a search takes ms | within ms: how many |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---|\n",
        );
        for one in &self.findable {
            let bars = one.histogram.iter().filter(|(_, count)| *count > 0);
            let bars: Vec<String> = bars
                .map(|(bound, count)| match *bound {
                    u32::MAX => format!("more: {count}"),
                    bound => format!("{bound}: {count}"),
                })
                .collect();
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {:.0} | {} | {:.0} | {:.0} | {:.0} | {} | {:.0} | {} |",
                one.index,
                one.rate,
                one.events,
                one.p50_ms,
                one.p99_ms,
                one.max_ms,
                one.missing,
                one.search_p50_ms,
                bars.join(", ")
            );
        }
    }

    fn query_table(&self, out: &mut String) {
        if self.queries.is_empty() {
            return;
        }
        out.push_str(
            "\n| documents in | documents | loaded in s | documents/s | MB |\n|---|---:|---:|---:|---:|\n",
        );
        for one in &self.queries {
            let rate = real(one.documents) / one.seconds;
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} | {rate:.0} | {:.0} |",
                one.index, one.documents, one.seconds, one.megabytes
            );
        }
        out.push_str(
            "\n| a page and facets of | in | matched | searches | p50 ms | p99 ms | max ms |\n\
             |---|---|---:|---:|---:|---:|---:|\n",
        );
        let first = self.queries.first().map_or(0, |one| one.queries.len());
        for number in 0..first {
            for one in &self.queries {
                let query = &one.queries[number];
                let _ = writeln!(
                    out,
                    "| {} | {} | {} | {} | {:.1} | {:.1} | {:.1} |",
                    query.search,
                    one.index,
                    query.matched,
                    query.searches,
                    query.p50_ms,
                    query.p99_ms,
                    query.max_ms
                );
            }
        }
    }

    fn cost_table(&self, out: &mut String) {
        let Some(off) = self.costs.first() else {
            return;
        };
        let ratio =
            |of: &Of<Cost>, figure: fn(&Cost) -> f64| of.middle(figure) / off.middle(figure);
        out.push_str(
            "\n| history in | deliveries/s | of those without | spread | documents/s | peak MB | CPU s per 1,000: listener | of that without | database | of that without | search server | lost | repeated | out of order |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for of in &self.costs {
            let documents = of.middle(|one| one.indexed_per_second.unwrap_or(f64::NAN));
            let documents = if documents.is_nan() {
                String::new()
            } else {
                format!("{documents:.0}")
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                out,
                "| {} | {:.0} | {:.2} | {:.2} | {documents} | {:.0} | {:.3} | {:.2} | {:.3} | {:.2} | {:.3} | {}",
                of.system,
                of.middle(|one| one.per_second),
                ratio(of, |one| one.per_second),
                of.spread(|one| one.per_second),
                of.middle(|one| one.peak_mib),
                of.middle(|one| one.cpu_seconds),
                ratio(of, |one| one.cpu_seconds),
                of.middle(|one| one.server_cpu_seconds),
                ratio(of, |one| one.server_cpu_seconds),
                of.middle(|one| one.search_cpu_seconds),
                of.faults(|one| one.faults),
            );
        }
    }
}
