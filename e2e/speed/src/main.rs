//! How fast events are delivered, beside a bare loop and other systems: one Postgres, one receiver,
//! one system at a time, in turn. `e2e/speed/run` builds what it needs and starts it.

mod backfill;
mod bare;
mod drain;
mod enrich;
mod figures;
mod ground;
mod idle;
mod place;
mod plan;
mod process;
mod report;
mod search;
mod sink;
mod steady;
mod subject;
mod writers;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::figures::median;
use crate::ground::Server;
use crate::place::Bench;
use crate::plan::Plan;
use crate::report::{Of, Report};
use crate::search::SearchArgs;
use crate::steady::{Load, Offer};
use crate::subject::{Programs, Subject};

#[derive(Debug, Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure, and write the figures to a folder
    Run(Box<RunArgs>),
    /// Post all rows of the table with nothing around it (a part of `run`)
    #[command(hide = true)]
    Post {
        database_url: String,
        sink_url: String,
    },
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// A backlog that is worked off
    Drain,
    /// Rows that come at a steady rate
    Steady,
    /// Nothing to do
    Idle,
    /// What capture costs those who write
    Writers,
    /// A bare `select`
    Read,
    /// A history of events: what it costs, how soon an event is found, how long a search takes
    Search,
    /// Lookups before actions, and the cache of both
    Enrich,
    /// A backfill beside writers
    Backfill,
}

/// A rate at which rows come.
#[derive(Clone, Copy, Debug)]
enum Rate {
    At(u64),
    /// As fast as they are delivered.
    Most,
    /// Half of what that was, for each system.
    Half,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "most" => Ok(Self::Most),
            "half" => Ok(Self::Half),
            _ => match text.parse() {
                Ok(rate @ 1..) => Ok(Self::At(rate)),
                _ => Err("a rate is rows a second, or `most`, or after that `half`".to_owned()),
            },
        }
    }
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    programs: Programs,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["drain", "steady", "idle", "writers", "read", "search", "enrich", "backfill"])]
    what: Vec<What>,
    /// Systems to measure; all that are there
    #[arg(long, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Times that each is measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(flatten)]
    plan: Plan,
    #[command(flatten)]
    search: SearchArgs,
    /// Rows of each part of what is measured of lookups, with as many keys
    #[arg(long, default_value_t = 5000)]
    enrich_rows: u64,
    /// Rows of the table that is backfilled
    #[arg(long, default_value_t = 1_000_000)]
    backfill_rows: u64,
    /// Updates of it per second meanwhile
    #[arg(long, default_value_t = 1000)]
    backfill_updates: u32,
    /// Seconds that a backlog is worked on at most; what has come by then counts
    #[arg(long, default_value_t = 30)]
    limit: u64,
    /// Steady rates: rows a second, `most` for as fast as they are delivered, and after that `half`
    /// for half as fast
    #[arg(long, value_delimiter = ',', default_value = "100,most,half")]
    rate: Vec<Rate>,
    /// Seconds of each steady rate, of each turn of the writers, and of doing nothing
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds of doing nothing before that is measured: ours asks less often after a while
    #[arg(long, default_value_t = 90)]
    settle: u64,
    /// Let no commit wait for the disk
    #[arg(long)]
    no_fsync: bool,
    /// What pgbench is called; without it writers are left out
    #[arg(long)]
    pgbench: Option<PathBuf>,
    /// Folder for `speed.json` and `speed.md`
    #[arg(long, default_value = "target/speed")]
    out: PathBuf,
}

impl RunArgs {
    fn subjects(&self) -> Vec<Subject> {
        let all = Subject::ALL.into_iter();
        all.filter(|one| self.only.is_empty() || self.only.contains(one))
            .filter(|one| one.is_there(&self.programs))
            .collect()
    }

    /// Those that go on for as long as they are let.
    fn whole(&self) -> Vec<Subject> {
        let all = self.subjects().into_iter();
        all.filter(|one| !one.is_bare()).collect()
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(args) => run(&args).await,
        Command::Post {
            database_url,
            sink_url,
        } => bare::post(&database_url, &sink_url).await,
    }
}

async fn run(args: &RunArgs) -> anyhow::Result<()> {
    for left_out in Subject::ALL {
        if !left_out.is_there(&args.programs) {
            eprintln!("{} is left out: its program is not there", left_out.name());
        }
    }
    let server = Server::start().await?;
    server.sync(!args.no_fsync).await?;
    let bench = Bench {
        server: &server,
        programs: &args.programs,
    };
    let mut report = Report {
        postgres: server.version().await?,
        cores: std::thread::available_parallelism()?.get(),
        fsync: !args.no_fsync,
        ..Report::default()
    };
    for what in &args.what {
        match what {
            What::Drain => drains(args, bench, &mut report).await?,
            What::Steady => steadies(args, bench, &mut report).await?,
            What::Idle => idles(args, bench, &mut report).await?,
            What::Writers => writers(args, bench, &mut report).await?,
            What::Read => {
                let rows = args.plan.backlog();
                report.read_per_second = Some(idle::read(bench, &args.plan.base(), rows).await?);
            }
            What::Search => {
                let limit = Duration::from_secs(args.limit);
                let how = (&args.plan, args.rounds, limit);
                search::measure(&args.search, bench, how, &mut report.search).await?;
            }
            What::Enrich => {
                let rows = args.enrich_rows.max(100);
                enrich::measure(bench, (&args.plan, rows), &mut report.enrich).await?;
            }
            What::Backfill => backfills(args, bench, &mut report).await?,
        }
        // What was measured so far is not lost by what fails after it.
        write(args, &report)?;
    }
    println!("{}", report.markdown());
    Ok(())
}

