//! Where the log ends, read while ids are drawn.

use observer_listener::capture::change_log::ChangeLog;
use uuid::Uuid;

use crate::support::database;

/// Ids that each of the two drawers takes.
const DRAWN: i64 = 300_000;

#[tokio::test(flavor = "multi_thread")]
async fn the_log_s_end_never_goes_back() {
    let db = database().await;
    let draw = || {
        let pool = db.pool.clone();
        tokio::spawn(async move {
            let sql = "select count(nextval('observer.change_log_id')) from generate_series(1, $1)";
            let drawn = sqlx::query_scalar::<_, i64>(sql).bind(DRAWN);
            drawn.fetch_one(&pool).await.unwrap()
        })
    };
    let drawers = [draw(), draw()];
    let log = ChangeLog::open(db.pool.clone()).await.unwrap();
    let (mut last, mut polls) = (0, 0);
    while !drawers.iter().all(tokio::task::JoinHandle::is_finished) {
        let low_id = log.low_watermark().await.unwrap();
        let polled = log.poll(low_id, "none", Uuid::nil(), &[]).await.unwrap();
        let bound = log.current_bound().await.unwrap();
        for end in [low_id, polled.bound.high_id, bound.low_id, bound.high_id] {
            assert!(end >= last, "{end} after {last}, in poll {polls}");
            last = end;
        }
        polls += 1;
    }
    println!("{polls} polls");
    for drawer in drawers {
        assert_eq!(drawer.await.unwrap(), DRAWN);
    }
    assert_eq!(log.low_watermark().await.unwrap(), 2 * DRAWN);
}
