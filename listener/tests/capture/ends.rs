//! Where the log ends, read while ids are drawn.

use observer_listener::capture::change_log::Log;
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
    let log = Log::open(db.pool.clone()).await.unwrap();
    let (mut last, mut looks) = (0, 0);
    while !drawers.iter().all(tokio::task::JoinHandle::is_finished) {
        let floor = log.floor().await.unwrap();
        let look = log.look(floor, "none", Uuid::nil(), &[]).await.unwrap();
        let mark = log.mark().await.unwrap();
        for end in [floor, look.mark.ceiling, mark.floor, mark.ceiling] {
            assert!(end >= last, "{end} after {last}, in look {looks}");
            last = end;
        }
        looks += 1;
    }
    println!("{looks} looks");
    for drawer in drawers {
        assert_eq!(drawer.await.unwrap(), DRAWN);
    }
    assert_eq!(log.floor().await.unwrap(), 2 * DRAWN);
}
