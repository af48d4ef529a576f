//! A transaction may be cut off at any moment.

use std::time::Duration;

use observer_queue::sql_transaction::begin;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::database::lazy_pool;
use tokio::time::timeout;

use crate::support::{database, seed};

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_begin_leaves_no_transaction_open() {
    let mut random = StdRng::seed_from_u64(seed());
    let db = database::database().await;
    // The same connection for all.
    let pool = lazy_pool(&db.url, 1);
    let onlooker = lazy_pool(&db.url, 1);
    let run = async |sql| sqlx::query(sql).execute(&pool).await.unwrap();
    run("create table written (n serial)").await;
    let mut cut_off = 0;
    for n in 1..=300 {
        let moment = Duration::from_micros(random.random_range(0..400));
        cut_off += usize::from(timeout(moment, begin(&pool)).await.is_err());
        run("insert into written default values").await;
        let seen: i64 = sqlx::query_scalar("select count(*) from written")
            .fetch_one(&onlooker)
            .await
            .unwrap();
        assert_eq!(seen, n, "written outside of any transaction");
    }
    println!("{cut_off} of 300 were cut off");
    assert!(cut_off > 0);
}
