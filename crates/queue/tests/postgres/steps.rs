//! A crash between any two steps: what was not committed was not done, and doing it again does it
//! once.

use std::time::Duration;

use async_trait::async_trait;
use observer_queue::{DeadLetterSink, FinishedClaim, JobOutcome, JobQueue, QueueError, WorkerId};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{Postgres, start};
use crate::support::builders::{
    RecordedDeadLetters, add, complete_all, complete_batch, ended, job, json, lane, request, worker,
};
use crate::support::{CALM, Fixture, LISTENER};

/// Where a save that adds jobs breaks off.
#[derive(Clone, Copy, Debug)]
enum Crash {
    BeforeJobs,
    AfterJobs,
    AfterGuard,
    AfterCommit,
}

/// A save as the listener makes it: a row of the same transaction tells that it was made.
async fn save(
    queue: &dyn JobQueue,
    url: &str,
    id: Uuid,
    crash: Option<Crash>,
) -> Result<(), QueueError> {
    let jobs = [job(&lane(1), 1), job(&lane(1), 2), job(&lane(2), 3)];
    let mut connection = PgConnection::connect(url).await?;
    let mut tx = connection.begin().await?;
    let known: Option<i32> = sqlx::query_scalar("select 1 from observer.lease where name = $1")
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await?;
    if matches!(crash, Some(Crash::BeforeJobs)) {
        return Ok(());
    }
    if known.is_none() {
        queue.enqueue(&mut tx, &jobs).await?;
        if matches!(crash, Some(Crash::AfterJobs)) {
            return end_backend(url, &mut tx).await;
        }
        sqlx::query("insert into observer.lease values ('test', $1, 1, '{}')")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
    }
    if matches!(crash, Some(Crash::AfterGuard)) {
        return end_backend(url, &mut tx).await;
    }
    tx.commit().await?;
    Ok(())
}

/// Breaks the connection under an open transaction.
async fn end_backend(url: &str, tx: &mut PgConnection) -> Result<(), QueueError> {
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(tx)
        .await?;
    let mut other = PgConnection::connect(url).await?;
    sqlx::query("select pg_terminate_backend($1)")
        .bind(pid)
        .execute(&mut other)
        .await?;
    Ok(())
}

#[tokio::test]
async fn interrupted_save_adds_its_jobs_once() {
    for crash in [
        Crash::BeforeJobs,
        Crash::AfterJobs,
        Crash::AfterGuard,
        Crash::AfterCommit,
    ] {
        let fixture: Postgres = start().await;
        let queue = fixture.open(LISTENER, CALM).await;
        let id = Uuid::new_v4();
        save(&*queue, &fixture.url, id, Some(crash)).await.unwrap();
        save(&*queue, &fixture.url, id, None).await.unwrap();
        save(&*queue, &fixture.url, id, None).await.unwrap();
        let worker = worker(&*queue).await;
        let mut all = complete_all(&*queue, worker, &request(8)).await;
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3], "{crash:?}");
    }
}

/// Buries in the database, and then breaks off the transaction if it is to.
struct InterruptedSink {
    breaks: bool,
}

#[async_trait]
impl DeadLetterSink for InterruptedSink {
    async fn write(
        &self,
        tx: &mut PgConnection,
        dead: &[&FinishedClaim],
    ) -> Result<(), sqlx::Error> {
        for one in dead {
            sqlx::query("insert into observer.lease values ('grave', $1, 1, '{}')")
                .bind(&one.job.id)
                .execute(&mut *tx)
                .await?;
        }
        if self.breaks {
            sqlx::query("select pg_terminate_backend(pg_backend_pid())")
                .execute(&mut *tx)
                .await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn interrupted_dead_letter_is_written_once() {
    let fixture: Postgres = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let worker = worker(&*queue).await;
    add(
        &*queue,
        &fixture.pool,
        &[job(&lane(1), 1), job(&lane(1), 2)],
    )
    .await;
    let batches = queue.claim(worker, &request(1)).await.unwrap();
    let dead = JobOutcome::Discarded {
        attempts: 8,
        history: json("[]"),
    };
    let all = [ended(&batches[0].jobs[0], dead)];
    assert!(
        queue
            .finish(worker, &all, &InterruptedSink { breaks: true })
            .await
            .is_err()
    );
    let first = queue.lane_heads(&[lane(1)]).await.unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!(first.log_id, 1, "nothing of it was done");
    let refused = queue
        .finish(worker, &all, &InterruptedSink { breaks: false })
        .await
        .unwrap();
    assert_eq!(refused, []);
    // Were the answer lost, the same again does nothing more.
    let refused = queue
        .finish(worker, &all, &InterruptedSink { breaks: false })
        .await
        .unwrap();
    assert_eq!(refused.len(), 1);
    let sink: i64 =
        sqlx::query_scalar("select count(*) from observer.lease where listener = 'grave'")
            .fetch_one(&fixture.pool)
            .await
            .unwrap();
    assert_eq!(sink, 1);
}

#[tokio::test]
async fn claim_waits_for_an_exhausted_pool() {
    let fixture: Postgres = start().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_hours(1))
        .connect(&fixture.url)
        .await
        .unwrap();
    let queue = observer_queue::postgres::PostgresQueue::new(pool.clone(), LISTENER, CALM);
    let worker = worker(&queue).await;
    // The transaction has the only connection, and adding needs no other.
    add(&queue, &pool, &[job(&lane(1), 1)]).await;
    let held = pool.acquire().await.unwrap();
    // Nothing but the pool is waited for here, so its time passes at once.
    tokio::time::pause();
    let refused = queue.claim(worker, &request(1)).await;
    tokio::time::resume();
    assert!(
        matches!(
            refused,
            Err(QueueError::Postgres(sqlx::Error::PoolTimedOut))
        ),
        "{refused:?}"
    );
    drop(held);
    assert_eq!(complete_batch(&queue, worker, &request(1)).await, [1]);
}

#[tokio::test]
async fn dropped_listener_leaves_no_job() {
    let fixture: Postgres = start().await;
    let queue = fixture.open(LISTENER, CALM).await;
    let other = fixture.open("shop/other", CALM).await;
    let worker: WorkerId = worker(&*queue).await;
    add(
        &*queue,
        &fixture.pool,
        &[job(&lane(1), 1), job(&lane(2), 2)],
    )
    .await;
    add(&*other, &fixture.pool, &[job(&lane(1), 1)]).await;
    queue.claim(worker, &request(1)).await.unwrap();
    let removed: i64 = sqlx::query_scalar("select observer.drop_listener($1)")
        .bind(LISTENER)
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(removed, 2);
    assert!(queue.is_empty().await.unwrap());
    assert!(!other.is_empty().await.unwrap());
    let sink = RecordedDeadLetters::default();
    assert_eq!(queue.finish(worker, &[], &sink).await.unwrap(), []);
    // One that comes back starts over.
    add(&*queue, &fixture.pool, &[job(&lane(1), 1)]).await;
    assert!(!queue.is_empty().await.unwrap());
}