fn write(args: &RunArgs, report: &Report) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out)?;
    let json = serde_json::to_string_pretty(report)?;
    std::fs::write(args.out.join("speed.json"), json)?;
    std::fs::write(args.out.join("speed.md"), report.markdown())?;
    Ok(())
}

/// Measures each system in turn, in so many rounds; `measure` gives the figures, and one of them for
/// whoever waits.
async fn in_turn<T>(
    (setting, rounds): (&str, usize),
    subjects: Vec<Subject>,
    measure: impl AsyncFn(Subject) -> anyhow::Result<(T, String)>,
) -> anyhow::Result<Vec<Of<T>>> {
    let of_one = |subject: &Subject| Of {
        system: subject.name(),
        setting: setting.to_owned(),
        rounds: Vec::new(),
    };
    let mut all: Vec<Of<T>> = subjects.iter().map(of_one).collect();
    for round in 1..=rounds {
        for (subject, of) in subjects.iter().zip(&mut all) {
            let (found, figure) = measure(*subject).await.with_context(|| subject.name())?;
            eprintln!("round {round}: {setting}, {}: {figure}", of.system);
            of.rounds.push(found);
        }
    }
    Ok(all)
}

async fn drains(args: &RunArgs, bench: Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let limit = Duration::from_secs(args.limit);
    for variant in args.plan.variants() {
        let mut subjects = args.subjects();
        if variant.ours {
            subjects.retain(|subject| *subject == Subject::Observers);
        }
        let measure = async |subject| {
            let found = drain::drain(bench, subject, &variant.setting, variant.backlog, limit);
            let found = found.await?;
            let figure = format!("{:.0}/s", found.per_second);
            Ok((found, figure))
        };
        let found = in_turn((&variant.name, args.rounds), subjects, measure).await?;
        report.drains.extend(found);
    }
    Ok(())
}

async fn steadies(args: &RunArgs, bench: Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let setting = args.plan.base();
    for rate in &args.rate {
        let name = match rate {
            Rate::At(rate) => format!("{rate}/s"),
            Rate::Most => MOST.to_owned(),
            Rate::Half => "half of that".to_owned(),
        };
        let most = |subject: Subject| {
            let name = subject.name();
            let of = report.steady.iter();
            of.filter(|of| of.setting == MOST && of.system == name)
                .flat_map(|of| of.rounds.iter().map(|one| one.written_per_second))
                .collect::<Vec<f64>>()
        };
        let measure = async |subject| {
            let offer = match rate {
                Rate::At(rate) => Offer::At(*rate),
                Rate::Most => Offer::Most,
                Rate::Half => Offer::At(half(&mut most(subject))?),
            };
            let load = Load {
                offer,
                seconds: args.seconds,
                bytes: setting.bytes,
            };
            let found = steady::steady(bench, subject, &setting, load).await?;
            let (rate, p50, p99) = (found.written_per_second, found.p50_ms, found.p99_ms);
            let figure = format!("{rate:.0}/s, p50 {p50:.1} ms, p99 {p99:.1} ms");
            Ok((found, figure))
        };
        let found = in_turn((&name, args.rounds), args.whole(), measure).await?;
        report.steady.extend(found);
    }
    Ok(())
}

/// The setting in which rows come as fast as they are delivered.
const MOST: &str = "as fast as delivered";

/// Half of a rate, which must have been measured.
fn half(rates: &mut [f64]) -> anyhow::Result<u64> {
    ensure!(
        !rates.is_empty(),
        "`half` is half of `most`, which comes before it"
    );
    let most = median(rates);
    Ok(format!("{:.0}", most / 2.0).parse()?)
}

async fn idles(args: &RunArgs, bench: Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let setting = args.plan.base();
    let measure = async |subject| {
        let found = idle::idle(bench, subject, &setting, args.settle, args.seconds).await?;
        let figure = format!("{:.2} %", found.cpu_percent);
        Ok((found, figure))
    };
    report.idle = in_turn(("idle", 1), args.whole(), measure).await?;
    Ok(())
}

async fn backfills(args: &RunArgs, bench: Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let mut subjects = args.subjects();
    subjects.retain(|subject| subject.is_ours());
    let (setting, rows) = (args.plan.base(), args.backfill_rows.max(1));
    let measure = async |subject| {
        let load = (rows, args.backfill_updates.max(1), args.seconds);
        let found = backfill::backfill(bench, subject, &setting, load).await?;
        let [before, beside] = found.p99_ms;
        let figure = format!(
            "{:.0} rows/s, p99 of updates {before:.1} and {beside:.1} ms",
            found.per_second
        );
        Ok((found, figure))
    };
    let name = format!("backfill of {rows} rows");
    report.backfills = in_turn((&name, 1), subjects, measure).await?;
    Ok(())
}

async fn writers(args: &RunArgs, bench: Bench<'_>, report: &mut Report) -> anyhow::Result<()> {
    let Some(pgbench) = &args.pgbench else {
        eprintln!("writers are left out: there is no pgbench");
        return Ok(());
    };
    let setting = args.plan.base();
    // As a server is by default, and without waiting for the disk, where both cores are full.
    for fsync in [true, false] {
        bench.server.sync(fsync).await?;
        let found = writers::measure(bench, pgbench, &setting, fsync, args.seconds, args.rounds);
        report.writers.extend(found.await?);
    }
    bench.server.sync(!args.no_fsync).await
}
