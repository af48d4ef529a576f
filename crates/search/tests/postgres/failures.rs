//! What becomes of calls when the server has other things to do.

use observer_search::postgres::PostgresIndex;
use observer_search::{SearchError, SearchIndex};
use testkit::database::{TestDb, lazy_pool};
use testkit::wait::comes;

use super::start;
use crate::support::builders::{delivery, document, matched};
use crate::support::{Fixture, all_of, filtered, found, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_is_told_from_what_lasts() {
    let fixture = start().await;
    let index = fixture.open().await;
    write(&*index, &[document("failures", 1)], 1).await;

    let empty = TestDb::empty().await;
    let without_schema = PostgresIndex::new(lazy_pool(&empty.url, 1));
    let told = without_schema.prepare().await.unwrap_err();
    assert!(matches!(told, SearchError::Refused(_)), "{told:?}");

    let role = fixture.database.role("reader", "login password 'x'").await;
    let stranger = PostgresIndex::new(lazy_pool(&fixture.database.url_as(&role, "x"), 1));
    let told = stranger.prepare().await.unwrap_err();
    assert!(matches!(told, SearchError::Refused(_)), "{told:?}");

    let nobody = "postgres://nobody:x@127.0.0.1:1/x?sslmode=disable";
    let options: sqlx::postgres::PgConnectOptions = nobody.parse().unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(std::time::Duration::from_millis(200))
        .connect_lazy_with(options);
    let told = PostgresIndex::new(pool)
        .get(&all_of("failures"), "log-1")
        .await
        .unwrap_err();
    assert!(matches!(told, SearchError::Unavailable(_)), "{told:?}");

    let name: String = fixture
        .database
        .value("select current_database()::text")
        .await;
    fixture
        .database
        .run(&format!(
            "alter database {name} set default_transaction_read_only = on"
        ))
        .await;
    let read_only = PostgresIndex::new(lazy_pool(&fixture.database.url, 1));
    // Its own transactions say that they write.
    read_only.write(&[document("failures", 2)]).await.unwrap();
    found(&read_only, "failures", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_calls_leave_nothing_behind() {
    let fixture = start().await;
    let pool = lazy_pool(&fixture.database.url, 1);
    let index = PostgresIndex::new(pool.clone());
    let mut held = fixture.database.connect().await;
    write(&index, &[document("failures", 1)], 1).await;
    sqlx::raw_sql("begin; select from observer.search_document for update")
        .execute(&mut held)
        .await
        .unwrap();
    let merged = observer_search::Document {
        observers: vec![matched(
            "shop/mail",
            vec![delivery(
                "send",
                observer_search::DeliveryState::Delivered,
                1,
            )],
        )],
        ..document("failures", 1)
    };
    let written = [merged.clone()];
    let call = index.write(&written);
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(300), call)
            .await
            .is_err()
    );
    sqlx::raw_sql("rollback").execute(&mut held).await.unwrap();
    // The only connection is as it was.
    let report = comes("the same call succeeds", index.write(&written))
        .await
        .unwrap();
    assert_eq!(report.written, 1);
    let filters = observer_search::Filters {
        states: vec![observer_search::DeliveryState::Delivered],
        ..Default::default()
    };
    assert_eq!(
        index
            .search(&filtered("failures", filters))
            .await
            .unwrap()
            .total,
        1
    );
    let setting: String = sqlx::query_scalar("show statement_timeout")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(setting, "0");
}
