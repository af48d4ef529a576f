//! One system on a database of its own, with its receiver.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use crate::ground::{Ground, Server};
use crate::process::Process;
use crate::sink::{Behaviour, Sink};
use crate::subject::{Programs, START, Start, Subject};

/// How long nothing may come before a measurement has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// How a system is measured.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// Lanes of the rows: events of one are to be delivered in order.
    pub(crate) lanes: usize,
    /// Bytes of a row's text.
    pub(crate) bytes: usize,
    pub(crate) behaviour: Behaviour,
    /// Shards of our listener; its default where there are none.
    pub(crate) shards: Option<u16>,
    /// Observers of ours that match nothing, beside the one that does.
    pub(crate) idle_observers: usize,
    /// How long a transaction has been open, from before the first row on, while a few rows came.
    pub(crate) open_transaction: Option<Duration>,
    /// History of our listener, as `spec.search` has it; none where absent.
    pub(crate) search: Option<String>,
    /// What our files have beside that.
    pub(crate) more: More,
}

/// Lines of our listener's files.
#[derive(Clone, Debug, Default)]
pub(crate) struct More {
    /// Further operations of the observer's events, as `, Read`.
    pub(crate) operations: String,
    /// Of the listener's spec.
    pub(crate) listener: String,
    /// Of the observer's spec, before its actions.
    pub(crate) observer: String,
    /// Of the webhook.
    pub(crate) webhook: String,
    /// Of the action.
    pub(crate) action: String,
    /// Where metrics are served; nowhere where absent.
    pub(crate) listen: Option<String>,
    /// Another database for the change log, whose server and our listener get only the time that nobody else wants.
    pub(crate) log_url: Option<String>,
}

/// What all of a benchmark's measurements share.
#[derive(Clone, Copy)]
pub(crate) struct Bench<'a> {
    pub(crate) server: &'a Server,
    pub(crate) programs: &'a Programs,
}

/// One system on its ground.
pub(crate) struct Place<'a> {
    subject: Subject,
    programs: &'a Programs,
    setting: &'a Setting,
    pub(crate) ground: Ground<'a>,
    folder: TempDir,
    pub(crate) sink: Sink,
    _open: Option<PgConnection>,
}

impl<'a> Place<'a> {
    /// For rows with numbers below `events`.
    pub(crate) async fn new(
        bench: Bench<'a>,
        subject: Subject,
        setting: &'a Setting,
        events: u64,
    ) -> anyhow::Result<Self> {
        let Bench { server, programs } = bench;
        let mut ground = Ground::new(server, setting.lanes).await?;
        let mut open = None;
        if setting.open_transaction.is_some() {
            let mut connection = PgConnection::connect(&server.url("postgres")).await?;
            sqlx::raw_sql("begin; select pg_current_xact_id()")
                .execute(&mut connection)
                .await?;
            open = Some(connection);
        }
        subject.prepare(&mut ground, programs).await?;
        Ok(Self {
            subject,
            programs,
            setting,
            ground,
            folder: TempDir::with_prefix("speed-")?,
            sink: Sink::start(events, setting.lanes, setting.behaviour).await?,
            _open: open,
        })
    }

    pub(crate) fn start(&self) -> anyhow::Result<Process> {
        self.subject.start(&Start {
            programs: self.programs,
            folder: self.folder.path(),
            database_url: &self.ground.url,
            sink_url: &self.sink.url,
            setting: self.setting,
        })
    }

    /// Starts it and sees the first row through.
    pub(crate) async fn warm(&mut self) -> anyhow::Result<Process> {
        let process = self.start()?;
        // What reads the server's log sees what is written once it has a slot.
        if self.subject.has_slot() {
            let slot = "select exists (select from pg_replication_slots where active)";
            let there = self.ground.until(slot, START).await;
            there.with_context(|| process.said())?;
        }
        self.ground.fill(0, 1, self.setting.bytes).await?;
        self.begins(1, &process).await?;
        Ok(process)
    }

    /// Fails unless so many arrive: then it does not work at all.
    pub(crate) async fn begins(&self, count: u64, process: &Process) -> anyhow::Result<()> {
        let arrived = self.sink.record.wait_for(count, forever(), PATIENCE).await;
        ensure!(arrived, "nothing arrives: {}", process.said());
        Ok(())
    }
}

/// Far enough off for whatever is measured.
pub(crate) fn forever() -> Instant {
    Instant::now() + Duration::from_hours(24)
}
