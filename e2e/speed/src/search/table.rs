//! The figures of a history, as tables.

use std::fmt::Write as _;

use super::SearchFigures;
use crate::search::cost::Cost;

impl SearchFigures {
    /// Adds tables in Markdown.
    pub(crate) fn markdown(&self, out: &mut String) {
        // Writing to a string cannot fail.
        self.cost_table(out);
        if !self.findable.is_empty() {
            out.push_str(
                "\n| found in | events/s | searched for | p50 ms | p99 ms | max ms | missing | within ms: how many |\n\
                 |---|---:|---:|---:|---:|---:|---:|---|\n",
            );
        }
        for one in &self.findable {
            let bars = one.histogram.iter().filter(|(_, count)| *count > 0);
            let bars: Vec<String> = bars
                .map(|(bound, count)| match *bound {
                    u32::MAX => format!("more: {count}"),
                    bound => format!("{bound}: {count}"),
                })
                .collect();
            let _ = writeln!(
                out,
                "| {} | {:.0} | {} | {:.0} | {:.0} | {:.0} | {} | {} |",
                one.index,
                one.rate,
                one.searched,
                one.p50_ms,
                one.p99_ms,
                one.max_ms,
                one.missing,
                bars.join(", ")
            );
        }
        if !self.queries.is_empty() {
            out.push_str(
                "\n| search with facets | in | documents | matched | p50 ms | p99 ms | max ms | written/s |\n\
                 |---|---|---:|---:|---:|---:|---:|---:|\n",
            );
        }
        for one in &self.queries {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {:.1} | {:.1} | {:.1} | {:.0} |",
                one.search,
                one.index,
                one.documents,
                one.matched,
                one.p50_ms,
                one.p99_ms,
                one.max_ms,
                one.written_per_second
            );
        }
    }

    fn cost_table(&self, out: &mut String) {
        let Some(off) = self.costs.first() else {
            return;
        };
        let bare = off.middle(|one: &Cost| one.per_second);
        out.push_str(
            "\n| history in | deliveries/s | of those without | spread | documents/s | peak MB | CPU s per 1,000: listener | database | search server | lost | repeated | out of order |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
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
                "| {} | {:.0} | {:.2} | {:.2} | {documents} | {:.0} | {:.3} | {:.3} | {:.3} | {}",
                of.system,
                of.middle(|one| one.per_second),
                of.middle(|one| one.per_second) / bare,
                of.spread(|one| one.per_second),
                of.middle(|one| one.peak_mib),
                of.middle(|one| one.cpu_seconds),
                of.middle(|one| one.server_cpu_seconds),
                of.middle(|one| one.search_cpu_seconds),
                of.faults(|one| one.faults),
            );
        }
    }
}
