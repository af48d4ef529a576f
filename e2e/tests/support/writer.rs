//! A writer that commits changes at a steady rate. What it committed is asked of the database,
//! which alone knows.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::database::KEYS;

/// Connections that write.
const WRITERS: u32 = 8;

/// Transactions that each sends at once, as the way to the database by the API server is long.
const TOGETHER: u32 = 4;

/// A writer at work.
pub(crate) struct Writer {
    stop: CancellationToken,
    tasks: JoinSet<u64>,
}

impl Writer {
    /// Begins to change so many rows a second, each in a transaction of its own.
    pub(crate) fn start(pool: &PgPool, rate: u32) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let pause = Duration::from_secs(1) * WRITERS * TOGETHER / rate;
            tasks.spawn(write(pool.clone(), i64::from(number), pause, stop.clone()));
        }
        Self { stop, tasks }
    }

    /// Ends it and gives how many statements failed.
    pub(crate) async fn stop(self) -> Result<u64> {
        self.stop.cancel();
        Ok(self.tasks.join_all().await.into_iter().sum())
    }
}

async fn write(pool: PgPool, number: i64, pause: Duration, stop: CancellationToken) -> u64 {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut failed, mut round) = (0, number * 53);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return failed,
        }
        let mut statements = String::new();
        for _ in 0..TOGETHER {
            round += 1;
            // All writers come to all keys, in an order of their own.
            let key = (round * 37) % KEYS + 1;
            let _ = write!(
                statements,
                "begin; update kv set v = v + 1 where k = {key}; commit;"
            );
        }
        let change = sqlx::raw_sql(sqlx::AssertSqlSafe(statements));
        if change.execute(&pool).await.is_err() {
            failed += 1;
        }
    }
}
