//! The systems that are measured: how each captures changes, and how it is started.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use tokio::process::Command;

use crate::ground::{Ground, Server};
use crate::place::Setting;
use crate::process::Process;

/// A system that delivers the rows of a table to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// Ours, in its default settings
    Observers,
    /// Ours, with batches in its default settings
    ObserversBatched,
    /// Ours, reading the server's own log
    ObserversWal,
    /// The same, with batches
    ObserversWalBatched,
    /// A bare loop that posts the same bodies: the limit of sending
    Ceiling,
    /// fraiseql-observers 2.19
    Fraiseql,
    /// Debezium Server 3.6, with its HTTP sink
    Debezium,
    /// Debezium Server 3.6, with its HTTP sink in batches
    DebeziumBatched,
    /// graphile-worker, with a trigger that adds a job for each row
    Graphile,
    /// River, with a trigger that adds a job for each row
    River,
}

/// Programs that are measured, and where they are kept.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Programs {
    /// The listener, built with the profile `dist`
    #[arg(long, default_value = "target/dist/observer-listener")]
    pub(crate) listener: PathBuf,
    /// The runner for fraiseql-observers; without it that is left out
    #[arg(long)]
    pub(crate) fraiseql: Option<PathBuf>,
    /// Folder of Debezium Server; without it that is left out
    #[arg(long)]
    pub(crate) debezium: Option<PathBuf>,
    /// The Java that Debezium Server runs on
    #[arg(long, default_value = "java")]
    pub(crate) java: PathBuf,
    /// The script for graphile-worker; without it that is left out
    #[arg(long)]
    pub(crate) graphile: Option<PathBuf>,
    /// The Node.js that it runs on
    #[arg(long, default_value = "node")]
    pub(crate) node: PathBuf,
    /// The program that runs River; without it that is left out
    #[arg(long)]
    pub(crate) river: Option<PathBuf>,
}

/// What a system is started with.
pub(crate) struct Start<'a> {
    pub(crate) programs: &'a Programs,
    /// Where it may keep files; the same for all starts on one ground.
    pub(crate) folder: &'a Path,
    pub(crate) database_url: &'a str,
    pub(crate) sink_url: &'a str,
    pub(crate) setting: &'a Setting,
}

impl Subject {
    pub(crate) const ALL: [Self; 10] = [
        Self::Observers,
        Self::Ceiling,
        Self::ObserversBatched,
        Self::ObserversWal,
        Self::ObserversWalBatched,
        Self::Fraiseql,
        Self::Debezium,
        Self::DebeziumBatched,
        Self::Graphile,
        Self::River,
    ];

    /// As it is called on the command line.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether its program is there.
    pub(crate) fn is_there(self, programs: &Programs) -> bool {
        match self {
            Self::Observers
            | Self::ObserversBatched
            | Self::ObserversWal
            | Self::ObserversWalBatched
            | Self::Ceiling => true,
            Self::Fraiseql => programs.fraiseql.is_some(),
            Self::Debezium | Self::DebeziumBatched => programs.debezium.is_some(),
            Self::Graphile => programs.graphile.is_some(),
            Self::River => programs.river.is_some(),
        }
    }

    /// Whether it is ours.
    pub(crate) fn is_ours(self) -> bool {
        matches!(
            self,
            Self::Observers
                | Self::ObserversBatched
                | Self::ObserversWal
                | Self::ObserversWalBatched
        )
    }

    /// Whether it reads the server's own log, by a slot.
    pub(crate) fn has_slot(self) -> bool {
        matches!(
            self,
            Self::Debezium | Self::DebeziumBatched | Self::ObserversWal | Self::ObserversWalBatched
        )
    }

    /// Whether it reads what is there and ends, so that nothing can be asked of it but that.
    pub(crate) fn is_bare(self) -> bool {
        self == Self::Ceiling
    }

    /// Captures changes of the table from now on.
    pub(crate) async fn prepare(
        self,
        ground: &mut Ground<'_>,
        programs: &Programs,
    ) -> anyhow::Result<()> {
        let url = ground.url.as_str();
        match self {
            Self::ObserversWal | Self::ObserversWalBatched => migrate(programs, url).await,
            Self::Observers | Self::ObserversBatched => {
                migrate(programs, url).await?;
                ground
                    .run("select observer.track('item', key => '{lane}')")
                    .await
            }
            Self::Fraiseql => {
                set_up(fraiseql(programs)?, url).await?;
                ground
                    .run(
                        "create trigger capture after insert on item
                         referencing new table as new_table for each statement
                         execute function core.fn_entity_change_log_capture('Item', 'id', '')",
                    )
                    .await
            }
            Self::Graphile => {
                set_up(graphile(programs)?, url).await?;
                ground
                    .run(
                        "create function add_post() returns trigger language plpgsql as $$
                         begin
                             perform graphile_worker.add_job('post', to_json(new));
                             return null;
                         end $$;
                         create trigger add_post after insert on item
                         for each row execute function add_post()",
                    )
                    .await
            }
            Self::River => {
                set_up(river(programs)?, url).await?;
                // As its client inserts a job, and tells of it.
                ground
                    .run(
                        "create function add_post() returns trigger language plpgsql as $$
                         begin
                             insert into river_job (args, kind, max_attempts)
                             values (to_jsonb(new), 'post', 25);
                             perform pg_notify('public.river_insert', '{\"queue\": \"default\"}');
                             return null;
                         end $$;
                         create trigger add_post after insert on item
                         for each row execute function add_post()",
                    )
                    .await
            }
            // Reads the server's own log, and the other the table.
            Self::Debezium | Self::DebeziumBatched | Self::Ceiling => Ok(()),
        }
    }

