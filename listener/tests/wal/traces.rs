//! The trace that a writer gives, in the write-ahead log.

use super::{Source, reading};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn given_trace_is_that_of_the_rest_of_its_transaction() {
    let (source, _sink, _config, process) = reading(Source::together().await).await;
    source
        .run(&format!(
            "begin;
             insert into kv values (1001, 0);
             select observer.trace('{TRACE}');
             insert into kv values (1002, 0); update kv set v = 7 where k = 1002;
             select observer.trace(null);
             insert into kv values (1003, 0);
             commit;
             insert into kv values (1004, 0)"
        ))
        .await;
    source.logged(5).await;
    let found: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', operation, key, coalesce(traceparent, '-')) from observer.change_log order by id",
    )
    .fetch_all(&source.log)
    .await
    .unwrap();
    assert_eq!(
        found,
        [
            "i 1001 -".to_owned(),
            format!("i 1002 {TRACE}"),
            format!("u 1002 {TRACE}"),
            "i 1003 -".to_owned(),
            "i 1004 -".to_owned(),
        ]
    );
    process.stop().await;
}
