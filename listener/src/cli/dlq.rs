//! `dlq`: dead letters.

use clap::{Args, Subcommand, ValueEnum};
use observer_listener::migrate;
use observer_listener::queue::dead_letter::{self, Selection, Stored};
use sqlx::PgPool;

use super::schema::connect;
use super::{CliError, DatabaseArgs, identity};

/// Most characters of an error in a table.
const ERROR_WIDTH: usize = 80;

#[derive(Debug, Subcommand)]
pub(super) enum DlqCommand {
    /// List the newest
    List {
        #[command(flatten)]
        filter: Filter,
        /// Most to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
        /// How to print them
        #[arg(long, short, value_enum, default_value_t)]
        output: Output,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Show one with its event and its history, as JSON
    Show {
        /// Its id, as in the list
        id: i64,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Have the listener try again, with the same ids as before
    Redrive(Chosen),
    /// Drop for good
    Drop(Chosen),
}

#[derive(Debug, Args)]
pub(super) struct Chosen {
    /// Ids
    ids: Vec<i64>,
    /// All that the filters leave, instead of ids
    #[arg(long, conflicts_with = "ids", required_unless_present = "ids")]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only those of this observer, as name or namespace/name
    #[arg(long, value_name = "NAME")]
    observer: Option<String>,
    /// Only those of this kind of failure, as the list shows it
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Output {
    /// Columns
    #[default]
    Table,
    /// One JSON array
    Json,
}

/// Runs a `dlq` command.
pub(super) async fn dlq(command: DlqCommand) -> Result<(), CliError> {
    match command {
        DlqCommand::List {
            filter,
            limit,
            output,
            database,
        } => {
            let (pool, what) = open(database, filter, None).await?;
            let letters = dead_letter::list(&pool, &what, limit).await?;
            match output {
                Output::Json => println!("{}", serde_json::to_string_pretty(&letters)?),
                Output::Table => table(&letters, dead_letter::count(&pool, &what).await?),
            }
        }
        DlqCommand::Show { id, database } => {
            let (pool, _) = open(database, Filter::default(), None).await?;
            let Some(letter) = dead_letter::show(&pool, id).await? else {
                return Err(anyhow::anyhow!(
                    "there is no dead letter {id}; `dlq list` shows which there are"
                )
                .into());
            };
            println!("{}", serde_json::to_string_pretty(&letter)?);
        }
        DlqCommand::Redrive(chosen) => {
            let (pool, what) = chosen.open().await?;
            let count = dead_letter::redrive_selected(&pool, &what).await?;
            println!("{count} to redrive; a running listener takes them up within seconds");
        }
        DlqCommand::Drop(chosen) => {
            let (pool, what) = chosen.open().await?;
            println!(
                "{} dropped",
                dead_letter::drop_selected(&pool, &what).await?
            );
        }
    }
    Ok(())
}

impl Chosen {
    async fn open(self) -> Result<(PgPool, Selection), CliError> {
        open(self.database, self.filter, (!self.all).then_some(self.ids)).await
    }
}

async fn open(
    database: DatabaseArgs,
    filter: Filter,
    ids: Option<Vec<i64>>,
) -> Result<(PgPool, Selection), CliError> {
    let (url, listener) = database.resolve()?;
    let pool = connect(&url).await?;
    migrate::verify(&pool).await?;
    Ok((
        pool,
        Selection {
            ids,
            listener,
            observer: filter.observer.map(identity),
            kind: filter.kind,
        },
    ))
}

const HEAD: [&str; 8] = [
    "ID",
    "GIVEN UP AT",
    "OBSERVER/ACTION",
    "EVENT",
    "KEY",
    "ATTEMPTS",
    "KIND",
    "ERROR",
];

fn table(letters: &[Stored], count: i64) {
    if letters.is_empty() {
        println!("no dead letters");
        return;
    }
    let rows: Vec<[String; 8]> = letters.iter().map(row).collect();
    print(HEAD, &rows);
    if count > i64::try_from(letters.len()).unwrap_or(i64::MAX) {
        println!("{} of {count}; --limit shows more", letters.len());
    }
}

/// Prints rows in columns that are wide enough.
pub(super) fn print<const N: usize>(head: [&str; N], rows: &[[String; N]]) {
    let head = head.map(str::to_owned);
    let rows = || std::iter::once(&head).chain(rows);
    let width = |column: usize| {
        let cells = rows().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in rows() {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

/// The beginning of a text, in one line.
pub(super) fn line(text: &str, most: usize) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).take(most).collect()
}

fn row(letter: &Stored) -> [String; 8] {
    let waits = if letter.redrive_requested_at.is_some() {
        " (redriving)"
    } else {
        ""
    };
    [
        letter.id.to_string(),
        letter.created_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
        format!("{}/{}", letter.observer, letter.action),
        format!("{} {}", letter.operation, letter.entity),
        line(letter.key.as_deref().unwrap_or_default(), ERROR_WIDTH / 2),
        letter.attempts.to_string(),
        format!("{}{waits}", letter.error_kind),
        line(&letter.error, ERROR_WIDTH),
    ]
}