    /// Makes the schema of ours in the database for a change log elsewhere.
    pub(crate) async fn migrate_log(self, log: &Server, programs: &Programs) -> anyhow::Result<()> {
        migrate(programs, &log.url("postgres")).await
    }

    /// Starts it.
    pub(crate) fn start(self, start: &Start<'_>) -> anyhow::Result<Process> {
        let command = match self {
            Self::Observers => listener(start, "", "")?,
            Self::ObserversBatched => listener(start, BATCHED, "")?,
            Self::ObserversWal => listener(start, "", WAL)?,
            Self::ObserversWalBatched => listener(start, BATCHED, WAL)?,
            Self::Ceiling => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["post", start.database_url, start.sink_url]);
                command
            }
            Self::Fraiseql => {
                let mut command = run(fraiseql(start.programs)?, start);
                // It would not post to the loopback address otherwise.
                command.env("FRAISEQL_OBSERVERS_ALLOW_INSECURE", "true");
                command.env("FRAISEQL_ENV", "development");
                command
            }
            Self::Debezium => debezium(start, false)?,
            Self::DebeziumBatched => debezium(start, true)?,
            Self::Graphile => run(graphile(start.programs)?, start),
            Self::River => run(river(start.programs)?, start),
        };
        Process::start(&self.name(), command, start.folder)
    }
}

/// Batches in their default settings.
const BATCHED: &str = "        batch: {}\n";

/// The server's own log as the source, with the key that `track` is told.
const WAL: &str = "  source:\n    wal: {tables: [{table: public.item, key: [lane]}]}\n";

async fn migrate(programs: &Programs, url: &str) -> anyhow::Result<()> {
    let mut migrate = Command::new(&programs.listener);
    migrate.args(["migrate", "--database-url", url]);
    succeed(migrate).await
}

/// Has a runner make what its system needs in the database.
async fn set_up(mut runner: Command, url: &str) -> anyhow::Result<()> {
    runner.args(["setup", url]);
    succeed(runner).await
}

/// Has a runner work.
fn run(mut runner: Command, start: &Start<'_>) -> Command {
    runner.args(["run", start.database_url, start.sink_url]);
    runner
}

