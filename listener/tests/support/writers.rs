//! Concurrent writers that do all that makes transactions commit out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio::task::JoinSet;

use testkit::wait::Patience;

/// Rows that the writers share.
pub(crate) const KEYS: i32 = 40;

/// The row that they add to those.
pub(crate) const OWN: i64 = 1000;

/// Makes the table of counters, tracked: each change of row `k` adds one to its `v`.
pub(crate) async fn make_table(pool: &PgPool) {
    make_untracked_table(pool).await;
    pool.execute("select observer.track('kv')").await.unwrap();
}

/// Makes the same table, without triggers.
pub(crate) async fn make_untracked_table(pool: &PgPool) {
    pool.execute("create table kv (k int primary key, v int not null)")
        .await
        .unwrap();
    pool.execute(AssertSqlSafe(format!(
        "insert into kv select k, 0 from generate_series(1, {KEYS}) k"
    )))
    .await
    .unwrap();
}

/// Writers at work.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Starts `count` writers, and a transaction that stays open as long as they work.
    pub(crate) fn start(url: &str, count: u64, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for n in 0..count {
            tasks.spawn(write(url.to_owned(), n, seed, Arc::clone(&stop)));
        }
        tasks.spawn(hold_open(url.to_owned(), Arc::clone(&stop)));
        Self { stop, tasks }
    }

    /// Lets them come to an end.
    pub(crate) async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}

/// One transaction that writes first and commits last.
async fn hold_open(url: String, stop: Arc<AtomicBool>) {
    let mut connection = connect(&url).await;
    // A crash of the server may be faster.
    let begin =
        format!("insert into kv values ({OWN}, 0); begin; update kv set v = v + 1 where k = {OWN}");
    let _begun = connection.execute(AssertSqlSafe(begin)).await;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A crash of the server has undone it.
    let _undone = connection.execute("commit").await;
}

/// Connects, to a server that may be about to start.
async fn connect(url: &str) -> PgConnection {
    let mut patience = Patience::default();
    loop {
        match PgConnection::connect(url).await {
            Ok(connection) => return connection,
            Err(error) => assert!(patience.lasts(), "no connection to {url}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn write(url: String, number: u64, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
    let mut connection = connect(&url).await;
    // Names of prepared transactions are the whole server's.
    let database = url.rsplit('/').next().unwrap_or_default();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let prepared = format!("{database}_{number}_{round}");
        // An error is a deadlock, which has ended the transaction, or the server's end.
        let done = transaction(&mut connection, &mut random, &prepared).await;
        if done.is_err() && connection.execute("rollback").await.is_err() {
            connection = connect(&url).await;
            // It survives a crash, with its locks.
            let undo = format!("rollback prepared '{prepared}'");
            let _not_there = connection.execute(AssertSqlSafe(undo)).await;
        }
    }
}

async fn transaction(
    connection: &mut PgConnection,
    random: &mut StdRng,
    prepared: &str,
) -> Result<(), sqlx::Error> {
    connection.execute("begin").await?;
    let mut keys: Vec<i32> = (1..=KEYS).collect();
    keys.shuffle(random);
    keys.truncate(*[1, 1, 2, 4, 8].get(random.random_range(0..5)).unwrap());
    keys.sort_unstable();
    for key in keys {
        let update = format!("update kv set v = v + 1 where k = {key}");
        if random.random_bool(0.1) {
            connection
                .execute(AssertSqlSafe(format!(
                    "savepoint s; {update}; rollback to savepoint s; {update}"
                )))
                .await?;
        } else {
            connection.execute(AssertSqlSafe(update)).await?;
        }
        if random.random_bool(0.15) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
        }
    }
    if random.random_bool(0.02) {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
    }
    match random.random_range(0..20) {
        0..3 => connection.execute("rollback").await?,
        3..5 => {
            connection
                .execute(AssertSqlSafe(format!("prepare transaction '{prepared}'")))
                .await?;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..50))).await;
            connection
                .execute(AssertSqlSafe(format!("commit prepared '{prepared}'")))
                .await?
        }
        _ => connection.execute("commit").await?,
    };
    Ok(())
}
