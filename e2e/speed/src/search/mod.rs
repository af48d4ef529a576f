//! What a history costs, how soon an event is found in it, and how long a search takes.

mod cost;
mod documents;
mod findable;
mod query;
mod table;
mod target;

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::place::{Bench, Setting};
use crate::plan::Plan;
use crate::report::Of;
use crate::search::cost::Cost;
use crate::search::findable::Findable;
use crate::search::query::Loaded;
use crate::search::target::{Backend, Kind, Servers};

/// How the history is measured.
#[derive(Clone, Debug, Args)]
pub(crate) struct SearchArgs {
    /// Rows of the backlog that is delivered with and without a history
    #[arg(long, default_value_t = 100_000)]
    search_backlog: u64,
    /// Rows a second that come while it is measured how soon events are found
    #[arg(long, default_value_t = 1000)]
    search_rate: u64,
    /// Seconds of that
    #[arg(long, default_value_t = 60)]
    search_seconds: u64,
    /// Documents that are searched
    #[arg(long, default_value_t = 1_000_000)]
    documents: u64,
    /// Parts to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["cost", "findable", "query"])]
    search_part: Vec<Part>,
    /// Where the documents are; of the cost, Postgres and Elasticsearch 9
    #[arg(
        long, value_enum, value_delimiter = ',',
        default_values = ["postgres", "elasticsearch7", "elasticsearch8", "elasticsearch9", "opensearch3"]
    )]
    search_in: Vec<Backend>,
}

/// What is measured of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Deliveries and CPU time with and without it
    Cost,
    /// How soon an event is found
    Findable,
    /// How long a search with facets takes
    Query,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct SearchFigures {
    pub(crate) costs: Vec<Of<Cost>>,
    pub(crate) findable: Vec<Findable>,
    pub(crate) queries: Vec<Loaded>,
}

/// Measures all parts, in the figures as soon as they are there.
pub(crate) async fn measure(
    args: &SearchArgs,
    bench: Bench<'_>,
    how: (&Plan, usize, Duration),
    figures: &mut SearchFigures,
) -> anyhow::Result<()> {
    if args.search_part.contains(&Part::Cost) {
        costs(args, bench, how, figures).await?;
    }
    // One server at a time: each takes a gigabyte.
    for backend in &args.search_in {
        let kind = Kind::Healthy(*backend);
        let servers = Servers::start(*backend).await?;
        if !servers.have(kind) {
            eprintln!("{} is left out: run `make prepare`", kind.name());
            continue;
        }
        let measured = on(args, bench, (&servers, kind), &how.0.base(), figures).await;
        // What the others take is measured all the same.
        if let Err(error) = measured {
            eprintln!("{} is left out: {error:#}", kind.name());
        }
    }
    Ok(())
}

/// Measures what is measured in each backend.
async fn on(
    args: &SearchArgs,
    bench: Bench<'_>,
    (servers, kind): (&Servers, Kind),
    setting: &Setting,
    figures: &mut SearchFigures,
) -> anyhow::Result<()> {
    let name = kind.name();
    if args.search_part.contains(&Part::Findable) {
        let load = (args.search_rate, args.search_seconds);
        let found = findable::findable(bench, servers, kind, (setting, load)).await?;
        let (p50, p99, search) = (found.p50_ms, found.p99_ms, found.search_p50_ms);
        eprintln!("{name}: found, p50 {p50:.0} ms, p99 {p99:.0} ms; a search takes {search:.0} ms");
        figures.findable.push(found);
    }
    if args.search_part.contains(&Part::Query) {
        let loaded = query::queries(bench, servers, kind, args.documents).await?;
        figures.queries.push(loaded);
    }
    Ok(())
}

async fn costs(
    args: &SearchArgs,
    bench: Bench<'_>,
    (plan, rounds, limit): (&Plan, usize, Duration),
    figures: &mut SearchFigures,
) -> anyhow::Result<()> {
    let setting = plan.base();
    let servers = Servers::start(Backend::Elasticsearch9).await?;
    let kinds: Vec<Kind> = Kind::OF_COST
        .into_iter()
        .filter(|kind| servers.have(*kind) && kind.is_of(&args.search_in))
        .collect();
    figures.costs = kinds.iter().map(|kind| of(*kind)).collect();
    for round in 1..=rounds {
        for (kind, of) in kinds.iter().zip(&mut figures.costs) {
            let backlog = args.search_backlog.max(2);
            let cost = cost::cost(bench, &servers, *kind, (&setting, backlog, limit)).await?;
            eprintln!("round {round}: {}: {:.0}/s", of.system, cost.per_second);
            of.rounds.push(cost);
        }
    }
    Ok(())
}

fn of(kind: Kind) -> Of<Cost> {
    Of {
        system: kind.name().to_owned(),
        setting: String::new(),
        rounds: Vec::new(),
    }
}