async fn succeed(mut command: Command) -> anyhow::Result<()> {
    let output = command.output().await?;
    anyhow::ensure!(
        output.status.success(),
        "{}: {}",
        command.as_std().get_program().display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A listener with its files; `more` stands with the webhook, and `source` with the listener's spec.
fn listener(start: &Start<'_>, more: &str, source: &str) -> anyhow::Result<Command> {
    let shards = start
        .setting
        .shards
        .map(|shards| format!("  shards: {shards}\n"));
    let search = start.setting.search.as_ref();
    let search = search.map(|search| format!("  search: {search}\n"));
    let own = &start.setting.more;
    let log_url = own.log_url.as_deref().unwrap_or(start.database_url);
    let source = if own.log_url.is_some() {
        let url = start.database_url;
        source.replace(
            "wal: {",
            &format!("wal: {{database: {{url: {{value: \"{url}\"}}}}, "),
        )
    } else {
        source.to_owned()
    };
    let mut files = format!(
        "apiVersion: observers.fraiseql.dev/v1alpha1\nkind: ObserverListener\n\
         metadata: {{name: speed}}\nspec:\n  database:\n    \
         url: {{value: \"{}\"}}\n{source}{}{}{}",
        log_url,
        shards.unwrap_or_default(),
        search.unwrap_or_default(),
        if own.listener.is_empty() {
            "  egress: {allow: [127.0.0.0/8]}\n"
        } else {
            &own.listener
        },
    );
    for number in 0..=start.setting.idle_observers {
        let when = match number {
            0 => String::new(),
            _ => format!("  when: new.bench_id == -{number}\n"),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            files,
            "---\napiVersion: observers.fraiseql.dev/v1alpha1\nkind: Observer\n\
             metadata: {{name: o{number}}}\nspec:\n  \
             events: {{entity: public.item, operations: [Insert{}]}}\n{when}{}  actions:\n    \
             - name: post\n{}      webhook:\n        url: {{value: \"{}\"}}\n{}{more}",
            own.operations, own.observer, own.action, start.sink_url, own.webhook
        );
    }
    let path = start.folder.join("observers.yaml");
    std::fs::write(&path, files)?;
    let mut command = if own.log_url.is_some() {
        let mut command = Command::new("chrt");
        command.args(["--idle", "0"]).arg(&start.programs.listener);
        command
    } else {
        Command::new(&start.programs.listener)
    };
    let listen = own.listen.as_deref().unwrap_or("off");
    command.args(["run", "--listen", listen, "--log-format", "text", "-f"]);
    command.arg(path);
    Ok(command)
}

fn graphile(programs: &Programs) -> anyhow::Result<Command> {
    let script = programs.graphile.as_ref().context("no script")?;
    let mut command = Command::new(&programs.node);
    command.arg(script);
    Ok(command)
}

fn fraiseql(programs: &Programs) -> anyhow::Result<Command> {
    Ok(Command::new(
        programs.fraiseql.as_ref().context("no program")?,
    ))
}

fn river(programs: &Programs) -> anyhow::Result<Command> {
    Ok(Command::new(programs.river.as_ref().context("no program")?))
}

/// Debezium Server in a folder of its own, where it keeps its offsets.
fn debezium(start: &Start<'_>, batched: bool) -> anyhow::Result<Command> {
    let home = start.programs.debezium.as_ref().context("no folder")?;
    let url = reqwest::Url::parse(start.database_url)?;
    let part = |what: Option<&str>| what.map(str::to_owned).context("no part of the URL");
    let settings = [
        ("debezium.sink.type", "http".to_owned()),
        ("debezium.sink.http.url", start.sink_url.to_owned()),
        ("debezium.sink.http.batch.enabled", batched.to_string()),
        ("debezium.format.value", "json".to_owned()),
        ("debezium.format.key", "json".to_owned()),
        ("debezium.format.schemas.enable", "false".to_owned()),
        ("debezium.format.value.schemas.enable", "false".to_owned()),
        ("debezium.format.key.schemas.enable", "false".to_owned()),
        (
            "debezium.source.connector.class",
            "io.debezium.connector.postgresql.PostgresConnector".to_owned(),
        ),
        (
            "debezium.source.offset.storage",
            "org.apache.kafka.connect.storage.FileOffsetBackingStore".to_owned(),
        ),
        (
            "debezium.source.offset.storage.file.filename",
            start.folder.join("offsets").display().to_string(),
        ),
        (
            "debezium.source.offset.flush.interval.ms",
            "1000".to_owned(),
        ),
        ("debezium.source.database.hostname", part(url.host_str())?),
        (
            "debezium.source.database.port",
            url.port().unwrap_or(5432).to_string(),
        ),
        ("debezium.source.database.user", url.username().to_owned()),
        ("debezium.source.database.password", part(url.password())?),
        (
            "debezium.source.database.dbname",
            url.path().trim_start_matches('/').to_owned(),
        ),
        ("debezium.source.topic.prefix", "speed".to_owned()),
        ("debezium.source.plugin.name", "pgoutput".to_owned()),
        (
            "debezium.source.publication.autocreate.mode",
            "filtered".to_owned(),
        ),
        (
            "debezium.source.table.include.list",
            "public.item".to_owned(),
        ),
        ("debezium.source.snapshot.mode", "no_data".to_owned()),
        ("debezium.source.poll.interval.ms", "10".to_owned()),
        ("quarkus.log.level", "WARN".to_owned()),
        ("quarkus.http.port", "0".to_owned()),
    ];
    let config = start.folder.join("config");
    std::fs::create_dir_all(&config)?;
    let lines = settings.map(|(name, value)| format!("{name}={value}"));
    let text = lines.join("\n");
    std::fs::write(config.join("application.properties"), text)?;
    let jars = runner(home)?;
    let mut command = Command::new(&start.programs.java);
    command
        .current_dir(start.folder)
        .arg("--add-opens=java.base/java.lang=ALL-UNNAMED")
        .arg(format!("-Djava.io.tmpdir={}", start.folder.display()))
        .arg("-cp")
        .arg(format!(
            "{}:{}:{}/lib/*",
            config.display(),
            jars.display(),
            home.display()
        ))
        .arg("io.debezium.server.Main");
    Ok(command)
}

/// The jar with the main class.
fn runner(home: &Path) -> anyhow::Result<PathBuf> {
    for entry in std::fs::read_dir(home)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("debezium-server") && name.ends_with("runner.jar") {
            return Ok(path);
        }
    }
    anyhow::bail!("no debezium-server…runner.jar in {}", home.display())
}

/// How long a start may take.
pub(crate) const START: Duration = Duration::from_secs(90);
