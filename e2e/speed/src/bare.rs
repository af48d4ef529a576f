//! The limits: posting with nothing around it, and reading with nothing around it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use reqwest::Client;
use reqwest::header::CONTENT_TYPE;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

/// Requests under way, as many as a listener has by default.
const IN_FLIGHT: usize = 64;

/// Rows of a page.
const PAGE: i64 = 500;

/// Posts all rows of the table in bodies and with headers as a listener sends them. In no order.
pub(crate) async fn post(database_url: &str, sink_url: &str) -> anyhow::Result<()> {
    let client = Client::builder()
        .no_proxy()
        .tcp_nodelay(true)
        .pool_max_idle_per_host(IN_FLIGHT)
        .build()?;
    let (send, rows) = mpsc::channel::<(i64, String)>(IN_FLIGHT * 2);
    let rows = Arc::new(Mutex::new(rows));
    let mut workers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (client, rows, url) = (client.clone(), Arc::clone(&rows), sink_url.to_owned());
        workers.spawn(async move {
            loop {
                let Some((id, row)) = rows.lock().await.recv().await else {
                    return anyhow::Ok(());
                };
                post_one(&client, &url, id, &row).await?;
            }
        });
    }
    let mut connection = PgConnection::connect(database_url).await?;
    let mut last = -1;
    loop {
        let page = page(&mut connection, last).await?;
        let Some((id, _)) = page.last() else { break };
        last = *id;
        for row in page {
            send.send(row).await?;
        }
    }
    drop(send);
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn post_one(client: &Client, url: &str, id: i64, row: &str) -> anyhow::Result<()> {
    let lane = id % 1000;
    let body = format!(
        r#"{{"id":"0a1b2c3d.{id:016x}.00000001","entity":"public.item","operation":"Insert","key":"[{lane}]","tenant":null,"occurredAt":"2026-01-01T00:00:00.000000Z","old":null,"new":{row},"changed":[],"observer":"o0","action":"post"}}"#
    );
    let request = client
        .post(url)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", format!("0a1b2c3d.{id:016x}.00000001.o0.post"))
        .header("webhook-timestamp", "1767225600")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .body(body);
    let response = request.send().await?;
    let status = response.status();
    ensure!(status.is_success(), "answered with {status}");
    response.bytes().await?;
    Ok(())
}

async fn page(
    connection: &mut PgConnection,
    after: i64,
) -> Result<Vec<(i64, String)>, sqlx::Error> {
    sqlx::query_as(
        "select bench_id, to_json(item)::text from item where bench_id > $1 order by bench_id limit $2",
    )
    .bind(after)
    .bind(PAGE)
    .fetch_all(connection)
    .await
}

/// Reads all rows of the table, and how long that took.
pub(crate) async fn select(database_url: &str) -> anyhow::Result<(u64, Duration)> {
    let mut connection = PgConnection::connect(database_url).await?;
    let (began, mut last, mut count) = (Instant::now(), -1, 0);
    loop {
        let page = page(&mut connection, last).await?;
        let Some((id, _)) = page.last() else { break };
        last = *id;
        count += page.len() as u64;
    }
    let took = began.elapsed();
    connection.close().await?;
    Ok((count, took))
}
