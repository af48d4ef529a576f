//! How fast events are delivered, beside a bare loop and other systems: one Postgres, one receiver,
//! one system at a time, in turn. `e2e/speed/run` builds what it needs and starts it.

mod bare;
mod ground;
mod measure;
mod process;
mod report;
mod sink;
mod subject;
mod writers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::ground::Server;
use crate::measure::Setting;
use crate::report::{Of, Report};
use crate::sink::Behaviour;
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
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    programs: Programs,
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["drain", "steady", "idle", "writers", "read"])]
    what: Vec<What>,
    /// Systems to measure; all that are there
    #[arg(long, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Times that each is measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Backlogs to work off
    #[arg(long, value_delimiter = ',', default_value = "50000")]
    backlog: Vec<u64>,
    /// Events of a backlog that are waited for; all of it
    #[arg(long)]
    first: Option<u64>,
    /// Steady rates, in rows a second
    #[arg(long, value_delimiter = ',', default_value = "100")]
    rate: Vec<u64>,
    /// Seconds of each steady rate, of each turn of the writers, and of doing nothing
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds of doing nothing before that is measured: ours asks less often after a while
    #[arg(long, default_value_t = 90)]
    settle: u64,
    /// Keys of the rows; events of one are delivered in order
    #[arg(long, default_value_t = 1000)]
    lanes: usize,
    /// Bytes of a row's text
    #[arg(long, default_value_t = 500)]
    bytes: usize,
    /// Milliseconds until the receiver answers
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// The receiver answers one in so many with 503; 0 for none
    #[arg(long, default_value_t = 0)]
    fail_one_in: u64,
    /// Shards of our listener
    #[arg(long)]
    shards: Option<u16>,
    /// Observers of ours that match nothing, beside the one that does
    #[arg(long, default_value_t = 0)]
    idle_observers: usize,
    /// Keep a transaction open from before the first row on
    #[arg(long)]
    open_transaction: bool,
    /// Let commits wait for the disk
    #[arg(long)]
    fsync: bool,
    /// What pgbench is called; without it writers are left out
    #[arg(long)]
    pgbench: Option<PathBuf>,
    /// Folder for `speed.json` and `speed.md`
    #[arg(long, default_value = "target/speed")]
    out: PathBuf,
}

impl RunArgs {
    fn setting(&self) -> Setting {
        let shards = self.shards.map(|shards| format!("  shards: {shards}\n"));
        Setting {
            lanes: self.lanes.max(1),
            bytes: self.bytes,
            behaviour: Behaviour {
                delay: Duration::from_millis(self.delay),
                fail_one_in: self.fail_one_in,
            },
            listener_spec: shards.unwrap_or_default(),
            idle_observers: self.idle_observers,
            open_transaction: self.open_transaction,
        }
    }

    fn subjects(&self) -> Vec<Subject> {
        let all = Subject::ALL.into_iter();
        all.filter(|one| self.only.is_empty() || self.only.contains(one))
            .filter(|one| {
                let there = one.is_there(&self.programs);
                if !there {
                    eprintln!("{} is left out: its program is not there", one.name());
                }
                there
            })
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
    let server = Server::start(args.fsync).await?;
    let mut report = Report {
        postgres: server.version().await?,
        cores: std::thread::available_parallelism()?.get(),
        ..Report::default()
    };
    for what in &args.what {
        match what {
            What::Drain => drains(args, &server, &mut report).await?,
            What::Steady => steadies(args, &server, &mut report).await?,
            What::Idle => idles(args, &server, &mut report).await?,
            What::Writers => writers(args, &server, &mut report).await?,
            What::Read => {
                let rows = args.backlog.first().copied().unwrap_or_default();
                report.read_per_second = Some(measure::read(&server, &args.setting(), rows).await?);
            }
        }
    }
    std::fs::create_dir_all(&args.out)?;
    let json = serde_json::to_string_pretty(&report)?;
    std::fs::write(args.out.join("speed.json"), json)?;
    let markdown = report.markdown();
    std::fs::write(args.out.join("speed.md"), &markdown)?;
    println!("{markdown}");
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

async fn drains(args: &RunArgs, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let setting = args.setting();
    for backlog in &args.backlog {
        let first = args.first.unwrap_or(*backlog).clamp(2, (*backlog).max(2));
        let name = if first < *backlog {
            format!("the first {first} of {backlog}")
        } else {
            format!("{backlog}")
        };
        let measure = async |subject| {
            let programs = &args.programs;
            let found = measure::drain(server, programs, subject, &setting, *backlog, first);
            let found = found.await?;
            let figure = format!("{:.0}/s", found.per_second);
            Ok((found, figure))
        };
        let found = in_turn((&name, args.rounds), args.subjects(), measure).await?;
        report.drains.extend(found);
    }
    Ok(())
}

async fn steadies(args: &RunArgs, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let setting = args.setting();
    for rate in &args.rate {
        let measure = async |subject| {
            let programs = &args.programs;
            let seconds = args.seconds;
            let found = measure::steady(server, programs, subject, &setting, *rate, seconds);
            let found = found.await?;
            let figure = format!("p50 {:.1} ms, p99 {:.1} ms", found.p50_ms, found.p99_ms);
            Ok((found, figure))
        };
        let name = format!("{rate}/s");
        let found = in_turn((&name, args.rounds), args.whole(), measure).await?;
        report.steady.extend(found);
    }
    Ok(())
}

async fn idles(args: &RunArgs, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let setting = args.setting();
    let measure = async |subject| {
        let programs = &args.programs;
        let (settle, seconds) = (args.settle, args.seconds);
        let found = measure::idle(server, programs, subject, &setting, settle, seconds);
        let found = found.await?;
        let figure = format!("{:.2} %", found.cpu_percent);
        Ok((found, figure))
    };
    report.idle = in_turn(("idle", 1), args.whole(), measure).await?;
    Ok(())
}

async fn writers(args: &RunArgs, server: &Server, report: &mut Report) -> anyhow::Result<()> {
    let Some(pgbench) = &args.pgbench else {
        eprintln!("writers are left out: there is no pgbench");
        return Ok(());
    };
    let setting = args.setting();
    let found = writers::measure(
        server,
        &args.programs,
        pgbench,
        &setting,
        args.seconds,
        args.rounds,
    );
    report.writers = found.await?;
    Ok(())
}
